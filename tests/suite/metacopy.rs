//! Changes of the metadata of a layer's file, which copy no data, and the first change of the data
//! after them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use layerctl::union::{
    Attr, Error, Layers, Options, RenameHow, SetAttr, SetTime, Time, Union, WriteHow,
};
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use crate::harness::{LoopFs, noise};
use crate::union_mounted::{Tmpfs, View as Mount, listing, overlay_of, rich_layers, sh};
use crate::union_support::{Dirs, View, get_xattr, open_dir, put, set_xattr};

const METACOPY: &str = "trusted.overlay.metacopy";
const REDIRECT: &str = "trusted.overlay.redirect";
const COMPLETING: &str = "trusted.layerctl.completing";
const CAPABILITY: &str = "security.capability";
/// Version 2, permitted and effective: CAP_NET_BIND_SERVICE.
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const SIZE: usize = 3 << 20;

/// A program of some size, with everything that writing disturbs.
fn put_program(dirs: &Dirs, path: &str) {
    put(&dirs.layer(0), path, "");
    let file = dirs.layer(0).join(path);
    fs::write(&file, content()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    set_xattr(&file, CAPABILITY, &BIND);
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(at).set_accessed(at);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_times(times)
        .unwrap();
}

fn content() -> Vec<u8> {
    noise(1, SIZE)
}

fn changed(with: &[u8]) -> Vec<u8> {
    let mut content = content();
    content[..with.len()].copy_from_slice(with);
    content
}

fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

fn read(view: &View, path: &str) -> Vec<u8> {
    let handle = view.open(path, OFlags::RDONLY).unwrap();
    let content = view.union.read(handle, 0, SIZE + 1).unwrap();
    view.union.release(handle).unwrap();
    content
}

/// Whether a file of the upper directory has no data of its own: an inode may have a block of
/// extended attributes, at most.
fn is_metacopy(path: &Path) -> bool {
    let marked = get_xattr(path, METACOPY).is_some();
    let blocks = path.symlink_metadata().unwrap().blocks();
    assert_eq!(marked, blocks <= 16, "{}: {blocks}", path.display());
    marked
}

pub fn attributes_copy_no_data() {
    let dirs = Dirs::new(1);
    for name in ["chmod", "chown", "times", "setxattr", "removexattr"] {
        put_program(&dirs, &format!("d/{name}"));
    }
    let view = dirs.view();
    let before = view.attr("d/chmod").unwrap();
    view.setattr("d/chmod", &mode(0o600)).unwrap();
    let owner = SetAttr {
        uid: Some(1),
        gid: Some(2),
        ..SetAttr::default()
    };
    view.setattr("d/chown", &owner).unwrap();
    let time = Time { secs: 5, nanos: 7 };
    let times = SetAttr {
        mtime: Some(SetTime::At(time)),
        ..SetAttr::default()
    };
    view.setattr("d/times", &times).unwrap();
    let [set, remove] = ["d/setxattr", "d/removexattr"].map(|name| view.entry(name).unwrap());
    let flags = XattrFlags::empty();
    view.union
        .setxattr(set.attr.ino, b"user.a", b"b", flags)
        .unwrap();
    view.union
        .removexattr(remove.attr.ino, CAPABILITY.as_bytes())
        .unwrap();
    let after = view.attr("d/chmod").unwrap();
    let ctime = after.ctime;
    assert_eq!(
        after,
        Attr {
            mode: 0o600,
            ctime,
            ..before
        }
    );
    for view in [&view, &dirs.view()] {
        for name in ["chmod", "chown", "times", "setxattr", "removexattr"] {
            let path = format!("d/{name}");
            assert!(is_metacopy(&dirs.upper().join(&path)), "{path}");
            assert_eq!(get_xattr(&dirs.upper().join(&path), REDIRECT), None);
            assert!(read(view, &path) == content(), "{path}");
            assert_eq!(view.attr(&path).unwrap().blocks, before.blocks, "{path}");
        }
        assert_eq!(view.attr("d/chmod").unwrap().ino, before.ino);
        let owned = view.attr("d/chown").unwrap();
        assert_eq!((owned.uid, owned.gid), (1, 2));
        assert_eq!(view.attr("d/times").unwrap().mtime, time);
        let entry = view.entry("d/removexattr").unwrap();
        let left = view.union.getxattr(entry.attr.ino, CAPABILITY.as_bytes());
        assert_eq!(left, Err(Error::NoAttribute));
    }
}

pub fn the_first_write_completes_the_copy() {
    let dirs = Dirs::new(1);
    put_program(&dirs, "d/one");
    fs::hard_link(dirs.layer(0).join("d/one"), dirs.layer(0).join("two")).unwrap();
    for volatile in [true, false] {
        let options = Options {
            volatile,
            ..Options::default()
        };
        let view = View {
            union: Union::new(dirs.open(), options).unwrap(),
        };
        view.setattr("two", &mode(0o4700)).unwrap();
        let early = view.open("d/one", OFlags::RDONLY).unwrap();
        let head = |handle| view.union.read(handle, 0, 4).unwrap();
        assert_eq!(head(early), content()[..4]);
        let before = view.attr("two").unwrap();
        let handle = view.open("two", OFlags::RDWR).unwrap();
        // Opened for writing, not written: it is as it was, but whole.
        let after = view.attr("d/one").unwrap();
        let Attr { ctime, blocks, .. } = after;
        assert_eq!(
            after,
            Attr {
                ctime,
                blocks,
                ..before
            }
        );
        let copy = dirs.upper().join("d/one");
        assert!(!is_metacopy(&copy));
        assert_eq!(get_xattr(&copy, CAPABILITY).unwrap(), BIND);
        assert_eq!(get_xattr(&copy, COMPLETING), None);
        assert_eq!(copy.metadata().unwrap().nlink(), 2);
        view.union
            .write(handle, 0, b"new!", WriteHow::default())
            .unwrap();
        assert_eq!(head(early), b"new!");
        assert!(read(&view, "d/one") == changed(b"new!"));
        let view = dirs.view();
        assert!(read(&view, "two") == changed(b"new!"));
        assert_eq!(view.attr("two").unwrap().nlink, 2);
        for name in ["d/one", "two"] {
            fs::remove_file(dirs.upper().join(name)).unwrap();
        }
    }
}

/// Whatever becomes of its names and of the directories above, its data are found.
pub fn names_come_and_go() {
    let dirs = Dirs::new(2);
    for name in ["a/f", "a/g", "b/h", "b/linked"] {
        put_program(&dirs, name);
    }
    fs::create_dir_all(dirs.layer(1).join("a/b")).unwrap();
    fs::rename(dirs.layer(0).join("b"), dirs.layer(1).join("b")).unwrap();
    let mut view = dirs.view();
    let whole = |view: &View, names: &[&str]| {
        for name in names {
            assert!(read(view, name) == content(), "{name}");
        }
    };
    view.setattr("a/f", &mode(0o600)).unwrap();
    view.rename("a/f", "b/f", RenameHow::Replace).unwrap();
    view.rename("a", "moved", RenameHow::Replace).unwrap();
    view = dirs.view();
    whole(&view, &["b/f", "moved/g", "b/h"]);
    // Below a directory that has been moved, first changed there and then moved out of it.
    view.setattr("moved/g", &mode(0o600)).unwrap();
    view = dirs.view();
    view.rename("moved/g", "g", RenameHow::Replace).unwrap();
    view.rename("g", "b/h", RenameHow::Exchange).unwrap();
    view.link("b/linked", "link").unwrap();
    view.link("g", "moved/link").unwrap();
    view.unlink("b/linked").unwrap();
    view = dirs.view();
    whole(&view, &["b/f", "b/h", "g", "link", "moved/link"]);
    assert_eq!(view.attr("g").unwrap().nlink, 2);
    for name in ["b/f", "b/h", "g", "link"] {
        assert!(is_metacopy(&dirs.upper().join(name)), "{name}");
    }
    // Another directory where the layers have theirs: it does not matter to the redirects.
    view.rename("b", "c", RenameHow::Replace).unwrap();
    view.mkdir("b").unwrap();
    view.rename("c/f", "b/f", RenameHow::Replace).unwrap();
    view.write("moved/link", 0, b"new").unwrap();
    view = dirs.view();
    whole(&view, &["b/f", "c/h", "link"]);
    assert!(read(&view, "g") == changed(b"new"));
}

pub fn unlinked_while_open() {
    let dirs = Dirs::new(1);
    for name in ["before", "after", "other"] {
        put_program(&dirs, name);
    }
    let view = dirs.view();
    // First copied up and then unlinked, and the other way round.
    view.setattr("before", &mode(0o600)).unwrap();
    for name in ["before", "after"] {
        let entry = view.entry(name).unwrap();
        let handle = view.open(name, OFlags::RDONLY).unwrap();
        view.rename("other", name, RenameHow::Replace).unwrap();
        view.rename(name, "other", RenameHow::Replace).unwrap();
        view.union
            .setattr(entry.attr.ino, &mode(0o4711), crate::union_support::ROOT)
            .unwrap();
        let attr = view.union.getattr(entry.attr.ino).unwrap();
        assert_eq!((attr.nlink, attr.mode), (0, 0o4711));
        assert_eq!(attr.size, SIZE as u64);
        assert!(view.union.read(handle, 0, SIZE + 1).unwrap() == content());
        let writer = view
            .union
            .open(entry.attr.ino, OFlags::RDWR, crate::union_support::ROOT);
        let writer = writer.unwrap();
        view.union
            .write(writer, 0, b"new", WriteHow::default())
            .unwrap();
        assert!(view.union.read(handle, 0, SIZE + 1).unwrap() == changed(b"new"));
    }
    assert!(read(&view, "other") == content());
}

/// Less space than the file needs, but enough for what is asked.
pub fn cut_off_without_a_copy() {
    let dirs = Dirs::new(1);
    put_program(&dirs, "opened");
    put_program(&dirs, "set");
    let (disk, view) = small_upper(&dirs, "1m");
    for name in ["opened", "set"] {
        view.setattr(name, &mode(0o640)).unwrap();
        view.setattr(name, &mode(0o600)).unwrap();
    }
    let reader = view.open("opened", OFlags::RDONLY).unwrap();
    let handle = view.open("opened", OFlags::WRONLY | OFlags::TRUNC).unwrap();
    let nothing = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    view.setattr("set", &nothing).unwrap();
    assert_eq!(view.union.read(reader, 0, 9).unwrap(), b"");
    view.union
        .write(handle, 0, b"new", WriteHow::default())
        .unwrap();
    view.write("set", 0, b"new").unwrap();
    for view in [&view, &again(&dirs, &disk)] {
        for name in ["opened", "set"] {
            assert_eq!(read(view, name), b"new");
            assert_eq!(view.attr(name).unwrap().mode, 0o600);
            assert_eq!(
                get_xattr(&disk.path().join("upper").join(name), METACOPY),
                None
            );
        }
    }
}

pub fn no_space_to_complete() {
    let dirs = Dirs::new(1);
    put_program(&dirs, "file");
    let (disk, view) = small_upper(&dirs, "2m");
    view.setattr("file", &mode(0o4711)).unwrap();
    let before = view.attr("file").unwrap();
    for _ in 0..2 {
        let refused = view.open("file", OFlags::WRONLY);
        assert_eq!(refused, Err(Error::Sys(Errno::NOSPC)));
        let after = view.attr("file").unwrap();
        assert_eq!(
            after,
            Attr {
                ctime: after.ctime,
                ..before
            }
        );
        let copy = disk.path().join("upper/file");
        assert!(is_metacopy(&copy), "it has given its blocks back");
        assert_eq!(get_xattr(&copy, CAPABILITY).unwrap(), BIND);
        assert_eq!(get_xattr(&copy, COMPLETING), None);
        assert!(read(&view, "file") == content());
    }
    rustix::mount::mount_remount(disk.path(), rustix::mount::MountFlags::empty(), c"size=8m")
        .unwrap();
    view.write("file", 0, b"new").unwrap();
    assert!(read(&again(&dirs, &disk), "file") == changed(b"new"));
}

fn small_upper(dirs: &Dirs, size: &str) -> (Tmpfs, View) {
    let at = dirs.path("small");
    fs::create_dir(&at).unwrap();
    let disk = Tmpfs::new(&at, size);
    for name in ["upper", "work"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let view = again(dirs, &disk);
    (disk, view)
}

fn again(dirs: &Dirs, disk: &Tmpfs) -> View {
    let mut layers = dirs.open();
    layers.upper = Some(open_dir(&disk.path().join("upper")));
    layers.work = Some(open_dir(&disk.path().join("work")));
    View {
        union: Union::new(layers, Options::default()).unwrap(),
    }
}

/// As overlayfs: an error, and not a file of zeros.
pub fn data_that_have_vanished() {
    let dirs = Dirs::new(1);
    put_program(&dirs, "d/file");
    put_program(&dirs, "d/other");
    let view = dirs.view();
    view.setattr("d/file", &mode(0o600)).unwrap();
    let io = Error::Sys(Errno::IO);
    let lower = dirs.layer(0).join("d/file");
    let held = view.entry("d/file").unwrap();
    fs::remove_file(&lower).unwrap();
    assert_eq!(view.open("d/file", OFlags::RDONLY), Err(io));
    assert_eq!(view.open("d/file", OFlags::RDWR), Err(io));
    assert_eq!(view.attr("d/file").unwrap().size, SIZE as u64);
    // Another file in its place.
    fs::write(&lower, "short").unwrap();
    assert_eq!(view.open("d/file", OFlags::RDWR), Err(io));
    drop(held);
    for replacement in ["none", "directory"] {
        match replacement {
            "none" => fs::remove_file(&lower).unwrap(),
            _ => fs::create_dir(&lower).unwrap(),
        }
        let view = dirs.view();
        assert_eq!(view.entry("d/file").unwrap_err(), io, "{replacement}");
        assert!(read(&view, "d/other") == content());
        assert_eq!(view.list("d").unwrap(), ["file", "other"]);
    }
}

/// Each state that a crash can leave between two steps; what the mark is for.
pub fn what_a_crash_leaves() {
    let dirs = Dirs::new(1);
    put_program(&dirs, "file");
    let copy = dirs.upper().join("file");
    let view = dirs.view();
    view.setattr("file", &mode(0o4711)).unwrap();
    let before = view.attr("file").unwrap();
    drop(view);
    // What completing writes before it starts, taken from a completion that fails at its end.
    let note = {
        let mtime = copy.metadata().unwrap();
        let mut note = vec![1];
        note.extend(0o4711_u32.to_le_bytes());
        note.extend(mtime.mtime().to_le_bytes());
        note.extend((mtime.mtime_nsec() as u32).to_le_bytes());
        note.extend(BIND);
        note
    };
    for bytes in [0, 4096, SIZE] {
        set_xattr(&copy, COMPLETING, &note);
        let file = File::options().write(true).open(&copy).unwrap();
        file.write_all_at(&noise(2, bytes), 0).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o711)).unwrap();
        let view = dirs.view();
        let after = view.attr("file").unwrap();
        assert_eq!(
            after,
            Attr {
                ctime: after.ctime,
                ..before
            },
            "{bytes}"
        );
        assert_eq!(get_xattr(&copy, CAPABILITY).unwrap(), BIND);
        assert_eq!(get_xattr(&copy, COMPLETING), None);
        assert!(read(&view, "file") == content());
    }
    // The mark has gone, the note not yet.
    dirs.view().write("file", 0, b"new").unwrap();
    set_xattr(&copy, COMPLETING, &note);
    let written = copy.metadata().unwrap().modified().unwrap();
    assert!(read(&dirs.view(), "file") == changed(b"new"));
    assert_eq!(copy.metadata().unwrap().modified().unwrap(), written);
    // Truncated, but for the mark.
    set_xattr(&copy, METACOPY, b"");
    File::create(&copy).unwrap();
    let view = dirs.view();
    assert_eq!(read(&view, "file"), b"");
    view.write("file", 0, b"new").unwrap();
    assert_eq!(read(&dirs.view(), "file"), b"new");
}

