//! Views of indexed layers: what is looked up, listed and read about comes from the index alone, and
//! costs the server next to no memory. That they show the same as views of plain layers is shown by the
//! tests of `union`, `union_model` and `union_mount`, which are run on both.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use layerctl::union::{Error, Kind, ROOT_INO};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::union_support::{Dirs, put, set_xattr, with_index};
use crate::harness::{Image, Layer, Store};

/// Deletes what is in a layer, behind the index's back.
fn empty(layer: &Path) {
    for entry in fs::read_dir(layer).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}

pub fn metadata_come_from_the_index_alone() {
    with_index(|| {
        let dirs = Dirs::new(2);
        put(&dirs.layer(0), "usr/new", "12345");
        put(&dirs.layer(1), "usr/old", "1");
        symlink("../target", dirs.layer(1).join("usr/link")).unwrap();
        set_xattr(&dirs.layer(1).join("usr/old"), "user.key", b"value");
        let before = fs::metadata(dirs.layer(0).join("usr/new")).unwrap();
        let view = dirs.view();
        empty(&dirs.layer(0));
        empty(&dirs.layer(1));
        assert_eq!(view.list("usr").unwrap(), ["link", "new", "old"]);
        let new = view.attr("usr/new").unwrap();
        assert_eq!((new.size, new.kind), (5, Kind::File));
        assert_eq!(new.mtime.secs, before.mtime());
        assert_eq!(i64::from(new.mtime.nanos), before.mtime_nsec());
        assert_eq!(view.attr("usr/none").unwrap_err(), Error::NotFound);
        let link = view.entry("usr/link").unwrap();
        assert_eq!(view.union.readlink(link.attr.ino).unwrap(), b"../target");
        let old = view.entry("usr/old").unwrap().attr.ino;
        assert_eq!(view.union.getxattr(old, b"user.key").unwrap(), b"value");
        assert_eq!(view.union.listxattr(old).unwrap(), b"user.key\0");
        let missing = view.union.getxattr(old, b"user.none");
        assert_eq!(missing.unwrap_err(), Error::NoAttribute);
        // Its bytes are another matter: and what is missing of a layer is told.
        let opened = view.open("usr/new", OFlags::RDONLY);
        assert_eq!(opened.unwrap_err(), Error::Sys(Errno::NOENT));
    });
}

pub fn numbers_are_those_of_the_index() {
    with_index(|| {
        let dirs = Dirs::new(2);
        put(&dirs.layer(0), "b/file", "b");
        put(&dirs.layer(1), "a/file", "a");
        put(&dirs.layer(1), "c", "c");
        fs::hard_link(dirs.layer(1).join("c"), dirs.layer(1).join("a/link")).unwrap();
        let paths = ["a", "b", "c", "a/file", "a/link", "b/file"];
        let numbers = || {
            let view = dirs.view();
            paths.map(|path| view.attr(path).unwrap().ino)
        };
        let before = numbers();
        // Breadth first, from the root's 0 on; a hard link is its first name's.
        let first = 1 << 48;
        assert_eq!(before.map(|ino| ino - first), [1, 2, 3, 4, 3, 5]);
        let view = dirs.view();
        view.write("c", 0, b"C").unwrap();
        view.create("a/new", b"").unwrap();
        assert_eq!(paths.map(|path| view.attr(path).unwrap().ino), before);
        assert_eq!(view.read("a/link").unwrap(), b"C");
        drop(view);
        assert_eq!(numbers(), before, "after a remount");
        let view = dirs.view();
        view.rename("a", "moved", layerctl::union::RenameHow::Replace)
            .unwrap();
        assert_eq!(view.attr("moved").unwrap().ino, before[0]);
        assert_eq!(view.attr("moved/file").unwrap().ino, before[3]);
        drop(view);
        let view = dirs.view();
        assert_eq!(view.attr("moved/file").unwrap().ino, before[3]);
        assert_eq!(view.read("moved/file").unwrap(), b"a");
    });
}

