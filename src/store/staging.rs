//! Layers on their way into the store.
//!
//! ```text
//! staging/<hex>.<unique>/
//!   tree/      what is unpacked
//!   tar-split  what else its tar has (see `store::tar_split`)
//!   index      its metadata (see `store::index`)
//!   complete   there once both are whole and on the disk: the layer's sizes
//! ```
//!
//! Whoever fills such a directory holds its exclusive `flock`, so one without a holder is a
//! leftover: a complete one is taken over by the next load that wants this layer, the others are
//! orphans. Nothing here is visible to anybody; the rename into `layers/` is the load's last step.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::index::{self, Condition};
use super::layout::{Store, names_in, open_directory, read_if_there, sync_directory};
use super::lock::{self, Attempt};
use super::remove_tree::{remove_tree, remove_tree_steered};
use super::tar_split;
use super::unpack::{UnpackError, Unpacked, split_again, unpack};
use super::usage::{Usage, measure, measure_one};
use crate::model::DiffId;
use crate::sys::remove_tree::{Steer, Unsteered};

/// The sizes of a layer that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSizes {
    /// Sum of its regular files' lengths in bytes.
    pub size: u64,
    /// Allocated bytes, hard links counted once.
    pub bytes: u64,
    /// Entries in its tree, the root included.
    pub entries: u64,
    /// Whether its tar says what the root directory is.
    pub has_root: bool,
}

/// What `complete` says.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    size: u64,
    entries: u64,
    has_root: bool,
}

/// A directory in `staging/` that this process fills. Deleted when dropped, unless it was renamed
/// into `layers/` before.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    /// Holds the lock.
    directory: OwnedFd,
    sizes: Option<LayerSizes>,
    published: bool,
}

impl Staged {
    /// A new, empty directory for a layer.
    pub fn create(store: &Store, diff: &DiffId) -> Result<Staged, StoreError> {
        loop {
            if let Some(staged) = Staged::claim(unique(store, diff)?)? {
                let tree = staged.tree();
                DirBuilder::new()
                    .mode(0o755)
                    .create(&tree)
                    .map_err(StoreError::at("create", &tree))?;
                return Ok(staged);
            }
            // Between its making and the lock it was taken for a leftover and deleted.
        }
    }

    /// A complete layer that a load has left behind when it was killed.
    pub fn adopt(store: &Store, diff: &DiffId) -> Result<Option<Staged>, StoreError> {
        for name in names_in(&store.staging())? {
            if !is_for(&name, diff) {
                continue;
            }
            let Some(mut staged) = Staged::claim(store.staging().join(&name))? else {
                continue;
            };
            match read_if_there(&staged.path.join(COMPLETE))? {
                Some(json) => match serde_json::from_slice(&json) {
                    Ok(Note {
                        size,
                        entries,
                        has_root,
                    }) if staged.is_whole(store, diff, entries)? => {
                        let bytes = measure(&staged.path)?.bytes;
                        staged.sizes = Some(LayerSizes {
                            size,
                            bytes,
                            entries,
                            has_root,
                        });
                    }
                    // Cut short by a crash: dropping it deletes it.
                    _ => continue,
                },
                None => continue,
            }
            return Ok(Some(staged));
        }
        Ok(None)
    }

    /// Lock a directory, unless another process has it or it is gone.
    fn claim(path: PathBuf) -> Result<Option<Staged>, StoreError> {
        Ok(match lock::try_exclusive(&path)? {
            Attempt::Locked(directory) => Some(Staged {
                path,
                directory,
                sizes: None,
                published: false,
            }),
            Attempt::Busy | Attempt::Gone => None,
        })
    }

    /// The directory that the layer is unpacked into.
    pub fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Unpack the layer's tar that `reader` gives, as [`unpack`] does.
    ///
    /// If it says that something has been replaced, [`Staged::split_again`] is due.
    pub fn unpack(
        &self,
        reader: impl Read + Send,
        cancel: &(dyn Fn() -> bool + Sync),
    ) -> Result<Unpacked, UnpackError> {
        let tree = open_directory(&self.tree())?;
        let mut split = tar_split::create(&self.path)?;
        let unpacked = unpack(reader, tree.as_fd(), &mut split, cancel)?;
        tar_split::close(split, &self.path)?;
        Ok(unpacked)
    }

