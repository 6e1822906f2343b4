//! Unions of plain directories: whiteouts in both forms, read and written. Without FUSE.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use layerctl::union::{Options, Owners, Permissions, RenameHow, SetAttr, Union, What};
use rustix::io::Errno;

use crate::union_support::{Dirs, View, get_xattr, into_files, opaque, put, set_xattr, whiteout};

/// Of plain directories, where devices can be made.
fn plain(dirs: &Dirs) -> View {
    let options = Options {
        volatile: true,
        plain: true,
        ..Options::default()
    };
    View {
        union: Union::new(dirs.open(), options).unwrap(),
    }
}

/// A layer that hides a file, a directory and the contents of two directories, over one that has
/// more.
fn two_layers() -> Dirs {
    let dirs = Dirs::new(2);
    for name in [
        "file",
        "dir/in",
        "seen/of-both",
        "opaque/hidden",
        "replaced/hidden",
        "over/kept",
    ] {
        put(&dirs.layer(1), name, "below");
    }
    whiteout(&dirs.layer(0), "file");
    whiteout(&dirs.layer(0), "dir");
    put(&dirs.layer(0), "seen/too", "above");
    opaque(&dirs.layer(0), "opaque");
    put(&dirs.layer(0), "opaque/own", "above");
    dirs
}

#[track_caller]
fn check_two_layers(view: &View) {
    assert_eq!(
        view.list("").unwrap(),
        ["opaque", "over", "replaced", "seen"]
    );
    assert_eq!(view.list("opaque").unwrap(), ["own"]);
    assert_eq!(view.list("seen").unwrap(), ["of-both", "too"]);
    for hidden in ["file", "dir", "dir/in", "opaque/hidden"] {
        assert_eq!(
            view.entry(hidden).unwrap_err().errno(),
            libc::ENOENT,
            "{hidden}"
        );
    }
}

pub fn both_forms_are_read() {
    let dirs = two_layers();
    check_two_layers(&plain(&dirs));
    into_files(&dirs.layer(0));
    assert!(dirs.layer(0).join(".wh.file").exists());
    check_two_layers(&plain(&dirs));
    // A view of the store's layers has no marks but overlayfs's: it shows these as the files they are.
    let names = dirs.view().list("").unwrap();
    assert!(names.contains(&".wh.file".to_owned()), "{names:?}");
    for name in [
        "user.overlay.opaque",
        "user.fuseoverlayfs.opaque",
        "trusted.overlay.opaque",
    ] {
        let dirs = two_layers();
        put(&dirs.layer(0), "replaced/own", "above");
        set_xattr(&dirs.layer(0).join("replaced"), name, b"y");
        assert_eq!(plain(&dirs).list("replaced").unwrap(), ["own"], "{name}");
    }
    // Beside a directory, a whiteout hides what is below that directory; of a file it says nothing.
    put(&dirs.layer(0), "replaced/own", "above");
    put(&dirs.layer(0), ".wh.replaced", "");
    put(&dirs.layer(0), "both", "above");
    put(&dirs.layer(0), ".wh.both", "");
    let view = plain(&dirs);
    assert_eq!(view.list("replaced").unwrap(), ["own"]);
    assert_eq!(view.read("both").unwrap(), b"above");
    let view = plain(&dirs);
    let all = view.list("").unwrap();
    set_xattr(&dirs.layer(0), "user.overlay.opaque", b"y");
    assert_eq!(
        plain(&dirs).list("").unwrap().len(),
        all.len() - 1,
        "all but `over`"
    );
    rustix::fs::removexattr(dirs.layer(0), "user.overlay.opaque").unwrap();
    // The root of a layer may be opaque as well.
    put(&dirs.layer(0), ".wh..wh..opq", "");
    assert_eq!(
        plain(&dirs).list("").unwrap(),
        ["both", "opaque", "replaced", "seen"]
    );
}

