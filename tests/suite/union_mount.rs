//! The union mounted: what only the kernel can ask of it, and the view beside kernel overlayfs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use layerctl::union::{Options, Union, mount};
use rustix::io::Errno;

use crate::harness::wait_until;

use super::union_mounted::{View, listing, options, overlay_of, rich_layers, run, sh, unmount};
use super::union_support::{Dirs, get_xattr, open_dir, put};

pub fn shows_what_overlayfs_shows() {
    let view = View::new(rich_layers());
    let overlay = overlay_of(&view.dirs, "ovl-upper", "ovl-work");
    assert_eq!(listing(&view.mnt), listing(&overlay.path()));
    // The same changes in both. (No change to a hard link: there overlayfs breaks it.)
    let changes = "
        echo more >> etc/passwd; chmod 600 etc/group; chown 5:6 suid; touch -d @77.123456789 null
        rm link; rmdir etc/deep/er; rm -r hidden; mkdir hidden; echo again > gone
        mv tmp tmp2; mv etc etc2; mkdir etc; mv dangling etc/dangling; ln fifo fifo2
        rm file-then-dir/x; mv dir-then-file file-then-dir/; truncate -s 100 file-then-dir/dir-then-file
        touch -d @99.5 etc etc2 hidden file-then-dir etc2/deep etc2/passwd gone etc2/group
        touch -d @99.5 file-then-dir/dir-then-file";
    sh(changes, &view.mnt);
    sh(changes, &overlay.path());
    assert_eq!(listing(&view.mnt), listing(&overlay.path()));
}

pub fn overlayfs_reads_what_a_view_wrote() {
    let mut view = View::new(rich_layers());
    sh(
        "echo more >> etc/passwd; mv etc etc2; mkdir etc; rm -r hidden; mkdir hidden; rm suid
         mv etc2/deep deep; mv tmp tmp2; rm -r dir-then-file; mkdir dir-then-file
         mkdir new; mv new gone; mv file-then-dir/x gone/",
        &view.mnt,
    );
    let shown = listing(&view.mnt);
    view.unmount();
    let overlay = overlay_of(&view.dirs, "upper", "ovl-work");
    assert_eq!(shown, listing(&overlay.path()));
}

pub fn mapped_pages_are_coherent() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", &"a".repeat(8192));
    let view = View::new(dirs);
    let path = view.path("file");
    let mut early = File::open(&path).unwrap();
    let before = fs::metadata(&path).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let script = "
import mmap, sys
f = open('file', 'r+b')
m = mmap.mmap(f.fileno(), 8192)
m[0:5] = b'hello'
m[5000:5005] = b'world'
assert open('file', 'rb').read()[5000:5005] == b'world'
f.seek(100); f.write(b'written'); f.flush()
assert m[100:107] == b'written'
m.flush(); m.close(); f.close()
";
    run(Command::new("python3")
        .args(["-c", script])
        .current_dir(&view.mnt));
    let mut content = String::new();
    early.read_to_string(&mut content).unwrap();
    assert!(content.starts_with("hello") && &content[5000..5005] == "world");
    assert_eq!(&content[100..107], "written");
    let after = fs::metadata(&path).unwrap();
    assert_eq!(before.ino(), after.ino());
    // No write(2) tells the kernel of this change: it is told a moment later.
    let script = "
import mmap
f = open('file', 'r+b')
m = mmap.mmap(f.fileno(), 8192)
m[0:5] = b'again'
m.flush()
";
    run(Command::new("python3")
        .args(["-c", script])
        .current_dir(&view.mnt));
    content.replace_range(..5, "again");
    wait_until(
        "the change of a mapped page shows in the file's times",
        || fs::metadata(&path).unwrap().modified().unwrap() > after.modified().unwrap(),
    );
    let stored = fs::read_to_string(view.dirs.upper().join("file")).unwrap();
    assert_eq!(stored, content);
    assert_eq!(
        fs::read_to_string(view.dirs.layer(0).join("file")).unwrap(),
        "a".repeat(8192)
    );
}

