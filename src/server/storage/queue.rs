//! Queues that threads wait at, in which nobody waits for all that another one brings.
//!
//! Each client has a share, whatever it asks for and on however many connections. A connection stands in line with
//! the first of what it brought, at the time at which that would be done if the shares were worked on side by side.
//! So what costs little comes before what costs much, and who has just had much comes behind who has not. Of one
//! connection the order stays.
//!
//! Knows what an item costs by the names in it, and nothing else of it. Looks at no disk and at no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use ftx_protocol::limits::NAME_PARTS;

use super::client::Client;
use super::{ConnectionKey, Origin};
use crate::server::lock::lock;

/// Puts and changes in one round: bounds how long the first of them waits for the last.
const ROUND_ITEMS: usize = 512;

/// Directories that the names in one round have in all: each may have to be made and synced. What names more
/// by itself has a round of its own, so no round has more than a name has parts. Half of that, so that what
/// costs little waits for less; but enough for what is synced once in each round not to count.
const ROUND_DIRECTORIES: usize = NAME_PARTS / 2;

/// What an item costs, and each directory that it names: large, so that a part of it is a number too.
const COST: u64 = 1 << 16;

/// What waits in a queue.
pub(super) trait Waits {
    /// Who brought it.
    fn origin(&self) -> &Origin;

    /// The directories that it may make, or has to have on the disk: each stands for those above it, too.
    fn directories(&self) -> [Option<&[u8]>; 2] {
        [None, None]
    }

    /// The name that does not have any more what it had.
    fn taken_away(&self) -> Option<&[u8]> {
        None
    }
}

/// A queue that threads wait at.
pub(super) struct FairQueue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    line: ConnectionLine<T>,
    closed: bool,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let state = State { line: ConnectionLine::default(), closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }
}

impl<T: Waits> FairQueue<T> {
    pub(super) fn push_all(&self, items: Vec<T>) {
        let count = items.len();
        if count == 0 {
            return;
        }
        let mut state = lock(&self.state);
        items.into_iter().for_each(|item| state.line.push(item));
        drop(state);
        match count {
            1 => self.wake.notify_one(),
            _ => self.wake.notify_all(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).line.is_empty()
    }

    /// Takes out what a connection has waiting, as far as it is like this.
    pub(super) fn forget(&self, key: ConnectionKey, like_this: impl Fn(&T) -> bool) {
        lock(&self.state).line.forget(key, like_this);
    }

    /// The same, unless the line is held: a whole round may be taken out of it. Then it is `None`, and nothing was
    /// taken out.
    pub(super) fn forget_if_free(
        &self,
        key: ConnectionKey,
        like_this: impl Fn(&T) -> bool,
    ) -> Option<()> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        state.line.forget(key, like_this);
        Some(())
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.wake.notify_all();
    }

    /// The next one. `None` when the queue is closed and empty; so for all that wait.
    pub(super) fn take_one(&self) -> Option<T> {
        self.wait()?.line.next()
    }

    /// Waits until there is something for [`FairQueue::take_round`].
    pub(super) fn wait_for_more(&self) -> Option<()> {
        self.wait().map(drop)
    }

    /// What makes a round now, in the order of the line.
    pub(super) fn take_round(&self) -> Vec<T> {
        lock(&self.state).line.next_round()
    }

    fn wait(&self) -> Option<MutexGuard<'_, State<T>>> {
        let mut state = lock(&self.state);
        while state.line.is_empty() {
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(state)
    }
}

/// Connections in the order in which they have their turns.
struct ConnectionLine<T> {
    waiting: HashMap<ConnectionKey, Brought<T>>,
    /// How many connections of each client are waiting: each has as large a part of its share.
    connections: HashMap<Client, u64>,
    /// Those that are waiting, each once.
    tickets: BinaryHeap<Reverse<Ticket>>,
    /// How far all shares would be by now if they were worked on side by side.
    now: u64,
    /// Tickets that were given.
    given: u64,
    /// The last round: what it has named costs nothing more.
    round: Round,
}

/// What one connection has brought, in its order; never empty.
struct Brought<T> {
    client: Client,
    items: VecDeque<T>,
}

