//! `cp`: the rules of `docker cp`, both ways, and that a container's symbolic links never lead out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, RenameFlags, XattrFlags, renameat_with};

use crate::container_files::{base, change};
use crate::harness::{Image, Layer, Run, Store, tree};
use crate::samples::app;

/// A container with links to places that this machine has as well.
fn hostile() -> Image {
    Image::new(
        &["hostile:1"],
        vec![
            Layer::new()
                .dir("etc")
                .file("etc/passwd", "of the container")
                .dir("dir")
                .file("dir/f", "f")
                .symlink("dir/out", "/etc/passwd")
                .symlink("absolute", "/etc")
                .symlink("relative", "../../../../../../etc")
                .symlink("to-passwd", "/etc/passwd")
                .symlink("to-proc", "/proc/self/root/etc/passwd")
                .symlink("dangling", "/tmp/new"),
        ],
    )
}

struct Copied {
    store: Store,
    dir: PathBuf,
}

impl Copied {
    fn of(image: &Image) -> Copied {
        let store = Store::new();
        let built = store.load(image);
        store.ok(&["create", "--name", "web", &built.tags[0]]);
        let dir = store.new_dir("here");
        Copied { store, dir }
    }

    /// `cp`, with local paths below the directory.
    fn cp(&self, args: &[&str]) -> Run {
        let mut command = self.store.command(&["cp"]);
        Run::of(command.args(args).current_dir(&self.dir))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) {
        self.cp(args).expect(0, "", "");
    }

