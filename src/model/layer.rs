//! A stored layer, as the database has it and the tree follows it.

use std::str::FromStr;

use super::{ChainId, DiffId};

/// A layer that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Identifies the directory, also of two that hold the same diff.
    pub id: i64,
    /// Digest of its uncompressed tar.
    pub diff: DiffId,
    /// The chain that it topped in the image that brought it or, once marked, that gave it up.
    pub chain: ChainId,
    /// Sum of its regular files' lengths in bytes, as Docker counts sizes.
    pub size: u64,
    /// Allocated bytes, hard links counted once.
    pub bytes: u64,
    /// Number of entries in its tree.
    pub entries: u64,
    /// Whether its tar says what the root directory is; else that of its tree means nothing.
    pub has_root: bool,
    /// How far its removal has come.
    pub phase: Phase,
}

/// How far the removal of a layer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// In `layers/`, to be used.
    Present,
    /// Decided, but the directory still has its name in `layers/`.
    Marking,
    /// In `marked/`.
    Marked,
    /// In `marked/`, and its entries are being deleted.
    Reclaiming,
}

impl Phase {
    /// The word for it in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Present => "present",
            Phase::Marking => "marking",
            Phase::Marked => "marked",
            Phase::Reclaiming => "reclaiming",
        }
    }
}

/// A word that is none of [`Phase::as_str`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a layer cannot be {0:?}")]
pub struct ParsePhaseError(String);

impl FromStr for Phase {
    type Err = ParsePhaseError;

    fn from_str(text: &str) -> Result<Phase, ParsePhaseError> {
        let phases = [
            Phase::Present,
            Phase::Marking,
            Phase::Marked,
            Phase::Reclaiming,
        ];
        let found = phases.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| ParsePhaseError(text.to_owned()))
    }
}
