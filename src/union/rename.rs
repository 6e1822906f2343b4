//! Rename: observes the facts, and executes the steps of `rename_plan`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::attr::Kind;
use super::copy_up::Content;
use super::error::{Error, Result};
use super::fs::{Stale, Union, Upper};
use super::inode_table::ROOT;
use super::layers::{is_dir, is_whiteout};
use super::lookup::check_name;
use super::node::{DirPlace, Node, NodeRef, Place};
use super::rename_plan::{Facts, InUpper, Side, Step, plan};
use super::resolve::Shown;
use crate::sys::dirfd;

/// What is to become of the target of a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameHow {
    /// It is replaced.
    Replace,
    /// There must be none.
    NoReplace,
    /// It takes the source's name.
    Exchange,
}

/// One end of a rename: a name in a directory, with what it shows.
struct End<'a> {
    parent: Arc<Node>,
    dir: Arc<OwnedFd>,
    name: &'a [u8],
    node: Option<&'a NodeRef>,
}

impl Union {
    /// Moves a name.
    pub fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        how: RenameHow,
    ) -> Result<()> {
        check_name(name)?;
        self.check_new_name(new_name)?;
        self.writable()?;
        let parent = self.node(parent)?;
        let new_parent = self.node(new_parent)?;
        // Again whenever something has changed between the copy-ups, which take the tree lock
        // themselves, and the rename.
        loop {
            let (source, target) = {
                let _tree = self.tree.read();
                let source = self.lookup_child(&parent, name)?;
                (source, self.lookup_child_opt(&new_parent, new_name)?)
            };
            self.check_rename(&source, target.as_ref(), &new_parent, &parent, how)?;
            if target
                .as_ref()
                .is_some_and(|target| target.ino == source.ino)
            {
                // Two names of one inode: POSIX wants nothing to be done.
                return Ok(());
            }
            self.copy_up_to_move(source.node())?;
            match &target {
                Some(target) if how == RenameHow::Exchange => {
                    self.copy_up_to_move(target.node())?;
                }
                Some(target) if target.is_lower_hard_link() => {
                    self.copy_up(target.node(), Content::Metadata)?;
                }
                Some(_) | None => {}
            }
            let _tree = self.tree.write();
            let source_now = self.lookup_child(&parent, name)?;
            let target_now = self.lookup_child_opt(&new_parent, new_name)?;
            let ino = |node: &Option<NodeRef>| node.as_ref().map(|node| node.ino);
            if source_now.ino != source.ino || ino(&target_now) != ino(&target) {
                continue;
            }
            // Again: only now do all directories stay where they are.
            self.check_rename(&source, target.as_ref(), &new_parent, &parent, how)?;
            return self.rename_locked(&parent, name, &new_parent, new_name, source, target, how);
        }
    }

    fn check_rename(
        &self,
        source: &NodeRef,
        target: Option<&NodeRef>,
        new_parent: &Arc<Node>,
        parent: &Arc<Node>,
        how: RenameHow,
    ) -> Result<()> {
        let is_dir = source.kind == Kind::Directory;
        if new_parent.is_gone() {
            return Err(Error::NotFound);
        }
        if is_dir && self.is_below(new_parent, source.ino) {
            return Err(Error::Invalid);
        }
        let Some(target) = target else {
            return if how == RenameHow::Exchange {
                Err(Error::NotFound)
            } else {
                Ok(())
            };
        };
        let target_is_dir = target.kind == Kind::Directory;
        match how {
            RenameHow::NoReplace => Err(Error::Exists),
            RenameHow::Exchange if target_is_dir && self.is_below(parent, target.ino) => {
                Err(Error::Invalid)
            }
            RenameHow::Exchange => Ok(()),
            RenameHow::Replace if is_dir && !target_is_dir => Err(Error::NotADirectory),
            RenameHow::Replace if !is_dir && target_is_dir => Err(Error::IsADirectory),
            RenameHow::Replace => Ok(()),
        }
    }

    /// Whether a directory is another or below it. The kernel checks it, but a caller without one
    /// must not be able to tie a knot either.
    fn is_below(&self, dir: &Arc<Node>, ancestor: u64) -> bool {
        let mut at = Some(dir.clone());
        while let Some(node) = at {
            if node.ino == ancestor {
                return true;
            }
            at = if node.ino == ROOT {
                None
            } else {
                self.first_name(&node).map(|(p, _)| p)
            };
        }
        false
    }

    #[allow(clippy::too_many_arguments)]
    fn rename_locked(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        new_parent: &Arc<Node>,
        new_name: &[u8],
        source: NodeRef,
        target: Option<NodeRef>,
        how: RenameHow,
    ) -> Result<()> {
        let upper = self.writable()?;
        let exchange = how == RenameHow::Exchange;
        if let Some(target) = &target {
            let replaced_dir = !exchange && target.kind == Kind::Directory;
            if replaced_dir && !self.merged_listing(target.node())?.is_empty() {
                return Err(Error::NotEmpty);
            }
        }
        self.copy_up_dirs(parent)?;
        self.copy_up_dirs(new_parent)?;
        let from = End {
            parent: parent.clone(),
            dir: self.upper_fd(parent)?,
            name,
            node: Some(&source),
        };
        let to = End {
            parent: new_parent.clone(),
            dir: self.upper_fd(new_parent)?,
            name: new_name,
            node: target.as_ref(),
        };
        // An exchange replaces nothing that would have to be empty.
        let steps = plan(
            self.facts(&from, false)?,
            self.facts(&to, !exchange)?,
            exchange,
        );
        let moves_dirs = [Some(&source), target.as_ref()]
            .into_iter()
            .flatten()
            .any(|node| node.kind == Kind::Directory);
        let leaving = match target.as_ref().filter(|_| !exchange) {
            Some(target) => Some(self.about_to_leave(self.nodes.count(target.node().clone()))?),
            None => None,
        };
        for step in steps {
            self.rename_step(upper, step, &from, &to)?;
        }
        if moves_dirs {
            self.hard_links.directories_moved();
        }
        // The disk is done; the table follows.
        let gone = {
            let mut table = self.nodes.table.lock();
            table.add_name(source.ino, new_parent.ino, new_name);
            match &target {
                Some(target) if exchange => {
                    table.add_name(target.ino, parent.ino, name);
                    Vec::new()
                }
                Some(_) | None => table.remove_name(parent.ino, name),
            }
        };
        self.nodes.bury(gone);
        if moves_dirs && parent.ino != new_parent.ino {
            self.stale(Stale::Listing(source.ino));
            if let Some(target) = target.filter(|_| exchange) {
                self.stale(Stale::Listing(target.ino));
            }
        }
        leaving.map_or(Ok(()), |leaving| self.settle(leaving))
    }

    /// What is known of a name; whether a directory is filled only if it `is_replaced`.
    fn facts(&self, place: &End<'_>, is_replaced: bool) -> Result<Facts> {
        let below =
            self.lowers_show(&place.parent.dir().ok_or(Error::NotADirectory)?, place.name)?;
        let upper = match dirfd::stat_at_opt(&*place.dir, place.name)? {
            None => InUpper::Absent,
            Some(stat) if is_whiteout(&stat) => InUpper::Whiteout,
            Some(stat) if is_dir(&stat) => {
                let fd = dirfd::open_dir(&*place.dir, place.name)?;
                let merged = place.node.and_then(|node| node.dir());
                let merged = merged.filter(|dir| !dir.lowers.is_empty());
                InUpper::Dir {
                    filled: is_replaced && !dirfd::is_empty_dir(&fd)?,
                    marked: self.is_marked(&fd, merged.as_ref())?,
                    merged: merged.is_some(),
                }
            }
            Some(_) => InUpper::File,
        };
        Ok(Facts {
            upper,
            below: !matches!(below, Shown::Nothing),
            dir_below: matches!(below, Shown::Dirs(_)),
        })
    }

    /// Whether a directory already has the mark that lets it be moved.
    fn is_marked(&self, fd: &OwnedFd, merged: Option<&DirPlace>) -> Result<bool> {
        match merged {
            Some(dir) => {
                let redirect = dirfd::get_xattr_fd(fd, self.xattrs.redirect)?;
                let path = self.path_below(dir)?.to_redirect();
                Ok(redirect.is_some_and(|value| value == path))
            }
            None => Ok(self.is_opaque_fd(fd)?),
        }
    }

    fn rename_step(&self, upper: &Upper, step: Step, from: &End<'_>, to: &End<'_>) -> Result<()> {
        let of = |side| match side {
            Side::Source => from,
            Side::Target => to,
        };
        match step {
            Step::Redirect(side) => self.redirect(of(side)),
            Step::Opaque(side) => {
                let fd = dirfd::open_dir(&*of(side).dir, of(side).name)?;
                self.make_opaque(&fd)
            }
            Step::EmptyTarget => self.empty_target(upper, to),
            Step::Move { whiteout: false } => {
                rustix::fs::renameat(&*from.dir, from.name, &*to.dir, to.name)?;
                self.uncover(&to.dir, to.name);
                Ok(())
            }
            Step::Move { whiteout: true } => {
                self.move_leaving_whiteout(upper, from, to)?;
                self.uncover(&to.dir, to.name);
                Ok(())
            }
            Step::Exchange => {
                let flags = RenameFlags::EXCHANGE;
                Ok(rustix::fs::renameat_with(
                    &*from.dir, from.name, &*to.dir, to.name, flags,
                )?)
            }
            Step::RemoveWhiteout => Ok(rustix::fs::unlinkat(
                &*from.dir,
                from.name,
                AtFlags::empty(),
            )?),
        }
    }

    fn redirect(&self, place: &End<'_>) -> Result<()> {
        let Some(dir) = place.node.and_then(|node| node.dir()) else {
            return Err(Error::NotADirectory);
        };
        if self.options.no_redirects {
            return Err(Error::NoRedirect);
        }
        self.mark_redirects()?;
        let fd = dirfd::open_dir(&*place.dir, place.name)?;
        self.set_redirect(fd, &self.path_below(&dir)?)
    }

    /// The kernel renames over an empty directory only, and whiteouts are entries to it.
    fn empty_target(&self, upper: &Upper, to: &End<'_>) -> Result<()> {
        let work = &upper.work;
        let temporary = work.fresh();
        let old = dirfd::open_dir(&*to.dir, to.name)?;
        let stat = self.upper_stat(&old)?;
        rustix::fs::mkdirat(work, &*temporary, rustix::fs::Mode::RWXU)?;
        let made = dirfd::open_dir(work, &temporary)
            .map_err(Error::from)
            .and_then(|new| {
                self.copy_metadata(&old, &stat, &new)?;
                self.make_opaque(&new)?;
                let flags = RenameFlags::EXCHANGE;
                Ok(rustix::fs::renameat_with(
                    work,
                    &*temporary,
                    &*to.dir,
                    to.name,
                    flags,
                )?)
            });
        work.discard(&temporary);
        made?;
        if let Some(node) = to.node {
            // The directory under this name is another one now, and hides the layers' parts.
            self.nodes.fds.forget(node.id);
            if let Place::Dir(place) = &mut node.state.lock().place {
                place.lowers = Arc::default();
            }
        }
        Ok(())
    }

    fn move_leaving_whiteout(&self, upper: &Upper, from: &End<'_>, to: &End<'_>) -> Result<()> {
        if upper.work.makes_files() {
            // First, for it hides nothing that the upper directory has.
            upper.work.link_whiteout(&*from.dir, from.name)?;
            return Ok(rustix::fs::renameat(
                &*from.dir, from.name, &*to.dir, to.name,
            )?);
        }
        let flags = RenameFlags::WHITEOUT;
        match rustix::fs::renameat_with(&*from.dir, from.name, &*to.dir, to.name, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
            other => return Ok(other?),
        }
        // A file system without RENAME_WHITEOUT: something to exchange with comes first.
        if dirfd::stat_at_opt(&*to.dir, to.name)?.is_none() {
            upper.work.link_whiteout(&*to.dir, to.name)?;
        }
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(&*from.dir, from.name, &*to.dir, to.name, flags)?;
        if dirfd::stat_at(&*from.dir, from.name).is_ok_and(|stat| is_whiteout(&stat)) {
            return Ok(());
        }
        upper.work.replace_by_whiteout(&*from.dir, from.name)
    }
}
