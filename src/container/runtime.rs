//! The OCI runtime: a program such as runc or crun, called by the command line that both have
//! ([runc(8)](https://github.com/opencontainers/runc/tree/main/man)).
//!
//! It makes the namespaces and the first process of a container and then ends; what it must remember
//! between two calls it keeps in a directory that it is given. It is asked for as little as can be:
//! processes are waited for here, and their cgroups are known by name (`sys::cgroups`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;

use super::bundle::RunDir;
use crate::model::ContainerId;
use crate::sys::children::{dies_with_us, kill_descendants_of, wait};
use crate::sys::processes::Process;
use crate::sys::reason;

/// Those that are looked for where none is named, the first that is there is taken.
const KNOWN: [&str; 2] = ["runc", "crun"];

/// Where Debian puts runc, though it is not on everybody's PATH.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is none.
    #[error(
        "no OCI runtime found on PATH: install runc or crun (Debian, Ubuntu: apt-get install runc)"
    )]
    NoneFound,
    /// The one that was named is not there.
    #[error("unknown or invalid runtime name: {0}: no such program on PATH")]
    NotFound(String),
    /// It cannot be run.
    #[error("cannot run the OCI runtime {}: {}", program.display(), reason(why))]
    Spawn {
        /// Its path.
        program: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It said no.
    #[error("OCI runtime {what} failed: {said}{}", hint(said))]
    Failed {
        /// What it was asked: `create`, `exec`.
        what: &'static str,
        /// In its own words.
        said: String,
    },
}

impl RuntimeError {
    /// What Docker's command line exits with when a program cannot be run for this reason: 127 where
    /// there is no such program, 126 where it is none, else 125.
    pub fn exit_code(&self) -> u8 {
        let RuntimeError::Failed { said, .. } = self else {
            return 125;
        };
        // The runtimes have no other way to tell; Docker's daemon goes by the same words.
        let has = |words: &[&str]| words.iter().any(|w| said.contains(w));
        if has(&["executable file not found", "executable file `"]) {
            return 127;
        }
        let about_the_program = has(&[
            "exec: \"",
            "exec failed",
            "open executable",
            "execve",
            "exec /",
        ]);
        match about_the_program {
            true if has(&["no such file or directory", "No such file or directory"]) => 127,
            true if has(&[
                "permission denied",
                "Operation not permitted",
                "Permission denied",
                "is a directory",
                "not a directory",
                "Is a directory",
                "exec format error",
                "Exec format error",
            ]) =>
            {
                126
            }
            _ => 125,
        }
    }
}

/// What a user can do about what the machine does not let the runtime do.
fn hint(said: &str) -> &'static str {
    let has = |word: &str| said.contains(word);
    if has("hybrid mode not supported") {
        " (crun cannot use cgroups of versions 1 and 2 together: install runc, or use --runtime runc)"
    } else if has("no cgroup mount found") {
        " (cgroups are not mounted: mount -t cgroup2 none /sys/fs/cgroup)"
    } else if has("cgroup") && has("ead-only file system") {
        " (cgroups cannot be written to; another container around this one must be let: --privileged)"
    } else if has("RLIM_MEMLOCK") {
        " (crun needs CAP_SYS_RESOURCE for cgroups of version 2: install runc, or use --runtime runc)"
    } else if has("rootless container requires user namespaces") {
        " (running containers needs root, or root of a user namespace)"
    } else {
        ""
    }
}

/// An OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    program: PathBuf,
}

/// What the first process of a container, or one more in it, has for its standard streams.
#[derive(Debug)]
pub enum Streams {
    /// These, which the runtime hands on.
    Files(Files),
    /// A new terminal, whose other side comes over the socket that listens at this path.
    Terminal(PathBuf),
}

/// The three standard streams.
#[derive(Debug)]
pub struct Files {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

impl Files {
    fn null() -> Files {
        Files {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
        }
    }
}

/// A command line of the runtime.
struct Call<'a> {
    what: &'static str,
    /// Before the container's ID.
    args: Vec<OsString>,
    files: Option<Files>,
    client: Option<&'a UnixStream>,
}

impl Call<'_> {
    fn new(what: &'static str) -> Self {
        Call {
            what,
            args: Vec::new(),
            files: None,
            client: None,
        }
    }
}

