//! SIGKILL at every kind of moment: the next command goes on, nothing is ever half there, and `gc`
//! gets all bytes back.
//!
//! `strace` kills a process as it enters the k-th call of one kind, for growing k, till the command
//! gets through: each state on disk between two changes is met. What a crash of the machine loses is
//! not simulated here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::process::kill_hard;
use crate::harness::store::is_mounted;
use crate::harness::tree::{self, Entry};
use crate::harness::{Archive, Built, Image, Layer, Run, Store, noise, number, wait_until};
use crate::samples::{app, check_app};
use crate::union_support::get_xattr;

/// The calls by which layerctl changes the store.
const CHANGES: [&str; 14] = [
    "rename,renameat,renameat2",
    "mkdir,mkdirat",
    "unlink,unlinkat,rmdir",
    "fsync,fdatasync,syncfs",
    "open,openat,openat2",
    "write,writev",
    "pwrite64",
    "link,linkat",
    "symlink,symlinkat",
    "mknod,mknodat",
    "fchown,fchownat,lchown",
    "ftruncate,fallocate",
    "flock",
    "umount2,mount,fsmount,move_mount",
];

/// A command that dies as it, or the server that it starts, enters the k-th of these calls.
struct Killing {
    strace: Command,
    log: PathBuf,
}

impl Killing {
    fn new(store: &Store, calls: &str, k: u32, args: &[&str]) -> Killing {
        // A question mark: not every machine has every call.
        let set: Vec<String> = calls.split(',').map(|call| format!("?{call}")).collect();
        let set = set.join(",");
        let log = store.beside("strace");
        let program = store.command(args);
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-q", "-o"])
            .arg(&log)
            .args(["-e", &format!("trace={set}")])
            .args(["-e", &format!("inject={set}:signal=KILL:when={k}")])
            .arg(program.get_program())
            .args(program.get_args());
        Killing { strace, log }
    }

    /// Whether anything was killed so far.
    fn has_killed(&self) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains("+++ killed by SIGKILL"))
    }

    /// Starts it with its standard output going to a file: a server may live on after that.
    fn start(&mut self, output: &Path) -> Child {
        let output = fs::File::create(output).unwrap();
        self.strace.stdin(Stdio::null()).stdout(output);
        self.strace.stderr(Stdio::null()).spawn().unwrap()
    }
}

/// 1, 2, 3 … and then in growing steps.
fn moments() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1), |k| Some(k + 1 + k / 4))
}

/// Runs a command again and again, killed at each moment; `before` prepares, `after` checks.
fn at_each_moment(store: &Store, args: &[&str], before: impl Fn(), after: impl Fn()) {
    let mut killed = 0;
    for calls in CHANGES {
        for k in moments() {
            before();
            let mut killing = Killing::new(store, calls, k, args);
            let run = Run::of(&mut killing.strace);
            let survived = !killing.has_killed();
            if survived {
                assert_eq!(run.code, Some(0), "not killed, so it succeeds: {run:#?}");
            }
            killed += u32::from(!survived);
            // Whatever it is, the next command goes on.
            store.ok(&["images"]);
            after();
            if survived {
                break;
            }
        }
    }
    assert!(
        killed >= 10,
        "only {killed} kills: strace does not work here?"
    );
}

/// What a load puts into a store, and what it must look like there.
struct Sample {
    file: String,
    image: Built,
    stored: BTreeMap<PathBuf, Entry>,
}

impl Sample {
    /// Beside `store`, but loaded elsewhere.
    fn of(store: &Store, image: &Image) -> Sample {
        let (archive, built) = Archive::of(image);
        let path = store.beside("sample.tar");
        archive.write(&path);
        let file = path.to_str().unwrap().to_owned();
        let elsewhere = Store::new();
        elsewhere.ok(&["load", "-i", &file]);
        let stored = elsewhere.stored(&built);
        assert!(stored.len() > 10, "{stored:?}");
        Sample {
            file,
            image: built,
            stored,
        }
    }

