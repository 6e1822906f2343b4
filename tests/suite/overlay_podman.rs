//! Podman and Buildah on `layerctl` as their `mount_program`, beside the same on native overlay.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::archives_support::{
    assert_same, never, open, overlay_of, scratch, shell, tree, unpack_image,
};
use crate::harness::process::users_of;
use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::wait_until;

/// A storage of our own, which goes with this.
struct Storage {
    dir: TempDir,
    /// Where paths are as short as sockets want them.
    short: TempDir,
}

/// Podman as it runs without a session of systemd, in a container too.
const TOOLS: &str = r#"
    export CONTAINERS_STORAGE_CONF="$D/storage.conf"
    podman() { command podman --cgroup-manager cgroupfs --runtime runc "$@"; }
    run() { podman run --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"; }
    cd "$D"
"#;

impl Storage {
    fn new(mount_program: Option<&Path>) -> Storage {
        Storage::with(mount_program, "")
    }

    /// With more lines of configuration.
    fn with(mount_program: Option<&Path>, more: &str) -> Storage {
        let (dir, short) = (scratch(), tempfile::tempdir_in("/tmp").unwrap());
        let mut conf = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n[storage.options.overlay]\n",
            dir.path().join("storage"),
            short.path(),
        );
        if let Some(program) = mount_program {
            conf += &format!("mount_program = {program:?}\n");
        }
        conf += more;
        fs::write(dir.path().join("storage.conf"), conf).unwrap();
        Storage { dir, short }
    }

    /// Runs a script in its directory; gives what it prints.
    #[track_caller]
    fn shell(&self, script: &str, archive: &Path) -> String {
        let variables: [(&str, &OsStr); 2] = [
            ("D", self.dir.path().as_os_str()),
            ("A", archive.as_os_str()),
        ];
        shell(&format!("{TOOLS}{script}"), &variables)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What Podman mounts for an image.
    fn tree_of(&self, image: &str) -> BTreeMap<String, String> {
        let mounted = self.shell(&format!("podman image mount {image}"), Path::new(""));
        let got = tree(Path::new(&mounted));
        let unmount = format!("podman image unmount {image} >/dev/null");
        self.shell(&unmount, Path::new(""));
        without_new_times(got)
    }

    /// What an image shows after each of its layers, from the lowest to all of them.
    fn layers_of(&self, archive: &str) -> Vec<BTreeMap<String, String>> {
        let archive = open(&self.at(archive)).unwrap();
        let images = archive.images(&never).unwrap();
        let into = scratch();
        let dirs = unpack_image(&archive, &images[0], into.path());
        (1..=dirs.len())
            .map(|count| without_new_times(tree(&overlay_of(&dirs[..count]).path())))
            .collect()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The tools mount their storage on itself.
        for mount_point in mounts_below(self.dir.path()).iter().rev() {
            unmount(mount_point, UnmountFlags::DETACH).ok();
        }
        for mount_point in mounts_below(self.short.path()).iter().rev() {
            unmount(mount_point, UnmountFlags::DETACH).ok();
        }
    }
}

/// The two runs are not at the same time: of what they made only that it is new is compared. (The
/// time is the third word of a line.)
fn without_new_times(tree: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let without = |line: String| {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let is_new = words[2].split_once('.').unwrap().0.len() >= 10 && words[2] > "1500000000";
        match is_new {
            true => [&words[..2], &["new"], &words[3..]].concat().join(" "),
            false => line,
        }
    };
    tree.into_iter()
        .map(|(name, line)| (name, without(line)))
        .collect()
}

/// The script, without devices, pipes and set-ID bits if there are to be none.
fn only(special: bool, script: &str) -> String {
    match special {
        true => script.to_owned(),
        false => script
            .replace(" mknod null c 1 3;", "")
            .replace(" && mkfifo /fifo", "")
            .replace("chmod 4755", "chmod 755")
            .replace("chmod 1777", "chmod 777"),
    }
}

/// An image with a static shell and with what is to be changed, all of it old.
fn base_image(special: bool) -> (Storage, PathBuf) {
    let native = Storage::new(None);
    let script = r#"c=$(buildah from scratch); R=$(buildah mount $c)
        (cd "$R"; umask 022; mkdir bin; cp "$(command -v busybox)" bin/busybox
        for a in sh rm mkdir mv cat echo ls touch cp ln chmod chown mkfifo rmdir; do ln -s busybox bin/$a; done
        mkdir -p etc usr/moveme/sub gone/x moved/sub/y replaced tofile sticky deep/a/b/c opaque linked
        for f in etc/file etc/keep etc/old gone/x/f moved/sub/f replaced/f tofile/f todir usr/moveme/sub/f deep/a/b/c/f opaque/hidden
        do echo $f > $f; done; chmod 1777 sticky; echo linked > linked/1; ln linked/1 linked/2
        setfattr -n user.note -v val etc/old; cp /bin/cat etc/capable; mknod null c 1 3;
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 etc/capable
        find . -depth -exec touch -h -d 2001-02-03 {} +)
        buildah config --env PATH=/bin $c; buildah commit -q $c localhost/base:1 >/dev/null
        podman save -q --format docker-archive -o base.tar localhost/base:1"#;
    native.shell(&only(special, script), Path::new(""));
    let archive = native.at("base.tar");
    (native, archive)
}

/// Builds an image with deletes and replacements (the containers' names are no hexadecimal digits,
/// which could be an image's ID); runs and commits it, twice. Prints what `run` and
/// `diff` say.
const WORK: &str = r#"
    podman load -q -i "$A" >/dev/null
    mkdir -p ctx/files/d; echo a > ctx/files/a; echo b > ctx/files/d/b; touch -d 2002-02-02 ctx/files/* ctx/files/d/b ctx/files
    echo 'FROM localhost/base:1
COPY files /copied
RUN rm /etc/file && rm -r /gone && mv /moved /elsewhere && rm -r /replaced && mkdir /replaced && echo n > /replaced/new
RUN rm -r /elsewhere && mkdir -p /elsewhere/sub && rm -r /tofile && echo f > /tofile && rm /todir && mkdir /todir && touch /todir/x && chmod 700 /sticky && chown 5:6 /etc/old && ln /etc/old /etc/oldlink
RUN echo more >> /etc/keep && mkdir /gone && rm -rf /elsewhere/sub && mv /deep/a /deep/b && mkdir /deep/a && touch /deep/a/f && cp /bin/busybox /bin/copy && chmod 4755 /bin/copy && ln -s x /lnk && mkfifo /fifo
RUN rm -r /opaque && mkdir /opaque && touch /opaque/seen' > ctx/Containerfile
    buildah bud -q --layers --isolation chroot -t localhost/built:1 ctx >/dev/null
    run --name first localhost/built:1 sh -c 'set -e; cat /etc/keep; ls /opaque; rm -r /deep/b /replaced; mv /usr/moveme /usr/moved; echo x > /usr/moved/in; echo app >> /etc/keep; chmod 711 /sticky; rm /copied/a; mv /copied/d /copied/e; touch /opaque/more'
    podman diff first | sort
    podman commit -q first localhost/committed:1 >/dev/null
    run --name second localhost/committed:1 sh -c 'ls /usr /opaque; cat /usr/moved/in /etc/keep; rm -r /usr/moved; mkdir /usr/moved; echo x > /copied'  2>&1 || true
    podman commit -q second localhost/committed:2 >/dev/null
    podman start -a first 2>&1 || true
    podman rm -f first second >/dev/null
    podman save -q --format docker-archive -o out.tar localhost/committed:2
"#;

const IMAGES: [&str; 3] = [
    "localhost/built:1",
    "localhost/committed:1",
    "localhost/committed:2",
];

fn compare(ours: &Storage, special: bool) {
    let (native, archive) = base_image(special);
    let work = &only(special, WORK);
    let want = native.shell(work, &archive);
    assert!(
        want.contains("D /usr/moveme") && want.contains("A /usr/moved/sub/f"),
        "{want}"
    );
    assert_eq!(ours.shell(work, &archive), want);
    for image in IMAGES {
        assert_same(image, &ours.tree_of(image), &native.tree_of(image));
    }
    let (got, want) = (ours.layers_of("out.tar"), native.layers_of("out.tar"));
    assert_eq!((got.len(), want.len()), (8, 8));
    for (count, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_same(&format!("the lowest {} layers", count + 1), got, want);
    }
    let info = ours.shell("podman info --format '{{.Store.GraphOptions}}'", &archive);
    assert!(info.contains("Version:layerctl"), "{info}");
    // Nothing is left mounted, and nobody serves it.
    ours.shell("podman rmi -f -a >/dev/null", &archive);
    let still = mounts_below(&ours.at("storage"));
    let still: Vec<_> = still.iter().filter(|at| at.ends_with("merged")).collect();
    assert!(still.is_empty(), "{still:?}");
    wait_until("the servers end", || {
        users_of(Path::new(LAYERCTL), ours.dir.path()).is_empty()
    });
}

pub fn by_its_own_name() {
    compare(&Storage::new(Some(Path::new(LAYERCTL))), true);
}

pub fn by_the_name_of_fuse_overlayfs() {
    let dir = scratch();
    let program = dir.path().join("fuse-overlayfs");
    symlink(LAYERCTL, &program).unwrap();
    let (_native, archive) = base_image(true);
    let said = Storage::new(Some(&program)).shell(
        r#"podman load -q -i "$A" >/dev/null
        run --rm localhost/base:1 sh -c 'cat /etc/keep; cat /proc/self/mounts' | sed -n '1p; s/^\([^ ]* \/ [^ ]*\) .*/\1/p'"#,
        &archive,
    );
    assert_eq!(said, "etc/keep\nlayerctl / fuse.layerctl");
}

