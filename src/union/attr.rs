//! Attributes as the union speaks of them: no protocol's types and no system call's.

use rustix::fs::{FileType, Stat};

use crate::model::index;

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
}

impl Kind {
    /// The kind in a mode's `S_IFMT` bits. A regular file where they say nothing that is known.
    pub fn from_mode(mode: u32) -> Kind {
        Kind::from_file_type(FileType::from_raw_mode(mode))
    }

    /// The kind of a directory entry's type.
    pub fn from_file_type(file_type: FileType) -> Kind {
        match file_type {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::RegularFile | FileType::Unknown => Kind::File,
        }
    }

    /// The kind of an inode of the index.
    pub(crate) fn indexed(kind: index::Kind) -> Kind {
        match kind {
            index::Kind::File => Kind::File,
            index::Kind::Directory => Kind::Directory,
            index::Kind::Symlink => Kind::Symlink,
            index::Kind::Fifo => Kind::Fifo,
            index::Kind::Socket => Kind::Socket,
            // What layers show together has no whiteouts; on disk each is such a device.
            index::Kind::CharDevice | index::Kind::Whiteout => Kind::CharDevice,
            index::Kind::BlockDevice => Kind::BlockDevice,
        }
    }

    /// The type for `mknod`.
    pub fn file_type(self) -> FileType {
        match self {
            Kind::File => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
        }
    }
}

/// The number under which a character device 0:0 is stored in the upper directory, in the kernel's
/// 32-bit form: one with its own number would be a whiteout. (4095:1048574, the last but one.)
pub const STORED_NULL_DEVICE: u32 = 0xffff_fffe;

/// A point in time: seconds since the epoch (may be negative) and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since 1970, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode number in the view.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last modification of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// The type.
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Number of names. 0 for what has been removed; 1 for a merged directory, whose
    /// subdirectories nobody has counted (as btrfs and kernel overlayfs do).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Preferred size of input and output.
    pub blksize: u32,
    /// They change by ways that the union does not see: not to be believed at a later time.
    pub fleeting: bool,
}

impl Attr {
    /// The attributes of an inode on disk, under its number in the view.
    pub fn new(ino: u64, stat: &Stat) -> Attr {
        let kind = Kind::from_mode(stat.st_mode);
        let stored_null = kind == Kind::CharDevice && stat.st_rdev as u32 == STORED_NULL_DEVICE;
        Attr {
            ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: Time {
                secs: stat.st_atime,
                nanos: stat.st_atime_nsec as u32,
            },
            mtime: Time {
                secs: stat.st_mtime,
                nanos: stat.st_mtime_nsec as u32,
            },
            ctime: Time {
                secs: stat.st_ctime,
                nanos: stat.st_ctime_nsec as u32,
            },
            kind,
            mode: stat.st_mode & 0o7777,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: if stored_null { 0 } else { stat.st_rdev as u32 },
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            fleeting: false,
        }
    }
}

impl Attr {
    /// The attributes of an inode of the index, under its number in the view.
    pub(crate) fn indexed(ino: u64, inode: &index::Inode) -> Attr {
        let kind = Kind::indexed(inode.kind);
        let stored_null = kind == Kind::CharDevice && inode.rdev == STORED_NULL_DEVICE;
        let time = |time: index::Time| Time {
            secs: time.secs,
            nanos: time.nanos,
        };
        Attr {
            ino,
            size: inode.size,
            blocks: inode.blocks,
            atime: time(inode.atime),
            mtime: time(inode.mtime),
            ctime: time(inode.ctime),
            kind,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: if stored_null { 0 } else { inode.rdev },
            blksize: 4096,
            fleeting: false,
        }
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// That time.
    At(Time),
}

/// What `chmod`, `chown`, `truncate` and `utimensat` ask to change; `None` leaves as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// File system user ID.
    pub uid: u32,
    /// File system group ID.
    pub gid: u32,
}

impl Caller {
    /// Whether a file keeps its set-ID bits when this caller changes its contents: root's
    /// CAP_FSETID.
    pub(super) fn keeps_set_id(self) -> bool {
        self.uid == 0
    }
}
