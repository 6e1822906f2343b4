//! The two passes.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::contestants::{Contestant, Ours, Peer, RmRf};
use super::{Case, Compared, Kind, Met, Options, Outcome, Report, Round, Source, Subject};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::figures::{in_turn, median};
use crate::bench::image;
use crate::bench::layerctl::Layerctl;
use crate::bench::machine::Machine;
use crate::bench::neighbour::{Latency, Neighbour, Operation, percentiles};
use crate::bench::peers::{Docker, Podman};
use crate::bench::program::Ran;
use crate::bench::space::{Recorder, Recording};
use crate::bench::stop::Stop;

/// Measure; `tell` is told what begins.
///
/// # Errors
/// The disk cannot be made, or this program itself fails. What fails of a contestant is in the report.
pub fn measure(
    options: &Options,
    stop: &Stop,
    mut tell: impl FnMut(&str),
) -> Result<Report, BenchError> {
    let disk = Disk::make(&options.place, stop)?;
    let mut report = Report {
        machine: Machine::this(),
        disk: disk.describe().to_owned(),
        rounds: options.rounds,
        cases: Vec::new(),
    };
    let mut contestants = Entered::all(options, &disk, stop)?;
    for (source, number) in options.images.iter().zip(1..) {
        let of = match options.images.len() {
            1 => String::new(),
            n => format!("image {number} of {n}: "),
        };
        let mut tell = |what: &str| tell(&format!("{of}{what}"));
        tell("making it");
        let subject = subject(options, source, &disk, stop)?;
        let case = Pass {
            options,
            disk: &disk,
            subject: &subject,
            stop,
        };
        report.cases.push(Case {
            size: match source {
                Source::Made(size) => Some(*size),
                Source::Archive(_) => None,
            },
            archive: match source {
                Source::Made(_) => None,
                Source::Archive(path) => Some(path.clone()),
            },
            entries: subject.entries,
            bytes: subject.bytes,
            contestants: case.run(&mut contestants, &mut tell)?,
        });
    }
    // Daemons work on the disk.
    drop(contestants);
    disk.close()?;
    Ok(report)
}

/// Bring the image that is to be measured into being.
fn subject(
    options: &Options,
    source: &Source,
    disk: &Disk,
    stop: &Stop,
) -> Result<Subject, BenchError> {
    let (archive, other) = match source {
        Source::Archive(path) => (path.clone(), None),
        Source::Made(size) => {
            let made = image::make(size, disk.beside());
            made.map_err(BenchError::at("make an image in", disk.beside()))?
        }
    };
    let mut subject = Subject {
        archive,
        other,
        name: String::new(),
        entries: 0,
        bytes: 0,
    };
    let store = Layerctl::new(&options.program, disk.top().join("look"));
    if let Some(other) = &subject.other {
        store.load(other, stop)?;
    }
    let said = store.load(&subject.archive, stop)?.out;
    let loaded = said.lines().filter(|line| line.starts_with("Loaded image"));
    let mut names = loaded
        .filter_map(|line| line.split_once(": "))
        .map(|(_, name)| name);
    subject.name = names
        .next()
        .ok_or_else(|| BenchError::Wrong(format!("load says no name: {said}")))?
        .to_owned();
    let own = subject.own_layers(&store, stop)?;
    subject.entries = own.iter().map(|layer| layer.entries).sum();
    subject.bytes = own.iter().map(|layer| layer.bytes).sum();
    if own.is_empty() {
        // Nothing could be seen to go.
        let name = &subject.name;
        return Err(BenchError::Wrong(format!("no layer goes with {name}")));
    }
    std::fs::remove_dir_all(store.root()).map_err(BenchError::at("delete", store.root()))?;
    Ok(subject)
}

/// A contestant, or why there is none.
struct Entered {
    name: String,
    /// It takes as long as its rate says: that is not timed without a neighbour.
    is_steered: bool,
    contestant: Result<Box<dyn Contestant>, String>,
}

impl Entered {
    /// All that are wanted: the steered ones follow the one that is not.
    fn all(options: &Options, disk: &Disk, stop: &Stop) -> Result<Vec<Entered>, BenchError> {
        let mut entered = Vec::new();
        for kind in Kind::ALL {
            if options.only.is_empty() || options.only.contains(&kind) {
                let contestant = start(kind, options, disk, stop);
                entered.push(Entered::of(kind.name().to_owned(), false, contestant)?);
            }
            if kind != Kind::Layerctl {
                continue;
            }
            for (rate, n) in options.rates.iter().zip(0..) {
                let root = disk.top().join(format!("steered.{n}"));
                let ours = Ours::start(&options.program, root, &[], Some(rate), stop);
                let contestant = ours.map(|ours| Box::new(ours) as Box<dyn Contestant>);
                let name = format!("{}, {rate}", kind.name());
                entered.push(Entered::of(name, true, contestant)?);
            }
        }
        Ok(entered)
    }

