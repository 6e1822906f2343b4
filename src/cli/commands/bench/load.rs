//! `bench load`: loading, beside tar, Docker, Podman, skopeo, umoci and containerd.

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::place::Place;
use super::{Output, this_program};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::load::contestants::Kind;
use crate::bench::load::forms::Form;
use crate::bench::load::rounds::{Entry, Outcome};
use crate::bench::load::{Measured, Plan, measure};
use crate::bench::machine::Machine;
use crate::bench::stop::Stop;
use crate::cli::plot::bars::{Bar, Bars, Group};
use crate::cli::table::table_of;

/// Arguments of `bench load`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Any docker-archive, OCI archive or layout; else an image is made of this machine's own files
    archive: Option<PathBuf>,
    /// How often everybody loads; a figure is the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How the layers are compressed [default: all of these]
    #[arg(long, value_enum, value_name = "FORM", value_delimiter = ',')]
    only: Vec<FormName>,
    /// Who loads beside this program [default: all of these]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    peers: Vec<Peer>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormName {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Tar,
    Docker,
    Podman,
    Skopeo,
    Umoci,
    Ctr,
}

impl Args {
    fn forms(&self) -> Vec<Form> {
        let is_asked = |name| self.only.is_empty() || self.only.contains(&name);
        let name = |form: &Form| match form {
            Form::Plain => FormName::Plain,
            Form::Gzip => FormName::Gzip,
            Form::Zstd => FormName::Zstd,
        };
        let asked = Form::ALL.into_iter().filter(|form| is_asked(name(form)));
        asked.collect()
    }

    fn contestants(&self) -> Vec<Kind> {
        let peers = [
            (Peer::Tar, Kind::Tar),
            (Peer::Docker, Kind::Docker),
            (Peer::Podman, Kind::Podman),
            (Peer::Skopeo, Kind::Skopeo),
            (Peer::Umoci, Kind::Umoci),
            (Peer::Ctr, Kind::Ctr),
        ];
        let is_asked = |name| self.peers.is_empty() || self.peers.contains(&name);
        let peers = peers.into_iter().filter(|(name, _)| is_asked(*name));
        [Kind::Layerctl]
            .into_iter()
            .chain(peers.map(|(_, kind)| kind))
            .collect()
    }
}

/// Run `bench load`.
pub fn run(args: Args, stop: &Stop) -> Result<(), BenchError> {
    let plan = Plan {
        archive: args.archive.clone(),
        forms: args.forms(),
        contestants: args.contestants(),
        rounds: args.rounds.into(),
        layerctl: this_program(),
    };
    let disk = Disk::make(&args.place.to_where(), stop)?;
    let progress = args.output.progress();
    let measured = measure(&plan, &disk, stop, &|what| progress.tell(what));
    drop(progress);
    let kind = disk.describe().to_owned();
    let closed = disk.close();
    let report = Report {
        measured: measured?,
        forms: plan.forms,
        rounds: plan.rounds,
        disk: kind,
        machine: Machine::this(),
    };
    closed?;
    args.output
        .give(&report.json(), || report.text(), || report.picture())
}

/// What was measured, with what the figures depend on.
struct Report {
    measured: Measured,
    forms: Vec<Form>,
    rounds: usize,
    disk: String,
    machine: Machine,
}

impl Report {
    fn text(&self) -> String {
        let capitals = |form: &Form| form.name().to_uppercase();
        let mut headings = vec!["CONTESTANT".to_owned()];
        headings.extend(self.forms.iter().map(capitals));
        headings.push("PEAK RSS".to_owned());
        let rows = self.measured.entries.iter().map(|entry| self.row(entry));
        let mut lines = vec![table_of(&headings, rows), String::new()];
        lines.extend(self.notes());
        lines.extend(self.reasons());
        lines.join("\n")
    }

    fn row(&self, entry: &Entry) -> Vec<String> {
        let version = entry.version.as_deref().unwrap_or_default();
        let mut row = vec![format!("{} {version}", entry.kind.name())];
        row.extend(self.forms.iter().map(|form| self.cell(entry, *form, "")));
        row.push(match self.peak_memory(entry) {
            _ if entry.has_daemon => "(client)".to_owned(),
            Some(Ok(bytes)) => megabytes(bytes),
            Some(Err(least)) => format!("< {}", megabytes(least)),
            None => "-".to_owned(),
        });
        row
    }

    /// `1.46 s (1.00)`, or why not.
    fn cell(&self, entry: &Entry, form: Form, unit: &str) -> String {
        match (&entry.version, entry.outcome(form)) {
            (Err(BenchError::NotInstalled(_)), _) => "not installed".to_owned(),
            (Err(_), _) | (_, None) => "does not start".to_owned(),
            (Ok(_), Some(outcome)) => match (outcome.seconds(), self.ratio(outcome)) {
                (None, _) => "failed".to_owned(),
                (Some(seconds), Some(ratio)) => format!("{seconds:.2} s ({ratio:.2}{unit})"),
                (Some(seconds), None) => format!("{seconds:.2} s"),
            },
        }
    }

