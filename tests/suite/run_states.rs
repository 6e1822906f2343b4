//! The states of a container's process, and the commands that lead from one to the other: `stop`,
//! `kill`, `pause`, `unpause`, `wait`, `exec`, `logs`, `attach`, `rm`, `ps`.

use std::fs;
use std::time::Instant;

use serde_json::json;

use crate::harness::store::names_in;
use crate::harness::{Run, Store, cgroups, json_lines, number, process, text, wait_until};
use crate::run_support::{
    Background, SHELL, check_ended, detached, exit_code, idle, inspect, monitor, run, status,
    store, wait_for_log,
};

/// Its stop signal first, and what it answers; SIGKILL when it does not end.
pub fn stopped() {
    let store = store();
    let answers = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = detached(&store, &["--name", "job"], answers);
    wait_for_log(&store, &id, "up");
    store.run(&["stop", "job"]).expect(0, "job\n", "");
    // When it returns all is over.
    assert_eq!(store.ok(&["logs", "job"]), "up\nbye\n");
    assert_eq!(exit_code(&store, "job"), 9);
    check_ended(&store, &[&id]);
    // What is stopped, or never ran, is stopped.
    store.ok(&["create", "--name", "new", SHELL, "true"]);
    let ran = store.run(&["stop", "job", "nosuch", "new"]);
    ran.expect(1, "job\nnew\n", "Error: No such container: nosuch\n");
    assert_eq!(text(&inspect(&store, "new")["State"], "Status"), "created");

    let deaf = "trap '' TERM; echo up; while :; do sleep 1; done";
    for patience in ["0", "1"] {
        let id = detached(&store, &["--name", "deaf"], deaf);
        wait_for_log(&store, &id, "up");
        let begin = Instant::now();
        store
            .run(&["stop", "-t", patience, "deaf"])
            .expect(0, "deaf\n", "");
        let least: u64 = patience.parse().unwrap();
        assert!(
            begin.elapsed().as_secs() >= least,
            "not before its time is up"
        );
        assert_eq!(exit_code(&store, "deaf"), 137);
        check_ended(&store, &[&id]);
        store.ok(&["rm", "deaf"]);
    }
    // Its children go with it, whatever they ignore.
    let id = detached(
        &store,
        &[],
        "trap 'exit 0' TERM; sh -c 'trap \"\" TERM; while :; do sleep 1; done' & \
        echo up; while :; do sleep 1000 & wait; done",
    );
    wait_for_log(&store, &id, "up");
    assert!(cgroups::members(&id).len() > 1);
    store.ok(&["stop", &id]);
    check_ended(&store, &[&id]);
    // For ever is as long as it takes.
    let id = idle(&store, &["--name", "last"]);
    store
        .run(&["stop", "-t", "-1", "last"])
        .expect(0, "last\n", "");
    check_ended(&store, &[&id]);
}

/// Signals by name and number; those that are none; those for what does not run.
pub fn signalled() {
    let store = store();
    let script = "for s in TERM HUP USR1 USR2 INT; do trap \"echo $s\" $s; done; echo up; \
        while :; do sleep 0.05; done";
    let id = detached(&store, &["--name", "job"], script);
    wait_for_log(&store, &id, "up");
    let mut said = "up\n".to_owned();
    for (name, heard) in [
        ("TERM", "TERM"),
        ("1", "HUP"),
        ("SIGUSR1", "USR1"),
        ("sigusr2", "USR2"),
        ("int", "INT"),
    ] {
        store
            .run(&["kill", "-s", name, "job"])
            .expect(0, "job\n", "");
        said += &format!("{heard}\n");
        wait_until("it has heard", || store.ok(&["logs", "job"]) == said);
    }
    for name in ["BOGUS", "SIGBOGUS", "0", "65", "-1", ""] {
        let ran = store.run(&["kill", "-s", name, "job"]);
        ran.expect(1, "", &format!("Error: Invalid signal: {name}\n"));
    }
    assert_eq!(store.container_state(&id), "running");
    // Unknown signals are told before unknown containers.
    store
        .run(&["kill", "-s", "BOGUS", "nosuch"])
        .expect(1, "", "Error: Invalid signal: BOGUS\n");
    store.run(&["kill", "job"]).expect(0, "job\n", "");
    assert_eq!(exit_code(&store, "job"), 137);
    check_ended(&store, &[&id]);
    let not_running = format!("Error: Cannot kill container: job: Container {id} is not running\n");
    store.run(&["kill", "job"]).expect(1, "", &not_running);
    let both =
        format!("Error: Cannot kill container: nosuch: No such container: nosuch\n{not_running}");
    store.run(&["kill", "nosuch", "job"]).expect(1, "", &both);
}

