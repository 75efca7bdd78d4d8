//! How many may come from one address, and how often: connections, connections that have not said
//! who they are, and logins that failed.
//!
//! Knows no socket and nothing of what is said. The front asks before it lets a connection in; what
//! becomes of the connection is told by its [`Pass`], from whichever selector serves it: by counts
//! that all of them share, touched when a connection comes, logs in, and ends. There is no lock,
//! and nothing here is on the way of a request.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ftx_protocol::Time;
use ftx_protocol::clock::milliseconds;
use tracing::warn;

use super::most_of_one;
use super::network::Network;

/// Connections that have not logged in, of one address: a client logs in within a round trip, and a
/// tree uses few connections.
pub const UNGREETED_PER_ADDRESS: u32 = 32;

/// Of all connections that there may be, such a part may be without a login: a crowd that says
/// nothing leaves the others to those that do.
pub const UNGREETED_PART: usize = 4;

/// But as many as this, however few connections there may be in all.
pub const UNGREETED_MIN: usize = 64;

/// What the first failed login too many costs; each further one twice as much as the one before.
pub const PENALTY_MIN: Duration = Duration::from_secs(1);

/// More than this does not keep more of them away.
pub const PENALTY_MAX: Duration = Duration::from_secs(600);

/// After so long without another one, failed logins are forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// Addresses that are remembered: some MiB. Past it the oldest one without a connection is
/// forgotten, and what failed there with it: rather that than a stranger who is kept out.
const ADDRESSES_MAX: usize = 65_536;

/// Addresses that are looked at for one to forget: what a connection may cost. Those that stay go
/// to the end, so the next search goes on behind them.
const LOOKED_AT_MAX: usize = 32;

/// How often a full table is looked through for those that need not be remembered.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How often it is said that connections are refused.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What one address may have.
#[derive(Debug, Clone)]
pub struct DoorOptions {
    /// Connections at once; three quarters of those that there may be in all, if that is less.
    pub connections_per_address: u32,
    /// Logins that may fail at no cost: after each further one the address has to wait.
    pub failed_logins: u32,
    /// Whether addresses of this machine are held to that too.
    pub own_machine: OwnMachine,
}

/// Whether the addresses of this machine are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnMachine {
    /// They are not: whoever is there has other ways to use the machine up.
    Free,
    /// As all others are.
    Counted,
}

impl Default for DoorOptions {
    /// A tree uses a few connections; an office behind one address fits.
    fn default() -> Self {
        Self { connections_per_address: 256, failed_logins: 5, own_machine: OwnMachine::Free }
    }
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shut {
    /// The address has as many connections as one may have.
    Crowded,
    /// Too many have not logged in, of this address or of all.
    Ungreeted,
    /// Logins of the address failed, and its time is not over.
    Penalty,
}

/// A site may have so many times what an address may have: there are people in several of its networks.
pub const SITE_ADDRESSES: u32 = 8;

/// What is known of an address, or of all of a site.
#[derive(Debug, Default)]
struct Address {
    /// Of all addresses together.
    all: Arc<Ungreeted>,
    /// The site that it is of.
    site: Option<Arc<Address>>,
    /// How many times as much it may have as one address.
    times: u32,
    connections: AtomicU32,
    ungreeted: AtomicU32,
    failures: AtomicU32,
    /// In milliseconds of the server's time.
    failed_at: AtomicU64,
    shut_until: AtomicU64,
}

/// Connections that have not logged in, of all addresses that are counted.
#[derive(Debug, Default)]
struct Ungreeted(AtomicUsize);

/// What a connection that was let in counts for, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// None where it is not counted.
    address: Option<Arc<Address>>,
    greeted: Greeted,
    free_failures: u32,
}

/// Whether a connection has logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Greeted {
    #[default]
    No,
    Yes,
}

pub(super) struct Doors {
    options: DoorOptions,
    ungreeted_max: usize,
    all: Arc<Ungreeted>,
    addresses: HashMap<Network, Arc<Address>>,
    /// The keys of `addresses`, each once: the oldest first, but for those that were looked at and
    /// had a connection.
    order: VecDeque<Network>,
    /// All for whom there is no room, as if they were one address.
    overflow: Arc<Address>,
    sweep_after: Time,
    refused: u64,
    say_after: Time,
}

