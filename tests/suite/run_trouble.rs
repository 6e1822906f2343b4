//! Running containers whose monitor is killed, whose machine was switched off, whose disk is full, or
//! for whom there is no runtime.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::store::{mounts_below, names_in};
use crate::harness::{
    LoopFs, Random, Run, Sleeper, Store, cgroups, number, process, text, wait_until,
};
use crate::run_support::{
    Background, SHELL, check_ended, exit_code, idle, inspect, monitor, run, shell, status, store,
    wait_for_log,
};

/// Nobody has anything of the store: neither open, nor as working or root directory.
#[track_caller]
fn check_no_users(store: &Store) {
    let dir = store.root().parent().unwrap();
    wait_until("nobody uses the store", || users_of(dir).is_empty());
}

fn users_of(dir: &Path) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for pid in process::pids() {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let mut paths: Vec<PathBuf> = ["cwd", "root"].into_iter().filter_map(link).collect();
        paths.extend(process::descriptors(pid));
        if paths.iter().any(|path| path.starts_with(dir)) {
            let name = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push((pid, name));
        }
    }
    found
}

/// Whichever command comes first finds it ended, with nothing left of it; it keeps what it wrote, and
/// starts again.
pub fn its_monitor_is_killed() {
    let store = store();
    let commands: [&[&str]; 5] = [
        &["ps", "-a"],
        &["images"],
        &["df"],
        &["start", "job"],
        &["rm", "job"],
    ];
    for command in commands {
        for is_paused in [false, true] {
            let id = idle(&store, &["--name", "job"]);
            store.ok(&["exec", "job", "sh", "-c", "echo own >/data/own; sync"]);
            let exec = [
                "exec",
                "job",
                "sh",
                "-c",
                "echo up; trap '' TERM; while :; do sleep 1; done",
            ];
            let exec = Background::start(&mut store.command(&exec));
            exec.wait_for("up\n");
            if is_paused {
                store.ok(&["pause", "job"]);
            }
            process::kill_hard(monitor(&store, &id));
            store.run(command).ok();
            if command[0] == "start" {
                assert_eq!(store.container_state(&id), "running");
                store
                    .run(&["exec", "job", "cat", "/data/own"])
                    .expect(0, "own\n", "");
                store.ok(&["stop", "job"]);
                check_ended(&store, &[&id]);
            } else {
                check_ended(&store, &[&id]);
                assert_eq!(exec.finish().code, Some(137));
            }
            if command[0] != "rm" {
                let (state, shown) = status(&store, &id);
                assert_eq!(state, "exited");
                let code = if command[0] == "start" { 0 } else { 137 };
                assert!(shown.starts_with(&format!("Exited ({code}) ")), "{shown}");
                store.ok(&["rm", "job"]);
            }
            check_no_users(&store);
        }
    }
    store.check_at_rest();
}

/// Whoever has joined, waits or follows the log when the monitor is killed comes to an end.
pub fn its_monitor_is_killed_under_others() {
    let store = store();
    let script = "trap '' TERM; echo up; while :; do sleep 1; done";
    let args = ["run", "--name", "job", SHELL, "sh", "-c", script];
    let start = |args: &[&str]| Background::start(&mut store.command(args));
    let ran = start(&args);
    ran.wait_for("up\n");
    let (waits, follows, attached) = (
        start(&["wait", "job"]),
        start(&["logs", "-f", "job"]),
        start(&["attach", "job"]),
    );
    follows.wait_for("up\n");
    wait_until("it has joined", || {
        store.ok(&["exec", "job", "sh", "-c", "echo hello >/proc/1/fd/1"]);
        !attached.out.lock().unwrap().is_empty()
    });
    let stops = start(&["stop", "-t", "-1", "job"]);
    let id = text(&inspect(&store, "job"), "Id");
    process::kill_hard(monitor(&store, &id));
    assert_eq!(ran.finish().code, Some(137));
    assert_eq!(attached.finish().code, Some(137));
    waits.finish().expect(0, "137\n", "");
    assert_eq!(follows.finish().code, Some(0));
    // It had not begun, or was at it.
    assert_eq!(stops.finish().stdout, "job\n");
    check_ended(&store, &[&id]);
    check_no_users(&store);
}

