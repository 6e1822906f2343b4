//! Reading tar streams: the one place that says what an entry of a tar is.
//!
//! It does no input or output of its own (it is given a reader), extracts nothing and trusts
//! nothing: image archives are listed with it, layers unpacked with it. It reads ustar, GNU (long
//! names, sparse files), star and PAX (`x` records: path, linkpath, size, uid, gid, mtime,
//! `SCHILY.xattr.*`, `LIBARCHIVE.xattr.*`, `GNU.sparse.*` 0.0, 0.1 and 1.0), as
//! [pax](https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html) and
//! [GNU tar](https://www.gnu.org/software/tar/manual/html_node/Standard.html) write them.
//!
//! Where implementations disagree it follows Go's `archive/tar`, for that is what Docker and Podman
//! see: global PAX headers have no effect, a PAX size overrides the header's, a GNU long name
//! overrides a PAX path, links, directories and devices have no data whatever their size says.
//!
//! Why not the reader of the `tar` crate: it takes long names and PAX records into memory whatever
//! their size, knows no PAX sparse files, and reads times before 1970 as unsigned. Here everything
//! kept in memory is bounded: [`MAX_EXTENSION`] and [`MAX_SEGMENTS`].

mod header;
mod pax;
mod sparse;

use std::fmt::Write as _;
use std::io::{self, Read};

pub use sparse::Segment;

/// The bytes of a block, in which everything in a tar is counted.
pub const BLOCK: u64 = 512;

/// The most bytes of long names and PAX records that one entry may have.
pub const MAX_EXTENSION: u64 = 1 << 20;

/// The most data segments that a sparse file may have.
pub const MAX_SEGMENTS: usize = 1 << 18;

/// A reader that can pass over bytes without delivering them.
pub trait Skip: Read {
    /// Passes over up to `count` bytes; returns how many there were, fewer only at the end.
    fn skip(&mut self, count: u64) -> io::Result<u64>;
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something that a tar may hold but a file system cannot, by its type flag.
    Other(u8),
}

/// A point in time: seconds since 1970 (before it: negative), and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// One entry, with everything its headers say. Names are as they stand in the tar: unchecked bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub path: Vec<u8>,
    /// The target of a hard or symbolic link, otherwise mostly empty.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with suid, sgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// The owner's number, unchecked.
    pub uid: i64,
    /// The group's number, unchecked.
    pub gid: i64,
    /// The time of the last change.
    pub mtime: Time,
    /// The bytes of the file once written out: for a sparse file, with its holes.
    pub size: u64,
    /// Where the stored data begin in the tar, in bytes.
    pub data_at: u64,
    /// The bytes that are stored.
    pub stored: u64,
    /// Where the stored bytes go, when the file is sparse.
    pub sparse: Option<Vec<Segment>>,
    /// Major and minor number of a device, unchecked.
    pub device: (i64, i64),
    /// Extended attributes, in the order of the records; names with their namespace.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a tar cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ends too early.
    #[error("unexpected end of the tar {place}")]
    Truncated {
        /// At or after which entry.
        place: String,
    },
    /// It is not a tar, or a broken one.
    #[error("{reason} {place}")]
    Malformed {
        /// What is wrong.
        reason: String,
        /// At or after which entry.
        place: String,
    },
    /// The reader failed.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// What is wrong with a header or a record, before anybody knows where.
pub(crate) type Reason = String;

/// A name as messages show it: on one line, without control characters, not without end.
pub fn shown(name: &[u8]) -> String {
    const MOST: usize = 200;
    let text = String::from_utf8_lossy(name);
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == MOST {
            out.push('…');
            break;
        }
        match c.is_control() {
            // Writing to a String cannot fail.
            true => write!(out, "{}", c.escape_default()).unwrap_or_default(),
            false => out.push(c),
        }
    }
    out
}

