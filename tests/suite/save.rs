//! `save`: what comes out is what went in, whole or not at all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::image::{Archive, digest};
use crate::harness::{Built, Image, Layer, Store, noise, text, wait_until};
use crate::samples::{app, heavy};

/// Names and contents of an archive, in its order.
fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(bytes);
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        (name, contents)
    });
    entries.collect()
}

/// Saves to a file beside the store; gives its bytes.
#[track_caller]
fn save(store: &Store, args: &[&str]) -> Vec<u8> {
    let file = store.beside("saved.tar");
    let all = [&["save", "-o", file.to_str().unwrap()], args].concat();
    store.run(&all).expect(0, "", "");
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    bytes
}

/// Loads an archive of these bytes into an empty store; gives what `load` prints.
#[track_caller]
fn loaded(bytes: &[u8]) -> (Store, String) {
    let store = Store::new();
    let file = store.beside("again.tar");
    fs::write(&file, bytes).unwrap();
    let printed = store.ok(&[OsStr::new("load"), OsStr::new("-i"), file.as_os_str()]);
    (store, printed)
}

/// An image whose layers' tars are of the awkward kind: entries that come twice, a file that becomes a
/// directory and one that a directory was, parents that are links, holes in the header, and bytes
/// behind the end.
fn awkward() -> (Archive, Built) {
    let mut first = Layer::new()
        .dir("d")
        .file("d/twice", noise(1, 100_000))
        .file("d/twice", noise(2, 50_000))
        .file("becomes-dir", "gone")
        .dir("becomes-dir")
        .file("becomes-dir/x", "x")
        .dir("becomes-file")
        .file("becomes-file/lost", noise(3, 10_000))
        .file("becomes-file", "now a file")
        .symlink("link", "d")
        .file("link/through", "through the link")
        .file("linked", "the old contents")
        .hard_link("other", "linked")
        .file("linked", "the new contents")
        .whiteout("d/.hidden")
        .opaque("d")
        .tar();
    first.extend_from_slice(&noise(4, 70_000));
    let second = Layer::new().file("d/twice", "of the top").tar();
    // Only an end, as Docker writes a layer without changes.
    let empty = vec![0; 1024];
    Archive::of_tars("awkward:1", vec![first, second, empty])
}

pub fn comes_back_as_it_went_in() {
    let store = Store::new();
    let (archive, image) = awkward();
    let file = store.beside("load.tar");
    archive.write(&file);
    store.ok(&[OsStr::new("load"), OsStr::new("-i"), file.as_os_str()]);
    store.check_at_rest();
    let tars: BTreeMap<String, Vec<u8>> = archive
        .members
        .into_iter()
        .map(|(_, bytes)| (digest(&bytes), bytes))
        .collect();
    for format in ["docker", "oci"] {
        for compress in ["none", "gzip", "zstd"] {
            let how = ["--format", format, "--compress", compress, "awkward:1"];
            let bytes = save(&store, &how);
            assert_eq!(
                bytes,
                save(&store, &how),
                "{format} {compress}: not the same twice"
            );
            let members = members(&bytes);
            let mut names: Vec<&String> = members.iter().map(|(name, _)| name).collect();
            let is_docker = names.iter().any(|name| *name == "manifest.json");
            assert_eq!(is_docker, format == "docker");
            names.sort();
            names.dedup();
            assert_eq!(names.len(), members.len(), "nothing comes twice");
            for (name, contents) in &members {
                if let Some(hex) = name
                    .strip_prefix("blobs/sha256/")
                    .filter(|hex| !hex.is_empty())
                {
                    assert_eq!(digest(contents), format!("sha256:{hex}"));
                }
            }
            if compress == "none" {
                for diff in &image.diffs {
                    let name = format!("blobs/sha256/{}", &diff[7..]);
                    let (_, contents) = members.iter().find(|(n, _)| *n == name).unwrap();
                    assert_eq!(*contents, tars[diff], "{diff}");
                }
            }
            let (again, printed) = loaded(&bytes);
            assert_eq!(printed, "Loaded image: awkward:1\n");
            let ids = again.ok(&["images", "-q", "--no-trunc"]);
            assert_eq!(ids, format!("{}\n", image.id));
            assert_eq!(again.stored(&image), store.stored(&image));
            again.check_at_rest();
        }
    }
}

/// Names select as Docker's do, and each layer is written once.
pub fn several_images_and_their_tags() {
    let store = Store::new();
    let one = store.load(&app(&["app:1", "app:2", "other:1"]));
    let two = store.load(&app(&["app:3"]).label("two"));
    let untagged = store.load(&Image::new(&[], vec![Layer::new().file("x", "y")]));
    let printed = |bytes: &[u8]| loaded(bytes).1;
    let all = "Loaded image: app:1\nLoaded image: app:2\nLoaded image: app:3\n";
    let bytes = save(&store, &["app"]);
    assert_eq!(printed(&bytes), all);
    let layers = one.diffs.len();
    let blobs = members(&bytes)
        .iter()
        .filter(|(name, _)| name.starts_with("blobs/sha256/"))
        .count();
    // Both have the same layers. Two configs, two manifests, and the directory.
    assert_eq!(blobs, layers + 5);
    let bytes = save(&store, &["app:2", "docker.io/library/app:2", &one.id]);
    assert_eq!(printed(&bytes), "Loaded image: app:2\n");
    let bytes = save(&store, &[&two.id[..19], untagged.short()]);
    let ids = format!(
        "Loaded image ID: {}\nLoaded image ID: {}\n",
        two.id, untagged.id
    );
    assert_eq!(printed(&bytes), ids);
}