/// When it is the turn of a connection; of two that are due at the same time the earlier one comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    due: u64,
    number: u64,
    key: ConnectionKey,
    /// Of what is first there.
    cost: u64,
}

impl<T> Default for ConnectionLine<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            connections: HashMap::new(),
            tickets: BinaryHeap::new(),
            now: 0,
            given: 0,
            round: Round::default(),
        }
    }
}

impl<T: Waits> ConnectionLine<T> {
    fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    fn push(&mut self, item: T) {
        let key = item.origin().key;
        if let Some(brought) = self.waiting.get_mut(&key) {
            return brought.items.push_back(item);
        }
        let client = Client::of(item.origin());
        let connections = self.connections.entry(client).or_default();
        *connections = connections.saturating_add(1);
        self.waiting.insert(key, Brought { client, items: VecDeque::from([item]) });
        self.stand(key);
    }

    /// Gives a connection that has something its ticket.
    fn stand(&mut self, key: ConnectionKey) {
        let Some(brought) = self.waiting.get(&key) else { return };
        let Some(first) = brought.items.front() else { return };
        let connections = self.connections.get(&brought.client).copied().unwrap_or(1);
        let cost = (self.round.directories_of(first) as u64).saturating_add(1);
        let cost = cost.saturating_mul(COST);
        let due = self.now.saturating_add(cost.saturating_mul(connections));
        self.given = self.given.saturating_add(1);
        self.tickets.push(Reverse(Ticket { due, number: self.given, key, cost }));
    }

    fn next(&mut self) -> Option<T> {
        let Reverse(Ticket { key, cost, .. }) = self.tickets.pop()?;
        let clients = self.connections.len() as u64;
        self.now = self.now.saturating_add(cost.checked_div(clients).unwrap_or(cost));
        let brought = self.waiting.get_mut(&key)?;
        let item = brought.items.pop_front();
        if brought.items.is_empty() {
            let client = brought.client;
            self.waiting.remove(&key);
            self.leave(client);
        } else {
            self.stand(key);
        }
        item
    }

    fn forget(&mut self, key: ConnectionKey, like_this: impl Fn(&T) -> bool) {
        let Some(brought) = self.waiting.get_mut(&key) else { return };
        brought.items.retain(|item| !like_this(item));
        if brought.items.is_empty() {
            let client = brought.client;
            self.waiting.remove(&key);
            self.tickets.retain(|Reverse(ticket)| ticket.key != key);
            self.leave(client);
        }
    }

    /// A connection of a client is not waiting any more.
    fn leave(&mut self, client: Client) {
        if let Some(connections) = self.connections.get_mut(&client) {
            *connections = connections.saturating_sub(1);
            if *connections == 0 {
                self.connections.remove(&client);
            }
        }
    }

    fn next_round(&mut self) -> Vec<T> {
        self.round = Round::default();
        let mut items = Vec::new();
        while let Some(Reverse(Ticket { key, .. })) = self.tickets.peek() {
            let first = self.waiting.get(key).and_then(|brought| brought.items.front());
            if !first.is_some_and(|first| self.round.admit(first)) {
                break;
            }
            items.extend(self.next());
        }
        items
    }
}

/// What a round has in it.
#[derive(Debug, Default)]
pub(super) struct Round {
    items: usize,
    directories: usize,
    /// The directories, each once, with all that are above them.
    named: HashSet<Box<[u8]>>,
}

impl Round {
    /// Takes an item in, if there is room for it. There always is for the first one.
    pub(super) fn admit(&mut self, item: &impl Waits) -> bool {
        let directories = self.directories.saturating_add(self.directories_of(item));
        if self.items > 0 && (self.items >= ROUND_ITEMS || directories > ROUND_DIRECTORIES) {
            return false;
        }
        self.items = self.items.saturating_add(1);
        self.directories = directories;
        for directory in item.directories().into_iter().flatten() {
            let new = up(directory).take_while(|name| !self.named.contains(*name));
            let new: Vec<Box<[u8]>> = new.map(Box::from).collect();
            self.named.extend(new);
        }
        // What is above a name that is here is here, too: so nothing is below one that is not.
        if let Some(gone) = item.taken_away()
            && self.named.contains(gone)
        {
            self.named.retain(|name| up(name).all(|above| above != gone));
        }
        true
    }