pub fn marks_cannot_be_made_or_seen() {
    let dirs = two_layers();
    let view = plain(&dirs);
    for name in [".wh.file", ".wh.", ".wh..wh..opq", ".wh.x"] {
        put(&dirs.layer(1), &format!("over/{name}"), "");
        assert_eq!(
            view.create(&format!("over/{name}"), b"")
                .unwrap_err()
                .errno(),
            libc::EINVAL
        );
        assert_eq!(view.mkdir(name).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(
            view.link("over/kept", name).unwrap_err().errno(),
            libc::EINVAL
        );
        let moved = view.rename("over/kept", name, RenameHow::Replace);
        assert_eq!(moved.unwrap_err().errno(), libc::EINVAL);
        assert_eq!(
            view.unlink(&format!("over/{name}")).unwrap_err().errno(),
            libc::ENOENT
        );
    }
    assert_eq!(view.list("over").unwrap(), ["kept"]);
    assert!(!dirs.upper().join("over").exists());
}

/// What the upper directory holds after changes, where devices can be made.
pub fn devices_are_made_where_they_can_be() {
    let dirs = two_layers();
    into_files(&dirs.layer(0));
    let view = plain(&dirs);
    view.unlink("seen/of-both").unwrap();
    view.mkdir("dir").unwrap();
    let hidden = fs::symlink_metadata(dirs.upper().join("seen/of-both")).unwrap();
    assert!(hidden.file_type().is_char_device());
    assert!(view.list("dir").unwrap().is_empty());
    drop(view);
    assert_eq!(plain(&dirs).list("seen").unwrap(), ["too"]);
    assert!(plain(&dirs).list("dir").unwrap().is_empty());
}

/// What the upper directory holds after changes, where devices cannot be made.
pub fn files_are_made_where_devices_cannot_be() {
    let dirs = Dirs::on_overlay(1);
    for name in ["a", "b/in", "c/in", "d", "e/in"] {
        put(&dirs.layer(0), name, "below");
    }
    let view = dirs.view();
    let upper = dirs.upper();
    view.unlink("a").unwrap();
    view.unlink("b/in").unwrap();
    view.rmdir("b").unwrap();
    assert!(fs::symlink_metadata(upper.join(".wh.a")).unwrap().is_file());
    assert!(fs::symlink_metadata(upper.join(".wh.b")).unwrap().is_file());
    assert!(!upper.join("b").exists());
    // Made again: the mark goes, and the directory is opaque.
    view.create("a", b"new").unwrap();
    view.mkdir("b").unwrap();
    assert!(!upper.join(".wh.a").exists() && !upper.join(".wh.b").exists());
    assert!(view.list("b").unwrap().is_empty());
    // Moved away: a whiteout stays. Moved onto one: it goes.
    view.rename("d", "moved", RenameHow::Replace).unwrap();
    view.rename("c", "d", RenameHow::Replace).unwrap();
    assert!(upper.join(".wh.c").exists() && !upper.join(".wh.d").exists());
    assert_eq!(view.list("d").unwrap(), ["in"]);
    view.make("e/fifo", 0o600, What::Node(layerctl::union::Kind::Fifo, 0))
        .unwrap();
    let names = view.list("").unwrap();
    assert_eq!(names, ["a", "b", "d", "e", "moved"]);
    drop(view);
    let view = dirs.view();
    assert_eq!(view.list("").unwrap(), names);
    assert_eq!(view.list("d").unwrap(), ["in"]);
    assert!(view.list("b").unwrap().is_empty());
    // Four bytes more than the name: what is longer than that cannot be hidden.
    let (longest, longer) = ("n".repeat(251), "n".repeat(252));
    put(&dirs.layer(0), &longest, "");
    put(&dirs.layer(0), &longer, "");
    view.unlink(&longest).unwrap();
    assert_eq!(
        view.unlink(&longer).unwrap_err().errno(),
        Errno::NAMETOOLONG.raw_os_error()
    );
    assert!(view.list("").unwrap().contains(&longer));
}

/// Owner and mode that other programs keep in attributes, from outside.
pub fn private_attributes_of_others() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "f", "below");
    for name in [
        "user.fuseoverlayfs.opaque",
        "user.containers.override_stat",
        "user.note",
    ] {
        set_xattr(&dirs.layer(0).join("f"), name, b"7:7:0777");
    }
    let view = plain(&dirs);
    let entry = view.entry("f").unwrap();
    let ino = entry.attr.ino;
    assert_eq!(view.union.listxattr(ino).unwrap(), b"user.note\0");
    let flags = rustix::fs::XattrFlags::empty();
    let set = view
        .union
        .setxattr(ino, b"user.containers.override_stat", b"x", flags);
    assert_eq!(set.unwrap_err().errno(), libc::EPERM);
    view.write("f", 0, b"copied").unwrap();
    let copy = dirs.upper().join("f");
    assert!(get_xattr(&copy, "user.note").is_some());
    assert!(get_xattr(&copy, "user.containers.override_stat").is_none());
}

const KEEPER: &str = "user.containers.override_stat";

