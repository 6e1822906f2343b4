//! Another way to make an index, to compare with: entries are added in any order, all are in memory,
//! and they get their numbers in the end.

use std::collections::HashMap;
use std::io::Cursor;

use super::build::{self, WriteError};
use super::check::is_name;
use super::record::{CHECKSUM_AT, Header, INODE, MAGIC, NONE, Record, checksum};
use super::{IndexError, Inode, Kind, Scope};
use crate::model::{DiffId, xattr};

/// A directory's name for an inode.
#[derive(Debug, Clone, Copy)]
struct Link {
    parent: u32,
    inode: u32,
    text: u32,
    length: u32,
}

/// Attributes that belong together, sorted by their names.
type Set = Vec<(Vec<u8>, Vec<u8>)>;

/// What was given of an inode.
#[derive(Debug, Clone)]
struct Given {
    inode: Inode,
    target: Vec<u8>,
    xattrs: Set,
}

impl Given {
    fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let xattrs = self.xattrs.iter();
        xattrs.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
}

/// Collects the entries of a tree.
#[derive(Debug)]
pub struct Builder {
    given: Vec<Given>,
    scope: Scope,
    diffs: Vec<DiffId>,
    /// By handle, encoded because that is smaller. `data` is a symlink's place in `targets`.
    records: Vec<[u8; INODE]>,
    links: Vec<Link>,
    text: Vec<u8>,
    targets: Vec<u8>,
    /// Most inodes have none, and most that have some have the same.
    sets: HashMap<Set, u32>,
}

impl Builder {
    /// An index of a tree of which the root is known; its handle is 0. `diffs` are the layers it is
    /// made from, topmost first: one for a layer's own.
    pub fn new<'x>(
        scope: Scope,
        diffs: Vec<DiffId>,
        root: &Inode,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Builder {
        let mut builder = Builder {
            given: Vec::new(),
            scope,
            diffs,
            records: Vec::new(),
            links: Vec::new(),
            text: Vec::new(),
            targets: Vec::new(),
            sets: HashMap::new(),
        };
        builder.push(root, &[], 0, xattrs);
        builder
    }

    /// Adds an inode under its first name and gives its handle. `target` is a symlink's, empty for
    /// anything else. `nlink` is counted in the end, private attributes are left out.
    ///
    /// # Errors
    /// A name, target, directory or layer that cannot be.
    pub fn add<'x>(
        &mut self,
        parent: u32,
        name: &[u8],
        inode: &Inode,
        target: &[u8],
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<u32, IndexError> {
        let handle = u32::try_from(self.records.len()).unwrap_or(NONE);
        if handle == NONE {
            return Err(IndexError::TooMany("inodes"));
        }
        self.name(parent, name, handle)?;
        let data = match inode.kind {
            Kind::Symlink => {
                let at = (self.targets.len() as u64) << 16 | (target.len() as u64 & 0xffff);
                self.targets.extend_from_slice(target);
                at
            }
            Kind::CharDevice | Kind::BlockDevice => inode.rdev.into(),
            _ => 0,
        };
        self.push(inode, target, data, xattrs);
        Ok(handle)
    }

