//! `commit`: the image shows what its container showed, and what fails leaves the store as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::container_files::{base, change};
use crate::harness::store::names_in;
use crate::harness::{Image, Layer, LoopFs, Run, Store, json_lines, noise, tree, wait_until};
use crate::samples::{app, check_app};

/// Runs `commit`; gives the ID that it prints.
#[track_caller]
fn commit(store: &Store, args: &[&str]) -> String {
    let id = store.ok(&[&["commit"], args].concat());
    let id = id.trim_end().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    id
}

#[track_caller]
fn inspected(store: &Store, image: &str) -> Value {
    let mut list: Value = serde_json::from_str(&store.ok(&["inspect", image])).unwrap();
    list[0].take()
}

/// The config, as it lies in the store.
#[track_caller]
fn config(store: &Store, image: &str) -> Value {
    let hex = image.strip_prefix("sha256:").unwrap();
    let file = store.root().join("images").join(hex).join("config");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn layers(store: &Store, image: &str) -> usize {
    let config = config(store, image);
    config["rootfs"]["diff_ids"].as_array().unwrap().len()
}

pub fn the_image_shows_what_the_view_shows() {
    let store = Store::new();
    store.load(&base());
    let (container, view) = store.create_mounted("base:1");
    change(&view);
    fs::set_permissions(&view, fs::Permissions::from_mode(0o751)).unwrap();
    let shown = tree::read(&view);
    let first = commit(&store, &[&container, "made:1"]);
    assert_eq!(layers(&store, &first), 3);
    let (copy, copied) = store.create_mounted("made:1");
    tree::assert_same(&tree::read(&copied), &shown);
    assert_eq!(store.ok(&["diff", &copy]), "");
    // Once more, of what was made, and not mounted.
    for name in [
        "dir/moved",
        "replaced",
        "new-too",
        "becomes-dir/in-it",
        "linked-2",
    ] {
        let path = copied.join(name);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    fs::create_dir(copied.join("moved")).unwrap();
    fs::rename(copied.join("dir"), copied.join("moved/dir")).unwrap();
    fs::write(copied.join("moved/dir/sub/deep"), "deeper").unwrap();
    let shown = tree::read(&copied);
    store.ok(&["umount", &copy]);
    let second = commit(&store, &[&copy]);
    assert_eq!(store.container_state(&copy), "exited");
    assert_eq!(layers(&store, &second), 4);
    let (third, copied) = store.create_mounted(&second);
    tree::assert_same(&tree::read(&copied), &shown);
    // The images that they were made of may go.
    store.ok(&["rm", "-f", &container, &copy]);
    store.ok(&["rmi", "made:1", "base:1"]);
    tree::assert_same(&tree::read(&copied), &shown);
    store.ok(&["umount", &third]);
    store.check_at_rest();
}

pub fn a_container_that_changed_nothing_adds_no_layer() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let made = commit(&store, &[&container, "same:1"]);
    assert_ne!(made, image.id);
    assert_eq!(layers(&store, &made), image.diffs.len());
    let history = config(&store, &made)["history"].as_array().unwrap().clone();
    assert_eq!(history.last().unwrap()["empty_layer"], json!(true));
    assert_eq!(store.container_state(&container), "created");
    let (copy, view) = store.create_mounted("same:1");
    check_app(&view);
    store.ok(&["umount", &copy]);
    store.check_at_rest();
}

pub fn what_the_image_says() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.ok(&["create", "--name", "web", "app:1", "own", "command"]);
    let view = store.mount("web");
    fs::write(view.join("new"), "new").unwrap();
    let made = commit(
        &store,
        &[
            "-a",
            "me <me@x>",
            "-m",
            "why",
            "-p=false",
            "-c",
            "ENV A=1 B=\"2 3\"",
            "--change",
            "LABEL a=$A",
            "-c",
            "EXPOSE 80",
            "-c",
            "USER 7",
            "-c",
            "WORKDIR srv",
            "web",
            "made",
        ],
    );
    let config = config(&store, &made);
    assert_eq!(config["author"], "me <me@x>");
    assert_eq!(config["comment"], "why");
    let run = &config["config"];
    assert_eq!(run["Cmd"], json!(["own", "command"]));
    let env = run["Env"].as_array().unwrap();
    assert!(env.ends_with(&[json!("A=1"), json!("B=2 3")]), "{env:?}");
    assert_eq!(run["Labels"]["a"], "1");
    assert_eq!(run["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(
        (&run["User"], &run["WorkingDir"]),
        (&json!("7"), &json!("/srv"))
    );
    let step = config["history"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(step["comment"], "why");
    assert_eq!(step["created_by"], "own command");
    assert_eq!(inspected(&store, "made:latest")["Id"], json!(made));
    // A name goes to the newer one.
    let newer = commit(&store, &["-p", "web", "made:latest"]);
    assert_eq!(inspected(&store, "made")["Id"], json!(newer));
    assert_eq!(inspected(&store, &made)["Id"], json!(made));
    // Both have the same layer, once.
    assert_eq!(
        json_lines(&store.ok(&["layers", "--format", "json"])).len(),
        4
    );
    store.ok(&["umount", container.trim_end()]);
    store.check_at_rest();
}

/// What is refused, and that nothing is left of it.
pub fn refused() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    fs::write(view.join("new"), "new").unwrap();
    let before = tree::listing(store.root());
    let check = |args: &[&str], error: &str| {
        let run = store.run(&[&["commit"], args].concat());
        run.expect(1, "", &format!("Error: {error}\n"));
        assert_eq!(before, tree::listing(store.root()));
    };
    check(
        &[&container, "Bad"],
        "invalid reference format: repository name (library/Bad) must be lowercase",
    );
    check(&["none"], "No such container: none");
    check(
        &["-c", "RUN x", &container],
        "RUN is not a valid change command",
    );
    let before = {
        fs::write(view.join(".wh.x"), "").unwrap();
        tree::listing(store.root())
    };
    let check = |args: &[&str], error: &str| {
        let run = store.run(&[&["commit"], args].concat());
        run.expect(1, "", &format!("Error: {error}\n"));
        assert_eq!(before, tree::listing(store.root()));
    };
    check(
        &[&container],
        ".wh.x: a layer takes a name that begins with .wh. for a whiteout",
    );
    fs::remove_file(view.join(".wh.x")).unwrap();
    store.ok(&["rmi", "-f", "app:1"]);
    let run = store.run(&["commit", &container, "made:1"]);
    run.expect(1, "", "Error: No such image: app:1\n");
    store.ok(&["umount", &container]);
    let run = store.run(&["commit", &container]);
    run.expect(1, "", "Error: No such image: app:1\n");
    store.check_no_layers();
    store.check_at_rest();
}

/// What has no place in a layer hides what the layers below have there, as it does in the view.
pub fn what_a_layer_cannot_hold() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    for (name, kind) in [
        ("big", FileType::Socket),
        ("etc/release", FileType::CharacterDevice),
    ] {
        fs::remove_file(view.join(name)).unwrap();
        mknodat(CWD, view.join(name), kind, Mode::RWXU, 0).unwrap();
    }
    mknodat(CWD, view.join("socket"), FileType::Socket, Mode::RWXU, 0).unwrap();
    commit(&store, &[&container, "made:1"]);
    let (_, copied) = store.create_mounted("made:1");
    for name in ["big", "etc/release", "socket"] {
        assert!(fs::symlink_metadata(copied.join(name)).is_err(), "{name}");
    }
    assert!(copied.join("srv/index").exists());
}

