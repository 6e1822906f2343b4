//! Kernel overlayfs, to compare with.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsOpenFlags, MountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsopen, mount,
    unmount,
};

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

/// Whether overlayfs takes its layers one by one (Linux 6.8), with all that a view asks of it, on the
/// tests' disk.
pub fn mounts_by_descriptors() -> bool {
    let dir = disk::temp_dir();
    let made = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        path.display().to_string()
    };
    let mount = || -> rustix::io::Result<()> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [
            ("lowerdir+", made("lower")),
            ("upperdir", made("upper")),
            ("workdir", made("work")),
            ("redirect_dir", "on".to_owned()),
            ("metacopy", "on".to_owned()),
        ] {
            fsconfig_set_string(&context, key, value)?;
        }
        fsconfig_create(&context)
    };
    mount().is_ok()
}
