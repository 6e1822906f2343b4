//! FUSE's types to the union's and back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, Request, TimeOrNow};
use rustix::fs::OFlags;

use super::super::attr::{Attr, Caller, Kind, SetTime, Time};
use super::super::create::NewEntry;
use super::super::handles::FileRef;

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

/// The kernel passes a handle of 0 with files that it has opened without asking.
pub(super) fn file(handle: FileHandle, ino: INodeNo) -> FileRef {
    match handle.0 {
        0 => FileRef::Node(ino.0),
        handle => FileRef::Handle(handle),
    }
}

pub(super) fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as _)
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.secs) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs()) + nanos,
    }
}

/// fuser gives a time before 1970 as the epoch minus the seconds minus the nanoseconds, though the
/// protocol's nanoseconds count forward.
pub(super) fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            secs: after.as_secs() as i64,
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                secs: -(before.as_secs() as i64),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

pub(super) fn set_time(to: TimeOrNow) -> SetTime {
    match to {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(super) fn new_entry<'a>(
    request: &Request,
    parent: INodeNo,
    name: &'a OsStr,
    mode: u32,
    umask: u32,
) -> NewEntry<'a> {
    let mode = mode & 0o7777;
    NewEntry {
        parent: parent.0,
        name: name.as_bytes(),
        caller: caller(request),
        mode,
        umask,
    }
}

/// The attributes of a directory whose number and type alone count.
pub(super) const DOT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::Directory,
    perm: 0o755,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};
/// The answer that there is nothing.
pub(super) const NOTHING: FileAttr = DOT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        let at = Time {
            secs: -2,
            nanos: 800_000_000,
        };
        assert_eq!(system_time(at), UNIX_EPOCH - Duration::from_millis(1200));
        // As fuser gives (-2 s, 800 ms).
        let odd = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(time(odd), at);
        let later = Time { secs: 7, nanos: 9 };
        assert_eq!(time(system_time(later)), later);
    }
}
