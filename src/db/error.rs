//! What the database can refuse, in words for the user.

use std::path::{Path, PathBuf};

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The store was written by a later version of the program.
    #[error("the store {path} is of version {found}, this layerctl knows versions up to {known}", path = path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The version found in it.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// The file could not be opened, or is no database.
    #[error("cannot open the database {path}: {source}", path = path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// A statement failed.
    #[error("the store's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl DbError {
    /// Whether there was no room on the disk.
    pub fn is_full(&self) -> bool {
        let (DbError::Sqlite(why) | DbError::Open { source: why, .. }) = self else {
            return false;
        };
        why.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    /// For `map_err` where a file is opened.
    pub(super) fn opening(path: &Path) -> impl FnOnce(rusqlite::Error) -> DbError {
        move |source| DbError::Open {
            path: path.to_owned(),
            source,
        }
    }

    /// Name the file where only the statement was known.
    pub(super) fn at(self, path: &Path) -> DbError {
        match self {
            DbError::Sqlite(source) => DbError::Open {
                path: path.to_owned(),
                source,
            },
            other @ (DbError::Newer { .. } | DbError::Open { .. }) => other,
        }
    }
}
