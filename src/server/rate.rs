//! How fast the server may move bytes, over all its connections together.

use std::num::NonZeroU64;
use std::time::Duration;

use ftx_protocol::Time;

/// All who wait have a turn in this part of a second, as long as a turn is worth it.
const ROUNDS_PER_SECOND: u64 = 16;

/// Less than this in a turn would be all overhead.
const TURN_MIN_BYTES: u64 = 4 * 1024;

/// A rate that is exceeded by no more than a turn of each connection.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: NonZeroU64,
    /// When what was moved so far has had its time, on the clock of [`Time`] but finer: a turn may cost much less
    /// than a millisecond, and many of them would cost nothing.
    free_at: Duration,
}

impl Rate {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, free_at: Duration::ZERO }
    }

    /// When the next turn may be given.
    pub(super) fn free_at(&self) -> Time {
        // Not rounded up: what is left of a millisecond would be lost each time, and that is most of it where a turn
        // costs little. It is in `free_at` still.
        Time::default().after(self.free_at)
    }

    /// Bytes that each of so many connections may move in one turn: the more there are, the less, so that nobody
    /// waits long for theirs.
    pub(super) fn turn_bytes(&self, connections: usize) -> usize {
        let round_bytes = self.bytes_per_second.get() / ROUNDS_PER_SECOND;
        let bytes = round_bytes.checked_div(connections as u64).unwrap_or(round_bytes);
        usize::try_from(bytes.max(TURN_MIN_BYTES)).unwrap_or(usize::MAX)
    }

    /// So much was moved. Time in which nothing was is not made up for.
    pub(super) fn moved(&mut self, bytes: u64, now: Time) {
        let nanoseconds = u128::from(bytes)
            .saturating_mul(1_000_000_000)
            .checked_div(self.bytes_per_second.get().into());
        let time = nanoseconds.and_then(|time| u64::try_from(time).ok()).unwrap_or(u64::MAX);
        let begin = self.free_at.max(Time::default().until(now));
        self.free_at = begin.saturating_add(Duration::from_nanos(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_takes_its_time_and_a_quiet_time_is_not_made_up_for() {
        let at = |milliseconds| Time::default().after(Duration::from_millis(milliseconds));
        let mut rate = Rate::new(NonZeroU64::new(1_000_000).unwrap());
        rate.moved(500_000, at(0));
        rate.moved(500_000, at(0));
        assert_eq!(rate.free_at(), at(1_000));
        rate.moved(100_000, at(5_000));
        assert_eq!(rate.free_at(), at(5_100));
    }

    #[test]
    fn turns_of_many_connections_cost_their_time_however_little_each_moves() {
        let mut rate = Rate::new(NonZeroU64::new(10_000_000).unwrap());
        (0..1_000).for_each(|_| rate.moved(5_000, Time::default()));
        assert_eq!(rate.free_at(), Time(500));
    }

    #[test]
    fn all_of_the_rate_is_given_however_little_a_turn_moves() {
        for turn_bytes in [100, 4_096, 7_000, 50_000] {
            let mut rate = Rate::new(NonZeroU64::new(10_000_000).unwrap());
            let mut moved = 0;
            for now in (0..1_000).map(Time) {
                while rate.free_at() <= now {
                    rate.moved(turn_bytes, now);
                    moved += turn_bytes;
                }
            }
            assert!((9_900_000..=10_100_000).contains(&moved), "{moved} by {turn_bytes}");
        }
    }

    /// A greeting does not wait behind so many bulk transfers until its client has given up.
    #[test]
    fn all_have_their_turn_in_a_part_of_a_second_however_many_they_are() {
        let rate = Rate::new(NonZeroU64::new(1_000_000).unwrap());
        assert_eq!([0, 1, 10].map(|count| rate.turn_bytes(count)), [62_500, 62_500, 6_250]);
        assert_eq!([100, 10_000].map(|count| rate.turn_bytes(count)), [4_096; 2]);
        assert_eq!(Rate::new(NonZeroU64::MIN).turn_bytes(1), 4_096);
    }
}
