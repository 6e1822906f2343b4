//! Views and kernel overlayfs mounts for the union's tests, gone when they are dropped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use layerctl::union::{IoMode, MountOptions, Options, Union, mount};

use crate::harness::{Overlay, Run, disk, wait_until};
use crate::union_io;
use crate::union_support::{
    Dirs, get_xattr, is_indexed, opaque, open_layers, put, set_xattr, whiteout,
};

/// A view served by a thread of this process.
pub struct View {
    pub dirs: Dirs,
    pub mnt: PathBuf,
    pub server: Option<JoinHandle<std::io::Result<()>>>,
}

pub fn options() -> MountOptions {
    MountOptions {
        threads: 2,
        io: union_io::mode(),
        ..MountOptions::default()
    }
}

impl View {
    pub fn new(dirs: Dirs) -> View {
        let mnt = dirs.path("mnt");
        let union = Union::new(dirs.open(), Options::default()).unwrap();
        let mounted = mount(union, &mnt, &options()).unwrap();
        let server = Some(std::thread::spawn(move || mounted.serve()));
        View { dirs, mnt, server }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.mnt.join(path)
    }

    pub fn unmount(&mut self) {
        unmount(&self.mnt, false);
        self.server.take().unwrap().join().unwrap().unwrap();
    }

    pub fn again(mut self) -> View {
        if self.server.is_some() {
            self.unmount();
        }
        let dirs = Dirs {
            temp: std::mem::replace(&mut self.dirs.temp, disk::temp_dir()),
            layers: self.dirs.layers,
            plain: self.dirs.plain.take(),
        };
        View::new(dirs)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            unmount(&self.mnt, true);
            if !std::thread::panicking() {
                server.join().unwrap().unwrap();
            }
        }
    }
}

/// A view served by a process of its own.
pub struct ServedView {
    mnt: PathBuf,
    server: Child,
}

/// Layers, whether they are indexed, whether files are cached, and the directory that it is all in.
const SERVE: &str = "LAYERCTL_TEST_SERVE";

impl ServedView {
    pub fn new(dirs: &Dirs, io: IoMode) -> ServedView {
        let cached = io == IoMode::Cached;
        let what = format!("{} {} {cached} ", dirs.layers, is_indexed());
        let mut server = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, what + dirs.temp.path().to_str().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = Vec::new();
        server
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut ready)
            .unwrap();
        assert_eq!(ready, b"ready", "the server");
        ServedView {
            mnt: dirs.path("mnt"),
            server,
        }
    }

    pub fn unmount(mut self) {
        // Busy for a moment, when another test's thread has forked and not executed yet.
        let flags = rustix::mount::UnmountFlags::empty();
        wait_until("nothing is open in the view", || {
            rustix::mount::unmount(&self.mnt, flags).is_ok()
        });
        assert!(self.server.wait().unwrap().success());
    }
}

impl Drop for ServedView {
    fn drop(&mut self) {
        if self.server.try_wait().unwrap().is_none() {
            unmount(&self.mnt, true);
            self.server.wait().unwrap();
        }
    }
}

/// What a process is to do that a [`ServedView`] has started, in place of the tests.
pub fn serve_if_told() {
    let Some(told) = std::env::var_os(SERVE) else {
        return;
    };
    let told = told.into_string().unwrap();
    let mut words = told.splitn(4, ' ');
    let layers = words.next().unwrap().parse().unwrap();
    let indexed = words.next().unwrap() == "true";
    let io = match words.next().unwrap() {
        "true" => IoMode::Cached,
        _ => IoMode::Passthrough,
    };
    let below = Path::new(words.next().unwrap());
    let options = Options {
        volatile: true,
        ..Options::default()
    };
    let union = Union::new(open_layers(below, below, layers, indexed), options).unwrap();
    let how = MountOptions {
        io,
        ..self::options()
    };
    let mounted = mount(union, &below.join("mnt"), &how).unwrap();
    // What it wrote and closed tells that the view may be used.
    let mut stdout = std::io::stdout();
    stdout
        .write_all(b"ready")
        .and_then(|()| stdout.flush())
        .unwrap();
    rustix::stdio::dup2_stdout(File::open("/dev/null").unwrap()).unwrap();
    mounted.serve().unwrap();
    std::process::exit(0);
}

