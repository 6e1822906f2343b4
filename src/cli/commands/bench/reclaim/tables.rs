//! What was measured, as tables.

use crate::bench::neighbour::Percentiles;
use crate::bench::reclaim::{Case, Outcome, Report, Round};
use crate::cli::table::table;
use crate::model::human;

/// Who everybody is compared with.
pub const REFERENCE: &str = "rm -rf";

/// All of it.
pub fn text(report: &Report) -> String {
    let mut parts = Vec::new();
    for case in &report.cases {
        parts.push(format!("{}\n\n{}", heading(case), times(case)));
        if case.contestants.iter().any(|c| c.neighbour.is_some()) {
            parts.push(format!(
                "What a neighbour waits for meanwhile: p50 / p99 / p99.9\n\n{}",
                neighbour(case)
            ));
        }
        let left_out = case.contestants.iter().filter_map(|c| {
            let why = c.left_out.as_ref()?;
            Some(format!("Left out: {}: {why}", c.name))
        });
        let left_out: Vec<String> = left_out.collect();
        if !left_out.is_empty() {
            parts.push(left_out.join("\n"));
        }
    }
    parts.extend([foot(report).join("\n")]);
    parts.join("\n\n")
}

/// What image it is.
pub fn heading(case: &Case) -> String {
    let size = human::size(case.bytes);
    let entries = case.entries;
    match (&case.size, &case.archive) {
        (Some(made), _) => {
            let layers = match made.layers {
                1 => "1 layer".to_owned(),
                n => format!("{n} layers"),
            };
            let shared = match made.shared {
                0 => String::new(),
                n => format!(", {n} of them shared"),
            };
            format!(
                "An image of {} files in {layers}{shared}: {entries} entries and {size} go",
                made.files
            )
        }
        (None, Some(archive)) => {
            format!("{}: {entries} entries and {size} go", archive.display())
        }
        (None, None) => format!("{entries} entries and {size} go"),
    }
}

/// What the figures are of.
pub fn foot(report: &Report) -> Vec<String> {
    let rounds = match report.rounds {
        1 => "one round".to_owned(),
        n => format!("medians of {n} rounds"),
    };
    vec![
        format!("{rounds}, on {}", report.disk),
        report.machine.describe(),
    ]
}

/// A time, or a dash for what is not measured.
pub fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), human::seconds)
}

/// Whether it was to be timed: what is steered is not.
pub fn is_timed(outcome: &Outcome) -> bool {
    !outcome.rounds.is_empty() || outcome.left_out.is_some()
}

fn times(case: &Case) -> String {
    let reference = case.contestants.iter().find(|c| c.name == REFERENCE);
    let timed = case.contestants.iter().filter(|outcome| is_timed(outcome));
    let rows = timed.map(|outcome| {
        let ratio = reference.and_then(|reference| outcome.ratio_to(reference));
        let back = outcome.median(|round| Some(Outcome::back(round)));
        let rate = |total: u64| back.map(|seconds| total as f64 / seconds);
        let of = |of: fn(&Round) -> Option<f64>| time(outcome.median(of));
        [
            named(outcome),
            or_dash(ratio.map(|ratio| format!("{ratio:.2}"))),
            of(|round| Some(round.rmi)),
            of(|round| round.rmi_force),
            of(|round| round.reclaim),
            time(back),
            or_dash(rate(case.entries).map(|n| format!("{n:.0}"))),
            or_dash(rate(case.bytes).map(|n| format!("{}/s", human::size(n as u64)))),
        ]
    });
    table(
        [
            "",
            "TO RM -RF",
            "RMI",
            "RMI -F, MOUNTED",
            "RECLAIM",
            "SYNCED",
            "ENTRIES/S",
            "BYTES/S",
        ],
        rows,
    )
}

fn neighbour(case: &Case) -> String {
    let rows = case.contestants.iter().flat_map(|outcome| {
        let met = outcome.neighbour.iter();
        met.flat_map(|met| {
            met.operations.iter().zip(0..).map(|(compared, n)| {
                let rise = compared.during.p99.zip(compared.before.p99);
                [
                    match n {
                        0 => format!("{} ({})", outcome.name, human::seconds(met.took)),
                        _ => String::new(),
                    },
                    format!("{:?}", compared.operation).to_lowercase(),
                    or_dash(rise.map(|(during, before)| {
                        format!("{:+.0} %", (during / before - 1.0) * 100.0)
                    })),
                    percentiles(&compared.before),
                    percentiles(&compared.during),
                    percentiles(&compared.after),
                ]
            })
        })
    });
    table(
        [
            "WHILE THIS GOES",
            "IT DOES",
            "P99 RISES",
            "BEFORE",
            "DURING",
            "AFTER",
        ],
        rows,
    )
}

/// `1.2 ms / 3 ms / -`: what there is too little of is a dash.
pub fn percentiles(of: &Percentiles) -> String {
    [of.p50, of.p99, of.p99_9].map(time).join(" / ")
}

fn named(outcome: &Outcome) -> String {
    match outcome.version.as_str() {
        "" => outcome.name.clone(),
        version => format!("{} {version}", outcome.name),
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}
