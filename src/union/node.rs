//! A node: an inode of the view, and where its bytes are at the moment.
//!
//! It does not own names or numbers (`inode_table` does). Lock rules, in the order in which locks
//! are taken: `Node::copy_up` (at most one node's at a time), then the tree lock of `Union`, then
//! `Node::files`, then the leaves (`Node::state`, the inode table, the descriptor cache), of which
//! only one is held at a time.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::attr::Kind;
use super::fd_cache::FdCache;
use super::inode_table::{Ino, InodeTable, indexed_ino};
use super::layers::{LowerDir, LowerFile, LowerIndex, LowerPath};
use super::metacopy::Metacopy;

/// An inode of the view.
#[derive(Debug)]
pub struct Node {
    /// Never reused: the key of the descriptor cache.
    pub(crate) id: u64,
    /// Its number in the view.
    pub(crate) ino: Ino,
    /// Its type, which never changes.
    pub(crate) kind: Kind,
    /// Held while it is copied up, so that it happens once, and while its metadata change.
    pub(crate) copy_up: Mutex<()>,
    /// The descriptors of its data, shared by all handles.
    pub(crate) files: Mutex<OpenFiles>,
    /// Whether it is changed by ways that the union does not see.
    pub(crate) fleeting: AtomicBool,
    /// What is known to be missing, for the view is the only way in: attributes that are asked for
    /// again and again. Of a file `security.capability`, which may be noted by whoever has `copy_up`;
    /// of a directory the default ACL, by whoever has the tree lock exclusively.
    pub(crate) lacks: AtomicBool,
    /// Where it is.
    pub(crate) state: Mutex<State>,
}

/// What changes about a node.
#[derive(Debug)]
pub(crate) struct State {
    /// Where it is.
    pub(crate) place: Place,
    /// Its last name has been removed.
    pub(crate) gone: bool,
}

/// Where a node is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A layer's file, not copied up.
    Lower(LowerFile),
    /// In the upper directory, under the names that the inode table knows.
    Upper(Data),
    /// In the upper directory's file system, under no name that is known: reached by this `O_PATH`
    /// descriptor, which also keeps the disk from reusing its number.
    Held(Arc<OwnedFd>, Data),
    /// A directory.
    Dir(DirPlace),
}

/// Where the data are of what is in the upper directory.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// There. So for all that has none, too.
    Own,
    /// In a layer: only the metadata have been copied up.
    Lower(Arc<Metacopy>),
}

/// What a directory is merged from.
#[derive(Debug, Clone)]
pub(crate) struct DirPlace {
    /// Its part in the upper directory.
    pub(crate) upper: DirUpper,
    /// Its parts in the layers, topmost first.
    pub(crate) lowers: Arc<[Arc<LowerDir>]>,
    /// Where the lower layers, without the upper one, show it; meaningless without `lowers`.
    pub(crate) lower_path: LowerPath,
}

/// A directory's part in the upper directory.
#[derive(Debug, Clone)]
pub(crate) enum DirUpper {
    /// Not copied up.
    Absent,
    /// There, under its name.
    Present,
    /// Removed, but still used.
    Removed(Arc<OwnedFd>),
}

/// The descriptors of a file's data.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    /// How many handles are open.
    pub(crate) opens: u64,
    /// Open for reading only.
    pub(crate) read: Option<Arc<OwnedFd>>,
    /// Open for reading and writing; then `read` is not used any more.
    pub(crate) write: Option<Arc<OwnedFd>>,
}

impl Node {
    /// A node at that place.
    pub(crate) fn new(id: u64, ino: Ino, kind: Kind, place: Place) -> Node {
        Node {
            id,
            ino,
            kind,
            copy_up: Mutex::new(()),
            files: Mutex::default(),
            fleeting: AtomicBool::new(false),
            lacks: AtomicBool::new(false),
            state: Mutex::new(State { place, gone: false }),
        }
    }

    /// A copy of where it is.
    pub(crate) fn place(&self) -> Place {
        self.state.lock().place.clone()
    }

    /// A copy of what it is merged from; `None` if it is no directory.
    pub(crate) fn dir(&self) -> Option<DirPlace> {
        match &self.state.lock().place {
            Place::Dir(dir) => Some(dir.clone()),
            Place::Lower(_) | Place::Upper(_) | Place::Held(..) => None,
        }
    }

    /// What has been copied up of it, if no more than its metadata.
    pub(crate) fn metacopy(&self) -> Option<Arc<Metacopy>> {
        match &self.state.lock().place {
            Place::Upper(Data::Lower(it)) | Place::Held(_, Data::Lower(it)) => Some(it.clone()),
            Place::Upper(Data::Own) | Place::Held(_, Data::Own) => None,
            Place::Lower(_) | Place::Dir(_) => None,
        }
    }

    /// Whether its last name has been removed.
    pub(crate) fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    /// Whether changes can be made to it, though maybe not to its data, without a copy-up.
    pub(crate) fn is_upper(&self) -> bool {
        match &self.state.lock().place {
            Place::Lower(_) => false,
            Place::Upper(_) | Place::Held(..) => true,
            Place::Dir(dir) => !matches!(dir.upper, DirUpper::Absent),
        }
    }