impl Doors {
    pub(super) fn new(options: DoorOptions, connections_max: usize) -> Self {
        let all = Arc::default();
        let most = u32::try_from(most_of_one(connections_max)).unwrap_or(u32::MAX);
        let options = DoorOptions {
            connections_per_address: options.connections_per_address.min(most),
            ..options
        };
        Self {
            options,
            ungreeted_max: (connections_max / UNGREETED_PART).max(UNGREETED_MIN),
            overflow: Address::new(&all, None, 1),
            all,
            addresses: HashMap::new(),
            order: VecDeque::new(),
            sweep_after: Time::default(),
            refused: 0,
            say_after: Time::default(),
        }
    }

    /// Counts a connection in, or says why not.
    pub(super) fn enter(&mut self, peer: IpAddr, now: Time) -> Result<Pass, Shut> {
        let peer = peer.to_canonical();
        if peer.is_loopback() && self.options.own_machine == OwnMachine::Free {
            return Ok(Pass::default());
        }
        let address = self.address(Network::apart(peer), now);
        if let Err(shut) = self.may_enter(&address, now) {
            self.refused = self.refused.saturating_add(1);
            self.say_refused(peer, shut, now);
            return Err(shut);
        }
        for counted in address.with_site() {
            counted.connections.fetch_add(1, Ordering::Relaxed);
            counted.ungreeted.fetch_add(1, Ordering::Relaxed);
        }
        self.all.0.fetch_add(1, Ordering::Relaxed);
        let free_failures = self.options.failed_logins;
        Ok(Pass { address: Some(address), greeted: Greeted::No, free_failures })
    }

    fn may_enter(&self, address: &Address, now: Time) -> Result<(), Shut> {
        for counted in address.with_site() {
            let most = |of_one: u32| of_one.saturating_mul(counted.times);
            if now.0 < counted.shut_until.load(Ordering::Relaxed) {
                return Err(Shut::Penalty);
            }
            let connections = counted.connections.load(Ordering::Relaxed);
            if connections >= most(self.options.connections_per_address) {
                return Err(Shut::Crowded);
            }
            if counted.ungreeted.load(Ordering::Relaxed) >= most(UNGREETED_PER_ADDRESS) {
                return Err(Shut::Ungreeted);
            }
        }
        match self.all.0.load(Ordering::Relaxed) < self.ungreeted_max {
            true => Ok(()),
            false => Err(Shut::Ungreeted),
        }
    }

    /// What is known of an address; of all that are not remembered, where there is no room for it.
    fn address(&mut self, network: Network, now: Time) -> Arc<Address> {
        if let Some(address) = self.addresses.get(&network) {
            return Arc::clone(address);
        }
        let site = network.site().map(|site| self.address(site, now));
        if self.addresses.len() >= ADDRESSES_MAX && self.sweep_after <= now {
            self.sweep(now);
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            self.forget_one();
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            return Arc::clone(&self.overflow);
        }
        let times = if let Network::Site(_) = network { SITE_ADDRESSES } else { 1 };
        let address = Address::new(&self.all, site, times);
        self.addresses.insert(network, Arc::clone(&address));
        self.order.push_back(network);
        address
    }

    /// Forgets the addresses that have no connection and have failed at no login of late.
    pub(super) fn sweep(&mut self, now: Time) {
        self.sweep_after = now.after(SWEEP_EVERY);
        let Self { addresses, order, .. } = self;
        addresses.retain(|_, address| is_connected(address) || address.failures_at(now.0) > 0);
        order.retain(|key| addresses.contains_key(key));
    }

    /// Forgets the oldest address without a connection, if it is among the first.
    fn forget_one(&mut self) {
        for _ in 0..LOOKED_AT_MAX {
            let Some(key) = self.order.pop_front() else { return };
            if self.addresses.get(&key).is_some_and(is_connected) {
                self.order.push_back(key);
                continue;
            }
            self.addresses.remove(&key);
            return;
        }
    }

    fn say_refused(&mut self, peer: IpAddr, shut: Shut, now: Time) {
        if now < self.say_after {
            return;
        }
        self.say_after = now.after(SAY_EVERY);
        let refused = std::mem::take(&mut self.refused);
        match shut {
            Shut::Crowded => {
                warn!(%peer, refused, "connections not let in: the address has too many");
            }
            Shut::Ungreeted => {
                warn!(%peer, refused, "connections not let in: too many have not logged in");
            }
            Shut::Penalty => {
                warn!(%peer, refused, "connections not let in: logins from the address failed");
            }
        }
    }
}

/// Each connection's pass holds its address, beside the table, and each network its site.
fn is_connected(address: &Arc<Address>) -> bool {
    Arc::strong_count(address) > 1
}

