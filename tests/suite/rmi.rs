//! The table of DESIGN section 5: what `rmi` does to an image that nothing uses, that a stopped
//! container uses, and that a mounted one uses; with and without `-f`; by tag and by ID. Every text
//! to the byte.

use std::fs;
use std::path::Path;

use crate::harness::store::is_mounted;
use crate::harness::{Built, Store, text};
use crate::samples::{all_deferred, all_deleted, app, check_app};

/// Nothing of any image is left.
#[track_caller]
fn empty(store: &Store) {
    assert_eq!(store.ok(&["images", "-q"]), "");
    store.check_no_layers();
    store.check_at_rest();
}

/// The image is there under these tags, complete.
#[track_caller]
fn still_there(store: &Store, image: &Built, tags: &[&str]) {
    let mut found: Vec<String> = store
        .json(&["images"])
        .iter()
        .filter(|row| text(row, "ID") == image.id)
        .map(|row| format!("{}:{}", text(row, "Repository"), text(row, "Tag")))
        .collect();
    found.sort();
    assert_eq!(found, tags);
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "live");
    }
}

/// `rmi` with these arguments is refused with this text, and changes nothing.
#[track_caller]
fn refuses(store: &Store, image: &Built, args: &[&str], error: &str) {
    let run = store.run(&[&["rmi"], args].concat());
    run.expect(1, "", &format!("{error}\n"));
    let tags: Vec<&str> = image.tags.iter().map(String::as_str).collect();
    still_there(store, image, &tags);
}

// No container.

pub fn unused_goes() {
    for force in [&[][..], &["-f"], &["--force"]] {
        for by_id in [false, true] {
            let store = Store::new();
            let image = store.load(&app(&["app:1"]));
            let name = if by_id { image.short() } else { "app:1" };
            let run = store.run(&[&["rmi"], force, &[name]].concat());
            run.expect(0, &all_deleted(&image), "");
            empty(&store);
        }
    }
}

pub fn one_of_several_tags_is_only_untagged() {
    for force in [&[][..], &["-f"]] {
        let store = Store::new();
        let image = store.load(&app(&["app:1", "app:2", "other/name:x"]));
        let run = store.run(&[&["rmi"], force, &["app:1"]].concat());
        run.expect(0, "Untagged: app:1\n", "");
        still_there(&store, &image, &["app:2", "other/name:x"]);
        store.check_at_rest();
    }
}

pub fn several_tags_by_id() {
    let store = Store::new();
    let image = store.load(&app(&["app:2", "app:1", "about:x"]));
    let image = Built {
        tags: vec!["about:x".into(), "app:1".into(), "app:2".into()],
        ..image
    };
    let error = format!(
        "Error: conflict: unable to delete {} (must be forced) - image is referenced in multiple \
         repositories",
        image.short()
    );
    refuses(&store, &image, &[image.short()], &error);
    refuses(&store, &image, &[&image.id], &error);
    let run = store.run(&["rmi", "-f", image.short()]);
    run.expect(0, &all_deleted(&image), "");
    empty(&store);
}

// A stopped container.

pub fn stopped_is_refused_without_force() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    stopped_is_refused(&store, &image, &container);
}

pub fn exited_is_refused_without_force() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _) = store.create_mounted("app:1");
    store.ok(&["umount", &container]);
    assert_eq!(store.container_state(&container), "exited");
    stopped_is_refused(&store, &image, &container);
}

#[track_caller]
fn stopped_is_refused(store: &Store, image: &Built, container: &str) {
    let (short, container) = (image.short(), &container[..12]);
    let by_tag = format!(
        "Error: conflict: unable to remove repository reference \"app:1\" (must force) - container \
         {container} is using its referenced image {short}"
    );
    let by_id = format!(
        "Error: conflict: unable to delete {short} (must be forced) - image is being used by \
         stopped container {container}"
    );
    refuses(store, image, &["app:1"], &by_tag);
    refuses(store, image, &[short], &by_id);
    refuses(store, image, &[&image.id], &by_id);
    refuses(store, image, &["--no-prune", short], &by_id);
}

pub fn stopped_with_force() {
    for by_id in [false, true] {
        let store = Store::new();
        let image = store.load(&app(&["app:1"]));
        let container = store.create("app:1");
        let name = if by_id { image.short() } else { "app:1" };
        store
            .run(&["rmi", "-f", name])
            .expect(0, &all_deleted(&image), "");
        let row = store.container(&container);
        assert_eq!(row["ImagePresent"], false, "{row}");
        assert_eq!(text(&row, "ImageID"), image.id);
        assert_eq!(text(&row, "State"), "created");
        for verb in ["start", "mount"] {
            store
                .run(&[verb, &container])
                .expect(1, "", "Error: No such image: app:1\n");
        }
        store.ok(&["rm", &container]);
        empty(&store);
    }
}

