//! Programs that are run, timed, and ended with all that they have started if they take too long.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::BenchError;
use super::stop::Stop;
use crate::sys::children::{self, signal_group};
use crate::sys::mounts::abort;
use crate::sys::processes::Process;

/// How long a program may take if nothing else is said.
const PATIENCE: Duration = Duration::from_secs(600);

/// A program to be run.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
    limit: Duration,
    works_on: Option<PathBuf>,
}

/// What a run of a program was.
#[derive(Debug, Clone)]
pub struct Ran {
    /// From before it was started until it has ended.
    pub took: Duration,
    /// The largest resident set that it, or a process that it has waited for, had: in bytes.
    pub peak_memory: u64,
    /// Its standard output.
    pub out: String,
}

impl Program {
    /// A program by its name, looked for on PATH, or by its path.
    pub fn new(program: impl AsRef<OsStr>) -> Program {
        let name = Path::new(program.as_ref()).file_name();
        Program {
            name: name.unwrap_or_default().to_string_lossy().into_owned(),
            command: Command::new(program),
            limit: PATIENCE,
            works_on: None,
        }
    }

    /// With one more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    /// With more arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.command.args(args);
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(key, value);
        self
    }

    /// With this working directory.
    pub fn within(mut self, directory: &Path) -> Program {
        self.command.current_dir(directory);
        self
    }

    /// For no longer than this.
    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// It works on the file system mounted here, if it is of FUSE: a request that its server has begun and does
    /// not answer cannot be killed, so if the program must be, the file system is aborted first.
    pub fn works_on(mut self, mountpoint: &Path) -> Program {
        self.works_on = Some(mountpoint.to_owned());
        self
    }

    /// Run it, without input.
    ///
    /// # Errors
    /// It is not there, fails, takes too long, or everybody is to stop: then it is killed with its
    /// process group.
    pub fn run(mut self, stop: &Stop) -> Result<Ran, BenchError> {
        stop.check()?;
        let temporary = || tempfile::tempfile().map_err(BenchError::at("use", Path::new("/tmp")));
        let (mut out, mut err) = (temporary()?, temporary()?);
        self.command
            .stdin(Stdio::null())
            .stdout(clone(&out)?)
            .stderr(clone(&err)?)
            .process_group(0);
        let started = Instant::now();
        let child = self.command.spawn().map_err(|e| self.cannot_start(e))?;
        let pid = child.id().cast_signed();
        let ended = wait(pid, started + self.limit, stop);
        let took = started.elapsed();
        if !matches!(ended, Ok(true)) {
            if let Some(path) = &self.works_on {
                abort(path).map_err(|e| self.failed(e.desc().to_owned()))?;
            }
            signal_group(pid, libc::SIGKILL).map_err(|e| self.failed(e.to_string()))?;
        }
        let (code, peak_memory) =
            children::wait_and_measure(pid).map_err(|e| self.failed(e.to_string()))?;
        match ended {
            Ok(true) if code == 0 => Ok(Ran {
                took,
                peak_memory,
                out: text_of(&mut out),
            }),
            Ok(true) => {
                let how = || format!("ended with exit code {code}");
                Err(self.failed(why(&text_of(&mut err)).map_or_else(how, str::to_owned)))
            }
            Ok(false) => Err(self.failed(format!("took longer than {:?}", self.limit))),
            Err(e) => Err(e),
        }
    }

    fn cannot_start(&self, error: std::io::Error) -> BenchError {
        match error.kind() {
            std::io::ErrorKind::NotFound => BenchError::NotInstalled(self.name.clone()),
            _ => self.failed(error.to_string()),
        }
    }

    fn failed(&self, said: String) -> BenchError {
        BenchError::Failed {
            program: self.name.clone(),
            said,
        }
    }
}

/// The line of what a program has said that tells why it failed: the last that calls itself an error, else the
/// last.
fn why(said: &str) -> Option<&str> {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| line.to_ascii_lowercase().starts_with("error");
    let line = lines().rfind(is_error).or_else(|| lines().next_back())?;
    // Who reads it reads "Error: " before it.
    let is_prefix = |prefix: &str| prefix.eq_ignore_ascii_case("error");
    let stripped = line
        .split_once(": ")
        .filter(|(prefix, _)| is_prefix(prefix));
    Some(stripped.map_or(line, |(_, rest)| rest))
}

/// Wait for the end of a child, without taking its exit code: false if it is late.
fn wait(pid: i32, end: Instant, stop: &Stop) -> Result<bool, BenchError> {
    let proc = Path::new("/proc");
    // It is our child and not waited for: its ID is its own.
    let Some(process) = Process::open(pid) else {
        return Ok(true);
    };
    loop {
        let pause = Duration::from_millis(50);
        if process
            .wait(Some(pause))
            .map_err(BenchError::at("watch", proc))?
        {
            return Ok(true);
        }
        stop.check()?;
        if Instant::now() > end {
            return Ok(false);
        }
    }
}

fn clone(file: &File) -> Result<File, BenchError> {
    file.try_clone()
        .map_err(BenchError::at("use", Path::new("/tmp")))
}

/// All that was written to a file, as far as it is text.
fn text_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => format!("(what it said cannot be read: {e})"),
    }
}

/// Where PATH, or the directories of the system's own programs, have a program.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path)
        .chain(own)
        .map(|place| place.join(name));
    places.find(|place| place.is_file())
}

/// A program of the system, which must be there.
///
/// # Errors
/// [`BenchError::NotInstalled`].
pub fn find_or_lack(name: &str) -> Result<PathBuf, BenchError> {
    find(name).ok_or_else(|| BenchError::NotInstalled(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    #[test]
    fn what_a_program_says_and_how_it_ends() {
        let stop = Stop::default();
        let ran = shell("echo out; echo err >&2").run(&stop).unwrap();
        assert_eq!(ran.out, "out\n");
        assert!(ran.peak_memory > 100_000);
        let error = |p: Program| p.run(&stop).unwrap_err().to_string();
        assert_eq!(
            error(shell("echo first >&2; echo why >&2; exit 3")),
            "sh: why"
        );
        let usage = "echo error: no such thing >&2; echo Try --help >&2; exit 2";
        assert_eq!(error(shell(usage)), "sh: no such thing");
        assert_eq!(error(shell("exit 3")), "sh: ended with exit code 3");
        assert_eq!(
            error(Program::new("no-such-program")),
            "no-such-program is not installed"
        );
    }

    #[test]
    fn a_late_one_is_ended_with_what_it_has_started() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut slow = shell("sleep 100 & wait").limit(Duration::from_millis(100));
        // The pipe ends when nobody has it any longer.
        slow.command.env("UNUSED", "1");
        let held = std::os::fd::OwnedFd::from(writer);
        rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
        let error = slow.run(&Stop::default()).unwrap_err();
        assert_eq!(error.to_string(), "sh: took longer than 100ms");
        drop(held);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn everybody_stops() {
        let stop = Stop::default();
        let other = stop.clone();
        let thread = std::thread::spawn(move || other.now());
        let error = shell("sleep 100").run(&stop).unwrap_err();
        assert!(matches!(error, BenchError::Interrupted), "{error}");
        thread.join().unwrap();
    }
}
