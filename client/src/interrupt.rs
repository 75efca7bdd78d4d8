//! How somebody else, a signal handler above all, ends what a client is doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::failure::Trouble;

/// How often a pause looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Ends what the clients that have it are doing, at the next part of a body or within half a
/// second, as if the connection had broken: everything that can be resumed can be.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Set it, from wherever, to interrupt.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Takes an interruption back, so that something new can be begun.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), Trouble> {
        if self.is_set() { Err(Trouble::Interrupted) } else { Ok(()) }
    }

    /// Waits, but not for what is interrupted.
    pub(crate) fn pause(&self, pause: Duration) {
        let end = Instant::now().checked_add(pause);
        while !self.is_set()
            && let Some(left) = end.and_then(|end| end.checked_duration_since(Instant::now()))
            && !left.is_zero()
        {
            std::thread::sleep(left.min(LOOK));
        }
    }
}
