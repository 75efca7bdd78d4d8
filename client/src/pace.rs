//! How fast a client may move bytes, over all its connections together.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ftx_disk::lock::lock;

use crate::interrupt::Interrupt;

/// So much is moved at once: what a sixteenth of a second gives.
const PIECES_PER_SECOND: u64 = 16;

/// Less than this at once would be all overhead.
const PIECE_MIN_BYTES: u64 = 512;

/// A rate that is not exceeded by more than one piece.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    bytes_per_second: NonZeroU64,
    course: Arc<Mutex<Course>>,
}

#[derive(Debug)]
struct Course {
    /// When what was moved so far has had its time.
    free_at: Instant,
    waited: Duration,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: NonZeroU64) -> Self {
        let course = Course { free_at: Instant::now(), waited: Duration::ZERO };
        Self { bytes_per_second, course: Arc::new(Mutex::new(course)) }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        lock(&self.course)
    }

    /// How long it was waited for so far.
    pub(crate) fn waited(&self) -> Duration {
        self.course().waited
    }

    /// What may be moved at once.
    pub(crate) fn piece(&self) -> usize {
        let piece = (self.bytes_per_second.get() / PIECES_PER_SECOND).max(PIECE_MIN_BYTES);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    /// Waits until something may be moved again.
    pub(crate) fn wait(&self, interrupt: &Interrupt) {
        let pause = self.course().free_at.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            interrupt.pause(pause);
            let mut course = self.course();
            course.waited = course.waited.saturating_add(pause);
        }
    }

    /// So much was moved.
    pub(crate) fn moved(&self, bytes: usize) {
        let nanoseconds = (bytes as u128)
            .saturating_mul(1_000_000_000)
            .checked_div(self.bytes_per_second.get().into());
        let time = nanoseconds.and_then(|time| u64::try_from(time).ok()).unwrap_or(u64::MAX);
        let mut course = self.course();
        let begin = course.free_at.max(Instant::now());
        course.free_at = begin.checked_add(Duration::from_nanos(time)).unwrap_or(begin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_takes_its_time_and_a_pause_before_it_gives_none_back() {
        let pace = Pace::new(NonZeroU64::new(1_000_000).unwrap());
        assert_eq!(pace.piece(), 62_500);
        std::thread::sleep(Duration::from_millis(20));
        let began = Instant::now();
        for _ in 0..4 {
            pace.wait(&Interrupt::default());
            pace.moved(10_000);
        }
        // The last one need not wait for its own time.
        assert!(began.elapsed() >= Duration::from_millis(30));
        let slow = Pace::new(NonZeroU64::MIN);
        slow.moved(1_000);
        let interrupted = Interrupt::default();
        interrupted.flag().store(true, std::sync::atomic::Ordering::Release);
        slow.wait(&interrupted);
        assert_eq!(slow.piece(), 512);
    }
}
