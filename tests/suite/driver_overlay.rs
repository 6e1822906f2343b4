//! Views that kernel overlayfs serves (`mount --driver overlay`): what is its own. That they live and end
//! as views of our own union do is shown by the tests of those, run once more (`overlay_cases!`).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::container_files;
use crate::harness::process::kill_hard;
use crate::harness::store::{LAYERCTL, is_mounted, names_in};
use crate::harness::tree;
use crate::harness::{
    Archive, Built, Image, Layer, Random, Run, Sleeper, Store, mapping, number, text,
};
use crate::samples::{all_deferred, app, check_app, heavy};
use crate::union_support::{get_xattr, set_xattr};

/// A store with an image, and a container of it that overlayfs shows.
fn mounted(image: &Image) -> (Store, Built, String, PathBuf) {
    let store = Store::new();
    let built = store.load(image);
    let container = store.create(&built.tags[0]);
    let view = mount(&store, "overlay", &container);
    (store, built, container, view)
}

#[track_caller]
fn mount(store: &Store, driver: &str, container: &str) -> PathBuf {
    let said = store.ok(&["mount", "--driver", driver, container]);
    let view = PathBuf::from(said.trim_end());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = format!(" {} ", view.display());
    let line = table.lines().find(|line| line.contains(&at)).unwrap();
    let kind = line.split(" - ").nth(1).unwrap();
    let expected = ["overlay ", "fuse.layerctl "][usize::from(driver == "fuse")];
    assert!(kind.starts_with(expected), "{kind}");
    view
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Mounted elsewhere too, an open file, a mapping, a working directory: each is use enough, and the last
/// one's end is the view's.
pub fn its_server_waits_for_the_end_of_every_use() {
    let (store, image, container, view) = mounted(&heavy("heavy:1", 1));
    let elsewhere = store.new_dir("elsewhere");
    mount_bind(&view, &elsewhere).unwrap();
    let expected = all_deferred(&store, &image, &container);
    store
        .run(&["rmi", "-f", "heavy:1"])
        .expect(0, &expected, "");
    let file = File::open(view.join("docs/a")).unwrap();
    let map = mapping::map(&view.join("data/blob"));
    let worker = Sleeper::working_in(&view.join("docs"));
    // By its own name alone, as an administrator may.
    for point in [&view, &elsewhere] {
        unmount(point, UnmountFlags::DETACH).unwrap();
        store.ok(&["gc"]);
        assert_eq!(store.layer_state(&image.chains[0]), "pending");
        assert_eq!(store.servers().len(), 1);
    }
    // Where it is mounted no more, the device on record leads to those who use it.
    let pid = worker.pid();
    let said = store.ok(&["why", &image.chains[0]]);
    let used = format!("    used by PID {pid} (sleep): working directory\n");
    assert!(said.contains(&used), "{said}");
    drop(file);
    drop(map);
    store.ok(&["gc"]);
    assert_eq!(store.layer_state(&image.chains[0]), "pending");
    assert_eq!(store.container_state(&container), "mounted");
    drop(worker);
    store.wait_for_servers_to_end();
    assert_eq!(store.container_state(&container), "exited");
    store.check_no_layers();
    store.check_at_rest();
}

/// `why` and `inspect` name the driver; `diff`, `cp`, `export` and `commit` go through the mounted view.
pub fn what_is_read_through_it() {
    let (store, image, container, view) = mounted(&container_files::base());
    container_files::change(&view);
    // The link that overlayfs breaks apart aside, it is what our own union makes of the same changes.
    fs::remove_file(view.join("linked-2")).unwrap();
    let said = store.ok(&["why", &image.chains[0]]);
    let pinned = format!(
        ", mounted at {}, kernel overlayfs, held by PID {} for ",
        view.display(),
        store.server()
    );
    assert!(said.contains(&pinned), "{said}");
    assert_eq!(
        text(&store.json(&["why", "base:1"])[0]["views"][0], "driver"),
        "overlay"
    );
    let inspected = store.ok(&["inspect", &container]);
    assert!(inspected.contains("\"overlay\""), "{inspected}");
    let other = store.create("base:1");
    let by_fuse = store.ok(&["mount", "--driver", "fuse", &other]);
    let by_fuse = Path::new(by_fuse.trim_end());
    container_files::change(by_fuse);
    fs::remove_file(by_fuse.join("linked-2")).unwrap();
    // The names in them are no text.
    let diff = |id: &str| store.command(&["diff", id]).output().unwrap().stdout;
    assert_eq!(diff(&container), diff(&other));
    assert!(diff(&container).starts_with(b"C /becomes-dir\n"));
    store.ok(&["umount", &other]);

    let shown = without_root(&view);
    let made = store.ok(&["commit", &container, "made:1"]);
    let copy = store.create(made.trim_end());
    let copied = mount(&store, "fuse", &copy);
    tree::assert_same(&without_root(&copied), &shown);
    let out = store.beside("out");
    let source = format!("{container}:/dir/moved/x");
    store.ok(&["cp", &source, out.to_str().unwrap()]);
    assert_eq!(read(&out), "x changed");
    store.ok(&["cp", out.to_str().unwrap(), &format!("{container}:/dir/in")]);
    assert_eq!(read(&view.join("dir/in")), "x changed");
    let tar = store.command(&["export", &container]).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    for private in ["trusted.layerctl", "trusted.overlay"] {
        let mut places = tar.stdout.windows(private.len());
        assert!(places.all(|place| place != private.as_bytes()), "{private}");
    }
    let mut tar = tar::Archive::new(tar.stdout.as_slice());
    let mut names = Vec::new();
    for entry in tar.entries().unwrap() {
        names.push(entry.unwrap().path_bytes().into_owned());
    }
    assert!(names.iter().any(|name| name == b"dir/in"));
    for id in [&container, &copy] {
        store.ok(&["umount", id]);
    }
    store.check_at_rest();
}

fn without_root(view: &Path) -> std::collections::BTreeMap<PathBuf, tree::Entry> {
    let mut shown = tree::read(view);
    shown.remove(Path::new(""));
    shown
}

/// The kernel's mount goes on without its server, whose locks are gone: the record holds the layers until
/// the view is over, and no other view gets the container.
pub fn killed_under_use() {
    let (store, image, container, view) = mounted(&app(&["app:1"]));
    let mut held = File::open(view.join("srv/index")).unwrap();
    let server = store.server();
    kill_hard(server);
    let expected = all_deferred(&store, &image, &container);
    store.run(&["rmi", "-f", "app:1"]).expect(0, &expected, "");
    let left = store.ok(&["gc"]);
    for chain in &image.chains {
        assert!(left.contains(&format!("Left: {chain}")), "{left}");
        assert_eq!(store.layer_state(chain), "pending");
    }
    check_app(&view);
    fs::write(view.join("written"), "after it died").unwrap();
    assert_eq!(number(&store.df()["orphaned"], "count"), 0);
    assert_eq!(store.container_state(&container), "mounted");
    let own = std::process::id();
    store
        .run(&["umount", &container])
        .refused_saying(&[&format!("PID {own} ("), "open file"]);
    for verb in ["mount", "start", "rm"] {
        store.run(&[verb, &container]).refused();
    }
    assert!(store.servers().is_empty());
    let said = store.ok(&["why", &image.chains[0]]);
    let killed = format!(", its server (PID {server}) was killed\n");
    assert!(said.contains(&killed), "{said}");
    assert!(said.contains(&format!("used by PID {own}")), "{said}");

    store.ok(&["umount", "--lazy", &container]);
    assert!(!is_mounted(&view));
    let rows = store.json(&["ps"]);
    assert_eq!(text(&rows[0], "Status"), "Detached, held by open handles");
    store.ok(&["umount", "--lazy", &container]);
    store
        .run(&["umount", &container])
        .refused_saying(&[&format!("PID {own} (")]);
    let words = [&format!("its server, PID {server}, was killed")[..]];
    for args in [&["mount", &container][..], &["start", &container]] {
        store.run(args).refused_saying(&words);
    }
    store.ok(&["gc"]);
    let mut content = String::new();
    held.read_to_string(&mut content).unwrap();
    assert_eq!(content, "hello");
    assert_eq!(store.layer_state(&image.chains[0]), "pending");

    drop(held);
    store.ok(&["gc"]);
    assert_eq!(store.container_state(&container), "exited");
    store.check_no_layers();
    store.check_at_rest();
    store.load(&app(&["app:1"]));
    for driver in ["fuse", "overlay"] {
        let view = mount(&store, driver, &container);
        check_app(&view);
        assert_eq!(read(&view.join("written")), "after it died");
        store.ok(&["umount", &container]);
    }
    store.check_at_rest();
}

/// Another mount namespace has the view too: nothing of that is seen here, neither a mount nor a user.
pub fn killed_and_used_from_elsewhere() {
    let (store, image, container, view) = mounted(&app(&["app:1"]));
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private", "sh", "-c"]);
    inside.args(["echo ready; read line; cat \"$0/srv/index\""]);
    inside
        .arg(&view)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut inside: Child = inside.spawn().unwrap();
    let mut ready = [0; 6];
    inside
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    kill_hard(store.server());
    // Every command tries to end it, and this one does here.
    store.ok(&["rmi", "-f", "app:1"]);
    assert!(!is_mounted(&view));
    store.ok(&["gc"]);
    assert_eq!(store.layer_state(&image.chains[0]), "pending");
    for args in [&["mount", &container][..], &["umount", &container]] {
        store.run(args).refused();
    }
    drop(inside.stdin.take());
    let mut said = String::new();
    inside
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(inside.wait().unwrap().success());
    assert_eq!(said, "hello");
    store.ok(&["gc"]);
    assert_eq!(store.container_state(&container), "exited");
    store.check_no_layers();
    store.check_at_rest();
}

/// The container goes from the list at once, its files and the layers with the last handle.
pub fn killed_and_removed_by_force() {
    let (store, image, container, view) = mounted(&app(&["app:1"]));
    let held = Sleeper::reading(&view.join("srv/index"));
    kill_hard(store.server());
    store.ok(&["rm", "-f", &container]);
    assert!(!is_mounted(&view));
    assert!(store.json(&["ps", "-a"]).is_empty());
    let expected = all_deferred(&store, &image, &container);
    store.run(&["rmi", "-f", "app:1"]).expect(0, &expected, "");
    store.ok(&["gc"]);
    let directories = || names_in(&store.root().join("containers"));
    assert_eq!(directories(), [container.as_str()]);
    held.end();
    store.ok(&["gc"]);
    assert_eq!(directories(), [""; 0]);
    store.check_no_layers();
    store.check_at_rest();
}

/// The mark by which overlayfs refuses to mount again what was not synced is gone with the view, and if
/// that could not be, before the next.
pub fn volatile() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let work = store
        .root()
        .join("containers")
        .join(&container)
        .join("work");
    let mark = work.join("work/incompat/volatile");
    for (next, killed) in [("overlay", false), ("overlay", true), ("fuse", true)] {
        let said = store.ok(&["mount", "--driver", "overlay", "--volatile", &container]);
        let view = Path::new(said.trim_end());
        assert!(mark.exists());
        fs::write(view.join("etc/release"), next).unwrap();
        match killed {
            true => kill_hard(store.server()),
            false => drop(store.ok(&["umount", &container])),
        }
        assert_eq!(mark.exists(), killed);
        let view = mount(&store, next, &container);
        assert_eq!(read(&view.join("etc/release")), next);
        assert!(!mark.exists());
        store.ok(&["umount", &container]);
    }
    store.check_at_rest();
}

