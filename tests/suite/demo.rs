//! `layerctl demo`: the whole story in one command, and nothing of it left afterwards.

use std::fs;
use std::process::Command;

use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Archive, Run, Store, process};
use crate::samples::heavy;

/// Runs it in a scratch directory of its own; it must clean up there, however it ends.
#[track_caller]
fn demo(args: &[&str]) -> Run {
    let place = Store::new();
    let scratch = place.new_dir("scratch");
    let mut command = Command::new(LAYERCTL);
    command
        .arg("demo")
        .args(args)
        .arg("--scratch")
        .arg(&scratch)
        .env_remove("LAYERCTL_ROOT");
    let run = Run::of(&mut command);
    assert!(mounts_below(&scratch).is_empty());
    let left: Vec<_> = fs::read_dir(&scratch)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(process::users_of(LAYERCTL.as_ref(), &scratch), [0; 0]);
    run
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
    tells_the_story(&demo(&[]).ok());
}

pub fn of_an_archive_with_a_plot() {
    let store = Store::new();
    let (archive, _) = Archive::of(&heavy("heavy:1", 8));
    let (file, plot) = (store.beside("heavy.tar"), store.beside("plot.svg"));
    archive.write(&file);
    tells_the_story(&demo(&[file.to_str().unwrap(), "--plot", plot.to_str().unwrap()]).ok());
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
        let run = demo(&[path]);
        assert_eq!(run.code, Some(1), "{run:#?}");
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{run:#?}");
    }
}
