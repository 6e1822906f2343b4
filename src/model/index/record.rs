//! The fixed-size parts of the format: where they lie, and an inode to and from its record.
//!
//! ```text
//!  0 kind u8, flags u8 (1 opaque), mode u16   4 uid, gid u32       12 layer u16, 0 u16
//! 16 size u64     24 blocks u64     32 atime, mtime, ctime: seconds 3 × i64
//! 56 their nanoseconds 3 × u32      68 nlink u32     72 extended attributes: 0 or set + 1, u32
//! 76 the place of its first name u32 (the root: !0)
//! 80 u64: of a directory first | count << 32, of a symlink offset << 16 | length, of a device rdev
//! ```

use super::{IndexError, Inode, Kind, Scope, Time, VERSION};

pub(super) const MAGIC: &[u8; 8] = b"lctlidx\n";
pub(super) const HEADER: usize = 64;
pub(super) const CHECKSUM_AT: usize = 60;
pub(super) const LAYER: usize = 32;
pub(super) const INODE: usize = 88;
pub(super) const NAME: usize = 16;
pub(super) const SET: usize = 4;
pub(super) const ATTR: usize = 24;
/// No name, or no further one.
pub(super) const NONE: u32 = u32::MAX;

/// The bytes from `at` on; zeros beyond the end, so that no reader can panic.
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().unwrap_or([0; N])
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes_at(bytes, at))
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) scope: Scope,
    pub(super) layers: u32,
    pub(super) inodes: u32,
    pub(super) names: u32,
    pub(super) sets: u32,
    pub(super) attrs: u32,
    pub(super) names_len: u32,
    pub(super) bytes_len: u64,
}

/// Where the sections begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sections {
    pub(super) layers: usize,
    pub(super) inodes: usize,
    pub(super) names: usize,
    pub(super) sets: usize,
    pub(super) attrs: usize,
    pub(super) names_text: usize,
    pub(super) bytes: usize,
    pub(super) end: usize,
}

impl Header {
    /// Where the sections lie; `None` where the end is beyond what can be addressed.
    pub(super) fn sections(&self) -> Option<Sections> {
        let after = |at: usize, count: u32, size: usize| {
            usize::try_from(count)
                .ok()?
                .checked_mul(size)?
                .checked_add(at)
        };
        let inodes = after(HEADER, self.layers, LAYER)?;
        let names = after(inodes, self.inodes, INODE)?;
        let sets = after(names, self.names, NAME)?;
        let attrs = after(sets, self.sets, SET)?;
        let names_text = after(attrs, self.attrs, ATTR)?;
        let bytes = after(names_text, self.names_len, 1)?;
        let magic = bytes.checked_add(usize::try_from(self.bytes_len).ok()?)?;
        let end = magic.checked_add(MAGIC.len())?;
        Some(Sections {
            layers: HEADER,
            inodes,
            names,
            sets,
            attrs,
            names_text,
            bytes,
            end,
        })
    }

    /// The header's bytes, without a checksum.
    pub(super) fn encode(&self, length: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let scope: u32 = match self.scope {
            Scope::Layer => 0,
            Scope::Merged => 1,
        };
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&scope.to_le_bytes());
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let counts = [
            self.layers,
            self.inodes,
            self.names,
            self.sets,
            self.attrs,
            self.names_len,
        ];
        for (at, count) in (24..).step_by(4).zip(counts) {
            bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        }
        bytes[48..56].copy_from_slice(&self.bytes_len.to_le_bytes());
        bytes
    }

    /// Reads the header of a whole file, and checks the length and the checksum; `rest` is called
    /// every so often meanwhile.
    pub(super) fn decode(file: &[u8], rest: impl Fn()) -> Result<(Header, Sections), IndexError> {
        let found = file.len() as u64;
        if !file.starts_with(MAGIC) {
            return Err(IndexError::NotAnIndex);
        }
        if file.len() < HEADER {
            let wanted = HEADER as u64;
            return Err(IndexError::Length { found, wanted });
        }
        let version = u32_at(file, 8);
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        let wanted = u64_at(file, 16);
        if found != wanted {
            return Err(IndexError::Length { found, wanted });
        }
        if checksum(file, rest) != u32_at(file, CHECKSUM_AT) {
            return Err(IndexError::Checksum);
        }
        let header = Header {
            scope: match u32_at(file, 12) {
                0 => Scope::Layer,
                1 => Scope::Merged,
                _ => return Err(IndexError::Broken("what it describes is unknown")),
            },
            layers: u32_at(file, 24),
            inodes: u32_at(file, 28),
            names: u32_at(file, 32),
            sets: u32_at(file, 36),
            attrs: u32_at(file, 40),
            names_len: u32_at(file, 44),
            bytes_len: u64_at(file, 48),
        };
        match header.sections() {
            Some(at) if at.end == file.len() && file.ends_with(MAGIC) => Ok((header, at)),
            _ => Err(IndexError::Broken("its parts are not as long as it is")),
        }
    }
}

