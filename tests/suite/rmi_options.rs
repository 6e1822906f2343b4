//! `rmi` with several names, with names that match nothing or several things, `--no-prune` and
//! `--dry-run`.

use serde_json::Value;

use crate::harness::{Archive, Built, Image, Layer, Store, number, strings, text, tree};
use crate::load::load_without_layers;
use crate::samples::{all_deferred, all_deleted, app, check_app, untagged_and_deleted};

/// An image with one layer of its own.
fn single(tag: &str) -> Image {
    Image::new(&[tag], vec![Layer::new().file("name", tag)])
}

fn image_ids(store: &Store) -> Vec<String> {
    let ids = store.ok(&["images", "-q", "--no-trunc"]);
    ids.lines().map(str::to_owned).collect()
}

pub fn several_names() {
    let store = Store::new();
    let (a, b, c) = (
        store.load(&single("a:1")),
        store.load(&single("b:1")),
        store.load(&single("c:1")),
    );
    // All it can, and each failure reported.
    let run = store.run(&["rmi", "a:1", "nope", "b:1", "none/such:2"]);
    run.expect(
        1,
        &(all_deleted(&a) + &all_deleted(&b)),
        "Error: No such image: nope:latest\nError: No such image: none/such:2\n",
    );
    assert_eq!(image_ids(&store), [c.id.as_str()]);
    store.check_at_rest();
}

pub fn missing_names() {
    let store = Store::new();
    let a = store.load(&single("a:1"));
    let nope = "Error: No such image: nope:latest\n";
    store.run(&["rmi", "nope"]).expect(1, "", nope);
    store.run(&["rmi", "-f", "nope"]).expect(0, "", nope);
    store.run(&["rmi", "nope:latest"]).expect(1, "", nope);
    store
        .run(&["rmi", "a"])
        .expect(1, "", "Error: No such image: a:latest\n");
    store
        .run(&["rmi", "-f", "nope", "a:1"])
        .expect(0, &all_deleted(&a), nope);
    let usage = store.run(&["rmi"]);
    assert_eq!(
        (usage.code, usage.stdout.as_str()),
        (Some(2), ""),
        "{usage:#?}"
    );
}

/// `layerctl rmi -f $(layerctl images -q)`: an image with two tags is listed twice.
pub fn repeated_ids() {
    let store = Store::new();
    let app = store.load(&app(&["app:1", "app:2"]));
    let other = store.load(&single("other:1"));
    let listed = store.ok(&["images", "-q"]);
    let mut args = vec!["rmi", "-f"];
    args.extend(listed.lines());
    assert_eq!(
        args.len(),
        5,
        "three lines, two of them the same: {listed:?}"
    );
    let run = store.run(&args);
    assert_eq!(run.code, Some(0), "{run:#?}");
    for image in [&app, &other] {
        let lines = all_deleted(image);
        assert_eq!(
            run.stdout.matches(&lines).count(),
            1,
            "{lines} once in {}",
            run.stdout
        );
    }
    assert_eq!(
        run.stdout.len(),
        all_deleted(&app).len() + all_deleted(&other).len()
    );
    assert_eq!(image_ids(&store), [""; 0]);
    store.check_at_rest();
}

pub fn the_same_tag_twice() {
    let store = Store::new();
    let a = store.load(&single("a:1"));
    let run = store.run(&["rmi", "a:1", "a:1"]);
    run.expect(1, &all_deleted(&a), "Error: No such image: a:1\n");
}

pub fn prefixes() {
    let store = Store::new();
    for (from, len) in [(0, 71), (0, 19), (7, 64), (7, 12), (7, 5)] {
        let a = store.load(&single("a:1"));
        let prefix = &a.id[from..(from + len).min(71)];
        store.run(&["rmi", prefix]).expect(0, &all_deleted(&a), "");
    }
}

/// A name that is also the beginning of an ID is the name.
pub fn a_name_goes_before_a_prefix() {
    let store = Store::new();
    let a = store.load(&single("a:1"));
    let b = store.load(&single("b:1"));
    let name = &b.id[7..13];
    store.ok(&["tag", "a:1", name]);
    let run = store.run(&["rmi", name]);
    run.expect(0, &format!("Untagged: {name}:latest\n"), "");
    // Now it means the ID.
    store.run(&["rmi", name]).expect(0, &all_deleted(&b), "");
    assert_eq!(image_ids(&store), [a.id.as_str()]);
}

