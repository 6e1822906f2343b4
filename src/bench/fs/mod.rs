//! Union file systems beside each other: the same layers, the same workloads, ratios of their times.
//!
//! Each workload runs on every contestant in turn, so many rounds; the order changes from round to round.
//! Each run has a new upper layer, nothing in memory, a new mount, whatever the workload has to do before, and
//! all of that on the disk when the clock starts; it stops when the workload's last close() has returned. A
//! ratio is the median of the rounds' ratios to the reference, which is the first contestant. What fails, or
//! takes too long, has no ratio but a reason.

pub mod contestants;
pub mod layers;
pub mod report;
pub mod work;
pub mod workloads;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::syncfs;

use self::contestants::{Contestant, Ground};
use self::report::{Entrant, Measured, Report, Runs};
use self::workloads::{Scene, Workload, workload};
use super::BenchError;
use super::disk::Disk;
use super::figures::in_turn;
use super::machine::Machine;
use super::stop::Stop;

/// What is to be measured.
pub struct Settings {
    /// At least 1.
    pub rounds: usize,
    /// In this order.
    pub workloads: Vec<&'static Workload>,
    /// The first one that can be measured is the reference.
    pub contestants: Vec<Contestant>,
    /// Somebody's layers, the topmost first; else they are made.
    pub lower: Vec<PathBuf>,
    /// How long each step of a run may take.
    pub limit: Duration,
    /// This program, which is run for views and for workloads.
    pub program: PathBuf,
}

