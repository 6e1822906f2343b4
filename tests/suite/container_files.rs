//! `rename`, `diff` and `export`: what they say, and that the container is afterwards what it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};

use crate::harness::store::is_mounted;
use crate::harness::{Image, Layer, Run, Store, text, tree, wait_until};
use crate::samples::{app, heavy};

/// An image with something of everything that a container may change.
pub fn base() -> Image {
    Image::new(
        &["base:1"],
        vec![
            Layer::new()
                .dir(".")
                .dir("dir")
                .file("dir/a", "a")
                .file("dir/b", "b")
                .dir("dir/sub")
                .file("dir/sub/deep", "deep")
                .dir("moved")
                .file("moved/x", "x")
                .file("moved/y", "y")
                .dir("replaced")
                .file("replaced/old", "old")
                .file("replaced/same", "same")
                .file("file", "file")
                .file("becomes-dir", "")
                .symlink("link", "dir/a")
                .file("linked-1", "linked")
                .hard_link("linked-2", "linked-1")
                .file("hidden", "of the lowest"),
            Layer::new()
                .file("file", "file of the top")
                .whiteout("hidden"),
        ],
    )
}

/// Changes of every kind in a view of `base`.
pub fn change(view: &Path) {
    let at = |name: &str| view.join(name);
    fs::write(at("dir/new"), "new").unwrap();
    fs::write(at("dir/b"), "changed").unwrap();
    fs::remove_file(at("dir/a")).unwrap();
    fs::rename(at("moved"), at("dir/moved")).unwrap();
    fs::write(at("dir/moved/x"), "x changed").unwrap();
    fs::remove_dir_all(at("replaced")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    fs::write(at("replaced/same"), "same").unwrap();
    fs::remove_file(at("becomes-dir")).unwrap();
    fs::create_dir(at("becomes-dir")).unwrap();
    fs::write(at("becomes-dir/in-it"), "").unwrap();
    fs::write(at("linked-1"), "linked, changed").unwrap();
    fs::write(at("hidden"), "of the container").unwrap();
    fs::hard_link(at("dir/new"), at("new-too")).unwrap();
    symlink("/etc/passwd", at("to-the-host")).unwrap();
    let strange = view.join(OsStr::from_bytes(b"not\xffutf8"));
    fs::write(&strange, "strange").unwrap();
    let value = b"value\0with\nbytes";
    rustix::fs::setxattr(&strange, "user.note", value, XattrFlags::empty()).unwrap();
    fs::set_permissions(at("dir/sub"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::write(at(&"x".repeat(200)), "a name that no header has room for").unwrap();
    rustix::fs::mkfifoat(CWD, at("pipe"), Mode::RWXU).unwrap();
    let device = rustix::fs::makedev(1, 7);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, at("full"), kind, Mode::RWXU, device).unwrap();
    rustix::fs::chownat(
        CWD,
        at("to-the-host"),
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(7)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    let old = rustix::fs::Timespec {
        tv_sec: -2,
        tv_nsec: 750_000_000,
    };
    let times = rustix::fs::Timestamps {
        last_access: old,
        last_modification: old,
    };
    rustix::fs::utimensat(CWD, at("pipe"), &times, AtFlags::empty()).unwrap();
}

/// What `diff` says of `change`.
fn changed() -> Vec<u8> {
    let mut lines = Vec::new();
    let long = "x".repeat(200);
    for line in [
        "C /becomes-dir",
        "A /becomes-dir/in-it",
        "C /dir",
        "D /dir/a",
        "C /dir/b",
        "A /dir/moved",
        "A /dir/moved/x",
        "A /dir/moved/y",
        "A /dir/new",
        "C /dir/sub",
        "A /full",
        "A /hidden",
        "C /linked-1",
        "C /linked-2",
        "D /moved",
        "A /new-too",
        "A /not\u{0}utf8",
        "A /pipe",
        "C /replaced",
        "D /replaced/old",
        "C /replaced/same",
        "A /to-the-host",
        &format!("A /{long}"),
    ] {
        let bytes = line.bytes().map(|b| if b == 0 { 0xff } else { b });
        lines.extend(bytes);
        lines.push(b'\n');
    }
    lines
}

/// All that is known of a container.
fn state(store: &Store, container: &str) -> String {
    store.container_state(container) + &store.ok(&["inspect", container])
}

fn diff(store: &Store, container: &str) -> Vec<u8> {
    let run = store.command(&["diff", container]).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    run.stdout
}

fn assert_diff(store: &Store, container: &str, expected: &[u8]) {
    let found = diff(store, container);
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(show(&found), show(expected));
    assert_eq!(found, expected);
}

// rename

pub fn renames() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let id = store.ok(&["create", "--name", "old", "app:1"]);
    let id = id.trim_end();
    let other = store.ok(&["create", "--name", "other", "app:1"]);
    store.run(&["rename", "old", "new"]).expect(0, "", "");
    assert_eq!(text(&store.container(id), "Names"), "new");
    store.run(&["rename", "/new", "/newer"]).expect(0, "", "");
    store
        .run(&["rename", &id[..12], "newest"])
        .expect(0, "", "");
    assert_eq!(text(&store.container(id), "Names"), "newest");
    let taken = format!(
        "Error: Error when allocating new name: Conflict. The container name \"/other\" is already \
         in use by container \"{}\". You have to remove (or rename) that container to be able to \
         reuse that name.\n",
        other.trim_end()
    );
    let same = "Error: Renaming a container with the same name as its current name\n";
    let empty = "Error: Neither old nor new names may be empty\n";
    for (old, new, error) in [
        ("newest", "other", taken.as_str()),
        ("newest", "newest", same),
        ("newest", "/newest", same),
        ("newest", "", empty),
        ("", "x1", empty),
        ("old", "x1", "Error: No such container: old\n"),
        (
            "newest",
            "bad name",
            "Error: Error when allocating new name: Invalid container name (/bad name), only \
             [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed\n",
        ),
    ] {
        store.run(&["rename", old, new]).expect(1, "", error);
        assert_eq!(text(&store.container(id), "Names"), "newest");
    }
    store.ok(&["rm", "newest", "other"]);
}

// diff

pub fn diff_shows_every_kind_of_change() {
    let store = Store::new();
    store.load(&base());
    let (container, view) = store.create_mounted("base:1");
    assert_diff(&store, &container, b"");
    change(&view);
    // Mounted, and not: the same.
    assert_diff(&store, &container, &changed());
    store.ok(&["umount", &container]);
    let before = state(&store, &container);
    assert_diff(&store, &container, &changed());
    assert_eq!(state(&store, &container), before);
    assert!(store.servers().is_empty(), "the view went with the command");
    store.check_at_rest();
}

pub fn a_created_container_stays_created() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let before = state(&store, &container);
    assert_eq!(store.container_state(&container), "created");
    assert_diff(&store, &container, b"");
    store.ok(&[
        "export",
        "-o",
        store.beside("x.tar").to_str().unwrap(),
        &container,
    ]);
    assert_eq!(state(&store, &container), before);
    store.check_at_rest();
    store.ok(&["rmi", "-f", "app:1"]);
    for command in ["diff", "export"] {
        let run = store.run(&[command, &container]);
        run.expect(1, "", "Error: No such image: app:1\n");
    }
    assert_eq!(text(&store.container(&container), "State"), "created");
    store
        .run(&["diff", "none"])
        .expect(1, "", "Error: No such container: none\n");
}

pub fn diff_after_the_image_was_removed() {
    for loaded_again in [false, true] {
        let store = Store::new();
        store.load(&base());
        let (container, view) = store.create_mounted("base:1");
        change(&view);
        store.ok(&["rmi", "-f", "base:1"]);
        if loaded_again {
            store.load(&base());
        }
        assert_diff(&store, &container, &changed());
        store.ok(&["umount", &container]);
    }
}

/// What a runtime makes for its mounts is no change; what is put into it is.
pub fn diff_hides_mount_points() {
    let store = Store::new();
    let bare = Image::new(
        &["bare:1"],
        vec![Layer::new().dir("bin").file("bin/x", "x")],
    );
    store.load(&bare);
    store.load(&app(&["app:1"]));
    let make = |view: &Path| {
        for dir in [
            "dev/pts",
            "dev/shm",
            "dev/mqueue",
            "proc",
            "sys/fs/cgroup",
            "etc",
        ] {
            fs::create_dir_all(view.join(dir)).unwrap();
        }
        for file in [
            "dev/console",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
        ] {
            fs::write(view.join(file), "").unwrap();
        }
    };
    for image in ["bare:1", "app:1"] {
        let (container, view) = store.create_mounted(image);
        make(&view);
        assert_diff(&store, &container, b"");
        fs::write(view.join("etc/hosts"), "127.0.0.1 localhost").unwrap();
        fs::write(view.join("dev/shm/left"), "").unwrap();
        let etc = if image == "app:1" { "C" } else { "A" };
        let expected = format!("A /dev\nA /dev/shm\nA /dev/shm/left\n{etc} /etc\nA /etc/hosts\n");
        assert_diff(&store, &container, expected.as_bytes());
        store.ok(&["umount", &container]);
    }
}

// export

/// Unpacks a tar by GNU tar, and gives what is there.
fn unpacked(store: &Store, tar: &Path, name: &str) -> BTreeMap<std::path::PathBuf, tree::Entry> {
    let dir = store.new_dir(name);
    let run = Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "-p",
            "--numeric-owner",
            "-xf",
        ])
        .arg(tar)
        .arg("-C")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    without_root_time(&dir)
}