/// What was an upper directory is a layer later.
pub fn metacopies_in_layers() {
    let mut dirs = Dirs::new(2);
    for name in ["d/file", "d/moved", "kept"] {
        put_program(&dirs, name);
    }
    let lower = dirs.layer(0);
    fs::rename(lower.join("kept"), dirs.layer(1).join("kept")).unwrap();
    let next = |dirs: &mut Dirs| {
        fs::create_dir(dirs.layer(dirs.layers).parent().unwrap()).unwrap();
        for layer in (0..dirs.layers).rev() {
            fs::rename(dirs.layer(layer), dirs.layer(layer + 1)).unwrap();
        }
        dirs.layers += 1;
        fs::rename(dirs.upper(), dirs.layer(0)).unwrap();
        fs::create_dir(dirs.upper()).unwrap();
    };
    let view = dirs.view();
    view.setattr("d/file", &mode(0o600)).unwrap();
    view.setattr("kept", &mode(0o600)).unwrap();
    view.rename("d/moved", "m", RenameHow::Replace).unwrap();
    let blocks = view.attr("d/file").unwrap().blocks;
    next(&mut dirs);
    let view = dirs.view();
    for name in ["d/file", "m", "kept"] {
        assert!(read(&view, name) == content(), "{name}");
        assert_eq!(view.attr(name).unwrap().blocks, blocks, "{name}");
    }
    // Once more on top of that, and moved again.
    view.setattr("d/file", &mode(0o640)).unwrap();
    view.rename("m", "n", RenameHow::Replace).unwrap();
    view.write("kept", 0, b"new").unwrap();
    assert!(is_metacopy(&dirs.upper().join("n")));
    next(&mut dirs);
    let view = dirs.view();
    assert_eq!(view.attr("d/file").unwrap().mode, 0o640);
    assert!(read(&view, "d/file") == content());
    view.write("n", 0, b"new").unwrap();
    let view = dirs.view();
    assert!(read(&view, "n") == changed(b"new"));
    assert!(read(&view, "kept") == changed(b"new"));
}

