//! Layers and archives whose headers disagree, in the spirit of the advisories for the `tar` crate: one program must
//! not see other entries than another. The arbiters are GNU tar and Go's reader, which Docker and Podman use. Needs: root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::harness::tree;
use crate::hostile_support::{Target, archive, entry, joined, layer, names_below, only_layer, pax};

/// A tar in the data of another one's file.
fn smuggled() -> Vec<u8> {
    entry("smuggled", b'0', 0, "", b"")
}

/// CVE-2026-33055 and CVE-2025-62518: the size in a PAX header counts, whatever the header itself says, also zero.
pub fn a_size_in_a_pax_header_wins() {
    for header_size in [0, 1, 512, 513, 1 << 30] {
        let target = Target::new();
        let file = entry("file", b'0', header_size, "", &smuggled());
        let tar = joined(&[
            pax(&[("size", "512")]),
            file,
            entry("after", b'0', 0, "", b""),
        ]);
        target.takes("a size", &archive("a:1", &[tar]));
        let tree = only_layer(&target.store);
        assert_eq!(names_below(&tree), ["after", "file"], "{header_size}");
        assert!(fs::read(tree.join("file")).unwrap() == smuggled());
    }
}

/// The other way round: what PAX says is no data is a header.
pub fn a_size_of_zero_in_a_pax_header_wins() {
    let target = Target::new();
    let file = entry("file", b'0', 512, "", &entry("next", b'0', 0, "", b""));
    target.takes(
        "no data",
        &archive("a:1", &[joined(&[pax(&[("size", "0")]), file])]),
    );
    assert_eq!(names_below(&only_layer(&target.store)), ["file", "next"]);
}

/// GHSA-3cv2-h65g-fgmm and GHSA-3pv8-6f4r-ffg2: a PAX header belongs to the next *file*. What stands between, a long
/// name, a long link, a global header, another PAX header, has the size that it says itself.
pub fn a_pax_header_does_not_belong_to_what_is_between() {
    let long = entry("././@LongLink", b'L', 10, "", b"long-name\0");
    let link = entry("././@LongLink", b'K', 7, "", b"target\0");
    let global = entry("global", b'g', 13, "", b"13 path=evil\n");
    let size = || pax(&[("size", "512")]);
    let file = |name| entry(name, b'0', 0, "", &smuggled());
    for (what, between, name) in [
        ("a long name", vec![size(), long.clone()], "long-name"),
        (
            "the other way round",
            vec![long.clone(), size()],
            "long-name",
        ),
        ("a long link", vec![size(), link.clone()], "file"),
        ("both", vec![size(), link, long.clone()], "long-name"),
        ("a global header", vec![size(), global], "file"),
        (
            "a later one in its place",
            vec![pax(&[("size", "7"), ("path", "evil")]), size()],
            "file",
        ),
    ] {
        let target = Target::new();
        let entries = [
            between,
            vec![file("file"), entry("after", b'0', 0, "", b"")],
        ]
        .concat();
        target.takes(what, &archive("a:1", &[joined(&entries)]));
        let tree = only_layer(&target.store);
        let mut names = ["after", name];
        names.sort();
        assert_eq!(names_below(&tree), names, "{what}");
        assert!(fs::read(tree.join(name)).unwrap() == smuggled(), "{what}");
    }
}

/// CVE-2026-33056: a directory over a symbolic link takes its place; what the link led to keeps its mode.
pub fn a_directory_over_a_link_changes_nothing_elsewhere() {
    for name in ["foo", "foo/", "foo/.", "./foo", "foo/../foo"] {
        let target = Target::new();
        let outside = target.outside();
        let up = format!(
            "../../../../{}",
            outside.file_name().unwrap().to_str().unwrap()
        );
        for to in [outside.to_str().unwrap(), &up, "inside"] {
            let tar = layer(|t| {
                use layerctl::archive::write::Meta;
                t.dir("inside", &Meta::mode(0o700)).unwrap();
                t.symlink("foo", to).unwrap();
                t.dir(
                    name,
                    &Meta::mode(0o1777)
                        .owner(7, 8)
                        .mtime(1, 0)
                        .xattr("user.a", "b"),
                )
                .unwrap();
            });
            target.takes(name, &archive("a:1", &[tar]));
            let tree = only_layer(&target.store);
            assert_eq!(names_below(&tree), ["foo", "inside"], "{name} {to}");
            let mode = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap().mode();
            assert_eq!(
                (mode("foo"), mode("inside")),
                (0o041_777, 0o040_700),
                "{name} {to}"
            );
            target.store.ok(&["rmi", "a:1"]);
        }
    }
}

