//! tar: each layer in a directory of its own, which is the least that a load can do.

use std::path::{Path, PathBuf};

use super::{delete, version_in};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// What the layers are compressed with, for its command line.
pub type Decompress = Option<&'static str>;

/// A tar that unpacks layers.
#[derive(Debug)]
pub struct Tar {
    program: PathBuf,
    top: PathBuf,
    version: String,
}

impl Tar {
    /// Choose where it unpacks, on the disk.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Tar, BenchError> {
        let program = find_or_lack("tar")?;
        let said = Program::new(&program).arg("--version").run(stop)?;
        Ok(Tar {
            program,
            top: disk.top().join("tar"),
            version: version_in(&said.out),
        })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Unpack layers, one after the other, with owners and attributes; `decompress` is tar's option.
    ///
    /// # Errors
    /// It fails.
    pub fn unpack(
        &self,
        layers: &[PathBuf],
        decompress: Decompress,
        stop: &Stop,
    ) -> Result<Ran, BenchError> {
        let mut all = Ran {
            took: std::time::Duration::ZERO,
            peak_memory: 0,
            out: String::new(),
        };
        for (n, layer) in layers.iter().enumerate() {
            let into = self.top.join(n.to_string());
            std::fs::create_dir_all(&into).map_err(BenchError::at("create", &into))?;
            let ran = self.one(layer, &into, decompress).run(stop)?;
            all.took += ran.took;
            all.peak_memory = all.peak_memory.max(ran.peak_memory);
        }
        Ok(all)
    }

    fn one(&self, layer: &Path, into: &Path, decompress: Decompress) -> Program {
        Program::new(&self.program)
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*"])
            .args(decompress)
            .arg("-C")
            .arg(into)
            .arg("-xpf")
            .arg(layer)
    }

    /// Delete what was unpacked.
    ///
    /// # Errors
    /// Of the system.
    pub fn clear(&self) -> Result<(), BenchError> {
        delete(&self.top)
    }
}
