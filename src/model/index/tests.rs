//! Tests of the index: round trips, merges, damage.

use std::collections::BTreeMap;
use std::io::{self, Cursor};

use proptest::prelude::*;

use super::oracle::Builder;
use super::record::{CHECKSUM_AT, HEADER, checksum};
use super::{Index, IndexError, Inode, Kind, Scope, Time, build, merge};
use crate::model::DiffId;

type Xattrs<'a> = &'a [(&'a [u8], &'a [u8])];
const NO_XATTRS: Xattrs<'static> = &[];

fn inode(kind: Kind) -> Inode {
    Inode {
        kind,
        opaque: false,
        mode: 0o644,
        uid: 1,
        gid: 2,
        size: 3,
        blocks: 8,
        atime: Time { secs: -1, nanos: 1 },
        mtime: Time {
            secs: 1 << 40,
            nanos: 999_999_999,
        },
        ctime: Time { secs: 7, nanos: 0 },
        nlink: 0,
        rdev: 0,
        layer: 0,
    }
}

fn diff(nth: u64) -> DiffId {
    DiffId::of(&nth.to_le_bytes())
}

/// A layer from its entries: `d PATH` a directory, `o PATH` an opaque one (`o /` the root), `w PATH`
/// a whiteout, `f PATH` a file, `h PATH OLD` another name of it, `l PATH TARGET` a symlink. What
/// tells the entries of layers apart is the uid: that of the layer's number.
fn layer(nth: u64, entries: &str) -> Index<Vec<u8>> {
    let of = |kind, opaque| Inode {
        opaque,
        uid: nth as u32,
        ..inode(kind)
    };
    let entries: Vec<&str> = entries
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
        .collect();
    let root = of(Kind::Directory, entries.contains(&"o /"));
    let mut builder = Builder::new(Scope::Layer, vec![diff(nth)], &root, []);
    let mut handles = BTreeMap::from([(String::new(), 0)]);
    for entry in entries.into_iter().filter(|e| *e != "o /") {
        let mut words = entry.split(' ');
        let (what, path) = (words.next().unwrap(), words.next().unwrap());
        let other = words.next().unwrap_or_default();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (parent, name) = (handles[parent], name.as_bytes());
        let mut add = |kind, opaque| {
            let (inode, target) = (of(kind, opaque), other.as_bytes());
            builder.add(parent, name, &inode, target, []).unwrap()
        };
        let handle = match what {
            "d" => add(Kind::Directory, false),
            "o" => add(Kind::Directory, true),
            "w" => add(Kind::Whiteout, false),
            "f" => add(Kind::File, false),
            "l" => add(Kind::Symlink, false),
            "h" => {
                builder.link(parent, name, handles[other]).unwrap();
                handles[other]
            }
            other => panic!("no such entry: {other}"),
        };
        handles.insert(path.to_owned(), handle);
    }
    Index::open(builder.finish().unwrap()).unwrap()
}

/// What is in an index: each entry with the layer that it comes from, in the order of the paths.
fn tree<B: AsRef<[u8]>>(index: &Index<B>) -> String {
    let mut out = Vec::new();
    let mut pending = vec![(0, String::new())];
    while let Some((dir, path)) = pending.pop() {
        for (name, at) in index.children(dir) {
            let inode = index.inode(at).unwrap();
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            let what = match inode.kind {
                Kind::Directory => "d",
                Kind::Whiteout => "w",
                Kind::Symlink => "l",
                _ => "f",
            };
            out.push(format!("{what}{}{path}", inode.layer));
            assert_eq!(index.child(dir, name), Some(at));
            assert!(index.names(at).any(|found| found == (dir, name)));
            if inode.kind == Kind::Directory {
                pending.push((at, path));
            }
        }
    }
    out.sort_by(|a, b| {
        a[1..]
            .trim_start_matches(char::is_numeric)
            .cmp(b[1..].trim_start_matches(char::is_numeric))
    });
    out.join(" ")
}

fn merged(layers: &[Index<Vec<u8>>]) -> Index<Vec<u8>> {
    let layers: Vec<_> = layers.iter().collect();
    Index::open(merge(&layers).unwrap()).unwrap()
}

