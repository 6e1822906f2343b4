//! Layers that lie: refused with one line that names the entry, or contained. Needs: root.

use std::fs;
use std::os::fd::AsFd as _;

use layerctl::archive::write::{LayerBuilder, Meta};
use layerctl::archive::{Archive, ArchiveError, Input};
use layerctl::model::tar_split::TarSplitWriter;
use layerctl::store::unpack::{UnpackError, unpack};

use crate::archives_support::{f, scratch, some_layer, unpack_bytes};

type Build = fn(&mut LayerBuilder<Vec<u8>>);

fn built(build: Build) -> Vec<u8> {
    let mut tar = LayerBuilder::default();
    build(&mut tar);
    tar.finish().unwrap()
}

pub fn refused_entries() {
    let table: &[(&str, &str, Build)] = &[
        ("../evil", "leads out", |t| {
            t.file("../evil", &f(), b"").unwrap();
        }),
        ("a/../../evil", "leads out", |t| {
            t.file("a/../../evil", &f(), b"").unwrap();
        }),
        ("..", "leads out", |t| {
            t.dir("..", &f()).unwrap();
        }),
        ("root", "layer's root", |t| {
            t.file("./", &f(), b"").unwrap();
        }),
        ("h", "not a file of the layer", |t| {
            t.hardlink("h", "../outside").unwrap();
        }),
        ("h", "not in the layer", |t| {
            t.hardlink("h", "/etc/passwd").unwrap();
        }),
        ("h", "not in the layer", |t| {
            t.hardlink("h", "later").unwrap();
        }),
        ("h", "not in the layer", |t| {
            t.symlink("s", "..").unwrap();
            t.hardlink("h", "s/outside").unwrap();
        }),
        ("h", "not in the layer", |t| {
            t.whiteout("w").unwrap();
            t.hardlink("h", "w").unwrap();
        }),
        ("h", "a directory", |t| {
            t.dir("d", &f()).unwrap();
            t.hardlink("h", "d").unwrap();
        }),
        ("x/y", "x is not a directory", |t| {
            t.file("x", &f(), b"").unwrap();
            t.file("x/y", &f(), b"").unwrap();
        }),
        ("s/y", "leads to no directory", |t| {
            t.symlink("s", "/etc").unwrap();
            t.file("s/y", &f(), b"").unwrap();
        }),
        ("s/y", "parent", |t| {
            t.symlink("s", "s").unwrap();
            t.file("s/y", &f(), b"").unwrap();
        }),
        (".wh.", "whiteout of nothing", |t| {
            t.file(".wh.", &f(), b"").unwrap();
        }),
        ("d/.wh...", "whiteout of nothing", |t| {
            t.file("d/.wh...", &f(), b"").unwrap();
        }),
        (".wh.a/b", "cannot be a directory", |t| {
            t.file(".wh.a/b", &f(), b"").unwrap();
        }),
        ("nnn", "more than 255", |t| {
            t.file("n".repeat(256), &f(), b"").unwrap();
        }),
        ("ppp/", "more than 4095", |t| {
            t.file("ppp/".repeat(1200), &f(), b"").unwrap();
        }),
        ("l", "cannot make the symbolic link", |t| {
            t.symlink("l", "t".repeat(5000)).unwrap();
        }),
        ("l", "without a target", |t| {
            t.symlink("l", "").unwrap();
        }),
        ("x", "attribute nonsense.a", |t| {
            t.file("x", &f().xattr("nonsense.a", "1"), b"").unwrap();
        }),
        ("x", "impossible owner", |t| {
            t.file("x", &f().owner(u32::MAX, 0), b"").unwrap();
        }),
    ];
    for (name, why, build) in table {
        match unpack_bytes(&built(*build)) {
            Ok(layer) => panic!("{name} ({why}) was taken: {:?}", layer.names()),
            Err(error) => {
                let text = error.to_string();
                let named = text.starts_with(name) || *name == "root";
                assert!(
                    named && text.contains(why) && !text.contains('\n'),
                    "{name}: {text}"
                );
            }
        }
    }
}

/// What is taken must stay inside; `unpack_bytes` looks.
pub fn contained_entries() {
    let layer = unpack_bytes(&built(|t| {
        t.file("/absolute", &f(), b"1").unwrap();
        t.file("/../up", &f(), b"2").unwrap();
        t.dir("real", &Meta::mode(0o755)).unwrap();
        t.symlink("out", "../real").unwrap();
        t.file("out/in", &f(), b"3").unwrap();
        t.symlink("outside", "../outside").unwrap();
        // The link is replaced, not followed.
        t.file("outside", &f(), b"4").unwrap();
        t.symlink("d", "../..").unwrap();
        t.dir("d", &Meta::mode(0o700)).unwrap();
        t.file("d/x", &f(), b"5").unwrap();
        t.symlink("to-outside", "../outside").unwrap();
        t.hardlink("linked", "to-outside").unwrap();
        t.symlink("proc", "/proc/self/root").unwrap();
    }))
    .unwrap();
    assert_eq!(
        layer.names(),
        [
            "absolute",
            "d",
            "d/x",
            "linked",
            "out",
            "outside",
            "proc",
            "real",
            "real/in",
            "to-outside",
            "up"
        ]
    );
    assert!(layer.stat("linked").is_symlink());
}

pub fn truncated_layers() {
    let whole = some_layer();
    let mut refused = 0;
    for cut in (1..whole.len() - 1024).step_by(37) {
        match unpack_bytes(&whole[..cut]) {
            Err(UnpackError::Tar(e)) => {
                assert!(e.to_string().contains("unexpected end"), "{e}");
                refused += 1;
            }
            Err(e) => panic!("{cut}: {e}"),
            // Between two entries, or in the last fill: only the digest can tell.
            Ok(_) => {}
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Single bytes changed at random places, the checksum repaired: never a panic, never out.
pub fn mutated_layers() {
    let whole = some_layer();
    let mut random = 12_345u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    for _ in 0..1500 {
        let mut bytes = whole.clone();
        let block = next(bytes.len() / 512) * 512;
        for _ in 0..3 {
            bytes[block + next(512)] = next(256) as u8;
        }
        if &bytes[block + 257..block + 262] == b"ustar" {
            bytes[block + 148..block + 156].fill(b' ');
            let sum: u32 = bytes[block..block + 512]
                .iter()
                .map(|b| u32::from(*b))
                .sum();
            bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Err(error) = unpack_bytes(&bytes) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

pub fn cancelled() {
    let dir = scratch();
    let fd = fs::File::open(dir.path()).unwrap();
    let layer = some_layer();
    let endless = std::io::Read::chain(layer.as_slice(), std::io::repeat(0));
    let asked = std::sync::atomic::AtomicU32::new(0);
    let cancel = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 20;
    let mut split = TarSplitWriter::new(std::io::sink());
    let result = unpack(endless, fd.as_fd(), &mut split, &cancel);
    assert!(matches!(result, Err(UnpackError::Interrupted)));
    let endless = Input::Stream("endless".to_owned(), Box::new(std::io::repeat(1)));
    let asked = std::sync::atomic::AtomicU32::new(0);
    let cancel = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 5;
    let result = Archive::open(endless, dir.path(), &cancel);
    assert!(matches!(result, Err(ArchiveError::Interrupted)));
    // While its documents are read.
    let path = dir.path().join("small.tar");
    fs::write(
        &path,
        crate::hostile_support::archive("a:1", &[some_layer()]),
    )
    .unwrap();
    let archive = crate::archives_support::open(&path).unwrap();
    let result = archive.images(&|| true);
    assert!(matches!(result, Err(ArchiveError::Interrupted)));
}
