//! What `rmi` and its dry run say of bytes is what `df`, `du` and the file system's own counters show
//! then.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::harness::store::names_in;
use crate::harness::tree::disk_usage;
use crate::harness::{Image, Layer, LoopFs, Store, noise, number, text, wait_until};
use crate::samples::app;

/// The store's bytes as `df -v` has them, the parts compared with the shares and with `du`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes {
    live: u64,
    unused: u64,
    pending: u64,
    /// Of the own files of images, present ones and those that only views show.
    own: u64,
    shown: u64,
}

fn array<'a>(df: &'a Value, name: &str) -> &'a Vec<Value> {
    df[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} in {df}"))
}

#[track_caller]
fn measure(store: &Store) -> Bytes {
    let df = store.json(&["df", "-v"]).remove(0);
    for state in ["live", "unused", "pending", "reclaiming"] {
        let of_state = array(&df, "by_layer")
            .iter()
            .filter(|layer| text(layer, "state") == state);
        let sum: u64 = of_state.map(|layer| number(layer, "bytes")).sum();
        assert_eq!(number(&df[state], "bytes"), sum, "{state}: {df}");
    }
    let sum = |array: &Vec<Value>, field: &str| -> u64 {
        array.iter().map(|part| number(part, field)).sum()
    };
    let containers = array(&df, "by_container");
    assert_eq!(number(&df["containers"], "bytes"), sum(containers, "bytes"));
    let (present, shown): (Vec<Value>, Vec<Value>) = array(&df, "by_image")
        .iter()
        .cloned()
        .partition(|image| image["present"] == true);
    for image in &present {
        let parts = number(image, "shared_bytes") + number(image, "unique_bytes");
        assert_eq!(number(image, "bytes"), parts, "{image}");
    }
    let (own, shown) = (
        sum(&present, "metadata_bytes"),
        sum(&shown, "metadata_bytes"),
    );
    // As du finds it: the rooms' own blocks stay what they are.
    let room = |name: &str| {
        let path = store.root().join(name);
        disk_usage(&path) - fs::metadata(&path).unwrap().blocks() * 512
    };
    assert_eq!(room("images"), own + shown, "{df}");
    let bytes = |share: &str| number(&df[share], "bytes");
    let layers = ["live", "unused", "pending", "reclaiming"].map(bytes);
    assert_eq!(
        room("layers") + room("marked"),
        layers.iter().sum::<u64>(),
        "{df}"
    );
    crate::harness::tree::check_df(store.root(), &df);
    Bytes {
        live: bytes("live"),
        unused: bytes("unused"),
        pending: bytes("pending"),
        own,
        shown,
    }
}

/// Removes, and compares with what the dry run has said.
#[track_caller]
fn exact(store: &Store, args: &[&str]) -> Value {
    let plan = store
        .json(&[&["rmi", "--dry-run"], args].concat())
        .remove(0);
    let before = measure(store);
    store.ok(&[&["rmi"], args].concat());
    let after = measure(store);
    let planned = |field: &str| number(&plan, field);
    let (freed, deferred) = (planned("freed_bytes"), planned("deferred_bytes"));
    assert_eq!(after.pending, before.pending + deferred, "{plan}");
    let left = before.live + before.unused - after.live - after.unused;
    assert_eq!(left, freed + deferred, "{plan}");
    let (freed, deferred) = (
        planned("metadata_freed_bytes"),
        planned("metadata_deferred_bytes"),
    );
    assert_eq!(before.own, after.own + freed + deferred, "{plan}");
    assert_eq!(after.shown, before.shown + deferred, "{plan}");
    plan
}

fn base() -> Layer {
    Layer::new().dir("base").file("base/big", noise(3, 300_000))
}

fn top(name: &str) -> Layer {
    Layer::new()
        .file(name, noise(4, 50_000))
        .hard_link(&format!("{name}.link"), name)
}

