//! Requests of one connection that name the same name, or one an ancestor of the other, take
//! effect in the order in which they were sent (rule 4.6). This keeps that order, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::ids::RequestId;
use crate::name::Name;

/// The requests that have a name and have not taken effect.
#[derive(Debug, Default)]
pub(super) struct Order {
    names: BTreeMap<Name, BTreeSet<RequestId>>,
}

impl Order {
    pub(super) const fn new() -> Self {
        Self { names: BTreeMap::new() }
    }

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

    /// The last of the earlier requests on this name, an ancestor or a descendant: the one to wait
    /// for. When it has taken effect, those before it mostly have too.
    pub(super) fn blocker(&self, name: &Name, id: RequestId) -> Option<RequestId> {
        let bytes = name.as_bytes();
        let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let above = slashes.filter_map(|(at, _)| bytes.get(..at)).chain([bytes]);
        let above = above.filter_map(|ancestor| self.names.get(ancestor));
        // Names below this one stand together, from the name with a slash on.
        let below_from = [bytes, b"/"].concat();
        let below = self
            .names
            .range::<[u8], _>((Bound::Included(&below_from[..]), Bound::Unbounded))
            .take_while(|(other, _)| other.as_bytes().starts_with(&below_from))
            .map(|(_, ids)| ids);
        above.chain(below).filter_map(|ids| ids.range(..id).next_back()).max().copied()
    }

    /// The last of all the earlier requests.
    pub(super) fn last_before(&self, id: RequestId) -> Option<RequestId> {
        self.names.values().filter_map(|ids| ids.range(..id).next_back()).max().copied()
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
            assert_eq!(order.blocker(&name(text), RequestId(3)).is_some(), waits, "{text}");
        }
        assert_eq!(order.blocker(&name("a/b"), RequestId(1)), None, "the first waits for nobody");
        order.enter(name("a/b/c"), RequestId(3));
        assert_eq!(order.blocker(&name("a/b"), RequestId(9)), Some(RequestId(3)), "the last one");
        order.leave(&name("a/b/c"), RequestId(3));
        order.leave(&name("a/b"), RequestId(1));
        assert_eq!(order.blocker(&name("a"), RequestId(3)), None);
    }
}
