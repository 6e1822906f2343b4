//! `layerctl demo`: the whole story in one command, and nothing of it left afterwards.

use std::fs;
use std::process::Command;

use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Archive, Run, Store, process};
use crate::samples::heavy;

/// Runs it with a temporary directory of its own; it must clean up there.
#[track_caller]
fn demo(args: &[&str]) -> String {
    let place = Store::new();
    let temporary = place.new_dir("tmp");
    let mut command = Command::new(LAYERCTL);
    command
        .arg("demo")
        .args(args)
        .env("TMPDIR", &temporary)
        .env_remove("LAYERCTL_ROOT");
    let said = Run::of(&mut command).ok();
    assert!(mounts_below(&temporary).is_empty());
    let left: Vec<_> = fs::read_dir(&temporary)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(process::users_of(LAYERCTL.as_ref(), &temporary), [0; 0]);
    said
}

/// The steps of the story, in order.
#[track_caller]
fn tells_the_story(said: &str) {
    let steps = [
        "load",
        "create",
        "mount",
        "rmi --force",
        "Untagged: ",
        "Deleted: sha256:",
        "Deferred: sha256:",
        "df",
        "umount",
    ];
    let mut rest = said;
    for step in steps {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("{step:?} is missing after:\n{said}"));
        rest = &rest[at + step.len()..];
    }
}

pub fn of_this_machine() {
    tells_the_story(&demo(&[]));
}

pub fn of_an_archive_with_a_plot() {
    let store = Store::new();
    let (archive, _) = Archive::of(&heavy("heavy:1", 8));
    let (file, plot) = (store.beside("heavy.tar"), store.beside("plot.svg"));
    archive.write(&file);
    tells_the_story(&demo(&[
        file.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ]));
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(
        svg.contains("<svg") && svg.contains("</svg>"),
        "{} bytes",
        svg.len()
    );
}

pub fn of_what_is_no_archive() {
    let store = Store::new();
    let file = store.beside("no-archive");
    fs::write(&file, "no archive").unwrap();
    for path in [file.to_str().unwrap(), "/no/such/archive"] {
        let run = Run::of(Command::new(LAYERCTL).args(["demo", path]));
        assert_eq!(run.code, Some(1), "{run:#?}");
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{run:#?}");
    }
}
