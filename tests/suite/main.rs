//! A stand-in for the harness until the real one is merged: runs every case as root.
#![allow(
    missing_docs,
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

use libtest_mimic::{Arguments, Trial};

fn main() {
    let cases = [
        archives::CASES,
        archives_hostile::CASES,
        archives_layers::CASES,
        archives_tools::CASES,
    ]
    .concat();
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            Trial::test(name, move || {
                case();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
