//! The scripts in `tools/experiments/`: each runs to its end, draws what it says, and leaves nothing. (The
//! others take too long for a test.)

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bench_support::check_picture;
use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Run, Store};

#[track_caller]
fn run(name: &str, says: &[&str], draws: &[&str]) {
    let store = Store::new();
    let scratch = store.new_dir("scratch");
    let picture = store.beside("picture.svg");
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(top.join("tools/experiments").join(name));
    command
        .env("LAYERCTL", LAYERCTL)
        .env("PICTURE", &picture)
        .env("TMPDIR", &scratch);
    let out = Run::of(&mut command).ok();
    let mut rest = out.as_str();
    for part in says {
        let at = rest.find(part);
        rest = &rest[at.unwrap_or_else(|| panic!("{part:?}, in its order, in {out}"))..];
    }
    check_picture(&picture, draws);
    assert!(mounts_below(&scratch).is_empty());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

pub fn an_open_but_deleted_file() {
    let says = [
        "rmi --force",
        "Deferred: ",
        "umount --lazy",
        "is pending",
        "detached",
        "closed",
        "pending layers      0",
    ];
    run(
        "open-but-deleted",
        &says,
        &["megabytes on the disk", "closed"],
    );
}

pub fn shared_layers() {
    let says = [
        "base",
        "Would free 41",
        "rmi web",
        "Would free 18",
        "rmi worker",
    ];
    run(
        "shared-layers",
        &says,
        &["Two images on one base", "rmi web"],
    );
}