/// What is done just now.
pub enum Progress<'a> {
    /// Something before the first run.
    Preparing(&'static str),
    /// The next of so many runs, counted from 0.
    Run {
        /// How many there were before.
        done: usize,
        /// How many there will be, if nothing fails.
        total: usize,
        /// The workload's name.
        workload: &'static str,
        /// The contestant.
        contestant: Contestant,
    },
    /// All of a workload.
    Done(&'a Measured),
}

/// Measure on a disk.
///
/// # Errors
/// Interrupted, or no contestant can be measured, or the disk is full: what fails for one alone is in the
/// report.
pub fn measure(
    settings: &Settings,
    disk: &Disk,
    stop: &Stop,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<Report, BenchError> {
    tell(&Progress::Preparing("making the layers"));
    let names = match settings.lower.as_slice() {
        [] => layers::make(disk.top(), stop)?,
        given => layers::adopt(given, disk.top(), stop)?,
    };
    let ground = Ground::new(disk, settings, names.clone(), stop);
    let (merged, beside) = (ground.merged(), ground.beside());
    layers::merge(&names, disk.top(), &merged, stop)?;
    fs::create_dir(&beside).map_err(BenchError::at("create", &beside))?;
    layers::tar_of_a_part(&merged, &beside, stop)?;

    tell(&Progress::Preparing(
        "loading the layers, and looking who is here",
    ));
    let entries = count_in_process(&ground, &merged)?;
    let mut loaded = None;
    let mut entrants = Vec::new();
    for contestant in &settings.contestants {
        entrants.push(entrant(*contestant, &ground, entries, &mut loaded)?);
    }
    let able: Vec<Contestant> = entrants
        .iter()
        .filter(|entrant| entrant.error.is_none())
        .map(|entrant| entrant.contestant)
        .collect();
    let Some(reference) = able.first().copied() else {
        let why = entrants
            .iter()
            .filter_map(|e| Some((e.contestant, e.error.as_ref()?)));
        let why: Vec<String> = why
            .map(|(who, why)| format!("{}: {why}", who.name()))
            .collect();
        return Err(BenchError::Wrong(format!(
            "nothing can be measured: {}",
            why.join("; ")
        )));
    };

    let can_cool = disk.cool()?;
    let mut workloads = Vec::new();
    let total = settings.workloads.len() * settings.rounds * able.len();
    for (n, workload) in settings.workloads.iter().enumerate() {
        let missing = workload
            .needs
            .iter()
            .find(|path| !merged.join(path).exists());
        let reason = match missing {
            Some(path) => Some(format!("the layers have no {path}")),
            None if workload.is_cold && !can_cool => {
                Some("dropping what is in memory takes root".to_owned())
            }
            None => None,
        };
        let mut runs: Vec<Runs> = able
            .iter()
            .map(|contestant| Runs::of(*contestant))
            .collect();
        let rounds = if reason.is_none() { settings.rounds } else { 0 };
        for round in 0..rounds {
            let order: Vec<usize> = (0..able.len()).collect();
            for (turn, at) in in_turn(&order, round).enumerate() {
                let runs = &mut runs[*at];
                tell(&Progress::Run {
                    done: (n * settings.rounds + round) * able.len() + turn,
                    total,
                    workload: workload.name,
                    contestant: runs.contestant,
                });
                if runs.error.is_some() {
                    continue;
                }
                match run(runs.contestant, workload, &ground) {
                    Ok(seconds) => runs.seconds.push(seconds),
                    Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                    Err(e) => runs.error = Some(e.to_string()),
                }
            }
        }
        let measured = Measured::of(workload.name, reason, runs, reference);
        tell(&Progress::Done(&measured));
        workloads.push(measured);
    }
    Ok(Report {
        benchmark: "fs",
        machine: Machine::this(),
        disk: disk.describe().to_owned(),
        rounds: settings.rounds,
        reference,
        geometric_means: report::means(&able, &workloads),
        contestants: entrants,
        workloads,
    })
}

/// Whether a contestant can be measured: it shows as many entries as there are.
fn entrant(
    contestant: Contestant,
    ground: &Ground<'_>,
    entries: u64,
    loaded: &mut Option<Result<(), String>>,
) -> Result<Entrant, BenchError> {
    let mut entrant = Entrant {
        contestant,
        version: None,
        error: None,
    };
    let mut look = || {
        entrant.version = ground.version(contestant)?;
        if matches!(
            contestant,
            Contestant::Layerctl | Contestant::LayerctlCached
        ) {
            let load = || match ground.load() {
                Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
                other => Ok(other.map_err(|e| e.to_string())),
            };
            if loaded.is_none() {
                *loaded = Some(load()?);
            }
            if let Some(Err(why)) = loaded {
                return Err(BenchError::Wrong(why.clone()));
            }
        }
        let tree = ground.begin(contestant, None)?;
        let shown = count_in_process(ground, &tree.top);
        match ground.end(tree, shown)? {
            shown if shown == entries => Ok(()),
            shown => Err(BenchError::Wrong(format!(
                "it shows {shown} entries where there are {entries}"
            ))),
        }
    };
    match look() {
        Ok(()) => {}
        Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
        Err(e) => entrant.error = Some(e.to_string()),
    }
    Ok(entrant)
}

fn count_in_process(ground: &Ground<'_>, top: &Path) -> Result<u64, BenchError> {
    let ran = ground.work("count", "-", top).run(ground.stop)?;
    said(&ran.out)
}

/// Seconds of one run.
fn run(
    contestant: Contestant,
    workload: &Workload,
    ground: &Ground<'_>,
) -> Result<f64, BenchError> {
    let tree = ground.begin(contestant, Some(workload))?;
    let top = tree.top.clone();
    let timed = || {
        let step = |step| ground.work(step, workload.name, &top).run(ground.stop);
        step("prepare")?;
        match workload.is_cold {
            true => ground.disk.cool().map(drop)?,
            false => ground.disk.sync()?,
        }
        said(&step("run")?.out)
    };
    ground.end(tree, timed())
}

fn said<T: std::str::FromStr>(text: &str) -> Result<T, BenchError> {
    let number = text.trim().parse();
    number.map_err(|_| BenchError::Wrong(format!("a workload said {text:?}, which is no number")))
}

/// In a process of its own: one step of a workload, `prepare` or `run`, in the tree at `top`; or `count`. Gives
/// what it has to say: the seconds of `run`, how many entries there are.
///
/// # Errors
/// What the tree answers.
pub fn work_in_process(step: &str, name: &str, top: &Path, beside: &Path) -> io::Result<String> {
    let scene = Scene { top, beside };
    let find = || workload(name).ok_or_else(|| io::Error::other(format!("no workload {name}")));
    match step {
        "count" => work::count(top).map(|entries| entries.to_string()),
        "prepare" => {
            (find()?.prepare)(&scene)?;
            // What a cache of the view has still to write; the disk's own comes after.
            syncfs(fs::File::open(top)?)?;
            Ok(String::new())
        }
        "run" => {
            let run = find()?.run;
            let started = Instant::now();
            run(&scene)?;
            Ok(started.elapsed().as_secs_f64().to_string())
        }
        _ => Err(io::Error::other(format!("no step {step}"))),
    }
}
