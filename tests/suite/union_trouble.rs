//! Disks and layers that fail under a mounted view: the caller gets the right error, the log tells the
//! operation, the path and the layer, nothing half made stays, and the server lives on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::Errno;

use crate::harness::disk::LoopFs;
use crate::harness::store::{LAYERCTL, is_mounted, names_in};
use crate::harness::{Image, Layer, Store, wait_until};
use crate::union_mounted::{Tmpfs, unmount};
use crate::union_support::{Dirs, put};

/// `layerctl overlay` in the foreground, with its log in a file.
struct Server {
    mnt: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Server {
    fn new(lowers: &[&Path], changes: &Path, beside: &Path) -> Server {
        let (mnt, log) = (beside.join("mnt"), beside.join("log"));
        let lowers: Vec<_> = lowers.iter().map(|dir| dir.to_str().unwrap()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lowers.join(":"),
            changes.join("upper").display(),
            changes.join("work").display()
        );
        let child = Command::new(LAYERCTL)
            .args(["overlay", "-f", "-o", &options])
            .arg(&mnt)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_until("the view is mounted", || is_mounted(&mnt));
        Server { mnt, log, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mnt.join(name)
    }

    /// The lines of the log with this in them.
    fn told(&self, what: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        let lines = log.lines().filter(|line| line.contains(what));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if is_mounted(&self.mnt) {
            unmount(&self.mnt, true);
        }
        self.child.wait().unwrap();
    }
}

#[track_caller]
fn refused<T>(done: std::io::Result<T>, errno: Errno) {
    let error = done.map(drop).expect_err("it should be refused");
    assert_eq!(Errno::from_io_error(&error), Some(errno));
}

/// Nothing of a copy-up that did not succeed.
#[track_caller]
fn assert_no_leftovers(changes: &Path, path: &str) {
    assert!(!changes.join("upper").join(path).exists(), "{path}");
    let work = changes.join("work/work");
    let mut left = names_in(&work);
    // The whiteout that all removed names share.
    left.retain(|name| {
        !work
            .join(name)
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    });
    assert!(left.is_empty(), "{left:?}");
}

/// The disk of the lower one of two layers is shut down.
pub fn a_layer_whose_disk_fails() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "upper-layer", "fine");
    let disk = LoopFs::new(32);
    for name in ["dir/file", "dir/other", "big"] {
        put(&disk.path(), name, &"x".repeat(1 << 20));
    }
    let server = Server::new(
        &[&dirs.layer(0), &disk.path()],
        dirs.temp.path(),
        dirs.temp.path(),
    );
    // The names are known: what fails is the file.
    for name in ["dir/file", "dir/other", "big"] {
        assert_eq!(fs::metadata(server.path(name)).unwrap().len(), 1 << 20);
    }
    disk.shut_down();
    for _ in 0..20 {
        refused(fs::read(server.path("dir/file")), Errno::IO);
        let opened = File::options().write(true).open(server.path("dir/other"));
        refused(opened, Errno::IO);
    }
    for name in ["dir/file", "dir/other"] {
        assert_no_leftovers(dirs.temp.path(), name);
    }
    for path in ["/dir/file", "/dir/other"] {
        // The many after it are no lines of their own.
        let told = server.told("(layer 1): Input/output error");
        let of_it = told
            .iter()
            .filter(|line| line.contains(&format!(" of {path} ")));
        assert!((..=3).contains(&of_it.count()), "{told:?}");
    }
    let told = server.told("(layer 1): Input/output error");
    assert!((1..6).contains(&told.len()), "{told:?}");
    // What is not on that disk is as before.
    assert_eq!(fs::read(server.path("upper-layer")).unwrap(), b"fine");
    fs::write(server.path("upper-layer"), "changed").unwrap();
    assert_eq!(fs::read(server.path("upper-layer")).unwrap(), b"changed");
}

/// Somebody deletes a layer of a store that a view shows.
pub fn a_layer_that_vanishes() {
    let store = Store::new();
    let layers = [
        Layer::new()
            .file("below/file", "below")
            .file("stays", "stays"),
        Layer::new().file("above/file", "above"),
    ];
    let image = Image::new(&["app:1"], layers.into());
    let built = store.load(&image);
    let (container, view) = store.create_mounted("app:1");
    assert_eq!(fs::read(view.join("stays")).unwrap(), b"stays");
    let diff = built.diffs[0].trim_start_matches("sha256:");
    let tree = store.root().join("layers").join(diff).join("tree");
    fs::remove_dir_all(tree.join("below")).unwrap();
    // Shown by the index; but the bytes are gone, and that is no empty file.
    assert_eq!(fs::metadata(view.join("below/file")).unwrap().len(), 5);
    let error = fs::read(view.join("below/file")).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
    let appended = File::options().append(true).open(view.join("below/file"));
    refused(appended, Errno::NOENT);
    let upper = store
        .root()
        .join("containers")
        .join(&container)
        .join("upper");
    assert!(!upper.join("below/file").exists());
    let log = store.root().join("containers").join(&container).join("log");
    let log = fs::read_to_string(log).unwrap();
    let told = "of /below/file (layer 1): No such file or directory";
    assert!(log.contains(told), "{log}");
    assert_eq!(fs::read(view.join("above/file")).unwrap(), b"above");
    fs::write(view.join("above/new"), "new").unwrap();
    assert_eq!(fs::read(view.join("above/new")).unwrap(), b"new");
    // To change a directory is to copy it up first.
    refused(fs::write(view.join("below/new"), "new"), Errno::NOENT);
    assert!(!upper.join("below").exists());
}