/// The entries of a tar, one after the other.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    /// Bytes taken from `inner`.
    at: u64,
    /// Stored bytes of the current entry not yet read.
    data_left: u64,
    /// The fill after them, up to a whole block.
    fill: u64,
    /// The name of the entry last returned, for messages.
    last: Vec<u8>,
}

impl<R: Skip> TarReader<R> {
    /// Reads a tar that begins where `inner` stands.
    pub fn new(inner: R) -> TarReader<R> {
        TarReader {
            inner,
            at: 0,
            data_left: 0,
            fill: 0,
            last: Vec::new(),
        }
    }

    /// The reader, standing after what was read; behind the end of the tar there may be more.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The reader, standing after what was read so far.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The next entry; what is left of the data of the one before is passed over. `None` at the
    /// end: two blocks of zeros, or no more bytes.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.pass_data()?;
        let mut extension = Extension::default();
        loop {
            let Some(block) = self.header_block(&extension)? else {
                return Ok(None);
            };
            let head = header::parse(&block).map_err(|reason| self.malformed(reason))?;
            match head.flag {
                b'x' => {
                    let records = self.extension(&head, &mut extension)?;
                    extension.pax =
                        pax::parse(&records).map_err(|reason| self.malformed(reason))?;
                }
                b'g' => {
                    self.extension(&head, &mut extension)?;
                }
                b'L' => {
                    extension.path =
                        Some(header::c_string(&self.extension(&head, &mut extension)?));
                }
                b'K' => {
                    extension.link =
                        Some(header::c_string(&self.extension(&head, &mut extension)?));
                }
                _ => return self.entry(head, extension, &block).map(Some),
            }
            extension.any = true;
        }
    }

    /// Data of the current entry as stored; 0 at their end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.data_left).map_or(buffer.len(), |l| l.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let n = read_some(&mut self.inner, &mut buffer[..most])?;
        if n == 0 {
            return Err(self.truncated());
        }
        self.at += n as u64;
        self.data_left -= n as u64;
        Ok(n)
    }

    fn place(&self) -> String {
        match self.last.as_slice() {
            [] => "at its beginning".to_owned(),
            name => format!("in or after {}", shown(name)),
        }
    }

    fn truncated(&self) -> TarError {
        TarError::Truncated {
            place: self.place(),
        }
    }

    fn malformed(&self, reason: Reason) -> TarError {
        TarError::Malformed {
            reason,
            place: self.place(),
        }
    }

    fn pass_data(&mut self) -> Result<(), TarError> {
        let passed = self.inner.skip(self.data_left)?;
        self.at += passed;
        if passed < self.data_left {
            return Err(self.truncated());
        }
        self.data_left = 0;
        // Some writers leave out the last fill: whether anything is missing shows at the next block.
        self.at += self.inner.skip(self.fill)?;
        self.fill = 0;
        Ok(())
    }

    /// A block; `None` where the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>, TarError> {
        let mut block = [0; BLOCK as usize];
        let mut have = 0;
        while have < block.len() {
            match read_some(&mut self.inner, &mut block[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(self.truncated()),
                n => have += n,
            }
        }
        self.at += BLOCK;
        Ok(Some(block))
    }

    /// The next header; `None` at the end of the tar.
    fn header_block(
        &mut self,
        extension: &Extension,
    ) -> Result<Option<[u8; BLOCK as usize]>, TarError> {
        let zero = |block: &[u8]| block.iter().all(|b| *b == 0);
        let first = self.block()?;
        match first {
            Some(block) if !zero(&block) => return Ok(Some(block)),
            // A long name or PAX record that belongs to nothing.
            _ if extension.any => return Err(self.truncated()),
            None => return Ok(None),
            Some(_) => {}
        }
        match self.block()? {
            Some(block) if !zero(&block) => Err(self.malformed("a lone block of zeros".to_owned())),
            _ => Ok(None),
        }
    }

    /// The contents of a long name or PAX header.
    fn extension(
        &mut self,
        head: &header::Header,
        extension: &mut Extension,
    ) -> Result<Vec<u8>, TarError> {
        extension.bytes = extension.bytes.saturating_add(head.size);
        if extension.bytes > MAX_EXTENSION {
            return Err(self.malformed(format!(
                "more than {MAX_EXTENSION} bytes of long names and PAX records"
            )));
        }
        self.begin_data(head.size);
        let mut contents = vec![0; usize::try_from(head.size).unwrap_or(0)];
        let mut have = 0;
        while have < contents.len() {
            have += self.read_data(&mut contents[have..])?;
        }
        self.pass_data()?;
        Ok(contents)
    }

    fn begin_data(&mut self, stored: u64) {
        self.data_left = stored;
        self.fill = stored.next_multiple_of(BLOCK) - stored;
    }

    fn entry(
        &mut self,
        head: header::Header,
        extension: Extension,
        block: &[u8; BLOCK as usize],
    ) -> Result<Entry, TarError> {
        let Extension {
            pax, path, link, ..
        } = extension;
        let path = path.or(pax.path).unwrap_or(head.path);
        self.last.clone_from(&path);
        let kind = match head.flag {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let size = pax.size.unwrap_or(head.size);
        if size > i64::MAX as u64 - 2 * BLOCK {
            return Err(self.malformed("an impossible size".to_owned()));
        }
        let stored = match kind {
            Kind::File | Kind::Other(_) => size,
            _ => 0,
        };
        self.begin_data(stored);
        let mut entry = Entry {
            path,
            link: link.or(pax.link).unwrap_or(head.link),
            kind,
            mode: head.mode,
            uid: pax.uid.unwrap_or(head.uid),
            gid: pax.gid.unwrap_or(head.gid),
            mtime: pax.mtime.unwrap_or(head.mtime),
            size: stored,
            data_at: self.at,
            stored,
            sparse: None,
            device: head.device,
            xattrs: pax.xattrs,
        };
        if kind == Kind::File {
            self.sparse(&mut entry, head.flag, pax.sparse, block)?;
        }
        Ok(entry)
    }

    /// Finds the map of a sparse file, which may stand in front of its data.
    fn sparse(
        &mut self,
        entry: &mut Entry,
        flag: u8,
        records: sparse::Records,
        block: &[u8; BLOCK as usize],
    ) -> Result<(), TarError> {
        let (map, size) = if flag == b'S' {
            // The map goes on in blocks between the header and the data; they are not counted in the size.
            let (mut map, mut more, size) =
                sparse::gnu_header(block).map_err(|reason| self.malformed(reason))?;
            while more {
                let next = self.block()?.ok_or_else(|| self.truncated())?;
                more =
                    sparse::gnu_block(&next, &mut map).map_err(|reason| self.malformed(reason))?;
            }
            (map, size)
        } else if let Some(size) = records.size_if_sparse() {
            if let Some(name) = records.name.clone() {
                self.last.clone_from(&name);
                entry.path = name;
            }
            let map = match records.map() {
                Some(map) => map.map_err(|reason| self.malformed(reason))?,
                None => {
                    let mut reader = sparse::MapInData::default();
                    while !reader.done() {
                        let mut part = [0; BLOCK as usize];
                        let mut have = 0;
                        while have < part.len() {
                            match self.read_data(&mut part[have..])? {
                                0 => {
                                    return Err(
                                        self.malformed("a sparse map without end".to_owned())
                                    );
                                }
                                n => have += n,
                            }
                        }
                        reader
                            .block(&part)
                            .map_err(|reason| self.malformed(reason))?;
                    }
                    reader.map
                }
            };
            (map, size)
        } else {
            return Ok(());
        };
        entry.data_at = self.at;
        entry.stored = self.data_left;
        entry.size = size;
        sparse::check(&map, size, self.data_left).map_err(|reason| self.malformed(reason))?;
        entry.sparse = Some(map);
        Ok(())
    }
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Extension {
    any: bool,
    bytes: u64,
    pax: pax::Pax,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// One read, again where a signal came between.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
