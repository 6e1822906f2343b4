//! Layers that mean harm to each other, to the host, or to whoever looks into a container of them: what is loaded is
//! inside, in the store as in a view. Needs: root, and FUSE for the views.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::{fs, io};

use layerctl::archive::write::{LayerBuilder, Meta};

use crate::archives_support::f;
use crate::hostile_support::{Target, archive, layer, names_below, only_layer};

type Tar = LayerBuilder<Vec<u8>>;

fn d() -> Meta {
    Meta::mode(0o755)
}

/// Where the links of a layer lead: the directory outside, absolute and by `..` from the layer's tree.
fn ways_out(target: &Target) -> [String; 3] {
    let outside = target.outside().to_str().unwrap().to_owned();
    let root = format!("{}{outside}", "../".repeat(60));
    let beside = "../../../../outside".to_owned();
    [outside, root, beside]
}

/// A link planted by one layer, and used as a directory by the next one: that has a directory of its own, which
/// takes the link's place in the view.
pub fn a_link_of_the_layer_below_as_a_directory() {
    let target = Target::new();
    for (n, to) in ways_out(&target).iter().enumerate() {
        let tag = format!("across:{n}");
        let lower = layer(|t| {
            t.dir("d", &d()).unwrap();
            t.symlink("out", to).unwrap();
            t.symlink("d/out", to).unwrap();
        });
        let upper = layer(|t| {
            t.file("out/new", &f(), b"inside").unwrap();
            t.file("out/deep/file", &f(), b"inside").unwrap();
            t.whiteout("d/out/again").unwrap();
            t.opaque("d/out/deep").unwrap();
        });
        target.takes(to, &archive(&tag, &[lower, upper]));
        let (container, view) = target.store.create_mounted(&tag);
        assert!(fs::symlink_metadata(view.join("out")).unwrap().is_dir());
        assert_eq!(fs::read(view.join("out/deep/file")).unwrap(), b"inside");
        assert_eq!(names_below(&view.join("d/out")), ["deep"]);
        // What is written in the view stays in the view.
        fs::write(view.join("out/deep/file"), "changed").unwrap();
        fs::write(view.join("out/again"), "changed").unwrap();
        target.store.ok(&["umount", &container]);
        let to_container = format!("{container}:/out/deep/");
        let source = target.outside().join("link");
        target
            .store
            .ok(&["cp", "-L", source.to_str().unwrap(), &to_container]);
        target
            .store
            .ok(&["commit", &container, &format!("{tag}-changed")]);
        target.check_outside();
        target.store.ok(&["rm", &container]);
        target.store.check_at_rest();
    }
    target.check_outside();
}

/// A link in the layer itself that leads out is followed inside, to nothing, or replaced.
pub fn a_link_of_the_same_layer_as_a_directory() {
    type Build = for<'t> fn(&'t mut Tar) -> io::Result<&'t mut Tar>;
    let builds: [(&str, Build); 8] = [
        ("a file through it", |t| t.file("out/new", &f(), b"x")),
        ("a file in what it leads to", |t| {
            t.file("out/deep/file", &f(), b"x")
        }),
        ("a directory through it", |t| {
            t.dir("out/deep", &Meta::mode(0o777))
        }),
        ("a link through it", |t| {
            t.hardlink("out/hard", "out/deep/file")
        }),
        ("a hard link from outside", |t| {
            t.hardlink("in", "out/deep/file")
        }),
        ("a device through it", |t| {
            t.char_device("out/null", &f(), (1, 3))
        }),
        ("a whiteout through it", |t| t.whiteout("out/again")),
        ("an opaque marker through it", |t| t.opaque("out")),
    ];
    for (what, build) in builds {
        let target = Target::new();
        for to in ways_out(&target) {
            let tar = layer(|t| {
                t.symlink("out", &to).unwrap();
                build(t).unwrap();
            });
            target.refuses(what, &archive("a:1", &[tar]), &["out"]);
        }
    }
    // Chains and circles, and a link that is changed between two uses.
    let target = Target::new();
    let tar = layer(|t| {
        t.dir("real", &d()).unwrap();
        t.symlink("one", "real").unwrap();
        t.file("one/first", &f(), b"").unwrap();
        t.symlink("one", &ways_out(&target)[0]).unwrap();
        t.file("one/second", &f(), b"").unwrap();
    });
    target.refuses(
        "a link that is changed",
        &archive("a:1", &[tar]),
        &["one/second"],
    );
    let tar = layer(|t| {
        t.symlink("a", "b").unwrap();
        t.symlink("b", "a").unwrap();
        t.file("a/x", &f(), b"").unwrap();
    });
    target.refuses("a circle", &archive("a:1", &[tar]), &["a/x"]);
}

