//! The union without a mount: what exactly is left on disk, errors, numbers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, SystemTime};

use layerctl::union::{
    Error, Kind, Layers, NewEntry, Options, ROOT_INO, RenameHow, SetAttr, SetTime, Time, Union,
    What, WriteHow,
};
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use crate::harness::process::kill_hard;
use crate::harness::store::names_in;
use crate::harness::{LoopFs, Store};
use crate::samples::app;

use super::union_support::{
    Dirs, ROOT, View, get_xattr, opaque, open_dir, put, set_xattr, whiteout,
};

pub fn whiteouts_only_where_needed() {
    let dirs = Dirs::new(2);
    put(&dirs.layer(1), "lower", "x");
    put(&dirs.layer(1), "hidden", "x");
    whiteout(&dirs.layer(0), "hidden");
    let view = dirs.view();
    view.create("new", b"x").unwrap();
    view.create("hidden", b"x").unwrap();
    view.write("lower", 0, b"y").unwrap();
    for name in ["new", "hidden", "lower"] {
        view.unlink(name).unwrap();
    }
    let left: Vec<_> = fs::read_dir(dirs.upper())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].file_name(), "lower");
    assert!(left[0].file_type().unwrap().is_char_device());
    assert_eq!(left[0].metadata().unwrap().rdev(), 0);
}

pub fn removed_trees_do_not_come_back() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "d/e/file", "x");
    put(&dirs.layer(0), "target/file", "x");
    let view = dirs.view();
    view.unlink("d/e/file").unwrap();
    view.rmdir("d/e").unwrap();
    view.rmdir("d").unwrap();
    view.mkdir("d").unwrap();
    assert!(view.list("d").unwrap().is_empty());
    // A new directory moved to where a layer has one does not merge with it.
    view.mkdir("new").unwrap();
    view.unlink("target/file").unwrap();
    view.rename("new", "target", RenameHow::Replace).unwrap();
    let view = dirs.view();
    assert!(view.list("d").unwrap().is_empty());
    assert!(view.list("target").unwrap().is_empty());
    assert_eq!(view.list("").unwrap(), ["d", "target"]);
}

pub fn copy_up_keeps_everything() {
    let dirs = Dirs::new(1);
    let lower = dirs.layer(0).join("file");
    let file = fs::File::create(&lower).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", 8 << 20).unwrap();
    file.set_len(16 << 20).unwrap();
    std::os::unix::fs::chown(&lower, Some(12), Some(34)).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o6751)).unwrap();
    set_xattr(&lower, "user.a", b"value");
    set_xattr(&lower, "trusted.b", &[0, 255]);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&lower, "security.capability", &capability);
    set_xattr(&lower, "trusted.overlay.origin", b"");
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_times(fs::FileTimes::new().set_modified(at).set_accessed(at))
        .unwrap();
    let view = dirs.view();
    let before = view.attr("file").unwrap();
    let handle = view.open("file", OFlags::RDWR).unwrap();
    view.union.release(handle).unwrap();
    let after = view.attr("file").unwrap();
    assert_eq!(
        after,
        layerctl::union::Attr {
            ctime: after.ctime,
            blocks: after.blocks,
            ..before
        }
    );
    let copy = dirs.upper().join("file");
    let meta = fs::metadata(&copy).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (12, 34, 0o6751)
    );
    assert_eq!(meta.modified().unwrap(), at);
    assert!(meta.blocks() * 512 < 1 << 20, "the holes are filled");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&lower).unwrap());
    for name in ["user.a", "trusted.b", "security.capability"] {
        assert_eq!(get_xattr(&copy, name), get_xattr(&lower, name), "{name}");
    }
    assert_eq!(get_xattr(&copy, "trusted.overlay.origin"), None);
}

