//! Layers whose entries hide, repeat and contradict one another, written entry by entry by Python's tarfile: a view
//! shows what Docker and Podman show, but for what is listed here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archives_support::{scratch, shell};
use crate::exact_support::{Docker, Podman, Tree, arg, assert_same_but, is_now, view_of};
use crate::harness::{Run, Store, tree};

/// The cases of `exact/layers.py` that Docker and Podman take, and in which entries they differ from a view: the same
/// in both. Each difference is a row of the table in README.md. They are one image, each with a directory of it.
const TOGETHER: &[(&str, &[&str])] = &[
    ("whiteouts", &[]),
    ("whiteout_of_nothing", &[]),
    ("whiteout_before_a_file", &[]),
    // They forget the whiteout when the directory comes: not so Podman on vfs, see below.
    (
        "whiteout_before_a_directory",
        &[
            "d/f",
            "d/g",
            "d/sub",
            "d/sub/deep",
            "d/sub/deep/f",
            "d/sub/f",
            "links/two",
        ],
    ),
    ("whiteouts_in_the_middle", &[]),
    ("opaque_first", &[]),
    ("opaque_last", &[]),
    ("opaque_before_its_directory", &[]),
    ("opaque_without_its_directory", &[]),
    ("opaque_and_whiteouts", &[]),
    ("types_that_change", &[]),
    ("under_a_link_of_a_layer_below", &[]),
    ("missing_parents", &[]),
    ("parents_after_their_children", &[]),
    ("odd_names", &[]),
    ("hard_links", &[]),
    // A link's own header has no effect on the file.
    (
        "hard_links_of_other_metadata",
        &["f", "g", "s", "t", "x", "y"],
    ),
    // It takes the capabilities away, in Docker alone.
    ("hard_links_without_capabilities", &["c", "d"]),
    ("times", &[]),
    // What is before 1970 or after 2446, the last year of ext4, is of 1970.
    (
        "times_out_of_range",
        &["t0", "t1", "t2", "t3", "t6", "t7", "t8", "t9"],
    ),
    ("times_of_gnu_headers", &["t0", "t1", "t4", "t5"]),
    ("owners", &[]),
    ("modes", &[]),
    ("devices", &[]),
    ("a_null_device", &[]),
    ("capabilities", &[]),
    // What comes after a default ACL inherits it.
    ("attributes", &["defacl/d", "defacl/f"]),
    // Go's reader takes an empty value for none.
    ("an_empty_attribute", &["f"]),
    // AUFS's own directories are shown.
    ("aufs_leftovers", &[".wh..wh.plnk", ".wh..wh.plnk/1.2"]),
];

/// Those that are about the root or the tar as a whole.
const ALONE: &[(&str, &[&str])] = &[
    // They show what is below all the same: overlayfs does not look at its layers' roots.
    (
        "opaque_root",
        &[
            "d",
            "d/f",
            "d/g",
            "d/sub",
            "d/sub/deep",
            "d/sub/deep/f",
            "d/sub/f",
            "e",
            "e/in",
            "e/in/f",
            "f",
            "g",
            "links",
            "links/one",
            "links/two",
            "loop",
            "to-d",
            "to-f",
            "to-root",
        ],
    ),
    ("under_a_link_of_its_layer", &[]),
    // They show the root of the topmost layer, whether its tar has one or not.
    ("the_root_itself", &[""]),
    ("the_root_itself_below", &[""]),
    ("an_empty_layer", &[]),
    ("a_layer_of_no_bytes", &[]),
    ("global_headers", &[]),
];

/// Those that they refuse: what umoci makes of them is the measure.
const REFUSED: &[&str] = &[
    "duplicates",
    "opaque_twice",
    "whiteout_after_a_file",
    "whiteout_after_a_directory",
    "whiteout_twice",
];

/// Those with an opaque root, which is as if there were no layers below; overlayfs does not know that.
const OPAQUE_ROOTS: &[&str] = &[
    "opaque_root",
    "opaque_root_last",
    "whiteout_before_a_directory",
];

fn python() -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("exact/layers.py")]);
    python
}

#[track_caller]
fn write(archive: &Path, cases: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    Run::of(python().arg(archive).args(cases)).ok();
}

/// A store with all of them, and their archive.
#[track_caller]
fn loaded(cases: impl IntoIterator<Item = impl AsRef<OsStr>>) -> (Store, PathBuf) {
    let store = Store::new();
    let archive = store.beside("cases.tar");
    write(&archive, cases);
    store.ok(&["load", "-i", arg(&archive)]);
    (store, archive)
}

