//! What the union shows after an operation that failed half way, and what it must notice to show
//! the right thing: without a mount.
//!
//! A directory that nothing may be removed from (append-only) or added to (immutable) makes a step in
//! the middle fail, without a full disk and without a fault injected into the program.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use layerctl::union::{Error, Kind, Layers, Options, RenameHow, SetAttr, Union, What};
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::union_mounted::{Tmpfs, read_tree_with_overlayfs};
use crate::union_support::{Dirs, View, get_xattr, opaque, open_dir, put, set_xattr, whiteout};

/// A directory with an attribute of `chattr(1)`, until this is dropped.
struct Flagged(File, IFlags);

impl Flagged {
    fn new(path: &Path, flag: IFlags) -> Flagged {
        let dir = File::open(path).unwrap();
        let before = ioctl_getflags(&dir).unwrap();
        ioctl_setflags(&dir, before | flag).unwrap();
        Flagged(dir, before)
    }
}

impl Drop for Flagged {
    fn drop(&mut self) {
        ioctl_setflags(&self.0, self.1).unwrap();
    }
}

/// An append-only directory takes new names, but no times.
pub fn a_copy_up_where_times_cannot_be_set() {
    let dirs = Dirs::new(1);
    for path in ["d/file", "d/sub/file"] {
        put(&dirs.layer(0), path, "old");
    }
    let view = dirs.view();
    view.make("d/new", 0o644, What::File).unwrap();
    {
        let _flagged = Flagged::new(&dirs.upper().join("d"), IFlags::APPEND);
        for path in ["d/file", "d/sub/file"] {
            view.write(path, 0, b"new").unwrap();
        }
    }
    for path in ["d/file", "d/sub/file"] {
        view.write(path, 3, b"er").unwrap();
        assert_eq!(view.read(path).unwrap(), b"newer", "{path}");
    }
    let work: Vec<_> = fs::read_dir(dirs.path("work")).unwrap().collect();
    assert!(work.is_empty(), "{work:?}");
}

/// The target, a directory that shows nothing but has whiteouts, is replaced by an empty one first.
/// When the source then cannot be moved, the whiteouts' names must not come back.
pub fn a_rename_that_fails_after_it_emptied_the_target() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "target/hidden", "x");
    let view = dirs.view();
    view.unlink("target/hidden").unwrap();
    view.mkdir("from").unwrap();
    view.mkdir("from/source").unwrap();
    let held = view.entry("target").unwrap();
    {
        let _flagged = Flagged::new(&dirs.upper().join("from"), IFlags::APPEND);
        let moved = view.rename("from/source", "target", RenameHow::Replace);
        assert_eq!(moved, Err(Error::Sys(Errno::PERM)));
    }
    assert_eq!(view.list("target").unwrap(), [""; 0]);
    assert_eq!(view.entry("target/hidden").unwrap_err(), Error::NotFound);
    view.create("target/new", b"new").unwrap();
    assert_eq!(view.list("target").unwrap(), ["new"]);
    assert_eq!(view.attr("target").unwrap().ino, held.attr.ino);
    assert_eq!(dirs.view().list("target").unwrap(), ["new"]);
}

/// The copy gets all names or none.
pub fn a_hard_link_that_cannot_get_all_its_names() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "a/file", "old");
    put(&dirs.layer(0), "b/other", "x");
    fs::hard_link(dirs.layer(0).join("a/file"), dirs.layer(0).join("b/file")).unwrap();
    let view = dirs.view();
    for dir in ["a", "b"] {
        view.make(&format!("{dir}/new"), 0o644, What::File).unwrap();
    }
    {
        let _flagged = Flagged::new(&dirs.upper().join("b"), IFlags::IMMUTABLE);
        let written = view.write("a/file", 0, b"new");
        assert_eq!(written, Err(Error::Sys(Errno::PERM)));
    }
    for dir in ["a", "b"] {
        let half = dirs.upper().join(dir).join("file");
        assert!(half.symlink_metadata().is_err(), "{}", half.display());
        assert_eq!(view.read(&format!("{dir}/file")).unwrap(), b"old");
    }
    view.write("b/file", 0, b"new").unwrap();
    let [a, b] = ["a/file", "b/file"].map(|path| view.attr(path).unwrap());
    assert_eq!((a.ino, a.nlink), (b.ino, 2));
    assert_eq!(view.read("a/file").unwrap(), b"new");
}

