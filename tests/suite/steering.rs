//! Reclamation at a rate: it is kept, its price is told, and wherever it ends, what is gone stays gone.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bad_input::state;
use crate::harness::process::kill_hard;
use crate::harness::{
    Built, Image, Layer, Run, Store, json_lines, noise, number, tree, wait_until,
};
use crate::samples::app;

const VARIABLE: &str = "LAYERCTL_RECLAIM_RATE";

/// A layer with many small files, and one large file in the midst of them.
fn mixed() -> Image {
    let mut layer = Layer::new().dir("d");
    for n in 0..100 {
        layer = layer.file(&format!("d/{n:03}"), noise(n, 5000));
    }
    layer = layer.file("large", noise(7, 8 << 20));
    Image::new(&["app:1"], vec![layer])
}

/// The image's layers, marked and not reclaimed: its view's server was killed.
fn with_marked_layers(store: &Store, image: &Image) -> Built {
    let built = store.load(image);
    let (container, _) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    kill_hard(store.server());
    store.ok(&["rm", &container]);
    built
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// The large file of a marked layer.
fn large_file(store: &Store) -> PathBuf {
    let marked = fs::read_dir(store.root().join("marked")).unwrap();
    let mut large = marked.map(|entry| entry.unwrap().path().join("tree/large"));
    large.find(|path| path.exists()).expect("a large file")
}

/// What is there still of marked layers, in bytes.
fn left(store: &Store) -> u64 {
    number(&store.df()["reclaiming"], "bytes")
}

pub fn a_wrong_rate_changes_nothing() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    store.create("app:1");
    let before = state(&store);
    for rate in ["fast", "50MB", "0/s", "-5/s", "1MB/s,2MB/s", ""] {
        let run = store.run(&["gc", &format!("--rate={rate}")]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:#?}");
        assert!(run.stderr.contains("invalid rate"), "{run:#?}");
    }
    let commands: [&[&str]; 5] = [
        &["gc"],
        &["gc", "--rate", "5/s"],
        &["rmi", "-f", "app:1"],
        &["prune", "-f"],
        &["create", "app:1"],
    ];
    for command in commands {
        let run = Run::of(store.command(command).env(VARIABLE, "fast"));
        run.refused_saying(&[VARIABLE, "\"fast\"", "50MB/s"]);
    }
    assert_eq!(state(&store), before);
    // No value is none.
    Run::of(store.command(&["gc"]).env(VARIABLE, "")).ok();
    store.check_at_rest();
}

/// A view's server would otherwise find out when the view ends.
pub fn a_wrong_rate_of_a_server() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let run = Run::of(store.command(&["mount", &container]).env(VARIABLE, "5"));
    run.refused_saying(&[VARIABLE, "\"5\""]);
    assert_eq!(store.container_state(&container), "created");
    store.check_at_rest();
}

/// It may take longer than the rate asks for, never less; and says what it took.
pub fn the_price_is_told() {
    let store = Store::new();
    let image = with_marked_layers(&store, &mixed());
    let begin = Instant::now();
    let said = store.ok(&["gc", "--rate", "200/s"]);
    let took = begin.elapsed();
    // The tree, its root, the layer's directory and its files.
    assert!(
        took > Duration::from_millis(103 * 5 - 50),
        "{took:?}: {said}"
    );
    let lines: Vec<&str> = said.lines().collect();
    let layer = format!("Reclaimed: {} (", image.chains[0]);
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with(&layer) && lines[0].contains(" entries in "),
        "{said}"
    );
    assert!(lines[0].ends_with(" s)"), "{said}");
    assert!(
        lines[1].starts_with("Total reclaimed space: ") && lines[1].ends_with("/s of 200/s"),
        "{said}"
    );
    store.check_no_layers();
    store.check_at_rest();
    let events = store.json(&["events"]);
    let end = events
        .iter()
        .find(|e| e["action"] == "reclaim-end")
        .unwrap();
    assert!(
        end["detail"].as_str().unwrap().contains(" entries in "),
        "{end}"
    );
    // Nothing went, at no price.
    assert_eq!(
        store.ok(&["gc", "--rate", "200/s"]),
        "Total reclaimed space: 0B\n"
    );
}

