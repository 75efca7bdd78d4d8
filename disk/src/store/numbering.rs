//! Numbers for names that something has: what a drop box is made of.
//!
//! A number is chosen when the round is about to be made: under its lock, so that nobody of this
//! store takes the name meanwhile, and before the journal says the name, so that a start finishes
//! what was begun and chooses nothing. What another process does to the name after that refuses
//! the put, as it does any put that must be new.

use std::collections::BTreeSet;
use std::ops::Bound;

use ftx_protocol::Name;
use ftx_protocol::limits::NAME_PART_BYTES;

use super::change::Change;
use super::record::Committed;
use super::upload::{Finished, FinishedBody};
use super::{Naming, Step, Store};
use crate::sys::{Disk, Want};

/// The highest number that a name gets: past it somebody fills a box with one name.
const NUMBER_MAX: u32 = 9_999;

impl<D: Disk> Store<D> {
    /// Gives each put of a round that is to be numbered a name which nothing has, on the disk or
    /// in the round before it. Where there is none, the put is refused when it takes its name.
    pub(super) fn number(&self, round: &mut [Step<D>]) {
        if !round.iter().any(is_numbered) {
            return;
        }
        let mut taken = Taken::default();
        for step in round {
            match step {
                Step::Put(Finished { put, body: FinishedBody::Staged { committed, .. } }) => {
                    if put.naming == Naming::Numbered
                        && let Some(free) = self.free_name(committed, &taken)
                    {
                        committed.asked = Some(std::mem::replace(&mut committed.name, free));
                    }
                    taken.names.insert(committed.name.clone());
                }
                Step::Change { change: Change::MakeDirectory { name, .. }, .. }
                | Step::Change { change: Change::Move { to: name, .. }, .. } => {
                    taken.names.insert(name.clone());
                }
                Step::Put(_) | Step::Change { .. } => {}
            }
        }
    }

    /// `None` when the name is free as it is. The lowest number, if there are no gaps below it. The
    /// way there doubles and then halves, so that nobody makes a round long by filling a box.
    fn free_name(&self, committed: &Committed, taken: &Taken) -> Option<Name> {
        let name = &committed.name;
        let within = committed.within.as_ref();
        // What cannot be looked at is told by the rename.
        let parent = name.parent();
        let opened = parent.as_ref().map(|parent| self.look(within, parent, Want::Directory).ok());
        let directory = match &opened {
            Some(opened) => opened.as_ref(),
            None => Some(&*self.root),
        };
        let has = |name: &Name| {
            let is_there = |directory| self.disk.stat_part(directory, name.last_part()).is_ok();
            taken.has(name) || directory.is_some_and(is_there)
        };
        if !has(name) {
            return None;
        }
        let (mut low, mut high) = (0, 1);
        let mut free = loop {
            let name = numbered(name, parent.as_ref(), high)?;
            // If that is taken, too, the rename says so.
            if high == NUMBER_MAX || !has(&name) {
                break name;
            }
            (low, high) = (high, high.saturating_mul(2).min(NUMBER_MAX));
        };
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            let name = numbered(name, parent.as_ref(), middle)?;
            if has(&name) {
                low = middle;
            } else {
                (high, free) = (middle, name);
            }
        }
        Some(free)
    }
}

fn is_numbered<D: Disk>(step: &Step<D>) -> bool {
    matches!(step, Step::Put(finished) if finished.put.naming == Naming::Numbered)
}

/// The names that the round before a step takes.
#[derive(Default)]
struct Taken {
    names: BTreeSet<Name>,
}

impl Taken {
    /// Whether it takes the name, or one below it, for which a directory of this name may be made.
    fn has(&self, name: &Name) -> bool {
        // Names below this one stand together, from the name with a slash on.
        let below = [name.as_bytes(), b"/"].concat();
        let from = (Bound::Included(below.as_slice()), Bound::Unbounded);
        let next = self.names.range::<[u8], _>(from).next();
        self.names.contains(name) || next.is_some_and(|next| next.as_bytes().starts_with(&below))
    }
}

