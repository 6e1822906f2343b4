//! What the store on disk can refuse, in words for the user.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::reason;

/// An error of the store's files: what was tried, where, and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {reason}", path = path.display(), reason = reason(source))]
pub struct StoreError {
    /// A verb: `open`, `create`, `rename`.
    pub action: &'static str,
    /// Of which file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl StoreError {
    /// For `map_err`: `.map_err(StoreError::at("open", &path))`.
    pub fn at<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> StoreError {
        move |source| StoreError {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the file or directory was not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}