/// A path that no extended attribute takes: the copy is completed instead.
pub fn a_redirect_that_does_not_fit() {
    let disk = LoopFs::with_blocks_of(1024, 32);
    let dirs = Dirs::new(1);
    let deep = vec!["d".repeat(200); 6].join("/");
    put_program(&dirs, &format!("{deep}/file"));
    put_program(&dirs, &format!("{deep}/one"));
    let [one, two] = ["one", "two"].map(|name| dirs.layer(0).join(&deep).join(name));
    fs::hard_link(one, two).unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let view = || {
        let mut layers = dirs.open();
        layers.upper = Some(open_dir(&disk.path().join("upper")));
        layers.work = Some(open_dir(&disk.path().join("work")));
        View {
            union: Union::new(layers, Options::default()).unwrap(),
        }
    };
    let now = view();
    now.setattr(&format!("{deep}/file"), &mode(0o600)).unwrap();
    let copy = |path: &str| disk.path().join("upper").join(path);
    assert!(is_metacopy(&copy(&format!("{deep}/file"))));
    let from = format!("{deep}/file");
    now.rename(&from, "moved", RenameHow::Replace).unwrap();
    assert!(!is_metacopy(&copy("moved")));
    now.setattr(&format!("{deep}/two"), &mode(0o600)).unwrap();
    assert!(!is_metacopy(&copy(&format!("{deep}/one"))));
    let now = view();
    for name in ["moved", &format!("{deep}/one"), &format!("{deep}/two")] {
        assert!(read(&now, name) == content(), "{name}");
    }
}

