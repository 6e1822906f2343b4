//! How fast reclamation goes: a rate kept over short times.
//!
//! Each process that reclaims has a pace of its own. Not here: what the rate is to be (`model::rate`), and
//! what is deleted (`sys::remove_tree`).

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::model::Rate;
use crate::sys::remove_tree::{Steer, Step};

/// A rate is kept over times of this length: what was not used before is lost. So neither a stall nor a
/// large entry is followed by a burst.
const WINDOW: Duration = Duration::from_millis(10);

/// Shorter waits are put together, for a thread that is woken for each entry costs more than it deletes.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A large file is cut by as much as the rate gives in this time.
const PORTION_TIME: Duration = Duration::from_millis(20);

/// Where bytes have no rate, or a high one: what a journal takes in its stride.
const LARGEST_PORTION: u64 = 4 << 20;

/// Smaller cuts are no smoother: a file system allocates and writes down no less.
const SMALLEST_PORTION: u64 = 256 << 10;

/// What time it is, and how to let it pass.
pub trait Clock {
    /// Time since any moment in the past.
    fn now(&self) -> Duration;
    /// Let time pass.
    fn sleep(&mut self, time: Duration);
}

/// The system's.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Tells when one thing of which there may be so many a second is due.
#[derive(Debug, Clone, Copy)]
struct Meter {
    per_second: NonZeroU64,
    /// When what was allowed so far is used up.
    free_at: Duration,
}

impl Meter {
    fn new(per_second: NonZeroU64) -> Meter {
        Meter {
            per_second,
            free_at: Duration::ZERO,
        }
    }

    /// When `amount` may begin: now, if that is past.
    fn take(&mut self, now: Duration, amount: u64) -> Duration {
        let due = self.free_at.max(now.saturating_sub(WINDOW));
        let takes = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second.get());
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        self.free_at = due.saturating_add(takes);
        due
    }
}

/// What has gone so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// Names.
    pub entries: u64,
    /// Allocated bytes, counted where the pace is steered only.
    pub bytes: u64,
}

/// The pace of all that one process reclaims, and the count of it.
#[derive(Debug)]
pub struct Pace<C = SystemClock> {
    rate: Rate,
    bytes: Option<Meter>,
    entries: Option<Meter>,
    gone: Gone,
    clock: C,
}

impl Pace {
    /// By the system's clock.
    pub fn new(rate: Rate) -> Pace {
        Pace::by(SystemClock(Instant::now()), rate)
    }
}

impl<C: Clock> Pace<C> {
    fn by(clock: C, rate: Rate) -> Pace<C> {
        Pace {
            rate,
            bytes: rate.bytes.map(Meter::new),
            entries: rate.entries.map(Meter::new),
            gone: Gone::default(),
            clock,
        }
    }

    /// What it keeps to.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether it keeps to anything.
    pub fn is_steered(&self) -> bool {
        !self.rate.is_unlimited()
    }

    /// What has gone since it was made.
    pub fn gone(&self) -> Gone {
        self.gone
    }
}

impl<C: Clock> Steer for Pace<C> {
    fn portion(&self) -> Option<NonZeroU64> {
        if !self.is_steered() {
            return None;
        }
        let portion = self.rate.bytes.map_or(LARGEST_PORTION, |bytes| {
            let portion = bytes.get() / 1000 * u64::try_from(PORTION_TIME.as_millis()).unwrap_or(1);
            portion.clamp(SMALLEST_PORTION, LARGEST_PORTION)
        });
        NonZeroU64::new(portion)
    }

    fn before(&mut self, step: Step) {
        self.gone.entries += step.entries;
        self.gone.bytes += step.bytes;
        if !self.is_steered() {
            return;
        }
        let now = self.clock.now();
        let mut due = now;
        for (meter, amount) in [
            (&mut self.bytes, step.bytes),
            (&mut self.entries, step.entries),
        ] {
            if let Some(meter) = meter {
                due = due.max(meter.take(now, amount));
            }
        }
        let wait = due.saturating_sub(now);
        if wait >= SHORTEST_WAIT {
            self.clock.sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Time passes when it is slept, and a little more each time, as it does.
    #[derive(Debug, Default)]
    struct FakeClock {
        now: Duration,
        sleeps: u64,
    }

    const OVERSLEEP: Duration = Duration::from_micros(70);

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            self.now
        }

        fn sleep(&mut self, time: Duration) {
            self.now += time + OVERSLEEP;
            self.sleeps += 1;
        }
    }