pub fn an_open_file_outlives_its_names() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "lower", "lower");
    put(&dirs.layer(0), "also", "also");
    fs::hard_link(dirs.layer(0).join("also"), dirs.layer(0).join("also2")).unwrap();
    let view = View::new(dirs);
    fs::write(view.path("upper"), "upper").unwrap();
    for (name, links) in [("lower", 0), ("upper", 0), ("also", 1)] {
        let path = view.path(name);
        let mut file = File::options().read(true).append(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(file.metadata().unwrap().nlink(), links, "{name}");
        file.write_all(b"!").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, format!("{name}!"));
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        file.set_len(2).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2);
        // The name anew is another file.
        fs::write(&path, "new").unwrap();
        assert_ne!(
            file.metadata().unwrap().ino(),
            fs::metadata(&path).unwrap().ino()
        );
        assert_eq!(file.metadata().unwrap().len(), 2);
    }
    assert_eq!(fs::read(view.path("also2")).unwrap(), b"al");
    // Opened read-only before, changed by another handle after the last name has gone.
    fs::write(view.path("f"), "1").unwrap();
    let read = File::open(view.path("f")).unwrap();
    let write = File::options().write(true).open(view.path("f")).unwrap();
    fs::remove_file(view.path("f")).unwrap();
    write.write_all_at(b"2", 0).unwrap();
    let mut byte = [0];
    read.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"2");
}

pub fn a_removed_working_directory() {
    let dirs = Dirs::new(1);
    fs::create_dir(dirs.layer(0).join("lower")).unwrap();
    let view = View::new(dirs);
    for name in ["lower", "upper"] {
        let script = format!(
            "mkdir -p {name}; cd {name}; rmdir ../{name}; ls -a; ! touch new 2>/dev/null
             ! mkdir new 2>/dev/null; stat -c %h .; mkdir ../{name}; touch ../{name}/new; ls; chmod 700 ."
        );
        assert_eq!(sh(&script, &view.mnt), "0\n", "{name}");
    }
}

pub fn lazily_detached_and_mounted_over() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "file", "content");
    let mut view = View::new(dirs);
    let mut file = File::open(view.path("file")).unwrap();
    let new = File::create(view.path("new")).unwrap();
    unmount(&view.mnt, true);
    run(Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&view.mnt));
    fs::write(view.path("over"), "x").unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    new.write_all_at(b"late", 0).unwrap();
    let server = view.server.take().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!server.is_finished(), "handles are open");
    drop((file, new));
    server.join().unwrap().unwrap();
    assert!(
        view.path("over").exists(),
        "the server unmounted what is not its own"
    );
    unmount(&view.mnt, false);
    assert_eq!(fs::read(view.dirs.upper().join("new")).unwrap(), b"late");
}

pub fn wide_directories() {
    const COUNT: usize = 100_000;
    let dirs = Dirs::new(1);
    let wide = dirs.layer(0).join("wide");
    fs::create_dir(&wide).unwrap();
    for i in 0..COUNT {
        File::create(wide.join(format!("{i}"))).unwrap();
    }
    let view = View::new(dirs);
    fs::remove_file(view.path("wide/7")).unwrap();
    fs::write(view.path("wide/new"), "x").unwrap();
    let names: std::collections::HashSet<_> = fs::read_dir(view.path("wide"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), COUNT);
    assert!(!names.contains(std::ffi::OsStr::new("7")));
}

pub fn entries_come_and_go_while_listed() {
    let dirs = Dirs::new(1);
    for i in 0..2000 {
        put(&dirs.layer(0), &format!("dir/{i:04}"), "");
    }
    let view = View::new(dirs);
    let mut seen = Vec::new();
    for (index, entry) in fs::read_dir(view.path("dir")).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Each is removed, and others are made: every old name is seen once.
        if let Ok(number) = name.parse::<usize>() {
            fs::remove_file(view.path("dir").join(&name)).unwrap();
            seen.push(number);
        }
        File::create(view.path(&format!("dir/new{index}"))).unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
    let left = fs::read_dir(view.path("dir")).unwrap().count();
    assert_eq!(left, fs::read_dir(view.path("dir")).unwrap().count());
    assert!(left >= 2000);
}

