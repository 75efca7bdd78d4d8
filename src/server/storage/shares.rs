//! What the connections of one address, or of one client, may have open of what all may: files that are sent, and
//! directories that are listed, with their names. So nobody keeps others from reading.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use ftx_disk::store::{ListLimits, OpenLimit};
use ftx_disk::walk::{NAMES_ROOM_BYTES, names_room};
use ftx_protocol::limits::NAME_PARTS;

use super::client::Client;
use crate::server::lock::lock;
use crate::server::network::Network;
use crate::server::{OpenMax, most_of_one};

/// Directories of one client, from wherever it comes: those of two lists, each as deep as a name has parts.
const CLIENT_DIRECTORIES_MAX: usize = 2 * NAME_PARTS;

/// Limits that are remembered before it is looked for those that nobody has any more.
const KEPT_MIN: usize = 64;

/// Those of all.
pub(super) struct Shares {
    files: Of<Network>,
    directories: Of<Network>,
    directories_of_clients: Of<Client>,
    names: Of<Network>,
}

impl Shares {
    pub(super) fn new(max: OpenMax) -> Self {
        let within = |all| Of::new(most_of_one(all), vec![OpenLimit::at_most(all)]);
        Self {
            files: within(max.files),
            directories: within(max.directories),
            directories_of_clients: Of::new(CLIENT_DIRECTORIES_MAX, Vec::new()),
            names: Of::new(most_of_one(NAMES_ROOM_BYTES), vec![names_room()]),
        }
    }

    /// For files that are open to be sent, or for their digest, from this address.
    pub(super) fn files(&self, from: Network) -> Arc<OpenLimit> {
        self.files.get(from)
    }

    /// For what a client lists that comes from this address.
    pub(super) fn lists(&self, client: Client, from: Network) -> ListLimits {
        ListLimits { directories: self.directories(client, from), names: self.names.get(from) }
    }

    /// For directories that are open to be listed.
    fn directories(&self, client: Client, from: Network) -> Arc<OpenLimit> {
        let both = vec![self.directories.get(from), self.directories_of_clients.get(client)];
        OpenLimit::within(usize::MAX, both)
    }
}

/// A limit for each of many, of the same height.
struct Of<K> {
    max: usize,
    wider: Vec<Arc<OpenLimit>>,
    state: Mutex<State<K>>,
}

struct State<K> {
    limits: HashMap<K, Arc<OpenLimit>>,
    /// With so many it is looked for those that need not be remembered.
    sweep_at: usize,
}

impl<K: Eq + Hash> Of<K> {
    fn new(max: usize, wider: Vec<Arc<OpenLimit>>) -> Self {
        let state = State { limits: HashMap::new(), sweep_at: KEPT_MIN };
        Self { max, wider, state: Mutex::new(state) }
    }

    fn get(&self, key: K) -> Arc<OpenLimit> {
        let State { limits, sweep_at } = &mut *lock(&self.state);
        if let Some(limit) = limits.get(&key) {
            return Arc::clone(limit);
        }
        if limits.len() >= *sweep_at {
            limits.retain(|_, limit| Arc::strong_count(limit) > 1);
            *sweep_at = limits.len().saturating_mul(2).max(KEPT_MIN);
        }
        let limit = OpenLimit::within(self.max, self.wider.clone());
        limits.insert(key, Arc::clone(&limit));
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::store::Opened;
    use ftx_protocol::Owner;

    const MAX: OpenMax = OpenMax { puts: 2, files: 8, directories: 1_000 };

    fn address(number: u8) -> Network {
        Network::of([192, 0, 2, number].into())
    }

    fn token(number: u8) -> Client {
        Client::Token(Owner([number; 8]))
    }

    /// Opens as much as is let, on as many connections as it likes.
    fn greedy(shares: &Shares, of: impl Fn(&Shares) -> Arc<OpenLimit>) -> Vec<Opened> {
        let mut all = Vec::new();
        loop {
            let mut opened = Opened::under(of(shares));
            if !opened.take() {
                return all;
            }
            all.push(opened);
        }
    }

    #[test]
    fn an_address_that_has_all_that_it_may_leaves_some_to_another_one() {
        let shares = Shares::new(MAX);
        let files = greedy(&shares, |shares| shares.files(address(1)));
        assert_eq!(files.len(), 6);
        // With as many tokens as it has.
        let directories: Vec<_> = (0..9)
            .flat_map(|number| {
                greedy(&shares, |shares| shares.directories(token(number), address(1)))
            })
            .collect();
        assert_eq!(directories.len(), 750);
        assert!(Opened::under(shares.files(address(2))).take());
        assert!(Opened::under(shares.directories(token(100), address(2))).take());
    }

    #[test]
    fn a_client_lists_no_more_directories_from_many_addresses_than_from_one() {
        let shares = Shares::new(MAX);
        let opened: Vec<_> = (0..9)
            .flat_map(|from| greedy(&shares, |shares| shares.directories(token(1), address(from))))
            .collect();
        assert_eq!(opened.len(), CLIENT_DIRECTORIES_MAX);
        assert!(Opened::under(shares.directories(token(2), address(1))).take());
    }

    #[test]
    fn an_address_that_lists_large_directories_leaves_room_for_names_to_another_one() {
        const LARGE: usize = 8 * 1024 * 1024;
        let shares = Shares::new(MAX);
        let takes = |from: u8| {
            let mut opened = Opened::under(shares.lists(token(from), address(from)).names);
            opened.take_up_to(LARGE).then_some(opened)
        };
        let greedy: Vec<_> = std::iter::from_fn(|| takes(1)).collect();
        assert_eq!(greedy.len(), 3);
        assert!(takes(2).is_some());
    }

    #[test]
    fn who_reads_nothing_any_more_is_forgotten_and_who_does_is_not() {
        let limits = Of::new(1, Vec::new());
        let kept = limits.get(0);
        (1..1_000).for_each(|number| drop(limits.get(number)));
        assert!(lock(&limits.state).limits.len() <= KEPT_MIN);
        assert!(Arc::ptr_eq(&kept, &limits.get(0)));
        let many: Vec<_> = (0..1_000).map(|number| limits.get(number)).collect();
        assert!(lock(&limits.state).sweep_at > many.len(), "it is not looked for at each");
    }
}
