//! Shares: how many bytes a token may bring in all, and how many unfinished uploads it may have.
//!
//! Counted is what was acknowledged and what is durable of unfinished puts (settled), and what
//! running puts have announced (reserved). What a put has reserved and does not need comes back by
//! itself; what is settled comes back only where it is known that it is gone from the disk.

use std::sync::{Arc, Mutex, MutexGuard};

use ftx_protocol::{Code, Refusal};

use crate::server::lock::lock;

/// What the puts of a token add up to.
#[derive(Debug, Default)]
pub(in crate::server) struct Account {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    settled: u64,
    reserved: u64,
}

impl Account {
    pub(super) fn with(settled: u64) -> Self {
        Self { counts: Mutex::new(Counts { settled, reserved: 0 }) }
    }

    /// Bytes that it will have used if nothing more of what runs becomes durable.
    pub(super) fn settled(&self) -> u64 {
        self.lock().settled
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

/// An account and its limits.
#[derive(Debug, Clone)]
pub(in crate::server) struct Share {
    pub(super) account: Arc<Account>,
    /// Bytes in all; `None` is as many as there is room for.
    pub(super) max_bytes: Option<u64>,
    /// Unfinished uploads at once.
    pub(super) max_partials: u32,
}

impl Share {
    /// Unfinished uploads that the token may have at once.
    pub(in crate::server) fn partials_max(&self) -> usize {
        self.max_partials as usize
    }

    /// Reserves what a put brings that begins at this offset. `size` is that of the whole file, if
    /// it is known; if it is not, [`Reservation::reached`] counts as the file grows.
    pub(in crate::server) fn reserve(
        &self,
        at: u64,
        size: Option<u64>,
    ) -> Result<Reservation, Refusal> {
        let mut reservation =
            Reservation { share: self.clone(), begun_at: at, reserved: 0, settled: 0 };
        reservation.reserve_up_to(size.unwrap_or(at))?;
        Ok(reservation)
    }
}

/// What a put counts for. Dropped, it gives back what it reserved and did not settle.
#[derive(Debug)]
pub(in crate::server) struct Reservation {
    share: Share,
    begun_at: u64,
    reserved: u64,
    settled: u64,
}

impl Reservation {
    /// The put has so many bytes that are durable, counted from the beginning of the file.
    ///
    /// # Errors
    /// `quota`, when its size was not announced and the share is used up.
    pub(in crate::server) fn reached(&mut self, durable: u64) -> Result<(), Refusal> {
        self.reserve_up_to(durable)?;
        let brought = durable.saturating_sub(self.begun_at);
        let newly = brought.saturating_sub(self.settled).min(self.reserved);
        let mut counts = self.share.account.lock();
        counts.reserved = counts.reserved.saturating_sub(newly);
        counts.settled = counts.settled.saturating_add(newly);
        self.reserved = self.reserved.saturating_sub(newly);
        self.settled = self.settled.saturating_add(newly);
        Ok(())
    }

    /// The put was acknowledged: all that it reserved stays counted.
    pub(in crate::server) fn keep(mut self) {
        let mut counts = self.share.account.lock();
        counts.reserved = counts.reserved.saturating_sub(self.reserved);
        counts.settled = counts.settled.saturating_add(self.reserved);
        self.reserved = 0;
    }

    /// What was stored of the put is gone from the disk. What attempts before this one brought stays counted:
    /// where this one began is the client's word, and the file may be there under its name.
    pub(in crate::server) fn discard(mut self) {
        let mut counts = self.share.account.lock();
        counts.settled = counts.settled.saturating_sub(self.settled);
        self.settled = 0;
    }

    /// The put has brought so many bytes, counted from the beginning of the file, and may not have made
    /// them durable.
    ///
    /// # Errors
    /// `quota`, when its size was not announced and the share is used up.
    pub(in crate::server) fn brought(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.reserve_up_to(bytes)
    }

    fn reserve_up_to(&mut self, size: u64) -> Result<(), Refusal> {
        let has = self.reserved.saturating_add(self.settled);
        let more = size.saturating_sub(self.begun_at).saturating_sub(has);
        let mut counts = self.share.account.lock();
        let used = counts.settled.saturating_add(counts.reserved);
        if let Some(max) = self.share.max_bytes
            && more > max.saturating_sub(used)
        {
            let left = max.saturating_sub(used);
            return Err(Refusal::new(
                Code::Quota,
                format!("the token may bring {max} bytes in all, and {left} of them are left"),
            ));
        }
        counts.reserved = counts.reserved.saturating_add(more);
        self.reserved = self.reserved.saturating_add(more);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.share.account.lock();
        counts.reserved = counts.reserved.saturating_sub(self.reserved);
    }
}

#[cfg(test)]
impl Share {
    /// Of a token that has brought nothing yet.
    pub(in crate::server) fn new(max_bytes: Option<u64>) -> Self {
        Self { account: Arc::default(), max_bytes, max_partials: 2 }
    }

    /// What is settled, and what is reserved.
    pub(in crate::server) fn counts(&self) -> (u64, u64) {
        let Counts { settled, reserved } = *self.account.lock();
        (settled, reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(max_bytes: Option<u64>) -> Share {
        Share::new(max_bytes)
    }

    fn counts(share: &Share) -> (u64, u64) {
        share.counts()
    }

    #[test]
    fn a_put_that_is_refused_or_fails_gives_back_what_it_reserved() {
        let share = share(Some(100));
        let put = share.reserve(0, Some(60)).unwrap();
        assert_eq!(counts(&share), (0, 60));
        assert_eq!(share.reserve(0, Some(41)).unwrap_err().code, Code::Quota);
        assert_eq!(counts(&share), (0, 60), "the refused one took nothing");
        drop(put);
        assert_eq!(counts(&share), (0, 0));
        share.reserve(0, Some(100)).unwrap().keep();
        assert_eq!(counts(&share), (100, 0));
        assert!(share.reserve(0, Some(1)).is_err() && share.reserve(0, Some(0)).is_ok());
    }

    #[test]
    fn a_put_of_unknown_size_counts_as_it_grows() {
        let share = share(Some(100));
        let mut put = share.reserve(0, None).unwrap();
        put.reached(40).unwrap();
        assert_eq!(counts(&share), (40, 0));
        put.reached(90).unwrap();
        let refusal = put.reached(101).unwrap_err();
        assert_eq!((refusal.code, counts(&share)), (Code::Quota, (90, 0)));
        put.discard();
        assert_eq!(counts(&share), (0, 0), "what was stored is gone");
    }

    #[test]
    fn what_is_durable_of_a_put_that_broke_off_is_counted_once() {
        let share = share(Some(100));
        let mut first = share.reserve(0, Some(80)).unwrap();
        first.reached(30).unwrap();
        assert_eq!(counts(&share), (30, 50));
        drop(first);
        assert_eq!(counts(&share), (30, 0));
        let mut second = share.reserve(30, Some(80)).unwrap();
        assert_eq!(counts(&share), (30, 50));
        second.reached(60).unwrap();
        second.reached(60).unwrap();
        assert_eq!(counts(&share), (60, 20));
        second.keep();
        assert_eq!(counts(&share), (80, 0));
        share.reserve(80, Some(80)).unwrap();
        assert_eq!(counts(&share), (80, 0), "said once more, nothing comes back");
        let mut third = share.reserve(0, Some(20)).unwrap();
        third.reached(10).unwrap();
        drop(third);
        share.reserve(10, Some(20)).unwrap().discard();
        assert_eq!(counts(&share), (90, 0), "what is counted is not taken back on a client's word");
    }

    #[test]
    fn what_is_said_once_more_and_spoilt_gives_nothing_back() {
        let share = share(Some(100));
        share.reserve(0, Some(60)).unwrap().keep();
        let mut again = share.reserve(60, Some(60)).unwrap();
        again.reached(60).unwrap();
        again.discard();
        assert_eq!(counts(&share), (60, 0));
    }

    #[test]
    fn what_was_brought_and_is_not_durable_counts_while_it_is_there() {
        let share = share(Some(100));
        let mut put = share.reserve(0, None).unwrap();
        put.brought(70).unwrap();
        assert_eq!(counts(&share), (0, 70));
        assert_eq!(put.brought(101).unwrap_err().code, Code::Quota);
        put.reached(70).unwrap();
        assert_eq!(counts(&share), (70, 0));
        put.brought(90).unwrap();
        drop(put);
        assert_eq!(counts(&share), (70, 0));
    }

    #[test]
    fn numbers_of_any_size_neither_wrap_nor_open_anything() {
        let share = share(Some(u64::MAX));
        let first = share.reserve(0, Some(u64::MAX)).unwrap();
        assert!(share.reserve(0, Some(1)).is_err());
        drop(first);
        share.reserve(u64::MAX, Some(0)).unwrap().discard();
        assert_eq!(counts(&share), (0, 0));
    }

    #[test]
    fn puts_at_the_same_time_share_what_there_is() {
        let share = share(Some(1_000));
        let kept: u64 = std::thread::scope(|scope| {
            let put = || {
                (0..1_000)
                    .filter(|_| {
                        share.reserve(0, Some(7)).is_ok_and(|put| {
                            put.keep();
                            true
                        })
                    })
                    .count() as u64
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(put)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // One that is refused holds nothing, so nothing is refused that would fit.
        assert_eq!((kept * 7, counts(&share)), (994, (994, 0)));
    }
}
