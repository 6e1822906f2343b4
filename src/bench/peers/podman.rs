//! Podman: a store of its own, with the kernel's overlayfs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{ImageStore, RunDir, option, temporary};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// Locks in files, which go with the rest: the default is a segment of shared memory that stays.
const CONFIG: &str = "[engine]\nlock_type = \"file\"\n";

/// A Podman with a store of its own.
#[derive(Debug)]
pub struct Podman {
    program: PathBuf,
    options: Vec<OsString>,
    config: PathBuf,
    temporary: PathBuf,
    version: String,
    _run: RunDir,
}

impl Podman {
    /// Make its store, on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not run here.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Podman, BenchError> {
        let program = find_or_lack("podman")?;
        let run = RunDir::new()?;
        let mut podman = Podman {
            program,
            config: run.join("podman.conf"),
            temporary: temporary(disk)?,
            options: vec![
                option("--root", &disk.top().join("podman")),
                option("--runroot", &run.join("run")),
                option("--tmpdir", &run.join("tmp")),
                "--storage-driver=overlay".into(),
                // The other one needs systemd.
                "--cgroup-manager=cgroupfs".into(),
                "--events-backend=none".into(),
            ],
            version: String::new(),
            _run: run,
        };
        std::fs::write(&podman.config, CONFIG).map_err(BenchError::at("write", &podman.config))?;
        let format = "{{.Version.Version}}, {{.Store.GraphDriverName}}";
        let info = podman.podman().args(["info", "-f", format]).run(stop)?;
        info.out.trim().clone_into(&mut podman.version);
        Ok(podman)
    }

    fn podman(&self) -> Program {
        Program::new(&self.program)
            .env("CONTAINERS_CONF", &self.config)
            .env("TMPDIR", &self.temporary)
            .args(&self.options)
    }

    /// `podman images`.
    ///
    /// # Errors
    /// It fails.
    pub fn list(&self, stop: &Stop) -> Result<Ran, BenchError> {
        self.podman().arg("images").run(stop)
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