    fn pace(rate: &str) -> Pace<FakeClock> {
        Pace::by(FakeClock::default(), rate.parse().unwrap())
    }

    fn entry(bytes: u64) -> Step {
        Step { entries: 1, bytes }
    }

    #[test]
    fn a_rate_is_kept() {
        for (rate, step, steps, seconds) in [
            ("50MB/s", entry(20_000), 5_000, 2.0),
            (
                "50MB/s",
                Step {
                    entries: 0,
                    bytes: 1 << 20,
                },
                100,
                2.1,
            ),
            ("5000/s", entry(1 << 20), 10_000, 2.0),
            // The stricter one counts.
            ("50MB/s,5000/s", entry(1000), 10_000, 2.0),
            ("50MB/s,5000/s", entry(100_000), 1000, 2.0),
            ("1/s", entry(0), 3, 2.0),
        ] {
            let mut pace = pace(rate);
            for _ in 0..steps {
                pace.before(step);
            }
            let took = pace.clock.now.as_secs_f64();
            assert!((took - seconds).abs() < 0.05, "{rate}: {took}");
            assert!(
                pace.clock.sleeps <= 2000,
                "{rate}: not a sleep for each entry"
            );
            assert_eq!(pace.gone().entries, steps * step.entries);
            assert_eq!(pace.gone().bytes, steps * step.bytes);
        }
    }

    #[test]
    fn a_stall_is_followed_by_no_burst() {
        let mut pace = pace("1000/s");
        pace.before(entry(0));
        pace.clock.now += Duration::from_secs(60);
        let resumed = pace.clock.now;
        let mut at_once = 0;
        while pace.clock.now == resumed {
            pace.before(entry(0));
            at_once += 1;
        }
        assert!((10..=13).contains(&at_once), "{at_once} in one go");
    }

    #[test]
    fn unlimited_never_waits_and_asks_for_no_bytes() {
        let mut pace = pace("unlimited");
        for _ in 0..1000 {
            pace.before(entry(0));
        }
        assert_eq!((pace.portion(), pace.clock.sleeps), (None, 0));
        assert_eq!(pace.gone().entries, 1000);
    }

    #[test]
    fn portions_follow_the_rate() {
        for (rate, portion) in [
            ("5000/s", LARGEST_PORTION),
            ("1GB/s", LARGEST_PORTION),
            ("50MB/s", 1_000_000),
            ("1kB/s", SMALLEST_PORTION),
        ] {
            assert_eq!(pace(rate).portion(), NonZeroU64::new(portion), "{rate}");
        }
    }

    proptest! {
        /// Whatever the steps, and however time passes between them: in no stretch of time goes more
        /// than the rate gives, but for the window, the waits put together, and the last step.
        #[test]
        fn no_stretch_of_time_has_more_than_its_share(
            per_second in 1u64..10_000_000,
            steps in prop::collection::vec((0u64..100_000, 0u64..30_000), 1..200),
        ) {
            let mut pace = Pace::by(FakeClock::default(), Rate {
                bytes: NonZeroU64::new(per_second),
                entries: None,
            });
            let mut made: Vec<(Duration, u64)> = Vec::new();
            for (bytes, micros) in steps {
                pace.clock.now += Duration::from_micros(micros);
                pace.before(entry(bytes));
                made.push((pace.clock.now, bytes));
            }
            let slack = (WINDOW + SHORTEST_WAIT).as_secs_f64();
            for from in 0..made.len() {
                let mut went = 0;
                for to in from..made.len() {
                    let stretch = (made[to].0 - made[from].0).as_secs_f64() + slack;
                    // The step that is made at its end may take longer.
                    let allowed = stretch * per_second as f64 + 1.0 + (to - from) as f64;
                    prop_assert!((went as f64) <= allowed, "{went} of {allowed}");
                    went += made[to].1;
                }
            }
        }
    }
}