/// The image that a layer is on has no say in where the next one's entries go: a hard link to a file of the layer
/// below is refused, for there is none in the layer.
pub fn hard_links_across_layers() {
    let target = Target::new();
    let lower = layer(|t| {
        t.file("file", &f(), b"lower").unwrap();
        t.symlink("link", "../../../../outside/deep/file").unwrap();
    });
    for to in ["file", "link", "/file", "./file", "d/../file"] {
        let upper = layer(|t| {
            t.hardlink("again", to).unwrap();
        });
        let bytes = archive("a:1", &[lower.clone(), upper]);
        target.refuses(
            to,
            &bytes,
            &["again: a hard link to", "not in the layer before it"],
        );
    }
    // One to a link is another name of the link, never of what that leads to.
    let tar = layer(|t| {
        for (n, to) in ways_out(&target).iter().enumerate() {
            t.symlink(format!("s{n}"), format!("{to}/deep/file"))
                .unwrap();
            t.hardlink(format!("h{n}"), format!("s{n}")).unwrap();
            // It is replaced, not written through.
            t.file(format!("h{n}"), &f(), b"x").unwrap();
        }
    });
    target.takes("links to links", &archive("a:1", &[tar]));
}

const KINDS: [&str; 8] = [
    "file", "dir", "link", "out", "hard", "fifo", "device", "whiteout",
];

/// An entry `x` of this kind in a directory, which has a file `other` already.
fn put(t: &mut Tar, dir: &str, kind: &str) {
    let x = format!("{dir}/x");
    match kind {
        "file" => t.file(x, &f(), b"file").unwrap(),
        "dir" => {
            t.dir(&x, &d()).unwrap();
            t.file(format!("{x}/in"), &f(), b"in").unwrap()
        }
        "link" => t.symlink(x, "other").unwrap(),
        "out" => t.symlink(x, "../../../../../outside").unwrap(),
        "hard" => t.hardlink(x, format!("{dir}/other")).unwrap(),
        "fifo" => t.fifo(x, &f()).unwrap(),
        "device" => t.block_device(x, &f(), (7, 200)).unwrap(),
        _ => t.whiteout(x).unwrap(),
    };
}

/// Whether there is nothing but that.
fn is(path: &Path, kind: &str) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return kind == "whiteout";
    };
    match kind {
        "file" => meta.is_file() && fs::read(path).unwrap() == b"file",
        "dir" => meta.is_dir() && names_below(path) == ["in"],
        "link" => meta.is_symlink() && fs::read_link(path).unwrap() == Path::new("other"),
        "out" => meta.is_symlink() && fs::read_link(path).unwrap().ends_with("outside"),
        "hard" => meta.is_file() && fs::read(path).unwrap() == b"other" && meta.nlink() == 2,
        "fifo" => meta.file_type().is_fifo(),
        "device" => meta.file_type().is_block_device(),
        _ => false,
    }
}

/// A layer in which each pair of kinds has a directory; `put` says what goes there.
fn pairs(put: impl Fn(&mut Tar, &str, &str, &str)) -> Vec<u8> {
    layer(|t| {
        for first in KINDS {
            for second in KINDS {
                let dir = format!("{first}-{second}");
                t.file(format!("{dir}/other"), &f(), b"other").unwrap();
                put(t, &dir, first, second);
            }
        }
    })
}

