//! Making an index: entries are added in the order of their numbers, and nearly nothing of them stays
//! in memory.
//!
//! Each part of the file grows in a scratch file of its own, that the caller provides, and is copied
//! into its place in the end. What is known only later is put in while that is done: how many names a
//! directory has, because directories end in the order of their numbers, and what further names an
//! inode has.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};

use super::check::is_name;
use super::record::{CHECKSUM_AT, Header, INODE, MAGIC, NAME, NONE, Record, u32_at};
use super::{IndexError, Inode, Kind, Scope};
use crate::model::{DiffId, xattr};

/// How much is read or written at once, in bytes.
const BUFFER: usize = 1 << 16;

/// Takes the entries of a tree: the directories in the order of their numbers, that is breadth first,
/// the names in each in the order of their bytes.
///
/// After an error it is of no use. In memory are the directories that are still to come (4 bytes each), the further names of inodes
/// (16 bytes each), and a digest of each set of extended attributes.
#[derive(Debug)]
pub struct Builder<S> {
    scope: Scope,
    diffs: Vec<DiffId>,
    inodes: Part<S>,
    /// The records of the names.
    names: Part<S>,
    text: Part<S>,
    sets: Part<S>,
    attrs: Part<S>,
    bytes: Part<S>,
    /// Of each directory that is complete: the names and the directories in it, two u32.
    contents: Part<S>,
    inode_count: u32,
    name_count: u32,
    attr_count: u32,
    /// The directory that is being filled.
    directory: u32,
    name_count_before: u32,
    subdirectories: u32,
    last_name: Vec<u8>,
    /// The directories that come after it.
    pending: VecDeque<u32>,
    /// Further names: the inode, and the name's place.
    links: Vec<(u32, u32)>,
    /// The numbers of the sets, by their SHA-256. Most inodes have none, and most that have some
    /// have the same.
    set_numbers: HashMap<[u8; 32], u32>,
}

