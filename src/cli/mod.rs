//! The command line: arguments, one file per command, output, exit codes.

pub mod commands;
pub mod container_options;
pub mod context;
pub mod daemon;
pub mod error;
pub mod exit_code;
pub mod interrupt;
pub mod joined;
pub mod list;
mod load_progress;
pub mod output_file;
pub mod overlay_options;
pub mod plot;
pub mod serve;
pub mod table;
pub mod time;
pub mod view_access;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing::Level;

use commands as c;
use context::Context;
use error::CommandError;
use exit_code::Exit;

/// A daemonless layer store with deferred deletion.
///
/// Image archives are unpacked into content-addressed layers; a container's view of them is a FUSE
/// union filesystem; a layer that is removed by force stays readable until the last view that uses
/// it is unmounted and the last handle is closed.
#[derive(Debug, Parser)]
#[command(
    name = "layerctl",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    /// The store [default: $LAYERCTL_ROOT, else /var/lib/layerctl for root, else
    /// $XDG_DATA_HOME/layerctl]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load images from a docker-archive, an OCI archive or an OCI layout directory
    Load(c::load::Args),
    /// Write images as an archive that Docker, Podman and skopeo read
    Save(c::save::Args),
    /// Make an image of the files in a tar
    Import(c::import::Args),
    /// List images
    Images(c::images::Args),
    /// Give an image another name
    Tag(c::tag::Args),
    /// Show everything about images and containers, as JSON
    Inspect(c::inspect::Args),
    /// Show how an image was made
    History(c::history::Args),
    /// Remove images; layers in use go when the last view that reads them ends
    Rmi(c::rmi::Args),
    /// Remove dangling images and unused layers
    Prune(c::prune::Args),
    /// Create a container from an image
    Create(c::create::Args),
    /// Mount a container's view, and print where
    Mount(c::mount::Args),
    /// Unmount views
    #[command(visible_alias = "unmount")]
    Umount(c::umount::Args),
    /// Create a container and run its process
    Run(c::run::Args),
    /// Run the processes of containers
    Start(c::start::Args),
    /// Stop containers: their stop signal, and SIGKILL if that does not help
    Stop(c::stop::Args),
    /// Send a signal to containers
    Kill(c::kill::Args),
    /// Freeze all processes of containers
    Pause(c::pause::Args),
    /// Let all processes of containers go on
    Unpause(c::pause::Args),
    /// Wait until containers stop, and print their exit codes
    Wait(c::wait::Args),
    /// Run a process in a running container
    Exec(c::exec::Args),
    /// Join a running container: see its output, and give it input
    Attach(c::attach::Args),
    /// Show what a container's process has written
    Logs(c::logs::Args),
    /// Give a container another name
    Rename(c::rename::Args),
    /// Show what a container has changed: added (A), changed (C) and deleted (D) names
    Diff(c::diff::Args),
    /// Copy files out of a container, or into one
    Cp(c::cp::Args),
    /// Make an image of a container
    Commit(c::commit::Args),
    /// Write all files of a container as a tar
    Export(c::export::Args),
    /// Remove containers
    Rm(c::rm::Args),
    /// List containers
    Ps(c::ps::Args),
    /// List layers: where every byte is, and what holds it
    Layers(c::layers::Args),
    /// Show how much of the disk the store takes, and for what
    Df(c::df::Args),
    /// Tell what keeps a layer or an image
    Why(c::why::Args),
    /// Reclaim marked layers that nothing pins, and what crashes have left
    Gc(c::gc::Args),
    /// Wait until the layers of removed images are gone from the disk
    WaitReclaimed(c::wait_reclaimed::Args),
    /// Check the store's files against its database
    Fsck(c::fsck::Args),
    /// Show what has happened to images and layers
    Events(c::events::Args),
    /// Mount a union of any directories, as fuse-overlayfs does
    Overlay(c::overlay::Args),
    /// Show deferred deletion from beginning to end, on a real image
    Demo(c::demo::Args),
    /// Measure reclaiming, views and loading, beside what else does such things
    Bench(c::bench::Args),
    /// The process behind a mounted view
    #[command(hide = true)]
    Serve(serve::Args),
}

