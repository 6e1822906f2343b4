//! `run`: what the process is given and gives back, and how the command ends with it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::harness::store::names_in;
use crate::harness::{Image, Layer, Store, cgroups, noise, number, process, text, wait_until};
use crate::run_support::{
    Background, SHELL, check_ended, exit_code, idle, inspect, monitor, run, shell, status, store,
    wait_for_log,
};

/// Its output on the streams to which it belongs, its exit code as ours; both are kept.
pub fn in_the_foreground() {
    let store = store();
    let ran = run(&store, &["--name", "job"], "echo out; echo err >&2; exit 7");
    ran.expect(7, "out\n", "err\n");
    store.run(&["logs", "job"]).expect(0, "out\n", "err\n");
    let id = text(&inspect(&store, "job"), "Id");
    let (state, shown) = status(&store, &id);
    assert_eq!(state, "exited");
    assert!(shown.starts_with("Exited (7) "), "{shown}");
    let state = inspect(&store, "job")["State"].clone();
    assert_eq!(number(&state, "ExitCode"), 7);
    assert_eq!(number(&state, "Pid"), 0);
    let (started, finished) = (text(&state, "StartedAt"), text(&state, "FinishedAt"));
    assert!(started < finished, "{state}");
    check_ended(&store, &[&id]);
    // Only the last eight bits, as everywhere.
    assert_eq!(run(&store, &["--rm"], "exit 300").code, Some(44));
    // Nothing waits on a standard input that nobody gave.
    run(&store, &["--rm"], "cat; echo end").expect(0, "end\n", "");
    store.check_at_rest();
}

/// What a signal ends exits with 128 and its number.
pub fn killed_by_a_signal() {
    let store = store();
    let args = [
        "run",
        "--name",
        "job",
        SHELL,
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ];
    let job = Background::start(&mut store.command(&args));
    job.wait_for("up\n");
    store.run(&["kill", "job"]).expect(0, "job\n", "");
    let ended = job.finish();
    assert_eq!((ended.code, ended.signal), (Some(137), None), "{ended:?}");
    assert_eq!(exit_code(&store, "job"), 137);
    let id = text(&inspect(&store, "job"), "Id");
    check_ended(&store, &[&id]);
}

/// `-d` prints the ID and returns; the process goes on, in a view of its own.
pub fn detached_from_it() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    assert_eq!(store.container_state(&id), "running");
    assert_eq!(store.ok(&["ps", "-q"]), format!("{}\n", &id[..12]));
    let state = inspect(&store, "job")["State"].clone();
    let pid = i32::try_from(number(&state, "Pid")).unwrap();
    assert!(cgroups::members(&id).contains(&pid), "{state}");
    assert_ne!(number(&state, "Pid"), number(&state, "ServerPid"));
    store.run(&["stop", "job"]).expect(0, "job\n", "");
    check_ended(&store, &[&id]);
    assert_eq!(exit_code(&store, "job"), 0);
    store.run(&["rm", "job"]).expect(0, "job\n", "");
    store.check_at_rest();
}

/// A container that is to go goes with its process, however that ends; and with its files.
pub fn removed_at_its_end() {
    let store = store();
    let gone = |what: &str| {
        store.wait_for_servers_to_end();
        assert_eq!(store.ok(&["ps", "-aq"]), "", "{what}");
        let left = names_in(&store.root().join("containers"));
        assert!(left.is_empty(), "{what}: {left:?}");
    };
    run(&store, &["--rm"], "echo hi >/data/new; exit 3").expect(3, "", "");
    gone("its process ended");
    let id = idle(&store, &["--rm"]);
    store.ok(&["stop", &id]);
    check_ended(&store, &[&id]);
    gone("it was stopped");
    let id = idle(&store, &["--rm"]);
    store.ok(&["rm", "-f", &id]);
    check_ended(&store, &[&id]);
    gone("it was removed by force");
    assert_eq!(store.run(&["run", "--rm", SHELL, "nosuch"]).code, Some(127));
    gone("its program is not there");
    let id = idle(&store, &["--rm"]);
    process::kill_hard(monitor(&store, &id));
    assert_eq!(store.ok(&["ps", "-aq"]), "", "its monitor was killed");
    check_ended(&store, &[&id]);
    gone("its monitor was killed");
    store.check_at_rest();
}