/// The upper directory's filesystem has no room for the attributes of the lower one's.
pub fn no_copy_up_without_the_attributes() {
    let disk = LoopFs::with_blocks_of(1024, 16);
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "content");
    put(&dirs.layer(0), "dir/file", "content");
    for name in ["file", "dir"] {
        set_xattr(&dirs.layer(0).join(name), "user.large", &[b'x'; 3000]);
    }
    let (upper, work) = (disk.path().join("upper"), disk.path().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let layers = Layers {
        upper: Some(open_dir(&upper)),
        work: Some(open_dir(&work)),
        ..dirs.open()
    };
    let view = View {
        union: Union::new(
            layers,
            Options {
                volatile: true,
                ..Options::default()
            },
        )
        .unwrap(),
    };
    let failed = Err(Error::Sys(Errno::NOSPC));
    assert_eq!(view.write("file", 0, b"C"), failed);
    assert_eq!(view.write("dir/file", 0, b"C"), failed);
    assert_eq!(view.mkdir("dir/new"), failed);
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    assert_eq!(view.setattr("file", &mode).map(drop), failed);
    assert_eq!(names_in(&upper), [""; 0]);
    assert_eq!(names_in(&work), [""; 0]);
    assert_eq!(view.read("file").unwrap(), b"content");
}

pub fn copy_up_leaves_the_parents_times() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "a/b/file", "x");
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    for dir in ["a", "a/b"] {
        let dir = fs::File::open(dirs.layer(0).join(dir)).unwrap();
        dir.set_times(fs::FileTimes::new().set_modified(at))
            .unwrap();
    }
    let view = dirs.view();
    let root = fs::metadata(dirs.upper()).unwrap().modified().unwrap();
    view.write("a/b/file", 0, b"y").unwrap();
    for dir in ["a", "a/b"] {
        assert_eq!(
            fs::metadata(dirs.upper().join(dir))
                .unwrap()
                .modified()
                .unwrap(),
            at,
            "{dir}"
        );
    }
    assert_eq!(
        fs::metadata(dirs.upper()).unwrap().modified().unwrap(),
        root
    );
    view.unlink("a/b/file").unwrap();
    assert_ne!(
        fs::metadata(dirs.upper().join("a/b"))
            .unwrap()
            .modified()
            .unwrap(),
        at
    );
}

pub fn hard_links_survive_copy_up() {
    let dirs = Dirs::new(2);
    put(&dirs.layer(1), "a", "content");
    fs::create_dir_all(dirs.layer(1).join("d/e")).unwrap();
    for name in ["b", "d/e/c", "hidden"] {
        fs::hard_link(dirs.layer(1).join("a"), dirs.layer(1).join(name)).unwrap();
    }
    whiteout(&dirs.layer(0), "hidden");
    let view = dirs.view();
    view.write("b", 0, b"C").unwrap();
    let attrs: Vec<_> = ["a", "b", "d/e/c"]
        .map(|name| view.attr(name).unwrap())
        .into();
    assert!(attrs.iter().all(|attr| *attr == attrs[0]), "{attrs:?}");
    assert_eq!(attrs[0].nlink, 3);
    assert_eq!(view.read("d/e/c").unwrap(), b"Content");
    view.unlink("a").unwrap();
    assert_eq!(view.attr("b").unwrap().nlink, 2);
    let view = dirs.view();
    assert_eq!(view.attr("b").unwrap(), view.attr("d/e/c").unwrap());
    assert_eq!(view.attr("b").unwrap().ino, attrs[0].ino);
    // Two names of one file: nothing happens.
    view.rename("b", "d/e/c", RenameHow::Replace).unwrap();
    assert_eq!(view.attr("b").unwrap().nlink, 2);
}

pub fn an_unlinked_name_and_one_not_looked_up() {
    let dirs = Dirs::new(1);
    put(&dirs.upper(), "a", "content");
    fs::hard_link(dirs.upper().join("a"), dirs.upper().join("b")).unwrap();
    let view = dirs.view();
    let handle = view.open("a", OFlags::RDWR).unwrap();
    let ino = view.attr("a").unwrap().ino;
    view.unlink("a").unwrap();
    assert_eq!(view.union.getattr(ino).unwrap().nlink, 1);
    // Found again by its other name: one node, one number.
    assert_eq!(view.attr("b").unwrap().ino, ino);
    view.union
        .write(handle, 0, b"C", WriteHow::default())
        .unwrap();
    assert_eq!(view.read("b").unwrap(), b"Content");
    view.link("b", "c").unwrap();
    view.unlink("b").unwrap();
    assert_eq!(view.attr("c").unwrap().ino, ino);
    view.unlink("c").unwrap();
    assert_eq!(view.union.getattr(ino).unwrap().nlink, 0);
    view.union.release(handle).unwrap();
    assert_eq!(view.union.getattr(ino), Err(Error::Stale));
}