impl Runtime {
    /// The runtime of this name or path or, where it is empty, the first that is found.
    pub fn find(wanted: &str) -> Result<Runtime, RuntimeError> {
        let program = match wanted {
            "" => KNOWN.iter().find_map(|name| on_path(name)),
            path if path.contains('/') => is_program(Path::new(path)).then(|| path.into()),
            name => on_path(name),
        };
        match (program, wanted) {
            (Some(program), _) => Ok(Runtime { program }),
            (None, "") => Err(RuntimeError::NoneFound),
            (None, name) => Err(RuntimeError::NotFound(name.to_owned())),
        }
    }

    /// The one that a container was started with.
    pub fn at(program: &Path) -> Runtime {
        Runtime {
            program: program.to_owned(),
        }
    }

    /// Its path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Make a container of a bundle. Its first process waits for [`Runtime::start`]; gives its ID. It
    /// becomes a child of this process, if this one adopts orphans.
    pub fn create(
        &self,
        run: &RunDir,
        id: &ContainerId,
        streams: Streams,
    ) -> Result<i32, RuntimeError> {
        let mut call = Call::new("create");
        call.args = vec!["--bundle".into(), run.path().into()];
        self.begin(run, id, call, streams, &run.pid_file())
    }

    /// Let the first process run its program.
    pub fn start(&self, run: &RunDir, id: &ContainerId) -> Result<(), RuntimeError> {
        self.call(run, id, Call::new("start"))
    }

    /// Run one more process in a container: what the file `process` describes. Gives its ID, for
    /// which the file `pid_file` is used. It becomes a child of this process, as of `create`. If `client`,
    /// who wants it, goes away meanwhile, the runtime is killed: something in the container may stop it
    /// for good.
    pub fn exec(
        &self,
        run: &RunDir,
        id: &ContainerId,
        process: &Path,
        streams: Streams,
        pid_file: &Path,
        client: &UnixStream,
    ) -> Result<i32, RuntimeError> {
        let mut call = Call::new("exec");
        call.client = Some(client);
        call.args = vec!["--detach".into(), "--process".into(), process.into()];
        self.begin(run, id, call, streams, pid_file)
    }

    /// Freeze all processes.
    pub fn pause(&self, run: &RunDir, id: &ContainerId) -> Result<(), RuntimeError> {
        self.call(run, id, Call::new("pause"))
    }

    /// Let all processes go on.
    pub fn resume(&self, run: &RunDir, id: &ContainerId) -> Result<(), RuntimeError> {
        self.call(run, id, Call::new("resume"))
    }

    /// Forget a container, with what is left of its processes and cgroups.
    pub fn delete(&self, run: &RunDir, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut call = Call::new("delete");
        call.args = vec!["--force".into()];
        self.call(run, id, call)
    }

    fn begin(
        &self,
        run: &RunDir,
        id: &ContainerId,
        mut call: Call<'_>,
        streams: Streams,
        pid_file: &Path,
    ) -> Result<i32, RuntimeError> {
        call.args.extend(["--pid-file".into(), pid_file.into()]);
        match streams {
            Streams::Files(files) => call.files = Some(files),
            Streams::Terminal(socket) => {
                call.args.extend(["--console-socket".into(), socket.into()])
            }
        }
        self.call(run, id, call)?;
        let text = std::fs::read_to_string(pid_file).map_err(|why| self.cannot(why))?;
        text.trim()
            .parse()
            .map_err(|_| self.cannot(io::Error::other("it wrote no process ID")))
    }

