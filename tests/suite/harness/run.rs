//! Runs a program to its end and keeps what it said.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No command of these tests takes this long: it hangs, or a child of it keeps our pipe open.
const PATIENCE: Duration = Duration::from_secs(90);

/// A finished program.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Run {
    /// Runs to the end of the program *and* of both pipes.
    #[track_caller]
    pub fn of(command: &mut Command) -> Run {
        let name = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {name}: {e}"));
        Run::finish(child, name)
    }

    /// Waits for a child whose output is piped.
    #[track_caller]
    pub fn finish(mut child: Child, name: String) -> Run {
        let end = Instant::now() + PATIENCE;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let collect = |pipe: &mpsc::Receiver<Vec<u8>>| {
            pipe.recv_timeout(end.saturating_duration_since(Instant::now()))
        };
        let (Ok(stdout), Ok(stderr)) = (collect(&stdout), collect(&stderr)) else {
            let still_runs = matches!(child.try_wait(), Ok(None));
            child.kill().expect("kill a child that hangs");
            child.wait().expect("reap a child that hangs");
            panic!(
                "{name}: {}",
                match still_runs {
                    true => "still runs",
                    false => "ended, but something keeps its output open",
                }
            );
        };
        let status = child.wait().expect("wait for a child");
        let run = Run {
            command: name,
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        assert!(
            !run.stderr.contains("panicked at") && run.code != Some(101),
            "a panic in {run:#?}"
        );
        run
    }

    /// It must have ended well; gives its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "must succeed: {self:#?}");
        self.stdout
    }

    /// Exit code, standard output, and standard error but for the progress of a load.
    #[track_caller]
    pub fn expect(&self, code: i32, stdout: &str, stderr: &str) {
        let errors = self.errors();
        let got = (self.code, self.stdout.as_str(), errors.as_str());
        assert_eq!(got, (Some(code), stdout, stderr), "of {}", self.command);
    }

    /// Standard error without the lines that a load has for each layer.
    pub fn errors(&self) -> String {
        let is_progress = |line: &str| {
            let layer = line.split_once(": ").map_or("", |(layer, _)| layer);
            layer.len() == 12 && layer.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let lines = self.stderr.split_inclusive('\n');
        lines.filter(|line| !is_progress(line)).collect()
    }

    /// Exit code, standard output and standard error, exactly.
    #[track_caller]
    pub fn expect_exactly(&self, code: i32, stdout: &str, stderr: &str) {
        let got = (self.code, self.stdout.as_str(), self.stderr.as_str());
        assert_eq!(got, (Some(code), stdout, stderr), "of {}", self.command);
    }

    /// It must have been refused as the contract says: exit code 1, nothing on standard output, one
    /// line `Error: …`. Gives that line.
    #[track_caller]
    pub fn refused(&self) -> String {
        assert_eq!(self.code, Some(1), "must be refused: {self:#?}");
        assert_eq!(self.stdout, "", "says nothing on stdout: {self:#?}");
        let errors = self.errors();
        let line = errors.strip_suffix('\n').unwrap_or(&errors);
        assert!(
            line.starts_with("Error: ") && !line.contains('\n') && line.len() > "Error: ".len(),
            "one line of error: {self:#?}"
        );
        line.to_owned()
    }

    /// Refused, with a line that contains all of these.
    #[track_caller]
    pub fn refused_saying(&self, parts: &[&str]) {
        let line = self.refused();
        for part in parts {
            assert!(line.contains(part), "{part:?} is missing in {line:?}");
        }
    }
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    let mut pipe = pipe.expect("a piped child");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if pipe.read_to_end(&mut bytes).is_ok() {
            // Nobody listens any more only when the wait was given up: it has panicked already.
            send.send(bytes).ok();
        }
    });
    receive
}
