//! The ways by which files are read and written: whatever the mode of the mount, all who have a file
//! open, or mapped, see one file.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use layerctl::union::IoMode;
use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use crate::harness::mapping::{map_file, map_for_writing};
use crate::harness::process::sleep_program;
use crate::harness::{Image, Layer, Store, wait_until};
use crate::union_mounted::{View, run, sh};
use crate::union_support::{Dirs, put};
use crate::{union_caching, union_mount};

thread_local! {
    static MODE: Cell<IoMode> = Cell::new(IoMode::default());
}

/// The mode of the mounts that this thread makes.
pub fn mode() -> IoMode {
    MODE.get()
}

/// A test in one mode, and then in the other.
fn in_both(test: fn()) {
    for mode in [IoMode::Passthrough, IoMode::Cached] {
        eprintln!("{mode:?}");
        MODE.set(mode);
        test();
    }
}

/// What is tested of mounts in the default mode holds in the other as well.
pub fn the_other_mode_is_no_worse() {
    for mode in [IoMode::Passthrough, IoMode::Cached] {
        if mode == IoMode::default() {
            continue;
        }
        MODE.set(mode);
        for test in [
            union_mount::mapped_pages_are_coherent as fn(),
            union_mount::paths_longer_than_path_max,
            union_mount::shows_what_overlayfs_shows,
            union_mount::overlayfs_reads_what_a_view_wrote,
            union_mount::default_acls_and_umask,
            union_mount::an_open_file_outlives_its_names,
            union_mount::a_removed_working_directory,
            union_mount::lazily_detached_and_mounted_over,
            union_mount::entries_come_and_go_while_listed,
            union_mount::a_full_disk,
            union_mount::errors_say_where,
            union_mount::many_processes_at_once,
            union_caching::changes_clear_set_id_as_elsewhere,
            union_caching::listings_are_never_stale,
            union_caching::names_and_links_are_never_stale,
            union_caching::attributes_are_never_stale,
        ] {
            test();
        }
    }
}

/// A view of a layer with a file of three pages, the same as a new file and one copied up before.
fn three_files() -> View {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "lower", &"a".repeat(12288));
    put(&dirs.layer(0), "copied", &"a".repeat(12288));
    let view = View::new(dirs);
    fs::write(view.path("new"), "a".repeat(12288)).unwrap();
    File::options()
        .write(true)
        .open(view.path("copied"))
        .unwrap();
    view
}

fn each(test: fn(&View, &Path)) {
    let view = three_files();
    for name in ["lower", "copied", "new"] {
        eprintln!("{name}");
        test(&view, &view.path(name));
    }
}