    /// How many directories an item names that were not named yet.
    fn directories_of(&self, item: &impl Waits) -> usize {
        let named = |name: &&[u8]| !self.named.contains(*name);
        let directories = item.directories().into_iter().flatten();
        directories.map(|directory| up(directory).take_while(named).count()).sum()
    }
}

/// A name, and those above it.
fn up(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(name), |&name| {
        #[cfg(test)]
        tests::STEPS.set(tests::STEPS.get() + 1);
        let slash = name.iter().rposition(|&byte| byte == b'/')?;
        name.get(..slash)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::server::access::Who;

    thread_local! {
        /// Steps from a name to the one above it.
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    impl<T> FairQueue<T> {
        pub(in super::super) fn hold(&self) -> impl Sized {
            lock(&self.state)
        }
    }

    /// A put of this name, or a remove.
    struct Item {
        origin: Origin,
        name: String,
        removes: bool,
    }

    impl Waits for Item {
        fn origin(&self) -> &Origin {
            &self.origin
        }

        fn directories(&self) -> [Option<&[u8]>; 2] {
            [self.name.rsplit_once('/').map(|(above, _)| above.as_bytes()), None]
        }

        fn taken_away(&self) -> Option<&[u8]> {
            self.removes.then_some(self.name.as_bytes())
        }
    }

    /// A connection, by its place, of a client, by its address.
    fn of(place: usize, client: u8) -> Origin {
        let peer = ([192, 0, 2, client], 7_389).into();
        Origin { key: ConnectionKey::new(0, 0, place), peer, who: Who::Local }
    }

    fn put(origin: &Origin, name: impl Into<String>) -> Item {
        Item { origin: origin.clone(), name: name.into(), removes: false }
    }

    /// A name whose directories are those of no other one: as many as a name can have.
    fn deep(number: usize) -> String {
        format!("{number}/{}", vec!["d"; NAME_PARTS - 1].join("/"))
    }

    fn line(items: impl IntoIterator<Item = Item>) -> ConnectionLine<Item> {
        let mut line = ConnectionLine::default();
        items.into_iter().for_each(|item| line.push(item));
        line
    }

    fn names(round: &[Item]) -> Vec<&str> {
        round.iter().map(|item| item.name.as_str()).collect()
    }

    #[test]
    fn a_small_put_waits_for_one_round_however_many_ask_for_much() {
        let one_client = (0..16).map(|place| of(place, 1)).collect();
        let many_clients = (0..16).map(|place| of(place, 100 + place as u8)).collect();
        for hostile in [one_client, many_clients] as [Vec<Origin>; 2] {
            let much = hostile.iter().flat_map(|origin| {
                let number = origin.key.place() * 100;
                (0..50).map(move |n| put(origin, deep(number + n)))
            });
            let mut line = line(much);
            for round in 0..100 {
                assert_eq!(line.next_round().len(), 1, "each has a round of its own");
                // On a connection that is new, and on one that was there before.
                line.push(put(&of(100 + round % 2, 2), "some/where/small"));
                assert_eq!(names(&line.next_round()), ["some/where/small"], "round {round}");
            }
        }
    }

    #[test]
    fn much_has_its_turn_too() {
        let mut line = line([put(&of(1, 1), deep(1))]);
        for number in 0..NAME_PARTS * 2 {
            // Never the same one, and there is always one that costs less.
            line.push(put(&of(number + 10, number as u8), number.to_string()));
            line.push(put(&of(number + 11, number as u8), number.to_string()));
            if line.next_round().iter().any(|item| item.origin.key.place() == 1) {
                return;
            }
        }
        panic!("it waits for ever");
    }

    #[test]
    fn what_is_brought_on_one_connection_keeps_its_order() {
        let (one, other) = (of(1, 1), of(2, 2));
        let mut line = line((0..100).flat_map(|number| {
            let depth = number * 7_919 % 40;
            let name = format!("{}{number:03}", "d/".repeat(depth));
            [put(&one, name), put(&other, format!("{number:03}"))]
        }));
        let mut seen: HashMap<usize, Vec<String>> = HashMap::new();
        while !line.is_empty() {
            for item in line.next_round() {
                let number = item.name[item.name.len() - 3..].to_owned();
                seen.entry(item.origin.key.place()).or_default().push(number);
            }
        }
        let expected: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
        assert!(seen.len() == 2 && seen.values().all(|numbers| *numbers == expected), "{seen:?}");
        assert!(line.waiting.is_empty() && line.connections.is_empty(), "nothing is kept of them");
    }

    #[test]
    fn a_client_has_one_share_on_however_many_connections() {
        let many = (0..50)
            .flat_map(|place| (0..100).map(move |n| put(&of(place, 1), format!("{place}-{n}"))));
        let alone = (0..1_000).map(|number| put(&of(99, 2), number.to_string()));
        let mut line = line(many.chain(alone));
        let round = line.next_round();
        let alone = round.iter().filter(|item| item.origin.key.place() == 99).count();
        assert_eq!(round.len(), ROUND_ITEMS);
        assert!((ROUND_ITEMS * 4 / 10..=ROUND_ITEMS * 6 / 10).contains(&alone), "{alone}");
    }

    #[test]
    fn a_round_has_each_directory_once() {
        let origin = of(1, 1);
        let mut tree = line((0..2_000).map(|n| put(&origin, format!("a/tree/of/{}/{n}", n / 20))));
        assert_eq!(tree.next_round().len(), ROUND_ITEMS, "files of a tree fill it");
        let mut chain =
            line((1..=ROUND_DIRECTORIES + 10).map(|n| put(&origin, "d/".repeat(n) + "x")));
        assert_eq!(chain.next_round().len(), ROUND_DIRECTORIES, "all of these are one way down");
        let far = |n| put(&origin, format!("{n}/x"));
        assert_eq!(line((0..1_000).map(far)).next_round().len(), ROUND_DIRECTORIES);
    }

    #[test]
    fn what_a_connection_has_waiting_can_be_forgotten() {
        let (gone, other) = (of(1, 1), of(2, 2));
        let remove = |name: &str| Item { removes: true, ..put(&gone, name) };
        let mut line =
            line([remove("a"), put(&gone, "b"), remove("c"), put(&other, "d"), remove("e")]);
        line.forget(gone.key, |item| item.removes);
        assert_eq!(names(&line.next_round()), ["b", "d"]);
        line.push(remove("f"));
        line.forget(gone.key, |item| item.removes);
        assert!(line.is_empty() && line.waiting.is_empty() && line.connections.is_empty());
        line.push(put(&gone, "g"));
        assert_eq!(names(&line.next_round()), ["g"], "each has one ticket");
    }

    #[test]
    fn what_was_taken_away_has_to_be_made_again() {
        let origin = of(1, 1);
        let remove = || Item { removes: true, ..put(&origin, "top") };
        let way = "top/".to_owned() + &vec!["d"; ROUND_DIRECTORIES / 2].join("/");
        let mut line = line((0..10).flat_map(|n| [put(&origin, format!("{way}/{n}")), remove()]));
        let mut rounds = Vec::new();
        while !line.is_empty() {
            rounds.push(line.next_round().len());
        }
        assert_eq!(rounds, vec![2; 10]);
    }

    /// The line is held while a round is filled.
    #[test]
    fn what_is_taken_away_is_not_looked_for_below_names_that_are_not_there() {
        let origin = of(1, 1);
        let way = put(&origin, "d/".repeat(ROUND_DIRECTORIES) + "x");
        let remove = |n| Item { removes: true, ..put(&origin, format!("not there {n}")) };
        let mut line = line([way].into_iter().chain((1..ROUND_ITEMS).map(remove)));
        let before = STEPS.get();
        assert_eq!(line.next_round().len(), ROUND_ITEMS);
        let steps = STEPS.get() - before;
        assert!(steps < 10 * ROUND_ITEMS, "{steps}");
    }
}
