//! `layerctl bench load`: figures of who loads, reasons of who does not, and nothing of it left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::store::{LAYERCTL, mounts_below};
use crate::harness::{Archive, Run, Store, process, wait_until};
use crate::samples::heavy;

/// A place for a benchmark, with an image; nothing but that may be there afterwards.
struct Place {
    store: Store,
    scratch: PathBuf,
    image: PathBuf,
}

impl Place {
    fn new() -> Place {
        let store = Store::new();
        let scratch = store.new_dir("scratch");
        let image = store.beside("image.tar");
        Archive::of(&heavy("heavy:1", 8)).0.write(&image);
        Place {
            store,
            scratch,
            image,
        }
    }

    /// On a file system of its own.
    fn bench(&self, args: &[&str]) -> Command {
        let mut command = self.with(args);
        command.arg("--scratch").arg(&self.scratch);
        command
    }

    fn with(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LAYERCTL);
        command.args(["bench", "load"]).args(args).arg(&self.image);
        command.env_remove("LAYERCTL_ROOT");
        command
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(mounts_below(&self.scratch), [] as [PathBuf; 0]);
        let left: Vec<_> = fs::read_dir(&self.scratch).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let loops = Run::of(Command::new("losetup").arg("--all")).ok();
        assert!(!loops.contains(self.scratch.to_str().unwrap()), "{loops}");
    }
}