pub fn refused() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let file = store.beside("out.tar");
    let path = file.to_str().unwrap();
    for (args, why) in [
        (
            &["save", "-o", path, "nope"][..],
            "No such image: nope:latest",
        ),
        (
            &["save", "-o", path, "app:1", "app:2"],
            "No such image: app:2",
        ),
        (&["save", "-o", path, "App:1"], "must be lowercase"),
        (
            &["save", "-o", "/nowhere/x", "app:1"],
            "failed to save image: invalid output path",
        ),
        (
            &["save", "-o", "/dev/null", "app:1"],
            "failed to save image: invalid output path",
        ),
    ] {
        let run = store.run(args);
        run.refused_saying(&[why]);
        assert_eq!(run.code, Some(1));
        assert!(!file.exists());
    }
    for args in [
        &["save"][..],
        &["save", "--format", "tar", "app:1"],
        &["save", "--compress", "xz", "app:1"],
    ] {
        assert_eq!(store.run(args).code, Some(2), "{args:?}");
    }
}

/// A layer that is not what it was is not passed off as it, and what was at the place stays there.
pub fn what_has_changed_is_not_saved() {
    type Harm = fn(&Path);
    let table: [(&str, Harm); 4] = [
        ("its files are not what they were", |layer| {
            let big = File::options().write(true).open(layer.join("tree/big"));
            big.unwrap().write_all(b"changed").unwrap();
        }),
        ("its file big: it is shorter", |layer| {
            let big = File::options().write(true).open(layer.join("tree/big"));
            big.unwrap().set_len(10).unwrap();
        }),
        ("its tar-split is damaged", |layer| {
            let split = File::options().write(true).open(layer.join("tar-split"));
            split.unwrap().set_len(100).unwrap();
        }),
        ("remove its images and load them again", |layer| {
            fs::remove_file(layer.join("tar-split")).unwrap();
        }),
    ];
    for (why, harm) in table {
        let store = Store::new();
        let image = store.load(&app(&["app:1"]));
        harm(&store.root().join("layers").join(image.layer_dir(0)));
        let file = store.beside("out.tar");
        fs::write(&file, "what was there").unwrap();
        for compress in ["none", "zstd"] {
            let path = file.to_str().unwrap();
            let run = store.run(&["save", "--compress", compress, "-o", path, "app:1"]);
            run.refused_saying(&["layer sha256:", image.layer_dir(0), why]);
            assert_eq!(fs::read(&file).unwrap(), b"what was there");
            assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 2);
        }
    }
}

/// `rmi -f` does not disturb it, and what it has held up goes when it ends.
pub fn an_image_that_is_removed_meanwhile() {
    let store = Store::new();
    let image = store.load(&heavy("heavy:1", 4));
    let mut saving = store
        .command(&["save", "heavy:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = saving.stdout.take().unwrap();
    // It has begun, and waits for its reader.
    let mut bytes = vec![0; 4096];
    out.read_exact(&mut bytes).unwrap();
    store.ok(&["rmi", "-f", "heavy:1"]);
    assert_eq!(store.ok(&["images", "-q"]), "");
    assert_eq!(store.layer_state(&image.chains[0]), "reclaiming");
    out.read_to_end(&mut bytes).unwrap();
    assert!(saving.wait_with_output().unwrap().status.success());
    assert_eq!(store.layer_state(&image.chains[0]), "gone");
    store.check_at_rest();
    let (again, _) = loaded(&bytes);
    assert_eq!(
        again.ok(&["images", "-q", "--no-trunc"]),
        format!("{}\n", image.id)
    );
}

/// Ctrl-C, or a reader that goes, leaves nothing, and nothing is said of it.
pub fn interrupted() {
    let store = Store::new();
    let image = store.load(&heavy("heavy:1", 64));
    let dir = store.new_dir("out");
    let file = dir.join("out.tar");
    for signal in [Signal::INT, Signal::TERM] {
        let mut saving = store
            .command(&[
                "save",
                "--compress",
                "gzip",
                "-o",
                file.to_str().unwrap(),
                "heavy:1",
            ])
            .spawn()
            .unwrap();
        wait_until("it writes", || fs::read_dir(&dir).unwrap().count() == 1);
        let pid = Pid::from_child(&saving);
        kill_process(pid, signal).unwrap();
        assert_eq!(saving.wait().unwrap().code(), Some(130));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
    let mut saving = store
        .command(&["save", "heavy:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = saving.stdout.take().unwrap();
    out.read_exact(&mut [0; 512]).unwrap();
    drop(out);
    let ended = saving.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = store
        .command(&["save", "heavy:1"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn();
    let ended = ended.unwrap().wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(
        told,
        "Error: cannot write the output: No space left on device\n"
    );
    assert_eq!(text(&store.json(&["images"])[0], "ID"), image.id);
    store.check_at_rest();
}

/// As many layers as an image may have, with fewer descriptors than that.
pub fn many_layers() {
    let store = Store::new();
    let layers = (0..512).map(|n| Layer::new().file(&format!("f{n}"), n.to_string()));
    let image = store.load(&Image::new(&["many:1"], layers.collect()));
    let file = store.beside("many.tar");
    let mut saving = std::process::Command::new("bash");
    saving
        .arg("-c")
        .arg("ulimit -Sn 100 && exec \"$@\"")
        .arg("bash")
        .arg(crate::harness::store::LAYERCTL)
        .arg("--root")
        .arg(store.root())
        .args(["save", "-o", file.to_str().unwrap(), "many:1"]);
    crate::harness::Run::of(&mut saving).expect(0, "", "");
    let (again, _) = loaded(&fs::read(&file).unwrap());
    assert_eq!(
        again.ok(&["images", "-q", "--no-trunc"]),
        format!("{}\n", image.id)
    );
}