/// How much is summed up until it is time to rest, in bytes.
const REST: usize = 1 << 20;

/// The checksum of a file, which leaves out the four bytes in which it stands. `rest` is called every
/// so often.
pub(super) fn checksum(file: &[u8], rest: impl Fn()) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..CHECKSUM_AT]);
    for part in file[CHECKSUM_AT + 4..].chunks(REST) {
        hasher.update(part);
        rest();
    }
    hasher.finalize()
}

/// An inode's record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) inode: Inode,
    /// 0, or the number of its set of extended attributes and one.
    pub(super) set: u32,
    /// The place of its first name, [`NONE`] for the root.
    pub(super) first_name: u32,
    /// What it means depends on the kind.
    pub(super) data: u64,
}

impl Record {
    /// The range of a directory's names.
    pub(super) fn range(&self) -> (u32, u32) {
        let first = self.data as u32;
        (first, (self.data >> 32) as u32)
    }

    pub(super) fn encode(&self) -> [u8; INODE] {
        let mut out = [0; INODE];
        let i = &self.inode;
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[code(i.kind), u8::from(i.opaque)]);
        put(2, &(i.mode as u16).to_le_bytes());
        put(4, &i.uid.to_le_bytes());
        put(8, &i.gid.to_le_bytes());
        put(12, &(i.layer as u16).to_le_bytes());
        put(16, &i.size.to_le_bytes());
        put(24, &i.blocks.to_le_bytes());
        for (nth, time) in [i.atime, i.mtime, i.ctime].into_iter().enumerate() {
            put(32 + 8 * nth, &time.secs.to_le_bytes());
            put(56 + 4 * nth, &time.nanos.to_le_bytes());
        }
        put(68, &i.nlink.to_le_bytes());
        put(72, &self.set.to_le_bytes());
        put(76, &self.first_name.to_le_bytes());
        put(80, &self.data.to_le_bytes());
        out
    }

    /// `None` for a kind that there is not.
    pub(super) fn decode(bytes: &[u8; INODE]) -> Option<Record> {
        let kind = kind(bytes[0])?;
        let data = u64_at(bytes, 80);
        let time = |nth: usize| Time {
            secs: i64_at(bytes, 32 + 8 * nth),
            nanos: u32_at(bytes, 56 + 4 * nth),
        };
        Some(Record {
            inode: Inode {
                kind,
                opaque: bytes[1] & 1 != 0,
                mode: u32::from(u16_at(bytes, 2)) & 0o7777,
                uid: u32_at(bytes, 4),
                gid: u32_at(bytes, 8),
                size: u64_at(bytes, 16),
                blocks: u64_at(bytes, 24),
                atime: time(0),
                mtime: time(1),
                ctime: time(2),
                nlink: u32_at(bytes, 68),
                rdev: match kind {
                    Kind::CharDevice | Kind::BlockDevice => data as u32,
                    _ => 0,
                },
                layer: u16_at(bytes, 12).into(),
            },
            set: u32_at(bytes, 72),
            first_name: u32_at(bytes, 76),
            data,
        })
    }
}

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice => 5,
        Kind::BlockDevice => 6,
        Kind::Whiteout => 7,
    }
}

fn kind(code: u8) -> Option<Kind> {
    Some(match code {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink,
        3 => Kind::Fifo,
        4 => Kind::Socket,
        5 => Kind::CharDevice,
        6 => Kind::BlockDevice,
        7 => Kind::Whiteout,
        _ => return None,
    })
}