pub fn interrupted() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let file = fs::File::create(view.join("large")).unwrap();
    file.set_len(4 << 30).unwrap();
    drop(file);
    let commit = store
        .command(&["commit", &container, "made:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let staging = store.root().join("staging");
    wait_until("the layer is written", || !names_in(&staging).is_empty());
    let pid = commit.id().to_string();
    Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .unwrap();
    let run = Run::finish(commit, "commit".to_owned());
    assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""), "{run:#?}");
    assert!(names_in(&staging).is_empty());
    assert!(!store.run(&["inspect", "made:1"]).stderr.is_empty());
    fs::remove_file(view.join("large")).unwrap();
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// A full disk: refused, and all as before.
pub fn a_full_disk() {
    let disk = LoopFs::new(48);
    let store = Store::below(&disk.path());
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    fs::write(view.join("large"), noise(3, 20 << 20)).unwrap();
    let before = tree::listing(store.root());
    let run = store.run(&["commit", &container, "made:1"]);
    run.refused_saying(&["No space left"]);
    let after = tree::listing(store.root());
    let staged = |listing: &BTreeMap<PathBuf, (u64, u32)>| {
        listing.keys().filter(|p| p.starts_with("staging")).count()
    };
    assert_eq!(staged(&after), staged(&before));
    assert_eq!(names_in(&store.root().join("images")).len(), 1);
    fs::remove_file(view.join("large")).unwrap();
    fs::write(view.join("small"), "small").unwrap();
    commit(&store, &[&container, "made:1"]);
    let (copy, copied) = store.create_mounted("made:1");
    assert!(copied.join("small").exists() && !copied.join("large").exists());
    store.ok(&["umount", &container, &copy]);
    store.check_at_rest();
}

