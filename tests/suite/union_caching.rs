//! What the kernel keeps of a view, attributes, names, listings, links and the right to believe
//! them, is never stale; and what it leaves to the view for that is done as a plain disk does it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Advice, Dir, RawDir, SeekFrom, XattrFlags};

use crate::harness::wait_until;
use crate::union_mounted::{View, run, sh};
use crate::union_support::{Dirs, get_xattr, put};

const CAPABILITY: &str = "security.capability";

/// Every way to change a file's contents or owner, each on a file of its own.
const CHANGES: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def opened(flags, act):
    def change(name):
        fd = os.open(name, flags)
        act(fd)
        os.close(fd)
    return change
def fallocate(mode):
    def act(fd):
        if libc.fallocate(fd, mode, ctypes.c_long(4096), ctypes.c_long(4096)):
            raise OSError(ctypes.get_errno(), 'fallocate')
    return act
def copied(fd):
    source = os.open('source', os.O_RDONLY)
    os.copy_file_range(source, fd, 4)
W, RW = os.O_WRONLY, os.O_RDWR
CHANGES = {
    'write': opened(W, lambda fd: os.write(fd, b'x')),
    'append': opened(W | os.O_APPEND, lambda fd: os.write(fd, b'x')),
    'pwritev': opened(RW, lambda fd: os.pwritev(fd, [b'a', b'b'], 2)),
    'twice': opened(W, lambda fd: [os.write(fd, b'x'), os.write(fd, b'y')]),
    'truncate': lambda name: os.truncate(name, 3),
    'truncate-0': lambda name: os.truncate(name, 0),
    'ftruncate': opened(W, lambda fd: os.ftruncate(fd, 100)),
    'open-trunc': opened(W | os.O_TRUNC, lambda fd: None),
    'open-only': opened(RW, lambda fd: None),
    'allocate': opened(W, fallocate(0)),
    'punch': opened(W, fallocate(3)),
    'copy': opened(W, copied),
    'chgrp': lambda name: os.chown(name, -1, os.getegid()),
    'chown-owner': lambda name: os.chown(name, 65534, -1),
    'utime': lambda name: os.utime(name, (1, 2)),
}
user = int(sys.argv[2])
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
if sys.argv[1] == 'names':
    print(*CHANGES)
else:
    for name, change in CHANGES.items():
        change(sys.argv[1] + '-' + name)
";

/// What a change leaves of set-ID bits and capabilities, by root and by the owner without any
/// privilege, on new, lower and copied-up files: the same as on a plain directory.
pub fn changes_clear_set_id_as_elsewhere() {
    let python = |at: &Path, what: &str, user: &str| {
        run(Command::new("python3")
            .args(["-c", CHANGES, what, user])
            .current_dir(at))
    };
    let dirs = Dirs::new(1);
    fs::set_permissions(dirs.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let changes = python(dirs.temp.path(), "names", "0");
    let kinds = ["lower", "copied", "new"];
    let modes = [("full", 0o6777), ("nox", 0o2767), ("suid", 0o4711)];
    let plain = dirs.path("plain");
    fs::create_dir(&plain).unwrap();
    let fill = |at: &Path, kind: &str| {
        for (user, (mode_name, mode)) in ["root", "owner"]
            .iter()
            .flat_map(|user| modes.map(|mode| (user, mode)))
        {
            for change in changes.split_whitespace() {
                let path = at.join(format!("{kind}-{mode_name}-{user}-{change}"));
                fs::write(&path, "some content").unwrap();
                std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                // Version 2, permitted and effective: CAP_NET_BIND_SERVICE.
                let mut value = [0_u8; 20];
                value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 4, 0, 0]);
                rustix::fs::setxattr(&path, CAPABILITY, &value, XattrFlags::empty()).unwrap();
            }
        }
    };
    for at in [&plain, &dirs.layer(0)] {
        put(at, "source", "source");
        fill(at, "lower");
        fill(at, "copied");
    }
    let view = View::new(dirs);
    for at in [&plain, &view.mnt] {
        fill(at, "new");
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().as_bytes().starts_with(b"copied") {
                let (name, none) = ("user.copied", XattrFlags::empty());
                rustix::fs::setxattr(entry.path(), name, b"", none).unwrap();
            }
        }
    }
    let shown = |at: &Path| -> Vec<String> {
        let mut shown = Vec::new();
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().mode();
            let capable = get_xattr(&entry.path(), CAPABILITY).is_some();
            shown.push(format!("{:?} {mode:o} {capable}", entry.file_name()));
        }
        shown.sort();
        shown
    };
    assert_eq!(shown(&view.mnt), shown(&plain));
    for at in [&plain, &view.mnt] {
        for kind in kinds {
            for (mode, _) in modes {
                python(at, &format!("{kind}-{mode}-root"), "0");
                python(at, &format!("{kind}-{mode}-owner"), "65534");
            }
        }
    }
    let (plain, viewed) = (shown(&plain), shown(&view.mnt));
    assert!(plain.iter().any(|line| line.contains(" 100777 false")));
    for (viewed, plain) in viewed.iter().zip(&plain) {
        assert_eq!(viewed, plain);
    }
    // The same on disk.
    let upper = shown(&view.dirs.upper());
    for line in &upper {
        assert!(viewed.contains(line), "{line}");
    }
}

