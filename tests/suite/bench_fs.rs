//! `layerctl bench fs`: what it measures, what has no figure, and that nothing is left of it.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Run, disk, process, text, wait_until};

/// Small layers, and a directory for what the benchmark makes.
struct Place {
    dir: tempfile::TempDir,
    scratch: PathBuf,
}

impl Place {
    fn new() -> Place {
        Place::of(disk::temp_dir())
    }

    fn of(dir: tempfile::TempDir) -> Place {
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let place = Place { dir, scratch };
        for layer in ["top", "bottom"] {
            for directory in ["usr/share", "etc"] {
                fs::create_dir_all(place.beside(layer).join(directory)).unwrap();
            }
        }
        for n in 0..20 {
            let layer = place.beside(if n % 2 == 0 { "top" } else { "bottom" });
            fs::write(layer.join(format!("usr/share/file-{n}")), "text").unwrap();
            fs::write(layer.join("etc/both"), layer.to_str().unwrap()).unwrap();
        }
        place
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A fuse-overlayfs that is a shell script: in a directory that may be put on PATH.
    fn peer(&self, script: &str) -> PathBuf {
        let bin = self.beside("bin");
        fs::create_dir_all(&bin).unwrap();
        let peer = bin.join("fuse-overlayfs");
        fs::write(&peer, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&peer, Permissions::from_mode(0o755)).unwrap();
        bin
    }

    fn lower(&self) -> String {
        let layer = |name| self.beside(name).to_str().unwrap().to_owned();
        format!("{}:{}", layer("top"), layer("bottom"))
    }

    /// The benchmark on these layers, on a disk of its own.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_in(args, "--scratch");
        // What it takes when it is full.
        command.args(["--disk-size", "1GiB"]);
        command
    }

    fn command_in(&self, args: &[&str], place: &str) -> Command {
        let mut command = Command::new(LAYERCTL);
        command
            .args(["bench", "fs", "--rounds", "1", "--lower", &self.lower()])
            .args(args)
            .arg(place)
            .arg(&self.scratch)
            .stdin(Stdio::null())
            .env_remove("LAYERCTL_ROOT");
        command
    }

    /// Nothing is left: no mount, loop device or process; and no file, unless it was killed.
    #[track_caller]
    fn nothing_is_left(&self, nor_files: bool) {
        assert!(mounts_below(&self.scratch).is_empty());
        let scratch = self.scratch.to_str().unwrap();
        wait_until("no process is left", || users(scratch).is_empty());
        // Unused ones go by themselves, a moment after their last mount.
        wait_until("no loop device is left", || loops(scratch) == 0);
        let left: Vec<_> = fs::read_dir(&self.scratch).unwrap().flatten().collect();
        assert!(!nor_files || left.is_empty(), "{left:?}");
    }
}

/// Processes with a path in their arguments, but for the tests' own.
fn users(path: &str) -> Vec<i32> {
    let has_it = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(path)
    };
    process::pids().into_iter().filter(has_it).collect()
}

/// Loop devices with files below a path.
fn loops(path: &str) -> usize {
    let blocks = fs::read_dir("/sys/block").unwrap().flatten();
    let backing =
        blocks.filter_map(|block| fs::read_to_string(block.path().join("loop/backing_file")).ok());
    backing.filter(|file| file.contains(path)).count()
}

