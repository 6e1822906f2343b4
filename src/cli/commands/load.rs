//! `load`: bring images from an archive into the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::Input;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::on_interrupt;
use crate::cli::load_progress::Shown;
use crate::image::load::{LoadError, load};

/// Arguments of `load`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or an OCI layout directory, instead of the standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Say nothing of the progress
    #[arg(short, long)]
    quiet: bool,
}

/// Run `load`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    use std::io::{IsTerminal as _, stdin};
    let input = match args.input {
        Some(path) => Input::Path(path),
        None if stdin().is_terminal() => {
            return Err(CommandError::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        None => Input::Stdin,
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    on_interrupt(move || flag.store(true, Ordering::Relaxed))?;
    let cancel = || interrupted.load(Ordering::Relaxed);
    let progress = Shown::new(args.quiet);
    let loaded = load(&mut cx.db, &cx.store, input, &cancel, &progress);
    drop(progress);
    let images = loaded.map_err(|e| match e {
        LoadError::Interrupted => CommandError::Interrupted,
        other => other.into(),
    })?;
    for image in images {
        for tag in &image.tags {
            cx.line(format_args!("Loaded image: {tag}"))?;
        }
        if image.tags.is_empty() {
            cx.line(format_args!("Loaded image ID: {}", image.id))?;
        }
    }
    Ok(())
}
