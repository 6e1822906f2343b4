//! `layerctl overlay`: the command line of fuse-overlayfs, on directories of this test.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::process::{descriptors, kill_hard, users_of};
use crate::harness::store::{LAYERCTL, is_mounted};
use crate::harness::{Run, disk, wait_until};
use crate::union_support::put;

/// Two lower directories, upper and work, a mount point, and what is mounted there.
pub struct Plain {
    pub temp: tempfile::TempDir,
}

impl Plain {
    pub fn new() -> Plain {
        let temp = disk::temp_dir();
        for name in ["top", "bottom", "upper", "work", "mnt"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        put(&temp.path().join("top"), "both", "from the top");
        put(&temp.path().join("bottom"), "both", "hidden");
        put(&temp.path().join("bottom"), "dir/file", "from the bottom");
        Plain { temp }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn mnt(&self) -> PathBuf {
        self.at("mnt")
    }

    /// Runs a program where the names of the directories are relative.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.temp.path());
        command
    }

    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Run {
        Run::of(&mut self.command(program, args))
    }

    /// Mounts all directories with some more options; says nothing.
    #[track_caller]
    pub fn mount(&self, more: &str) {
        let options = format!("lowerdir=top:bottom,upperdir=upper,workdir=work{more}");
        let run = self.run(LAYERCTL, &["overlay", "-o", &options, "mnt"]);
        run.expect(0, "", "");
        assert!(is_mounted(&self.mnt()));
    }

    #[track_caller]
    pub fn umount(&self) {
        // Another test may be between fork and exec, with what this one had open a moment ago.
        let unmounted = || unmount(self.mnt(), UnmountFlags::empty());
        wait_until("it is not busy", || unmounted() != Err(Errno::BUSY));
        assert!(!is_mounted(&self.mnt()));
        self.wait_for_the_server_to_end();
    }

    pub fn servers(&self) -> Vec<i32> {
        users_of(Path::new(LAYERCTL), self.temp.path())
    }

    #[track_caller]
    pub fn server(&self) -> i32 {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "one server: {servers:?}");
        servers[0]
    }

