//! What a view is made of: the open directories, and where things are in the lower ones.
//!
//! Layers never change, so the location of a lower directory stays true for ever and needs no lock.
//! In *plain* layers it is a chain (layer, parent, name). *Indexed* layers are seen as one, whose
//! places are positions in their merged index. It does not own descriptors but for the layers' roots;
//! `fd_cache` opens the others when they are needed.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::fs::Stat;

use super::error::{Error, Result};
use super::inode_table::Name;
use super::owner::Owners;
use crate::model::index::Index;
use crate::sys::map::Map;

/// What lower directories show together.
pub type LowerIndex = Index<Map>;

/// What a view is made of.
#[derive(Debug)]
pub struct Layers {
    /// The lower directories (`O_DIRECTORY`, may be `O_PATH`), topmost first. Never modified.
    pub lowers: Vec<OwnedFd>,
    /// What these directories show together. Without it they are searched one by one.
    pub index: Option<LowerIndex>,
    /// The directory that takes the changes; `None` makes the view read-only.
    pub upper: Option<OwnedFd>,
    /// Where things are made before they are moved into `upper`: on the same file system, emptied
    /// at start. Needed with `upper`.
    pub work: Option<OwnedFd>,
}

/// How a view behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Do not wait for the disk before a copied-up file takes its name: after a crash it may be
    /// there without its data.
    pub volatile: bool,
    /// Do nothing when a program asks for its data to be synced.
    pub no_fsync: bool,
    /// Refuse to rename directories that have a part in a layer, with `EXDEV`.
    pub no_redirects: bool,
    /// Copy a layer's file whole for a change of its metadata alone.
    pub no_metacopy: bool,
    /// Show one link of every directory.
    pub static_nlink: bool,
    /// Know no access control lists.
    pub no_acl: bool,
    /// Know no extended attributes.
    pub no_xattrs: bool,
    /// The directories are not the store's: whiteouts are read in all of their forms.
    pub plain: bool,
    /// Whose the files are.
    pub owners: Owners,
}

/// The extended attributes that are the union's own, in one namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrivateXattrs {
    /// `y` on a directory that hides what is below it (overlayfs).
    pub(crate) opaque: &'static [u8],
    /// Where a moved directory is to be found in the layers below (overlayfs).
    pub(crate) redirect: &'static [u8],
    /// Empty, on a file whose data are to be found in the layers below (overlayfs).
    pub(crate) metacopy: &'static [u8],
    /// What is to be restored of such a file, while its data are being copied into it.
    pub(crate) completing: &'static [u8],
    /// The number that a copied-up file had before, in decimal digits.
    pub(crate) origin: &'static [u8],
    /// On the upper root, once any directory has been given a redirect.
    pub(crate) redirects: &'static [u8],
}

impl PrivateXattrs {
    /// For a server that may use the `trusted` namespace.
    pub(crate) const TRUSTED: PrivateXattrs = PrivateXattrs {
        opaque: b"trusted.overlay.opaque",
        redirect: b"trusted.overlay.redirect",
        metacopy: b"trusted.overlay.metacopy",
        completing: b"trusted.layerctl.completing",
        origin: b"trusted.layerctl.origin",
        redirects: b"trusted.layerctl.redirects",
    };
    /// For a server in a user namespace, as overlayfs's `userxattr`.
    pub(crate) const USER: PrivateXattrs = PrivateXattrs {
        opaque: b"user.overlay.opaque",
        redirect: b"user.overlay.redirect",
        metacopy: b"user.overlay.metacopy",
        completing: b"user.layerctl.completing",
        origin: b"user.layerctl.origin",
        redirects: b"user.layerctl.redirects",
    };
}

/// An SELinux label: it belongs to the host, not to the file. Kernel overlayfs copies none up either.
pub(crate) const SELINUX: &[u8] = b"security.selinux";

/// A directory of a layer.
#[derive(Debug)]
pub(crate) enum LowerDir {
    /// Of a plain layer.
    Plain(Arc<PlainDir>),
    /// At this place of the index.
    Indexed(u32),
}

/// A directory of a plain layer.
#[derive(Debug)]
pub(crate) struct PlainDir {
    /// Never reused: the key of the descriptor cache.
    pub(crate) id: u64,
    /// Index of the layer, 0 topmost.
    pub(crate) layer: u32,
    /// Where it is; `None` for the layer's root.
    pub(crate) at: Option<(Arc<PlainDir>, Name)>,
    /// What its whiteout files hide, sorted, once that has been asked.
    pub(crate) hidden: OnceLock<Box<[Name]>>,
}

impl PlainDir {
    /// A layer's root.
    pub(crate) fn root(id: u64, layer: u32) -> Arc<PlainDir> {
        Arc::new(PlainDir {
            id,
            layer,
            at: None,
            hidden: OnceLock::new(),
        })
    }

    /// A directory in this one.
    pub(crate) fn child(self: &Arc<Self>, id: u64, name: &[u8]) -> Arc<PlainDir> {
        Arc::new(PlainDir {
            id,
            layer: self.layer,
            at: Some((self.clone(), name.into())),
            hidden: OnceLock::new(),
        })
    }
}

