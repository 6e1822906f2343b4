//! Images that share layers: each goes alone, what the other needs stays, once on disk.

use std::fs;

use crate::harness::{Image, Layer, LoopFs, Store, noise, number, strings};
use crate::samples::{all_deleted, app, check_app, deferred};

fn base() -> Layer {
    Layer::new()
        .dir("base")
        .file("base/blob", noise(3, 8 << 20))
}

fn on_base(tag: &str) -> Image {
    Image::new(&[tag], vec![base(), Layer::new().file("own", tag)])
}

pub fn a_shared_layer_is_stored_once() {
    let disk = LoopFs::new(64);
    let store = Store::below(&disk.path());
    store.ok(&["images"]);
    let empty = disk.free_bytes();
    store.load(&on_base("a:1"));
    let one = disk.free_bytes();
    store.load(&on_base("b:1"));
    let two = disk.free_bytes();
    assert!(empty - one >= 8 << 20);
    assert!(
        one - two < 1 << 20,
        "the second image adds {} bytes",
        one - two
    );
    assert_eq!(store.json(&["layers"]).len(), 3);
    store.check_at_rest();
}

pub fn what_another_image_needs_stays() {
    let store = Store::new();
    let a = store.load(&on_base("a:1"));
    let b = store.load(&on_base("b:1"));
    assert_eq!(a.chains[0], b.chains[0]);
    let expected = format!(
        "Untagged: a:1\nDeleted: {}\nDeleted: {}\n",
        a.id, a.chains[1]
    );
    store.run(&["rmi", "a:1"]).expect(0, &expected, "");
    let (_, view) = store.create_mounted("b:1");
    assert!(fs::read(view.join("base/blob")).unwrap() == noise(3, 8 << 20));
    assert_eq!(fs::read(view.join("own")).unwrap(), b"b:1");
    store.check_at_rest();
}

pub fn both_at_once() {
    let store = Store::new();
    let a = store.load(&on_base("a:1"));
    let b = store.load(&on_base("b:1"));
    let first = format!(
        "Untagged: a:1\nDeleted: {}\nDeleted: {}\n",
        a.id, a.chains[1]
    );
    store
        .run(&["rmi", "a:1", "b:1"])
        .expect(0, &(first + &all_deleted(&b)), "");
    store.check_at_rest();
}

/// The base is marked only when the last image that names it goes; by then only the view of the
/// first image holds it.
pub fn a_view_holds_the_shared_layer_for_an_image_long_gone() {
    let store = Store::new();
    let a = store.load(&on_base("a:1"));
    let b = store.load(&on_base("b:1"));
    let (container, view) = store.create_mounted("a:1");

    let line = deferred(&store, &a.chains[1], &container);
    let expected = format!("Untagged: a:1\nDeleted: {}\n{line}", a.id);
    store.run(&["rmi", "-f", "a:1"]).expect(0, &expected, "");
    assert_eq!(store.layer_state(&a.chains[0]), "live");
    let layer = store.layer(&a.chains[0]).unwrap();
    assert_eq!(strings(&layer["pinned_by"]), [container.as_str()]);

    let line = deferred(&store, &b.chains[0], &container);
    let expected = format!(
        "Untagged: b:1\nDeleted: {}\nDeleted: {}\n{line}",
        b.id, b.chains[1]
    );
    store.run(&["rmi", "-f", "b:1"]).expect(0, &expected, "");
    assert_eq!(store.layer_state(&b.chains[0]), "pending");
    assert!(fs::read(view.join("base/blob")).unwrap() == noise(3, 8 << 20));

    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    store.check_no_layers();
    store.check_at_rest();
}

/// The same layer above two different bases: one directory, which stays while either image needs it.
pub fn one_diff_in_two_chains() {
    let store = Store::new();
    let common = Layer::new().file("common", noise(4, 1 << 20));
    let image = |tag: &str| {
        Image::new(
            &[tag],
            vec![Layer::new().file("below", tag), common.clone()],
        )
    };
    let a = store.load(&image("a:1"));
    let b = store.load(&image("b:1"));
    assert_eq!(a.diffs[1], b.diffs[1]);
    assert_ne!(a.chains[1], b.chains[1]);
    let expected = format!(
        "Untagged: a:1
Deleted: {}
Deleted: {}
",
        a.id, a.chains[0]
    );
    store.run(&["rmi", "a:1"]).expect(0, &expected, "");
    let (_, view) = store.create_mounted("b:1");
    assert!(fs::read(view.join("common")).unwrap() == noise(4, 1 << 20));
    assert_eq!(fs::read(view.join("below")).unwrap(), b"b:1");
    store.check_at_rest();
}

/// One layer twice in one image.
pub fn one_diff_twice_in_an_image() {
    let store = Store::new();
    let twice = Layer::new().file("x", "once more");
    let between = Layer::new().whiteout("x").file("y", "y");
    let image = store.load(&Image::new(&["a:1"], vec![twice.clone(), between, twice]));
    let (container, view) = store.create_mounted("a:1");
    assert_eq!(fs::read(view.join("x")).unwrap(), b"once more");
    assert_eq!(fs::read(view.join("y")).unwrap(), b"y");
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store
        .run(&["rmi", "a:1"])
        .expect(0, &all_deleted(&image), "");
    store.check_at_rest();
}

/// A marked image is loaded again while a view still pins the old layers.
pub fn load_again_while_the_old_layers_are_held() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (old, old_view) = store.create_mounted("app:1");
    let held = fs::File::open(old_view.join("big")).unwrap();
    store.ok(&["rmi", "-f", "app:1"]);
    assert_eq!(store.layer_state(&image.chains[0]), "pending");

    store.load(&app(&["app:1"]));
    let (new, new_view) = store.create_mounted("app:1");
    check_app(&new_view);
    check_app(&old_view);
    fs::write(new_view.join("etc/release"), "new").unwrap();
    fs::write(old_view.join("etc/release"), "old").unwrap();
    assert_eq!(fs::read(new_view.join("etc/release")).unwrap(), b"new");
    assert_eq!(fs::read(old_view.join("etc/release")).unwrap(), b"old");
    store.check_at_rest();

    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut &held, &mut text).unwrap();
    assert!(text == noise(1, 100_000));
    drop(held);
    store.ok(&["umount", &old]);
    crate::harness::wait_until("the old server ends", || store.servers().len() == 1);
    assert_eq!(
        number(&store.df()["pending"], "count"),
        0,
        "the old layers are gone or revived"
    );
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "live");
    }
    assert!(fs::read(new_view.join("big")).unwrap() == noise(1, 100_000));
    store.ok(&["umount", &new]);
    store.check_at_rest();
}

/// The same several times over, with all old views still there.
pub fn generations() {
    let store = Store::new();
    let mut views = Vec::new();
    for _ in 0..4 {
        store.load(&app(&["app:1"]));
        views.push(store.create_mounted("app:1"));
        store.ok(&["rmi", "-f", "app:1"]);
    }
    for (_, view) in &views {
        check_app(view);
    }
    store.check_at_rest();
    for (container, _) in &views {
        store.ok(&["umount", container]);
    }
    store.wait_for_servers_to_end();
    store.check_no_layers();
    store.check_at_rest();
}
