//! The view of a container beside a kernel overlayfs of the same layers.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::harness::store::{is_mounted, names_in};
use crate::harness::tree::{self, Entry};
use crate::harness::{Built, Image, Layer, Overlay, Run, Store, noise, text, wait_until};

/// The trees of an image's layers, the topmost first.
fn trees(store: &Store, image: &Built) -> Vec<PathBuf> {
    let layers = store.root().join("layers");
    (0..image.diffs.len())
        .rev()
        .map(|n| layers.join(image.layer_dir(n)).join("tree"))
        .collect()
}

/// Every kind of entry, and every way in which a layer changes the ones below.
fn everything() -> Image {
    let long = "n".repeat(255);
    let base = Layer::new()
        .dir("./")
        .dir("bin")
        .file("bin/suid", noise(5, 70_000))
        .mode(0o4755)
        .file("bin/caps", "x")
        .mode(0o755)
        .xattr("user.note", "a note")
        .xattr(
            "security.capability",
            hex("0000000201000000000000000000000000000000"),
        )
        .dir("d")
        .owner(7, 8)
        .mode(0o2775)
        .file("d/owned", "owned")
        .owner(1000, 1001)
        .mode(0o600)
        .file("d/empty", "")
        .hard_link("d/second-name", "d/owned")
        .symlink("d/link", "owned")
        .symlink("d/dangling", "/nowhere/at/all")
        .fifo("d/pipe")
        .char_device("d/null", 1, 3)
        .file(&format!("d/{long}"), "a name of 255 bytes")
        .dir("replaced")
        .file("replaced/below", "hidden")
        .file("file-then-dir", "a file")
        .dir("dir-then-file")
        .file("dir-then-file/x", "x")
        .dir("opaque")
        .file("opaque/hidden", "hidden")
        .dir("opaque/sub")
        .file("opaque/sub/hidden", "hidden")
        .dir("merged")
        .file("merged/from-base", "base")
        .file("merged/changed", "base")
        .file("merged/removed", "base")
        .dir("merged/removed-dir")
        .file("merged/removed-dir/x", "x")
        .dir("tmp")
        .mode(0o1777)
        .file("name with \u{e9} and space", "x")
        .file("comes-back", "first");
    let middle = Layer::new()
        .whiteout("comes-back")
        .whiteout("replaced")
        .whiteout("file-then-dir")
        .dir("file-then-dir")
        .file("file-then-dir/inside", "x")
        .file("dir-then-file", "now a file")
        .dir("merged")
        .owner(3, 3)
        .file("merged/changed", "middle")
        .whiteout("merged/removed")
        .whiteout("merged/removed-dir")
        .file("merged/from-middle", "middle");
    let top = Layer::new()
        .file("comes-back", "again")
        .dir("opaque")
        .opaque("opaque")
        .file("opaque/shown", "shown")
        .dir("merged")
        .mode(0o700)
        .file("merged/from-top", "top")
        .dir("replaced")
        .file("replaced/above", "shown");
    Image::new(&["all:1"], vec![base, middle, top])
}

fn hex(digits: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

type Tree = std::collections::BTreeMap<PathBuf, Entry>;

/// Without what two right filesystems may differ in: the root's own times, for no tar names it here.
fn comparable(root: &Path) -> Tree {
    let mut tree = tree::read(root);
    tree.get_mut(Path::new("")).unwrap().mtime = (0, 0);
    tree
}

pub fn shows_what_overlayfs_shows() {
    let store = Store::new();
    let image = store.load(&everything());
    let (_, view) = store.create_mounted("all:1");
    let overlay = Overlay::new(&trees(&store, &image), None);
    let (ours, theirs) = (comparable(&view), comparable(&overlay.path()));
    assert!(ours.len() > 25, "{} entries", ours.len());
    tree::assert_same(&ours, &theirs);
    // Said once more without the kernel's help.
    for gone in [
        "replaced/below",
        "merged/removed",
        "merged/removed-dir",
        "opaque/hidden",
        "opaque/sub",
    ] {
        assert!(!ours.contains_key(Path::new(gone)), "{gone}");
    }
    assert_eq!(fs::read(view.join("comes-back")).unwrap(), b"again");
    assert_eq!(fs::read(view.join("merged/changed")).unwrap(), b"middle");
    assert_eq!(
        ours[Path::new("d/second-name")].same_as,
        Path::new("d/owned")
    );
    let mode = |name: &str| ours[Path::new(name)].mode & 0o7777;
    assert_eq!(
        (mode("bin/suid"), mode("d"), mode("tmp")),
        (0o4755, 0o2775, 0o1777)
    );
}

/// Changes of every kind, made alike in both.
fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    let xattr = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::write(at("new"), "new").unwrap();
    fs::write(at("merged/changed"), "written").unwrap();
    let append = fs::File::options()
        .append(true)
        .open(at("merged/from-base"))
        .unwrap();
    std::io::Write::write_all(&mut &append, b" and more").unwrap();
    fs::File::options()
        .write(true)
        .open(at("bin/suid"))
        .unwrap()
        .set_len(100)
        .unwrap();
    mode("bin/caps", 0o711);
    xattr("bin/caps", "user.note", b"another");
    xattr("d", "user.of-a-dir", b"1");
    std::os::unix::fs::chown(at("d/empty"), Some(5), Some(6)).unwrap();
    fs::remove_file(at("comes-back")).unwrap();
    fs::remove_file(at("d/null")).unwrap();
    fs::remove_dir_all(at("file-then-dir")).unwrap();
    fs::write(at("file-then-dir"), "a file again").unwrap();
    fs::remove_dir_all(at("opaque")).unwrap();
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque/after"), "nothing of the lower one shows").unwrap();
    fs::rename(at("merged/from-top"), at("tmp/moved")).unwrap();
    fs::rename(at("new"), at("merged/from-middle")).unwrap();
    fs::create_dir_all(at("deep/er/still")).unwrap();
    symlink("../target", at("deep/er/link")).unwrap();
    fs::hard_link(at("tmp/moved"), at("deep/hard")).unwrap();
    fs::rename(at("deep/er"), at("deep/renamed")).unwrap();
    fs::remove_file(at("dir-then-file")).unwrap();
    fs::create_dir(at("dir-then-file")).unwrap();
}