/// A contestant of what `--json` printed.
#[track_caller]
fn contestant<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["contestants"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// It has figures for these forms, of so many runs, and of a sensible size.
#[track_caller]
fn has_figures(report: &Value, name: &str, forms: &[&str], rounds: usize) {
    let contestant = contestant(report, name);
    assert_eq!(contestant["missing"], Value::Null);
    let outcomes = contestant["forms"].as_array().unwrap();
    let names: Vec<_> = outcomes
        .iter()
        .map(|o| o["form"].as_str().unwrap())
        .collect();
    assert_eq!(names, forms, "of {name}");
    for outcome in outcomes {
        let runs = outcome["runs"].as_array().unwrap();
        let seconds: Vec<f64> = runs
            .iter()
            .map(|r| r["seconds"].as_f64().unwrap())
            .collect();
        assert_eq!(seconds.len(), rounds, "{outcome}");
        assert!(seconds.iter().all(|s| *s > 0.0 && *s < 60.0), "{outcome}");
        let median = outcome["median_seconds"].as_f64().unwrap();
        let lower = seconds.iter().filter(|s| **s <= median).count();
        assert!(lower >= rounds.div_ceil(2), "{outcome}");
        assert!(outcome["ratio_to_tar"].as_f64().unwrap() > 0.0, "{outcome}");
        assert!(runs[0]["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(outcome["failed"], Value::Null);
    }
}

#[track_caller]
fn report_of(command: &mut Command) -> Value {
    serde_json::from_str(&Run::of(command.arg("--json")).ok()).unwrap()
}

pub fn figures_and_a_picture() {
    let place = Place::new();
    let picture = place.store.beside("picture.svg");
    let mut bench = place.bench(&["--peers", "tar", "--rounds", "2", "--only", "gzip,plain"]);
    let report = report_of(bench.arg("--plot").arg(&picture));
    place.nothing_is_left();
    has_figures(&report, "layerctl", &["plain", "gzip"], 2);
    has_figures(&report, "tar", &["plain", "gzip"], 2);
    let tar = contestant(&report, "tar")["forms"].as_array().unwrap();
    assert!(tar.iter().all(|form| form["ratio_to_tar"] == 1.0));
    assert_eq!(report["image"]["name"], "heavy:1");
    assert_eq!(report["rounds"], 2);
    let bytes = &report["image"]["archive_bytes"];
    assert!(bytes["plain"].as_u64() > Some(8 << 20), "{bytes}");
    assert_eq!(bytes["zstd"], Value::Null);
    assert_eq!(report["disk"], "a new ext4 on a loop device");
    let svg = fs::read_to_string(&picture).unwrap();
    for part in [
        "layerctl",
        "tar",
        "gzip",
        "seconds",
        "1.00 × tar",
        "processor",
    ] {
        assert!(svg.contains(part), "{part:?} is missing in the picture");
    }
}

pub fn a_table() {
    let place = Place::new();
    let run = Run::of(&mut place.bench(&["--peers", "tar", "--rounds", "1", "--only", "zstd"]));
    place.nothing_is_left();
    assert!(
        run.stderr.contains("zstd, round 1 of 1, layerctl: "),
        "{run:#?}"
    );
    let said = run.ok();
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["CONTESTANT", "ZSTD", "PEAK", "RSS"], "{said}");
    assert_eq!((lines[1][0], lines[2][0]), ("layerctl", "tar"), "{said}");
    assert!(lines[2].contains(&"(1.00)"), "{said}");
    assert!(
        said.contains("Image: heavy:1, ") && said.contains("Machine: "),
        "{said}"
    );
}

/// Docker's and Podman's own programs, not figures of theirs: a store of theirs is emptied each time.
#[track_caller]
fn beside(peer: &str) {
    let place = Place::new();
    let peers = format!("tar,{peer}");
    let report =
        report_of(&mut place.bench(&["--peers", &peers, "--rounds", "2", "--only", "gzip"]));
    place.nothing_is_left();
    has_figures(&report, peer, &["gzip"], 2);
    let is_client = contestant(&report, peer)["peak_memory_is_of_client"].as_bool();
    assert_eq!(is_client, Some(matches!(peer, "docker" | "ctr")));
}

pub fn beside_docker() {
    beside("docker");
}

pub fn beside_podman() {
    beside("podman");
}

pub fn beside_skopeo() {
    beside("skopeo");
}

pub fn beside_umoci() {
    beside("umoci");
}

pub fn beside_containerd() {
    beside("ctr");
}

/// A PATH of these programs alone, and of scripts.
fn path_of(dir: &Path, programs: &[&str], scripts: &[(&str, &str)]) {
    for name in programs {
        let program = process::on_path(name).unwrap_or_else(|| panic!("{name} on PATH"));
        std::os::unix::fs::symlink(program, dir.join(name)).unwrap();
    }
    for (name, script) in scripts {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub fn missing_and_failing_peers() {
    let place = Place::new();
    let bin = place.store.new_dir("bin");
    let scripts = [
        // It ends well, and has done nothing.
        ("skopeo", "echo skopeo version 9.9.9"),
        (
            "umoci",
            "[ $1 = --version ] && echo umoci version 8.8 && exit; echo this >&2; echo no space for it >&2; exit 4",
        ),
        ("docker", "exit 1"),
        ("dockerd", "exit 3"),
    ];
    path_of(
        &bin,
        &["tar", "gzip", "mount", "umount", "mkfs.ext4"],
        &scripts,
    );
    let mut bench = place.bench(&["--rounds", "1", "--only", "gzip"]);
    bench.env("PATH", &bin);
    let table = Run::of(&mut bench).ok();
    let report = report_of(&mut bench);
    place.nothing_is_left();
    has_figures(&report, "layerctl", &["gzip"], 1);
    has_figures(&report, "tar", &["gzip"], 1);
    let missing = |name| contestant(&report, name)["missing"].as_str();
    assert_eq!(missing("podman"), Some("podman is not installed"));
    assert_eq!(missing("ctr"), Some("ctr is not installed"));
    let docker = missing("docker").unwrap();
    assert!(
        docker.starts_with("dockerd: does not start here"),
        "{docker}"
    );
    let failed = |name| {
        let form = &contestant(&report, name)["forms"][0];
        assert_eq!(form["median_seconds"], Value::Null);
        assert_eq!(form["runs"], Value::Array(Vec::new()));
        form["failed"].as_str().unwrap().to_owned()
    };
    assert_eq!(failed("umoci"), "umoci: no space for it");
    let skopeo = failed("skopeo");
    assert!(skopeo.starts_with("it has left "), "{skopeo}");
    // Each is a row without a figure, and a line with its reason where the row does not say it.
    for (row, reason) in [
        ("podman", "podman"),
        (
            "docker",
            "docker: dockerd: does not start here: exit status: 3",
        ),
        ("umoci", "umoci, gzip: no space for it"),
        ("skopeo", "skopeo, gzip: it has left "),
    ] {
        let line = table.lines().find(|line| line.starts_with(row)).unwrap();
        assert!(!line.contains(" s ") && !line.contains("MB"), "{line:?}");
        let has_reason = table.lines().any(|line| line.starts_with(reason));
        assert!(has_reason, "{reason:?}: {table}");
    }
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("podman") && line.contains("not installed"))
    );
}

pub fn interrupted() {
    let place = Place::new();
    let mut bench = place.bench(&["--rounds", "100"]);
    bench
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = bench.spawn().unwrap();
    let descendants = || process::descendants_of(child.id().cast_signed());
    // In the middle of it: whatever daemons there are have been started.
    wait_until("it loads", || {
        let is_load = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0-i\0")
                && String::from_utf8_lossy(&line).contains("plain.tar")
        };
        descendants().iter().any(is_load)
    });
    let started = descendants();
    let lines = started
        .iter()
        .map(|pid| fs::read(format!("/proc/{pid}/cmdline")));
    let lines: Vec<_> = lines.map(Result::unwrap_or_default).collect();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let run = Run::finish(child, "bench load".to_owned());
    assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""), "{run:#?}");
    assert!(
        !run.stderr.lines().any(|line| line.starts_with("Error")),
        "{run:#?}"
    );
    place.nothing_is_left();
    let still: Vec<_> = started
        .iter()
        .filter(|pid| process::pids().contains(pid))
        .collect();
    assert!(still.is_empty(), "still run: {still:?}");
    // Where daemons have their sockets.
    for line in &lines {
        let line = String::from_utf8_lossy(line);
        for (at, start) in line.match_indices("/tmp/layerctl-run.") {
            let path = &line[at..at + start.len() + 6];
            assert!(!Path::new(path).exists(), "{path} is left");
        }
    }
}

