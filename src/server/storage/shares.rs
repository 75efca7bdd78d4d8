//! What the connections of one address may have open of what all may: files that are sent, and directories that are
//! listed. So nobody keeps others from reading, from one address.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ftx_disk::store::OpenLimit;

use crate::server::doors::Network;
use crate::server::lock::lock;
use crate::server::{OpenMax, most_of_one};

/// Directories of one address. Each is memory too; they are those of two lists, each as deep as a name has parts.
const ADDRESS_DIRECTORIES_MAX: usize = 2 * ftx_protocol::limits::NAME_PARTS;

/// Addresses that are remembered before it is looked for those that have no connection that reads any more.
const ADDRESSES_MIN: usize = 64;

/// Those of all addresses.
pub(super) struct Shares {
    all: OfAddress,
    max: OpenMax,
    state: Mutex<State>,
}

struct State {
    addresses: HashMap<Network, OfAddress>,
    /// With so many it is looked for those that need not be remembered.
    sweep_at: usize,
}

/// That of an address.
#[derive(Clone)]
pub(super) struct OfAddress {
    /// Files that are open to be sent, or for their digest.
    pub(super) files: Arc<OpenLimit>,
    /// Directories that are open to be listed.
    pub(super) directories: Arc<OpenLimit>,
}

impl Shares {
    pub(super) fn new(max: OpenMax) -> Self {
        let all = OfAddress {
            files: OpenLimit::whole(max.files),
            directories: OpenLimit::whole(max.directories),
        };
        let state = State { addresses: HashMap::new(), sweep_at: ADDRESSES_MIN };
        Self { all, max, state: Mutex::new(state) }
    }

    /// That of this address.
    pub(super) fn of(&self, network: Network) -> OfAddress {
        let State { addresses, sweep_at } = &mut *lock(&self.state);
        if let Some(share) = addresses.get(&network) {
            return share.clone();
        }
        if addresses.len() >= *sweep_at {
            addresses.retain(|_, share| share.is_used());
            *sweep_at = addresses.len().saturating_mul(2).max(ADDRESSES_MIN);
        }
        let directories = most_of_one(self.max.directories).min(ADDRESS_DIRECTORIES_MAX);
        let share = OfAddress {
            files: OpenLimit::part(&self.all.files, most_of_one(self.max.files)),
            directories: OpenLimit::part(&self.all.directories, directories),
        };
        addresses.insert(network, share.clone());
        share
    }
}

impl OfAddress {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.files) > 1 || Arc::strong_count(&self.directories) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::store::Opened;

    const MAX: OpenMax = OpenMax { puts: 2, files: 8, directories: 4 };

    fn address(number: u32) -> Network {
        Network::of(std::net::Ipv4Addr::from_bits(0xc000_0200 | number).into())
    }

    #[test]
    fn an_address_that_has_all_that_it_may_leaves_some_to_another_one() {
        let shares = Shares::new(MAX);
        for (of, max) in [
            ((|share: OfAddress| share.files) as fn(OfAddress) -> Arc<OpenLimit>, MAX.files),
            (|share| share.directories, MAX.directories),
        ] {
            // On as many connections as it likes.
            let mut greedy = Vec::new();
            while of(shares.of(address(1))).has_room() {
                let mut held = Opened::under(of(shares.of(address(1))));
                held.set(1);
                greedy.push(held);
            }
            assert_eq!(greedy.len(), max * 3 / 4);
            assert!(of(shares.of(address(2))).has_room());
        }
    }

    #[test]
    fn who_reads_nothing_any_more_is_forgotten() {
        let shares = Shares::new(MAX);
        let kept = shares.of(address(0));
        (1..1_000).for_each(|number| drop(shares.of(address(number))));
        assert!(lock(&shares.state).addresses.len() <= ADDRESSES_MIN);
        assert!(Arc::ptr_eq(&kept.files, &shares.of(address(0)).files));
    }
}