fn in_memory() -> Cursor<Vec<u8>> {
    Cursor::new(Vec::new())
}

#[test]
fn everything_comes_back() {
    let device = Inode {
        rdev: 0xffff_fffe,
        ..inode(Kind::CharDevice)
    };
    let xattrs: [(&[u8], &[u8]); 4] = [
        (b"user.b", b""),
        (b"user.a", &[0; 65_536]),
        (b"trusted.overlay.opaque", b"y"),
        (b"user.containers.override_stat", b"0:0:0644"),
    ];
    let kept: [(&[u8], &[u8]); 2] = [xattrs[1], xattrs[0]];
    let every: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let longest = [b'x'; 255];
    let root = Inode {
        size: i64::MAX as u64,
        ..inode(Kind::Directory)
    };
    let mut builder = Builder::new(Scope::Layer, vec![diff(0)], &root, xattrs);
    let link = inode(Kind::Symlink);
    builder.add(0, b"z", &link, b"somewhere", xattrs).unwrap();
    builder.add(0, &longest, &device, b"", []).unwrap();
    builder.add(0, &every, &inode(Kind::Fifo), b"", []).unwrap();
    let dir = inode(Kind::Directory);
    let dir = builder.add(0, b"dir", &dir, b"", xattrs).unwrap();
    let file = builder.add(dir, b"2", &inode(Kind::File), b"", []).unwrap();
    builder.link(dir, b"1", file).unwrap();
    builder.link(0, b"y", file).unwrap();
    let index = Index::open(builder.finish().unwrap()).unwrap();

    assert_eq!((index.len(), index.layers()), (6, 1));
    assert_eq!(index.diffs().collect::<Vec<_>>(), [diff(0)]);
    assert_eq!(index.scope(), Scope::Layer);
    let names: Vec<_> = index.children(0).collect();
    let expected: [(&[u8], u32); 5] = [
        (&every, 1),
        (b"dir", 2),
        (&longest, 3),
        (b"y", 4),
        (b"z", 5),
    ];
    assert_eq!(names, expected);
    assert_eq!(index.children(0).len(), 5);
    assert_eq!(index.children(0).get(3), Some((&b"y"[..], 4)));
    assert_eq!(index.children(0).get(5), None);
    assert_eq!(index.children(0).nth(4), Some((&b"z"[..], 5)));
    assert_eq!(index.children(0).nth(9), None);
    assert_eq!(index.children(4).len(), 0);
    let names: Vec<_> = index.names(4).collect();
    assert_eq!(names, [(0, &b"y"[..]), (2, b"1"), (2, b"2")]);
    assert_eq!(index.names(0).count(), 0);
    assert_eq!(index.names(99).count(), 0);
    assert_eq!(index.inode(0), Some(Inode { nlink: 3, ..root }));
    let file = inode(Kind::File);
    assert_eq!(index.inode(4), Some(Inode { nlink: 3, ..file }));
    assert_eq!(index.inode(3), Some(Inode { nlink: 1, ..device }));
    assert_eq!(index.inode(6), None);
    assert_eq!(index.target(5), Some(&b"somewhere"[..]));
    assert_eq!(index.target(4), None);
    for at in [0, 2, 5] {
        assert_eq!(index.xattrs(at).collect::<Vec<_>>(), kept);
    }
    assert_eq!(index.xattr(0, b"user.b"), Some(&b""[..]));
    assert_eq!(index.xattr(0, b"user.c"), None);
    assert_eq!(index.xattrs(4).count(), 0);
    assert_eq!(index.child(0, b"nope"), None);
    assert_eq!(index.child(4, b"1"), None);
}

#[test]
fn numbers_do_not_depend_on_the_order_of_the_walk() {
    let one = layer(0, "d b, d a, f b/2, f b/1, h a/x b/1, l s t, l r u");
    let two = layer(0, "l r u, d a, d b, f a/x, h b/1 a/x, f b/2, l s t");
    assert_eq!(one.file(), two.file());
    // Breadth first: a, b, r, s, then what is in them.
    assert_eq!(one.child(0, b"a"), Some(1));
    assert_eq!(one.child(1, b"x"), Some(5));
    assert_eq!(one.child(2, b"1"), Some(5));
    assert_eq!(one.child(2, b"2"), Some(6));
}

