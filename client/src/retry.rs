//! How long, and how often, to try again.

use std::time::{Duration, Instant};

use ftx_protocol::Retry as Again;

use crate::Client;
use crate::failure::{Reached, Trouble};
use crate::spent::timed;

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
    /// Of the first failure since there was progress: a quiet time before it costs no patience.
    failing_since: Option<Instant>,
    pause: Duration,
    /// How long it has waited so far.
    paused: Duration,
}

impl Patience {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, failing_since: None, pause: FIRST_PAUSE, paused: Duration::ZERO }
    }

    /// Something was achieved that a break cannot take back.
    pub(crate) fn progress(&mut self) {
        self.failing_since = None;
        self.pause = FIRST_PAUSE;
    }

    /// How long it has waited before other tries.
    pub(crate) fn paused(&self) -> Duration {
        self.paused
    }

    /// Says why there is another try, and waits before it. What no other try would mend, or none that
    /// there is patience for, is given back.
    pub(crate) fn again(
        &mut self,
        trouble: Trouble,
        what: &str,
        client: &Client,
        tell: impl FnOnce(String, Duration),
    ) -> Result<(), Trouble> {
        match trouble.retry(client.reached()) {
            Again::Later if let Some(pause) = self.next_pause() => {
                tell(trouble.into_failure(what, &client.server).to_string(), pause);
                timed(&mut self.paused, || client.interrupt.pause(pause));
                Ok(())
            }
            Again::No | Again::Fresh => Err(trouble),
            Again::Later => {
                // What the command has still to do gets one try each, until one reaches it.
                client.set_reached(Reached::GivenUp);
                Err(trouble)
            }
        }
    }

    /// How long to wait before the next try; `None` when there is none.
    fn next_pause(&mut self) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let left = self.retry.without_progress.checked_sub(since.elapsed())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_with_the_first_failure_and_again_after_progress() {
        let mut patience = Patience::new(Retry { without_progress: Duration::from_secs(3_600) });
        let pauses: Vec<Duration> = (0..8).map(|_| patience.next_pause().unwrap()).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[7] > LAST_PAUSE / 3 && pauses[7] <= LAST_PAUSE);
        patience.progress();
        assert!(patience.next_pause().unwrap() <= FIRST_PAUSE);
        assert_eq!(Patience::new(Retry { without_progress: Duration::ZERO }).next_pause(), None);
    }

    #[test]
    fn what_is_tried_again_is_told_and_its_pause_counts() {
        let client = Client::new("box:1".parse().unwrap(), Retry::default());
        let mut patience = Patience::new(client.retry);
        let mut told = Vec::new();
        let broken = Trouble::Broken("cut".to_owned());
        let tell = |cause, pause| told.push((cause, pause));
        patience.again(broken, "put a", &client, tell).unwrap();
        assert_eq!(told[0].0, "put a: the connection to box:1 broke: cut");
        assert!(patience.paused() >= told[0].1);
        let silent = |cause, _| panic!("told {cause}");
        patience.again(Trouble::Interrupted, "put a", &client, silent).unwrap_err();
    }
}
