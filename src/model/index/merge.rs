//! Merging the layers' indexes into what they show together, by overlayfs's rules: a whiteout hides
//! the name from there on down, so does anything but a directory; directories are merged, the
//! metadata is the topmost's; an opaque one is the last.

use std::collections::{HashMap, VecDeque};
use std::io::{Cursor, Read, Seek, Write};

use super::build::{Builder, WriteError};
use super::read::Index;
use super::{IndexError, Inode, Kind, Scope, Time};

/// An inode of a layer: which layer, and its number there.
type At = (u32, u32);

/// The merged index of layers, given topmost first, in memory. Without layers it is an empty
/// directory.
///
/// # Errors
/// More than the format has room for.
pub fn merge<B: AsRef<[u8]>>(layers: &[&Index<B>]) -> Result<Vec<u8>, WriteError> {
    let mut out = Cursor::default();
    merger(layers, Cursor::<Vec<u8>>::default, || {})?.write(&mut out)?;
    Ok(out.into_inner())
}

/// How many entries are merged until it is time to `rest`.
const REST: u32 = 1 << 12;

/// For how many entries an extended attribute counts, which may be long.
const XATTR: u32 = 64;

/// The same, not yet written. `scratch` makes empty files to work with; `rest` is called every so often, for who maps
/// the layers' indexes and will not have all of them in memory.
///
/// # Errors
/// More than the format has room for; and those of the scratch files.
pub fn merger<B: AsRef<[u8]>, S: Read + Write + Seek>(
    layers: &[&Index<B>],
    scratch: impl FnMut() -> S,
    rest: impl Fn(),
) -> Result<Builder<S>, WriteError> {
    let diffs = layers.iter().flat_map(|layer| layer.diffs()).collect();
    let Some(top) = layers.first() else {
        return Builder::new(Scope::Merged, diffs, &EMPTY_ROOT, [], scratch);
    };
    let inode_of = |(layer, at): At| {
        let inode = layers[layer as usize].inode(at);
        let inode = inode.ok_or(IndexError::Broken("a name that leads nowhere"))?;
        Ok::<Inode, IndexError>(Inode { layer, ..inode })
    };
    let shown = |inode: Inode| Inode {
        opaque: false,
        ..inode
    };
    let root = shown(inode_of((0, 0))?);
    let mut builder = Builder::new(Scope::Merged, diffs, &root, top.xattrs(0), scratch)?;
    let mut sources: Vec<At> = Vec::new();
    for layer in 0..layers.len() as u32 {
        sources.push((layer, 0));
        if inode_of((layer, 0))?.opaque {
            break;
        }
    }
    // Directories that are still to be merged: the number, and what it is merged from.
    let mut pending = VecDeque::from([(0, sources)]);
    // Numbers of files with several names.
    let mut linked: HashMap<At, u32> = HashMap::new();
    let mut since_rest = 0;
    while let Some((parent, sources)) = pending.pop_front() {
        let mut found: Vec<(&[u8], At)> = Vec::new();
        for (layer, dir) in &sources {
            let children = layers[*layer as usize].children(*dir);
            found.extend(children.map(|(name, at)| (name, (*layer, at))));
        }
        // Stable: of one name the topmost stays first.
        if sources.len() > 1 {
            found.sort_by_key(|(name, _)| *name);
        }
        for of_name in found.chunk_by(|a, b| a.0 == b.0) {
            let (name, top) = of_name[0];
            let inode = inode_of(top)?;
            let layer = layers[top.0 as usize];
            since_rest += 1 + XATTR * layer.xattrs(top.1).len() as u32;
            if since_rest >= REST {
                since_rest = 0;
                rest();
            }
            match inode.kind {
                Kind::Whiteout => {}
                Kind::Directory => {
                    let mut sources = Vec::new();
                    for (_, at) in of_name {
                        let inode = inode_of(*at)?;
                        if inode.kind != Kind::Directory {
                            break;
                        }
                        sources.push(*at);
                        if inode.opaque {
                            break;
                        }
                    }
                    let number =
                        builder.add(parent, name, &shown(inode), &[], layer.xattrs(top.1))?;
                    pending.push_back((number, sources));
                }
                _ => {
                    if let Some(number) = linked.get(&top) {
                        builder.link(parent, name, *number)?;
                        continue;
                    }
                    let target = layer.target(top.1).unwrap_or_default();
                    let number = builder.add(parent, name, &inode, target, layer.xattrs(top.1))?;
                    if inode.nlink > 1 {
                        linked.insert(top, number);
                    }
                }
            }
        }
    }
    Ok(builder)
}

const EMPTY_ROOT: Inode = Inode {
    kind: Kind::Directory,
    opaque: false,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    blocks: 0,
    atime: Time { secs: 0, nanos: 0 },
    mtime: Time { secs: 0, nanos: 0 },
    ctime: Time { secs: 0, nanos: 0 },
    nlink: 2,
    rdev: 0,
    layer: 0,
};