    fn ratio(&self, outcome: &Outcome) -> Option<f64> {
        let mut entries = self.measured.entries.iter();
        let tar = entries.find(|entry| entry.kind == Kind::Tar)?;
        outcome.ratio_to(tar.outcome(outcome.form)?)
    }

    /// In bytes; an error is what it is less than.
    fn peak_memory(&self, entry: &Entry) -> Option<Result<u64, u64>> {
        let least = self.measured.least_memory;
        entry.peak_memory().map(|peak| match peak > least {
            true => Ok(peak),
            false => Err(least),
        })
    }

    /// What the figures are of.
    fn notes(&self) -> Vec<String> {
        let image = &self.measured.image;
        let sizes = image.archives.iter().map(|archive| {
            let (form, size) = (archive.form.name(), megabytes(archive.bytes));
            format!("{form} {size}")
        });
        let count = |n: usize, what: &str| match n {
            1 => format!("1 {what}"),
            n => format!("{n} {what}s"),
        };
        vec![
            format!(
                "Median of {}, in turn; from the page cache, until the disk is synced. In brackets: as a multiple of tar's.",
                count(self.rounds, "round")
            ),
            format!(
                "Image: {}, {}; as an archive: {}.",
                image.name,
                count(image.layers, "layer"),
                sizes.collect::<Vec<_>>().join(", ")
            ),
            format!("Disk: {}.", self.disk),
            format!("Machine: {}.", self.machine.describe()),
        ]
    }

    /// Why figures are missing, beyond what the table says.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for entry in &self.measured.entries {
            let name = entry.kind.name();
            match &entry.version {
                Err(BenchError::NotInstalled(program)) if program == name => {}
                Err(e) => reasons.push(format!("{name}: {e}")),
                Ok(_) => reasons.extend(entry.outcomes.iter().filter_map(|outcome| {
                    let why = outcome.turns.as_ref().err()?;
                    let said = why
                        .strip_prefix(name)
                        .and_then(|why| why.strip_prefix(": "));
                    let said = said.unwrap_or(why);
                    Some(format!("{name}, {}: {said}", outcome.form.name()))
                })),
            }
        }
        reasons
    }

    fn json(&self) -> Value {
        let archive = |form: &Form| {
            let mut archives = self.measured.image.archives.iter();
            archives.find(|a| a.form == *form).map(|a| a.bytes)
        };
        let archives = self
            .forms
            .iter()
            .map(|f| (f.name().to_owned(), json!(archive(f))));
        let image = &self.measured.image;
        json!({
            "machine": self.machine,
            "disk": self.disk,
            "image": {
                "name": image.name,
                "layers": image.layers,
                "archive_bytes": Value::Object(archives.collect()),
            },
            "rounds": self.rounds,
            "contestants": self.measured.entries.iter().map(|e| self.entry(e)).collect::<Vec<_>>(),
        })
    }

    fn entry(&self, entry: &Entry) -> Value {
        let outcome = |outcome: &Outcome| {
            let runs = outcome.turns.iter().flatten().map(
                |turn| json!({ "seconds": turn.seconds, "peak_memory_bytes": turn.peak_memory }),
            );
            json!({
                "form": outcome.form.name(),
                "median_seconds": outcome.seconds(),
                "ratio_to_tar": self.ratio(outcome),
                "failed": outcome.turns.as_ref().err(),
                "runs": runs.collect::<Vec<_>>(),
            })
        };
        json!({
            "name": entry.kind.name(),
            "version": entry.version.as_ref().ok(),
            "missing": entry.version.as_ref().err().map(BenchError::to_string),
            "peak_memory_is_of_client": entry.has_daemon,
            "forms": entry.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        })
    }

    fn picture(&self) -> Bars {
        let there = || self.measured.entries.iter().filter(|e| e.version.is_ok());
        let bar = |entry: &Entry, form| Bar {
            value: entry.outcome(form).and_then(Outcome::seconds),
            text: self.cell(entry, form, " × tar"),
        };
        let group = |form: &Form| Group {
            name: match form {
                Form::Plain => "not compressed".to_owned(),
                Form::Gzip | Form::Zstd => form.name().to_owned(),
            },
            bars: there().map(|entry| bar(entry, *form)).collect(),
        };
        let versions = there().map(|entry| {
            let version = entry.version.as_deref().unwrap_or_default();
            format!("{} {version}", entry.kind.name())
        });
        let mut foot = self.notes();
        foot.push(versions.collect::<Vec<_>>().join("; "));
        Bars {
            title: "Time to load an image, by the compression of its layers".to_owned(),
            axis: "seconds (less is better)".to_owned(),
            legend: there().map(|entry| entry.kind.name().to_owned()).collect(),
            groups: self.forms.iter().map(group).collect(),
            logarithmic: false,
            foot,
        }
    }
}

/// Always in the same unit: they are to be compared.
fn megabytes(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    match megabytes {
        ..10.0 => format!("{megabytes:.1} MB"),
        _ => format!("{megabytes:.0} MB"),
    }
}