    #[track_caller]
    pub fn wait_for_the_server_to_end(&self) {
        wait_until("the server ends", || self.servers().is_empty());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        while is_mounted(&self.mnt()) && unmount(self.mnt(), UnmountFlags::DETACH).is_ok() {}
        // By their directories, so none but those of this test.
        for server in self.servers() {
            if let Some(pid) = Pid::from_raw(server) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names = crate::harness::store::names_in(dir);
    names.sort();
    names
}

/// The type and the source that the kernel has for the mount.
fn mounted_as(point: &Path) -> (String, String, String) {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .rfind(|line| line.split(' ').nth(1) == point.to_str())
        .unwrap();
    let mut words = line.split(' ').map(str::to_owned);
    let source = words.next().unwrap();
    (source, words.nth(1).unwrap(), words.next().unwrap())
}

pub fn mounts_and_changes() {
    let it = Plain::new();
    it.mount("");
    let mnt = it.mnt();
    assert_eq!(names_in(&mnt), ["both", "dir"]);
    assert_eq!(fs::read(mnt.join("both")).unwrap(), b"from the top");
    fs::write(mnt.join("new"), "new").unwrap();
    fs::write(mnt.join("dir/file"), "changed").unwrap();
    fs::remove_file(mnt.join("both")).unwrap();
    fs::rename(mnt.join("dir"), mnt.join("moved")).unwrap();
    let (source, kind, flags) = mounted_as(&mnt);
    assert_eq!(
        (source.as_str(), kind.as_str()),
        ("layerctl", "fuse.layerctl")
    );
    assert!(flags.starts_with("rw,"), "{flags}");
    it.umount();
    // And once more: the same, from the disk.
    it.mount(",fsname=my source,ro,noexec");
    assert_eq!(names_in(&mnt), ["moved", "new"]);
    assert_eq!(fs::read(mnt.join("moved/file")).unwrap(), b"changed");
    let refused = fs::write(mnt.join("new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    let (source, _, flags) = mounted_as(&mnt);
    assert_eq!(source, "my\\040source");
    assert!(
        flags.starts_with("ro,") && flags.contains(",noexec"),
        "{flags}"
    );
    it.umount();
    // The lower directories are as they were; what is in the work directory is the union's.
    assert_eq!(names_in(&it.at("top")), ["both"]);
    assert_eq!(
        fs::read(it.at("bottom/dir/file")).unwrap(),
        b"from the bottom"
    );
}

pub fn read_only_without_upper() {
    let it = Plain::new();
    let run = it.run(LAYERCTL, &["overlay", "-o", "lowerdir=top:bottom", "mnt"]);
    run.expect(0, "", "");
    let refused = fs::write(it.mnt().join("x"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    assert!(mounted_as(&it.mnt()).2.starts_with("ro,"));
    it.umount();
}

/// By other names and by no command at all, with the source and the options of mount(8).
pub fn by_other_names() {
    let it = Plain::new();
    for name in ["fuse-overlayfs", "mount.fuse.layerctl"] {
        symlink(LAYERCTL, it.at(name)).unwrap();
    }
    let options = "rw,nosuid,dev,relatime,_netdev,lowerdir=top:bottom";
    let mnt = it.mnt();
    let point = mnt.to_str().unwrap();
    let calls: [(&str, &[&str], &str); 6] = [
        ("./fuse-overlayfs", &["-o", options, "mnt"], "layerctl"),
        ("./fuse-overlayfs", &["mnt", "-o", options], "layerctl"),
        (
            "./mount.fuse.layerctl",
            &["src", "mnt", "-o", options],
            "src",
        ),
        (
            "./mount.fuse.layerctl",
            &["src", "mnt", "-sv", "-o", options, "-t", "fuse.layerctl"],
            "src",
        ),
        (LAYERCTL, &["-o", options, point], "layerctl"),
        (LAYERCTL, &["src", point, "-o", options], "src"),
    ];
    for (program, args, source) in calls {
        it.run(program, args).expect(0, "", "");
        assert_eq!(names_in(&mnt), ["both", "dir"], "{program} {args:?}");
        let (got, kind, flags) = mounted_as(&mnt);
        assert_eq!((got.as_str(), kind.as_str()), (source, "fuse.layerctl"));
        assert!(flags.contains("nosuid"), "{flags}");
        it.umount();
    }
    for question in ["--version", "-V", "--help", "-h"] {
        let answer = it.run("./fuse-overlayfs", &[question]).ok();
        assert!(answer.contains("overlay"), "{question}: {answer}");
    }
    let help = it.run(LAYERCTL, &["overlay", "--help"]).ok();
    for word in [
        "lowerdir=",
        "squash_to_uid=",
        "xattr_permissions=",
        "MOUNTPOINT",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
}

/// The real mount(8), which finds its helper in /sbin: in a mount namespace of its own, with one
/// more program there.
pub fn by_mount() {
    let it = Plain::new();
    fs::create_dir(it.at("sbin")).unwrap();
    symlink(LAYERCTL, it.at("sbin/mount.fuse.layerctl")).unwrap();
    let sbin = fs::canonicalize("/sbin").unwrap();
    let script = format!(
        "mount -t overlay -o lowerdir=$PWD/sbin:{0} overlay {0}
        mount -t fuse.layerctl some-source $PWD/mnt -o lowerdir=$PWD/top:$PWD/bottom,upperdir=$PWD/upper,workdir=$PWD/work,noatime
        grep ^some-source /proc/self/mounts | cut -d' ' -f3,4; cat mnt/dir/file; echo x > mnt/new
        umount mnt",
        sbin.display()
    );
    let run = it.run("unshare", &["-m", "sh", "-euc", &script]);
    let said = run.clone().ok();
    assert!(run.stderr.is_empty(), "silent: {run:?}");
    let (kind, rest) = said.split_once(' ').unwrap();
    assert_eq!(kind, "fuse.layerctl");
    assert!(
        rest.starts_with("rw,noatime,") && rest.ends_with("\nfrom the bottom"),
        "{rest}"
    );
    assert_eq!(names_in(&it.at("upper")), ["new"]);
    it.wait_for_the_server_to_end();
}

pub fn what_is_refused() {
    let it = Plain::new();
    put(&it.at("."), "file", "");
    fs::create_dir_all(it.at("work/inner")).unwrap();
    let of = |options: &str| it.run(LAYERCTL, &["overlay", "-o", options, "mnt"]);
    let table: [(&str, &[&str]); 14] = [
        ("ro", &["lowerdir=DIR"]),
        ("lowerdir=nope", &["lower directory nope", "No such file"]),
        (
            "lowerdir=file",
            &["lower directory file", "Not a directory"],
        ),
        ("lowerdir=top:nope", &["lower directory nope"]),
        ("lowerdir=top,upperdir=upper", &["workdir=DIR"]),
        (
            "lowerdir=top,upperdir=nope,workdir=work",
            &["upper directory nope"],
        ),
        (
            "lowerdir=top,upperdir=upper,workdir=file",
            &["work directory file", "Not a directory"],
        ),
        (
            "lowerdir=top,upperdir=upper,workdir=upper",
            &["must not lie in one another"],
        ),
        (
            "lowerdir=top,upperdir=upper,workdir=.",
            &["must not lie in one another"],
        ),
        (
            "lowerdir=top,upperdir=work/inner,workdir=work",
            &["must not lie in one another"],
        ),
        (
            "lowerdir=work/inner,upperdir=upper,workdir=work",
            &["must not lie in the work"],
        ),
        (
            "lowerdir=top,upperdir=upper,workdir=/dev/shm",
            &["not on the upper directory's"],
        ),
        (
            "lowerdir=top,squash_to_uid=root",
            &["squash_to_uid=root", "no number"],
        ),
        ("lowerdir=top,plugins=/lib/x.so", &["plugins"]),
    ];
    for (options, parts) in table {
        of(options).refused_saying(parts);
        assert!(
            !is_mounted(&it.mnt()) && it.servers().is_empty(),
            "{options}"
        );
    }
    assert!(it.at("work/inner").exists());
    let at = |point: &str| it.run(LAYERCTL, &["overlay", "-o", "lowerdir=top", point]);
    at("nope").refused_saying(&["cannot mount at nope", "No such file"]);
    at("file").refused_saying(&["cannot mount at", "file", "Not a directory"]);
    assert_eq!(
        it.run(LAYERCTL, &["overlay", "-o", "lowerdir=top"]).code,
        Some(2)
    );
    // What is not known is said to whoever wants to know, and is no error.
    let mut debug = it.command(
        LAYERCTL,
        &["overlay", "-d", "-o", "lowerdir=top,nonsense=7", "mnt"],
    );
    let child = debug
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || is_mounted(&it.mnt()));
    // It is seen before its server is ready; whoever asks it something waits for that.
    assert_eq!(names_in(&it.mnt()), ["both"]);
    it.umount();
    let run = Run::finish(child, "overlay -d".to_owned());
    assert!(
        run.stderr.contains("the option nonsense has no effect"),
        "{run:?}"
    );
    run.ok();
}

pub fn nothing_of_the_caller_is_kept() {
    let it = Plain::new();
    let extra = it.at("extra");
    // `Run` waits for the end of the pipes; descriptor 9 is inherited.
    let script = "exec 9>extra; cd top; \"$0\" overlay -o lowerdir=.:../bottom ../mnt | cat";
    it.run("sh", &["-c", script, LAYERCTL]).expect(0, "", "");
    let server = it.server();
    let held = descriptors(server);
    assert!(!held.contains(&extra), "{held:?}");
    assert!(
        !held
            .iter()
            .any(|p| p.to_string_lossy().starts_with("pipe:")),
        "{held:?}"
    );
    assert_eq!(
        fs::read_link(format!("/proc/{server}/cwd")).unwrap(),
        Path::new("/")
    );
    assert_eq!(names_in(&it.mnt()), ["both", "dir"]);
    it.umount();
}

/// Told to end, it is unmounted; what is mounted over it stays.
pub fn signals() {
    let it = Plain::new();
    let point = it.mnt();
    for signal in [Signal::TERM, Signal::INT] {
        it.mount("");
        kill_process(Pid::from_raw(it.server()).unwrap(), signal).unwrap();
        wait_until("it is unmounted", || !is_mounted(&point));
        it.wait_for_the_server_to_end();
    }
    let mut command = it.command(LAYERCTL, &["overlay", "-f", "-o", "lowerdir=top", "mnt"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || is_mounted(&point));
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let run = Run::finish(child, "overlay -f".to_owned());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!is_mounted(&point));
}

pub fn a_killed_server() {
    let it = Plain::new();
    it.mount("");
    fs::write(it.mnt().join("kept"), "kept").unwrap();
    kill_hard(it.server());
    let dead = fs::read(it.mnt().join("kept")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
    unmount(it.mnt(), UnmountFlags::empty()).unwrap();
    it.mount("");
    assert_eq!(fs::read(it.mnt().join("kept")).unwrap(), b"kept");
    it.umount();
}

/// Two servers on one upper directory would not see what the other does.
pub fn one_server_a_work_directory() {
    let it = Plain::new();
    it.mount("");
    fs::create_dir(it.at("mnt2")).unwrap();
    let options = "lowerdir=top:bottom,upperdir=upper,workdir=work";
    let run = it.run(LAYERCTL, &["overlay", "-o", options, "mnt2"]);
    run.refused_saying(&["work directory", "is in use by another mount"]);
    // Reading the same directories is another thing: Podman does it to see what a container changed.
    fs::write(it.mnt().join("new"), "new").unwrap();
    it.run(
        LAYERCTL,
        &["overlay", "-o", "lowerdir=upper:top:bottom", "mnt2"],
    )
    .expect(0, "", "");
    assert_eq!(names_in(&it.at("mnt2")), ["both", "dir", "new"]);
    unmount(it.at("mnt2"), UnmountFlags::DETACH).unwrap();
    it.umount();
}

pub fn owners_are_mapped() {
    let it = Plain::new();
    let lower = |name: &str| it.at("bottom").join(name);
    put(&it.at("bottom"), "root", "");
    put(&it.at("bottom"), "user", "");
    put(&it.at("bottom"), "stranger", "");
    chown(lower("user"), Some(7), Some(8)).unwrap();
    chown(lower("stranger"), Some(70_000), Some(70_000)).unwrap();
    let owner = |path: PathBuf| {
        let stat = fs::symlink_metadata(path).unwrap();
        (stat.uid(), stat.gid())
    };
    let mnt = it.mnt();
    it.mount(",uidmapping=0:100000:65536,gidmapping=0:200000:65536");
    assert_eq!(owner(mnt.join("root")), (100_000, 200_000));
    assert_eq!(owner(mnt.join("user")), (100_007, 200_008));
    assert_eq!(owner(mnt.join("stranger")), (65534, 65534));
    chown(mnt.join("root"), Some(100_005), Some(200_006)).unwrap();
    assert_eq!(owner(mnt.join("root")), (100_005, 200_006));
    assert_eq!(owner(it.at("upper/root")), (5, 6));
    let refused = chown(mnt.join("root"), Some(5), None).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::OVERFLOW.raw_os_error()));
    // A copy-up changes no owner, and a caller without a place makes files of nobody.
    fs::write(mnt.join("user"), "copied").unwrap();
    assert_eq!(owner(it.at("upper/user")), (7, 8));
    fs::write(mnt.join("made"), "").unwrap();
    assert_eq!(owner(it.at("upper/made")), (65534, 65534));
    it.umount();
    it.mount(",squash_to_root,squash_to_gid=5");
    for name in ["root", "user", "stranger", "made", "dir"] {
        assert_eq!(owner(mnt.join(name)), (0, 5), "{name}");
    }
    fs::write(mnt.join("stranger"), "copied").unwrap();
    assert_eq!(owner(it.at("upper/stranger")), (0, 5));
    it.umount();
}

pub fn options_of_the_view() {
    let it = Plain::new();
    let mnt = it.mnt();
    let set = |name: &str| {
        // An access control list (version 2) that says what mode 644 says.
        let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
        let path = mnt.join("both");
        rustix::fs::setxattr(path, name, acl, rustix::fs::XattrFlags::empty())
    };
    it.mount(",noxattrs=1,redirect_dir=off,static_nlink,volatile");
    assert_eq!(set("user.note"), Err(Errno::OPNOTSUPP));
    let moved = fs::rename(mnt.join("dir"), mnt.join("moved")).unwrap_err();
    assert_eq!(moved.raw_os_error(), Some(Errno::XDEV.raw_os_error()));
    fs::create_dir_all(mnt.join("a/b/c")).unwrap();
    assert_eq!(fs::metadata(mnt.join("a")).unwrap().nlink(), 1);
    fs::File::open(mnt.join("both"))
        .unwrap()
        .sync_all()
        .unwrap();
    it.umount();
    it.mount(",metacopy=off");
    fs::set_permissions(mnt.join("dir/file"), fs::Permissions::from_mode(0o600)).unwrap();
    it.umount();
    assert_eq!(
        fs::read(it.at("upper/dir/file")).unwrap(),
        b"from the bottom"
    );
    it.mount(",noacl");
    set("user.note").unwrap();
    assert_eq!(set("system.posix_acl_access"), Err(Errno::OPNOTSUPP));
    assert_eq!(fs::metadata(mnt.join("a")).unwrap().nlink(), 3);
    it.umount();
}

/// Programs that lock, map, rename and walk: on a lower directory with the files of a real one.
pub fn real_programs() {
    let it = Plain::new();
    it.run("cp", &["-a", "/usr/share/perl5", "bottom/tree"])
        .ok();
    it.mount("");
    let script = r#"
        export GIT_CONFIG_NOSYSTEM=1 HOME=$PWD
        git() { command git -c user.name=a -c user.email=a@b -c init.defaultBranch=main "$@"; }
        cd mnt
        git init -q; git add tree; git commit -qm one; mv tree moved; git add -A; git commit -qm two
        git checkout -q HEAD~1; test -d tree; test ! -e moved; git checkout -q main; git gc -q; git fsck --no-progress
        git status --short
        diff -r moved ../bottom/tree
        tar cf - moved | tar xf - -C dir; diff -r moved dir/moved; rm -r moved
        python3 -c '
import mmap, sqlite3
db = sqlite3.connect("db"); db.execute("pragma journal_mode=wal"); db.execute("create table t (n)")
db.executemany("insert into t values (?)", ((n,) for n in range(5000))); db.commit()
print(sqlite3.connect("db").execute("select sum(n) from t").fetchone()[0]); db.close()
f = open("mapped", "w+b"); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); m[4096:4101] = b"hello"; m.flush()
print(open("mapped", "rb").read()[4096:4101])'
        echo 'int main(void) { return 42; }' > a.c; gcc -o a a.c; ./a || echo $?"#;
    let said = it.run("bash", &["-euc", script]).ok();
    assert_eq!(said, "12497500\nb'hello'\n42\n");
    it.umount();
}

/// Root of a user namespace alone, as rootless Podman has it: no `trusted` attributes, no devices,
/// and files of owners that have no place there.
pub fn in_a_user_namespace() {
    let it = Plain::new();
    put(&it.at("bottom"), "stranger", "of another owner");
    chown(it.at("bottom/stranger"), Some(7), Some(8)).unwrap();
    put(&it.at("bottom"), "gone", "");
    let script = r#"
        mount() { "$0" overlay -o lowerdir=top:bottom,upperdir=upper,workdir=work$1 mnt; }
        mount ''
        echo new > mnt/both; rm mnt/gone; mv mnt/dir mnt/moved; mkdir mnt/dir; touch mnt/dir/in
        chmod 600 mnt/moved/file; setfattr -n user.note -v x mnt/both
        echo x 2>/dev/null >> mnt/stranger || echo refused
        cat mnt/stranger; umount mnt
        mount ,squash_to_root
        (cd mnt; ls; ls dir moved; cat moved/file; stat -c '%a %U' moved/file stranger)
        echo x > mnt/stranger; cat mnt/stranger; umount mnt"#;
    let args = ["-Urm", "bash", "-euc", script, LAYERCTL];
    let said = it.run("unshare", &args).ok();
    let expected = "refused\nof another ownerboth\ndir\nmoved\nstranger\ndir:\nin\n\nmoved:\nfile\nfrom the bottom600 root\n644 root\nx\n";
    assert_eq!(said, expected);
    let gone = fs::symlink_metadata(it.at("upper/gone")).unwrap();
    assert_eq!(
        gone.mode() & 0o170_000,
        0o020_000,
        "a whiteout may be made there"
    );
    let opaque = crate::union_support::get_xattr(&it.at("upper/dir"), "user.overlay.opaque");
    assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
    it.wait_for_the_server_to_end();
}
