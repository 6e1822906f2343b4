//! The union itself: its parts, its start, and what all operations share.
//!
//! Each operation is a method in the file of its name. Operations take the numbers and names that
//! the kernel passes and give plain values; none knows FUSE. See `union` for the locks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::attr::{Attr, Kind};
use super::directory::Listings;
use super::error::{Error, Result};
use super::fd_cache::FdCache;
use super::handles::Handles;
use super::hard_links::HardLinks;
use super::inode_table::{InodeTable, ROOT};
use super::kept::Keepers;
use super::layers::{Layers, LowerDir, LowerPath, Options, PlainDir, PrivateXattrs};
use super::metacopy::Completing;
use super::node::{Data, DirPlace, DirUpper, InoRef, Node, Nodes, Place};
use super::trouble::Troubles;
use super::work::Work;
use crate::model::index::Index;
use crate::sys::descriptors::raise_limit;
use crate::sys::dirfd;

/// The most lower directories: with more, their inode numbers would run into the spare ones.
const MAX_LAYERS: usize = 4096;

/// A union of layers, not mounted anywhere.
#[derive(Debug)]
pub struct Union {
    pub(super) lower_fds: Vec<Arc<OwnedFd>>,
    pub(super) lower_roots: Arc<[Arc<LowerDir>]>,
    pub(super) upper: Option<Upper>,
    pub(super) options: Options,
    pub(super) xattrs: PrivateXattrs,
    pub(super) tree: RwLock<()>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) handles: Handles,
    pub(super) listings: Listings,
    pub(super) hard_links: HardLinks,
    pub(super) troubles: Troubles,
    pub(super) completing: Completing,
    pub(super) keepers: Keepers,
    next_id: AtomicU64,
    stale: OnceLock<Sender<Stale>>,
}

/// Where changes go.
#[derive(Debug)]
pub(super) struct Upper {
    pub(super) root: Arc<OwnedFd>,
    pub(super) work: Work,
    pub(super) server: Server,
}

/// Whom the disk takes for the maker of what this process makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// What it takes off each mode.
    pub(super) umask: u32,
}

impl Server {
    fn new() -> Server {
        // umask(2) itself cannot be asked without changing it for all threads.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
        Server {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask.unwrap_or(0o777),
        }
    }
}

/// What the kernel must no longer believe of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The attributes: of what has been copied up, or written by a mapped page.
    Attributes(u64),
    /// The listing of a directory, whose `..` is another one since it was moved.
    Listing(u64),
}

/// What a name shows.
#[derive(Debug)]
pub struct Entry {
    /// Its number; counted until dropped or left to the kernel.
    pub node: InoRef,
    /// Its attributes.
    pub attr: Attr,
}