/// Somebody cuts the index short under a view: what is in it fails, nothing looks as if it were not
/// there, nothing is changed, the server lives on.
pub fn an_index_cut_short_under_its_view() {
    with_index(|| {
        let length = |dirs: &Dirs| fs::metadata(dirs.index_file()).unwrap().len();
        for pages_left in [true, false] {
            let dirs = Dirs::new(2);
            for n in 0..200 {
                put(&dirs.layer(0), &format!("dir/file-{n}"), "text");
            }
            put(&dirs.layer(1), "dir/sub/file", "old");
            symlink("target", dirs.layer(1).join("dir/link")).unwrap();
            let view = dirs.view();
            let link = view.entry("dir/link").unwrap();
            let file = view.entry("dir/file-1").unwrap();
            let dir = view.entry("dir").unwrap();
            view.create("new", b"in the upper layer").unwrap();
            let cut = if pages_left { length(&dirs) - 1 } else { 100 };
            let index = File::options().write(true).open(dirs.index_file());
            index.unwrap().set_len(cut).unwrap();
            let failed = Error::Sys(Errno::IO);
            for _ in 0..2 {
                assert_eq!(view.attr("dir/file-2").unwrap_err(), failed);
                assert_eq!(view.attr("dir/none").unwrap_err(), failed);
                assert_eq!(view.list("dir").unwrap_err(), failed);
                assert_eq!(view.union.readlink(link.attr.ino).unwrap_err(), failed);
                assert_eq!(view.union.getattr(file.attr.ino).unwrap_err(), failed);
                let key = view.union.getxattr(file.attr.ino, b"user.key");
                assert_eq!(key.unwrap_err(), failed);
                let list = view.union.listxattr(file.attr.ino);
                assert_eq!(list.unwrap_err(), failed);
                let dir = dir.attr.ino;
                assert_eq!(view.union.unlink(dir, b"file-1").unwrap_err(), failed);
                assert_eq!(view.write("dir/file-1", 0, b"x").unwrap_err(), failed);
                assert_eq!(view.create("dir/new", b"").unwrap_err(), failed);
                assert_eq!(view.read("new").unwrap(), b"in the upper layer");
            }
            let upper = fs::read_dir(dirs.upper()).unwrap();
            let names: Vec<_> = upper.map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["new"], "nothing half done");
        }
    });
}

/// The kernel asks by number long after it has looked a name up, and need not keep what is above it.
pub fn numbers_are_good_without_their_directories() {
    with_index(|| {
        let dirs = Dirs::new(1);
        put(&dirs.layer(0), "a/b/c/file", "content");
        let view = dirs.view();
        let file = view.entry("a/b/c/file").unwrap();
        view.rename("a/b", "moved", layerctl::union::RenameHow::Replace)
            .unwrap();
        let set = layerctl::union::SetAttr {
            mode: Some(0o600),
            ..Default::default()
        };
        view.union
            .setattr(file.attr.ino, &set, super::union_support::ROOT)
            .unwrap();
        assert_eq!(view.attr("moved/c/file").unwrap().mode, 0o600);
        assert!(dirs.upper().join("moved/c/file").exists());
        assert_eq!(view.attr("a/b").unwrap_err(), Error::NotFound);
        view.union
            .unlink(view.attr("moved/c").unwrap().ino, b"file")
            .unwrap();
        assert_eq!(view.union.getattr(file.attr.ino).unwrap().nlink, 0);
        let gone = file.attr.ino;
        drop(file);
        assert_ne!(gone, ROOT_INO);
    });
}

pub fn a_large_view_takes_little_memory() {
    let (directories, files) = (100, 1000);
    let store = Store::new();
    let mut layer = Layer::new();
    for dir in 0..directories {
        layer = layer.dir(&format!("d{dir}"));
        for file in 0..files {
            layer = layer.file(&format!("d{dir}/a-file-with-a-name-of-its-own-{file}"), "");
        }
    }
    store.load(&Image::new(&["large:1"], vec![layer]));
    let (_, view) = store.create_mounted("large:1");
    let mut seen = 0;
    for dir in fs::read_dir(&view).unwrap() {
        for file in fs::read_dir(dir.unwrap().path()).unwrap() {
            assert!(file.unwrap().metadata().unwrap().is_file());
            seen += 1;
        }
    }
    assert_eq!(seen, directories * files);
    let status = fs::read_to_string(format!("/proc/{}/status", store.server())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(kib < 20 << 10, "{kib} KiB for {seen} files");
}
