//! Indexes on disk: a layer's own in `layers/<hex>/index`, an image's merged one in
//! `images/<hex>/index`. What is in them says `model::index`.
//!
//! Both can be made anew at any time, a layer's by walking its tree (whatever the tar said: what is
//! on the disk is what a view shows), an image's from its layers'. So one that is missing, damaged,
//! of another version or of other layers is no error but work; only damage is worth a message.
//!
//! An index is written without a name, brought to the disk, and then given its name: what has the
//! name is whole, also after a power cut, and leaves nothing of itself if the process dies before.
//! It is never changed, only unlinked and replaced, so who has mapped it keeps what it has.

//!
//! Making one takes a flat amount of memory however large the tree is: see `model::index::Builder`,
//! and [`Memory::Sparing`].

mod place;
mod verify;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use super::layout::open_directory;
use super::usage::Usage;
use super::{Store, StoreError};
use crate::model::index::{Index, IndexError, Scope, merger};
use crate::model::{DiffId, ImageId};
use crate::sys::map::Map;
use crate::sys::reason;
use crate::sys::remove_tree::remove_tree;

use place::{Builder, Place};
pub use verify::{Condition, check_image, check_layer, repair_image, repair_layer};

/// The name of an index in the directory of its layer or image.
pub(super) const NAME: &str = "index";

/// A layer of which the directory is open, and stays though its name may go.
#[derive(Debug, Clone, Copy)]
pub struct LayerAt<'fd> {
    /// Which layer it is.
    pub diff: &'fd DiffId,
    /// Its directory, in which `tree` and `index` are. Whoever gives it keeps it from being
    /// reclaimed meanwhile.
    pub directory: BorrowedFd<'fd>,
}

/// The merged index of an image's layers, given topmost first: that of the image's directory or, if
/// that is not what it should be, one made now, which takes its place.
///
/// Where it cannot take that place (a full disk, an image that has been removed meanwhile) it works
/// all the same, without a name or in memory.
///
/// # Errors
/// A layer whose index is missing or damaged and whose tree cannot be read, or more entries than
/// an index has room for.
pub fn merged(
    store: &Store,
    image: &ImageId,
    layers: &[LayerAt<'_>],
) -> Result<Index<Map>, StoreError> {
    let directory = directory_of(store, image);
    merged_in(store, image, directory.as_ref(), layers)
}

/// As [`merged`], in the image's directory that was opened by [`directory_of`] when the image was
/// looked up: it may have lost its name since.
///
/// # Errors
/// As [`merged`].
pub fn merged_in(
    store: &Store,
    image: &ImageId,
    directory: Option<&OwnedFd>,
    layers: &[LayerAt<'_>],
) -> Result<Index<Map>, StoreError> {
    let diffs: Vec<DiffId> = layers.iter().map(|layer| layer.diff.clone()).collect();
    let path = store.image_index(image);
    if let Some(directory) = directory {
        match read(directory, Scope::Merged, &diffs, Memory::Whole) {
            Ok(index) => return Ok(index),
            Err(trouble) => trouble.tell(&path),
        }
    }
    let mut own = Vec::new();
    for layer in layers {
        own.push(own_or_made(store, layer)?);
    }
    let make = |place: Place<'_>| merge_all(&own, place, &path);
    keep(store, directory, &path, Memory::Whole, make)
}

/// Make the merged index of an image that has just been loaded, if it has none that is right. From
/// the layers' own, which the load has made as well; nothing is locked.
///
/// # Errors
/// One of them is missing or damaged, or the disk is full: then it is left to the first view.
pub fn prepare(store: &Store, image: &ImageId, layers: &[DiffId]) -> Result<(), StoreError> {
    let path = store.image_index(image);
    let directory = open_directory(&store.image(image))?;
    match read(&directory, Scope::Merged, layers, Memory::Sparing) {
        Ok(_) => return Ok(()),
        Err(trouble) => trouble.tell(&path),
    }
    let mut own = Vec::new();
    for diff in layers {
        let directory = open_directory(&store.layer(diff))?;
        own.push(read_layer(&directory, diff).map_err(|trouble| {
            let path = store.layer(diff).join(NAME);
            StoreError::at("use", &path)(io::Error::other(trouble.to_string()))
        })?);
    }
    let staging = store.staging();
    let place = Place::Disk(&staging);
    let file = unnamed(place, merge_all(&own, place, &path)?)?;
    name(&file, directory).map_err(StoreError::at("create", &path))
}

/// Make a layer's index from its tree and put it into its directory. Gives what the tree takes.
pub(super) fn make(store: &Store, directory: &Path, diff: &DiffId) -> Result<Usage, StoreError> {
    let tree = directory.join("tree");
    let staging = store.staging();
    let place = Place::Disk(&staging);
    let walked = walk::walk(open_directory(&tree)?, diff, place, &tree)?;
    let file = unnamed(place, walked.index)?;
    let path = directory.join(NAME);
    name(&file, open_directory(directory)?).map_err(StoreError::at("create", &path))?;
    Ok(walked.usage)
}

/// Why an index on disk is not used.
#[derive(Debug)]
enum Trouble {
    /// There is none.
    Missing,
    /// It is not what it should be.
    Damaged(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Missing => f.write_str("it is missing"),
            Trouble::Damaged(why) => f.write_str(why),
        }
    }
}

impl Trouble {
    fn tell(&self, path: &Path) {
        let path = path.display();
        match self {
            // Of a store that an earlier version has made, or never finished.
            Trouble::Missing => tracing::debug!("{path} is missing: it is made"),
            Trouble::Damaged(why) => tracing::warn!("{path} is damaged: {why}; it is made anew"),
        }
    }
}

/// An image's directory, opened; `None` where there is none, or none that can be used.
pub fn directory_of(store: &Store, image: &ImageId) -> Option<OwnedFd> {
    match open_directory(&store.image(image)) {
        Ok(directory) => Some(directory),
        Err(e) if e.is_not_found() => None,
        Err(e) => {
            tracing::warn!("{e}");
            None
        }
    }
}

/// How much of a mapped index is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// All of it, from the beginning: for a view, which must not wait for it later.
    Whole,
    /// Only what has been read of late.
    Sparing,
}

