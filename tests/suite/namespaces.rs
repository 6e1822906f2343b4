//! Servers and commands in different mount and PID namespaces: a view's server is known by what it
//! holds, not by the process ID on record.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::store::is_mounted;
use crate::harness::{Run, Store, number, wait_until};
use crate::samples::{app, check_app};

/// Runs a shell in namespaces of its own; what it mounts is not seen outside. `"$@"` of the script
/// is the program with these arguments.
fn unshare(store: &Store, namespaces: &[&str], script: &str, args: &[&str]) -> Command {
    let program = store.command(args);
    let mut unshare = Command::new("unshare");
    unshare
        .arg("--mount")
        .args(namespaces)
        .args(["sh", "-c", script, "sh"])
        .arg(program.get_program())
        .args(program.get_args())
        .env_remove("LAYERCTL_ROOT");
    unshare
}

/// A view that is mounted in namespaces of its own, as long as those live.
struct Inside(Child);

impl Inside {
    fn mount(store: &Store, container: &str, namespaces: &[&str]) -> Inside {
        // The shell becomes what keeps the namespaces.
        let script = "\"$@\" && exec sleep 1000";
        let mut unshare = unshare(store, namespaces, script, &["mount", container]);
        let child = unshare.stdin(Stdio::null()).stdout(Stdio::null());
        let inside = Inside(child.spawn().unwrap());
        wait_until("the view is mounted inside", || {
            store.container_state(container) == "mounted" && store.servers().len() == 1
        });
        inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The server's process ID on record.
fn pid_on_record(store: &Store, container: &str) -> u64 {
    let shown: serde_json::Value =
        serde_json::from_str(&store.ok(&["inspect", container])).unwrap();
    number(&shown[0]["State"], "Pid")
}

/// Not mounted here, but its server is to be seen: it can be asked to detach the view there.
pub fn a_server_in_another_mount_namespace() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let inside = Inside::mount(&store, &container, &[]);
    assert!(!is_mounted(
        &store.root().join(format!("containers/{container}/merged"))
    ));
    let refused = store.run(&["umount", &container]);
    refused.refused_saying(&["another mount namespace", "--lazy"]);
    store.ok(&["umount", "--lazy", &container]);
    store.wait_for_servers_to_end();
    assert_eq!(store.container_state(&container), "exited");
    drop(inside);
    store.check_at_rest();
}

/// The ID on record is one of the server's PID namespace; in the caller's it is somebody else's, who
/// must not be killed. What cannot be detached is not called detached, nor removed.
pub fn a_server_in_another_pid_namespace() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let container = store.create("app:1");
    let inside = Inside::mount(&store, &container, &["--pid", "--fork", "--kill-child"]);
    let server = store.server();
    let pid = pid_on_record(&store, &container);
    assert!((2..30).contains(&pid), "{pid} is one of a new namespace");
    // Processes that have this ID among theirs, in another new namespace.
    let script = "count() { set -- /proc/[0-9]*; echo $#; }
        for i in $(seq 2 40); do sleep 1000 & done
        count; \"$@\"; code=$?; count; exit $code";
    let pid_namespace = ["--pid", "--fork", "--mount-proc"];
    for args in [
        &["umount", "--lazy", &container][..],
        &["umount", &container],
        &["rm", "-f", &container],
    ] {
        let run = Run::of(&mut unshare(&store, &pid_namespace, script, args));
        assert_eq!(run.code, Some(1), "{run:#?}");
        assert!(run.stderr.contains("in another PID namespace"), "{run:#?}");
        let counts: Vec<&str> = run.stdout.split_whitespace().collect();
        assert_eq!(counts[0], counts[1], "nobody was killed: {run:#?}");
        let status = store.container(&container)["Status"].to_string();
        assert!(status.contains("Mounted"), "{status}");
        assert_eq!(store.server(), server);
    }
    drop(inside);
    // Nobody here can see that its server is dying, only that it has let go of the container.
    wait_until("the view is found dead", || {
        store.container_state(&container) == "exited"
    });
    check_app(&store.mount(&container));
    store.ok(&["umount", &container]);
    store.check_at_rest();
}

/// Servers of an outer PID namespace cannot be seen at all: no command waits for them to die.
pub fn commands_in_an_inner_pid_namespace() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let containers = [(); 2].map(|()| store.create_mounted("app:1").0);
    let begin = Instant::now();
    let namespaces = ["--pid", "--fork", "--mount-proc"];
    let listed = Run::of(&mut unshare(&store, &namespaces, "\"$@\"", &["ps", "-q"])).ok();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    for container in &containers {
        store.ok(&["umount", container]);
    }
    store.check_at_rest();
}
