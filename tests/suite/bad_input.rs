//! What cannot be done is refused in one line, with exit code 1; nothing changes, nothing is left
//! behind. (That no command ever panics is checked in the harness, for all tests.)

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::store::{LAYERCTL, is_mounted};
use crate::harness::{Archive, Image, Layer, LoopFs, Run, Store, noise, number, tree};
use crate::samples::{app, check_app};

/// All that a user can see of a store.
#[track_caller]
fn state(store: &Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let of = |args: &[&str]| {
        let mut rows = store.json(args);
        // These grow older by themselves.
        for row in rows.iter_mut().filter_map(|row| row.as_object_mut()) {
            row.retain(|key, _| !["CreatedSince", "Status"].contains(&key.as_str()));
        }
        rows
    };
    let df = store.df();
    let bytes = |part: &str| (number(&df[part], "count"), number(&df[part], "bytes"));
    (
        of(&["images"]),
        of(&["ps", "-a"]),
        of(&["layers"]),
        of(&["events"]).len(),
        [
            "live",
            "unused",
            "pending",
            "reclaiming",
            "orphaned",
            "containers",
        ]
        .map(bytes),
        tree::listing(store.root()),
    )
}

/// Refused with a line that contains all of these, and the store is as before.
#[track_caller]
fn refused(store: &Store, args: &[&str], saying: &[&str]) {
    let before = state(store);
    store.run(args).refused_saying(saying);
    assert_eq!(before, state(store), "{args:?} changes nothing");
    assert!(store.servers().len() <= 1, "no server is left");
}

pub fn images_that_are_not_there() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for command in [
        &["create", "nope"][..],
        &["rmi", "nope"],
        &["tag", "nope", "x"],
        &["history", "nope"],
    ] {
        refused(&store, command, &["No such image: nope:latest"]);
    }
    let found = store.run(&["inspect", "nope"]);
    assert_eq!(
        (found.code, found.stdout.trim()),
        (Some(1), "[]"),
        "{found:#?}"
    );
    assert!(found.stderr.starts_with("Error: No such ") && found.stderr.contains("nope"));
    refused(&store, &["why", "nope"], &["nope"]);
    let digits = "0123456789abcdef".repeat(4);
    for name in [digits.clone(), format!("sha256:{digits}")] {
        refused(&store, &["rmi", &name], &["No such image: ", &name]);
    }
}

pub fn containers_that_are_not_there() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for verb in ["mount", "umount", "start", "rm"] {
        refused(&store, &[verb, "nope"], &["No such container: nope"]);
    }
    // Ambiguous: seventeen containers have sixteen first digits among them at most.
    let ids: Vec<String> = (0..17).map(|_| store.create("app:1")).collect();
    let digit = |id: &str| id[..1].to_owned();
    let twice = ids
        .iter()
        .find(|a| ids.iter().filter(|b| digit(a) == digit(b)).count() > 1)
        .unwrap();
    for verb in ["mount", "umount", "start", "rm"] {
        refused(&store, &[verb, &digit(twice)], &[&digit(twice)]);
    }
}

pub fn names_that_cannot_be() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    refused(
        &store,
        &["tag", "app:1", "Upper"],
        &["invalid reference format"],
    );
    refused(
        &store,
        &["tag", "app:1", "a:b:c"],
        &["invalid reference format"],
    );
    refused(&store, &["tag", "app:1", ""], &["invalid reference format"]);
    refused(
        &store,
        &["tag", "app:1", &format!("x@{}", image.id)],
        &["digest"],
    );
    refused(&store, &["rmi", "a b"], &["invalid reference format"]);
    refused(&store, &["rmi", ""], &[]);
    refused(
        &store,
        &["create", "--name=-x-/", "app:1"],
        &["Invalid container name"],
    );
    store.ok(&["create", "--name", "web", "app:1"]);
    refused(
        &store,
        &["create", "--name", "web", "app:1"],
        &["web", "already in use"],
    );
    for usage in [
        &["frobnicate"][..],
        &["rmi", "--frobnicate", "x"],
        &["mount"],
        &["tag", "app:1"],
    ] {
        let run = store.run(usage);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:#?}");
    }
}

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

