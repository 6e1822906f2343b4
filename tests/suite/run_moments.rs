//! What comes at the very moment at which a container starts or ends: signals, other commands, the end of
//! the room on the disk. The moment is held by a runtime that waits, or by a lock.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::process::kill_hard;
use crate::harness::store::names_in;
use crate::harness::{LoopFs, Store, cgroups, text, wait_until};
use crate::run_support::{
    Background, SHELL, check_ended, detached, exit_code, idle, inspect, monitor, shell, store,
    wait_for_log,
};

/// Long enough for a command to do what it must not do.
const A_WHILE: Duration = Duration::from_millis(500);

/// An OCI runtime that waits at one step until it is told to go on.
struct Held {
    directory: PathBuf,
    program: String,
}

#[derive(Clone, Copy)]
enum When {
    Before,
    After,
}

impl Held {
    fn new(store: &Store, step: &str, when: When) -> Held {
        let directory = store.new_dir("held");
        let (before, after) = match when {
            When::Before => ("hold \"$@\"", ""),
            When::After => ("", "hold \"$@\""),
        };
        let script = format!(
            "#!/bin/sh
            PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
            runtime=$(command -v runc || command -v crun)
            hold() {{
                for word; do
                    if [ \"$word\" = {step} ]; then
                        : >{directory}/arrived
                        while ! [ -e {directory}/go ]; do sleep 0.01; done
                    fi
                done
            }}
            {before}
            $runtime \"$@\"
            code=$?
            {after}
            exit $code\n",
            directory = directory.display()
        );
        let program = directory.join("runtime");
        fs::write(&program, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        Held {
            program: program.to_str().expect("UTF-8").to_owned(),
            directory,
        }
    }

    #[track_caller]
    fn wait(&self) {
        let arrived = self.directory.join("arrived");
        wait_until("the runtime is at that step", || arrived.exists());
    }

    fn go_on(&self) {
        fs::write(self.directory.join("go"), "").unwrap();
    }

    /// `run` of a script by this runtime, in the background.
    fn run(&self, store: &Store, options: &[&str], script: &str) -> Background {
        let own = ["run", "--name", "job", "--runtime", &self.program];
        let args = [&own, options, &[SHELL, "sh", "-c", script]].concat();
        Background::start(&mut store.command(&args))
    }
}

fn state(store: &Store) -> String {
    text(&inspect(store, "job")["State"], "Status")
}

/// A signal that comes after the runtime has made the process and before that runs its program does not
/// hit the runtime's part of it. (The first process of a PID namespace ignores what it has no handler
/// for.)
pub fn signalled_before_it_runs() {
    let store = store();
    let held = Held::new(&store, "start", When::Before);
    let run = held.run(&store, &[], "echo ran; exit 3");
    held.wait();
    run.signal(Signal::TERM);
    store.ok(&["kill", "-s", "USR1", "job"]);
    sleep(A_WHILE);
    held.go_on();
    run.finish().expect(3, "ran\n", "");
    // SIGKILL needs no handler.
    store.ok(&["rm", "job"]);
    fs::remove_dir_all(&held.directory).unwrap();
    let held = Held::new(&store, "start", When::Before);
    let run = held.run(&store, &["-d"], "sleep 1000");
    held.wait();
    let kill = Background::start(&mut store.command(&["kill", "job"]));
    sleep(A_WHILE);
    held.go_on();
    assert_eq!(run.finish().code, Some(125));
    assert_eq!(kill.finish().code, Some(0));
    assert_eq!(state(&store), "created");
}

/// What would end a container waits until it has been started: its view may be in use where that is not to
/// be seen, and its process is on record nowhere.
pub fn ended_while_it_is_started() {
    for (command, code) in [
        (&["rm", "-f", "job"][..], 0),
        (&["stop", "-t", "0", "job"], 0),
        (&["kill", "job"], 0),
        (&["umount", "job"], 1),
    ] {
        let store = store();
        let held = Held::new(&store, "create", When::After);
        let run = held.run(&store, &["-d"], "sleep 1000");
        held.wait();
        let other = Background::start(&mut store.command(command));
        sleep(A_WHILE);
        held.go_on();
        // One that is killed may not have run its program yet.
        let run = run.finish();
        let id = run.stdout.trim_end();
        assert_eq!(other.finish().code, Some(code), "{command:?}");
        if code == 1 {
            store.ok(&["exec", "job", "true"]);
            store.ok(&["rm", "-f", "job"]);
        }
        check_ended(&store, &[id]);
        let left = if command[0] == "rm" || code == 1 {
            0
        } else {
            1
        };
        assert_eq!(store.json(&["ps", "-a"]).len(), left, "{command:?}");
    }
}

/// `--rm` of a container whose server is killed before its process runs.
pub fn removed_when_it_never_ran() {
    let store = store();
    for step in ["create", "start"] {
        let held = Held::new(&store, step, When::Before);
        let run = held.run(&store, &["--rm"], "true");
        held.wait();
        kill_hard(monitor(&store, "job"));
        assert_eq!(run.finish().code, Some(125), "{step}");
        held.go_on();
        let left = store.json(&["ps", "-a"]);
        assert!(left.is_empty(), "{step}: {left:?}");
        fs::remove_dir_all(&held.directory).unwrap();
    }
}

/// Between the end of a process and the record of it: `wait` waits for that, and others see that there is
/// no process any more.
pub fn its_end_is_not_on_record_yet() {
    let store = store();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = detached(&store, &["--name", "job"], script);
    wait_for_log(&store, &id, "up");
    let database = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.ok(&["kill", "-s", "TERM", "job"]);
    wait_until("its processes are gone", || {
        cgroups::directories(&id).is_empty()
    });
    let wait = Background::start(&mut store.command(&["wait", "job"]));
    let attach = Background::start(&mut store.command(&["attach", "--no-stdin", "job"]));
    for command in [
        &["exec", "job", "true"][..],
        &["exec", "-t", "job", "true"],
        &["pause", "job"],
    ] {
        let refused = format!("Error: Container {id} is not running\n");
        store.run(command).expect(1, "", &refused);
    }
    sleep(A_WHILE);
    database.execute_batch("COMMIT").unwrap();
    wait.finish().expect(0, "7\n", "");
    attach.finish().expect(7, "", "");
    assert_eq!(exit_code(&store, "job"), 7);
}

/// A server that is stopped does not pass signals on; that is what one is told.
pub fn its_monitor_is_stopped() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    let monitor = rustix::process::Pid::from_raw(monitor(&store, "job")).unwrap();
    rustix::process::kill_process(monitor, Signal::STOP).unwrap();
    let told = store.run(&["stop", "-t", "0", "job"]);
    rustix::process::kill_process(monitor, Signal::CONT).unwrap();
    told.refused_saying(&["does not answer: is it stopped?"]);
    store.ok(&["rm", "-f", "job"]);
    check_ended(&store, &[&id]);
}

/// Takes what room there is.
fn fill(disk: &Path) {
    let mut file = fs::File::options();
    let mut file = file
        .create(true)
        .append(true)
        .open(disk.join("filler"))
        .unwrap();
    for piece in [64 << 10, 1 << 10, 1] {
        while file.write_all(&vec![7; piece]).is_ok() {}
    }
}

/// How a process has ended is known even if there is no room to write that down.
pub fn it_ends_on_a_full_disk() {
    let disk = LoopFs::new(48);
    let store = Store::below(&disk.path());
    store.load(&shell(&[SHELL]));
    let script = "trap 'sleep 1; exit 7' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = detached(&store, &["--name", "job"], script);
    wait_for_log(&store, &id, "up");
    store.ok(&["kill", "-s", "TERM", "job"]);
    let run = store.root().join("containers").join(&id).join("run");
    fill(&disk.path());
    // What the end gives back somebody else takes, at once.
    let end = Instant::now() + Duration::from_secs(30);
    while run.exists() && Instant::now() < end {}
    fill(&disk.path());
    store.wait_for_servers_to_end();
    fs::remove_file(disk.path().join("filler")).unwrap();
    assert_eq!(state(&store), "exited");
    assert_eq!(exit_code(&store, "job"), 7);
}

/// A log that somebody has emptied while the disk is full does not grow back by what cannot be written.
pub fn its_log_is_emptied_on_a_full_disk() {
    let disk = LoopFs::new(48);
    let store = Store::below(&disk.path());
    store.load(&shell(&[SHELL]));
    let script = "seq 20000; echo up; while read line; do seq 20000; echo $line >&2; done";
    let mut command = store.command(&["run", "-i", "--name", "job", SHELL, "sh", "-c", script]);
    let mut run = Background::start(command.stdin(Stdio::piped()));
    run.wait_for("up\n");
    let mut input = run.stdin().unwrap();
    let id = text(&inspect(&store, "job"), "Id");
    let log = store.root().join("containers").join(id).join("output");
    let before = fs::metadata(&log).unwrap().len();
    assert!(before > 400_000, "{before}");
    fill(&disk.path());
    fs::File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    fill(&disk.path());
    input.write_all(b"more\n").unwrap();
    drop(input);
    assert_eq!(run.finish().code, Some(0));
    let after = fs::metadata(&log).unwrap().len();
    assert!(after < before / 2, "{after}");
}

/// Ctrl-C in a terminal is for all that has not left it: neither a server that has just been started dies of
/// it, nor is a container left that was to go.
pub fn interrupted_at_any_moment() {
    let store = store();
    let script = "trap 'exit 9' INT; sleep 1 & wait";
    for millis in (0..60).map(|n| n * 2) {
        let mut command = store.command(&["run", "--rm", SHELL, "sh", "-c", script]);
        let run = Background::start(std::os::unix::process::CommandExt::process_group(
            &mut command,
            0,
        ));
        sleep(Duration::from_millis(millis));
        let group = rustix::process::Pid::from_raw(run.pid()).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
        let run = run.finish();
        // Before it listens to signals it has made nothing; a shell that has no handler yet ignores it.
        let is_expected = run.signal == Some(2) || matches!(run.code, Some(0 | 9));
        assert!(is_expected && run.stderr.is_empty(), "{millis}: {run:#?}");
        let left = store.json(&["ps", "-a"]);
        assert!(left.is_empty(), "{millis}: {left:?}");
    }
    assert!(names_in(&store.root().join("containers")).is_empty());
}

/// Two commands that start a container at once: one does, the other sees that it runs.
pub fn started_twice_at_once() {
    let store = store();
    let held = Held::new(&store, "create", When::Before);
    let own = ["create", "--name", "job", "--runtime", &held.program];
    store.ok(&[&own[..], &[SHELL, "sleep", "1000"]].concat());
    let start = || Background::start(&mut store.command(&["start", "job"]));
    let first = start();
    held.wait();
    let second = start();
    sleep(A_WHILE);
    held.go_on();
    first.finish().expect(0, "job\n", "");
    second.finish().expect(0, "job\n", "");
    store.ok(&["rm", "-f", "job"]);
}

/// One who joined and does not read for longer than the monitor waits has all of the output all the same,
/// and the exit code, of a container that is gone by then.
pub fn ended_while_its_reader_lags() {
    let store = store();
    let sizes: Vec<usize> = (1..=11).map(|n| n * 18_000).collect();
    let readers: Vec<Background> = sizes
        .iter()
        .map(|size| {
            let script = format!("echo up; read x; sleep 1; head -c {size} /dev/zero; exit 6");
            let mut command = store.command(&["run", "--rm", "-i", SHELL, "sh", "-c", &script]);
            Background::start(command.stdin(Stdio::piped()))
        })
        .collect();
    let mut inputs = Vec::new();
    let mut stopped = Vec::new();
    for mut reader in readers {
        reader.wait_for("up");
        inputs.extend(reader.stdin());
        stopped.push(reader);
    }
    for (reader, input) in stopped.iter().zip(&mut inputs) {
        input.write_all(b"go\n").unwrap();
        // It has passed that on.
        sleep(Duration::from_millis(20));
        reader.signal(Signal::STOP);
    }
    sleep(Duration::from_secs(7));
    for (reader, size) in stopped.into_iter().zip(sizes) {
        reader.signal(Signal::CONT);
        let run = reader.finish();
        assert_eq!((run.code, run.stdout.len()), (Some(6), 3 + size), "{size}");
    }
}
