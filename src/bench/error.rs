//! What keeps a benchmark, or one of its contestants, from giving figures.

use std::io;
use std::path::Path;

use crate::sys::reason;

/// An error of a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// This machine, or this user, lacks what it takes.
    #[error("{what}; {instead}")]
    Lacks {
        /// What is lacking.
        what: String,
        /// What can be done, or be run instead.
        instead: String,
    },
    /// A program is not installed.
    #[error("{0} is not installed")]
    NotInstalled(String),
    /// A program has failed, or took too long.
    #[error("{program}: {said}")]
    Failed {
        /// Its name.
        program: String,
        /// The last line that it wrote to standard error, or how it ended.
        said: String,
    },
    /// What was measured is not what was to be measured.
    #[error("{0}")]
    Wrong(String),
    /// Of the system.
    #[error("cannot {action} {path}: {}", reason(.error))]
    Io {
        /// A verb.
        action: &'static str,
        /// To what.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl BenchError {
    /// For `map_err`: what could not be done to which path.
    pub fn at<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.display().to_string();
        move |error| BenchError::Io {
            action,
            path,
            error: error.into(),
        }
    }
}
