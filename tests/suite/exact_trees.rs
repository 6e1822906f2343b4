//! A tree with all that a tar can say, written by GNU tar and bsdtar in each of their formats: a view shows what was
//! written, as Docker and Podman show it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::archives_support::{scratch, shell};
use crate::exact_support::{Docker, Podman, Tree, arg, assert_same_but, view_of};
use crate::harness::{Run, Store, tree};

/// The tree of `exact/tree.sh`, and its tars.
struct Made {
    dir: TempDir,
}

impl Made {
    /// With a tar for each of these: its name, and the command that writes it to standard output.
    #[track_caller]
    fn new(tars: &[(&str, &str)]) -> Made {
        let made = Made { dir: scratch() };
        let root = made.root();
        let write = format!("set -eu\n{}", include_str!("exact/tree.sh"));
        Run::of(Command::new("bash").args(["-c", &write]).env("R", &root)).ok();
        for (name, command) in tars {
            let script = format!(r#"cd "$R"; {command} > "$OUT""#);
            let out = made.tar(name);
            shell(
                &script,
                &[("R", root.as_os_str()), ("OUT", out.as_os_str())],
            );
        }
        made
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn tar(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.tar"))
    }
}

/// By GNU tar, without sparse files and with them in its three ways of PAX.
const TARS: &[(&str, &str)] = &[
    ("gnu", "tar -c --format=gnu ."),
    (
        "pax",
        "tar -c --format=posix --xattrs --xattrs-include='*' .",
    ),
    (
        "pax-0.0",
        "tar -cS --format=posix --sparse-version=0.0 --xattrs --xattrs-include='*' .",
    ),
    (
        "pax-0.1",
        "tar -cS --format=posix --sparse-version=0.1 --xattrs --xattrs-include='*' .",
    ),
    (
        "pax-1.0",
        "tar -cS --format=posix --sparse-version=1.0 --xattrs --xattrs-include='*' .",
    ),
    // What does not fit is left out, with a message.
    ("ustar", "{ tar -c --format=ustar . 2>/dev/null || true; }"),
    ("v7", "{ tar -c --format=v7 . 2>/dev/null || true; }"),
];

/// What neither Docker nor Podman take: "unhandled tar header type 83".
const SPARSE_GNU: (&str, &str) = ("gnu-sparse", "tar -cS --format=gnu .");

const BSDTAR: &[(&str, &str)] = &[
    ("bsd-pax", "bsdtar -c --format=pax ."),
    ("bsd-gnutar", "bsdtar -c --format=gnutar . 2>/dev/null"),
    (
        "bsd-ustar",
        "{ bsdtar -c --format=ustar . 2>/dev/null || true; }",
    ),
];

/// Makes an image of the tar with umoci and loads it; gives its ID.
#[track_caller]
fn load(store: &Store, made: &Made, name: &str) -> String {
    let layout = made.dir.path().join(format!("{name}.oci"));
    let script =
        r#"umoci init --layout $L; umoci new --image $L:i; umoci raw add-layer --image $L:i $T"#;
    let tar = made.tar(name);
    shell(script, &[("L", layout.as_os_str()), ("T", tar.as_os_str())]);
    let said = store.ok(&["load", "-i", arg(&layout)]);
    said.trim()
        .strip_prefix("Loaded image ID: ")
        .unwrap_or_else(|| panic!("{said}"))
        .to_owned()
}

/// What GNU tar itself makes of a tar.
#[track_caller]
fn extracted(made: &Made, name: &str) -> Tree {
    let into = made.dir.path().join(format!("{name}.extracted"));
    fs::create_dir(&into).unwrap();
    let tar = made.tar(name);
    shell(
        r#"cd "$D"; tar -xpf "$T" --delay-directory-restore --numeric-owner --xattrs --xattrs-include='*' 2>/dev/null"#,
        &[("D", into.as_os_str()), ("T", tar.as_os_str())],
    );
    tree::read(&into)
}

/// Compares with what was written and with what GNU tar extracts.
#[track_caller]
fn check_written(tars: &[(&str, &str)], lost: impl Fn(&str) -> Option<&'static [&'static str]>) {
    let store = Store::new();
    let made = Made::new(tars);
    let written = tree::read(&made.root());
    for (name, _) in tars {
        let id = load(&store, &made, name);
        let (container, view) = store.create_mounted(&id);
        let ours = tree::read(&view);
        assert_same_but(name, &extracted(&made, name), &ours, &[]);
        if let Some(lost) = lost(name) {
            assert_same_but(name, &written, &ours, lost);
        }
        if name.starts_with("pax-") || ["gnu-sparse", "bsd-pax"].contains(name) {
            for file in fs::read_dir(made.root().join("sparse")).unwrap() {
                let file = file.unwrap();
                let blocks = |m: fs::Metadata| m.blocks();
                let theirs = blocks(file.metadata().unwrap());
                let ours = fs::metadata(view.join("sparse").join(file.file_name())).unwrap();
                assert!(
                    blocks(ours.clone()) <= theirs,
                    "{name}: {file:?} has {} blocks of {theirs}",
                    blocks(ours)
                );
            }
        }
        store.ok(&["umount", &container]);
    }
}

/// What GNU's format has no place for.
const NO_XATTRS_AND_NANOSECONDS: &[&str] = &[
    "acls/default",
    "acls/dir",
    "acls/file",
    "attributes",
    "attributes/file",
    "attributes/trusted",
    "capabilities/three",
    "capabilities/two",
    "capabilities/two-too",
    "times/dir",
    "times/fraction",
    "times/last",
    "times/late",
    "times/soft",
];

pub fn by_gnu_tar() {
    check_written(&[TARS, &[SPARSE_GNU]].concat(), |name| match name {
        "gnu" | "gnu-sparse" => Some(NO_XATTRS_AND_NANOSECONDS),
        "ustar" | "v7" => None,
        _ => Some(&[]),
    });
}

pub fn by_bsdtar() {
    check_written(BSDTAR, |name| match name {
        // In text, SCHILY.acl.access, which nobody reads who makes layers.
        "bsd-pax" => Some(&["acls/default", "acls/dir", "acls/file"]),
        _ => None,
    });
}

/// One of each kind: each takes them some seconds.
fn to_import() -> Vec<(&'static str, &'static str)> {
    let kinds = ["gnu", "pax", "pax-1.0", "v7"];
    let is_one = |tar: &&(&str, &str)| kinds.contains(&tar.0);
    TARS.iter().filter(is_one).copied().collect()
}

/// The root directory is theirs whatever the tar says.
const ROOT: &[&str] = &[""];

pub fn in_docker() {
    let docker = Docker::shared();
    let store = Store::new();
    let tars = to_import();
    let made = Made::new(&tars);
    for (name, _) in &tars {
        let ours = view_of(&store, &load(&store, &made, name));
        let image = format!("tree:{name}");
        docker.run(&["import", arg(&made.tar(name)), &image]).ok();
        // GNU tar gives attributes to the first name of a file alone, and Docker takes them away again.
        let but = match name.starts_with("pax") {
            true => &["", "capabilities/two", "capabilities/two-too"],
            false => ROOT,
        };
        assert_same_but(name, &docker.tree(&image), &ours, but);
    }
}

pub fn in_podman() {
    let podman = Podman::new();
    let store = Store::new();
    let tars = to_import();
    let made = Made::new(&tars);
    for (name, _) in &tars {
        let ours = view_of(&store, &load(&store, &made, name));
        let image = format!("tree:{name}");
        podman
            .run(&["import", "-q", arg(&made.tar(name)), &image])
            .ok();
        assert_same_but(name, &podman.tree(&image), &ours, ROOT);
    }
}
