//! `fsck`: each kind of damage is found and named; `--repair` makes the store one that can be used,
//! and into which what was damaged can be loaded again.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::process::descriptors;
use crate::harness::{Built, Run, Store, noise, wait_until};
use crate::samples::{app, check_app, heavy};

/// Something that a disk, or a hand, does to a store with the image `app:1`.
struct Damage {
    what: &'static str,
    /// Without `--deep` it is not looked for.
    only_deep: bool,
    harm: fn(&Store, &Built),
    /// The beginnings of the lines in which `fsck` names it.
    names: fn(&Built) -> Vec<String>,
}

const DAMAGES: [Damage; 9] = [
    Damage {
        what: "an entry of a layer is deleted",
        only_deep: true,
        harm: |store, image| fs::remove_file(layer(store, image).join("tree/etc/gone")).unwrap(),
        names: lowest_layer,
    },
    Damage {
        what: "a file is cut off",
        only_deep: true,
        harm: |store, image| {
            let big = layer(store, image).join("tree/big");
            File::options()
                .write(true)
                .open(big)
                .unwrap()
                .set_len(10)
                .unwrap();
        },
        names: lowest_layer,
    },
    Damage {
        what: "a bit of a file flips",
        only_deep: true,
        harm: |store, image| {
            let big = layer(store, image).join("tree/big");
            let file = File::options().read(true).write(true).open(big).unwrap();
            let times = file.metadata().unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 70_000).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 70_000).unwrap();
            let times = FileTimes::new()
                .set_accessed(times.accessed().unwrap())
                .set_modified(times.modified().unwrap());
            file.set_times(times).unwrap();
        },
        names: lowest_layer,
    },
    Damage {
        what: "a bit of a tar-split flips",
        only_deep: true,
        harm: |store, image| {
            let split = layer(store, image).join("tar-split");
            let mut bytes = fs::read(&split).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&split, bytes).unwrap();
        },
        names: lowest_layer,
    },
    Damage {
        what: "a layer has no tree",
        only_deep: false,
        harm: |store, image| fs::remove_dir_all(layer(store, image).join("tree")).unwrap(),
        names: lowest_layer,
    },
    Damage {
        what: "a layer's directory is gone",
        only_deep: false,
        harm: |store, image| fs::remove_dir_all(layer(store, image)).unwrap(),
        names: lowest_layer,
    },
    Damage {
        what: "a config is changed, and is JSON still",
        only_deep: false,
        harm: |store, image| {
            let changed = fs::read_to_string(config(store, image)).unwrap();
            let changed = changed.replace("/bin/sleep", "/bin/slept");
            fs::write(config(store, image), changed).unwrap();
        },
        names: |image| vec![format!("Error: image {}: ", image.id)],
    },
    Damage {
        what: "a config is gone",
        only_deep: false,
        harm: |store, image| fs::remove_file(config(store, image)).unwrap(),
        names: |image| vec![format!("Error: image {}: ", image.id)],
    },
    Damage {
        what: "the row of a layer is gone",
        only_deep: false,
        harm: |store, image| {
            let database = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
            let rows = database
                .execute("DELETE FROM layers WHERE diff = ?", [&image.diffs[0]])
                .unwrap();
            assert_eq!(rows, 1);
        },
        names: |image| vec![format!("Error: image {}: ", image.id)],
    },
];

fn layer(store: &Store, image: &Built) -> PathBuf {
    store.root().join("layers").join(image.layer_dir(0))
}

fn config(store: &Store, image: &Built) -> PathBuf {
    let hex = &image.id["sha256:".len()..];
    store.root().join("images").join(hex).join("config")
}

fn lowest_layer(image: &Built) -> Vec<String> {
    vec![format!("Error: layer {}: ", image.chains[0])]
}

/// Exit code 1, and exactly one line for each of these beginnings.
#[track_caller]
fn found(run: &Run, what: &str, names: &[String]) {
    assert_eq!(run.code, Some(1), "{what}: {run:#?}");
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), names.len(), "{what}: {run:#?}");
    for (line, name) in lines.iter().zip(names) {
        assert!(
            line.starts_with(name.as_str()) && line.len() > name.len(),
            "{what}: {name:?} in {run:#?}"
        );
    }
}

/// Nothing is wrong: exit code 0, no complaint.
#[track_caller]
fn finds_nothing(store: &Store, what: &str, args: &[&str]) {
    let run = store.run(args);
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (Some(0), ""),
        "{what}: {run:#?}"
    );
}

pub fn damage_is_found_and_named() {
    for damage in DAMAGES {
        let what = damage.what;
        let store = Store::new();
        let image = store.load(&app(&["app:1"]));
        store.load(&heavy("heavy:1", 1));
        finds_nothing(&store, what, &["fsck", "--deep"]);
        (damage.harm)(&store, &image);
        let names = (damage.names)(&image);
        match damage.only_deep {
            true => finds_nothing(&store, what, &["fsck"]),
            false => found(&store.run(&["fsck"]), what, &names),
        }
        found(&store.run(&["fsck", "--deep"]), what, &names);
    }
}

