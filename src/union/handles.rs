//! Open files and directories, by the number that the kernel passes back.
//!
//! Lock rule: one mutex, a leaf; the handle is taken out as an `Arc` and used without it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::directory::DirItem;
use super::error::{Error, Result};
use super::node::NodeRef;

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Handle>>,
}

/// A handle of either kind.
#[derive(Debug, Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// An open file.
#[derive(Debug)]
pub(super) struct FileHandle {
    /// The node; its descriptors are shared by all its handles.
    pub(super) node: NodeRef,
    /// Whether each write is to reach the disk before it returns (`O_SYNC`, `O_DSYNC`).
    pub(super) sync: bool,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct DirHandle {
    /// The node.
    pub(super) node: NodeRef,
    /// The listing, taken when it is read from its beginning.
    pub(super) listing: Mutex<Option<Arc<Vec<DirItem>>>>,
}

impl Handles {
    fn add(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, handle);
        number
    }

    pub(super) fn add_file(&self, node: NodeRef, sync: bool) -> u64 {
        self.add(Handle::File(Arc::new(FileHandle { node, sync })))
    }

    pub(super) fn add_dir(&self, node: NodeRef) -> u64 {
        self.add(Handle::Dir(Arc::new(DirHandle {
            node,
            listing: Mutex::new(None),
        })))
    }

    pub(super) fn file(&self, number: u64) -> Result<Arc<FileHandle>> {
        match self.open.lock().get(&number) {
            Some(Handle::File(file)) => Ok(file.clone()),
            Some(Handle::Dir(_)) | None => Err(Error::BadHandle),
        }
    }

    pub(super) fn dir(&self, number: u64) -> Result<Arc<DirHandle>> {
        match self.open.lock().get(&number) {
            Some(Handle::Dir(dir)) => Ok(dir.clone()),
            Some(Handle::File(_)) | None => Err(Error::BadHandle),
        }
    }

    pub(super) fn remove_file(&self, number: u64) -> Result<Arc<FileHandle>> {
        let removed = self.open.lock().remove(&number);
        match removed {
            Some(Handle::File(file)) => Ok(file),
            Some(Handle::Dir(_)) | None => Err(Error::BadHandle),
        }
    }

    pub(super) fn remove_dir(&self, number: u64) -> Result<()> {
        // Dropped after the lock: its node may be forgotten with it.
        let removed = self.open.lock().remove(&number);
        match removed {
            Some(Handle::Dir(_)) => Ok(()),
            Some(Handle::File(_)) | None => Err(Error::BadHandle),
        }
    }
}
