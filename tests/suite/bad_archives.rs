//! Archives that are broken, contradict themselves, or reach for what is outside: refused in one line,
//! and nothing of them stays.

use std::fs;
use std::process::Command;

use crate::bad_input::{refused, state};
use crate::harness::store::LAYERCTL;
use crate::harness::{Archive, Image, Layer, Run, Store, noise};
use crate::samples::app;

/// Loads these bytes, which must be refused, from a file and through a pipe.
#[track_caller]
fn refuses_archive(store: &Store, what: &str, bytes: &[u8]) {
    let file = store.beside("bad.tar");
    fs::write(&file, bytes).unwrap();
    let before = state(store);
    let by_name = store.run(&["load", "-i", file.to_str().unwrap()]);
    assert_eq!(by_name.code, Some(1), "{what} is refused: {by_name:#?}");
    let error = by_name.refused();
    assert!(!error.contains(" os error 0"), "{error}");
    let by_pipe = Run::of(
        Command::new("sh")
            .args(["-c", "cat \"$0\" | \"$1\" --root \"$2\" load"])
            .args([file.as_path(), LAYERCTL.as_ref(), store.root()]),
    );
    by_pipe.refused();
    assert_eq!(
        before,
        state(store),
        "{what}: nothing changed, nothing left behind"
    );
}

pub fn broken_archives() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (archive, _) = Archive::of(&app(&["other:1"]).label("other"));
    let whole = archive.bytes();
    refused(&store, &["load", "-i", "/no/such/file"], &["/no/such/file"]);
    let empty_dir = store.new_dir("empty-dir");
    refused(&store, &["load", "-i", empty_dir.to_str().unwrap()], &[]);
    refuses_archive(&store, "empty", b"");
    refuses_archive(&store, "zeros", &[0; 10240]);
    refuses_archive(&store, "noise", &noise(7, 100_000));
    refuses_archive(
        &store,
        "an archive without an image",
        &Layer::new().file("x", "x").tar(),
    );
    for part in 1..8 {
        let len = whole.len() * part / 8;
        refuses_archive(&store, &format!("cut off after {len} bytes"), &whole[..len]);
    }
    let gzip = zstd::encode_all(whole.as_slice(), 1).unwrap();
    refuses_archive(&store, "a cut off zstd", &gzip[..gzip.len() / 2]);
}

pub fn archives_that_contradict_themselves() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    // Nothing of it is in the store: a layer that is there already is not read again.
    let layers = ["one", "two"].map(|text| Layer::new().file("x", text.repeat(1000)));
    let fresh = || Archive::of(&Image::new(&["other:1"], layers.to_vec())).0;
    let config = |a: &Archive| {
        a.members
            .iter()
            .position(|(name, _)| name.ends_with(".json"))
            .unwrap()
    };
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("one byte of a layer", |layer| layer[600] ^= 1),
        ("a layer that is another", |layer| {
            *layer = Layer::new().file("x", "x").tar()
        }),
        ("a layer that ends early", |layer| layer.truncate(700)),
    ];
    for (what, damage) in damages {
        let mut archive = fresh();
        damage(&mut archive.members[1].1);
        refuses_archive(&store, what, &archive.bytes());
    }
    let mut archive = fresh();
    archive.members.remove(1);
    refuses_archive(&store, "a layer is missing", &archive.bytes());
    let mut archive = fresh();
    let at = config(&archive);
    archive.members.remove(at);
    refuses_archive(&store, "the config is missing", &archive.bytes());
    for (what, text) in [
        ("not JSON", "{"),
        ("not a config", "[]"),
        ("too deep", &"[".repeat(100_000)),
    ] {
        let mut archive = fresh();
        let at = config(&archive);
        archive.members[at].1 = text.into();
        refuses_archive(&store, what, &archive.bytes());
    }
    let mut archive = fresh();
    let at = config(&archive);
    archive.members[at].1.extend(vec![b' '; 5 << 20]);
    refuses_archive(&store, "more than 4 MiB of JSON", &archive.bytes());
}

/// Layers that reach for what is outside: refused, or kept inside; never followed.
pub fn hostile_layers() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let up = format!("{}{}", "../".repeat(40), &target[1..]);
    let layers = [
        ("a path upwards", Layer::new().file("../../escaped", "x")),
        (
            "a path upwards, further in",
            Layer::new().dir("d").file("d/../../../escaped", "x"),
        ),
        (
            "through a link",
            Layer::new().symlink("out", target).file("out/escaped", "x"),
        ),
        (
            "through a relative link",
            Layer::new().symlink("out", &up).file("out/escaped", "x"),
        ),
        (
            "over a link",
            Layer::new()
                .symlink("out", &format!("{target}/kept"))
                .file("out", "x"),
        ),
        (
            "a hard link outwards",
            Layer::new()
                .hard_link("in", &format!("{up}/kept"))
                .file("in", "x"),
        ),
        (
            "a link to a link",
            Layer::new()
                .symlink("s", &format!("{target}/kept"))
                .hard_link("h", "s")
                .file("h", "x"),
        ),
        (
            "a whiteout outwards",
            Layer::new().symlink("out", target).whiteout("out/kept"),
        ),
        (
            "a whiteout of ..",
            Layer::new().dir("d").file("d/.wh...", ""),
        ),
        ("a whiteout of nothing", Layer::new().file(".wh.", "")),
        ("a NUL", Layer::new().file("a\0b", "x")),
        ("no name", Layer::new().file("", "x")),
    ];
    for (what, layer) in layers {
        let store = Store::new();
        store.ok(&["images"]);
        let before = state(&store);
        let (archive, _) = Archive::of(&Image::new(&["bad:1"], vec![layer]));
        let file = store.beside("bad.tar");
        archive.write(&file);
        let run = store.run(&["load", "-i", file.to_str().unwrap()]);
        match run.code {
            Some(0) => store.check_at_rest(),
            _ => {
                run.refused();
                assert_eq!(before, state(&store), "{what}");
            }
        }
        assert_eq!(
            fs::read(outside.path().join("kept")).unwrap(),
            b"kept",
            "{what}"
        );
        let names: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["kept"], "{what}");
        assert!(
            !store.beside("escaped").exists() && !store.root().join("escaped").exists(),
            "{what}"
        );
    }
}