fn rw(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn at(file: &File, offset: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

/// What another process reads there.
fn elsewhere(path: &Path, offset: u64) -> u8 {
    let script = format!(
        "dd if='{}' bs=1 skip={offset} count=1 status=none",
        path.display()
    );
    run(Command::new("sh").args(["-c", &script])).as_bytes()[0]
}

/// Opened for reading, then for writing, then by a third; the first stay open over the copy-up.
pub fn one_inode_opened_by_many() {
    in_both(|| {
        each(|_, path| {
            let reader = File::open(path).unwrap();
            let early = map_file(&reader);
            assert_eq!((at(&reader, 5000), early[5000]), (b'a', b'a'));
            let writer = rw(path);
            writer.write_all_at(b"b", 5000).unwrap();
            let third = File::open(path).unwrap();
            assert_eq!((at(&reader, 5000), at(&third, 5000)), (b'b', b'b'));
            assert_eq!((early[5000], elsewhere(path, 5000)), (b'b', b'b'));
            third
                .set_permissions(fs::Permissions::from_mode(0o600))
                .unwrap();
            writer.write_all_at(b"longer", 12288).unwrap();
            for file in [&reader, &writer, &third] {
                assert_eq!(file.metadata().unwrap().len(), 12294);
                assert_eq!(at(file, 12290), b'n');
            }
            drop((reader, early, writer));
            // The third keeps to the way that it was opened by; and then nobody has it open.
            let again = rw(path);
            again.write_all_at(b"c", 5000).unwrap();
            assert_eq!((at(&third, 5000), elsewhere(path, 5000)), (b'c', b'c'));
            drop((third, again));
            // What was kept of it before is not believed any more.
            let writer = rw(path);
            writer.write_all_at(b"d", 5000).unwrap();
            assert_eq!(
                (at(&File::open(path).unwrap(), 5000), elsewhere(path, 5000)),
                (b'd', b'd')
            );
            fs::write(path, "short").unwrap();
            assert_eq!(
                (
                    writer.metadata().unwrap().len(),
                    fs::read(path).unwrap().len()
                ),
                (5, 5)
            );
        });
    });
}

/// Mappings that outlive the descriptors they were made of, while others write to the file.
pub fn mappings_are_of_the_one_file() {
    in_both(|| {
        each(|_, path| {
            let early = map_file(&File::open(path).unwrap());
            assert_eq!(early[0], b'a');
            let mut shared = map_for_writing(&rw(path));
            shared[0] = b'b';
            assert_eq!((early[0], elsewhere(path, 0)), (b'b', b'b'));
            rw(path).write_all_at(b"c", 1).unwrap();
            assert_eq!((early[1], shared[1]), (b'c', b'c'));
            let script = format!(
                "import mmap\nf = open('{}', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nf.close()\n\
                 assert m[0:2] == b'bc'\nm[2:3] = b'd'",
                path.display()
            );
            run(Command::new("python3").args(["-c", &script]));
            assert_eq!(
                (early[2], shared[2], elsewhere(path, 2)),
                (b'd', b'd', b'd')
            );
            shared[8000] = b'e';
            assert_eq!(at(&File::open(path).unwrap(), 8000), b'e');
            drop(early);
            shared[8001] = b'f';
            assert_eq!(fs::read(path).unwrap()[8000..8002], *b"ef");
            drop(shared);
            assert_eq!(fs::read(path).unwrap()[8000..8002], *b"ef");
        });
    });
}

/// What is written through a mapping, long after the descriptor was closed, shows in the times.
pub fn times_of_mapped_files() {
    in_both(|| {
        each(|_, path| {
            let mut shared = map_for_writing(&rw(path));
            let time = || {
                let meta = fs::metadata(path).unwrap();
                (meta.mtime(), meta.mtime_nsec())
            };
            for round in 0..3 {
                let before = time();
                std::thread::sleep(std::time::Duration::from_millis(20));
                shared[round] = b'm';
                shared.flush().unwrap();
                if mode() == IoMode::Passthrough && !path.ends_with("lower") {
                    assert_ne!(time(), before);
                }
                // Where the server has to tell the kernel, it does a moment later.
                wait_until("the change of a mapped page shows", || time() != before);
            }
        });
    });
}

/// Size and times after each change, asked for by another process.
pub fn attributes_follow_every_write() {
    fn stat(path: &Path) -> (u64, String) {
        let shown = run(Command::new("stat").args(["-c", "%s %y"]).arg(path));
        let (size, time) = shown.trim().split_once(' ').unwrap();
        (size.parse().unwrap(), time.to_owned())
    }
    in_both(|| {
        each(|view, path| {
            // The disk's clock goes in steps.
            let tick = || std::thread::sleep(std::time::Duration::from_millis(20));
            let (mut size, mut time) = stat(path);
            let mut check = |what: &str, grown: u64| {
                size += grown;
                let now = stat(path);
                assert_eq!(now.0, size, "{what}");
                assert_ne!(now.1, time, "{what}");
                assert_eq!(fs::metadata(path).unwrap().len(), size, "{what}");
                // The disk has it, too.
                let name = path.file_name().unwrap();
                let stored = fs::metadata(view.dirs.upper().join(name)).unwrap();
                assert_eq!(stored.len(), size, "{what}");
                time = now.1;
                tick();
            };
            tick();
            let mut writer = rw(path);
            writer.write_all_at(b"b", 3).unwrap();
            check("a write", 0);
            writer.write_all_at(b"b", 3).unwrap();
            check("a second write", 0);
            writer.seek(SeekFrom::End(0)).unwrap();
            writer.write_all(&[b'c'; 5000]).unwrap();
            check("a write at the end", 5000);
            let mut append = File::options().append(true).open(path).unwrap();
            append.write_all(b"12345").unwrap();
            check("an append", 5);
            sh(&format!("printf 123 >> '{}'", path.display()), &view.mnt);
            check("an append by another process", 3);
            assert_eq!(
                writer.seek(SeekFrom::End(0)).unwrap(),
                fs::metadata(path).unwrap().len()
            );
            writer.write_all(b"123").unwrap();
            check("a write behind it", 3);
            let len = writer.metadata().unwrap().len();
            writer.set_len(len + 4096).unwrap();
            check("a truncation", 4096);
            rustix::fs::fallocate(&writer, FallocateFlags::empty(), len + 4096, 100).unwrap();
            check("an allocation", 100);
            drop((writer, append));
            rw(path).write_all_at(b"d", 4).unwrap();
            check("a write by a descriptor that is closed", 0);
        });
    });
}

/// Programs that run, and files that are written, exclude each other.
pub fn running_programs() {
    in_both(|| {
        let dirs = Dirs::new(1);
        fs::write(dirs.layer(0).join("lower"), sleep_program()).unwrap();
        let view = View::new(dirs);
        fs::write(view.path("new"), sleep_program()).unwrap();
        for name in ["lower", "new"] {
            let path = view.path(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let busy = Some(Errno::TXTBSY.raw_os_error());
            let spawn = || Command::new(&path).arg("100").spawn();
            let mut running = spawn().unwrap();
            for truncate in [false, true] {
                let open = File::options().write(true).truncate(truncate).open(&path);
                assert_eq!(open.unwrap_err().raw_os_error(), busy, "{name}");
            }
            // Replaced, it may be written.
            fs::copy(&path, view.path("other")).unwrap();
            fs::rename(view.path("other"), &path).unwrap();
            let writer = rw(&path);
            let mut second = spawn();
            if let Ok(second) = &mut second {
                second.kill().unwrap();
                second.wait().unwrap();
            }
            assert_eq!(second.map(drop).unwrap_err().raw_os_error(), busy, "{name}");
            drop(writer);
            assert!(running.try_wait().unwrap().is_none());
            running.kill().unwrap();
            running.wait().unwrap();
        }
    });
}

/// Appends of several descriptors and processes never overwrite each other.
pub fn appends() {
    in_both(|| {
        each(|view, path| {
            let script = format!(
                "for i in $(seq 100); do echo 1234567; done >> '{0}' &
                 for i in $(seq 100); do echo 1234567 >> '{0}'; done; wait",
                path.display()
            );
            let mut here = File::options().append(true).open(path).unwrap();
            let other = view.mnt.clone();
            let shell = std::thread::spawn(move || sh(&script, &other));
            for _ in 0..100 {
                here.write_all(b"1234567\n").unwrap();
            }
            shell.join().unwrap();
            assert_eq!(here.metadata().unwrap().len(), 12288 + 300 * 8);
            let content = fs::read_to_string(path).unwrap();
            assert!(content[12288..].lines().all(|line| line == "1234567"));
        });
    });
}

/// Reads and writes past every cache, beside others through it.
pub fn direct_io() {
    in_both(|| {
        each(|_, path| {
            let direct = File::options()
                .read(true)
                .write(true)
                .custom_flags(OFlags::DIRECT.bits() as i32)
                .open(path)
                .unwrap();
            // A mapping is aligned as the disk wants it.
            let mut page = MmapMut::map_anon(4096).unwrap();
            page.fill(b'd');
            direct.write_all_at(&page, 4096).unwrap();
            assert_eq!((at(&rw(path), 5000), elsewhere(path, 4096)), (b'd', b'd'));
            rw(path).write_all_at(b"buffered", 8192).unwrap();
            direct.read_exact_at(&mut page, 8192).unwrap();
            assert_eq!(&page[..9], b"buffereda");
        });
    });
}

/// Locks of both kinds, between descriptors and between processes.
pub fn locks() {
    in_both(|| {
        each(|_, path| {
            let (one, two) = (rw(path), File::open(path).unwrap());
            rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
            let refused = rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared);
            assert_eq!(refused, Err(Errno::WOULDBLOCK));
            one.write_all_at(b"x", 0).unwrap();
            rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
            rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
            let lock = FlockOperation::NonBlockingLockExclusive;
            rustix::fs::fcntl_lock(&one, lock).unwrap();
            let script = format!(
                "import fcntl\nf = open('{}', 'r+')\n\
                 try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('locked')\n\
                 except BlockingIOError: print('refused')",
                path.display()
            );
            let other = || run(Command::new("python3").args(["-c", &script]));
            assert_eq!(other(), "refused\n");
            drop(one);
            assert_eq!(other(), "locked\n");
        });
    });
}

/// Allocation, holes, and where data is, of what was written a moment ago.
pub fn holes() {
    in_both(|| {
        each(|_, path| {
            let file = rw(path);
            let seek = |to| rustix::fs::seek(&file, to);
            use rustix::fs::SeekFrom::{Data, Hole};
            file.set_len(0).unwrap();
            file.set_len(1 << 20).unwrap();
            assert_eq!(seek(Data(0)), Err(Errno::NXIO));
            file.write_all_at(b"data", 1 << 19).unwrap();
            assert_eq!((seek(Data(0)), seek(Hole(0))), (Ok(1 << 19), Ok(0)));
            assert_eq!(seek(Hole(1 << 19)), Ok((1 << 19) + 4096));
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, punch, 1 << 19, 4096).unwrap();
            assert_eq!((at(&file, 1 << 19), elsewhere(path, 1 << 19)), (0, 0));
            assert_eq!(seek(Data(0)), Err(Errno::NXIO));
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 2 << 20);
            assert!(file.metadata().unwrap().blocks() >= 4096);
            file.write_all_at(b"x", 0).unwrap();
            let zero = FallocateFlags::ZERO_RANGE;
            rustix::fs::fallocate(&file, zero, 0, 4096).unwrap();
            assert_eq!((at(&file, 0), elsewhere(path, 0)), (0, 0));
        });
    });
}

