//! Terminals: of `run`, `start`, `exec` and `attach`, with keys, sizes and Ctrl-C.

use crate::harness::{process, text, wait_until};
use crate::run_support::{SHELL, Terminal, check_ended, inspect, monitor, run, status, store};

/// A shell that says when it waits for keys, and what it got.
const READS: &str =
    "tty; stty size; echo err >&2; echo ready; read line; echo \"got $line\"; exit 4";

/// The process has a terminal of the size of ours; what is typed reaches it as it is, and is echoed by
/// it alone. Ours is then what it was.
pub fn keys_and_size() {
    let store = store();
    let args = [
        "run",
        "-it",
        "--name",
        "job",
        SHELL,
        "sh",
        "-c",
        "sleep 0.3; exec sh -c \"$0\"",
        READS,
    ];
    let mut terminal = Terminal::run(&store, &args, (30, 100));
    terminal.wait_for("ready\r\n");
    assert!(!terminal.is_cooked(), "keys go on as they are");
    terminal.keys("typed\r");
    assert_eq!(terminal.finish(), Some(4));
    assert!(terminal.is_cooked(), "it is what it was");
    terminal.wait_for("got typed\r\n");
    let seen = "/dev/pts/0\r\n30 100\r\nerr\r\nready\r\ntyped\r\ngot typed\r\n";
    assert_eq!(terminal.seen(), seen);
    // All of it is one stream, also in the log.
    store.run(&["logs", "job"]).expect(0, seen, "");
    // Once more, by `start`.
    let mut terminal = Terminal::run(&store, &["start", "-ai", "job"], (30, 100));
    terminal.wait_for("ready\r\n");
    terminal.keys("again\r");
    assert_eq!(terminal.finish(), Some(4));
    terminal.wait_for("got again\r\n");
    let id = text(&inspect(&store, "job"), "Id");
    assert!(status(&store, &id).1.starts_with("Exited (4) "));
    check_ended(&store, &[&id]);
}

/// Says its size whenever it is told that it has changed.
const WATCHES: &str = "trap 'stty size' WINCH; trap 'echo interrupted; exit 9' INT; echo ready; \
    while :; do sleep 0.05; done";

fn sizes_and_ctrl_c(args: &[&str], terminal: &mut Terminal) {
    terminal.wait_for("ready\r\n");
    terminal.resize((50, 120));
    terminal.wait_for("50 120\r\n");
    terminal.resize((20, 40));
    terminal.wait_for("20 40\r\n");
    terminal.keys("\x03");
    terminal.wait_for("interrupted\r\n");
    assert_eq!(terminal.finish(), Some(9), "{args:?}");
    assert!(terminal.is_cooked(), "{args:?}");
}

/// The window changes its size: so does the process's, and it is told. Ctrl-C is a key that the
/// process's own terminal makes a signal of.
pub fn sizes_and_interrupts() {
    let store = store();
    let of_run = ["run", "-it", "--name", "job", SHELL, "sh", "-c", WATCHES];
    sizes_and_ctrl_c(&of_run, &mut Terminal::run(&store, &of_run, (24, 80)));
    store.ok(&["run", "-d", "--name", "idle", SHELL, "sleep", "1000"]);
    let of_exec = ["exec", "-it", "idle", "sh", "-c", WATCHES];
    sizes_and_ctrl_c(&of_exec, &mut Terminal::run(&store, &of_exec, (24, 80)));
    store.ok(&["start", "job"]);
    let of_attach = ["attach", "job"];
    let mut terminal = Terminal::run(&store, &of_attach, (24, 80));
    // What it has said before was nobody's to see.
    terminal.wait_for("24 80\r\n");
    terminal.keys("\x03");
    terminal.wait_for("interrupted\r\n");
    assert_eq!(terminal.finish(), Some(9));
    store.ok(&["rm", "-f", "job", "idle"]);
    store.check_at_rest();
}

/// `exec -it` has a terminal beside that of the container, or where that has none.
pub fn of_one_more_process() {
    let store = store();
    store.ok(&["run", "-d", "--name", "job", SHELL, "sleep", "1000"]);
    let args = [
        "exec",
        "-it",
        "job",
        "sh",
        "-c",
        "sleep 0.3; exec sh -c \"$0\"",
        READS,
    ];
    let mut terminal = Terminal::run(&store, &args, (30, 100));
    terminal.wait_for("ready\r\n");
    assert!(!terminal.is_cooked());
    terminal.keys("typed\r");
    assert_eq!(terminal.finish(), Some(4));
    assert!(terminal.is_cooked());
    let seen = "/dev/pts/0\r\n30 100\r\nerr\r\nready\r\ntyped\r\ngot typed\r\n";
    terminal.wait_for("got typed\r\n");
    assert_eq!(terminal.seen(), seen);
    // The end of the input, as a key; the exit code of the end of a shell.
    let mut terminal = Terminal::run(
        &store,
        &["exec", "-it", "job", "sh", "-c", "echo ready; cat"],
        (9, 9),
    );
    terminal.wait_for("ready\r\n");
    terminal.keys("\x04");
    assert_eq!(terminal.finish(), Some(0));
    // What a signal ends.
    let args = ["exec", "-it", "job", "sh", "-c", "echo ready; kill -9 $$"];
    let mut terminal = Terminal::run(&store, &args, (9, 9));
    assert_eq!(terminal.finish(), Some(137));
    assert!(terminal.is_cooked());
}

