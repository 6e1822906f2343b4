//! The FUSE protocol's skin: each method converts, calls the union, replies.
//!
//! It owns what is the protocol's alone: lifetimes of the kernel's caches, flags, and the counting
//! of lookups that a reply hands to the kernel. No decision about files is made here.

mod convert;
mod counts;
mod io_modes;
mod reply;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem,
    FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{OFlags, XattrFlags};

use super::attr::{Kind, SetAttr};
use super::create::What;
use super::error::{Error, Result};
use super::file_io::WriteHow;
use super::fs::{Entry, Union};
use super::rename::RenameHow;
use super::session::IoMode;
use convert::{DOT, NOTHING, caller, file, file_attr, new_entry, open_flags, set_time};
use counts::{Counts, Op};
use io_modes::{IoModes, Way};
use reply::{Asked, FOREVER, GENERATION, lifetime, reply_empty, reply_entry, reply_xattr};

/// The largest write in one request; also what a thread keeps in its cache while it handles it.
const MAX_WRITE: u32 = 1 << 20;

/// A union that answers FUSE requests.
#[derive(Debug)]
pub(super) struct Adapter {
    union: Union,
    counts: Counts,
    io: IoMode,
    modes: IoModes<BackingId>,
    /// Whether the kernel knows no other way than to open directories.
    opens_dirs: bool,
    /// Whether the kernel is to ask when it opens files.
    opens_files: bool,
}

impl Adapter {
    pub(super) fn new(union: Union, io: IoMode) -> Adapter {
        Adapter {
            union,
            counts: Counts::default(),
            io,
            modes: IoModes::new(),
            opens_dirs: false,
            opens_files: true,
        }
    }

    /// By which way a file that has been opened goes; it is closed again where none is open.
    fn way(
        &self,
        ino: u64,
        handle: u64,
        flags: OFlags,
        register: impl FnOnce(Arc<OwnedFd>) -> io::Result<BackingId>,
    ) -> Result<Way<BackingId>> {
        let way = self.modes.open(ino, || self.union.direct(handle), register);
        match &way {
            // The kernel tells nobody what a mapping changes.
            Ok(Way::Direct(_)) if is_mappable(flags) => self.union.changes_unseen(ino),
            Ok(_) => {}
            Err(_) => {
                if let Err(e) = self.union.release(handle) {
                    tracing::warn!("a file that could not be opened stays open: {e}");
                }
            }
        }
        way
    }

    /// A request has come: on a node, or a name in a directory.
    fn asked<'a>(&'a self, op: Op, ino: INodeNo, name: Option<&'a OsStr>) -> Asked<'a> {
        self.counts.note(op);
        Asked {
            union: &self.union,
            op,
            ino: ino.0,
            name,
        }
    }
}

/// Asks for a feature; whether the kernel has it.
fn request(config: &mut KernelConfig, flag: InitFlags) -> bool {
    let missing = config.add_capabilities(flag).err();
    if let Some(missing) = missing {
        tracing::debug!("the kernel does not offer {missing:?}");
    }
    missing.is_none()
}

