//! Doing the same with many things, several at once, as if it were done with one after the other.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Do `work` with every item, on up to `workers` threads, this one included. Items are begun in their order,
/// and the results are in their order.
///
/// # Errors
/// That of the first item, in their order, that has one: what is before it is done to its end; what is after it
/// is not begun, or given up, or done for nothing. `work` is given something that says whether to give up.
pub(super) fn each<I, T, E>(
    items: &[I],
    workers: usize,
    work: impl Fn(&I, &(dyn Fn() -> bool + Sync)) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E>
where
    I: Sync,
    T: Send,
    E: Send,
{
    let next = AtomicUsize::new(0);
    let first_failed = AtomicUsize::new(usize::MAX);
    let results: Mutex<Vec<(usize, Result<T, E>)>> = Mutex::default();
    let work_on = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let given_up = || first_failed.load(Ordering::Relaxed) < at;
            let Some(item) = items.get(at).filter(|_| !given_up()) else {
                return;
            };
            let result = work(item, &given_up);
            if result.is_err() {
                first_failed.fetch_min(at, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((at, result));
        }
    };
    std::thread::scope(|threads| {
        for _ in 1..workers.min(items.len()) {
            let thread = std::thread::Builder::new().name("layer".to_owned());
            if let Err(e) = thread.spawn_scoped(threads, work_on) {
                tracing::debug!("no other thread: {e}");
            }
        }
        work_on();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order() {
        for workers in [0, 1, 2, 9] {
            let items: Vec<u32> = (0..50).collect();
            let doubled = each(&items, workers, |n, _| Ok::<_, ()>(n * 2)).unwrap();
            assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
        }
        assert_eq!(each(&[0; 0], 3, |_, _| Err::<(), _>(())), Ok(vec![]));
    }

    #[test]
    fn several_are_worked_on_at_once() {
        let both = Barrier::new(2);
        each(&[(), ()], 2, |(), _| {
            both.wait();
            Ok::<_, ()>(())
        })
        .unwrap();
    }

    #[test]
    fn the_error_is_that_of_the_first_whichever_fails_earlier() {
        let later_failed = Barrier::new(2);
        let begun = AtomicUsize::new(0);
        let result = each(&[0, 1, 2, 3, 4, 5], 2, |n, given_up| {
            begun.fetch_add(1, Ordering::Relaxed);
            match n {
                0 => {
                    later_failed.wait();
                    assert!(!given_up(), "what is before goes on");
                    Err("zero")
                }
                1 => {
                    later_failed.wait();
                    Err("one")
                }
                _ => Ok(()),
            }
        });
        assert_eq!(result, Err("zero"));
        assert!(begun.into_inner() < 6);
    }

    #[test]
    fn what_comes_after_a_failure_is_given_up() {
        let both = Barrier::new(2);
        let result = each(&[0, 1], 2, |n, given_up| {
            both.wait();
            if *n == 0 {
                return Err("zero");
            }
            while !given_up() {
                std::thread::yield_now();
            }
            Err("given up")
        });
        assert_eq!(result, Err::<Vec<()>, _>("zero"));
    }
}
