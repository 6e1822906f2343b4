//! A stand-in for the harness until the real one is merged: runs every case, as root.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod union;
mod union_model;
mod union_mount;
mod union_mounted;
mod union_support;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let cases = [union::CASES, union_model::CASES, union_mount::CASES].concat();
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
