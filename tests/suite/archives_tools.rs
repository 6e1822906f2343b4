//! Archives made by the real tools, compared with what the tools themselves show.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use layerctl::archive::ArchivedImage;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::archives_support::{
    assert_same, config, images, never, open, overlay_of, scratch, shell, tree, unpack_image,
};
use crate::exact_support::Docker;
use crate::harness::store::mounts_below;

/// Two images on one another, with everything that a layer can hold, and what Podman shows of them.
struct Made {
    dir: TempDir,
    /// Where paths are as short as Podman and sockets want them.
    short: TempDir,
    ids: [String; 2],
}

/// Puts `podman` and `buildah` on storage of our own, in `$D`, with sockets and the like in `$T`.
const TOOLS: &str = r#"
    podman() { command podman --root "$D/storage" --runroot "$T" --storage-driver overlay --cgroup-manager cgroupfs --runtime runc "$@"; }
    buildah() { command buildah --root "$D/storage" --runroot "$T" --storage-driver overlay "$@"; }
"#;

/// Fills `$R`, the root of the first image.
const LOWER: &str = r#"
    cd "$R"; umask 022
    mkdir -p etc usr/bin var/gone opq/old "dir with space" sticky deep/a/b/c replaced
    echo hello > etc/file; ln etc/file usr/bin/hardlink; ln -s ../etc/file usr/bin/link; ln usr/bin/link usr/bin/linklink
    cp /bin/true usr/bin/true; chmod 6755 usr/bin/true; chown 12:34 usr/bin/true; chmod 6755 usr/bin/true
    cp /bin/cat usr/bin/ping; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/ping
    setfattr -n user.note -v "some value" etc/file; chmod 1777 sticky
    mkfifo var/pipe; mknod var/null c 1 3; mknod var/disk b 7 200; chmod 640 var/null
    touch -d "2001-02-03 04:05:06.789012345" etc/file "dir with space"; touch -d 1980-01-01 etc/old
    printf x > $'latin\xe9'; touch "$(printf 'n%.0s' {1..255})"; touch opq/old/f var/gone/f deep/a/b/c/f replaced/f tobedir
    mkdir -p "$(printf 'long%.0s' {1..30})/$(printf 'path%.0s' {1..30})"; touch "$(printf 'long%.0s' {1..30})/$(printf 'path%.0s' {1..30})/f"
    truncate -s 1M sparse; touch -d 2002-01-01 deep/a deep opq var
"#;

/// Changes it, for the second.
const UPPER: &str = r#"
    cd "$R"; rm -r var/gone opq; mkdir opq; touch opq/new; rm usr/bin/hardlink
    rm -r replaced; echo now > replaced; rm tobedir; mkdir tobedir; touch tobedir/in
    echo changed >> etc/file; mv deep/a/b/c/f deep/a/b/g; chmod 700 sticky; chown 5:6 etc/old
    touch -d "2003-03-03 03:03:03.5" deep/a/b
"#;

static MADE: Mutex<Option<Made>> = Mutex::new(None);

/// Gives something of the images, which the first that asks makes.
fn made<T>(of: impl FnOnce(&Made) -> T) -> T {
    // Poisoned by a case that could not make them: the next one tries it, too.
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_with(|| {
        let dir = scratch();
        let short = tempfile::tempdir_in("/tmp").unwrap();
        let script = format!(
            r#"{TOOLS}
            c=$(buildah from scratch); R=$(buildah mount $c)
            ({LOWER}); buildah config --cmd /usr/bin/true --env A=b $c
            buildah commit -q $c localhost/lower:1 >/dev/null; buildah rm $c >/dev/null
            c=$(buildah from localhost/lower:1); R=$(buildah mount $c)
            ({UPPER}); buildah config --label k=v $c
            buildah commit -q $c localhost/upper:2 >/dev/null; buildah rm $c >/dev/null
            podman tag localhost/upper:2 localhost/other/name:tag
            podman image inspect --format '{{{{.Id}}}}' localhost/lower:1 localhost/upper:2"#
        );
        let ids = shell(
            &script,
            &[
                ("D", dir.path().as_os_str()),
                ("T", short.path().as_os_str()),
            ],
        );
        let ids: Vec<String> = ids.lines().map(str::to_owned).collect();
        Made {
            dir,
            short,
            ids: ids.try_into().unwrap(),
        }
    });
    of(made)
}

fn ids() -> [String; 2] {
    made(|made| made.ids.clone())
}

/// Removes the images, after the last case.
pub fn release() {
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Made { dir, .. }) = made else {
        return;
    };
    // The tools mount their storage on itself.
    for mount_point in mounts_below(dir.path()).iter().rev() {
        unmount(mount_point, UnmountFlags::DETACH).ok();
    }
    let path = dir.path().to_owned();
    if let Err(e) = dir.close() {
        eprintln!("cannot remove {}: {e}", path.display());
    }
}

