//! The power fails: what was reported done is on disk, what was not is whole or absent.
//!
//! The store lies on a filesystem of its own that is shut down without writing its journal.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{Archive, Built, Image, Layer, LoopFs, Store, noise, number, tree};
use crate::samples::{app, check_app, heavy};

/// A store on a disk, and an archive that lies elsewhere.
struct Machine {
    // In this order: the store must be off the disk before that is unmounted.
    store: Store,
    elsewhere: Store,
    disk: LoopFs,
}

impl Machine {
    fn new() -> Machine {
        let disk = LoopFs::new(96);
        let store = Store::below(&disk.path());
        store.ok(&["images"]);
        disk.free_bytes(); // writes everything to disk
        Machine {
            store,
            elsewhere: Store::new(),
            disk,
        }
    }

    fn archive(&self, image: &Image) -> (String, Built) {
        let (archive, built) = Archive::of(image);
        let file = self.elsewhere.beside("archive.tar");
        archive.write(&file);
        (file.to_str().unwrap().to_owned(), built)
    }

    /// While no command runs.
    #[track_caller]
    fn power_cut(&self) {
        let proof = self.disk.path().join("not-synced");
        fs::write(&proof, "lost with the power").unwrap();
        self.disk.power_cut(|| self.store.end_all());
        assert!(!proof.exists(), "what was not synced is lost");
    }
}

pub fn a_finished_load_is_on_disk() {
    let machine = Machine::new();
    let store = &machine.store;
    let (file, image) = machine.archive(&heavy("heavy:1", 4));
    store.ok(&["load", "-i", &file]);
    machine.power_cut();
    assert_eq!(
        store.ok(&["images", "-q", "--no-trunc"]),
        format!("{}\n", image.id)
    );
    store.check_at_rest();
    let tree = store
        .root()
        .join("layers")
        .join(image.layer_dir(0))
        .join("tree");
    assert!(fs::read(tree.join("data/blob")).unwrap() == noise(2, 4 << 20));
}

pub fn a_finished_removal_is_on_disk() {
    let machine = Machine::new();
    let store = &machine.store;
    let (file, _) = machine.archive(&app(&["app:1"]));
    store.ok(&["load", "-i", &file]);
    machine.disk.free_bytes();
    store.ok(&["rmi", "-f", "app:1"]);
    machine.power_cut();
    assert_eq!(store.ok(&["images", "-q"]), "");
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// Cut at moments spread over the time that a load takes.
pub fn loads_cut_short() {
    let machine = Machine::new();
    let store = &machine.store;
    let mut layers = Vec::new();
    for n in 0..3 {
        let mut layer = Layer::new().dir("d");
        for file in 0..40 {
            layer = layer.file(&format!("d/{n}-{file}"), noise(file, 40_000));
        }
        layers.push(layer);
    }
    let (file, image) = machine.archive(&Image::new(&["cut:1"], layers));
    let args = ["load", "-i", &file];
    let start = Instant::now();
    store.ok(&args);
    let whole = start.elapsed();
    let stored = store.stored(&image);
    store.ok(&["rmi", "cut:1"]);
    let moments = 10;
    for n in 0..moments {
        let mut load = store.command(&args);
        let mut load = load
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_nanos(
            u64::try_from(whole.as_nanos()).unwrap() * (2 * n + 1) / (2 * moments),
        ));
        machine.disk.power_cut(|| {
            load.kill().unwrap();
            load.wait().unwrap();
            store.end_all();
        });
        let listed = store.ok(&["images", "-q", "--no-trunc"]);
        if !listed.is_empty() {
            assert_eq!(listed, format!("{}\n", image.id));
            tree::assert_same(&store.stored(&image), &stored);
        }
        // The next load goes on.
        store.ok(&args);
        store.ok(&["gc"]);
        store.check_at_rest();
        store.ok(&["rmi", "cut:1"]);
        store.ok(&["prune", "-f"]);
        store.check_no_layers();
    }
}

pub fn what_a_container_synced_is_on_disk() {
    let machine = Machine::new();
    let store = &machine.store;
    let (file, _) = machine.archive(&app(&["app:1"]));
    store.ok(&["load", "-i", &file]);
    let (container, view) = store.create_mounted("app:1");
    let write = |path: &Path, text: &str| {
        let mut file = File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        File::open(path.parent().unwrap())
            .unwrap()
            .sync_all()
            .unwrap();
    };
    write(&view.join("new"), "new");
    write(&view.join("etc/release"), "copied up");
    // Last: the sync of any file would write the names of all.
    fs::rename(view.join("new"), view.join("newer")).unwrap();
    File::open(&view).unwrap().sync_all().unwrap();
    machine.power_cut();
    assert_eq!(store.container_state(&container), "exited");
    let view = store.mount(&container);
    assert_eq!(fs::read(view.join("newer")).unwrap(), b"new");
    assert!(!view.join("new").exists());
    assert_eq!(fs::read(view.join("etc/release")).unwrap(), b"copied up");
    assert_eq!(fs::read(view.join("srv/index")).unwrap(), b"hello");
    store.ok(&["umount", &container]);
    store.ok(&["gc"]);
    store.check_at_rest();
}

/// Nobody synced the file, but its copy was made: it is the lower file's or the copy, whole.
pub fn copied_up_data_reaches_the_disk_before_its_name() {
    let machine = Machine::new();
    let store = &machine.store;
    let (file, _) = machine.archive(&app(&["app:1"]));
    store.ok(&["load", "-i", &file]);
    let (container, view) = store.create_mounted("app:1");
    let mut append = File::options().append(true).open(view.join("big")).unwrap();
    append.write_all(b"!").unwrap();
    drop(append);
    fs::rename(view.join("srv"), view.join("moved")).unwrap();
    // Another file's sync commits the journal, and with it the names.
    let other = File::create(machine.disk.path().join("other")).unwrap();
    other.sync_all().unwrap();
    drop(other);
    machine.power_cut();
    let view = store.mount(&container);
    let big = fs::read(view.join("big")).unwrap();
    assert!(big.len() >= 100_000, "{} bytes", big.len());
    assert!(big[..100_000] == noise(1, 100_000), "the copy is whole");
    let (old, new) = (view.join("srv/index"), view.join("moved/index"));
    assert_ne!(old.exists(), new.exists(), "renamed or not, and not both");
    let index = if old.exists() { old } else { new };
    assert_eq!(fs::read(index).unwrap(), b"hello");
}

/// The image is removed under its view, and then the power fails: nothing pins its layers any more.
pub fn a_view_and_its_removed_image() {
    let machine = Machine::new();
    let store = &machine.store;
    let (file, _) = machine.archive(&app(&["app:1"]));
    store.ok(&["load", "-i", &file]);
    let (container, view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    check_app(&view);
    machine.power_cut();
    assert_eq!(store.ok(&["images", "-q"]), "");
    assert_eq!(store.container_state(&container), "exited");
    assert_eq!(number(&store.df()["pending"], "count"), 0);
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}
