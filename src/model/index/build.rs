//! Making an index: entries are added as they are found, in any order, and get their numbers at the
//! end.

use std::collections::HashMap;
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};

use super::check::is_name;
use super::record::{CHECKSUM_AT, Header, INODE, MAGIC, NONE, Record};
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

/// Collects the entries of a tree.
#[derive(Debug)]
pub struct Builder {
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
            scope,
            diffs,
            records: Vec::new(),
            links: Vec::new(),
            text: Vec::new(),
            targets: Vec::new(),
            sets: HashMap::new(),
        };
        builder.push(root, 0, xattrs);
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
        self.push(inode, data, xattrs);
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
        data: u64,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) {
        let mut set: Set = xattrs
            .into_iter()
            .filter(|(name, _)| !xattr::is_private(name))
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
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

    /// The finished file, in memory.
    ///
    /// # Errors
    /// A directory with two entries of one name, or more than the format has room for.
    pub fn finish(self) -> Result<Vec<u8>, IndexError> {
        let mut file = Cursor::new(Vec::new());
        match self.write(&mut file) {
            Ok(()) => Ok(file.into_inner()),
            Err(WriteError::Index(e)) => Err(e),
            // There is nothing that memory could refuse.
            Err(WriteError::Io(_)) => Err(IndexError::TooMany("bytes")),
        }
    }

    /// Writes the finished file to `out`, from where that stands.
    ///
    /// # Errors
    /// Those of [`Builder::finish`], and of `out`.
    pub fn write(mut self, mut out: impl Write + Seek) -> Result<(), WriteError> {
        let mut links = std::mem::take(&mut self.links);
        links.sort_unstable_by(|a, b| {
            (a.parent.cmp(&b.parent)).then_with(|| self.text(a).cmp(self.text(b)))
        });
        let same = |pair: &[Link]| {
            pair[0].parent == pair[1].parent && self.text(&pair[0]) == self.text(&pair[1])
        };
        if links.windows(2).any(same) {
            return Err(IndexError::Broken("a directory with a name twice").into());
        }
        let plan = self.number(&links);
        if plan.order.len() != self.records.len() {
            return Err(IndexError::Broken("a directory that is in none").into());
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
        let start = out.stream_position()?;
        out.write_all(&header)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&header[..CHECKSUM_AT]);
        let summed = Summed { out: &mut out, sum };
        let mut rest = BufWriter::with_capacity(1 << 16, summed);
        for diff in &self.diffs {
            rest.write_all(&diff.sha256())?;
        }
        for handle in &plan.order {
            rest.write_all(&self.records[*handle as usize])?;
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
                rest.write_all(&number.to_le_bytes())?;
            }
        }
        rest.write_all(&variable.sets)?;
        rest.write_all(&variable.attrs)?;
        for link in plan.names(&links) {
            rest.write_all(self.text(link))?;
        }
        rest.write_all(&variable.bytes)?;
        rest.write_all(MAGIC)?;
        let sum = rest.into_inner().map_err(io::Error::from)?.sum.finalize();
        let end = out.stream_position()?;
        out.seek(SeekFrom::Start(start + CHECKSUM_AT as u64))?;
        out.write_all(&sum.to_le_bytes())?;
        out.seek(SeekFrom::Start(end))?;
        Ok(())
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

/// Why an index could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It cannot be one.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What it was to be written to refused it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sums up what it writes.
struct Summed<W> {
    out: W,
    sum: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