pub fn refused() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let io = store.run(&["mount", "--driver", "overlay", "--io", "cached", &container]);
    let why = "Error: the argument '--io <MODE>' cannot be used with '--driver overlay'\n";
    io.expect(2, "", why);
    let unknown = store.run(&["mount", "--driver", "aufs", &container]);
    assert_eq!(unknown.code, Some(2), "{unknown:#?}");
    assert!(
        unknown.stderr.contains("only fuse and overlay"),
        "{unknown:#?}"
    );
    assert_eq!(store.container_state(&container), "created");
    // One view a container, whatever serves it.
    let view = mount(&store, "overlay", &container);
    for args in [
        &["mount", &container][..],
        &["mount", "--driver", "fuse", &container],
        &["start", &container],
    ] {
        store.run(args).refused_saying(&["already mounted at"]);
    }
    check_app(&view);
    store.ok(&["umount", &container]);
    assert_eq!(
        names_in(
            &store
                .root()
                .join("containers")
                .join(&container)
                .join("work")
        ),
        [""; 0]
    );
    store.check_at_rest();
}

pub fn without_privilege() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let program = store.command(&["mount", "--driver", "overlay", &container]);
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    setpriv.arg(program.get_program()).args(program.get_args());
    Run::of(&mut setpriv).refused_saying(&["kernel overlayfs needs root", "CAP_SYS_ADMIN"]);
    assert_eq!(store.container_state(&container), "created");
    store.check_at_rest();
}