/// What a runtime says of a program, and the exit codes that Docker has for it. The container is
/// there, as it was before.
pub fn programs_that_cannot_run() {
    let store = store();
    let created = "Error: OCI runtime create failed: runc create failed: unable to start container \
                   process: exec: ";
    for (program, code, why) in [
        (
            "nosuch",
            127,
            "\"nosuch\": executable file not found in $PATH",
        ),
        ("", 127, "\"\": executable file not found in $PATH"),
        (
            "/nosuch",
            127,
            "\"/nosuch\": stat /nosuch: no such file or directory",
        ),
        (
            "./nosuch",
            127,
            "\"./nosuch\": stat ./nosuch: no such file or directory",
        ),
        ("/etc", 126, "\"/etc\": permission denied"),
        ("/etc/passwd", 126, "\"/etc/passwd\": permission denied"),
    ] {
        let text_of = format!("{created}{why}\n");
        store
            .run(&["run", "--rm", SHELL, program, "x"])
            .expect(code, "", &text_of);
        // Detached it has an ID all the same.
        let ran = store.run(&["run", "-d", "--name", "job", SHELL, program]);
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (Some(code), text_of.as_str())
        );
        let id = ran.stdout.trim_end();
        assert_eq!(id.len(), 64, "{ran:?}");
        assert_eq!(status(&store, id), ("created".into(), "Created".into()));
        let state = inspect(&store, id)["State"].clone();
        assert_eq!(number(&state, "ExitCode"), u64::try_from(code).unwrap());
        assert_eq!(text(&state, "Error"), text_of["Error: ".len()..].trim_end());
        // Only `run` has these codes.
        store.run(&["start", "job"]).expect(1, "", &text_of);
        store.run(&["start", "-a", "job"]).expect(1, "", &text_of);
        store.run(&["stop", "job"]).expect(0, "job\n", "");
        check_ended(&store, &[id]);
        store.ok(&["rm", "job"]);
    }
    // This is seen only when its process becomes the program: it has run, and ended.
    store
        .run(&["run", "--name", "job", SHELL, "/bin/badscript"])
        .expect(1, "", "exec /bin/badscript: no such file or directory\n");
    let id = text(&inspect(&store, "job"), "Id");
    assert!(status(&store, &id).1.starts_with("Exited (1) "));
    store.check_at_rest();
}

