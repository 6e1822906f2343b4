//! The other names of a layer's file: a copy-up has to give the copy all of them.
//!
//! The index knows them. A plain layer is walked once, when the first of its files with several links is
//! copied up; which of those names the union shows is then asked of the union. A name below a moved directory is found
//! through the redirects in the upper directory, which are looked for only if the mark on its root
//! says that there are any.
//!
//! Lock rule: the mutexes here are leaves and not held over a walk; two threads may walk the same
//! layer at once, with the same result.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FileType, Stat};

use super::error::Result;
use super::fs::Union;
use super::indexed::indexed_paths;
use super::inode_table::Name;
use super::layers::{LowerFile, LowerPath, Redirect, is_dir, parse_redirect};
use crate::sys::dirfd;

/// Where in a layer the files with several links are, by inode number.
type Links = HashMap<u64, Vec<LowerPath>>;
/// The moved directories: where each is in the view, and where the layers have it.
type Redirects = Vec<(Vec<Name>, Vec<Name>)>;

/// What has been found out about hard links.
#[derive(Debug, Default)]
pub(super) struct HardLinks {
    layers: Mutex<HashMap<u32, Arc<Links>>>,
    redirects: Mutex<Option<Arc<Redirects>>>,
}

impl HardLinks {
    /// A directory has been moved or removed: the redirects are elsewhere now.
    pub(super) fn directories_moved(&self) {
        *self.redirects.lock() = None;
    }
}

impl Union {
    /// Finds out which files of a plain layer have several links, if this is one of them.
    pub(super) fn look_for_links(&self, file: &LowerFile) -> Result<()> {
        match file {
            LowerFile::Plain(file) if file.nlink > 1 => {
                self.links_of_layer(file.dir.layer).map(drop)
            }
            LowerFile::Plain(_) | LowerFile::Indexed { .. } => Ok(()),
        }
    }

    /// The files with several links of a plain layer.
    fn links_of_layer(&self, layer: u32) -> Result<Arc<Links>> {
        if let Some(links) = self.hard_links.layers.lock().get(&layer) {
            return Ok(links.clone());
        }
        let mut links = Links::new();
        let root = self.lower_fds[layer as usize].clone();
        let mut walk = Walk::new(root, LowerPath::default(), true);
        while let Some((dir, path)) = walk.next()? {
            for (name, stat) in walk.enter(&dir, |name| path.join(name))? {
                if stat.st_nlink > 1 {
                    links.entry(stat.st_ino).or_default().push(path.join(&name));
                }
            }
        }
        let links = Arc::new(links);
        self.hard_links.layers.lock().insert(layer, links.clone());
        Ok(links)
    }

    /// Makes all names known under which the union shows this file of a layer: they stay with its
    /// node, which the caller counts on. Needs the tree lock.
    pub(super) fn find_link_names(&self, file: &LowerFile) -> Result<()> {
        let paths = match file {
            LowerFile::Indexed { at, .. } => indexed_paths(self.index()?, *at)?,
            LowerFile::Plain(file) => {
                let links = self.links_of_layer(file.dir.layer)?;
                links.get(&file.ino).cloned().unwrap_or_default()
            }
        };
        let redirects = self.redirects()?;
        for path in paths {
            let path = path.names();
            let moved = redirects.iter().filter_map(|(shown, layers)| {
                let rest = path.strip_prefix(&layers[..])?;
                Some([shown, rest].concat())
            });
            for path in std::iter::once(path.clone()).chain(moved) {
                // The lookup notes the name with the node of its identity: with this one, unless
                // the file is hidden there by another.
                drop(self.lookup_path(&path)?);
            }
        }
        Ok(())
    }

    /// The directories of the upper directory that have a redirect.
    fn redirects(&self) -> Result<Arc<Redirects>> {
        if let Some(redirects) = &*self.hard_links.redirects.lock() {
            return Ok(redirects.clone());
        }
        let mut redirects = Redirects::new();
        let root = self.writable()?.root.clone();
        if dirfd::get_xattr_fd(&*root, self.xattrs.redirects)?.is_some() {
            let mut walk = Walk::new(root, (Vec::<Name>::new(), Vec::<Name>::new()), false);
            while let Some((dir, (shown, mut layers))) = walk.next()? {
                if let Some(value) = dirfd::get_xattr_fd(&*dir, self.xattrs.redirect)? {
                    match parse_redirect(&value)? {
                        Redirect::Absolute(path) => layers = path,
                        Redirect::Relative(name) => {
                            layers.pop();
                            layers.push(name);
                        }
                    }
                    redirects.push((shown.clone(), layers.clone()));
                }
                walk.enter(&dir, |name| {
                    let below = |path: &[Name]| [path, &[Name::from(name)]].concat();
                    (below(&shown), below(&layers))
                })?;
            }
        }
        let redirects = Arc::new(redirects);
        *self.hard_links.redirects.lock() = Some(redirects.clone());
        Ok(redirects)
    }

    /// Leaves the mark that there are redirects, before the first is made: a crash in between
    /// leaves a mark too many, which only costs a walk.
    pub(super) fn mark_redirects(&self) -> Result<()> {
        let root = &self.writable()?.root;
        if dirfd::get_xattr_fd(&**root, self.xattrs.redirects)?.is_none() {
            let flags = rustix::fs::XattrFlags::empty();
            dirfd::set_xattr_fd(&**root, self.xattrs.redirects, b"y", flags)?;
        }
        Ok(())
    }
}

/// The directories of a tree, each with what the walker knows of it. A directory is opened when it
/// is its turn: a wide tree needs no more descriptors than a narrow one.
pub(super) struct Walk<T> {
    todo: Vec<(Arc<OwnedFd>, Option<Name>, T)>,
    /// Whether anything but directories is of interest.
    files: bool,
}

impl<T> Walk<T> {
    /// Begins at `root`.
    pub(super) fn new(root: Arc<OwnedFd>, what: T, files: bool) -> Walk<T> {
        Walk {
            todo: vec![(root, None, what)],
            files,
        }
    }

    /// The next directory.
    pub(super) fn next(&mut self) -> Result<Option<(Arc<OwnedFd>, T)>> {
        Ok(match self.todo.pop() {
            Some((parent, Some(name), what)) => {
                Some((Arc::new(dirfd::open_dir(&*parent, &name)?), what))
            }
            Some((root, None, what)) => Some((root, what)),
            None => None,
        })
    }

    /// Notes the directories in one, and gives its files, where they are of interest.
    pub(super) fn enter(
        &mut self,
        dir: &Arc<OwnedFd>,
        what: impl Fn(&[u8]) -> T,
    ) -> Result<Vec<(Name, Stat)>> {
        let mut others = Vec::new();
        for entry in dirfd::read_dir(&**dir)? {
            match entry.file_type {
                FileType::Directory => {}
                // The file system may not store the type.
                FileType::Unknown => {
                    let stat = dirfd::stat_at(&**dir, &entry.name)?;
                    if !is_dir(&stat) {
                        others.push((entry.name, stat));
                        continue;
                    }
                }
                _ => {
                    if self.files {
                        let stat = dirfd::stat_at(&**dir, &entry.name)?;
                        others.push((entry.name, stat));
                    }
                    continue;
                }
            }
            let what = what(&entry.name);
            self.todo.push((dir.clone(), Some(entry.name), what));
        }
        Ok(others)
    }
}
