//! What the tests of running containers share: an image with a shell, terminals, and what must be
//! gone when a container has ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

use crate::harness::store::{mounts_below, names_in};
use crate::harness::{
    Image, Layer, Run, Store, cgroups, number, process, strings, text, wait_until,
};

/// A name that no other image of the tests has; the one of `shell`.
pub const SHELL: &str = "shell:1";

/// Two layers: a static busybox under the names of its programs, with users and groups; and a file.
pub fn shell(tags: &[&str]) -> Image {
    static BUSYBOX: OnceLock<Vec<u8>> = OnceLock::new();
    let busybox = BUSYBOX.get_or_init(|| {
        let program = process::on_path("busybox").expect("busybox on PATH");
        std::fs::read(program).expect("read busybox")
    });
    let programs = "sh cat echo env id pwd sleep true false ls mount touch head tail seq stty tty \
        hostname ps kill grep mkdir rm stat sha256sum test mknod wc dd tr sync yes readlink chown";
    let mut base = Layer::new().dir("bin").file("bin/busybox", busybox.clone());
    base = base.mode(0o755);
    for program in programs.split_whitespace() {
        base = base.symlink(&format!("bin/{program}"), "busybox");
    }
    let base = base
        .dir("etc")
        .file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .file("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        .dir("root")
        .mode(0o700)
        .dir("home")
        .dir("home/app")
        .owner(1000, 1000)
        .dir("tmp")
        .mode(0o1777)
        .dir("bin/sub")
        .file("bin/badscript", "#!/no/such/shell\necho hi\n")
        .mode(0o755);
    let top = Layer::new().dir("data").file("data/one", "one\n");
    Image::new(tags, vec![base, top])
}

/// A store with that image.
#[track_caller]
pub fn store() -> Store {
    let store = Store::new();
    store.load(&shell(&[SHELL]));
    store
}

/// `run` with these options, of a shell that runs the script.
#[track_caller]
pub fn run(store: &Store, options: &[&str], script: &str) -> Run {
    store.run(&[&["run"], options, &[SHELL, "sh", "-c", script]].concat())
}

/// Starts a container that runs a script by itself; gives its ID.
#[track_caller]
pub fn detached(store: &Store, options: &[&str], script: &str) -> String {
    let id = store.ok(&[&["run", "-d"], options, &[SHELL, "sh", "-c", script]].concat());
    let id = id.strip_suffix('\n').unwrap_or(&id).to_owned();
    assert!(
        id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "a container ID: {id:?}"
    );
    id
}

/// Starts one that does nothing until it is told to end, which it does at once.
/// (A signal that comes before it runs its own program is the runtime's.)
#[track_caller]
pub fn idle(store: &Store, options: &[&str]) -> String {
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = detached(store, options, script);
    wait_for_log(store, &id, "up");
    id
}

/// Waits till a container's log has this line.
#[track_caller]
pub fn wait_for_log(store: &Store, container: &str, line: &str) {
    wait_until(&format!("{line:?} is in the log"), || {
        store.ok(&["logs", container]).lines().any(|l| l == line)
    });
}

/// What `inspect` says of a container or image.
#[track_caller]
pub fn inspect(store: &Store, name: &str) -> Value {
    let all: Value = serde_json::from_str(&store.ok(&["inspect", name])).expect("JSON");
    all[0].clone()
}

/// The exit code that is kept of a container.
#[track_caller]
pub fn exit_code(store: &Store, container: &str) -> u64 {
    number(&inspect(store, container)["State"], "ExitCode")
}

/// The process that serves a container's view and holds its first process.
#[track_caller]
pub fn monitor(store: &Store, container: &str) -> i32 {
    let pid = number(&inspect(store, container)["State"], "ServerPid");
    assert!(pid > 0, "{container} has a server");
    i32::try_from(pid).expect("a PID")
}

/// Waits till nothing of the containers is left but their files: no process, mount, cgroup, pin, nor
/// what was there for their run alone.
#[track_caller]
pub fn check_ended(store: &Store, containers: &[&str]) {
    store.wait_for_servers_to_end();
    assert_eq!(mounts_below(store.root()), Vec::<std::path::PathBuf>::new());
    for container in containers {
        let members = cgroups::members(container);
        assert!(members.is_empty(), "processes of {container}: {members:?}");
        let left = cgroups::directories(container);
        assert!(left.is_empty(), "cgroups of {container}: {left:?}");
        let run = store.root().join("containers").join(container).join("run");
        assert!(
            !run.exists(),
            "left: {}: {:?}",
            run.display(),
            names_in(&run)
        );
    }
    for layer in store.json(&["layers"]) {
        assert_eq!(
            strings(&layer["pinned_by"]),
            Vec::<String>::new(),
            "{layer}"
        );
    }
}

/// The state and the status of a container in `ps -a`, without the times.
#[track_caller]
pub fn status(store: &Store, container: &str) -> (String, String) {
    let row = store.container(container);
    (text(&row, "State"), text(&row, "Status"))
}

/// A program in the background, whose lines can be waited for.
pub struct Background {
    child: Child,
    name: String,
    /// What it has written to its standard output so far.
    pub out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Starts it; standard input as it is set in the command.
    #[track_caller]
    pub fn start(command: &mut Command) -> Background {
        let name = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (out, reads_out) = collect(child.stdout.take().expect("piped"));
        let (err, reads_err) = collect(child.stderr.take().expect("piped"));
        Background {
            child,
            name,
            out,
            err,
            readers: vec![reads_out, reads_err],
        }
    }

    /// Waits till it has written this to its standard output.
    #[track_caller]
    pub fn wait_for(&self, part: &str) {
        let heard =
            || String::from_utf8_lossy(&self.err.lock().expect("not poisoned")).into_owned();
        wait_for(&self.out, part, heard);
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its standard input, if that is a pipe.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a PID");
        kill_process(pid, signal).expect("send a signal");
    }

    /// Waits for its end, and that of its output.
    #[track_caller]
    pub fn finish(mut self) -> Run {
        let mut status = None;
        wait_until(&format!("{} ends", self.name), || {
            status = self.child.try_wait().expect("wait");
            status.is_some() && self.readers.iter().all(|reader| reader.is_finished())
        });
        let status = status.expect("has ended");
        let lossy = |bytes: &Mutex<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.lock().expect("not poisoned")).into_owned()
        };
        Run {
            command: self.name.clone(),
            code: status.code(),
            signal: std::os::unix::process::ExitStatusExt::signal(&status),
            stdout: lossy(&self.out),
            stderr: lossy(&self.err),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect<R: Read + Send + 'static>(
    from: R,
) -> (Arc<Mutex<Vec<u8>>>, std::thread::JoinHandle<()>) {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let collected = bytes.clone();
    let reader = std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            // EIO of a terminal that nobody has any more is an end, too.
            let length = match from.fill_buf() {
                Ok([]) | Err(_) => return,
                Ok(more) => {
                    collected.lock().expect("not poisoned").extend(more);
                    more.len()
                }
            };
            from.consume(length);
        }
    });
    (bytes, reader)
}

