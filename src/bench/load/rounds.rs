//! The rounds: everybody is first, second, … in turn, and the figures that come of it.

use std::time::Instant;

use super::contestants::{Contestant, Kind};
use super::forms::{Archive, Form, Image};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::figures::{in_turn, median, median_ratio};
use crate::bench::stop::Stop;
use crate::model::human;

/// One load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// From the start of the program until the file system is synced.
    pub seconds: f64,
    /// The largest resident set of the process that was started, in bytes.
    pub peak_memory: u64,
    /// Bytes that the file system has in use more than before the first load of all.
    pub on_disk: u64,
}

/// What came of a contestant and a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the layers were compressed.
    pub form: Form,
    /// A turn for each round, or why there are no figures.
    pub turns: Result<Vec<Turn>, String>,
}

impl Outcome {
    /// The median, in seconds.
    pub fn seconds(&self) -> Option<f64> {
        median(&self.each(|turn| turn.seconds))
    }

    /// The median of what another one took as well, round by round.
    pub fn ratio_to(&self, reference: &Outcome) -> Option<f64> {
        let seconds = |outcome: &Outcome| outcome.each(|turn| turn.seconds);
        median_ratio(&seconds(self), &seconds(reference))
    }

    /// The median, in bytes.
    fn on_disk(&self) -> Option<f64> {
        median(&self.each(|turn| turn.on_disk as f64))
    }

    fn each(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().flatten().map(of).collect()
    }
}

/// A contestant with what came of it.
#[derive(Debug)]
pub struct Entry {
    /// Who.
    pub kind: Kind,
    /// Its version, and what of its configuration explains a figure; or why it does not take part.
    pub version: Result<String, BenchError>,
    /// Its resident set is but a client's.
    pub has_daemon: bool,
    /// For each form; of none where it does not take part.
    pub outcomes: Vec<Outcome>,
}

impl Entry {
    /// One of which nothing is known yet.
    pub fn new(kind: Kind, contestant: Result<&Contestant, BenchError>) -> Entry {
        Entry {
            kind,
            has_daemon: contestant.as_ref().is_ok_and(|c| c.has_daemon()),
            version: contestant.map(|c| c.version().to_owned()),
            outcomes: Vec::new(),
        }
    }

    /// What came of a form.
    pub fn outcome(&self, form: Form) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.form == form)
    }

    /// The largest resident set of all forms and rounds, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        let turns = self.outcomes.iter().flat_map(|o| o.turns.iter().flatten());
        turns.map(|turn| turn.peak_memory).max()
    }
}

/// Let contestants load every form in every round, and add to the entries, by their indices, what came of it.
/// Who has failed once with a form is not asked for it again.
///
/// # Errors
/// Somebody interrupts, or the disk fails.
pub fn take_turns(
    entries: &mut [Entry],
    contestants: &[(usize, Contestant)],
    image: &Image,
    rounds: usize,
    disk: &Disk,
    stop: &Stop,
    tell: &dyn Fn(&str),
) -> Result<(), BenchError> {
    disk.sync()?;
    let empty = disk.used()?;
    for archive in &image.archives {
        let form = archive.form.name();
        for (n, _) in contestants {
            entries[*n].outcomes.push(Outcome {
                form: archive.form,
                turns: Ok(Vec::new()),
            });
        }
        for round in 0..rounds {
            for (n, contestant) in in_turn(contestants, round) {
                let Entry { kind, outcomes, .. } = &mut entries[*n];
                let Some(outcome) = outcomes.last_mut() else {
                    continue;
                };
                let Ok(turns) = &mut outcome.turns else {
                    continue;
                };
                let said = match take_turn(contestant, archive, empty, disk, stop) {
                    Ok(turn) => {
                        turns.push(turn);
                        format!("{:.2} s", turn.seconds)
                    }
                    Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                    Err(e) => {
                        let why = e.to_string();
                        outcome.turns = Err(why.clone());
                        why
                    }
                };
                let round = round + 1;
                tell(&format!(
                    "{form}, round {round} of {rounds}, {}: {said}",
                    kind.name()
                ));
            }
        }
    }
    if disk.is_ours_alone() {
        doubt(entries);
    }
    Ok(())
}

