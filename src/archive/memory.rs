//! The memory that decoders have together, however many layers are read at once.
//!
//! One takes its share before it allocates and gives it back when it is dropped; it waits while others have too
//! much. Nobody who waits has a share, and whoever has one needs nothing more to come to its end, so that
//! they never wait for one another.

use std::sync::{Condvar, Mutex, PoisonError};

/// What all of them have together, in bytes: as much as the largest of them takes alone.
pub(super) const MOST: u64 = 80 << 20;

static FREE: Mutex<u64> = Mutex::new(MOST);
static GIVEN_BACK: Condvar = Condvar::new();

/// A part of the memory, given back when dropped.
#[derive(Debug)]
pub(super) struct Share(u64);

impl Share {
    /// So many bytes, once they are free; all there is to whoever asks for more.
    pub(super) fn wait(bytes: u64) -> Share {
        let bytes = bytes.min(MOST);
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(free, |free| *free < bytes);
        *free.unwrap_or_else(PoisonError::into_inner) -= bytes;
        Share(bytes)
    }

    /// How many bytes it is.
    pub(super) fn bytes(&self) -> u64 {
        self.0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        GIVEN_BACK.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_wants_more_than_there_is_waits() {
        // Other tests of this process take shares as well, but never keep them.
        let all = Share::wait(u64::MAX);
        assert_eq!(all.bytes(), MOST);
        let (sender, got) = channel();
        let other = std::thread::spawn(move || {
            let share = Share::wait(1);
            sender.send(share.bytes()).unwrap();
        });
        assert!(got.recv_timeout(Duration::from_millis(100)).is_err());
        drop(all);
        assert_eq!(got.recv().unwrap(), 1);
        other.join().unwrap();
    }
}