/// The process that serves a container's view, as soon as there is one.
fn server_of(container: &str) -> Option<i32> {
    process::pids().into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.contains(&&b"serve"[..]) && words.contains(&container.as_bytes())
    })
}

/// Killed at any moment of its start and its end: the next command finds nothing left over, and the
/// container starts.
pub fn killed_at_any_moment() {
    let store = store();
    let id = store.ok(&[
        "create",
        "--name",
        "job",
        "--stop-signal",
        "KILL",
        SHELL,
        "sleep",
        "1000",
    ]);
    let id = id.trim_end();
    let mut random = Random::new(11);
    let mut moment = |most: u64| Duration::from_micros(random.bits() % (most * 1000));
    for round in 0..20 {
        let starts = Background::start(&mut store.command(&["start", "job"]));
        let mut server = None;
        wait_until("there is a server", || {
            server = server_of(id);
            server.is_some()
        });
        std::thread::sleep(moment(120));
        process::kill_hard(server.unwrap());
        let started = starts.finish();
        store.ok(&["ps", "-a"]);
        check_ended(&store, &[id]);
        check_no_users(&store);
        let (state, shown) = status(&store, id);
        assert!(
            state == "created" || shown.starts_with("Exited (137) "),
            "{round}: {shown} {started:?}"
        );
    }
    for round in 0..10 {
        store.ok(&["start", "job"]);
        let server = monitor(&store, id);
        let end = if round % 2 == 0 { "stop" } else { "kill" };
        let stops = Background::start(&mut store.command(&[end, "job"]));
        std::thread::sleep(moment(60));
        process::kill_hard(server);
        stops.finish();
        store.ok(&["ps", "-a"]);
        check_ended(&store, &[id]);
        check_no_users(&store);
        assert!(status(&store, id).1.starts_with("Exited (137) "), "{round}");
    }
    store.ok(&["start", "job"]);
    store.ok(&["stop", "job"]);
    store.check_at_rest();
}

/// The commands are killed instead, at any moment: what they began either is there or is not.
pub fn commands_killed_at_any_moment() {
    let store = store();
    let mut random = Random::new(12);
    for round in 0..24 {
        let name = format!("job{round}");
        let args = [
            "run",
            "-d",
            "--name",
            &name,
            "--stop-signal",
            "KILL",
            SHELL,
            "sleep",
            "1000",
        ];
        let runs = Background::start(&mut store.command(&args));
        std::thread::sleep(Duration::from_micros(random.bits() % 150_000));
        process::kill_hard(runs.pid());
        drop(runs);
        let known = store.json(&["ps", "-a"]);
        if known.iter().any(|row| text(row, "Names") == name) {
            let id = text(&inspect(&store, &name), "Id");
            // Its server may still be at it.
            wait_until("it runs, or not", || {
                server_of(&id).is_none() || store.container_state(&id) == "running"
            });
            let removes = Background::start(&mut store.command(&["rm", "-f", &name]));
            std::thread::sleep(Duration::from_micros(random.bits() % 40_000));
            process::kill_hard(removes.pid());
            drop(removes);
            store.run(&["rm", "-f", &name]);
            check_ended(&store, &[&id]);
        }
    }
    assert_eq!(store.ok(&["ps", "-aq"]), "");
    // What was cut short may have left files of containers that are no more.
    store.ok(&["gc"]);
    check_no_users(&store);
    store.check_at_rest();
}

