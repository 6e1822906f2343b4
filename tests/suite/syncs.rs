//! What is brought to the disk, and how often: seen by the system calls, because a file system whose
//! journal takes everything along hides what was forgotten.

use std::fs;
use std::process::Command;

use crate::harness::{Archive, Image, Layer, Run, Store};
use crate::samples::app;

/// What a command synced, in order: paths below the store's root.
fn synced(store: &Store, args: &[&str]) -> Vec<String> {
    let log = store.beside("strace");
    let program = store.command(args);
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-q", "-y", "-o"])
        .arg(&log)
        .args(["-e", "trace=fsync,fdatasync"])
        .arg(program.get_program())
        .args(program.get_args());
    Run::of(&mut strace).ok();
    // PID fsync(3</path>) = 0
    let log = fs::read_to_string(&log).unwrap();
    let path = |line: &str| {
        let (_, path) = line.split_once("sync(")?.1.split_once('<')?;
        let path = path.split_once('>')?.0;
        let below = path.strip_prefix(store.root().canonicalize().unwrap().to_str()?)?;
        Some(below.trim_start_matches('/').to_owned())
    };
    log.lines().filter_map(path).collect()
}

fn times(synced: &[String], path: &str) -> usize {
    synced.iter().filter(|s| *s == path).count()
}

/// However many layers there are: the directories that they share are synced once in the transaction
/// that all others wait for.
pub fn names_are_synced_once() {
    let store = Store::new();
    let layers = (0..20).map(|n| Layer::new().file(&format!("file-{n}"), "text"));
    let (archive, _) = Archive::of(&Image::new(&["many:1"], layers.collect()));
    let file = store.beside("many.tar");
    archive.write(&file);
    store.ok(&["images"]);
    let load = synced(&store, &["load", "-i", file.to_str().unwrap()]);
    let rmi = synced(&store, &["rmi", "many:1"]);
    let counts = |synced, dirs: [&str; 2]| dirs.map(|dir| times(synced, dir));
    assert_eq!(counts(&load, ["layers", "images"]), [1, 1], "{load:?}");
    assert_eq!(counts(&rmi, ["layers", "marked"]), [1, 1], "{rmi:?}");
    // And before the commit.
    let at = |dir: &str| load.iter().position(|s| s == dir);
    assert!(at("layers") < at("store.db-wal"), "{load:?}");
}

/// A container's directories reach the disk before the row that says that they are there.
pub fn a_new_container_is_synced() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let synced = synced(&store, &["create", "app:1"]);
    let id = store.ok(&["ps", "-a", "-q", "--no-trunc"]);
    let directory = format!("containers/{}", id.trim_end());
    let upper = format!("{directory}/upper");
    let at = |path: &str| {
        let at = synced.iter().position(|s| s == path);
        at.unwrap_or_else(|| panic!("{path} is not synced: {synced:?}"))
    };
    for path in [&upper, &directory, "containers"] {
        assert!(at(path) < at("store.db-wal"), "{path}: {synced:?}");
    }
}

/// Removing by force what views hold waits for the disk as often as it takes to promise it, however
/// large the image is and however many layers it has; what is then due the next command brings there.
pub fn a_removal_of_what_is_held_syncs_its_promise() {
    let store = Store::new();
    let layers = |n: u8| (0..n).map(|n| Layer::new().file(&format!("file-{n}"), "text"));
    for (tag, count) in [("one:1", 1), ("many:1", 20)] {
        store.load(&Image::new(&[tag], layers(count).collect()).label(tag));
        store.create_mounted(tag);
        let counts = |synced: &[String]| {
            let paths = ["store.db-wal", "layers", "marked"];
            paths.map(|path| times(synced, path))
        };
        let rmi = synced(&store, &["rmi", "-f", tag]);
        assert_eq!(counts(&rmi), [1, 0, 0], "{tag}: {rmi:?}");
        let next = synced(&store, &["images"]);
        assert_eq!(counts(&next), [1, 1, 1], "{tag}: {next:?}");
        let then = synced(&store, &["images"]);
        assert_eq!(counts(&then), [0, 0, 0], "{tag}: {then:?}");
    }
}