pub fn unmount(path: &Path, lazy: bool) {
    use rustix::mount::UnmountFlags;
    let flags = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    rustix::mount::unmount(path, flags).unwrap();
}

/// A kernel overlayfs of the same layers.
pub fn overlay_of(dirs: &Dirs, upper: &str, work: &str) -> Overlay {
    let layers: Vec<PathBuf> = (0..dirs.layers).map(|layer| dirs.layer(layer)).collect();
    Overlay::new(&layers, Some((&dirs.path(upper), &dirs.path(work))))
}

/// The paths in a kernel overlayfs of these directories, sorted; `None` where it finds the layers
/// broken.
pub fn read_tree_with_overlayfs(dirs: &Dirs) -> Option<Vec<String>> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => walk(root, &path, found)?,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            }
            let path = path.strip_prefix(root).unwrap();
            found.push(path.to_str().unwrap().to_owned());
        }
        Ok(())
    }
    let overlay = overlay_of(dirs, "upper", "ovl-work");
    let mut found = Vec::new();
    walk(&overlay.path(), &overlay.path(), &mut found).ok()?;
    found.sort();
    Some(found)
}

/// A file system in memory of that size, gone with this.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn new(at: &Path, size: &str) -> Tmpfs {
        let options = format!("size={size}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at));
        Tmpfs(at.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0, true);
    }
}

#[track_caller]
pub fn run(command: &mut Command) -> String {
    Run::of(command).ok()
}

#[track_caller]
pub fn sh(script: &str, at: &Path) -> String {
    run(Command::new("sh")
        .args(["-e", "-c", script])
        .current_dir(at))
}

/// Everything that both show alike: no numbers, and no links of directories.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            // The number in the listing is the one of stat.
            let d_ino = std::os::unix::fs::DirEntryExt::ino(&entry);
            assert!(d_ino == meta.ino() || root.ends_with("merged"), "{path:?}");
            let content = if meta.is_file() {
                format!("{:?}", fs::read(&full).unwrap())
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&full).unwrap())
            } else {
                String::new()
            };
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let nlink = if meta.is_dir() { 0 } else { meta.nlink() };
            lines.push(format!(
                "{path:?} {:o} {nlink} {}:{} {} {}.{} {:x} {:?} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                if meta.is_dir() { 0 } else { meta.size() },
                meta.mtime(),
                meta.mtime_nsec(),
                meta.rdev(),
                get_xattr(&full, "user.test"),
            ));
        }
    }
    lines.sort();
    lines
}

/// Layers with one of everything.
pub fn rich_layers() -> Dirs {
    let dirs = Dirs::new(3);
    let (top, middle, bottom) = (dirs.layer(0), dirs.layer(1), dirs.layer(2));
    put(&bottom, "etc/passwd", "root");
    put(&bottom, "etc/deep/er/file", "x");
    put(&bottom, "gone/file", "x");
    put(&bottom, "hidden/below", "x");
    put(&bottom, "dir-then-file/x", "x");
    put(&bottom, "file-then-dir", "x");
    put(&bottom, "suid", "x");
    fs::set_permissions(bottom.join("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::lchown(bottom.join("etc/passwd"), Some(12), Some(34)).unwrap();
    symlink("etc/passwd", bottom.join("link")).unwrap();
    symlink("/nowhere", bottom.join("dangling")).unwrap();
    sh(
        "mkfifo fifo; mknod null c 1 3; mknod block b 7 99; mkdir -m 1777 tmp",
        &bottom,
    );
    put(&bottom, "linked", "links");
    fs::hard_link(bottom.join("linked"), bottom.join("etc/linked2")).unwrap();
    set_xattr(&bottom.join("etc"), "user.test", b"dir");
    set_xattr(&bottom.join("etc/passwd"), "user.test", b"value");
    put(&middle, "etc/group", "g");
    whiteout(&middle, "gone");
    opaque(&middle, "hidden");
    put(&middle, "hidden/new", "x");
    put(&middle, "dir-then-file", "x");
    put(&middle, "file-then-dir/x", "x");
    put(&middle, "name-\u{fc}\n ", "odd");
    put(&top, "etc/group", "newer");
    whiteout(&top, "etc/deep/er/file");
    put(&top, &"n".repeat(255), "long");
    dirs
}
