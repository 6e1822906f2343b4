//! `import`: an image of a tar, from a file or a pipe, plain or compressed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::image::digest;
use crate::harness::{Layer, Run, Store, noise, text, wait_until};

fn files() -> Layer {
    Layer::new()
        .dir("etc")
        .file("etc/conf", "first")
        .file("etc/conf", "second")
        .file("big", noise(1, 300_000))
        .symlink("link", "big")
}

/// What a program makes of a file, written to another.
fn piped(program: &str, from: &Path, to: &Path) {
    let status = Command::new(program)
        .arg("-c")
        .stdin(File::open(from).unwrap())
        .stdout(File::create(to).unwrap())
        .status();
    assert!(status.unwrap().success(), "{program}");
}

fn id(printed: &str) -> &str {
    let id = printed.strip_suffix('\n').unwrap();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{printed:?}");
    id
}

pub fn of_every_form() {
    let store = Store::new();
    let tar = files().tar();
    let plain = store.beside("root.tar");
    fs::write(&plain, &tar).unwrap();
    let mut inputs = vec![plain.clone()];
    for program in ["gzip", "xz", "zstd"] {
        let file = store.beside(program);
        piped(program, &plain, &file);
        inputs.push(file);
    }
    for (n, input) in inputs.iter().enumerate() {
        let by_name = format!("app:{n}");
        store.ok(&["import", input.to_str().unwrap(), &by_name]);
        // A pipe, which cannot be read twice.
        let mut cat = Command::new("cat")
            .arg(input)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let import = store
            .command(&["import", "-", &format!("piped:{n}")])
            .stdin(cat.stdout.take().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let run = Run::finish(import.unwrap(), "import".to_owned());
        let status = cat.wait().unwrap();
        let printed = run.ok();
        assert!(
            status.success(),
            "{status}: all of {} is read",
            input.display()
        );
        assert_eq!(text(&store.json(&["images"])[0], "ID"), id(&printed));
    }
    // All of them are the same layer: the tar's.
    let layers = store.json(&["layers"]);
    assert_eq!(layers.len(), 1);
    assert_eq!(text(&layers[0], "diff_id"), digest(&tar));
    let (_, view) = store.create_mounted("piped:1");
    assert_eq!(fs::read(view.join("etc/conf")).unwrap(), b"second");
    assert_eq!(fs::read(view.join("link")).unwrap(), noise(1, 300_000));
    store.check_at_rest();
    // The same tar comes out.
    let saved = store.beside("saved.tar");
    store.ok(&["save", "-o", saved.to_str().unwrap(), "app:0"]);
    let bytes = fs::read(&saved).unwrap();
    assert!(bytes.windows(tar.len()).any(|part| part == tar));
}

pub fn with_options() {
    let store = Store::new();
    let file = store.beside("root.tar");
    fs::write(&file, files().tar()).unwrap();
    let printed = store.ok(&[
        "import",
        "-c",
        "CMD [\"/bin/x\", \"y\"]",
        "--change",
        "ENV A=b",
        "-m",
        "what it is",
        "--platform",
        "linux/arm/v7",
        file.to_str().unwrap(),
        "me/app",
    ]);
    let inspected: serde_json::Value =
        serde_json::from_str(&store.ok(&["inspect", "me/app"])).unwrap();
    let image = &inspected[0];
    assert_eq!(text(image, "Id"), id(&printed));
    assert_eq!(image["RepoTags"], serde_json::json!(["me/app:latest"]));
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["/bin/x", "y"]));
    assert_eq!(image["Config"]["Env"], serde_json::json!(["A=b"]));
    let platform = ["Os", "Architecture", "Variant"].map(|key| text(image, key));
    assert_eq!(platform, ["linux", "arm", "v7"]);
    let history = store.ok(&["history", "me/app"]);
    assert!(history.contains("what it is"), "{history}");
    store.ok(&["import", file.to_str().unwrap()]);
    let history = store.ok(&["history", text(&store.json(&["images"])[0], "ID").as_str()]);
    assert!(history.contains("Imported from -"), "{history}");
}

pub fn refused() {
    let store = Store::new();
    let tar = files().tar();
    let file = |name: &str, bytes: &[u8]| {
        let path = store.beside(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = file("whole.tar", &tar);
    let cut = file("cut.tar", &tar[..tar.len() / 2]);
    let text = file("text.tar", b"no tar at all, and yet longer than nothing");
    let evil = file("evil.tar", &Layer::new().file("../evil", "x").tar());
    let dir = store.new_dir("dir");
    for (args, why) in [
        (
            &[cut.as_str()][..],
            "cut.tar: unexpected end of the tar in or after big",
        ),
        (&[&text], "text.tar: unexpected end of the tar"),
        (
            &[&evil],
            "evil.tar: ../evil: a path that leads out of the layer",
        ),
        (&[dir.to_str().unwrap()], "dir: a directory, not a tar"),
        (
            &["/nowhere/x.tar"],
            "cannot read /nowhere/x.tar: No such file or directory",
        ),
        (&["https://example.org/x.tar"], "nothing is downloaded"),
        (&[&whole, "App:1"], "must be lowercase"),
        (
            &["-c", "FROM x", &whole],
            "FROM is not a valid change command",
        ),
    ] {
        let run = store.run(&[&["import"], args].concat());
        run.refused_saying(&[why]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(
            fs::read_dir(store.root().join("staging")).unwrap().count(),
            0
        );
        assert!(!store.beside("evil").exists());
    }
    assert_eq!(store.ok(&["images", "-q"]), "");
    store.check_at_rest();
}

/// Ctrl-C leaves nothing.
pub fn interrupted() {
    let store = Store::new();
    let mut import = store
        .command(&["import", "-", "app:1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = import.stdin.take().unwrap();
    input.write_all(&files().tar()[..100_000]).unwrap();
    let staging = store.root().join("staging");
    wait_until("it has begun", || staging.exists());
    let pid = rustix::process::Pid::from_child(&import);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait_until("it ends though its input does not", || {
        import.try_wait().unwrap().is_some()
    });
    let ended = import.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    store.check_at_rest();
    drop(input);
}