    #[track_caller]
    fn refused(&self, args: &[&str], error: &str) {
        let here = self.dir.join("here").display().to_string();
        let error = error.replace("HERE", here.trim_end_matches("/here"));
        self.cp(args).expect(1, "", &format!("Error: {error}\n"));
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// What a file of the container holds, by way of another copy.
    #[track_caller]
    fn inside(&self, path: &str) -> String {
        let out = self.store.beside("inside");
        fs::remove_file(&out).ok();
        self.ok(&[&format!("web:{path}"), out.to_str().unwrap()]);
        fs::read_to_string(&out).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

pub fn out_of_a_container() {
    let c = Copied::of(&base());
    c.ok(&["web:/file", "."]);
    assert_eq!(c.read("file"), "file of the top");
    c.ok(&["web:dir/a", "renamed"]);
    assert_eq!(c.read("renamed"), "a");
    c.ok(&["web:/dir", "new"]);
    assert_eq!(c.read("new/sub/deep"), "deep");
    c.ok(&["web:/dir", "new"]);
    assert_eq!(c.read("new/dir/sub/deep"), "deep");
    fs::create_dir(c.dir.join("contents")).unwrap();
    c.ok(&["web:/dir/.", "contents"]);
    assert_eq!(c.read("contents/a"), "a");
    c.ok(&["web:/dir/sub/.", "made"]);
    assert_eq!(c.read("made/deep"), "deep");
    // A link is copied as one, unless it is to be followed.
    c.ok(&["web:/link", "link"]);
    assert_eq!(
        fs::read_link(c.dir.join("link")).unwrap(),
        Path::new("dir/a")
    );
    fs::remove_file(c.dir.join("link")).unwrap();
    c.ok(&["-L", "web:/link", "."]);
    assert_eq!(c.read("link"), "a");
    assert!(!c.dir.join("link").is_symlink());
    // What is there is replaced.
    c.ok(&["web:/dir/b", "renamed"]);
    assert_eq!(c.read("renamed"), "b");
    c.refused(
        &["web:/nope", "."],
        "Could not find the file /nope in container web",
    );
    c.refused(&["web:/file", "none/"], "no such directory");
    c.refused(
        &["web:/file", "none/x"],
        "invalid output path: directory \"none\" does not exist",
    );
    c.refused(&["web:/dir", "file"], "cannot copy directory");
    c.refused(&["web:/file/", "x"], "not a directory");
    c.refused(
        &["web:/file", "/dev/null"],
        "invalid output path: \"/dev/null\" must be a directory or a regular file: got a device",
    );
    c.write("over/sub", "a file");
    c.refused(
        &["web:/dir/.", "over"],
        "cannot overwrite non-directory \"over/sub\" with directory \"over/sub\"",
    );
    c.write("over2/a/x", "");
    c.refused(
        &["web:/dir/.", "over2"],
        "cannot overwrite directory \"over2/a\" with non-directory \"over2/a\"",
    );
    assert_eq!(c.store.container_state(&id(&c)), "created");
    c.store.check_at_rest();
}

fn id(c: &Copied) -> String {
    let id = c.store.ok(&["ps", "-aq", "--no-trunc"]);
    id.trim_end().to_owned()
}

pub fn into_a_container() {
    let c = Copied::of(&base());
    c.write("f", "from here");
    c.write("tree/x", "x");
    c.write("tree/sub/y", "y");
    symlink("x", c.dir.join("tree/l")).unwrap();
    c.ok(&["f", "web:/"]);
    assert_eq!(c.inside("/f"), "from here");
    c.ok(&["f", "web:/dir"]);
    assert_eq!(c.inside("/dir/f"), "from here");
    c.ok(&["f", "web:dir/g"]);
    assert_eq!(c.inside("/dir/g"), "from here");
    c.ok(&["tree", "web:/new"]);
    assert_eq!(c.inside("/new/sub/y"), "y");
    c.ok(&["tree", "web:/new"]);
    assert_eq!(c.inside("/new/tree/sub/y"), "y");
    c.ok(&["tree/.", "web:/dir/sub"]);
    assert_eq!(c.inside("/dir/sub/x"), "x");
    assert_eq!(c.inside("/dir/sub/deep"), "deep");
    // Through a link to a file: the file is written.
    c.ok(&["f", "web:/link"]);
    assert_eq!(c.inside("/dir/a"), "from here");
    c.refused(&["nope", "web:/"], "lstat nope: no such file or directory");
    c.refused(
        &["f", "web:/no/such"],
        "Could not find the file /no in container web",
    );
    c.refused(&["f", "web:/none/"], "no such directory");
    c.refused(&["tree", "web:/file"], "cannot copy directory");
    c.refused(&["f", "web:/file/x"], "extraction point is not a directory");
    c.refused(&["f", "none:/"], "No such container: none");
    c.refused(
        &["web:/f", "web:/g"],
        "copying between containers is not supported",
    );
    c.refused(&["f", "g"], "must specify at least one container source");
    assert_eq!(c.store.container_state(&id(&c)), "created");
    c.store.check_at_rest();
    // In a mounted one as well, but not in one that is mounted read-only.
    let view = c.store.mount("web");
    c.ok(&["f", "web:/mounted"]);
    assert_eq!(
        fs::read_to_string(view.join("mounted")).unwrap(),
        "from here"
    );
    c.store.ok(&["umount", "web"]);
    c.store.ok(&["mount", "--read-only", "web"]);
    c.refused(&["f", "web:/again"], "container rootfs is marked read-only");
    c.store.ok(&["umount", "web"]);
}

/// Owners, modes, times, attributes, hard links and special files.
pub fn metadata() {
    let c = Copied::of(&base());
    let at = |name: &str| c.dir.join(name);
    c.write("t/f", "f");
    fs::hard_link(at("t/f"), at("t/g")).unwrap();
    rustix::fs::setxattr(at("t/f"), "user.note", b"n", XattrFlags::empty()).unwrap();
    rustix::fs::mkfifoat(CWD, at("t/pipe"), Mode::RWXU).unwrap();
    symlink("f", at("t/l")).unwrap();
    for name in ["t/f", "t/pipe", "t"] {
        std::os::unix::fs::chown(at(name), Some(1234), Some(2345)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o6751)).unwrap();
    }
    std::os::unix::fs::lchown(at("t/l"), Some(1234), Some(2345)).unwrap();
    let owned = |uid, gid| {
        let mut tree = tree::read(&at("t"));
        tree.values_mut().for_each(|entry| entry.owner = (uid, gid));
        tree
    };
    c.ok(&["-a", "t", "web:/kept"]);
    c.ok(&["t", "web:/roots"]);
    let view = c.store.mount("web");
    tree::assert_same(&tree::read(&view.join("kept")), &owned(1234, 2345));
    tree::assert_same(&tree::read(&view.join("roots")), &owned(0, 0));
    c.store.ok(&["umount", "web"]);
    c.ok(&["-a", "web:/kept", "kept"]);
    c.ok(&["web:/kept", "mine"]);
    tree::assert_same(&tree::read(&at("kept")), &owned(1234, 2345));
    tree::assert_same(&tree::read(&at("mine")), &owned(0, 0));
}

pub fn to_a_stream() {
    let c = Copied::of(&base());
    for (path, names) in [
        ("web:/dir", "dir/\ndir/a\ndir/b\ndir/sub/\ndir/sub/deep\n"),
        ("web:/dir/sub/.", "./\n./deep\n"),
        ("web:/file", "file\n"),
        ("web:/link", "link\n"),
    ] {
        let tar = c.store.command(&["cp", path, "-"]).output().unwrap();
        assert!(tar.status.success(), "{tar:?}");
        let file = c.store.beside("x.tar");
        fs::write(&file, tar.stdout).unwrap();
        let list = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&list.stdout), names);
    }
    c.refused(
        &["web:/nope", "-"],
        "Could not find the file /nope in container web",
    );
}

