//! Unions of plain directories: whiteouts in both forms, read and written. Without FUSE.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use layerctl::union::{Options, RenameHow, Union, What};
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
