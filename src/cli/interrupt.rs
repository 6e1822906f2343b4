//! Signals: Ctrl-C and SIGTERM, where a command has something to set right before it ends, and those
//! that it passes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// From now on, call `act` on each SIGINT, SIGTERM or SIGHUP instead of dying of it. A second
/// SIGINT or SIGTERM is passed to `act` as well; what cannot be ended that way is left to SIGKILL.
pub fn on_interrupt(act: impl Fn() + Send + 'static) -> io::Result<()> {
    on_signals(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP], move |_| act())
}

/// From now on, SIGINT, SIGTERM and SIGHUP only make what this gives say so: for work that looks often
/// whether to give up, and leaves nothing then.
pub fn interrupted() -> io::Result<impl Fn() -> bool + Send + Sync> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    on_interrupt(move || flag.store(true, Ordering::Relaxed))?;
    Ok(move || interrupted.load(Ordering::Relaxed))
}

/// From now on, call `act` with the number of each of these signals instead of what the system does.
pub fn on_signals(numbers: &[i32], act: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    // Registered before this returns: a signal a moment later finds its handler.
    let guard = runtime.enter();
    let (sender, mut received) = mpsc::channel(16);
    for number in numbers.iter().copied() {
        let mut signals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while let Some(number) = received.recv().await {
                    act(number);
                }
            });
        })?;
    Ok(())
}