/// The names of the images, as arguments for `exact/layers.py` and as tags.
fn all() -> Vec<(String, String)> {
    let together: Vec<&str> = TOGETHER.iter().map(|(case, _)| *case).collect();
    let mut all = vec![(together.join("+"), "case:together".to_owned())];
    for (case, _) in ALONE {
        all.push((case.to_string(), format!("case:{case}")));
    }
    all
}

/// A store with all of these, and their archive.
#[track_caller]
pub fn all_loaded() -> (Store, PathBuf) {
    loaded(all().into_iter().map(|(argument, _)| argument))
}

/// Compares each, but for the cases `same` in which `theirs` does not differ.
#[track_caller]
fn check(store: &Store, same: &[&str], theirs: impl Fn(&str) -> Tree) {
    let but: Vec<String> = TOGETHER
        .iter()
        .filter(|(case, _)| !same.contains(case))
        .flat_map(|(case, but)| but.iter().map(move |name| format!("{case}/{name}")))
        .collect();
    let but: Vec<&str> = but.iter().map(String::as_str).collect();
    for (case, but) in [&[("together", &but[..])], ALONE].concat() {
        let name = format!("case:{case}");
        assert_same_but(case, &theirs(&name), &view_of(store, &name), but);
    }
}

pub fn layers_in_docker() {
    let docker = Docker::shared();
    let (store, archive) = all_loaded();
    docker.run(&["load", "-q", "-i", arg(&archive)]).ok();
    check(&store, &[], |name| docker.tree(name));
    // And as Docker saves them; one it cannot, for it looks for its files below the link.
    let saved = store.beside("saved.tar");
    let mut names: Vec<String> = all().into_iter().map(|(_, tag)| tag).collect();
    names.retain(|name| name != "case:under_a_link_of_its_layer");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    docker
        .run(&[&["save", "-o", arg(&saved)], &names[..]].concat())
        .ok();
    let again = Store::new();
    again.ok(&["load", "-i", arg(&saved)]);
    let ids = |store: &Store| -> BTreeSet<String> {
        let images = store.ok(&["images", "-q", "--no-trunc"]);
        images.lines().map(str::to_owned).collect()
    };
    assert_eq!(ids(&again).len(), names.len());
    assert!(ids(&again).is_subset(&ids(&store)));
}

pub fn layers_in_podman() {
    let podman = Podman::new();
    let (store, archive) = all_loaded();
    podman.run(&["load", "-q", "-i", arg(&archive)]).ok();
    check(&store, &["hard_links_without_capabilities"], |name| {
        podman.tree(name)
    });
}

/// Where Podman applies one layer over the other (vfs), and so takes no help of overlayfs.
pub fn layers_in_podman_on_vfs() {
    let podman = Podman::on("vfs");
    let (store, archive) = loaded(OPAQUE_ROOTS);
    podman.run(&["load", "-q", "-i", arg(&archive)]).ok();
    for case in OPAQUE_ROOTS {
        let name = format!("case:{case}");
        let (theirs, ours) = (podman.tree(&name), view_of(&store, &name));
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&theirs), names(&ours), "{case}");
    }
}

/// The last entry of a name wins, and a whiteout hides what is below, wherever it stands.
pub fn layers_that_docker_refuses() {
    let docker = Docker::shared();
    let (store, _) = loaded(REFUSED);
    let dir = scratch();
    Run::of(python().arg("--layers").arg(dir.path()).args(REFUSED)).ok();
    for case in REFUSED {
        let archive = dir.path().join("refused.tar");
        write(&archive, [*case]);
        let refused = docker.run(&["load", "-q", "-i", arg(&archive)]);
        assert_ne!(refused.code, Some(0), "{refused:?}");
        let script = r#"cd "$D"; umoci init --layout $C; umoci new --image $C:i
            n=0; while [ -e $C.$n.tar ]; do umoci raw add-layer --image $C:i $C.$n.tar; n=$((n+1)); done
            umoci unpack --image $C:i $C.d"#;
        shell(
            script,
            &[("D", dir.path().as_os_str()), ("C", case.as_ref())],
        );
        let mut theirs = tree::read(&dir.path().join(format!("{case}.d/rootfs")));
        let ours = view_of(&store, &format!("case:{case}"));
        for (path, their) in &mut theirs {
            let Some(our) = ours.get(path) else { continue };
            // A parent that a layer does not have is made as Docker makes it, and umoci has that of the layer below.
            if (our.mode, our.owner, our.mtime) == (0o040_755, (0, 0), (0, 0)) {
                their.clone_from(our);
            }
            // From which it then took something away.
            if is_now(their.mtime) {
                their.mtime = our.mtime;
            }
        }
        theirs.insert(PathBuf::new(), ours[Path::new("")].clone());
        assert_same_but(case, &theirs, &ours, &[]);
    }
    fs::remove_file(dir.path().join("refused.tar")).unwrap();
}
