//! Unpacking one layer's tar into a directory.
//!
//! The result is what kernel overlayfs takes as a lower directory: real owners, modes, times,
//! extended attributes, hard links and devices; `.wh.NAME` as a character device 0:0, an opaque directory by
//! `trusted.overlay.opaque=y` (`user.overlay.opaque` where the former is not permitted).
//!
//! What the directory does not show of the tar goes into its tar-split, so that the same tar can be
//! made again.
//!
//! It owns neither the directory's place in the store nor its durability: the caller makes the
//! directory, compares the digest, calls `syncfs` once and renames; on an error it removes what is there.
//!
//! # The rules
//!
//! - Nothing outside the directory is touched, whatever the tar says: every path is walked by
//!   `openat2(RESOLVE_IN_ROOT)`. A symbolic link of the same layer used as a parent is followed inside
//!   the directory, as Docker does. Names are those of [`name`]; missing parents are made (root's, 0755 and
//!   setgid in a setgid directory, time 0).
//! - The last entry of a name wins, also when its type changes; a directory over a directory keeps
//!   what is in it and takes the new metadata.
//! - A whiteout hides what is in the layers *below*, never what its own layer has, whichever comes first:
//!   beside a whiteout a directory is made opaque, anything else simply is there.
//! - A whiteout under a name that the layer has as a file or a whiteout has no effect.
//! - A character device 0:0 in the tar is a whiteout: overlayfs and Docker's overlay2 take it for one.
//! - A hard link is another name and nothing else: metadata in its header have no effect (Docker
//!   would apply them to the file; for what real tools write there is no difference).
//! - Extended attributes that a union filesystem keeps for itself are not set. One that the file system
//!   refuses is an error, except `security.selinux`, which belongs to the host that wrote it.

mod again;
mod dress;
mod error;
mod later;
mod name;
mod place;
mod record;
mod stream;

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

pub use again::split_again;
pub use error::UnpackError;

use crate::model::DiffId;
use crate::model::tar::{Kind, TarError, TarReader};
use crate::model::tar_split::TarSplitWriter;
use record::Recorded;

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the whole stream, with what follows the end of the tar.
    pub diff_id: DiffId,
    /// The sizes of the regular files, in bytes, as Docker counts them: holes included, hard links not, and
    /// a file that comes twice counts twice.
    pub size: u64,
    /// The entries of the tar.
    pub entries: u64,
    /// Whether the tar says what the root directory is. Where it does not, the root's owner, mode and
    /// time mean nothing.
    pub has_root: bool,
    /// Whether a later entry has taken the place of an earlier one: then the tar-split is wrong, and
    /// [`split_again`] is due.
    pub has_replaced: bool,
}

/// Unpacks the uncompressed tar that `reader` gives into `tree`, an open and empty directory that nobody else
/// changes meanwhile, and notes in `split` what is not to be seen there.
///
/// `reader` is read to its end, on a thread of its own, and what it gives is hashed on another. `cancel` is asked every few hundred
/// kilobytes; [`UnpackError::Interrupted`] then. On any error `tree` is left half filled.
pub fn unpack<W: Write>(
    reader: impl Read + Send,
    tree: BorrowedFd<'_>,
    split: &mut TarSplitWriter<W>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<Unpacked, UnpackError> {
    let (diff_id, unpacked) = reading(reader, split, cancel, |tar| {
        let mut tree = place::Tree::new(tree);
        let (mut size, mut entries) = (0u64, 0);
        while let Some(entry) = tar.next_entry()? {
            entries += 1;
            let added = tree
                .put(&entry, tar)
                .map_err(|trouble| trouble.of(&entry.path))?;
            if added && entry.kind == Kind::File {
                size = size.saturating_add(entry.size);
            }
        }
        let has_replaced = tree.has_replaced();
        Ok((size, entries, tree.finish()?, has_replaced))
    })?;
    let (size, entries, has_root, has_replaced) = unpacked;
    Ok(Unpacked {
        diff_id,
        size,
        entries,
        has_root,
        has_replaced,
    })
}

/// Reads a layer's tar through `act`, and what follows it. Gives the digest of all of it.
fn reading<T, W: Write>(
    reader: impl Read + Send,
    split: &mut TarSplitWriter<W>,
    cancel: &(dyn Fn() -> bool + Sync),
    act: impl FnOnce(&mut TarReader<Recorded<'_, W>>) -> Result<T, UnpackError>,
) -> Result<(DiffId, T), UnpackError> {
    let (pump, stream) = stream::stream(cancel);
    std::thread::scope(|threads| {
        let pump = std::thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(threads, move || pump.run(reader))
            .map_err(TarError::Read)?;
        let mut tar = TarReader::new(Recorded::new(stream, split));
        let done = act(&mut tar)?;
        tar.into_inner().drain().map_err(TarError::Read)?;
        let digest = pump
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")));
        Ok((digest.map_err(TarError::Read)?, done))
    })
}