fn without_root_time(root: &Path) -> BTreeMap<std::path::PathBuf, tree::Entry> {
    let mut tree = tree::read(root);
    let root = tree.get_mut(Path::new("")).unwrap();
    root.mtime = (0, 0);
    tree
}

pub fn export_is_what_the_view_shows() {
    let store = Store::new();
    store.load(&base());
    let (container, view) = store.create_mounted("base:1");
    change(&view);
    let shown = without_root_time(&view);
    assert!(shown.len() > 20, "{}", shown.len());
    let tar = store.beside("mounted.tar");
    store
        .run(&["export", "-o", tar.to_str().unwrap(), &container])
        .expect(0, "", "");
    tree::assert_same(&unpacked(&store, &tar, "mounted"), &shown);
    store.ok(&["umount", &container]);
    let before = state(&store, &container);
    let streamed = store.command(&["export", &container]).output().unwrap();
    assert!(streamed.status.success(), "{streamed:?}");
    assert!(streamed.stdout == fs::read(&tar).unwrap(), "the same bytes");
    assert_eq!(state(&store, &container), before);
    store.check_at_rest();
}

pub fn export_leaves_no_half_file() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let dir = store.new_dir("out");
    let out = dir.join("x.tar");
    let to = |path: &Path| store.run(&["export", "-o", path.to_str().unwrap(), &container]);
    // No room for it.
    let tmpfs = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(&dir).status();
    let mounted = tmpfs(&["mount", "-t", "tmpfs", "-o", "size=64k", "none"]).unwrap();
    assert!(mounted.success());
    fs::write(&out, "what was there").unwrap();
    let run = to(&out);
    run.refused_saying(&["cannot write", "x.tar", "No space left"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "what was there");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    assert!(tmpfs(&["umount"]).unwrap().success());
    let missing = store.beside("none").join("x.tar");
    let text = format!(
        "Error: failed to export container: invalid output path: directory \"{}\" does not exist\n",
        store.beside("none").display()
    );
    to(&missing).expect(1, "", &text);
    to(Path::new("/dev/full")).expect(
        1,
        "",
        "Error: failed to export container: invalid output path: \"/dev/full\" must be a directory \
         or a regular file: got a device\n",
    );
    to(&out).expect(0, "", "");
    assert!(fs::metadata(&out).unwrap().size() > 100_000);
    store.check_at_rest();
}