/// The names of a file below a directory that has been moved twice.
pub fn hard_links_below_a_directory_moved_again() {
    let dirs = Dirs::new(1);
    for name in ["1", "2"] {
        put(&dirs.layer(0), &format!("d/{name}"), "old");
        fs::create_dir_all(dirs.layer(0).join("e")).unwrap();
        let [d, e] = ["d", "e"].map(|dir| dirs.layer(0).join(dir).join(name));
        fs::hard_link(d, e).unwrap();
    }
    let view = dirs.view();
    for (from, to, name) in [("e", "m", "1"), ("m", "n", "2")] {
        view.rename(from, to, RenameHow::Replace).unwrap();
        view.write(&format!("d/{name}"), 0, b"new").unwrap();
        let [one, other] = ["d", to].map(|dir| view.attr(&format!("{dir}/{name}")).unwrap());
        assert_eq!((one.ino, one.nlink), (other.ino, 2), "{to}/{name}");
        assert_eq!(view.read(&format!("{to}/{name}")).unwrap(), b"new");
    }
}

/// What has no room for the data that is not copied shows whether it is.
pub fn truncation_copies_no_data() {
    let dirs = Dirs::new(1);
    for name in ["by-size", "by-open"] {
        put(&dirs.layer(0), name, &"x".repeat(3 << 20));
    }
    let small = Tmpfs::new(&dirs.path("model"), "1m");
    for name in ["upper", "work"] {
        fs::create_dir(small.path().join(name)).unwrap();
    }
    let layers = Layers {
        index: None,
        lowers: vec![open_dir(&dirs.layer(0))],
        upper: Some(open_dir(&small.path().join("upper"))),
        work: Some(open_dir(&small.path().join("work"))),
    };
    let union = Union::new(
        layers,
        Options {
            volatile: true,
            ..Options::default()
        },
    )
    .unwrap();
    let view = View { union };
    let empty = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(view.setattr("by-size", &empty).unwrap().size, 0);
    let handle = view
        .open("by-open", OFlags::WRONLY | OFlags::TRUNC)
        .unwrap();
    view.union.release(handle).unwrap();
    assert_eq!(view.attr("by-open").unwrap().size, 0);
    let full = view.write("by-open", 0, b"fits").and_then(|()| {
        put(&dirs.layer(0), "late", &"x".repeat(3 << 20));
        view.open("late", OFlags::WRONLY)
    });
    assert_eq!(full, Err(Error::Sys(Errno::NOSPC)));
    drop(view);
}

/// As write(2) and truncate(2) do, an opening that truncates takes a file's capabilities.
pub fn truncation_at_open_clears_capabilities() {
    const CAPABILITY: &str = "security.capability";
    // Version 2, permitted and effective: CAP_NET_BIND_SERVICE.
    let mut value = [0_u8; 20];
    value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 4, 0, 0]);
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "program", "x");
    set_xattr(&dirs.layer(0).join("program"), CAPABILITY, &value);
    let view = dirs.view();
    let ino = view.attr("program").unwrap().ino;
    let held = view.entry("program").unwrap();
    assert_eq!(
        view.union.getxattr(ino, CAPABILITY.as_bytes()).unwrap(),
        value
    );
    let handle = view
        .open("program", OFlags::WRONLY | OFlags::TRUNC)
        .unwrap();
    view.union.release(handle).unwrap();
    let left = view.union.getxattr(ino, CAPABILITY.as_bytes());
    assert_eq!(left, Err(Error::NoAttribute));
    assert!(get_xattr(&dirs.layer(0).join("program"), CAPABILITY).is_some());
    drop(held);
}

/// Where in the layers a directory belongs must fit into an extended attribute; `mv` copies then.
pub fn a_move_that_cannot_be_recorded() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "short/file", "x");
    // 5,020 bytes: on ext4 all attributes of an inode share a block of at most 4 KiB. More than a
    // path may have in one call, too.
    let name = "d".repeat(250);
    let mut at: OwnedFd = open_dir(&dirs.layer(0));
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(
            &at,
            &name,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
    }
    let deep = vec![name; 20].join("/");
    let view = dirs.view();
    let moved = view.rename(&deep, "moved", RenameHow::Replace);
    assert_eq!(
        moved.map_err(|e| e.errno()),
        Err(Errno::XDEV.raw_os_error())
    );
    assert_eq!(view.attr(&deep).unwrap().kind, Kind::Directory);
    view.rename("short", "moved", RenameHow::Replace).unwrap();
    assert_eq!(view.read("moved/file").unwrap(), b"x");
}

/// From the beginning a directory shows what is there now; and positions outlive the listing.
pub fn a_listing_is_taken_anew_from_the_beginning_only() {
    let dirs = Dirs::new(1);
    for i in 0..40 {
        put(&dirs.layer(0), &format!("d{i}/old"), "x");
    }
    put(&dirs.layer(0), "d/old", "x");
    let view = dirs.view();
    let entry = view.entry("d").unwrap();
    let after = |position| view.union.list(entry.attr.ino, position).unwrap();
    let first = after(0).items().to_vec();
    assert_eq!(first.len(), 3);
    view.make("d/new", 0o644, What::File).unwrap();
    assert_eq!(after(2).items(), &first[2..]);
    let both = after(0).items().to_vec();
    assert_eq!(both.len(), 4);
    // So many others are read meanwhile that the listing is taken anew in the middle.
    for i in 0..40 {
        view.list(&format!("d{i}")).unwrap();
    }
    view.make("d/newer", 0o644, What::File).unwrap();
    let rest = after(both[2].position);
    assert!(rest.items().contains(&both[3]) && !rest.items().contains(&both[2]));
}

