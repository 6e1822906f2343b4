//! The index of a tree: all of its metadata in one file that is mapped and read in place.
//!
//! A layer has one of its own, in which whiteouts and opaque directories stand as they lie on disk;
//! an image has one that [`merge`] makes of its layers', in which nothing of that is left. Pure: this
//! module knows bytes, not files.
//!
//! Inodes are numbered breadth first, the names of a directory in the order of their bytes; 0 is the
//! root. So the same tree always gives the same numbers, however it was walked and how often the
//! file was made anew. Names that are hard links of each other share one inode.
//!
//! # The format, version 1
//!
//! Numbers are little-endian and unaligned, `L` layers, `I` inodes, `E` names, `S` sets of extended
//! attributes, `X` attributes in them:
//!
//! ```text
//!   0  magic "lctlidx\n"             8
//!   8  version                       u32
//!  12  what: 0 a layer's, 1 merged   u32
//!  16  length of the file            u64
//!  24  L, I, E, S, X                 5 × u32
//!  44  length of the names           u32
//!  48  length of the bytes           u64
//!  56  reserved, 0                   u32
//!  60  CRC-32 of all but these four bytes
//!  64  layers   L × 32   their diff IDs, topmost first
//!      inodes   I × 88   see `record`
//!      names    E × 16   inode, parent, end of the name in "the names", next name of the inode or !0
//!      sets     S × 4    where each set of attributes ends, counted in attributes
//!      attrs    X × 24   name (offset << 16 | length), value's offset u64, its length u32, 0 u32
//!      the names, one after the other
//!      the bytes: targets of symlinks, names and values of attributes
//!      the magic once more: whatever is cut off under a mapping, this is zeros then
//! ```
//!
//! A directory's record says which names are in it: `first` and `count`; the directories follow each
//! other there in the order of their numbers. Everything is checked once, in [`Index::open`], so that
//! nothing that is asked later can fail, and the reader itself does not panic or loop even if the file
//! changes under it.

mod build;
mod check;
mod merge;
#[cfg(test)]
mod oracle;
mod read;
mod record;

#[cfg(test)]
mod tests;

pub use build::{Builder, WriteError};
pub use merge::{merge, merger};
pub use read::{Children, Index};

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// The longest name of an entry, in bytes.
pub const MAX_NAME: usize = 255;

/// What an index describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One layer by itself, with its whiteouts and opaque directories.
    Layer,
    /// What the layers of an image show together.
    Merged,
}

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// In a layer's own index only: hides what the layers below have under its name.
    Whiteout,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds since 1970, rounded down; may be negative.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// An inode's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The type.
    pub kind: Kind,
    /// Whether it is a directory that hides what the layers below have in it. In a layer's own index
    /// only.
    pub opaque: bool,
    /// Permission bits with set-user-ID, set-group-ID and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes, at most `i64::MAX`. A directory's is that of the topmost layer that has it.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Last access, when the index was made.
    pub atime: Time,
    /// Last modification of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Names in this tree; of a directory two and one for each directory in it. [`Builder`] counts.
    pub nlink: u32,
    /// Device number, in the kernel's 32-bit form; 0 but for devices.
    pub rdev: u32,
    /// Which of the layers has the bytes (of a directory the metadata), 0 topmost.
    pub layer: u32,
}

/// Why something is not taken for an index, or cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It does not begin as one.
    #[error("it is no index")]
    NotAnIndex,
    /// Of a version that this program does not read.
    #[error("it is of version {0}, not {VERSION}")]
    Version(u32),
    /// Cut short, or longer than it says.
    #[error("it has {found} bytes, not {wanted}")]
    Length {
        /// What there is.
        found: u64,
        /// What it says, or the least that any index has.
        wanted: u64,
    },
    /// A bit was flipped, or not all of it reached the disk.
    #[error("its checksum is wrong")]
    Checksum,
    /// It says what cannot be though its checksum is right.
    #[error("it makes no sense: {0}")]
    Broken(&'static str),
    /// More than the format has room for.
    #[error("{0} are too many for an index")]
    TooMany(&'static str),
}