impl<S: Read + Write + Seek> Builder<S> {
    /// An index of a tree of which the root is known; its number is 0. `diffs` are the layers it is
    /// made from, topmost first: one for a layer's own. `scratch` makes empty files to work with.
    ///
    /// # Errors
    /// Those of the scratch files.
    pub fn new<'x>(
        scope: Scope,
        diffs: Vec<DiffId>,
        root: &Inode,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
        mut scratch: impl FnMut() -> S,
    ) -> Result<Builder<S>, WriteError> {
        let mut part = || Part::new(scratch());
        let mut builder = Builder {
            scope,
            diffs,
            inodes: part(),
            names: part(),
            text: part(),
            sets: part(),
            attrs: part(),
            bytes: part(),
            contents: part(),
            inode_count: 0,
            name_count: 0,
            attr_count: 0,
            directory: 0,
            name_count_before: 0,
            subdirectories: 0,
            last_name: Vec::new(),
            pending: VecDeque::new(),
            links: Vec::new(),
            set_numbers: HashMap::new(),
        };
        builder.push(root, NONE, &[], xattrs)?;
        Ok(builder)
    }

    /// Adds an inode under its first name and gives its number. `target` is a symlink's, empty for
    /// anything else. `nlink` is counted, private attributes are left out.
    ///
    /// # Errors
    /// A name, target or directory that cannot be, or is not in the order; and those of the scratch
    /// files.
    pub fn add<'x>(
        &mut self,
        parent: u32,
        name: &[u8],
        inode: &Inode,
        target: &[u8],
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<u32, WriteError> {
        let number = self.inode_count;
        if number == NONE - 1 {
            return Err(IndexError::TooMany("inodes").into());
        }
        let place = self.name(parent, name, number)?;
        if inode.kind == Kind::Directory {
            self.pending.push_back(number);
            self.subdirectories += 1;
        }
        self.push(inode, place, target, xattrs)?;
        Ok(number)
    }

    /// Adds a further name of an inode, a hard link.
    ///
    /// # Errors
    /// As [`Builder::add`]; and an inode that is not there. That it is a directory is found in the
    /// end.
    pub fn link(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<(), WriteError> {
        if inode >= self.inode_count {
            return Err(IndexError::Broken("a name that leads nowhere").into());
        }
        let place = self.name(parent, name, inode)?;
        self.links.push((inode, place));
        Ok(())
    }

    /// Appends a name and gives its place.
    fn name(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<u32, WriteError> {
        if !is_name(name) {
            return Err(IndexError::Broken("a name that cannot be").into());
        }
        while self.directory != parent {
            if !self.next_directory()? {
                return Err(IndexError::Broken("a name that is in no directory").into());
            }
        }
        match self.last_name.as_slice().cmp(name) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                return Err(IndexError::Broken("a directory with a name twice").into());
            }
            std::cmp::Ordering::Greater => {
                return Err(IndexError::Broken("names that are not sorted").into());
            }
        }
        self.last_name.clear();
        self.last_name.extend_from_slice(name);
        let place = self.name_count;
        let end = u32::try_from(self.text.length + name.len() as u64);
        let (Ok(end), true) = (end, place < NONE - 1) else {
            return Err(IndexError::TooMany("names").into());
        };
        self.text.append(name)?;
        // The next name is put in when it is known.
        for number in [inode, parent, end, NONE] {
            self.names.append(&number.to_le_bytes())?;
        }
        self.name_count += 1;
        Ok(place)
    }

    /// Completes the directory and begins the next one; whether there is one.
    fn next_directory(&mut self) -> io::Result<bool> {
        let names = self.name_count - self.name_count_before;
        self.contents.append(&names.to_le_bytes())?;
        self.contents.append(&self.subdirectories.to_le_bytes())?;
        self.name_count_before = self.name_count;
        self.subdirectories = 0;
        self.last_name.clear();
        let next = self.pending.pop_front();
        self.directory = next.unwrap_or(NONE);
        Ok(next.is_some())
    }

    fn push<'x>(
        &mut self,
        inode: &Inode,
        first_name: u32,
        target: &[u8],
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<(), WriteError> {
        let data = match inode.kind {
            Kind::Symlink => self.packed(target)?,
            Kind::CharDevice | Kind::BlockDevice => inode.rdev.into(),
            _ => 0,
        };
        let mut set: Vec<(&[u8], &[u8])> = xattrs
            .into_iter()
            .filter(|(name, _)| !xattr::is_private(name))
            .collect();
        set.sort_unstable();
        let record = Record {
            inode: Inode { nlink: 1, ..*inode },
            set: self.set(&set)?,
            first_name,
            data,
        };
        self.inodes.append(&record.encode())?;
        self.inode_count += 1;
        Ok(())
    }

    /// Appends to the bytes, and gives where that is.
    fn packed(&mut self, some: &[u8]) -> Result<u64, WriteError> {
        let at = self.bytes.length << 16 | (some.len() as u64 & 0xffff);
        self.bytes.append(some)?;
        Ok(at)
    }

    /// The number and one of a set, sorted by the names; 0 of an empty one. Appends it if it is new.
    fn set(&mut self, set: &[(&[u8], &[u8])]) -> Result<u32, WriteError> {
        if set.is_empty() {
            return Ok(0);
        }
        let mut digest = Sha256::new();
        for part in set.iter().flat_map(|(name, value)| [name, value]) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize().into();
        if let Some(number) = self.set_numbers.get(&digest) {
            return Ok(*number);
        }
        for (name, value) in set {
            let packed = self.packed(name)?;
            let offset = self.bytes.length;
            let length = count(value.len() as u64, "extended attributes")?;
            for number in [packed, offset, length.into()] {
                self.attrs.append(&number.to_le_bytes())?;
            }
            self.bytes.append(value)?;
        }
        let end = u64::from(self.attr_count) + set.len() as u64;
        self.attr_count = count(end, "extended attributes")?;
        self.sets.append(&self.attr_count.to_le_bytes())?;
        let number = self.set_numbers.len() as u32 + 1;
        self.set_numbers.insert(digest, number);
        Ok(number)
    }

    /// Writes the finished file to `out`, from where that stands.
    ///
    /// # Errors
    /// A directory with a further name, more than the format has room for; and those of `out` and of
    /// the scratch files.
    pub fn write(mut self, mut out: impl Write + Seek) -> Result<(), WriteError> {
        while self.next_directory()? {}
        let header = Header {
            scope: self.scope,
            layers: count(self.diffs.len() as u64, "layers")?,
            inodes: self.inode_count,
            names: self.name_count,
            sets: self.set_numbers.len() as u32,
            attrs: self.attr_count,
            names_len: count(self.text.length, "names")?,
            bytes_len: self.bytes.length,
        };
        let sections = header.sections().ok_or(IndexError::TooMany("inodes"))?;
        let header = header.encode(sections.end as u64);
        let start = out.stream_position()?;
        out.write_all(&header)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&header[..CHECKSUM_AT]);
        let summed = Summed { out: &mut out, sum };
        let mut rest = BufWriter::with_capacity(BUFFER, summed);
        for diff in &self.diffs {
            rest.write_all(&diff.sha256())?;
        }
        self.links.sort_unstable();
        let (inodes, contents) = (self.inodes.reader()?, self.contents.reader()?);
        let mut chains = complete_inodes(inodes, contents, &self.links, &mut rest)?;
        drop(self.links);
        chains.sort_unstable();
        complete_names(self.names.reader()?, &chains, &mut rest)?;
        for part in [self.sets, self.attrs, self.text, self.bytes] {
            io::copy(&mut part.reader()?, &mut rest)?;
        }
        rest.write_all(MAGIC)?;
        let sum = rest.into_inner().map_err(io::Error::from)?.sum.finalize();
        let end = out.stream_position()?;
        out.seek(SeekFrom::Start(start + CHECKSUM_AT as u64))?;
        out.write_all(&sum.to_le_bytes())?;
        out.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}

