//! `bench reclaim`: how long images take to go, and what that does to a neighbour.

mod picture;
mod tables;

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::Output;
use super::place::Place;
use crate::bench::BenchError;
use crate::bench::image::Size;
use crate::bench::reclaim::{Kind, Options, Source, measure};
use crate::bench::stop::Stop;

/// Arguments of `bench reclaim`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Regular files of the image that is made; several numbers: an image each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "10000",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    files: Vec<u64>,
    /// Bytes in its files
    #[arg(long, value_name = "SIZE", default_value = "500MB")]
    bytes: ByteSize,
    /// Its layers
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=500))]
    layers: u64,
    /// How many of them another image has as well, so that they stay
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared: u64,
    /// Images that `load` takes, instead of made ones
    #[arg(conflicts_with_all = ["files", "bytes", "layers", "shared"])]
    archive: Vec<PathBuf>,
    /// How often everybody takes a turn
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// How long a neighbour on the same disk is watched before and after each removal; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(..=3600))]
    neighbour: u64,
    /// Beside full speed, reclaiming steered by this, as LAYERCTL_RECLAIM_RATE says it; may be repeated
    #[arg(long, value_name = "RATE")]
    rate: Vec<String>,
    /// Who takes part, beside those that are steered
    #[arg(long, value_name = "WHO,…", value_delimiter = ',')]
    only: Vec<Who>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

/// Who takes part, as it is said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    Layerctl,
    /// Its views served by kernel overlayfs
    Overlay,
    Rm,
    Docker,
    Podman,
}

impl From<Who> for Kind {
    fn from(who: Who) -> Kind {
        match who {
            Who::Layerctl => Kind::Layerctl,
            Who::Overlay => Kind::Overlay,
            Who::Rm => Kind::Rm,
            Who::Docker => Kind::Docker,
            Who::Podman => Kind::Podman,
        }
    }
}

/// Run `bench reclaim`.
pub fn run(args: Args, stop: &Stop) -> Result<(), BenchError> {
    if args.shared >= args.layers {
        return Err(BenchError::Wrong(
            "--shared is to leave a layer that goes: less than --layers".to_owned(),
        ));
    }
    let made = args.files.iter().map(|files| {
        Source::Made(Size {
            files: *files,
            bytes: args.bytes.as_u64(),
            layers: args.layers,
            shared: args.shared,
        })
    });
    let given = args.archive.iter().cloned().map(Source::Archive);
    let options = Options {
        program: super::this_program(),
        place: args.place.to_where(),
        images: match args.archive.is_empty() {
            true => made.collect(),
            false => given.collect(),
        },
        rounds: usize::try_from(args.rounds).unwrap_or(usize::MAX),
        neighbour: Duration::from_secs(args.neighbour),
        rates: args.rate,
        only: args.only.into_iter().map(Kind::from).collect(),
    };
    let progress = args.output.progress();
    let report = measure(&options, stop, |what| progress.tell(what))?;
    drop(progress);
    args.output.give(
        &report,
        || tables::text(&report),
        || picture::Reclaimed::of(&report),
    )
}
