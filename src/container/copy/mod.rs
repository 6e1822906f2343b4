//! Copying files between a container and this machine.
//!
//! The container is hostile. A path in it is resolved by the kernel inside its root
//! (`openat2(RESOLVE_IN_ROOT)`, see [`place`]), and from there on everything goes by directory descriptors
//! and single names, none of them followed (see [`tree`]): whatever it makes of its symbolic links
//! meanwhile, nothing outside is read or written.

mod dress;
pub mod place;
pub mod tree;
pub mod untar;

use std::io;

use crate::model::copy::CopyRefusal;
use crate::model::tar::{TarError, shown};
use crate::sys::reason;

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Those of the originals.
    Kept,
    /// Root: what is copied into a container.
    Root,
    /// Whoever runs the program: what is copied out of one.
    Caller,
}

/// Why something cannot be copied. The texts are Docker's where it has the case.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// What is asked makes no sense.
    #[error(transparent)]
    Refused(#[from] CopyRefusal),
    /// There is no such path in the container.
    #[error("Could not find the file {path} in container {container}")]
    NotInContainer {
        /// As it was given.
        path: String,
        /// As it was given.
        container: String,
    },
    /// There is no such path on this machine.
    #[error("lstat {0}: no such file or directory")]
    NotHere(String),
    /// It would have to be written into what is no directory.
    #[error("extraction point is not a directory")]
    NotADirectory,
    /// A device, say, cannot be written to.
    #[error("{place} must be a directory or a regular file: got {got}")]
    Irregular {
        /// The destination.
        place: String,
        /// What it is.
        got: &'static str,
    },
    /// A directory is not replaced by a file.
    #[error("cannot overwrite directory \"{0}\" with non-directory \"{0}\"")]
    OverDirectory(String),
    /// A file is not replaced by a directory.
    #[error("cannot overwrite non-directory \"{0}\" with directory \"{0}\"")]
    OverFile(String),
    /// It would never end.
    #[error("cannot copy a directory, {0}, into itself")]
    IntoItself(String),
    /// A tar cannot be read.
    #[error("cannot read the tar: {0}")]
    Tar(TarError),
    /// A name of a tar that leads out of the destination.
    #[error("\"{0}\" is outside of the destination")]
    Outside(String),
    /// The container's files cannot be changed.
    #[error("container rootfs is marked read-only")]
    ReadOnly,
    /// The system refuses.
    #[error("cannot {action} {path}: {}", reason(source))]
    System {
        /// A verb.
        action: &'static str,
        /// What.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// For `map_err`.
fn at<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> CopyError {
    let path = shown(path);
    move |source| CopyError::System {
        action,
        path,
        source: source.into(),
    }
}

/// The same, for what is changed in a container.
fn write_failed<E: Into<io::Error>>(
    action: &'static str,
    path: &[u8],
) -> impl FnOnce(E) -> CopyError {
    let other = at(action, path);
    move |source| {
        let source = source.into();
        match source.raw_os_error() {
            Some(libc::EROFS) => CopyError::ReadOnly,
            _ => other(source),
        }
    }
}