    fn app(store: &Store) -> Sample {
        Sample::of(store, &app(&["app:1"]))
    }

    /// The image is there whole, or not at all.
    #[track_caller]
    fn whole_or_absent(&self, store: &Store) -> bool {
        let listed = store.ok(&["images", "-q", "--no-trunc"]);
        if listed.is_empty() {
            return false;
        }
        assert_eq!(listed.trim_end(), self.image.id);
        for chain in &self.image.chains {
            assert_eq!(store.layer_state(chain), "live");
        }
        tree::assert_same(&store.stored(&self.image), &self.stored);
        true
    }
}

/// Removes all images and all that is left of anything; nothing may stay.
#[track_caller]
fn clear(store: &Store) {
    store.run(&["rmi", "-f", "app:1"]);
    store.ok(&["prune", "-f"]);
    store.ok(&["gc"]);
    store.check_no_layers();
}

pub fn killed_loads() {
    let store = Store::new();
    let sample = Sample::app(&store);
    let after = || {
        sample.whole_or_absent(&store);
        // The next load goes on, and the store is as after a load without a crash.
        store.ok(&["load", "-i", &sample.file]);
        assert!(sample.whole_or_absent(&store));
        store.ok(&["gc"]);
        store.check_at_rest();
        clear(&store);
    };
    at_each_moment(&store, &["load", "-i", &sample.file], || {}, after);
    // At last, what the views show.
    store.ok(&["load", "-i", &sample.file]);
    let (_, view) = store.create_mounted("app:1");
    check_app(&view);
}

pub fn killed_removals() {
    let store = Store::new();
    let sample = Sample::app(&store);
    let before = || drop(store.ok(&["load", "-i", &sample.file]));
    let after = || {
        if sample.whole_or_absent(&store) {
            store.ok(&["rmi", "-f", "app:1"]);
        }
        store.ok(&["gc"]);
        store.check_at_rest();
        store.check_no_layers();
    };
    at_each_moment(&store, &["rmi", "-f", "app:1"], before, after);
}

pub fn killed_removals_under_a_view() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let container = store.create("app:1");
    let before = || {
        store.ok(&["load", "-i", &sample.file]);
        store.mount(&container);
    };
    let after = || {
        let row = store.container(&container);
        let view = Path::new(row["Mountpoint"].as_str().unwrap()).to_owned();
        check_app(&view);
        if sample.whole_or_absent(&store) {
            store.ok(&["rmi", "-f", "app:1"]);
        }
        store.ok(&["gc"]);
        check_app(&view);
        store.ok(&["umount", &container]);
        store.wait_for_servers_to_end();
        store.ok(&["gc"]);
        store.check_at_rest();
        store.check_no_layers();
    };
    at_each_moment(&store, &["rmi", "-f", "app:1"], before, after);
}

pub fn killed_collections() {
    let store = Store::new();
    let sample = Sample::app(&store);
    let orphan = store.root().join("staging/left-behind/tree");
    let before = || {
        store.ok(&["load", "-i", &sample.file]);
        let (container, _) = store.create_mounted("app:1");
        store.ok(&["rmi", "-f", "app:1"]);
        kill_hard(store.server());
        store.ok(&["rm", &container]);
        fs::create_dir_all(&orphan).unwrap();
        fs::write(orphan.join("file"), noise(6, 10_000)).unwrap();
        assert_ne!(number(&store.df()["orphaned"], "bytes"), 0);
    };
    let after = || {
        store.ok(&["gc"]);
        store.check_at_rest();
        store.check_no_layers();
        assert!(!orphan.exists());
    };
    at_each_moment(&store, &["gc"], before, after);
}

pub fn killed_unmounts() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let container = store.create("app:1");
    let after = || {
        store.run(&["umount", &container]);
        store.wait_for_servers_to_end();
        assert_eq!(store.container_state(&container), "exited");
        store.check_at_rest();
    };
    at_each_moment(
        &store,
        &["umount", &container],
        || drop(store.mount(&container)),
        after,
    );
}

