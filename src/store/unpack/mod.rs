//! Unpacking one layer's tar into a directory.
//!
//! The result is what kernel overlayfs takes as a lower directory: real owners, modes, times,
//! extended attributes, hard links and devices; `.wh.NAME` as a character device 0:0, an opaque directory by
//! `trusted.overlay.opaque=y` (`user.overlay.opaque` where the former is not permitted).
//!
//! It owns neither the directory's place in the store nor its durability: the caller makes the
//! directory, compares the digest, calls `syncfs` once and renames; on an error it removes what is there.
//!
//! # The rules
//!
//! - Nothing outside the directory is touched, whatever the tar says: every path is walked by
//!   `openat2(RESOLVE_IN_ROOT)`. A symbolic link of the same layer used as a parent is followed inside
//!   the directory, as Docker does. Names are those of [`name`]; missing parents are made (root's, 0755, time 0).
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

mod dress;
mod error;
mod later;
mod name;
mod place;
mod stream;

use std::io::Read;
use std::os::fd::BorrowedFd;

pub use error::UnpackError;

use crate::model::DiffId;
use crate::model::tar::{Kind, TarError, TarReader};

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
}

/// Unpacks the uncompressed tar that `reader` gives into `tree`, an open and empty directory that nobody else
/// changes meanwhile.
///
/// `reader` is read to its end, on a thread of its own, and what it gives is hashed on another. `cancel` is asked every few hundred
/// kilobytes; [`UnpackError::Interrupted`] then. On any error `tree` is left half filled.
pub fn unpack(
    reader: impl Read + Send,
    tree: BorrowedFd<'_>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<Unpacked, UnpackError> {
    let (pump, stream) = stream::stream(cancel);
    std::thread::scope(|threads| {
        let pump = std::thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(threads, move || pump.run(reader))
            .map_err(TarError::Read)?;
        let mut tar = TarReader::new(stream);
        let mut tree = place::Tree::new(tree);
        let (mut size, mut entries) = (0u64, 0);
        while let Some(entry) = tar.next_entry()? {
            entries += 1;
            let added = tree
                .put(&entry, &mut tar)
                .map_err(|trouble| trouble.of(&entry.path))?;
            if added && entry.kind == Kind::File {
                size = size.saturating_add(entry.size);
            }
        }
        let has_root = tree.finish()?;
        tar.into_inner().drain().map_err(TarError::Read)?;
        let diff_id = pump
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the reading thread panicked")))
            .map_err(TarError::Read)?;
        Ok(Unpacked {
            diff_id,
            size,
            entries,
            has_root,
        })
    })
}
