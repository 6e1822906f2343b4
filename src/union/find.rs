//! What a name shows in a directory: the layers are asked, from the top down, and `resolve` judges.
//!
//! All of this needs the tree lock, shared at least, but for what is about the layers alone.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::attr::{Attr, Kind};
use super::error::{Error, Result};
use super::fs::Union;
use super::indexed::{needs_node, whole};
use super::inode_table::{Identity, Name, Newcomer, indexed_ino, lower_ino};
use super::layers::{
    LowerData, LowerDir, LowerFile, LowerIndex, LowerPath, PlainDir, PlainFile, Redirect, is_dir,
    is_whiteout, parse_redirect,
};
use super::metacopy::{FileMarks, Metacopy, no_data};
use super::node::{Data, DirPlace, DirUpper, Node, Place};
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
    pub(super) fn on_disk(
        identity: Option<Identity>,
        preferred: u64,
        place: Place,
        stat: &Stat,
    ) -> Found {
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
    pub(super) fn unchanged(&self) -> Option<u32> {
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

/// What makes an inode of the upper directory's file system the same under all its names.
pub(super) fn upper_identity(stat: &Stat) -> Identity {
    Identity::Upper {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}