pub fn without_views() {
    let store = Store::new();
    store.load(&app(&["app:1", "app:2"]));
    store.load(&Image::new(&["one:1"], vec![base(), top("one")]));
    store.load(&Image::new(&["two:1"], vec![base(), top("two")]));
    // The same layer twice in a stack.
    store.load(&Image::new(
        &["twice:1"],
        vec![top("x"), Layer::new().dir("y"), top("x")],
    ));
    let none = exact(&store, &["app:1"]);
    assert_eq!(number(&none, "freed_bytes"), 0, "only a tag");
    assert_eq!(number(&none, "metadata_freed_bytes"), 0, "only a tag");
    let own = exact(&store, &["one:1"]);
    assert_eq!(own["layers"].as_array().unwrap().len(), 1, "one is shared");
    assert!(number(&own, "metadata_freed_bytes") > 0, "{own}");
    // The rest of it with the last of several names.
    exact(&store, &["twice:1", "two:1"]);
    let kept = exact(&store, &["--no-prune", "app:2"]);
    assert_eq!(number(&kept, "freed_bytes"), 0, "layers are kept");
    store.ok(&["prune", "-f"]);
    store.check_no_layers();
}

/// Views of two containers, and of another image with one of the layers.
pub fn with_views() {
    let store = Store::new();
    store.load(&Image::new(&["one:1"], vec![base(), top("one")]));
    store.load(&Image::new(&["two:1"], vec![base(), top("two")]));
    let [(first, _), (second, _)] = [(); 2].map(|()| store.create_mounted("one:1"));
    let (other, _) = store.create_mounted("two:1");
    let plan = exact(&store, &["-f", "one:1"]);
    assert_eq!(number(&plan, "freed_bytes"), 0, "{plan}");
    assert!(number(&plan, "deferred_bytes") > 0, "{plan}");
    assert!(number(&plan, "metadata_deferred_bytes") > 0, "{plan}");
    let held = measure(&store);
    store.ok(&["umount", &first]);
    wait_until("its server ends", || store.servers().len() == 2);
    assert_eq!(measure(&store), held, "one view is left");
    // Loaded again, and removed again, while the old files are shown.
    store.load(&Image::new(&["one:1"], vec![base(), top("one")]));
    let again = exact(&store, &["-f", "one:1"]);
    assert!(
        number(&again, "freed_bytes") > 0,
        "nobody holds the new ones: {again}"
    );
    store.ok(&["umount", &second]);
    exact(&store, &["-f", "two:1"]);
    store.ok(&["umount", &other]);
    store.wait_for_servers_to_end();
    store.check_no_layers();
    store.check_at_rest();
}

/// All that the file system has given away has a name, also while a view maps an index whose image is
/// gone, and also when all the layers stay.
pub fn nothing_without_a_name() {
    let disk = LoopFs::new(256);
    let store = Store::below(&disk.path());
    let files = |n: usize| {
        (0..3_000).fold(Layer::new().dir("d"), |layer, file| {
            layer.file(&format!("d/{n}-{file}"), "x")
        })
    };
    store.load(&Image::new(&["one:1"], vec![files(1)]));
    // Another image of the same layers.
    store.load(&Image::new(&["two:1"], vec![files(1)]).label("other"));
    let unnamed = || disk.total_bytes() - disk.free_bytes() - disk_usage(&disk.path());
    let at_rest = unnamed();
    let (container, _view) = store.create_mounted("one:1");
    // The view hides its mount point's own directory.
    let mounted = unnamed();
    let plan = exact(&store, &["-f", "one:1"]);
    assert_eq!(plan["layers"], Value::Array(vec![]), "all are needed");
    assert!(number(&plan, "metadata_deferred_bytes") > 100_000, "{plan}");
    assert_eq!(unnamed(), mounted);
    assert_eq!(names_in(&store.root().join("images")).len(), 2);
    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    assert_eq!(unnamed(), at_rest);
    assert_eq!(names_in(&store.root().join("images")).len(), 1);
    // The last user of its layers.
    let (container, _view) = store.create_mounted("two:1");
    exact(&store, &["-f", "two:1"]);
    assert_eq!(unnamed(), mounted);
    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    assert_eq!(unnamed(), at_rest);
    store.check_no_layers();
}

/// A server that is killed leaves nothing either: the next command finds it dead.
pub fn after_its_server_was_killed() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    store.create_mounted("app:1");
    let plan = exact(&store, &["-f", "app:1"]);
    assert!(number(&plan, "metadata_deferred_bytes") > 0, "{plan}");
    let before = measure(&store);
    crate::harness::process::kill_hard(store.server());
    let after = measure(&store);
    assert_eq!((after.own, after.shown, after.pending), (0, 0, 0));
    let df = store.df();
    assert_eq!(number(&df["reclaiming"], "bytes"), before.pending, "{df}");
    assert_eq!(number(&df["orphaned"], "count"), 0, "{df}");
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}
