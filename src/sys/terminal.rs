//! Terminals: raw mode, and their size (termios(3), `TIOCSWINSZ`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Rows and columns.
pub type Size = (u16, u16);

/// Whether this is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// How large a terminal is.
pub fn size(fd: impl AsFd) -> io::Result<Size> {
    let size = tcgetwinsize(fd)?;
    Ok((size.ws_row, size.ws_col))
}

/// Tell a terminal how large it is; the processes in its foreground get SIGWINCH.
pub fn set_size(fd: impl AsFd, (rows, columns): Size) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(fd, size)?)
}

/// A terminal in raw mode: each key is passed on as it is, Ctrl-C too. As before when dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Puts a terminal into raw mode.
    pub fn new(terminal: impl AsFd) -> io::Result<Raw> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Raw { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before) {
            tracing::warn!("cannot set the terminal to what it was: {e}");
        }
    }
}
