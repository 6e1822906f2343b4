//! This program, run as a user runs it, on a store of its own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::BenchError;
use super::program::{Program, Ran};
use super::stop::Stop;

/// A store, and the program that works on it.
#[derive(Debug, Clone)]
pub struct Layerctl {
    program: PathBuf,
    root: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Layerctl {
    /// `program` on the store at `root`, which need not be there yet.
    pub fn new(program: &Path, root: PathBuf) -> Layerctl {
        Layerctl {
            program: program.to_owned(),
            root,
            env: Vec::new(),
        }
    }

    /// With a variable in its environment.
    pub fn env(mut self, key: &'static str, value: &str) -> Layerctl {
        self.env.push((key, value.to_owned()));
        self
    }

    /// The store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command that is to be run.
    pub fn command(&self, args: &[&str]) -> Program {
        let program = Program::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .args(args);
        let env = self.env.iter();
        env.fold(program, |program, (key, value)| program.env(key, value))
    }

    /// Run a command.
    pub fn run(&self, args: &[&str], stop: &Stop) -> Result<Ran, BenchError> {
        self.command(args).run(stop)
    }

    /// Run a command that prints JSON, an object a line.
    pub fn json(&self, args: &[&str], stop: &Stop) -> Result<Vec<Value>, BenchError> {
        let ran = self.run(&[args, &["--format", "json"]].concat(), stop)?;
        let lines = ran.out.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().map_err(|e| {
            let command = args.first().copied().unwrap_or_default();
            BenchError::Wrong(format!("{command} prints what is no JSON: {e}"))
        })
    }

    /// Load an archive. A large one takes its time.
    pub fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError> {
        let load = self.command(&["load", "-q", "-i"]).arg(archive);
        load.run(stop)
    }
}