pub fn hard_links_below_moved_directories() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "d/e/a", "content");
    fs::hard_link(dirs.layer(0).join("d/e/a"), dirs.layer(0).join("b")).unwrap();
    let view = dirs.view();
    view.rename("d", "x", RenameHow::Replace).unwrap();
    view.mkdir("y").unwrap();
    view.rename("x/e", "y/f", RenameHow::Replace).unwrap();
    // Both in this session and in one that knows of the move from the disk alone.
    let view = dirs.view();
    view.rename("y", "z", RenameHow::Replace).unwrap();
    view.write("b", 0, b"C").unwrap();
    assert_eq!(view.read("z/f/a").unwrap(), b"Content");
    assert_eq!(view.attr("z/f/a").unwrap().nlink, 2);
    let view = dirs.view();
    assert_eq!(view.attr("z/f/a").unwrap(), view.attr("b").unwrap());
}

pub fn an_early_reader_sees_later_writes() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "before");
    put(&dirs.layer(0), "other", "data");
    let view = dirs.view();
    let reader = view.open("file", OFlags::RDONLY).unwrap();
    assert_eq!(view.read_handle(reader).unwrap(), b"before");
    view.write("file", 0, b"after!").unwrap();
    assert_eq!(view.read_handle(reader).unwrap(), b"after!");
    view.rename("file", "moved", RenameHow::Replace).unwrap();
    view.write("moved", 0, b"moved!").unwrap();
    view.unlink("moved").unwrap();
    assert_eq!(view.read_handle(reader).unwrap(), b"moved!");
    // A copy-up by a change of attributes alone, while it is open.
    let reader = view.open("other", OFlags::RDONLY).unwrap();
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    view.setattr("other", &mode).unwrap();
    assert_eq!(view.read_handle(reader).unwrap(), b"data");
}

pub fn numbers_stay() {
    let dirs = Dirs::new(2);
    put(&dirs.layer(1), "d/file", "x");
    put(&dirs.layer(0), "d/other", "x");
    let view = dirs.view();
    let number = |view: &View, path: &str| view.attr(path).unwrap().ino;
    let (dir, file) = (number(&view, "d"), number(&view, "d/file"));
    view.write("d/file", 0, b"y").unwrap();
    assert_eq!((number(&view, "d"), number(&view, "d/file")), (dir, file));
    view.rename("d", "e", RenameHow::Replace).unwrap();
    assert_eq!((number(&view, "e"), number(&view, "e/file")), (dir, file));
    view.rename("e/file", "moved", RenameHow::Replace).unwrap();
    let view = dirs.view();
    assert_eq!((number(&view, "e"), number(&view, "moved")), (dir, file));
    // The disk's numbers may be used again: never two live nodes with one number.
    let held = view.entry("moved").unwrap();
    view.unlink("moved").unwrap();
    for i in 0..50 {
        view.create(&format!("new{i}"), b"").unwrap();
        assert_ne!(number(&view, &format!("new{i}")), held.attr.ino);
    }
}

pub fn private_xattrs_are_hidden() {
    let dirs = Dirs::new(1);
    opaque(&dirs.layer(0), "dir");
    put(&dirs.layer(0), "file", "x");
    set_xattr(&dirs.layer(0).join("file"), "user.seen", b"1");
    let view = dirs.view();
    view.write("file", 0, b"y").unwrap();
    let (dir, file) = (view.entry("dir").unwrap(), view.entry("file").unwrap());
    let (d, f) = (dir.attr.ino, file.attr.ino);
    assert_eq!(view.union.listxattr(d).unwrap(), b"");
    assert_eq!(view.union.listxattr(f).unwrap(), b"user.seen\0");
    for name in [
        &b"trusted.overlay.opaque"[..],
        b"user.overlay.x",
        b"trusted.layerctl.origin",
    ] {
        let set = view.union.setxattr(d, name, b"y", XattrFlags::empty());
        assert_eq!(set, Err(Error::Reserved));
        assert_eq!(view.union.getxattr(d, name), Err(Error::NoAttribute));
        assert_eq!(view.union.removexattr(d, name), Err(Error::NoAttribute));
    }
    assert_eq!(view.union.getxattr(f, b"user.seen").unwrap(), b"1");
    let link = view.make("link", 0o777, What::Symlink(b"file")).unwrap();
    view.union
        .setxattr(link.attr.ino, b"trusted.x", b"1", XattrFlags::CREATE)
        .unwrap();
    let again = view
        .union
        .setxattr(link.attr.ino, b"trusted.x", b"1", XattrFlags::CREATE);
    assert_eq!(again, Err(Error::Sys(Errno::EXIST)));
    assert_eq!(
        view.union.getxattr(f, b"trusted.x"),
        Err(Error::NoAttribute)
    );
}