/// An opaque root, which overlayfs takes no notice of; a layer that is there twice, which it does not take;
/// no layer at all, which it does not take either.
pub fn layers_that_show_nothing() {
    let store = Store::new();
    let twice = Layer::new()
        .dir("d")
        .file("d/a", "a")
        .whiteout("d/b")
        .file("x", "x");
    let stack = vec![
        Layer::new().dir("below").file("below/hidden", "hidden"),
        Layer::new().opaque(".").file("above", "shown"),
        twice.clone(),
        Layer::new().dir("d").file("d/b", "b").file("x", "changed"),
        twice,
        Layer::new().file("top", "top"),
    ];
    store.load(&Image::new(&["odd:1"], stack));
    store.load(&Image::new(&["none:1"], Vec::new()));
    for (image, names) in [("odd:1", &["above", "d", "top", "x"][..]), ("none:1", &[])] {
        let container = store.create(image);
        let view = mount(&store, "overlay", &container);
        let shown = tree::read_overlayfs(&view);
        let mut found = names_in(&view);
        found.sort();
        assert_eq!(found, names);
        if image == "odd:1" {
            assert_eq!(read(&view.join("x")), "x");
            assert!(!view.join("d/b").exists());
        }
        store.ok(&["umount", &container]);
        if fs::metadata("/dev/fuse").is_ok() {
            let view = mount(&store, "fuse", &container);
            tree::assert_same(&tree::read(&view), &shown);
            store.ok(&["umount", &container]);
        }
    }
    store.check_at_rest();
}

