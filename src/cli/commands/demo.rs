//! `demo`
use crate::cli::error::CommandError;
/// Arguments
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Run
pub fn run(_: Args) -> Result<(), CommandError> {
    Ok(())
}