pub fn what_is_no_archive() {
    let place = Place::new();
    fs::write(&place.image, "no archive").unwrap();
    let run = Run::of(&mut place.bench(&["--peers", "tar"]));
    place.nothing_is_left();
    let last = run.stderr.lines().last().unwrap();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(
        last.starts_with("Error: ") && !last.contains("layerctl:"),
        "{last}"
    );
    fs::remove_file(&place.image).unwrap();
    let run = Run::of(&mut place.bench(&["--peers", "tar"]));
    place.nothing_is_left();
    let last = run.stderr.lines().last().unwrap();
    assert!(
        run.code == Some(1) && last.contains("No such file"),
        "{run:#?}"
    );
    for args in [
        ["--peers", "rkt"],
        ["--only", "xz"],
        ["--rounds", "0"],
        ["--plot", "a.jpg"],
    ] {
        let run = Run::of(&mut place.bench(&args));
        assert_eq!(run.code, Some(2), "{run:#?}");
    }
}

pub fn without_root() {
    let place = Place::new();
    // Where everybody may run it, wherever this clone lies. Not copied by this process: a child of another test
    // that is between fork and exec would hold the program open for writing.
    let everybody = tempfile::tempdir().unwrap();
    for from in [Path::new(LAYERCTL), &place.image] {
        Run::of(Command::new("cp").arg(from).arg(everybody.path())).ok();
    }
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&everybody, open.clone()).unwrap();
    let image = everybody.path().join("image.tar");
    fs::set_permissions(&image, open).unwrap();
    let mut nobody = Command::new(everybody.path().join("layerctl"));
    nobody
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .env_remove("LAYERCTL_ROOT");
    nobody
        .args(["bench", "load", "--peers", "tar"])
        .arg("--scratch")
        .arg(everybody.path());
    let run = Run::of(nobody.arg(image));
    run.refused_saying(&["root", "--dir DIR"]);
    assert_eq!(fs::read_dir(&everybody).unwrap().count(), 2);
}

pub fn in_a_directory() {
    let place = Place::new();
    let mut bench = place.with(&["--peers", "tar", "--rounds", "1", "--only", "plain"]);
    let report = report_of(bench.arg("--dir").arg(&place.scratch));
    place.nothing_is_left();
    has_figures(&report, "layerctl", &["plain"], 1);
    has_figures(&report, "tar", &["plain"], 1);
    let disk = format!(" of {}", place.scratch.display());
    assert!(
        report["disk"].as_str().unwrap().ends_with(&disk),
        "{report}"
    );
}