pub fn as_many_layers_as_it_takes() {
    let layers = |n: usize| -> Vec<Layer> {
        (0..n)
            .map(|i| Layer::new().file(&format!("of-{i}"), i.to_string()))
            .collect()
    };
    let store = Store::new();
    store.load(&Image::new(&["deep:500"], layers(500)));
    store.load(&Image::new(&["deep:501"], layers(501)));
    let container = store.create("deep:500");
    let view = mount(&store, "overlay", &container);
    assert_eq!(fs::read_dir(&view).unwrap().count(), 500);
    assert_eq!(read(&view.join("of-0")), "0");
    // Their directories are renamed under it.
    store.ok(&["rmi", "-f", "deep:500", "deep:501"]);
    assert_eq!(read(&view.join("of-499")), "499");
    store.ok(&["umount", &container]);
    store.load(&Image::new(&["deep:501"], layers(501)));
    let deeper = store.create("deep:501");
    store
        .run(&["mount", "--driver", "overlay", &deeper])
        .refused_saying(&["takes 500 layers", "501"]);
    assert_eq!(store.container_state(&deeper), "created");
    store.check_at_rest();
}

/// What one driver has written the other shows, whatever was done before by which.
pub fn drivers_take_turns() {
    let layer = |n: usize| {
        let mut layer = Layer::new();
        for dir in 0..4 {
            layer = layer.dir(&format!("d{dir}")).dir(&format!("d{dir}/sub"));
            for file in 0..3 {
                let name = format!("d{dir}/f{file}");
                layer = layer.file(&name, format!("{n} {name}").repeat(500 * file));
                layer = layer.file(&format!("d{dir}/sub/g{file}"), format!("{n}"));
            }
        }
        layer.symlink(&format!("link{n}"), "d0/f0")
    };
    let top = Layer::new()
        .whiteout("d0/f1")
        .dir("d1")
        .opaque("d1")
        .file("d1/new", "n");
    let store = Store::new();
    store.load(&Image::new(&["turns:1"], vec![layer(0), layer(1), top]));
    for seed in 0..4 {
        let container = store.create("turns:1");
        let mut random = Random::new(seed);
        let mut view = mount(&store, "fuse", &container);
        for round in 0..10 {
            let changed = (0..25).filter(|_| change(&view, &mut random)).count();
            assert!(changed > 5, "{changed} changes");
            let shown = tree::read_overlayfs(&view);
            store.ok(&["umount", &container]);
            let driver = ["overlay", "fuse"][round % 2];
            view = mount(&store, driver, &container);
            tree::assert_same(&tree::read_overlayfs(&view), &shown);
        }
        store.ok(&["rm", "-f", &container]);
    }
    store.check_at_rest();
}