pub fn a_full_disk() {
    let disk = LoopFs::new(24);
    let store = Store::below(&disk.path());
    store.load(&app(&["app:1"]));
    let before = state(&store);
    // The archive lies elsewhere: only the unpacked layers need room here.
    let elsewhere = Store::new();
    let (archive, _) = Archive::of(&Image::new(
        &["big:1"],
        vec![
            Layer::new().file("first", noise(8, 4 << 20)),
            Layer::new().file("big", noise(9, 30 << 20)),
        ],
    ));
    let file = elsewhere.beside("big.tar");
    archive.write(&file);
    let run = store.run(&["load", "-i", file.to_str().unwrap()]);
    run.refused_saying(&["No space left on device"]);
    assert_eq!(before, state(&store), "what was unpacked is gone again");

    // A view on a full disk: the writer is told, what was there stays, removal still works.
    let (container, view) = store.create_mounted("app:1");
    let error = fs::write(view.join("fills"), noise(1, 40 << 20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    check_app(&view);
    fs::remove_file(view.join("fills")).unwrap();
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store.ok(&["rmi", "app:1"]);
    store.check_at_rest();
}

/// Not one block is left: each command works or says in one line why not, and when there is room
/// again all is as it was.
pub fn a_disk_full_to_the_last_byte() {
    // With what a command gives back taken away again before the next, and with a few blocks free.
    for again in [true, false] {
        on_a_full_disk(again);
    }
}

fn on_a_full_disk(again: bool) {
    let disk = LoopFs::new(48);
    let store = Store::below(&disk.path());
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let filler = disk.path().join("filler");
    let fill = || {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(&filler)
            .unwrap();
        for piece in [1 << 20, 1 << 10, 1] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
        file.sync_all().unwrap();
    };
    fill();
    let commands: [&[&str]; 9] = [
        &["images"],
        &["df"],
        &["tag", "app:1", "app:2"],
        &["create", "app:1"],
        &["gc"],
        &["umount", &container],
        &["ps", "-a"],
        &["layers"],
        &["rmi", "-f", "app:1", "app:2"],
    ];
    check_app(&view);
    for args in commands {
        if again {
            fill();
        }
        let run = store.run(args);
        assert!(
            run.code == Some(0) || run.stderr.starts_with("Error: "),
            "{args:?}: {run:#?}"
        );
        assert!(matches!(run.code, Some(0 | 1)), "{args:?}: {run:#?}");
    }
    fs::remove_file(&filler).unwrap();
    store.wait_for_servers_to_end();
    for row in store.json(&["ps", "-a"]) {
        store.ok(&["rm", row["ID"].as_str().unwrap()]);
    }
    store.ok(&["rmi", "-f", "app:1", "app:2"]);
    assert_eq!(store.layer_state(&image.chains[0]), "gone");
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

pub fn a_store_of_a_newer_version() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let database = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
    database.pragma_update(None, "user_version", 9999).unwrap();
    drop(database);
    let before = tree::listing(store.root());
    for args in [
        &["images"][..],
        &["ps"],
        &["rmi", "-f", "app:1"],
        &["gc"],
        &["df"],
        &["prune", "-f"],
    ] {
        store
            .run(args)
            .refused_saying(&["9999", store.root().to_str().unwrap()]);
    }
    assert_eq!(before, tree::listing(store.root()));
}

pub fn stores_that_cannot_be() {
    let store = Store::new();
    let file = store.beside("file");
    fs::write(&file, "a file").unwrap();
    let run = Run::of(
        Command::new(LAYERCTL)
            .arg("--root")
            .arg(&file)
            .arg("images"),
    );
    run.refused_saying(&[file.to_str().unwrap()]);
    assert_eq!(fs::read(&file).unwrap(), b"a file");
    // A database that is none.
    fs::create_dir_all(store.root()).unwrap();
    fs::write(store.root().join("store.db"), noise(10, 9000)).unwrap();
    store.run(&["images"]).refused_saying(&["store.db"]);
    assert!(fs::read(store.root().join("store.db")).unwrap() == noise(10, 9000));
}

pub fn mount_points_that_cannot_be() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let missing = path(&store.beside("missing"));
    let not_empty = store.new_dir("not-empty");
    fs::write(not_empty.join("mine"), "mine").unwrap();
    let a_file = store.beside("a-file");
    fs::write(&a_file, "mine").unwrap();
    for point in [missing, path(&not_empty), path(&a_file)] {
        refused(&store, &["mount", &container, &point], &[&point]);
        assert!(!is_mounted(point.as_ref()));
        assert!(store.servers().is_empty(), "no server is left");
    }
    assert_eq!(store.container_state(&container), "created");
    // Busy: another view is there.
    let taken = store.new_dir("taken");
    let other = store.create("app:1");
    store.ok(&["mount", &other, &path(&taken)]);
    refused(
        &store,
        &["mount", &container, &path(&taken)],
        &[&path(&taken)],
    );
    check_app(&taken);
    // Mounted already.
    let free = store.new_dir("free");
    refused(&store, &["mount", &other, &path(&free)], &[" mounted at "]);
    refused(&store, &["rm", &other], &["container is running"]);
    store.ok(&["umount", &other]);
    refused(&store, &["umount", &other], &["not mounted"]);
    store.check_at_rest();
}

pub fn without_dev_fuse() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let before = state(&store);
    let mount = store.command(&["mount", &container]);
    // A namespace of its own, whose /dev has nothing but /dev/null.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]);
    unshare.arg(mount.get_program()).args(mount.get_args());
    Run::of(&mut unshare).refused_saying(&["/dev/fuse"]);
    assert_eq!(before, state(&store));
    assert_eq!(store.container_state(&container), "created");
    assert!(store.servers().is_empty());
}

