//! Replies that several kinds of requests have.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{Errno, Generation, ReplyEmpty, ReplyEntry, ReplyXattr};

use super::super::attr::Attr;
use super::super::error::{Error, Result};
use super::super::fs::{Entry, Union};
use super::convert::file_attr;
use super::counts::Op;

/// How long the kernel may believe what it was told: the view is the only way in, and what changes
/// on its own is reported (`Union::notify_stale`).
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
pub(super) const GENERATION: Generation = Generation(0);

/// How long the kernel may believe these attributes.
pub(super) fn lifetime(attr: &Attr) -> Duration {
    match attr.fleeting {
        true => Duration::ZERO,
        false => FOREVER,
    }
}

/// What a request is about, for the log to tell when it fails.
pub(super) struct Asked<'a> {
    pub(super) union: &'a Union,
    pub(super) op: Op,
    pub(super) ino: u64,
    pub(super) name: Option<&'a OsStr>,
}

impl Asked<'_> {
    /// The error number for the caller.
    pub(super) fn refused(&self, error: Error) -> Errno {
        let name = self.name.map(OsStr::as_bytes);
        self.union.failed(self.op.name(), self.ino, name, error);
        Errno::from_i32(error.errno())
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, asked: &Asked<'_>, entry: Result<Entry>) {
    match entry {
        Ok(Entry { node, attr }) => {
            // Counted before the kernel can know of it, and so before it can forget it.
            node.leave_to_kernel();
            reply.entry(&lifetime(&attr), &file_attr(&attr), GENERATION);
        }
        Err(e) => reply.error(asked.refused(e)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, asked: &Asked<'_>, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(asked.refused(e)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, asked: &Asked<'_>, size: u32, value: Result<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(asked.refused(Error::TooSmall)),
        Err(e) => reply.error(asked.refused(e)),
    }
}
