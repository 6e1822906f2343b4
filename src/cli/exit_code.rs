//! The exit codes of the program, all of them.

/// What a command tells the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Success,
    /// Something was refused or failed, and was reported.
    Failure,
    /// The arguments make no sense, as clap exits.
    Usage,
    /// The user interrupted it: 128 + SIGINT, as shells count.
    Interrupted,
    /// That of a container's process, or 125, 126 and 127 where it could not be run.
    Code(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Interrupted => 130,
            Exit::Code(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit.code())
    }
}