/// What is refused before there is a process: 125, one line, and no container of it, but where Docker
/// leaves one as well.
pub fn refused() {
    let store = store();
    store.load(&Image::new(&["empty:1"], vec![]).config("Cmd", serde_json::json!(null)));
    let taken = store.ok(&["create", "--name", "taken", SHELL]);
    let taken = taken.trim_end();
    let missing = store.beside("missing");
    let bind = format!("{}:/m", missing.display());
    let in_use = format!(
        "Conflict. The container name \"/taken\" is already in use by container \"{taken}\". You have \
         to remove (or rename) that container to be able to reuse that name."
    );
    let no_source = format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        missing.display()
    );
    for (args, why, stays) in [
        (&["nosuch"][..], "No such image: nosuch:latest", false),
        (&["nosuch:v1", "true"], "No such image: nosuch:v1", false),
        (&["empty:1"], "No command specified", false),
        (&["--entrypoint", "", SHELL], "No command specified", false),
        (&["--name", "taken", SHELL], &in_use, false),
        (
            &["--name", "bad name", SHELL],
            "Invalid container name (bad name), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            false,
        ),
        (
            &["--name", "-a", SHELL],
            "Invalid container name (-a), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            false,
        ),
        (
            &["--stop-signal", "BOGUS", SHELL],
            "Invalid signal: BOGUS",
            false,
        ),
        (&["--stop-signal", "0", SHELL], "Invalid signal: 0", false),
        (
            &["-w", "rel", SHELL],
            "the working directory 'rel' is invalid, it needs to be an absolute path",
            false,
        ),
        (
            &["-e", "=x", SHELL],
            "invalid environment variable: =x",
            false,
        ),
        (
            &["-v", "/x:", SHELL],
            "invalid volume specification: '/x:'",
            false,
        ),
        (
            &["-v", "/x:rel", SHELL],
            "invalid volume specification: '/x:rel': invalid mount config for type \"bind\": invalid \
             mount path: 'rel' mount path must be absolute",
            false,
        ),
        (
            &["-v", "/x:/y:ro:z", SHELL],
            "invalid volume specification: '/x:/y:ro:z'",
            false,
        ),
        (
            &["--runtime", "no-such-runtime", SHELL],
            "unknown or invalid runtime name: no-such-runtime: no such program on PATH",
            false,
        ),
        (
            &["-u", "nosuch", SHELL, "id"],
            "unable to find user nosuch: no matching entries in passwd file",
            true,
        ),
        (
            &["-u", "1000:nosuch", SHELL, "id"],
            "unable to find group nosuch: no matching entries in group file",
            true,
        ),
        (
            &["-u", "-1", SHELL, "id"],
            "uids and gids must be in range 0-2147483647",
            true,
        ),
        (&["-v", &bind, SHELL, "id"], &no_source, false),
    ] {
        let ran = store.run(&[&["run"], args].concat());
        ran.expect(125, "", &format!("Error: {why}\n"));
        let all = store.ok(&["ps", "-aq", "--no-trunc"]);
        let new: Vec<&str> = all.lines().filter(|id| *id != taken).collect();
        assert_eq!(new.len(), usize::from(stays), "{args:?} leaves {new:?}");
        for id in new {
            assert_eq!(status(&store, id), ("created".into(), "Created".into()));
            check_ended(&store, &[id]);
            store.ok(&["rm", id]);
        }
    }
    // Of `create` all of these are plain failures.
    store
        .run(&["create", "--name", "taken", SHELL])
        .expect(1, "", &format!("Error: {in_use}\n"));
    // A terminal that is none is Docker's 1.
    for args in [&["run", "-it", SHELL][..], &["run", "-it", "--rm", SHELL]] {
        store
            .run(args)
            .expect(1, "", "Error: the input device is not a TTY\n");
    }
    // Usage, as for every command.
    assert_eq!(store.run(&["run"]).code, Some(2));
    assert_eq!(store.run(&["run", "--bogus", SHELL]).code, Some(2));
    assert_eq!(store.ok(&["ps", "-aq", "--no-trunc"]), format!("{taken}\n"));
    store.check_at_rest();
}

/// All bytes that there are, in lines and not, reach whoever reads them and the log, each on its stream.
pub fn binary_output() {
    let store = Store::new();
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(noise(7, 300_000));
    bytes.extend(b"\r\n\n\0 no end of a line");
    let mut image = shell(&[SHELL]);
    image = image.layer(Layer::new().file("bytes", bytes.clone()));
    store.load(&image);
    let output = |args: &[&str]| store.command(args).output().unwrap();
    let args = [
        "run",
        "--name",
        "job",
        SHELL,
        "sh",
        "-c",
        "cat /bytes; cat /bytes /bytes >&2",
    ];
    let twice = [bytes.clone(), bytes.clone()].concat();
    let ran = output(&args);
    assert!(ran.status.success());
    assert!(ran.stdout == bytes && ran.stderr == twice, "to `run`");
    let logged = output(&["logs", "job"]);
    assert!(
        logged.stdout == bytes && logged.stderr == twice,
        "in the log"
    );
    let ran = output(&["start", "-a", "job"]);
    assert!(ran.stdout == bytes && ran.stderr == twice, "to `start -a`");
    store.ok(&["run", "-d", "--name", "idle", SHELL, "sleep", "1000"]);
    let ran = output(&[
        "exec",
        "idle",
        "sh",
        "-c",
        "cat /bytes; cat /bytes /bytes >&2",
    ]);
    assert!(ran.stdout == bytes && ran.stderr == twice, "to `exec`");
}

