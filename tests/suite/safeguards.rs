//! What must not be touched, and what must not be believed: leftovers cut short, other people's
//! mounts, names given meanwhile, loads that fail at their very end.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, unmount};
use serde_json::Value;

use crate::bad_input::state;
use crate::harness::{Archive, Image, Layer, Run, Store, number, text};
use crate::samples::{app, check_app};

/// A complete layer whose deletion was cut short by a crash is not taken for one.
pub fn a_half_deleted_leftover_is_not_adopted() {
    let store = Store::new();
    let (_, to) = leftover(&store);
    store.ok(&["rmi", "-f", "app:1"]);
    let victim = fs::read_dir(to.join("tree"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    match victim.is_dir() {
        true => fs::remove_dir_all(&victim).unwrap(),
        false => fs::remove_file(&victim).unwrap(),
    }
    store.load(&app(&["app:1"]));
    assert!(!to.exists(), "it was looked at and thrown away");
    store.ok(&["fsck", "--deep"]);
    let (container, view) = store.create_mounted("app:1");
    check_app(&view);
    store.ok(&["umount", &container]);
}

/// A whole one is.
pub fn a_whole_leftover_is_adopted() {
    let store = Store::new();
    let (from, to) = leftover(&store);
    fs::write(to.join("mark"), "").unwrap();
    store.ok(&["rmi", "-f", "app:1"]);
    store.load(&app(&["app:1"]));
    assert!(
        from.join("mark").exists(),
        "the leftover has become the layer"
    );
}

/// The lowest layer of an image, loaded, and a copy of it in `staging/`: what a load leaves that was
/// killed before its end.
fn leftover(store: &Store) -> (PathBuf, PathBuf) {
    let built = store.load(&app(&["app:1"]));
    let from = store.root().join("layers").join(built.layer_dir(0));
    let to = store
        .root()
        .join("staging")
        .join(format!("{}.left", built.layer_dir(0)));
    let done = Command::new("cp")
        .arg("-a")
        .arg(&from)
        .arg(&to)
        .status()
        .unwrap();
    assert!(done.success());
    (from, to)
}

/// Whatever is mounted in a container's directory or in the store is not deleted with it.
pub fn what_is_mounted_in_the_store_is_spared() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let precious = store.new_dir("precious");
    fs::write(precious.join("file"), "kept").unwrap();
    let merged = store
        .root()
        .join("containers")
        .join(&container)
        .join("merged");
    mount_bind(&precious, &merged).unwrap();
    let rm = store.run(&["rm", &container]);
    unmount(&merged, UnmountFlags::empty()).unwrap();
    assert!(rm.refused().contains("something is mounted at"), "{rm:#?}");
    let orphan = store.root().join("staging/left/tree");
    fs::create_dir_all(&orphan).unwrap();
    mount_bind(&precious, &orphan).unwrap();
    let gc = store.run(&["gc"]);
    unmount(&orphan, UnmountFlags::empty()).unwrap();
    assert_eq!(gc.code, Some(1), "{gc:#?}");
    assert_eq!(fs::read(precious.join("file")).unwrap(), b"kept");
    store.ok(&["gc"]);
    store.ok(&["rm", &container]);
    store.check_at_rest();
}

/// A view may not be mounted in another container's directory.
pub fn mount_points_in_the_store_are_refused() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (one, other) = (store.create("app:1"), store.create("app:1"));
    let place = store.root().join("containers").join(&other).join("merged");
    let run = store.run(&["mount", &one, place.to_str().unwrap()]);
    assert!(run.refused().contains("it lies in the store"), "{run:#?}");
    assert_eq!(store.container_state(&one), "created");
}

/// A load that fails when its layers already have their names takes them back.
pub fn a_load_that_fails_at_its_end_leaves_nothing() {
    let store = Store::new();
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    // A file system that refuses the image's own directory.
    let images = store.root().join("images");
    store.ok(&["images"]);
    mount_bind(&images, &images).unwrap();
    rustix::mount::mount_remount(&images, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let run = store.run(&["load", "-i", file.to_str().unwrap()]);
    unmount(&images, UnmountFlags::empty()).unwrap();
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(number(&store.df()["orphaned"], "count"), 0);
    store.check_no_layers();
    store.ok(&["load", "-i", file.to_str().unwrap()]);
    store.check_at_rest();
}

/// The database writes at the commit, so it is there that it may find no room.
pub fn a_load_whose_commit_fails_leaves_nothing() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let layers = (0..64).map(|n| Layer::new().file(&format!("file-{n}"), "text"));
    let many = Image::new(&["many:1"], layers.collect());
    let (archive, _) = Archive::of(&many);
    let file = store.beside("many.tar");
    archive.write(&file);
    // No file may grow above 40 KiB: enough for all but the database's log.
    let load = store.command(&["load", "-i", file.to_str().unwrap()]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 80; exec \"$@\"", "sh"])
        .arg(load.get_program())
        .args(load.get_args());
    Run::of(&mut limited).refused_saying(&["the store's database: "]);
    assert_eq!(state(&store), before);
    assert_eq!(number(&store.df()["orphaned"], "count"), 0);
    store.ok(&["load", "-i", file.to_str().unwrap()]);
    store.ok(&["rmi", "many:1"]);
    store.check_at_rest();
}

