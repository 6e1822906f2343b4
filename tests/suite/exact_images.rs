//! Real images: a system's own files with changes on top, and as many layers as other tools make.

use std::path::Path;
use std::process::Command;

use crate::archives_support::{scratch, shell};
use crate::exact_support::{Docker, Podman, arg, assert_same_but, view_of};
use crate::harness::{Run, Store, tree};

/// Fills `$R` with a part of this machine's own system, or with the one in `LAYERCTL_TEST_ROOT`.
const SYSTEM: &str = r#"
    if [ -n "${LAYERCTL_TEST_ROOT:-}" ]; then
        cp -a "$LAYERCTL_TEST_ROOT/." "$R"
        exit
    fi
    mkdir -p "$R/bin" "$R/usr/share"
    cp -a "$(command -v busybox || echo /bin/true)" "$R/bin/busybox"
    cp -a /etc "$R/etc"
    for name in doc zoneinfo; do
        [ ! -d /usr/share/$name ] || (cd /usr/share; find $name -size -64k | sort | head -500 |
            tar -c --no-recursion -T - | tar -xp -C "$R/usr/share")
    done
"#;

/// Changes it as an upgrade does.
const UPGRADE: &str = r#"
    cd "$R"
    find etc -type f | sort | awk 'NR % 5 == 0' | head -40 | tr '\n' '\0' | xargs -0 rm --
    find etc -type f | sort | awk 'NR % 7 == 0' | head -40 | while read -r f; do
        cp "$f" "$f.new"; echo upgraded >> "$f.new"; mv "$f.new" "$f"
    done
    rm -rf "usr/share/$(ls usr/share | head -1)"; mkdir -p usr/share/doc/new
    mv etc/default etc/moved 2>/dev/null || mkdir etc/moved; rm -f etc/mtab; mkdir etc/mtab; touch etc/hostname
    chown 7:8 etc/hostname; for program in bin/*; do [ -f $program ] && [ ! -L $program ] && break; done
    ln $program bin/linked; chmod 4755 bin/linked
    # As a package manager does it, where there is one.
    [ ! -x usr/bin/dpkg ] || chroot . dpkg --purge --force-all tzdata mount e2fsprogs passwd >/dev/null 2>&1
"#;

/// Made by Buildah; shown by Podman and Docker.
pub fn of_this_machine() {
    let podman = Podman::new();
    let store = Store::new();
    let from = |base: &str, change: &str, name: &str| {
        let made = podman.program("buildah", &["from", base]).ok();
        let container = made.trim();
        let root = podman.program("buildah", &["mount", container]).ok();
        shell(change, &[("R", root.trim().as_ref())]);
        podman
            .program("buildah", &["commit", "-q", container, name])
            .ok();
        podman.program("buildah", &["rm", container]).ok();
    };
    from("scratch", SYSTEM, "localhost/system:1");
    from("localhost/system:1", UPGRADE, "localhost/system:2");
    let archive = store.beside("system.tar");
    podman
        .run(&["save", "-q", "-o", arg(&archive), "localhost/system:2"])
        .ok();
    store.ok(&["load", "-i", arg(&archive)]);
    let ours = view_of(&store, "localhost/system:2");
    assert!(ours.len() > 200, "{} entries", ours.len());
    assert_same_but("podman", &podman.tree("localhost/system:2"), &ours, &[]);
    let docker = Docker::shared();
    docker.run(&["load", "-q", "-i", arg(&archive)]).ok();
    assert_same_but("docker", &docker.tree("localhost/system:2"), &ours, &[]);
}

/// 128 layers with whiteouts and opaque directories among them, put together by umoci and copied by skopeo; Docker takes
/// 125.
pub fn of_128_layers() {
    let dir = scratch();
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("exact/layers.py"), "--layers"]);
    Run::of(python.arg(dir.path()).arg("many_layers")).ok();
    let script = r#"cd "$D"; umoci init --layout l; umoci new --image l:many
        for n in $(seq 0 127); do umoci raw add-layer --image l:many many_layers.$n.tar; done
        umoci unpack --image l:many unpacked
        skopeo copy -q --insecure-policy oci:l:many docker-archive:docker.tar:many:1"#;
    shell(script, &[("D", dir.path().as_os_str())]);
    let mut theirs = tree::read(&dir.path().join("unpacked/rootfs"));
    let store = Store::new();
    store.ok(&["load", "-i", arg(&dir.path().join("docker.tar"))]);
    assert_eq!(store.json(&["layers"]).len(), 128);
    let ours = view_of(&store, "many:1");
    for (path, their) in &mut theirs {
        // What umoci has of the layer below, as in `exact::layers_that_docker_refuses`.
        if path == Path::new("") || path == Path::new("of") {
            their.clone_from(&ours[path]);
        }
    }
    assert_same_but("128 layers", &theirs, &ours, &[]);
    store.check_at_rest();
}
