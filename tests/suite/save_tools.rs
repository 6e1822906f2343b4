//! What `save` writes, read by Docker, Podman, skopeo and umoci: the same image ID, the same layers, the same tree.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::archives_support::{scratch, shell};
use crate::exact::all_loaded;
use crate::exact_support::{Docker, Podman, arg, assert_same_but, view_of};
use crate::harness::{Run, Store, strings};

/// What a tool says of an image.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// The digits of its ID.
    id: String,
    diffs: Vec<String>,
}

/// What the store says of it.
#[track_caller]
fn ours(store: &Store, image: &str) -> Shown {
    let list: Value = serde_json::from_str(&store.ok(&["inspect", image])).unwrap();
    Shown {
        id: list[0]["Id"].as_str().unwrap()["sha256:".len()..].to_owned(),
        diffs: strings(&list[0]["RootFS"]["Layers"]),
    }
}

/// What Docker or Podman print for [`FORMAT`].
fn parsed(said: &str) -> Shown {
    let (id, layers) = said.trim().split_once(' ').unwrap();
    Shown {
        id: id.trim_start_matches("sha256:").to_owned(),
        diffs: serde_json::from_str(layers).unwrap(),
    }
}

const FORMAT: &str = "{{.Id}} {{json .RootFS.Layers}}";

/// What skopeo finds in an image at a place such as `docker-archive:FILE:TAG`.
#[track_caller]
fn by_skopeo(from: &str) -> Shown {
    let dir = scratch();
    let copied = dir.path().join("copied");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "-q", "--insecure-policy", from]);
    Run::of(copy.arg(format!("dir:{}", copied.display()))).ok();
    let manifest = fs::read(copied.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let id = manifest["config"]["digest"].as_str().unwrap();
    let id = id.trim_start_matches("sha256:").to_owned();
    let config: Value = serde_json::from_slice(&fs::read(copied.join(&id)).unwrap()).unwrap();
    Shown {
        diffs: strings(&config["rootfs"]["diff_ids"]),
        id,
    }
}

/// The tree that umoci unpacks from an image of an OCI archive.
#[track_caller]
fn unpacked_by_umoci(archive: &Path, tag: &str, into: &Path) {
    let script = r#"mkdir "$D"; mkdir "$D/layout"; tar -xf "$A" -C "$D/layout"
        umoci unpack --image "$D/layout:$TAG" "$D/bundle""#;
    shell(
        script,
        &[
            ("A", archive.as_os_str()),
            ("D", into.as_os_str()),
            ("TAG", tag.as_ref()),
        ],
    );
    assert!(into.join("bundle/rootfs").is_dir());
}

/// Every form that `save` has: its options, and skopeo's names for what it is.
const FORMS: &[(&[&str], &[&str])] = &[
    (&[], &["docker-archive", "oci-archive"]),
    (&["--compress", "gzip"], &["docker-archive", "oci-archive"]),
    (&["--format", "oci"], &["oci-archive"]),
    (&["--format", "oci", "--compress", "gzip"], &["oci-archive"]),
    (&["--format", "oci", "--compress", "zstd"], &["oci-archive"]),
];

#[track_caller]
fn save(store: &Store, options: &[&str], images: &[&str], archive: &Path) {
    store.ok(&[&["save", "-o", arg(archive)], options, images].concat());
}

/// Awkward layers, one image after the other, in every form.
pub fn read_by_skopeo() {
    let (store, _) = all_loaded();
    for (n, (options, transports)) in FORMS.iter().enumerate() {
        let archive = store.beside(&format!("{n}.tar"));
        save(&store, options, &["case:together"], &archive);
        for transport in *transports {
            let from = match *transport {
                "docker-archive" => format!("docker-archive:{}:case:together", archive.display()),
                _ => format!("{transport}:{}", archive.display()),
            };
            let shown = by_skopeo(&from);
            assert_eq!(shown, ours(&store, "case:together"), "{options:?} {from}");
        }
    }
}

