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

mod archives;
mod archives_hostile;
mod archives_layers;
mod archives_support;
mod archives_tools;
mod bad_archives;
mod bad_input;
mod bench_fs;
mod bench_load;
mod bench_reclaim;
mod bench_support;
mod cases;
mod chaos;
mod commit;
mod concurrency;
mod container_files;
mod cp;
mod crash;
mod demo;
mod driver_overlay;
mod events_follow;
mod exact;
mod exact_bytes;
mod exact_images;
mod exact_support;
mod exact_trees;
mod experiments;
mod fsck;
mod full_disk;
mod fuzz;
#[path = "../fuzz/checks/mod.rs"]
mod fuzz_checks;
mod handles;
mod harness;
mod hostile_bombs;
mod hostile_cuts;
mod hostile_layers;
mod hostile_support;
mod hostile_tars;
mod import;
mod index;
mod interrupts;
mod listing;
mod load;
mod load_memory;
mod metacopy;
mod namespaces;
mod overlay;
mod overlay_podman;
mod places;
mod power;
mod random;
mod rmi;
mod rmi_options;
mod run;
mod run_chaos;
mod run_many;
mod run_moments;
mod run_options;
mod run_removal;
mod run_states;
mod run_support;
mod run_terminal;
mod run_trouble;
mod safeguards;
mod samples;
mod save;
mod save_tools;
mod sharing;
mod steering;
mod syncs;
mod union;
mod union_caching;
mod union_failures;
mod union_indexed;
mod union_io;
mod union_model;
mod union_model_layers;
mod union_model_mounted;
mod union_mount;
mod union_mounted;
mod union_peers;
mod union_plain;
mod union_support;
mod union_trouble;
mod view;
mod waiting;

use harness::needs::Case;
use harness::watchdog::watch;
use libtest_mimic::{Arguments, Completion, Trial};

/// Something of the case's name to be asked whether it is selected.
fn placeholder(case: &Case) -> Trial {
    Trial::test(case.name, || Ok(()))
}

fn main() -> std::process::ExitCode {
    union_mounted::serve_if_told();
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let mut skipped = Vec::new();
    for case in cases::cases() {
        // Looked up only for what is to run: mounting a disk to see whether it can be done takes time.
        let selected = !arguments.list && !arguments.is_filtered_out(&placeholder(&case));
        let unmet = selected.then(|| case.needs.iter().find_map(|need| need.unmet()));
        let unmet = unmet.flatten();
        if let Some(why) = &unmet {
            skipped.push(format!("skipped: {}: needs {why}", case.name));
        }
        let run = case.run;
        // Not the ignored flag: `--include-ignored` would run what cannot run.
        trials.push(Trial::ignorable_test(case.name, move || {
            Ok(match unmet {
                Some(why) => Completion::ignored_with(format!("needs {why}")),
                None => {
                    let _watch = watch(case.name);
                    run();
                    Completion::Completed
                }
            })
        }));
    }
    for line in skipped {
        eprintln!("{line}");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    archives_tools::release();
    harness::disk::release();
    conclusion.exit_code()
}
