//! What `fsck` asks of indexes, and how it mends them.

use std::path::Path;

use super::{
    LayerAt, Memory, Place, Trouble, directory_of, make, mapped, merged, opened, read, read_layer,
    walk,
};
use crate::model::index::{Index, Inode, Kind, Scope, Time};
use crate::model::{DiffId, ImageId};
use crate::store::layout::open_directory;
use crate::store::usage::Usage;
use crate::store::{Store, StoreError};
use crate::sys::map::Map;

/// In which condition an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It is there and right.
    Sound,
    /// There is none: it is made when a view needs it.
    Missing,
    /// Why it cannot be used.
    Damaged(String),
    /// It is whole, and the tree is not what it says: of an entry of this name.
    Differs(String),
}

impl<T> From<Result<T, Trouble>> for Condition {
    fn from(found: Result<T, Trouble>) -> Condition {
        match found {
            Ok(_) => Condition::Sound,
            Err(Trouble::Missing) => Condition::Missing,
            Err(Trouble::Damaged(why)) => Condition::Damaged(why),
        }
    }
}

/// Check a layer's index against its tree, in one walk that gives what the tree takes as well.
///
/// # Errors
/// The tree cannot be read.
pub fn check_layer(directory: &Path, diff: &DiffId) -> Result<(Usage, Condition), StoreError> {
    let tree = directory.join("tree");
    let made = |place: Place<'_>| {
        let walked = walk::walk(open_directory(&tree)?, diff, place, &tree)?;
        Ok::<_, StoreError>((walked.usage, place.write(walked.index)?))
    };
    // In memory where nothing can be written.
    let (usage, fresh) = made(Place::Disk(directory)).or_else(|_| made(Place::Memory))?;
    let fresh = mapped(&fresh, Memory::Sparing).map_err(StoreError::at("check", &tree))?;
    let fresh = opened(fresh, Memory::Sparing);
    let found = read_layer(open_directory(directory)?, diff);
    let condition = match (found, fresh) {
        (Ok(index), Ok(fresh)) => match first_difference(&index, &fresh) {
            None => Condition::Sound,
            Some(name) => Condition::Differs(name),
        },
        (Ok(_), Err(e)) => Condition::Damaged(e.to_string()),
        (found, _) => found.into(),
    };
    Ok((usage, condition))
}

/// Check an image's merged index: whether it is whole, and of these layers, topmost first.
pub fn check_image(store: &Store, image: &ImageId, layers: &[DiffId]) -> Condition {
    match directory_of(store, image) {
        Some(directory) => read(directory, Scope::Merged, layers, Memory::Sparing).into(),
        None => Condition::Missing,
    }
}

/// Make a layer's index anew. Whoever asks keeps the layer from being reclaimed meanwhile.
///
/// # Errors
/// The tree cannot be read, or the disk is full.
pub fn repair_layer(store: &Store, directory: &Path, diff: &DiffId) -> Result<(), StoreError> {
    make(store, directory, diff).map(|_| ())
}

/// Make an image's merged index anew, from those of its layers, topmost first.
///
/// # Errors
/// A layer that is gone or cannot be read.
pub fn repair_image(store: &Store, image: &ImageId, layers: &[DiffId]) -> Result<(), StoreError> {
    let mut directories = Vec::new();
    for diff in layers {
        directories.push(open_directory(&store.layer(diff))?);
    }
    let layers: Vec<LayerAt<'_>> = layers
        .iter()
        .zip(&directories)
        .map(|(diff, directory)| LayerAt {
            diff,
            directory: std::os::fd::AsFd::as_fd(directory),
        })
        .collect();
    merged(store, image, &layers).map(|_| ())
}

/// How many inodes are compared until the memory of what was read is given back.
const REST: u32 = 1 << 10;

/// The name of the first inode of which two indexes of a layer do not say the same.
fn first_difference(one: &Index<Map>, other: &Index<Map>) -> Option<String> {
    let differs = |at: &u32| {
        let at = *at;
        if at % REST == REST - 1 {
            one.bytes().release();
            other.bytes().release();
        }
        one.inode(at).map(lasting) != other.inode(at).map(lasting)
            || one.target(at) != other.target(at)
            || !one.names(at).eq(other.names(at))
            || !one.xattrs(at).eq(other.xattrs(at))
    };
    let at = (0..one.len().max(other.len())).find(differs)?;
    let name = one.names(at).next().or_else(|| other.names(at).next());
    Some(match name {
        Some((_, name)) => format!("{:?}", String::from_utf8_lossy(name)),
        None => "the root directory".to_owned(),
    })
}

/// Without what reading a layer, or copying a store to another disk, changes.
fn lasting(inode: Inode) -> Inode {
    let never = Time::default();
    Inode {
        atime: never,
        ctime: never,
        blocks: 0,
        size: match inode.kind {
            Kind::Directory => 0,
            _ => inode.size,
        },
        ..inode
    }
}
