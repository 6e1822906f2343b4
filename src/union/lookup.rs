//! Finding things: what a name shows in a directory, and the descriptors that lead there.
//!
//! All of this needs the tree lock, shared at least, but for what is about the layers alone. A name that has been found is remembered in
//! the inode table: the view is the only way in, so what is known there needs no system call.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::attr::{Attr, Kind};
use super::error::{Error, Result};
use super::fs::{Entry, Union};
use super::indexed::{Known, needs_node, whole};
use super::inode_table::{Identity, Name, Newcomer, indexed_ino, lower_ino};
use super::layers::{
    LowerData, LowerDir, LowerFile, LowerIndex, LowerPath, PlainDir, PlainFile, Redirect, is_dir,
    is_whiteout, parse_redirect,
};
use super::metacopy::{FileMarks, Metacopy, no_data};
use super::node::{Data, DirPlace, DirUpper, Node, NodeRef, Place};
use super::resolve::{Further, Resolver, Seen, Shown};
use crate::sys::dirfd;

/// What one layer has under a name.
#[derive(Debug, Clone)]
pub(super) enum Hit {
    /// The upper directory; with the marks of anything but a directory.
    Upper(Stat, FileMarks),
    /// A plain layer's directory `dir`, under `name`.
    Lower {
        dir: Arc<PlainDir>,
        name: Name,
        stat: Stat,
    },
    /// The index, at this place.
    Indexed(u32),
}

/// What the union shows under a name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) new: Newcomer,
    pub(super) place: Place,
    /// What `stat` shows of it there; the number is to be set.
    pub(super) attr: Attr,
}

impl Found {
    /// What a disk has.
    fn on_disk(identity: Option<Identity>, preferred: u64, place: Place, stat: &Stat) -> Found {
        let new = Newcomer {
            identity,
            preferred,
            at: None,
            kept: true,
        };
        let attr = Attr::new(0, stat);
        Found { new, place, attr }
    }

    /// Its place in the index, if it is what is there.
    fn unchanged(&self) -> Option<u32> {
        match &self.place {
            Place::Lower(LowerFile::Indexed { at, .. }) => Some(*at),
            Place::Dir(DirPlace {
                upper: DirUpper::Absent,
                lowers,
                ..
            }) => match lowers.first().map(|dir| &**dir) {
                Some(LowerDir::Indexed(at)) => Some(*at),
                Some(LowerDir::Plain(_)) | None => None,
            },
            Place::Lower(_) | Place::Upper(_) | Place::Held(..) | Place::Dir(_) => None,
        }
    }