/// A hundred megabytes to somebody who takes his time: the process waits, and nothing is lost.
pub fn much_output_to_a_slow_reader() {
    let store = Store::new();
    let piece = noise(3, 4 << 20);
    let image = shell(&[SHELL]).layer(Layer::new().file("piece", piece.clone()));
    store.load(&image);
    let script = "i=0; while [ $i -lt 25 ]; do cat /piece; i=$((i+1)); done; echo done >/data/done";
    let args = ["run", "--name", "job", SHELL, "sh", "-c", script];
    let mut command = store.command(&args);
    let mut job = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = job.stdout.take().unwrap();
    let mut buffer = vec![0; piece.len()];
    for at in 0..25 {
        out.read_exact(&mut buffer).unwrap();
        assert!(buffer == piece, "piece {at}");
        if at == 1 {
            // While nobody reads it does not end: other commands take their time here.
            let upper = store.root().join("containers");
            store.ok(&["exec", "job", "true"]);
            assert_eq!(store.json(&["ps"]).len(), 1);
            let id = text(&inspect(&store, "job"), "Id");
            assert!(!upper.join(id).join("upper/data/done").exists());
        }
    }
    assert_eq!(out.read(&mut buffer).unwrap(), 0);
    assert!(job.wait().unwrap().success());
    // The log has it too, and is read by somebody who hashes.
    let hash = Command::new("sha256sum")
        .stdin(
            store
                .command(&["logs", "job"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
                .stdout
                .unwrap(),
        )
        .output()
        .unwrap();
    let mut expected = Sha256::new();
    (0..25).for_each(|_| expected.update(&piece));
    let expected: String = expected
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert!(String::from_utf8_lossy(&hash.stdout).starts_with(&expected));
}

/// Standard input reaches the process, all of it, and ends; one that does not read it ends all the same.
pub fn input() {
    let store = store();
    let feed = |args: &[&str], bytes: Vec<u8>| {
        let mut command = store.command(args);
        command.stdin(Stdio::piped());
        let mut job = Background::start(&mut command);
        let mut stdin = job.stdin().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).is_ok());
        let ended = job.finish();
        writer.join().unwrap();
        ended
    };
    let bytes = noise(4, 20 << 20);
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let sum = format!("{hash}  -\n");
    feed(&["run", "--rm", "-i", SHELL, "sha256sum"], bytes.clone()).expect(0, &sum, "");
    store.ok(&["run", "-d", "--name", "idle", SHELL, "sleep", "1000"]);
    feed(&["exec", "-i", "idle", "sha256sum"], bytes.clone()).expect(0, &sum, "");
    feed(
        &["run", "--rm", "-i", SHELL, "head", "-c", "3"],
        b"abcdef".to_vec(),
    )
    .expect(0, "abc", "");
    feed(&["run", "--rm", "-i", SHELL, "true"], bytes.clone()).expect(0, "", "");
    // A script; the shell reads it by and by.
    let script = "echo from-stdin; exit 9\n".to_owned().into_bytes();
    feed(&["run", "--rm", "-i", SHELL, "sh"], script).expect(9, "from-stdin\n", "");
    // Without -i it gets none.
    feed(&["run", "--rm", SHELL, "cat"], b"lost".to_vec()).expect(0, "", "");
    feed(&["exec", "idle", "cat"], b"lost".to_vec()).expect(0, "", "");
    // It comes as it is typed, not only at its end.
    let mut command = store.command(&["run", "--rm", "-i", SHELL, "cat"]);
    let mut job = Background::start(command.stdin(Stdio::piped()));
    let mut stdin = job.stdin().unwrap();
    for line in ["one\n", "two\n"] {
        stdin.write_all(line.as_bytes()).unwrap();
        job.wait_for(line);
    }
    drop(stdin);
    job.finish().expect(0, "one\ntwo\n", "");
}

/// The command that started it is only a spectator: when it is killed, or nobody reads what it
/// prints, the container goes on.
pub fn outlives_its_command() {
    let store = store();
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 1000 & wait; done";
    let job = Background::start(
        &mut store.command(&["run", "--name", "first", SHELL, "sh", "-c", script]),
    );
    job.wait_for("up\n");
    process::kill_hard(job.pid());
    drop(job);
    let id = text(&inspect(&store, "first"), "Id");
    assert_eq!(store.container_state(&id), "running");
    store
        .run(&["exec", "first", "echo", "alive"])
        .expect(0, "alive\n", "");
    store.ok(&["stop", "first"]);
    assert_eq!(exit_code(&store, "first"), 5);
    assert_eq!(store.ok(&["logs", "first"]), "up\nbye\n");

    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 6";
    let mut command = store.command(&["run", "--name", "second", SHELL, "sh", "-c", script]);
    let mut job = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 7];
    job.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"line 0\n");
    job.wait().unwrap();
    assert_eq!(store.ok(&["wait", "second"]), "6\n");
    let logged = store.ok(&["logs", "second"]);
    assert_eq!(logged.lines().count(), 20_000);
    let second = text(&inspect(&store, "second"), "Id");
    check_ended(&store, &[&id, &second]);
}