/// One change of a random kind; false if it cannot be.
fn change(view: &Path, random: &mut Random) -> bool {
    let tree = walk(view);
    let mut any = || -> PathBuf { tree[random.below(tree.len())].clone() };
    let (path, other) = (any(), any());
    let parent = match other.is_dir() && !other.is_symlink() {
        true => other.clone(),
        false => other.parent().unwrap().to_owned(),
    };
    let new = parent.join(format!("n{}", random.below(12)));
    let value = random.bits().to_string();
    let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    let is_link = path.is_symlink();
    let made = match random.below(13) {
        0 => fs::write(&new, &value).ok(),
        1 if is_file => fs::write(&path, &value).ok(),
        2 if is_file => File::options().append(true).open(&path).ok().map(|file| {
            std::io::Write::write_all(&mut &file, value.as_bytes()).unwrap();
        }),
        3 if is_file => File::options().write(true).open(&path).ok().map(|file| {
            file.set_len(random.bits() % 3000).unwrap();
        }),
        4 if !is_link => fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).ok(),
        5 => std::os::unix::fs::lchown(&path, Some(7), Some(random.below(9) as u32)).ok(),
        6 if !is_link => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(&path, "user.note", value.as_bytes(), flags).ok()
        }
        7 | 8 => fs::rename(&path, &new).ok(),
        9 if path.is_dir() && !is_link => fs::remove_dir_all(&path).ok(),
        9 => fs::remove_file(&path).ok(),
        10 => fs::create_dir(&new).ok(),
        11 => symlink(&value, &new).ok(),
        _ if !path.is_dir() => fs::hard_link(&path, &new).ok(),
        _ => None,
    };
    made.is_some()
}

