//! Handles of every kind outlive `rmi -f` and `umount --lazy`, and what they hold stays on disk
//! exactly as long as they do, by the counters of a filesystem of its own.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::store::{is_mounted, names_in};
use crate::harness::{
    LoopFs, Run, Sleeper, Store, mapping, noise, number, process, strings, text, wait_until,
};
use crate::samples::{all_deferred, heavy};

const MIB: usize = 12;
const KIB: u64 = 1 << 10;

/// Something in a view that is held.
trait Handle {
    /// The word for it in what `umount` and `why` say.
    const WORD: &'static str;
    /// What is read through it is what the image has.
    fn check(&mut self);
    /// The process that holds it.
    fn pid(&self) -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }
}

/// Loads, mounts, takes the handle; removes the image by force; detaches the view; lets go. At each
/// step: contents, bytes on disk, what the store says.
fn outlives_rmi_and_lazy_umount<H: Handle>(take: fn(&Path) -> H) {
    let disk = LoopFs::new(96);
    let store = Store::below(&disk.path());
    store.ok(&["images"]);
    let empty = disk.free_bytes();
    let image = store.load(&heavy("heavy:1", MIB));
    let loaded = disk.free_bytes();
    let size = (MIB as u64) << 20;
    assert!(
        empty - loaded >= size,
        "the layer takes its place: {empty} {loaded}"
    );
    let (container, view) = store.create_mounted("heavy:1");
    let mut handle = take(&view);
    handle.check();

    let refused = store.run(&["umount", &container]);
    let (pid, word) = (handle.pid(), H::WORD);
    refused.refused_saying(&[&format!("PID {pid} ("), &format!("): {word}")]);
    assert!(is_mounted(&view), "a busy view stays");

    let expected = all_deferred(&store, &image, &container);
    store
        .run(&["rmi", "-f", "heavy:1"])
        .expect(0, &expected, "");
    handle.check();
    read_blob(&File::open(view.join("data/blob")).unwrap());
    let pending = store.df()["pending"].clone();
    assert_eq!(number(&pending, "count"), 2);
    assert!(number(&pending, "bytes") >= size);
    assert!(disk.free_bytes() <= loaded + 256 * KIB, "held, so on disk");
    why_says(&store, &image.chains[0], &container, pid, word);
    store.check_at_rest();

    store.ok(&["umount", "--lazy", &container]);
    assert!(!is_mounted(&view), "the name is gone at once");
    assert!(!view.join("data").exists());
    handle.check();
    assert_eq!(store.servers().len(), 1, "the server serves what is open");
    assert_eq!(store.layer_state(&image.chains[0]), "pending");
    store.ok(&["gc"]);
    handle.check();
    assert!(disk.free_bytes() <= loaded + 256 * KIB, "held, so on disk");

    drop(handle);
    store.wait_for_servers_to_end();
    for chain in &image.chains {
        assert_eq!(store.layer_state(chain), "gone");
    }
    // All is back but a few blocks: the container's directories, what the database grew by.
    let freed = disk.free_bytes();
    assert!(
        freed + 512 * KIB >= empty,
        "{empty} bytes free before, {freed} after"
    );
    assert_eq!(store.container_state(&container), "exited");
    store.check_at_rest();
}