/// The object of this name in a list of objects.
#[track_caller]
fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let list = list.as_array().unwrap();
    let found = list.iter().find(|object| object[key] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

pub fn figures() {
    let place = Place::new();
    let picture = place.beside("picture.svg");
    let workloads = ["stat-walk-warm", "copy-up-1500", "untar", "rand-read-4k"];
    let run = Run::of(
        place
            .command(&["--json", "--only", &workloads.join(",")])
            .arg("--plot")
            .arg(&picture),
    );
    place.nothing_is_left(true);
    for workload in workloads {
        assert!(run.stderr.contains(&format!("{workload}: ")), "{run:#?}");
    }
    let report: Value = serde_json::from_str(&run.ok()).unwrap();
    assert_eq!(text(&report, "reference"), "overlayfs");
    assert_eq!(report["disk"], "a new ext4 on a loop device");
    let peer = named(&report["contestants"], "name", "fuse-overlayfs");
    let has_peer = process::on_path("fuse-overlayfs").is_some();
    assert_eq!(peer["error"].is_null(), has_peer, "{peer}");
    let mut names = vec!["overlayfs", "layerctl", "layerctl-cached", "directory"];
    names.extend(has_peer.then_some("fuse-overlayfs"));
    for workload in &workloads[..3] {
        let workload = named(&report["workloads"], "name", workload);
        assert!(workload["not_run"].is_null(), "{workload}");
        assert_eq!(workload["results"].as_array().unwrap().len(), names.len());
        for name in &names {
            let runs = named(&workload["results"], "contestant", name);
            assert!(runs["error"].is_null(), "{runs}");
            let seconds = runs["seconds"].as_array().unwrap();
            assert_eq!(seconds.len(), 1);
            assert!(seconds[0].as_f64().unwrap() > 0.0);
            let ratio = runs["ratio"].as_f64().unwrap();
            assert!(ratio > 0.0 && (*name != "overlayfs" || ratio == 1.0));
        }
    }
    // These layers have no such file.
    let not_run = named(&report["workloads"], "name", "rand-read-4k");
    assert_eq!(text(not_run, "not_run"), "the layers have no data/big");
    let means = &report["geometric_means"];
    assert_eq!(named(means, "contestant", "overlayfs")["ratio"], 1.0);
    let svg = fs::read_to_string(picture).unwrap();
    for word in ["copy-up-1500", "layerctl-cached", "geometric mean"] {
        assert!(svg.contains(word), "{word}");
    }
}

/// One that is not installed, one that fails, and one that shows another tree.
pub fn peers_without_figures() {
    let place = Place::new();
    let bin = place.beside("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["mount", "umount", "cp", "tar", "mkfs.ext4", "sh"] {
        symlink(process::on_path(program).unwrap(), bin.join(program)).unwrap();
    }
    let args = ["--only", "stat-walk-warm", "--peers"];
    let measured = |script: Option<&str>, peers| {
        script.map(|script| place.peer(script));
        let run = Run::of(
            place
                .command(&[&args[..], &[peers]].concat())
                .env("PATH", &bin),
        );
        place.nothing_is_left(true);
        run
    };
    let peers = "overlayfs,fuse-overlayfs,directory";
    for (script, line) in [
        (None, "fuse-overlayfs is not installed"),
        (
            Some("echo first >&2; echo 'cannot do that' >&2; exit 1"),
            "fuse-overlayfs: cannot do that",
        ),
        (
            Some("[ $1 = --version ] || { for last; do :; done; mount -t tmpfs none $last; }"),
            "it shows 0 entries where there are 24",
        ),
    ] {
        let out = measured(script, peers).ok();
        let line = format!("fuse-overlayfs: not measured: {line}\n");
        assert!(out.contains(&line), "{line}{out}");
        let heading = out.lines().nth(1).unwrap();
        let words: Vec<&str> = heading.split_whitespace().collect();
        assert_eq!(words, ["overlayfs", "directory", "1.00", "is"], "{out}");
    }
    // Nobody is left.
    let run = measured(Some("exit 3"), "fuse-overlayfs");
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr
            .contains("\nError: nothing can be measured: fuse-overlayfs: "),
        "{run:#?}"
    );
}

/// One that mounts and then answers nothing.
pub fn a_peer_that_hangs() {
    let place = Place::new();
    let real = process::on_path("fuse-overlayfs").unwrap();
    let bin = place.peer(&format!(
        "[ $1 = --version ] && exit\n{} -f \"$@\" &\nfor last; do :; done\n\
         until mountpoint -q $last; do :; done\nkill -STOP $!",
        real.display()
    ));
    let path = std::env::var("PATH").unwrap();
    let mut command = place.command(&["--only", "stat-walk-warm", "--limit", "3"]);
    command.args(["--contestants", "overlayfs,fuse-overlayfs,directory"]);
    let run = Run::of(command.env("PATH", format!("{}:{path}", bin.display())));
    place.nothing_is_left(true);
    let out = run.ok();
    let line = "fuse-overlayfs: not measured: layerctl: took longer than 3s\n";
    assert!(out.contains(line), "{out}");
}