/// The index in a directory, if it is what it should be.
fn read(
    directory: impl AsFd,
    scope: Scope,
    diffs: &[DiffId],
    memory: Memory,
) -> Result<Index<Map>, Trouble> {
    let damaged = |errno: Errno| Trouble::Damaged(reason(&errno.into()));
    // Not waiting for a writer where somebody has put a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(Trouble::Missing),
        Err(errno) => return Err(damaged(errno)),
    };
    let map = mapped(&file, memory).map_err(damaged)?;
    let index = opened(map, memory).map_err(|e| Trouble::Damaged(e.to_string()))?;
    let is_it = index.scope() == scope && index.diffs().eq(diffs.iter().cloned());
    if !is_it {
        return Err(Trouble::Damaged("it is of other layers".to_owned()));
    }
    Ok(index)
}

fn mapped(file: &File, memory: Memory) -> Result<Map, Errno> {
    match memory {
        Memory::Whole => Map::of(file),
        Memory::Sparing => Map::unread(file),
    }
}

fn opened(map: Map, memory: Memory) -> Result<Index<Map>, IndexError> {
    match memory {
        Memory::Whole => Index::open(map),
        Memory::Sparing => Index::open_resting(map, Map::release),
    }
}

/// A layer's own, to be read once, from the beginning to the end.
fn read_layer(directory: impl AsFd, diff: &DiffId) -> Result<Index<Map>, Trouble> {
    let diffs = std::slice::from_ref(diff);
    read(directory, Scope::Layer, diffs, Memory::Sparing)
}

/// A layer's own index, made anew if it has to be.
fn own_or_made(store: &Store, layer: &LayerAt<'_>) -> Result<Index<Map>, StoreError> {
    // Only for messages: the directory may have got another name.
    let path = store.layer(layer.diff).join(NAME);
    match read_layer(layer.directory, layer.diff) {
        Ok(index) => return Ok(index),
        Err(trouble) => trouble.tell(&path),
    }
    let tree = store.layer(layer.diff).join("tree");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = |place: Place<'_>| {
        let opened = openat(layer.directory, "tree", flags, Mode::empty());
        let opened = opened.map_err(StoreError::at("open", &tree))?;
        walk::walk(opened, layer.diff, place, &tree).map(|walked| walked.index)
    };
    keep(store, Some(&layer.directory), &path, Memory::Sparing, make)
}

fn merge_all(own: &[Index<Map>], place: Place<'_>, path: &Path) -> Result<Builder, StoreError> {
    let own: Vec<&Index<Map>> = own.iter().collect();
    let release = || own.iter().for_each(|index| index.bytes().release());
    let merged = merger(&own, || place.scratch(), release);
    let merged = merged.map_err(|e| StoreError::at("make", path)(io::Error::from(e)))?;
    // They were not read all at once: the disk may have failed since they were checked.
    match own.iter().all(|index| index.is_whole()) {
        true => Ok(merged),
        false => {
            let error = io::Error::other("a layer's index cannot be read any more");
            Err(StoreError::at("make", path)(error))
        }
    }
}

/// Make an index and keep it: in the directory if there is one and that can be done, else without a
/// name or, on a full disk, in memory. `path` is for messages.
fn keep(
    store: &Store,
    directory: Option<impl AsFd>,
    path: &Path,
    memory: Memory,
    make: impl Fn(Place<'_>) -> Result<Builder, StoreError>,
) -> Result<Index<Map>, StoreError> {
    let made = |place: Place<'_>| unnamed(place, make(place)?);
    let file = match made(Place::Disk(&store.staging())) {
        Ok(file) => {
            match directory.map(|directory| name(&file, directory)) {
                // The image was removed meanwhile.
                None | Some(Ok(()) | Err(Errno::NOENT)) => {}
                Some(Err(errno)) => tracing::warn!("{}", StoreError::at("create", path)(errno)),
            }
            file
        }
        Err(e) => {
            // Where it was not the disk's room, this fails as well.
            let file = made(Place::Memory)?;
            tracing::warn!("{e}: {} stays in memory", path.display());
            file
        }
    };
    let map = mapped(&file, memory).map_err(StoreError::at("read", path))?;
    opened(map, memory).map_err(|e| StoreError::at("make", path)(io::Error::other(e)))
}

/// An index without a name. It is synced: what has the name must be whole after a power cut, else
/// that could not be told from a disk that fails.
fn unnamed(place: Place<'_>, index: Builder) -> Result<File, StoreError> {
    let file = place.write(index)?;
    let synced = file.sync_all();
    synced.map_err(|e| StoreError::at("write an index in", place.path())(e))?;
    Ok(file)
}

/// Give an index its name in a directory, in the place of one that is there.
fn name(file: &File, directory: impl AsFd) -> Result<(), Errno> {
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    loop {
        let linked = linkat(CWD, &unnamed, &directory, NAME, AtFlags::SYMLINK_FOLLOW);
        match linked {
            // Unlinked, not renamed over: that would need a name elsewhere first, which a crash
            // would leave. Who looks in between makes one for itself.
            Err(Errno::EXIST) => remove_tree(&directory, NAME.as_bytes())?,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
