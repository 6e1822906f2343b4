//! Kernel overlayfs, to compare with.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::disk;

/// A mounted kernel overlayfs; unmounted when dropped.
pub struct Overlay {
    dir: tempfile::TempDir,
}

impl Overlay {
    /// Of these layers, the topmost first, and an upper and a work directory; read-only without.
    #[track_caller]
    pub fn new(layers: &[PathBuf], changes: Option<(&Path, &Path)>) -> Overlay {
        let dir = disk::temp_dir();
        let (point, empty) = (dir.path().join("merged"), dir.path().join("empty"));
        for dir in [&point, &empty] {
            std::fs::create_dir(dir).expect("a new directory");
        }
        // Read-only it wants two layers at least.
        let layers = layers.iter().chain([&empty]);
        let layers: Vec<_> = layers.map(|dir| dir.display().to_string()).collect();
        let mut options = format!("lowerdir={}", layers.join(":"));
        if let Some((upper, work)) = changes {
            let (upper, work) = (upper.display(), work.display());
            // As a view renames directories and copies metadata alone up.
            options +=
                &format!(",upperdir={upper},workdir={work},redirect_dir=on,metacopy=on,index=off");
        }
        let data = CString::new(options).expect("no NUL in a path");
        let flags = MountFlags::empty();
        mount("overlay", &point, "overlay", flags, Some(data.as_c_str()))
            .unwrap_or_else(|e| panic!("mount overlay with {data:?}: {e}"));
        Overlay { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).ok();
    }
}