/// `mount` and the server it starts, whichever comes to its k-th call first.
pub fn killed_mounts() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let container = store.create("app:1");
    let said = store.beside("said");
    let mut killed = 0;
    for calls in CHANGES {
        for k in moments() {
            let mut killing = Killing::new(&store, calls, k, &["mount", &container]);
            let mut strace = killing.start(&said);
            // strace ends with the last process that it follows: with the server, if there is one.
            wait_until(
                "the view is ready, or what should make it so is dead",
                || {
                    strace.try_wait().unwrap().is_some()
                        || fs::metadata(&said).unwrap().len() > 0
                        || killing.has_killed() && store.container_state(&container) == "mounted"
                },
            );
            store.ok(&["images"]);
            // The server may be killed only now.
            let unmounted = store.run(&["umount", &container]);
            let was_killed = killing.has_killed();
            assert!(was_killed || unmounted.code == Some(0), "{unmounted:#?}");
            strace.wait().unwrap();
            assert!(store.servers().is_empty());
            // And a mount that nobody kills works.
            let view = store.mount(&container);
            check_app(&view);
            store.ok(&["umount", &container]);
            store.check_at_rest();
            if !killing.has_killed() {
                break;
            }
            killed += 1;
        }
    }
    assert!(
        killed >= 10,
        "only {killed} kills: strace does not work here?"
    );
}

/// The server dies while it reclaims at its end.
pub fn servers_killed_while_reclaiming() {
    let store = Store::new();
    let sample = Sample::app(&store);
    for k in moments() {
        store.ok(&["load", "-i", &sample.file]);
        let container = store.create("app:1");
        let said = store.beside("said");
        let calls = "unlinkat,rmdir,unlink";
        let mut killing = Killing::new(&store, calls, k, &["mount", &container]);
        let mut strace = killing.start(&said);
        wait_until("mount says something", || {
            fs::metadata(&said).unwrap().len() > 0
        });
        store.ok(&["rmi", "-f", "app:1"]);
        store.ok(&["umount", &container]);
        strace.wait().unwrap();
        store.ok(&["images"]);
        store.ok(&["gc"]);
        store.check_no_layers();
        store.ok(&["rm", &container]);
        store.check_at_rest();
        if !killing.has_killed() {
            assert!(k > 5, "there was something to kill");
            break;
        }
    }
}

/// A removal is killed between a layer's move and its commit, and then a load between the layer's
/// publication and its commit: the layer lies in both places, and the row says that it is to be moved.
pub fn marking_killed_twice() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let mut killing = Killing::new(&store, CHANGES[0], 1, &["rmi", "-f", "app:1"]);
    Run::of(&mut killing.strace);
    assert!(killing.has_killed());
    // Decided, not moved yet. What the two would have left behind:
    for layer in 0..3 {
        for row in 1..=8 {
            let marked = format!("marked/{}.{row}/tree", sample.image.layer_dir(layer));
            fs::create_dir_all(store.root().join(&marked)).unwrap();
            fs::write(store.root().join(&marked).join("file"), "x").unwrap();
        }
    }
    store.ok(&["images"]);
    store.ok(&["load", "-i", &sample.file]);
    // The marked ones, and what no row explains.
    store.ok(&["gc"]);
    assert!(sample.whole_or_absent(&store));
    store.ok(&["rmi", "-f", "app:1"]);
    store.ok(&["gc"]);
    store.check_no_layers();
    store.check_at_rest();
}