/// Runs a script with the tools and `$O`, a fresh directory.
fn run(script: &str, out: &Path) -> String {
    let (dir, short) = made(|made| (made.dir.path().to_owned(), made.short.path().to_owned()));
    let variables: [(&str, &OsStr); 3] = [
        ("D", dir.as_os_str()),
        ("T", short.as_os_str()),
        ("O", out.as_os_str()),
    ];
    shell(&format!("{TOOLS} cd \"$O\"; {script}"), &variables)
}

/// The tree that Podman mounts for an image.
fn podman_tree(name: &str) -> std::collections::BTreeMap<String, String> {
    let out = scratch();
    let mounted = run(&format!("podman image mount {name}"), out.path());
    let got = tree(Path::new(&mounted));
    run(
        &format!("podman image unmount {name} >/dev/null"),
        out.path(),
    );
    got
}

/// Loads an archive and compares it with Podman's view of the image.
fn check(what: &str, archive: &Path, ids: &[&str], names: &[&str]) -> Vec<ArchivedImage> {
    let opened = open(archive).unwrap_or_else(|e| panic!("{what}: {e}"));
    let images = opened
        .images(&never)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(
        images.iter().map(|i| i.id.hex()).collect::<Vec<_>>(),
        ids,
        "{what}"
    );
    for (image, name) in images.iter().zip(names) {
        let into = scratch();
        let dirs = unpack_image(&opened, image, into.path());
        let overlay = overlay_of(&dirs);
        assert_same(what, &tree(&overlay.path()), &podman_tree(name));
    }
    images
}

fn tags(image: &ArchivedImage) -> Vec<String> {
    image.tags.iter().map(ToString::to_string).collect()
}

pub fn podman_docker_archive() {
    let out = scratch();
    let [lower, upper] = &ids();
    run(
        r#"podman save -q --format docker-archive -o one.tar localhost/upper:2
        podman save -q -m --format docker-archive -o many.tar localhost/lower:1 localhost/upper:2 localhost/other/name:tag
        podman save -q --format docker-archive -o untagged.tar $(podman image inspect --format '{{.Id}}' localhost/upper:2)
        podman save -q --format docker-dir -o dir localhost/upper:2
        zstd -q one.tar"#,
        out.path(),
    );
    let at = |name: &str| out.path().join(name);
    for name in ["one.tar", "one.tar.zst"] {
        let found = check(name, &at(name), &[upper], &["localhost/upper:2"]);
        assert_eq!(tags(&found[0]), ["localhost/upper:2"]);
        assert_eq!(found[0].layers.len(), 2);
        assert_eq!(config(&found[0]).config.env, ["A=b"]);
        assert_eq!(config(&found[0]).config.labels["k"], "v");
    }
    let found = check(
        "many",
        &at("many.tar"),
        &[lower, upper],
        &["localhost/lower:1", "localhost/upper:2"],
    );
    assert_eq!(tags(&found[0]), ["localhost/lower:1"]);
    let mut names = tags(&found[1]);
    names.sort();
    assert_eq!(names, ["localhost/other/name:tag", "localhost/upper:2"]);
    let found = check(
        "untagged",
        &at("untagged.tar"),
        &[upper],
        &["localhost/upper:2"],
    );
    assert!(tags(&found[0]).is_empty());
    let refused = images(&at("dir")).unwrap_err().to_string();
    assert!(refused.contains("dir: transport"), "{refused}");
}

pub fn podman_oci() {
    let out = scratch();
    let [_, upper] = &ids();
    run(
        "podman save -q --format oci-archive -o a.tar localhost/upper:2
        podman save -q --format oci-dir -o dir localhost/upper:2; gzip -k a.tar
        podman save -q --format oci-archive --uncompressed -o plain.tar localhost/upper:2",
        out.path(),
    );
    for name in ["a.tar", "a.tar.gz", "dir", "plain.tar"] {
        let found = check(
            name,
            &out.path().join(name),
            &[upper],
            &["localhost/upper:2"],
        );
        assert_eq!(tags(&found[0]), ["localhost/upper:2"], "{name}");
    }
}