/// Times of what was changed differ by when it was.
fn without_times(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|entry| entry.mtime = (0, 0));
    tree
}

pub fn changes_as_overlayfs_changes() {
    let store = Store::new();
    let image = store.load(&everything());
    let (container, view) = store.create_mounted("all:1");
    let (upper, work) = (store.new_dir("upper"), store.new_dir("work"));
    let overlay = Overlay::new(&trees(&store, &image), Some((&upper, &work)));
    change(&view);
    change(&overlay.path());
    let ours = tree::read(&view);
    tree::assert_same(
        &without_times(ours.clone()),
        &without_times(tree::read(&overlay.path())),
    );

    // And all of it is there at the next mount, times and inode identity too.
    store.ok(&["umount", &container]);
    let view = store.mount(&container);
    tree::assert_same(&ours, &tree::read(&view));
    // The layers themselves did not change.
    drop(overlay);
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// A container sees its own changes only.
pub fn containers_do_not_see_each_other() {
    let store = Store::new();
    store.load(&everything());
    let (_, one) = store.create_mounted("all:1");
    let (_, two) = store.create_mounted("all:1");
    let before = tree::read(&two);
    change(&one);
    tree::assert_same(&before, &tree::read(&two));
}

/// Hard links survive copy-up, where kernel overlayfs breaks them.
pub fn hard_links_survive_copy_up() {
    let store = Store::new();
    store.load(&everything());
    let (container, mut view) = store.create_mounted("all:1");
    fs::write(view.join("d/owned"), "through one name").unwrap();
    for _ in 0..2 {
        assert_eq!(
            fs::read(view.join("d/second-name")).unwrap(),
            b"through one name"
        );
        let tree = tree::read(&view);
        assert_eq!(
            tree[Path::new("d/second-name")].same_as,
            Path::new("d/owned")
        );
        assert_eq!(tree[Path::new("d/owned")].links, 2);
        store.ok(&["umount", &container]);
        view = store.mount(&container);
    }
}

pub fn a_read_only_view_refuses_writes() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    let view = store.ok(&["mount", "--read-only", &container]);
    let view = Path::new(view.trim_end());
    let error = fs::write(view.join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    assert_eq!(fs::read(view.join("comes-back")).unwrap(), b"again");
}

/// Over a mount point of the caller's choice.
pub fn mounts_where_it_is_told() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    let point = store.new_dir("here");
    let said = store.ok(&["mount", &container, point.to_str().unwrap()]);
    assert_eq!(said, format!("{}\n", point.display()));
    assert_eq!(
        store.container(&container)["Mountpoint"],
        point.to_str().unwrap()
    );
    assert!(point.join("merged/from-base").exists());
    store.ok(&["umount", &container]);
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
    assert_eq!(store.container(&container)["Mountpoint"], "");
}

/// In the foreground the command itself serves the view, till it is unmounted or interrupted.
pub fn in_the_foreground() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    for interrupt in [false, true] {
        let child = store
            .command(&["mount", "--foreground", &container])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        wait_until("the view is mounted", || {
            store.container_state(&container) == "mounted"
        });
        assert_eq!(store.server(), pid);
        let view = text(&store.container(&container), "Mountpoint");
        assert_eq!(
            fs::read(Path::new(&view).join("comes-back")).unwrap(),
            b"again"
        );
        if interrupt {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        } else {
            store.ok(&["umount", &container]);
        }
        let run = Run::finish(child, "mount --foreground".to_owned());
        assert!(interrupt || run.code == Some(0), "{run:#?}");
        assert!(!is_mounted(view.as_ref()));
        assert_eq!(store.container_state(&container), "exited");
    }
    store.check_at_rest();
}