/// Without strace: a big load, killed at moments spread over the time that it takes.
pub fn loads_killed_by_the_clock() {
    let store = Store::new();
    let mut layers = Vec::new();
    for n in 0..3 {
        let mut layer = Layer::new().dir("d");
        for file in 0..80 {
            layer = layer.file(&format!("d/{n}-{file}"), noise(file, 20_000));
        }
        layers.push(layer);
    }
    let sample = Sample::of(&store, &Image::new(&["app:1"], layers));
    let args = ["load", "-i", &sample.file];
    let start = Instant::now();
    store.ok(&args);
    let whole = start.elapsed();
    clear(&store);
    let moments = 16;
    for n in 0..moments {
        let mut child = store
            .command(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The very thing that is tested: a kill at this moment, whatever happens then.
        std::thread::sleep(Duration::from_nanos(
            u64::try_from(whole.as_nanos()).unwrap() * (2 * n + 1) / (2 * moments),
        ));
        child.kill().unwrap();
        child.wait().unwrap();
        sample.whole_or_absent(&store);
        store.ok(&args);
        assert!(sample.whole_or_absent(&store));
        clear(&store);
    }
    store.check_at_rest();
}

/// A dead server's mount point is detached by the next command of any kind.
pub fn a_killed_server_is_seen_by_any_command() {
    let commands: [&[&str]; 9] = [
        &["images"],
        &["ps", "-a"],
        &["layers"],
        &["df"],
        &["gc"],
        &["events"],
        &["prune", "-f"],
        &["tag", "app:1", "app:2"],
        &["create", "app:1"],
    ];
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let container = store.create("app:1");
    for (n, command) in commands.iter().enumerate() {
        let view = store.mount(&container);
        let name = format!("written-{n}");
        fs::write(view.join(&name), "kept").unwrap();
        kill_hard(store.server());
        assert!(is_mounted(&view), "the kernel keeps the dead mount");
        store.ok(command);
        assert!(!is_mounted(&view), "after {command:?}");
        assert_eq!(store.container_state(&container), "exited");
        store.check_events();
        let view = store.mount(&container);
        check_app(&view);
        assert_eq!(fs::read(view.join(&name)).unwrap(), b"kept");
        store.ok(&["umount", &container]);
    }
    store.check_at_rest();
}

/// A killed server pins nothing: an image under it is removed like an unused one, and what it held
/// when it died comes back.
pub fn a_killed_server_holds_nothing() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let (container, _) = store.create_mounted("app:1");
    kill_hard(store.server());
    let run = store.run(&["rmi", "-f", "app:1"]);
    run.expect(0, &crate::samples::all_deleted(&sample.image), "");
    store.ok(&["rm", &container]);
    store.check_at_rest();

    store.ok(&["load", "-i", &sample.file]);
    let (container, _) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    assert_eq!(number(&store.df()["pending"], "count"), 3);
    kill_hard(store.server());
    let df = store.df();
    assert_eq!(
        (
            number(&df["pending"], "count"),
            number(&df["orphaned"], "count")
        ),
        (0, 0),
        "{df}"
    );
    store.ok(&["gc"]);
    store.check_no_layers();
    store.ok(&["rm", &container]);
    store.check_at_rest();
}