impl Address {
    fn new(all: &Arc<Ungreeted>, site: Option<Arc<Self>>, times: u32) -> Arc<Self> {
        Arc::new(Self { all: Arc::clone(all), site, times, ..Self::default() })
    }

    /// All that is counted for it.
    fn with_site(&self) -> impl Iterator<Item = &Self> {
        [Some(self), self.site.as_deref()].into_iter().flatten()
    }

    /// A login failed: from some number on, it has to wait before it is let in again. Says how many have.
    fn failed(&self, now: u64, free_failures: u32) -> u32 {
        // Two at once may count as one; the next one counts.
        let failures = self.failures_at(now).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        self.failed_at.store(now, Ordering::Relaxed);
        let free_failures = free_failures.saturating_mul(self.times);
        if let Some(over) = failures.checked_sub(free_failures).filter(|over| *over > 0) {
            let doubled = 1_u32.checked_shl(over.saturating_sub(1)).unwrap_or(u32::MAX);
            let penalty = PENALTY_MIN.saturating_mul(doubled).min(PENALTY_MAX);
            let until = now.saturating_add(milliseconds(penalty));
            self.shut_until.fetch_max(until, Ordering::Relaxed);
        }
        failures
    }

    /// Failed logins that are not forgotten.
    fn failures_at(&self, now: u64) -> u32 {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        if now.saturating_sub(failed_at) >= milliseconds(FORGET_AFTER) {
            return 0;
        }
        self.failures.load(Ordering::Relaxed)
    }
}

impl Pass {
    /// Whether the connection counts for nobody.
    pub(super) fn is_free(&self) -> bool {
        self.address.is_none()
    }

    /// The connection has logged in, if it had to.
    pub(super) fn greeted(&mut self) {
        if self.greeted == Greeted::No {
            self.greeted = Greeted::Yes;
            self.leave_ungreeted();
        }
    }

    /// A login failed: from some number on, the address has to wait before it is let in again. Those that are free
    /// count for its site as well; with the others one network would lock out all that are there.
    pub(super) fn failed(&self, now: Time) {
        let Some(address) = &self.address else { return };
        let failures = address.failed(now.0, self.free_failures);
        if failures <= self.free_failures
            && let Some(site) = &address.site
        {
            site.failed(now.0, self.free_failures);
        }
    }