    /// Make the tar-split anew from the same tar, given again. Gives the digest of what was given.
    pub fn split_again(
        &self,
        reader: impl Read + Send,
        cancel: &(dyn Fn() -> bool + Sync),
    ) -> Result<DiffId, UnpackError> {
        let tree = open_directory(&self.tree())?;
        let mut split = tar_split::create(&self.path)?;
        let found = split_again(reader, tree.as_fd(), &mut split, cancel)?;
        tar_split::close(split, &self.path)?;
        Ok(found)
    }

    /// Its sizes, once it is complete.
    pub fn sizes(&self) -> Option<LayerSizes> {
        self.sizes
    }

    /// Whether the tree has so many entries, and those that its index says, and there is a tar-split. The
    /// index is made if it is not there or damaged.
    fn is_whole(&self, store: &Store, diff: &DiffId, entries: u64) -> Result<bool, StoreError> {
        let (usage, index) = index::check_layer(&self.path, diff)?;
        // An earlier version did not keep one.
        let has_split = measure_one(&self.path.join(tar_split::NAME))? > 0;
        if usage.entries != entries || !has_split {
            return Ok(false);
        }
        match index {
            Condition::Sound => Ok(true),
            Condition::Differs(_) => Ok(false),
            Condition::Missing | Condition::Damaged(_) => {
                index::make(store, &self.path, diff).map(|_| true)
            }
        }
    }

    /// Bring all of it to the disk, make its index, and note that it is complete. `size` is the sum
    /// of its files' lengths, `has_root` whether its tar has an entry for the root directory.
    pub fn complete(
        &mut self,
        store: &Store,
        diff: &DiffId,
        size: u64,
        has_root: bool,
    ) -> Result<LayerSizes, StoreError> {
        // One syncfs: an fsync a file is ten times slower. It comes before the walk, because
        // ext4 gives out blocks as late as it writes, and before the name that says "complete", so
        // that a crash never leaves that name on a tree with holes.
        rustix::fs::syncfs(&self.directory).map_err(StoreError::at("sync", &self.path))?;
        let Usage { bytes, entries } = index::make(store, &self.path, diff)?;
        self.note(&Note {
            size,
            entries,
            has_root,
        })?;
        sync_directory(&self.path)?;
        // What lies beside the tree belongs to the layer as well.
        let mut bytes = bytes + measure_one(&self.path)?;
        for name in [tar_split::NAME, index::NAME, COMPLETE] {
            bytes += measure_one(&self.path.join(name))?;
        }
        let sizes = LayerSizes {
            size,
            bytes,
            entries,
            has_root,
        };
        self.sizes = Some(sizes);
        Ok(sizes)
    }

    fn note(&self, note: &Note) -> Result<(), StoreError> {
        let path = self.path.join(COMPLETE);
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&serde_json::to_vec(note)?)?;
            file.sync_all()
        };
        write().map_err(StoreError::at("write", &path))
    }

    /// Whether the layer has its name in `layers/`.
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// Take the name back, so that dropping this deletes the layer. If the name has gone to another
    /// layer meanwhile, this one is an orphan.
    ///
    /// To be called inside a write transaction that has found no row for this diff.
    pub fn unpublish(&mut self, store: &Store, diff: &DiffId) -> Result<(), StoreError> {
        let from = store.layer(diff);
        if self.published && lock::leads_to(&from, &self.directory)? {
            fs::rename(&from, &self.path).map_err(StoreError::at("take back", &from))?;
            self.published = false;
        }
        Ok(())
    }

    /// Give the layer its name in `layers/`. What lies there without a row is moved out of the
    /// way, into `staging/`, as an orphan.
    ///
    /// To be called inside a write transaction that has found no row for this diff; a sync of
    /// `layers/` is due before its commit.
    pub fn publish(&mut self, store: &Store, diff: &DiffId) -> Result<(), StoreError> {
        let to = store.layer(diff);
        match fs::rename(&self.path, &to) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                // A load that died between this rename and its commit.
                let aside = unique(store, diff)?;
                fs::rename(&to, &aside).map_err(StoreError::at("move aside", &to))?;
                fs::rename(&self.path, &to).map_err(StoreError::at("rename to", &to))?;
            }
            other => other.map_err(StoreError::at("rename to", &to))?,
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = discard(&self.path, &mut Unsteered)
        {
            // It stays as an orphan, which `df` shows and `gc` removes.
            tracing::warn!("{e}");
        }
    }
}