pub fn an_ambiguous_prefix_is_refused() {
    let store = Store::new();
    // Seventeen images have sixteen first digits among them at most.
    let mut archive = Archive::default();
    let built: Vec<Built> = (0..17)
        .map(|n| archive.add(&single(&format!("i:{n}"))))
        .collect();
    let file = store.beside("many.tar");
    archive.write(&file);
    store.ok(&["load", "-i", file.to_str().unwrap()]);
    let before = image_ids(&store);
    assert_eq!(before.len(), 17);
    let digit = |image: &Built| image.id.as_bytes()[7];
    let twice = built
        .iter()
        .find(|a| built.iter().filter(|b| digit(a) == digit(b)).count() > 1)
        .unwrap();
    let prefix = &twice.id[7..8];
    let ambiguous = format!("Error: multiple IDs found with provided prefix: {prefix}\n");
    for command in [
        &["rmi"][..],
        &["inspect"],
        &["history"],
        &["tag"],
        &["create"],
    ] {
        let more = if command == ["tag"] {
            &["new:1"][..]
        } else {
            &[]
        };
        let run = store.run(&[command, &[prefix], more].concat());
        // `inspect` prints the JSON of what it found: an empty array.
        let found = if command == ["inspect"] { "[]\n" } else { "" };
        run.expect(1, found, &ambiguous);
    }
    store.run(&["rmi", "-f", prefix]).expect(1, "", &ambiguous);
    assert_eq!(
        image_ids(&store),
        before,
        "nothing is removed by a name that means two"
    );
}

pub fn no_prune_keeps_the_layers() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let bytes: u64 = store
        .json(&["layers"])
        .iter()
        .map(|l| number(l, "bytes"))
        .sum();
    store
        .run(&["rmi", "--no-prune", "app:1"])
        .expect(0, &untagged_and_deleted(&image), "");
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "unused");
    }
    let df = store.df();
    assert_eq!(
        (
            number(&df["unused"], "count"),
            number(&df["unused"], "bytes")
        ),
        (3, bytes)
    );
    // Unused layers wait for prune.
    store.ok(&["gc"]);
    assert_eq!(number(&store.df()["unused"], "count"), 3);
    store.check_at_rest();

    let said = store.ok(&["prune", "-f"]);
    let total = format!(
        "Total reclaimed space: {}",
        layerctl::model::human::size(bytes)
    );
    assert_eq!(said.lines().last(), Some(total.as_str()), "{said}");
    store.check_no_layers();
    store.check_at_rest();
}

/// Layers that were kept serve the next load, which does not read them in its archive.
pub fn kept_layers_are_used_again() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    store.ok(&["rmi", "--no-prune", "app:1"]);
    load_without_layers(&store, &app(&["app:1"]));
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "live");
    }
    store.check_at_rest();
}

pub fn no_prune_of_a_mounted_image() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let run = store.run(&["rmi", "-f", "--no-prune", "app:1"]);
    run.expect(0, &untagged_and_deleted(&image), "");
    check_app(&view);
    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    for chain in &image.chains {
        assert_eq!(
            store.layer_state(chain),
            "unused",
            "prune takes it, not the server's end"
        );
    }
    store.ok(&["prune", "-f"]);
    store.check_no_layers();
}

/// The object of `rmi --dry-run`; running it must change nothing.
#[track_caller]
fn dry_run(store: &Store, args: &[&str]) -> Value {
    let before = (
        store.ok(&["images", "--no-trunc"]),
        store.json(&["layers"]),
        store.json(&["events"]),
    );
    let files = tree::listing(store.root());
    let mut objects = store.json(&[&["rmi", "--dry-run"], args].concat());
    assert_eq!(
        objects.len(),
        1,
        "one object for all the names together: {objects:?}"
    );
    let said = store.ok(&[&["rmi", "--dry-run"], args].concat());
    assert!(!said.is_empty(), "it says what would happen");
    let after = (
        store.ok(&["images", "--no-trunc"]),
        store.json(&["layers"]),
        store.json(&["events"]),
    );
    assert_eq!(before, after, "a dry run changes nothing");
    assert_eq!(
        files,
        tree::listing(store.root()),
        "a dry run changes nothing"
    );
    objects.remove(0)
}

