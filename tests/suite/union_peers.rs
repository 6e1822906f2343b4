//! What broke other union filesystems in the public suites, each by name, and what is large.
//!
//! | what broke | test |
//! |---|---|
//! | names of 252 to 255 bytes | [`names_of_252_to_255_bytes`] |
//! | names with odd bytes | [`every_byte_in_names`] |
//! | paths at `PATH_MAX` | [`paths_at_path_max`], `union_mount::paths_longer_than_path_max` |
//! | `fstat` of an unlinked open file | `union_mount::an_open_file_outlives_its_names` |
//! | inode numbers that the disk reuses | [`numbers_that_the_disk_reuses`] |
//! | the server's umask | [`the_servers_umask`] |
//! | `setxattr` on a symlink | [`attributes_of_symlinks`] |
//! | default ACL, set-group-ID inheritance | `union_mount::default_acls_and_umask` |
//! | suid cleared by writes | `union_caching::changes_clear_set_id_as_elsewhere` |
//! | mtime after writes to a mapping | `union_io::times_of_mapped_files`, `union_model_mounted::random_operations` |
//! | entries that come and go while listed | `union_mount::entries_come_and_go_while_listed`, `union_caching::many_readers_of_a_changing_directory` |
//! | a hard link, then a copy-up | [`a_hard_link_then_a_copy_up`], `union::hard_links_survive_copy_up` |
//! | directory rename | `union_mount::overlayfs_reads_what_a_view_wrote`, `union::hard_links_below_moved_directories` |
//! | times with nanoseconds | [`times_with_nanoseconds`] |
//! | `ctime` | [`changes_show_in_ctime`] |
//! | a character device 0:0 | [`a_null_device`], `union::a_null_device_is_no_whiteout` |
//! | `mount -t fuse.layerctl` | `overlay::by_mount` |

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev};
use rustix::io::Errno;

use crate::harness::{Image, Layer, Store};
use crate::union_mounted::{View, sh};
use crate::union_support::{Dirs, get_xattr, put, set_xattr};

fn names_in(dir: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// Whiteouts, copy-ups and what is moved aside have names of their own.
pub fn names_of_252_to_255_bytes() {
    let dirs = Dirs::new(1);
    let lengths = 252..=255;
    for length in lengths.clone() {
        for kind in ["read", "gone", "moved", "over"] {
            let name = format!("{kind}{}", "n".repeat(length - kind.len()));
            put(&dirs.layer(0), &name, kind);
        }
    }
    let view = View::new(dirs);
    for length in lengths {
        let at = |kind: &str| view.path(&format!("{kind}{}", "n".repeat(length - kind.len())));
        fs::write(at("read"), "written").unwrap();
        fs::remove_file(at("gone")).unwrap();
        assert!(!at("gone").exists());
        fs::create_dir(at("gone")).unwrap();
        fs::rename(at("moved"), at("over")).unwrap();
        symlink("x", at("link")).unwrap();
        assert_eq!(fs::read(at("over")).unwrap(), b"moved");
        fs::remove_file(at("over")).unwrap();
    }
    let shown = names_in(&view.mnt);
    let view = view.again();
    assert_eq!(names_in(&view.mnt), shown);
    assert!(
        !shown
            .iter()
            .any(|name| name.as_bytes().starts_with(b"over"))
    );
}

/// A path of 4,095 bytes is the longest that a call takes.
pub fn paths_at_path_max() {
    let dirs = Dirs::new(1);
    let view = View::new(dirs);
    let start = view.mnt.as_os_str().len();
    let mut dir = view.mnt.clone();
    // 15 names of 200 bytes, and one that fills up.
    for _ in 0..15 {
        dir.push("d".repeat(200));
        fs::create_dir(&dir).unwrap();
    }
    let left = 4095 - dir.as_os_str().len() - 1;
    let names: Vec<String> = (0..left / 201).map(|_| "e".repeat(200)).collect();
    for name in &names {
        dir.push(name);
        fs::create_dir(&dir).unwrap();
    }
    let left = 4095 - dir.as_os_str().len() - 1;
    assert!(start < 1000 && left < 255);
    let longest = dir.join("f".repeat(left));
    assert_eq!(longest.as_os_str().len(), 4095);
    fs::write(&longest, "longest").unwrap();
    assert_eq!(fs::read(&longest).unwrap(), b"longest");
    fs::rename(&longest, view.path("short")).unwrap();
    fs::hard_link(view.path("short"), &longest).unwrap();
    assert_eq!(fs::metadata(&longest).unwrap().nlink(), 2);
    let error = fs::read(dir.join("f".repeat(left + 1))).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NAMETOOLONG));
    fs::remove_file(&longest).unwrap();
}

