//! Open files, by the number that is passed back.
//!
//! Lock rule: one mutex, a leaf; the node is taken out as an `Arc` and used without it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::node::NodeRef;

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRef {
    /// By the handle that it was opened with.
    Handle(u64),
    /// By its node: the kernel may have files open without telling, as long as it counts on the node.
    Node(u64),
}

impl From<u64> for FileRef {
    fn from(handle: u64) -> FileRef {
        FileRef::Handle(handle)
    }
}

/// The handles that are open. The descriptors are the node's: all its handles share them.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<NodeRef>>>,
}

impl Handles {
    /// Gives a number from 1 on.
    pub(super) fn add(&self, node: NodeRef) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(node));
        number
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<NodeRef>> {
        let open = self.open.lock();
        open.get(&number).cloned().ok_or(Error::BadHandle)
    }

    pub(super) fn remove(&self, number: u64) -> Result<Arc<NodeRef>> {
        self.open.lock().remove(&number).ok_or(Error::BadHandle)
    }
}
