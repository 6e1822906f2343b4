//! Benchmarks in a scratch directory of their own, of which nothing may stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Run, Store, process, wait_until};

/// Where a benchmark runs.
pub struct Place {
    // Goes last.
    _store: Store,
    /// Its `--scratch`.
    pub scratch: PathBuf,
    /// Its PATH, if it is not the tests' own.
    path: Option<PathBuf>,
}

impl Place {
    pub fn new() -> Place {
        let store = Store::new();
        Place {
            scratch: store.new_dir("scratch"),
            _store: store,
            path: None,
        }
    }

    /// With a PATH that has these programs of the system, and scripts of these names and texts.
    pub fn with_programs(programs: &[&str], scripts: &[(&str, &str)]) -> Place {
        let mut place = Place::new();
        let bin = place._store.new_dir("bin");
        for name in programs {
            let program = process::on_path(name).unwrap_or_else(|| panic!("{name}"));
            std::os::unix::fs::symlink(program, bin.join(name)).unwrap();
        }
        for (name, text) in scripts {
            let path = bin.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).unwrap();
        }
        place.path = Some(bin);
        place
    }

    /// `layerctl bench …`, here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LAYERCTL);
        command.arg("bench").args(args);
        command.arg("--scratch").arg(&self.scratch);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// Runs to the end, and leaves nothing.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Run {
        let run = Run::of(&mut self.command(args));
        self.check_nothing_is_left();
        run
    }

    /// Runs to the end, well; gives what it measured.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["--json"]].concat()).ok();
        assert_eq!(out.lines().count(), 1, "one object: {out}");
        serde_json::from_str(&out).unwrap()
    }

    /// Sends a signal when it says that this goes on. Gives how it ends.
    #[track_caller]
    pub fn end_by(&self, args: &[&str], when: &str, signal: Signal) -> Run {
        let said = self.scratch.with_extension("said");
        let mut command = self.command(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        wait_until(when, || {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", fs::read_to_string(&said).unwrap());
            fs::read_to_string(&said).unwrap().contains(when)
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        child.stderr = Some(empty_pipe());
        let run = Run::finish(child, format!("{args:?}"));
        // Whoever is killed cannot wait for the others, which the kernel kills.
        wait_until("its processes end", || self.users().is_empty());
        wait_until("its loop device goes", || self.loop_devices().is_empty());
        match signal {
            Signal::KILL => assert!(mounts_below(&self.scratch).is_empty()),
            _ => self.check_nothing_is_left(),
        }
        run
    }

    #[track_caller]
    pub fn check_nothing_is_left(&self) {
        assert!(mounts_below(&self.scratch).is_empty());
        let left = fs::read_dir(&self.scratch).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert_eq!(self.users(), [0; 0]);
        assert_eq!(self.loop_devices(), [] as [String; 0]);
    }

    fn users(&self) -> Vec<i32> {
        process::users_of(LAYERCTL.as_ref(), &self.scratch)
    }

    /// The files of loop devices that are, or were, in the scratch directory.
    fn loop_devices(&self) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").unwrap();
        let files = devices.filter_map(|device| {
            fs::read_to_string(device.unwrap().path().join("loop/backing_file")).ok()
        });
        let ours = self.scratch.display().to_string();
        files.filter(|file| file.contains(&ours)).collect()
    }
}

fn empty_pipe() -> std::process::ChildStderr {
    let (reader, _) = std::io::pipe().unwrap();
    std::os::fd::OwnedFd::from(reader).into()
}

/// What was measured of one contestant.
#[track_caller]
pub fn of<'a>(contestants: &'a Value, name: &str) -> &'a Value {
    let all = contestants.as_array().expect("an array");
    let mut found = all.iter().filter(|c| c["name"] == name);
    found
        .next()
        .unwrap_or_else(|| panic!("{name} in {contestants}"))
}

/// Checks that a picture is there, and what it is.
#[track_caller]
pub fn check_picture(path: &Path, parts: &[&str]) {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|e| e == "png") {
        assert!(bytes.starts_with(b"\x89PNG\r\n"));
        return;
    }
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("<svg") && text.trim_end().ends_with("</svg>"));
    for part in parts {
        assert!(text.contains(part), "{part:?} in {}", path.display());
    }
}
