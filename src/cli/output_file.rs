//! `-o FILE`: a file that is there whole or not at all, or standard output.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::NamedTempFile;

use super::error::{CommandError, output};
use super::exit_code::Exit;
use super::interrupt::on_interrupt;
use crate::store::StoreError;
use crate::sys::reason;

/// Where a command's archive goes.
pub enum Output {
    /// Under another name until it is whole.
    File(BufWriter<NamedTempFile>, PathBuf),
    /// Whoever reads it.
    Stdout(BufWriter<io::Stdout>),
}

const BUFFER: usize = 128 << 10;

impl Output {
    /// Opens a file or, without one, standard output, unless that is a terminal. `what` is what the
    /// command does, for errors: `export container`. The texts are Docker's.
    pub fn open(file: Option<&Path>, what: &str) -> Result<Output, CommandError> {
        let Some(path) = file else {
            if io::stdout().is_terminal() {
                return Err(CommandError::new(
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect",
                ));
            }
            return Ok(Output::Stdout(BufWriter::with_capacity(
                BUFFER,
                io::stdout(),
            )));
        };
        check_path(path).map_err(|why| CommandError::new(format!("failed to {what}: {why}")))?;
        if path.is_dir() {
            let e = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(StoreError::at("create", path)(e).into());
        }
        let unfinished = Arc::new(Mutex::new(None::<PathBuf>));
        let known = Arc::clone(&unfinished);
        on_interrupt(move || {
            // Not while it is made: then it would stay.
            if let Some(path) = &*known.lock() {
                // It may have its own name by now.
                std::fs::remove_file(path).unwrap_or_default();
            }
            std::process::exit(Exit::Interrupted.code().into());
        })?;
        let mut unfinished = unfinished.lock();
        let temporary = tempfile::Builder::new()
            .prefix(".layerctl-")
            .tempfile_in(directory_of(path))
            .map_err(StoreError::at("create", path))?;
        *unfinished = Some(temporary.path().to_owned());
        let temporary = BufWriter::with_capacity(BUFFER, temporary);
        Ok(Output::File(temporary, path.to_owned()))
    }

    /// All was written: the file gets its name.
    pub fn finish(self) -> Result<(), CommandError> {
        match self {
            Output::File(file, path) => {
                let file = file.into_inner().map_err(|e| e.into_error());
                let file = file.map_err(StoreError::at("write", &path))?;
                let sync = |file: &File| file.sync_all();
                sync(file.as_file()).map_err(StoreError::at("write", &path))?;
                let named = file.persist(&path).map_err(|e| e.error);
                named
                    .map(drop)
                    .map_err(|e| StoreError::at("create", &path)(e).into())
            }
            Output::Stdout(mut out) => out.flush().map_err(output),
        }
    }

    /// What it means that something could not be written.
    pub fn failed(&self, error: io::Error) -> CommandError {
        match self {
            Output::File(_, path) => CommandError::new(format!(
                "cannot write {}: {}",
                path.display(),
                reason(&error)
            )),
            Output::Stdout(_) => output(error),
        }
    }
}

/// The directory that a path's last component is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Whether something can be written there, by Docker's rules and in its words.
pub fn check_path(path: &Path) -> Result<(), String> {
    let directory = directory_of(path);
    if !directory.exists() {
        let directory = directory.display();
        return Err(format!(
            "invalid output path: directory \"{directory}\" does not exist"
        ));
    }
    match std::fs::metadata(path).map(|meta| meta.file_type()) {
        Ok(kind) if !kind.is_file() && !kind.is_dir() => {
            let got = match kind.is_char_device() || kind.is_block_device() {
                true => "a device",
                false => "an irregular file",
            };
            let path = path.display();
            Err(format!(
                "invalid output path: \"{path}\" must be a directory or a regular file: got {got}"
            ))
        }
        _ => Ok(()),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::File(file, _) => file.write(bytes),
            Output::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::File(file, _) => file.flush(),
            Output::Stdout(out) => out.flush(),
        }
    }
}