/// Every file on disk has one owner and mode; those of the image are in attributes. (Podman 4.3
/// cannot give them to devices and pipes, and leaves the set-ID bits out.)
pub fn with_a_forced_mask() {
    let ours = Storage::with(Some(Path::new(LAYERCTL)), "force_mask = \"shared\"\n");
    compare(&ours, false);
}

/// Containers that run, are entered and are killed.
pub fn running_containers() {
    let (_native, archive) = base_image(true);
    let ours = Storage::new(Some(Path::new(LAYERCTL)));
    let said = ours.shell(
        r#"podman load -q -i "$A" >/dev/null
        run -d --name one localhost/base:1 sh -c 'echo up > /up; while :; do :; done' >/dev/null
        until podman exec one cat /up; do sleep 0.1; done
        podman exec one sh -c 'echo hello > /etc/said; rm /etc/file'
        podman cp one:/etc/said - | tar -xO; podman diff one | sort
        podman pause one >/dev/null; podman unpause one >/dev/null
        podman kill one >/dev/null; podman wait one
        podman start one >/dev/null; podman exec one cat /etc/said; podman rm -f -t 0 one >/dev/null
        run --read-only --rm localhost/base:1 sh -c 'echo x > /x' 2>&1 || true
        run --rm -v "$D":/host:O localhost/base:1 sh -c 'echo x > /host/new; cat /host/new'
        ls new 2>&1 || true"#,
        &archive,
    );
    let expected = "up\nhello\nA /etc/said\nA /up\nC /etc\nD /etc/file\n137\nhello\nsh: can't create /x: Read-only file system\nx\nls: cannot access 'new': No such file or directory";
    assert_eq!(said, expected);
}