pub fn default_acls_and_umask() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "acl/old", "x");
    run(Command::new("setfacl")
        .args(["-d", "-m", "u:12:rwx,g::rx,o::-"])
        .arg(dirs.layer(0).join("acl")));
    sh("mkdir -m 2775 group; chgrp 77 group", &dirs.layer(0));
    fs::set_permissions(dirs.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let view = View::new(dirs);
    sh(
        "umask 077; cd acl; rm old; touch old new; mkdir dir; cd ..
         touch plain; mkdir plaindir; touch group/file; mkdir group/dir; mkfifo fifo",
        &view.mnt,
    );
    let mode = |path: &str| fs::symlink_metadata(view.path(path)).unwrap().mode() & 0o7777;
    let group = |path: &str| fs::symlink_metadata(view.path(path)).unwrap().gid();
    // The ACL replaces the umask, over a whiteout as well.
    assert_eq!(
        (mode("acl/new"), mode("acl/old"), mode("acl/dir")),
        (0o660, 0o660, 0o770)
    );
    let acl = sh("getfacl -nc acl/old acl/new acl/dir", &view.mnt);
    assert_eq!(acl.matches("\nuser:12:rwx").count(), 3, "{acl}");
    assert_eq!(acl.matches("default:user:12:rwx").count(), 1, "{acl}");
    assert_eq!(
        (mode("plain"), mode("plaindir"), mode("fifo")),
        (0o600, 0o700, 0o600)
    );
    assert_eq!(
        (group("group/file"), group("group/dir"), mode("group/dir")),
        (77, 77, 0o2700)
    );
    // Enforced: the one user that it names may write, another one may not even read.
    let as_user = |uid: &str, script: &str| {
        let mut shell = Command::new("setpriv");
        shell.arg(format!("--reuid={uid}")).arg("--regid=65534");
        shell.args(["--clear-groups", "sh", "-c", script]);
        let done = shell
            .current_dir(&view.mnt)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.unwrap().success()
    };
    assert!(as_user("12", "echo theirs >> acl/new && cat acl/new"));
    assert!(!as_user("13", "cat acl/new"));
    assert!(!as_user("13", "echo theirs >> acl/new"));
    assert_eq!(fs::read(view.path("acl/new")).unwrap(), b"theirs\n");
    // Kept by a copy-up.
    let old = get_xattr(&view.path("acl"), "system.posix_acl_default").unwrap();
    assert_eq!(
        get_xattr(&view.dirs.upper().join("acl"), "system.posix_acl_default"),
        Some(old)
    );
}

pub fn read_only() {
    let dirs = rich_layers();
    let mut layers = dirs.open();
    (layers.upper, layers.work) = (None, None);
    let union = Union::new(layers, Options::default()).unwrap();
    let mnt = dirs.path("mnt");
    let mounted = mount(union, &mnt, &options()).unwrap();
    let server = std::thread::spawn(move || mounted.serve());
    let readable = fs::read(mnt.join("etc/passwd")).unwrap();
    let error = fs::write(mnt.join("new"), "x").unwrap_err();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|l| l.contains(mnt.to_str().unwrap()))
        .unwrap()
        .to_owned();
    unmount(&mnt, false);
    server.join().unwrap().unwrap();
    assert_eq!(readable, b"root");
    assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    assert!(
        line.starts_with("layerctl ") && line.contains(" fuse.layerctl ro,"),
        "{line}"
    );
}

pub fn two_hundred_layers() {
    let dirs = Dirs::new(200);
    for layer in 0..200 {
        put(
            &dirs.layer(layer),
            &format!("d/{layer}"),
            &layer.to_string(),
        );
        put(&dirs.layer(layer), "d/same", &layer.to_string());
    }
    let view = View::new(dirs);
    assert_eq!(fs::read_dir(view.path("d")).unwrap().count(), 201);
    assert_eq!(fs::read(view.path("d/same")).unwrap(), b"0");
    assert_eq!(fs::read(view.path("d/199")).unwrap(), b"199");
    fs::rename(view.path("d"), view.path("e")).unwrap();
    let view = view.again();
    assert_eq!(fs::read_dir(view.path("e")).unwrap().count(), 201);
    assert_eq!(fs::read(view.path("e/150")).unwrap(), b"150");
    assert!(!view.path("d").exists());
}

pub fn paths_longer_than_path_max() {
    // Python, because a shell that changes directory wants to know where it is.
    let python = |script: &str, at: &Path| {
        let script = format!("import os\nname = 'x' * 200\n{script}");
        run(Command::new("python3")
            .args(["-c", &script])
            .current_dir(at))
    };
    let dirs = Dirs::new(1);
    let make = "for i in range(40): os.mkdir(name); os.chdir(name)\nopen('file', 'w').write('1')";
    python(make, &dirs.layer(0));
    let mut view = View::new(dirs);
    let walk = "for i in range(40): os.chdir(name)\n";
    let change = "
assert open('file').read() == '1'
open('file', 'a').write('2')
os.link('file', 'file2'); os.mkdir('dir'); os.rename('file', 'dir/file')
assert os.stat('file2').st_nlink == 2
os.setxattr('file2', 'user.x', b'y')";
    python(&format!("{walk}{change}"), &view.mnt);
    // Made anew: nothing is cached, and the way down is as long.
    view = view.again();
    let look = "
assert open('dir/file').read() == open('file2').read() == '12'
assert os.getxattr('dir/file', 'user.x') == b'y'
assert sorted(os.listdir('.')) == ['dir', 'file2']";
    python(&format!("{walk}{look}"), &view.mnt);
    let name = "x".repeat(200);
    run(Command::new("rm")
        .args(["-rf", &name])
        .current_dir(&view.mnt));
    assert_eq!(fs::read_dir(&view.mnt).unwrap().count(), 0);
    view.unmount();
    run(Command::new("rm")
        .args(["-rf", &name])
        .current_dir(view.dirs.layer(0)));
}