fn names(dir: &Path) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().as_bytes().to_vec();
        assert!(names.insert(name), "{dir:?} shows a name twice");
    }
    names
}

/// A listing shows each change at once, whoever made it and whatever the kernel kept.
pub fn listings_are_never_stale() {
    let dirs = Dirs::new(2);
    for i in 0..50 {
        put(&dirs.layer(i % 2), &format!("dir/lower{i}"), "x");
        put(&dirs.layer(1), &format!("other/lower{i}"), "x");
    }
    let view = View::new(dirs);
    let plain = view.dirs.path("plain");
    run(Command::new("cp").arg("-a").arg(&view.mnt).arg(&plain));
    let both = |script: &str| {
        for at in [&view.mnt, &plain] {
            sh(script, at);
        }
        for dir in ["dir", "other"] {
            assert_eq!(names(&view.path(dir)), names(&plain.join(dir)), "{script}");
        }
    };
    for i in 0..8 {
        both(&format!("rm dir/lower{i}"));
        both(&format!("touch dir/new{i} dir/lower{i}"));
        both(&format!("mkdir dir/sub{i}"));
        both(&format!("mv dir/lower{} other/moved{i}", i + 10));
        both(&format!("mv dir/lower{} dir/moved{i}", i + 20));
        both(&format!("mv dir/new{i} dir/lower{}", i + 30));
        both(&format!("ln other/lower{i} dir/link{i}"));
        both(&format!("ln -s x dir/symlink{i}"));
        both(&format!("mkfifo dir/fifo{i}"));
        both(&format!("mv -T dir/sub{i} other/sub{i}"));
        both(&format!(
            "rm dir/link{i} dir/symlink{i}; rmdir other/sub{i}"
        ));
        both(&format!("echo > dir/lower{}", i + 40));
    }
    both("rm dir/*; mkdir dir/last");
    both("rmdir dir/last");
    assert!(names(&view.path("dir")).is_empty());
}

/// Each of several readers, at whatever pace and whatever the kernel has kept, is shown once what
/// has been there all the time, and nothing twice.
pub fn many_readers_of_a_changing_directory() {
    const STAYING: usize = 3000;
    let dirs = Dirs::new(1);
    for i in 0..STAYING {
        put(&dirs.layer(0), &format!("dir/stays{i}"), "");
        put(&dirs.layer(0), &format!("dir/goes{i}"), "");
    }
    let view = View::new(dirs);
    let path = view.path("dir");
    let open = || (File::open(&path).unwrap(), Vec::<String>::new());
    let mut readers: Vec<_> = (0..5).map(|_| open()).collect();
    let mut round = 0;
    while !readers.is_empty() {
        round += 1;
        let mut open = Vec::new();
        for (at, (fd, mut seen)) in readers.into_iter().enumerate() {
            // Small steps of different sizes, and now and then another descriptor that goes on
            // where this one was.
            let mut buffer = Vec::with_capacity(700 * (at + 1));
            let mut raw = RawDir::new(&fd, buffer.spare_capacity_mut());
            let mut last = None;
            while let Some(entry) = raw.next() {
                let entry = entry.unwrap();
                seen.push(entry.file_name().to_str().unwrap().to_owned());
                last = Some(entry.next_entry_cookie());
                if raw.is_buffer_empty() {
                    break;
                }
            }
            let Some(last) = last else {
                check_seen(&seen, STAYING);
                continue;
            };
            if (round + at) % 7 == 0 {
                let other = File::open(&path).unwrap();
                rustix::fs::seek(&other, SeekFrom::Start(last)).unwrap();
                open.push((other, seen));
            } else {
                open.push((fd, seen));
            }
        }
        readers = open;
        for i in (round * 9..round * 9 + 9).filter(|i| *i < STAYING) {
            fs::remove_file(path.join(format!("goes{i}"))).unwrap();
            File::create(path.join(format!("comes{i}"))).unwrap();
        }
        if round % 5 == 0 {
            // The kernel gives up what it kept.
            let dir = File::open(&path).unwrap();
            rustix::fs::fadvise(dir.as_fd(), 0, None, Advice::DontNeed).unwrap();
        }
        if round % 11 == 0 {
            assert!(names(&path).contains(&b"stays7"[..]));
        }
    }
    // A descriptor rewound sees the changes.
    let mut dir = Dir::read_from(File::open(&path).unwrap()).unwrap();
    let count = |dir: &mut Dir| {
        let mut count = 0;
        while let Some(entry) = dir.read() {
            entry.unwrap();
            count += 1;
        }
        count
    };
    let before = count(&mut dir);
    File::create(path.join("one more")).unwrap();
    dir.rewind();
    assert_eq!(count(&mut dir), before + 1);
}

