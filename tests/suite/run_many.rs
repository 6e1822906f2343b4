//! Many containers, and many commands on one, at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::concurrency::at_once;
use crate::harness::store::mounts_below;
use crate::harness::{Archive, Store, cgroups, number, strings, text};
use crate::run_support::{SHELL, check_ended, exit_code, idle, inspect, run, shell, store};

/// A hundred of one image, started, entered and stopped: nothing of them is left.
pub fn a_hundred() {
    let store = Store::new();
    let built = store.load(&shell(&[SHELL]));
    let next = AtomicUsize::new(0);
    let ids: Vec<String> = thread::scope(|scope| {
        let start = || {
            let mut ids = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < 100 {
                let args = ["run", "-d", "--stop-signal", "KILL", SHELL, "sleep", "1000"];
                ids.push(store.ok(&args).trim_end().to_owned());
            }
            ids
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    assert_eq!(ids.len(), 100);
    assert_eq!(store.json(&["ps"]).len(), 100);
    assert_eq!(mounts_below(store.root()).len(), 100);
    assert_eq!(
        strings(&store.layer(&built.chains[0]).unwrap()["pinned_by"]).len(),
        100
    );
    for id in ids.iter().step_by(25) {
        store
            .run(&["exec", id, "cat", "/data/one"])
            .expect(0, "one\n", "");
    }
    // All of them hold the image.
    store.ok(&["rmi", "-f", SHELL]);
    assert_eq!(number(&store.df()["pending"], "count"), 2);
    let halves: Vec<Vec<&str>> = ids
        .chunks(50)
        .map(|half| [vec!["stop"], half.iter().map(String::as_str).collect()].concat())
        .collect();
    for (ran, half) in at_once(&store, &halves).into_iter().zip(ids.chunks(50)) {
        ran.expect(0, &(half.join("\n") + "\n"), "");
    }
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    check_ended(&store, &all);
    store.check_no_layers();
    store.ok(&[vec!["rm"], all].concat());
    store.check_at_rest();
}

/// Several commands on one container at once: it runs once, it ends once, and each says what is.
pub fn one_container() {
    let store = store();
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = store.ok(&["create", "--name", "job", SHELL, "sh", "-c", script]);
    let id = id.trim_end();
    for _ in 0..4 {
        for ran in at_once(&store, &vec![vec!["start", "job"]; 4]) {
            ran.expect(0, "job\n", "");
        }
        // The shell, and what it waits for.
        crate::harness::wait_until("it sleeps", || cgroups::members(id).len() == 2);
        assert_eq!(mounts_below(store.root()).len(), 1);
        for ran in at_once(&store, &vec![vec!["stop", "job"]; 4]) {
            ran.expect(0, "job\n", "");
        }
        check_ended(&store, &[id]);
        assert_eq!(exit_code(&store, "job"), 9);
    }
    // Whoever comes second finds it ended.
    for _ in 0..4 {
        store.ok(&["start", "job"]);
        let ran = at_once(
            &store,
            &[
                vec!["stop", "job"],
                vec!["kill", "job"],
                vec!["wait", "job"],
            ],
        );
        ran[0].expect(0, "job\n", "");
        assert!(
            ran[1].code == Some(0) || ran[1].stderr.contains("is not running"),
            "{ran:?}"
        );
        let code = exit_code(&store, "job");
        assert!([0, 2, 9, 137].contains(&code), "{code}");
        ran[2].expect(0, &format!("{code}\n"), "");
        check_ended(&store, &[id]);
    }
    for _ in 0..4 {
        store.ok(&["start", "job"]);
        let ran = at_once(
            &store,
            &[
                vec!["pause", "job"],
                vec!["stop", "-t", "2", "job"],
                vec!["exec", "job", "true"],
            ],
        );
        ran[1].expect(0, "job\n", "");
        // What was started in it before its end is killed with it, and says no more than that.
        let is_killed = ran[2].code == Some(137);
        for (other, may_be_silent) in [(&ran[0], false), (&ran[2], is_killed)] {
            assert!(
                other.code == Some(0) || may_be_silent || !other.stderr.is_empty(),
                "{other:?}"
            );
        }
        // A runtime that was called a moment too late makes its directory anew: it goes with the next.
        store.ok(&["start", "job"]);
        store.ok(&["kill", "job"]);
        check_ended(&store, &[id]);
    }
    // One starts it while another removes it.
    for round in 0..6 {
        let name = format!("other{round}");
        let id = store.ok(&["create", "--name", &name, SHELL, "sleep", "1000"]);
        let ran = at_once(&store, &[vec!["start", &name], vec!["rm", "-f", &name]]);
        assert!(ran.iter().any(|r| r.code == Some(0)), "{ran:?}");
        store.run(&["rm", "-f", &name]);
        check_ended(&store, &[id.trim_end()]);
    }
    assert_eq!(store.json(&["ps", "-a"]).len(), 1);
    store.ok(&["rm", "job"]);
    store.check_at_rest();
}

/// Many enter one at once, and leave it as it was.
pub fn many_enter_one() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    let before = cgroups::members(&id);
    let commands: Vec<Vec<&str>> =
        vec![vec!["exec", "job", "sh", "-c", "echo $$; sleep 0.2; exit 3"]; 10];
    let mut seen = Vec::new();
    for ran in at_once(&store, &commands) {
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(3), ""));
        seen.push(ran.stdout);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10, "each is a process of its own: {seen:?}");
    assert_eq!(cgroups::members(&id), before);
    store.ok(&["rm", "-f", "job"]);
    check_ended(&store, &[&id]);
    store.check_at_rest();
}