/// One layer that cannot be deleted does not keep the others.
pub fn an_undeletable_layer_keeps_no_other() {
    let store = Store::new();
    let built = store.load(&app(&["app:1"]));
    let top = built.chains.len() - 1;
    let tree = store
        .root()
        .join("layers")
        .join(built.layer_dir(top))
        .join("tree");
    // Something is mounted in it: that is not deleted.
    let foreign = store.new_dir("foreign");
    let inside = tree.join("inside");
    fs::create_dir(&inside).unwrap();
    mount_bind(&foreign, &inside).unwrap();
    let run = store.run(&["rmi", "app:1"]);
    let marked: Vec<_> = fs::read_dir(store.root().join("marked")).unwrap().collect();
    let at = marked[0].as_ref().unwrap().path().join("tree/inside");
    unmount(&at, UnmountFlags::empty()).unwrap();
    assert_eq!((run.code, marked.len()), (Some(1), 1), "{run:#?}");
    for chain in &built.chains[..top] {
        assert!(
            run.stdout.contains(&format!("Deleted: {chain}\n")),
            "{run:#?}"
        );
    }
    assert!(!run.stdout.contains(&built.chains[top]), "{run:#?}");
    // The history has what became of it, where, and why.
    let failures = || -> Vec<Value> {
        let mut events = store.json(&["events"]);
        events.retain(|event| text(event, "action") == "reclaim-failed");
        events
    };
    let failed = failures();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(text(&failed[0], "id"), built.chains[top]);
    assert!(number(&failed[0], "bytes") > 0, "{failed:?}");
    let detail = text(&failed[0], "detail");
    let layer = at.parent().unwrap().parent().unwrap();
    for part in [layer.to_str().unwrap(), "Device or resource busy"] {
        assert!(detail.contains(part), "{part:?} in {detail:?}");
    }
    assert!(run.stderr.contains(&detail), "{run:#?}");
    store.ok(&["gc"]);
    assert_eq!(failures(), failed);
    store.check_events();
    store.check_no_layers();
}

/// One layer whose directory cannot be renamed: who removes its image is told, `gc` says so and ends,
/// and nobody else is kept from anything.
pub fn a_layer_that_cannot_be_renamed_stops_nothing_else() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let other = Image::new(&["other:1"], vec![Layer::new().file("other", "file")]);
    let gone = Image::new(&["gone:1"], vec![Layer::new().file("gone", "file")]);
    store.load(&gone);
    let stuck = store.root().join("layers").join(image.layer_dir(1));
    // A mount point cannot be renamed.
    mount_bind(&stuck, &stuck).unwrap();
    let run = store.run(&["rmi", "app:1"]);
    let error = format!("cannot mark {}", stuck.display());
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains(&error), "{run:#?}");
    for (layer, chain) in image.chains.iter().enumerate() {
        let line = format!("Deleted: {chain}\n");
        assert_eq!(run.stdout.contains(&line), layer != 1, "{run:#?}");
    }
    let run = store.run(&["gc"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains(&error), "{run:#?}");
    // Other images come, are mounted and go.
    store.load(&other);
    let (container, view) = store.create_mounted("other:1");
    assert_eq!(fs::read(view.join("other")).unwrap(), b"file");
    store.ok(&["umount", &container]);
    store.ok(&["rmi", "gone:1"]);
    // The image itself cannot be loaded again: the name of one of its layers is taken.
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    let run = store.run(&["load", "-i", file.to_str().unwrap()]);
    assert!(
        run.code == Some(1) && run.stderr.contains(&error),
        "{run:#?}"
    );
    unmount(&stuck, UnmountFlags::empty()).unwrap();
    store.ok(&["load", "-i", file.to_str().unwrap()]);
    store.ok(&["gc"]);
    store.ok(&["rmi", "app:1"]);
    store.check_at_rest();
}
