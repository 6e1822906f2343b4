//! Where a benchmark works: a file system that was made a moment ago, or a directory of somebody's choice.
//!
//! The file system is in a sparse file that has lost its name, on a loop device that goes with its mount
//! (losetup(8), "autoclear"). A journal makes the difference between figures and noise: on an ext4 without
//! one, creating files is several times slower for a while after many were deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs, syncfs};
use tempfile::TempDir;

use super::BenchError;
use super::program::{Program, find, find_or_lack};
use super::stop::Stop;
use crate::sys::mounts::{mounts, unmount};

/// A kind of file system that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// With a journal, its tables written before anything is measured.
    Ext4,
    /// As `mkfs.xfs` makes it.
    Xfs,
    /// As `mkfs.btrfs` makes it.
    Btrfs,
}

impl FsKind {
    /// As mount(8) names it.
    pub fn name(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Btrfs => "btrfs",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            FsKind::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            FsKind::Xfs => &["-q", "-f"],
            FsKind::Btrfs => &["-q", "-f"],
        }
    }

    fn package(self) -> &'static str {
        match self {
            FsKind::Ext4 => "e2fsprogs",
            FsKind::Xfs => "xfsprogs",
            FsKind::Btrfs => "btrfs-progs",
        }
    }
}

/// Which disk to work on.
#[derive(Debug, Clone)]
pub enum Where {
    /// A new file system of this kind and size in bytes, in a sparse file in a directory.
    New(FsKind, u64, PathBuf),
    /// A directory, in which a new one is made.
    Directory(PathBuf),
}

/// A disk to work on. Nothing stays of it.
#[derive(Debug)]
pub struct Disk {
    /// What this says in [`Disk::describe`].
    kind: String,
    /// Where files go: the top of the file system, or a directory of its own.
    top: PathBuf,
    is_mounted: bool,
    /// Beside the disk: for what must not be on it. Also what `top` is in.
    beside: TempDir,
}

impl Disk {
    /// Make one.
    ///
    /// # Errors
    /// [`BenchError::Lacks`]: root, a loop device, a program; and what can be done.
    pub fn make(place: &Where, stop: &Stop) -> Result<Disk, BenchError> {
        let (Where::New(_, _, within) | Where::Directory(within)) = place;
        // As the kernel names it: so its mounts are found.
        let within = &within
            .canonicalize()
            .map_err(BenchError::at("find", within))?;
        let beside = tempfile::Builder::new()
            .prefix("layerctl-bench.")
            .tempdir_in(within)
            .map_err(BenchError::at("create a directory in", within))?;
        let top = beside.path().join("disk");
        fs::create_dir(&top).map_err(BenchError::at("create", &top))?;
        let mut disk = Disk {
            kind: String::new(),
            top,
            is_mounted: false,
            beside,
        };
        match place {
            Where::Directory(dir) => disk.kind = format!("{} of {}", type_of(dir)?, dir.display()),
            Where::New(kind, size, _) => disk.mount(*kind, *size, stop)?,
        }
        Ok(disk)
    }

    fn mount(&mut self, kind: FsKind, size: u64, stop: &Stop) -> Result<(), BenchError> {
        let lacks = |what: String| BenchError::Lacks {
            what,
            instead: "with --dir DIR it runs in a directory that is there".to_owned(),
        };
        if !rustix::process::geteuid().is_root() {
            return Err(BenchError::Lacks {
                what: "making and mounting a file system takes root".to_owned(),
                instead:
                    "with --dir DIR it runs in a directory that is there, best under `unshare \
                          --map-root-user`"
                        .to_owned(),
            });
        }
        let name = kind.name();
        let mkfs = find(&format!("mkfs.{name}")).ok_or_else(|| {
            lacks(format!(
                "mkfs.{name} is not installed (on Debian: {})",
                kind.package()
            ))
        })?;
        let image = self.beside.path().join("image");
        File::create_new(&image)
            .and_then(|file| file.set_len(size))
            .map_err(BenchError::at("create", &image))?;
        Program::new(mkfs)
            .args(kind.options())
            .arg(&image)
            .run(stop)?;
        let mounted = Program::new(find_or_lack("mount")?)
            .args(["-t", name, "-o", "loop"])
            .args([&image, &self.top])
            .run(stop);
        // The loop device has it open: so it goes with the mount, whatever becomes of this process.
        fs::remove_file(&image).map_err(BenchError::at("delete", &image))?;
        match mounted {
            Ok(_) => self.is_mounted = true,
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            Err(e) => {
                return Err(lacks(format!(
                    "no {name} can be mounted on a loop device ({e})"
                )));
            }
        }
        self.kind = format!("a new {name} on a loop device");
        // What the making of it has left to write.
        self.sync()
    }

