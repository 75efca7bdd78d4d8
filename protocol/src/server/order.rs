//! Requests of one connection that name the same name, or one an ancestor of the other, take
//! effect in the order in which they were sent (rule 4.6). This keeps that order, and nothing else.
//!
//! A request stands in a queue at its own name, which it takes, and at each name above it, through
//! which it passes. Those that only pass go beside each other; who takes a name goes alone. So what
//! one that leaves lets go is found where it stood, whatever else waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use crate::ids::RequestId;
use crate::name::Name;

/// What standing in one queue costs: a request stands in as many as its name has parts.
const PLACE_BYTES: usize = 40;

/// A name where requests stand, by its hash, so that a place costs no copy of it.
///
/// The hash has no key, and so whoever tries 2^32 names finds two with the same one. Little comes of it. A connection
/// has queues of its own, and what shares a place waits as if one named the other. Names on one line of descent share
/// places, whatever else does: nothing goes that should wait. Who waits does so for earlier requests: in no circle. And
/// what a call costs is told by the parts of its names and by whom it lets go on, each once at each of its places, and
/// is the same whoever stands there. A client that was given two such names, and does not close the body of a put on
/// the one before it hears of the other, is timed out.
type Place = u64;

/// Why a request stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// It names something below.
    Passes,
    /// It names this.
    Takes,
}

/// Whether it has got there what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Waits,
    Open,
}

/// The requests that have a name and have not taken effect.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// All queues, each in the order in which the requests were sent.
    queues: BTreeMap<(Place, RequestId), (Way, Gate)>,
    /// At how many places each of the requests waits.
    waits: BTreeMap<RequestId, usize>,
    /// How many of them wait anywhere.
    waiting: usize,
    /// Lists of the root, which come after all that were sent before them, and hold nobody up.
    last: BTreeSet<RequestId>,
    /// Those whose turn has come since somebody asked.
    free: VecDeque<RequestId>,
}

/// What a name costs as long as a request with it is in the order.
pub(super) fn cost_bytes(name: &Name) -> usize {
    name.as_bytes().len().saturating_add(name.parts().count().saturating_mul(PLACE_BYTES))
}

impl Order {
    pub(super) const fn new() -> Self {
        Self {
            queues: BTreeMap::new(),
            waits: BTreeMap::new(),
            waiting: 0,
            last: BTreeSet::new(),
            free: VecDeque::new(),
        }
    }

    /// Puts a request in its places. Ids rise, so it stands behind all that are there. Returns how often somebody
    /// in a queue was looked at: that is what it costs.
    pub(super) fn enter<'a>(
        &mut self,
        names: impl Iterator<Item = &'a Name>,
        id: RequestId,
    ) -> usize {
        let (mut waits, mut looks): (usize, usize) = (0, 0);
        for (place, way) in places(names) {
            let ahead = self.ahead(place, id, &mut looks);
            let gate = if may_follow(ahead, way) { Gate::Open } else { Gate::Waits };
            waits = waits.saturating_add(usize::from(gate == Gate::Waits));
            self.queues.insert((place, id), (way, gate));
        }
        self.waits.insert(id, waits);
        self.waiting = self.waiting.saturating_add(usize::from(waits > 0));
        looks
    }

    /// Has a list of the root wait for all that are there.
    pub(super) fn enter_last(&mut self, id: RequestId) {
        if !self.waits.is_empty() {
            self.last.insert(id);
        }
    }

    /// Whether it is not the request's turn yet.
    pub(super) fn holds_back(&self, id: RequestId) -> bool {
        self.waits.get(&id).is_some_and(|places| *places > 0) || self.last.contains(&id)
    }

    /// How many requests are held back.
    pub(super) fn held_back(&self) -> usize {
        self.waiting.saturating_add(self.last.len())
    }

    /// The request has taken effect, or never will. Those whose turn has come by that are what
    /// [`Order::next_free`] tells. Returns what [`Order::enter`] does.
    pub(super) fn leave<'a>(
        &mut self,
        names: impl Iterator<Item = &'a Name>,
        id: RequestId,
    ) -> usize {
        let mut looks = 0;
        self.last.remove(&id);
        let Some(waits) = self.waits.remove(&id) else { return looks };
        self.waiting = self.waiting.saturating_sub(usize::from(waits > 0));
        for (place, _) in places(names) {
            if self.queues.remove(&(place, id)).is_some() {
                self.open_behind(place, id, &mut looks);
            }
        }
        while let Some(&list) = self.last.first()
            && self.waits.first_key_value().is_none_or(|(first, _)| *first > list)
        {
            self.last.remove(&list);
            self.free.push_back(list);
        }
        looks
    }

    /// A request that had to wait and has its turn now. Told once.
    pub(super) fn next_free(&mut self) -> Option<RequestId> {
        self.free.pop_front()
    }

    fn ahead(&self, place: Place, id: RequestId, looks: &mut usize) -> Option<(Way, Gate)> {
        let ahead = self.queues.range((place, RequestId(0))..(place, id));
        ahead.inspect(|_| count(looks)).next_back().map(|(_, stands)| *stands)
    }

    /// Lets go on who waited for the one that stood there.
    fn open_behind(&mut self, place: Place, id: RequestId, looks: &mut usize) {
        let mut ahead = self.ahead(place, id, looks);
        let behind = (place, id)..=(place, RequestId(u64::MAX));
        for ((_, next), (way, gate)) in self.queues.range_mut(behind).inspect(|_| count(looks)) {
            if *gate == Gate::Open || !may_follow(ahead, *way) {
                return;
            }
            *gate = Gate::Open;
            ahead = Some((*way, *gate));
            if let Some(places) = self.waits.get_mut(next) {
                *places = places.saturating_sub(1);
                if *places == 0 {
                    self.waiting = self.waiting.saturating_sub(1);
                    self.free.push_back(*next);
                }
            }
        }
    }
}

