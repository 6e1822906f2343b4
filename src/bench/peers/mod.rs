//! Other programs that store images, each with a store of its own on the benchmark's disk.
//!
//! Sockets, and what is there only while they run, are elsewhere: the disk's counters are to count layers. A
//! peer is started once, and used for all rounds; it ends, with its daemon, when it goes.

pub mod containerd;
pub mod docker;
pub mod podman;
pub mod skopeo;
pub mod tar;
pub mod umoci;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::BenchError;
use super::disk::{Disk, unmount_below};
use super::program::Ran;
use super::stop::Stop;

pub use containerd::Containerd;
pub use docker::Docker;
pub use podman::Podman;
pub use skopeo::Skopeo;
pub use tar::Tar;
pub use umoci::Umoci;

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

/// Where a peer has sockets, and what is there only while it runs: a directory whose path is short, for that of
/// a socket has 107 bytes at most (unix(7)), and Podman takes 50 for all of it. It goes with what is mounted in it.
#[derive(Debug)]
struct RunDir(TempDir);

impl RunDir {
    fn new() -> Result<RunDir, BenchError> {
        let top = Path::new("/tmp");
        let made = tempfile::Builder::new()
            .prefix("layerctl-run.")
            .tempdir_in(top);
        made.map(RunDir)
            .map_err(BenchError::at("create a directory in", top))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let path = self.0.path();
        if let Err(e) = unmount_below(path).and_then(|()| delete(path)) {
            tracing::warn!("{e}");
            // Nothing is deleted below a mount that stays.
            self.0.disable_cleanup(true);
        }
    }
}

/// A directory on the disk for what a peer writes before it is stored, instead of `/var/tmp`.
fn temporary(disk: &Disk) -> Result<PathBuf, BenchError> {
    let path = disk.top().join("temporary");
    std::fs::create_dir_all(&path).map_err(BenchError::at("create", &path))?;
    Ok(path)
}

/// Delete a directory that a peer has made, if it has.
fn delete(path: &Path) -> Result<(), BenchError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(BenchError::at("delete", path)(e))
        }
        _ => Ok(()),
    }
}

/// The first number with dots in what a program says of its version.
fn version_in(said: &str) -> String {
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let found = said.split_whitespace().find(is_number);
    found.unwrap_or_default().to_owned()
}

/// `name=value` as one argument, whatever bytes the path has.
fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push("=");
    option.push(path);
    option
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_in("tar (GNU tar) 1.34\nCopyright"), "1.34");
        assert_eq!(version_in("skopeo version 1.9.3"), "1.9.3");
        assert_eq!(version_in("no number"), "");
    }

    #[test]
    fn options() {
        assert_eq!(option("--root", Path::new("/a")), "--root=/a");
    }

    #[test]
    fn a_short_directory_that_goes() {
        let run = RunDir::new().unwrap();
        let path = run.join("podman");
        std::fs::create_dir(&path).unwrap();
        assert!(path.as_os_str().len() < 50);
        drop(run);
        assert!(!path.parent().unwrap().exists());
    }
}
