//! containerd, by its own client: a daemon of its own, with the snapshotter that it chooses.

use std::path::{Path, PathBuf};

use super::{ImageStore, RunDir};
use crate::bench::BenchError;
use crate::bench::daemon::Daemon;
use crate::bench::disk::Disk;
use crate::bench::program::{Program, Ran, find_or_lack};
use crate::bench::stop::Stop;

/// A containerd that serves the benchmark alone.
#[derive(Debug)]
pub struct Containerd {
    client: Client,
    version: String,
    /// Where it is the client that can unpack, it does: the daemon's way needs more than images.
    options: &'static [&'static str],
    // Before what it runs in.
    _daemon: Daemon,
    _run: RunDir,
}

#[derive(Debug)]
struct Client {
    program: PathBuf,
    socket: PathBuf,
}

impl Client {
    fn ctr(&self) -> Program {
        Program::new(&self.program).arg("-a").arg(&self.socket)
    }

    /// An error while the daemon does not answer.
    fn version(&self, stop: &Stop) -> Result<String, BenchError> {
        let said = self.ctr().arg("version").run(stop)?.out;
        let server = said.rsplit_once("Version:").map(|(_, rest)| rest);
        let version = server.and_then(|rest| rest.split_whitespace().next());
        Ok(version.unwrap_or_default().to_owned())
    }
}

impl Containerd {
    /// Start it, with everything it stores on the disk.
    ///
    /// # Errors
    /// It is not installed, or does not start here: it takes root.
    pub fn start(disk: &Disk, stop: &Stop) -> Result<Containerd, BenchError> {
        let program = find_or_lack("ctr")?;
        let run = RunDir::new()?;
        let socket = run.join("ctr.sock");
        let client = Client { program, socket };
        let config = run.join("containerd.toml");
        let toml = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n",
            disk.top().join("containerd"),
            run.join("state"),
            client.socket
        );
        std::fs::write(&config, toml).map_err(BenchError::at("write", &config))?;
        let args = [format!("--config={}", config.display())];
        let answers = || client.version(stop).is_ok();
        let daemon = Daemon::start("containerd", &args, stop, answers)?;
        let help = client
            .ctr()
            .args(["images", "import", "--help"])
            .run(stop)?;
        Ok(Containerd {
            version: client.version(stop)?,
            options: match help.out.contains("--local ") {
                true => &["--local"],
                false => &[],
            },
            client,
            _daemon: daemon,
            _run: run,
        })
    }
}

impl ImageStore for Containerd {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, archive: &Path, stop: &Stop) -> Result<Ran, BenchError> {
        let import = self.client.ctr().args(["images", "import"]);
        import.args(self.options).arg(archive).run(stop)
    }

    fn remove_all(&self, stop: &Stop) -> Result<Ran, BenchError> {
        let list = self.client.ctr().args(["images", "ls", "-q"]).run(stop)?;
        let remove = self.client.ctr().args(["images", "rm", "--sync"]);
        remove.args(list.out.split_whitespace()).run(stop)
    }

    fn has_daemon(&self) -> bool {
        true
    }
}