/// Both ways: what a view wrote, and then what overlayfs wrote over it.
pub fn overlayfs_and_a_view_take_turns() {
    let dirs = rich_layers();
    for name in ["big/one", "big/two", "big/three", "big/four"] {
        put_program(&dirs, name);
    }
    fs::hard_link(dirs.layer(0).join("big/one"), dirs.layer(0).join("big/ein")).unwrap();
    let mut view = Mount::new(dirs);
    sh(
        "chmod 600 big/one; chown 5:6 big/two; mv big/two two; touch -c -d @7 big/three
         ln big/three drei; setfattr -n user.test -v new etc/passwd; mv etc etc2; mv suid etc2/
         mv big b; mv b/three b/3; mv drei b/four",
        &view.mnt,
    );
    let shown = listing(&view.mnt);
    view.unmount();
    let dirs = &view.dirs;
    for name in ["b/one", "b/ein", "two", "b/3", "b/four"] {
        assert!(is_metacopy(&dirs.upper().join(name)), "{name}");
    }
    let overlay = overlay_of(dirs, "upper", "ovl-work");
    assert_eq!(shown, listing(&overlay.path()));
    sh(
        "chmod 640 two; mv two b/zwei; chown 8 b/3; chmod 600 etc2/group; mv etc2/group g
         ln b/zwei zwei; echo more >> b/ein; mv b big",
        &overlay.path(),
    );
    let shown = listing(&overlay.path());
    drop(overlay);
    for name in ["big/zwei", "zwei", "big/3", "g"] {
        assert!(
            get_xattr(&dirs.upper().join(name), METACOPY).is_some(),
            "{name}"
        );
    }
    let mut view = view.again();
    assert_eq!(shown, listing(&view.mnt));
    sh(
        "echo more >> zwei; : > big/3; mv g big/g; echo more >> big/g",
        &view.mnt,
    );
    let shown = listing(&view.mnt);
    view.unmount();
    let overlay = overlay_of(&view.dirs, "upper", "ovl-work");
    assert_eq!(shown, listing(&overlay.path()));
}