/// The size of what has no data means nothing, in the header as in PAX.
pub fn what_has_no_data_has_none() {
    for (flag, link, name) in [
        (b'5', "", "it/"),
        (b'2', "to", "it"),
        (b'6', "", "it"),
        (b'1', "file", "it"),
    ] {
        let target = Target::new();
        let file = entry("file", b'0', 4, "", b"data");
        let tar = joined(&[
            file,
            pax(&[("size", "512")]),
            entry(name, flag, 512, link, b""),
            entry("next", b'0', 0, "", b""),
        ]);
        target.takes("no data", &archive("a:1", &[tar]));
        let found = names_below(&only_layer(&target.store));
        assert_eq!(found, ["file", "it", "next"], "{}", char::from(flag));
    }
}

/// Sizes and numbers that no file can have.
pub fn sizes_that_lie() {
    let huge = (i64::MAX as u64).to_string();
    let sparse = |size: &str, map: &str| {
        let records = [
            ("GNU.sparse.major", "0"),
            ("GNU.sparse.minor", "1"),
            ("GNU.sparse.size", size),
            ("GNU.sparse.map", map),
        ];
        joined(&[pax(&records), entry("sparse", b'0', 4, "", b"data")])
    };
    let with =
        |records: &[(&str, &str)]| joined(&[pax(records), entry("file", b'0', 4, "", b"data")]);
    let mut negative = entry("file", b'0', 0, "", b"");
    negative[124..136].copy_from_slice(&[0xff; 12]);
    negative[148..156].fill(b' ');
    let sum: u32 = negative.iter().map(|b| u32::from(*b)).sum();
    negative[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (what, tar, parts) in [
        (
            "more than there is",
            with(&[("size", "1000000")]),
            &["unexpected end of the tar in or after file"][..],
        ),
        ("8 EiB", with(&[("size", &huge)]), &["in or after file"]),
        (
            "2^64",
            with(&[("size", "18446744073709551616")]),
            &["invalid size"],
        ),
        ("negative", joined(&[negative]), &["negative size"]),
        (
            "an overlong record",
            with(&[("comment", &"x".repeat(1 << 20))]),
            &["long names and PAX records"],
        ),
        (
            "an owner",
            with(&[("uid", "4294967296")]),
            &["file", "impossible owner"],
        ),
        ("a map beyond the end", sparse("3", "0,4"), &["sparse map"]),
        (
            "a map of more than there is",
            sparse("100", "0,5"),
            &["sparse map"],
        ),
        (
            "a map that goes back",
            sparse("100", "10,2,0,2"),
            &["sparse map"],
        ),
        (
            "a map that overflows",
            sparse("100", "18446744073709551615,4"),
            &["sparse map"],
        ),
    ] {
        let target = Target::new();
        target.refuses(what, &archive("a:1", &[tar]), parts);
    }
}

/// A file of 8 EiB that is one hole: refused where the file system has none so large, and else as cheap as it is.
pub fn holes_without_end() {
    let target = Target::new();
    let size = (i64::MAX as u64).to_string();
    let records = [
        ("GNU.sparse.map", "0,4"),
        ("GNU.sparse.size", size.as_str()),
    ];
    let file = |name| [pax(&records), entry(name, b'0', 4, "", b"data")].concat();
    let tar = joined(&[file("sparse"), file("sparse-2")]);
    let before = tree::disk_usage(target.store.root());
    let run = target.load(&archive("a:1", &[tar]));
    match run.code {
        Some(0) => target.store.check_at_rest(),
        _ => run.refused_saying(&["sparse: cannot", "File too large"]),
    }
    assert!(tree::disk_usage(target.store.root()) < before + (1 << 20));
    target.check_staging();
    target.check_outside();
}

/// Headers of the outer tar that disagree: what is named is what is read, or it is refused.
pub fn an_outer_tar_that_disagrees() {
    let plain = layer(|t| {
        t.file("f", &crate::archives_support::f(), b"data").unwrap();
    });
    let whole = archive("a:1", &[plain]);
    // A second manifest, smuggled in the data of a file that is empty for those who ignore PAX.
    let evil = b"[]";
    let inner = entry("manifest.json", b'0', evil.len() as u64, "", evil);
    let records = pax(&[("size", &inner.len().to_string())]);
    let outer = [
        records,
        entry("comment", b'0', 0, "", &inner),
        whole.clone(),
    ]
    .concat();
    let target = Target::new();
    target.takes("a smuggled manifest", &outer);
    target.store.ok(&["rmi", "a:1"]);
    // The last of a name wins, as for everybody who unpacks it.
    let end = whole.len() - 1024;
    let outer = [&whole[..end], &inner, &[0; 1024]].concat();
    target.refuses("a later manifest", &outer, &["no image in it"]);
}
