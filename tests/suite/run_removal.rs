//! `rmi` of images whose containers run or are paused: every row of the table in the README.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Built, Image, Layer, Store, cgroups, noise, number, process, strings, text};
use crate::run_support::{
    SHELL, check_ended, detached, exit_code, idle, monitor, run, shell, wait_for_log,
};
use crate::samples::{all_deferred, all_deleted, deferred, untagged_and_deleted};

/// The shell's image with files that no container has read before they are asked for.
fn image(tags: &[&str]) -> Image {
    shell(tags).layer(
        Layer::new()
            .dir("cold")
            .file("cold/file", noise(5, 100_000))
            .file("cold/text", "from a marked layer\n"),
    )
}

/// A store with it, a container that runs, and whether it is then paused.
fn each(with: impl Fn(&Store, &Built, &str, bool)) {
    for is_paused in [false, true] {
        let store = Store::new();
        let image = store.load(&image(&[SHELL]));
        let id = idle(&store, &["--name", "job"]);
        store.ok(&["exec", "job", "sh", "-c", "echo own >/data/own"]);
        if is_paused {
            store.ok(&["pause", "job"]);
        }
        with(&store, &image, &id, is_paused);
    }
}

/// It is there, with all its layers.
#[track_caller]
fn untouched(store: &Store, image: &Built, id: &str, is_paused: bool) {
    let tags: Vec<String> = store
        .json(&["images"])
        .iter()
        .map(|row| format!("{}:{}", text(row, "Repository"), text(row, "Tag")))
        .collect();
    let mut expected = image.tags.clone();
    expected.sort();
    assert_eq!(tags, expected);
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "live");
    }
    let state = if is_paused { "paused" } else { "running" };
    assert_eq!(store.container_state(id), state);
    assert_eq!(cgroups::are_frozen(id), is_paused);
}

/// What was never opened is read from the layers, what it wrote is there, and it can write.
#[track_caller]
fn goes_on(store: &Store, id: &str, is_paused: bool) {
    assert_eq!(cgroups::are_frozen(id), is_paused, "nobody has woken it");
    if is_paused {
        store.ok(&["unpause", "job"]);
    }
    assert_eq!(store.container_state(id), "running");
    let read =
        "cat /cold/text /data/own; [ $(cat /cold/file | wc -c) = 100000 ] && echo more >>/data/own";
    store
        .run(&["exec", "job", "sh", "-c", read])
        .expect(0, "from a marked layer\nown\n", "");
}

#[track_caller]
fn pending(store: &Store) -> (u64, u64) {
    let df: Value = store.df();
    (
        number(&df["pending"], "count"),
        number(&df["pending"], "bytes"),
    )
}

pub fn refused_without_force() {
    each(|store, image, id, is_paused| {
        let by_tag = format!(
            "Error: conflict: unable to remove repository reference \"{SHELL}\" (must force) - container {} is \
             using its referenced image {}\n",
            &id[..12],
            image.short()
        );
        store.run(&["rmi", SHELL]).expect(1, "", &by_tag);
        untouched(store, image, id, is_paused);
        let by_id = format!(
            "Error: conflict: unable to delete {} (must be forced) - image is being used by running container \
             {}\n",
            image.short(),
            &id[..12]
        );
        store.run(&["rmi", image.short()]).expect(1, "", &by_id);
        untouched(store, image, id, is_paused);
        // When it has ended, by ID it is another word.
        store.ok(&["stop", "job"]);
        store.run(&["rmi", SHELL]).expect(1, "", &by_tag);
        let by_id = by_id.replace("running", "stopped");
        store.run(&["rmi", image.short()]).expect(1, "", &by_id);
        store.ok(&["rm", "job"]);
        store
            .run(&["rmi", image.short()])
            .expect(0, &all_deleted(image), "");
        store.check_no_layers();
        store.check_at_rest();
    });
}

