//! A disk without room: what does not fit is refused and leaves nothing, what is there stays right.

use std::fs;
use std::io::Write;

use crate::bad_input::state;
use crate::harness::{Archive, Image, Layer, LoopFs, Store, noise};
use crate::samples::{app, check_app};

pub fn a_load_that_does_not_fit() {
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

/// What comes in and what goes out: neither leaves anything where it does not fit.
pub fn an_import_and_a_save_that_do_not_fit() {
    let disk = LoopFs::new(24);
    let store = Store::below(&disk.path());
    store.load(&Image::new(
        &["big:1"],
        vec![Layer::new().file("big", noise(9, 9 << 20))],
    ));
    let before = state(&store);
    let full = "No space left on device";
    let tar = Layer::new().file("more", noise(8, 12 << 20)).tar();
    let elsewhere = Store::new();
    let file = elsewhere.beside("more.tar");
    fs::write(&file, tar).unwrap();
    let run = store.run(&["import", file.to_str().unwrap(), "more:1"]);
    run.refused_saying(&["more.tar: more: cannot write the file", full]);
    assert_eq!(before, state(&store));
    // The disk of the store has no room for the compressed layer, nor for an archive.
    let filler = disk.path().join("filler");
    fs::write(&filler, noise(7, 4 << 20)).unwrap();
    let out = elsewhere.beside("out.tar");
    let run = store.run(&[
        "save",
        "--compress",
        "gzip",
        "-o",
        out.to_str().unwrap(),
        "big:1",
    ]);
    run.refused_saying(&["cannot write a layer in", "staging", full]);
    assert!(!out.exists());
    let here = disk.path().join("out.tar");
    let run = store.run(&["save", "-o", here.to_str().unwrap(), "big:1"]);
    run.refused_saying(&["cannot write", "out.tar", full]);
    let left = fs::read_dir(disk.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !left
            .into_iter()
            .any(|name| name.contains("layerctl") || name == "out.tar")
    );
    store.ok(&["save", "-o", out.to_str().unwrap(), "big:1"]);
    fs::remove_file(&filler).unwrap();
    assert_eq!(before, state(&store));
    store.check_at_rest();
}

/// Not one block is left: each command works or says in one line why not, and when there is room
/// again all is as it was.
pub fn full_to_the_last_byte() {
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
        if again {
            if run.code != Some(0) {
                run.refused();
            }
        } else {
            // There is the reserve for that.
            assert_eq!(run.code, Some(0), "{args:?}: {run:#?}");
        }
    }
    if !again {
        assert_eq!(store.layer_state(&image.chains[0]), "gone");
        assert_eq!(store.ok(&["images", "-q"]), "");
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
