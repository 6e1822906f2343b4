//! What every command works with: the store, its database, and where the output goes.

use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{CommandError, output, warn};
use crate::container::view;
use crate::db::{Db, Snapshot};
use crate::image::removal;
use crate::model::Rate;
use crate::reclaim::pace::Pace;
use crate::store::{Store, reserve};

/// The environment variable that says how fast whatever reclaims may do so.
pub const RATE: &str = "LAYERCTL_RECLAIM_RATE";

/// An open store, looked after.
pub struct Context {
    /// The store's files.
    pub store: Store,
    /// Its database.
    pub db: Db,
    /// How fast layers go that this process reclaims: [`RATE`]'s, unless it was told otherwise.
    pub pace: Pace,
    out: io::BufWriter<io::Stdout>,
    lost: Option<Lost>,
}

/// Why nothing more is printed.
#[derive(Debug, Clone)]
enum Lost {
    /// Whoever read it has gone away.
    NoReader,
    /// It cannot be written.
    Failed(String),
}

impl Context {
    /// Open the store, and set right what a crash has left that cannot wait: views whose server
    /// is dead, and decisions that the tree has not followed yet.
    pub fn open(root: Option<&Path>) -> Result<Context, CommandError> {
        // Before anything is changed, and also by commands that reclaim nothing: a view's server must not
        // find out about it when the view ends.
        let rate = default_rate()?;
        let root = match root {
            Some(root) => root.to_owned(),
            None => default_root()?,
        };
        let store = Store::open(&root)?;
        reserve::spend(store.root())?;
        let mut db = Db::open(&store.database())?;
        store.furnish()?;
        reserve::keep(store.root())?;
        for error in view::bury_the_dead(&mut db, &store)? {
            warn(&error);
        }
        if !db.read(|tx| tx.layers_to_move())?.is_empty() {
            // No reason for a command to fail that has nothing to do with it.
            match removal::follow_up(&mut db, &store, &[]) {
                Ok(unfollowed) => unfollowed.iter().for_each(|u| warn(&u.error)),
                Err(error) => warn(&error),
            }
        }
        Ok(Context {
            store,
            db,
            pace: Pace::new(rate),
            out: io::BufWriter::new(io::stdout()),
            lost: None,
        })
    }

    /// The store as it is now.
    pub fn snapshot(&mut self) -> Result<Snapshot, CommandError> {
        Ok(Snapshot::take(&mut self.db)?)
    }

    /// Print a line to standard output. That it cannot be printed is told by [`Context::flush`], and is
    /// no reason to leave undone what is to be done: `rmi a b | head -1` removes both.
    pub fn line(&mut self, text: impl fmt::Display) -> Result<(), CommandError> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Print bytes to standard output: names of files are no text.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        if self.lost.is_none() {
            let written = self.out.write_all(bytes);
            self.note(written);
        }
        Ok(())
    }

    /// Print a value as JSON in one line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string(value)?;
        self.line(text)
    }

    /// Bring what was printed to its reader.
    ///
    /// # Errors
    /// Also that something printed before could not be.
    pub fn flush(&mut self) -> Result<(), CommandError> {
        self.flush_and_go_on();
        match &self.lost {
            None => Ok(()),
            Some(Lost::NoReader) => Err(CommandError::BrokenPipe),
            Some(Lost::Failed(text)) => Err(CommandError::new(text.clone())),
        }
    }

    /// Bring what was printed to its reader, before something else is told. Whether that is there is
    /// told at the end.
    pub fn flush_and_go_on(&mut self) {
        if self.lost.is_none() {
            let flushed = self.out.flush();
            self.note(flushed);
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        if let Err(e) = written {
            self.lost = Some(match output(e) {
                CommandError::Message(text) => Lost::Failed(text),
                _ => Lost::NoReader,
            });
        }
    }
}

/// `$LAYERCTL_RECLAIM_RATE`, else no limit.
fn default_rate() -> Result<Rate, CommandError> {
    let Some(text) = env::var_os(RATE).filter(|text| !text.is_empty()) else {
        return Ok(Rate::UNLIMITED);
    };
    let rate = text.to_string_lossy().parse::<Rate>();
    rate.map_err(|e| CommandError::new(format!("{RATE}: {e}")))
}

/// `$LAYERCTL_ROOT`, else `/var/lib/layerctl` for root, else `$XDG_DATA_HOME/layerctl`.
fn default_root() -> Result<PathBuf, CommandError> {
    if let Some(root) = env::var_os("LAYERCTL_ROOT").filter(|root| !root.is_empty()) {
        return Ok(root.into());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/layerctl".into());
    }
    let data = env::var_os("XDG_DATA_HOME")
        .filter(|d| !d.is_empty())
        .map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    data.or_else(home)
        .map(|data| data.join("layerctl"))
        .ok_or_else(|| CommandError::new("where is the store? Set --root, LAYERCTL_ROOT or HOME"))
}
