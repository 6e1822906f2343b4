//! Where stores are put, and disks of their own with counters of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use rustix::fs::statfs;
use rustix::mount::{UnmountFlags, unmount};

use super::{Run, process};

/// An ext4, or an XFS, of its own on a loop device; unmounted and deleted when dropped.
#[derive(Debug)]
pub struct LoopFs {
    dir: tempfile::TempDir,
}

impl LoopFs {
    /// A fresh, empty one of this size.
    #[track_caller]
    pub fn new(mib: u64) -> LoopFs {
        LoopFs::try_new(mib, &[]).unwrap_or_else(|why| panic!("loop ext4: {why}"))
    }

    /// As `new`, with blocks of as many bytes; an inode has no more room than one of them for its
    /// extended attributes.
    #[track_caller]
    pub fn with_blocks_of(bytes: u32, mib: u64) -> LoopFs {
        let size = format!("-b{bytes}");
        LoopFs::try_new(mib, &[&size]).unwrap_or_else(|why| panic!("loop ext4: {why}"))
    }

    /// An XFS whose files may share their data.
    #[track_caller]
    pub fn with_reflinks() -> LoopFs {
        // The smallest that mkfs.xfs makes; the image is sparse.
        LoopFs::formatted(300, "mkfs.xfs", &["-q", "-mreflink=1"])
            .unwrap_or_else(|why| panic!("loop XFS: {why}"))
    }

    fn try_new(mib: u64, more_options: &[&str]) -> Result<LoopFs, String> {
        // No reserved blocks and no lazy initialisation: the counters move by what the test does.
        let options = [
            &[
                "-q",
                "-F",
                "-m0",
                "-Elazy_itable_init=0,lazy_journal_init=0",
            ],
            more_options,
        ];
        LoopFs::formatted(mib, "mkfs.ext4", &options.concat())
    }

    fn formatted(mib: u64, mkfs: &str, options: &[&str]) -> Result<LoopFs, String> {
        let step = |e: std::io::Error| e.to_string();
        let below = image_dir();
        std::fs::create_dir_all(&below).map_err(step)?;
        let dir = tempfile::Builder::new()
            .prefix("disk-")
            .tempdir_in(below)
            .map_err(step)?;
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).map_err(step)?;
        file.set_len(mib << 20).map_err(step)?;
        let disk = LoopFs { dir };
        std::fs::create_dir(disk.path()).map_err(step)?;
        done(command(mkfs, options, &[&image]))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        let image = self.dir.path().join("image");
        done(command(
            "mount",
            &["-o", "loop,noatime"],
            &[&image, &self.path()],
        ))
    }

    /// From now on everything that asks the disk fails with EIO, and nothing more is written to it.
    #[allow(unsafe_code)]
    #[track_caller]
    pub fn shut_down(&self) {
        // FS_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH of fs/ext4/ext4.h.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let without_flushing_the_journal: u32 = 2;
        let root = std::fs::File::open(self.path()).expect("open the loop filesystem");
        // SAFETY: the call reads four bytes at the address that it is given.
        let done = unsafe {
            libc::ioctl(
                std::os::fd::AsRawFd::as_raw_fd(&root),
                SHUTDOWN,
                &raw const without_flushing_the_journal,
            )
        };
        assert_eq!(done, 0, "shutdown: {}", std::io::Error::last_os_error());
    }

    /// The power fails and comes back: what was not written to the disk is lost. Nothing may hold the
    /// filesystem any more when it is mounted again: `release` lets go.
    #[track_caller]
    pub fn power_cut(&self, release: impl FnOnce()) {
        self.shut_down();
        release();
        process::wait_until("nothing holds the filesystem", || {
            unmount(self.path(), UnmountFlags::empty()).is_ok()
        });
        self.mount().expect("mount after the power cut");
    }

    /// The root of the filesystem.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Bytes that it has for files, free or not.
    #[track_caller]
    pub fn total_bytes(&self) -> u64 {
        let counters = statfs(self.path()).expect("statfs");
        counters.f_blocks * u64::try_from(counters.f_bsize).expect("a positive block size")
    }

    /// Bytes free, by the filesystem's own counter, after all that is delayed was done.
    #[track_caller]
    pub fn free_bytes(&self) -> u64 {
        let root = std::fs::File::open(self.path()).expect("open the loop filesystem");
        rustix::fs::syncfs(&root).expect("syncfs");
        let counters = statfs(self.path()).expect("statfs");
        counters.f_bfree * u64::try_from(counters.f_bsize).expect("a positive block size")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let path = self.path();
        if unmount(&path, UnmountFlags::empty()).is_err() {
            // A failing test may leave something open: then at least no new test sees it.
            unmount(&path, UnmountFlags::DETACH).ok();
        }
    }
}

