//! Places for puts that are under way: each has a file open, from its first byte until it has its name.
//!
//! There are so many for all connections together, so that puts which wait for a slow disk leave descriptors to
//! the others. The last half is for connections that have no place yet: who has many under way keeps nobody from putting one
//! file after another. No address has more than three quarters, on however many connections. Who finds none stands in line,
//! and gets the next one that is free for it as an outcome.
//!
//! Whoever has a place needs no other one to be done with it. A put that is whole waits for the disk, or for
//! requests that were made before it, which have their places or need none; one that is not waits for its client,
//! which is read from (`connection/later.rs`) and timed.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{ConnectionKey, Outcome, Outcomes};
use crate::server::lock::lock;
use crate::server::most_of_one;
use crate::server::network::Network;

/// All places.
pub(super) struct Places {
    state: Mutex<State>,
    /// Whether anybody stands in line; to be asked without the lock.
    wanted: AtomicBool,
    outcomes: Arc<Outcomes>,
}

struct State {
    taken: Taken,
    /// Those who wait, each in one of the two lines and once.
    first: VecDeque<Waiting>,
    further: VecDeque<Waiting>,
}

struct Taken {
    most: usize,
    count: usize,
    /// Those of each address that has any.
    from: HashMap<Network, usize>,
}

#[derive(Clone, Copy)]
struct Waiting {
    key: ConnectionKey,
    from: Network,
}

/// Whether a connection has a place already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Standing {
    /// It has none.
    First,
    /// It has.
    Further,
}

/// One of them. When it is dropped, whoever has waited longest gets it.
pub(in crate::server) struct Place {
    places: Arc<Places>,
    from: Network,
}

impl Places {
    /// So many places, of which there are two at least.
    pub(super) fn new(most: usize, outcomes: Arc<Outcomes>) -> Self {
        let taken = Taken { most: most.max(2), count: 0, from: HashMap::new() };
        let state = State { taken, first: VecDeque::new(), further: VecDeque::new() };
        Self { state: Mutex::new(state), wanted: AtomicBool::new(false), outcomes }
    }

    /// A place, if there is one for whoever asks from this address: also for a connection that has some.
    pub(super) fn take(self: &Arc<Self>, from: Network) -> Option<Place> {
        lock(&self.state).take(Standing::Further, from).then(|| self.place(from))
    }

    /// A place; or the connection stands in line for one as this, and no more as anything else.
    pub(super) fn ask(
        self: &Arc<Self>,
        key: ConnectionKey,
        from: Network,
        standing: Standing,
    ) -> Option<Place> {
        let mut state = lock(&self.state);
        state.remove(key);
        let taken = state.take(standing, from);
        if !taken {
            state.line(standing).push_back(Waiting { key, from });
        }
        self.note(&state);
        drop(state);
        taken.then(|| self.place(from))
    }

    /// The connection does not stand in line any more.
    pub(super) fn leave(&self, key: ConnectionKey) {
        let mut state = lock(&self.state);
        state.remove(key);
        self.note(&state);
    }

    /// Whether anybody waits for one: then further ones have to be waited for by all.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn place(self: &Arc<Self>, from: Network) -> Place {
        Place { places: Arc::clone(self), from }
    }

    fn note(&self, state: &State) {
        let wanted = !state.first.is_empty() || !state.further.is_empty();
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// A place is free. Says who has it now.
    fn give_back(&self, from: Network) -> Option<Waiting> {
        let mut state = lock(&self.state);
        state.taken.give_back(from);
        if !self.are_wanted() {
            return None;
        }
        let next = state.next(Standing::First).or_else(|| state.next(Standing::Further));
        if let Some(next) = next {
            state.taken.add(next.from);
        }
        self.note(&state);
        next
    }
}

impl State {
    fn remove(&mut self, key: ConnectionKey) {
        self.first.retain(|other| other.key != key);
        self.further.retain(|other| other.key != key);
    }

    fn line(&mut self, standing: Standing) -> &mut VecDeque<Waiting> {
        match standing {
            Standing::First => &mut self.first,
            Standing::Further => &mut self.further,
        }
    }

    /// Takes a place, if there is one. Nobody has waited for it: who gives one back hands it on.
    fn take(&mut self, standing: Standing, from: Network) -> bool {
        let takes = self.taken.is_one_for(standing, from);
        if takes {
            self.taken.add(from);
        }
        takes
    }

