//! A benchmark that leaves nothing behind, however it ends: it runs in namespaces of its own.
//!
//! The command starts itself again as the first process of a new PID namespace, in a mount namespace of its
//! own. That one starts the benchmark, and does nothing but wait for it and for whatever loses its parent. When
//! it ends, the kernel kills what is still there and takes away what is mounted, and with that the loop
//! devices. All three get Ctrl-C from the terminal; other signals are passed on.

use std::env;
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::bench::stop::Stop;
use crate::cli::daemon::this_program;
use crate::cli::error::CommandError;
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
            mount_proc()?;
            wait_for(INIT, BENCH, &pass_signals_on()?)
        }
        Err(_) if rustix::process::geteuid().is_root() => {
            // Before the new namespace: a process whose children are to be in another one gets no more
            // threads (EINVAL of clone(2)).
            let signals = pass_signals_on()?;
            // Root without the privilege, in a container: as another user, here.
            match separate_mounts_and_processes() {
                Ok(()) => wait_for("", INIT, &signals),
                Err(_) => here(bench),
            }
        }
        _ => here(bench),
    }
}

fn here(bench: impl FnOnce(&Stop) -> Result<(), CommandError>) -> Result<(), CommandError> {
    let stop = Stop::default();
    let flag = stop.clone();
    on_interrupt(move || flag.now())?;
    bench(&stop)
}

/// Whom signals are for, and the one that came before it was there.
type Signals = Arc<Mutex<(Option<i32>, Option<i32>)>>;

/// From now on pass signals on to the child, when there is one.
fn pass_signals_on() -> Result<Signals, CommandError> {
    let signals = Signals::default();
    let shared = Arc::clone(&signals);
    on_signals(
        &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP],
        move |number| {
            let mut shared = shared.lock();
            match shared.0 {
                Some(pid) => pass_on(pid, number),
                None => shared.1 = Some(number),
            }
        },
    )?;
    Ok(signals)
}

fn pass_on(pid: i32, number: i32) {
    if let Err(e) = children::signal(pid, number) {
        tracing::warn!("{e}");
    }
}

/// Run this program again as `next`, and end as it does.
fn wait_for(this: &str, next: &str, signals: &Signals) -> Result<(), CommandError> {
    let mut command: Command = this_program();
    command.args(env::args_os().skip(1)).env(PLACE, next);
    // If this one is killed, so is all the rest.
    dies_with_parent(&mut command, this);
    let child = command.spawn()?;
    let pid = child.id().cast_signed();
    let mut locked = signals.lock();
    locked.0 = Some(pid);
    if let Some(number) = locked.1 {
        pass_on(pid, number);
    }
    drop(locked);
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

fn dies_with_parent(command: &mut Command, this: &str) {
    // The first process of a namespace has no parent that it could see.
    match this {
        INIT => dies_with_us(command),
        _ => children::dies_with_us_unseen(command),
    }
}