fn take_turn(
    contestant: &Contestant,
    archive: &Archive,
    empty: u64,
    disk: &Disk,
    stop: &Stop,
) -> Result<Turn, BenchError> {
    archive.warm()?;
    disk.sync()?;
    let started = Instant::now();
    let loaded = contestant.load(archive, stop).and_then(|ran| {
        disk.sync()?;
        Ok((ran, started.elapsed(), disk.used()?))
    });
    // Also what it has left where it failed.
    let cleared = contestant.clear(stop);
    let (ran, took, used) = loaded?;
    cleared?;
    Ok(Turn {
        seconds: took.as_secs_f64(),
        peak_memory: ran.peak_memory,
        on_disk: used.saturating_sub(empty),
    })
}

/// A program that ends well may have loaded nothing. Where it leaves less than a tenth of what tar leaves
/// (this program, where tar does not take part), its time is no figure. Pure.
fn doubt(entries: &mut [Entry]) {
    for form in Form::ALL {
        let of = |kind| {
            let entry = entries.iter().find(|entry| entry.kind == kind)?;
            entry.outcome(form)?.on_disk()
        };
        let Some(expected) = of(Kind::Tar).or_else(|| of(Kind::Layerctl)) else {
            continue;
        };
        let outcomes = entries.iter_mut().flat_map(|entry| &mut entry.outcomes);
        for outcome in outcomes.filter(|outcome| outcome.form == form) {
            if let Some(on_disk) = outcome.on_disk().filter(|bytes| *bytes < expected / 10.0) {
                outcome.turns = Err(format!(
                    "it has left {} on the disk, where {} was to be expected",
                    human::size(on_disk as u64),
                    human::size(expected as u64)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, turns: &[(f64, u64)]) -> Entry {
        let turn = |(seconds, on_disk): &(f64, u64)| Turn {
            seconds: *seconds,
            peak_memory: *on_disk / 2,
            on_disk: *on_disk,
        };
        Entry {
            kind,
            version: Ok("1".to_owned()),
            has_daemon: false,
            outcomes: vec![Outcome {
                form: Form::Gzip,
                turns: Ok(turns.iter().map(turn).collect()),
            }],
        }
    }

    #[test]
    fn figures() {
        let tar = entry(Kind::Tar, &[(1.0, 100), (4.0, 100), (2.0, 100)]);
        let docker = entry(Kind::Docker, &[(3.0, 100), (4.0, 90), (4.0, 100)]);
        let (tar, of_docker) = (&tar.outcomes[0], &docker.outcomes[0]);
        assert_eq!(of_docker.seconds(), Some(4.0));
        assert_eq!(of_docker.ratio_to(tar), Some(2.0));
        assert_eq!(docker.peak_memory(), Some(50));
        assert!(docker.outcome(Form::Plain).is_none());
    }

    #[test]
    fn who_has_loaded_nothing_has_no_figure() {
        let mut entries = [
            entry(Kind::Tar, &[(1.0, 1000)]),
            entry(Kind::Podman, &[(0.1, 99)]),
            entry(Kind::Docker, &[(2.0, 100)]),
        ];
        doubt(&mut entries);
        let figures = entries.each_ref().map(|entry| entry.outcomes[0].seconds());
        assert_eq!(figures, [Some(1.0), None, Some(2.0)]);
        assert_eq!(
            entries[1].outcomes[0].turns,
            Err("it has left 99B on the disk, where 1kB was to be expected".to_owned())
        );
        let mut alone = [entry(Kind::Podman, &[(0.1, 0)])];
        doubt(&mut alone);
        assert_eq!(alone[0].outcomes[0].seconds(), Some(0.1));
    }
}