pub fn labels_are_the_hosts() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "x");
    set_xattr(&dirs.layer(0).join("file"), "security.selinux", b"label");
    set_xattr(&dirs.layer(0).join("file"), "user.key", b"value");
    let view = dirs.view();
    let file = view.entry("file").unwrap();
    let ino = file.attr.ino;
    let label = b"security.selinux";
    for _ in 0..2 {
        let listed = view.union.listxattr(ino).unwrap();
        assert_eq!(listed, b"user.key\0");
        assert_eq!(view.union.getxattr(ino, label), Err(Error::NotSupported));
        let set = view.union.setxattr(ino, label, b"new", XattrFlags::empty());
        assert_eq!(set, Err(Error::NotSupported));
        view.write("file", 0, b"y").unwrap();
    }
    assert_eq!(
        get_xattr(&dirs.upper().join("file"), "security.selinux"),
        None
    );
}

pub fn leftovers_are_removed_at_start() {
    let dirs = Dirs::new(1);
    put(&dirs.path("work"), "#1/deep/file", "x");
    whiteout(&dirs.path("work"), "#2");
    drop(dirs.view());
    assert_eq!(fs::read_dir(dirs.path("work")).unwrap().count(), 0);
}

pub fn redirects_in_layers() {
    let dirs = Dirs::new(3);
    put(&dirs.layer(2), "old/sub/file", "x");
    put(&dirs.layer(2), "plain/file", "x");
    whiteout(&dirs.layer(1), "old");
    fs::create_dir(dirs.layer(1).join("new")).unwrap();
    set_xattr(
        &dirs.layer(1).join("new"),
        "trusted.overlay.redirect",
        b"/old",
    );
    fs::create_dir_all(dirs.layer(0).join("new/sub2")).unwrap();
    set_xattr(
        &dirs.layer(0).join("new/sub2"),
        "trusted.overlay.redirect",
        b"sub",
    );
    whiteout(&dirs.layer(0), "new/sub");
    let view = dirs.view();
    assert_eq!(view.list("").unwrap(), ["new", "plain"]);
    assert_eq!(view.list("new").unwrap(), ["sub2"]);
    assert_eq!(view.read("new/sub2/file").unwrap(), b"x");
    view.rename("new/sub2", "top", RenameHow::Replace).unwrap();
    let view = dirs.view();
    assert_eq!(view.read("top/file").unwrap(), b"x");
    assert_eq!(view.list("new").unwrap(), [""; 0]);
}

pub fn an_opaque_root_hides_the_layers_below() {
    let dirs = Dirs::new(3);
    for layer in 0..3 {
        put(&dirs.layer(layer), &format!("{layer}"), "x");
    }
    set_xattr(&dirs.layer(1), "trusted.overlay.opaque", b"y");
    assert_eq!(dirs.view().list("").unwrap(), ["0", "1"]);
    set_xattr(&dirs.upper(), "trusted.overlay.opaque", b"y");
    assert_eq!(dirs.view().list("").unwrap(), [""; 0]);
}

pub fn names() {
    let dirs = Dirs::new(1);
    let long = "n".repeat(255);
    put(&dirs.layer(0), &long, "x");
    let view = dirs.view();
    assert_eq!(view.read(&long).unwrap(), b"x");
    view.write(&long, 0, b"y").unwrap();
    let other = "m".repeat(255);
    view.rename(&long, &other, RenameHow::Replace).unwrap();
    assert!(
        dirs.upper()
            .join(&long)
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let too_long = "n".repeat(256);
    let error = view.create(&too_long, b"").unwrap_err();
    assert_eq!(error.errno(), Errno::NAMETOOLONG.raw_os_error());
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(
            view.union.lookup(ROOT_INO, name).unwrap_err(),
            Error::Invalid
        );
    }
    let new = NewEntry {
        parent: ROOT_INO,
        name: b"\xff\xfe\n",
        caller: ROOT,
        mode: 0o600,
        umask: 0,
    };
    view.union.make(&new, What::File).unwrap();
    assert!(view.union.lookup(ROOT_INO, b"\xff\xfe\n").is_ok());
}