/// Parse the arguments; what cannot be understood ends the program with exit code 2.
pub fn parse() -> Cli {
    Cli::parse_from(c::overlay::arguments(std::env::args_os()))
}

/// Run a command.
pub fn run(cli: Cli) -> ExitCode {
    // The store's modes are decided here, not by whoever happens to make it.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    log_to_stderr(match &cli.command {
        Command::Serve(_) => Level::INFO,
        Command::Mount(args) if args.foreground => Level::INFO,
        Command::Overlay(args) => args.level(),
        _ => Level::WARN,
    });
    let exit = match execute(cli) {
        Ok(()) => Exit::Success,
        Err(error) => error.report(),
    };
    exit.into()
}

/// What happens beside a command's own errors, in a line each: what serves a view tells its story,
/// the others only what went wrong. `LAYERCTL_LOG` (`debug`, `trace`, …) asks for more.
fn log_to_stderr(level: Level) {
    let asked_for = std::env::var("LAYERCTL_LOG").ok();
    let level = asked_for
        .and_then(|level| level.parse().ok())
        .unwrap_or(level);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // A log on a full disk, or a closed pipe: there is nobody to be told, and no reason to die.
        .log_internal_errors(false)
        .init();
}

fn execute(cli: Cli) -> Result<(), CommandError> {
    let command = match cli.command {
        // The demonstration and the benchmarks have stores of their own.
        Command::Demo(args) => return c::demo::run(args),
        Command::Bench(args) => return c::bench::run(args),
        Command::Overlay(args) => return c::overlay::run(args),
        Command::Serve(args) => return serve::run(args, cli.root.as_deref()),
        command => command,
    };
    let mut context = Context::open(cli.root.as_deref())?;
    let cx = &mut context;
    let result = match command {
        Command::Load(args) => c::load::run(args, cx),
        Command::Save(args) => c::save::run(args, cx),
        Command::Import(args) => c::import::run(args, cx),
        Command::Images(args) => c::images::run(args, cx),
        Command::Tag(args) => c::tag::run(args, cx),
        Command::Inspect(args) => c::inspect::run(args, cx),
        Command::History(args) => c::history::run(args, cx),
        Command::Rmi(args) => c::rmi::run(args, cx),
        Command::Prune(args) => c::prune::run(args, cx),
        Command::Create(args) => c::create::run(args, cx),
        Command::Mount(args) => c::mount::run(args, cx),
        Command::Umount(args) => c::umount::run(args, cx),
        Command::Run(args) => c::run::run(args, cx),
        Command::Start(args) => c::start::run(args, cx),
        Command::Rename(args) => c::rename::run(args, cx),
        Command::Diff(args) => c::diff::run(args, cx),
        Command::Cp(args) => c::cp::run(args, cx),
        Command::Commit(args) => c::commit::run(args, cx),
        Command::Export(args) => c::export::run(args, cx),
        Command::Stop(args) => c::stop::run(args, cx),
        Command::Kill(args) => c::kill::run(args, cx),
        Command::Pause(args) => c::pause::pause(args, cx),
        Command::Unpause(args) => c::pause::unpause(args, cx),
        Command::Wait(args) => c::wait::run(args, cx),
        Command::Exec(args) => c::exec::run(args, cx),
        Command::Attach(args) => c::attach::run(args, cx),
        Command::Logs(args) => c::logs::run(args, cx),
        Command::Rm(args) => c::rm::run(args, cx),
        Command::Ps(args) => c::ps::run(args, cx),
        Command::Layers(args) => c::layers::run(args, cx),
        Command::Df(args) => c::df::run(args, cx),
        Command::Why(args) => c::why::run(args, cx),
        Command::Gc(args) => c::gc::run(args, cx),
        Command::WaitReclaimed(args) => c::wait_reclaimed::run(args, cx),
        Command::Fsck(args) => c::fsck::run(args, cx),
        Command::Events(args) => c::events::run(args, cx),
        Command::Demo(_) | Command::Bench(_) | Command::Overlay(_) | Command::Serve(_) => Ok(()),
    };
    // What was printed before an error belongs before it.
    let flushed = cx.flush();
    result.and(flushed)
}