/// All processes and mounts are gone, and their numbers are others'; what is on disk says they run.
pub fn after_a_reboot() {
    let store = store();
    let running = idle(&store, &["--name", "job"]);
    store.ok(&["exec", "job", "sh", "-c", "echo own >/data/own; sync"]);
    let goes = idle(&store, &["--rm"]);
    let paused = idle(&store, &["--name", "paused"]);
    store.ok(&["pause", "paused"]);
    let ids = [running.as_str(), &goes, &paused];
    // Looking at one buries another that is dead.
    let monitors = ids.map(|id| monitor(&store, id));
    monitors.into_iter().for_each(process::kill_hard);
    store.end_all();
    for id in ids {
        let dir = store.root().join("containers").join(id);
        let left = names_in(&dir.join("run"));
        assert!(
            left.contains(&"config.json".to_owned()),
            "{left:?} {:?}",
            names_in(&dir)
        );
        assert_eq!(cgroups::directories(id), Vec::<PathBuf>::new());
    }
    // The IDs on record are those of others by now.
    let mut innocent = [
        Sleeper::working_in(Path::new("/")),
        Sleeper::working_in(Path::new("/")),
    ];
    let db = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
    db.execute(
        "UPDATE views SET pid = ?, process = ?",
        (innocent[0].pid(), innocent[1].pid()),
    )
    .unwrap();
    drop(db);
    assert_eq!(store.json(&["ps"]).len(), 0);
    assert_eq!(store.json(&["ps", "-a"]).len(), 2);
    check_ended(&store, &ids);
    for name in ["job", "paused"] {
        assert_eq!(exit_code(&store, name), 137);
        store.ok(&["start", name]);
    }
    store
        .run(&["exec", "job", "cat", "/data/own"])
        .expect(0, "own\n", "");
    assert!(
        innocent.iter_mut().all(Sleeper::is_alive),
        "others come to no harm"
    );
    store.ok(&["stop", "job", "paused"]);
    check_ended(&store, &ids);
    store.check_at_rest();
}

/// A runtime directory that somebody has left there, and none, are all the same to the next start.
pub fn leftovers_in_its_directory() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    store.ok(&["stop", "job"]);
    let dir = store.root().join("containers").join(&id).join("run");
    fs::create_dir_all(dir.join("state").join(&id)).unwrap();
    fs::write(dir.join("state").join(&id).join("state.json"), "no JSON").unwrap();
    fs::write(dir.join("attach"), "no socket").unwrap();
    store.ok(&["start", "job"]);
    store
        .run(&["exec", "job", "echo", "alive"])
        .expect(0, "alive\n", "");
    store.ok(&["stop", "job"]);
    check_ended(&store, &[&id]);
    // A command of the user's, on a container that was ended by hand: by all that it has.
    store.ok(&["start", "job"]);
    let pid = number(&inspect(&store, "job")["State"], "Pid");
    process::kill_hard(i32::try_from(pid).unwrap());
    assert_eq!(store.ok(&["wait", "job"]), "137\n");
    check_ended(&store, &[&id]);
}

/// Nothing on PATH that could run it: said before anything is left, and all else works.
pub fn without_a_runtime() {
    let store = store();
    store.ok(&["create", "--name", "old", SHELL, "true"]);
    let nothing = store.new_dir("nothing");
    let hide = "mount --bind \"$0\" /usr/sbin && { [ ! -d /usr/local/sbin ] || mount --bind \"$0\" \
        /usr/local/sbin; } && { [ -L /sbin ] || mount --bind \"$0\" /sbin; } && export PATH=\"$0\" && exec \"$@\"";
    let without = |args: &[&str]| {
        let program = store.command(args);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", hide]).arg(&nothing);
        command.arg(program.get_program()).args(program.get_args());
        Run::of(command.env_remove("LAYERCTL_ROOT"))
    };
    let none = "Error: no OCI runtime found on PATH: install runc or crun";
    for (args, code) in [
        (&["run", "--name", "job", SHELL, "true"][..], 125),
        (&["run", "-d", "--rm", SHELL, "true"], 125),
        (&["start", "old"], 1),
        (&["start", "-a", "old"], 1),
    ] {
        let ran = without(args);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(
            ran.stderr.starts_with(none) && ran.stderr.lines().count() == 1,
            "{ran:?}"
        );
    }
    assert!(
        store
            .json(&["ps", "-a"])
            .iter()
            .all(|row| text(row, "State") == "created")
    );
    without(&["mount", "old"]).ok();
    store.ok(&["umount", "--lazy", "old"]);
    store.wait_for_servers_to_end();
    store.ok(&["start", "old"]);
    store.ok(&["wait", "old"]);
    let all = store.ok(&["ps", "-aq", "--no-trunc"]);
    check_ended(&store, &all.lines().collect::<Vec<_>>());
}