/// Frozen: nothing goes on, and what cannot be done says so in Docker's words; then it goes on.
pub fn paused() {
    let store = store();
    let script = "i=0; while :; do i=$((i+1)); echo $i >/data/n; sleep 0.01; done";
    let id = detached(&store, &["--name", "job"], script);
    let n = store
        .root()
        .join("containers")
        .join(&id)
        .join("upper/data/n");
    let count = || fs::read_to_string(&n).unwrap_or_default();
    wait_until("it counts", || !count().is_empty());
    store.run(&["pause", "job"]).expect(0, "job\n", "");
    assert!(cgroups::are_frozen(&id));
    let before = count();
    let (state, shown) = status(&store, &id);
    assert_eq!(state, "paused");
    assert!(
        shown.starts_with("Up ") && shown.ends_with(" (Paused)"),
        "{shown}"
    );
    let state = inspect(&store, "job")["State"].clone();
    assert_eq!(
        [&state["Status"], &state["Running"], &state["Paused"]],
        [&json!("paused"), &json!(true), &json!(true)]
    );
    let refused =
        |args: &[&str], why: &str| store.run(args).expect(1, "", &format!("Error: {why}\n"));
    let paused_for_exec = "Container job is paused, unpause the container before exec";
    refused(
        &["pause", "job"],
        &format!("Container {id} is already paused"),
    );
    refused(
        &["start", "job"],
        "cannot start a paused container, try unpause instead",
    );
    refused(&["exec", "job", "true"], paused_for_exec);
    refused(&["exec", "-d", "job", "true"], paused_for_exec);
    refused(
        &["attach", "job"],
        "You cannot attach to a paused container, unpause it first",
    );
    let removal = store.run(&["rm", "job"]);
    removal.refused_saying(&[
        "cannot remove container",
        "is paused and must be unpaused first",
    ]);
    assert_eq!(count(), before, "nothing goes on");
    store.run(&["unpause", "job"]).expect(0, "job\n", "");
    wait_until("it counts on", || count() != before && !count().is_empty());
    assert_eq!(store.container_state(&id), "running");
    refused(
        &["unpause", "job"],
        &format!("Container {id} is not paused"),
    );
    // One that is stopped or killed while it is paused ends as any other.
    let answers = "trap 'exit 9' TERM; echo up; while :; do sleep 1000 & wait; done";
    let ends: [(&[&str], u64); 3] = [
        (&["kill"], 137),
        (&["stop", "-t", "20"], 9),
        (&["kill", "-s", "TERM"], 9),
    ];
    for (end, code) in ends {
        let other = detached(&store, &["--name", "other"], answers);
        wait_for_log(&store, &other, "up");
        store.ok(&["pause", "other"]);
        let waits = Background::start(&mut store.command(&["wait", "other"]));
        store.ok(&[end, &["other"]].concat());
        waits.finish().expect(0, &format!("{code}\n"), "");
        assert_eq!(exit_code(&store, "other"), code);
        check_ended_but(&store, &other);
        store.ok(&["rm", "other"]);
    }
    store.ok(&["pause", "job"]);
    store.run(&["rm", "-f", "job"]).expect(0, "job\n", "");
    check_ended(&store, &[&id]);
    let new = store.ok(&["create", "--name", "new", SHELL, "true"]);
    let new = new.trim_end();
    refused(
        &["pause", "new"],
        &format!("Container {new} is not running"),
    );
    refused(
        &["unpause", "new"],
        &format!("Container {new} is not paused"),
    );
    let ran = store.run(&["pause", "nosuch", "new"]);
    assert_eq!(ran.stderr.lines().count(), 2, "{ran:?}");
    store.check_at_rest();
}

/// As `check_ended`, while another container runs.
#[track_caller]
fn check_ended_but(store: &Store, container: &str) {
    assert_eq!(
        cgroups::directories(container),
        Vec::<std::path::PathBuf>::new()
    );
    assert_eq!(store.container_state(container), "exited");
}