/// Signals for the command are signals for the process.
pub fn signals_are_passed_on() {
    let store = store();
    let script = "for s in TERM INT HUP QUIT USR1 USR2; do trap \"echo got $s\" $s; done; \
        trap 'echo got TERM; [ -e /data/end ] && exit 3' TERM; \
        echo up; while :; do sleep 0.05; done";
    let signals = [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
    ];
    let to = |job: &Background| {
        job.wait_for("up\n");
        for (name, signal) in signals {
            job.signal(signal);
            job.wait_for(&format!("got {name}\n"));
        }
        store.ok(&["exec", "job", "touch", "/data/end"]);
        job.signal(Signal::TERM);
    };
    // What it has to say of a signal is in the message of a failure.
    let start = |args: &[&str]| Background::start(store.command(args).env("LAYERCTL_LOG", "debug"));
    let job = start(&["run", "--name", "job", SHELL, "sh", "-c", script]);
    to(&job);
    assert_eq!(job.finish().code, Some(3));
    store.ok(&["start", "job"]);
    store.ok(&["exec", "job", "rm", "/data/end"]);
    let exec = start(&["exec", "job", "sh", "-c", script]);
    to(&exec);
    assert_eq!(exec.finish().code, Some(3));
    let attached = start(&["attach", "job"]);
    // It may not have joined yet.
    wait_until("it has joined", || {
        store.ok(&["exec", "job", "sh", "-c", "echo hello >/proc/1/fd/1"]);
        !attached.out.lock().unwrap().is_empty()
    });
    attached.signal(Signal::TERM);
    assert_eq!(attached.finish().code, Some(3));
}

/// The state of every process of this name that can be seen, `Z` for one that nobody waits for.
fn states_of(name: &str) -> Vec<char> {
    process::pids()
        .into_iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter_map(|stat| {
            let (head, tail) = stat.rsplit_once(") ")?;
            let is_it = head.split_once('(')?.1 == name;
            is_it.then(|| tail.chars().next()).flatten()
        })
        .collect()
}

/// Every process that a command starts is waited for, though the container's first one waits for none.
pub fn no_zombies() {
    let store = Store::new();
    let name = format!("undead-{}", std::process::id());
    let program = format!("/bin/{name}");
    // A script is known by its own name.
    let script = "#!/bin/sh\necho up\n[ \"$1\" = 0 ] && exit\nwhile :; do sleep 1000; done\n";
    let image = shell(&[SHELL]).layer(Layer::new().file(&program[1..], script).mode(0o755));
    store.load(&image);
    let args = ["run", "-d", "--name", "job", SHELL, &program, "1000"];
    store.ok(&args);
    wait_for_log(&store, "job", "up");
    assert_eq!(states_of(&name), ['S']);
    for options in [&[][..], &["-i"], &["-d"]] {
        store.ok(&[&["exec"], options, &["job", &program, "0"]].concat());
    }
    // One whose command is killed.
    let exec = Background::start(&mut store.command(&["exec", "job", &program, "1000"]));
    exec.wait_for("up\n");
    process::kill_hard(exec.pid());
    drop(exec);
    wait_until("no zombies", || !states_of(&name).contains(&'Z'));
    store.ok(&["kill", "job"]);
    wait_until("all have been waited for", || states_of(&name).is_empty());
    store
        .run(&["run", "--rm", SHELL, &program, "0"])
        .expect(0, "up\n", "");
    assert_eq!(states_of(&name), Vec::<char>::new());
    let id = text(&inspect(&store, "job"), "Id");
    check_ended(&store, &[&id]);
}
