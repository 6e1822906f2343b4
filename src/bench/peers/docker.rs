//! Docker: a daemon of its own, with the storage driver that it chooses.

use std::path::Path;

use super::{ImageStore, RunDir};
use crate::bench::BenchError;
use crate::bench::daemon::Daemon;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// A Docker that serves the benchmark alone.
#[derive(Debug)]
pub struct Docker {
    client: Client,
    version: String,
    // Before what it runs in.
    _daemon: Daemon,
    _run: RunDir,
}

#[derive(Debug)]
struct Client {
    program: std::path::PathBuf,
    host: String,
}

impl Client {
    fn docker(&self) -> Program {
        // Not by `-H`: what else is in the environment (a context, a host) would be an error beside it.
        Program::new(&self.program)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONTEXT", "")
    }

    /// `20.10.24, overlay2`; an error while the daemon does not answer.
    fn version(&self, stop: &Stop) -> Result<String, BenchError> {
        let server = self.docker().args(["version", "-f", "{{.Server.Version}}"]);
        let driver = self.docker().args(["info", "-f", "{{.Driver}}"]);
        let (server, driver) = (server.run(stop)?, driver.run(stop)?);
        Ok(format!("{}, {}", server.out.trim(), driver.out.trim()))
    }
}

impl Docker {
    /// Start its daemon, with everything it stores on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not start here: it takes root.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Docker, BenchError> {
        let program = find_or_lack("docker")?;
        let run = RunDir::new()?;
        let host = format!("unix://{}", run.join("docker.sock").display());
        let client = Client { program, host };
        // Not the system's, which may have the same options: that is an error beside these.
        let config = run.join("docker.json");
        std::fs::write(&config, "{}").map_err(BenchError::at("write", &config))?;
        let args = [
            format!("--config-file={}", config.display()),
            format!("--data-root={}", disk.top().join("docker").display()),
            format!("--exec-root={}", run.join("exec").display()),
            format!("--pidfile={}", run.join("docker.pid").display()),
            format!("--host={}", client.host),
            // No containers run: nothing of this machine's network is to be changed.
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
        ];
        let answers = || client.version(stop).is_ok();
        let daemon = Daemon::start("dockerd", &args, stop, answers)?;
        Ok(Docker {
            version: client.version(stop)?,
            client,
            _daemon: daemon,
            _run: run,
        })
    }

    /// `docker images`.
    ///
    /// # Errors
    /// It fails.
    pub fn list(&self, stop: &Stop) -> Result<Ran, BenchError> {
        self.client.docker().arg("images").run(stop)
    }

    /// `docker rmi -f IMAGE`.
    ///
    /// # Errors
    /// It fails.
    pub fn remove(&self, image: &str, stop: &Stop) -> Result<Ran, BenchError> {
        self.client.docker().args(["rmi", "-f", image]).run(stop)
    }
}

impl ImageStore for Docker {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError> {
        let load = self.client.docker().args(["load", "-q", "-i"]);
        load.arg(archive).run(stop)
    }

    fn remove_all(&self, stop: &Stop) -> Result<Ran, BenchError> {
        let prune = ["image", "prune", "-a", "-f"];
        self.client.docker().args(prune).run(stop)
    }

    fn has_daemon(&self) -> bool {
        true
    }
}