const COMPLETE: &str = "complete";

/// A new, empty directory in `staging/` with a name that says which layer it is for.
fn unique(store: &Store, diff: &DiffId) -> Result<PathBuf, StoreError> {
    let staging = store.staging();
    let made = tempfile::Builder::new()
        .prefix(&format!("{}.", diff.hex()))
        .tempdir_in(&staging);
    Ok(made
        .map_err(StoreError::at("create a directory in", &staging))?
        .keep())
}

fn is_for(name: &OsStr, diff: &DiffId) -> bool {
    let name = name.as_bytes();
    name.strip_prefix(diff.hex().as_bytes())
        .is_some_and(|rest| rest.starts_with(b"."))
}

/// Delete a directory of `staging/`. First its claim to be complete, on the disk too: a crash in the
/// middle must not leave that claim on what is left of the tree.
fn discard(path: &Path, steer: &mut dyn Steer) -> Result<(), StoreError> {
    remove_tree(&path.join(COMPLETE))?;
    match sync_directory(path) {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    }
    remove_tree_steered(path, steer)
}

/// Whether a process fills this directory of `staging/`.
pub fn is_held(path: &Path) -> Result<bool, StoreError> {
    if !path.is_dir() {
        return Ok(false);
    }
    Ok(matches!(lock::try_shared(path)?, Attempt::Busy))
}

/// Delete a leftover in `staging/`, unless a process fills it or another has deleted it meanwhile.
pub fn remove_leftover(path: &Path, steer: &mut dyn Steer) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            // Dropping what was claimed deletes it, but would only log an error.
            let Some(mut staged) = Staged::claim(path.to_owned())? else {
                return Ok(false);
            };
            staged.published = true;
            discard(path, steer)?;
            Ok(true)
        }
        Ok(_) => match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StoreError::at("delete", path)(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::at("delete", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store, DiffId) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.furnish().unwrap();
        (dir, store, DiffId::of(b"layer"))
    }

    #[test]
    fn a_dropped_layer_leaves_nothing() {
        let (_dir, store, diff) = store();
        let staged = Staged::create(&store, &diff).unwrap();
        std::fs::write(staged.tree().join("f"), "x").unwrap();
        drop(staged);
        assert!(names_in(&store.staging()).unwrap().is_empty());
    }

    #[test]
    fn a_complete_leftover_is_adopted_and_a_held_one_is_not() {
        let (_dir, store, diff) = store();
        let mut staged = Staged::create(&store, &diff).unwrap();
        std::fs::write(staged.tree().join("f"), vec![1; 10_000]).unwrap();
        std::fs::write(staged.path.join(tar_split::NAME), "anything").unwrap();
        let sizes = staged.complete(&store, &diff, 10_000, true).unwrap();
        assert!(sizes.bytes >= 12_288 && sizes.size == 10_000 && sizes.entries == 2);
        assert!(
            Staged::adopt(&store, &diff).unwrap().is_none(),
            "it is held"
        );
        staged.published = true; // as if the process had been killed
        drop(staged);
        assert!(
            Staged::adopt(&store, &DiffId::of(b"other"))
                .unwrap()
                .is_none()
        );
        let mut adopted = Staged::adopt(&store, &diff).unwrap().unwrap();
        assert_eq!(adopted.sizes(), Some(sizes));
        adopted.publish(&store, &diff).unwrap();
        drop(adopted);
        assert_eq!(measure(&store.layer(&diff)).unwrap().bytes, sizes.bytes);
        assert!(names_in(&store.staging()).unwrap().is_empty());
    }

    #[test]
    fn a_nameless_layer_in_the_way_is_moved_aside() {
        let (_dir, store, diff) = store();
        fs::create_dir_all(store.layer(&diff).join("tree")).unwrap();
        fs::write(store.layer(&diff).join("tree/old"), "").unwrap();
        let mut staged = Staged::create(&store, &diff).unwrap();
        staged.complete(&store, &diff, 0, false).unwrap();
        staged.publish(&store, &diff).unwrap();
        assert!(!store.layer(&diff).join("tree/old").exists());
        assert_eq!(names_in(&store.staging()).unwrap().len(), 1);
    }
}