#[track_caller]
fn check_seen(seen: &[String], staying: usize) {
    let once: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "nothing is shown twice");
    let stays = seen.iter().filter(|name| name.starts_with("stays"));
    assert_eq!(stays.count(), staying);
}

/// The number and the type that a kept listing shows are the ones that `stat` shows.
pub fn numbers_in_listings_survive_copy_up() {
    let dirs = Dirs::new(1);
    for i in 0..20 {
        put(&dirs.layer(0), &format!("dir/file{i}"), "x");
        put(&dirs.layer(0), &format!("dir/sub{i}/file"), "x");
    }
    let view = View::new(dirs);
    let path = view.path("dir");
    let numbers = || {
        let listed: BTreeSet<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                assert_eq!(entry.ino(), meta.ino());
                assert_eq!(entry.file_type().unwrap(), meta.file_type());
                (entry.file_name(), meta.ino())
            })
            .collect();
        listed
    };
    let before = numbers();
    sh(
        "for f in dir/file* dir/sub*/file; do echo y >> $f; done",
        &view.mnt,
    );
    assert_eq!(numbers(), before);
    sh("rm dir/file3; mkdir dir/file3", &view.mnt);
    let after = numbers();
    assert_eq!(after.len(), before.len());
    assert_ne!(after, before);
}

/// A moved directory's own listing was kept, too, and has the old parent in it.
pub fn the_parent_of_a_moved_directory() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "a/sub/file", "x");
    put(&dirs.layer(0), "b/file", "x");
    let view = View::new(dirs);
    let parent = |path: &str| {
        let mut dir = Dir::read_from(File::open(view.path(path)).unwrap()).unwrap();
        let mut parent = None;
        // To the end: a listing that was not read to its end is not kept.
        while let Some(entry) = dir.read() {
            let entry = entry.unwrap();
            if entry.file_name() == c".." {
                parent = Some(entry.ino());
            }
        }
        parent.unwrap()
    };
    let ino = |path: &str| fs::metadata(view.path(path)).unwrap().ino();
    assert_eq!(parent("a/sub"), ino("a"));
    fs::rename(view.path("a/sub"), view.path("b/sub")).unwrap();
    // No call of the kernel's own tells it of this: it is told a moment later.
    wait_until("the new parent shows", || parent("b/sub") == ino("b"));
}