pub fn errors_are_not_absence() {
    // A redirect that cannot be read is an error, though there is nothing in the layers below.
    let dirs = Dirs::new(2);
    put(&dirs.layer(1), "dir/file", "x");
    fs::create_dir(dirs.layer(0).join("dir")).unwrap();
    set_xattr(
        &dirs.layer(0).join("dir"),
        "trusted.overlay.redirect",
        b"a/../b",
    );
    let view = dirs.view();
    let error = view.entry("dir").unwrap_err();
    assert_eq!(error, Error::Sys(Errno::IO));
    assert!(view.mkdir("dir").is_err());
    assert_eq!(view.list("").unwrap(), ["dir"]);
}

/// The lower layer is a view whose server is dead: every call on it fails.
pub fn a_dead_layer_is_not_an_empty_one() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (_, below) = store.create_mounted("app:1");
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "x");
    put(&dirs.layer(0), "dir/file", "x");
    let mut layers = dirs.open();
    layers.lowers.push(open_dir(&below));
    let view = View {
        union: Union::new(
            layers,
            Options {
                volatile: true,
                ..Options::default()
            },
        )
        .unwrap(),
    };
    // Not through the view: the kernel would remember that the lower layer has none of that name.
    put(&dirs.upper(), "made", "m");
    kill_hard(store.server());
    let failed = Error::Sys(Errno::NOTCONN);
    // A file of the upper layer hides whatever the lower one has.
    assert_eq!(view.read("file").unwrap(), b"x");
    // Absent in the upper layer, or to be merged with what the lower one has.
    for name in ["etc", "missing", "dir", "dir/file"] {
        assert_eq!(view.entry(name).unwrap_err(), failed, "{name}");
    }
    assert_eq!(view.list(""), Err(failed));
    assert_eq!(view.mkdir("new"), Err(failed));
    assert_eq!(view.create("new", b""), Err(failed));
    assert_eq!(view.link("made", "new"), Err(failed));
    // Whether these need a whiteout is not known.
    assert_eq!(view.unlink("made"), Err(failed));
    let moved = view.rename("made", "new", RenameHow::Replace);
    assert_eq!(moved, Err(failed));
    assert_eq!(names_in(&dirs.upper()), ["made"]);
    assert_eq!(names_in(&dirs.path("work")), [""; 0]);
    assert_eq!(view.read("made").unwrap(), b"m");
}

pub fn a_null_device_is_no_whiteout() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "below", "x");
    let view = dirs.view();
    view.unlink("below").unwrap();
    for name in ["below", "other"] {
        let made = view
            .make(name, 0o600, What::Node(Kind::CharDevice, 0))
            .unwrap();
        assert_eq!((made.attr.kind, made.attr.rdev), (Kind::CharDevice, 0));
    }
    let view = dirs.view();
    assert_eq!(view.list("").unwrap(), ["below", "other"]);
    assert_eq!(view.attr("below").unwrap().rdev, 0);
}

pub fn nothing_is_left_counted() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "d/file", "x");
    let view = dirs.view();
    let entry = view.entry("d/file").unwrap();
    let ino = entry.attr.ino;
    let times = SetAttr {
        atime: None,
        mtime: Some(SetTime::At(Time { secs: -5, nanos: 7 })),
        ..SetAttr::default()
    };
    assert_eq!(
        view.union.setattr(ino, &times, ROOT).unwrap().mtime,
        Time { secs: -5, nanos: 7 }
    );
    // What the kernel holds stays known; what it has given back is not.
    entry.node.leave_to_kernel();
    assert!(view.union.getattr(ino).is_ok());
    view.union.forget(ino, 1);
    assert_eq!(view.union.getattr(ino), Err(Error::Stale));
    view.write("d/file", 0, b"y").unwrap();
    view.rename("d", "e", RenameHow::Replace).unwrap();
    assert_eq!(view.union.getattr(ino), Err(Error::Stale));
    let layers = Layers {
        index: None,
        lowers: vec![open_dir(&dirs.layer(0))],
        upper: None,
        work: None,
    };
    let read_only = Union::new(layers, Options::default()).unwrap();
    assert_eq!(read_only.unlink(ROOT_INO, b"d"), Err(Error::ReadOnly));
    assert!(read_only.is_read_only());
}