    /// Runs it to its end. What it has to say comes through memory: its standard error is the
    /// container's, and the disk may be full.
    fn call(&self, run: &RunDir, id: &ContainerId, call: Call<'_>) -> Result<(), RuntimeError> {
        let cannot = |why| self.cannot(why);
        let memory =
            memfd_create("runtime-log", MemfdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(run.state())
            .args(["--log-format", "json", "--log"])
            .arg(path_for_others(&memory).map_err(cannot)?)
            .arg(call.what)
            .args(call.args)
            .arg(id.hex())
            .current_dir(run.path());
        let files = call.files.unwrap_or_else(Files::null);
        command
            .stdin(files.stdin)
            .stdout(files.stdout)
            .stderr(files.stderr);
        dies_with_us(&mut command);
        let mut child = command.spawn().map_err(cannot)?;
        // Our ends of the process's streams.
        drop(command);
        if let Some(client) = call.client {
            end_with(client, &mut child).map_err(cannot)?;
        }
        let status = child.wait().map_err(cannot)?;
        if status.success() {
            return Ok(());
        }
        let mut log = File::from(memory);
        let mut text = String::new();
        log.rewind()
            .and_then(|()| log.read_to_string(&mut text))
            .map_err(cannot)?;
        let program = self.program.display();
        Err(RuntimeError::Failed {
            what: call.what,
            said: last_error(&text).unwrap_or_else(|| format!("{program} ended with {status}")),
        })
    }

    fn cannot(&self, why: io::Error) -> RuntimeError {
        RuntimeError::Spawn {
            program: self.program.clone(),
            why,
        }
    }
}

/// Wait until the runtime has ended; kill it if its client goes away before.
fn end_with(client: &UnixStream, child: &mut Child) -> io::Result<()> {
    let pid = child.id().cast_signed();
    let Some(process) = Process::open(pid) else {
        return Ok(());
    };
    if process.wait_unless_gone(client)? {
        return Ok(());
    }
    let orphans = kill_descendants_of(pid)?;
    child.kill()?;
    child.wait()?;
    // They are ours now, and the end of the container waits until they have been waited for.
    for orphan in orphans {
        if let Err(e) = wait(orphan) {
            tracing::debug!("process {orphan} is another's: {e}");
        }
    }
    Ok(())
}

/// The path under which another process finds an open file of this one.
pub fn path_for_others(fd: &OwnedFd) -> io::Result<PathBuf> {
    // Not our own idea of our ID: /proc may be of another PID namespace.
    let own = std::fs::read_link("/proc/self")?;
    Ok(Path::new("/proc")
        .join(own)
        .join("fd")
        .join(fd.as_raw_fd().to_string()))
}

#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// The last error in a log of the runtime, in one line.
fn last_error(log: &str) -> Option<String> {
    let lines = log
        .lines()
        .filter_map(|l| serde_json::from_str::<LogLine>(l).ok());
    let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal"));
    errors.next_back().map(|line| line.msg.trim().to_owned())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_DIRECTORIES.map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| file.is_absolute() && is_program(file))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(said: &str) -> RuntimeError {
        RuntimeError::Failed {
            what: "create",
            said: said.to_owned(),
        }
    }

    #[test]
    fn exit_codes_follow_what_the_runtimes_say() {
        let runc = "runc create failed: unable to start container process: ";
        for (said, code) in [
            ("exec: \"nosuch\": executable file not found in $PATH", 127),
            (
                "exec: \"/nosuch\": stat /nosuch: no such file or directory",
                127,
            ),
            ("exec: \"/etc\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("exec /badscript: no such file or directory", 127),
            ("exec /x: exec format error", 126),
            (
                "error during container init: error mounting \"/nope\": no such file or directory",
                125,
            ),
        ] {
            assert_eq!(failed(&format!("{runc}{said}")).exit_code(), code, "{said}");
        }
        for (said, code) in [
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                127,
            ),
            ("open executable: Permission denied", 126),
            ("open executable: Operation not permitted", 126),
            ("open `/proc/self/fd/3`: Permission denied", 125),
        ] {
            assert_eq!(failed(said).exit_code(), code, "{said}");
        }
        assert_eq!(RuntimeError::NoneFound.exit_code(), 125);
    }

    #[test]
    fn what_the_machine_lacks_is_named() {
        for (said, hint) in [
            (
                "cgroups in hybrid mode not supported, drop all controllers",
                "--runtime runc",
            ),
            (
                "mkdir /sys/fs/cgroup/cpu/x: read-only file system",
                "--privileged",
            ),
            (
                "runc create failed: no cgroup mount found in mountinfo",
                "mount -t cgroup2",
            ),
        ] {
            let text = failed(said).to_string();
            assert!(text.contains(said) && text.contains(hint), "{text}");
        }
    }

    #[test]
    fn the_last_error_of_a_log() {
        let log = r#"{"level":"warning","msg":"w","time":"t"}
            {"level":"error","msg":"one","time":"t"}
            {"level":"error","msg":"two\n","time":"t"}
            {"level":"debug","msg":"d","time":"t"}
            not JSON"#;
        assert_eq!(last_error(log).as_deref(), Some("two"));
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn one_that_is_not_there() {
        for name in ["no-such-runtime", "/no/such/runtime"] {
            let error = Runtime::find(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