    /// Adds a further name of an inode, a hard link.
    ///
    /// # Errors
    /// As [`Builder::add`]; and an inode that is a directory, or is not there.
    pub fn link(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<(), IndexError> {
        match self.record(inode) {
            Some(record) if record.inode.kind != Kind::Directory => self.name(parent, name, inode),
            _ => Err(IndexError::Broken("a directory with several names")),
        }
    }

    fn record(&self, handle: u32) -> Option<Record> {
        self.records.get(handle as usize).and_then(Record::decode)
    }

    fn is_directory(&self, handle: u32) -> bool {
        let record = self.record(handle);
        record.is_some_and(|record| record.inode.kind == Kind::Directory)
    }

    fn change(&mut self, handle: u32, change: impl FnOnce(&mut Record)) {
        if let Some(encoded) = self.records.get_mut(handle as usize)
            && let Some(mut record) = Record::decode(encoded)
        {
            change(&mut record);
            *encoded = record.encode();
        }
    }

    fn name(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<(), IndexError> {
        if !self.is_directory(parent) {
            return Err(IndexError::Broken("a name that is in no directory"));
        }
        if !is_name(name) {
            return Err(IndexError::Broken("a name that cannot be"));
        }
        let (Ok(text), true) = (
            u32::try_from(self.text.len()),
            self.text.len() + name.len() <= u32::MAX as usize && self.links.len() < NONE as usize,
        ) else {
            return Err(IndexError::TooMany("names"));
        };
        self.text.extend_from_slice(name);
        self.links.push(Link {
            parent,
            inode,
            text,
            length: name.len() as u32,
        });
        Ok(())
    }

    fn push<'x>(
        &mut self,
        inode: &Inode,
        target: &[u8],
        data: u64,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) {
        let given: Set = xattrs
            .into_iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        let mut set = given.clone();
        set.retain(|(name, _)| !xattr::is_private(name));
        self.given.push(Given {
            inode: *inode,
            target: target.to_vec(),
            xattrs: given,
        });
        set.sort();
        let set = match set.is_empty() {
            true => 0,
            false => {
                let next = self.sets.len() as u32 + 1;
                *self.sets.entry(set).or_insert(next)
            }
        };
        let record = Record {
            inode: *inode,
            set,
            first_name: NONE,
            data,
        };
        self.records.push(record.encode());
    }

    fn text(&self, link: &Link) -> &[u8] {
        &self.text[link.text as usize..][..link.length as usize]
    }

    /// The finished file, which is what [`build::Builder`] makes of the same entries in their order.
    ///
    /// # Errors
    /// A directory with two entries of one name, or more than the format has room for.
    pub fn finish(mut self) -> Result<Vec<u8>, IndexError> {
        let mut links = std::mem::take(&mut self.links);
        links.sort_unstable_by(|a, b| {
            (a.parent.cmp(&b.parent)).then_with(|| self.text(a).cmp(self.text(b)))
        });
        let same = |pair: &[Link]| {
            pair[0].parent == pair[1].parent && self.text(&pair[0]) == self.text(&pair[1])
        };
        if links.windows(2).any(same) {
            return Err(IndexError::Broken("a directory with a name twice"));
        }
        let plan = self.number(&links);
        if plan.order.len() != self.records.len() {
            return Err(IndexError::Broken("a directory that is in none"));
        }
        let variable = self.variable(&plan)?;
        let header = Header {
            scope: self.scope,
            layers: count(self.diffs.len(), "layers")?,
            inodes: count(plan.order.len(), "inodes")?,
            names: count(links.len(), "names")?,
            sets: variable.set_count,
            attrs: variable.attr_count,
            names_len: count(self.text.len(), "names")?,
            bytes_len: variable.bytes.len() as u64,
        };
        let sections = header.sections().ok_or(IndexError::TooMany("inodes"))?;
        let header = header.encode(sections.end as u64);
        let mut out = header.to_vec();
        for diff in &self.diffs {
            out.extend_from_slice(&diff.sha256());
        }
        for handle in &plan.order {
            out.extend_from_slice(&self.records[*handle as usize]);
        }
        let mut end = 0;
        for (place, link) in plan.names(&links).enumerate() {
            end += link.length;
            let next = plan.next.get(&(place as u32)).copied().unwrap_or(NONE);
            for number in [
                plan.number_of[link.inode as usize],
                plan.number_of[link.parent as usize],
                end,
                next,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.extend_from_slice(&variable.sets);
        out.extend_from_slice(&variable.attrs);
        for link in plan.names(&links) {
            out.extend_from_slice(self.text(link));
        }
        out.extend_from_slice(&variable.bytes);
        out.extend_from_slice(MAGIC);
        let sum = checksum(&out, || {});
        out[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        let streamed = self.streamed(&plan, &links).unwrap();
        assert!(streamed == out, "the builders differ");
        Ok(out)
    }

    /// The same by the other builder, which is given all in order.
    fn streamed(&self, plan: &Plan, links: &[Link]) -> Result<Vec<u8>, WriteError> {
        let root = &self.given[0];
        let (diffs, empty) = (self.diffs.clone(), || Cursor::new(Vec::new()));
        let mut builder =
            build::Builder::new(self.scope, diffs, &root.inode, root.xattrs(), empty)?;
        let mut next = 1;
        for link in plan.names(links) {
            let parent = plan.number_of[link.parent as usize];
            let number = plan.number_of[link.inode as usize];
            let name = self.text(link);
            if number == next {
                let given = &self.given[link.inode as usize];
                let added =
                    builder.add(parent, name, &given.inode, &given.target, given.xattrs())?;
                assert_eq!(added, number);
                next += 1;
            } else {
                builder.link(parent, name, number)?;
            }
        }
        let mut out = Cursor::new(b"before".to_vec());
        out.set_position(6);
        builder.write(&mut out)?;
        Ok(out.into_inner().split_off(6))
    }

    /// Lays out the parts of variable length, and says in the records where they are.
    fn variable(&mut self, plan: &Plan) -> Result<Variable, IndexError> {
        let sets = std::mem::take(&mut self.sets);
        let mut by_number: Vec<&Set> = vec![&EMPTY; sets.len()];
        for (set, number) in &sets {
            by_number[*number as usize - 1] = set;
        }
        let mut out = Variable::default();
        let mut set_numbers = vec![0; sets.len() + 1];
        let targets = std::mem::take(&mut self.targets);
        for handle in &plan.order {
            let Some(mut record) = self.record(*handle) else {
                continue;
            };
            let is_symlink = record.inode.kind == Kind::Symlink;
            if is_symlink {
                let (at, length) = ((record.data >> 16) as usize, record.data & 0xffff);
                let target = &targets[at..][..length as usize];
                record.data = out.packed(target);
            }
            if record.set != 0 {
                let number = &mut set_numbers[record.set as usize];
                if *number == 0 {
                    *number = out.set(by_number[record.set as usize - 1])?;
                }
                record.set = *number;
            }
            if is_symlink || record.set != 0 {
                self.records[*handle as usize] = record.encode();
            }
        }
        Ok(out)
    }

    /// Gives the numbers, breadth first, and completes the records but for what is elsewhere.
    fn number(&mut self, links: &[Link]) -> Plan {
        let inodes = self.records.len();
        let mut begins = vec![0u32; inodes + 1];
        for link in links {
            begins[link.parent as usize + 1] += 1;
        }
        for at in 0..inodes {
            begins[at + 1] += begins[at];
        }
        let mut plan = Plan {
            order: Vec::with_capacity(inodes),
            number_of: vec![NONE; inodes],
            begins,
            next: HashMap::new(),
        };
        plan.order.push(0);
        plan.number_of[0] = 0;
        // The last name so far, of inodes that have several.
        let mut last: HashMap<u32, u32> = HashMap::new();
        let (mut place, mut at) = (0, 0);
        while let Some(&dir) = plan.order.get(at) {
            at += 1;
            if !self.is_directory(dir) {
                continue;
            }
            let first = place;
            let mut subdirectories = 0;
            for link in plan.of(dir, links) {
                if plan.number_of[link.inode as usize] == NONE {
                    plan.number_of[link.inode as usize] = plan.order.len() as u32;
                    plan.order.push(link.inode);
                    self.change(link.inode, |record| {
                        record.first_name = place;
                        record.inode.nlink = 1;
                    });
                    subdirectories += u32::from(self.is_directory(link.inode));
                } else {
                    let last = &mut last;
                    let next = &mut plan.next;
                    self.change(link.inode, |record| {
                        record.inode.nlink += 1;
                        let before = last.insert(link.inode, place);
                        next.insert(before.unwrap_or(record.first_name), place);
                    });
                }
                place += 1;
            }
            self.change(dir, |record| {
                record.data = u64::from(first) | u64::from(place - first) << 32;
                record.inode.nlink = subdirectories.saturating_add(2);
            });
        }
        plan
    }
}

static EMPTY: Set = Vec::new();

fn count(count: usize, what: &'static str) -> Result<u32, IndexError> {
    u32::try_from(count).map_err(|_| IndexError::TooMany(what))
}

/// Which number each handle gets.
struct Plan {
    /// The handles in the order of their numbers.
    order: Vec<u32>,
    /// The number of each handle, [`NONE`] where it has none yet.
    number_of: Vec<u32>,
    /// Where the sorted links of each handle begin, and the end of the last one's.
    begins: Vec<u32>,
    /// The place of the next name of the inode, by that of the one before.
    next: HashMap<u32, u32>,
}

impl Plan {
    fn of<'l>(&self, dir: u32, links: &'l [Link]) -> &'l [Link] {
        let (begin, end) = (self.begins[dir as usize], self.begins[dir as usize + 1]);
        &links[begin as usize..end as usize]
    }

    /// All names in the order of their places.
    fn names<'l>(&self, links: &'l [Link]) -> impl Iterator<Item = &'l Link> {
        self.order.iter().flat_map(|dir| self.of(*dir, links))
    }
}