pub fn without_permission() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let before = state(&store);
    // Where everybody may run it, wherever this clone lies.
    let everybody = tempfile::tempdir().unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&everybody, mode(0o755)).unwrap();
    let program = everybody.path().join("layerctl");
    // Not by this process: a child of another test that is between fork and exec would hold it open
    // for writing, and it could not be run.
    Run::of(Command::new("cp").arg(LAYERCTL).arg(&program)).ok();
    let commands: [&[&str]; 6] = [
        &["images"],
        &["rmi", "-f", "app:1"],
        &["mount", &container],
        &["gc"],
        &["df"],
        &["load"],
    ];
    // A store that others may look into, and one that they may not.
    let own = fs::metadata(store.root()).unwrap().permissions();
    for others in [0o755, 0o700] {
        fs::set_permissions(store.root(), mode(others)).unwrap();
        for args in commands {
            let mut nobody = Command::new(&program);
            nobody.arg("--root").arg(store.root()).args(args);
            nobody.current_dir("/").uid(65534).gid(65534);
            let run = Run::of(&mut nobody);
            run.refused_saying(&[store.root().to_str().unwrap()]);
        }
    }
    fs::set_permissions(store.root(), own).unwrap();
    assert_eq!(before, state(&store));
}

/// A reader that goes away early is no error.
pub fn a_closed_pipe() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for args in [
        &["images"][..],
        &["events"],
        &["layers", "--format", "json"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = store.command(args);
        let child = command
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(command);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !stderr.contains("panicked") && !stderr.contains("Error"),
            "{args:?}: {stderr}"
        );
        assert_ne!(output.status.code(), Some(101), "{args:?}");
    }
}
