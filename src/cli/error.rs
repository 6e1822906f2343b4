//! Errors on their way to the user: one line each.

use std::fmt::Display;
use std::io::{self, Write as _};

use super::exit_code::Exit;
use crate::sys::reason;

/// What a command fails with.
#[derive(Debug)]
pub enum CommandError {
    /// Not reported yet: the text after `Error: `.
    Message(String),
    /// A container's process cannot be run: the text after `Error: `, and what the program exits with.
    Refused {
        /// The text.
        text: String,
        /// 125, 126 or 127, as Docker's.
        code: u8,
    },
    /// Arguments that do not go together, where that is more than clap can see: the text after `Error: `.
    Usage(String),
    /// The container's process has ended like this, and so does the program.
    Ended(u8),
    /// Reported already, such as one name of several.
    Reported,
    /// The user interrupted it.
    Interrupted,
    /// Whoever read the output has gone away, which is no error: `layerctl images | head -1`.
    BrokenPipe,
}

impl CommandError {
    /// From a text that is no error type's.
    pub fn new(text: impl Into<String>) -> CommandError {
        CommandError::Message(text.into())
    }

    /// Report it, and say how the program ends.
    pub fn report(self) -> Exit {
        match self {
            CommandError::Message(text) => {
                complain(&text);
                Exit::Failure
            }
            CommandError::Refused { text, code } => {
                complain(&text);
                Exit::Code(code)
            }
            CommandError::Usage(text) => {
                complain(&text);
                Exit::Usage
            }
            CommandError::Ended(code) => Exit::Code(code),
            CommandError::Reported => Exit::Failure,
            CommandError::Interrupted => Exit::Interrupted,
            CommandError::BrokenPipe => Exit::Success,
        }
    }
}

/// Print `Error: …` to standard error, in one line whatever the text: names in it may be hostile.
pub fn complain(text: &dyn Display) {
    to_stderr("Error", text);
}

/// Print `Warning: …` to standard error.
pub fn warn(text: &dyn Display) {
    to_stderr("Warning", text);
}

/// Where it cannot be written (a closed pipe, a log on a full disk) there is nobody to be told.
fn to_stderr(kind: &str, text: &dyn Display) {
    writeln!(io::stderr(), "{kind}: {}", one_line(&text.to_string())).unwrap_or_default();
}

fn one_line(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

impl<E: std::error::Error> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        CommandError::Message(error.to_string())
    }
}

/// For what is written to standard output.
pub fn output(error: io::Error) -> CommandError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::BrokenPipe,
        _ => CommandError::Message(format!("cannot write the output: {}", reason(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_only() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
    }
}