/// A file that has gone and one that got its number on the disk are two files, also while the first is
/// open.
pub fn numbers_that_the_disk_reuses() {
    let view = View::new(Dirs::new(0));
    let mut reused = 0;
    let mut on_disk = std::collections::HashSet::new();
    for round in 0..50 {
        let (path, content) = (view.path(&format!("f{round}")), format!("round {round}"));
        fs::write(&path, &content).unwrap();
        let stored = view.dirs.upper().join(format!("f{round}"));
        if !on_disk.insert(fs::metadata(&stored).unwrap().ino()) {
            reused += 1;
        }
        let open = File::open(&path).unwrap();
        let number = open.metadata().unwrap().ino();
        fs::remove_file(&path).unwrap();
        // Made while the first is still open: neither its number nor its content.
        let other = view.path("other");
        fs::write(&other, "other").unwrap();
        assert_ne!(fs::metadata(&other).unwrap().ino(), number);
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        assert_eq!(std::io::read_to_string(&open).unwrap(), content);
        drop(open);
        fs::remove_file(&other).unwrap();
        // And after: what it shows is the new file's.
        fs::create_dir(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().is_dir());
        fs::remove_dir(&path).unwrap();
    }
    assert!(reused > 0, "the disk reused no number: nothing was tested");
}

/// The server's own umask is not its clients'.
pub fn the_servers_umask() {
    let store = Store::new();
    store.load(&Image::new(&["app:1"], vec![Layer::new().dir("dir")]));
    let container = store.create("app:1");
    let mount = format!(
        "umask 0777; exec {} --root {} mount {container}",
        crate::harness::store::LAYERCTL,
        store.root().display()
    );
    let mnt = sh(&mount, Path::new("/"));
    let mnt = Path::new(mnt.trim());
    sh(
        "umask 0; touch file; mkdir made; mkfifo fifo; ln -s x link; echo x > dir/file
         chmod 4755 dir/file; umask 027; touch masked; mkdir masked-dir",
        mnt,
    );
    let mode = |name: &str| fs::symlink_metadata(mnt.join(name)).unwrap().mode() & 0o7777;
    let modes = ["file", "made", "fifo", "dir/file", "masked", "masked-dir"].map(mode);
    assert_eq!(modes, [0o666, 0o777, 0o666, 0o4755, 0o640, 0o750]);
    store.ok(&["umount", &container]);
}

/// To follow the link would ask the view itself, and wait for ever, or change another file.
pub fn attributes_of_symlinks() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "target", "x");
    // The view itself, by its absolute path.
    symlink(dirs.path("mnt/target"), dirs.layer(0).join("lower")).unwrap();
    let view = View::new(dirs);
    symlink(view.path("target"), view.path("upper")).unwrap();
    symlink("nowhere", view.path("dangling")).unwrap();
    for name in ["lower", "upper", "dangling"] {
        let link = view.path(name);
        set_xattr(&link, "trusted.test", b"value");
        assert_eq!(
            get_xattr(&link, "trusted.test").unwrap(),
            b"value",
            "{name}"
        );
        let user = rustix::fs::XattrFlags::empty();
        let refused = rustix::fs::lsetxattr(&link, "user.test", b"x", user);
        assert_eq!(refused, Err(Errno::PERM), "{name}");
        std::os::unix::fs::lchown(&link, Some(7), Some(8)).unwrap();
        let meta = fs::symlink_metadata(&link).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.is_symlink()), (7, 8, true));
    }
    assert_eq!(get_xattr(&view.path("target"), "trusted.test"), None);
    assert_eq!(fs::metadata(view.path("target")).unwrap().uid(), 0);
    let view = view.again();
    assert_eq!(
        get_xattr(&view.path("lower"), "trusted.test").unwrap(),
        b"value"
    );
    rustix::fs::lremovexattr(view.path("lower"), "trusted.test").unwrap();
    assert_eq!(get_xattr(&view.path("lower"), "trusted.test"), None);
}