/// Copies the inodes' records, and puts in what is in the directories and how many names there are.
/// `links` are the further names, by inode and place. Gives for each of them the place of the name
/// before it, and its own.
fn complete_inodes(
    mut inodes: Whole<impl Read>,
    mut contents: Whole<impl Read>,
    links: &[(u32, u32)],
    out: &mut impl Write,
) -> Result<Vec<(u32, u32)>, WriteError> {
    let mut chains = Vec::with_capacity(links.len());
    let mut of_inode = links.chunk_by(|a, b| a.0 == b.0).peekable();
    let mut first = 0u32;
    for number in 0.. {
        let Some(mut encoded) = inodes.record::<INODE>()? else {
            break;
        };
        let further = of_inode.next_if(|of_inode| of_inode[0].0 == number);
        let kind = Record::decode(&encoded).map(|record| record.inode.kind);
        let is_directory = kind == Some(Kind::Directory);
        if is_directory {
            let both = contents.record::<8>()?.unwrap_or_default();
            let (count, subdirectories) = (u32_at(&both, 0), u32_at(&both, 4));
            change(&mut encoded, |record| {
                record.data = u64::from(first) | u64::from(count) << 32;
                record.inode.nlink = subdirectories.saturating_add(2);
            });
            first = first.saturating_add(count);
        }
        if let Some(further) = further {
            if is_directory {
                return Err(IndexError::Broken("a directory with several names").into());
            }
            change(&mut encoded, |record| {
                record.inode.nlink += further.len() as u32;
                let mut before = record.first_name;
                for (_, place) in further {
                    chains.push((before, *place));
                    before = *place;
                }
            });
        }
        out.write_all(&encoded)?;
    }
    Ok(chains)
}

fn change(encoded: &mut [u8; INODE], change: impl FnOnce(&mut Record)) {
    if let Some(mut record) = Record::decode(encoded) {
        change(&mut record);
        *encoded = record.encode();
    }
}

/// Copies the names' records, and puts in the places of the names that come next of the same inode:
/// `chains` says which, sorted by the places of those before.
fn complete_names(
    mut names: Whole<impl Read>,
    chains: &[(u32, u32)],
    out: &mut impl Write,
) -> io::Result<()> {
    let mut chains = chains.iter().peekable();
    for place in 0.. {
        let Some(mut record) = names.record::<NAME>()? else {
            break;
        };
        if let Some((_, next)) = chains.next_if(|(before, _)| *before == place) {
            record[12..].copy_from_slice(&next.to_le_bytes());
        }
        out.write_all(&record)?;
    }
    Ok(())
}

fn count(count: u64, what: &'static str) -> Result<u32, IndexError> {
    u32::try_from(count).map_err(|_| IndexError::TooMany(what))
}

/// A part of the file that grows.
#[derive(Debug)]
struct Part<S> {
    scratch: S,
    /// What is not in the scratch file yet.
    tail: Vec<u8>,
    length: u64,
}

impl<S: Read + Write + Seek> Part<S> {
    fn new(scratch: S) -> Part<S> {
        Part {
            scratch,
            tail: Vec::new(),
            length: 0,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tail.len() + bytes.len() > BUFFER {
            self.scratch.write_all(&self.tail)?;
            self.tail.clear();
        }
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// All of it, from its beginning.
    fn reader(mut self) -> io::Result<Whole<impl Read>> {
        self.scratch.rewind()?;
        let scratch = BufReader::with_capacity(BUFFER, self.scratch);
        Ok(Whole {
            from: scratch.chain(io::Cursor::new(self.tail)),
            left: self.length,
        })
    }
}

/// Reads all that was put into a part, or fails.
struct Whole<R> {
    from: R,
    left: u64,
}

impl<R: Read> Whole<R> {
    /// The next record; `None` at the end.
    fn record<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut record = [0; N];
        self.read_exact(&mut record)?;
        Ok(Some(record))
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
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

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        match error {
            WriteError::Io(e) => e,
            WriteError::Index(e) => io::Error::other(e),
        }
    }
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