/// `photo.jpg` with the number 2 is `photo-2.jpg`. A dot at the very beginning begins no
/// extension; of what gets too long, the end of the stem goes.
fn numbered(name: &Name, parent: Option<&Name>, number: u32) -> Option<Name> {
    let part = name.last_part();
    let number = format!("-{number}");
    let dot = part.iter().rposition(|&byte| byte == b'.').unwrap_or(0);
    let room_for = |extension: &[u8]| {
        NAME_PART_BYTES.checked_sub(number.len().saturating_add(extension.len()))
    };
    let (stem, extension) = match part.split_at(dot) {
        (stem, extension)
            if !stem.is_empty() && room_for(extension).is_some_and(|room| room > 0) =>
        {
            (stem, extension)
        }
        _ => (part, &[][..]),
    };
    let stem = cut(stem, room_for(extension)?);
    Name::inside(parent, &[stem, number.as_bytes(), extension].concat()).ok()
}

/// The first bytes of a stem, without a character that would lose its end: there are file systems
/// that have UTF-8 only.
fn cut(stem: &[u8], room: usize) -> &[u8] {
    let is_inside = |at: usize| stem.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = room.min(stem.len());
    while end > 1 && is_inside(end) {
        end = end.saturating_sub(1);
    }
    stem.get(..end).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(part: &[u8], number: u32) -> Vec<u8> {
        let directory = Name::parse(b"box.d").unwrap();
        let name = Name::inside(Some(&directory), part).unwrap();
        numbered(&name, Some(&directory), number).unwrap().last_part().to_vec()
    }

    #[test]
    fn a_name_is_taken_by_itself_and_by_what_is_below_it() {
        let name = |text: &str| Name::parse(text.as_bytes()).unwrap();
        let taken = Taken { names: ["a/b/c", "a/b-", "d"].map(name).into() };
        for (text, has) in [
            ("a/b/c", true),
            ("a/b", true),
            ("a", true),
            ("d", true),
            ("a/b/c/d", false),
            ("a/c", false),
            ("e", false),
        ] {
            assert_eq!(taken.has(&name(text)), has, "{text}");
        }
    }

    #[test]
    fn a_number_goes_before_the_last_dot_or_to_the_end() {
        for (part, with) in [
            ("photo.jpg", "photo-7.jpg"),
            ("a.tar.gz", "a.tar-7.gz"),
            ("plain", "plain-7"),
            (".bashrc", ".bashrc-7"),
            (".a.b", ".a-7.b"),
            ("end.", "end-7."),
        ] {
            assert_eq!(of(part.as_bytes(), 7), with.as_bytes(), "{part}");
        }
    }

    #[test]
    fn a_name_that_gets_too_long_loses_the_end_of_its_stem() {
        let long = "x".repeat(NAME_PART_BYTES - 4) + ".jpg";
        let with = of(long.as_bytes(), 9_999);
        assert_eq!(with.len(), NAME_PART_BYTES);
        assert!(with.ends_with(b"x-9999.jpg"));
        // No half character, whatever its place.
        for before in 0..4 {
            let long = "x".repeat(before) + &"é".repeat((NAME_PART_BYTES - before) / 2);
            let with = String::from_utf8(of(long.as_bytes(), 12)).unwrap();
            assert!(with.len() <= NAME_PART_BYTES && with.ends_with("é-12"), "{with}");
        }
        // An extension that leaves no room for a stem is none.
        let long = format!("a.{}", "x".repeat(NAME_PART_BYTES - 2));
        assert_eq!(of(long.as_bytes(), 1), format!("{}-1", &long[..253]).as_bytes());
        // Bytes that are no text.
        let with = of(&[0xbf; NAME_PART_BYTES], 1);
        assert!(with.len() <= NAME_PART_BYTES && with.ends_with(b"-1"));
    }
}
