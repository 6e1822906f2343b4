//! Everything at once, with containers that run: several users with random commands on one store, some of
//! them killed, monitors too. When all is quiet nothing may be left over: no process, cgroup, mount or
//! pin, and each container is what it says it is.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::process::kill_hard;
use crate::harness::store::LAYERCTL;
use crate::harness::{Archive, Random, Run, Store, json_lines, process, text, wait_until};
use crate::run_support::{SHELL, check_ended, shell};

const USERS: u64 = 3;
const STEPS: usize = 60;

/// What another user's command may be the reason for.
const REASONS: [&str; 20] = [
    "No such image: ",
    "No such container: ",
    "is using its referenced image",
    "must be forced",
    "is running",
    "is paused",
    "is not running",
    "is not paused",
    "is already paused",
    "cannot start a paused container",
    "is being ",
    "mounted",
    "still used by open handles",
    // A runtime whose container goes away under it, and a monitor that is killed.
    "OCI runtime ",
    "monitor has gone",
    // A view whose server is killed while it is read.
    "onnection abort",
    "Transport endpoint is not connected",
    "was unmounted meanwhile",
    "(SIGKILL)",
    "(signal: 9",
];

struct User<'a> {
    store: &'a Store,
    archive: &'a str,
    random: Random,
}

impl User<'_> {
    /// Runs a command to its end, or kills it on its way.
    fn run(&mut self, args: &[&str]) -> Option<Run> {
        let mut command = self.store.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if self.random.below(6) == 0 {
            let micros = self.random.below(60_000) as u64;
            std::thread::sleep(Duration::from_micros(micros));
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        if args[0] == "exec" {
            self.wake_up(&mut child, args[1]);
        }
        let run = Run::finish(child, format!("{args:?}"));
        if !matches!(run.code, Some(0 | 137)) && run.signal.is_none() {
            let known = REASONS.iter().any(|reason| run.stderr.contains(reason));
            assert!(known, "{run:#?}");
        }
        Some(run)
    }

    /// Somebody may pause the container just then, and a process in it stands still, too.
    fn wake_up(&self, child: &mut Child, id: &str) {
        let end = Instant::now() + Duration::from_secs(3);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                self.store.run(&["unpause", id]);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn container(&mut self) -> Option<String> {
        let listed = self.store.run(&["ps", "-a", "--format", "json"]);
        // Another user may have killed it.
        let rows = match listed.signal {
            Some(_) => return None,
            None => json_lines(&listed.ok()),
        };
        let at = self.random.below(rows.len().max(1));
        rows.get(at).map(|row| text(row, "ID"))
    }

    fn step(&mut self) {
        let action = self.random.below(16);
        let sleeps = [
            "sh",
            "-c",
            "trap 'exit 3' TERM; while :; do sleep 0.05; done",
        ];
        match action {
            0..=2 => drop(self.run(&[&["run", "-d", SHELL], &sleeps[..]].concat())),
            3 => drop(self.run(&["run", "--rm", SHELL, "cat", "/data/one"])),
            4 => drop(self.run(&["load", "-i", self.archive])),
            5 => drop(self.run(&["rmi", "-f", SHELL])),
            6 => {
                // The monitors mostly, and whatever else works on the store.
                let servers = self.store.servers();
                if let Some(pid) = servers.get(self.random.below(servers.len().max(1))) {
                    kill_hard(*pid);
                }
            }
            action => {
                let Some(id) = self.container() else { return };
                match action {
                    7 => drop(self.run(&["start", &id])),
                    8 => drop(self.run(&["stop", "-t", "0", &id])),
                    9 => drop(self.run(&["kill", "-s", "TERM", &id])),
                    10 => drop(self.run(&["pause", &id])),
                    11 => drop(self.run(&["unpause", &id])),
                    12 => drop(self.run(&["rm", "-f", &id])),
                    13 => drop(self.run(&["diff", &id])),
                    _ => {
                        // A file that it has not read before, marked or not.
                        let read = self.run(&["exec", &id, "cat", "/data/one"]);
                        if let Some(run) = read.filter(|run| run.code == Some(0)) {
                            assert_eq!(run.stdout, "one\n", "{run:#?}");
                        }
                    }
                }
            }
        }
    }
}

pub fn nothing_is_left_over() {
    let seed = std::env::var("LAYERCTL_TEST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let store = Store::new();
    let image = shell(&[SHELL]);
    store.load(&image);
    let file = store.beside("shell.tar");
    Archive::of(&image).0.write(&file);
    let archive = file.to_str().unwrap();
    std::thread::scope(|scope| {
        for user in 1..=USERS {
            let store = &store;
            scope.spawn(move || {
                let random = Random::new(user + seed);
                let mut user = User {
                    store,
                    archive,
                    random,
                };
                for _ in 0..STEPS {
                    user.step();
                }
            });
        }
    });
    // All users go home.
    let ids = || -> Vec<String> {
        let rows = store.json(&["ps", "-a"]);
        rows.iter().map(|row| text(row, "ID")).collect()
    };
    // A container whose `start` was killed may still be on its way.
    wait_until("all containers end", || {
        for id in ids() {
            // Paused ones, too.
            store.run(&["stop", "-t", "0", &id]);
            store.run(&["umount", "--lazy", &id]);
        }
        process::users_of(std::path::Path::new(LAYERCTL), store.root()).is_empty()
    });
    store.ok(&["gc"]);
    let left = ids();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    check_ended(&store, &left);
    store.check_at_rest();
    for id in left {
        let state = store.container_state(id);
        assert!(matches!(state.as_str(), "created" | "exited"), "{state}");
        store.ok(&["rm", id]);
    }
    store.run(&["rmi", "-f", SHELL]);
    store.ok(&["prune", "-f"]);
    store.check_no_layers();
    store.check_at_rest();
}
