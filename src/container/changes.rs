//! What a container has changed: a walk over three trees at once, the view, the raw upper directory and
//! the merged index of the layers below.
//!
//! The upper directory says where to look, for all that is changed has an entry in it; what has become
//! of it say the other two. So nothing here knows how whiteouts, metacopies or redirects are stored:
//! only that an opaque directory, or a moved one, has to be looked through whole. In such a one every
//! file that the layers have under the same name counts as modified.
//!
//! The container is hostile and may run meanwhile: every name is opened by its directory's descriptor,
//! without following it, and what vanishes in between is taken as not there.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use crate::model::index::{Index, Inode, Kind};
use crate::model::tar::shown;
use crate::model::xattr::is_private;
use crate::sys::dirfd::{get_xattr_fd, list_xattrs_fd, open_dir, open_path, read_dir};
use crate::sys::reason;

/// What has become of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The layers have it, and it is another now.
    Modified,
    /// The layers do not have it.
    Added,
    /// Only the layers have it.
    Deleted,
}

impl ChangeKind {
    /// As `docker diff` writes it.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// One name that a container has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What has become of it.
    pub kind: ChangeKind,
    /// Where: begins with `/`, which is the root directory's whole path.
    pub path: Vec<u8>,
}

/// Why the trees cannot be compared.
#[derive(Debug, thiserror::Error)]
#[error("cannot compare {} with the image: {}", shown(path), reason(source))]
pub struct ChangesError {
    path: Vec<u8>,
    source: io::Error,
}

/// What a runtime makes for its mounts where the image has nothing. Docker has them in a layer of its
/// own, which `docker diff` and `commit` do not show.
const MOUNT_POINTS: [&[u8]; 11] = [
    b"/dev",
    b"/dev/console",
    b"/dev/mqueue",
    b"/dev/pts",
    b"/dev/shm",
    b"/etc/hostname",
    b"/etc/hosts",
    b"/etc/resolv.conf",
    b"/proc",
    b"/sys",
    b"/sys/fs/cgroup",
];

/// What is made on the way to them, and hidden if it holds nothing else.
const ON_THE_WAY: [&[u8]; 2] = [b"/etc", b"/sys/fs"];

/// The longest path that an archive or a system call takes. It bounds how deep the walk goes, too.
const MAX_PATH: usize = 4095;

/// What has changed, in the order of a walk: a directory before what is in it, names by their bytes.
/// The root directory comes first, if anything has changed and its own metadata too.
///
/// `view` is the root of the view, `upper` that of the container's raw upper directory, `lower` the
/// merged index of the image's layers.
///
/// # Errors
/// What cannot be read, and where; a path of more than 4,095 bytes.
pub fn changes<B: AsRef<[u8]>>(
    view: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    lower: &Index<B>,
) -> Result<Vec<Change>, ChangesError> {
    let mut walk = Walk {
        lower,
        path: Vec::new(),
        found: Vec::new(),
        device: 0,
    };
    let stat = walk.told(fstat(view))?;
    walk.device = stat.st_dev;
    let upper = walk.told(looked_at(upper))?;
    let below = walk.directory(view, upper.as_ref().map(AsFd::as_fd), 0)?;
    let differs = walk.differs(view, &stat, 0)?;
    if below.reported && is_change(differs, &below) {
        let root = Change {
            kind: ChangeKind::Modified,
            path: b"/".to_vec(),
        };
        walk.found.insert(0, root);
    }
    Ok(walk.found)
}

struct Walk<'a, B> {
    lower: &'a Index<B>,
    /// Where it is: empty at the root.
    path: Vec<u8>,
    found: Vec<Change>,
    /// The view's. What has another is mounted over it.
    device: u64,
}

/// What there was in a directory.
#[derive(Debug, Default)]
struct Below {
    /// Changes.
    reported: bool,
    /// Mount points of a runtime, which are no changes.
    hidden: bool,
}