/// Runtimes that are none, that fail, say nothing, or leave no process.
pub fn runtimes_that_fail() {
    let store = store();
    let script = |name: &str, text: &str, mode: u32| {
        let path = store.beside(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let log = "while [ $1 != --log ]; do shift; done; ";
    let says = format!(
        "#!/bin/sh\n{log}echo '{{\"level\":\"error\",\"msg\":\"it is\\\\nbroken\"}}' >$2; exit 1\n"
    );
    for (path, parts) in [
        (
            script("plain", "x", 0o644),
            &["unknown or invalid runtime name", "plain"][..],
        ),
        (
            script("fails", "#!/bin/sh\nexit 3\n", 0o755),
            &["OCI runtime create failed", "exit status: 3"],
        ),
        (
            script("says", &says, 0o755),
            &["OCI runtime create failed: it is\\nbroken"],
        ),
        (
            script("dies", "#!/bin/sh\nkill -9 $$\n", 0o755),
            &["OCI runtime create failed", "signal: 9"],
        ),
        (
            script("nothing", "#!/bin/sh\nexit 0\n", 0o755),
            &["cannot run the OCI runtime", "nothing"],
        ),
    ] {
        let ran = store.run(&["run", "--name", "job", "--runtime", &path, SHELL, "true"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        for part in parts {
            assert!(ran.stderr.contains(part), "{part} in {ran:?}");
        }
        for id in store.ok(&["ps", "-aq", "--no-trunc"]).lines() {
            assert_eq!(store.container_state(id), "created");
            check_ended(&store, &[id]);
            store.ok(&["rm", id]);
        }
    }
    check_no_users(&store);
    store.check_at_rest();
}

/// Not a byte is left on the disk: the process is told when it writes, its output is shown though it is
/// not kept, and it can be stopped and removed.
pub fn on_a_full_disk() {
    let disk = LoopFs::new(64);
    let store = Store::below(&disk.path());
    store.load(&shell(&[SHELL]));
    let script = "trap 'echo bye; exit 9' TERM; echo up; while :; do [ -e /dev/shm/go ] && rm /dev/shm/go && \
        echo said; sleep 0.02; done";
    let args = ["run", "--name", "job", SHELL, "sh", "-c", script];
    let job = Background::start(&mut store.command(&args));
    job.wait_for("up\n");
    wait_for_log(&store, "job", "up");
    let id = text(&inspect(&store, "job"), "Id");
    let enter = Background::start(
        store
            .command(&["exec", "-i", "job", "sh"])
            .stdin(Stdio::piped()),
    );
    let fill = || {
        let filler = disk.path().join("filler");
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(filler)
            .unwrap();
        for piece in [1 << 20, 1 << 10, 1] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
        file.sync_all().unwrap();
    };
    fill();
    let mut enter = enter;
    let mut keys = enter.stdin().unwrap();
    keys.write_all(b"dd if=/dev/zero of=/data/x bs=100000 count=1 || echo refused\n")
        .unwrap();
    enter.wait_for("refused\n");
    fill();
    keys.write_all(b"touch /dev/shm/go; echo touched\n")
        .unwrap();
    enter.wait_for("touched\n");
    job.wait_for("said\n");
    drop(keys);
    let entered = enter.finish();
    assert!(
        entered.stderr.contains("No space left on device"),
        "{entered:?}"
    );
    // It goes on; what can be said is said in a line.
    assert_eq!(store.container_state(&id), "running");
    let ran = store.run(&["exec", "job", "true"]);
    assert!(
        ran.code == Some(0) || ran.stderr.contains("No space left on device"),
        "{ran:?}"
    );
    store.run(&["stop", "job"]).expect(0, "job\n", "");
    assert_eq!(job.finish().code, Some(9));
    assert_eq!(exit_code(&store, "job"), 9);
    check_ended(&store, &[&id]);
    let ran = store.run(&["start", "job"]);
    assert!(
        ran.code == Some(0) || ran.stderr.contains("No space left on device"),
        "{ran:?}"
    );
    store.ok(&["stop", "job"]);
    fs::remove_file(disk.path().join("filler")).unwrap();
    // The log has what fitted in, in whole lines.
    let logged = store.ok(&["logs", "job"]);
    assert!(
        logged.starts_with("up\n") && logged.ends_with('\n'),
        "{logged:?}"
    );
    store.ok(&["start", "job"]);
    store.ok(&["rm", "-f", "job"]);
    check_ended(&store, &[&id]);
    store.check_at_rest();
}

/// A process that fills the disk with what it says is not held up by it.
pub fn a_log_that_does_not_fit() {
    let disk = LoopFs::new(48);
    let store = Store::below(&disk.path());
    store.load(&shell(&[SHELL]));
    let script =
        "yes 0123456789012345678901234567890123456789 | head -c 60000000; echo; echo end; exit 3";
    let mut command = store.command(&["run", "--name", "job", SHELL, "sh", "-c", script]);
    let elsewhere = tempfile::tempfile().unwrap();
    let mut seen = elsewhere.try_clone().unwrap();
    let status = command.stdout(elsewhere).status().unwrap();
    assert_eq!(status.code(), Some(3));
    seen.rewind().unwrap();
    let mut all = Vec::new();
    seen.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 60_000_000 + "\nend\n".len());
    assert!(all.ends_with(b"\nend\n"));
    assert_eq!(exit_code(&store, "job"), 3);
    let logged = store.ok(&["logs", "job"]);
    assert!(
        logged.len() > 10_000_000 && logged.len() < all.len(),
        "{}",
        logged.len()
    );
    let id = text(&inspect(&store, "job"), "Id");
    check_ended(&store, &[&id]);
    store.ok(&["rm", "job"]);
    store.check_at_rest();
}

/// Something outside has the container's view or its output: it ends all the same.
pub fn held_from_outside() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    let merged = store.root().join("containers").join(&id).join("merged");
    assert_eq!(mounts_below(store.root()), std::slice::from_ref(&merged));
    let sleeper = Sleeper::working_in(&merged.join("data"));
    store.run(&["stop", "job"]).expect(0, "job\n", "");
    assert_eq!(mounts_below(store.root()), Vec::<PathBuf>::new());
    assert_eq!(exit_code(&store, "job"), 0);
    assert!(cgroups::directories(&id).is_empty());
    // As of a view that was detached: it is shown, and it cannot start until that goes.
    assert!(store.run(&["start", "job"]).code == Some(1));
    sleeper.end();
    check_ended(&store, &[&id]);
    store.ok(&["start", "job"]);
    store.ok(&["stop", "job"]);
    check_ended(&store, &[&id]);
    // What a daemon in it has inherited keeps nobody waiting: the first process's end is the end.
    let ran = run(
        &store,
        &["--name", "leaves"],
        "sleep 1000 & echo bye; exit 4",
    );
    ran.expect(4, "bye\n", "");
    let id = text(&inspect(&store, "leaves"), "Id");
    check_ended(&store, &[&id]);
}
