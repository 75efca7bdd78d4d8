//! Requests of one connection that name the same name, or one an ancestor of the other, take
//! effect in the order in which they were sent (rule 4.6). This keeps that order, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::RequestId;
use crate::name::Name;

/// The requests that have a name and have not taken effect.
#[derive(Debug, Default)]
pub(super) struct Order {
    names: BTreeMap<Name, BTreeSet<RequestId>>,
}

impl Order {
    /// Puts a request in its place. Ids rise, so it stands behind all that are there.
    pub(super) fn enter(&mut self, name: Name, id: RequestId) {
        self.names.entry(name).or_default().insert(id);
    }

    /// The request has taken effect, or never will.
    pub(super) fn leave(&mut self, name: &Name, id: RequestId) {
        if let Some(ids) = self.names.get_mut(name) {
            ids.remove(&id);
            if ids.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Whether an earlier request on this name, an ancestor or a descendant has to go first.
    pub(super) fn must_wait(&self, name: &Name, id: RequestId) -> bool {
        let earlier = |ids: &BTreeSet<RequestId>| ids.first().is_some_and(|first| *first < id);
        let mut above = Some(name.clone());
        while let Some(ancestor) = above {
            if self.names.get(&ancestor).is_some_and(earlier) {
                return true;
            }
            above = ancestor.parent();
        }
        // Names that begin with this one stand together; those in between ("a-" lies between "a"
        // and "a/") are passed over.
        self.names
            .range(name.clone()..)
            .take_while(|(other, _)| other.as_bytes().starts_with(name.as_bytes()))
            .any(|(other, ids)| other.overlaps(name) && earlier(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_names_on_one_line_of_descent_wait_for_each_other() {
        let mut order = Order::default();
        order.enter(name("a/b"), RequestId(1));
        order.enter(name("a-"), RequestId(2));
        for (text, waits) in
            [("a/b", true), ("a", true), ("a/b/c", true), ("a/c", false), ("a/bc", false)]
        {
            assert_eq!(order.must_wait(&name(text), RequestId(3)), waits, "{text}");
        }
        assert!(!order.must_wait(&name("a/b"), RequestId(1)), "the first waits for nobody");
        order.leave(&name("a/b"), RequestId(1));
        assert!(!order.must_wait(&name("a"), RequestId(3)));
    }
}