/// One object, with what a script would else have to parse.
pub fn the_price_as_json() {
    let store = Store::new();
    let image = with_marked_layers(&store, &app(&["app:1"]));
    let held = store.load(&Image::new(&["held:1"], vec![Layer::new().file("f", "x")]));
    let (container, _view) = store.create_mounted("held:1");
    store.ok(&["rmi", "-f", "held:1"]);
    let bytes = number(&store.df()["reclaiming"], "bytes");
    let said = store.ok(&["gc", "--format", "json", "--rate", "1GB/s"]);
    let objects = json_lines(&said);
    let [report] = objects.as_slice() else {
        panic!("{said}");
    };
    assert_eq!(number(report, "reclaimed_bytes"), bytes);
    assert!(number(report, "entries") > 10, "{report}");
    assert!(report["seconds"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["rate"], "1GB/s");
    assert_eq!(report["orphans"], 0);
    let mut gone: Vec<&str> = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap())
        .collect();
    let mut expected: Vec<&str> = image.chains.iter().map(String::as_str).collect();
    gone.sort_unstable();
    expected.sort_unstable();
    assert_eq!(gone, expected);
    assert_eq!(report["left"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["left"][0]["chain_id"], held.chains[0].as_str());
    assert_eq!(report["left"][0]["pinned_by"][0], container.as_str());
}

/// The variable is the default of all that reclaim; `gc --rate` overrides it.
pub fn the_variable_is_the_default() {
    let store = Store::new();
    store.load(&mixed());
    let begin = Instant::now();
    Run::of(store.command(&["rmi", "app:1"]).env(VARIABLE, "200/s")).ok();
    assert!(
        begin.elapsed() > Duration::from_millis(450),
        "{:?}",
        begin.elapsed()
    );
    store.check_no_layers();
    with_marked_layers(&store, &mixed());
    // At this rate it would take minutes: the watchdog's matter.
    let mut gc = store.command(&["gc", "--rate", "unlimited"]);
    let said = Run::of(gc.env(VARIABLE, "1/s")).ok();
    assert!(!said.contains("/s of"), "{said}");
    store.check_no_layers();
}

/// What no row explains goes at the rate as well.
pub fn orphans_follow_the_rate() {
    let store = Store::new();
    store.ok(&["images"]);
    for room in ["staging/left", "marked/nobodys"] {
        let tree = store.root().join(room).join("tree");
        fs::create_dir_all(&tree).unwrap();
        for n in 0..60 {
            fs::write(tree.join(n.to_string()), noise(n, 5000)).unwrap();
        }
    }
    let begin = Instant::now();
    let said = store.ok(&["gc", "--rate", "200/s"]);
    assert!(
        begin.elapsed() > Duration::from_millis(550),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        said.contains("Removed 2 orphans") && said.contains(" of 200/s"),
        "{said}"
    );
    store.check_at_rest();
}

/// While it goes, a large file becomes shorter.
pub fn large_files_are_cut_in_steps() {
    let store = Store::new();
    with_marked_layers(
        &store,
        &Image::new(
            &["app:1"],
            vec![Layer::new().file("large", noise(7, 8 << 20))],
        ),
    );
    let file = large_file(&store);
    let gc = start(store.command(&["gc", "--rate", "8MB/s"]));
    let mut lengths = Vec::new();
    wait_until("the file is gone", || match fs::metadata(&file) {
        Ok(meta) => {
            lengths.push(meta.len());
            false
        }
        Err(_) => true,
    });
    Run::finish(gc, "gc".to_owned()).ok();
    lengths.dedup();
    assert!(
        lengths.len() > 5 && lengths.is_sorted_by(|a, b| a > b),
        "{lengths:?}"
    );
    assert!(lengths.iter().all(|l| *l > 0), "{lengths:?}");
    store.check_no_layers();
}

/// Whoever has a file of a layer open, past any view, reads all of it on, as after an unlink.
pub fn open_files_are_not_cut() {
    let store = Store::new();
    with_marked_layers(&store, &mixed());
    let mut open = File::open(large_file(&store)).unwrap();
    store.ok(&["gc", "--rate", "100MB/s"]);
    store.check_no_layers();
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert!(content == noise(7, 8 << 20));
}

/// Whoever sets a rate wants the others to come first.
pub fn the_disk_is_left_to_others() {
    let store = Store::new();
    with_marked_layers(&store, &mixed());
    let gc = start(store.command(&["gc", "--rate", "1MB/s"]));
    wait_until("it is idle", || io_class(pid(&gc)) == 3);
    kill_hard(pid(&gc));
    Run::finish(gc, "gc".to_owned());
    store.ok(&["gc"]);
    store.check_at_rest();
}

/// ioprio_get(2): 3 is the class of those who wait till the disk is idle.
#[allow(unsafe_code)]
fn io_class(pid: i32) -> i64 {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) >> 13 }
}