/// The image that is damaged goes, the other one stays; what went can be loaded again.
pub fn repair_lets_load_again() {
    for damage in DAMAGES {
        let what = damage.what;
        let store = Store::new();
        let image = store.load(&app(&["app:1"]));
        let sound = store.load(&heavy("heavy:1", 1));
        let container = store.create("app:1");
        (damage.harm)(&store, &image);
        let run = store.run(&["fsck", "--deep", "--repair"]);
        assert_eq!(run.code, Some(0), "{what}: {run:#?}");
        // What was found is told all the same.
        for name in (damage.names)(&image) {
            assert!(run.stderr.starts_with(&name), "{what}: {run:#?}");
        }
        assert!(run.stdout.contains(&image.id), "{what}: {run:#?}");
        finds_nothing(&store, what, &["fsck", "--deep"]);
        assert_eq!(
            store.ok(&["images", "-q", "--no-trunc"]),
            format!("{}\n", sound.id),
            "{what}"
        );
        store.check_at_rest();

        store.load(&app(&["app:1"]));
        finds_nothing(&store, what, &["fsck", "--deep"]);
        check_app(&store.mount(&container));
        store.ok(&["umount", &container]);
        store.check_at_rest();
    }
}

/// A page of an index: the database can still be read, and says so. One of a table: it cannot, and
/// the command is refused.
pub fn a_garbled_database_is_found() {
    for (page_of, line) in [
        ("pins_by_layer", "Error: the database: "),
        ("layers", "Error: "),
    ] {
        let store = Store::new();
        store.load(&app(&["app:1"]));
        finds_nothing(&store, page_of, &["fsck"]);
        let path = store.root().join("store.db");
        let database = rusqlite::Connection::open(&path).unwrap();
        let root: u32 = database
            .query_row(
                "SELECT rootpage FROM sqlite_schema WHERE name = ?",
                [page_of],
                |row| row.get(0),
            )
            .unwrap();
        let size: u32 = database
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .unwrap();
        // Closed, it has no log from which the page would be read instead.
        drop(database);
        let garbage = noise(1, size as usize);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&garbage, u64::from(root - 1) * u64::from(size))
            .unwrap();
        drop(file);
        let run = store.run(&["fsck"]);
        assert_eq!(run.code, Some(1), "{page_of}: {run:#?}");
        assert!(
            run.stderr.starts_with(line) && run.stderr.contains("database"),
            "{page_of}: {run:#?}"
        );
    }
}

/// What a view still reads is removed like by `rmi --force`: the view goes on.
pub fn repair_under_a_view() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    fs::write(config(&store, &image), "{}").unwrap();
    assert_eq!(store.run(&["fsck"]).code, Some(1));
    store.ok(&["fsck", "--repair"]);
    finds_nothing(&store, "under a view", &["fsck", "--deep"]);
    check_app(&view);
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "pending");
    }
    store.ok(&["umount", &container]);
    store.check_no_layers();
    store.load(&app(&["app:1"]));
    store.check_at_rest();
}

/// A container whose directories are missing could not be mounted.
pub fn a_container_without_its_directories() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let said = store.ok(&["fsck", "--deep"]);
    assert_eq!(
        said,
        "Checked 1 images, 3 layers and 1 containers: nothing found\n"
    );
    let directory = store.root().join("containers").join(&container);
    for part in ["upper", "work", "merged"] {
        let (there, away) = (directory.join(part), store.beside("away"));
        fs::rename(&there, &away).unwrap();
        let run = store.run(&["fsck"]);
        assert_eq!(run.code, Some(1), "{run:#?}");
        let missing = format!("{} is missing", there.display());
        assert!(run.stderr.contains(&missing), "{run:#?}");
        assert!(run.stdout.ends_with(": 1 damage found\n"), "{run:#?}");
        fs::rename(&away, &there).unwrap();
    }
    store.ok(&["rm", &container]);
    store.ok(&["fsck", "--deep"]);
}

/// All that `fsck` has on its list goes while it looks at the first layer.
pub fn a_removal_meanwhile_is_no_damage() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    store.create("app:1");
    let program = store.command(&["fsck", "--deep"]);
    let mut slow = Command::new("strace");
    slow.args(["-f", "-q", "-o"])
        .arg(store.beside("strace"))
        .args(["-e", "trace=openat", "-e", "inject=openat:delay_enter=50ms"])
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let fsck = slow.spawn().unwrap();
    let layers = store.root().join("layers");
    wait_until("fsck opens a layer", || {
        let fsck = store.servers().into_iter().flat_map(descriptors);
        fsck.into_iter().any(|path| path.starts_with(&layers))
    });
    store.ok(&["rmi", "-f", "app:1"]);
    for container in store.ok(&["ps", "-aq"]).lines() {
        store.ok(&["rm", container]);
    }
    Run::finish(fsck, "fsck".to_owned()).ok();
    // Whatever fsck held when rmi came to it, it has let go and reclaimed.
    store.check_no_layers();
    store.check_at_rest();
}