/// Reads what `rmi` printed into the form of a dry run: untagged, deleted images, layers gone, layers
/// that wait.
fn happened(said: &str, images: &[&Built]) -> [Vec<String>; 4] {
    let mut sorted = [const { Vec::new() }; 4];
    for line in said.lines() {
        let (verb, rest) = line.split_once(": ").unwrap();
        let id = rest.split(' ').next().unwrap().to_owned();
        let kind = match verb {
            "Untagged" => 0,
            "Deleted" if images.iter().any(|image| image.id == id) => 1,
            "Deleted" => 2,
            "Deferred" => 3,
            other => panic!("{other}"),
        };
        sorted[kind].push(id);
    }
    sorted
}

#[track_caller]
fn comes_true(store: &Store, args: &[&str], images: &[&Built]) {
    let plan = dry_run(store, args);
    let before = store.df();
    let said = store.ok(&[&["rmi"], args].concat());
    let after = store.df();
    let [untagged, deleted, gone, waiting] = happened(&said, images);
    assert_eq!(strings(&plan["untagged"]), untagged);
    assert_eq!(strings(&plan["deleted"]), deleted);
    let layers = plan["layers"].as_array().unwrap();
    let planned = |pinned: bool| -> Vec<String> {
        let matching = layers
            .iter()
            .filter(|l| strings(&l["pinned_by"]).is_empty() != pinned);
        matching.map(|l| text(l, "chain_id")).collect()
    };
    assert_eq!((planned(false), planned(true)), (gone, waiting), "{plan}");
    let bytes = |df: &Value, part: &str| number(&df[part], "bytes");
    let freed = number(&plan, "freed_bytes");
    let deferred = number(&plan, "deferred_bytes");
    assert_eq!(
        bytes(&before, "live") - bytes(&after, "live"),
        freed + deferred,
        "{plan}"
    );
    assert_eq!(
        bytes(&after, "pending") - bytes(&before, "pending"),
        deferred,
        "{plan}"
    );
    assert_eq!(
        layers.iter().map(|l| number(l, "bytes")).sum::<u64>(),
        freed + deferred,
        "{plan}"
    );
}

pub fn dry_run_of_an_unused_image() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    comes_true(&store, &["app:1"], &[&image]);
}

pub fn dry_run_of_one_tag() {
    let store = Store::new();
    let image = store.load(&app(&["app:1", "app:2"]));
    comes_true(&store, &["app:1"], &[&image]);
}

pub fn dry_run_of_all_tags_one_by_one() {
    let store = Store::new();
    let image = store.load(&app(&["app:1", "app:2"]));
    // Only together do the names remove the image.
    comes_true(&store, &["app:1", "app:2"], &[&image]);
    assert!(image_ids(&store).is_empty());
}

pub fn dry_run_of_a_mounted_image() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    let plan = dry_run(&store, &["-f", "app:1"]);
    for layer in plan["layers"].as_array().unwrap() {
        assert_eq!(strings(&layer["pinned_by"]), [container.as_str()]);
    }
    let said = store.ok(&["rmi", "-f", "--dry-run", "app:1"]);
    assert!(
        said.contains(&container[..12]),
        "by whom it is held: {said}"
    );
    comes_true(&store, &["-f", "app:1"], &[&image]);
}

pub fn dry_run_of_what_is_refused() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (_container, _view) = store.create_mounted("app:1");
    let real = store.run(&["rmi", "app:1"]);
    let dry = store.run(&["rmi", "--dry-run", "app:1"]);
    assert_eq!(
        (dry.code, &dry.stderr),
        (real.code, &real.stderr),
        "{dry:#?}"
    );
    assert_eq!(store.layer_state(&image.chains[0]), "live");
}

/// What `-f` and a mounted container print, beside each other: only the layers differ.
pub fn several_names_mounted_and_not() {
    let store = Store::new();
    let app = store.load(&app(&["app:1"]));
    let other = store.load(&single("other:1"));
    let (container, view) = store.create_mounted("app:1");
    let expected = all_deferred(&store, &app, &container) + &all_deleted(&other);
    store
        .run(&["rmi", "-f", "app:1", "other:1"])
        .expect(0, &expected, "");
    check_app(&view);
    store.check_at_rest();
}