/// Files that were open when the server died give errors, and keep nothing from going on.
pub fn a_server_killed_under_open_files() {
    let store = Store::new();
    let sample = Sample::app(&store);
    store.ok(&["load", "-i", &sample.file]);
    let (container, view) = store.create_mounted("app:1");
    let mut open = fs::File::open(view.join("srv/index")).unwrap();
    let dir = fs::File::open(view.join("srv")).unwrap();
    kill_hard(store.server());
    let mut give_errors = || {
        let read = open.read(&mut [0; 5]).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(libc::ENOTCONN), "{read}");
        let listed = rustix::fs::Dir::read_from(&dir).and_then(|mut dir| match dir.read() {
            Some(entry) => entry.map(drop),
            None => Ok(()),
        });
        assert_eq!(listed, Err(rustix::io::Errno::NOTCONN));
    };
    give_errors();
    store.ok(&["images"]);
    assert!(!is_mounted(&view));
    give_errors();
    let view = store.mount(&container);
    check_app(&view);
    // The old handles do not come to life with the new view.
    give_errors();
    drop((open, dir));
    check_app(&view);
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// The server dies while it copies a file up, its metadata first and then its data: the file is as
/// it was or as it was to be, with everything that copying disturbs.
pub fn servers_killed_while_copying_up() {
    const CALLS: [&str; 8] = [
        "setxattr",
        "removexattr",
        "ftruncate,fallocate",
        "pwrite64,copy_file_range",
        "fsync,fdatasync",
        "utimensat",
        "fchownat,chmod,fchmodat",
        "renameat2,linkat,unlinkat",
    ];
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let old = noise(1, 300_000);
    let new = [b"new", &old[3..]].concat();
    let layer = Layer::new()
        .file("program", old.clone())
        .mode(0o4755)
        .xattr("security.capability", capability);
    let store = Store::new();
    store.load(&Image::new(&["app:1"], vec![layer]));
    let mut killed = 0;
    for calls in CALLS {
        for k in moments() {
            let (container, view) = store.create_mounted("app:1");
            let before = fs::metadata(view.join("program")).unwrap();
            let mut strace = Attached::new(&store, calls, k);
            let mut ops = Command::new("sh");
            ops.args([
                "-c",
                "chmod 4711 program && printf new | dd conv=notrunc of=program",
            ]);
            let run = Run::of(ops.current_dir(&view));
            if run.code != Some(0) {
                wait_until("strace tells of the kill", || strace.has_killed());
            }
            let was_killed = strace.has_killed();
            let unmounted = store.run(&["umount", &container]);
            assert!(was_killed || unmounted.code == Some(0), "{unmounted:#?}");
            strace.0.wait().unwrap();
            let view = store.mount(&container);
            let (path, at) = (view.join("program"), format!("{calls} {k}"));
            let after = fs::metadata(&path).unwrap();
            let content = fs::read(&path).unwrap();
            assert!([0o4755, 0o4711].contains(&(after.mode() & 0o7777)), "{at}");
            if content == old {
                let times = [&before, &after].map(|meta| meta.modified().unwrap());
                assert_eq!(times[0], times[1], "{at}");
                let value = get_xattr(&path, "security.capability");
                assert_eq!(value.as_deref(), Some(&capability[..]), "{at}");
            } else {
                assert!(content == new, "{at}");
            }
            fs::write(&path, "written").unwrap();
            store.ok(&["rm", "-f", &container]);
            if !was_killed {
                break;
            }
            killed += 1;
        }
    }
    assert!(
        killed >= 10,
        "only {killed} kills: strace does not work here?"
    );
}

/// A server that is killed as one of its threads enters the k-th of these calls.
struct Attached(Child, PathBuf);

impl Attached {
    fn new(store: &Store, calls: &str, k: u32) -> Attached {
        let server = store.server();
        let log = store.beside("strace");
        let set: Vec<String> = calls.split(',').map(|call| format!("?{call}")).collect();
        let set = set.join(",");
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-q", "-p", &server.to_string(), "-o"])
            .arg(&log);
        strace.args(["-e", &format!("trace={set}")]);
        strace.args(["-e", &format!("inject={set}:signal=KILL:when={k}")]);
        strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let strace = strace.spawn().unwrap();
        wait_until("strace follows all threads of the server", || {
            let threads = fs::read_dir(format!("/proc/{server}/task")).unwrap();
            threads.map(Result::unwrap).all(|thread| {
                let status = fs::read_to_string(thread.path().join("status")).unwrap();
                status.contains("TracerPid:\t") && !status.contains("TracerPid:\t0\n")
            })
        });
        Attached(strace, log)
    }

    /// Whether it was killed so far: strace may not have told yet.
    fn has_killed(&mut self) -> bool {
        let told =
            |log: &Path| fs::read_to_string(log).is_ok_and(|log| log.contains("killed by SIGKILL"));
        told(&self.1) || self.0.try_wait().unwrap().is_some()
    }
}
