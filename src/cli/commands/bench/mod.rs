//! `bench`: measure reclaiming, views and loading, beside what else does such things.

mod fs;
mod isolated;
mod load;
mod output;
mod place;
mod reclaim;

use std::path::PathBuf;

use output::Output;

use crate::bench::BenchError;
use crate::bench::stop::Stop;
use crate::cli::daemon;
use crate::cli::error::CommandError;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// How long images take to go, and what that does to a neighbour; beside docker, podman, rm -rf
    Reclaim(reclaim::Args),
    /// Loading an image, beside tar, docker, podman, skopeo, umoci and containerd
    Load(load::Args),
    /// Views beside kernel overlayfs, fuse-overlayfs and plain files: ratios of times
    Fs(fs::Args),
    /// One step of a workload of `fs`, in a process of its own
    #[command(hide = true)]
    FsWork(fs::WorkArgs),
}

/// Run `bench`.
pub fn run(args: Args) -> Result<(), CommandError> {
    if let What::FsWork(args) = args.what {
        return fs::work(&args);
    }
    isolated::isolated(|stop| measure(args, stop).map_err(told))
}

fn measure(args: Args, stop: &Stop) -> Result<(), BenchError> {
    match args.what {
        What::Reclaim(args) => reclaim::run(args, stop),
        What::Load(args) => load::run(args, stop),
        What::Fs(args) => fs::run(args, stop),
        What::FsWork(_) => Ok(()),
    }
}

/// That somebody interrupts is no message.
fn told(error: BenchError) -> CommandError {
    match error {
        BenchError::Interrupted => CommandError::Interrupted,
        other => other.into(),
    }
}

/// This program, which is measured.
fn this_program() -> PathBuf {
    daemon::this_program().get_program().into()
}
