//! How much somebody may have open, within what several, or all, may have open together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much may be open at once: of all, or of those who have this limit together.
#[derive(Debug)]
pub struct OpenLimit {
    max: usize,
    open: AtomicUsize,
    /// What is open here counts there too.
    wider: Vec<Arc<OpenLimit>>,
}

/// What one user has open under a limit. It is given back when this is dropped.
#[derive(Debug)]
pub struct Opened {
    limit: Arc<OpenLimit>,
    count: usize,
}

impl OpenLimit {
    /// `max` at once.
    pub fn at_most(max: usize) -> Arc<Self> {
        Self::within(max, Vec::new())
    }

    /// `max` at once, as far as there is room in each of these wider limits.
    pub fn within(max: usize, wider: Vec<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), wider })
    }

    /// Takes so many, here and in all wider limits; or nothing, where one of them has no room.
    fn take(&self, count: usize) -> bool {
        let more = |open: usize| open.checked_add(count).filter(|more| *more <= self.max);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        let taken = self.wider.iter().take_while(|wider| wider.take(count)).count();
        let has_all = taken == self.wider.len();
        if !has_all {
            self.wider.iter().take(taken).for_each(|wider| wider.give_back(count));
            self.open.fetch_sub(count, Ordering::Relaxed);
        }
        has_all
    }

    fn give_back(&self, count: usize) {
        self.wider.iter().for_each(|wider| wider.give_back(count));
        self.open.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Opened {
    /// Nothing yet, under this limit.
    pub fn under(limit: Arc<OpenLimit>) -> Self {
        Self { limit, count: 0 }
    }

    /// Counts one that is about to be opened. Without room for it, nothing is to be opened.
    #[must_use]
    pub fn take(&mut self) -> bool {
        self.take_up_to(self.count.saturating_add(1))
    }

    /// Counts as many more as it takes to have `count`; or none, where there is no room for all.
    #[must_use]
    pub fn take_up_to(&mut self, count: usize) -> bool {
        let more = count.saturating_sub(self.count);
        let taken = self.limit.take(more);
        if taken {
            self.count = self.count.saturating_add(more);
        }
        taken
    }

    /// Only so many are open any more.
    pub fn keep(&mut self, count: usize) {
        let gone = self.count.saturating_sub(count);
        if gone > 0 {
            self.limit.give_back(gone);
            self.count = count;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OpenLimit {
        fn open(&self) -> usize {
            self.open.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn who_shares_a_limit_is_held_to_it_and_to_the_wider_one_and_all_is_given_back() {
        let whole = OpenLimit::at_most(5);
        let [one, other] = [3, 3].map(|max| OpenLimit::within(max, vec![Arc::clone(&whole)]));
        let mut opened = [&one, &one, &other].map(|limit| Opened::under(Arc::clone(limit)));
        let [first, second, third] = &mut opened;
        assert!(first.take() && second.take() && second.take());
        assert!(!first.take() && !second.take(), "they have it together");
        assert!(third.take() && third.take() && !third.take(), "the whole is all");
        assert_eq!([whole.open(), one.open(), other.open()], [5, 3, 2]);
        second.keep(1);
        assert!(third.take());
        second.keep(7);
        first.keep(0);
        assert_eq!([whole.open(), one.open(), other.open()], [4, 1, 3]);
        drop(opened);
        assert_eq!([whole.open(), one.open(), other.open()], [0, 0, 0]);
    }

    #[test]
    fn what_has_no_room_in_one_wider_limit_takes_none_of_another() {
        let (wide, narrow) = (OpenLimit::at_most(9), OpenLimit::at_most(1));
        for wider in [[&wide, &narrow], [&narrow, &wide]] {
            let limit = OpenLimit::within(9, wider.map(Arc::clone).to_vec());
            let mut opened = Opened::under(Arc::clone(&limit));
            assert!(opened.take() && !opened.take());
            assert_eq!([wide.open(), narrow.open(), limit.open()], [1, 1, 1]);
        }
    }

    /// Whoever looks first and takes then lets all of them in.
    #[test]
    fn those_who_open_at_the_same_time_get_no_more_than_there_is() {
        const MAX: usize = 6;
        for _ in 0..200 {
            let whole = OpenLimit::at_most(MAX);
            let limit = OpenLimit::within(MAX + 2, vec![Arc::clone(&whole)]);
            let start = std::sync::Barrier::new(8);
            let opens = || {
                start.wait();
                let mut opened = Opened::under(Arc::clone(&limit));
                while opened.take() {}
                opened
            };
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(opens)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(all.iter().map(|opened| opened.count).sum::<usize>(), MAX);
            assert_eq!([whole.open(), limit.open()], [MAX, MAX]);
        }
    }
}