/// `why` says of a layer that it is pending, and that this process holds it in this way alone.
#[track_caller]
fn why_says(store: &Store, chain: &str, container: &str, pid: i32, word: &str) {
    let mut reasons = Vec::new();
    // The children that other tests start have what this process has open until they execute.
    wait_until("nobody else holds it", || {
        reasons = store.json(&["why", chain]);
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        let processes = reasons[0]["views"][0]["processes"].as_array();
        processes.is_none_or(|processes| processes.len() == 1)
    });
    let reason = &reasons[0];
    assert_eq!(text(reason, "chain_id"), chain);
    assert_eq!(text(reason, "state"), "pending");
    assert_eq!(reason["images"], Value::Array(Vec::new()), "{reason}");
    let views = reason["views"].as_array().unwrap();
    assert_eq!(views.len(), 1, "{reason}");
    assert_eq!(text(&views[0], "container"), container);
    assert_eq!(views[0]["pid"], store.server());
    let processes = views[0]["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 1, "{reason}");
    assert_eq!(processes[0]["pid"], pid, "{reason}");
    assert_eq!(strings(&processes[0]["uses"]), [word], "{reason}");
    let said = store.ok(&["why", chain]);
    let used = format!("used by PID {pid} (");
    let is_ours = |line: &str| line.trim_start().starts_with(&used);
    let line = said.lines().find(|line| is_ours(line));
    assert!(
        line.is_some_and(|line| line.ends_with(&format!("): {word}"))),
        "{said}"
    );
}

fn read_blob(mut file: &File) {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(
        bytes == noise(2, MIB << 20),
        "the file's contents are the image's"
    );
}

/// A file of which one more piece is read at each look.
struct OpenFile {
    file: File,
    at: usize,
}

impl Handle for OpenFile {
    const WORD: &'static str = "open file";

    fn check(&mut self) {
        let mut piece = vec![0; 2 << 20];
        self.file.read_exact(&mut piece).expect("read on");
        let all = noise(2, MIB << 20);
        assert!(
            piece == all[self.at..self.at + piece.len()],
            "the piece at {}",
            self.at
        );
        self.at += piece.len();
    }
}

pub fn a_file_being_read() {
    outlives_rmi_and_lazy_umount(|view| OpenFile {
        file: File::open(view.join("data/blob")).unwrap(),
        at: 0,
    });
}

/// A mapping of which more pages are touched at each look; the file itself is closed.
struct Mapping {
    map: memmap2::Mmap,
    at: usize,
}

impl Handle for Mapping {
    const WORD: &'static str = "mapped file";

    fn check(&mut self) {
        let range = self.at..self.at + (2 << 20);
        assert!(
            self.map[range.clone()] == noise(2, MIB << 20)[range.clone()],
            "{range:?}"
        );
        self.at = range.end;
    }
}

pub fn a_mapped_file() {
    outlives_rmi_and_lazy_umount(|view| Mapping {
        map: mapping::map(&view.join("data/blob")),
        at: 0,
    });
}

/// A directory: listed, and files opened from it.
struct OpenDirectory(OwnedFd);

impl Handle for OpenDirectory {
    const WORD: &'static str = "open directory";

    fn check(&mut self) {
        let dir = rustix::fs::Dir::read_from(&self.0).unwrap();
        let mut names: Vec<String> = dir
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, [".", "..", "a", "b", "sub"]);
        let file = rustix::fs::openat(
            &self.0,
            "b",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text of b");
    }
}

pub fn an_open_directory() {
    outlives_rmi_and_lazy_umount(|view| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        OpenDirectory(rustix::fs::open(view.join("docs"), flags, Mode::empty()).unwrap())
    });
}

/// A program of the view that runs.
struct Program(Sleeper);

impl Handle for Program {
    const WORD: &'static str = "running program";

    fn check(&mut self) {
        assert!(self.0.is_alive(), "the program runs on");
        let program = fs::read(format!("/proc/{}/exe", self.0.pid())).unwrap();
        assert!(
            program == process::sleep_program(),
            "the program's file is the image's"
        );
    }

    fn pid(&self) -> i32 {
        self.0.pid()
    }
}

pub fn a_running_program() {
    outlives_rmi_and_lazy_umount(|view| Program(Sleeper::program(&view.join("bin/sleep"))));
}

/// A process that works in a directory of the view.
struct WorkingDirectory(Sleeper);

impl Handle for WorkingDirectory {
    const WORD: &'static str = "working directory";

    fn check(&mut self) {
        assert!(self.0.is_alive());
        let cwd = PathBuf::from(format!("/proc/{}/cwd", self.0.pid()));
        assert_eq!(fs::read(cwd.join("a")).unwrap(), b"text of a");
        assert_eq!(fs::read_dir(&cwd).unwrap().count(), 3);
    }

    fn pid(&self) -> i32 {
        self.0.pid()
    }
}

