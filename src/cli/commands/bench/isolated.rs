//! A benchmark that leaves nothing behind, however it ends: it runs in namespaces of its own.
//!
//! The command starts itself again as the first process of a new PID namespace, in a mount namespace of its
//! own. That one starts the benchmark, and does nothing but wait for it and for whatever loses its parent. When
//! it ends, the kernel kills what is still there and takes away what is mounted, and with that the loop
//! devices. All three get Ctrl-C from the terminal; other signals are passed on.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::bench::stop::Stop;
use crate::cli::daemon::this_program;
use crate::cli::error::CommandError;
use crate::cli::exit_code::Exit;
use crate::cli::interrupt::{on_interrupt, on_signals};
use crate::sys::children::{self, dies_with_us};
use crate::sys::namespaces::{mount_proc, separate_mounts_and_processes};

/// Which of the three a process is: not set in the first.
const PLACE: &str = "LAYERCTL_BENCH_PROCESS";
const INIT: &str = "init";
const BENCH: &str = "bench";

/// Run `bench` where nothing stays, if that may be done; else here.
pub fn isolated(bench: impl FnOnce(&Stop) -> Result<(), CommandError>) -> Result<(), CommandError> {
    match env::var(PLACE).as_deref() {
        Ok(INIT) => {
            let child = Child::default();
            child.gets_our_signals()?;
            mount_proc()?;
            child.run(INIT, BENCH)
        }
        Err(_) if rustix::process::geteuid().is_root() => {
            let child = Child::default();
            // Before there is a namespace for children: from then on no thread can be started.
            child.gets_our_signals()?;
            match separate_mounts_and_processes() {
                Ok(()) => child.run("", INIT),
                // Root in a container, without the privilege: once more, here.
                Err(_) => child.run("", BENCH),
            }
        }
        _ => {
            let stop = Stop::default();
            let flag = stop.clone();
            on_interrupt(move || flag.now())?;
            bench(&stop)
        }
    }
}

/// The process ID of a child; 0 before there is one.
#[derive(Debug, Clone, Default)]
struct Child(Arc<AtomicI32>);

impl Child {
    fn gets_our_signals(&self) -> Result<(), CommandError> {
        let child = self.clone();
        on_signals(
            &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP],
            move |number| match child.0.load(Ordering::Relaxed) {
                0 => std::process::exit(Exit::Interrupted.code().into()),
                pid => children::signal(pid, number).unwrap_or_else(|e| tracing::warn!("{e}")),
            },
        )?;
        Ok(())
    }

    /// Run this program again as `next`, and end as it does.
    fn run(&self, this: &str, next: &str) -> Result<(), CommandError> {
        let mut command: Command = this_program();
        command.args(env::args_os().skip(1)).env(PLACE, next);
        // If this one is killed, so is all the rest.
        dies_with_parent(&mut command, next);
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        self.0.store(pid, Ordering::Relaxed);
        let code = loop {
            match this {
                INIT => match children::wait_for_any()? {
                    Some((ended, code)) if ended == pid => break code,
                    // An orphan.
                    Some(_) => {}
                    None => break 1,
                },
                _ => break children::wait(pid)?,
            }
        };
        match u8::try_from(code).unwrap_or(1) {
            0 => Ok(()),
            code => Err(CommandError::Ended(code)),
        }
    }
}

fn dies_with_parent(command: &mut Command, next: &str) {
    // The first process of a namespace has no parent that it could see.
    match next {
        INIT => children::dies_with_us_unseen(command),
        _ => dies_with_us(command),
    }
}
