//! Places for puts that are under way: each has a file open, from its first byte until it has its name.
//!
//! There are so many for all connections together, so that puts which wait for a slow disk leave descriptors to
//! the others. The last half is for connections that have no place yet: who has many under way keeps nobody from putting one
//! file after another. Who finds none stands in line, and gets the next one that is free as an outcome.
//!
//! Whoever has a place needs no other one to be done with it. A put that is whole waits for the disk, or for
//! requests that were made before it, which have their places or need none; one that is not waits for its client,
//! which is read from (`connection/later.rs`) and timed.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{ConnectionKey, Outcome, Outcomes};
use crate::server::lock::lock;

/// All places.
pub(super) struct Places {
    most: usize,
    state: Mutex<State>,
    /// Whether anybody stands in line; to be asked without the lock.
    wanted: AtomicBool,
    outcomes: Arc<Outcomes>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Those who wait, each in one of the two lines and once.
    first: VecDeque<ConnectionKey>,
    further: VecDeque<ConnectionKey>,
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
}

impl Places {
    /// So many places, of which there are two at least.
    pub(super) fn new(most: usize, outcomes: Arc<Outcomes>) -> Self {
        let most = most.max(2);
        let (state, wanted) = (Mutex::default(), AtomicBool::new(false));
        Self { most, state, wanted, outcomes }
    }

    /// A place, if there is one for whoever asks: also for a connection that has some.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let most = self.most(Standing::Further);
        lock(&self.state).take(Standing::Further, most).then(|| self.place())
    }

    /// A place; or the connection stands in line for one as this, and no more as anything else.
    pub(super) fn ask(self: &Arc<Self>, key: ConnectionKey, standing: Standing) -> Option<Place> {
        let mut state = lock(&self.state);
        state.remove(key);
        let taken = state.take(standing, self.most(standing));
        if !taken {
            state.line(standing).push_back(key);
        }
        self.note(&state);
        drop(state);
        taken.then(|| self.place())
    }

    /// The connection does not stand in line any more.
    pub(super) fn leave(&self, key: ConnectionKey) {
        let mut state = lock(&self.state);
        state.remove(key);
        self.note(&state);
    }

    /// Whether there are too few.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// With so many taken, there is none for one of this standing.
    fn most(&self, standing: Standing) -> usize {
        match standing {
            Standing::First => self.most,
            Standing::Further => self.most / 2,
        }
    }

    fn place(self: &Arc<Self>) -> Place {
        Place { places: Arc::clone(self) }
    }

    fn note(&self, state: &State) {
        let wanted = !state.first.is_empty() || !state.further.is_empty();
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// A place is free. Says who has it now.
    fn give_back(&self) -> Option<ConnectionKey> {
        let mut state = lock(&self.state);
        state.taken = state.taken.saturating_sub(1);
        if !self.are_wanted() {
            return None;
        }
        let further = state.taken < self.most(Standing::Further);
        let next = match state.first.pop_front() {
            None if further => state.further.pop_front(),
            first => first,
        };
        if next.is_some() {
            state.taken = state.taken.saturating_add(1);
        }
        self.note(&state);
        next
    }
}

impl State {
    fn remove(&mut self, key: ConnectionKey) {
        self.first.retain(|other| *other != key);
        self.further.retain(|other| *other != key);
    }

    fn line(&mut self, standing: Standing) -> &mut VecDeque<ConnectionKey> {
        match standing {
            Standing::First => &mut self.first,
            Standing::Further => &mut self.further,
        }
    }

    /// Takes a place, if fewer than `most` are taken and nobody has waited for it.
    fn take(&mut self, standing: Standing, most: usize) -> bool {
        let takes = self.taken < most && self.line(standing).is_empty();
        if takes {
            self.taken = self.taken.saturating_add(1);
        }
        takes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = self.places.give_back() {
            // A connection that is gone, or needs it no more, drops it in its turn.
            self.places.outcomes.push(key, Outcome::Place(self.places.place()));
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
            (0..count).map(|_| self.places.take().unwrap()).collect()
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
        assert!(house.places.take().is_none());
        assert!(house.places.ask(key(1), Standing::Further).is_none());
        let first = |number| house.places.ask(key(number), Standing::First);
        let firsts: Vec<Place> = (10..10 + MOST / 2).map(|number| first(number).unwrap()).collect();
        assert!(first(20).is_none(), "there are no more");
        drop(firsts);
        let given = house.given();
        assert_eq!(given.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [20]);
        assert!(house.places.take().is_none(), "half of all are taken by those who have some");
        drop((taken, given));
        assert_eq!(house.given().len(), 1, "of the one that waited");
        house.take(MOST / 2);
    }

    #[test]
    fn who_comes_first_is_given_a_place_first() {
        let house = House::new();
        let mut taken = house.take(MOST / 2);
        for number in 1..=3 {
            assert!(house.places.ask(key(number), Standing::Further).is_none());
        }
        assert!(house.places.are_wanted());
        // In its old place it does not stand any more.
        assert!(house.places.ask(key(1), Standing::Further).is_none());
        taken.pop();
        assert!(house.places.take().is_none(), "nobody gets in before those who wait");
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
            assert!(house.places.ask(key(number), Standing::Further).is_none());
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
        assert!(house.places.ask(key(1), Standing::Further).is_none());
        assert!(house.places.ask(key(2), Standing::Further).is_none());
        let mut taken = taken.into_iter();
        drop(taken.next());
        let given = house.given();
        assert_eq!(given[0].0, 1);
        drop(given);
        assert_eq!(house.given()[0].0, 2);
    }
}