/// Everything below a directory, never nothing.
fn walk(view: &Path) -> Vec<PathBuf> {
    let mut found = vec![view.join("new")];
    let mut dirs = vec![view.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mut names = names_in(&dir);
        names.sort();
        for name in names {
            let path = dir.join(name);
            if path.is_dir() && !path.is_symlink() {
                dirs.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// A server of our union that dies while it completes a copy leaves notes that overlayfs does not know.
pub fn what_a_killed_server_of_fuse_leaves() {
    let store = Store::new();
    let layer = Layer::new()
        .file("half", "h".repeat(9000))
        .file("cut", "c".repeat(9000));
    store.load(&Image::new(&["app:1"], vec![layer]));
    let container = store.create("app:1");
    let view = mount(&store, "fuse", &container);
    for name in ["half", "cut"] {
        fs::set_permissions(view.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Completes one, so that the upper directory says that there may be more.
    fs::write(view.join("other"), "").unwrap();
    store.ok(&["umount", &container]);
    let upper = store
        .root()
        .join("containers")
        .join(&container)
        .join("upper");
    let metacopy = "trusted.overlay.metacopy";
    assert!(get_xattr(&upper.join("half"), metacopy).is_some());
    let mark = "trusted.layerctl.completing";
    set_xattr(&upper, mark, b"y");
    // Version, mode, seconds and nanoseconds, as the union writes it before it copies data.
    let mut note = vec![1];
    note.extend(0o600_u32.to_le_bytes());
    note.extend(1_600_000_000_i64.to_le_bytes());
    note.extend(5_u32.to_le_bytes());
    set_xattr(&upper.join("half"), mark, &note);
    fs::set_permissions(upper.join("half"), fs::Permissions::from_mode(0o666)).unwrap();
    let cut = File::options().write(true).open(upper.join("cut")).unwrap();
    cut.set_len(0).unwrap();
    let view = mount(&store, "overlay", &container);
    let half = fs::metadata(view.join("half")).unwrap();
    assert_eq!(half.mode() & 0o7777, 0o600);
    assert_eq!((half.mtime(), half.mtime_nsec()), (1_600_000_000, 5));
    assert_eq!(read(&view.join("half")), "h".repeat(9000));
    assert_eq!(read(&view.join("cut")), "");
    assert_eq!(get_xattr(&upper, mark), None);
    store.ok(&["umount", &container]);
    // And the union does leave that mark: before it completes its first copy.
    let view = mount(&store, "fuse", &container);
    fs::write(view.join("half"), "x").unwrap();
    assert!(get_xattr(&upper, mark).is_some());
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// What overlayfs does otherwise than our union, as the README has it.
pub fn what_differs() {
    let layer = Layer::new()
        .file("one", "linked")
        .hard_link("two", "one")
        .file("early", "before")
        .dir("alone")
        .whiteout("alone/nothing");
    let store = Store::new();
    store.load(&Image::new(&["app:1"], vec![layer]));
    let container = store.create("app:1");
    let view = mount(&store, "fuse", &container);
    let device = rustix::fs::makedev(0, 0);
    let kind = rustix::fs::FileType::CharacterDevice;
    let make = |path: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::RUSR, device)
    };
    make(&view.join("null")).unwrap();
    assert_eq!(fs::metadata(view.join("null")).unwrap().rdev(), 0);
    store.ok(&["umount", &container]);
    let view = mount(&store, "overlay", &container);
    // A device 0:0 has another number, and cannot be made.
    let null = fs::metadata(view.join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() != 0);
    assert_eq!(make(&view.join("another")), Err(rustix::io::Errno::PERM));
    // A hard link breaks apart, an early mapping keeps the old file.
    fs::write(view.join("one"), "written").unwrap();
    assert_eq!(read(&view.join("two")), "linked");
    let early = mapping::map(&view.join("early"));
    fs::write(view.join("early"), "after!").unwrap();
    assert_eq!(&early[..], b"before");
    drop(early);
    // The link count of what is deleted while it is open does not go down.
    let open = File::open(view.join("two")).unwrap();
    fs::remove_file(view.join("two")).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 2);
    drop(open);
    // A whiteout that hides nothing is listed.
    assert_eq!(names_in(&view.join("alone")), ["nothing"]);
    assert!(!view.join("alone/nothing").exists());
    store.ok(&["umount", &container]);
    let view = mount(&store, "fuse", &container);
    assert_eq!(fs::metadata(view.join("null")).unwrap().rdev(), 0);
    assert_eq!(read(&view.join("one")), "written");
    assert!(!view.join("two").exists());
    assert_eq!(names_in(&view.join("alone")), [""; 0]);
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// There it can be mounted without root, but follows no redirects and metacopies.
pub fn in_a_user_namespace() {
    let store = Store::new();
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    let script = r#"
        l() { "$LAYERCTL" --root "$0" "$@"; }
        l load -q -i "$1" > /dev/null; l create --name web app:1 > /dev/null
        v=$(l mount --driver overlay web)
        cat "$v/etc/release"; ls "$v/etc"; echo; echo new > "$v/srv/index"; rm "$v/etc/release"
        l umount web
        v=$(l mount web); cat "$v/srv/index"; ls "$v/etc"; chmod 600 "$v/big"; l umount web
        l mount --driver overlay web || true
        v=$(l mount web); rm "$v/big"; l umount web
        v=$(l mount --driver overlay web); ls "$v"; l umount web"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urm", "bash", "-euc", script]);
    unshare
        .arg(store.root())
        .arg(&file)
        .env("LAYERCTL", LAYERCTL);
    let run = Run::of(&mut unshare);
    let shown = "tworelease\n\nnew\netc\nsrv\n";
    run.expect(0, shown, &run.errors());
    let refused =
        "/big refers to a layer for the rest of it, and kernel overlayfs does not follow that";
    assert!(run.stderr.contains(refused), "{run:#?}");
}

/// Each such view takes one of the user's inotify instances.
pub fn more_than_can_be_watched() {
    let store = Store::new();
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    let script = r#"
        l() { "$LAYERCTL" --root "$0" "$@"; }
        l load -q -i "$1" > /dev/null; l create --name web app:1 > /dev/null
        echo 0 > /proc/sys/user/max_inotify_instances
        l mount --driver overlay web || l ps -a --format json"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urm", "bash", "-euc", script]);
    unshare
        .arg(store.root())
        .arg(&file)
        .env("LAYERCTL", LAYERCTL);
    let run = Run::of(&mut unshare);
    assert!(
        run.stderr.contains("fs.inotify.max_user_instances"),
        "{run:#?}"
    );
    assert!(run.stdout.contains("\"State\":\"created\""), "{run:#?}");
}