/// However the command ends, its view does.
pub fn an_interrupted_export_leaves_no_view() {
    for signal in ["TERM", "KILL"] {
        let store = Store::new();
        store.load(&heavy("heavy:1", 1));
        let container = store.create("heavy:1");
        let before = state(&store, &container);
        // Nobody reads: it cannot end by itself, for the file is larger than a pipe.
        let mut export = store
            .command(&["export", &container])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let merged = store
            .root()
            .join("containers")
            .join(&container)
            .join("merged");
        wait_until("it is there", || is_mounted(&merged));
        // Another one finds the view of the first.
        assert_diff(&store, &container, b"");
        Command::new("kill")
            .args(["-s", signal, &export.id().to_string()])
            .status()
            .unwrap();
        export.wait().unwrap();
        store.wait_for_servers_to_end();
        assert!(!is_mounted(&merged));
        assert_eq!(state(&store, &container), before, "{signal}");
        store.check_at_rest();
    }
}

/// Nor does a server that is killed leave a trace in the container's state.
pub fn a_killed_server_of_a_transient_view() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let container = store.create("heavy:1");
    let before = state(&store, &container);
    let mut export = store
        .command(&["export", &container])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let merged = store
        .root()
        .join("containers")
        .join(&container)
        .join("merged");
    // It is in the middle of the file, which is larger than all buffers.
    let mut byte = [0];
    export
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();
    let server = store
        .servers()
        .into_iter()
        .find(|pid| *pid != export.id() as i32);
    crate::harness::process::kill_hard(server.unwrap());
    let run = Run::finish(export, "export".to_owned());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("Error: cannot read"),
        "{}",
        run.stderr
    );
    assert_eq!(state(&store, &container), before);
    assert!(!is_mounted(&merged));
    store.check_at_rest();
}

/// A transient view is not taken for one that stays.
pub fn mounting_waits_for_a_transient_view() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let container = store.create("heavy:1");
    let mut export = store
        .command(&["export", &container])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("a view is mounted", || !store.json(&["ps"]).is_empty());
    let mount = store
        .command(&["mount", &container])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::io::copy(&mut export.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    assert!(export.wait().unwrap().success());
    let view = Run::finish(mount, "mount".to_owned()).ok();
    fs::write(Path::new(view.trim_end()).join("written"), "").unwrap();
    assert_diff(&store, &container, b"A /written\n");
    store.ok(&["umount", &container]);
}

/// As deep as a path can be, and no deeper.
pub fn deep_trees() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(&view, flags, Mode::empty()).unwrap();
    let dig = |at: &mut std::os::fd::OwnedFd| {
        rustix::fs::mkdirat(&*at, "d", Mode::RWXU).unwrap();
        *at = rustix::fs::openat(&*at, "d", flags, Mode::empty()).unwrap();
    };
    for _ in 0..1500 {
        dig(&mut at);
    }
    assert_eq!(
        diff(&store, &container).split(|b| *b == b'\n').count(),
        1501
    );
    let tar = store.beside("deep.tar");
    store.ok(&["export", "-o", tar.to_str().unwrap(), &container]);
    for _ in 0..1000 {
        dig(&mut at);
    }
    for command in ["diff", "export"] {
        let run = store.run(&[command, &container]);
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.contains("File name too long"), "{run:#?}");
    }
    drop(at);
    store.ok(&["umount", &container]);
}