/// The disk of the upper directory gets full in the middle of a copy-up.
pub fn a_copy_up_that_does_not_fit() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "dir/big", &"b".repeat(3 << 20));
    put(&dirs.layer(0), "small", "s");
    let small = Tmpfs::new(&dirs.path("model"), "2m");
    for name in ["upper", "work"] {
        fs::create_dir(small.path().join(name)).unwrap();
    }
    let server = Server::new(&[&dirs.layer(0)], small.path(), dirs.temp.path());
    for _ in 0..3 {
        let opened = File::options().append(true).open(server.path("dir/big"));
        refused(opened, Errno::NOSPC);
    }
    assert_no_leftovers(small.path(), "dir/big");
    let told = server.told("Open of /dir/big (layer 0): No space left on device");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(fs::metadata(server.path("dir/big")).unwrap().len(), 3 << 20);
    fs::write(server.path("small"), "t").unwrap();
    assert_eq!(fs::read(small.path().join("upper/small")).unwrap(), b"t");
}

/// Names and links that are too long or lead nowhere are the caller's affair: no word in the log.
pub fn names_too_long_and_loops() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "dir/file", "x");
    symlink("two", dirs.layer(0).join("one")).unwrap();
    symlink("one", dirs.layer(0).join("two")).unwrap();
    let changes = dirs.temp.path();
    let server = Server::new(&[&dirs.layer(0)], changes, dirs.temp.path());
    let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
    let at = |name: &str| server.path("dir").join(name);
    let file = server.path("dir/file");
    refused(fs::metadata(at(&too_long)), Errno::NAMETOOLONG);
    refused(fs::write(at(&too_long), ""), Errno::NAMETOOLONG);
    refused(fs::create_dir(at(&too_long)), Errno::NAMETOOLONG);
    refused(symlink("x", at(&too_long)), Errno::NAMETOOLONG);
    refused(fs::hard_link(&file, at(&too_long)), Errno::NAMETOOLONG);
    refused(fs::rename(&file, at(&too_long)), Errno::NAMETOOLONG);
    refused(
        symlink("t".repeat(4096), at("long-link")),
        Errno::NAMETOOLONG,
    );
    symlink("t".repeat(4095), at("long-link")).unwrap();
    assert_eq!(
        fs::read_link(at("long-link")).unwrap().as_os_str().len(),
        4095
    );
    fs::write(at(&longest), "longest").unwrap();
    fs::rename(at(&longest), at(&"m".repeat(255))).unwrap();
    assert_eq!(fs::read(at(&"m".repeat(255))).unwrap(), b"longest");
    refused(fs::read(server.path("one")), Errno::LOOP);
    refused(fs::write(server.path("two/new"), ""), Errno::LOOP);
    symlink("self", server.path("self")).unwrap();
    refused(fs::read_dir(server.path("self")), Errno::LOOP);
    assert_eq!(fs::read(&file).unwrap(), b"x");
    assert!(
        server.told(" of /").is_empty(),
        "{:?}",
        server.told(" of /")
    );
}

/// Where whiteouts are files, the longest names leave no room for a mark: what cannot be hidden is not
/// removed either.
pub fn a_name_too_long_for_its_whiteout() {
    let dirs = Dirs::on_overlay(1);
    let name = "n".repeat(255);
    put(&dirs.layer(0), &name, "x");
    let view = dirs.view();
    let removed = view.unlink(&name);
    assert_eq!(
        removed.map_err(|e| e.errno()),
        Err(Errno::NAMETOOLONG.raw_os_error())
    );
    assert_eq!(view.read(&name).unwrap(), b"x");
    view.create("other", b"fine").unwrap();
}

/// How much was written is told; and what is removed makes room, though the server hears of the last
/// close a moment later.
pub fn writes_that_do_not_fit() {
    let dirs = Dirs::new(1);
    let small = Tmpfs::new(&dirs.path("model"), "1m");
    for name in ["upper", "work"] {
        fs::create_dir(small.path().join(name)).unwrap();
    }
    let server = Server::new(&[&dirs.layer(0)], small.path(), dirs.temp.path());
    let file = File::create(server.path("file")).unwrap();
    let data = vec![1; 2 << 20];
    let written = file.write_at(&data, 0).unwrap();
    assert!(written < data.len());
    refused(file.write_at(&data, written as u64), Errno::NOSPC);
    drop(file);
    fs::remove_file(server.path("file")).unwrap();
    wait_until("there is room again", || {
        fs::write(server.path("again"), vec![2; 512 << 10]).is_ok()
    });
}
