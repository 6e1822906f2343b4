//! `bench fs`: views beside kernel overlayfs, fuse-overlayfs and plain files.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use super::Output;
use super::place::Place;
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::fs::contestants::Contestant;
use crate::bench::fs::report::{Measured, Report, Runs};
use crate::bench::fs::workloads::WORKLOADS;
use crate::bench::fs::{Progress, Settings, measure, work_in_process};
use crate::bench::stop::Stop;
use crate::cli::error::{CommandError, output};
use crate::cli::plot::bars::{Bar, Bars, Group};

/// Arguments of `bench fs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often everybody takes a turn in each workload
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// These workloads alone
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(WORKLOADS.iter().map(|w| w.name)))]
    only: Vec<String>,
    /// Who takes part; ratios are to the first of them that can be measured [default: all but
    /// layerctl-overlay]
    #[arg(long, alias = "peers", value_name = "NAME,…", value_delimiter = ',',
        value_parser = PossibleValuesParser::new(Contestant::ALL.map(Contestant::name)))]
    contestants: Vec<String>,
    /// Layers, the topmost first, instead of made ones
    #[arg(long, value_name = "DIR:DIR…", value_delimiter = ':')]
    lower: Vec<PathBuf>,
    /// How long each step of a run may take: it has failed then
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    limit: u64,
    /// Tell what workloads and contestants there are, and measure nothing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

/// Run `bench fs`.
pub fn run(args: Args, stop: &Stop) -> Result<(), BenchError> {
    if args.list {
        let written = writeln!(std::io::stdout(), "{}", list());
        return match written.map_err(output) {
            Ok(()) | Err(CommandError::BrokenPipe) => Ok(()),
            Err(_) => Err(BenchError::Wrong("cannot write the output".to_owned())),
        };
    }
    let is_asked = |name: &str| args.only.is_empty() || args.only.iter().any(|n| n == name);
    let asked = WORKLOADS.iter().filter(|w| is_asked(w.name));
    let settings = Settings {
        rounds: usize::try_from(args.rounds).unwrap_or(usize::MAX),
        workloads: asked.collect(),
        contestants: contestants(&args.contestants),
        lower: args.lower,
        limit: Duration::from_secs(args.limit),
        program: super::this_program(),
    };
    let progress = args.output.progress();
    let is_terminal = std::io::stderr().is_terminal();
    let disk = Disk::make(&args.place.to_where(), stop)?;
    let report = measure(&settings, &disk, stop, &mut |what| match what {
        Progress::Preparing(what) => progress.tell(what),
        Progress::Run {
            done,
            total,
            workload,
            contestant,
        } if is_terminal => {
            let name = contestant.name();
            progress.tell(&format!(
                "{workload} on {name}, run {} of {total}",
                done + 1
            ));
        }
        Progress::Run { .. } => {}
        Progress::Done(measured) => progress.tell(&line(measured)),
    })?;
    drop(progress);
    disk.close()?;
    args.output
        .give(&report, || text(&report), || picture(&report))
}

/// In the order in which they are asked for.
fn contestants(names: &[String]) -> Vec<Contestant> {
    let find = |name: &String| Contestant::ALL.into_iter().find(|c| c.name() == name);
    let mut found: Vec<Contestant> = Vec::new();
    for contestant in names.iter().filter_map(find) {
        if !found.contains(&contestant) {
            found.push(contestant);
        }
    }
    match found.is_empty() {
        true => Contestant::USUAL.to_vec(),
        false => found,
    }
}

/// Workloads and contestants.
fn list() -> String {
    let workloads = WORKLOADS.iter().map(|w| (w.name, w.what));
    let contestants = Contestant::ALL.map(|c| (c.name(), c.what()));
    let line = |(name, what): (&str, &str)| format!("  {name:19} {what}\n");
    format!(
        "Workloads:\n{}Contestants:\n{}",
        workloads.map(line).collect::<String>(),
        contestants.map(line).concat().trim_end()
    )
}

/// What is told of a workload when it is done.
fn line(measured: &Measured) -> String {
    if let Some(why) = &measured.not_run {
        return format!("{}: not run: {why}", measured.name);
    }
    let of = |runs: &Runs| {
        let figures = match (runs.ratio, runs.median_seconds) {
            (Some(_), Some(seconds)) => format!("{} ({seconds:.3} s)", ratio(runs.ratio)),
            (None, Some(seconds)) => format!("{seconds:.3} s"),
            _ => "failed".to_owned(),
        };
        format!("{} {figures}", runs.contestant.name())
    };
    let all: Vec<String> = measured.results.iter().map(of).collect();
    format!("{}: {}", measured.name, all.join(", "))
}

