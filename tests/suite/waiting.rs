//! Who holds what was removed, and waiting until it is gone: `why` and `wait-reclaimed`.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::process::kill_hard;
use crate::harness::{Built, Run, Sleeper, Store, number, text, wait_until};
use crate::samples::{app, heavy};

fn time(object: &Value, field: &str) -> Timestamp {
    text(object, field).parse().unwrap()
}

/// What `why` says of a process that has files of the view.
#[track_caller]
fn process(reason: &Value, pid: i32) -> Value {
    let processes = reason["views"][0]["processes"].as_array().unwrap();
    let found = processes.iter().find(|p| p["pid"] == pid);
    found.unwrap_or_else(|| panic!("{pid} in {reason}")).clone()
}

pub fn why_names_files() {
    let store = Store::new();
    let image = store.load(&heavy("heavy:1", 1));
    let (_container, view) = store.create_mounted("heavy:1");
    let reader = Sleeper::reading(&view.join("docs/a"));
    let deleter = Sleeper::reading(&view.join("docs/b"));
    fs::remove_file(view.join("docs/b")).unwrap();
    let worker = Sleeper::working_in(&view.join("docs/sub"));
    let runner = Sleeper::program(&view.join("bin/sleep"));
    store.ok(&["rmi", "-f", "heavy:1"]);
    // By the ID of the image that is gone, each of its layers.
    let reasons = store.json(&["why", &image.id]);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let by_chain = store.json(&["why", &image.chains[0]]);
    assert_eq!(by_chain.len(), 1);
    let since = time(&reasons[0]["views"][0], "since");
    for (pid, path, how, deleted) in [
        (reader.pid(), "/docs/a", "open file", false),
        (deleter.pid(), "/docs/b", "open file", true),
        (worker.pid(), "/docs/sub", "working directory", false),
        (runner.pid(), "/bin/sleep", "running program", false),
    ] {
        let process = process(&reasons[0], pid);
        let files = process["files"].as_array().unwrap();
        let wanted = serde_json::json!({ "path": path, "use": how, "deleted": deleted });
        assert!(files.contains(&wanted), "{wanted} in {process}");
        // Each was started after the mount: give and take the clock tick of the kernel's record.
        let (started, after) = (time(&process, "started"), time(&process, "held_after"));
        assert_eq!(after, started.max(since), "{process}");
        let now = Timestamp::now();
        let tick = Duration::from_millis(50);
        assert!(
            started + tick >= since && started - tick <= now,
            "{process}"
        );
    }
    let said = store.ok(&["why", &image.chains[1]]);
    assert!(said.contains(": /docs/b (deleted)\n"), "{said}");
    assert!(said.contains(": /docs/sub\n"), "{said}");
}

/// A few for people, all for programs.
pub fn why_of_many_files() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (_container, view) = store.create_mounted("app:1");
    let files: Vec<fs::File> = (0..9)
        .map(|n| fs::File::create(view.join(format!("new{n}"))).unwrap())
        .collect();
    // A control character in a name does not break the line.
    let _odd = fs::File::create(view.join("a\nb")).unwrap();
    let own = std::process::id().cast_signed();
    let reason = store.json(&["why", &image.chains[0]]).remove(0);
    let held = process(&reason, own)["files"].as_array().unwrap().len();
    assert_eq!(held, files.len() + 1, "{reason}");
    let said = store.ok(&["why", &image.chains[0]]);
    let named = ": /a\\nb, /new0, /new1, /new2 and 6 more\n";
    assert!(said.contains(named), "{said}");
}

fn reclaimed(image: &Built, bytes: u64) -> String {
    let size = layerctl::model::human::size(bytes);
    let layers = match image.chains.len() {
        1 => "1 layer".to_owned(),
        n => format!("{n} layers"),
    };
    format!("Reclaimed: {} ({layers}, {size})\n", image.id)
}

/// The allocated bytes of all layers.
fn bytes(store: &Store) -> u64 {
    let layers = store.json(&["layers"]);
    layers.iter().map(|layer| number(layer, "bytes")).sum()
}

fn waiting(store: &Store, image: &Built) -> Child {
    let mut command = store.command(&["wait-reclaimed", &image.id]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits long enough for it to have looked.
#[track_caller]
fn still_waits(wait: &mut Child) {
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(wait.try_wait(), Ok(None)), "it waits");
}

#[track_caller]
fn ends_with(wait: Child, code: i32, stdout: &str, stderr: &str) {
    let run = Run::finish(wait, "wait-reclaimed".to_owned());
    run.expect(code, stdout, stderr);
}

pub fn until_the_last_view_ends() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let total = bytes(&store);
    let [(first, _), (second, _)] = [(); 2].map(|()| store.create_mounted("app:1"));
    store.ok(&["rmi", "-f", "app:1"]);
    let mut wait = waiting(&store, &image);
    still_waits(&mut wait);
    store.ok(&["umount", &first]);
    still_waits(&mut wait);
    store.ok(&["umount", &second]);
    ends_with(wait, 0, &reclaimed(&image, total), "");
    store.check_no_layers();
    // At once, and by a prefix.
    let run = store.run(&["wait-reclaimed", &image.id[7..19]]);
    run.expect(0, &reclaimed(&image, total), "");
    store.check_at_rest();
}

