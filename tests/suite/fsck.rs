//! `fsck`: damage is found, and only damage.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::process::descriptors;
use crate::harness::{Run, Store, wait_until};
use crate::samples::app;

#[track_caller]
fn finds(store: &Store, what: &str) {
    let run = store.run(&["fsck", "--deep"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains(what), "{what}: {run:#?}");
    assert!(run.stdout.ends_with(": 1 damage found\n"), "{run:#?}");
}

pub fn what_is_missing_or_changed_is_found() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
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
        finds(&store, &format!("{} is missing", there.display()));
        fs::rename(&away, &there).unwrap();
    }
    let more = store.root().join("layers").join(image.layer_dir(0));
    let more = more.join("tree/etc/more");
    fs::write(&more, "").unwrap();
    finds(&store, "entries, ");
    fs::remove_file(&more).unwrap();
    store.ok(&["rm", &container]);
    store.ok(&["fsck", "--deep"]);
}

pub fn a_damaged_image_is_repaired() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let layer = store.root().join("layers").join(image.layer_dir(1));
    fs::remove_dir_all(layer.join("tree/srv")).unwrap();
    let run = store.run(&["fsck", "--deep", "--repair"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let removed = format!("Removed: {} (load it again)\n", image.id);
    assert!(run.stdout.contains(&removed), "{run:#?}");
    store.check_no_layers();
    store.load(&app(&["app:1"]));
    store.check_at_rest();
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
