//! Layers unpacked as root: metadata, links, whiteouts, what comes twice. Needs: root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use layerctl::archive::write::{DockerArchive, ImageSpec, Layer as Tar, LayerBuilder, Meta};

use crate::archives_support::{
    config, diff_id, images, never, open, scratch, tree, unpack_bytes, unpack_image,
};

fn m(mode: u32) -> Meta {
    Meta::mode(mode)
}

pub fn metadata() {
    let mut tar = LayerBuilder::default();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    tar.dir("./", &m(0o751).owner(3, 4).mtime(99, 5)).unwrap();
    tar.dir("d", &m(0o1777).owner(5, 6).mtime(1000, 7)).unwrap();
    tar.file(
        "d/suid",
        &m(0o6755).owner(1000, 2000).mtime(2000, 123_456_789),
        b"x",
    )
    .unwrap();
    tar.file(
        "d/cap",
        &m(0o755)
            .owner(1, 1)
            .xattr("security.capability", *capability)
            .xattr("user.a", "b"),
        b"y",
    )
    .unwrap();
    tar.dir(
        "d/setgid",
        &m(0o2775).owner(7, 8).xattr("user.d", "").mtime(5, 0),
    )
    .unwrap();
    tar.file("d/setgid/f", &m(0o400).owner(4_000_000_000, 9), b"")
        .unwrap();
    tar.symlink("d/l", "nowhere").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    let is = |name: &str, mode: u32, owner: (u32, u32), time: (i64, i64)| {
        let s = layer.stat(name);
        assert_eq!(
            (
                s.mode() & 0o7777,
                (s.uid(), s.gid()),
                (s.mtime(), s.mtime_nsec())
            ),
            (mode, owner, time),
            "{name}"
        );
    };
    is("", 0o751, (3, 4), (99, 5));
    is("d", 0o1777, (5, 6), (1000, 7));
    is("d/suid", 0o6755, (1000, 2000), (2000, 123_456_789));
    is("d/cap", 0o755, (1, 1), (0, 0));
    is("d/setgid", 0o2775, (7, 8), (5, 0));
    is("d/setgid/f", 0o400, (4_000_000_000, 9), (0, 0));
    is("d/l", 0o777, (0, 0), (0, 0));
    assert_eq!(
        layer.xattr("d/cap", "security.capability").unwrap(),
        capability
    );
    assert_eq!(layer.xattr("d/cap", "user.a").unwrap(), b"b");
    assert_eq!(layer.xattr("d/setgid", "user.d").unwrap(), b"");
    assert_eq!((layer.unpacked.size, layer.unpacked.entries), (2, 7));
    assert!(layer.unpacked.has_root);
}

pub fn links() {
    let mut tar = LayerBuilder::default();
    tar.dir("a", &m(0o755)).unwrap();
    tar.dir("b", &m(0o755)).unwrap();
    tar.file("a/f", &m(0o4711).owner(9, 9).mtime(77, 0), b"data")
        .unwrap();
    tar.hardlink("b/g", "a/f").unwrap();
    tar.hardlink("/b/h", "/a/./f").unwrap();
    tar.symlink("b/s", "../a/f").unwrap();
    tar.hardlink("b/t", "b/s").unwrap();
    // To itself: no harm.
    tar.hardlink("b/g", "b/h").unwrap();
    tar.hardlink("a/f", "a/f").unwrap();
    // Through a symbolic link of the layer, as Docker follows it.
    tar.symlink("abs", "/a").unwrap();
    tar.file("abs/through", &m(0o644), b"").unwrap();
    tar.symlink("up", "../../../../a").unwrap();
    tar.file("up/through2", &m(0o644), b"").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    let ino = |n: &str| layer.stat(n).ino();
    assert_eq!(ino("a/f"), ino("b/g"));
    assert_eq!(ino("a/f"), ino("b/h"));
    assert_eq!(layer.stat("a/f").nlink(), 3);
    assert_eq!(layer.stat("a/f").mode() & 0o7777, 0o4711);
    assert_eq!(layer.stat("a/f").mtime(), 77);
    assert_eq!(ino("b/s"), ino("b/t"));
    assert!(layer.stat("b/t").is_symlink());
    assert!(layer.stat("a/through").is_file());
    assert!(layer.stat("a/through2").is_file());
    assert_eq!(layer.unpacked.size, 4);
}