/// The parts of variable length.
#[derive(Default)]
struct Variable {
    sets: Vec<u8>,
    set_count: u32,
    attrs: Vec<u8>,
    attr_count: u32,
    bytes: Vec<u8>,
}

impl Variable {
    fn packed(&mut self, some: &[u8]) -> u64 {
        let at = (self.bytes.len() as u64) << 16 | (some.len() as u64 & 0xffff);
        self.bytes.extend_from_slice(some);
        at
    }

    /// Writes a set and gives its number and one.
    fn set(&mut self, set: &Set) -> Result<u32, IndexError> {
        for (name, value) in set {
            let packed = self.packed(name);
            self.attrs.extend_from_slice(&packed.to_le_bytes());
            let offset = self.bytes.len() as u64;
            self.attrs.extend_from_slice(&offset.to_le_bytes());
            let length = count(value.len(), "extended attributes")?;
            self.attrs
                .extend_from_slice(&u64::from(length).to_le_bytes());
            self.bytes.extend_from_slice(value);
        }
        let attrs = count(set.len(), "extended attributes")?;
        let end = self.attr_count.checked_add(attrs);
        self.attr_count = end.ok_or(IndexError::TooMany("extended attributes"))?;
        self.sets.extend_from_slice(&self.attr_count.to_le_bytes());
        self.set_count += 1;
        Ok(self.set_count)
    }
}