    /// One handle fewer; with the last, the descriptors go.
    pub(crate) fn close(&self) {
        let mut files = self.files.lock();
        files.opens = files.opens.saturating_sub(1);
        let unused = (files.opens == 0).then(|| (files.read.take(), files.write.take()));
        drop(files);
        // Closed without the lock.
        drop(unused);
    }

    /// The key of a kept descriptor of its data.
    pub(crate) fn file_key(&self, write: bool) -> u64 {
        self.id << 1 | u64::from(write)
    }

    /// Whether it is a layer's file with more than one link.
    pub(crate) fn is_lower_hard_link(&self) -> bool {
        matches!(&self.state.lock().place, Place::Lower(file) if file.is_hard_link())
    }
}

/// The table, with the index whose inodes mostly are not in it, and the cache that a forgotten node's
/// descriptor leaves.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Numbers, names and identities.
    pub(crate) table: Mutex<InodeTable<Node>>,
    /// Directory descriptors.
    pub(crate) fds: FdCache,
    /// Descriptors of the data of files without a handle, by node and by whether they are for
    /// writing, too.
    pub(crate) files: FdCache,
    /// What the layers show together.
    pub(crate) index: Option<LowerIndex>,
}

impl Nodes {
    /// Counts one more user of a node.
    pub(crate) fn count(self: &Arc<Self>, node: Arc<Node>) -> NodeRef {
        self.table.lock().acquire(node.ino);
        NodeRef::adopt(node, self)
    }

    /// Takes back one user of a node.
    fn release(&self, ino: Ino) {
        let gone = self.table.lock().release(ino, 1);
        self.bury(gone);
    }

    /// Counts on an inode of the index as the kernel does; `None` if it is not what the index says.
    pub(crate) fn count_indexed(self: &Arc<Self>, at: u32) -> Option<InoRef> {
        let mut table = self.table.lock();
        if table.is_kept(at) {
            return None;
        }
        self.acquire_indexed(&mut table, at);
        drop(table);
        Some(InoRef {
            ino: indexed_ino(at),
            nodes: Some(self.clone()),
        })
    }

    /// With an inode, the directory it is in is counted on: a change of that must be known as long as
    /// anything below it is.
    fn acquire_indexed(&self, table: &mut InodeTable<Node>, at: u32) {
        let mut next = Some(at);
        while let Some(at) = next
            && table.acquire_indexed(at)
        {
            next = self.directory_of(at);
        }
    }

    /// The directory that the index has an inode in; `None` if that is the root, which needs no count.
    fn directory_of(&self, at: u32) -> Option<u32> {
        let index = self.index.as_ref()?;
        let (directory, _) = index.names(at).next()?;
        (directory != 0).then_some(directory)
    }

    /// Takes back `count` lookups, as the kernel counts them.
    pub(crate) fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table.lock();
        let mut gone = Vec::new();
        match table.place_of(ino) {
            None => gone = table.release(ino, count),
            Some(at) => {
                let mut next = Some((at, count));
                while let Some((at, count)) = next {
                    let (is_last, nodes) = table.release_indexed(at, count);
                    gone.extend(nodes);
                    next = match is_last {
                        true => self.directory_of(at).map(|directory| (directory, 1)),
                        false => None,
                    };
                }
            }
        }
        drop(table);
        self.bury(gone);
    }

    /// Drops nodes that nobody counts on any more, after the table's lock has been given up.
    pub(crate) fn bury(&self, gone: Vec<Arc<Node>>) {
        for node in gone {
            self.fds.forget(node.id);
            self.give_up_files(&node);
        }
    }

    /// The data is elsewhere now, or gone.
    pub(crate) fn give_up_files(&self, node: &Node) {
        if node.kind == Kind::File {
            self.files.forget(node.file_key(true));
            self.files.forget(node.file_key(false));
        }
    }
}

/// A node that is counted on until this is dropped.
#[derive(Debug)]
pub(crate) struct NodeRef {
    node: Arc<Node>,
    nodes: Arc<Nodes>,
}

impl NodeRef {
    /// Takes over a count that has been made in the table.
    pub(crate) fn adopt(node: Arc<Node>, nodes: &Arc<Nodes>) -> NodeRef {
        NodeRef {
            node,
            nodes: nodes.clone(),
        }
    }

    /// The node itself.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Counts on its number as the kernel does.
    pub(crate) fn number(&self) -> InoRef {
        let ino = self.node.ino;
        let mut table = self.nodes.table.lock();
        match table.place_of(ino) {
            Some(at) => self.nodes.acquire_indexed(&mut table, at),
            None => table.acquire(ino),
        }
        drop(table);
        InoRef {
            ino,
            nodes: Some(self.nodes.clone()),
        }
    }
}

impl Deref for NodeRef {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        self.nodes.release(self.node.ino);
    }
}

/// A number that is counted on, as the kernel counts, until this is dropped or left to the kernel.
#[derive(Debug)]
pub struct InoRef {
    ino: Ino,
    /// `None` once the count is the kernel's.
    nodes: Option<Arc<Nodes>>,
}

impl InoRef {
    /// The number in the view.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Leaves the count to the kernel, which gives it back with FORGET.
    pub fn leave_to_kernel(mut self) {
        self.nodes = None;
    }
}

impl Drop for InoRef {
    fn drop(&mut self) {
        if let Some(nodes) = &self.nodes {
            nodes.forget(self.ino, 1);
        }
    }
}