/// Killed in the middle, again and again: nothing that has gone comes back, and every number is true.
pub fn killed_collections() {
    let store = Store::new();
    let image = with_marked_layers(&store, &mixed());
    let whole = left(&store);
    let mut before = whole;
    let mut partly = 0;
    let mut was_cut = false;
    while before > 1 << 20 {
        let gc = start(store.command(&["gc", "--rate", "10MB/s"]));
        wait_until("some of it is gone", || {
            store.layer(&image.chains[0]).is_none() || left(&store) + (1 << 20) < before
        });
        kill_hard(pid(&gc));
        Run::finish(gc, "gc".to_owned());
        let now = left(&store);
        assert!(now < before, "{now} of {before}");
        assert_eq!(left(&store), now, "nothing goes on");
        tree::check_df(store.root(), &store.df());
        if now > 0 {
            partly += 1;
            assert_eq!(store.layer_state(&image.chains[0]), "reclaiming");
            let tree = |name: &str| {
                let marked = fs::read_dir(store.root().join("marked")).unwrap();
                let marked = marked.map(|entry| entry.unwrap().path().join("tree").join(name));
                marked.filter_map(|path| fs::metadata(path).ok()).next()
            };
            was_cut |= tree("large").is_some_and(|meta| meta.len() < 8 << 20);
        }
        before = now;
    }
    let report = json_lines(&store.ok(&["gc", "--format", "json"])).remove(0);
    assert_eq!(number(&report, "reclaimed_bytes"), before, "{report}");
    assert!(partly >= 3, "killed in the middle {partly} times");
    assert!(was_cut, "and in the middle of the large file");
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// Ctrl-C and SIGTERM end it at once, however long it would take.
pub fn interrupted_collections() {
    let store = Store::new();
    let image = with_marked_layers(&store, &mixed());
    for signal in [Signal::INT, Signal::TERM] {
        let before = left(&store);
        let gc = start(store.command(&["gc", "--rate", "10/s"]));
        wait_until("it has begun", || left(&store) < before);
        let begin = Instant::now();
        kill_process(Pid::from_raw(pid(&gc)).unwrap(), signal).unwrap();
        let run = Run::finish(gc, "gc".to_owned());
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
        assert_ne!(run.code, Some(0), "{run:#?}");
        assert_eq!(store.layer_state(&image.chains[0]), "reclaiming");
        tree::check_df(store.root(), &store.df());
    }
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// A server reclaims at the rate as its view ends, and `umount` waits for it. If it ends before it has
/// done so, `gc` goes on.
pub fn servers_that_end_in_the_middle() {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let store = Store::new();
        let image = store.load(&mixed());
        let container = store.create("app:1");
        Run::of(store.command(&["mount", &container]).env(VARIABLE, "10/s")).ok();
        store.ok(&["rmi", "-f", "app:1"]);
        let server = store.server();
        let mut umount = start(store.command(&["umount", &container]));
        let chain = &image.chains[0];
        wait_until("the server reclaims", || {
            store.layer_state(chain) == "reclaiming"
        });
        let whole = left(&store);
        wait_until("some of it is gone", || left(&store) < whole);
        assert_eq!(umount.try_wait().unwrap(), None, "it waits");
        kill_process(Pid::from_raw(server).unwrap(), signal).unwrap();
        Run::finish(umount, "umount".to_owned()).ok();
        store.wait_for_servers_to_end();
        let now = left(&store);
        assert!(now > 0 && now < whole, "{now} of {whole}");
        assert_eq!(store.layer_state(chain), "reclaiming");
        tree::check_df(store.root(), &store.df());
        store.ok(&["gc"]);
        store.check_no_layers();
        store.ok(&["rm", &container]);
        store.check_at_rest();
    }
}

/// A second collection waits for one that is slow, and finishes what it leaves.
pub fn two_collections() {
    let store = Store::new();
    with_marked_layers(&store, &mixed());
    let before = left(&store);
    let slow = start(store.command(&["gc", "--rate", "10/s"]));
    wait_until("it has begun", || left(&store) < before);
    let mut second = start(store.command(&["gc"]));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(second.try_wait().unwrap(), None, "it waits");
    kill_hard(pid(&slow));
    Run::finish(slow, "gc".to_owned());
    Run::finish(second, "gc".to_owned()).ok();
    store.check_no_layers();
    store.check_at_rest();
}

/// On a disk whose power fails in the middle: what is there then is a layer that is being reclaimed.
pub fn a_power_cut() {
    let disk = crate::harness::LoopFs::new(96);
    let store = Store::below(&disk.path());
    let image = with_marked_layers(&store, &mixed());
    disk.free_bytes();
    let before = left(&store);
    let mut gc = start(store.command(&["gc", "--rate", "4MB/s"]));
    wait_until("some of it is gone", || left(&store) + (3 << 20) < before);
    disk.power_cut(|| {
        gc.kill().unwrap();
        gc.wait().unwrap();
        store.end_all();
    });
    assert_eq!(store.layer_state(&image.chains[0]), "reclaiming");
    tree::check_df(store.root(), &store.df());
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}