/// The new name is of the file that is copied up, before it and after.
pub fn a_hard_link_then_a_copy_up() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "old");
    put(&dirs.layer(0), "dir/below", "x");
    let mut view = View::new(dirs);
    let early = File::open(view.path("file")).unwrap();
    fs::hard_link(view.path("file"), view.path("dir/link")).unwrap();
    fs::write(view.path("dir/link"), "new").unwrap();
    assert_eq!(std::io::read_to_string(&early).unwrap(), "new");
    drop(early);
    for _ in 0..2 {
        let (one, other) = (view.path("file"), view.path("dir/link"));
        assert_eq!(fs::read(&one).unwrap(), b"new");
        let [one, other] = [one, other].map(|path| fs::metadata(path).unwrap());
        assert_eq!((one.ino(), one.nlink()), (other.ino(), 2));
        view = view.again();
    }
    fs::remove_file(view.path("file")).unwrap();
    assert_eq!(fs::metadata(view.path("dir/link")).unwrap().nlink(), 1);
}

fn set_times(path: &Path, (tv_sec, tv_nsec): (i64, i64)) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn times_with_nanoseconds() {
    // Before 1970, at its second, and later than 32 bits count.
    const TIMES: [(i64, i64); 4] = [
        (-2, 999_999_999),
        (-1, 1),
        (0, 123_456_789),
        (5_000_000_000, 987_654_321),
    ];
    let dirs = Dirs::new(1);
    for (number, time) in TIMES.iter().enumerate() {
        for kind in ["kept", "changed"] {
            let name = format!("{kind}{number}");
            put(&dirs.layer(0), &format!("{name}-dir/file"), "x");
            put(&dirs.layer(0), &name, "x");
            set_times(&dirs.layer(0).join(&name), *time);
            set_times(&dirs.layer(0).join(format!("{name}-dir")), *time);
        }
    }
    let mut view = View::new(dirs);
    for number in 0..TIMES.len() {
        // A copy-up keeps them, of the file and of the directory that it is in.
        let kept = view.path(&format!("kept{number}"));
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(view.path(&format!("kept{number}-dir/file")), "changed").unwrap();
        let time = TIMES[TIMES.len() - 1 - number];
        for name in [format!("changed{number}"), format!("changed{number}-dir")] {
            set_times(&view.path(&name), time);
        }
    }
    for _ in 0..2 {
        for (number, time) in TIMES.iter().enumerate() {
            let set = TIMES[TIMES.len() - 1 - number];
            for (kind, time) in [("kept", *time), ("changed", set)] {
                for name in [format!("{kind}{number}"), format!("{kind}{number}-dir")] {
                    let meta = fs::metadata(view.path(&name)).unwrap();
                    assert_eq!((meta.mtime(), meta.mtime_nsec()), time, "{name}");
                }
            }
        }
        view = view.again();
    }
}

