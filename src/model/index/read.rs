//! Reading an index in place.

use super::check::check;
use super::record::{
    ATTR, Header, INODE, LAYER, MAGIC, NAME, NONE, Record, SET, Sections, bytes_at, u32_at, u64_at,
};
use super::{IndexError, Inode, Kind, Scope};
use crate::model::DiffId;

/// An index in memory, checked: whatever is asked of it can be answered.
#[derive(Debug)]
pub struct Index<B> {
    pub(super) bytes: B,
    pub(super) header: Header,
    pub(super) at: Sections,
}

/// A name of a directory: where its text lies, and which inode it leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) inode: u32,
    pub(super) parent: u32,
    /// Where its text begins and ends.
    pub(super) text: (u32, u32),
    /// The place of the inode's next name, or [`NONE`].
    pub(super) next: u32,
}

impl<B: AsRef<[u8]>> Index<B> {
    /// Checks all of it, once: magic, version, length, checksum, and that every number in it leads
    /// to where it may.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn open(bytes: B) -> Result<Index<B>, IndexError> {
        Index::open_resting(bytes, |_| {})
    }

    /// The same; `rest` is called every so often, and with it done, for who maps a large index and
    /// will not have all of it in memory.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn open_resting(bytes: B, rest: impl Fn(&B)) -> Result<Index<B>, IndexError> {
        let (header, at) = Header::decode(bytes.as_ref(), || rest(&bytes))?;
        let index = Index { bytes, header, at };
        check(&index, || rest(&index.bytes))?;
        rest(&index.bytes);
        Ok(index)
    }

    /// What it reads.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// The number of inodes, at least one: 0 is the root directory.
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> u32 {
        self.header.inodes
    }

    /// Whether it is one layer's or merged.
    pub fn scope(&self) -> Scope {
        self.header.scope
    }

    /// How many layers it was made from; 1 for a layer's own.
    pub fn layers(&self) -> u32 {
        self.header.layers
    }

    /// Which layers it was made from, topmost first.
    pub fn diffs(&self) -> impl ExactSizeIterator<Item = DiffId> + '_ {
        (0..self.header.layers as usize).map(|nth| {
            let id: [u8; LAYER] = bytes_at(self.file(), self.at.layers + nth * LAYER);
            DiffId::from_sha256(&id)
        })
    }

    /// An inode's metadata; `None` for a number that it has not.
    pub fn inode(&self, at: u32) -> Option<Inode> {
        self.record(at).map(|record| record.inode)
    }

    /// What is in a directory, sorted by the bytes of the names; nothing for anything else.
    pub fn children(&self, dir: u32) -> Children<'_> {
        let (first, count) = self.range(dir);
        let index = self.slice();
        Children {
            index,
            next: first,
            end: first.saturating_add(count),
        }
    }

    /// The inode that a name leads to in a directory.
    pub fn child(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let index = self.slice();
        let (first, count) = self.range(dir);
        let (mut low, mut high) = (first, first.saturating_add(count));
        while low < high {
            let middle = low + (high - low) / 2;
            let found = index.name(middle);
            match index.text(&found).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(found.inode),
            }
        }
        None
    }

    /// Every name that an inode has, each with the directory that it is in, in the order of the
    /// directories' numbers and of the names. A directory has one; the root has none.
    pub fn names(&self, at: u32) -> impl Iterator<Item = (u32, &[u8])> {
        let index = self.slice();
        let first = self.record(at).map_or(NONE, |record| record.first_name);
        let mut next = Some(first).filter(|place| *place != NONE);
        std::iter::from_fn(move || {
            let place = next?;
            let name = index.name(place);
            // Upwards only, so that it ends even if the bytes change meanwhile.
            next = Some(name.next).filter(|next| *next != NONE && *next > place);
            Some((name.parent, index.text(&name)))
        })
    }

    /// Where a symlink leads: 1 to 4095 bytes. `None` for anything else.
    pub fn target(&self, at: u32) -> Option<&[u8]> {
        let record = self.record(at)?;
        (record.inode.kind == Kind::Symlink).then(|| self.slice().packed(record.data))
    }

    /// The extended attributes of an inode with their values, sorted by their names; private ones
    /// are not among them.
    pub fn xattrs(&self, at: u32) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let index = self.slice();
        let set = self.record(at).map_or(0, |record| record.set);
        let (first, end) = match set {
            0 => (0, 0),
            set => index.set(set - 1),
        };
        (first as usize..end as usize).map(move |nth| index.attr(nth))
    }

    /// The value of one extended attribute.
    pub fn xattr(&self, at: u32, name: &[u8]) -> Option<&[u8]> {
        let found = self.xattrs(at).find(|(found, _)| *found == name);
        found.map(|(_, value)| value)
    }

    /// Whether the bytes are still those of an index. What is mapped may be cut short or taken away:
    /// the kernel, and `sys::map`, leave zeros in its place, up to the end. To be asked after what
    /// was read, not before.
    pub fn is_whole(&self) -> bool {
        self.file().ends_with(MAGIC)
    }

    /// The file's bytes.
    pub fn file(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    pub(super) fn slice(&self) -> Slice<'_> {
        Slice {
            file: self.file(),
            header: self.header,
            at: self.at,
        }
    }

    pub(super) fn record(&self, at: u32) -> Option<Record> {
        self.slice().record(at)
    }

    fn range(&self, dir: u32) -> (u32, u32) {
        match self.record(dir) {
            Some(record) if record.inode.kind == Kind::Directory => record.range(),
            _ => (0, 0),
        }
    }
}

