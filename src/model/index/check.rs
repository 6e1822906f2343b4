//! What must be true of an index beside its checksum. It is checked in one pass over the inodes and
//! one over the names.

use std::collections::HashMap;

use super::read::Index;
use super::record::{ATTR, NONE, Record, u32_at, u64_at};
use super::{IndexError, Kind, MAX_NAME, Scope};

const MAX_TARGET: usize = 4095;

/// How many records are checked until it is time to rest.
const REST: u32 = 1 << 13;

/// Whether every number leads to where it may, and the tree is one. `rest` is called every so often.
pub(super) fn check<B: AsRef<[u8]>>(index: &Index<B>, rest: impl Fn()) -> Result<(), IndexError> {
    let header = &index.header;
    require(header.inodes > 0, "it has no root")?;
    require(header.inodes < NONE, "it has too many inodes")?;
    require(header.layers <= 1 << 16, "it has too many layers")?;
    require(
        header.scope == Scope::Merged || header.layers == 1,
        "a layer's own is of one layer",
    )?;
    // An image may have none.
    require(
        header.layers > 0 || header.inodes == 1,
        "inodes that are in no layer",
    )?;
    attributes(index, &rest)?;
    inodes(index, &rest)?;
    names(index, &rest)
}

fn rest_at(record: u32, rest: &impl Fn()) {
    if record % REST == REST - 1 {
        rest();
    }
}

fn require(is_so: bool, else_why: &'static str) -> Result<(), IndexError> {
    if is_so {
        Ok(())
    } else {
        Err(IndexError::Broken(else_why))
    }
}

fn attributes<B: AsRef<[u8]>>(index: &Index<B>, rest: &impl Fn()) -> Result<(), IndexError> {
    let slice = index.slice();
    let mut at = 0;
    for set in 0..index.header.sets {
        let end = u32_at(index.file(), index.at.sets + 4 * set as usize);
        require(end > at, "a set of attributes ends before it begins")?;
        at = end;
    }
    require(at == index.header.attrs, "attributes that are in no set")?;
    for nth in 0..index.header.attrs as usize {
        // Between the names are the values, which may be long.
        if nth % 256 == 255 {
            rest();
        }
        let record = index.at.attrs + nth * ATTR;
        let packed = u64_at(index.file(), record);
        let name = slice.some_bytes(packed >> 16, packed & 0xffff);
        let length = u32_at(index.file(), record + 16);
        let value = slice.some_bytes(u64_at(index.file(), record + 8), length.into());
        require(
            name.is_some_and(|name| (1..=MAX_NAME).contains(&name.len()) && !name.contains(&0)),
            "an attribute without a name",
        )?;
        require(value.is_some(), "an attribute without a value")?;
    }
    Ok(())
}

fn inodes<B: AsRef<[u8]>>(index: &Index<B>, rest: &impl Fn()) -> Result<(), IndexError> {
    let slice = index.slice();
    let mut names = 0u32;
    for at in 0..index.header.inodes {
        rest_at(at, rest);
        let record = slice.record(at);
        let record = record.ok_or(IndexError::Broken("an inode of no known type"))?;
        let Record { inode, set, .. } = record;
        require(
            (inode.kind == Kind::Directory) || at > 0,
            "its root is no directory",
        )?;
        require(
            inode.layer < index.header.layers.max(1),
            "an inode of a layer that it has not",
        )?;
        require(
            set <= index.header.sets,
            "an inode with attributes that it has not",
        )?;
        let times = [inode.atime, inode.mtime, inode.ctime];
        require(
            times.iter().all(|time| time.nanos < 1_000_000_000),
            "a time with more than a second of nanoseconds",
        )?;
        require(
            i64::try_from(inode.size).is_ok(),
            "an inode of impossible size",
        )?;
        if index.header.scope == Scope::Merged {
            let layers_own = inode.opaque || inode.kind == Kind::Whiteout;
            require(!layers_own, "a merged one that hides something")?;
        }
        require(
            inode.kind == Kind::Directory || !inode.opaque,
            "something opaque that is no directory",
        )?;
        match inode.kind {
            Kind::Directory => {
                let (first, count) = record.range();
                require(first == names, "directories that share names")?;
                let end = first.checked_add(count);
                names = end.ok_or(IndexError::Broken("a directory with too many names"))?;
            }
            Kind::Symlink => {
                let target = slice.some_bytes(record.data >> 16, record.data & 0xffff);
                let fits = |t: &[u8]| (1..=MAX_TARGET).contains(&t.len()) && !t.contains(&0);
                require(target.is_some_and(fits), "a symlink to nowhere")?;
            }
            _ => {}
        }
    }
    require(
        names == index.header.names,
        "names that are in no directory",
    )
}

/// Goes through the names in the order in which the numbers were given: each must lead to the next
/// new inode, or, as a further name, to one that is no directory. So every inode has its name, and
/// there is no circle.
fn names<B: AsRef<[u8]>>(index: &Index<B>, rest: &impl Fn()) -> Result<(), IndexError> {
    let slice = index.slice();
    let mut next_inode = 1;
    let mut text_end = 0;
    // Of inodes with several names: where the next one must be.
    let mut further: HashMap<u32, u32> = HashMap::new();
    require(
        slice.record(0).is_some_and(|root| root.first_name == NONE),
        "its root has a name",
    )?;
    for dir in 0..index.header.inodes {
        rest_at(dir, rest);
        let Some(record) = slice.record(dir) else {
            continue;
        };
        if record.inode.kind != Kind::Directory {
            continue;
        }
        let (first, count) = record.range();
        require(
            count == 0 || dir < next_inode,
            "a directory that is in none",
        )?;
        let mut last: &[u8] = &[];
        for place in first..first + count {
            rest_at(place, rest);
            let name = slice.name(place);
            require(name.parent == dir, "a name in another directory")?;
            let (begin, end) = name.text;
            require(
                begin == text_end && end >= begin && end <= index.header.names_len,
                "a name that is nowhere",
            )?;
            text_end = end;
            let text = slice.text(&name);
            require(is_name(text), "a name that cannot be")?;
            require(place == first || last < text, "names that are not sorted")?;
            last = text;
            let inode = slice.record(name.inode);
            let inode = inode.ok_or(IndexError::Broken("a name that leads nowhere"))?;
            if name.inode == next_inode {
                next_inode += 1;
                require(
                    inode.first_name == place,
                    "an inode with a wrong first name",
                )?;
            } else {
                require(
                    inode.inode.kind != Kind::Directory,
                    "a directory with several names",
                )?;
                require(
                    further.remove(&name.inode) == Some(place),
                    "a name that its inode does not have",
                )?;
            }
            if name.next != NONE {
                further.insert(name.inode, name.next);
            }
        }
    }
    require(next_inode == index.header.inodes, "an inode without a name")?;
    require(further.is_empty(), "an inode with a name that is nowhere")?;
    require(text_end == index.header.names_len, "text that is no name")
}

/// Whether these bytes can be the name of an entry.
pub(super) fn is_name(name: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
        && name != b"."
        && name != b".."
}