pub fn changes_show_in_ctime() {
    const NAMES: [&str; 8] = [
        "mode",
        "owner",
        "times",
        "attribute",
        "linked",
        "moved",
        "content",
        "size",
    ];
    let dirs = Dirs::new(1);
    for name in NAMES {
        put(&dirs.layer(0), name, "content");
    }
    let view = View::new(dirs);
    let change = |name: &str, path: &Path, round: u8| match (name, round) {
        ("mode", _) => fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
        ("owner", _) => std::os::unix::fs::chown(path, Some(3), None).unwrap(),
        ("times", _) => set_times(path, (1, 1)),
        // The same value again is no change to ext4.
        ("attribute", round) => set_xattr(path, "user.test", &[round]),
        ("linked", 0) => fs::hard_link(path, path.with_extension("link")).unwrap(),
        ("linked", _) => fs::remove_file(path.with_extension("link")).unwrap(),
        ("moved", _) => {
            let other = path.with_extension("moved");
            fs::rename(path, &other).unwrap();
            fs::rename(other, path).unwrap();
        }
        ("content", _) => fs::write(path, "other").unwrap(),
        _ => {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(u64::from(round)).unwrap();
        }
    };
    let ctime = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    for name in NAMES {
        let path = view.path(name);
        // Of a lower file, then of the one that was copied up.
        for round in 0..2 {
            let before = ctime(&path);
            // The kernel's clock for files ticks every few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(name, &path, round);
            assert!(ctime(&path) > before, "{name}, round {round}");
        }
    }
}

/// On disk it would be a whiteout.
pub fn a_null_device() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "dir/file", "x");
    let mut view = View::new(dirs);
    let make = |path: &Path| {
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, path, kind, Mode::from(0o640), makedev(0, 0)).unwrap();
    };
    fs::remove_file(view.path("dir/file")).unwrap();
    make(&view.path("dir/file"));
    make(&view.path("new"));
    fs::hard_link(view.path("new"), view.path("dir/link")).unwrap();
    fs::rename(view.path("new"), view.path("moved")).unwrap();
    std::os::unix::fs::chown(view.path("moved"), Some(5), Some(6)).unwrap();
    for _ in 0..2 {
        for name in ["dir/file", "dir/link", "moved"] {
            let meta = fs::symlink_metadata(view.path(name)).unwrap();
            assert!(meta.file_type().is_char_device(), "{name}");
            assert_eq!(meta.rdev(), 0, "{name}");
        }
        let meta = fs::metadata(view.path("dir/link")).unwrap();
        assert_eq!(
            (meta.uid(), meta.nlink(), meta.mode() & 0o777),
            (5, 2, 0o640)
        );
        assert!(names_in(&view.path("dir")).contains(OsStr::new("file")));
        view = view.again();
    }
    for name in ["dir/file", "dir/link", "moved"] {
        fs::remove_file(view.path(name)).unwrap();
        assert!(view.path(name).symlink_metadata().is_err(), "{name}");
    }
    assert!(names_in(&view.path("dir")).is_empty());
}

/// All but the slash, alone and together, in a layer and made in the view.
pub fn every_byte_in_names() {
    let dirs = Dirs::new(1);
    let mut names: Vec<OsString> = (1..=255_u8)
        .filter(|byte| *byte != b'/' && *byte != b'.')
        .map(|byte| OsString::from_vec(vec![byte]))
        .collect();
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    names.push(OsString::from_vec(bytes));
    for name in [".wh", "...", ".wh..wh.", "-", "\\", "a,b:c", " "] {
        names.push(name.into());
    }
    let names: BTreeSet<OsString> = names.into_iter().collect();
    for dir in ["lower", "gone"] {
        fs::create_dir(dirs.layer(0).join(dir)).unwrap();
        for name in &names {
            fs::write(dirs.layer(0).join(dir).join(name), name.as_bytes()).unwrap();
        }
    }
    let mut view = View::new(dirs);
    fs::create_dir(view.path("new")).unwrap();
    for name in &names {
        fs::write(view.path("new").join(name), name.as_bytes()).unwrap();
        fs::remove_file(view.path("gone").join(name)).unwrap();
        let file = File::options()
            .append(true)
            .open(view.path("lower").join(name));
        std::io::Write::write_all(&mut file.unwrap(), b"!").unwrap();
        set_xattr(&view.path("new").join(name), "user.name", name.as_bytes());
    }
    for _ in 0..2 {
        assert_eq!(names_in(&view.path("new")), names);
        assert_eq!(names_in(&view.path("lower")), names);
        assert!(names_in(&view.path("gone")).is_empty());
        for name in &names {
            let new = view.path("new").join(name);
            assert_eq!(fs::read(&new).unwrap(), name.as_bytes());
            assert_eq!(get_xattr(&new, "user.name").unwrap(), name.as_bytes());
            let lower = fs::read(view.path("lower").join(name)).unwrap();
            assert_eq!(lower, [name.as_bytes(), b"!"].concat());
        }
        view = view.again();
    }
}

