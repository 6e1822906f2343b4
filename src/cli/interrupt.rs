//! Ctrl-C and SIGTERM, where a command has something to set right before it ends.

use std::io;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// From now on, call `act` on each SIGINT, SIGTERM or SIGHUP instead of dying of it. A second
/// SIGINT or SIGTERM is passed to `act` as well; what cannot be ended that way is left to SIGKILL.
pub fn on_interrupt(act: impl Fn() + Send + 'static) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    // Registered before this returns: a signal a moment later finds its handler.
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                    act();
                }
            });
        })?;
    Ok(())
}
