//! `layerctl bench reclaim`: figures where there are some, reasons where not, and nothing left.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::bench_support::{Place, check_picture, of};
use crate::harness::store::LAYERCTL;
use crate::harness::{Archive, Run, Store};
use crate::samples::app;

/// A small image, once.
const SMALL: [&str; 9] = [
    "reclaim", "--files", "300", "--bytes", "3MB", "--layers", "2", "--rounds", "1",
];

#[track_caller]
fn check_round(round: &Value, deferring: bool) {
    let seconds = |key: &str| round[key].as_f64();
    assert!(seconds("rmi").unwrap() > 0.0);
    assert!(seconds("rmi_synced") >= seconds("rmi"));
    assert_eq!(seconds("rmi_force").is_some(), deferring);
    assert_eq!(seconds("reclaim_synced").is_some(), deferring);
    assert!(seconds("reclaim_synced") >= seconds("reclaim"));
}

pub fn a_made_image() {
    let place = Place::new();
    let picture = place.scratch.with_extension("svg");
    let rest = [
        "--neighbour",
        "1",
        "--only",
        "layerctl,rm",
        "--rate",
        "500/s",
    ];
    let plot = ["--plot", picture.to_str().unwrap()];
    let report = place.json(&[&SMALL[..], &rest, &plot].concat());
    let case = &report["cases"][0];
    // 300 files, 4 directories of them, a top directory in each layer, and the root of each.
    let entries = case["entries"].as_u64().unwrap();
    assert!((304..=320).contains(&entries), "{entries}");
    assert!(case["bytes"].as_u64().unwrap() > 3_000_000);
    let contestants = &case["contestants"];
    for (name, deferring) in [
        ("layerctl", true),
        ("layerctl, 500/s", true),
        ("rm -rf", false),
    ] {
        let outcome = of(contestants, name);
        assert_eq!(outcome["left_out"], Value::Null, "{outcome}");
        // The steered one takes as long as it is told to.
        let rounds = outcome["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), usize::from(name != "layerctl, 500/s"));
        rounds
            .iter()
            .for_each(|round| check_round(round, deferring));
        let met = &outcome["neighbour"];
        let operations = met["operations"].as_array().unwrap();
        let counts = operations
            .iter()
            .map(|o| o["before"]["count"].as_u64().unwrap());
        assert!(counts.min().unwrap() > 0, "{met}");
        let used = met["recording"]["used"].as_array().unwrap();
        let bytes = |at: &Value| at[1].as_u64().unwrap();
        let most = used.iter().map(bytes).max().unwrap();
        assert!(
            most > bytes(used.last().unwrap()) + 3_000_000,
            "they go: {used:?}"
        );
        let events = met["recording"]["events"].as_array().unwrap();
        let events: Vec<&str> = events.iter().map(|e| e[1].as_str().unwrap()).collect();
        assert_eq!(events.first(), Some(&"load"));
        assert_eq!(events.last(), Some(&"gone"));
        assert_eq!(events.contains(&"rmi -f"), deferring);
    }
    let steered = of(contestants, "layerctl, 500/s")["neighbour"]["took"].as_f64();
    // 300 files at 500 a second, whatever the machine does.
    assert!(steered.unwrap() > 0.5, "{steered:?}");
    let parts = [
        "megabytes on the disk",
        "rmi -f",
        "seconds",
        "rm -rf",
        "p99",
    ];
    check_picture(&picture, &parts);
}

pub fn several_sizes_and_shared_layers() {
    let place = Place::new();
    let args = [
        "reclaim",
        "--files",
        "100,200",
        "--bytes",
        "4MB",
        "--layers",
        "4",
        "--shared",
        "3",
        "--rounds",
        "1",
        "--neighbour",
        "0",
        "--only",
        "layerctl,rm",
    ];
    let report = place.json(&args);
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for (case, files) in cases.iter().zip([100, 200]) {
        // A quarter of it goes, the rest is another image's.
        let entries = case["entries"].as_u64().unwrap();
        assert!((files / 4..files / 4 + 10).contains(&entries), "{entries}");
        let bytes = case["bytes"].as_u64().unwrap();
        assert!((1_000_000..2_000_000).contains(&bytes), "{bytes}");
        check_round(&of(&case["contestants"], "layerctl")["rounds"][0], true);
        assert_eq!(of(&case["contestants"], "rm -rf")["neighbour"], Value::Null);
    }
}

pub fn an_archive_and_a_directory() {
    let store = Store::new();
    let (archive, _) = Archive::of(&app(&["app:1"]));
    let file = store.beside("app.tar");
    archive.write(&file);
    let dir = store.new_dir("dir");
    let mut bench = Command::new(LAYERCTL);
    bench.args(["bench", "reclaim", "--rounds", "2", "--neighbour", "0"]);
    bench.args(["--only", "layerctl,rm"]).arg(&file);
    let run = Run::of(bench.arg("--dir").arg(&dir));
    let out = run.clone().ok();
    let parts = [
        "TO RM -RF",
        "layerctl",
        "rm -rf",
        "medians of 2 rounds",
        "entries",
    ];
    for part in parts {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    assert!(run.stderr.contains("round 2 of 2: rm -rf"), "{run:#?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

pub fn the_overlay_driver() {
    let place = Place::new();
    let rest = ["--neighbour", "0", "--only", "overlay"];
    let report = place.json(&[&SMALL[..], &rest].concat());
    let outcome = of(
        &report["cases"][0]["contestants"],
        "layerctl, overlay driver",
    );
    assert_eq!(outcome["left_out"], Value::Null, "{outcome}");
    check_round(&outcome["rounds"][0], true);
}

pub fn docker() {
    peer("docker");
}

pub fn podman() {
    peer("podman");
}

fn peer(program: &str) {
    let place = Place::new();
    let rest = ["--neighbour", "0", "--shared", "1", "--only", program];
    let report = place.json(&[&SMALL[..], &rest].concat());
    let name = format!("{program} rmi");
    let outcome = of(&report["cases"][0]["contestants"], &name);
    assert_eq!(outcome["left_out"], Value::Null, "{outcome}");
    assert_ne!(outcome["version"], "");
    check_round(&outcome["rounds"][0], false);
}

/// Those that are missing, that fail, and that claim to have removed what is still there.
pub fn peers_without_figures() {
    let podman = "case \"$*\" in *info*) echo 9.9, fake;; esac";
    let scripts = [("docker", "true"), ("podman", podman)];
    let place = Place::with_programs(&["mkfs.ext4", "mount", "rm"], &scripts);
    // Its daemon is not on PATH, but where the system has its own programs.
    let rest = ["--neighbour", "1", "--only", "layerctl,podman"];
    let mut args = [&SMALL[..], &rest].concat();
    let report = place.json(&args);
    let contestants = &report["cases"][0]["contestants"];
    let podman = of(contestants, "podman rmi");
    assert_eq!(podman["version"], "9.9, fake");
    let why = podman["left_out"].as_str().unwrap();
    assert!(why.contains("bytes that were to go"), "{why}");
    assert_eq!(podman["rounds"].as_array().unwrap().len(), 0);
    assert_eq!(podman["neighbour"], Value::Null);
    check_round(&of(contestants, "layerctl")["rounds"][0], true);

    let place = Place::with_programs(
        &["mkfs.ext4", "mount"],
        &[("podman", "echo broken >&2; exit 3")],
    );
    *args.last_mut().unwrap() = "podman,docker";
    let out = place.run(&args).ok();
    assert!(
        out.contains("Left out: podman rmi: podman: broken"),
        "{out}"
    );
    assert!(
        out.contains("Left out: docker rmi: docker is not installed"),
        "{out}"
    );
}

pub fn wrong_arguments() {
    let place = Place::new();
    let run = |args: &[&str]| place.run(args);
    run(&["reclaim", "--layers", "2", "--shared", "2"]).refused_saying(&["--shared", "--layers"]);
    assert_eq!(run(&["reclaim", "--files", "0"]).code, Some(2));
    assert_eq!(run(&["reclaim", "--plot", "a.jpg"]).code, Some(2));
    assert_eq!(
        run(&["reclaim", "--dir", "/tmp"]).code,
        Some(2),
        "--scratch and --dir"
    );
    let refused = |args: &[&str], part: &str| {
        let run = run(args);
        // After what it says of what it does.
        let last = run.stderr.lines().next_back().unwrap();
        assert!(
            last.starts_with("Error: ") && last.contains(part),
            "{run:#?}"
        );
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    };
    let missing = "Error: layerctl: cannot read /nowhere.tar: No such file or directory";
    refused(&["reclaim", "/nowhere.tar"], missing);
    refused(
        &["reclaim", "--disk-size", "1MB"],
        "No space left on device",
    );
}

/// No root, and then a user namespace, as the error suggests.
pub fn without_root() {
    let store = Store::new();
    let dir = store.new_dir("dir");
    let as_user = |before: &[&str], rest: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(before).arg(LAYERCTL).arg("bench").args(SMALL);
        command
            .args(["--neighbour", "0", "--only", "rm"])
            .args(rest);
        Run::of(&mut command)
    };
    as_user(&[], &[]).refused_saying(&["takes root", "unshare --map-root-user", "--dir"]);
    std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).unwrap();
    let rest = ["--dir", dir.to_str().unwrap()];
    let out = as_user(&["unshare", "--map-root-user"], &rest).ok();
    assert!(out.contains("1.00"), "{out}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

/// Until it is ended.
const ENDLESS: [&str; 11] = [
    "reclaim",
    "--only",
    "layerctl",
    "--files",
    "100",
    "--bytes",
    "1MB",
    "--rounds",
    "1000",
    "--neighbour",
    "9",
];

pub fn interrupted() {
    let place = Place::new();
    for (when, signal) in [("round 2 of", Signal::INT), ("making it", Signal::TERM)] {
        let run = place.end_by(&ENDLESS, when, signal);
        assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""));
    }
}

/// Also what it has started and mounted goes, with its loop device.
pub fn killed() {
    let run = Place::new().end_by(&ENDLESS, "round 1 of", Signal::KILL);
    assert_eq!(run.signal, Some(9));
}
