//! Finding things: what a name shows in a directory, and the descriptors that lead there.
//!
//! All of this needs the tree lock, shared at least, but for what is about the layers alone. A name that has been found is remembered in
//! the inode table: the view is the only way in, so what is known there needs no system call.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::attr::Kind;
use super::error::{Error, Result};
use super::fs::{Entry, Union};
use super::inode_table::{Identity, Name, lower_ino};
use super::layers::{
    LowerDir, LowerFile, LowerPath, Redirect, is_dir, is_whiteout, parse_redirect,
};
use super::node::{DirPlace, DirUpper, Node, NodeRef, Place};
use super::resolve::{Further, Resolver, Seen, Shown};
use crate::sys::dirfd;

/// What one layer has under a name.
#[derive(Debug, Clone)]
pub(super) enum Hit {
    /// The upper directory.
    Upper(Stat),
    /// A layer's directory `dir`, under `name`.
    Lower {
        dir: Arc<LowerDir>,
        name: Name,
        stat: Stat,
    },
}

/// What the union shows under a name.
#[derive(Debug)]
pub(super) struct Found {
    identity: Option<Identity>,
    preferred: u64,
    place: Place,
    stat: Stat,
}

/// The marks that overlayfs leaves on a directory.
struct Marks {
    opaque: bool,
    redirect: Option<Redirect>,
}

