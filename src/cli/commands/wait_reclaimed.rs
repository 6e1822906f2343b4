//! `wait-reclaimed`: block until what went with removed images is gone from the disk.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, warn};
use crate::cli::time::parse_duration;
use crate::container::view;
use crate::db::{Holder, Removed};
use crate::image::removal;
use crate::image::{ResolveError, resolve};
use crate::model::{ImageId, Layer, Phase, human};
use crate::reclaim::execute::{Outcome, reclaim};

/// Arguments of `wait-reclaimed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Give up after so long (90, 90s, 1m30s); for all images together
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// IDs of images that were removed, or unambiguous prefixes of them
    #[arg(required = true, value_name = "IMAGE_ID")]
    images: Vec<String>,
}

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(50);

/// How many layers an error names.
const NAMED: usize = 3;

/// Run `wait-reclaimed`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let end = args
        .timeout
        .and_then(|limit| Instant::now().checked_add(limit));
    for_each(cx, &args.images, |cx, name| {
        let image = find(cx, name)?;
        wait(cx, &image, end)?;
        let removed = cx.db.read(|tx| tx.last_removal(&image))?;
        let Removed { layers, bytes } = removed.unwrap_or(Removed {
            layers: 0,
            bytes: 0,
        });
        let what = if layers == 1 { "layer" } else { "layers" };
        let size = human::size(bytes);
        cx.line(format_args!("Reclaimed: {image} ({layers} {what}, {size})"))?;
        // Whoever reads this acts on it.
        cx.flush()
    })
}

/// The image that is meant: one that was removed.
fn find(cx: &mut Context, name: &str) -> Result<ImageId, CommandError> {
    let snapshot = cx.snapshot()?;
    let present = resolve(&snapshot, name);
    if let Ok(found) = &present
        && found.by_tag.is_some()
    {
        return Ok(found.image.id.clone());
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let mut known: BTreeSet<ImageId> = BTreeSet::new();
    if is_hex {
        known.extend(cx.db.read(|tx| tx.removed_images(hex))?);
    }
    let unknown = match present {
        Ok(found) => {
            known.insert(found.image.id.clone());
            None
        }
        Err(e @ ResolveError::NoSuchImage(_)) => Some(e),
        Err(e) => return Err(e.into()),
    };
    let mut known = known.into_iter();
    match (known.next(), known.next()) {
        (Some(image), None) => Ok(image),
        (Some(_), Some(_)) => Err(CommandError::new(format!(
            "multiple IDs found with provided prefix: {name}"
        ))),
        (None, _) => Err(unknown
            .unwrap_or_else(|| ResolveError::NoSuchImage(name.to_owned()))
            .into()),
    }
}

/// Wait until nothing is left of the removals of an image.
fn wait(cx: &mut Context, image: &ImageId, end: Option<Instant>) -> Result<(), CommandError> {
    let mut unheld: HashSet<i64> = HashSet::new();
    let mut is_first = true;
    loop {
        let left = Left::of(cx, image, &mut unheld)?;
        if left.is_nothing() {
            return match is_first && cx.db.read(|tx| tx.has_image(image))? {
                true => Err(CommandError::new(format!(
                    "image {} has not been removed since it was loaded",
                    image.short()
                ))),
                false => Ok(()),
            };
        }
        is_first = false;
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(CommandError::new(format!(
                "timed out: of image {} there still is {}",
                image.short(),
                left.told()
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What is left on the disk of an image's removals.
#[derive(Debug, Default)]
struct Left {
    /// Layers, and the views that hold each.
    layers: Vec<(Layer, Vec<Holder>)>,
    /// Config and index of the image itself.
    has_own_files: bool,
}

impl Left {
    /// Looks at it, and does what nobody else does: the end of a view whose server was killed is written
    /// down, and what nothing has held for a while, `unheld`, is reclaimed. Its server may be about to do
    /// so: it is given that while.
    fn of(
        cx: &mut Context,
        image: &ImageId,
        unheld: &mut HashSet<i64>,
    ) -> Result<Left, CommandError> {
        for error in view::bury_the_dead(&mut cx.db, &cx.store)? {
            warn(&error);
        }
        let mut layers = cx.db.read(|tx| tx.layers_removed_with(image))?;
        if layers.iter().any(|l| l.phase == Phase::Marking) {
            // Whoever has decided it may have died since.
            for unfollowed in removal::follow_up(&mut cx.db, &cx.store, &[])? {
                if unfollowed
                    .layer
                    .is_some_and(|u| layers.iter().any(|l| l.id == u.id))
                {
                    return Err(unfollowed.error.into());
                }
            }
            layers = cx.db.read(|tx| tx.layers_removed_with(image))?;
        }
        let mut left = Left::default();
        for layer in layers {
            let holders = cx.db.read(|tx| tx.holders_of(layer.id))?;
            if !holders.is_empty() {
                unheld.remove(&layer.id);
            } else if !unheld.insert(layer.id)
                && reclaim(&mut cx.db, &cx.store, &layer, &mut cx.pace)? == Outcome::Reclaimed
            {
                continue;
            }
            left.layers.push((layer, holders));
        }
        if left.layers.is_empty() {
            removal::discard_files(&mut cx.db, &cx.store, image)?;
            left.has_own_files = !cx.store.images_aside(image)?.is_empty();
        }
        Ok(left)
    }

    fn is_nothing(&self) -> bool {
        self.layers.is_empty() && !self.has_own_files
    }

    /// `sha256:… (42.1MB held by container 9b8a7c6d5e4f, PID 123)`, a few of them.
    fn told(&self) -> String {
        if self.layers.is_empty() {
            return "its index, which a view shows".to_owned();
        }
        let one = |(layer, holders): &(Layer, Vec<Holder>)| {
            let holder = |h: &Holder| format!("container {}, PID {}", h.container.short(), h.pid);
            let holders: Vec<String> = holders.iter().map(holder).collect();
            let held = match (holders.is_empty(), layer.phase) {
                (false, _) => format!("held by {}", holders.join("; ")),
                (true, Phase::Reclaiming) => "being reclaimed".to_owned(),
                (true, _) => "held by another process".to_owned(),
            };
            format!("{} ({} {held})", layer.chain, human::size(layer.bytes))
        };
        let named: Vec<String> = self.layers.iter().take(NAMED).map(one).collect();
        let more = match self.layers.len() - named.len() {
            0 => String::new(),
            1 => " and 1 more layer".to_owned(),
            n => format!(" and {n} more layers"),
        };
        named.join(", ") + &more
    }
}
