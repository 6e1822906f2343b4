//! `import`: an image of the files in a tar.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::Input;
use crate::archive::platform::Platform;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::on_interrupt;
use crate::image::import::{Import, ImportError, import};
use crate::model::Reference;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An instruction of a Dockerfile for the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A remark
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// What its programs run on, instead of this machine's
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<Platform>,
    /// A tar, plain or compressed with gzip, xz or zstd; - is the standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Run `import`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let tag = args.name.as_deref().map(str::parse::<Reference>);
    let tag = tag.transpose()?;
    let text = args.file.to_string_lossy();
    let input = match text.as_ref() {
        "-" => Input::Stdin,
        url if url.starts_with("http://") || url.starts_with("https://") => {
            return Err(CommandError::new(format!(
                "{url}: nothing is downloaded: pipe what a download gives to `layerctl import -`"
            )));
        }
        _ => Input::Path(args.file.clone()),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    on_interrupt(move || flag.store(true, Ordering::Relaxed))?;
    let cancel = || interrupted.load(Ordering::Relaxed);
    let what = Import {
        message: &args.message,
        changes: &args.change,
        platform: &args.platform.unwrap_or_else(Platform::host),
        tag,
    };
    let image = import(&mut cx.db, &cx.store, input, &what, &cancel).map_err(|e| match e {
        ImportError::Interrupted => CommandError::Interrupted,
        other => other.into(),
    })?;
    cx.line(image)
}