pub fn devices() {
    let mut tar = LayerBuilder::default();
    tar.char_device("null", &m(0o666).owner(0, 5), (1, 3))
        .unwrap();
    tar.block_device("disk", &m(0o660), (259, 1_000)).unwrap();
    tar.fifo("pipe", &m(0o622).mtime(4, 2)).unwrap();
    // Overlayfs would take it for one: so it is one.
    tar.char_device("gone", &m(0o600), (0, 0)).unwrap();
    tar.char_device("kept", &m(0o600), (0, 1)).unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    assert_eq!(layer.stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(layer.stat("null").mode(), 0o020_666);
    assert_eq!(layer.stat("null").gid(), 5);
    assert_eq!(layer.stat("disk").rdev(), rustix::fs::makedev(259, 1_000));
    assert_eq!(layer.stat("pipe").mode(), 0o010_622);
    assert_eq!(layer.stat("pipe").mtime_nsec(), 2);
    assert!(layer.is_whiteout("gone"));
    assert!(!layer.is_whiteout("kept"));
}

pub fn long_and_odd_names() {
    let mut tar = LayerBuilder::default();
    let name = "n".repeat(255);
    let deep = format!("{}/f", vec!["d".repeat(200); 15].join("/"));
    tar.file(&name, &m(0o644), b"1").unwrap();
    tar.file(&deep, &m(0o644), b"2").unwrap();
    tar.symlink("l", "t".repeat(4000)).unwrap();
    tar.file(b"latin\xe9\xff", &m(0o644), b"3").unwrap();
    tar.file("a\nb\\ c", &m(0o644), b"4").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    assert!(layer.stat(&name).is_file());
    assert!(layer.stat(&deep).is_file());
    assert_eq!(layer.stat("l").len(), 4000);
    assert!(layer.names().contains(&r"latin\xe9\xff".to_owned()));
    assert!(layer.stat("a\nb\\ c").is_file());
}

/// A whiteout hides what is below, never what its own layer has, whichever comes first.
pub fn whiteouts() {
    let mut tar = LayerBuilder::default();
    tar.whiteout("gone").unwrap();
    tar.whiteout("sub/gone").unwrap();
    tar.whiteout("file-after").unwrap();
    tar.file("file-after", &m(0o644), b"x").unwrap();
    tar.file("file-before", &m(0o644), b"x").unwrap();
    tar.whiteout("file-before").unwrap();
    tar.whiteout("dir-after").unwrap();
    tar.dir("dir-after", &m(0o711)).unwrap();
    tar.file("dir-after/f", &m(0o644), b"x").unwrap();
    tar.dir("dir-before", &m(0o711)).unwrap();
    tar.file("dir-before/f", &m(0o644), b"x").unwrap();
    tar.whiteout("dir-before").unwrap();
    tar.whiteout("implied").unwrap();
    tar.file("implied/deep/f", &m(0o644), b"x").unwrap();
    tar.whiteout("link-after").unwrap();
    tar.symlink("link-after", "x").unwrap();
    tar.whiteout("twice").unwrap();
    tar.whiteout("twice").unwrap();
    tar.file(".wh..wh.aufs", &m(0o644), b"").unwrap();
    tar.dir(".wh..wh.plnk", &m(0o755)).unwrap();
    tar.file(".wh..wh.plnk/1.2", &m(0o644), b"").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    for name in ["gone", "sub/gone", "twice"] {
        assert!(layer.is_whiteout(name), "{name}");
    }
    for name in [
        "file-after",
        "file-before",
        "dir-after/f",
        "dir-before/f",
        "implied/deep/f",
    ] {
        assert!(layer.stat(name).is_file(), "{name}");
    }
    for name in ["dir-after", "dir-before", "implied"] {
        assert!(layer.is_opaque(name), "{name}");
    }
    assert!(!layer.is_opaque("sub") && !layer.is_opaque("implied/deep"));
    assert_eq!(layer.stat("dir-after").mode() & 0o7777, 0o711);
    assert!(layer.stat("link-after").is_symlink());
    assert!(!layer.names().iter().any(|n| n.contains(".wh.")));
}

pub fn opaque_directories() {
    let mut tar = LayerBuilder::default();
    tar.dir("a", &m(0o755)).unwrap();
    tar.file("a/f", &m(0o644), b"").unwrap();
    tar.opaque("a").unwrap();
    tar.opaque("before").unwrap();
    tar.dir("before", &m(0o700)).unwrap();
    tar.opaque("alone/deep").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    for name in ["a", "before", "alone/deep"] {
        assert!(layer.is_opaque(name), "{name}");
    }
    assert_eq!(layer.stat("before").mode() & 0o7777, 0o700);
    assert!(!layer.is_opaque("alone") && !layer.is_opaque(""));
    assert!(layer.stat("a/f").is_file());

    let mut tar = LayerBuilder::default();
    tar.opaque("").unwrap();
    assert!(unpack_bytes(&tar.finish().unwrap()).unwrap().is_opaque(""));
}

pub fn the_last_entry_wins() {
    let mut tar = LayerBuilder::default();
    tar.file("f", &m(0o600), b"first and longer").unwrap();
    tar.hardlink("other", "f").unwrap();
    tar.file("f", &m(0o640), b"second").unwrap();
    tar.dir("d", &m(0o700).mtime(1, 0)).unwrap();
    tar.file("d/kept", &m(0o644), b"").unwrap();
    tar.dir("d", &m(0o755).owner(2, 2).mtime(2, 0)).unwrap();
    // A directory, full, becomes a file, and the other way round.
    tar.dir("full", &m(0o755)).unwrap();
    tar.file(format!("full/{}x", "deep/".repeat(300)), &m(0o644), b"")
        .unwrap();
    tar.file("full/deep/y", &m(0o644), b"").unwrap();
    tar.file("full", &m(0o644), b"now a file").unwrap();
    tar.file("file", &m(0o644), b"").unwrap();
    tar.dir("file", &m(0o755)).unwrap();
    tar.file("file/in", &m(0o644), b"").unwrap();
    // The remembered parent must not survive its replacement.
    tar.dir("p", &m(0o755)).unwrap();
    tar.file("p/one", &m(0o644), b"").unwrap();
    tar.symlink("p", "d").unwrap();
    tar.file("p/two", &m(0o644), b"").unwrap();
    tar.symlink("s", "f").unwrap();
    tar.dir("s", &m(0o755)).unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    assert_eq!(fs::read(layer.path("f")).unwrap(), b"second");
    assert_eq!(fs::read(layer.path("other")).unwrap(), b"first and longer");
    let d = layer.stat("d");
    assert_eq!((d.mode() & 0o7777, d.uid(), d.mtime()), (0o755, 2, 2));
    assert!(layer.stat("d/kept").is_file());
    assert_eq!(fs::read(layer.path("full")).unwrap(), b"now a file");
    assert!(layer.stat("file/in").is_file());
    assert!(layer.stat("d/two").is_file());
    assert!(!layer.path("d/one").exists());
    assert!(layer.stat("s").is_dir());
}

pub fn missing_parents() {
    let mut tar = LayerBuilder::default();
    tar.dir("set", &m(0o2777).owner(5, 5)).unwrap();
    tar.file("set/a/b/c", &m(0o644), b"").unwrap();
    tar.dir("other", &m(0o777).owner(5, 5)).unwrap();
    tar.file("other/a/b", &m(0o644), b"").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    let is = |name: &str, mode: u32| {
        let s = layer.stat(name);
        let found = (s.mode() & 0o7777, s.uid(), s.gid(), s.mtime());
        assert_eq!(found, (mode, 0, 0, 0), "{name}");
    };
    is("other/a", 0o755);
    // As Docker makes it: `exact::layers_in_docker`.
    is("set/a", 0o2755);
    is("set/a/b", 0o2755);
    assert!(!layer.unpacked.has_root);
}

pub fn private_attributes() {
    let mut tar = LayerBuilder::default();
    let meta = m(0o755)
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.overlay.redirect", "/etc")
        .xattr("user.overlay.opaque", "y")
        .xattr("user.fuseoverlayfs.opaque", "y")
        .xattr("user.containers.override_stat", "0:0:0777")
        .xattr("trusted.layerctl.x", "1")
        .xattr("user.kept", "1");
    tar.dir("d", &meta).unwrap();
    tar.file("f", &meta, b"").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    for name in ["d", "f"] {
        let line = &tree(&layer.path(""))[name];
        assert!(
            line.ends_with(" user.kept=1") && line.matches('=').count() == 1,
            "{line}"
        );
    }
}

/// A default ACL must not reach what is unpacked into the directory.
pub fn acls() {
    let acl = |tags: &[(u16, u16, u32)]| {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in tags {
            value.extend(tag.to_le_bytes());
            value.extend(perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let all = u32::MAX;
    let value = acl(&[
        (1, 7, all),
        (2, 7, 1234),
        (4, 5, all),
        (0x10, 7, all),
        (0x20, 0, all),
    ]);
    let mut tar = LayerBuilder::default();
    let meta = m(0o770)
        .xattr("system.posix_acl_default", value.clone())
        .xattr("system.posix_acl_access", value.clone())
        .mtime(3, 0);
    tar.dir("d", &meta).unwrap();
    tar.file("d/f", &m(0o644), b"").unwrap();
    tar.file("d/sub/g", &m(0o644), b"").unwrap();
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    assert_eq!(layer.xattr("d", "system.posix_acl_default").unwrap(), value);
    assert_eq!(layer.xattr("d", "system.posix_acl_access").unwrap(), value);
    assert_eq!(layer.xattr("d/f", "system.posix_acl_access"), None);
    assert_eq!(layer.xattr("d/sub", "system.posix_acl_default"), None);
    assert_eq!(layer.stat("d").mtime(), 3);
}

/// Needs: tar (GNU).
pub fn sparse_files_of_gnu_tar() {
    let dir = scratch();
    let script = r#"cd "$D"; mkdir src; truncate -s 5M src/s
        for n in 1 7 1000 1900 3000 4000; do echo "block $n" | dd of=src/s bs=1k seek=$n conv=notrunc status=none; done
        truncate -s 1M src/hole; truncate -s 3G src/big
        tar -S -cf gnu.tar --format=gnu -C src .
        tar -S -cf pax00.tar --format=pax --sparse-version=0.0 -C src .
        tar -S -cf pax01.tar --format=pax --sparse-version=0.1 -C src .
        tar -S -cf pax10.tar --format=pax --sparse-version=1.0 -C src ."#;
    crate::archives_support::shell(script, &[("D", dir.path().as_os_str())]);
    // What `echo "not a tar" | bzip2` writes: it is refused whatever is in it.
    let bzip2 = b"BZh91AY&SY\xd1u\xf4\x1e\0\0\x02\xd1\x80\0\x10@\0 \x01\x94\0 \0\"\x03\xc9\x08`\
        \x18\x1a$|]\xc9\x14\xe1BCE\xd7\xd0x";
    fs::write(dir.path().join("a.tar.bz2"), bzip2).unwrap();
    let want = fs::read(dir.path().join("src/s")).unwrap();
    for form in ["gnu", "pax00", "pax01", "pax10"] {
        let tar = fs::read(dir.path().join(format!("{form}.tar"))).unwrap();
        assert!(tar.len() < 1 << 20, "{form}");
        let layer = unpack_bytes(&tar).unwrap_or_else(|e| panic!("{form}: {e}"));
        assert_eq!(layer.names(), ["big", "hole", "s"], "{form}");
        assert!(fs::read(layer.path("s")).unwrap() == want, "{form}");
        assert!(
            layer.stat("s").blocks() <= 2 * 40,
            "{form}: the holes are kept"
        );
        assert_eq!(layer.stat("hole").len(), 1 << 20);
        assert_eq!(layer.stat("big").len(), 3 << 30);
        assert_eq!(layer.stat("big").blocks(), 0);
        assert_eq!(layer.unpacked.size, (3 << 30) + (6 << 20));
    }
}

pub fn digest_of_the_whole_stream() {
    let mut tar = LayerBuilder::default();
    tar.file("f", &m(0o644), b"x").unwrap();
    let mut bytes = tar.finish().unwrap();
    for _ in 0..3 {
        bytes.extend([0; 10_000]);
        bytes.extend(b"rubbish behind the end");
        let layer = unpack_bytes(&bytes).unwrap();
        assert_eq!(layer.unpacked.diff_id, diff_id(&bytes));
    }
    // Without an end, and with nothing at all.
    let layer = unpack_bytes(&bytes[..1024]).unwrap();
    assert_eq!(layer.unpacked.diff_id, diff_id(&bytes[..1024]));
    assert_eq!(unpack_bytes(&[]).unwrap().unpacked.entries, 0);
    assert_eq!(unpack_bytes(&[0; 1024]).unwrap().unpacked.entries, 0);
}

/// An image of our own in a docker-archive, for the tests below.
fn sample() -> (Vec<u8>, layerctl::model::ImageId) {
    let mut lower = LayerBuilder::default();
    lower.dir("etc", &m(0o755)).unwrap();
    lower.file("etc/a", &m(0o644), b"a").unwrap();
    let mut upper = LayerBuilder::default();
    upper.whiteout("etc/a").unwrap();
    let layers = [lower, upper].map(|l| Tar::Bytes(l.finish().unwrap()));
    let tags = ["demo:1", "localhost:5000/demo:2"].map(|t| t.parse().unwrap());
    let spec = ImageSpec::new(tags.to_vec(), &["sh"], "2024-01-01T00:00:00Z");
    let mut archive = DockerArchive::new(Vec::new());
    let spec = spec.history(&["COPY etc", "RUN rm"]);
    let id = archive.image(&spec, &layers).unwrap();
    let untagged = ImageSpec::new(Vec::new(), &["true"], "2024-01-01T00:00:00Z");
    archive.image(&untagged, &layers[..1]).unwrap();
    archive.image(&untagged, &[]).unwrap();
    (archive.finish().unwrap(), id)
}

pub fn what_we_write_we_read() {
    let (bytes, id) = sample();
    assert_eq!(bytes, sample().0, "always the same bytes");
    let dir = scratch();
    let path = dir.path().join("a.tar");
    fs::write(&path, bytes).unwrap();
    let archive = open(&path).unwrap();
    let images = archive.images(&never).unwrap();
    assert_eq!(images.len(), 3);
    assert_eq!(images[0].id, id);
    let tags: Vec<String> = images[0].tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["demo:1", "localhost:5000/demo:2"]);
    assert_eq!(
        config(&images[0]).config.cmd.as_deref(),
        Some(&["sh".to_owned()][..])
    );
    assert_eq!(config(&images[0]).history[1].created_by, "RUN rm");
    let dirs = unpack_image(&archive, &images[0], &dir.path().join("layers"));
    assert_eq!(fs::read(dirs[0].join("etc/a")).unwrap(), b"a");
    assert!(images[2].layers.is_empty());
}

pub fn whole_archive_compressed() {
    let dir = scratch();
    let (bytes, id) = sample();
    fs::write(dir.path().join("a.tar"), bytes).unwrap();
    let script = r#"cd "$D"; gzip -k a.tar; xz -k a.tar; zstd -q a.tar; cat a.tar.gz | tail -c +2 > torn.gz
        head -c 300 a.tar.xz > short.xz; head -c 300 a.tar.zst > short.zst; head -c 300 a.tar.gz > short.gz"#;
    crate::archives_support::shell(script, &[("D", dir.path().as_os_str())]);
    // What `echo "not a tar" | bzip2` writes: it is refused whatever is in it.
    let bzip2 = b"BZh91AY&SY\xd1u\xf4\x1e\0\0\x02\xd1\x80\0\x10@\0 \x01\x94\0 \0\"\x03\xc9\x08`\
        \x18\x1a$|]\xc9\x14\xe1BCE\xd7\xd0x";
    fs::write(dir.path().join("a.tar.bz2"), bzip2).unwrap();
    for name in ["a.tar.gz", "a.tar.xz", "a.tar.zst"] {
        let archive = open(&dir.path().join(name)).unwrap();
        let found = archive.images(&never).unwrap();
        assert_eq!(found[0].id, id, "{name}");
        unpack_image(
            &archive,
            &found[0],
            &dir.path().join(format!("{name}.layers")),
        );
    }
    for name in ["a.tar.bz2", "torn.gz", "short.xz", "short.zst", "short.gz"] {
        let error = images(&dir.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
    }
    // A pipe.
    let pipe = dir.path().join("pipe");
    let gz = dir.path().join("a.tar.gz");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::write(pipe, fs::read(gz).unwrap()).unwrap())
    };
    assert_eq!(images(&pipe).unwrap()[0].id, id);
    writer.join().unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 13, "nothing left behind: {names:?}");
}

/// More directories than the list in memory holds: their times are right all the same.
pub fn many_directories() {
    let mut tar = LayerBuilder::default();
    let name = |n: u64| format!("{}/{n}", "x".repeat(200));
    for n in 0..25_000 {
        tar.dir(name(n), &m(0o755).mtime(n, 0)).unwrap();
    }
    let layer = unpack_bytes(&tar.finish().unwrap()).unwrap();
    for n in (0..25_000).step_by(997) {
        assert_eq!(layer.stat(&name(n)).mtime() as u64, n);
    }
}