/// `copy_file_range` between files of every origin, and within one.
pub fn ranges_are_copied() {
    in_both(|| {
        each(|view, path| {
            let (target, other) = (rw(path), File::open(view.path("copied")).unwrap());
            let mut mapped = map_file(&target);
            let at_end = |file: &File| file.metadata().unwrap().len();
            target.write_all_at(b"source", 0).unwrap();
            let (mut from, mut to) = (0, 6000);
            let copy = |source: &File, from: &mut u64, to: &mut u64| {
                rustix::fs::copy_file_range(source, Some(from), &target, Some(to), 6).unwrap()
            };
            assert_eq!(copy(&target, &mut from, &mut to), 6);
            assert_eq!(
                (&mapped[6000..6006], elsewhere(path, 6001)),
                (&b"source"[..], b'o')
            );
            let mut to = at_end(&target);
            assert_eq!(copy(&other, &mut 0, &mut to), 6);
            assert_eq!((at_end(&target), to), (12294, 12294));
            mapped = map_file(&target);
            assert_eq!(mapped[12288], at(&other, 0));
        });
    });
}

/// A file that is open and removed, or mapped and removed, is read and written on, and gone with the
/// last user.
pub fn removed_files_live_on() {
    in_both(|| {
        each(|view, path| {
            let reader = File::open(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, "another").unwrap();
            assert_eq!(at(&reader, 3), b'a');
            assert_eq!(reader.metadata().unwrap().nlink(), 0);
            fs::remove_file(path).unwrap();
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .unwrap();
            file.write_all(&vec![b'x'; 8 << 20]).unwrap();
            let map = map_file(&file);
            fs::remove_file(path).unwrap();
            file.write_all_at(b"y", 0).unwrap();
            assert_eq!((map[0], at(&file, 0), map[8000]), (b'y', b'y', b'x'));
            assert_eq!(file.metadata().unwrap().len(), 8 << 20);
            file.set_len(16 << 20).unwrap();
            drop((file, reader));
            assert_eq!(map[1 << 20], b'x');
            let free = || {
                let fs = rustix::fs::statvfs(&view.mnt).unwrap();
                fs.f_bfree * fs.f_frsize
            };
            let before = free();
            drop(map);
            // FORGET comes a moment later.
            wait_until("the space of a removed file comes back", || {
                free() >= before + (7 << 20)
            });
        });
    });
}

