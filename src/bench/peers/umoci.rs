//! umoci: unpacks all layers of an OCI layout into one tree, a bundle for a runtime.

use std::path::{Path, PathBuf};

use super::{delete, version_in};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// A umoci that unpacks images.
#[derive(Debug)]
pub struct Umoci {
    program: PathBuf,
    bundle: PathBuf,
    version: String,
}

impl Umoci {
    /// Choose where it unpacks, on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not run here.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Umoci, BenchError> {
        let program = find_or_lack("umoci")?;
        let said = Program::new(&program).arg("--version").run(stop)?;
        Ok(Umoci {
            program,
            bundle: disk.top().join("umoci"),
            version: version_in(&said.out),
        })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Unpack an image of a layout directory, named by its tag there.
    ///
    /// # Errors
    /// It fails.
    pub fn unpack(&self, layout: &Path, tag: &str, stop: &Stop) -> Result<Ran, BenchError> {
        let mut image = layout.as_os_str().to_owned();
        image.push(":");
        image.push(tag);
        let rootless = (!rustix::process::geteuid().is_root()).then_some("--rootless");
        Program::new(&self.program)
            .arg("unpack")
            .args(rootless)
            .arg("--image")
            .arg(image)
            .arg(&self.bundle)
            .run(stop)
    }

    /// Delete what was unpacked.
    ///
    /// # Errors
    /// Of the system.
    pub fn clear(&self) -> Result<(), BenchError> {
        delete(&self.bundle)
    }
}