/// A file that is copied up is synced before it gets its name; with `--volatile` it is not.
pub fn volatile_skips_the_sync() {
    let store = Store::new();
    store.load(&everything());
    let (said, log) = (store.beside("said"), store.beside("strace"));
    for volatile in [false, true] {
        let container = store.create("all:1");
        let args: &[&str] = match volatile {
            true => &["mount", "--volatile", &container],
            false => &["mount", &container],
        };
        let program = store.command(args);
        let mut strace = std::process::Command::new("strace");
        // With the path of each descriptor.
        strace.args(["-f", "-q", "-y", "-e", "trace=fsync,fdatasync,syncfs,sync"]);
        strace.arg("-o").arg(&log);
        strace.arg(program.get_program()).args(program.get_args());
        strace.stdin(Stdio::null()).stderr(Stdio::null());
        let mut strace = strace
            .stdout(fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        wait_until("the view is mounted", || {
            fs::metadata(&said).unwrap().len() > 0
        });
        let view = PathBuf::from(fs::read_to_string(&said).unwrap().trim_end());
        let mut file = fs::File::options();
        let mut file = file.append(true).open(view.join("comes-back")).unwrap();
        std::io::Write::write_all(&mut file, b"!").unwrap();
        drop(file);
        assert_eq!(fs::read(view.join("comes-back")).unwrap(), b"again!");
        store.ok(&["umount", &container]);
        // strace ends with the server.
        strace.wait().unwrap();
        let log = fs::read_to_string(&log).unwrap();
        let work = format!("/containers/{container}/");
        let synced = log.lines().filter(|line| line.contains(&work)).count();
        assert_eq!(synced == 0, volatile, "{log}");
        assert!(log.contains("/store.db"), "strace sees syncs: {log}");
    }
}

/// In the foreground there is no other log than standard error: it says there what it could not do.
pub fn in_the_foreground_everything_is_told() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    let mut mount = store.command(&["mount", "--foreground", &container]);
    let mount = mount.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = mount.spawn().unwrap();
    wait_until("the view is mounted", || {
        store.container_state(&container) == "mounted"
    });
    store.ok(&["rmi", "-f", "all:1"]);
    // Something is mounted in a marked layer: that is not deleted.
    let foreign = store.new_dir("foreign");
    let layer = names_in(&store.root().join("marked")).remove(0);
    let inside = store.root().join("marked").join(layer).join("tree/inside");
    fs::create_dir(&inside).unwrap();
    mount_bind(&foreign, &inside).unwrap();
    store.ok(&["umount", &container]);
    let run = Run::finish(child, "mount --foreground".to_owned());
    unmount(&inside, UnmountFlags::empty()).unwrap();
    assert_eq!(run.code, Some(0), "{run:#?}");
    for told in [
        "mounted at",
        "unmounted",
        "ERROR cannot reclaim",
        "reclaimed sha256:",
    ] {
        assert!(run.stderr.contains(told), "{told:?} in {run:#?}");
    }
    store.ok(&["gc"]);
    store.check_no_layers();
}

/// A view that could not be served does not end as if all had been well.
pub fn a_view_that_fails_exits_with_1() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    // What it has to say when the view is ready cannot be said.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut mount = store.command(&["mount", "--foreground", &container]);
    let child = mount.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Error: cannot write the output"), "{said}");
    let status = text(&store.container(&container), "Status");
    assert!(status.starts_with("Exited (1)"), "{status}");
    store.check_at_rest();
}

/// `mount` hands nothing of the caller to the server: neither its pipes nor its directory.
pub fn the_server_keeps_nothing_of_the_caller() {
    let store = Store::new();
    store.load(&everything());
    let container = store.create("all:1");
    let (elsewhere, extra) = (store.new_dir("elsewhere"), store.beside("extra"));
    // The shell's descriptor 9 is inherited; `Run::of` itself waits for the end of both pipes.
    let script = "exec 9>\"$1\"; shift; \"$@\" | cat";
    let program = store.command(&["mount", &container]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(&extra);
    shell
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(&elsewhere);
    let view = crate::harness::Run::of(&mut shell).ok();
    assert!(Path::new(view.trim_end()).join("merged").exists());
    let server = store.server();
    let held = crate::harness::process::descriptors(server);
    assert!(!held.contains(&extra), "{held:?}");
    assert!(
        !held
            .iter()
            .any(|p| p.to_string_lossy().starts_with("pipe:")),
        "{held:?}"
    );
    let cwd = fs::read_link(format!("/proc/{server}/cwd")).unwrap();
    assert!(!cwd.starts_with(&elsewhere), "{}", cwd.display());
    fs::remove_dir(&elsewhere).unwrap();
    // It has a session of its own, so that it outlives the terminal. It leads that session or was
    // forked by its leader, so the number is one of this PID namespace, where ours may be a 0.
    assert_ne!(session_of(server), 0);
    assert_ne!(session_of(server), session_of(std::process::id()));
}

/// The session ID of a process as `/proc/<pid>/stat` has it: 0 for a session whose leader is in an
/// outer PID namespace, which getsid(2) of rustix takes for impossible.
fn session_of(pid: impl std::fmt::Display) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(3).unwrap().parse().unwrap()
}
