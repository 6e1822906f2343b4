//! Why a layer cannot be unpacked.

use std::io;

use rustix::io::Errno;

use crate::model::tar::{TarError, shown};
use crate::store::StoreError;

/// Why a layer cannot be unpacked: one line that names the entry.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The caller's `cancel` said so.
    #[error("interrupted")]
    Interrupted,
    /// Of the store's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layer's tar is broken, or cannot be read.
    #[error("{0}")]
    Tar(TarError),
    /// The entry asks for something that is not done.
    #[error("{entry}: {reason}")]
    Refused {
        /// Its name, fit for one line.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused.
    #[error("{entry}: cannot {action}: {}{hint}", crate::sys::reason(source))]
    System {
        /// The entry's name, fit for one line.
        entry: String,
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
        /// What would help, in brackets, or nothing.
        hint: &'static str,
    },
}

/// What went wrong with an entry, before its name is put in front.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(String),
    System(String, Errno),
    Tar(TarError),
}

impl Trouble {
    pub(super) fn of(self, entry: &[u8]) -> UnpackError {
        let entry = match entry {
            [] => "(the layer's root)".to_owned(),
            name => shown(name),
        };
        match self {
            Trouble::Refused(reason) => UnpackError::Refused { entry, reason },
            Trouble::System(action, errno) => UnpackError::System {
                hint: hint(&action, errno),
                entry,
                action,
                source: errno.into(),
            },
            Trouble::Tar(error) => error.into(),
        }
    }
}

/// `with(action)` turns an errno into a trouble: `map_err(with("set the owner"))`.
pub(super) fn with(action: &str) -> impl FnOnce(Errno) -> Trouble {
    move |errno| Trouble::System(action.to_owned(), errno)
}

pub(super) fn refused<T>(reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Refused(reason.into()))
}

fn hint(action: &str, errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => " (unpacking needs root or a user namespace)",
        Errno::INVAL if action == SET_OWNER => " (the user namespace does not map this owner)",
        Errno::OPNOTSUPP => " (the store's file system must support it)",
        _ => "",
    }
}

/// The action of `chown`.
pub(super) const SET_OWNER: &str = "set the owner";

/// Put into an [`io::Error`] by the reader's thread when the caller cancels.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Cancelled;

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> UnpackError {
        match error {
            TarError::Read(e) if e.get_ref().is_some_and(|inner| inner.is::<Cancelled>()) => {
                UnpackError::Interrupted
            }
            other => UnpackError::Tar(other),
        }
    }
}
