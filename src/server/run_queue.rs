//! Who has the next turn: the addresses one after the other, and of each its connections in the order in which they
//! came. So somebody with many connections takes time from those, and from nobody else.

use std::collections::{HashMap, VecDeque};

use super::key::ConnectionKey;
use super::network::Network;

/// Connections that have something to do. Each is here once: whoever puts it here sees to that.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    /// Those that have any here. The first of them is next.
    networks: VecDeque<Network>,
    /// None of these is empty.
    connections: HashMap<Network, VecDeque<ConnectionKey>>,
    count: usize,
}

impl RunQueue {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, network: Network, key: ConnectionKey) {
        let of_it = self.connections.entry(network).or_default();
        if of_it.is_empty() {
            self.networks.push_back(network);
        }
        of_it.push_back(key);
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn pop(&mut self) -> Option<ConnectionKey> {
        let network = self.networks.pop_front()?;
        let of_it = self.connections.get_mut(&network)?;
        let key = of_it.pop_front();
        self.count = self.count.saturating_sub(1);
        if of_it.is_empty() {
            self.connections.remove(&network);
        } else {
            self.networks.push_back(network);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: usize) -> ConnectionKey {
        ConnectionKey::new(0, 1, place)
    }

    fn all(queue: &mut RunQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop()).map(|key| key.place()).collect()
    }

    #[test]
    fn an_address_with_many_connections_has_no_more_turns_than_one_with_one() {
        let mut queue = RunQueue::default();
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
        assert_eq!(queue.connections.len(), 0, "nothing is kept of who has gone");
    }
}