/// `cp -` with this tar as standard input.
fn from_stream(c: &Copied, tar: &[u8], args: &[&str]) -> Run {
    use std::io::Write as _;
    let mut child = c
        .store
        .command(&[&["cp"], args].concat())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It may refuse before it has read all.
    child.stdin.take().unwrap().write_all(tar).ok();
    Run::finish(child, format!("cp {args:?}"))
}

pub fn from_a_stream() {
    let c = Copied::of(&base());
    // What was copied out goes in again.
    c.store.mount("web");
    change(
        &c.store
            .root()
            .join("containers")
            .join(id(&c))
            .join("merged"),
    );
    c.store.ok(&["umount", "web"]);
    let tar = c
        .store
        .command(&["cp", "web:/dir/.", "-"])
        .output()
        .unwrap();
    c.store.ok(&["create", "--name", "other", "base:1"]);
    from_stream(&c, &tar.stdout, &["-a", "-", "other:/moved"]).expect(0, "", "");
    let view = c.store.mount("web");
    let mut from = tree::read(&view.join("dir"));
    c.store.ok(&["umount", "web"]);
    let other = c.store.mount("other");
    let mut to = tree::read(&other.join("moved"));
    for (tree, others) in [(&mut from, vec![]), (&mut to, vec!["x", "y"])] {
        // The destination itself stays, with what was in it.
        tree.remove(Path::new(""));
        others
            .iter()
            .for_each(|name| drop(tree.remove(Path::new(name))));
        // One of its names is elsewhere.
        tree.get_mut(Path::new("new")).unwrap().links = 0;
    }
    tree::assert_same(&from, &to);
    c.store.ok(&["umount", "other"]);
    let layer = Layer::new()
        .file("x/y/made", "made")
        .file("/absolute", "a")
        .mode(0o4755);
    from_stream(&c, &layer.tar(), &["-", "web:/"]).expect(0, "", "");
    assert_eq!(c.inside("/x/y/made"), "made");
    let refused = |tar: Vec<u8>, to: &str, error: &str| {
        from_stream(&c, &tar, &["-", to]).expect(1, "", &format!("Error: {error}\n"));
    };
    let tar = || Layer::new().file("f", "f").tar();
    refused(
        tar(),
        "web:/file",
        "destination \"web:/file\" must be a directory",
    );
    refused(
        tar(),
        "web:/none",
        "destination \"web:/none\" must be a directory",
    );
    refused(
        Layer::new().file("../out", "x").tar(),
        "web:/dir",
        "\"../out\" is outside of the destination",
    );
    refused(
        Layer::new().hard_link("l", "../file").tar(),
        "web:/dir",
        "\"../file\" is outside of the destination",
    );
    refused(
        Layer::new().file("dir", "x").tar(),
        "web:/",
        "cannot overwrite directory \"/dir\" with non-directory \"/dir\"",
    );
    let run = from_stream(&c, &[1; 2000], &["-", "web:/"]);
    run.refused_saying(&["cannot read the tar"]);
    // A link of the tar's own is followed inside the container.
    let evil = Layer::new()
        .symlink("evil", "/etc")
        .file("evil/layerctl-was-here", "x");
    refused(evil.tar(), "web:/", "cannot open /evil: Not a directory");
    let c = Copied::of(&hostile());
    from_stream(&c, &evil.tar(), &["-", "web:/"]).expect(0, "", "");
    assert_eq!(c.inside("/etc/layerctl-was-here"), "x");
    assert!(!Path::new("/etc/layerctl-was-here").exists());
}