fn done(mut step: Command) -> Result<(), String> {
    let run = Run::of(&mut step);
    match run.code {
        Some(0) => Ok(()),
        _ => Err(format!("{}: {}", run.command, run.stderr.trim())),
    }
}

fn command(program: &str, options: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(process::on_path(program).unwrap_or_else(|| program.into()));
    command.args(options).args(paths);
    command
}

/// Whether a loop filesystem can be mounted here.
pub fn loop_mount_works() -> bool {
    super::needs::is_root()
        && process::on_path("mkfs.ext4").is_some()
        && LoopFs::try_new(16, &[]).is_ok()
}

/// The images of loop filesystems may lie on anything that has room.
fn image_dir() -> PathBuf {
    own(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// What this run of the tests has below a directory: so that nothing of another run is touched when
/// all that is left of this one is to go.
fn own(dir: &Path) -> PathBuf {
    dir.join(format!("suite-{}", std::process::id()))
}

/// Where stores may be put: in `LAYERCTL_TEST_DIR`, Cargo's directory for tests, or /var/tmp,
/// whichever is on a disk; else on a loop filesystem that lives as long as the tests run.
pub fn base_dir() -> Option<&'static Path> {
    BASE.get_or_init(|| {
        let given = std::env::var_os("LAYERCTL_TEST_DIR").map(PathBuf::from);
        let cargos = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let found = given
            .into_iter()
            .chain([cargos, "/var/tmp".into()])
            .find(|dir| std::fs::create_dir_all(dir).is_ok() && is_disk(dir))
            .map(|dir| own(&dir));
        let base = found.or_else(|| {
            let disk = LoopFs::try_new(4096, &[]).ok()?;
            let path = disk.path();
            SHARED.lock().expect("not poisoned").replace(disk);
            Some(path)
        })?;
        std::fs::create_dir_all(&base).ok()?;
        Some(base)
    })
    .as_deref()
}

/// A directory in `base_dir`, gone when dropped.
#[track_caller]
pub fn temp_dir() -> tempfile::TempDir {
    let base = base_dir().expect("a disk filesystem");
    tempfile::tempdir_in(base).unwrap_or_else(|e| panic!("{}: {e}", base.display()))
}

static BASE: OnceLock<Option<PathBuf>> = OnceLock::new();
static SHARED: Mutex<Option<LoopFs>> = Mutex::new(None);

/// Everywhere where this run of the tests puts anything.
pub fn places() -> Vec<PathBuf> {
    let base = BASE.get().cloned().flatten();
    base.into_iter().chain([image_dir()]).collect()
}

/// Removes what this run put anywhere, and unmounts what `base_dir` had to mount.
pub fn release() {
    SHARED.lock().expect("not poisoned").take();
    for place in places() {
        // Empty by now, unless a test that failed has left something: what must be seen is kept.
        std::fs::remove_dir(place).ok();
    }
}

/// Overlays cannot hold whiteouts, and memory has no blocks to count.
fn is_disk(dir: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const OVERLAYFS: i64 = 0x794c_7630;
    statfs(dir).is_ok_and(|s| !matches!(s.f_type, TMPFS | RAMFS | OVERLAYFS))
}
