//! The indexes of a store: made at load, found damaged, made anew, never the reason for a wrong tree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Archive, Built, Image, Layer, Run, Store, number, tree};
use crate::samples::{app, check_app};

/// What a disk, or a hand, does to a file.
type Harm = fn(&Path);

const HARMS: [(&str, Harm); 6] = [
    ("a bit flipped", |file| {
        let at = fs::metadata(file).unwrap().len() / 2;
        let mut byte = [0];
        let file = File::options().read(true).write(true).open(file).unwrap();
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }),
    ("cut short", |file| {
        let half = fs::metadata(file).unwrap().len() / 2;
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(half).unwrap();
    }),
    ("emptied", |file| drop(File::create(file).unwrap())),
    ("of another version", |file| {
        let file = File::options().write(true).open(file).unwrap();
        file.write_all_at(&9_u32.to_le_bytes(), 8).unwrap();
    }),
    ("another's", |file| {
        let other = file.with_file_name("other");
        fs::rename(&other, file).unwrap();
    }),
    ("no file", |file| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }),
];

/// The image's index, and those of its layers from the lowest up.
fn indexes(store: &Store, image: &Built) -> Vec<PathBuf> {
    let hex = &image.id["sha256:".len()..];
    let mut files = vec![store.root().join("images").join(hex).join("index")];
    for layer in 0..image.diffs.len() {
        let directory = store.root().join("layers").join(image.layer_dir(layer));
        files.push(directory.join("index"));
    }
    files
}

/// Does that to the image's index and to the lowest layer's.
fn harm(store: &Store, image: &Built, harm: Harm) {
    let files = indexes(store, image);
    for (nth, file) in files.iter().enumerate().take(2) {
        // One that is whole, of something else.
        let other = file.with_file_name("other");
        fs::copy(&files[nth + 1], &other).unwrap();
        harm(file);
        if other.exists() {
            fs::remove_file(other).unwrap();
        }
    }
}

/// All inode numbers of a view.
fn numbers(view: &Path) -> BTreeMap<PathBuf, u64> {
    let names = tree::read(view).into_keys();
    names
        .map(|name| {
            let meta = fs::symlink_metadata(view.join(&name)).unwrap();
            (name, meta.ino())
        })
        .collect()
}

pub fn a_load_makes_them() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let files = indexes(&store, &image);
    assert_eq!(files.len(), 4);
    for file in &files {
        assert!(fs::read(file).unwrap().starts_with(b"lctlidx\n"));
    }
    // `df` counts them as `du` does, those of the layers with the layers.
    store.check_at_rest();
    store.ok(&["rmi", "app:1"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// No reason to remove an image: it is told, and with `--repair` made anew.
pub fn fsck_finds_and_mends() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    for (what, how) in HARMS {
        harm(&store, &image, how);
        assert_eq!(store.run(&["fsck"]).code, Some(0), "{what}");
        let run = store.run(&["fsck", "--deep"]);
        let lines: Vec<&str> = run.stderr.lines().collect();
        assert_eq!((run.code, lines.len()), (Some(1), 2), "{what}: {run:#?}");
        for (line, of) in lines.iter().zip([
            format!("layer {}", image.chains[0]),
            format!("image {}", image.id),
        ]) {
            let begin = format!("Error: {of}: its index is damaged: ");
            assert!(line.starts_with(&begin), "{what}: {run:#?}");
        }
        let run = store.run(&["fsck", "--deep", "--repair"]);
        assert_eq!(run.code, Some(0), "{what}: {run:#?}");
        assert_eq!(run.stdout.matches("Made anew: ").count(), 2, "{run:#?}");
        let listed = store.ok(&["images", "-q", "--no-trunc"]);
        assert_eq!(listed, format!("{}\n", image.id), "{what}");
        store.check_at_rest();
    }
    // The image's may be missing, as in a store of an earlier version.
    fs::remove_file(&indexes(&store, &image)[0]).unwrap();
    store.ok(&["fsck", "--deep"]);
}

/// The view shows the right tree under the same numbers, its log says what was wrong, and the files
/// are whole again.
pub fn a_view_makes_damaged_ones_anew() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let log = store.root().join("containers").join(&container).join("log");
    let view = store.mount(&container);
    let (shown, before) = (tree::read(&view), numbers(&view));
    store.ok(&["umount", &container]);
    for (what, how) in HARMS {
        harm(&store, &image, how);
        let view = store.mount(&container);
        check_app(&view);
        tree::assert_same(&tree::read(&view), &shown);
        assert_eq!(numbers(&view), before, "{what}");
        let told = fs::read_to_string(&log).unwrap();
        for file in &indexes(&store, &image)[..2] {
            let damaged = format!("{} is damaged: ", file.display());
            assert!(told.contains(&damaged), "{what}: {told}");
        }
        store.ok(&["umount", &container]);
        store.check_at_rest();
        let mounted_again = store.mount(&container);
        assert_eq!(numbers(&mounted_again), before, "{what}");
        store.ok(&["umount", &container]);
    }
}