const MEAN: &str = "geometric mean";

fn ratio(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        // A file that is written in place, where others copy it first.
        Some(ratio) if ratio < 0.095 => format!("{ratio:.4}"),
        Some(ratio) => format!("{ratio:.2}"),
    }
}

/// What there is room for in a picture.
const DRAWN: std::ops::RangeInclusive<f64> = 0.1..=50.0;

/// The table, and beneath it what has no figure and why, and of what the figures are.
fn text(report: &Report) -> String {
    let measured = || report.geometric_means.iter().map(|mean| mean.contestant);
    let names = measured().map(|contestant| contestant.name().to_owned());
    let reference = report.reference;
    let mut rows = vec![
        [String::new()]
            .into_iter()
            .chain(names)
            .chain(["1.00 is".to_owned()])
            .collect::<Vec<_>>(),
    ];
    for workload in &report.workloads {
        let of_reference = workload.result(reference).and_then(|r| r.median_seconds);
        let seconds = of_reference.map_or_else(|| "-".to_owned(), |s| format!("{s:.3} s"));
        let ratios = measured().map(|c| ratio(workload.result(c).and_then(|runs| runs.ratio)));
        rows.push(
            [workload.name.to_owned()]
                .into_iter()
                .chain(ratios)
                .chain([seconds])
                .collect(),
        );
    }
    let means = report.geometric_means.iter().map(|mean| ratio(mean.ratio));
    rows.push(
        [MEAN.to_owned()]
            .into_iter()
            .chain(means)
            .chain([String::new()])
            .collect(),
    );
    let mut lines = vec![format!(
        "Times as ratios to {}'s; less is better",
        reference.name()
    )];
    lines.extend(aligned(&rows));
    lines.extend(without_figures(report));
    lines.push(foot(report).join("\n"));
    lines.join("\n")
}

/// The first column to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let text: String = cells
            .map(|(n, (cell, width))| match n {
                0 => format!("{cell:width$}"),
                _ => format!("   {cell:>width$}"),
            })
            .collect();
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A line for whoever, and whatever, has no figure.
fn without_figures(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for entrant in &report.contestants {
        if let Some(why) = &entrant.error {
            lines.push(format!(
                "{}: not measured: {why}",
                entrant.contestant.name()
            ));
        }
    }
    for workload in &report.workloads {
        if let Some(why) = &workload.not_run {
            lines.push(format!("{}: not run: {why}", workload.name));
        }
        for runs in &workload.results {
            if let Some(why) = &runs.error {
                lines.push(format!(
                    "{} on {}: failed: {why}",
                    workload.name,
                    runs.contestant.name()
                ));
            }
        }
    }
    lines
}

/// Of what the figures are.
fn foot(report: &Report) -> [String; 2] {
    let rounds = match report.rounds {
        1 => "1 round".to_owned(),
        n => format!("medians of {n} rounds"),
    };
    let versions = report.contestants.iter().filter_map(|entrant| {
        let version = entrant.version.as_ref()?;
        let name = entrant.contestant.name();
        // One version for all that this program does.
        (name == "layerctl" || name == "fuse-overlayfs").then(|| format!("{name} {version}"))
    });
    let what: Vec<String> = [rounds, report.disk.clone()]
        .into_iter()
        .chain(versions)
        .collect();
    [what.join(", "), report.machine.describe()]
}

/// The table as bars, without the reference, which is always 1.
fn picture(report: &Report) -> Bars {
    let others: Vec<Contestant> = report
        .geometric_means
        .iter()
        .map(|mean| mean.contestant)
        .filter(|contestant| *contestant != report.reference)
        .collect();
    let bar = |value: Option<f64>| Bar {
        value: value.map(|value| value.clamp(*DRAWN.start(), *DRAWN.end())),
        text: match value {
            None => "failed".to_owned(),
            Some(value) if DRAWN.contains(&value) => ratio(Some(value)),
            Some(value) => format!("{} (its bar is cut)", ratio(Some(value))),
        },
    };
    let run = report.workloads.iter().filter(|w| w.not_run.is_none());
    let mut groups: Vec<Group> = run
        .map(|workload| Group {
            name: workload.name.to_owned(),
            bars: others
                .iter()
                .map(|c| bar(workload.result(*c).and_then(|runs| runs.ratio)))
                .collect(),
        })
        .collect();
    let means = report.geometric_means.iter();
    groups.push(Group {
        name: MEAN.to_owned(),
        bars: means
            .filter(|mean| mean.contestant != report.reference)
            .map(|mean| bar(mean.ratio))
            .collect(),
    });
    let reference = report.reference.name();
    Bars {
        title: format!("The same layers, the same work: times beside those of {reference}"),
        axis: format!("time / time of {reference} (to the left of 1: faster)"),
        legend: others.iter().map(|c| c.name().to_owned()).collect(),
        groups,
        logarithmic: true,
        foot: foot(report).to_vec(),
    }
}

