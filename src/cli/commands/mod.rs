//! One file per command: its arguments, and what it does with them.

pub mod attach;
pub mod bench;
pub mod commit;
pub mod cp;
pub mod create;
pub mod demo;
pub mod df;
pub mod diff;
pub mod events;
pub mod exec;
pub mod export;
pub mod fsck;
pub mod gc;
pub mod history;
pub mod images;
pub mod import;
pub mod inspect;
pub mod kill;
pub mod layers;
pub mod load;
pub mod logs;
pub mod mount;
pub mod overlay;
pub mod pause;
pub mod prune;
pub mod ps;
pub mod rename;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod save;
pub mod start;
pub mod stop;
pub mod tag;
pub mod umount;
pub mod wait;
pub mod wait_reclaimed;
pub mod why;

use super::context::Context;
use super::error::{CommandError, complain};

/// Do something for each of several names: all that can be done is, each failure is reported.
fn for_each(
    cx: &mut Context,
    names: &[String],
    mut each: impl FnMut(&mut Context, &str) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut failed = false;
    for name in names {
        match each(cx, name) {
            Ok(()) => {}
            Err(CommandError::Message(text)) => {
                // What was printed for the names before comes before the complaint about this one.
                cx.flush_and_go_on();
                complain(&text);
                failed = true;
            }
            Err(CommandError::Reported) => failed = true,
            Err(CommandError::Refused { text, .. }) => {
                cx.flush_and_go_on();
                complain(&text);
                failed = true;
            }
            Err(
                other @ (CommandError::Interrupted
                | CommandError::BrokenPipe
                | CommandError::Usage(_)
                | CommandError::Ended(_)),
            ) => return Err(other),
        }
    }
    if failed {
        Err(CommandError::Reported)
    } else {
        Ok(())
    }
}