    fn of(
        name: String,
        is_steered: bool,
        contestant: Result<Box<dyn Contestant>, BenchError>,
    ) -> Result<Entered, BenchError> {
        let contestant = match contestant {
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            other => other.map_err(|e| e.to_string()),
        };
        Ok(Entered {
            name,
            is_steered,
            contestant,
        })
    }
}

fn start(
    kind: Kind,
    options: &Options,
    disk: &Disk,
    stop: &Stop,
) -> Result<Box<dyn Contestant>, BenchError> {
    stop.check()?;
    let program = options.program.as_path();
    let root = |name: &str| disk.top().join(name);
    Ok(match kind {
        Kind::Layerctl => Box::new(Ours::start(program, root("fuse"), &[], None, stop)?),
        Kind::Overlay => {
            let mount = &["--driver", "overlay"];
            Box::new(Ours::start(program, root("overlay"), mount, None, stop)?)
        }
        Kind::Rm => Box::new(RmRf::start(program, root("rm"), stop)?),
        Kind::Docker => Box::new(Peer::new(
            Docker::start(disk, stop)?,
            Docker::list,
            Docker::remove,
        )),
        Kind::Podman => Box::new(Peer::new(
            Podman::start(disk, stop)?,
            Podman::list,
            Podman::remove,
        )),
    })
}

struct Pass<'a> {
    options: &'a Options,
    disk: &'a Disk,
    subject: &'a Subject,
    stop: &'a Stop,
}