    /// Where files go.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Whether nobody else writes to its file system.
    pub fn is_ours_alone(&self) -> bool {
        self.is_mounted
    }

    /// A directory that is not on it, for sockets, logs and archives.
    pub fn beside(&self) -> &Path {
        self.beside.path()
    }

    /// `a new ext4 on a loop device`, `ext4 of /home`.
    pub fn describe(&self) -> &str {
        &self.kind
    }

    /// Write everything out (syncfs(2)).
    pub fn sync(&self) -> Result<(), BenchError> {
        let top = File::open(&self.top).map_err(BenchError::at("open", &self.top))?;
        syncfs(top).map_err(BenchError::at("sync", &self.top))
    }

    /// Write everything out, and forget what was read, also of directories and inodes. Gives whether that
    /// may be done: it takes root. (`/proc/sys/vm/drop_caches`, proc_sys_vm(5).)
    pub fn cool(&self) -> Result<bool, BenchError> {
        self.sync()?;
        match fs::write("/proc/sys/vm/drop_caches", "3") {
            Ok(()) => Ok(true),
            // In a container /proc may be read-only for root.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(BenchError::at(
                "write",
                Path::new("/proc/sys/vm/drop_caches"),
            )(e)),
        }
    }

    /// Bytes in use, by the file system's own count (statvfs(3)): the whole file system's, also where only a
    /// directory of it is ours.
    pub fn used(&self) -> Result<u64, BenchError> {
        used(&self.top)
    }

    /// Take it away.
    ///
    /// # Errors
    /// What is still there, and why.
    pub fn close(mut self) -> Result<(), BenchError> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), BenchError> {
        unmount_below(&self.top)?;
        self.is_mounted = false;
        let path = self.beside.path();
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(BenchError::at("delete", path)(e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if (self.is_mounted || self.beside.path().exists())
            && let Err(e) = self.clear()
        {
            tracing::warn!("{e}");
            // Nothing is deleted below a mount that stays.
            self.beside.disable_cleanup(true);
        }
    }
}

/// See [`Disk::used`].
pub fn used(path: &Path) -> Result<u64, BenchError> {
    let counters: StatVfs = statvfs(path).map_err(BenchError::at("read the counters of", path))?;
    Ok((counters.f_blocks - counters.f_bfree) * counters.f_frsize)
}

/// Unmount all that is mounted at a path or below it, the latest first. What is to be deleted must have nothing
/// mounted: that is not ours to delete.
pub fn unmount_below(path: &Path) -> Result<(), BenchError> {
    let mounted = mounts().map_err(BenchError::at("read", Path::new("/proc/self/mountinfo")))?;
    let below = mounted.iter().rev().map(|mount| mount.mountpoint.as_path());
    below
        .filter(|mountpoint| mountpoint.starts_with(path))
        .try_for_each(detach)
}

/// Unmount, and if somebody has it in use for a while, detach.
fn detach(path: &Path) -> Result<(), BenchError> {
    for _ in 0..100 {
        match unmount(path, false) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(BenchError::at("unmount", path)(e)),
        }
    }
    unmount(path, true).map_err(BenchError::at("unmount", path))
}

/// The type of the file system that a path is on.
fn type_of(path: &Path) -> Result<String, BenchError> {
    let path = path.canonicalize().map_err(BenchError::at("find", path))?;
    let mounted = mounts().map_err(BenchError::at("read", Path::new("/proc/self/mountinfo")))?;
    let above = mounted.iter().filter(|m| path.starts_with(&m.mountpoint));
    let nearest = above.max_by_key(|m| m.mountpoint.components().count());
    Ok(nearest.map_or_else(|| "files".to_owned(), |m| m.fs_type.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_its_own_that_goes() {
        let within = tempfile::tempdir().unwrap();
        let place = Where::Directory(within.path().to_owned());
        let disk = Disk::make(&place, &Stop::default()).unwrap();
        fs::write(disk.top().join("file"), vec![1; 1 << 20]).unwrap();
        disk.sync().unwrap();
        assert!(disk.used().unwrap() >= 1 << 20);
        assert!(disk.describe().contains(" of "));
        disk.close().unwrap();
        assert_eq!(fs::read_dir(within.path()).unwrap().count(), 0);
        drop(Disk::make(&place, &Stop::default()).unwrap());
        assert_eq!(fs::read_dir(within.path()).unwrap().count(), 0);
    }
}
