//! Open files, by the number that the kernel passes back.
//!
//! Lock rule: one mutex, a leaf; the handle is taken out as an `Arc` and used without it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::node::NodeRef;

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<FileHandle>>>,
}

/// An open file.
#[derive(Debug)]
pub(super) struct FileHandle {
    /// The node; its descriptors are shared by all its handles.
    pub(super) node: NodeRef,
    /// Whether each write is to reach the disk before it returns (`O_SYNC`, `O_DSYNC`).
    pub(super) sync: bool,
}

impl Handles {
    pub(super) fn add(&self, node: NodeRef, sync: bool) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(FileHandle { node, sync });
        self.open.lock().insert(number, handle);
        number
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<FileHandle>> {
        let open = self.open.lock();
        open.get(&number).cloned().ok_or(Error::BadHandle)
    }

    pub(super) fn remove(&self, number: u64) -> Result<Arc<FileHandle>> {
        self.open.lock().remove(&number).ok_or(Error::BadHandle)
    }
}