/// Removed by force it goes on undisturbed, and the layers go when it ends; then it cannot start until
/// the image is there again, and then it has its own files.
pub fn with_force() {
    for by_id in [false, true] {
        each(|store, built, id, is_paused| {
            let name = if by_id { built.short() } else { SHELL };
            let expected = all_deferred(store, built, id);
            let dry = store.json(&["rmi", "-f", "--dry-run", name]);
            untouched(store, built, id, is_paused);
            store.run(&["rmi", "-f", name]).expect(0, &expected, "");
            assert_eq!(store.ok(&["images", "-q"]), "");
            for chain in &built.chains {
                assert_eq!(store.layer_state(chain), "pending");
                let layer = store.layer(chain).unwrap();
                assert_eq!(strings(&layer["pinned_by"]), [id]);
            }
            let (count, bytes) = pending(store);
            assert_eq!(count, 3);
            assert_eq!(bytes, number(&dry[0], "deferred_bytes"));
            assert_eq!(number(&dry[0], "freed_bytes"), 0);
            goes_on(store, id, is_paused);
            assert_eq!(store.container(id)["ImagePresent"], false);
            if is_paused {
                store.ok(&["pause", "job"]);
            }
            // When `stop` returns, they have gone.
            store.ok(&["stop", "job"]);
            assert_eq!(pending(store), (0, 0));
            check_ended(store, &[id]);
            store.check_no_layers();
            let gone = format!("Error: No such image: {SHELL}\n");
            store.run(&["start", "job"]).expect(1, "", &gone);
            store.run(&["start", "-a", "job"]).expect(1, "", &gone);
            store.run(&["run", SHELL]).expect(125, "", &gone);
            store.check_at_rest();
            store.load(&image(&[SHELL]));
            store.ok(&["start", "job"]);
            store
                .run(&["exec", "job", "cat", "/data/own"])
                .expect(0, "own\nmore\n", "");
            store.ok(&["rm", "-f", "job"]);
            store.ok(&["rmi", SHELL]);
            store.check_no_layers();
            store.check_at_rest();
        });
    }
}

/// The other ways to end: by itself, by a signal, by force, by the death of its monitor.
pub fn the_layers_go_with_its_end() {
    for end in ["kill", "rm", "monitor", "itself"] {
        let store = Store::new();
        let built = store.load(&image(&[SHELL]));
        let id = match end {
            "itself" => {
                let script = "echo up; while [ ! -e /data/end ]; do sleep 0.02; done; exit 4";
                let id = detached(&store, &["--name", "job"], script);
                wait_for_log(&store, &id, "up");
                id
            }
            _ => idle(&store, &["--name", "job"]),
        };
        store
            .run(&["rmi", "-f", SHELL])
            .expect(0, &all_deferred(&store, &built, &id), "");
        assert_eq!(pending(&store).0, 3);
        match end {
            "kill" => assert_eq!(store.ok(&["kill", "job"]), "job\n"),
            "rm" => assert_eq!(store.ok(&["rm", "-f", "job"]), "job\n"),
            "monitor" => {
                process::kill_hard(monitor(&store, &id));
                assert_eq!(exit_code(&store, "job"), 137);
                // Nobody was left to reclaim them.
                store.ok(&["gc"]);
            }
            _ => {
                store.ok(&["exec", "job", "touch", "/data/end"]);
                assert_eq!(store.ok(&["wait", "job"]), "4\n");
            }
        }
        check_ended(&store, &[&id]);
        assert_eq!(pending(&store), (0, 0), "{end}");
        store.check_no_layers();
        store.check_at_rest();
    }
}

pub fn several_tags() {
    each(|store, _, id, is_paused| {
        let built = store.load(&image(&["shell:2", "other/shell:x", SHELL]));
        // One is only untagged, with or without force, as long as there is another.
        store
            .run(&["rmi", "shell:2"])
            .expect(0, "Untagged: shell:2\n", "");
        store
            .run(&["rmi", "-f", "other/shell:x"])
            .expect(0, "Untagged: other/shell:x\n", "");
        store.ok(&["tag", SHELL, "other/shell:y"]);
        assert_eq!(
            store.container_state(id),
            if is_paused { "paused" } else { "running" }
        );
        let many = format!(
            "Error: conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories\n",
            built.short()
        );
        let in_use = "image is being used by running container";
        let ran = store.run(&["rmi", built.short()]);
        assert!(ran.stderr == many || ran.stderr.contains(in_use), "{ran:?}");
        assert_eq!(ran.code, Some(1));
        let all = Built {
            tags: vec!["other/shell:y".into(), SHELL.into()],
            ..built
        };
        let expected = all_deferred(store, &all, id);
        store
            .run(&["rmi", "-f", all.short()])
            .expect(0, &expected, "");
        goes_on(store, id, is_paused);
        store.ok(&["stop", "job"]);
        store.check_no_layers();
        store.check_at_rest();
    });
}

/// Several containers of one image: the layers go when the last has ended, in whatever order.
pub fn several_containers() {
    let store = Store::new();
    let built = store.load(&image(&[SHELL]));
    let ids = ["job", "second", "third"].map(|name| idle(&store, &["--name", name]));
    store.ok(&["pause", "third"]);
    let stopped = store.create(SHELL);
    store.run(&["rmi", SHELL]).refused_saying(&["must force"]);
    store.ok(&["rmi", "-f", SHELL]);
    assert_eq!(pending(&store).0, 3);
    let layer = store.layer(&built.chains[0]).unwrap();
    let mut holders = strings(&layer["pinned_by"]);
    holders.sort();
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(holders, expected);
    store.ok(&["stop", "second"]);
    assert_eq!(pending(&store).0, 3);
    store.ok(&["exec", "job", "sh", "-c", "echo own >/data/own"]);
    goes_on(&store, &ids[0], false);
    store.ok(&["rm", "-f", "job"]);
    assert_eq!(pending(&store).0, 3);
    store.ok(&["stop", "third"]);
    assert_eq!(pending(&store), (0, 0));
    store.check_no_layers();
    check_ended(&store, &[&ids[0], &ids[1], &ids[2], &stopped]);
    store
        .run(&["start", "second"])
        .expect(1, "", &format!("Error: No such image: {SHELL}\n"));
    store.check_at_rest();
}