/// Without `-i`, and where our standard input is none: the process has a terminal all the same.
pub fn without_ours() {
    let store = store();
    run(&store, &["--rm", "-t"], "tty; echo out; echo err >&2").expect(
        0,
        "/dev/pts/0\r\nout\r\nerr\r\n",
        "",
    );
    run(&store, &["--rm", "-t"], "stat -c '%F %a' /dev/console").expect(
        0,
        "character special file 620\r\n",
        "",
    );
    run(&store, &["--rm"], "tty; [ -e /dev/console ] || echo none").expect(
        0,
        "not a tty\nnone\n",
        "",
    );
    store.ok(&["run", "-d", "--name", "job", SHELL, "sleep", "1000"]);
    store
        .run(&["exec", "-t", "job", "tty"])
        .expect(0, "/dev/pts/0\r\n", "");
    for args in [&["exec", "-it", "job", "true"][..], &["run", "-it", SHELL]] {
        store
            .run(args)
            .expect(1, "", "Error: the input device is not a TTY\n");
    }
    // Our terminal, but none for the process: keys are edited here, Ctrl-C is ours and is passed on.
    let script = "tty; trap 'echo interrupted; exit 9' INT; echo ready; read line; echo \"got $line\"; \
        while :; do sleep 0.05; done";
    let mut terminal = Terminal::run(
        &store,
        &["run", "-i", "--rm", SHELL, "sh", "-c", script],
        (24, 80),
    );
    terminal.wait_for("ready\r\n");
    assert!(terminal.is_cooked());
    terminal.keys("typed\r");
    terminal.wait_for("got typed\r\n");
    terminal.keys("\x03");
    assert_eq!(terminal.finish(), Some(9));
    assert!(
        terminal.seen().starts_with("not a tty\r\n"),
        "{}",
        terminal.seen()
    );
}

/// A shell that was started by itself is joined, left by the end of the terminal, and joined again.
pub fn joined_later() {
    let store = store();
    let id = store.ok(&["run", "-d", "-it", "--name", "job", SHELL, "sh"]);
    let id = id.trim_end();
    let mut terminal = Terminal::run(&store, &["attach", "job"], (24, 80));
    terminal.keys("echo $((40+2))\r");
    terminal.wait_for("42\r\n");
    // Two at once see the same.
    let mut other = Terminal::run(&store, &["attach", "job"], (24, 80));
    other.keys("echo $((100+1))\r");
    other.wait_for("101\r\n");
    terminal.wait_for("101\r\n");
    // Whoever goes takes nothing with him.
    process::kill_hard(terminal.pid());
    drop(terminal);
    other.keys("echo $((200+2))\r");
    other.wait_for("202\r\n");
    // A signal ends the command by way of the process only.
    assert_eq!(store.container_state(id), "running");
    other.keys("exit 5\r");
    assert_eq!(other.finish(), Some(5));
    assert!(other.is_cooked());
    check_ended(&store, &[id]);
    let logged = store.ok(&["logs", "job"]);
    assert!(
        logged.contains("42\r\n") && logged.contains("202\r\n"),
        "{logged:?}"
    );
    store
        .run(&["attach", "job"])
        .refused_saying(&["not", "running"]);
}

/// The command is killed, or its monitor is: the terminal it leaves and what the other one says.
pub fn ended_from_outside() {
    let store = store();
    let args = [
        "run",
        "-it",
        "--name",
        "job",
        SHELL,
        "sh",
        "-c",
        "echo ready; sleep 1000",
    ];
    let mut terminal = Terminal::run(&store, &args, (24, 80));
    terminal.wait_for("ready\r\n");
    let id = text(&inspect(&store, "job"), "Id");
    process::kill_hard(monitor(&store, &id));
    assert_eq!(terminal.finish(), Some(137));
    assert!(terminal.is_cooked());
    check_ended(&store, &[&id]);
    store.ok(&["start", "job"]);
    let mut terminal = Terminal::run(&store, &["attach", "job"], (24, 80));
    wait_until("it has joined", || {
        store.ok(&["exec", "job", "sh", "-c", "echo hello >/proc/1/fd/1"]);
        terminal.seen().contains("hello")
    });
    store.ok(&["kill", "job"]);
    assert_eq!(terminal.finish(), Some(137));
    assert!(terminal.is_cooked());
}
