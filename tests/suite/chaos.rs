//! Everything at once: several users with random commands on one store, some of them killed, servers
//! too. Nothing may be damaged meanwhile, and when all is quiet nothing may be left over.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::process::kill_hard;
use crate::harness::{
    Archive, Image, Layer, Random, Run, Store, json_lines, noise, text, wait_until,
};
use crate::samples::app;

const USERS: u64 = 3;
const STEPS: usize = 200;

/// Two images that share their lowest layer.
fn image(n: usize) -> Image {
    let base = Layer::new()
        .dir("base")
        .file("base/blob", noise(30, 300_000));
    let own = Layer::new().file("own", format!("image {n}"));
    Image::new(&[&format!("image:{n}")], vec![base, own])
}

struct User<'a> {
    store: &'a Store,
    archives: &'a [String],
    random: Random,
    /// How often a file was read in a view, by all users.
    compared: &'a AtomicUsize,
}

impl User<'_> {
    /// Runs a command to its end, or kills it on its way.
    fn run(&mut self, args: &[&str]) -> Option<Run> {
        let mut command = self.store.command(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if self.random.below(4) == 0 {
            let micros = self.random.below(15_000) as u64;
            std::thread::sleep(Duration::from_micros(micros));
            // The same as for a user: it may have ended by itself.
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        let run = Run::finish(child, format!("{args:?}"));
        if run.code.is_none() {
            // Another user killed it.
            assert_eq!(run.signal, Some(libc::SIGKILL), "{run:#?}");
            return None;
        }
        if run.code != Some(0) {
            // Refused, because another user was faster; never for another reason.
            let reasons = [
                "No such image: ",
                "No such container: ",
                "is using its referenced image",
                "mounted",
                "is busy",
                "is running",
                "is being ",
                "must be forced",
                "(SIGKILL)",
                "still used by open handles",
            ];
            let known = reasons.iter().any(|reason| run.stderr.contains(reason));
            assert!(known && run.code == Some(1), "{run:#?}");
        }
        Some(run)
    }

    fn container(&mut self) -> Option<String> {
        let listed = self.store.run(&["ps", "-a", "--format", "json"]);
        if listed.code.is_none() {
            assert_eq!(listed.signal, Some(libc::SIGKILL), "{listed:#?}");
            return None;
        }
        let rows = json_lines(&listed.ok());
        let at = self.random.below(rows.len().max(1));
        rows.get(at).map(|row| text(row, "ID"))
    }

    fn step(&mut self) {
        let n = self.random.below(2);
        let name = format!("image:{n}");
        let archives = self.archives;
        match self.random.below(12) {
            0..=2 => drop(self.run(&["load", "-i", &archives[n]])),
            3 | 4 => drop(self.run(&["rmi", "-f", &name])),
            5 => drop(self.run(&["create", &name])),
            6 | 7 => {
                let Some(id) = self.container() else { return };
                let Some(run) = self.run(&["mount", &id]) else {
                    return;
                };
                if run.code != Some(0) {
                    return;
                }
                // Another user may unmount it or kill its server at any time; but what is read is
                // right.
                match fs::read(format!("{}/base/blob", run.stdout.trim_end())) {
                    Ok(blob) => {
                        assert!(blob == noise(30, 300_000), "the contents of {id}");
                        self.compared.fetch_add(1, Ordering::Relaxed);
                    }
                    // ECONNABORTED is of a server that is killed with the request in its hands.
                    Err(e) => assert!(
                        matches!(
                            e.raw_os_error(),
                            Some(libc::ENOENT | libc::ENOTCONN | libc::ECONNABORTED)
                        ),
                        "{id}: {e}"
                    ),
                }
            }
            8 => {
                let Some(id) = self.container() else { return };
                self.run(&["umount", "--lazy", &id]);
            }
            9 => {
                let Some(id) = self.container() else { return };
                self.run(&["rm", &id]);
            }
            10 => drop(self.run(&["gc"])),
            _ => {
                // Servers mostly, and whatever else works on the store.
                let servers = self.store.servers();
                if let Some(pid) = servers.get(self.random.below(servers.len().max(1))) {
                    kill_hard(*pid);
                }
            }
        }
    }
}

pub fn nothing_is_damaged_or_left_over() {
    let seed = std::env::var("LAYERCTL_TEST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let archives: Vec<String> = (0..2)
        .map(|n| {
            let file = store.beside(&format!("{n}.tar"));
            Archive::of(&image(n)).0.write(&file);
            file.to_str().unwrap().to_owned()
        })
        .collect();
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for user in 1..=USERS {
            let (store, archives, compared) = (&store, &archives[..], &compared);
            scope.spawn(move || {
                let random = Random::new(user + seed);
                let mut user = User {
                    store,
                    archives,
                    random,
                    compared,
                };
                for _ in 0..STEPS {
                    user.step();
                }
            });
        }
    });
    assert_ne!(compared.into_inner(), 0, "nothing was read in any view");
    // All users go home. A server whose `mount` was killed may still be on its way.
    wait_until("all servers end", || {
        for row in store.json(&["ps"]) {
            store.run(&["umount", "--lazy", &text(&row, "ID")]);
        }
        store.servers().is_empty()
    });
    store.ok(&["gc"]);
    store.check_at_rest();
    for row in store.json(&["ps", "-a"]) {
        store.ok(&["rm", &text(&row, "ID")]);
    }
    let ids = store.ok(&["images", "-q"]);
    let mut rmi = vec!["rmi", "-f"];
    rmi.extend(ids.lines());
    store.ok(&rmi);
    store.ok(&["prune", "-f"]);
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}