/// A store of an earlier version has no indexes: they are made without a word.
pub fn missing_ones_are_made_quietly() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let files = indexes(&store, &image);
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    let view = store.mount(&container);
    check_app(&view);
    let log = store.root().join("containers").join(&container).join("log");
    let told = fs::read_to_string(log).unwrap();
    assert!(!told.contains("WARN"), "{told}");
    assert!(files.iter().all(|file| file.is_file()));
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// Removed by force between its load and the first view's end, with its index unusable from the
/// beginning: the view goes on, nothing is left.
pub fn of_an_image_removed_under_its_view() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    harm(&store, &image, HARMS[0].1);
    let view = store.mount(&container);
    store.ok(&["rmi", "-f", "app:1"]);
    check_app(&view);
    store.ok(&["umount", &container]);
    store.check_no_layers();
    store.check_at_rest();
}

/// Cut short while a view reads it: EIO for what is in it, and nothing looks as if it were not there;
/// the log says why, the server lives on, and the next mount is right again.
pub fn cut_short_under_a_view() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let server = store.server();
    let index = File::options()
        .write(true)
        .open(&indexes(&store, &image)[0])
        .unwrap();
    index.set_len(0).unwrap();
    for name in ["etc/release", "big", "none"] {
        let failed = fs::read(view.join(name)).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5), "{name}: {failed}");
    }
    assert_eq!(
        fs::write(view.join("new"), "").unwrap_err().raw_os_error(),
        Some(5)
    );
    assert_eq!(store.server(), server);
    let log = store.root().join("containers").join(&container).join("log");
    let told = fs::read_to_string(log).unwrap();
    assert_eq!(
        told.matches("the index of the layers was cut short")
            .count(),
        1,
        "{told}"
    );
    store.ok(&["umount", &container]);
    let view = store.mount(&container);
    check_app(&view);
    assert!(!view.join("new").exists());
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// A layer with more directories one in the other than may be open, each with another one beside it.
pub fn deeper_than_files_may_be_open() {
    let store = Store::new();
    let mut layer = Layer::new();
    let mut path = String::new();
    for _ in 0..300 {
        for name in ["aside", "d"] {
            layer = layer.dir(&format!("{path}{name}"));
        }
        path += "d/";
    }
    let (archive, built) = Archive::of(&Image::new(&["deep:1"], vec![layer]));
    let file = store.beside("deep.tar");
    archive.write(&file);
    for args in [
        &["load", "-i", file.to_str().unwrap()][..],
        &["fsck", "--deep"],
        &["df"],
    ] {
        let program = store.command(args);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 150; exec \"$@\"", "sh"]);
        limited.arg(program.get_program()).args(program.get_args());
        Run::of(&mut limited).ok();
    }
    let layer = store.layer(&built.chains[0]).unwrap();
    assert_eq!(number(&layer, "entries"), 601);
    store.check_at_rest();
}