    /// The first one in line for whom there is a place; it stands there no more.
    fn next(&mut self, standing: Standing) -> Option<Waiting> {
        let Self { taken, first, further } = self;
        if !taken.is_any_for(standing) {
            return None;
        }
        let line = match standing {
            Standing::First => first,
            Standing::Further => further,
        };
        let at = line.iter().position(|waiting| taken.is_one_for(standing, waiting.from))?;
        line.remove(at)
    }
}

impl Taken {
    /// Whether there is one left for anybody of this standing.
    fn is_any_for(&self, standing: Standing) -> bool {
        let most = match standing {
            Standing::First => self.most,
            Standing::Further => self.most / 2,
        };
        self.count < most
    }

    /// The same, for somebody from this address.
    fn is_one_for(&self, standing: Standing, from: Network) -> bool {
        let theirs = || self.from.get(&from).copied().unwrap_or_default();
        self.is_any_for(standing) && theirs() < most_of_one(self.most)
    }

    fn add(&mut self, from: Network) {
        self.count = self.count.saturating_add(1);
        let theirs = self.from.entry(from).or_default();
        *theirs = theirs.saturating_add(1);
    }

    fn give_back(&mut self, from: Network) {
        self.count = self.count.saturating_sub(1);
        if let Some(theirs) = self.from.get_mut(&from) {
            *theirs = theirs.saturating_sub(1);
            if *theirs == 0 {
                self.from.remove(&from);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(next) = self.places.give_back(self.from) {
            // A connection that is gone, or needs it no more, drops it in its turn.
            self.places.outcomes.push(next.key, Outcome::Place(self.places.place(next.from)));
        }
    }
}

impl Debug for Place {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    fn key(number: usize) -> ConnectionKey {
        ConnectionKey::new(0, 0, number)
    }

    fn address(number: u8) -> Network {
        Network::of([192, 0, 2, number].into())
    }

    struct House {
        outcomes: Arc<Outcomes>,
        places: Arc<Places>,
        _poll: mio::Poll,
    }

    impl House {
        fn new() -> Self {
            let poll = mio::Poll::new().unwrap();
            let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
            let outcomes = Arc::new(Outcomes::new(&[waker]));
            let places = Arc::new(Places::new(MOST, Arc::clone(&outcomes)));
            Self { outcomes, places, _poll: poll }
        }

        fn take(&self, count: usize) -> Vec<Place> {
            // Each from another address than the one before.
            let address = |number: usize| address(u8::try_from(number).unwrap());
            (0..count).map(|number| self.places.take(address(number)).unwrap()).collect()
        }

        fn ask(&self, number: usize, standing: Standing) -> Option<Place> {
            self.places.ask(key(number), address(100), standing)
        }

        /// Who was given a place since this was last asked.
        fn given(&self) -> Vec<(usize, Place)> {
            let given = self.outcomes.take(0).into_iter().map(|(key, outcome)| match outcome {
                Outcome::Place(place) => (key.place(), place),
                other => panic!("{other:?}"),
            });
            given.collect()
        }
    }

    #[test]
    fn the_last_half_is_for_those_who_have_none() {
        let house = House::new();
        let taken = house.take(MOST / 2);
        assert!(house.places.take(address(100)).is_none());
        assert!(house.ask(1, Standing::Further).is_none());
        let first = |number| house.ask(number, Standing::First);
        let firsts: Vec<Place> = (10..10 + MOST / 2).map(|number| first(number).unwrap()).collect();
        assert!(first(20).is_none(), "there are no more");
        drop(firsts);
        let given = house.given();
        assert_eq!(given.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [20]);
        assert!(
            house.places.take(address(100)).is_none(),
            "half of all are taken by those who have some"
        );
        drop((taken, given));
        assert_eq!(house.given().len(), 1, "of the one that waited");
        house.take(MOST / 2);
    }

    #[test]
    fn who_comes_first_is_given_a_place_first() {
        let house = House::new();
        let mut taken = house.take(MOST / 2);
        for number in 1..=3 {
            assert!(house.ask(number, Standing::Further).is_none());
        }
        assert!(house.places.are_wanted());
        // In its old place it does not stand any more.
        assert!(house.ask(1, Standing::Further).is_none());
        taken.pop();
        assert!(house.places.take(address(100)).is_none(), "nobody gets in before those who wait");
        taken.clear();
        let order: Vec<usize> = house.given().iter().map(|(number, _)| *number).collect();
        assert_eq!(order, [2, 3, 1]);
        assert!(!house.places.are_wanted());
    }

    #[test]
    fn who_has_left_the_line_is_given_nothing_and_wanted_is_only_what_others_wait_for() {
        let house = House::new();
        let taken = house.take(MOST / 2);
        for number in 1..=2 {
            assert!(house.ask(number, Standing::Further).is_none());
        }
        house.places.leave(key(1));
        assert!(house.places.are_wanted());
        house.places.leave(key(2));
        assert!(!house.places.are_wanted());
        drop(taken);
        assert!(house.given().is_empty());
        house.take(MOST / 2);
    }

    #[test]
    fn a_place_that_is_not_needed_any_more_goes_to_the_next_one() {
        let house = House::new();
        let taken = house.take(MOST / 2);
        assert!(house.ask(1, Standing::Further).is_none());
        assert!(house.ask(2, Standing::Further).is_none());
        let mut taken = taken.into_iter();
        drop(taken.next());
        let given = house.given();
        assert_eq!(given[0].0, 1);
        drop(given);
        assert_eq!(house.given()[0].0, 2);
    }

    #[test]
    fn an_address_that_has_many_connections_leaves_places_to_another_one() {
        let house = House::new();
        let ask = |number, from| house.places.ask(key(number), address(from), Standing::First);
        let mut greedy: Vec<Place> = (0..MOST * 3 / 4).map(|at| ask(at, 1).unwrap()).collect();
        assert!(ask(20, 1).is_none() && ask(21, 1).is_none(), "no more from there");
        // Who waits for what is not for them is in nobody's way.
        let others = [ask(30, 2).unwrap(), ask(31, 3).unwrap()];
        assert!(ask(32, 2).is_none(), "all are taken");
        drop(others);
        let given = house.given();
        assert_eq!(given.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [32]);
        greedy.pop();
        assert_eq!(house.given()[0].0, 20, "it has its own again");
    }

    /// Whatever comes in whatever order: nobody waits for whom there is a place, nobody has more than is theirs, and
    /// every place is counted. `FTX_SEED=n cargo test no_order` runs one order again.
    #[test]
    fn no_order_of_events_leaves_a_place_free_for_which_somebody_waits() {
        let asked = std::env::var("FTX_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = asked.unwrap_or_else(|| getrandom::u64().unwrap() | 1);
        println!("FTX_SEED={seed} runs this one again");
        let mut random = seed;
        let mut below = move |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % limit as u64).unwrap()
        };
        let house = House::new();
        let mut held: Vec<Place> = Vec::new();
        for _ in 0..20_000 {
            // Three addresses, each with five connections.
            let number = below(15);
            let from = address(u8::try_from(number % 3).unwrap());
            match below(8) {
                0 => held.extend(house.places.take(from)),
                1 | 2 => held.extend(house.places.ask(key(number), from, Standing::First)),
                3 => held.extend(house.places.ask(key(number), from, Standing::Further)),
                4 => house.places.leave(key(number)),
                5 => held.extend(house.given().into_iter().map(|(_, place)| place)),
                // Also those that nobody has come for.
                6 => drop(house.given()),
                _ if held.is_empty() => {}
                _ => drop(held.swap_remove(below(held.len()))),
            }
            let given = house.given();
            let mut state = lock(&house.places.state);
            assert_eq!(state.taken.count, held.len() + given.len());
            let mut from: HashMap<Network, usize> = HashMap::new();
            for place in held.iter().chain(given.iter().map(|(_, place)| place)) {
                *from.entry(place.from).or_default() += 1;
            }
            assert_eq!(state.taken.from, from);
            assert!(state.taken.count <= MOST && from.values().all(|&count| count <= MOST * 3 / 4));
            let next = state.next(Standing::First).or_else(|| state.next(Standing::Further));
            assert!(next.is_none(), "it waits for nothing");
            drop(state);
            held.extend(given.into_iter().map(|(_, place)| place));
        }
    }
}