/// Layers that another image needs stay, and come to no harm when the container ends.
pub fn layers_that_another_image_needs() {
    each(|store, built, id, is_paused| {
        let other = store.load(&shell(&["other:1"]));
        let own = &built.chains[2];
        let expected = untagged_and_deleted(built) + &deferred(store, own, id);
        store.run(&["rmi", "-f", SHELL]).expect(0, &expected, "");
        for chain in &other.chains {
            assert_eq!(store.layer_state(chain), "live");
        }
        assert_eq!(pending(store).0, 1);
        goes_on(store, id, is_paused);
        // Now nobody needs them but the container.
        store.ok(&["rmi", "other:1"]);
        assert_eq!(pending(store).0, 3);
        goes_on_reading(store);
        store.ok(&["stop", "job"]);
        assert_eq!(pending(store), (0, 0));
        store.check_no_layers();
        store.check_at_rest();
    });
}

#[track_caller]
fn goes_on_reading(store: &Store) {
    store
        .run(&["exec", "job", "cat", "/cold/text"])
        .expect(0, "from a marked layer\n", "");
}

/// Layers are kept, unused, and taken up again or pruned.
pub fn kept_layers() {
    each(|store, built, id, is_paused| {
        store
            .run(&["rmi", "-f", "--no-prune", SHELL])
            .expect(0, &untagged_and_deleted(built), "");
        for chain in &built.chains {
            assert_eq!(store.layer_state(chain), "unused");
        }
        assert_eq!(pending(store).0, 0);
        goes_on(store, id, is_paused);
        store.ok(&["prune", "-f"]);
        assert_eq!(pending(store).0, 3, "what a container reads is not gone");
        goes_on_reading(store);
        store.ok(&["stop", "job"]);
        store.check_no_layers();
        store.check_at_rest();
    });
}

/// It says what would happen, in text and as JSON, and nothing happens.
pub fn dry_run() {
    each(|store, built, id, is_paused| {
        let text_of = all_deferred(store, built, id);
        let dry = store.run(&["rmi", "-f", "--dry-run", SHELL]);
        assert_eq!(dry.code, Some(0));
        for line in text_of.lines() {
            let what = line.split(": ").nth(1).unwrap();
            assert!(dry.stdout.contains(what), "{what} in {dry:?}");
        }
        assert!(dry.stdout.contains(&id[..12]), "{dry:?}");
        let dry = store.run(&["rmi", "--dry-run", SHELL]);
        assert_eq!(dry.code, Some(1), "{dry:?}");
        untouched(store, built, id, is_paused);
        store.ok(&["rm", "-f", "job"]);
    });
}

/// The image comes back while the container still runs on the old layers: never mixed.
pub fn loaded_again_meanwhile() {
    each(|store, built, id, is_paused| {
        store.ok(&["rmi", "-f", SHELL]);
        let again = store.load(&image(&[SHELL]));
        assert_eq!(again.id, built.id);
        let second = idle(store, &["--name", "second"]);
        assert_eq!(pending(store).0, 3);
        goes_on(store, id, is_paused);
        store.ok(&["stop", "job"]);
        assert_eq!(pending(store), (0, 0));
        for chain in &built.chains {
            assert_eq!(store.layer_state(chain), "live");
        }
        store
            .run(&["exec", "second", "cat", "/cold/text"])
            .expect(0, "from a marked layer\n", "");
        // Its old container starts on the new ones.
        store.ok(&["start", "job"]);
        goes_on_reading(store);
        store.ok(&["stop", "job", "second"]);
        check_ended(store, &[id, &second]);
        store.check_at_rest();
    });
}

/// One that goes at its end, on an image that was removed: both are gone.
pub fn a_container_that_goes() {
    let store = Store::new();
    store.load(&image(&[SHELL]));
    let id = idle(&store, &["--rm", "--name", "job"]);
    store.ok(&["rmi", "-f", SHELL]);
    goes_on_reading(&store);
    store.ok(&["stop", "job"]);
    check_ended(&store, &[&id]);
    assert_eq!(store.ok(&["ps", "-aq"]), "");
    store.check_no_layers();
    store.check_at_rest();
    // A failing `run` on it leaves nothing either.
    store.load(&image(&[SHELL]));
    run(&store, &["--rm"], "exit 1").expect(1, "", "");
    assert!(!Path::new(&store.root().join("containers").join(&id)).exists());
}