/// Created with modes that let nobody write; created by another's O_CREAT; created and truncated.
pub fn creating() {
    in_both(|| {
        let view = View::new(Dirs::new(1));
        let path = view.path("file");
        let mut new = File::options();
        new.write(true).create_new(true).mode(0o444);
        let mut file = new.open(&path).unwrap();
        file.write_all(b"content").unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o444);
        assert_eq!(
            new.open(&path).unwrap_err().raw_os_error(),
            Some(Errno::EXIST.raw_os_error())
        );
        let mut other = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        other.write_all(b"+").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content+");
        File::create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        sh(
            "umask 027; : > masked; (umask 0; mkdir open; : > open/file)",
            &view.mnt,
        );
        let mode = |name: &str| fs::metadata(view.path(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("masked"), mode("open/file")), (0o640, 0o666));
        let mut content = String::new();
        file = rw(&path);
        file.write_all(b"end").unwrap();
        file.rewind().unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "end");
    });
}

/// More files at once than the server may have open.
pub fn more_open_files_than_descriptors() {
    let store = Store::new();
    store.load(&Image::new(
        &["app:1"],
        vec![(0..300).fold(Layer::new(), |layer, i| {
            layer.file(&format!("file{i}"), format!("content {i}"))
        })],
    ));
    let container = store.create("app:1");
    let script = "ulimit -n 128; exec \"$@\"";
    let mut command = store.command(&["mount", "--io", "cached", &container]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    command = limited;
    let mnt = run(&mut command);
    let mnt = Path::new(mnt.trim());
    let files: Vec<File> = (0..300)
        .map(|i| rw(&mnt.join(format!("file{i}"))))
        .collect();
    for file in &files {
        file.write_all_at(b"C", 0).unwrap();
    }
    for (i, file) in files.iter().enumerate() {
        let mut content = vec![0; 64];
        let len = file.read_at(&mut content, 0).unwrap();
        assert_eq!(content[..len], *format!("Content {i}").as_bytes());
    }
    drop(files);
    store.ok(&["umount", &container]);
}

/// The modes are what they say: in one no write reaches the server, in the other no open.
pub fn requests_that_are_spared() {
    let store = Store::new();
    store.load(&Image::new(
        &["app:1"],
        vec![Layer::new().file("lower", "x")],
    ));
    for (mode, never, once) in [
        (
            "passthrough",
            vec![" Write ", " Read ", " Flush "],
            vec![" Opendir 1 "],
        ),
        (
            "cached",
            vec![" Release ", " Flush "],
            vec![" Open 1 ", " Opendir 1 ", " Create 1 "],
        ),
    ] {
        let container = store.create("app:1");
        let mut command = store.command(&["mount", "--io", mode, &container]);
        let mnt = run(command.env("LAYERCTL_LOG", "debug"));
        sh(
            "for i in 1 2 3; do for f in a b; do echo y >> $f; cat $f; ls; done; done",
            Path::new(mnt.trim()),
        );
        store.ok(&["umount", &container]);
        let log = store.root().join("containers").join(&container).join("log");
        let log = fs::read_to_string(log).unwrap();
        let requests = log.lines().find(|line| line.contains("requests:"));
        let requests = requests.unwrap_or_else(|| panic!("{log}"));
        let requests = format!("{requests} ");
        for name in never {
            assert!(!requests.contains(name), "{mode}: {requests}");
        }
        for name in once {
            assert!(requests.contains(name), "{mode}: {requests}");
        }
    }
}
