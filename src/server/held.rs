//! Who has to go where connections make a selector hold more than it may: somebody who holds much, and not
//! whoever asked last.

use std::collections::HashMap;

use super::key::ConnectionKey;
use super::network::Network;

/// Unfinished lines, unread replies, and what came of puts that wait for places, of all connections together. Far
/// more than honest clients need; past its share of it, a selector ends one that holds much.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// What all connections of a selector hold, beside its share of what a server may.
pub(super) struct Held {
    bytes: usize,
    bytes_max: usize,
}

impl Held {
    pub(super) fn new(selectors: usize) -> Self {
        Self { bytes: 0, bytes_max: HELD_BYTES / selectors.max(1) }
    }

    /// One of them holds so many bytes now, and not as many as were counted of it.
    pub(super) fn count(&mut self, counted: &mut usize, now: usize) {
        self.bytes = self.bytes.saturating_sub(*counted).saturating_add(now);
        *counted = now;
    }

    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

/// A connection, and what it makes the server hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) key: ConnectionKey,
    pub(super) network: Network,
    pub(super) bytes: usize,
}

/// The one that holds most, of those of the address that holds most in all: many connections that each
/// hold little are one who holds much.
pub(super) fn who_holds_most(
    holders: impl Iterator<Item = Holder> + Clone,
) -> Option<ConnectionKey> {
    let mut networks: HashMap<Network, usize> = HashMap::new();
    for holder in holders.clone() {
        let bytes = networks.entry(holder.network).or_default();
        *bytes = bytes.saturating_add(holder.bytes);
    }
    let (network, _) = networks.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    let of_it = holders.filter(|holder| holder.network == network);
    of_it.max_by_key(|holder| holder.bytes).map(|holder| holder.key)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn holder(place: usize, address: &str, bytes: usize) -> Holder {
        let network = Network::of(address.parse::<IpAddr>().unwrap());
        Holder { key: ConnectionKey::new(0, 1, place), network, bytes }
    }

    #[test]
    fn who_holds_most_goes_and_many_connections_of_one_address_are_one() {
        let most =
            |holders: &[Holder]| who_holds_most(holders.iter().copied()).map(|key| key.place());
        assert_eq!(most(&[]), None);
        let mut holders = vec![
            holder(0, "192.0.2.1", 5),
            holder(1, "192.0.2.2", 900),
            holder(2, "2001:db8::1", 40),
            holder(3, "2001:db8:0:1::1", 800),
        ];
        assert_eq!(most(&holders), Some(1));
        // A network is one address, as is what is mapped.
        holders.extend((10..40).map(|place| holder(place, "2001:db8::2", place)));
        holders.push(holder(40, "2001:db8::3", 200));
        assert_eq!(most(&holders), Some(40));
        holders.extend([holder(50, "::ffff:192.0.2.1", 600), holder(51, "192.0.2.1", 590)]);
        assert_eq!(most(&holders), Some(50));
    }
}
