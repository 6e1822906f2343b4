//! Other programs that store images, each with a store of its own on the benchmark's disk.
//!
//! Sockets, and what is there only while they run, are beside the disk: so its counters count layers. A
//! peer is started once, and used for all rounds; it ends, with its daemon, when it goes.

pub mod docker;
pub mod podman;

use std::path::{Path, PathBuf};

use super::BenchError;
use super::disk::Disk;
use super::program::Ran;
use super::stop::Stop;

pub use docker::Docker;
pub use podman::Podman;

/// A program with a store of images.
pub trait ImageStore {
    /// Its version, and what of its configuration explains a figure: `20.10.24, overlay2`.
    fn version(&self) -> &str;

    /// Bring the one image of a docker-archive into the store, which returns when it could be used.
    ///
    /// # Errors
    /// The program fails: [`BenchError::Failed`] with what it said.
    fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError>;

    /// Remove all images, with their layers.
    ///
    /// # Errors
    /// As of [`ImageStore::load`].
    fn remove_all(&self, stop: &Stop) -> Result<Ran, BenchError>;

    /// Whether a daemon does the work: then [`Ran::peak_memory`] is but its client's.
    fn has_daemon(&self) -> bool {
        false
    }
}

/// A path for a socket.
///
/// # Errors
/// It would be longer than an address can be: 107 bytes (unix(7)).
fn socket(disk: &Disk, name: &str) -> Result<PathBuf, BenchError> {
    const LONGEST: usize = 107;
    let path = disk.beside().join(name);
    match path.as_os_str().len() {
        0..=LONGEST => Ok(path),
        _ => Err(BenchError::Lacks {
            what: format!(
                "a socket in {} has too long a path",
                disk.beside().display()
            ),
            instead: "with --scratch or --dir it works in another directory".to_owned(),
        }),
    }
}

/// `name=value` as one argument, whatever bytes the path has.
fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push("=");
    option.push(path);
    option
}
