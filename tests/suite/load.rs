//! `load` from the command line: files and standard input, compressed archives, tags that move.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use crate::harness::{Archive, Built, Image, Layer, Run, Store, tree};
use crate::run_support::Terminal;
use crate::samples::{all_deleted, app, check_app};

pub fn from_standard_input() {
    let store = Store::new();
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    // A pipe cannot be read twice: through `cat`.
    let load = store.command(&["load"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "file=$1; shift; cat \"$file\" | \"$@\"", "sh"])
        .arg(&file);
    shell.arg(load.get_program()).args(load.get_args());
    assert_eq!(Run::of(&mut shell).ok(), "Loaded image: app:1\n");
    let (_, view) = store.create_mounted("app:1");
    check_app(&view);
}

pub fn compressed_as_a_whole() {
    let (archive, image) = Archive::of(&app(&["app:1"]));
    let bytes = archive.bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&bytes).unwrap();
    let forms = [
        ("gzip", gzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(bytes.as_slice(), 1).unwrap()),
    ];
    for (form, bytes) in forms {
        let store = Store::new();
        let file = store.beside(form);
        File::create(&file).unwrap().write_all(&bytes).unwrap();
        let said = store.ok(&["load", "-i", file.to_str().unwrap()]);
        assert_eq!(said, "Loaded image: app:1\n", "{form}");
        assert_eq!(
            store.ok(&["images", "-q", "--no-trunc"]),
            format!("{}\n", image.id)
        );
        store.check_at_rest();
    }
}

/// The same image in the other two forms of the issue: an OCI archive, an OCI layout directory.
pub fn oci_forms() {
    let (archive, image) = Archive::of(&app(&["app:1"]));
    let store = Store::new();
    let docker = store.beside("docker.tar");
    archive.write(&docker);
    for (form, target) in [("oci-archive", "oci.tar"), ("oci", "layout")] {
        let target = store.beside(target);
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("docker-archive:{}", docker.display()))
            .arg(format!("{form}:{}:app:1", target.display()));
        Run::of(&mut skopeo).ok();
        let said = store.ok(&["load", "-i", target.to_str().unwrap()]);
        let id = store.json(&["images"])[0]["ID"].clone();
        // skopeo writes the config anew in OCI's form, so that the ID is another one; the layers are
        // the same to the byte.
        assert!(said.starts_with("Loaded image"), "{form}: {said}");
        for chain in &image.chains {
            assert_eq!(store.layer_state(chain), "live", "{form}");
        }
        let (container, view) = store.create_mounted(id.as_str().unwrap());
        check_app(&view);
        store.ok(&["umount", &container]);
        store.ok(&["rm", &container]);
        store.ok(&["rmi", "-f", id.as_str().unwrap()]);
        store.check_no_layers();
    }
}

pub fn several_images_and_tags() {
    let store = Store::new();
    let mut archive = Archive::default();
    let app = archive.add(&app(&["app:1", "app:2"]));
    let bare = archive.add(&Image::new(&[], vec![Layer::new().file("x", "x")]));
    let empty = archive.add(&Image::new(&["empty:1"], vec![]));
    let file = store.beside("several.tar");
    archive.write(&file);
    let said = store.ok(&["load", "-i", file.to_str().unwrap()]);
    let expected = format!(
        "Loaded image: app:1\nLoaded image: app:2\nLoaded image ID: {}\nLoaded image: empty:1\n",
        bare.id
    );
    assert_eq!(said, expected);
    for image in [&app, &bare, &empty] {
        assert_eq!(
            store
                .ok(&["images", "-q", "--no-trunc"])
                .matches(&image.id)
                .count()
                .min(1),
            1
        );
    }
    let (_, view) = store.create_mounted("empty:1");
    assert_eq!(std::fs::read_dir(view).unwrap().count(), 0);
    store.check_at_rest();
}

/// Layers that are there are not unpacked again: nobody looks at what the archive has for them.
pub fn again_changes_nothing() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let before = tree::listing(store.root());
    load_without_layers(&store, &app(&["app:1"]));
    assert_eq!(tree::listing(store.root()), before);
    let (container, view) = store.create_mounted("app:1");
    check_app(&view);
    store.ok(&["umount", &container]);
    // One that is missing is.
    store.ok(&["rm", &container]);
    store
        .run(&["rmi", "app:1"])
        .expect(0, &all_deleted(&image), "");
    let (_, file) = damaged(&store, &app(&["app:1"]));
    store
        .run(&["load", "-i", &file])
        .refused_saying(&[image.layer_dir(0)]);
    store.check_no_layers();
    store.check_at_rest();
}

/// Loads an archive of this image in which every layer is damaged, so that it can be loaded only
/// where the layers are in the store.
#[track_caller]
pub fn load_without_layers(store: &Store, image: &Image) {
    let (built, file) = damaged(store, image);
    let said: String = built
        .tags
        .iter()
        .map(|tag| format!("Loaded image: {tag}\n"))
        .collect();
    store.run(&["load", "-i", &file]).expect(0, &said, "");
}

