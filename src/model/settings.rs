//! What a container was told at its creation: the image's config and the options of `create`, put
//! together, so that it can be started and entered when its image is gone from the books.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the process of a container is to run. Kept as JSON; what an older store lacks is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The program and its first arguments, or none.
    pub entrypoint: Vec<String>,
    /// The program where there is no entry point, and arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Absolute; empty is `/`.
    pub working_dir: String,
    /// `USER[:GROUP]`, names of the image or numbers; empty is root.
    pub user: String,
    /// Directories and files of the host that the process sees.
    pub binds: Vec<Bind>,
    /// The process has a terminal.
    pub tty: bool,
    /// Its standard input stays open, for whoever attaches.
    pub open_stdin: bool,
    /// Its root directory cannot be written to.
    pub read_only: bool,
    /// Which network it sees.
    pub network: Network,
    /// Empty: the first 12 digits of the ID, or the host's name on the host's network.
    pub hostname: String,
    /// The signal that `stop` sends first, as the user wrote it; empty is SIGTERM.
    pub stop_signal: String,
    /// The container goes when its process has ended.
    pub auto_remove: bool,
    /// The OCI runtime, by name or path; empty: the first that is found.
    pub runtime: String,
}

impl Settings {
    /// The program and its arguments.
    pub fn command(&self) -> Vec<String> {
        [self.entrypoint.clone(), self.cmd.clone()].concat()
    }

    /// The working directory, absolute.
    pub fn directory(&self) -> &Path {
        match self.working_dir.as_str() {
            "" => Path::new("/"),
            directory => Path::new(directory),
        }
    }
}

/// Which network a container's process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// One of its own, in which there is nothing but `lo`.
    None,
}

/// A file or directory of the host in a container: `-v SRC:DST[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the container, absolute.
    pub destination: PathBuf,
    /// It cannot be written to there.
    pub read_only: bool,
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}",
            self.source.display(),
            self.destination.display()
        )?;
        match self.read_only {
            true => f.write_str(":ro"),
            false => Ok(()),
        }
    }
}

/// Why a text is no bind. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBindError {
    /// Not two or three parts.
    #[error("invalid volume specification: '{0}'")]
    Parts(String),
    /// A name in place of a path of the host.
    #[error(
        "invalid volume specification: '{0}': there are no named volumes; give an absolute path"
    )]
    Named(String),
    /// The place in the container is relative.
    #[error(
        "invalid volume specification: '{0}': invalid mount config for type \"bind\": \
         invalid mount path: '{1}' mount path must be absolute"
    )]
    Relative(String, String),
    /// The place in the container is its root.
    #[error("invalid volume specification: '{0}': invalid specification: destination can't be '/'")]
    Root(String),
    /// Unknown options.
    #[error("invalid volume specification: '{0}': invalid mode: {1}")]
    Mode(String, String),
}

impl std::str::FromStr for Bind {
    type Err = ParseBindError;

    fn from_str(text: &str) -> Result<Bind, ParseBindError> {
        let whole = || text.to_owned();
        let mut parts = text.split(':');
        let (Some(source), Some(destination), mode, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseBindError::Parts(whole()));
        };
        if source.is_empty() || destination.is_empty() {
            return Err(ParseBindError::Parts(whole()));
        }
        if !destination.starts_with('/') {
            return Err(ParseBindError::Relative(whole(), destination.to_owned()));
        }
        if Path::new(destination)
            .components()
            .all(|c| c == std::path::Component::RootDir)
        {
            return Err(ParseBindError::Root(whole()));
        }
        if !source.starts_with('/') {
            return Err(ParseBindError::Named(whole()));
        }
        let mut read_only = false;
        for option in mode.into_iter().flat_map(|mode| mode.split(',')) {
            match option {
                "ro" => read_only = true,
                // Labels of SELinux and propagation as it is anyway: accepted, and nothing to do.
                "rw" | "z" | "Z" | "rprivate" | "private" => {}
                _ => {
                    let mode = mode.unwrap_or_default().to_owned();
                    return Err(ParseBindError::Mode(whole(), mode));
                }
            }
        }
        Ok(Bind {
            source: source.into(),
            destination: destination.into(),
            read_only,
        })
    }
}

/// Sets the variables of `more` in `env`: one that is there keeps its place and gets the new value.
pub fn set_env(env: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for setting in more {
        let name = name_of(&setting).to_owned();
        match env.iter_mut().find(|old| name_of(old) == name) {
            Some(old) => *old = setting,
            None => env.push(setting),
        }
    }
}

fn name_of(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let bind = |text: &str| text.parse::<Bind>().map(|b| b.to_string());
        for (text, shown) in [
            ("/a:/b", "/a:/b"),
            ("/a:/b:ro", "/a:/b:ro"),
            ("/a:/b:rw,z", "/a:/b"),
            ("/a b:/c", "/a b:/c"),
        ] {
            assert_eq!(bind(text).as_deref(), Ok(shown), "{text}");
        }
        for (text, why) in [
            ("a", "invalid volume specification: 'a'"),
            ("/a:", "invalid volume specification: '/a:'"),
            ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
            ("/a:b", "mount path must be absolute"),
            ("/a:/", "destination can't be '/'"),
            ("vol:/b", "no named volumes"),
            ("/a:/b:bogus", "invalid mode: bogus"),
        ] {
            let error = text.parse::<Bind>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_variable_is_there_once() {
        let mut env = vec!["PATH=/bin".to_owned(), "A=1".to_owned()];
        set_env(&mut env, ["A=2", "B=", "PATH=/x", "B=3"].map(str::to_owned));
        assert_eq!(env, ["PATH=/x", "A=2", "B=3"]);
    }

    #[test]
    fn what_is_missing_is_the_default() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.directory(), Path::new("/"));
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }
}