pub fn a_full_disk() {
    let dirs = Dirs::new(1);
    put(&dirs.layer(0), "big", &"b".repeat(3 << 20));
    put(&dirs.layer(0), "dir/small", "s");
    let small = dirs.path("small");
    fs::create_dir(&small).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&small));
    for name in ["upper", "work"] {
        fs::create_dir(small.join(name)).unwrap();
    }
    let layers = layerctl::union::Layers {
        index: None,
        lowers: vec![open_dir(&dirs.layer(0))],
        upper: Some(open_dir(&small.join("upper"))),
        work: Some(open_dir(&small.join("work"))),
    };
    let mnt = dirs.path("mnt");
    let union = Union::new(layers, Options::default()).unwrap();
    let mounted = mount(union, &mnt, &options()).unwrap();
    let server = std::thread::spawn(move || mounted.serve());
    // Told when it is opened, or when it is written.
    let big = File::options().append(true).open(mnt.join("big"));
    let error = big.and_then(|mut big| big.write_all(b"x"));
    let left: Vec<_> = fs::read_dir(small.join("work")).unwrap().collect();
    let made: Vec<_> = fs::read_dir(small.join("upper")).unwrap().collect();
    let still = fs::read(mnt.join("big")).unwrap().len();
    // No data is copied where it is cut off.
    let truncated = File::create(mnt.join("big")).map(drop);
    fs::write(mnt.join("dir/small"), "t").unwrap();
    // What fits is written, and how much that was is told, as write(2) promises.
    let mut whole = File::create(mnt.join("whole")).unwrap();
    let written = whole.write(&vec![b'w'; 3 << 20]).unwrap();
    let after = whole.write(b"more").map(drop);
    let length = whole.metadata().unwrap().len();
    drop(whole);
    unmount(&mnt, false);
    server.join().unwrap().unwrap();
    unmount(&small, false);
    let nospc = Errno::NOSPC.raw_os_error();
    assert_eq!(error.unwrap_err().raw_os_error(), Some(nospc));
    assert!(left.is_empty(), "{left:?}");
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(still, 3 << 20);
    truncated.unwrap();
    // Not only what whole requests of 1 MiB held.
    assert!((2 << 20) - written < 64 << 10, "{written}");
    assert_eq!(length, written as u64);
    assert_eq!(after.unwrap_err().raw_os_error(), Some(nospc));
}

pub fn errors_say_where() {
    let dirs = Dirs::new(1);
    let union = Union::new(dirs.open(), Options::default()).unwrap();
    let missing = dirs.path("missing");
    let error = mount(union, &missing, &options()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(
        error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
    let mut layers = dirs.open();
    layers.work = None;
    assert!(Union::new(layers, Options::default()).is_err());
}

pub fn many_processes_at_once() {
    let dirs = Dirs::new(1);
    for i in 0..40 {
        put(
            &dirs.layer(0),
            &format!("tree/{i}/file"),
            &"x".repeat(i * 1000),
        );
        let (from, to) = (format!("tree/{i}/file"), format!("tree/{i}/link"));
        fs::hard_link(dirs.layer(0).join(from), dirs.layer(0).join(to)).unwrap();
    }
    let view = View::new(dirs);
    let script = "
        for n in 1 2 3 4; do (
            for i in $(seq $n 4 39); do
                echo $n >> tree/$i/file; cp -r tree/$i copy$n.$i; mv tree/$i tree/m$i; rm tree/m$i/link
                ln tree/m$i/file tree/m$i/again; find . > /dev/null 2>&1 || true; rm -r copy$n.$i
            done ) & done; wait; ls tree | wc -l; cat tree/m39/again | wc -c; stat -c %h tree/m*/file | sort | uniq -c";
    let out = sh(script, &view.mnt);
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["40", "39002", "39", "2"], "{out}");
    let left: Vec<_> = fs::read_dir(view.dirs.path("work")).unwrap().collect();
    assert!(left.len() <= 1, "only the shared whiteout: {left:?}");
}