    /// An inode of the index, which nobody has changed.
    pub(super) fn indexed(index: &LowerIndex, at: u32) -> Result<Found> {
        let inode = index.inode(at).ok_or(Error::Stale)?;
        let kept = whole(index, needs_node(index, at))?;
        let attr = Attr::indexed(indexed_ino(at), &inode);
        let nlink = inode.nlink;
        let (identity, place) = match attr.kind {
            Kind::Directory => (
                None,
                Place::Dir(DirPlace {
                    upper: DirUpper::Absent,
                    lowers: Arc::new([Arc::new(LowerDir::Indexed(at))]),
                    lower_path: LowerPath::default(),
                }),
            ),
            _ => (
                Some(Identity::Lower {
                    layer: 0,
                    dev: 0,
                    ino: u64::from(at),
                }),
                Place::Lower(LowerFile::Indexed { at, nlink }),
            ),
        };
        let new = Newcomer {
            identity,
            preferred: indexed_ino(at),
            at: Some(at),
            kept,
        };
        Ok(Found { new, place, attr })
    }
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
        let _tree = self.tree.read();
        match self.known(parent)? {
            Known::Node(parent) => self.lookup_entry(parent.node(), name),
            // What has no node has not changed, nor has anything in it.
            Known::Indexed(index, at) => {
                let directory = whole(index, index.inode(at))?.ok_or(Error::Stale)?;
                if Kind::indexed(directory.kind) != Kind::Directory {
                    return Err(Error::NotADirectory);
                }
                let child = whole(index, index.child(at, name))?.ok_or(Error::NotFound)?;
                match self.hand_out(index, child)? {
                    Some(entry) => Ok(entry),
                    None => self.lookup_entry(self.node(parent)?.node(), name),
                }
            }
        }
    }

    /// As [`lookup`](Self::lookup), under the tree lock.
    pub(super) fn lookup_entry(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Entry> {
        if let Some(node) = self.known_child(parent, name) {
            let attr = self.attr_of(node.node())?;
            let node = node.number();
            return Ok(Entry { node, attr });
        }
        let found = self.find(parent, name)?.ok_or(Error::NotFound)?;
        if let (Some(index), Some(at)) = (&self.nodes.index, found.unchanged())
            && let Some(entry) = self.hand_out(index, at)?
        {
            return Ok(entry);
        }
        let attr = found.attr;
        let node = self.intern(parent, name, found);
        // A node of the same identity may be elsewhere by now (held, or copied up).
        let attr = match self.keepers.any {
            false => self.attr_from(&node, attr),
            true => self.attr_of(&node)?,
        };
        let node = node.number();
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
        let Found { new, place, attr } = found;
        let make = |ino| Node::new(id, ino, attr.kind, place);
        let mut table = self.nodes.table.lock();
        let node = table.intern(parent.ino, name, new, make);
        drop(table);
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
            false => (Some(upper_identity(&stat)), Place::Upper(Data::Own)),
        };
        let found = Found::on_disk(identity, stat.st_ino, place, &stat);
        self.intern(parent, name, found)
    }

    /// What a name shows, from the disk.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Found>> {
        let dir = parent.dir().ok_or(Error::NotADirectory)?;
        if parent.is_gone() || self.is_mark(name) {
            return Ok(None);
        }
        let mut resolver = Resolver::new();
        let mut bases = dir.lowers.clone();
        let mut path = vec![Name::from(name)];
        let mut from_the_root = false;
        let mut further = Further::Look;
        if matches!(dir.upper, DirUpper::Present) {
            let fd = self.upper_fd(parent)?;
            if let Some(stat) = dirfd::stat_at_opt(&*fd, name)? {
                let (seen, hit, redirect) = self.seen_in_upper(&fd, name, stat)?;
                match redirect {
                    Some(Redirect::Absolute(names)) => {
                        bases = self.lower_roots.clone();
                        from_the_root = true;
                        path = names;
                    }
                    Some(Redirect::Relative(name)) => path = vec![name],
                    None => {}
                }
                further = resolver.add(hit, seen);
            } else if self.hides(&fd, name)? {
                further = Further::Stop;
            }
        }
        if further == Further::Look {
            self.search_lowers(&bases, &path, &mut resolver)?;
        }
        let shown = resolver.finish();
        let lower_path = match &shown {
            // Of what is in the index it is the place that counts.
            Shown::Nothing | Shown::File(_) => LowerPath::default(),
            Shown::Dirs(_) if self.nodes.index.is_some() => LowerPath::default(),
            Shown::Dirs(_) | Shown::Metacopy(..) => {
                let above = match from_the_root {
                    true => LowerPath::default(),
                    false => self.path_below(&dir)?,
                };
                path.iter().fold(above, |path, name| path.join(name))
            }
        };
        self.judge(shown, lower_path)
    }

    /// What the upper directory has under a name, and where what is below it is to be found.
    fn seen_in_upper(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        stat: Stat,
    ) -> Result<(Seen, Hit, Option<Redirect>)> {
        if is_whiteout(&stat) {
            let hit = Hit::Upper(stat, FileMarks::default());
            return Ok((Seen::Whiteout, hit, None));
        }
        if is_dir(&stat) {
            let marks = self.marks(dir, name)?;
            let redirect = marks.redirect;
            // What is moved here says itself where it belongs.
            let opaque = marks.opaque || (redirect.is_none() && self.hides(dir, name)?);
            let hit = Hit::Upper(stat, FileMarks::default());
            return Ok((Seen::Dir { opaque }, hit, redirect));
        }
        let marks = self.file_marks(dir, name)?;
        let (stat, mut marks) = self.repair(dir, name, stat, marks)?;
        if !marks.metacopy || Kind::from_mode(stat.st_mode) != Kind::File {
            return Ok((Seen::File, Hit::Upper(stat, marks), None));
        }
        let redirect = marks.redirect.take();
        Ok((Seen::Metacopy, Hit::Upper(stat, marks), redirect))
    }

    /// What the lower layers alone show under a name.
    pub(super) fn lowers_show(&self, dir: &DirPlace, name: &[u8]) -> Result<Shown<Hit>> {
        let mut resolver = Resolver::new();
        self.search_lowers(&dir.lowers, &[name.into()], &mut resolver)?;
        Ok(resolver.finish())
    }

    fn judge(&self, shown: Shown<Hit>, lower_path: LowerPath) -> Result<Option<Found>> {
        let (shown, data) = match shown {
            Shown::Metacopy(file, data) => {
                let data = lower_data(data, self.nodes.index.as_ref())
                    .ok_or_else(|| no_data(&lower_path))?;
                (Shown::File(file), Some(data))
            }
            other => (other, None),
        };
        let found = match shown {
            Shown::Nothing | Shown::Metacopy(..) => return Ok(None),
            Shown::File(Hit::Upper(stat, marks)) => {
                let path = lower_path;
                let data = match data {
                    Some(data) => Data::Lower(Arc::new(Metacopy { data, path })),
                    None => Data::Own,
                };
                let identity = upper_identity(&stat);
                let preferred = marks.origin.unwrap_or(stat.st_ino);
                Found::on_disk(Some(identity), preferred, Place::Upper(data), &stat)
            }
            Shown::File(Hit::Indexed(at)) => Found::indexed(self.index()?, at)?,
            Shown::File(Hit::Lower { dir, name, stat }) => {
                let identity = Identity::Lower {
                    layer: dir.layer,
                    dev: stat.st_dev,
                    ino: stat.st_ino,
                };
                let preferred = lower_ino(dir.layer, stat.st_ino);
                let place = Place::Lower(LowerFile::Plain(PlainFile {
                    dir,
                    name,
                    nlink: stat.st_nlink,
                    ino: stat.st_ino,
                    data: data.map(Arc::new),
                }));
                Found::on_disk(Some(identity), preferred, place, &stat)
            }
            Shown::Dirs(hits) => self.judge_dirs(hits, lower_path)?,
        };
        Ok(Some(found))
    }

    fn judge_dirs(&self, hits: Vec<Hit>, lower_path: LowerPath) -> Result<Found> {
        let mut upper = None;
        let mut first_lower = None;
        let mut lowers = Vec::new();
        for hit in hits {
            match hit {
                Hit::Upper(stat, _) => upper = Some(stat),
                Hit::Lower { dir, name, stat } => {
                    first_lower.get_or_insert((dir.layer, stat));
                    let dir = dir.child(self.new_id(), &name);
                    lowers.push(Arc::new(LowerDir::Plain(dir)));
                }
                Hit::Indexed(at) => {
                    // The index is all the layers there are.
                    let mut found = Found::indexed(self.index()?, at)?;
                    if let (Some(stat), Place::Dir(dir)) = (&upper, &mut found.place) {
                        dir.upper = DirUpper::Present;
                        found.attr = Attr::new(0, stat);
                        found.new.kept = true;
                    }
                    return Ok(found);
                }
            }
        }
        let preferred = match (&first_lower, &upper) {
            // The topmost lower's, so that a copy-up does not change it.
            (Some((layer, stat)), _) => lower_ino(*layer, stat.st_ino),
            (None, Some(stat)) => stat.st_ino,
            (None, None) => return Err(Error::NotFound),
        };
        let has_upper = if upper.is_some() {
            DirUpper::Present
        } else {
            DirUpper::Absent
        };
        let stat = upper.or(first_lower.map(|(_, stat)| stat));
        let stat = stat.ok_or(Error::NotFound)?;
        let place = Place::Dir(DirPlace {
            upper: has_upper,
            lowers: lowers.into(),
            lower_path,
        });
        Ok(Found::on_disk(None, preferred, place, &stat))
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
            let mut dir = match &**base {
                LowerDir::Plain(dir) => dir.clone(),
                LowerDir::Indexed(at) => {
                    self.search_index(*at, &path, resolver)?;
                    continue;
                }
            };
            // The path that the layers further down are asked for.
            let mut next_path = path.clone();
            let mut from_the_roots = false;
            let mut last_layer = false;
            for (depth, name) in path.iter().enumerate() {
                let rest = path.len() - depth - 1;
                let fd = self.plain_fd(&dir)?;
                let Some(stat) = dirfd::stat_at_opt(&*fd, name)? else {
                    if self.layer_hides(&dir, &fd, name)? {
                        return Ok(());
                    }
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
                let (seen, redirect, opaque) = if is_dir(&stat) {
                    let Marks { opaque, redirect } = self.marks(&fd, name)?;
                    let opaque =
                        opaque || (redirect.is_none() && self.layer_hides(&dir, &fd, name)?);
                    (Seen::Dir { opaque }, redirect, opaque)
                } else if rest > 0 {
                    // In the middle of a path it hides what is below it, too.
                    return Ok(());
                } else {
                    let (seen, redirect) = self.seen_file(&fd, name, &stat)?;
                    (seen, redirect, false)
                };
                match redirect {
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
                    if resolver.add(hit(), seen) == Further::Stop {
                        return Ok(());
                    }
                } else if opaque {
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

    /// What a layer's file is: a layer may have been an upper directory once.
    fn seen_file(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        stat: &Stat,
    ) -> Result<(Seen, Option<Redirect>)> {
        if Kind::from_mode(stat.st_mode) != Kind::File || stat.st_size == 0 {
            return Ok((Seen::File, None));
        }
        let path = dirfd::proc_path_of(dir, name);
        if dirfd::get_xattr(&path, self.xattrs.metacopy)?.is_none() {
            return Ok((Seen::File, None));
        }
        let redirect = dirfd::get_xattr(&path, self.xattrs.redirect)?;
        let redirect = redirect.map(|value| parse_redirect(&value)).transpose()?;
        Ok((Seen::Metacopy, redirect))
    }

    /// The marks of a directory in an open one.
    fn marks(&self, dir: &OwnedFd, name: &[u8]) -> Result<Marks> {
        let path = dirfd::proc_path_of(dir, name);
        let opaque = self.is_opaque_at(dir, name)?;
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
        let mut at = self.node(super::inode_table::ROOT)?;
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
    pub(super) fn lower_fd(&self, dir: &LowerDir) -> Result<Arc<OwnedFd>> {
        match dir {
            LowerDir::Plain(dir) => self.plain_fd(dir),
            LowerDir::Indexed(at) => self.indexed_dir_fd(*at),
        }
    }

    /// A descriptor (`O_PATH`) of a plain layer's directory.
    pub(super) fn plain_fd(&self, dir: &PlainDir) -> Result<Arc<OwnedFd>> {
        let mut to_open = Vec::new();
        let mut at = dir;
        let mut fd = loop {
            match &at.at {
                None => break self.lower_fds[at.layer as usize].clone(),
                Some((parent, name)) => {
                    if let Some(fd) = self.nodes.fds.get(at.id) {
                        break fd;
                    }
                    to_open.push((at.id, name));
                    at = parent;
                }
            }
        };
        for (id, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, name)?);
            self.nodes.fds.put(id, fd.clone());
        }
        Ok(fd)
    }

    /// A descriptor (`O_PATH`) of a layer's file.
    pub(super) fn lower_file_fd(&self, file: &LowerFile) -> Result<Arc<OwnedFd>> {
        match file {
            LowerFile::Plain(file) => {
                let dir = self.plain_fd(&file.dir)?;
                Ok(Arc::new(dirfd::open_path(&*dir, &file.name)?))
            }
            LowerFile::Indexed { at, .. } => self.indexed_file_fd(*at),
        }
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
            Place::Held(fd, _) => Ok(fd),
            Place::Lower(file) => self.lower_file_fd(&file),
            Place::Upper(_) => {
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

    /// The attributes of a node.
    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<Attr> {
        let on_disk = |stat: Stat| Attr::new(node.ino, &stat);
        let attr = match node.place() {
            Place::Held(fd, _) => on_disk(rustix::fs::fstat(&*fd)?),
            Place::Lower(LowerFile::Indexed { at, .. }) => self.indexed_attr(at)?,
            Place::Lower(LowerFile::Plain(file)) => {
                let dir = self.plain_fd(&file.dir)?;
                on_disk(dirfd::stat_at(&*dir, &file.name)?)
            }
            Place::Upper(_) => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                on_disk(dirfd::stat_at(&*self.upper_fd(&parent)?, &name)?)
            }
            Place::Dir(dir) => match (&dir.upper, dir.lowers.first().map(|dir| &**dir)) {
                (DirUpper::Absent, Some(LowerDir::Indexed(at))) => self.indexed_attr(*at)?,
                _ => on_disk(rustix::fs::fstat(&*self.path_fd(node)?)?),
            },
        };
        let attr = self.with_kept(node, attr)?;
        Ok(self.attr_from(node, attr))
    }
}

/// Where the data of a file are that a layer has no more than the metadata of.
fn lower_data(hit: Option<Hit>, index: Option<&LowerIndex>) -> Option<LowerData> {
    match hit {
        Some(Hit::Lower { dir, name, stat }) if Kind::from_mode(stat.st_mode) == Kind::File => {
            Some(LowerData {
                blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
                file: LowerFile::Plain(PlainFile {
                    dir,
                    name,
                    nlink: stat.st_nlink,
                    ino: stat.st_ino,
                    data: None,
                }),
            })
        }
        Some(Hit::Indexed(at)) => {
            let index = index?;
            let inode = whole(index, index.inode(at)).ok()??;
            let nlink = inode.nlink;
            (Kind::indexed(inode.kind) == Kind::File).then_some(LowerData {
                blocks: inode.blocks,
                file: LowerFile::Indexed { at, nlink },
            })
        }
        Some(_) | None => None,
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