impl Pass<'_> {
    fn run(
        &self,
        entered: &mut [Entered],
        tell: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>, BenchError> {
        let mut outcomes: Vec<Outcome> = entered.iter().map(Outcome::of).collect();
        let order: Vec<usize> = (0..entered.len()).collect();
        for round in 0..self.options.rounds {
            for at in in_turn(&order, round).copied() {
                let of = format!("{} of {}", round + 1, self.options.rounds);
                if entered[at].is_steered {
                    continue;
                }
                self.turn(
                    &mut entered[at],
                    &mut outcomes[at],
                    |pass, contestant, outcome| {
                        tell(&format!("round {of}: {}", outcome.name));
                        outcome.rounds.push(pass.time(contestant)?);
                        Ok(())
                    },
                )?;
            }
        }
        if self.options.neighbour.is_zero() {
            return Ok(outcomes);
        }
        let mut met: Vec<Vec<Watched>> = order.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.rounds {
            for at in in_turn(&order, round).copied() {
                let of = format!("{} of {}", round + 1, self.options.rounds);
                self.turn(
                    &mut entered[at],
                    &mut outcomes[at],
                    |pass, contestant, outcome| {
                        tell(&format!("with a neighbour, round {of}: {}", outcome.name));
                        met[at].push(pass.watch(contestant)?);
                        Ok(())
                    },
                )?;
            }
        }
        for (outcome, watched) in outcomes.iter_mut().zip(met) {
            if outcome.left_out.is_none() {
                outcome.neighbour = together(watched);
            }
        }
        Ok(outcomes)
    }

    /// Let somebody take a turn; if it fails, it is left out from now on, and so are the figures that it has.
    fn turn(
        &self,
        entered: &mut Entered,
        outcome: &mut Outcome,
        turn: impl FnOnce(&Self, &mut dyn Contestant, &mut Outcome) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let (None, Ok(contestant)) = (&outcome.left_out, &mut entered.contestant) else {
            return Ok(());
        };
        match turn(self, contestant.as_mut(), outcome) {
            Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
            Err(e) => {
                outcome.left_out = Some(e.to_string());
                outcome.rounds.clear();
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn time(&self, contestant: &mut dyn Contestant) -> Result<Round, BenchError> {
        contestant.load(self.subject, self.stop)?;
        let full = self.ready()?;
        contestant.warm_up(self.stop)?;
        let (rmi, rmi_synced) = self.synced(|| contestant.remove(self.subject, self.stop))?;
        self.is_back(full)?;
        let mut round = Round {
            rmi,
            rmi_synced,
            rmi_force: None,
            reclaim: None,
            reclaim_synced: None,
        };
        if contestant.deferring().is_none() {
            return Ok(round);
        }
        contestant.load(self.subject, self.stop)?;
        let mut full = 0;
        if let Some(deferring) = contestant.deferring() {
            deferring.hold(self.subject, self.stop)?;
            // Who holds an image uses it: what it has read stays in memory.
            self.disk.sync()?;
            full = self.disk.used()?;
            let removed = deferring.remove_held(self.subject, self.stop)?;
            round.rmi_force = Some(removed.took.as_secs_f64());
        }
        self.ready()?;
        contestant.warm_up(self.stop)?;
        if let Some(deferring) = contestant.deferring() {
            let (reclaim, synced) = self.synced(|| deferring.release(self.stop))?;
            (round.reclaim, round.reclaim_synced) = (Some(reclaim), Some(synced));
            self.is_back(full)?;
        }
        Ok(round)
    }

    /// Everything is written, nothing is cached. Gives the bytes in use.
    fn ready(&self) -> Result<u64, BenchError> {
        self.stop.check()?;
        self.disk.cool()?;
        self.disk.used()
    }

    /// Seconds until a program has ended, and until all is written.
    fn synced(
        &self,
        run: impl FnOnce() -> Result<Ran, BenchError>,
    ) -> Result<(f64, f64), BenchError> {
        let ran = run()?;
        let before = Instant::now();
        self.disk.sync()?;
        let took = ran.took.as_secs_f64();
        Ok((took, took + before.elapsed().as_secs_f64()))
    }

    /// Who has removed nothing has no figures. Some file systems (Btrfs) count later what has gone.
    fn is_back(&self, full: u64) -> Result<(), BenchError> {
        // Of a directory others may be at the same file system.
        if !self.disk.is_ours_alone() {
            return Ok(());
        }
        let wanted = self.subject.bytes / 10 * 9;
        let mut back = 0;
        for _ in 0..100 {
            back = full.saturating_sub(self.disk.used()?);
            if back >= wanted {
                return Ok(());
            }
            self.stop.check()?;
            std::thread::sleep(Duration::from_millis(100));
            self.disk.sync()?;
        }
        let all = self.subject.bytes;
        Err(BenchError::Wrong(format!(
            "of {all} bytes that were to go, {back} have gone"
        )))
    }

    fn watch(&self, contestant: &mut dyn Contestant) -> Result<Watched, BenchError> {
        let start = Instant::now();
        let home = self.disk.top().join("neighbour");
        let neighbour = Neighbour::start(&home, start)?;
        // What the neighbour has is there by now.
        let recorder = Recorder::start(self.disk.top().to_owned(), start);
        let recorded = recorder.and_then(|mut recorder| {
            let spans = self.watch_removal(contestant, &mut recorder);
            let recording = recorder.finish();
            Ok((spans?, recording?))
        });
        // Also where that has failed: it is to move out.
        let latencies = neighbour.finish();
        let (spans, recording) = recorded?;
        Ok(Watched {
            spans,
            latencies: latencies?,
            recording,
        })
    }

    fn watch_removal(
        &self,
        contestant: &mut dyn Contestant,
        recorder: &mut Recorder,
    ) -> Result<Spans, BenchError> {
        recorder.event("load");
        contestant.load(self.subject, self.stop)?;
        if let Some(deferring) = contestant.deferring() {
            deferring.hold(self.subject, self.stop)?;
            recorder.event("view mounted");
        }
        self.ready()?;
        // What follows a sync is over.
        self.pause(Duration::from_millis(500))?;
        let begun = recorder.now();
        self.pause(self.options.neighbour)?;
        let before = begun..recorder.now();
        let from = match contestant.deferring() {
            Some(deferring) => {
                recorder.event("rmi -f");
                deferring.remove_held(self.subject, self.stop)?;
                self.pause(Duration::from_millis(500))?;
                let from = recorder.event("unmounted: reclaim begins");
                deferring.release(self.stop)?;
                from
            }
            None => {
                let from = recorder.event("removal begins");
                contestant.remove(self.subject, self.stop)?;
                from
            }
        };
        let gone = recorder.event("gone");
        self.pause(self.options.neighbour)?;
        Ok(Spans {
            before,
            during: from..gone,
            after: gone..recorder.now(),
        })
    }

    fn pause(&self, long: Duration) -> Result<(), BenchError> {
        let end = Instant::now() + long;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.stop.check()?;
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }
}

impl Outcome {
    fn of(entered: &Entered) -> Outcome {
        let (version, left_out) = match &entered.contestant {
            Ok(contestant) => (contestant.version(), None),
            Err(why) => (String::new(), Some(why.clone())),
        };
        Outcome {
            name: entered.name.clone(),
            version,
            left_out,
            rounds: Vec::new(),
            neighbour: None,
        }
    }
}

/// One removal with a neighbour.
struct Watched {
    latencies: Vec<Latency>,
    recording: Recording,
    spans: Spans,
}

/// Seconds since the beginning of the recording.
struct Spans {
    before: Range<f64>,
    during: Range<f64>,
    after: Range<f64>,
}

/// All rounds as one.
fn together(watched: Vec<Watched>) -> Option<Met> {
    let compared = |operation| {
        let of = |span: fn(&Spans) -> &Range<f64>| {
            let spans = watched
                .iter()
                .map(|w| (w.latencies.as_slice(), span(&w.spans).clone()));
            percentiles(spans, operation)
        };
        Compared {
            operation,
            before: of(|s| &s.before),
            during: of(|s| &s.during),
            after: of(|s| &s.after),
        }
    };
    let took: Vec<f64> = watched
        .iter()
        .map(|w| w.spans.during.end - w.spans.during.start)
        .collect();
    Some(Met {
        operations: Operation::ALL.map(compared).into(),
        took: median(&took)?,
        recording: watched.first()?.recording.clone(),
    })
}
