//! Copy-up: giving a layer's file or directory a place in the upper directory, before a change.
//!
//! Everything is made whole in the work directory, reaches the disk, and only then takes its
//! names: a crash or an error on the way leaves a leftover in `work` and the view as it was. Data
//! is copied under the node's own mutex, without the tree lock; only the moment of taking the names
//! has it exclusively. What the kernel knows of the node stays true: number, contents, times.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::attr::Kind;
use super::copy_data::{copy_data, times_of};
use super::error::{Error, Result};
use super::find::upper_identity;
use super::fs::{Stale, Union, Upper};
use super::inode_table::{Identity, Name};
use super::layers::{LowerData, LowerFile, LowerPath};
use super::metacopy::Metacopy;
use super::node::{Data, DirUpper, Node, Place};
use super::owner::IdMap;
use crate::sys::dirfd;

/// How much of a file's data its copy needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it.
    All,
    /// None: it is truncated at once.
    None,
    /// None for now: it stays as it is, and where it is.
    Metadata,
}

/// A copy that has no name in the upper directory yet.
struct Copy {
    /// `O_PATH`.
    location: OwnedFd,
    /// Of a regular file that has its data, open for reading and writing.
    file: Option<OwnedFd>,
    /// Where its data are.
    data: Data,
}

/// What a copy is made of.
struct Source {
    file: LowerFile,
    stat: Stat,
    /// `O_PATH`, of the metadata.
    location: Arc<OwnedFd>,
    /// `O_PATH`.
    data: Arc<OwnedFd>,
    /// Where the lower layers show it.
    path: LowerPath,
}

impl Source {
    /// What is to be known of a copy of the metadata alone.
    fn metacopy(&self) -> Metacopy {
        let data = match self.file.data() {
            Some(data) => data.clone(),
            None => LowerData {
                file: self.file.clone(),
                blocks: u64::try_from(self.stat.st_blocks).unwrap_or(0),
            },
        };
        Metacopy {
            data,
            path: self.path.clone(),
        }
    }
}

impl Union {
    /// Makes sure that a node can be changed in the upper directory. Takes the tree lock itself.
    pub(super) fn copy_up(&self, node: &Arc<Node>, content: Content) -> Result<()> {
        let upper = self.writable()?;
        if node.is_upper() && (content == Content::Metadata || node.metacopy().is_none()) {
            return Ok(());
        }
        if node.kind == Kind::Directory {
            let _tree = self.tree.write();
            return self.copy_up_dirs(node);
        }
        let _once = node.copy_up.lock();
        let file = match node.place() {
            Place::Lower(file) => file,
            Place::Upper(_) | Place::Held(..) => return self.complete(node, content),
            Place::Dir(_) => return Ok(()),
        };
        let source = {
            let _tree = self.tree.read();
            let location = self.lower_file_fd(&file)?;
            Source {
                stat: self.owned(self.stat_with_kept(node, &*location)?),
                data: match file.data() {
                    Some(_) => self.lower_data_fd(&file)?,
                    None => location.clone(),
                },
                location,
                path: self.lower_path_of(node)?,
                file,
            }
        };
        // Before the tree lock: this walks a plain layer, once.
        self.look_for_links(&source.file)?;
        let name = upper.work.fresh();
        let placed = self
            .make_copy(upper, node, &name, &source, content)
            .and_then(|copy| {
                let _tree = self.tree.write();
                self.put_into_place(upper, node, &source.file, &name, copy)
            });
        if placed.is_err() {
            upper.work.discard(&name);
        }
        placed
    }

    /// Where all that the view shows has one owner, so has what it writes: whoever may write as
    /// that one alone could not give it to another.
    fn owned(&self, mut stat: Stat) -> Stat {
        let owners = &self.options.owners;
        if let IdMap::All(id) = owners.uids {
            stat.st_uid = id;
        }
        if let IdMap::All(id) = owners.gids {
            stat.st_gid = id;
        }
        stat
    }