fn damaged(store: &Store, image: &Image) -> (Built, String) {
    let (mut archive, built) = Archive::of(image);
    for (name, data) in &mut archive.members {
        if name.ends_with(".tar") {
            data.iter_mut().for_each(|byte| *byte ^= 0xff);
        }
    }
    let file = store.beside("damaged.tar");
    archive.write(&file);
    (built, file.to_str().unwrap().to_owned())
}

/// With `-q` nothing is said of the progress; what was loaded is, as by Docker.
pub fn quietly() {
    let store = Store::new();
    let mut archive = Archive::default();
    archive.add(&app(&["app:1"]));
    let dangling = archive.add(&Image::new(&[], vec![Layer::new().file("x", "x")]));
    let said = format!("Loaded image: app:1\nLoaded image ID: {}\n", dangling.id);
    let file = store.beside("two.tar");
    archive.write(&file);
    for quiet in ["-q", "--quiet"] {
        store
            .run(&["load", quiet, "-i", file.to_str().unwrap()])
            .expect_exactly(0, &said, "");
    }
    assert_eq!(store.json(&["images"]).len(), 2);
    store
        .run(&["load", "-q", "-i", store.beside("none").to_str().unwrap()])
        .refused_saying(&["none"]);
}

/// Where standard error is no terminal, a line for each layer that is there; standard output has nothing of it.
pub fn lines_of_progress() {
    let store = Store::new();
    let mut archive = Archive::default();
    let app = archive.add(&app(&["app:1"]));
    let other = archive.add(&Image::new(
        &["other:1"],
        vec![Layer::new().file("x", "x".repeat(12_340).as_str())],
    ));
    let file = store.beside("two.tar");
    archive.write(&file);
    let load = || {
        let run = store.run(&["load", "-i", file.to_str().unwrap()]);
        assert_eq!(run.stdout, "Loaded image: app:1\nLoaded image: other:1\n");
        // Several are unpacked at once.
        let mut lines: Vec<String> = run.stderr.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut diffs: Vec<&str> = app
        .diffs
        .iter()
        .chain(&other.diffs)
        .map(|d| &d[7..19])
        .collect();
    diffs.sort();
    let first = load();
    let of_layers: Vec<&str> = first
        .iter()
        .map(|l| l.split(": ").next().unwrap())
        .collect();
    assert_eq!(of_layers, diffs, "{first:?}");
    assert!(first.iter().all(|l| l.contains(": Unpacked ")), "{first:?}");
    let big = format!("{}: Unpacked 12.3kB", &other.diffs[0][7..19]);
    assert!(first.contains(&big), "{first:?}");
    let again: Vec<String> = diffs
        .iter()
        .map(|d| format!("{d}: Already exists"))
        .collect();
    assert_eq!(load(), again);
}

/// On a terminal each layer has its line as well, however many there are and however small it is; of the
/// bars above nothing stays.
pub fn bars_on_a_terminal() {
    for (number, size) in [(24, 80), (3, 20)].into_iter().enumerate() {
        let store = Store::new();
        let layers = (0..20).map(|n| Layer::new().file(&format!("file-{number}-{n}"), "text"));
        let (archive, built) = Archive::of(&Image::new(&["many:1"], layers.collect()));
        let file = store.beside("many.tar");
        archive.write(&file);
        let args = ["load", "-i", file.to_str().unwrap()];
        let mut terminal = Terminal::run(&store, &args, size);
        terminal.wait_for("Loaded image: many:1\r\n");
        assert_eq!(terminal.finish(), Some(0));
        let seen = terminal.seen();
        for diff in &built.diffs {
            let line = format!("{}: Unpacked 4B", &diff[7..19]);
            assert_eq!(seen.matches(&line).count(), 1, "{line} in {seen:?}");
        }
        let last = seen.rsplit("\r\n").nth(1).unwrap();
        assert!(last.ends_with("Loaded image: many:1"), "{last:?}");
        let mut again = Terminal::run(&store, &[&args[..], &["-q"]].concat(), size);
        again.wait_for("Loaded image: many:1\r\n");
        assert_eq!(again.finish(), Some(0));
        assert_eq!(again.seen(), "Loaded image: many:1\r\n");
    }
}

/// Several layers are unpacked at once; it is always the lowest bad one that is named.
pub fn the_first_bad_layer_is_told() {
    let store = Store::new();
    // The lowest takes longest to be found bad.
    let layers = vec![
        Layer::new().file("big", "x".repeat(20 << 20).as_str()),
        Layer::new().file("two", "2"),
        Layer::new().file("three", "3"),
    ];
    let (mut archive, built) = Archive::of(&Image::new(&["bad:1"], layers));
    for (name, data) in &mut archive.members {
        if name.ends_with(".tar") {
            let end = data.len() - 1;
            data[end] ^= 1;
        }
    }
    let file = store.beside("bad.tar");
    archive.write(&file);
    for _ in 0..5 {
        store
            .run(&["load", "-i", file.to_str().unwrap()])
            .refused_saying(&[&built.diffs[0][7..]]);
        store.check_no_layers();
    }
    store.check_at_rest();
}

/// Each layer is locked by a descriptor till all are there: as many as it takes are asked for.
pub fn with_few_descriptors() {
    let store = Store::new();
    let layers = (0..100).map(|n| Layer::new().file(&format!("file-{n}"), "text"));
    let (archive, _) = Archive::of(&Image::new(&["many:1"], layers.collect()));
    let file = store.beside("many.tar");
    archive.write(&file);
    let load = |limit: &str| {
        let load = store.command(&["load", "-i", file.to_str().unwrap()]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
            .arg(load.get_program())
            .args(load.get_args());
        Run::of(&mut shell)
    };
    // Who may not have as many is told before anything is done, unless they may raise the limit.
    let run = load("-n 120");
    if run.code != Some(0) {
        run.refused_saying(&["ulimit -n", " 120 "]);
        store.check_no_layers();
        store.check_at_rest();
    }
    load("-S -n 40").expect(0, "Loaded image: many:1\n", "");
    // What is there needs none.
    load("-n 120").expect(0, "Loaded image: many:1\n", "");
    store.check_at_rest();
}

/// A load that died between giving a layer its name and the commit leaves a directory that no row
/// explains; however often that happens, the next load puts its own in that place.
pub fn over_what_killed_loads_left() {
    let store = Store::new();
    let (archive, image) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    store.ok(&["images"]);
    for round in 0..3 {
        let left = store.root().join("layers").join(image.layer_dir(0));
        std::fs::create_dir_all(left.join("tree")).unwrap();
        std::fs::write(left.join("tree/wrong"), format!("left in round {round}")).unwrap();
        store.ok(&["load", "-i", file.to_str().unwrap()]);
        let (container, view) = store.create_mounted("app:1");
        check_app(&view);
        assert!(!view.join("wrong").exists());
        store.ok(&["umount", &container]);
        store.ok(&["rm", &container]);
        store
            .run(&["rmi", "app:1"])
            .expect(0, &all_deleted(&image), "");
    }
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// A tag goes to the image loaded last; the other one stays, without a name.
pub fn a_tag_moves() {
    let store = Store::new();
    let old = store.load(&app(&["app:1"]));
    let (archive, new) = Archive::of(&app(&["app:1"]).label("new"));
    let file = store.beside("new.tar");
    archive.write(&file);
    let said = store.ok(&["load", "-i", file.to_str().unwrap()]);
    assert_eq!(said.lines().last(), Some("Loaded image: app:1"), "{said}");
    let listed = store.json(&["images"]);
    assert_eq!(listed.len(), 2, "{listed:?}");
    let name = |id: &str| {
        let row = listed.iter().find(|row| row["ID"] == id).unwrap();
        (
            row["Repository"].as_str().unwrap().to_owned(),
            row["Tag"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(name(&new.id), ("app".into(), "1".into()));
    assert_eq!(name(&old.id), ("<none>".into(), "<none>".into()));
    // `prune` takes the one without a name; the layers are the other's too.
    store.ok(&["prune", "-f"]);
    assert_eq!(
        store.ok(&["images", "-q", "--no-trunc"]),
        format!("{}\n", new.id)
    );
    let (_, view) = store.create_mounted("app:1");
    check_app(&view);
    store.check_at_rest();
}

/// A dangling image that a container uses is kept by `prune`.
pub fn prune_keeps_what_containers_use() {
    let store = Store::new();
    let old = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    store.load(&Image::new(&["app:1"], vec![Layer::new().file("x", "x")]).label("new"));
    store.ok(&["prune", "-f"]);
    assert!(store.ok(&["images", "-q", "--no-trunc"]).contains(&old.id));
    check_app(&store.mount(&container));
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store.ok(&["prune", "-f"]);
    assert!(!store.ok(&["images", "-q", "--no-trunc"]).contains(&old.id));
    store.check_at_rest();
}

/// 512 layers are the limit, and work: load, view, removal.
pub fn as_many_layers_as_allowed() {
    let layers = |n: usize| -> Vec<Layer> {
        let layer = |i: usize| {
            let layer = Layer::new().file(&format!("of-{i}"), i.to_string());
            layer.file("last", i.to_string())
        };
        (0..n).map(layer).collect()
    };
    let store = Store::new();
    let image = store.load(&Image::new(&["deep:1"], layers(512)));
    let (container, view) = store.create_mounted("deep:1");
    assert_eq!(std::fs::read_dir(&view).unwrap().count(), 513);
    for i in 0..512 {
        let text = std::fs::read_to_string(view.join(format!("of-{i}"))).unwrap();
        assert_eq!(text, i.to_string());
    }
    assert_eq!(std::fs::read_to_string(view.join("last")).unwrap(), "511");
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store
        .run(&["rmi", "deep:1"])
        .expect(0, &all_deleted(&image), "");
    let (archive, _) = Archive::of(&Image::new(&["deep:1"], layers(513)));
    let file = store.beside("too-deep.tar");
    archive.write(&file);
    let run = store.run(&["load", "-i", file.to_str().unwrap()]);
    run.refused_saying(&["more than 512"]);
    store.check_no_layers();
    store.check_at_rest();
}