/// Those who wait are told the exit code when it has ended, also when it goes with its end.
pub fn waited_for() {
    let store = store();
    let script = "trap 'exit 5' TERM; echo up; while :; do sleep 1000 & wait; done";
    let start = |args: &[&str]| Background::start(&mut store.command(args));
    for options in [&["--name", "job"][..], &["--rm", "--name", "goes"]] {
        let id = detached(&store, options, script);
        wait_for_log(&store, &id, "up");
        let name = *options.last().unwrap();
        let waiting: Vec<Background> = (0..3).map(|_| start(&["wait", name])).collect();
        // The monitor has a thread for each that it knows of.
        let tasks = format!("/proc/{}/task", monitor(&store, &id));
        wait_until("all wait", || {
            let known = names_in(tasks.as_ref()).into_iter();
            let comm = |task: String| fs::read_to_string(format!("{tasks}/{task}/comm"));
            known
                .filter_map(|t| comm(t).ok())
                .filter(|c| c == "input\n")
                .count()
                == 3
        });
        store.ok(&["stop", name]);
        for waits in waiting {
            waits.finish().expect(0, "5\n", "");
        }
        check_ended(&store, &[&id]);
    }
    store.run(&["wait", "job"]).expect(0, "5\n", "");
    store.ok(&["create", "--name", "new", SHELL, "true"]);
    let ran = store.run(&["wait", "new", "nosuch", "job"]);
    ran.expect(1, "0\n5\n", "Error: No such container: nosuch\n");
    // One that is removed by force.
    let id = idle(&store, &["--name", "other"]);
    let waits = start(&["wait", "other"]);
    store.ok(&["rm", "-f", &id]);
    let ended = waits.finish();
    assert!(
        ended.stdout == "137\n" || ended.stderr.contains("No such container"),
        "{ended:?}"
    );
}

/// One more process in it: its variables, user, directory and exit code; its end with the container's.
pub fn entered() {
    let store = store();
    let options = [
        "--name",
        "job",
        "-e",
        "A=of the container",
        "-u",
        "app",
        "-w",
        "/data",
        "--network",
        "none",
    ];
    let id = idle(&store, &options);
    let short = &id[..12];
    let exec = |options: &[&str], command: &[&str]| {
        let mut given = store.command(&[&["exec"], options, &["job"], command].concat());
        given.env("CALLERS", "own").env_remove("A");
        Run::of(&mut given)
    };
    exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7, "out\n", "err\n");
    exec(&[], &["sh", "-c", "kill -9 $$"]).expect(137, "", "");
    exec(&[], &["pwd"]).expect(0, "/data\n", "");
    exec(&[], &["id"]).expect(
        0,
        "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n",
        "",
    );
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = format!("{path}\nHOSTNAME={short}\nA=of the container\nHOME=/home/app\n");
    exec(&[], &["env"]).expect(0, &env, "");
    let env = format!("{path}\nHOSTNAME={short}\nA=b\nCALLERS=own\nHOME=/q\n");
    exec(
        &[
            "-e",
            "A=b",
            "-e",
            "CALLERS",
            "-e",
            "HOME=/q",
            "-e",
            "NOT_THERE",
        ],
        &["env"],
    )
    .expect(0, &env, "");
    // One that the caller does not have goes, as for `run`.
    exec(&["-e", "A"], &["sh", "-c", "echo ${A-none}"]).expect(0, "none\n", "");
    exec(&["-w", "/etc"], &["pwd"]).expect(0, "/etc\n", "");
    exec(&["-u", "0"], &["id"]).expect(0, "uid=0(root) gid=0(root) groups=0(root)\n", "");
    exec(&["-u", "root:extra"], &["id", "-g"]).expect(0, "2000\n", "");
    // It sees the container's processes, is bound by its limits, and may do what root may there.
    exec(
        &[],
        &[
            "sh",
            "-c",
            "[ -e /proc/1/status ] && [ $$ != 1 ] && hostname",
        ],
    )
    .expect(0, &format!("{short}\n"), "");
    let caps = exec(&["-u", "0"], &["grep", "CapEff", "/proc/self/status"]);
    assert_eq!(caps.stdout, "CapEff:\t00000000a80425fb\n");
    let cgroup = exec(&[], &["cat", "/proc/self/cgroup"]).ok();
    assert!(cgroup.contains(&format!("layerctl-{id}")), "{cgroup}");
    for (options, command, code, why) in [
        (
            &[][..],
            &["nosuch"][..],
            127,
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            &[],
            &["/nosuch"],
            127,
            "exec: \"/nosuch\": stat /nosuch: no such file or directory",
        ),
        (&[], &["/etc"], 126, "exec: \"/etc\": permission denied"),
        (
            &[],
            &["/etc/passwd"],
            126,
            "exec: \"/etc/passwd\": permission denied",
        ),
        (
            &["-u", "nosuch"],
            &["true"],
            126,
            "unable to find user nosuch: no matching entries in passwd file",
        ),
        (
            &["-u", "0:nosuch"],
            &["true"],
            126,
            "unable to find group nosuch: no matching entries in group file",
        ),
        (
            &["-w", "rel"],
            &["true"],
            126,
            "Cwd must be an absolute path",
        ),
    ] {
        let ran = exec(options, command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(
            ran.stderr.starts_with("Error: ") && ran.stderr.contains(why),
            "{ran:?}"
        );
    }
    let ran = exec(&["-w", "/nosuch"], &["pwd"]);
    assert!(
        ran.code != Some(0) && ran.stderr.contains("/nosuch"),
        "{ran:?}"
    );
    // By itself: it is not waited for.
    exec(
        &["-d"],
        &["sh", "-c", "sleep 0.2; echo x >/tmp/made; exit 3"],
    )
    .expect(0, "", "");
    wait_until("it has written", || {
        exec(&[], &["test", "-s", "/tmp/made"]).code == Some(0)
    });
    // Nothing of it is left in the container's directory.
    let left = names_in(&store.root().join("containers").join(&id).join("run"));
    assert!(
        !left.iter().any(|name| name.starts_with("exec")),
        "{left:?}"
    );
    // The end of the container is its end, too.
    let lasts =
        Background::start(&mut store.command(&["exec", "job", "sh", "-c", "echo up; sleep 1000"]));
    lasts.wait_for("up\n");
    store.ok(&["stop", "job"]);
    assert_eq!(lasts.finish().code, Some(137));
    check_ended(&store, &[&id]);
    let not_running = format!("Error: Container {id} is not running\n");
    exec(&[], &["true"]).expect(1, "", &not_running);
    store
        .run(&["exec", "nosuch", "true"])
        .expect(1, "", "Error: No such container: nosuch\n");
    assert_eq!(store.run(&["exec", "job"]).code, Some(2));
}

