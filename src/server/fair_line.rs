//! Whose turn it is: those who have something waiting one after the other, and of each what waits in the order in which
//! it came. So somebody who has much waiting takes time from that, and from nobody else.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What waits, by whose it is. Each is here once: whoever puts it here sees to that.
#[derive(Debug)]
pub(super) struct FairLine<K, T> {
    /// Those that have something here. The first of them is next.
    order: VecDeque<K>,
    /// None of these is empty.
    waiting: HashMap<K, VecDeque<T>>,
    count: usize,
}

impl<K, T> Default for FairLine<K, T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), waiting: HashMap::new(), count: 0 }
    }
}

impl<K: Copy + Eq + Hash, T> FairLine<K, T> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, whose: K, what: T) {
        let of_it = self.waiting.entry(whose).or_default();
        if of_it.is_empty() {
            self.order.push_back(whose);
        }
        of_it.push_back(what);
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let whose = self.order.pop_front()?;
        let of_it = self.waiting.get_mut(&whose)?;
        let what = of_it.pop_front();
        self.count = self.count.saturating_sub(1);
        if of_it.is_empty() {
            self.waiting.remove(&whose);
        } else {
            self.order.push_back(whose);
        }
        what
    }

    /// Takes out what came last of what is like this: most of those that go came last.
    pub(super) fn remove(&mut self, whose: K, like_this: impl Fn(&T) -> bool) -> Option<T> {
        let of_it = self.waiting.get_mut(&whose)?;
        let what = of_it.remove(of_it.iter().rposition(like_this)?);
        self.count = self.count.saturating_sub(1);
        if of_it.is_empty() {
            self.waiting.remove(&whose);
            self.order.retain(|other| *other != whose);
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::key::ConnectionKey;
    use crate::server::network::Network;

    fn key(place: usize) -> ConnectionKey {
        ConnectionKey::new(0, 1, place)
    }

    fn all(queue: &mut FairLine<Network, ConnectionKey>) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop()).map(|key| key.place()).collect()
    }

    #[test]
    fn an_address_with_many_connections_has_no_more_turns_than_one_with_one() {
        let mut queue = FairLine::default();
        let (many, few, one) = (Network::V4(1), Network::V4(2), Network::V6(3));
        (0..6).for_each(|place| queue.push(many, key(place)));
        (10..12).for_each(|place| queue.push(few, key(place)));
        queue.push(one, key(20));
        assert_eq!(queue.len(), 9);
        assert_eq!([queue.pop(), queue.pop()].map(|key| key.unwrap().place()), [0, 10]);
        // Again, as after a turn that left something to do.
        queue.push(many, key(0));
        queue.push(few, key(10));
        assert_eq!(all(&mut queue), [20, 1, 11, 2, 10, 3, 4, 5, 0]);
        assert!(queue.is_empty() && queue.pop().is_none());
        // Whoever comes later comes behind those who were there, and not behind all that these bring.
        (0..4).for_each(|place| queue.push(many, key(place)));
        queue.pop();
        queue.push(one, key(20));
        assert_eq!(all(&mut queue), [1, 20, 2, 3]);
        assert_eq!(queue.waiting.len(), 0, "nothing is kept of who has gone");
    }

    #[test]
    fn what_was_taken_out_has_no_turn_and_leaves_nothing() {
        let mut queue = FairLine::default();
        let (one, other) = (Network::V4(1), Network::V4(2));
        (0..3).for_each(|place| queue.push(one, key(place)));
        queue.push(other, key(10));
        assert_eq!(queue.remove(one, |of| *of == key(1)), Some(key(1)));
        assert_eq!(queue.remove(other, |of| *of == key(0)), None, "it is another one's");
        assert_eq!(queue.remove(other, |of| *of == key(10)), Some(key(10)));
        assert_eq!((queue.len(), queue.order.len(), queue.waiting.len()), (2, 1, 1));
        queue.push(other, key(11));
        assert_eq!(all(&mut queue), [0, 11, 2]);
        assert_eq!(queue.remove(one, |_| true), None);
    }
}
