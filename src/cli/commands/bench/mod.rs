//! `bench`: measure reclaiming, views and loading, beside what else does such things.

mod isolated;
mod place;

use crate::bench::BenchError;
use crate::bench::stop::Stop;
use crate::cli::error::CommandError;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {}

/// Run `bench`.
pub fn run(args: Args) -> Result<(), CommandError> {
    isolated::isolated(|stop| measure(args, stop).map_err(told))
}

fn measure(args: Args, _stop: &Stop) -> Result<(), BenchError> {
    match args.what {}
}

/// That somebody interrupts is no message.
fn told(error: BenchError) -> CommandError {
    match error {
        BenchError::Interrupted => CommandError::Interrupted,
        other => other.into(),
    }
}
