//! How long, and how often, to try again.

use std::time::{Duration, Instant};

/// The first pause; each one is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How long to go on without progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Zero: never try again.
    pub without_progress: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { without_progress: Duration::from_secs(60) }
    }
}

/// The patience of one transfer.
#[derive(Debug)]
pub(crate) struct Patience {
    retry: Retry,
    progressed: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, progressed: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Something was achieved that a break cannot take back.
    pub(crate) fn progress(&mut self) {
        self.progressed = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// How long to wait before the next try; `None` when there is none.
    pub(crate) fn next_pause(&mut self) -> Option<Duration> {
        let left = self.retry.without_progress.checked_sub(self.progressed.elapsed())?;
        if left.is_zero() {
            return None;
        }
        // Half fixed, half by chance, so that many clients do not come back at once.
        let chance = getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX));
        let pause = self.pause.mul_f64(0.5 + chance / 2.0);
        self.pause = self.pause.saturating_mul(2).min(LAST_PAUSE);
        Some(pause.min(left))
    }
}
