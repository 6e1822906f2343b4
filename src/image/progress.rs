//! What a load tells of itself while it goes on, for bars and lines: it draws nothing.

use crate::model::DiffId;

/// Watches a load. Called from several threads; what takes long holds the load up.
pub trait Progress: Sync {
    /// Of an archive that cannot be read in place, so many bytes have been copied so far.
    fn copied(&self, bytes: u64);

    /// A layer is begun: of so many bytes as they are stored, maybe compressed.
    fn begun(&self, layer: &DiffId, stored: u64);

    /// So many of the stored bytes have been read so far.
    fn read(&self, layer: &DiffId, bytes: u64);

    /// A layer is there. One that is given up, because something is wrong with it or another, never is.
    fn done(&self, layer: &DiffId, how: Done);
}

/// How a layer came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was in the store before.
    Present,
    /// A load that was killed had unpacked it: its size in bytes, that of its files.
    Adopted(u64),
    /// It was unpacked: its size in bytes, that of its files.
    Unpacked(u64),
}

/// Nobody watches.
#[derive(Debug)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn copied(&self, _: u64) {}
    fn begun(&self, _: &DiffId, _: u64) {}
    fn read(&self, _: &DiffId, _: u64) {}
    fn done(&self, _: &DiffId, _: Done) {}
}