/// The same, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice<'a> {
    file: &'a [u8],
    header: Header,
    at: Sections,
}

impl<'a> Slice<'a> {
    pub(super) fn record(self, at: u32) -> Option<Record> {
        if at >= self.header.inodes {
            return None;
        }
        Record::decode(&bytes_at(self.file, self.at.inodes + at as usize * INODE))
    }

    /// The name at a place.
    pub(super) fn name(self, place: u32) -> Name {
        let at = self.at.names + place as usize * NAME;
        let begin = match place {
            0 => 0,
            _ => u32_at(self.file, at - NAME + 8),
        };
        let record: [u8; NAME] = bytes_at(self.file, at);
        Name {
            inode: u32_at(&record, 0),
            parent: u32_at(&record, 4),
            text: (begin, u32_at(&record, 8)),
            next: u32_at(&record, 12),
        }
    }

    pub(super) fn text(self, name: &Name) -> &'a [u8] {
        let (begin, end) = (name.text.0 as usize, name.text.1 as usize);
        let all = self.file.get(self.at.names_text..self.at.bytes);
        all.and_then(|all| all.get(begin..end)).unwrap_or_default()
    }

    /// Where a set of attributes begins and ends.
    pub(super) fn set(self, set: u32) -> (u32, u32) {
        let at = self.at.sets + set as usize * SET;
        let begin = match set {
            0 => 0,
            _ => u32_at(self.file, at - SET),
        };
        (begin, u32_at(self.file, at).max(begin))
    }

    pub(super) fn attr(self, nth: usize) -> (&'a [u8], &'a [u8]) {
        let at = self.at.attrs + nth * ATTR;
        let value = self.some_bytes(u64_at(self.file, at + 8), u32_at(self.file, at + 16).into());
        (
            self.packed(u64_at(self.file, at)),
            value.unwrap_or_default(),
        )
    }

    /// `offset << 16 | length` in the bytes.
    fn packed(self, at: u64) -> &'a [u8] {
        self.some_bytes(at >> 16, at & 0xffff).unwrap_or_default()
    }

    /// Some of the bytes, `None` where they are not all there.
    pub(super) fn some_bytes(self, offset: u64, length: u64) -> Option<&'a [u8]> {
        let begin = self.at.bytes.checked_add(usize::try_from(offset).ok()?)?;
        let end = begin.checked_add(usize::try_from(length).ok()?)?;
        self.file.get(begin..end)
    }
}

/// What is in a directory, sorted by the bytes of the names.
#[derive(Debug, Clone)]
pub struct Children<'a> {
    index: Slice<'a>,
    next: u32,
    end: u32,
}

impl<'a> Children<'a> {
    /// The nth of those that are left, 0 the next, with its inode; costs the same for each.
    pub fn get(&self, nth: u32) -> Option<(&'a [u8], u32)> {
        let place = self.next.checked_add(nth)?;
        if place >= self.end {
            return None;
        }
        let name = self.index.name(place);
        Some((self.index.text(&name), name.inode))
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a [u8], u32);

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.get(0)?;
        self.next += 1;
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end - self.next) as usize;
        (left, Some(left))
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let skip = u32::try_from(n).unwrap_or(u32::MAX);
        self.next = self.next.saturating_add(skip).min(self.end);
        self.next()
    }
}

impl ExactSizeIterator for Children<'_> {}
