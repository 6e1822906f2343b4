//! Where stores and views may lie: at relative paths, behind links, under names with spaces and new
//! lines, with other file systems mounted inside.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::archives_support::xattr;
use crate::harness::process::kill_hard;
use crate::harness::store::{LAYERCTL, is_mounted};
use crate::harness::{Archive, Run, Store, text};
use crate::samples::{all_deleted, app, check_app};

/// The program in a working directory, with the store's root as the user wrote it.
fn command(dir: &Path, root: &str, args: &[&str]) -> Run {
    let mut command = Command::new(LAYERCTL);
    command.current_dir(dir).env_remove("LAYERCTL_ROOT");
    Run::of(command.arg("--root").arg(root).args(args))
}

/// One store under its many names; a view at a path relative to the caller.
pub fn relative_and_linked_roots() {
    let store = Store::new();
    let dir = store.root().parent().unwrap();
    let (archive, image) = Archive::of(&app(&["app:1"]));
    archive.write(&dir.join("app.tar"));
    std::os::unix::fs::symlink("root", dir.join("link")).unwrap();
    fs::create_dir(dir.join("a view")).unwrap();
    command(dir, "root", &["load", "-i", "app.tar"]).ok();
    let container = command(dir, "link/", &["create", "app:1"]).ok();
    let container = container.trim_end();
    let said = command(dir, "./root", &["mount", container, "a view"]).ok();
    assert_eq!(said, format!("{}\n", dir.join("a view").display()));
    check_app(&dir.join("a view"));
    // The server does not depend on where it was started from.
    let row = store.container(container);
    assert_eq!(
        text(&row, "Mountpoint"),
        dir.join("a view").to_str().unwrap()
    );
    command(dir, "link", &["umount", container]).ok();
    command(dir, "root", &["rm", container]).ok();
    command(dir, "link", &["rmi", "app:1"]).expect(0, &all_deleted(&image), "");
    store.check_no_layers();
    store.check_at_rest();
}

/// The environment names the store when the command line does not.
pub fn root_from_the_environment() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let mut images = Command::new(LAYERCTL);
    images
        .args(["images", "-q"])
        .env("LAYERCTL_ROOT", store.root());
    assert_eq!(Run::of(&mut images).ok(), store.ok(&["images", "-q"]));
}

/// The kernel's table escapes these names; a dead view is found under them all the same.
pub fn views_at_odd_places() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    for name in [
        "a b",
        "new\nline",
        "tab\there",
        "back\\slash",
        "\u{e4}\u{1f4a9}",
        "-x",
        "#",
    ] {
        let point = store.new_dir(name);
        let path = point.to_str().unwrap();
        store.ok(&["mount", &container, path]);
        check_app(&point);
        assert_eq!(text(&store.container(&container), "Mountpoint"), path);
        store.ok(&["umount", &container]);
        assert!(
            fs::read_dir(&point).unwrap().next().is_none(),
            "{name:?} is unmounted"
        );

        store.ok(&["mount", &container, path]);
        kill_hard(store.server());
        store.ok(&["images"]);
        assert!(
            fs::read_dir(&point).unwrap().next().is_none(),
            "{name:?} is detached"
        );
        assert_eq!(store.container_state(&container), "exited");
    }
    store.check_at_rest();
}

/// A mount point that is a link: the view is at its target.
pub fn a_view_behind_a_link() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let target = store.new_dir("target");
    let link = store.beside("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let said = store.ok(&["mount", &container, link.to_str().unwrap()]);
    check_app(said.trim_end().as_ref());
    assert!(is_mounted(&target));
    store.ok(&["umount", &container]);
    assert!(!is_mounted(&target));
    store.check_at_rest();
}

/// Another file system inside a view keeps it busy; `--lazy` takes both away.
pub fn a_mount_inside_a_view() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    for lazy in [false, true] {
        let (container, view) = store.create_mounted("app:1");
        let inside = view.join("srv");
        let none = None::<&std::ffi::CStr>;
        mount("none", &inside, "tmpfs", MountFlags::empty(), none).unwrap();
        fs::write(inside.join("other"), "not the view's").unwrap();
        store.run(&["umount", &container]).refused_saying(&["busy"]);
        assert!(is_mounted(&view));
        if lazy {
            store.ok(&["umount", "--lazy", &container]);
        } else {
            unmount(&inside, UnmountFlags::empty()).unwrap();
            store.ok(&["umount", &container]);
        }
        assert!(!is_mounted(&view) && !is_mounted(&inside));
        store.wait_for_servers_to_end();
    }
    store.check_at_rest();
}

/// A view seen at a second place by a bind mount: one `umount` cannot mean both, so it is refused;
/// `--lazy` detaches it everywhere.
pub fn a_view_bound_to_a_second_place() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let second: PathBuf = store.new_dir("second");
    rustix::mount::mount_bind(&view, &second).unwrap();
    store.ok(&["rmi", "-f", "app:1"]);
    let refused = store.run(&["umount", &container]);
    refused.refused_saying(&[&format!("mounted at {} as well", second.display())]);
    for place in [&view, &second] {
        assert!(is_mounted(place));
        check_app(place);
    }
    store.ok(&["umount", "--lazy", &container]);
    assert!(!is_mounted(&view) && !is_mounted(&second));
    store.wait_for_servers_to_end();
    store.check_no_layers();
    store.check_at_rest();
}

/// A directory whose access lists are inherited gives them to nothing in a store: files of layers have those of
/// their tars, and what a container makes has its own.
pub fn below_inherited_access_lists() {
    let plain = Store::new();
    let image = plain.load(&app(&["app:1"]));
    for is_there in [false, true] {
        let store = Store::new();
        let dir = store.root().parent().unwrap().to_owned();
        let mut setfacl = Command::new("setfacl");
        setfacl
            .args(["-d", "-m", "u:1234:rwx,g::rwx,o::rwx"])
            .arg(&dir);
        Run::of(&mut setfacl).ok();
        if is_there {
            fs::create_dir(store.root()).unwrap();
        }
        store.load(&app(&["app:1"]));
        assert_eq!(store.stored(&image), plain.stored(&image));
        let (container, view) = store.create_mounted("app:1");
        fs::write(view.join("new"), "new").unwrap();
        let upper = store
            .root()
            .join("containers")
            .join(&container)
            .join("upper");
        for path in [view.join("new"), upper.join("new"), upper] {
            assert_eq!(xattr(&path, "system.posix_acl_access"), None);
            assert_eq!(xattr(&path, "system.posix_acl_default"), None);
        }
        let mode = |room: &str| fs::metadata(store.root().join(room)).unwrap().mode() & 0o7777;
        assert_eq!((mode("layers"), mode("containers")), (0o700, 0o711));
        store.ok(&["umount", &container]);
    }
}