pub fn skopeo() {
    let out = scratch();
    let [_, upper] = &ids();
    run(
        r#"from="containers-storage:[overlay@$D/storage+$T]localhost/upper:2"
        skopeo copy -q $from docker-archive:docker.tar:me/app:3
        skopeo copy -q $from docker-archive:notag.tar
        skopeo copy -q $from oci-archive:oci.tar:me/app:3
        skopeo copy -q $from oci-archive:baretag.tar:3.19
        skopeo copy -q --dest-compress-format zstd $from oci:zstd:latest
        skopeo copy -q --dest-oci-accept-uncompressed-layers $from oci:plain:latest
        skopeo copy -q containers-storage:[overlay@$D/storage+$T]localhost/lower:1 oci:several:one/a:1
        skopeo copy -q $from oci:several:two/b:2"#,
        out.path(),
    );
    let at = |name: &str| out.path().join(name);
    for (name, want) in [
        ("docker.tar", &["me/app:3"][..]),
        ("notag.tar", &[]),
        ("oci.tar", &["me/app:3"]),
        ("baretag.tar", &[]),
        ("zstd", &[]),
        ("plain", &[]),
    ] {
        let found = check(name, &at(name), &[upper], &["localhost/upper:2"]);
        assert_eq!(tags(&found[0]), want, "{name}");
    }
    let found = images(&at("several")).unwrap();
    assert_eq!(
        found.iter().flat_map(tags).collect::<Vec<_>>(),
        ["one/a:1", "two/b:2"]
    );
}

/// An image that umoci made, and what it unpacks of it itself.
pub fn umoci_layout() {
    let out = scratch();
    run(
        &format!(
            r#"umoci init --layout l; umoci new --image l:me; umoci unpack --image l:me b 2>/dev/null
            R=$PWD/b/rootfs; ({LOWER}); umoci repack --image l:me b; rm -r b
            umoci unpack --image l:me b; R=$PWD/b/rootfs; ({UPPER}); umoci repack --image l:me b
            umoci unpack --image l:me again; tar -cf l.tar -C l ."#
        ),
        out.path(),
    );
    for name in ["l", "l.tar"] {
        let archive = open(&out.path().join(name)).unwrap();
        let found = archive.images(&never).unwrap();
        assert!(found[0].tags.is_empty() && found[0].layers.len() == 2);
        let into = scratch();
        let dirs = unpack_image(&archive, &found[0], into.path());
        let overlay = overlay_of(&dirs);
        let mut want = tree(&out.path().join("again/rootfs"));
        let got = tree(&overlay.path());
        // umoci leaves unchanged parents out of its layers; then they are made, here as by Docker, with time 0,
        // while umoci itself unpacks one layer over the other and so keeps them.
        for (path, line) in &mut want {
            if line.starts_with("40755 0:0 ") && got[path] == "40755 0:0 0.000000000" {
                line.clone_from(&got[path]);
            }
        }
        assert_same(name, &got, &want);
    }
}

/// Docker's own archives.
pub fn docker() {
    let out = scratch();
    let [_, upper] = &ids();
    let docker = Docker::shared();
    fs::write(out.path().join("host"), docker.host()).unwrap();
    // What Podman saved, loaded by Docker and saved again; and one of the classic builder's, with equal layers.
    let merged = run(
        r#"podman save -q --format docker-archive -o in.tar localhost/upper:2
        export DOCKER_HOST=$(cat host) DOCKER_BUILDKIT=0
        docker load -q -i in.tar >/dev/null; docker tag localhost/upper:2 second:1
        docker save -o classic.tar localhost/upper:2 second:1
        mkdir ctx; echo a > ctx/a; printf 'FROM scratch\nCOPY a /a\nCOPY a /a\nENV X=y\n' > ctx/Dockerfile
        docker build -q -t built:1 ctx >/dev/null; docker save -o built.tar built:1
        docker save -o both.tar built:1 localhost/upper:2
        docker create --name cc localhost/upper:2 >/dev/null
        docker inspect -f '{{.GraphDriver.Data.LowerDir}}' cc"#,
        out.path(),
    );
    let at = |name: &str| out.path().join(name);
    let archive = open(&at("classic.tar")).unwrap();
    let found = archive.images(&never).unwrap();
    assert_eq!(found[0].id.hex(), upper);
    assert_eq!(tags(&found[0]), ["localhost/upper:2", "second:1"]);
    let into = scratch();
    let overlay = overlay_of(&unpack_image(&archive, &found[0], into.path()));
    // Without the container's own `-init` layer.
    let mut theirs: Vec<PathBuf> = merged
        .split(':')
        .filter(|d| !d.contains("-init"))
        .map(PathBuf::from)
        .collect();
    theirs.reverse();
    let want = overlay_of(&theirs);
    assert_same("docker", &tree(&overlay.path()), &tree(&want.path()));
    let ids = |name: &str| images(&at(name)).unwrap().len();
    assert_eq!((ids("built.tar"), ids("both.tar")), (1, 2));
    let archive = open(&at("built.tar")).unwrap();
    let found = archive.images(&never).unwrap();
    let dirs = unpack_image(&archive, &found[0], &into.path().join("built"));
    assert_eq!(dirs.len(), 2);
    assert_eq!(fs::read(dirs[0].join("a")).unwrap(), b"a\n");
}