/// What is made must not inherit from the work directory.
pub fn a_default_acl_of_the_work_directory() {
    // Version 2; owner rwx, group ---, others ---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions) in [(1_u8, 7_u8), (4, 0), (0x20, 0)] {
        acl.extend([tag, 0, permissions, 0, 0xff, 0xff, 0xff, 0xff]);
    }
    let dirs = Dirs::new(0);
    set_xattr(&dirs.path("work"), "system.posix_acl_default", &acl);
    let view = dirs.view();
    view.make("file", 0o664, What::File).unwrap();
    view.mkdir("dir").unwrap();
    assert_eq!(view.attr("file").unwrap().mode, 0o664);
    assert_eq!(view.attr("dir").unwrap().mode, 0o755);
    let dir = dirs.upper().join("dir");
    assert_eq!(get_xattr(&dir, "system.posix_acl_default"), None);
    assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o755);
}

/// It hides what the layers below it have on the way, though it is not what the redirect names.
pub fn an_opaque_directory_on_the_way_of_a_redirect() {
    let dirs = Dirs::new(3);
    put(&dirs.layer(0), "moved/top", "x");
    set_xattr(
        &dirs.layer(0).join("moved"),
        "trusted.overlay.redirect",
        b"/b/c",
    );
    opaque(&dirs.layer(1), "b");
    put(&dirs.layer(1), "b/c/shown", "x");
    put(&dirs.layer(2), "b/c/hidden", "x");
    assert_eq!(dirs.view().list("moved").unwrap(), ["shown", "top"]);
    let theirs = read_tree_with_overlayfs(&dirs).unwrap();
    assert!(theirs.contains(&"moved/shown".to_owned()));
    assert!(!theirs.contains(&"moved/hidden".to_owned()));
}

/// Stacks with whiteouts, opaque directories and redirects of both kinds where nobody would put
/// them: the union shows the same names as kernel overlayfs.
pub fn random_stacks_beside_overlayfs() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut compared = 0;
    for round in 0..60 {
        let dirs = Dirs::new(4);
        for layer in 0..=4 {
            // The lowest has no marks: there is nothing below that they could be about.
            let root = match layer {
                4 => dirs.upper(),
                layer => dirs.layer(layer),
            };
            for _ in 0..4 {
                let depth = 1 + below(3);
                let mut name = || ["a", "b", "c"][below(3) as usize];
                let path: Vec<&str> = (0..depth).map(|_| name()).collect();
                let path = path.join("/");
                let redirect = [name(), name(), name()];
                let (kind, length) = (below(6), 1 + below(3) as usize);
                let at = root.join(&path);
                let is_no_directory = |parent: &Path| {
                    let meta = parent.symlink_metadata();
                    meta.is_ok_and(|meta| !meta.is_dir())
                };
                if at.ancestors().any(is_no_directory) || at.exists() {
                    continue;
                }
                match kind {
                    0 => whiteout(&root, &path),
                    1 => put(&root, &path, "x"),
                    2 if layer != 3 => opaque(&root, &path),
                    3 if layer != 3 => {
                        fs::create_dir_all(&at).unwrap();
                        let value = format!("/{}", redirect[..length].join("/"));
                        set_xattr(&at, "trusted.overlay.redirect", value.as_bytes());
                    }
                    4 if layer != 3 => {
                        fs::create_dir_all(&at).unwrap();
                        set_xattr(&at, "trusted.overlay.redirect", redirect[0].as_bytes());
                    }
                    _ => put(&root, &format!("{path}/of-{layer}"), "x"),
                }
            }
        }
        let ours = names(&dirs.view(), "");
        // Loops of redirects are errors to overlayfs, each in its own way.
        if let Some(theirs) = read_tree_with_overlayfs(&dirs) {
            assert_eq!(ours, theirs, "round {round}");
            compared += 1;
        }
    }
    assert!(compared > 30, "only {compared} of 60 could be compared");
}

/// Every path below a directory, sorted.
fn names(view: &View, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in view.list(path).unwrap() {
        let below = match path {
            "" => name,
            path => format!("{path}/{name}"),
        };
        match view.entry(&below) {
            Ok(entry) if entry.attr.kind == Kind::Directory => found.extend(names(view, &below)),
            Ok(_) => {}
            // A redirect to what is no directory: listed, but not there.
            Err(Error::NotFound) => continue,
            Err(e) => panic!("{below}: {e}"),
        }
        found.push(below);
    }
    found.sort();
    found
}
