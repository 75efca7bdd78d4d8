//! What there may be after all that a run was told: each thing that was asked for, made or not.

use std::collections::{BTreeMap, BTreeSet};

use super::Ask::{self, Loose, Make, MakeAll, Move, Remove};
use super::{Answer, Told};
use crate::store::tests::name;

/// What is under the root: of a file its bytes, of a directory its mode.
pub(super) type Tree = BTreeMap<String, Result<Vec<u8>, u32>>;

const PLAIN: u32 = 0o777;

/// All that there may be after everything that was told.
pub(super) fn allowed(told: &Told) -> BTreeSet<Tree> {
    let mut trees = BTreeSet::from([Tree::new()]);
    // Puts that a start may make again, until something was answered that it would undo.
    let mut repeated: Vec<Ask> = Vec::new();
    let mut undone: Vec<Undone> = Vec::new();
    for round in told {
        undone.extend(round.iter().filter_map(|(ask, answer)| Undone::of(ask, *answer, &trees)));
        trees = trees.iter().flat_map(|tree| after_round(tree, round)).collect();
        for (ask, answer) in round {
            match (ask, answer) {
                (Ask::Put(..), Answer::Unknown) => repeated.push(ask.clone()),
                (_, Answer::Acknowledged) => {
                    repeated.retain(|put| !touches(ask, put));
                    undone.retain(|undone| !touches(ask, &undone.ask));
                }
                _ => {}
            }
        }
        for undone in &undone {
            let back: Vec<Tree> = trees.iter().filter_map(|tree| undone.undo(tree)).collect();
            trees.extend(back);
        }
    }
    for put in repeated {
        let again: Vec<Tree> = trees.iter().flat_map(|tree| outcomes(tree, &put)).collect();
        trees.extend(again);
    }
    trees
}

fn touches(ask: &Ask, put: &Ask) -> bool {
    let names = |ask: &Ask| match ask {
        Ask::Put(path, _) | Make(path, _) | MakeAll(path) | Remove(path, _) => vec![name(path)],
        Move(from, to) => vec![name(from), name(to)],
        Loose(_) => Vec::new(),
    };
    names(ask).iter().any(|one| names(put).iter().any(|other| one.overlaps(other)))
}

/// A move that may come undone, with what was made in the directory since. What it replaced is
/// there again.
struct Undone {
    ask: Ask,
    replaced: Tree,
}

impl Undone {
    /// `None` when it is no such move.
    fn of(ask: &Ask, answer: Answer, before: &BTreeSet<Tree>) -> Option<Self> {
        let (Answer::Unknown, Move(_, to)) = (answer, plain(ask)) else { return None };
        let all = before.iter().flatten();
        let replaced = all.filter(|(path, _)| is_below(path, to));
        let replaced = replaced.map(|(path, what)| (path.clone(), what.clone())).collect();
        Some(Self { ask: plain(ask).clone(), replaced })
    }

    fn undo(&self, tree: &Tree) -> Option<Tree> {
        let Move(from, to) = &self.ask else { return None };
        let back = outcomes(tree, &Move(to, from)).pop()?;
        Some(self.replaced.clone().into_iter().chain(back).collect())
    }
}

/// What there may be after a round.
fn after_round(before: &Tree, round: &[(Ask, Answer)]) -> BTreeSet<Tree> {
    // Of a put that is refused the directories above it may stay.
    let leaves_nothing =
        |(ask, answer): &&(Ask, Answer)| *answer == Answer::Refused && !matches!(ask, Ask::Put(..));
    let round: Vec<_> = round.iter().filter(|step| !leaves_nothing(step)).cloned().collect();
    in_any_order(before, &round)
}

/// Steps that were not answered may have been made or not, in any order: their clients did not wait
/// for one another.
fn in_any_order(before: &Tree, round: &[(Ask, Answer)]) -> BTreeSet<Tree> {
    if round.iter().all(|step| step.1 == Answer::Acknowledged) {
        let apply =
            |tree: Option<Tree>, step: &(Ask, Answer)| outcomes(&tree?, &step.0).into_iter().next();
        return round.iter().fold(Some(before.clone()), apply).into_iter().collect();
    }
    let mut found = BTreeSet::new();
    if round.iter().all(|step| step.1 != Answer::Acknowledged) {
        found.insert(before.clone());
    }
    for (place, (ask, answer)) in round.iter().enumerate() {
        let mut rest = round.to_vec();
        rest.remove(place);
        for tree in outcomes(before, ask).into_iter().skip(usize::from(*answer == Answer::Refused))
        {
            found.extend(in_any_order(&tree, &rest));
        }
    }
    found
}

/// All that may come of an ask on a tree, the whole of it first; nothing when it cannot be made.
fn outcomes(tree: &Tree, ask: &Ask) -> Vec<Tree> {
    let mut after = tree.clone();
    match ask {
        Ask::Put(path, bytes) => {
            let without = with_parents(tree, path);
            let mut whole = without.first().cloned().unwrap_or_default();
            whole.insert((*path).to_owned(), Ok(bytes.to_vec()));
            return std::iter::once(whole).chain(without).collect();
        }
        MakeAll(path) => return with_parents(tree, &format!("{path}/")),
        Make(path, mode) => {
            let mut plain = tree.clone();
            plain.entry((*path).to_owned()).or_insert(Err(PLAIN));
            let Some(mode) = mode else { return vec![plain] };
            after.insert((*path).to_owned(), Err(*mode));
            return vec![after, plain];
        }
        Move(from, to) => {
            if !tree.contains_key(*from) {
                return Vec::new();
            }
            after.retain(|path, _| !is_below(path, from) && !is_below(path, to));
            for (path, what) in tree.iter().filter(|(path, _)| is_below(path, from)) {
                after.insert(format!("{to}{}", &path[from.len()..]), what.clone());
            }
        }
        Remove(path, _) => after.retain(|other, _| !is_below(other, path)),
        Loose(ask) => return outcomes(tree, ask),
    }
    vec![after]
}

/// The tree with all directories above a path, and before that with fewer of them.
fn with_parents(tree: &Tree, path: &str) -> Vec<Tree> {
    let mut trees = vec![tree.clone()];
    for (end, _) in path.match_indices('/') {
        let mut next = trees[0].clone();
        next.entry(path[..end].to_owned()).or_insert(Err(PLAIN));
        trees.insert(0, next);
    }
    trees
}

fn plain(ask: &Ask) -> &Ask {
    match ask {
        Loose(ask) => ask,
        ask => ask,
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