pub fn a_working_directory() {
    outlives_rmi_and_lazy_umount(|view| WorkingDirectory(Sleeper::working_in(&view.join("docs"))));
}

/// A file that is deleted in the view while it is open.
struct Unlinked(File);

impl Handle for Unlinked {
    const WORD: &'static str = "open file";

    fn check(&mut self) {
        let mut text = String::new();
        self.0.seek(SeekFrom::Start(0)).unwrap();
        self.0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text of b");
        assert_eq!(self.0.metadata().unwrap().nlink(), 0);
    }
}

pub fn a_file_deleted_in_the_view() {
    outlives_rmi_and_lazy_umount(|view| {
        let path = view.join("docs/b");
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Unlinked(file)
    });
}

/// What is written through a handle after the image is gone and the view detached is the container's.
pub fn writes_after_lazy_umount_are_kept() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let mut how = File::options();
    let mut file = how
        .read(true)
        .append(true)
        .open(view.join("docs/a"))
        .unwrap();
    store.ok(&["rmi", "-f", "heavy:1"]);
    store.ok(&["umount", "--lazy", &container]);
    std::io::Write::write_all(&mut file, b", and more").unwrap();
    drop(file);
    store.wait_for_servers_to_end();
    store.load(&heavy("heavy:1", 1));
    let view = store.mount(&container);
    assert_eq!(
        fs::read(view.join("docs/a")).unwrap(),
        b"text of a, and more"
    );
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// `umount` says who holds the view, each by its PID, and works once they let go.
pub fn a_busy_view_names_its_users() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let holders = [
        Sleeper::reading(&view.join("docs/a")),
        Sleeper::working_in(&view.join("docs/sub")),
        Sleeper::program(&view.join("bin/sleep")),
    ];
    let words = ["open file", "working directory", "running program"];
    let run = store.run(&["umount", &container]);
    for (holder, word) in holders.iter().zip(words) {
        run.refused_saying(&[&format!("PID {} (sleep): {word}", holder.pid())]);
    }
    assert!(is_mounted(&view));
    assert_eq!(store.container_state(&container), "mounted");
    holders.into_iter().for_each(Sleeper::end);
    store.ok(&["umount", &container]);
    assert!(!is_mounted(&view));
    assert_eq!(
        store.servers(),
        [0; 0],
        "umount returns when the server is gone"
    );
    store.check_at_rest();
}

/// `rm -f` of a container whose detached view ends just then: its server still finds the container
/// and leaves it its files, so that it is `rm` that has to delete them.
pub fn a_view_that_ends_while_its_container_is_removed() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let held = File::open(view.join("docs/a")).unwrap();
    store.ok(&["umount", "--lazy", &container]);
    // As long as this writes, `rm` can look, but neither it nor the server can write anything down.
    let writer = rusqlite::Connection::open(store.root().join("store.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut rm = store.command(&["rm", "-f", &container]);
    let rm = rm.stdout(Stdio::piped()).stderr(Stdio::piped());
    let rm = rm.spawn().unwrap();
    let pid = i32::try_from(rm.id()).unwrap();
    wait_until("rm has the database open", || {
        let files = process::descriptors(pid);
        files.iter().any(|file| file.ends_with("store.db-wal"))
    });
    std::thread::sleep(Duration::from_millis(300));
    let process = Pid::from_raw(pid).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    writer.execute_batch("ROLLBACK").unwrap();
    drop(held);
    wait_until("the view has ended", || {
        store.container_state(&container) == "exited"
    });
    kill_process(process, Signal::CONT).unwrap();
    let removed = Run::finish(rm, "rm -f".to_owned());
    removed.expect(0, &format!("{container}\n"), "");
    store.wait_for_servers_to_end();
    assert_eq!(names_in(&store.root().join("containers")), [""; 0]);
    store.check_at_rest();
}

/// After `umount --lazy` the container cannot be mounted again while the old view is still read:
/// never two servers on one upper directory.
pub fn one_upper_directory_has_one_server() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let held = File::open(view.join("docs/a")).unwrap();
    store.ok(&["umount", "--lazy", &container]);
    let server = store.server();
    store.run(&["mount", &container]).refused_saying(&[
        "was detached, but its view is still used by open handles",
        &format!("PID {server}"),
    ]);
    assert_eq!(store.server(), server);
    drop(held);
    store.wait_for_servers_to_end();
    store.mount(&container);
    assert_eq!(store.container_state(&container), "mounted");
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// `ps` says of a view that was detached under an open handle what it is: neither mounted anywhere
/// nor ended.
pub fn a_detached_view_in_ps() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let held = File::open(view.join("docs/a")).unwrap();
    store.ok(&["umount", "--lazy", &container]);
    let rows = store.json(&["ps"]);
    assert_eq!(rows.len(), 1, "it is listed without -a: {rows:?}");
    assert_eq!(text(&rows[0], "ID"), container);
    assert_eq!(text(&rows[0], "Status"), "Detached, held by open handles");
    assert_eq!(text(&rows[0], "Mountpoint"), "");
    let table = store.ok(&["ps"]);
    assert!(table.contains("Detached, held by open handles"), "{table}");
    // Not lazily it is busy, lazily it is detached already.
    store
        .run(&["umount", &container])
        .refused_saying(&["detached", &format!("PID {}", store.server())]);
    store.ok(&["umount", "--lazy", &container]);
    drop(held);
    store.wait_for_servers_to_end();
    assert!(store.json(&["ps"]).is_empty());
    store.check_at_rest();
}