#[test]
fn what_cannot_be_is_not_built() {
    type Streaming = build::Builder<Cursor<Vec<u8>>>;
    let (dir, file) = (inode(Kind::Directory), inode(Kind::File));
    // Has the directory 1, "d", and the file 2, "f".
    let begun = || {
        let mut builder = Streaming::new(Scope::Layer, vec![diff(0)], &dir, [], in_memory).unwrap();
        assert_eq!(builder.add(0, b"d", &dir, b"", []).unwrap(), 1);
        assert_eq!(builder.add(0, b"f", &file, b"", []).unwrap(), 2);
        builder
    };
    let refused = |parent, name: &[u8]| {
        let error = begun().add(parent, name, &file, b"", []).unwrap_err();
        let linked = begun().link(parent, name, 2).unwrap_err();
        assert_eq!(error.to_string(), linked.to_string());
        error.to_string()
    };
    let longer = [b'x'; 256];
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &longer] {
        assert!(
            refused(0, bad).ends_with("a name that cannot be"),
            "{bad:?}"
        );
    }
    for parent in [2, 3] {
        assert!(refused(parent, b"x").ends_with("in no directory"));
    }
    assert!(refused(0, b"f").ends_with("a name twice"));
    assert!(refused(0, b"e").ends_with("not sorted"));
    let mut builder = begun();
    assert!(builder.link(0, b"g", 3).is_err(), "of an inode to come");
    let mut builder = begun();
    builder.add(1, b"a", &file, b"", []).unwrap();
    assert!(builder.add(0, b"g", &file, b"", []).is_err(), "back again");
    let mut builder = begun();
    builder.link(0, b"g", 1).unwrap();
    assert!(builder.write(in_memory()).is_err(), "a directory twice");
    begun().write(in_memory()).unwrap();
}

/// Takes no more than a thousand bytes, as a disk that is full.
#[derive(Debug, Default)]
struct Full(Cursor<Vec<u8>>);