pub fn read_by_podman() {
    let (store, _) = all_loaded();
    let podman = Podman::new();
    let all = [
        "case:together",
        "case:the_root_itself",
        "case:an_empty_layer",
    ];
    let archive = store.beside("all.tar");
    save(&store, &[], &all, &archive);
    podman.run(&["load", "-q", "-i", arg(&archive)]).ok();
    for image in all {
        let shown = parsed(
            &podman
                .run(&["image", "inspect", "--format", FORMAT, image])
                .ok(),
        );
        assert_eq!(shown, ours(&store, image));
    }
    for (n, (options, _)) in FORMS.iter().enumerate().skip(1) {
        let podman = Podman::new();
        let archive = store.beside(&format!("{n}.tar"));
        save(&store, options, &["case:the_root_itself"], &archive);
        let said = podman.run(&["load", "-q", "-i", arg(&archive)]).ok();
        let id = ours(&store, "case:the_root_itself");
        let shown = podman
            .run(&["image", "inspect", "--format", FORMAT, &id.id])
            .ok();
        assert_eq!(parsed(&shown), id, "{options:?}: {said}");
    }
}

pub fn read_by_docker() {
    let (store, _) = all_loaded();
    let docker = Docker::shared();
    let all = [
        "case:together",
        "case:the_root_itself",
        "case:an_empty_layer",
    ];
    for compression in ["none", "gzip"] {
        let archive = store.beside("all.tar");
        save(&store, &["--compress", compression], &all, &archive);
        docker.run(&["load", "-q", "-i", arg(&archive)]).ok();
        for image in all {
            let shown = docker.run(&["image", "inspect", "-f", FORMAT, image]).ok();
            assert_eq!(parsed(&shown), ours(&store, image), "{compression}");
        }
        docker.run(&[&["rmi", "-f"], &all[..]].concat()).ok();
    }
    // What Docker made of ours comes back as the same image.
    let archive = store.beside("one.tar");
    save(&store, &[], &["case:an_empty_layer"], &archive);
    docker.run(&["load", "-q", "-i", arg(&archive)]).ok();
    let back = store.beside("back.tar");
    docker
        .run(&["save", "-o", arg(&back), "case:an_empty_layer"])
        .ok();
    let again = Store::new();
    again.ok(&["load", "-i", arg(&back)]);
    assert_eq!(
        ours(&again, "case:an_empty_layer"),
        ours(&store, "case:an_empty_layer")
    );
    let (left, right) = (
        view_of(&store, "case:an_empty_layer"),
        view_of(&again, "case:an_empty_layer"),
    );
    assert_same_but("the way there and back", &left, &right, &[]);
}

/// umoci unpacks it as it unpacks skopeo's copy of the archive that was loaded.
pub fn unpacked_by_umoci_as_before() {
    let (store, loaded) = all_loaded();
    let archive = store.beside("oci.tar");
    save(
        &store,
        &["--format", "oci"],
        &["case:the_root_itself"],
        &archive,
    );
    let copy = store.beside("copy.tar");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "-q", "--insecure-policy"]);
    skopeo.arg(format!(
        "docker-archive:{}:case:the_root_itself",
        loaded.display()
    ));
    Run::of(skopeo.arg(format!("oci-archive:{}:x", copy.display()))).ok();
    let (before, after) = (store.beside("before"), store.beside("after"));
    unpacked_by_umoci(&copy, "x", &before);
    let tag = shell(r#"tar -xOf "$A" index.json"#, &[("A", archive.as_os_str())]);
    let index: Value = serde_json::from_str(&tag).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap()
        .to_owned();
    unpacked_by_umoci(&archive, &tag, &after);
    let tree = |dir: &Path| crate::harness::tree::read(&dir.join("bundle/rootfs"));
    assert_same_but("umoci", &tree(&before), &tree(&after), &[]);
}