#[track_caller]
fn wait_for(bytes: &Mutex<Vec<u8>>, part: &str, more: impl Fn() -> String) {
    let mut seen = String::new();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        seen.clear();
        seen += &String::from_utf8_lossy(&bytes.lock().expect("not poisoned"));
        if seen.contains(part) {
            return;
        }
        let more = more();
        let waits = std::time::Instant::now() < end;
        assert!(waits, "no {part:?} in {seen:?} {more}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A program with a terminal of its own, which is its controlling one.
pub struct Terminal {
    ours: File,
    theirs: OwnedFd,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs `layerctl` with these arguments, in a window of so many rows and columns.
    #[track_caller]
    pub fn run(store: &Store, args: &[&str], size: (u16, u16)) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("open a terminal");
        grantpt(&ours).expect("grantpt");
        unlockpt(&ours).expect("unlockpt");
        let name = ptsname(&ours, Vec::new()).expect("ptsname");
        let theirs: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("ASCII"))
            .expect("open the terminal's other side")
            .into();
        resize(&ours, size);
        let program = store.command(args);
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(program.get_program())
            .args(program.get_args())
            .env_remove("LAYERCTL_ROOT");
        let end = || Stdio::from(theirs.try_clone().expect("dup"));
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("run setsid");
        let ours = File::from(ours);
        let (output, _) = collect(ours.try_clone().expect("dup"));
        Terminal {
            ours,
            theirs,
            child,
            output,
        }
    }

    /// Types.
    #[track_caller]
    pub fn keys(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("type");
    }

    /// Changes the size of the window.
    #[track_caller]
    pub fn resize(&self, size: (u16, u16)) {
        resize(&self.ours, size);
    }

    /// Waits till this is to be seen.
    #[track_caller]
    pub fn wait_for(&self, part: &str) {
        wait_for(&self.output, part, String::new);
    }

    /// Whether keys are edited and echoed, and Ctrl-C is a signal, as in a shell.
    pub fn is_cooked(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = rustix::termios::tcgetattr(&self.theirs).expect("tcgetattr");
        modes
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The process ID of the program.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits for the end; gives the exit code.
    #[track_caller]
    pub fn finish(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the program on the terminal ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("has ended").code()
    }

    /// All that was to be seen so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("not poisoned")).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn resize(terminal: impl std::os::fd::AsFd, (rows, columns): (u16, u16)) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("set the size of the terminal");
}