/// What it wrote, with times, from the end, or as it comes until the container ends.
pub fn logged() {
    let store = store();
    let script =
        "for i in 1 2 3; do echo o$i; sleep 0.02; echo e$i >&2; sleep 0.02; done; printf nonl";
    run(&store, &["--name", "job"], script).expect(0, "o1\no2\no3\nnonl", "e1\ne2\ne3\n");
    let (out, err) = ("o1\no2\no3\nnonl", "e1\ne2\ne3\n");
    let logs = |options: &[&str]| store.run(&[&["logs"], options, &["job"]].concat());
    logs(&[]).expect(0, out, err);
    logs(&["-f"]).expect(0, out, err);
    logs(&["--tail", "all"]).expect(0, out, err);
    logs(&["--tail", "-1"]).expect(0, out, err);
    logs(&["--tail", "2"]).expect(0, "nonl", "e3\n");
    logs(&["-n", "0"]).expect(0, "", "");
    logs(&["--since", "1h"]).expect(0, out, err);
    logs(&["--since", "2099-01-01T00:00:00Z"]).expect(0, "", "");
    logs(&["--since", "bogus"]).refused();
    let times = logs(&["-t"]);
    let mut all: Vec<(String, String)> = Vec::new();
    for line in times.stdout.lines().chain(times.stderr.lines()) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            time.len() == "2026-01-02T03:04:05.678901234Z".len() && time.ends_with('Z'),
            "{line}"
        );
        all.push((time.to_owned(), rest.to_owned()));
    }
    all.sort();
    let in_order: Vec<&str> = all.iter().map(|(_, rest)| rest.as_str()).collect();
    assert_eq!(in_order, ["o1", "e1", "o2", "e2", "o3", "e3", "nonl"]);
    let started = text(&inspect(&store, "job")["State"], "StartedAt");
    assert!(all[0].0.as_str() > &started[..19], "{started} {all:?}");
    // The next run goes on in it.
    store.ok(&["start", "-a", "job"]);
    assert_eq!(store.ok(&["logs", "job"]), format!("{out}{out}"));
    // Nothing yet.
    store.ok(&["create", "--name", "new", SHELL, "true"]);
    for options in [&[][..], &["-f"]] {
        store
            .run(&[&["logs"], options, &["new"]].concat())
            .expect(0, "", "");
    }
    store
        .run(&["logs", "nosuch"])
        .expect(1, "", "Error: No such container: nosuch\n");
    // As it comes, from the beginning or from now on; until the container ends.
    let script = "trap 'echo bye; exit 3' TERM; echo first; while :; do [ -e /data/go ] && rm /data/go && \
        echo second && echo err >&2; sleep 0.02; done";
    let id = detached(&store, &["--name", "lives"], script);
    wait_for_log(&store, &id, "first");
    let from_the_beginning = Background::start(&mut store.command(&["logs", "-f", "lives"]));
    from_the_beginning.wait_for("first\n");
    let from_now = Background::start(&mut store.command(&["logs", "-f", "--tail", "0", "lives"]));
    store.ok(&["exec", "lives", "touch", "/data/go"]);
    from_the_beginning.wait_for("second\n");
    store.ok(&["stop", "lives"]);
    from_the_beginning
        .finish()
        .expect(0, "first\nsecond\nbye\n", "err\n");
    let ended = from_now.finish();
    assert_eq!(ended.code, Some(0));
    assert!("second\nbye\n".ends_with(&ended.stdout), "{ended:?}");
    // The last that it wrote is there, however it ends.
    for end in ["kill", "rm"] {
        let id = detached(
            &store,
            &["--name", "dies"],
            "echo first; printf last; exec sleep 1000",
        );
        let follows = Background::start(&mut store.command(&["logs", "-f", "dies"]));
        follows.wait_for("last");
        match end {
            "kill" => store.ok(&["kill", "dies"]),
            _ => store.ok(&["rm", "-f", "dies"]),
        };
        assert_eq!(follows.finish().stdout, "first\nlast", "{end}");
        check_ended(&store, &[&id]);
        store.run(&["rm", "-f", "dies"]);
    }
}