/// Every type in the place of every other, in one layer and across two: the last is there, and nothing of the first.
pub fn types_that_change() {
    let target = Target::new();
    let one = pairs(|t, dir, first, second| {
        put(t, dir, first);
        put(t, dir, second);
    });
    target.takes("in one layer", &archive("one:1", &[one]));
    let lower = pairs(|t, dir, first, _| put(t, dir, first));
    let upper = pairs(|t, dir, _, second| put(t, dir, second));
    target.takes("in two layers", &archive("two:1", &[lower, upper]));
    for image in ["one:1", "two:1"] {
        let (container, view) = target.store.create_mounted(image);
        for first in KINDS {
            for second in KINDS {
                // A whiteout hides nothing of its own layer, whichever comes first.
                let last = match second {
                    "whiteout" if image == "one:1" => first,
                    second => second,
                };
                let x = view.join(format!("{first}-{second}/x"));
                assert!(is(&x, last), "{first} and then {second} in {image}");
            }
        }
        target.store.ok(&["umount", &container]);
        target.store.ok(&["rm", &container]);
    }
    target.check_outside();
}

/// Whiteouts that no tool writes: refused by name, or without any effect but on the view.
pub fn whiteouts_with_odd_names() {
    let target = Target::new();
    for (name, part) in [
        (".wh.", "whiteout of nothing"),
        (".wh..", "whiteout of nothing"),
        (".wh...", "whiteout of nothing"),
        ("d/.wh.", "whiteout of nothing"),
        ("d/.wh../x", "cannot be a directory"),
        (".wh.d/x", "cannot be a directory"),
        ("../.wh.outside", "leads out"),
        ("../../.wh..wh..opq", "leads out"),
        ("d/../../.wh.outside", "leads out"),
    ] {
        let tar = layer(|t| {
            t.file(name, &f(), b"").unwrap();
        });
        target.refuses(name, &archive("a:1", &[tar]), &[name, part]);
    }
    let below = layer(|t| {
        for name in ["a", "b", "c", "e/f", "..x", "keep"] {
            t.file(name, &f(), b"below").unwrap();
        }
    });
    let above = layer(|t| {
        // A whiteout's type does not matter, nor its data, mode or owner.
        t.dir(".wh.a", &Meta::mode(0o7777)).unwrap();
        t.symlink(".wh.b", "keep").unwrap();
        t.file(".wh.c", &Meta::mode(0o4777).owner(5, 5), &[1; 5000])
            .unwrap();
        t.file(".wh...x", &f(), b"").unwrap();
        t.file(".wh.never-there", &f(), b"").unwrap();
        // AUFS's own names, also in one another.
        t.file(".wh..wh.x", &f(), b"").unwrap();
        t.file(".wh..wh.plnk/.wh.keep", &f(), b"").unwrap();
        t.file(".wh..wh.plnk/keep", &f(), b"").unwrap();
        // The marker as a directory.
        t.dir("e/.wh..wh..opq", &d()).unwrap();
    });
    target.takes("odd whiteouts", &archive("odd:1", &[below, above]));
    let (container, view) = target.store.create_mounted("odd:1");
    assert_eq!(names_below(&view), ["e", "keep"]);
    assert_eq!(fs::read(view.join("keep")).unwrap(), b"below");
    target.store.ok(&["umount", &container]);
    target.store.ok(&["rm", &container]);
    target.check_outside();
}

/// Devices are made with the owner and mode of the tar, where nobody but root can reach them.
pub fn device_nodes() {
    let target = Target::new();
    let tar = layer(|t| {
        t.block_device("disk", &Meta::mode(0o600).owner(1, 2), (254, 0))
            .unwrap();
        t.char_device("mem", &Meta::mode(0o4640), (1, 1)).unwrap();
        t.char_device("large", &f(), (4095, 1_048_575)).unwrap();
        t.char_device("whiteout", &f(), (0, 0)).unwrap();
        t.block_device("zero", &f(), (0, 0)).unwrap();
    });
    target.takes("devices", &archive("a:1", &[tar]));
    let tree = only_layer(&target.store);
    let meta = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap();
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(254, 0));
    assert_eq!(
        (meta("disk").mode() & 0o7777, meta("disk").uid()),
        (0o600, 1)
    );
    assert_eq!(meta("large").rdev(), rustix::fs::makedev(4095, 1_048_575));
    let (container, view) = target.store.create_mounted("a:1");
    assert_eq!(names_below(&view), ["disk", "large", "mem", "zero"]);
    target.store.ok(&["umount", &container]);
    target.store.ok(&["rm", &container]);
    // The store's rooms are root's alone: nobody else reaches a device, or a program with set-user-ID, in a layer.
    let layers = fs::metadata(target.store.root().join("layers")).unwrap();
    assert_eq!(layers.mode() & 0o7777, 0o700);
}
