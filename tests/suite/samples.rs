//! The images that the tests use, and what `rmi` says when they go.

use std::fs;
use std::path::Path;

use layerctl::model::human;

use crate::harness::{Built, Image, Layer, Store, noise, number, process};

/// Three small layers: files, a change above, a whiteout above that.
pub fn app(tags: &[&str]) -> Image {
    Image::new(
        tags,
        vec![
            Layer::new()
                .dir("etc")
                .file("etc/release", "one")
                .file("etc/gone", "hidden by the top layer")
                .file("big", noise(1, 100_000)),
            Layer::new().file("etc/release", "two").dir("srv"),
            Layer::new().whiteout("etc/gone").file("srv/index", "hello"),
        ],
    )
}

/// What the view of `app` must show.
#[track_caller]
pub fn check_app(view: &Path) {
    let read = |name: &str| {
        let path = view.join(name);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    assert_eq!(read("etc/release"), b"two");
    assert_eq!(read("srv/index"), b"hello");
    assert!(read("big") == noise(1, 100_000), "big is what was loaded");
    assert!(!view.join("etc/gone").exists(), "a whiteout hides");
}

/// Megabytes in the lowest layer, a program and a directory in the one above.
pub fn heavy(tag: &str, mib: usize) -> Image {
    Image::new(
        &[tag],
        vec![
            Layer::new()
                .dir("data")
                .file("data/blob", noise(2, mib << 20)),
            Layer::new()
                .dir("bin")
                .file("bin/sleep", process::sleep_program())
                .mode(0o755)
                .dir("docs")
                .file("docs/a", "text of a")
                .file("docs/b", "text of b")
                .dir("docs/sub"),
        ],
    )
}

/// What `rmi` prints when an image goes with all its layers at once.
pub fn all_deleted(image: &Built) -> String {
    let mut lines = untagged_and_deleted(image);
    for chain in image.chains.iter().rev() {
        lines += &format!("Deleted: {chain}\n");
    }
    lines
}

/// What `rmi` prints when an image goes and all its layers wait for one container. To be called
/// while the layers are still there: their sizes are in the text.
#[track_caller]
pub fn all_deferred(store: &Store, image: &Built, container: &str) -> String {
    let mut lines = untagged_and_deleted(image);
    for chain in image.chains.iter().rev() {
        lines += &deferred(store, chain, container);
    }
    lines
}

/// The line of one layer that waits.
#[track_caller]
pub fn deferred(store: &Store, chain: &str, container: &str) -> String {
    let layer = store.layer(chain);
    let layer = layer.unwrap_or_else(|| panic!("{chain} is in `layers`"));
    let size = human::size(number(&layer, "bytes"));
    format!(
        "Deferred: {chain} ({size} held by container {})\n",
        &container[..12]
    )
}

/// The lines before those of the layers.
pub fn untagged_and_deleted(image: &Built) -> String {
    let mut tags = image.tags.clone();
    tags.sort();
    let mut lines: String = tags
        .iter()
        .map(|tag| format!("Untagged: {tag}\n"))
        .collect();
    lines += &format!("Deleted: {}\n", image.id);
    lines
}