/// One name is given to one container, whoever is first; the others say so and leave nothing.
pub fn one_name() {
    let store = store();
    for _ in 0..3 {
        let commands = vec![
            vec![
                "run",
                "-d",
                "--name",
                "job",
                "--stop-signal",
                "KILL",
                SHELL,
                "sleep",
                "1000"
            ];
            4
        ];
        let ran = at_once(&store, &commands);
        let (won, lost): (Vec<_>, Vec<_>) = ran.into_iter().partition(|r| r.code == Some(0));
        assert_eq!(won.len(), 1, "{lost:?}");
        for other in lost {
            assert_eq!((other.code, other.stdout.as_str()), (Some(125), ""));
            assert!(
                other.stderr.contains("is already in use by container"),
                "{other:?}"
            );
        }
        let id = text(&inspect(&store, "job"), "Id");
        assert_eq!(won[0].stdout, format!("{id}\n"));
        assert_eq!(store.json(&["ps", "-a"]).len(), 1);
        store.ok(&["rm", "-f", "job"]);
        check_ended(&store, &[&id]);
    }
    store.check_at_rest();
}

/// Containers are run while the image is removed and loaded again: each runs on whole layers, or is
/// told that there is no image.
pub fn runs_against_removals() {
    let store = Store::new();
    let (archive, _) = Archive::of(&shell(&[SHELL]));
    let file = store.beside("shell.tar");
    archive.write(&file);
    let file = file.to_str().unwrap();
    store.ok(&["load", "-i", file]);
    let (ran, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..12 {
                store.run(&["rmi", "-f", SHELL]);
                store.ok(&["load", "-i", file]);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let once = run(
                        &store,
                        &["--rm"],
                        "cat /data/one /etc/group | wc -l; exit 3",
                    );
                    match once.code {
                        Some(3) => {
                            assert_eq!(once.stdout, "4\n", "{once:?}");
                            ran.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => {
                            let gone = format!("Error: No such image: {SHELL}\n");
                            once.expect(125, "", &gone);
                        }
                    }
                }
            });
        }
    });
    assert!(ran.into_inner() > 0, "some ran");
    store.wait_for_servers_to_end();
    assert_eq!(store.ok(&["ps", "-aq"]), "");
    store.ok(&["rmi", SHELL]);
    store.check_no_layers();
    store.check_at_rest();
}
