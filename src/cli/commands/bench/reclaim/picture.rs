//! What was measured, as a picture: bytes on the disk over time, times, and what the neighbour met.

use plotters::prelude::*;

use super::tables::{foot, heading, is_timed, percentiles, time};
use crate::bench::neighbour::Operation;
use crate::bench::reclaim::{Case, Outcome, Report, Round};
use crate::cli::plot::bars::{Bar, Bars, Group};
use crate::cli::plot::timeline::{Line, Timeline};
use crate::cli::plot::{Area, Failed, Picture, footed, titled};

const MB: f64 = 1e6;
const TITLE: u32 = 34;
const LEGEND: u32 = 26;
const TIMELINE: u32 = 420;

/// The picture.
pub struct Reclaimed {
    /// Of the last image; not without the second pass.
    timeline: Option<(String, Timeline)>,
    bars: Vec<Bars>,
    foot: Vec<String>,
}

impl Reclaimed {
    /// Of a report.
    pub fn of(report: &Report) -> Reclaimed {
        let timeline = report.cases.last().and_then(timeline);
        let mut bars = Vec::new();
        for case in &report.cases {
            bars.push(times(case));
            bars.extend(fsyncs(case));
        }
        Reclaimed {
            timeline,
            bars,
            foot: foot(report),
        }
    }
}

impl Picture for Reclaimed {
    fn size(&self) -> (u32, u32) {
        let timeline = self.timeline.as_ref().map_or(0, |_| TITLE + TIMELINE);
        let bars = self
            .bars
            .iter()
            .map(|b| TITLE + LEGEND + b.height().unsigned_abs());
        let foot = self.foot.len() as u32 * 16 + 8;
        (1000, timeline + bars.sum::<u32>() + foot)
    }

    fn paint<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static,
    {
        let mut rest = footed(area, &self.foot)?;
        let mut next = |height: u32| -> Result<Area<DB>, Failed> {
            let (part, below) = rest.split_vertically(i32::try_from(height)?);
            rest = below;
            Ok(part)
        };
        if let Some((title, timeline)) = &self.timeline {
            timeline.paint(&titled(&next(TITLE + TIMELINE)?, title)?)?;
        }
        for bars in &self.bars {
            let part = next(TITLE + LEGEND + bars.height().unsigned_abs())?;
            bars.paint_below_title(&titled(&part, &bars.title)?)?;
        }
        Ok(())
    }
}

/// Bytes over time: everybody's are laid side by side at the moment at which layers begin to go. The events
/// are the first one's.
fn timeline(case: &Case) -> Option<(String, Timeline)> {
    let recording =
        |outcome: &'_ Outcome| outcome.neighbour.as_ref().map(|met| met.recording.clone());
    let first = case.contestants.iter().find(|o| o.neighbour.is_some())?;
    let events = recording(first)?.events;
    let zero = events.first()?.0;
    let begin = begin(&events)?;
    let lines = case.contestants.iter().filter_map(|outcome| {
        let recording = recording(outcome)?;
        let shift = begin - self::begin(&recording.events)? - zero;
        // What was there before, such as the neighbour's files, is not what this is about.
        let empty = recording.used.first()?.1;
        let points = recording
            .used
            .iter()
            .map(|(at, used)| (at + shift, used.saturating_sub(empty) as f64 / MB));
        Some(Line {
            name: outcome.name.clone(),
            points: points.filter(|point| point.0 >= 0.0).collect(),
        })
    });
    let timeline = Timeline {
        axis: "megabytes on the disk".to_owned(),
        lines: lines.collect(),
        events: events
            .into_iter()
            .map(|(at, what)| (at - zero, what))
            .collect(),
    };
    Some((
        format!("{} (events: {})", heading(case), first.name),
        timeline,
    ))
}

/// When layers begin to go.
fn begin(events: &[(f64, String)]) -> Option<f64> {
    let begins = |event: &&(f64, String)| event.1.contains("begins");
    events.iter().find(begins).map(|event| event.0)
}

fn times(case: &Case) -> Bars {
    type Of = fn(&Round) -> Option<f64>;
    let what: [(&str, Of); 3] = [
        ("rmi, image not in use", |round| Some(round.rmi_synced)),
        ("rmi -f, view mounted", |round| round.rmi_force),
        ("reclaim, after the view's end", |round| {
            round.reclaim_synced
        }),
    ];
    let timed = case.contestants.iter().filter(|outcome| is_timed(outcome));
    let groups = timed.map(|outcome| {
        let bars = what.iter().filter_map(|(_, of)| {
            let value = outcome.median(of);
            let is_there = outcome.left_out.is_none() && !outcome.rounds.is_empty();
            match (value, is_there) {
                (Some(value), _) => Some(Bar {
                    value: Some(value * 1e3),
                    text: time(Some(value)),
                }),
                // It does no such thing.
                (None, true) => Some(Bar {
                    value: None,
                    text: "-".to_owned(),
                }),
                (None, false) => None,
            }
        });
        let mut bars: Vec<Bar> = bars.collect();
        if bars.is_empty() {
            bars.push(Bar {
                value: None,
                text: outcome.left_out.clone().unwrap_or_default(),
            });
        }
        Group {
            name: outcome.name.clone(),
            bars,
        }
    });
    Bars {
        title: heading(case),
        axis: "milliseconds, until the file system is synced (rmi -f: until it returns)".to_owned(),
        legend: what.map(|(name, _)| name.to_owned()).into(),
        groups: groups.collect(),
        logarithmic: true,
        foot: Vec::new(),
    }
}

fn fsyncs(case: &Case) -> Option<Bars> {
    let groups: Vec<Group> = case
        .contestants
        .iter()
        .filter_map(|outcome| {
            let met = outcome.neighbour.as_ref()?;
            let fsync = met
                .operations
                .iter()
                .find(|o| o.operation == Operation::Fsync)?;
            let bars = [&fsync.before, &fsync.during, &fsync.after].map(|of| Bar {
                value: of.p99.map(|p99| p99 * 1e3),
                text: percentiles(of),
            });
            Some(Group {
                name: format!("{} ({})", outcome.name, time(Some(met.took))),
                bars: bars.into(),
            })
        })
        .collect();
    (!groups.is_empty()).then(|| Bars {
        title: "What a neighbour's fsync waits for, and how long the removal takes then".to_owned(),
        axis: "milliseconds, p99 (in words: p50 / p99 / p99.9)".to_owned(),
        legend: ["before", "during", "after"].map(str::to_owned).into(),
        groups,
        logarithmic: false,
        foot: Vec::new(),
    })
}