    /// The copy, in the work directory under `name`.
    fn make_copy(
        &self,
        upper: &Upper,
        node: &Node,
        name: &[u8],
        source: &Source,
        content: Content,
    ) -> Result<Copy> {
        let work = &upper.work;
        let stat = &source.stat;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut data = Data::Own;
        let mut opened = None;
        let mut to_sync = None;
        match node.kind {
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = rustix::fs::openat(work, name, flags | OFlags::NOFOLLOW, mode)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                // The names are all known by their path; with several, which one does not matter.
                let redirect = (stat.st_nlink > 1).then_some(&source.path);
                if content == Content::Metadata
                    && size > 0
                    && !self.options.no_metacopy
                    && self.mark_metacopy(&file, redirect)?
                {
                    // Nothing to wait for: file systems keep the order of changes of metadata.
                    rustix::fs::ftruncate(&file, size)?;
                    data = Data::Lower(Arc::new(source.metacopy()));
                } else {
                    let file = opened.insert(file);
                    if content != Content::None && size > 0 {
                        let source = dirfd::reopen_noatime(&*source.data, OFlags::RDONLY)?;
                        let durable = !self.options.volatile;
                        copy_data(source, &*file, size, durable)?;
                        to_sync = Some(file).filter(|_| durable);
                    }
                }
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&*source.location, "", Vec::new())?;
                rustix::fs::symlinkat(target, work, name)?;
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                let device = stat.st_rdev;
                rustix::fs::mknodat(work, name, node.kind.file_type(), mode, device)?;
            }
            Kind::Directory => return Err(Error::IsADirectory),
        }
        let location = dirfd::open_path(work, name)?;
        self.copy_metadata(&*source.location, stat, &location)?;
        let origin = node.ino.to_string();
        let set = dirfd::set_xattr_fd(
            &location,
            self.xattrs.origin,
            origin.as_bytes(),
            XattrFlags::empty(),
        );
        match set {
            // Not possible here (user attributes are for files and directories only): the number
            // changes with the next mount, which is all that is lost.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(file) = to_sync {
            // The crash that this is for: a name whose data never reached the disk.
            rustix::fs::fsync(file)?;
        }
        Ok(Copy {
            location,
            file: opened,
            data,
        })
    }

    /// Gives the copy the names of the node. Needs the tree lock exclusively.
    fn put_into_place(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        file: &LowerFile,
        temporary: &[u8],
        copy: Copy,
    ) -> Result<()> {
        let work = &upper.work;
        let Copy {
            location,
            file: opened,
            data,
        } = copy;
        if node.is_gone() {
            // Unlinked while open, and changed after that: only the descriptor leads to it.
            rustix::fs::unlinkat(work, temporary, AtFlags::empty())?;
            let place = Place::Held(Arc::new(location), data);
            self.is_now(node, place, None, opened);
            return Ok(());
        }
        let identity = upper_identity(&rustix::fs::fstat(&location)?);
        if file.is_hard_link() {
            self.find_link_names(file)?;
        }
        let names = self.nodes.table.lock().names(node.ino).to_vec();
        let mut done: Vec<(Arc<OwnedFd>, Name)> = Vec::new();
        for (parent, name) in &names {
            let linked = self.node(*parent).and_then(|parent| {
                self.copy_up_dirs(parent.node())?;
                let dir = self.upper_fd(parent.node())?;
                keep_times(&*dir, || {
                    if names.len() == 1 {
                        let flags = RenameFlags::NOREPLACE;
                        rustix::fs::renameat_with(work, temporary, &*dir, &**name, flags)?;
                    } else {
                        rustix::fs::linkat(work, temporary, &*dir, &**name, AtFlags::empty())?;
                    }
                    Ok(())
                })?;
                Ok(dir)
            });
            match linked {
                Ok(dir) => done.push((dir, name.clone())),
                Err(error) => {
                    for (dir, name) in done {
                        keep_times(&*dir, || {
                            Ok(rustix::fs::unlinkat(&*dir, &*name, AtFlags::empty())?)
                        })?;
                    }
                    return Err(error);
                }
            }
        }
        if names.len() != 1 {
            rustix::fs::unlinkat(work, temporary, AtFlags::empty())?;
        }
        let place = if names.is_empty() {
            Place::Held(Arc::new(location), data)
        } else {
            Place::Upper(data)
        };
        self.is_now(node, place, Some(identity), opened);
        Ok(())
    }

    /// The node has been copied up: later reads of its open handles go to the copy.
    fn is_now(
        &self,
        node: &Arc<Node>,
        place: Place,
        identity: Option<Identity>,
        file: Option<OwnedFd>,
    ) {
        let mut files = node.files.lock();
        // Without its data, these are where they were.
        if let Some(file) = file {
            self.data_is_now(node, &mut files, Arc::new(file));
        }
        node.state.lock().place = place;
        self.nodes.table.lock().set_identity(node.ino, identity);
        drop(files);
        self.stale(Stale::Attributes(node.ino));
    }

    /// Makes sure that a directory, and all above it, is in the upper directory. Needs the tree
    /// lock exclusively.
    pub(super) fn copy_up_dirs(&self, dir: &Arc<Node>) -> Result<()> {
        let upper = self.writable()?;
        let mut missing = Vec::new();
        let mut at = dir.clone();
        while !at.is_upper() {
            if at.is_gone() {
                return self.copy_up_removed_dir(upper, &at);
            }
            let (parent, name) = self.first_name(&at).ok_or(Error::NotFound)?;
            missing.push((at, parent.clone(), name));
            at = parent;
        }
        for (dir, parent, name) in missing.into_iter().rev() {
            let temporary = self.make_dir_copy(upper, &dir)?;
            let parent = self.upper_fd(&parent)?;
            let placed = keep_times(&*parent, || {
                let flags = RenameFlags::NOREPLACE;
                Ok(rustix::fs::renameat_with(
                    &upper.work,
                    &*temporary,
                    &*parent,
                    &*name,
                    flags,
                )?)
            });
            if placed.is_err() {
                upper.work.discard(&temporary);
            }
            placed?;
            self.set_dir_upper(&dir, DirUpper::Present);
        }
        Ok(())
    }

    /// A removed directory that somebody still holds takes changes of its attributes, too.
    fn copy_up_removed_dir(&self, upper: &Upper, dir: &Arc<Node>) -> Result<()> {
        let temporary = self.make_dir_copy(upper, dir)?;
        let held = dirfd::open_dir(&upper.work, &temporary)?;
        rustix::fs::unlinkat(&upper.work, &*temporary, AtFlags::REMOVEDIR)?;
        self.set_dir_upper(dir, DirUpper::Removed(Arc::new(held)));
        Ok(())
    }

    fn set_dir_upper(&self, dir: &Arc<Node>, upper: DirUpper) {
        if let Place::Dir(place) = &mut dir.state.lock().place {
            place.upper = upper;
        }
        self.nodes.table.lock().keep(dir.ino);
        // The descriptor in the cache, if any, is of the lower one under another number: nothing
        // to forget. Its change time is the copy's now.
        self.stale(Stale::Attributes(dir.ino));
    }

    fn make_dir_copy(&self, upper: &Upper, dir: &Arc<Node>) -> Result<Name> {
        let temporary = upper.work.fresh();
        let source = self.path_fd(dir)?;
        let stat = self.owned(self.stat_with_kept(dir, &*source)?);
        rustix::fs::mkdirat(&upper.work, &*temporary, Mode::RWXU)?;
        let copied = dirfd::open_dir(&upper.work, &temporary)
            .map_err(Error::from)
            .and_then(|copy| self.copy_metadata(&*source, &stat, copy));
        if copied.is_err() {
            upper.work.discard(&temporary);
        }
        copied.map(|()| temporary)
    }
}

/// Does something in a directory that its times are not to show: a copy-up is no change that the
/// user made. A crash in between leaves them disturbed, and so does a disk that cannot take them:
/// nothing else depends on them, but what was done has been done.
pub(super) fn keep_times<T>(dir: impl AsFd, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = times_of(&rustix::fs::fstat(&dir)?);
    let done = act()?;
    if let Err(e) = dirfd::set_times_fd(dir, &before) {
        tracing::warn!("a directory's times show a copy-up: {e}");
    }
    Ok(done)
}