/// What was written and synced after the copy was completed is there: the mark has not come back.
pub fn a_power_cut_after_the_copy_was_completed() {
    let disk = LoopFs::new(64);
    let dirs = Dirs::new(1);
    put_program(&dirs, "file");
    put_program(&dirs, "changed");
    for name in ["upper", "work"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let view = || {
        let mut layers = dirs.open();
        layers.upper = Some(open_dir(&disk.path().join("upper")));
        layers.work = Some(open_dir(&disk.path().join("work")));
        View {
            union: Union::new(layers, Options::default()).unwrap(),
        }
    };
    let now = view();
    now.setattr("file", &mode(0o600)).unwrap();
    now.setattr("changed", &mode(0o600)).unwrap();
    disk.free_bytes(); // writes everything to disk
    let handle = now.open("file", OFlags::RDWR).unwrap();
    now.union
        .write(handle, 0, b"new", WriteHow::default())
        .unwrap();
    now.union.fsync(handle, true).unwrap();
    // Of one that has its metadata alone, they are what is synced.
    let reader = now.open("changed", OFlags::RDONLY).unwrap();
    now.setattr("changed", &mode(0o644)).unwrap();
    now.union.fsync(reader, false).unwrap();
    fs::write(disk.path().join("not-synced"), "lost with the power").unwrap();
    disk.power_cut(|| drop(now));
    assert!(!disk.path().join("not-synced").exists());
    let now = view();
    assert!(read(&now, "file") == changed(b"new"));
    assert_eq!(now.attr("changed").unwrap().mode, 0o644);
    assert!(read(&now, "changed") == content());
    drop(now);
}

/// On a disk that can, the copy shares the data of the layer: at once, and after its metadata alone.
pub fn data_are_shared_where_the_disk_can() {
    let disk = LoopFs::with_reflinks();
    for name in ["layer", "upper", "work"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let size = 8 << 20;
    for name in ["whole", "completed"] {
        let file = File::create(disk.path().join("layer").join(name)).unwrap();
        file.write_all_at(&noise(3, size), 0).unwrap();
        file.set_len(3 * size as u64).unwrap();
    }
    let open = |name: &str| open_dir(&disk.path().join(name));
    let layers = Layers {
        lowers: vec![open("layer")],
        index: None,
        upper: Some(open("upper")),
        work: Some(open("work")),
    };
    let view = View {
        union: Union::new(layers, Options::default()).unwrap(),
    };
    let before = disk.free_bytes();
    view.setattr("completed", &mode(0o600)).unwrap();
    for name in ["whole", "completed"] {
        view.write(name, 0, b"new").unwrap();
        let written = [b"new", &noise(3, size)[3..]].concat();
        let copy = fs::read(disk.path().join("upper").join(name)).unwrap();
        assert_eq!(copy.len(), 3 * size);
        assert!(copy[..size] == written && copy[size..].iter().all(|byte| *byte == 0));
    }
    let used = before - disk.free_bytes();
    assert!(used < 2 << 20, "{used} bytes for two copies of {size}");
}
