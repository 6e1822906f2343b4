//! Skopeo: copies into a store as Podman and CRI-O have it, without either.

use std::path::{Path, PathBuf};

use super::{ImageStore, RunDir, temporary, version_in};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// A Skopeo with a store of its own.
#[derive(Debug)]
pub struct Skopeo {
    program: PathBuf,
    temporary: PathBuf,
    /// Where images go, in its words.
    place: String,
    version: String,
    _run: RunDir,
}

impl Skopeo {
    /// Choose a place for its store, on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not run here.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Skopeo, BenchError> {
        let program = find_or_lack("skopeo")?;
        let said = Program::new(&program).arg("--version").run(stop)?;
        let run = RunDir::new()?;
        Ok(Skopeo {
            program,
            temporary: temporary(disk)?,
            place: format!(
                "containers-storage:[overlay@{}+{}]localhost/bench:1",
                disk.top().join("skopeo").display(),
                run.join("run").display()
            ),
            version: format!("{}, overlay", version_in(&said.out)),
            _run: run,
        })
    }

    fn skopeo(&self) -> Program {
        Program::new(&self.program)
            .arg("--tmpdir")
            .arg(&self.temporary)
    }
}

impl ImageStore for Skopeo {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError> {
        let copy = ["copy", "-q", "--insecure-policy"];
        let from = format!("docker-archive:{}", archive.display());
        self.skopeo()
            .args(copy)
            .args([&from, &self.place])
            .run(stop)
    }

    fn remove_all(&self, stop: &Stop) -> Result<Ran, BenchError> {
        self.skopeo().args(["delete", &self.place]).run(stop)
    }
}
