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

use crate::harness::store::{is_mounted, names_in};
use crate::harness::{
    LoopFs, Run, Sleeper, Store, mapping, noise, number, process, text, wait_until,
};
use crate::samples::{all_deferred, heavy};

const MIB: usize = 12;
const KIB: u64 = 1 << 10;

/// Something in a view that is held.
trait Handle {
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
    refused.refused_saying(&[&handle.pid().to_string()]);
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
    fn check(&mut self) {
        let dir = rustix::fs::Dir::read_from(&self.0).unwrap();
        let mut names: Vec<String> = dir
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, [".", "..", "a", "b", "sub"]);
        let file = rustix::fs::openat(&self.0, "b", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text of b");
    }
}

pub fn an_open_directory() {
    outlives_rmi_and_lazy_umount(|view| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        OpenDirectory(rustix::fs::open(view.join("docs"), flags, Mode::empty()).unwrap())
    });
}

/// A program of the view that runs.
struct Program(Sleeper);

impl Handle for Program {
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
    let pids: Vec<String> = holders.iter().map(|h| h.pid().to_string()).collect();
    let run = store.run(&["umount", &container]);
    run.refused_saying(&pids.iter().map(String::as_str).collect::<Vec<_>>());
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

/// After `umount --lazy` the container can be mounted again while the old view is still read: or is
/// refused with a reason; never two servers on one upper directory.
pub fn one_upper_directory_has_one_server() {
    let store = Store::new();
    store.load(&heavy("heavy:1", 1));
    let (container, view) = store.create_mounted("heavy:1");
    let held = File::open(view.join("docs/a")).unwrap();
    store.ok(&["umount", "--lazy", &container]);
    let again = store.run(&["mount", &container]);
    again.refused();
    assert_eq!(store.servers().len(), 1);
    drop(held);
    store.wait_for_servers_to_end();
    store.mount(&container);
    wait_until("the container is mounted", || {
        store.container_state(&container) == "mounted"
    });
    assert_eq!(text(&store.container(&container), "State"), "mounted");
    store.ok(&["umount", &container]);
    store.check_at_rest();
}
