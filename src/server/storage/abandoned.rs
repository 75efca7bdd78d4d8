//! Unfinished uploads that nobody can go on with, because the token is over under which they were begun.
//!
//! Not at once: a tokens file may have been replaced by mistake, and one that cannot be read says nothing at all.
//! Counted is the server's running time, as for uploads that nobody goes on with.

use std::collections::HashMap;
use std::time::Duration;

use ftx_protocol::Owner;

/// Since when owners have been seen to be over.
#[derive(Debug)]
pub(super) struct Abandoned {
    after: Duration,
    since: HashMap<Owner, Duration>,
}

impl Abandoned {
    /// Those whose tokens have been over for as long as `after` have abandoned what they have.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, since: HashMap::new() }
    }

    /// Looks at those who have unfinished uploads, and says who has abandoned them. A token that is not
    /// over, even for a moment, begins anew.
    pub(super) fn look(
        &mut self,
        owners: &[Owner],
        is_over: impl Fn(Owner) -> bool,
        running: Duration,
    ) -> Vec<Owner> {
        let over: Vec<Owner> = owners.iter().copied().filter(|&owner| is_over(owner)).collect();
        let since = |&owner: &Owner| (owner, self.since.get(&owner).copied().unwrap_or(running));
        self.since = over.iter().map(since).collect();
        let past = |owner: &Owner| {
            self.since.get(owner).is_some_and(|since| running.saturating_sub(*since) >= self.after)
        };
        over.into_iter().filter(past).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_to_be_over_for_a_while_and_without_a_break() {
        let (alice, bob) = (Owner([1; 8]), Owner([2; 8]));
        let mut abandoned = Abandoned::new(Duration::from_secs(10));
        let mut look = |over: &[Owner], second| {
            let owners = [alice, bob];
            abandoned.look(&owners, |owner| over.contains(&owner), Duration::from_secs(second))
        };
        assert_eq!(look(&[alice], 5), []);
        assert_eq!(look(&[alice, bob], 14), []);
        assert_eq!(look(&[alice, bob], 15), [alice]);
        assert_eq!(look(&[bob], 16), [], "it is back");
        assert_eq!(look(&[alice, bob], 24), [bob]);
        assert_eq!(look(&[alice], 33), []);
        assert_eq!(look(&[alice], 34), [alice]);
    }
}
