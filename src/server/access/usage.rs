//! Shares: how many bytes a token may bring in all, and how many unfinished uploads it may have.
//!
//! Counted is what was acknowledged and what is durable of unfinished puts (settled), and what
//! running puts have announced (reserved). What a put has reserved and does not need comes back by
//! itself; what is settled comes back only where it is known that it is gone from the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ftx_protocol::{Code, Refusal};

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

    /// Each holder leaves the counts whole.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Whether one more upload may be begun, when there are so many unfinished ones.
    pub(in crate::server) fn check_partials(&self, unfinished: usize) -> Result<(), Refusal> {
        match unfinished < self.max_partials as usize {
            true => Ok(()),
            false => Err(Refusal::new(
                Code::Quota,
                format!(
                    "the token has {} unfinished uploads, the most that it may have: finish some, \
                     or wait until they are given up",
                    self.max_partials
                ),
            )),
        }
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

    /// What was stored of the put, by this attempt and those before it, is gone from the disk.
    pub(in crate::server) fn discard(mut self) {
        let gone = self.begun_at.saturating_add(self.settled);
        let mut counts = self.share.account.lock();
        counts.settled = counts.settled.saturating_sub(gone);
        self.settled = 0;
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
