//! What can go wrong in the union, and the error number that the caller's system call returns.

use rustix::io::Errno;

/// The result of an operation on the union.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation was refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A system call on a layer failed. The number is passed on as it is: EACCES, EIO or EMFILE of
    /// a lower operation must never read as "not there".
    #[error("{0}")]
    Sys(#[from] Errno),
    /// There is no such name, or the directory it should be in has been removed.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotADirectory,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The view has no upper directory.
    #[error("read-only view")]
    ReadOnly,
    /// The node number is not one that was handed out and not forgotten.
    #[error("stale node")]
    Stale,
    /// The file handle is not open.
    #[error("no such handle")]
    BadHandle,
    /// A name that is empty, `.`, `..` or holds a slash or NUL; flags that exclude each other.
    #[error("invalid argument")]
    Invalid,
    /// A directory cannot be moved because its redirect does not fit into an extended attribute.
    #[error("cannot record where the directory came from")]
    NoRedirect,
    /// An overlay-private extended attribute, or the device number that stands for 0:0.
    #[error("reserved for the union")]
    Reserved,
    /// The inode has no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The buffer is too small for the attribute.
    #[error("buffer too small")]
    TooSmall,
    /// The kind of file does not take this operation.
    #[error("operation not supported")]
    NotSupported,
}

impl Error {
    /// The error number for the caller.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Error::Sys(errno) => *errno,
            Error::NotFound => Errno::NOENT,
            Error::Exists => Errno::EXIST,
            Error::NotADirectory => Errno::NOTDIR,
            Error::IsADirectory => Errno::ISDIR,
            Error::NotEmpty => Errno::NOTEMPTY,
            Error::ReadOnly => Errno::ROFS,
            Error::Stale => Errno::STALE,
            Error::BadHandle => Errno::BADF,
            Error::Invalid => Errno::INVAL,
            // `mv` then copies and removes, as it does on kernel overlayfs without redirect_dir.
            Error::NoRedirect => Errno::XDEV,
            Error::Reserved => Errno::PERM,
            Error::NoAttribute => Errno::NODATA,
            Error::TooSmall => Errno::RANGE,
            Error::NotSupported => Errno::OPNOTSUPP,
        };
        errno.raw_os_error()
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::from_raw_os_error(error.errno())
    }
}