/// An image with a shell.
pub fn shell() -> Image {
    let busybox = Run::of(Command::new("sh").args(["-c", "command -v busybox"])).ok();
    let program = fs::read(busybox.trim_end()).unwrap();
    let mut layer = Layer::new()
        .dir("bin")
        .file("bin/busybox", program)
        .mode(0o755);
    for name in ["sh", "sleep", "mv"] {
        layer = layer.symlink(&format!("bin/{name}"), "busybox");
    }
    Image::new(&["shell:1"], vec![layer])
}

/// A process writes the same number to a file that comes early in the tar, then to one that comes late:
/// standing still, the late one is never ahead.
pub fn a_running_container_is_paused() {
    let store = Store::new();
    store.load(&shell());
    let script = "i=0; while :; do i=$((i+1)); \
                  echo $i > /t; mv /t /a; echo $i > /t; mv /t /z; done";
    let id = store.ok(&[
        "run", "-d", "--name", "web", "-e", "X=y", "-w", "/bin", "shell:1", "sh", "-c", script,
    ]);
    let view = store
        .root()
        .join("containers")
        .join(id.trim_end())
        .join("merged");
    let large = fs::File::create(view.join("large")).unwrap();
    large.set_len(16 << 20).unwrap();
    wait_until("it counts", || view.join("z").exists());
    let written = |args: &[&str]| -> (u64, u64) {
        let image = commit(&store, &[args, &["web"]].concat());
        assert_eq!(store.container_state(id.trim_end()), "running");
        let config = config(&store, &image);
        assert_eq!(config["config"]["Cmd"], json!(["sh", "-c", script]));
        assert_eq!(config["config"]["WorkingDir"], "/bin");
        let (copy, copied) = store.create_mounted(&image);
        let number = |file: &str| fs::read_to_string(copied.join(file)).unwrap();
        let numbers = ["a", "z"].map(|file| number(file).trim().parse().unwrap());
        store.ok(&["umount", &copy]);
        numbers.into()
    };
    let (early, late) = written(&[]);
    assert!(early == late || early == late + 1, "{early} {late}");
    let (early, late) = written(&["-p=false"]);
    assert!(late > early, "{early} {late}");
    // It goes on, and one that was paused stays so.
    let before = fs::read_to_string(view.join("z")).unwrap();
    wait_until("it goes on", || {
        fs::read_to_string(view.join("z")).unwrap() != before
    });
    store.ok(&["pause", "web"]);
    commit(&store, &["web"]);
    assert_eq!(store.container_state(id.trim_end()), "paused");
    store.ok(&["unpause", "web"]);
    store.ok(&["rm", "-f", "web"]);
}

/// `cp` sees what is mounted for the processes; `diff` and `export` see the container's own files.
pub fn mounts_of_a_running_container() {
    let store = Store::new();
    store.load(&shell());
    let bind = store.new_dir("bind");
    fs::write(bind.join("f"), "bound").unwrap();
    let volume = format!("{}:/data", bind.display());
    store.ok(&[
        "run", "-d", "--name", "web", "-v", &volume, "shell:1", "sleep", "1000",
    ]);
    assert_eq!(store.ok(&["diff", "web"]), "A /data\n");
    let out = store.beside("out");
    store.ok(&["cp", "web:/data/f", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "bound");
    store.ok(&["cp", out.to_str().unwrap(), "web:/data/g"]);
    assert_eq!(fs::read_to_string(bind.join("g")).unwrap(), "bound");
    assert_eq!(store.ok(&["diff", "web"]), "A /data\n");
    let tar = store.command(&["export", "web"]).output().unwrap().stdout;
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().display().to_string());
    }
    names.retain(|name| name.starts_with("data"));
    assert_eq!(names, ["data/"]);
    store.ok(&["rm", "-f", "web"]);
}