/// Whether a mapping can write to a file opened like this.
fn is_mappable(flags: OFlags) -> bool {
    flags.contains(OFlags::RDWR)
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            // Default ACLs replace the umask: both have to be known here.
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Listings with the true numbers, and without a lookup for each entry. Without
            // READDIRPLUS_AUTO the kernel never asks for a plain one.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Else every write asks for security.capability. What takes the set-ID bits is ours to
            // do then; see `Union::setattr`.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for flag in wanted {
            if flag == InitFlags::FUSE_POSIX_ACL && !self.union.knows_acls() {
                continue;
            }
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::debug!("the kernel does not offer {missing:?}");
            }
        }
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            tracing::debug!("largest write {nearest}");
        }
        let offers = |flag| config.capabilities().contains(flag);
        self.opens_dirs = !offers(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        self.opens_files =
            self.io == IoMode::Passthrough || !offers(InitFlags::FUSE_NO_OPEN_SUPPORT);
        if self.opens_files {
            // Truncation at open copies no data up. Where files are opened without asking, the
            // kernel would forget the truncation: it is to ask for it by itself.
            request(config, InitFlags::FUSE_ATOMIC_O_TRUNC);
        }
        if self.io == IoMode::Passthrough {
            // One level: the disk may not be a stacked file system, but the view may be below one.
            if request(config, InitFlags::FUSE_PASSTHROUGH) && config.set_max_stack_depth(1).is_ok()
            {
                self.modes.allow_direct();
            } else {
                tracing::info!("this kernel passes no files through: they go through its cache");
            }
        }
        Ok(())
    }

    fn destroy(&mut self) {
        tracing::debug!("requests:{}", self.counts);
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = self.asked(Op::Lookup, parent, Some(name));
        match self.union.lookup(parent.0, name.as_bytes()) {
            // Number 0: there is no such name, and that is to be remembered.
            Err(Error::NotFound) => reply.entry(&FOREVER, &NOTHING, GENERATION),
            entry => reply_entry(reply, &asked, entry),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.counts.note(Op::Forget);
        self.union.forget(ino.0, count);
    }

    fn getattr(&self, _r: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let asked = self.asked(Op::Getattr, ino, None);
        match self.union.getattr(ino.0) {
            Ok(attr) => reply.attr(&lifetime(&attr), &file_attr(&attr)),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asked = self.asked(Op::Setattr, ino, None);
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        match self.union.setattr(ino.0, &set, caller(request)) {
            Ok(attr) => reply.attr(&lifetime(&attr), &file_attr(&attr)),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let asked = self.asked(Op::Readlink, ino, None);
        match self.union.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Op::Mknod, parent, Some(name));
        let what = match Kind::from_mode(mode) {
            Kind::File => What::File,
            kind => What::Node(kind, rdev),
        };
        let new = new_entry(request, parent, name, mode, umask);
        reply_entry(reply, &asked, self.union.make(&new, what));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Op::Mkdir, parent, Some(name));
        let new = new_entry(request, parent, name, mode, umask);
        reply_entry(reply, &asked, self.union.make(&new, What::Directory));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Op::Unlink, parent, Some(name));
        reply_empty(reply, &asked, self.union.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Op::Rmdir, parent, Some(name));
        reply_empty(reply, &asked, self.union.rmdir(parent.0, name.as_bytes()));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Op::Symlink, parent, Some(name));
        let new = new_entry(request, parent, name, 0o777, 0);
        let what = What::Symlink(target.as_os_str().as_bytes());
        reply_entry(reply, &asked, self.union.make(&new, what));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Op::Rename, parent, Some(name));
        let how = if flags.is_empty() {
            RenameHow::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameHow::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameHow::Exchange
        } else {
            // RENAME_WHITEOUT: a view shows no whiteouts, so it cannot leave one either.
            return reply.error(asked.refused(Error::Invalid));
        };
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        reply_empty(
            reply,
            &asked,
            self.union
                .rename(parent.0, name, new_parent.0, new_name, how),
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Op::Link, new_parent, Some(new_name));
        reply_entry(
            reply,
            &asked,
            self.union.link(ino.0, new_parent.0, new_name.as_bytes()),
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asked = self.asked(Op::Open, ino, None);
        if !self.opens_files {
            // Not asked again: the kernel opens files itself.
            return reply.error(Errno::ENOSYS);
        }
        let flags = open_flags(flags.0);
        let handle = match self.union.open(ino.0, flags, caller(request)) {
            Ok(handle) => handle,
            Err(e) => return reply.error(asked.refused(e)),
        };
        let way = self.way(ino.0, handle, flags, |file| reply.open_backing(file));
        let handle = FileHandle(handle);
        match way {
            Ok(Way::Cached) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Ok(Way::Direct(backing)) => {
                reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
            }
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let asked = self.asked(Op::Create, parent, Some(name));
        if !self.opens_files {
            // The kernel makes files with MKNOD then, and no handle has to be released.
            return reply.error(Errno::ENOSYS);
        }
        let new = new_entry(request, parent, name, mode, umask);
        let flags = open_flags(flags);
        let (Entry { node, mut attr }, handle) = match self.union.create(&new, flags) {
            Ok(made) => made,
            Err(e) => return reply.error(asked.refused(e)),
        };
        let way = self.way(node.ino(), handle, flags, |file| reply.open_backing(file));
        let handle = FileHandle(handle);
        attr.fleeting |= is_mappable(flags) && matches!(way, Ok(Way::Direct(_)));
        let (lifetime, attr) = (lifetime(&attr), file_attr(&attr));
        match way {
            Ok(Way::Cached) => {
                node.leave_to_kernel();
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&lifetime, &attr, GENERATION, handle, flags);
            }
            Ok(Way::Direct(backing)) => {
                node.leave_to_kernel();
                let flags = FopenFlags::empty();
                reply.created_passthrough(&lifetime, &attr, GENERATION, handle, flags, &backing);
            }
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = self.asked(Op::Read, ino, None);
        match self.union.read(file(fh, ino), offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = self.asked(Op::Write, ino, None);
        let how = WriteHow {
            delayed: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            sync: open_flags(flags.0).intersects(OFlags::SYNC | OFlags::DSYNC),
            drops_set_id: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        match self.union.write(file(fh, ino), offset, data, how) {
            // No request is larger than MAX_WRITE.
            Ok(written) => reply.written(written as u32),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    // No FLUSH: nothing is held back here, and locks are the kernel's. Not to implement it spares
    // every close a round trip.

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Op::Release, ino, None);
        let released = self.union.release(fh.0);
        self.modes.close(ino.0);
        reply_empty(reply, &asked, released);
    }

    fn fsync(&self, _r: &Request, ino: INodeNo, fh: FileHandle, data: bool, reply: ReplyEmpty) {
        let asked = self.asked(Op::Fsync, ino, None);
        reply_empty(reply, &asked, self.union.fsync(file(fh, ino), data));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.counts.note(Op::Opendir);
        if self.opens_dirs {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            return reply.opened(FileHandle(0), flags);
        }
        // Not asked again: the kernel opens directories itself, with these same flags.
        reply.error(Errno::ENOSYS);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let asked = self.asked(Op::Readdirplus, ino, None);
        let listing = match self.union.list(ino.0, offset) {
            Ok(listing) => listing,
            Err(e) => return reply.error(asked.refused(e)),
        };
        let mut is_empty = true;
        for item in listing.items() {
            let name = OsStr::from_bytes(&item.name);
            if item.ino != 0 {
                // "." and "..": the kernel takes no count for them, only number and type.
                let number = INodeNo(item.ino);
                let attr = FileAttr { ino: number, ..DOT };
                let none = Duration::ZERO;
                if reply.add(number, item.position, name, &none, &attr, GENERATION) {
                    break;
                }
                is_empty = false;
                continue;
            }
            let Entry { node, attr } = match self.union.listed(ino.0, item) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                // Told when there is nothing else to tell, else at the next request: a reply
                // without entries is the end of the directory.
                Err(e) if is_empty => return reply.error(asked.refused(e)),
                Err(_) => break,
            };
            let (lifetime, attr) = (lifetime(&attr), file_attr(&attr));
            if reply.add(attr.ino, item.position, name, &lifetime, &attr, GENERATION) {
                break;
            }
            is_empty = false;
            node.leave_to_kernel();
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Op::Fsyncdir, ino, None);
        reply_empty(reply, &asked, self.union.fsyncdir(ino.0));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let asked = self.asked(Op::Statfs, INodeNo::ROOT, None);
        match self.union.statfs() {
            Ok(fs) => reply.statfs(
                fs.f_blocks,
                fs.f_bfree,
                fs.f_bavail,
                fs.f_files,
                fs.f_ffree,
                fs.f_bsize as u32,
                fs.f_namemax as u32,
                fs.f_frsize as u32,
            ),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Op::Setxattr, ino, None);
        let flags = XattrFlags::from_bits_retain(flags as u32);
        reply_empty(
            reply,
            &asked,
            self.union.setxattr(ino.0, name.as_bytes(), value, flags),
        );
    }

    fn getxattr(&self, _r: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let asked = self.asked(Op::Getxattr, ino, None);
        reply_xattr(
            reply,
            &asked,
            size,
            self.union.getxattr(ino.0, name.as_bytes()),
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let asked = self.asked(Op::Listxattr, ino, None);
        reply_xattr(reply, &asked, size, self.union.listxattr(ino.0));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Op::Removexattr, ino, None);
        reply_empty(
            reply,
            &asked,
            self.union.removexattr(ino.0, name.as_bytes()),
        );
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Op::Fallocate, ino, None);
        reply_empty(
            reply,
            &asked,
            self.union
                .fallocate(file(fh, ino), offset, length, mode as u32),
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let asked = self.asked(Op::Lseek, ino, None);
        let found = match (u64::try_from(offset), whence) {
            (Ok(offset), libc::SEEK_DATA) => self.union.seek(file(fh, ino), offset, false),
            (Ok(offset), libc::SEEK_HOLE) => self.union.seek(file(fh, ino), offset, true),
            // The kernel knows the others itself.
            _ => Err(Error::Invalid),
        };
        match found {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(asked.refused(e)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let asked = self.asked(Op::CopyFileRange, ino_out, None);
        // The reply has 32 bits; copying less than asked is allowed.
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        match self.union.copy_file_range(
            (file(fh_in, ino_in), offset_in),
            (file(fh_out, ino_out), offset_out),
            len,
        ) {
            Ok(copied) => reply.written(copied as u32),
            Err(e) => reply.error(asked.refused(e)),
        }
    }
}
