//! Why an archive cannot be read: one line that names the archive and what in it.

use std::io;

use crate::model::ParseReferenceError;
use crate::model::tar::TarError;
use crate::sys::reason;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The caller's `cancel` said so.
    #[error("interrupted")]
    Interrupted,
    /// The system cannot open or read it.
    #[error("cannot read {archive}: {}", reason(source))]
    Read {
        /// The archive.
        archive: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A stream or compressed archive cannot be copied to the store.
    #[error("cannot keep a copy of {archive} in {directory}: {}", reason(source))]
    Spool {
        /// The archive.
        archive: String,
        /// Where the copy goes.
        directory: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The outer tar is broken.
    #[error("{archive}: {source}")]
    Tar {
        /// The archive.
        archive: String,
        /// What is wrong.
        source: TarError,
    },
    /// It has neither manifest.json nor index.json.
    #[error("{archive}: {reason}")]
    Unknown {
        /// The archive.
        archive: String,
        /// What it lacks.
        reason: &'static str,
    },
    /// An entry is not what it should be.
    #[error("{archive}: {}{reason}", prefix(.entry))]
    Bad {
        /// The archive.
        archive: String,
        /// The entry; empty when it is about the whole.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that another entry names is not there.
    #[error("{archive}: {entry} is missing, which {by} names")]
    Missing {
        /// The archive.
        archive: String,
        /// What is missing.
        entry: String,
        /// What names it.
        by: String,
    },
    /// A blob has other contents than its digest says.
    #[error("{archive}: {entry}: wrong digest: sha256:{found}")]
    Digest {
        /// The archive.
        archive: String,
        /// The blob.
        entry: String,
        /// The hexadecimal digits of what is there.
        found: String,
    },
    /// Nothing to load.
    #[error("{archive}: no image in it")]
    NoImage {
        /// The archive.
        archive: String,
    },
    /// Images, but for other machines.
    #[error("{archive}: no image for {wanted} in it, only for {}", .found.join(", "))]
    Platform {
        /// The archive.
        archive: String,
        /// This machine's platform.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// A tag that cannot be one.
    #[error("{archive}: the tag {tag}: {source}")]
    Tag {
        /// The archive.
        archive: String,
        /// The tag.
        tag: String,
        /// What is wrong with it.
        source: ParseReferenceError,
    },
}

pub(super) fn prefix(entry: &str) -> String {
    match entry {
        "" => String::new(),
        entry => format!("{entry}: "),
    }
}