/// `rm` refuses a mounted container; `rm --force` unmounts it first.
pub fn a_mounted_container_is_removed_by_force() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    for force in ["-f", "--force"] {
        let (container, view) = store.create_mounted("heavy:1");
        fs::write(view.join("docs/new"), "written").unwrap();
        store
            .run(&["rm", &container])
            .refused_saying(&["container is running"]);
        assert!(is_mounted(&view));
        let said = format!("{container}\n");
        store.run(&["rm", force, &container]).expect(0, &said, "");
        assert!(!is_mounted(&view));
        assert_eq!(store.servers(), [0; 0], "its server has ended");
        assert!(store.json(&["ps", "-a"]).is_empty());
        assert!(names_in(&store.root().join("containers")).is_empty());
        store.check_at_rest();
    }
    // What is not there is reported, and no failure.
    store
        .run(&["rm", "-f", "nope"])
        .expect(0, "", "Error: No such container: nope\n");
}

/// A busy one is gone from `ps` at once; its files go with the last handle.
pub fn a_busy_container_is_removed_by_force() {
    let store = Store::new();
    let image = store.load(&heavy("heavy:1", 1));
    for detached in [false, true] {
        let (container, view) = store.create_mounted("heavy:1");
        fs::write(view.join("docs/a"), "written").unwrap();
        let mut held = [view.join("docs/a"), view.join("docs/b")].map(|p| File::open(p).unwrap());
        if detached {
            store.ok(&["umount", "--lazy", &container]);
        }
        let said = format!("{container}\n");
        store.run(&["rm", "-f", &container]).expect(0, &said, "");
        assert!(!is_mounted(&view));
        assert!(store.json(&["ps", "-a"]).is_empty());
        assert_eq!(store.servers().len(), 1, "the server serves what is open");
        store.check_at_rest();
        let directory = store.root().join("containers").join(&container);
        // Not an orphan as long as it is served.
        store.ok(&["gc"]);
        assert!(directory.exists());
        // Another container of the image comes and goes beside it.
        let (other, _) = store.create_mounted("heavy:1");
        store.ok(&["rm", "-f", &other]);
        assert!(directory.exists());
        for (file, text) in held.iter_mut().zip(["written", "text of b"]) {
            let mut read = String::new();
            file.read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
        if detached {
            store.ok(&["rmi", "heavy:1"]);
            assert_eq!(store.layer_state(&image.chains[0]), "pending");
        }
        drop(held);
        store.wait_for_servers_to_end();
        assert!(!directory.exists());
        store.check_at_rest();
    }
    store.check_no_layers();
}