/// How many entries; more where there is time.
fn many() -> usize {
    let told = std::env::var("LAYERCTL_TEST_ENTRIES");
    told.map_or(20_000, |entries| entries.parse().unwrap())
}

/// As many entries in a layer, and made in the view: listed, looked up, removed.
pub fn a_directory_of_many_entries() {
    let dirs = Dirs::new(1);
    fs::create_dir(dirs.layer(0).join("lower")).unwrap();
    let count = many();
    for number in 0..count {
        File::create(dirs.layer(0).join(format!("lower/{number}"))).unwrap();
    }
    let view = View::new(dirs);
    fs::create_dir(view.path("upper")).unwrap();
    for number in 0..count {
        File::create(view.path(&format!("upper/{number}"))).unwrap();
    }
    for dir in ["lower", "upper"] {
        let listed = |expected: usize| {
            let mut seen = vec![false; count];
            for entry in fs::read_dir(view.path(dir)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let number: usize = name.parse().unwrap();
                assert!(!seen[number], "{name} is listed twice");
                seen[number] = true;
            }
            assert_eq!(seen.iter().filter(|seen| **seen).count(), expected, "{dir}");
        };
        listed(count);
        for number in (0..count).step_by(97) {
            let path = view.path(&format!("{dir}/{number}"));
            assert_eq!(fs::metadata(path).unwrap().len(), 0);
        }
        assert!(!view.path(&format!("{dir}/{count}")).exists());
        let removed = (0..count).step_by(2);
        let left = count - removed.len();
        for number in removed {
            fs::remove_file(view.path(&format!("{dir}/{number}"))).unwrap();
        }
        listed(left);
    }
    let view = view.again();
    for dir in ["lower", "upper"] {
        assert_eq!(
            fs::read_dir(view.path(dir)).unwrap().count(),
            count / 2,
            "{dir}"
        );
        fs::remove_dir_all(view.path(dir)).unwrap();
        assert!(!view.path(dir).exists());
    }
}

/// Two hundred layers of an image; each adds, replaces and hides.
pub fn two_hundred_layers_of_an_image() {
    let layers = (0..200).map(|number: i32| {
        let mut layer = Layer::new()
            .dir("d")
            .file(&format!("d/{number}"), number.to_string())
            .file("d/same", number.to_string());
        if number % 10 == 9 {
            layer = layer.whiteout(&format!("d/{}", number - 5));
        }
        layer
    });
    let store = Store::new();
    store.load(&Image::new(&["app:1"], layers.collect()));
    let (container, mnt) = store.create_mounted("app:1");
    let shown = || {
        let names = names_in(&mnt.join("d"));
        assert_eq!(names.len(), 200 + 1 - 20);
        for name in &names {
            let content = fs::read(mnt.join("d").join(name)).unwrap();
            let expected = if name == "same" {
                OsStr::new("199")
            } else {
                name
            };
            assert_eq!(content, expected.as_bytes(), "{name:?}");
        }
    };
    shown();
    for number in [4, 14, 194] {
        assert!(!mnt.join(format!("d/{number}")).exists());
    }
    fs::write(mnt.join("d/same"), "199").unwrap();
    fs::rename(mnt.join("d"), mnt.join("e")).unwrap();
    store.ok(&["umount", &container]);
    let mnt_again = store.mount(&container);
    assert_eq!(mnt_again, mnt);
    fs::rename(mnt.join("e"), mnt.join("d")).unwrap();
    shown();
}