impl io::Read for Full {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.position() < 1000 {
            true => self.0.write(bytes),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Full {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// More than is kept in memory, and a disk that has no room for it.
#[test]
fn what_the_disk_does_not_take_is_told() {
    let (dir, file) = (inode(Kind::Directory), inode(Kind::File));
    let fill = |builder: &mut build::Builder<Full>| {
        for nth in 0..10_000 {
            builder.add(0, format!("{nth:05}").as_bytes(), &file, b"", [])?;
        }
        Ok::<(), build::WriteError>(())
    };
    let mut builder =
        build::Builder::new(Scope::Layer, vec![diff(0)], &dir, [], Full::default).unwrap();
    let error = io::Error::from(fill(&mut builder).unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

/// Parts of more than one buffer, with everything in them.
#[test]
fn a_large_one_is_the_same_however_it_is_made() {
    let mut builder = Builder::new(Scope::Layer, vec![diff(0)], &inode(Kind::Directory), []);
    let mut dirs = vec![0];
    let mut files = Vec::new();
    for nth in 0..20_000u32 {
        let parent = dirs[(nth as usize * 7919) % dirs.len()];
        let name = format!("{:08x}", nth.wrapping_mul(0x9e37_79b1));
        let value = (nth % 50).to_le_bytes();
        let xattrs: &[(&[u8], &[u8])] = match nth % 3 {
            0 => &[(b"user.a", &value), (b"user.b", b"")],
            _ => NO_XATTRS,
        };
        let (kind, target) = match nth % 10 {
            0 => (Kind::Directory, &b""[..]),
            1 => (Kind::Symlink, name.as_bytes()),
            2 => (Kind::BlockDevice, &b""[..]),
            _ => (Kind::File, &b""[..]),
        };
        let xattrs = xattrs.iter().copied();
        let entry = Inode {
            rdev: nth,
            ..inode(kind)
        };
        let handle = builder
            .add(parent, name.as_bytes(), &entry, target, xattrs)
            .unwrap();
        match kind {
            Kind::Directory => dirs.push(handle),
            _ => files.push(handle),
        }
        if nth % 4 == 3 {
            let of = files[(nth as usize * 31) % files.len()];
            let parent = dirs[(nth as usize * 17) % dirs.len()];
            let name = format!("again{nth}");
            builder.link(parent, name.as_bytes(), of).unwrap();
        }
    }
    // Compares the two builders.
    let index = Index::open(builder.finish().unwrap()).unwrap();
    assert_eq!(index.len(), 20_001);
    let again = merged(&[index]);
    assert_eq!(again.len(), 20_001);
}

#[test]
fn merges() {
    // The layers topmost first; what they show.
    let table: &[(&[&str], &str)] = &[
        (&[""], ""),
        (&["f a", "f a, f b"], "f0/a f1/b"),
        (&["w a", "f a, f b"], "f1/b"),
        (&["w a", "d a, f a/x"], ""),
        (&["f a", "w a", "f a"], "f0/a"),
        (&["d a", "d a, f a/x"], "d0/a f1/a/x"),
        (&["d a, f a/y", "d a, f a/x"], "d0/a f1/a/x f0/a/y"),
        (&["o a, f a/y", "d a, f a/x"], "d0/a f0/a/y"),
        (
            &["d a, f a/z", "o a, f a/y", "d a, f a/x"],
            "d0/a f1/a/y f0/a/z",
        ),
        (&["d a", "w a", "d a, f a/x"], "d0/a"),
        (&["d a", "f a", "d a, f a/x"], "d0/a"),
        (&["f a", "d a, f a/x"], "f0/a"),
        (&["d a, w a/x", "d a, f a/x, f a/y"], "d0/a f1/a/y"),
        (&["w nothing", "f a"], "f1/a"),
        (&["o /, f b", "f a"], "f0/b"),
        (&["f c", "o /, f b", "f a"], "f1/b f0/c"),
        (&["o /"], ""),
        (&["l a t", "f a"], "l0/a"),
        (
            &["d a", "f b", "d a, d a/b, f a/b/c"],
            "d0/a d2/a/b f2/a/b/c f1/b",
        ),
    ];
    for (layers, expected) in table {
        let layers: Vec<_> = (0..).zip(*layers).map(|(n, e)| layer(n, e)).collect();
        let index = merged(&layers);
        assert_eq!(tree(&index), *expected);
        assert_eq!(index.layers() as usize, layers.len());
        let diffs: Vec<_> = layers.iter().flat_map(Index::diffs).collect();
        assert_eq!(index.diffs().collect::<Vec<_>>(), diffs);
        for at in 0..index.len() {
            let inode = index.inode(at).unwrap();
            assert_eq!(inode.uid, inode.layer, "its own layer's metadata");
        }
    }
    let none = merged(&[]);
    assert_eq!((none.len(), none.layers()), (1, 0));
}

#[test]
fn hard_links_stay_together_as_far_as_they_are_seen() {
    let layers = [
        layer(0, "d d, w d/two, f other"),
        layer(
            1,
            "d d, f d/one, h d/two d/one, h three d/one, f x, h other x",
        ),
    ];
    let index = merged(&layers);
    assert_eq!(tree(&index), "d0/d f1/d/one f0/other f1/three f1/x");
    let three = index.child(0, b"three").unwrap();
    assert_eq!(index.inode(three).unwrap().nlink, 2);
    let names: Vec<_> = index.names(three).map(|(_, name)| name).collect();
    assert_eq!(names, [&b"three"[..], b"one"]);
    let x = index.child(0, b"x").unwrap();
    assert_eq!(index.inode(x).unwrap().nlink, 1);
    // The same number in two layers is not the same file.
    let layers = [layer(0, "f a, h b a"), layer(1, "f c, h d c")];
    let index = merged(&layers);
    assert_eq!(index.len(), 3);
}

#[test]
fn the_tree_may_be_deeper_than_the_stack_and_the_stack_512_layers() {
    let dir = inode(Kind::Directory);
    let deep = |nth| {
        let mut builder = Builder::new(Scope::Layer, vec![diff(nth)], &dir, []);
        let mut at = 0;
        for _ in 0..200_000 {
            at = builder.add(at, b"d", &dir, b"", []).unwrap();
        }
        Index::open(builder.finish().unwrap()).unwrap()
    };
    let index = merged(&[deep(0), deep(1)]);
    assert_eq!(index.len(), 200_001);
    let layers: Vec<_> = (0..512)
        .map(|nth| layer(nth, &format!("d a, f a/{nth}, f b")))
        .collect();
    let index = merged(&layers);
    assert_eq!(index.len(), 515);
    let last = index.child(index.child(0, b"a").unwrap(), b"511").unwrap();
    assert_eq!(index.inode(last).unwrap().layer, 511);
}

/// With something of everything, and as small as that can be.
fn sample() -> Vec<u8> {
    let dir = inode(Kind::Directory);
    let xattrs: [(&[u8], &[u8]); 2] = [(b"user.a", b"1"), (b"user.b", b"2")];
    let mut builder = Builder::new(Scope::Layer, vec![diff(0)], &dir, xattrs);
    let d = builder.add(0, b"d", &dir, b"", [xattrs[0]]).unwrap();
    let file = inode(Kind::File);
    let f = builder.add(d, b"f", &file, b"", xattrs).unwrap();
    builder.link(0, b"g", f).unwrap();
    let link = inode(Kind::Symlink);
    builder
        .add(d, b"l", &link, b"target", NO_XATTRS.iter().copied())
        .unwrap();
    builder.finish().unwrap()
}

/// Asks all that can be asked.
fn exercise<B: AsRef<[u8]>>(index: &Index<B>) {
    for at in 0..index.len().min(1000) {
        let _ = (index.inode(at), index.target(at));
        assert!(index.names(at).count() < 1 << 20);
        assert!(index.xattrs(at).count() < 1 << 20);
        for (name, child) in index.children(at).take(1000) {
            assert_eq!(index.child(at, name), Some(child));
            assert!(child < index.len());
        }
    }
    assert_eq!(index.diffs().count(), index.layers() as usize);
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let good = sample();
    exercise(&Index::open(&good).unwrap());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(Index::open(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(Index::open(&good[..at]).is_err(), "cut to {at}");
    }
    let longer = [&good[..], b"\0"].concat();
    assert!(matches!(
        Index::open(longer),
        Err(IndexError::Length { .. })
    ));
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(Index::open(newer).err(), Some(IndexError::Version(2)));
    assert_eq!(Index::open([]).err(), Some(IndexError::NotAnIndex));
}

/// Whether a file is opaque asks nobody until layers are merged, and then it must not be.
#[test]
fn nothing_but_a_directory_is_opaque() {
    let root = inode(Kind::Directory);
    for (kind, opaque, is_right) in [
        (Kind::Directory, true, true),
        (Kind::File, false, true),
        (Kind::File, true, false),
        (Kind::Whiteout, true, false),
    ] {
        let mut builder = Builder::new(Scope::Layer, vec![diff(1)], &root, []);
        let entry = Inode {
            opaque,
            ..inode(kind)
        };
        builder.add(0, b"x", &entry, b"", []).unwrap();
        let index = Index::open(builder.finish().unwrap());
        assert_eq!(index.is_ok(), is_right, "{kind:?}");
    }
}

/// Writes the checksum that the bytes should have.
fn fix(bytes: &mut [u8]) {
    if bytes.len() >= HEADER {
        let length = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(bytes, || {});
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn a_byte_changed_under_a_right_checksum_is_refused_or_harmless() {
    let good = sample();
    let mut refused = 0;
    for at in 0..good.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            fix(&mut bad);
            match Index::open(&bad) {
                Ok(index) => exercise(&index),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > good.len(), "{refused}");
}

#[test]
fn what_changes_after_the_check_neither_panics_nor_loops() {
    let mut index = Index::open(sample()).unwrap();
    assert!(index.is_whole());
    for value in [0xff, 0x80, 1, 0] {
        let length = index.bytes.len();
        index.bytes[HEADER..length].fill(value);
        assert!(!index.is_whole());
        for at in 0..index.len() {
            let _ = (index.inode(at), index.target(at), index.child(at, b"x"));
            assert!(index.names(at).count() < 1 << 20);
            assert!(index.xattrs(at).take(10).count() <= 10);
            assert!(index.children(at).take(10).count() <= 10);
        }
    }
}

/// The random part: changes to a small tree, made from the lowest layer up.
#[derive(Debug, Clone)]
struct Change(u8, Vec<u8>);

/// The naive way: paths with what they are, each layer applied over those below.
fn apply(model: &mut BTreeMap<Vec<u8>, (u8, u32)>, changes: &BTreeMap<Vec<u8>, u8>, nth: u32) {
    let below = |path: &[u8], other: &[u8]| other.len() > path.len() && other.starts_with(path);
    for (path, what) in changes {
        if matches!(what, b'w' | b'f' | b'o') {
            model.retain(|other, _| !below(path, other));
        }
        let shadows = matches!(model.get(path), Some((b'f', _)));
        match what {
            b'w' => drop(model.remove(path)),
            b'd' if !shadows && model.contains_key(path) => {
                model.insert(path.clone(), (b'd', nth));
            }
            b'o' => drop(model.insert(path.clone(), (b'd', nth))),
            other => drop(model.insert(path.clone(), (*other, nth))),
        }
    }
}

/// Makes the changes of one layer consistent: parents are directories, a name is one thing.
fn consistent(changes: &[Change]) -> BTreeMap<Vec<u8>, u8> {
    let mut out: BTreeMap<Vec<u8>, u8> = BTreeMap::new();
    for Change(what, path) in changes {
        let parents = (1..path.len()).map(|end| &path[..end]);
        let blocked = parents
            .clone()
            .any(|p| matches!(out.get(p), Some(b'f' | b'w')));
        let is_parent = out
            .keys()
            .any(|p| p.len() > path.len() && p.starts_with(path));
        if blocked || (is_parent && matches!(what, b'f' | b'w')) {
            continue;
        }
        for parent in parents {
            out.entry(parent.to_vec()).or_insert(b'd');
        }
        out.insert(path.clone(), *what);
    }
    out
}

fn layer_of(nth: u64, changes: &BTreeMap<Vec<u8>, u8>) -> Index<Vec<u8>> {
    let path = |p: &Vec<u8>| {
        let names: Vec<String> = p.iter().map(|n| char::from(*n).to_string()).collect();
        names.join("/")
    };
    let entries: Vec<String> = changes
        .iter()
        .map(|(p, what)| format!("{} {}", char::from(*what), path(p)))
        .collect();
    layer(nth, &entries.join(","))
}

proptest! {
    #[test]
    fn merging_is_applying_one_layer_after_the_other(
        layers in prop::collection::vec(
            prop::collection::vec(
                (prop::sample::select(b"dofw".to_vec()), prop::collection::vec(b'a'..=b'c', 1..4))
                    .prop_map(|(what, path)| Change(what, path)),
                0..8,
            ),
            1..6,
        )
    ) {
        let layers: Vec<_> = layers.iter().map(|changes| consistent(changes)).collect();
        let mut model = BTreeMap::new();
        // The first is the topmost.
        for (nth, changes) in layers.iter().enumerate().rev() {
            apply(&mut model, changes, nth as u32);
        }
        let expected: Vec<String> = model.iter().map(|(path, (what, layer))| {
            let path: String = path.iter().flat_map(|n| ['/', char::from(*n)]).collect();
            format!("{}{layer}{path}", char::from(*what))
        }).collect();
        let indexes: Vec<_> = (0..).zip(&layers).map(|(nth, l)| layer_of(nth, l)).collect();
        prop_assert_eq!(tree(&merged(&indexes)), expected.join(" "));
    }

    #[test]
    fn random_bytes_are_refused_or_harmless(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2000),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        whole in any::<bool>(),
    ) {
        let good = sample();
        if whole {
            bytes = good;
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        } else {
            let length = bytes.len().min(16);
            bytes[..length].copy_from_slice(&good[..length]);
        }
        fix(&mut bytes);
        if let Ok(index) = Index::open(&bytes) {
            exercise(&index);
        }
    }
}
