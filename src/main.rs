//! `layerctl`: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    layerctl::cli::run(layerctl::cli::parse())
}
