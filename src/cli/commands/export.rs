//! `export`: everything that a container shows, as a tar.

use std::path::PathBuf;

use crate::archive::tree_tar::{TreeTar, TreeTarError};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output_file::Output;
use crate::cli::view_access::{Access, with_view};

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
}

/// Run `export`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let mut output = Output::open(args.output.as_deref(), "export container")?;
    with_view(cx, &args.container, Access::Read, |_, view| {
        let mut tar = TreeTar::new(&mut output);
        let written = tar
            .tree(view.root(), b"")
            .and_then(|()| tar.finish().map(drop));
        written.map_err(|e| match e {
            TreeTarError::Write(e) => output.failed(e),
            other => other.into(),
        })
    })?;
    output.finish()
}