pub fn of_what_was_not_removed() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let refused = format!(
        "Error: image {} has not been removed since it was loaded\n",
        image.short()
    );
    for name in [&image.id, image.short(), "app:1"] {
        store.run(&["wait-reclaimed", name]).expect(1, "", &refused);
    }
    let unknown = "Error: No such image: abcdef:latest\n";
    let run = store.run(&["wait-reclaimed", "abcdef"]);
    run.expect(1, "", unknown);
    // All that can be waited for is.
    let total = bytes(&store);
    store.ok(&["rmi", "app:1"]);
    let run = store.run(&["wait-reclaimed", "abcdef", &image.id]);
    run.expect(1, &reclaimed(&image, total), unknown);
    // There again, and nothing is left of the removal.
    store.load(&app(&["app:1"]));
    store
        .run(&["wait-reclaimed", &image.id])
        .expect(1, "", &refused);
    assert_eq!(store.run(&["wait-reclaimed"]).code, Some(2));
    let run = store.run(&["wait-reclaimed", "--timeout", "soon", &image.id]);
    assert_eq!(run.code, Some(2), "{run:#?}");
}

/// The image is there again, but layers of its removal are held still.
pub fn of_an_image_that_was_loaded_again() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let total = bytes(&store);
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    store.load(&app(&["app:1"]));
    let mut wait = waiting(&store, &image);
    still_waits(&mut wait);
    store.ok(&["umount", &container]);
    ends_with(wait, 0, &reclaimed(&image, total), "");
    store.check_at_rest();
}

pub fn no_longer_than_it_may() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    let run = store.run(&["wait-reclaimed", "--timeout", "200ms", &image.id]);
    assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{run:#?}");
    let layer = store.layer(&image.chains[0]).unwrap();
    let size = layerctl::model::human::size(number(&layer, "bytes"));
    let held = format!(
        "{} ({size} held by container {}, PID {})",
        image.chains[0],
        &container[..12],
        store.server()
    );
    let said = &run.stderr;
    let begins = format!(
        "Error: timed out: of image {} there still is ",
        image.short()
    );
    assert!(said.starts_with(&begins) && said.contains(&held), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Nobody reclaims what a server that was killed has held: then this does.
pub fn after_its_server_was_killed() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let total = bytes(&store);
    store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    let server = store.server();
    let mut wait = waiting(&store, &image);
    still_waits(&mut wait);
    kill_hard(server);
    ends_with(wait, 0, &reclaimed(&image, total), "");
    store.check_no_layers();
    store.check_at_rest();
}

pub fn of_what_cannot_be_reclaimed() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    // Somebody has mounted something in the lowest layer.
    let layer = |name: &str| name.starts_with(image.layer_dir(0));
    let marked = store.root().join("marked");
    let names = crate::harness::store::names_in(&marked);
    let name = names.iter().find(|name| layer(name)).unwrap();
    let place = marked.join(name).join("tree/etc");
    mount_bind(Path::new("/tmp"), &place).unwrap();
    let mut wait = waiting(&store, &image);
    still_waits(&mut wait);
    store.ok(&["umount", &container]);
    let run = Run::finish(wait, "wait-reclaimed".to_owned());
    unmount(&place, UnmountFlags::empty()).unwrap();
    assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{run:#?}");
    assert!(run.stderr.contains("Device or resource busy"), "{run:#?}");
    store.wait_for_servers_to_end();
    // It can be now, and this does it.
    store.ok(&["wait-reclaimed", &image.id]);
    store.check_no_layers();
}

pub fn interrupted() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    let mut wait = waiting(&store, &image);
    still_waits(&mut wait);
    kill_process(Pid::from_child(&wait), Signal::INT).unwrap();
    wait_until("it ends", || matches!(wait.try_wait(), Ok(Some(_))));
    let run = Run::finish(wait, "wait-reclaimed".to_owned());
    assert_eq!((&*run.stdout, &*run.stderr), ("", ""), "{run:#?}");
    assert_eq!(store.layer_state(&image.chains[0]), "pending");
    store.ok(&["umount", &container]);
}
