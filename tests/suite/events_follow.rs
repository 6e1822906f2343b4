//! `events --follow` as a stream for scripts: each event once, in order, whoever writes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Store, json_lines, text};
use crate::samples::app;

struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    #[track_caller]
    fn of(store: &Store, args: &[&str]) -> Follower {
        let args = [&["events", "--follow", "--format", "json"], args].concat();
        let mut command = store.command(&args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                send.send(line.unwrap()).ok();
            }
        });
        Follower { child, lines }
    }

    /// As many lines as that; then nothing more may come for a while.
    #[track_caller]
    fn exactly(&self, count: usize) -> Vec<String> {
        let next = |_| self.lines.recv_timeout(Duration::from_secs(30));
        let lines = (0..count).map(next).collect::<Result<Vec<_>, _>>();
        let lines = lines.unwrap_or_else(|e| panic!("{count} events: {e}"));
        let more = self.lines.recv_timeout(Duration::from_millis(300));
        assert!(more.is_err(), "no more than {count}: {more:?}");
        lines
    }

    /// Ends it by a signal; gives the rest of what it said, and how it ended.
    #[track_caller]
    fn end(mut self, signal: Signal) -> (Vec<String>, Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let rest: Vec<String> = self.lines.iter().collect();
        let errors = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
        (rest, self.child.wait().unwrap().code(), errors)
    }
}

fn history(store: &Store) -> Vec<String> {
    let history = store.ok(&["events", "--format", "json"]);
    history.lines().map(str::to_owned).collect()
}

/// Several write at once, others open and close the database, and its log is emptied again and again.
pub fn beside_several_writers() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = history(&store).len();
    let [all, new] = [&[][..], &["--since", "now"]].map(|args| Follower::of(&store, args));
    all.exactly(before);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let path = store.root().join("store.db");
                let database = rusqlite::Connection::open(path).unwrap();
                database.busy_timeout(Duration::from_secs(30)).unwrap();
                let emptied = "PRAGMA wal_checkpoint(TRUNCATE)";
                database.query_row(emptied, [], |_| Ok(())).unwrap();
            }
        });
        let writer = |writer: usize| {
            let store = &store;
            move || {
                for nth in 0..12 {
                    let tag = format!("w{writer}:{nth}");
                    store.ok(&["tag", "app:1", &tag]);
                    store.ok(&["rmi", &tag]);
                }
            }
        };
        let writers: Vec<_> = (0..4).map(|n| threads.spawn(writer(n))).collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let history = history(&store);
    let written = &history[before..];
    assert_eq!(written.len(), 4 * 12 * 2);
    assert_eq!(all.exactly(written.len()), written);
    assert_eq!(new.exactly(written.len()), written, "without the history");
    for follower in [all, new] {
        assert_eq!(
            follower.end(Signal::TERM),
            (vec![], Some(130), String::new())
        );
    }
}

pub fn ended_by_a_signal() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for signal in [Signal::INT, Signal::TERM] {
        let follower = Follower::of(&store, &[]);
        follower.exactly(history(&store).len());
        assert_eq!(follower.end(signal), (vec![], Some(130), String::new()));
    }
}

pub fn until_a_time() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let until = (Timestamp::now() + Duration::from_secs(2)).to_string();
    let mut follower = Follower::of(&store, &["--until", &until]);
    store.ok(&["tag", "app:1", "app:2"]);
    let said: Vec<String> = follower.lines.iter().collect();
    assert!(follower.child.wait().unwrap().success());
    let now = Timestamp::now();
    assert!(now >= until.parse().unwrap(), "not before");
    let tagged = json_lines(&said.join("\n")).pop().unwrap();
    assert_eq!(text(&tagged, "detail"), "app:2", "{said:?}");
}

pub fn chosen() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let loaded = history(&store);
    std::thread::sleep(Duration::from_millis(5));
    let between = Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(5));
    store.ok(&["rmi", "app:1"]);
    let all = history(&store);
    let removed = &all[loaded.len()..];
    let chosen = |args: &[&str]| -> Vec<String> {
        let args = [&["events", "--format", "json"], args].concat();
        store.ok(&args).lines().map(str::to_owned).collect()
    };
    assert_eq!(chosen(&["--until", &between]), loaded);
    assert_eq!(chosen(&["--since", &between]), removed);
    assert_eq!(chosen(&["--since", &between, "--until", &between]), [""; 0]);
    assert_eq!(chosen(&["--since", "1h", "--until", "0s"]), all);
    let by_filter = |filters: &[&str]| -> Vec<String> {
        let args: Vec<&str> = filters.iter().flat_map(|f| ["--filter", f]).collect();
        let events = chosen(&args);
        events
            .iter()
            .map(|line| text(&json_lines(line)[0], "action"))
            .collect()
    };
    assert_eq!(
        by_filter(&["event=delete", "event=untag"]),
        ["untag", "delete"]
    );
    let of_image = by_filter(&[&format!("image={}", image.short())]);
    assert_eq!(of_image, ["load", "tag", "untag", "delete"]);
    assert_eq!(by_filter(&["image=app:1"]), ["load", "tag", "untag"]);
    for wrong in [
        &["--since", "yesterday"][..],
        &["--until", "-"],
        &["--filter", "event=boom"],
        &["--filter", "event"],
    ] {
        let run = store.run(&[&["events"], wrong].concat());
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{run:#?}");
    }
}