impl Union {
    /// Looks a name up, for the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry> {
        check_name(name)?;
        let parent = self.node(parent)?;
        let _tree = self.tree.read();
        self.lookup_entry(&parent, name)
    }

    /// As [`lookup`](Self::lookup), under the tree lock.
    pub(super) fn lookup_entry(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Entry> {
        if let Some(node) = self.known_child(parent, name) {
            let attr = self.attr_of(node.node())?;
            return Ok(Entry { node, attr });
        }
        let found = self.find(parent, name)?.ok_or(Error::NotFound)?;
        let stat = found.stat;
        let node = self.intern(parent, name, found);
        // A node of the same identity may be elsewhere by now (held, or copied up).
        let attr = self.attr_from(&node, &stat);
        Ok(Entry { node, attr })
    }

    /// The node of a name, counted.
    pub(super) fn lookup_child(&self, parent: &Arc<Node>, name: &[u8]) -> Result<NodeRef> {
        if let Some(node) = self.known_child(parent, name) {
            return Ok(node);
        }
        let found = self.find(parent, name)?.ok_or(Error::NotFound)?;
        Ok(self.intern(parent, name, found))
    }

    /// As [`lookup_child`](Self::lookup_child), with `None` for a name that shows nothing.
    pub(super) fn lookup_child_opt(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
    ) -> Result<Option<NodeRef>> {
        match self.lookup_child(parent, name) {
            Ok(node) => Ok(Some(node)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn known_child(&self, parent: &Node, name: &[u8]) -> Option<NodeRef> {
        let mut table = self.nodes.table.lock();
        let node = table.child(parent.ino, name)?.clone();
        table.acquire(node.ino);
        drop(table);
        Some(NodeRef::adopt(node, &self.nodes))
    }

    fn intern(&self, parent: &Arc<Node>, name: &[u8], found: Found) -> NodeRef {
        let id = self.new_id();
        let kind = Kind::from_mode(found.stat.st_mode);
        let Found {
            identity,
            preferred,
            place,
            ..
        } = found;
        let make = |ino| Node::new(id, ino, kind, place);
        let node = self
            .nodes
            .table
            .lock()
            .intern(parent.ino, name, identity, preferred, make);
        NodeRef::adopt(node, &self.nodes)
    }

    /// The node of what has just been put under a name of the upper directory, counted.
    pub(super) fn intern_new(&self, parent: &Arc<Node>, name: &[u8], stat: Stat) -> NodeRef {
        let (identity, place) = match is_dir(&stat) {
            true => (
                None,
                Place::Dir(DirPlace {
                    upper: DirUpper::Present,
                    lowers: Arc::default(),
                    lower_path: LowerPath::default(),
                }),
            ),
            false => (Some(upper_identity(&stat)), Place::Upper),
        };
        let found = Found {
            identity,
            preferred: stat.st_ino,
            place,
            stat,
        };
        self.intern(parent, name, found)
    }

    /// What a name shows, from the disk.
    fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Found>> {
        let dir = parent.dir().ok_or(Error::NotADirectory)?;
        if parent.is_gone() {
            return Ok(None);
        }
        let mut resolver = Resolver::new();
        let mut bases = dir.lowers.clone();
        let mut path = vec![Name::from(name)];
        let mut lower_path = dir.lower_path.clone();
        let mut further = Further::Look;
        if matches!(dir.upper, DirUpper::Present) {
            let fd = self.upper_fd(parent)?;
            let stat = dirfd::stat_at_opt(&*fd, name)?;
            let seen = match &stat {
                None => Seen::Absent,
                Some(stat) if is_whiteout(stat) => Seen::Whiteout,
                Some(stat) if is_dir(stat) => {
                    let marks = self.marks(&fd, name)?;
                    match marks.redirect {
                        Some(Redirect::Absolute(names)) => {
                            bases = self.lower_roots.clone();
                            lower_path = LowerPath::default();
                            path = names;
                        }
                        Some(Redirect::Relative(name)) => path = vec![name],
                        None => {}
                    }
                    Seen::Dir {
                        opaque: marks.opaque,
                    }
                }
                Some(_) => Seen::File,
            };
            if let Some(stat) = stat {
                further = resolver.add(Hit::Upper(stat), seen);
            }
        }
        if further == Further::Look {
            self.search_lowers(&bases, &path, &mut resolver)?;
        }
        let lower_path = path.iter().fold(lower_path, |path, name| path.join(name));
        self.judge(parent, name, resolver.finish(), lower_path)
    }

    /// What the lower layers alone show under a name.
    pub(super) fn lowers_show(&self, dir: &DirPlace, name: &[u8]) -> Result<Shown<Hit>> {
        let mut resolver = Resolver::new();
        self.search_lowers(&dir.lowers, &[name.into()], &mut resolver)?;
        Ok(resolver.finish())
    }

    fn judge(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        shown: Shown<Hit>,
        lower_path: LowerPath,
    ) -> Result<Option<Found>> {
        let found = match shown {
            Shown::Nothing => return Ok(None),
            Shown::File(Hit::Upper(stat)) => {
                let fd = self.upper_fd(parent)?;
                let path = dirfd::proc_path_of(&*fd, name);
                let origin = dirfd::get_xattr(&path, self.xattrs.origin)?;
                let origin = origin
                    .and_then(|text| String::from_utf8(text).ok())
                    .and_then(|text| text.parse().ok());
                Found {
                    identity: Some(upper_identity(&stat)),
                    preferred: origin.unwrap_or(stat.st_ino),
                    place: Place::Upper,
                    stat,
                }
            }
            Shown::File(Hit::Lower { dir, name, stat }) => Found {
                identity: Some(Identity::Lower {
                    layer: dir.layer,
                    dev: stat.st_dev,
                    ino: stat.st_ino,
                }),
                preferred: lower_ino(dir.layer, stat.st_ino),
                place: Place::Lower(LowerFile {
                    dir,
                    name,
                    nlink: stat.st_nlink,
                    ino: stat.st_ino,
                }),
                stat,
            },
            Shown::Dirs(hits) => {
                let mut upper = None;
                let mut first_lower = None;
                let mut lowers = Vec::new();
                for hit in hits {
                    match hit {
                        Hit::Upper(stat) => upper = Some(stat),
                        Hit::Lower { dir, name, stat } => {
                            first_lower.get_or_insert((dir.layer, stat));
                            lowers.push(dir.child(self.new_id(), &name));
                        }
                    }
                }
                let preferred = match (&first_lower, &upper) {
                    // The topmost lower's, so that a copy-up does not change it.
                    (Some((layer, stat)), _) => lower_ino(*layer, stat.st_ino),
                    (None, Some(stat)) => stat.st_ino,
                    (None, None) => return Ok(None),
                };
                let has_upper = if upper.is_some() {
                    DirUpper::Present
                } else {
                    DirUpper::Absent
                };
                let Some(stat) = upper.or(first_lower.map(|(_, stat)| stat)) else {
                    return Ok(None);
                };
                let lowers = lowers.into();
                let place = Place::Dir(DirPlace {
                    upper: has_upper,
                    lowers,
                    lower_path,
                });
                Found {
                    identity: None,
                    preferred,
                    place,
                    stat,
                }
            }
        };
        Ok(Some(found))
    }

    /// Tells the resolver what each layer has under `path`, seen from each layer's directory in
    /// `bases`, following the redirects of moved directories as overlayfs does.
    fn search_lowers(
        &self,
        bases: &[Arc<LowerDir>],
        path: &[Name],
        resolver: &mut Resolver<Hit>,
    ) -> Result<()> {
        let mut path = path.to_vec();
        let mut bases = bases.to_vec();
        let mut index = 0;
        while let Some(base) = bases.get(index) {
            index += 1;
            let mut dir = base.clone();
            // The path that the layers further down are asked for.
            let mut next_path = path.clone();
            let mut from_the_roots = false;
            let mut last_layer = false;
            for (depth, name) in path.iter().enumerate() {
                let rest = path.len() - depth - 1;
                let fd = self.lower_fd(&dir)?;
                let Some(stat) = dirfd::stat_at_opt(&*fd, name)? else {
                    break;
                };
                let hit = || Hit::Lower {
                    dir: dir.clone(),
                    name: name.clone(),
                    stat,
                };
                if is_whiteout(&stat) {
                    resolver.add(hit(), Seen::Whiteout);
                    return Ok(());
                }
                if !is_dir(&stat) {
                    // In the middle of a path it hides what is below it, too.
                    if rest == 0 {
                        resolver.add(hit(), Seen::File);
                    }
                    return Ok(());
                }
                let marks = self.marks(&fd, name)?;
                match marks.redirect {
                    Some(Redirect::Absolute(names)) => {
                        next_path.splice(..next_path.len() - rest, names);
                        from_the_roots = true;
                    }
                    Some(Redirect::Relative(name)) => {
                        let at = next_path.len() - rest - 1;
                        next_path[at] = name;
                    }
                    None => {}
                }
                if rest == 0 {
                    if resolver.add(
                        hit(),
                        Seen::Dir {
                            opaque: marks.opaque,
                        },
                    ) == Further::Stop
                    {
                        return Ok(());
                    }
                } else if marks.opaque {
                    last_layer = true;
                }
                if rest > 0 {
                    dir = dir.child(self.new_id(), name);
                }
            }
            if last_layer {
                return Ok(());
            }
            if from_the_roots {
                let below = dir.layer as usize + 1;
                bases = self.lower_roots.iter().skip(below).cloned().collect();
                index = 0;
            }
            path = next_path;
        }
        Ok(())
    }

    /// The marks of a directory in an open one.
    fn marks(&self, dir: &OwnedFd, name: &[u8]) -> Result<Marks> {
        let path = dirfd::proc_path_of(dir, name);
        let opaque = dirfd::get_xattr(&path, self.xattrs.opaque)?;
        let opaque = opaque.is_some_and(|value| value == b"y");
        // An opaque directory hides what a redirect could lead to.
        let redirect = match opaque {
            true => None,
            false => dirfd::get_xattr(&path, self.xattrs.redirect)?,
        };
        let redirect = redirect.map(|value| parse_redirect(&value)).transpose()?;
        Ok(Marks { opaque, redirect })
    }

    /// The node at a path from the root, counted.
    pub(super) fn lookup_path(&self, path: &[Name]) -> Result<Option<NodeRef>> {
        let root = self.node(super::inode_table::ROOT)?;
        let mut at = self.nodes.count(root);
        for name in path {
            if at.kind != Kind::Directory {
                return Ok(None);
            }
            match self.lookup_child_opt(at.node(), name)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// A descriptor (`O_PATH`) of a layer's directory.
    pub(super) fn lower_fd(&self, dir: &Arc<LowerDir>) -> Result<Arc<OwnedFd>> {
        let mut to_open = Vec::new();
        let mut at = dir.clone();
        let mut fd = loop {
            match &at.at {
                None => break self.lower_fds[at.layer as usize].clone(),
                Some((parent, name)) => {
                    if let Some(fd) = self.nodes.fds.get(at.id) {
                        break fd;
                    }
                    to_open.push((at.id, name.clone()));
                    let parent = parent.clone();
                    at = parent;
                }
            }
        };
        for (id, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, &name)?);
            self.nodes.fds.put(id, fd.clone());
        }
        Ok(fd)
    }

    /// A descriptor (`O_PATH`) of a directory's part in the upper directory, which it must have.
    pub(super) fn upper_fd(&self, dir: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        let mut to_open = Vec::new();
        let mut at = dir.clone();
        let mut fd = loop {
            if at.ino == super::inode_table::ROOT {
                break self.writable()?.root.clone();
            }
            if let Some(fd) = self.nodes.fds.get(at.id) {
                break fd;
            }
            if let Some(DirPlace {
                upper: DirUpper::Removed(fd),
                ..
            }) = at.dir()
            {
                break fd;
            }
            let (parent, name) = self.first_name(&at).ok_or(Error::NotFound)?;
            to_open.push((at.id, name));
            at = parent;
        };
        for (id, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, &name)?);
            self.nodes.fds.put(id, fd.clone());
        }
        Ok(fd)
    }

    /// A name that a node is known under.
    pub(super) fn first_name(&self, node: &Node) -> Option<(Arc<Node>, Name)> {
        let table = self.nodes.table.lock();
        let (parent, name) = table.names(node.ino).first()?;
        Some((table.get(*parent)?.clone(), name.clone()))
    }

    /// A descriptor (`O_PATH`) of a node, wherever it is; a symlink as itself.
    pub(super) fn path_fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        match node.place() {
            Place::Held(fd) => Ok(fd),
            Place::Lower(file) => {
                let dir = self.lower_fd(&file.dir)?;
                Ok(Arc::new(dirfd::open_path(&*dir, &file.name)?))
            }
            Place::Upper => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                Ok(Arc::new(dirfd::open_path(
                    &*self.upper_fd(&parent)?,
                    &name,
                )?))
            }
            Place::Dir(dir) => match dir.upper {
                DirUpper::Present => self.upper_fd(node),
                DirUpper::Removed(fd) => Ok(fd),
                DirUpper::Absent => {
                    let first = dir.lowers.first().ok_or(Error::Stale)?;
                    self.lower_fd(first)
                }
            },
        }
    }

    /// What `stat` shows on disk of a node.
    pub(super) fn stat_of(&self, node: &Arc<Node>) -> Result<Stat> {
        let stat = match node.place() {
            Place::Held(fd) => rustix::fs::fstat(&*fd)?,
            Place::Lower(file) => dirfd::stat_at(&*self.lower_fd(&file.dir)?, &file.name)?,
            Place::Upper => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                dirfd::stat_at(&*self.upper_fd(&parent)?, &name)?
            }
            Place::Dir(_) => rustix::fs::fstat(&*self.path_fd(node)?)?,
        };
        Ok(stat)
    }

    /// The attributes of a node.
    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<super::attr::Attr> {
        Ok(self.attr_from(node, &self.stat_of(node)?))
    }
}

/// Refuses what cannot be a name.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Invalid);
    }
    Ok(())
}

/// What makes an inode of the upper directory's file system the same under all its names.
pub(super) fn upper_identity(stat: &Stat) -> Identity {
    Identity::Upper {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}
