//! The union filesystem: a writable upper directory over read-only layers.
//!
//! It is given open directories and knows neither the store nor its database. Data flows from the
//! thin `fuse_adapter` (convert, call, reply) into [`Union`], which names no protocol's types and
//! is tested without a mount. What is pure (`resolve`, `merge`, `rename_plan`, `inode_table`) knows
//! no system call.
//!
//! On disk it is overlayfs's form: a whiteout is a character device 0:0, an opaque directory has
//! `trusted.overlay.opaque=y`, a moved one `trusted.overlay.redirect`, a file whose metadata alone
//! have been copied up `trusted.overlay.metacopy`; in a user namespace `user.overlay.…`. Kernel
//! overlayfs (`redirect_dir=on,metacopy=on`) shows the same tree of it.
//!
//! Locks, in the order in which they are taken; `node` says more:
//! 1. a node's `copy_up` mutex, over the copying of its data and over changes of its metadata (which
//!    the copying restores); one at a time;
//! 2. the tree lock: shared by whatever finds things by name, exclusive for whatever changes names
//!    and for the moment in which a copy-up is put into place; never over the copying of data;
//! 3. a node's `files`;
//! 4. leaves: a node's `state`, the inode table, the descriptor cache, the handles.

mod attr;
mod copy_data;
mod copy_up;
mod create;
mod directory;
mod error;
mod fd_cache;
mod file_io;
mod find;
mod fs;
mod fuse_adapter;
mod handles;
mod hard_links;
mod indexed;
mod inode_table;
mod kept;
mod layers;
mod link;
mod locate;
mod lookup;
mod merge;
mod metacopy;
mod metadata;
mod node;
mod overlayfs;
mod owner;
mod remove;
mod rename;
mod rename_plan;
mod resolve;
mod session;
mod trouble;
mod whiteout;
mod work;
mod xattr;

pub use attr::{Attr, Caller, Kind, STORED_NULL_DEVICE, SetAttr, SetTime, Time};
pub use create::{NewEntry, What};
pub use directory::{DirItem, Listing};
pub use error::{Error, Result};
pub use file_io::WriteHow;
pub use fs::{Entry, Stale, Union};
pub use handles::FileRef;
pub use layers::{Layers, LowerIndex, Options};
pub use node::InoRef;
pub use overlayfs::{OverlayDirs, OverlayMounted, OverlayOptions, mount_overlayfs};
pub use owner::{IdMap, IdRange, Owners, Permissions};
pub use rename::RenameHow;
pub use session::{IoMode, MountOptions, Mounted, mount};

/// The number of the root directory.
pub const ROOT_INO: u64 = inode_table::ROOT;
