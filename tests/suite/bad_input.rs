//! What cannot be done is refused in one line, with exit code 1; nothing changes, nothing is left
//! behind. (That no command ever panics is checked in the harness, for all tests.)

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::store::{LAYERCTL, is_mounted, names_in};
use crate::harness::{Run, Store, noise, number, tree};
use crate::samples::{app, check_app};

/// All that a user can see of a store.
#[track_caller]
pub fn state(store: &Store) -> impl PartialEq + std::fmt::Debug + use<> {
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
pub fn refused(store: &Store, args: &[&str], saying: &[&str]) {
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
    let prefix = digit(twice);
    let ambiguous = format!("Error: multiple IDs found with provided prefix: {prefix}\n");
    let before = state(&store);
    for args in [
        &["mount"][..],
        &["umount"],
        &["umount", "--lazy"],
        &["start"],
        &["rm"],
        &["rm", "-f"],
    ] {
        let run = store.run(&[args, &[&prefix]].concat());
        run.expect(1, "", &ambiguous);
    }
    assert_eq!(before, state(&store));
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

pub fn a_store_of_a_newer_version() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let database = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
    database.pragma_update(None, "user_version", 9999).unwrap();
    drop(database);
    // What this version would make anew that one may have given up.
    fs::remove_dir(store.root().join("staging")).unwrap();
    fs::remove_file(store.root().join("reserve")).unwrap();
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
    // Somebody's directory, in which `gc` would find orphans.
    let photos = store.beside("photos");
    fs::create_dir_all(photos.join("images")).unwrap();
    fs::write(photos.join("images/precious"), "precious").unwrap();
    let mut gc = Command::new(LAYERCTL);
    let run = Run::of(gc.arg("--root").arg(&photos).arg("gc"));
    run.refused_saying(&[photos.to_str().unwrap(), "store.db"]);
    assert_eq!(names_in(&photos), ["images"]);
    assert_eq!(
        fs::read(photos.join("images/precious")).unwrap(),
        b"precious"
    );
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

/// What was asked for is done, whoever reads about it or not.
pub fn a_reader_that_goes_away() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    // More than any buffer of the program's own holds.
    let tags: Vec<String> = (0..80)
        .map(|n| format!("{}:{n}", "name".repeat(40)))
        .collect();
    for tag in &tags {
        store.ok(&["tag", "app:1", tag]);
    }
    let names: Vec<&str> = tags.iter().map(String::as_str).collect();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = store.command(&[&["rmi"], names.as_slice()].concat());
    let child = command.stdout(writer).spawn().unwrap();
    drop(command);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(store.json(&["images"]).len(), 1, "all but one are gone");
}