pub fn stopped_container_starts_again_after_load() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    fs::write(view.join("own"), "written by the container").unwrap();
    fs::write(view.join("etc/release"), "three").unwrap();
    fs::remove_file(view.join("srv/index")).unwrap();
    store.ok(&["umount", &container]);

    store
        .run(&["rmi", "-f", "app:1"])
        .expect(0, &all_deleted(&image), "");
    store
        .run(&["start", &container])
        .expect(1, "", "Error: No such image: app:1\n");
    assert_eq!(store.container_state(&container), "exited");

    store.load(&app(&["app:1"]));
    store.mount(&container);
    let row = store.container(&container);
    assert_eq!(
        (&row["ImagePresent"], text(&row, "State")),
        (&true.into(), "mounted".into())
    );
    let view = Path::new(row["Mountpoint"].as_str().unwrap()).to_owned();
    assert_eq!(
        fs::read(view.join("own")).unwrap(),
        b"written by the container"
    );
    assert_eq!(fs::read(view.join("etc/release")).unwrap(), b"three");
    assert!(!view.join("srv/index").exists());
    assert!(!view.join("etc/gone").exists());
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

// A mounted container.

pub fn mounted_is_refused_without_force() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let (short, digits) = (image.short(), &container[..12]);
    let by_tag = format!(
        "Error: conflict: unable to remove repository reference \"app:1\" (must force) - container \
         {digits} is using its referenced image {short}"
    );
    let by_id = format!(
        "Error: conflict: unable to delete {short} (must be forced) - image is being used by \
         running container {digits}"
    );
    refuses(&store, &image, &["app:1"], &by_tag);
    refuses(&store, &image, &[short], &by_id);
    check_app(&view);
    store.check_at_rest();
}

pub fn mounted_with_force() {
    for by_id in [false, true] {
        let store = Store::new();
        let image = store.load(&app(&["app:1"]));
        let (container, view) = store.create_mounted("app:1");
        let expected = all_deferred(&store, &image, &container);
        let name = if by_id { image.short() } else { "app:1" };
        store.run(&["rmi", "-f", name]).expect(0, &expected, "");

        check_app(&view);
        fs::write(view.join("etc/release"), "copied up after the image went").unwrap();
        assert_eq!(store.ok(&["images", "-q"]), "");
        for chain in &image.chains {
            let layer = store.layer(chain).expect("a layer that waits is listed");
            assert_eq!(text(&layer, "state"), "pending");
            assert_eq!(
                crate::harness::strings(&layer["pinned_by"]),
                [container.as_str()]
            );
        }
        let row = store.container(&container);
        assert_eq!(
            (&row["ImagePresent"], text(&row, "State")),
            (&false.into(), "mounted".into())
        );
        store.check_at_rest();

        // gc has nothing to do: all is held.
        store.ok(&["gc"]);
        check_rest_of_app(&view);

        store.ok(&["umount", &container]);
        assert!(!is_mounted(&view));
        store.wait_for_servers_to_end();
        for chain in &image.chains {
            assert_eq!(store.layer_state(chain), "gone");
        }
        assert_eq!(store.container_state(&container), "exited");
        store.check_at_rest();
        store.ok(&["rm", &container]);
        empty(&store);
    }
}

fn check_rest_of_app(view: &Path) {
    assert_eq!(fs::read(view.join("srv/index")).unwrap(), b"hello");
    assert_eq!(
        fs::read(view.join("etc/release")).unwrap(),
        b"copied up after the image went"
    );
}

pub fn mounted_one_of_several_tags_is_only_untagged() {
    for force in [&[][..], &["-f"]] {
        let store = Store::new();
        let image = store.load(&app(&["app:1", "app:2"]));
        let (_, view) = store.create_mounted("app:1");
        let run = store.run(&[&["rmi"], force, &["app:1"]].concat());
        run.expect(0, "Untagged: app:1\n", "");
        still_there(&store, &image, &["app:2"]);
        check_app(&view);
    }
}

pub fn mounted_several_tags_by_id() {
    let store = Store::new();
    let image = store.load(&app(&["app:1", "app:2"]));
    let (container, view) = store.create_mounted("app:2");
    let run = store.run(&["rmi", image.short()]);
    // Whichever of its two reasons it gives.
    run.refused_saying(&[
        "conflict: unable to delete",
        image.short(),
        "(must be forced)",
    ]);
    still_there(&store, &image, &["app:1", "app:2"]);
    let expected = all_deferred(&store, &image, &container);
    store
        .run(&["rmi", "-f", image.short()])
        .expect(0, &expected, "");
    check_app(&view);
    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    store.ok(&["rm", &container]);
    empty(&store);
}

/// Two views of one image: the layers wait for the second.
pub fn layers_wait_for_the_last_view() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (first, first_view) = store.create_mounted("app:1");
    let (second, second_view) = store.create_mounted("app:1");
    let said = store.ok(&["rmi", "-f", "app:1"]);
    assert_eq!(said.matches("Deferred: ").count(), 3, "{said}");
    assert_eq!(
        said.matches("Deleted: ").count(),
        1,
        "the image alone: {said}"
    );
    store.ok(&["umount", &first]);
    assert!(!is_mounted(&first_view));
    crate::harness::wait_until("the first server ends", || store.servers().len() == 1);
    for chain in &image.chains {
        let layer = store.layer(chain).expect("still held by the second");
        assert_eq!(
            crate::harness::strings(&layer["pinned_by"]),
            [second.as_str()]
        );
    }
    check_app(&second_view);
    store.ok(&["umount", &second]);
    store.wait_for_servers_to_end();
    store.ok(&["rm", &first, &second]);
    empty(&store);
}
