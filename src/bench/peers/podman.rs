//! Podman: a store of its own, with the kernel's overlayfs.

use std::ffi::OsString;
use std::path::Path;

use super::{ImageStore, option};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// A Podman with a store of its own.
#[derive(Debug)]
pub struct Podman {
    program: std::path::PathBuf,
    options: Vec<OsString>,
    version: String,
}

impl Podman {
    /// Make its store, on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not run here.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Podman, BenchError> {
        let mut podman = Podman {
            program: find_or_lack("podman")?,
            options: vec![
                option("--root", &disk.top().join("podman")),
                option("--runroot", &disk.beside().join("podman")),
                option("--tmpdir", &disk.beside().join("podman-tmp")),
                "--storage-driver=overlay".into(),
                // The other one needs systemd.
                "--cgroup-manager=cgroupfs".into(),
                "--events-backend=none".into(),
            ],
            version: String::new(),
        };
        let format = "{{.Version.Version}}, {{.Store.GraphDriverName}}";
        let info = podman.podman().args(["info", "-f", format]).run(stop)?;
        info.out.trim().clone_into(&mut podman.version);
        Ok(podman)
    }

    fn podman(&self) -> Program {
        Program::new(&self.program).args(&self.options)
    }

    /// `podman rmi -f IMAGE`.
    ///
    /// # Errors
    /// It fails.
    pub fn remove(&self, image: &str, stop: &Stop) -> Result<Ran, BenchError> {
        self.podman().args(["rmi", "-f", image]).run(stop)
    }
}

impl ImageStore for Podman {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError> {
        let load = self.podman().args(["load", "-q", "-i"]);
        load.arg(archive).run(stop)
    }

    fn remove_all(&self, stop: &Stop) -> Result<Ran, BenchError> {
        self.podman().args(["rmi", "-a", "-f"]).run(stop)
    }
}
