//! How much somebody may have open, of what all may have open together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much all may have open, or the part of it that some may have.
///
/// What is opened while others open something at the same time may come on top: it is a count, and whoever looks at it
/// takes nothing by that.
#[derive(Debug)]
pub struct OpenLimit {
    max: usize,
    open: AtomicUsize,
    /// What it is a part of.
    whole: Option<Arc<OpenLimit>>,
}

/// What one user has open under a limit. It is given back when this is dropped.
#[derive(Debug)]
pub struct Opened {
    limit: Arc<OpenLimit>,
    count: usize,
}

impl OpenLimit {
    /// Of all together: `max` at once.
    pub fn whole(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), whole: None })
    }

    /// Of some of them, who have no more than `max` of the whole.
    pub fn part(whole: &Arc<Self>, max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), whole: Some(Arc::clone(whole)) })
    }

    /// Whether one more may be opened: there is room here and in the whole.
    pub fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.max
            && self.whole.as_deref().is_none_or(Self::has_room)
    }

    fn change(&self, from: usize, to: usize) {
        self.open.fetch_add(to, Ordering::Relaxed);
        self.open.fetch_sub(from, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.change(from, to);
        }
    }
}

impl Opened {
    /// Nothing yet, under this limit.
    pub fn under(limit: Arc<OpenLimit>) -> Self {
        Self { limit, count: 0 }
    }

    /// Whether one more may be opened.
    pub fn has_room(&self) -> bool {
        self.limit.has_room()
    }

    /// It is so many now.
    pub fn set(&mut self, count: usize) {
        if count != self.count {
            self.limit.change(self.count, count);
            self.count = count;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_held_to_itself_and_to_the_whole_and_all_is_given_back() {
        let whole = OpenLimit::whole(5);
        let (one, other) = (OpenLimit::part(&whole, 3), OpenLimit::part(&whole, 3));
        let (mut first, mut second) =
            (Opened::under(Arc::clone(&one)), Opened::under(Arc::clone(&one)));
        first.set(1);
        second.set(2);
        assert!(!first.has_room() && !second.has_room(), "they have it together");
        let mut third = Opened::under(Arc::clone(&other));
        assert!(third.has_room());
        third.set(2);
        assert!(!third.has_room(), "the whole is all");
        drop(second);
        assert!(first.has_room() && third.has_room());
        first.set(0);
        drop(third);
        assert_eq!(whole.open.load(Ordering::Relaxed), 0);
    }
}