/// Names that were not there, names of other files now, and symlinks that lead elsewhere.
pub fn names_and_links_are_never_stale() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "dir/file", "lower");
    symlink("old", dirs.layer(0).join("dir/link")).unwrap();
    let view = View::new(dirs);
    let path = |name: &str| view.path("dir").join(name);
    for name in ["made", "linked", "moved", "sym", "sub", "sub2"] {
        assert!(!path(name).exists() && !path(name).is_symlink());
    }
    assert!(!path("sub/inside").exists());
    fs::write(path("made"), "made").unwrap();
    fs::hard_link(path("made"), path("linked")).unwrap();
    fs::rename(path("made"), path("moved")).unwrap();
    symlink("target", path("sym")).unwrap();
    fs::create_dir(path("sub2")).unwrap();
    fs::write(path("sub2/inside"), "inside").unwrap();
    fs::rename(path("sub2"), path("sub")).unwrap();
    assert!(!path("made").exists() && !path("sub2").exists());
    assert_eq!(fs::read(path("linked")).unwrap(), b"made");
    assert_eq!(fs::read(path("moved")).unwrap(), b"made");
    assert_eq!(fs::read(path("sub/inside")).unwrap(), b"inside");
    // The same name, other files.
    fs::rename(path("moved"), path("file")).unwrap();
    assert_eq!(fs::read(path("file")).unwrap(), b"made");
    fs::remove_file(path("file")).unwrap();
    assert!(!path("file").exists());
    fs::write(path("file"), "again").unwrap();
    assert_eq!(fs::read(path("file")).unwrap(), b"again");
    // Links.
    let target = |name: &str| fs::read_link(path(name)).unwrap().into_os_string();
    assert_eq!(
        (target("link"), target("sym")),
        ("old".into(), "target".into())
    );
    fs::remove_file(path("link")).unwrap();
    symlink("new", path("link")).unwrap();
    assert_eq!(target("link"), "new");
    fs::rename(path("sym"), path("link")).unwrap();
    assert_eq!(target("link"), "target");
}

/// What `stat` shows after each change, through another name or descriptor than the one it was
/// made by.
pub fn attributes_are_never_stale() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "dir/one", "content");
    put(&dirs.layer(0), "dir/sub/file", "content");
    fs::hard_link(dirs.layer(0).join("dir/one"), dirs.layer(0).join("dir/two")).unwrap();
    let view = View::new(dirs);
    let path = |name: &str| view.path("dir").join(name);
    let stat = |name: &str| fs::metadata(path(name)).unwrap();
    let open = File::open(path("two")).unwrap();
    assert_eq!((stat("two").nlink(), stat("two").len()), (2, 7));
    // The disk's clock goes in steps.
    let tick = || std::thread::sleep(std::time::Duration::from_millis(20));
    tick();
    fs::set_permissions(path("one"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(stat("two").mode() & 0o7777, 0o600);
    fs::write(path("one"), "longer content").unwrap();
    assert_eq!(
        (stat("two").len(), open.metadata().unwrap().len()),
        (14, 14)
    );
    fs::hard_link(path("two"), path("three")).unwrap();
    assert_eq!(
        (stat("one").nlink(), open.metadata().unwrap().nlink()),
        (3, 3)
    );
    let before = stat("one");
    tick();
    fs::rename(path("two"), path("four")).unwrap();
    assert!(stat("one").ctime_nsec() != before.ctime_nsec());
    fs::remove_file(path("four")).unwrap();
    assert_eq!(
        (stat("one").nlink(), open.metadata().unwrap().nlink()),
        (2, 2)
    );
    rustix::fs::setxattr(path("one"), "user.x", b"1", XattrFlags::empty()).unwrap();
    assert_eq!(get_xattr(&path("three"), "user.x"), Some(b"1".to_vec()));
    // A directory's times, and the links of one that was made here.
    fs::create_dir(path("made")).unwrap();
    let links = |name: &str| stat(name).nlink();
    assert_eq!(links("made"), 2);
    for change in [
        "touch sub/new",
        "mkdir sub/dir",
        "mv sub/new sub/dir/",
        "rmdir made",
    ] {
        let before = (stat("sub").mtime_nsec(), stat("").mtime_nsec());
        tick();
        sh(change, &view.path("dir"));
        assert_ne!(
            (stat("sub").mtime_nsec(), stat("").mtime_nsec()),
            before,
            "{change}"
        );
    }
    sh("mkdir -p made/a made/b", &view.path("dir"));
    assert_eq!(links("made"), 4);
    fs::remove_dir(path("made/a")).unwrap();
    assert_eq!(links("made"), 3);
}

/// A default ACL that a directory gets after something was made in it.
pub fn default_acls_are_never_stale() {
    let view = View::new(Dirs::new(1));
    let mode = |path: &str| fs::metadata(view.path(path)).unwrap().mode() & 0o777;
    sh(
        "mkdir dir; cd dir; umask 077; touch before
         setfacl -d -m u::rwx,g::rwx,o::rwx .; touch with; mkdir sub; touch sub/with
         setfacl -k .; touch without; touch sub/still",
        &view.mnt,
    );
    let modes = ["before", "with", "sub/with", "without", "sub/still"];
    let modes = modes.map(|name| mode(&format!("dir/{name}")));
    // The ACL replaces the umask.
    assert_eq!(modes, [0o600, 0o666, 0o666, 0o600, 0o666]);
}