/// Whatever a container's links say, it is the container's own files that are read and written.
pub fn links_do_not_lead_out() {
    let c = Copied::of(&hostile());
    let host = fs::read("/etc/passwd").unwrap();
    for path in [
        "/to-passwd",
        "/absolute/passwd",
        "/relative/passwd",
        "/dir/out",
        "/dir/../../../../etc/passwd",
    ] {
        let out = c.dir.join("out");
        c.ok(&["-L", &format!("web:{path}"), "out"]);
        assert_eq!(fs::read(&out).unwrap(), b"of the container", "{path}");
        fs::remove_file(&out).unwrap();
    }
    c.refused(
        &["-L", "web:/to-proc", "out"],
        "Could not find the file /to-proc in container web",
    );
    // What lies in a directory is never followed.
    c.ok(&["web:/dir", "copied"]);
    assert!(c.dir.join("copied/out").is_symlink());
    c.write("evil", "evil");
    for path in ["/absolute/written", "/relative/written", "/absolute/"] {
        c.ok(&["evil", &format!("web:{path}")]);
    }
    c.ok(&["evil", "web:/to-passwd"]);
    assert_eq!(c.inside("/etc/passwd"), "evil");
    assert_eq!(c.inside("/etc/written"), "evil");
    assert_eq!(c.inside("/etc/evil"), "evil");
    c.refused(
        &["evil", "web:/dangling"],
        "Could not find the file /tmp in container web",
    );
    // A directory of the source where the container has a link to one.
    c.write("tree/absolute/x", "x");
    c.refused(
        &["tree/.", "web:/"],
        "cannot overwrite non-directory \"/absolute\" with directory \"/absolute\"",
    );
    assert_eq!(fs::read("/etc/passwd").unwrap(), host);
    for name in ["written", "evil"] {
        assert!(!Path::new("/etc").join(name).exists(), "{name}");
    }
}

/// A directory that is a link to a place of this machine every other moment.
pub fn links_that_come_and_go_do_not_lead_out() {
    let c = Copied::of(&hostile());
    let view = c.store.mount("web");
    let bait = c.store.new_dir("bait");
    fs::write(bait.join("secret"), "secret").unwrap();
    fs::create_dir_all(view.join("here/deep")).unwrap();
    fs::write(view.join("here/deep/secret"), "not secret").unwrap();
    symlink(&bait, view.join("there")).unwrap();
    fs::create_dir(view.join("swapped")).unwrap();
    c.write("put/deep/x", "x");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (deep, there) = (view.join("here/deep"), view.join("there"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &deep, CWD, &there, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            c.cp(&["web:/here/deep/secret", "got"]);
            c.cp(&["-L", "web:/here", "tree"]);
            c.cp(&["put/.", "web:/here"]);
            c.cp(&["put/deep/x", "web:/here/deep"]);
            let mut found = vec![c.dir.join("got"), c.dir.join("tree/deep/secret")];
            found.retain(|path| path.is_file() && !path.parent().unwrap().is_symlink());
            for path in found {
                assert_eq!(fs::read_to_string(&path).unwrap(), "not secret");
            }
            fs::remove_dir_all(c.dir.join("tree")).ok();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        fs::read_dir(&bait).unwrap().count(),
        1,
        "nothing was put there"
    );
    c.store.ok(&["umount", "web"]);
}

/// A full container says so, and has no half file.
pub fn a_file_that_cannot_be_written() {
    let c = Copied::of(&app(&["app:1"]));
    let view = c.store.mount("web");
    c.write("f", "x");
    let mut limited = Command::new("sh");
    let big = fs::File::create(c.dir.join("big")).unwrap();
    big.set_len(64 << 20).unwrap();
    limited
        .args(["-c", "ulimit -f 20000; trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(crate::harness::store::LAYERCTL)
        .arg("--root")
        .arg(c.store.root())
        .args(["cp", "big", "web:/big"])
        .current_dir(&c.dir);
    let run = Run::of(&mut limited);
    run.refused_saying(&["cannot write /big", "File too large"]);
    assert!(!view.join("big").exists());
    assert_eq!(fs::metadata(&c.dir).unwrap().nlink(), 2);
    c.store.ok(&["umount", "web"]);
}
