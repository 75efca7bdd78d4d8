//! The order of requests that name the same, or one what is above the other's (rule 4.6), as a storage
//! sees it: by what it is told to do, and what it has done.

use std::collections::BTreeMap;
use std::ops::Bound;

use ftx_protocol::{Name, RequestId};

/// What was told to a storage, and what of it has not taken effect.
#[derive(Default)]
pub(super) struct Order {
    /// What may not be passed: requests that were told and have not taken effect, and open puts.
    running: BTreeMap<RequestId, Names>,
    /// Everything that was told, ever.
    told: BTreeMap<RequestId, Names>,
}

/// What a request names.
#[derive(Clone, Debug)]
pub(super) enum Names {
    Of(Vec<Name>),
    /// A list of the root, which comes after everything before it and holds nobody up.
    Root,
}

impl Names {
    /// Whether one with these names waits for an `earlier` one.
    fn follow(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (_, Self::Root) => false,
            (Self::Root, Self::Of(_)) => true,
            (Self::Of(names), Self::Of(earlier)) => {
                names.iter().any(|name| earlier.iter().any(|other| other.overlaps(name)))
            }
        }
    }
}

impl Order {
    /// A put is open: it takes effect when its name is told to be taken, and that was done.
    pub(super) fn open(&mut self, id: RequestId, name: Name) {
        self.running.insert(id, Names::Of(vec![name]));
    }

    /// The name of an open put is to be taken.
    pub(super) fn finish(&mut self, id: RequestId) {
        let names = self.running.get(&id).expect("a put that is open").clone();
        self.tell(id, names);
    }

    /// A request is told to be carried out: everything that it waits for has taken effect, and nothing
    /// was told that waits for it.
    pub(super) fn tell(&mut self, id: RequestId, names: Names) {
        for (earlier, of) in self.running.range(..id) {
            assert!(!names.follow(of), "{id} {names:?} passes {earlier} {of:?}");
        }
        for (later, of) in self.told.range((Bound::Excluded(id), Bound::Unbounded)) {
            assert!(!of.follow(&names), "{later} {of:?} has passed {id} {names:?}");
        }
        self.told.insert(id, names.clone());
        self.running.insert(id, names);
    }

    /// A request has taken effect, or never will.
    pub(super) fn settle(&mut self, id: RequestId) {
        self.running.remove(&id);
    }
}
