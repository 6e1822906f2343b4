//! The end-to-end tests: the built program on stores, views and disks of this machine.
//!
//! A harness of its own, because a test that cannot run here must not count as passed: what the
//! machine lacks makes it `ignored`, with the reason in the list and once more before the run.

// This crate is tests throughout: a panic is how they fail, and nothing is used from outside.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod harness;
mod rmi;

use harness::needs::{Case, Need};
use libtest_mimic::{Arguments, Completion, Trial};

/// Registers functions under `topic::name`, all with the same needs.
macro_rules! cases {
    ($needs:expr => $($topic:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
        vec![$($(Case {
            name: concat!(stringify!($topic), "::", stringify!($name)),
            run: $topic::$name,
            needs: $needs,
        }),*),*]
    };
}

const STORE: &[Need] = &[Need::Disk, Need::Root];
const VIEW: &[Need] = &[Need::Disk, Need::Root, Need::Fuse];

fn cases() -> Vec<Case> {
    [
        cases!(STORE => rmi::{unused_by_tag}),
        cases!(VIEW => rmi::{mounted_by_tag}),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let mut skipped = Vec::new();
    for case in cases() {
        let unmet = case.needs.iter().find_map(|need| need.unmet());
        if let Some(why) = &unmet {
            skipped.push(format!("skipped: {}: needs {why}", case.name));
        }
        let run = case.run;
        // Not the ignored flag: `--include-ignored` would run what cannot run.
        trials.push(Trial::ignorable_test(case.name, move || {
            Ok(match unmet {
                Some(why) => Completion::ignored_with(format!("needs {why}")),
                None => {
                    run();
                    Completion::Completed
                }
            })
        }));
    }
    if !arguments.list {
        for line in skipped {
            eprintln!("{line}");
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    harness::disk::release();
    conclusion.exit_code()
}
