//! How much room there is on the disk, asked as seldom as is safe: the question costs as much as
//! writing a small file.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ftx_protocol::{Code, Refusal};

use super::begin::RESERVE_BYTES;
use super::lock;

/// An answer is relied on for this long.
const ROOM_FOR: Duration = Duration::from_millis(50);

/// And only while more than this would be left over what has to stay free: far more than anybody
/// else writes in that time. Nearer to the limit each put asks.
const ROOM_SPARE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// What is being done when the room is asked for, for messages.
pub(super) const ASKING: &str = "asking the file system";

/// What is known of the room.
#[derive(Default)]
pub(super) struct Room(Mutex<Option<Known>>);

struct Known {
    at: Instant,
    free: u64,
}

impl Room {
    /// Refuses a put of this size that would leave less than `least` bytes free.
    pub(super) fn check(
        &self,
        size: Option<u64>,
        ask: impl FnOnce() -> Result<u64, Refusal>,
        least: u64,
    ) -> Result<(), Refusal> {
        let least = size.unwrap_or(0).saturating_add(least);
        // What may be large always asks.
        if let Some(size) = size.filter(|size| *size < RESERVE_BYTES)
            && self.has_plenty(size, least)
        {
            return Ok(());
        }
        let free = ask()?;
        // Less what this put takes: where a large one leaves little, the small ones behind it ask.
        let left = free.saturating_sub(size.unwrap_or(0));
        *lock(&self.0) = Some(Known { at: Instant::now(), free: left });
        check_left(free, least)
    }

    /// Whether there was so much a moment ago that nobody can have used it up; counts what is taken.
    fn has_plenty(&self, size: u64, least: u64) -> bool {
        let mut known = lock(&self.0);
        let Some(known) = &mut *known else { return false };
        let plenty = known.free > least.saturating_add(ROOM_SPARE_BYTES);
        known.free = known.free.saturating_sub(size);
        plenty && known.at.elapsed() < ROOM_FOR
    }
}

/// Refuses what leaves less than `least` bytes of what is `free`.
pub(super) fn check_left(free: u64, least: u64) -> Result<(), Refusal> {
    if free < least {
        let message = format!("{free} bytes are free; {least} are needed");
        return Err(Refusal::new(Code::NoSpace, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn near_the_limit_every_put_asks_and_far_from_it_few_do() {
        let asked = Cell::new(0);
        let put = |room: &Room, free: u64, size: Option<u64>| {
            let ask = || {
                asked.set(asked.get() + 1);
                Ok(free)
            };
            room.check(size, ask, 1_000).map_err(|refusal| refusal.code)
        };
        let room = Room::default();
        for _ in 0..100 {
            assert_eq!(put(&room, ROOM_SPARE_BYTES, Some(10)), Ok(()));
        }
        assert_eq!(asked.take(), 100);
        assert_eq!(put(&room, 1_009, Some(10)), Err(Code::NoSpace));
        asked.set(0);
        let room = Room::default();
        for _ in 0..10 {
            assert_eq!(put(&room, 1 << 40, Some(10)), Ok(()));
        }
        assert!(asked.take() < 10, "unless this machine stood still");
        for size in [None, Some(RESERVE_BYTES)] {
            assert_eq!(put(&room, 1_000, size).is_err(), size.is_some());
        }
        assert_eq!(asked.take(), 2);
        // After a large one that leaves too little.
        let room = Room::default();
        assert_eq!(put(&room, ROOM_SPARE_BYTES + (1 << 30), Some(1 << 30)), Ok(()));
        assert_eq!(put(&room, 1_000, Some(10)), Err(Code::NoSpace));
        assert_eq!(asked.take(), 2);
        // What was taken counts: there is room for two of these above what is spare.
        let large = RESERVE_BYTES - 1;
        let free = ROOM_SPARE_BYTES + 1_000 + 3 * large;
        let room = Room::default();
        for _ in 0..4 {
            assert_eq!(put(&room, free, Some(large)), Ok(()));
        }
        assert!(asked.take() >= 2);
    }
}
