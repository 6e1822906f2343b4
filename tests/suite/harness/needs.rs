//! What a test needs of the machine, looked up once.

use std::path::Path;
use std::sync::OnceLock;

use super::{disk, overlay, process};

/// One registered test.
pub struct Case {
    /// `topic::what_it_shows`.
    pub name: &'static str,
    /// Panics when it fails.
    pub run: fn(),
    /// All of these must be met.
    pub needs: Vec<Need>,
}

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A filesystem that is neither memory nor an overlay, for stores.
    Disk,
    /// To run as root.
    Root,
    /// A /dev/fuse that can be opened and mounted.
    Fuse,
    /// Loop devices that can be mounted.
    LoopDevice,
    /// Kernel overlayfs.
    Overlay,
    /// Kernel overlayfs as `mount --driver overlay` mounts it on the tests' disk.
    OverlayMount,
    /// A program on PATH.
    Tool(&'static str),
}

impl Need {
    /// Why it is not met, or `None` when it is.
    pub fn unmet(self) -> Option<String> {
        match self {
            Need::Disk => disk::base_dir()
                .is_none()
                .then(|| "a disk filesystem (set LAYERCTL_TEST_DIR)".to_owned()),
            Need::Root => (!is_root()).then(|| "root".to_owned()),
            Need::Fuse => {
                static OPENS: OnceLock<bool> = OnceLock::new();
                let opens = OPENS.get_or_init(|| {
                    let mut how = std::fs::OpenOptions::new();
                    how.read(true).write(true).open("/dev/fuse").is_ok()
                });
                (!opens).then(|| "/dev/fuse".to_owned())
            }
            Need::LoopDevice => {
                static WORKS: OnceLock<bool> = OnceLock::new();
                (!WORKS.get_or_init(disk::loop_mount_works)).then(|| "loop devices".to_owned())
            }
            Need::Overlay => {
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let there =
                    known.contains("\toverlay\n") || Path::new("/sys/module/overlay").exists();
                (!there).then(|| "kernel overlayfs".to_owned())
            }
            Need::OverlayMount => {
                static MOUNTS: OnceLock<bool> = OnceLock::new();
                (!MOUNTS.get_or_init(overlay::mounts_by_descriptors)).then(|| {
                    "kernel overlayfs of Linux 6.8, on a disk that can be its upper".to_owned()
                })
            }
            Need::Tool(name) => process::on_path(name)
                .is_none()
                .then(|| format!("the program {name}")),
        }
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