    fn leave_ungreeted(&self) {
        if let Some(address) = &self.address {
            for counted in address.with_site() {
                counted.ungreeted.fetch_sub(1, Ordering::Relaxed);
            }
            address.all.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.greeted == Greeted::No {
            self.leave_ungreeted();
        }
        let address = self.address.as_deref();
        for counted in address.into_iter().flat_map(Address::with_site) {
            counted.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::default().after(Duration::from_secs(seconds))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn doors(options: DoorOptions) -> Doors {
        Doors::new(options, 10_000)
    }

    fn few(connections_per_address: u32) -> Doors {
        doors(DoorOptions { connections_per_address, ..DoorOptions::default() })
    }

    fn greeted(doors: &mut Doors, peer: &str) -> Result<Pass, Shut> {
        let mut pass = doors.enter(address(peer), at(0))?;
        pass.greeted();
        Ok(pass)
    }

    #[test]
    fn one_address_has_not_all_connections_however_few_there_are() {
        let mut doors = Doors::new(DoorOptions::default(), 8);
        let _all_of_its: Vec<Pass> =
            (0..6).map(|_| greeted(&mut doors, "192.0.2.1").unwrap()).collect();
        assert_eq!(greeted(&mut doors, "192.0.2.1").err(), Some(Shut::Crowded));
        assert!(greeted(&mut doors, "192.0.2.2").is_ok());
    }

    #[test]
    fn one_address_has_so_many_connections_and_gives_back_those_that_end() {
        let mut doors = few(2);
        let one = greeted(&mut doors, "192.0.2.1").unwrap();
        let _other = greeted(&mut doors, "192.0.2.1").unwrap();
        assert_eq!(greeted(&mut doors, "192.0.2.1").err(), Some(Shut::Crowded));
        let mapped = greeted(&mut doors, "::ffff:192.0.2.1");
        assert_eq!(mapped.err(), Some(Shut::Crowded), "it is the same address");
        assert!(greeted(&mut doors, "192.0.2.2").is_ok(), "another one is not held to that");
        drop(one);
        assert!(greeted(&mut doors, "192.0.2.1").is_ok());
    }

    #[test]
    fn whoever_has_a_network_of_ipv6_is_one_address() {
        let mut doors = few(1);
        let _pass = greeted(&mut doors, "2001:db8:0:1::1").unwrap();
        assert_eq!(greeted(&mut doors, "2001:db8:0:1:ffff::2").err(), Some(Shut::Crowded));
        assert!(greeted(&mut doors, "2001:db8:0:2::1").is_ok());
    }

    #[test]
    fn the_networks_of_a_site_have_a_few_times_what_one_has() {
        let mut doors = few(2);
        let network = |n: u32| format!("2001:db8:1:{n:x}::1");
        let mut passes: Vec<Pass> = (0..SITE_ADDRESSES)
            .flat_map(|n| [n, n])
            .map(|n| greeted(&mut doors, &network(n)).unwrap())
            .collect();
        let next = network(SITE_ADDRESSES);
        assert_eq!(greeted(&mut doors, &next).err(), Some(Shut::Crowded));
        assert!(greeted(&mut doors, "2001:db8:2::1").is_ok(), "another site");
        passes.pop();
        assert!(greeted(&mut doors, &next).is_ok());
        drop(passes);
        doors.sweep(at(0));
        doors.sweep(at(0));
        assert!(doors.addresses.is_empty(), "nothing is left of it");

        let mut silent = few(1_000);
        let most = SITE_ADDRESSES * UNGREETED_PER_ADDRESS;
        let enter = |doors: &mut Doors, n| doors.enter(address(&network(n)), at(0));
        let _crowd: Vec<Pass> = (0..most).map(|n| enter(&mut silent, n).unwrap()).collect();
        assert_eq!(enter(&mut silent, most).err(), Some(Shut::Ungreeted));
    }

    #[test]
    fn logins_that_fail_in_one_network_after_another_cost_the_site() {
        let mut doors = doors(DoorOptions::default());
        let network = |n: u32| address(&format!("2001:db8:1:{n:x}::1"));
        let free = SITE_ADDRESSES * DoorOptions::default().failed_logins;
        for n in 0..=free {
            doors.enter(network(n), at(0)).unwrap().failed(at(0));
        }
        assert_eq!(doors.enter(network(free + 1), at(0)).err(), Some(Shut::Penalty));
        assert!(doors.enter(address("2001:db8:2::1"), at(0)).is_ok(), "another site");
        assert!(doors.enter(network(free + 1), at(1)).is_ok(), "the first costs a second");
    }

    #[test]
    fn logins_that_fail_in_one_network_do_not_lock_out_its_site() {
        let mut doors = doors(DoorOptions::default());
        let (one, other) = (address("2001:db8:1:1::1"), address("2001:db8:1:2::1"));
        let guesses: Vec<Pass> =
            (0..UNGREETED_PER_ADDRESS).map(|_| doors.enter(one, at(0)).unwrap()).collect();
        for _ in 0..SITE_ADDRESSES {
            guesses.iter().for_each(|pass| pass.failed(at(0)));
        }
        assert_eq!(doors.enter(one, at(0)).err(), Some(Shut::Penalty));
        assert!(doors.enter(other, at(0)).is_ok());
    }

    #[test]
    fn this_machine_is_not_counted_unless_that_was_asked_for() {
        let mut free = few(0);
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(free.enter(address(peer), at(0)).is_ok(), "{peer}");
        }
        let mut counted = doors(DoorOptions {
            connections_per_address: 0,
            own_machine: OwnMachine::Counted,
            ..DoorOptions::default()
        });
        assert_eq!(counted.enter(address("127.0.0.2"), at(0)).err(), Some(Shut::Crowded));
    }

    #[test]
    fn those_that_say_nothing_are_few_of_one_address_and_a_part_of_all() {
        let mut doors = doors(DoorOptions::default());
        let silent: Vec<Pass> = (0..UNGREETED_PER_ADDRESS)
            .map(|_| doors.enter(address("192.0.2.1"), at(0)).unwrap())
            .collect();
        assert_eq!(doors.enter(address("192.0.2.1"), at(0)).err(), Some(Shut::Ungreeted));
        assert!(doors.enter(address("192.0.2.2"), at(0)).is_ok());
        drop(silent);
        assert!(doors.enter(address("192.0.2.1"), at(0)).is_ok());

        let mut small = Doors::new(DoorOptions::default(), 10);
        let crowd: Vec<Pass> = (0..UNGREETED_MIN)
            .map(|n| small.enter(address(&format!("192.0.2.{n}")), at(0)).unwrap())
            .collect();
        assert_eq!(small.enter(address("198.51.100.1"), at(0)).err(), Some(Shut::Ungreeted));
        drop(crowd);
        assert_eq!(small.all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn logins_that_fail_cost_more_each_time_and_are_forgotten_in_the_end() {
        let mut doors = doors(DoorOptions::default());
        let peer = address("192.0.2.1");
        let fail =
            |doors: &mut Doors, second| doors.enter(peer, at(second)).unwrap().failed(at(second));
        for _ in 0..5 {
            fail(&mut doors, 0);
        }
        fail(&mut doors, 0);
        assert_eq!(doors.enter(peer, at(0)).err(), Some(Shut::Penalty));
        assert!(doors.enter(address("192.0.2.2"), at(0)).is_ok(), "nobody else has to wait");
        fail(&mut doors, 1);
        assert_eq!(doors.enter(peer, at(2)).err(), Some(Shut::Penalty), "twice as long");
        let mut second = 3;
        for _ in 0..20 {
            fail(&mut doors, second);
            second += 601;
        }
        assert!(doors.enter(peer, at(second)).is_ok(), "never longer than the longest");
        doors.sweep(at(second));
        assert_eq!(doors.addresses.len(), 1, "it is remembered");
        second += 3_600;
        fail(&mut doors, second);
        assert!(doors.enter(peer, at(second)).is_ok(), "it begins anew");
        doors.sweep(at(second + 3_600));
        assert!(doors.addresses.is_empty());
    }

    fn nth(n: usize) -> IpAddr {
        IpAddr::V4((0x0b00_0000 + u32::try_from(n).unwrap()).into())
    }

    fn is_remembered(doors: &Doors, peer: IpAddr) -> bool {
        doors.addresses.contains_key(&Network::of(peer))
    }

    #[test]
    fn where_there_is_no_room_the_oldest_without_a_connection_is_forgotten() {
        let mut doors = doors(DoorOptions::default());
        let stays = doors.enter(nth(0), at(1)).unwrap();
        for n in 1..ADDRESSES_MAX + 10 {
            doors.enter(nth(n), at(1)).unwrap().failed(at(1));
        }
        assert_eq!((doors.addresses.len(), doors.order.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert!(is_remembered(&doors, nth(0)), "it has a connection");
        for n in 1..=10 {
            assert!(!is_remembered(&doors, nth(n)), "{n}");
        }
        assert!(is_remembered(&doors, nth(11)));
        drop(stays);
        let pass = doors.enter(address("192.0.2.1"), at(3_700)).unwrap();
        assert!(is_remembered(&doors, address("192.0.2.1")), "a stranger is not locked out");
        assert_eq!((doors.addresses.len(), doors.order.len()), (1, 1), "the others are over");
        drop(pass);
    }

    #[test]
    fn all_for_whom_there_is_no_room_are_as_one_address() {
        let options = DoorOptions { connections_per_address: 64, ..DoorOptions::default() };
        let mut doors = doors(options);
        let enter = |doors: &mut Doors, n| doors.enter(nth(n), at(0));
        let mut full: Vec<Pass> = (0..ADDRESSES_MAX)
            .map(|n| {
                let mut pass = enter(&mut doors, n).unwrap();
                pass.greeted();
                pass
            })
            .collect();
        let stranger = |n| ADDRESSES_MAX + n;
        let silent = usize::try_from(UNGREETED_PER_ADDRESS).unwrap();
        let mut crowd: Vec<Pass> =
            (0..silent).map(|n| enter(&mut doors, stranger(n)).unwrap()).collect();
        assert_eq!(doors.all.0.load(Ordering::Relaxed), silent, "they are in the total");
        assert_eq!(enter(&mut doors, stranger(silent)).err(), Some(Shut::Ungreeted));
        crowd.iter_mut().for_each(Pass::greeted);
        crowd.extend((0..silent).map(|n| enter(&mut doors, stranger(n)).unwrap()));
        assert_eq!(enter(&mut doors, stranger(0)).err(), Some(Shut::Crowded));
        assert!(enter(&mut doors, 1).is_ok(), "who is remembered is not held to that");

        for _ in 0..6 {
            crowd[0].failed(at(0));
        }
        assert_eq!(enter(&mut doors, stranger(1)).err(), Some(Shut::Penalty));
        // Every second one ends, so there is one among those that are looked at.
        let mut ends = [true, false].into_iter().cycle();
        full.retain(|_| ends.next() != Some(true));
        assert!(enter(&mut doors, stranger(1)).is_ok(), "there is room again");
        drop((full, crowd));
        assert_eq!(doors.all.0.load(Ordering::Relaxed), 0);
        assert_eq!(doors.overflow.connections.load(Ordering::Relaxed), 0);
    }
}
