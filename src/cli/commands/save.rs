//! `save`: images as an archive that Docker, Podman and skopeo read.
//!
//! Its layers are pinned meanwhile: an image that is removed is saved all the same.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::archive::save::{Compress, Format, LayerSource, Options, SaveError, SavedImage, save};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, warn};
use crate::cli::output_file::Output;
use crate::db::Snapshot;
use crate::image::config;
use crate::image::resolve::ResolveError;
use crate::image::save::{Selected, select};
use crate::model::{DiffId, Layer, Phase};
use crate::reclaim::execute;
use crate::reclaim::pins::Pin;
use crate::store::tar_split::{self, TarSplitError};
use crate::sys::descriptors::raise_limit;

/// Arguments of `save`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A docker-archive that is an OCI layout as well, or an OCI layout alone
    #[arg(long, value_enum, default_value_t = FormatName::Docker)]
    format: FormatName,
    /// What the layers are compressed with
    #[arg(long, value_enum, default_value_t = CompressName::None)]
    compress: CompressName,
    /// Names, with all tags of a repository where none is given, or IDs
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatName {
    Docker,
    Oci,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CompressName {
    None,
    Gzip,
    Zstd,
}

/// Run `save`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let selected = select(&snapshot, &args.images)?;
    let mut output = Output::open(args.output.as_deref(), "save image")?;
    // Each layer has its directory open.
    raise_limit();
    let images = configs(cx, &selected)?;
    let spool_dir = cx.store.staging();
    let options = Options {
        format: match args.format {
            FormatName::Docker => Format::Docker,
            FormatName::Oci => Format::Oci,
        },
        compress: match args.compress {
            CompressName::None => None,
            CompressName::Gzip => Some(Compress::Gzip),
            CompressName::Zstd => Some(Compress::Zstd),
        },
        spool_dir: &spool_dir,
    };
    let mut pinned = Pinned::default();
    let saved = pinned
        .acquire(cx, &snapshot, &selected)
        .and_then(|()| save_to(&mut output, &images, &pinned, options));
    let released = pinned.release(cx);
    saved?;
    output.finish()?;
    released
}

fn save_to(
    output: &mut Output,
    images: &[SavedImage],
    layers: &Pinned,
    options: Options<'_>,
) -> Result<(), CommandError> {
    let saved = save(&mut *output, images, layers, options);
    saved.map(drop).map_err(|e| match e {
        SaveError::Write(e) => output.failed(e),
        other => other.into(),
    })
}

fn configs(cx: &Context, selected: &[Selected<'_>]) -> Result<Vec<SavedImage>, CommandError> {
    let saved = |s: &Selected<'_>| {
        let places = s.image.layers.iter();
        let config = match config::raw(&cx.store, &s.image.id) {
            Err(e) if e.is_not_found() => return Err(gone(s)),
            read => read?,
        };
        Ok(SavedImage {
            id: s.image.id.clone(),
            config,
            tags: s.tags.clone(),
            diffs: places.map(|place| place.diff.clone()).collect(),
        })
    };
    selected.iter().map(saved).collect()
}

/// It was removed since the names were looked up.
fn gone(selected: &Selected<'_>) -> CommandError {
    let name = match selected.tags.first() {
        Some(tag) => tag.to_string(),
        None => selected.image.id.to_string(),
    };
    ResolveError::NoSuchImage(name).into()
}

/// The layers of the images, none of which goes as long as this lives.
#[derive(Default)]
struct Pinned {
    pins: BTreeMap<DiffId, Pin>,
    layers: Vec<Layer>,
}

impl Pinned {
    fn acquire(
        &mut self,
        cx: &Context,
        snapshot: &Snapshot,
        selected: &[Selected<'_>],
    ) -> Result<(), CommandError> {
        for s in selected {
            for place in &s.image.layers {
                if self.pins.contains_key(&place.diff) {
                    continue;
                }
                let pin = Pin::acquire(&cx.store, &place.diff)?.ok_or_else(|| gone(s))?;
                self.pins.insert(place.diff.clone(), pin);
                let is_it = |l: &&Layer| l.phase == Phase::Present && l.diff == place.diff;
                self.layers
                    .extend(snapshot.layers.iter().find(is_it).cloned());
            }
        }
        Ok(())
    }

    /// Let go of them, and reclaim those that were removed meanwhile, which this has held up.
    fn release(self, cx: &mut Context) -> Result<(), CommandError> {
        drop(self.pins);
        for layer in &self.layers {
            let now = cx.db.read(|tx| tx.layer(layer.id))?;
            if now.is_some_and(|now| now.phase != Phase::Present)
                && let Err(error) = execute::reclaim(&mut cx.db, &cx.store, layer, &mut cx.pace)
            {
                warn(&error);
            }
        }
        Ok(())
    }
}

impl LayerSource for Pinned {
    type Error = TarSplitError;

    fn length(&self, diff: &DiffId) -> Result<u64, TarSplitError> {
        let pin = self.pins.get(diff).ok_or(TarSplitError::Missing)?;
        tar_split::length(pin.directory())
    }

    fn write(&self, diff: &DiffId, mut out: &mut dyn Write) -> Result<(), TarSplitError> {
        let pin = self.pins.get(diff).ok_or(TarSplitError::Missing)?;
        tar_split::assemble(pin.directory(), &mut out)
    }
}