/// Joined and left; its input is whose joined first, its output everybody's.
pub fn joined() {
    let store = store();
    let script = "trap 'echo bye >&2; exit 3' TERM; while :; do echo tick; sleep 0.02; done";
    let id = detached(&store, &["--name", "job"], script);
    let first = Background::start(&mut store.command(&["attach", "job"]));
    let second = Background::start(&mut store.command(&["start", "-a", "job"]));
    first.wait_for("tick\n");
    second.wait_for("tick\n");
    // Whoever goes takes nothing with him.
    process::kill_hard(second.pid());
    drop(second);
    let seen = first.out.lock().unwrap().len();
    wait_until("it goes on", || first.out.lock().unwrap().len() > seen);
    store.ok(&["stop", "job"]);
    let ended = first.finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), "bye\n"));
    check_ended(&store, &[&id]);
    let run = store.run(&["attach", "job"]);
    run.refused_saying(&["not", "running"]);
    store
        .run(&["attach", "nosuch"])
        .expect(1, "", "Error: No such container: nosuch\n");
}

/// What `ps`, `inspect` and `rm` make of each state.
pub fn shown_and_removed() {
    let store = store();
    let created = store.ok(&["create", "--name", "created", SHELL, "true"]);
    let created = created.trim_end();
    run(&store, &["--name", "exited"], "exit 3");
    let exited = text(&inspect(&store, "exited"), "Id");
    let running = idle(&store, &["--name", "running"]);
    let paused = idle(&store, &["--name", "paused"]);
    store.ok(&["pause", "paused"]);
    let names = |args: &[&str]| -> Vec<String> {
        json_lines(&store.ok(&[&["ps", "--format", "json"], args].concat()))
            .iter()
            .map(|row| text(row, "Names"))
            .collect()
    };
    assert_eq!(names(&[]), ["paused", "running"]);
    assert_eq!(names(&["-a"]), ["paused", "running", "exited", "created"]);
    for (id, state, begin, end) in [
        (created, "created", "Created", ""),
        (&exited, "exited", "Exited (3) ", " ago"),
        (&running, "running", "Up ", ""),
        (&paused, "paused", "Up ", " (Paused)"),
    ] {
        let (is, shown) = status(&store, id);
        assert_eq!(is, state);
        assert!(shown.starts_with(begin) && shown.ends_with(end), "{shown}");
        let row = store.container(id);
        assert_eq!([text(&row, "Image"), text(&row, "Names")], [SHELL, state]);
        assert_eq!(row["ImagePresent"], true);
        assert_eq!(text(&inspect(&store, id)["State"], "Status"), state);
        // What runs has a view, which the host sees.
        assert_eq!(
            text(&row, "Mountpoint").is_empty(),
            !["running", "paused"].contains(&state),
            "{row}"
        );
    }
    let row = store.container(&exited);
    assert_eq!(text(&row, "Command"), "\"sh -c 'exit 3'\"");
    let long = "echo a very long command here \"quoted\" that goes on";
    let id = store.ok(&["create", SHELL, "sh", "-c", long]);
    let row = store.container(id.trim_end());
    assert_eq!(text(&row, "Command"), "\"sh -c 'echo a very …\"");
    let full = &store.json(&["ps", "-a", "--no-trunc"])[0];
    let quoted = r#""sh -c 'echo a very long command here \"quoted\" that goes on'""#;
    assert_eq!(text(full, "Command"), quoted);
    store.ok(&["rm", id.trim_end()]);
    // By prefixes; ambiguous ones are told.
    store
        .run(&["exec", &running[..8], "echo", "hi"])
        .expect(0, "hi\n", "");
    for (name, words) in [
        ("running", "stop the container before removing"),
        ("paused", "must be unpaused first"),
    ] {
        store
            .run(&["rm", name])
            .refused_saying(&["cannot remove container", name, words]);
    }
    store
        .run(&["umount", "running"])
        .refused_saying(&["busy", "running"]);
    assert_eq!(store.container_state(&running), "running");
    store.run(&["mount", "running"]).refused();
    let ran = store.run(&["rm", "exited", "nosuch", "created"]);
    ran.expect(1, "exited\ncreated\n", "Error: No such container: nosuch\n");
    let ran = store.run(&["rm", "-f", "nosuch", "paused", "running"]);
    ran.expect(0, "paused\nrunning\n", "Error: No such container: nosuch\n");
    check_ended(&store, &[created, &exited, &running, &paused]);
    assert_eq!(names(&["-a"]), Vec::<String>::new());
    store.check_at_rest();
}