impl Union {
    /// Makes a union of open directories, and empties `work`. Raises the soft limit of open files
    /// to the hard one, for the whole process.
    ///
    /// # Errors
    /// `InvalidInput` without any directory, with `upper` but no `work` or more than 4,096 layers;
    /// `CrossesDevices` when `work` is not on `upper`'s file system; what the system calls on `work`
    /// and `upper` return.
    pub fn new(layers: Layers, options: Options) -> io::Result<Union> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
        if layers.lowers.is_empty() && layers.upper.is_none() {
            return Err(invalid("a union needs at least one directory"));
        }
        if layers.lowers.len() > MAX_LAYERS {
            return Err(invalid("too many layers"));
        }
        let upper = match (layers.upper, layers.work) {
            (None, _) => None,
            (Some(_), None) => return Err(invalid("an upper directory needs a work directory")),
            (Some(upper), Some(work)) => {
                let (u, w) = (rustix::fs::fstat(&upper)?, rustix::fs::fstat(&work)?);
                if u.st_dev != w.st_dev {
                    let why = "the work directory is not on the upper directory's file system";
                    return Err(io::Error::new(io::ErrorKind::CrossesDevices, why));
                }
                Some(Upper {
                    root: Arc::new(upper),
                    work: Work::new(work, options.plain)?,
                    server: Server::new(),
                })
            }
        };
        let xattrs = choose_xattrs(upper.as_ref())?;
        let next_id = AtomicU64::new(1);
        let id = || next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(index) = &layers.index
            && index.layers() as usize != layers.lowers.len()
        {
            return Err(invalid("the index is of another number of layers"));
        }
        let lower_roots: Arc<[Arc<LowerDir>]> = match &layers.index {
            Some(_) => Arc::new([Arc::new(LowerDir::Indexed(0))]),
            None => (0..layers.lowers.len())
                .map(|layer| Arc::new(LowerDir::Plain(PlainDir::root(id(), layer as u32))))
                .collect(),
        };
        let root = Node::new(
            id(),
            ROOT,
            Kind::Directory,
            Place::Dir(DirPlace {
                upper: if upper.is_some() {
                    DirUpper::Present
                } else {
                    DirUpper::Absent
                },
                lowers: lower_roots.clone(),
                lower_path: LowerPath::default(),
            }),
        );
        let to_cache = descriptors_to_cache();
        let nodes = Nodes {
            table: Mutex::new(InodeTable::new(
                Arc::new(root),
                layers.index.as_ref().map_or(0, Index::len),
            )),
            fds: FdCache::new(to_cache),
            files: FdCache::new(to_cache),
            index: layers.index,
        };
        let lower_fds: Vec<_> = layers.lowers.into_iter().map(Arc::new).collect();
        let keepers = match options.plain {
            true => Keepers::find(upper.as_ref(), &lower_fds, options.owners.permissions)?,
            false => Keepers::default(),
        };
        let mut union = Union {
            lower_fds,
            lower_roots,
            upper,
            options,
            xattrs,
            tree: RwLock::new(()),
            nodes: Arc::new(nodes),
            handles: Handles::default(),
            listings: Listings::default(),
            hard_links: HardLinks::default(),
            troubles: Troubles::default(),
            completing: Completing::default(),
            keepers,
            next_id,
            stale: OnceLock::new(),
        };
        union.stop_at_opaque_roots()?;
        Ok(union)
    }

    /// An opaque root hides the layers below it (a layer's tar may have the marker at its root).
    fn stop_at_opaque_roots(&mut self) -> Result<()> {
        let upper = self.upper.as_ref().map(|u| u.root.clone());
        let upper_is_opaque = match upper {
            Some(fd) => self.is_opaque_fd(&fd)?,
            None => false,
        };
        let mut shown = 0;
        while !upper_is_opaque && shown < self.lower_roots.len() {
            shown += 1;
            // In the index it has been seen to.
            if self.nodes.index.is_none() && self.is_opaque_fd(&self.lower_fds[shown - 1])? {
                break;
            }
        }
        self.lower_roots = self.lower_roots.iter().take(shown).cloned().collect();
        let root = self.node(ROOT)?;
        if let Place::Dir(dir) = &mut root.state.lock().place {
            dir.lowers = self.lower_roots.clone();
        }
        Ok(())
    }

    /// Whether the view takes no changes.
    pub fn is_read_only(&self) -> bool {
        self.upper.is_none()
    }

    /// Has it sent what changes without the kernel asking for it. A mount tells the kernel to ask
    /// again. There is one listener: the first.
    pub fn notify_stale(&self, sender: Sender<Stale>) {
        self.stale.get_or_init(|| sender);
    }

    /// Something is not what it was when the kernel last asked.
    pub(super) fn stale(&self, stale: Stale) {
        if let Some(sender) = self.stale.get()
            && sender.send(stale).is_err()
        {
            tracing::debug!("the view has ended: nobody to tell of {stale:?}");
        }
    }

    /// Gives back `count` lookups of a node.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino != ROOT {
            self.nodes.forget(ino, count);
        }
    }

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Where changes go, or `EROFS`.
    pub(super) fn writable(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Error::ReadOnly)
    }

    /// Whether the view has access control lists.
    pub(super) fn knows_acls(&self) -> bool {
        !self.options.no_acl && !self.options.no_xattrs && !self.keepers.any
    }

    /// What is on disk as it is to be shown: in the view's owners.
    pub(super) fn shown(&self, mut attr: Attr) -> Attr {
        let owners = &self.options.owners;
        attr.uid = owners.uids.shown(attr.uid);
        attr.gid = owners.gids.shown(attr.gid);
        if self.options.static_nlink && attr.kind == Kind::Directory {
            attr.nlink = 1;
        }
        attr
    }

    /// What `stat` shows of a node, of which this is on disk.
    pub(super) fn attr_from(&self, node: &Node, attr: Attr) -> Attr {
        let mut attr = self.shown(Attr {
            ino: node.ino,
            ..attr
        });
        let state = node.state.lock();
        if let Place::Dir(dir) = &state.place
            && !dir.lowers.is_empty()
        {
            // Nobody has counted the merged subdirectories. And it must not change when the
            // directory is copied up.
            attr.nlink = 1;
        }
        // The space that its data take, wherever they are.
        match &state.place {
            Place::Lower(file) => {
                if let Some(data) = file.data() {
                    attr.blocks = data.blocks;
                }
            }
            Place::Upper(Data::Lower(it)) | Place::Held(_, Data::Lower(it)) => {
                attr.blocks = it.data.blocks;
            }
            Place::Upper(Data::Own) | Place::Held(_, Data::Own) | Place::Dir(_) => {}
        }
        // Of a layer's file, and of a directory on file systems that keep it at 2 or 1.
        if state.gone && !matches!(state.place, Place::Held(..)) {
            attr.nlink = 0;
        }
        attr.fleeting = node.fleeting.load(Ordering::Relaxed);
        attr
    }
}

/// Which namespace the union's own extended attributes are in: `trusted` if this process may use it.
fn choose_xattrs(upper: Option<&Upper>) -> Result<PrivateXattrs> {
    let Some(upper) = upper else {
        return Ok(if is_privileged() {
            PrivateXattrs::TRUSTED
        } else {
            PrivateXattrs::USER
        });
    };
    let probe = b"trusted.layerctl.probe";
    match dirfd::set_xattr_fd(&upper.work, probe, b"y", XattrFlags::empty()) {
        Ok(()) => {
            dirfd::remove_xattr_fd(&upper.work, probe)?;
            Ok(PrivateXattrs::TRUSTED)
        }
        Err(Errno::PERM) => Ok(PrivateXattrs::USER),
        Err(e) => Err(e.into()),
    }
}

/// Whether this process has CAP_SYS_ADMIN outside of any user namespace. Without, the kernel lets it
/// pass no files through, and `trusted` attributes just seem not to be there.
pub(super) fn is_privileged() -> bool {
    let first_line_is_whole_range = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    first_line_is_whole_range
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// How many directory descriptors may stay open: a part of what the process may open, which is
/// raised to the hard limit first.
fn descriptors_to_cache() -> usize {
    let allowed = raise_limit()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1 << 20);
    (allowed / 4).clamp(16, 4096)
}
