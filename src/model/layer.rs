//! A stored layer, as the database has it and the tree follows it.

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
