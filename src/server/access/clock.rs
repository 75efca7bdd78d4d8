//! The time by which tokens expire.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The system's clock, as long as that goes forward. One that is set back gives no token its time
/// back: from then on time goes on as the machine's running time does.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    /// The latest beginning, in nanoseconds since 1970, that the system's clock has claimed.
    begun_nanos: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), begun_nanos: AtomicU64::new(0) }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.at(SystemTime::now(), self.started.elapsed())
    }

    /// The time, when the system's clock says `system` and this one has been running so long.
    fn at(&self, system: SystemTime, running: Duration) -> SystemTime {
        let since = system.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let begun = nanos(since.saturating_sub(running));
        let latest = self.begun_nanos.fetch_max(begun, Ordering::Relaxed).max(begun);
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_nanos(latest))
            .and_then(|begun| begun.checked_add(running))
            .unwrap_or(system)
    }
}

/// Enough for five hundred years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_gives_no_time_back() {
        let clock = Clock::new();
        let (time, second) = (SystemTime::now(), Duration::from_secs(1));
        assert_eq!(clock.at(time, second), time);
        assert_eq!(clock.at(time - 3_600 * second, 2 * second), time + second, "set back");
        assert_eq!(clock.at(time - 3_000 * second, 10 * second), time + 9 * second, "still");
        let ahead = time + 7_200 * second;
        assert_eq!(clock.at(ahead, 11 * second), ahead, "set forward, or the machine slept");
        assert_eq!(clock.at(time, 12 * second), ahead + second);
        assert_eq!(clock.at(SystemTime::UNIX_EPOCH - second, 13 * second), ahead + 2 * second);
    }

    #[test]
    fn it_never_goes_back_between_threads() {
        let clock = Clock::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = clock.now();
                    for _ in 0..10_000 {
                        let now = clock.now();
                        assert!(now >= last);
                        last = now;
                    }
                });
            }
        });
    }
}