/// The monitor is told to end as a service is: so is the process, by its stop signal.
pub fn its_monitor_is_told_to_end() {
    let script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 1000 & wait; done";
    for is_paused in [false, true] {
        let store = store();
        let id = detached(&store, &["--name", "job"], script);
        wait_for_log(&store, &id, "up");
        if is_paused {
            store.ok(&["pause", "job"]);
        }
        let pid = rustix::process::Pid::from_raw(monitor(&store, &id)).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(store.ok(&["wait", "job"]), "9\n");
        check_ended(&store, &[&id]);
        assert_eq!(store.ok(&["logs", "job"]), "up\nbye\n");
        assert_eq!(number(&inspect(&store, "job")["State"], "ExitCode"), 9);
    }
}

/// Its process ends long before the last of what it wrote has been read.
pub fn entered_by_a_slow_reader() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = "seq 1 20000 >&2; touch /tmp/done";
    let mut command = store.command(&["exec", "job", "sh", "-c", script]);
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    // Nobody reads, until it has nothing more to say, and for as long as an impatient one would wait.
    wait_until("it has ended", || {
        store.run(&["exec", "job", "test", "-e", "/tmp/done"]).code == Some(0)
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut read = String::new();
    std::io::Read::read_to_string(&mut reader, &mut read).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(read.lines().last(), Some("20000"), "{} bytes", read.len());
    store.ok(&["stop", "job"]);
    check_ended(&store, &[&id]);
}

/// What is a pipe in place of a list of users stops the runtime for good; a signal ends the command.
pub fn entered_where_the_runtime_waits_for_ever() {
    let store = store();
    let id = idle(&store, &["--name", "job"]);
    let script = "mv /etc/passwd /etc/p && mkfifo /etc/passwd";
    store.ok(&["exec", "job", "busybox", "sh", "-c", script]);
    let enter = Background::start(&mut store.command(&["exec", "job", "true"]));
    wait_until("the runtime is at work", || {
        process::pids().into_iter().any(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("exec") && line.contains("--process") && line.contains(&id)
        })
    });
    enter.signal(rustix::process::Signal::TERM);
    let entered = enter.finish();
    assert_eq!(entered.code, Some(128 + 15), "{entered:?}");
    store.ok(&["kill", "job"]);
    check_ended(&store, &[&id]);
}