/// Starts it with a workload that takes a while after one that does not, and waits till that one is done.
fn started(place: &Place) -> Child {
    let args = ["--only", "stat-walk-warm,write-4k"];
    let mut command = place.command(&args);
    command.args(["--contestants", "layerctl-cached,fuse-overlayfs,overlayfs"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let done = lines.find(|line| line.as_ref().unwrap().starts_with("stat-walk-warm: "));
    assert!(done.is_some(), "{:?}", child.wait());
    child
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub fn interrupted() {
    for (signal, delay) in [(Signal::INT, 0), (Signal::TERM, 200), (Signal::INT, 600)] {
        let place = Place::new();
        let child = started(&place);
        std::thread::sleep(Duration::from_millis(delay));
        send(&child, signal);
        let run = Run::finish(child, format!("bench fs, {signal:?} after {delay} ms"));
        assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""), "{run:#?}");
        place.nothing_is_left(true);
    }
}

pub fn killed() {
    let place = Place::new();
    let mut child = started(&place);
    std::thread::sleep(Duration::from_millis(300));
    send(&child, Signal::KILL);
    child.wait().unwrap();
    // Of the files there is but an empty directory: the disk had lost its name.
    place.nothing_is_left(false);
    let mut found = Vec::new();
    let mut directories = vec![place.scratch.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

/// Without root it says what it needs and what can be done; and that can be done.
pub fn without_root() {
    // Where anybody can enter, as perhaps not where the program is.
    let place = Place::of(tempfile::tempdir().unwrap());
    let program = place.beside("layerctl");
    fs::copy(LAYERCTL, &program).unwrap();
    chown(&place.scratch, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(place.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |command: Command| {
        let mut nobody = Command::new("setpriv");
        nobody
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(command.get_args());
        Run::of(&mut nobody)
    };
    let args = [
        "--only",
        "stat-walk-cold,stat-walk-warm",
        "--contestants",
        "overlayfs,directory",
    ];
    let refused = as_nobody(place.command(&args));
    assert_eq!(
        refused.refused(),
        "Error: making and mounting a file system takes root; with --dir DIR it runs in a directory that is there, best under `unshare --map-root-user`"
    );
    place.nothing_is_left(true);
    let out = as_nobody(place.command_in(&args, "--dir")).ok();
    place.nothing_is_left(true);
    for part in [
        "Times as ratios to directory's; less is better\n",
        "overlayfs: not measured: mount: ",
        "stat-walk-cold: not run: dropping what is in memory takes root\n",
    ] {
        assert!(out.contains(part), "{part}{out}");
    }
}

pub fn in_a_directory() {
    let place = Place::new();
    let kept = place.scratch.join("kept");
    fs::write(&kept, "kept").unwrap();
    let only = ["--only", "copy-up-1500", "--contestants"];
    let names = "layerctl-overlay,layerctl,directory";
    let run = Run::of(&mut place.command_in(&[&only[..], &[names]].concat(), "--dir"));
    fs::remove_file(&kept).unwrap();
    place.nothing_is_left(true);
    let out = run.ok();
    let line = out.lines().find(|line| line.starts_with("copy-up-1500 "));
    let cells: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(cells[1], "1.00", "{out}");
    assert_eq!(cells.len(), 6, "{out}");
    assert!(
        out.contains(&format!(" of {}", place.scratch.display())),
        "{out}"
    );
}

/// Usage errors, and layers that would not mean the same to everybody.
pub fn refused() {
    let place = Place::new();
    for args in [
        &["--only", "no-such"][..],
        &["--contestants", "no-such"],
        &["--rounds", "0"],
        &["--plot", "picture.jpg"],
        &["--dir", "/tmp"],
    ] {
        let run = Run::of(&mut place.command(args));
        assert_eq!(run.code, Some(2), "{args:?}: {run:#?}");
    }
    let nowhere = Run::of(&mut place.command_in(&["--lower", "/nowhere/at/all"], "--dir"));
    assert_eq!(nowhere.code, Some(1));
    let line = "Error: cannot find /nowhere/at/all: ";
    assert!(nowhere.stderr.contains(line), "{nowhere:#?}");
    fs::write(place.beside("top").join("usr/.wh.gone"), "").unwrap();
    let run = Run::of(&mut place.command(&[]));
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("usr/.wh.gone is a whiteout"),
        "{run:#?}"
    );
    place.nothing_is_left(true);
    let list = Run::of(&mut place.command(&["--list"])).ok();
    for name in ["stat-walk-cold", "rm-lower-tree", "layerctl-overlay"] {
        assert!(list.contains(&format!("\n  {name} ")), "{list}");
    }
    assert!(!Path::new("picture.jpg").exists());
}