/// Of plain directories, with owner and mode in an attribute.
fn keeping(dirs: &Dirs) -> View {
    let owners = Owners {
        permissions: Permissions::Containers,
        ..Owners::default()
    };
    let options = Options {
        volatile: true,
        plain: true,
        owners,
        ..Options::default()
    };
    View {
        union: Union::new(dirs.open(), options).unwrap(),
    }
}

#[track_caller]
fn owner_and_mode(view: &View, path: &str) -> (u32, u32, u32) {
    let attr = view.attr(path).unwrap();
    (attr.uid, attr.gid, attr.mode)
}

#[track_caller]
fn kept(dirs: &Dirs, path: &str) -> String {
    String::from_utf8(get_xattr(&dirs.upper().join(path), KEEPER).unwrap()).unwrap()
}

pub fn owners_and_modes_in_an_attribute() {
    let dirs = Dirs::new(2);
    put(&dirs.layer(0), "d/f", "below");
    put(&dirs.layer(0), "d/g", "below");
    put(
        &dirs.layer(1),
        "other",
        "of a layer without such attributes",
    );
    for (name, value) in [
        ("", "0:0:0755:dir"),
        ("d", "7:8:2770:dir"),
        ("d/f", "7:8:04711:file"),
    ] {
        set_xattr(&dirs.layer(0).join(name), KEEPER, value.as_bytes());
    }
    set_xattr(&dirs.layer(1).join("other"), KEEPER, b"9:9:0600:file");
    // What the layers say is shown without any option.
    let view = plain(&dirs);
    assert_eq!(owner_and_mode(&view, "d"), (7, 8, 0o2770));
    assert_eq!(owner_and_mode(&view, "d/f"), (7, 8, 0o4711));
    assert_eq!(owner_and_mode(&view, "d/g"), (0, 0, 0o644));
    assert_eq!(owner_and_mode(&view, "other"), (0, 0, 0o644));
    drop(view);
    // With it, changes go there, and the inodes stay the server's.
    let view = keeping(&dirs);
    view.write("d/f", 0, b"BELOW").unwrap();
    assert_eq!(owner_and_mode(&view, "d/f"), (7, 8, 0o4711));
    assert_eq!(
        (kept(&dirs, "d"), kept(&dirs, "d/f")),
        ("7:8:2770:dir".into(), "7:8:4711:file".into())
    );
    view.mkdir("d/new").unwrap();
    assert_eq!(owner_and_mode(&view, "d/new"), (0, 8, 0o2755));
    view.make(
        "d/new/pipe",
        0o640,
        What::Node(layerctl::union::Kind::Fifo, 0),
    )
    .unwrap();
    view.make("d/new/link", 0o777, What::Symlink(b"there"))
        .unwrap();
    let set = |path: &str, uid, mode| {
        let set = SetAttr {
            uid,
            mode,
            ..SetAttr::default()
        };
        view.setattr(path, &set).unwrap()
    };
    // A change of owner takes the set-user-ID bit, a change of mode only what it says.
    assert_eq!(set("d/f", Some(70_000), None).mode, 0o711);
    assert_eq!(set("d/g", None, Some(0o6400)).mode, 0o6400);
    assert_eq!(set("other", Some(5), Some(0o4755)).mode, 0o4755);
    let shown: Vec<_> = ["d/f", "d/g", "d/new/pipe", "other"]
        .map(|path| owner_and_mode(&view, path))
        .into();
    assert_eq!(
        shown,
        [
            (70_000, 8, 0o711),
            (0, 0, 0o6400),
            (0, 8, 0o640),
            (5, 0, 0o4755)
        ]
    );
    for path in ["d", "d/f", "d/g", "d/new", "other"] {
        let stat = fs::metadata(dirs.upper().join(path)).unwrap();
        assert_eq!(
            (stat.uid(), stat.gid(), stat.mode() & 0o7000),
            (0, 0, 0),
            "{path}"
        );
    }
    // Files whose mode lets nobody in can be copied, too, and all is as it was after a remount.
    set("other", None, Some(0));
    drop(view);
    let view = keeping(&dirs);
    assert_eq!(owner_and_mode(&view, "other"), (5, 0, 0));
    assert_eq!(
        view.read("other").unwrap(),
        b"of a layer without such attributes"
    );
    assert_eq!(owner_and_mode(&view, "d/f"), (70_000, 8, 0o711));
    assert_eq!(view.read("d/f").unwrap(), b"BELOW");
    // Not guessed.
    set_xattr(&dirs.upper().join("d/g"), KEEPER, b"nonsense");
    drop(view);
    assert_eq!(keeping(&dirs).attr("d/g").unwrap_err().errno(), libc::EIO);
}