impl Drop for PlainDir {
    // A loop: dropping a chain deeper than the stack must not recurse.
    fn drop(&mut self) {
        let mut next = self.at.take();
        while let Some((parent, _)) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.at.take());
        }
    }
}

/// Anything but a directory, in a layer.
#[derive(Debug, Clone)]
pub(crate) enum LowerFile {
    /// Of a plain layer.
    Plain(PlainFile),
    /// At this place of the index.
    Indexed {
        /// The place.
        at: u32,
        /// Its number of links in its layer.
        nlink: u32,
    },
}

/// Anything but a directory, in a plain layer.
#[derive(Debug, Clone)]
pub(crate) struct PlainFile {
    /// The directory it is in.
    pub(crate) dir: Arc<PlainDir>,
    /// Its name there.
    pub(crate) name: Name,
    /// Its number of links in the layer.
    pub(crate) nlink: u64,
    /// Its inode number in the layer.
    pub(crate) ino: u64,
    /// Where its data are, if not in it: a layer may have been an upper directory once.
    pub(crate) data: Option<Arc<LowerData>>,
}

/// Data in another layer than the metadata.
#[derive(Debug, Clone)]
pub(crate) struct LowerData {
    /// The file that has them.
    pub(crate) file: LowerFile,
    /// Their allocated blocks of 512 bytes.
    pub(crate) blocks: u64,
}

impl LowerFile {
    /// Whether it has more than one link in its layer.
    pub(crate) fn is_hard_link(&self) -> bool {
        match self {
            LowerFile::Plain(file) => file.nlink > 1,
            LowerFile::Indexed { nlink, .. } => *nlink > 1,
        }
    }

    /// Where its data are, if not in it.
    pub(crate) fn data(&self) -> Option<&LowerData> {
        match self {
            LowerFile::Plain(file) => file.data.as_deref(),
            LowerFile::Indexed { .. } => None,
        }
    }
}

/// A path below the roots of the lower layers, as a redirect records it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LowerPath(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    parent: LowerPath,
    name: Name,
}

impl Drop for Step {
    fn drop(&mut self) {
        let mut next = self.parent.0.take();
        while let Some(step) = next {
            next = Arc::into_inner(step).and_then(|mut step| step.parent.0.take());
        }
    }
}

impl LowerPath {
    /// The path of an entry in the directory of this path.
    pub(crate) fn join(&self, name: &[u8]) -> LowerPath {
        LowerPath(Some(Arc::new(Step {
            parent: self.clone(),
            name: name.into(),
        })))
    }

    /// The names from the root down.
    pub(crate) fn names(&self) -> Vec<Name> {
        let mut names = Vec::new();
        let mut next = &self.0;
        while let Some(step) = next {
            names.push(step.name.clone());
            next = &step.parent.0;
        }
        names.reverse();
        names
    }

    /// The absolute form that overlayfs reads in a redirect.
    pub(crate) fn to_redirect(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in self.names() {
            bytes.push(b'/');
            bytes.extend_from_slice(&name);
        }
        bytes
    }
}

/// What a redirect says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The path from the roots of the layers below.
    Absolute(Vec<Name>),
    /// Another name in the same directory.
    Relative(Name),
}

/// Reads a redirect's value. One that is malformed is an I/O error, as in overlayfs: guessing would
/// show the wrong files.
pub(crate) fn parse_redirect(value: &[u8]) -> Result<Redirect> {
    let broken = Error::Sys(rustix::io::Errno::IO);
    let good = |name: &&[u8]| !name.is_empty() && *name != b"." && *name != b"..";
    match value.strip_prefix(b"/") {
        Some(path) => {
            let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
            if names.iter().all(good) {
                Ok(Redirect::Absolute(
                    names.into_iter().map(Name::from).collect(),
                ))
            } else {
                Err(broken)
            }
        }
        None if good(&value) && !value.contains(&b'/') => Ok(Redirect::Relative(value.into())),
        None => Err(broken),
    }
}

/// Whether an entry of a layer is a whiteout: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    super::attr::Kind::from_mode(stat.st_mode) == super::attr::Kind::CharDevice && stat.st_rdev == 0
}

/// Whether an entry of a layer is a directory.
pub(crate) fn is_dir(stat: &Stat) -> bool {
    super::attr::Kind::from_mode(stat.st_mode) == super::attr::Kind::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let name = |s: &str| Name::from(s.as_bytes());
        let abs = |names: &[&str]| Redirect::Absolute(names.iter().map(|n| name(n)).collect());
        assert_eq!(parse_redirect(b"/a"), Ok(abs(&["a"])));
        assert_eq!(parse_redirect(b"/a/b c/d"), Ok(abs(&["a", "b c", "d"])));
        assert_eq!(parse_redirect(b"a"), Ok(Redirect::Relative(name("a"))));
        for bad in ["", "/", "a/b", "/a//b", "/a/", "/a/../b", "..", ".", "/."] {
            assert!(parse_redirect(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let path = LowerPath::default().join(b"a").join(b"b");
        assert_eq!(path.to_redirect(), b"/a/b");
    }

    #[test]
    fn deep_paths_are_dropped() {
        let mut path = LowerPath::default();
        let mut dir = PlainDir::root(0, 0);
        for id in 0..300_000 {
            path = path.join(b"d");
            dir = dir.child(id, b"d");
        }
        drop((path, dir));
    }
}