/// Arguments of the hidden command that does one step of a workload.
#[derive(Debug, clap::Args)]
pub struct WorkArgs {
    /// prepare, run or count
    step: String,
    /// The workload
    name: String,
    /// The tree
    top: PathBuf,
    /// What is not in it
    beside: PathBuf,
}

/// Do one step of a workload, and print what it has to say.
pub fn work(args: &WorkArgs) -> Result<(), CommandError> {
    let said = work_in_process(&args.step, &args.name, &args.top, &args.beside)?;
    writeln!(std::io::stdout(), "{said}").map_err(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fs::report::{Entrant, means};
    use crate::bench::machine::Machine;

    fn report() -> Report {
        let runs = |contestant, seconds: &[f64], error: Option<&str>| Runs {
            seconds: seconds.to_vec(),
            error: error.map(str::to_owned),
            ..Runs::of(contestant)
        };
        let workloads = vec![
            Measured::of(
                "stat-walk-warm",
                None,
                vec![
                    runs(Contestant::Overlayfs, &[0.1], None),
                    runs(Contestant::Layerctl, &[0.25], None),
                    runs(Contestant::Directory, &[], Some("took longer than 120s")),
                ],
                Contestant::Overlayfs,
            ),
            Measured::of(
                "untar",
                Some("the layers have no etc".to_owned()),
                Vec::new(),
                Contestant::Overlayfs,
            ),
        ];
        let able = [
            Contestant::Overlayfs,
            Contestant::Layerctl,
            Contestant::Directory,
        ];
        let entrant = |contestant, version: Option<&str>, error: Option<&str>| Entrant {
            contestant,
            version: version.map(str::to_owned),
            error: error.map(str::to_owned),
        };
        Report {
            benchmark: "fs",
            machine: Machine {
                processor: String::new(),
                processors: 2,
                memory: 8 << 30,
                kernel: "Linux 6.1.0".to_owned(),
            },
            disk: "a new ext4 on a loop device".to_owned(),
            rounds: 1,
            reference: Contestant::Overlayfs,
            contestants: vec![
                entrant(Contestant::Overlayfs, None, None),
                entrant(Contestant::Layerctl, Some("0.1.0"), None),
                entrant(Contestant::FuseOverlayfs, None, Some("is not installed")),
                entrant(Contestant::Directory, None, None),
            ],
            geometric_means: means(&able, &workloads),
            workloads,
        }
    }

    #[test]
    fn a_table_with_reasons() {
        let expected = "\
Times as ratios to overlayfs's; less is better
                 overlayfs   layerctl   directory   1.00 is
stat-walk-warm        1.00       2.50           -   0.100 s
untar                    -          -           -         -
geometric mean        1.00       2.50           -
fuse-overlayfs: not measured: is not installed
stat-walk-warm on directory: failed: took longer than 120s
untar: not run: the layers have no etc
1 round, a new ext4 on a loop device, layerctl 0.1.0
2 processors, 8 GiB, Linux 6.1.0";
        assert_eq!(text(&report()), expected);
    }

    #[test]
    fn a_picture_without_the_reference() {
        let picture = picture(&report());
        assert_eq!(picture.legend, ["layerctl", "directory"]);
        let groups = picture
            .groups
            .iter()
            .map(|g| (g.name.as_str(), g.bars.len()));
        assert_eq!(
            groups.collect::<Vec<_>>(),
            [("stat-walk-warm", 2), (MEAN, 2)]
        );
        assert_eq!(picture.groups[0].bars[0].value, Some(2.5));
        assert_eq!(picture.groups[0].bars[1].value, None);
    }

    #[test]
    fn small_ratios() {
        let shown = [1.0, 0.1, 0.0949, 0.0021].map(|value| ratio(Some(value)));
        assert_eq!(shown, ["1.00", "0.10", "0.0949", "0.0021"]);
    }

    #[test]
    fn who_takes_part() {
        let names = |names: &[&str]| -> Vec<&str> {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            contestants(&names)
                .into_iter()
                .map(Contestant::name)
                .collect()
        };
        assert_eq!(names(&[])[0], "overlayfs");
        assert_eq!(
            names(&["directory", "layerctl", "directory"]),
            ["directory", "layerctl"]
        );
        assert!(list().contains("\n  copy-up-big "));
    }
}
