//! Several processes on one store at once.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::harness::{Archive, Built, Layer, Run, Store, text, wait_until};
use crate::samples::{all_deleted, app, check_app};

fn write_app(store: &Store) -> (String, Built) {
    let (archive, built) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    (file.to_str().unwrap().to_owned(), built)
}

/// Runs the commands at the same time; their results in the same order.
pub fn at_once(store: &Store, commands: &[Vec<&str>]) -> Vec<Run> {
    let start = Barrier::new(commands.len());
    thread::scope(|scope| {
        let running: Vec<_> = commands
            .iter()
            .map(|args| {
                scope.spawn(|| {
                    start.wait();
                    store.run(args)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Started one after the other, as fast as that goes: each finds the store at another step of its
/// making.
pub fn first_commands_of_a_new_store() {
    for _ in 0..50 {
        let store = Store::new();
        let start = || {
            let mut command = store.command(&["images", "-q"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children: Vec<Child> = (0..6).map(|_| start()).collect();
        for child in children {
            Run::finish(child, "images".to_owned()).expect(0, "", "");
        }
    }
}

pub fn four_loads_of_one_archive() {
    for _ in 0..4 {
        let store = Store::new();
        let (file, image) = write_app(&store);
        for run in at_once(&store, &vec![vec!["load", "-i", &file]; 4]) {
            assert_eq!(run.ok(), "Loaded image: app:1\n");
        }
        assert_eq!(
            store.ok(&["images", "-q", "--no-trunc"]),
            format!("{}\n", image.id)
        );
        assert_eq!(
            fs::read_dir(store.root().join("staging")).unwrap().count(),
            0
        );
        store.check_at_rest();
        store
            .run(&["rmi", "app:1"])
            .expect(0, &all_deleted(&image), "");
        store.check_at_rest();
    }
}

/// Loads and removals of one image cross each other in every way; no command fails for it.
pub fn loads_against_removals() {
    let store = Store::new();
    let (file, image) = write_app(&store);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..12 {
                    store.ok(&["load", "-i", &file]);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..30 {
                let run = store.run(&["rmi", "-f", "app:1"]);
                let fine = ["", "Error: No such image: app:1\n"].contains(&run.stderr.as_str());
                assert!(run.code == Some(0) && fine, "{run:#?}");
            }
        });
        scope.spawn(|| {
            for _ in 0..10 {
                store.ok(&["gc"]);
                store.df();
            }
        });
    });
    store.ok(&["load", "-i", &file]);
    let (container, view) = store.create_mounted("app:1");
    check_app(&view);
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store.ok(&["gc"]);
    store.check_at_rest();
    store
        .run(&["rmi", "app:1"])
        .expect(0, &all_deleted(&image), "");
    store.check_at_rest();
}

/// An archive in pieces: at the first of them each member has come whole.
fn pieces(archive: &Archive, manifest_first: bool) -> Vec<Vec<u8>> {
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    for member in tar::Archive::new(archive.bytes().as_slice())
        .entries()
        .unwrap()
    {
        let mut member = member.unwrap();
        let name = member.path().unwrap().display().to_string();
        let mut data = Vec::new();
        member.read_to_end(&mut data).unwrap();
        members.push((name, data));
    }
    if manifest_first {
        members.reverse();
    }
    let mut pieces: Vec<Vec<u8>> = members
        .iter()
        .map(|(name, data)| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, data.as_slice()).unwrap();
            let whole = tar.into_inner().unwrap();
            whole[..whole.len() - 1024].to_vec()
        })
        .collect();
    pieces.push(vec![0; 1024]);
    pieces
}

/// A load whose archive comes in two parts, between which something else happens.
fn load_around(store: &Store, pieces: &[Vec<u8>], upto: usize, between: impl FnOnce()) -> Run {
    let mut command = store.command(&["load"]);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = command.spawn().unwrap();
    let mut pipe = load.stdin.take().unwrap();
    pieces[..upto]
        .iter()
        .for_each(|p| pipe.write_all(p).unwrap());
    // It has read all that, and does with it what can be done.
    wait_until("the load waits for more", || {
        rustix::io::ioctl_fionread(&pipe).unwrap() == 0
    });
    thread::sleep(Duration::from_millis(30));
    between();
    pieces[upto..]
        .iter()
        .for_each(|p| pipe.write_all(p).unwrap());
    drop(pipe);
    Run::finish(load, "load".to_owned())
}

/// Whatever a load has seen of the image's layers before `rmi -f` takes them away, and whether they go at once or wait
/// for a view: afterwards the image is there, whole.
pub fn a_load_around_a_removal() {
    let store = Store::new();
    let (archive, image) = Archive::of(&app(&["app:1"]));
    for manifest_first in [false, true] {
        let pieces = pieces(&archive, manifest_first);
        for upto in 0..pieces.len() {
            for mounted in [false, true] {
                let what = format!("{upto} pieces, manifest first: {manifest_first}, {mounted}");
                store.load(&app(&["app:1"]));
                let old = mounted.then(|| store.create_mounted("app:1"));
                let run = load_around(&store, &pieces, upto, || {
                    let said = store.ok(&["rmi", "-f", "app:1"]);
                    match mounted {
                        false => assert_eq!(said, all_deleted(&image), "{what}"),
                        true => assert!(said.contains("Deferred: "), "{what}: {said}"),
                    }
                });
                assert_eq!(run.ok(), "Loaded image: app:1\n", "{what}");
                let (container, view) = store.create_mounted("app:1");
                check_app(&view);
                for (container, view) in old.into_iter().chain([(container, view)]) {
                    check_app(&view);
                    store.ok(&["umount", &container]);
                    store.ok(&["rm", &container]);
                }
                store.wait_for_servers_to_end();
                store.check_at_rest();
                store
                    .run(&["rmi", "app:1"])
                    .expect(0, &all_deleted(&image), "");
                store.check_no_layers();
            }
        }
    }
}

/// Layers that were there when the load began, and are gone when it has unpacked the one that was not.
pub fn a_removal_while_a_load_unpacks() {
    let store = Store::new();
    let large = Layer::new().file("large", vec![7; 16 << 20]);
    let (archive, grown) = Archive::of(&app(&["grown:1"]).layer(large));
    let file = store.beside("grown.tar");
    archive.write(&file);
    for mounted in [false, true] {
        let image = store.load(&app(&["app:1"]));
        let old = mounted.then(|| store.create_mounted("app:1"));
        let mut command = store.command(&["load", "-i", file.to_str().unwrap()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let load = command.spawn().unwrap();
        wait_until("the layer is being unpacked", || {
            let staged = fs::read_dir(store.root().join("staging")).unwrap();
            staged
                .map(|dir| dir.unwrap().path().join("tree/large"))
                .any(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
        });
        // They go: no other image has them yet.
        let said = store.ok(&["rmi", "-f", "app:1"]);
        match mounted {
            false => assert_eq!(said, all_deleted(&image)),
            true => assert_eq!(said.matches("Deferred: ").count(), 3, "{said}"),
        }
        let run = Run::finish(load, "load".to_owned());
        assert_eq!(run.ok(), "Loaded image: grown:1\n");
        let (container, view) = store.create_mounted("grown:1");
        assert_eq!(fs::metadata(view.join("large")).unwrap().len(), 16 << 20);
        for (container, view) in old.into_iter().chain([(container, view)]) {
            check_app(&view);
            store.ok(&["umount", &container]);
            store.ok(&["rm", &container]);
        }
        store.wait_for_servers_to_end();
        store.check_at_rest();
        store
            .run(&["rmi", "grown:1"])
            .expect(0, &all_deleted(&grown), "");
        store.check_no_layers();
    }
}

/// One that waits for its archive holds up no other of the same image, and finds what that one has made.
pub fn a_load_around_a_load() {
    let (archive, image) = Archive::of(&app(&["app:1"]));
    for manifest_first in [false, true] {
        let pieces = pieces(&archive, manifest_first);
        for upto in 0..pieces.len() {
            let store = Store::new();
            let run = load_around(&store, &pieces, upto, || {
                store.load(&app(&["app:1"]));
            });
            assert_eq!(run.ok(), "Loaded image: app:1\n", "{upto}");
            let (container, view) = store.create_mounted("app:1");
            check_app(&view);
            store.ok(&["umount", &container]);
            store.ok(&["rm", &container]);
            store.check_at_rest();
            store
                .run(&["rmi", "app:1"])
                .expect(0, &all_deleted(&image), "");
            store.check_no_layers();
        }
    }
}

/// A mount that loses the race against `rmi -f` says so; one that wins shows all of the image.
pub fn mounts_against_removals() {
    let store = Store::new();
    let (file, _) = write_app(&store);
    store.ok(&["load", "-i", &file]);
    let container = store.create("app:1");
    for _ in 0..15 {
        store.ok(&["load", "-i", &file]);
        let runs = at_once(
            &store,
            &[vec!["mount", &container], vec!["rmi", "-f", "app:1"]],
        );
        assert_eq!(runs[1].code, Some(0), "{:#?}", runs[1]);
        match runs[0].code {
            Some(0) => {
                check_app(runs[0].stdout.trim_end().as_ref());
                store.ok(&["umount", &container]);
            }
            _ => assert_eq!(runs[0].refused(), "Error: No such image: app:1"),
        }
        store.wait_for_servers_to_end();
        store.ok(&["gc"]);
        store.check_no_layers();
    }
    store.check_at_rest();
}

pub fn ten_containers_come_and_go_together() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let containers: Vec<String> = (0..10).map(|_| store.create("app:1")).collect();
    let each = |verb: &'static str| -> Vec<Vec<&str>> {
        containers.iter().map(|c| vec![verb, c.as_str()]).collect()
    };
    let views: Vec<String> = at_once(&store, &each("mount"))
        .into_iter()
        .map(|run| run.ok().trim_end().to_owned())
        .collect();
    for (view, container) in views.iter().zip(&containers) {
        check_app(view.as_ref());
        fs::write(format!("{view}/own"), container).unwrap();
    }
    for (view, container) in views.iter().zip(&containers) {
        assert_eq!(
            fs::read(format!("{view}/own")).unwrap(),
            container.as_bytes()
        );
    }
    assert_eq!(store.servers().len(), 10);
    let pinned = store.json(&["layers"]);
    for layer in &pinned {
        let mut holders = crate::harness::strings(&layer["pinned_by"]);
        holders.sort();
        let mut all = containers.clone();
        all.sort();
        assert_eq!(holders, all);
    }
    store.ok(&["rmi", "-f", "app:1"]);
    // Whichever server ends last reclaims.
    for run in at_once(&store, &each("umount")) {
        run.ok();
    }
    store.wait_for_servers_to_end();
    store.check_no_layers();
    store.check_at_rest();
}

pub fn one_container_is_mounted_once() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let runs = at_once(&store, &vec![vec!["mount", container.as_str()]; 4]);
    let won = runs.iter().filter(|run| run.code == Some(0)).count();
    assert_eq!(won, 1, "{runs:#?}");
    let name = text(&store.container(&container), "Names");
    let reasons = [
        format!("Error: container {name} is being mounted"),
        format!("Error: container {name} is already mounted at "),
        // On record a moment after this one looked, and mounted before it looked at the directory.
        "something is mounted there already".to_owned(),
    ];
    for run in runs.iter().filter(|run| run.code != Some(0)) {
        let said = run.refused();
        assert!(
            reasons.iter().any(|reason| said.contains(reason)),
            "{run:#?}"
        );
    }
    assert_eq!(store.servers().len(), 1);
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

pub fn one_name_is_given_once() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let runs = at_once(&store, &vec![vec!["create", "--name", "web", "app:1"]; 4]);
    assert_eq!(
        runs.iter().filter(|run| run.code == Some(0)).count(),
        1,
        "{runs:#?}"
    );
    for run in runs.iter().filter(|run| run.code != Some(0)) {
        run.refused_saying(&["web", "already in use"]);
    }
    let names: Vec<String> = store
        .json(&["ps", "-a"])
        .iter()
        .map(|c| text(c, "Names"))
        .collect();
    assert_eq!(names, ["web"]);
}

pub fn one_image_is_removed_once() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let runs = at_once(&store, &vec![vec!["rmi", "-f", "app:1"]; 4]);
    let said: String = runs.iter().map(|run| run.stdout.as_str()).collect();
    assert_eq!(said, all_deleted(&image), "{runs:#?}");
    assert!(runs.iter().all(|run| run.code == Some(0)));
    store.check_at_rest();
}

/// Of several `rm`s of one container one removes it; to the others there is no such container.
pub fn one_container_is_removed_once() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for _ in 0..3 {
        let container = store.create("app:1");
        // Its deletion takes a moment, in which the others wait for the lock.
        let upper = store
            .root()
            .join("containers")
            .join(&container)
            .join("upper");
        for n in 0..2_000 {
            fs::write(upper.join(n.to_string()), "").unwrap();
        }
        let runs = at_once(&store, &vec![vec!["rm", &container]; 3]);
        let removed = runs.iter().filter(|run| run.code == Some(0)).count();
        assert_eq!(removed, 1, "{runs:#?}");
        for run in runs.iter().filter(|run| run.code != Some(0)) {
            run.refused_saying(&["No such container"]);
        }
    }
    store.check_at_rest();
}