/// Whether one that stands right behind another at a place need not wait there.
fn may_follow(ahead: Option<(Way, Gate)>, way: Way) -> bool {
    match ahead {
        None => true,
        Some((Way::Passes, Gate::Open)) => way == Way::Passes,
        Some((Way::Passes, Gate::Waits) | (Way::Takes, _)) => false,
    }
}

/// Where a request with these names stands. What it both passes and takes, as one that moves a
/// directory into itself, it takes.
fn places<'a>(names: impl Iterator<Item = &'a Name>) -> BTreeMap<Place, Way> {
    let mut places = BTreeMap::new();
    for name in names {
        let mut hasher = DefaultHasher::new();
        let mut parts = name.parts().peekable();
        while let Some(part) = parts.next() {
            hasher.write(part);
            hasher.write(b"/");
            let way = if parts.peek().is_some() { Way::Passes } else { Way::Takes };
            let stands = places.entry(hasher.finish()).or_insert(way);
            *stands = way.max(*stands);
        }
    }
    places
}

fn count(looks: &mut usize) {
    *looks = looks.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [u64; 0] = [];

    /// At how many places somebody else waits.
    fn shut_gates(order: &Order, but: u64) -> usize {
        let waits = |((_, id), (_, gate)): &(&(Place, RequestId), &(Way, Gate))| {
            id.0 != but && *gate == Gate::Waits
        };
        order.queues.iter().filter(waits).count()
    }

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    fn enter(order: &mut Order, text: &str, id: u64) -> usize {
        order.enter([name(text)].iter(), RequestId(id))
    }

    /// Whose turn has come by that.
    fn leave(order: &mut Order, text: &str, id: u64) -> Vec<u64> {
        leave_counted(order, text, id).0
    }

    fn leave_counted(order: &mut Order, text: &str, id: u64) -> (Vec<u64>, usize) {
        let looks = order.leave([name(text)].iter(), RequestId(id));
        (std::iter::from_fn(|| order.next_free()).map(|id| id.0).collect(), looks)
    }

    #[test]
    fn only_names_on_one_line_of_descent_wait_for_each_other() {
        let mut order = Order::default();
        enter(&mut order, "a/b", 1);
        enter(&mut order, "a-", 2);
        for (text, waits) in
            [("a/b", true), ("a", true), ("a/b/c", true), ("a/c", false), ("a/bc", false)]
        {
            enter(&mut order, text, 3);
            assert_eq!(order.holds_back(RequestId(3)), waits, "{text}");
            assert_eq!(leave(&mut order, text, 3), NOBODY, "{text}");
        }
        assert!(!order.holds_back(RequestId(1)), "the first waits for nobody");
        enter(&mut order, "a/b/c", 4);
        enter(&mut order, "a", 5);
        assert_eq!(leave(&mut order, "a/b", 1), [4]);
        assert_eq!(leave(&mut order, "a/b/c", 4), [5]);
        assert_eq!(leave(&mut order, "a", 5), NOBODY);
        assert_eq!(leave(&mut order, "a-", 2), NOBODY);
        assert!(order.queues.is_empty() && order.waits.is_empty());
    }

    #[test]
    fn a_list_of_the_root_comes_after_all_before_it_and_holds_nobody_up() {
        let mut order = Order::default();
        order.enter_last(RequestId(1));
        assert!(!order.holds_back(RequestId(1)));
        enter(&mut order, "a", 2);
        enter(&mut order, "b", 3);
        order.enter_last(RequestId(4));
        order.enter_last(RequestId(5));
        enter(&mut order, "c", 6);
        assert!(order.holds_back(RequestId(4)) && !order.holds_back(RequestId(6)));
        order.leave([].iter(), RequestId(4));
        assert_eq!(leave(&mut order, "a", 2), NOBODY);
        assert_eq!(leave(&mut order, "b", 3), [5]);
    }

    /// Many wait for one, with long names: whatever else stands there, each is looked at once to be let go on, and
    /// once more where it was the next.
    #[test]
    fn what_waits_is_looked_at_when_its_turn_comes_and_not_before() {
        const WAITING: u64 = 500;
        let deep = ["x"; 100].join("/");
        let mut order = Order::default();
        enter(&mut order, "a", 1);
        for id in 2..2 + WAITING {
            let count = enter(&mut order, &format!("a/{deep}/{id}"), id);
            assert!(count <= 102, "{id} looked at {count}");
        }
        for id in 2 + WAITING..2 + 2 * WAITING {
            assert_eq!(enter(&mut order, "a", id), 1);
        }
        let (mut freed, mut count) = leave_counted(&mut order, "a", 1);
        assert_eq!(freed, (2..2 + WAITING).collect::<Vec<_>>());
        // Those that it frees at "a", and the first one that still waits there.
        assert_eq!(count, WAITING as usize + 1);
        for id in 2..2 + WAITING {
            (freed, count) = leave_counted(&mut order, &format!("a/{deep}/{id}"), id);
            assert!(count <= 2 * 102, "{id} looked at {count}");
        }
        for id in 2 + WAITING..2 + 2 * WAITING {
            assert_eq!(freed, [id]);
            // The next one, and the one behind that, whose turn it is not.
            (freed, count) = leave_counted(&mut order, "a", id);
            assert!(count <= 2);
        }
    }

    /// As the rule says it: whoever came before and has a name on the same line is waited for. And it costs each
    /// call a look ahead and one behind at each of its places, and one at each that it opens.
    ///
    /// `FTX_SEED=n cargo test -p ftx-protocol the_rule` runs one seed.
    #[test]
    fn whatever_comes_and_goes_the_order_is_that_of_the_rule() {
        let only = std::env::var("FTX_SEED").ok().and_then(|text| text.parse::<u64>().ok());
        for seed in only.map_or(0..20, |seed| seed..seed + 1) {
            println!("FTX_SEED={seed} runs this one again");
            come_and_go(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }

        /// Of four parts at most, so that many are on one line.
        fn name(&mut self) -> Name {
            let parts: Vec<_> =
                (0..=self.below(4)).map(|_| ["a", "b"][self.below(2) as usize]).collect();
            name(&parts.join("/"))
        }
    }

    fn come_and_go(mut random: Random) {
        let mut order = Order::default();
        let mut there: BTreeMap<u64, Vec<Name>> = BTreeMap::new();
        let mut free = BTreeSet::new();
        for id in 1..1_000 {
            let names: Vec<Name> =
                (0..if random.below(4) == 0 { 2 } else { 1 }).map(|_| random.name()).collect();
            let count = order.enter(names.iter(), RequestId(id));
            assert!(count <= places(names.iter()).len(), "{count} looks");
            there.insert(id, names);
            if !order.holds_back(RequestId(id)) {
                free.insert(id);
            }
            // Whoever has the turn goes, and some who have not.
            if there.len() > 12 {
                let gone = random.below(there.len() as u64) as usize;
                let gone = *there.keys().nth(gone).unwrap();
                let names = there.remove(&gone).unwrap();
                free.remove(&gone);
                let shut = shut_gates(&order, gone);
                let count = order.leave(names.iter(), RequestId(gone));
                let opened = shut - shut_gates(&order, gone);
                assert!(count <= 2 * places(names.iter()).len() + opened, "{count} looks");
                while let Some(next) = order.next_free() {
                    assert!(free.insert(next.0), "{} is told twice", next.0);
                }
            }
            for (&id, names) in &there {
                let waits = there.range(..id).flat_map(|(_, earlier)| earlier);
                let waits =
                    waits.into_iter().any(|one| names.iter().any(|name| one.overlaps(name)));
                assert_eq!(free.contains(&id), !waits, "{id} of {there:?}");
            }
            assert_eq!(order.held_back(), there.len() - free.len(), "{there:?}");
        }
    }
}