/// How a directory's metadata differ from those in the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    No,
    /// In the modification time alone.
    InTime,
    Yes,
}

/// Whether a directory itself is a change: its time may have moved because of what is not to be seen.
fn is_change(differs: Differs, below: &Below) -> bool {
    match differs {
        Differs::No => false,
        Differs::InTime => below.reported || !below.hidden,
        Differs::Yes => true,
    }
}

type Result_<T> = Result<T, ChangesError>;

impl<B: AsRef<[u8]>> Walk<'_, B> {
    fn told<T>(&self, result: Result<T, impl Into<io::Error>>) -> Result_<T> {
        result.map_err(|e| ChangesError {
            path: match self.path.is_empty() {
                true => b"/".to_vec(),
                false => self.path.clone(),
            },
            source: e.into(),
        })
    }

    fn push(&mut self, kind: ChangeKind) {
        self.found.push(Change {
            kind,
            path: self.path.clone(),
        });
    }

    /// Do something one name further down.
    fn at<T>(&mut self, name: &[u8], act: impl FnOnce(&mut Self) -> Result_<T>) -> Result_<T> {
        let length = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        let result = match self.path.len() > MAX_PATH {
            true => self.told(Err(Errno::NAMETOOLONG)),
            false => act(self),
        };
        self.path.truncate(length);
        result
    }

    /// Compare a directory that is in the view and, as `lower`, in the layers: the names that are in
    /// `upper` or, without that, all names.
    fn directory(
        &mut self,
        view: BorrowedFd<'_>,
        upper: Option<BorrowedFd<'_>>,
        lower: u32,
    ) -> Result_<Below> {
        let mut names: BTreeSet<Box<[u8]>> = BTreeSet::new();
        let listed = self.told(read_dir(upper.unwrap_or(view)))?;
        names.extend(listed.into_iter().map(|entry| entry.name));
        if upper.is_none() {
            names.extend(self.lower.children(lower).map(|(name, _)| name.into()));
        }
        let mut below = Below::default();
        for name in names {
            let reported = self.found.len();
            let hidden = self.at(&name, |walk| {
                let lower = walk.lower.child(lower, &name);
                let lower = lower.and_then(|at| Some((at, walk.lower.inode(at)?)));
                match (walk.look(view, &name)?, lower) {
                    (None, None) => Ok(false),
                    (None, Some(_)) => {
                        walk.push(ChangeKind::Deleted);
                        Ok(false)
                    }
                    (Some((fd, stat)), None) => walk.added(&fd, &stat).map(|added| !added),
                    (Some((fd, stat)), Some((at, inode))) => {
                        let upper = upper.map(|upper| open_dir(upper, &name));
                        // Not a directory there, or not there at all: the layers' own, which is not
                        // to be here unless the view has changed meanwhile.
                        let upper = upper.and_then(Result::ok);
                        walk.modified((&fd, &stat), upper, at, &inode)?;
                        Ok(false)
                    }
                }
            })?;
            below.hidden |= hidden;
            below.reported |= self.found.len() > reported;
        }
        Ok(below)
    }

    /// What the view has under a name.
    fn look(&self, view: BorrowedFd<'_>, name: &[u8]) -> Result_<Option<(OwnedFd, Stat)>> {
        match open_path(view, name) {
            Ok(fd) => {
                let stat = self.told(fstat(&fd))?;
                Ok(Some((fd, stat)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => self.told(Err(e)),
        }
    }

    /// A name that the layers have as well.
    fn modified(
        &mut self,
        (fd, stat): (&OwnedFd, &Stat),
        upper: Option<OwnedFd>,
        at: u32,
        inode: &Inode,
    ) -> Result_<()> {
        let is_directory = is_dir(stat);
        let before = self.found.len();
        self.push(ChangeKind::Modified);
        if !is_directory {
            return Ok(());
        }
        if inode.kind != Kind::Directory {
            return self.all_added(fd, stat).map(drop);
        }
        if stat.st_dev != self.device {
            // Something is mounted over it: nothing of it is the container's.
            self.found.truncate(before);
            return Ok(());
        }
        let upper = match upper {
            Some(upper) => self.told(looked_at(upper.as_fd()))?,
            None => None,
        };
        let below = self.directory(fd.as_fd(), upper.as_ref().map(AsFd::as_fd), at)?;
        let differs = self.differs(fd.as_fd(), stat, at)?;
        if !below.reported && !is_change(differs, &below) {
            self.found.truncate(before);
        }
        Ok(())
    }

    /// A name that the layers do not have, and all below it. False if it is a runtime's mount point.
    fn added(&mut self, fd: &OwnedFd, stat: &Stat) -> Result_<bool> {
        let before = self.found.len();
        self.push(ChangeKind::Added);
        let is_mount_point = MOUNT_POINTS.contains(&self.path.as_slice());
        let below = match is_dir(stat) {
            true => self.all_added(fd, stat)?,
            false => Below {
                reported: stat.st_size > 0,
                hidden: false,
            },
        };
        let is_on_the_way = ON_THE_WAY.contains(&self.path.as_slice()) && below.hidden;
        if (is_mount_point || is_on_the_way) && !below.reported {
            self.found.truncate(before);
            return Ok(false);
        }
        Ok(true)
    }

    /// What is in a directory that the layers do not have.
    fn all_added(&mut self, fd: &OwnedFd, stat: &Stat) -> Result_<Below> {
        let mut below = Below::default();
        if stat.st_dev != self.device {
            return Ok(below);
        }
        let mut names = self.told(read_dir(fd))?;
        names.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in names {
            let added = self.at(&entry.name, |walk| {
                match walk.look(fd.as_fd(), &entry.name)? {
                    Some((fd, stat)) => walk.added(&fd, &stat).map(Some),
                    None => Ok(None),
                }
            })?;
            below.reported |= added == Some(true);
            below.hidden |= added == Some(false);
        }
        Ok(below)
    }

    /// Whether a directory's metadata are not those of the layers.
    fn differs(&self, fd: BorrowedFd<'_>, stat: &Stat, at: u32) -> Result_<Differs> {
        let Some(inode) = self.lower.inode(at) else {
            return Ok(Differs::Yes);
        };
        let same_owner = (stat.st_uid, stat.st_gid) == (inode.uid, inode.gid);
        if stat.st_mode & 0o7777 != inode.mode || !same_owner {
            return Ok(Differs::Yes);
        }
        let xattrs = self.told(xattrs(fd))?;
        let before = self.lower.xattrs(at);
        let before = before.filter(|(name, _)| is_compared(name));
        if !before.eq(xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice()))) {
            return Ok(Differs::Yes);
        }
        let same_time =
            stat.st_mtime == inode.mtime.secs && u64::from(inode.mtime.nanos) == stat.st_mtime_nsec;
        Ok(match same_time {
            true => Differs::No,
            false => Differs::InTime,
        })
    }
}

/// A directory of the upper directory, if it stands for changes to the one of the same name in the
/// layers; `None` if it hides that, or is another's that was moved here.
fn looked_at(upper: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    for form in ["trusted", "user"] {
        for mark in ["opaque", "redirect"] {
            let name = format!("{form}.overlay.{mark}");
            if get_xattr_fd(upper, name.as_bytes())?.is_some() {
                return Ok(None);
            }
        }
    }
    rustix::io::fcntl_dupfd_cloexec(upper, 3).map(Some)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Labels are the host's.
fn is_compared(name: &[u8]) -> bool {
    !is_private(name) && name != b"security.selinux"
}

/// The extended attributes of a directory, sorted by their names.
fn xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in list_xattrs_fd(fd)? {
        if is_compared(&name)
            && let Some(value) = get_xattr_fd(fd, &name)?
        {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}
