//! Puts of one name in one round, on a disk that loses its power at every call, and at every call of
//! the start that follows, or whose server is killed there: the name has what the last put brought that may
//! have it, and no put is said to be complete that never had it.

use std::path::Path;

use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Condition, Depth, Durability, Mode, Refusal, Replay, TransferId};
use rustix::io::Errno;

use super::{Counts, check_left, commit, directory, finish, id, name, open, try_open, whole};
use crate::log::write_all;
use crate::sim::{Fault, Sim, SimHandle};
use crate::store::{Change, Completeness, Memory, Options, Put, Step, Store, Stored};
use crate::sys::{Disk, Want};

/// What is put, one after the other. All have one size.
const BROUGHT: [&[u8]; 3] = [b"one", b"two", b"six"];

const OLD: &[u8] = b"old";

/// How each is put.
type Round = Vec<(Durability, Condition)>;

/// What has the name before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Old,
}

const FULL: (Durability, Condition) = (Durability::Full, Condition::Always);
const FULL_IF_ABSENT: (Durability, Condition) = (Durability::Full, Condition::Absent);
const LOOSE: (Durability, Condition) = (Durability::None, Condition::Always);
const LOOSE_IF_ABSENT: (Durability, Condition) = (Durability::None, Condition::Absent);

const WAYS: [(Durability, Condition); 4] = [FULL, FULL_IF_ABSENT, LOOSE, LOOSE_IF_ABSENT];

/// All rounds of so many puts.
fn rounds(puts: u32) -> impl Iterator<Item = (Before, Round)> {
    let of = move |mut number: usize| {
        let mut next = || {
            let way = WAYS[number % WAYS.len()].clone();
            number /= WAYS.len();
            way
        };
        (0..puts).map(|_| next()).collect::<Round>()
    };
    (0..WAYS.len().pow(puts))
        .flat_map(move |number| [Before::Nothing, Before::Old].map(|before| (before, of(number))))
}

fn transfer(place: usize) -> TransferId {
    id(place as u8 + 1)
}

fn put(path: &str, place: usize, (durability, condition): &(Durability, Condition)) -> Put {
    Put {
        durability: *durability,
        condition: condition.clone(),
        ..super::put(path, transfer(place), Some(BROUGHT[place].len()))
    }
}

/// Makes a round on a disk that fails so from when it begins. Returns the disk, and which puts were
/// acknowledged.
fn run(before: Before, round: &Round, fault: Fault) -> (Sim, Vec<usize>) {
    let sim = Sim::new();
    let store = open(&sim);
    let ready = round.iter().enumerate();
    let ready =
        ready.map(|(place, how)| whole(&store, put("n", place, how), BROUGHT[place]).unwrap());
    let ready = ready.collect();
    if before == Before::Old {
        // Late enough that nobody was refused for it before the round.
        let old = whole(&store, super::put("n", id(100), Some(OLD.len())), OLD).unwrap();
        commit(&store, vec![old]).remove(0).unwrap();
    }
    sim.set_fault(fault);
    let answers = commit(&store, ready).into_iter().enumerate();
    let acknowledged = answers.filter(|(_, answer)| answer.is_ok()).map(|(place, _)| place);
    (sim.clone(), acknowledged.collect())
}

fn log_of(before: Before, round: &Round) -> Vec<String> {
    run(before, round, Fault::None).0.log()
}

fn is_complete(store: &Store<Sim>, place: usize) -> bool {
    store.held(&transfer(place), None).complete == Completeness::Complete
}

fn replay(
    store: &Store<Sim>,
    path: &str,
    place: usize,
    how: &(Durability, Condition),
) -> Result<Stored, Refusal> {
    let bytes = BROUGHT[place];
    let at = store.held(&transfer(place), None).at;
    let upload = store.begin(Put { at, ..put(path, place, how) })?;
    commit(store, vec![finish(store, upload, bytes)?]).remove(0)
}

/// The last put that may have brought what the name has; `None` when it has what it had before. `Err` when
/// nobody has brought it. What was not synced may have lost its end.
fn brought_by(sim: &Sim, before: Before, round: &Round) -> Result<Option<usize>, String> {
    let found = sim.content("n");
    let old = (before == Before::Old).then(|| OLD.to_vec());
    let is_of = |(place, (durability, _)): &(usize, &(Durability, Condition))| match durability {
        Durability::None => found.as_ref().is_some_and(|found| BROUGHT[*place].starts_with(found)),
        Durability::Memory | Durability::Full => found.as_deref() == Some(BROUGHT[*place]),
    };
    let place = round.iter().enumerate().filter(is_of).map(|(place, _)| place).next_back();
    if place.is_none() && found != old {
        return Err(format!("the name has {found:?}"));
    }
    Ok(place)
}

/// Holds what is there against what was acknowledged. `Err` says what is wrong.
fn check(sim: &Sim, before: Before, round: &Round, acknowledged: &[usize]) -> Result<(), String> {
    sim.set_fault(Fault::None);
    let store = try_open(sim).ok_or("it does not open again")?;
    let last = brought_by(sim, before, round)?;
    for (place, how) in round.iter().enumerate() {
        if acknowledged.contains(&place) && how.0 == Durability::Full && last < Some(place) {
            return Err(format!("{place} was acknowledged, the name has that of {last:?}"));
        }
        if !is_complete(&store, place) {
            continue;
        }
        if last < Some(place) || (before == Before::Old && how.1 == Condition::Absent) {
            return Err(format!("{place} is complete and never had its name: {last:?} has it"));
        }
        let replayed = replay(&store, "n", place, how).map_err(|refusal| refusal.to_string())?;
        let is_there = sim.content("n").as_deref() == Some(BROUGHT[place]);
        if (replayed.replayed == Some(Replay::Same)) != is_there {
            return Err(format!("{place} is there: {is_there}. It is said: {replayed:?}"));
        }
    }
    match store.counts() {
        Ok(counts) if counts.staged == 0 => Ok(()),
        counts => Err(format!("something is left in staging: {counts:?}")),
    }
}

fn check_all_cuts(before: Before, round: &Round) {
    let calls = log_of(before, round).len() as u64;
    for nth in 0..=calls {
        let fault = Fault::FromThenOn(nth, Errno::IO);
        let (sim, acknowledged) = run(before, round, fault);
        check_left(&sim, fault, 4, |sim| check(sim, before, round, &acknowledged))
            .unwrap_or_else(|error| panic!("{before:?} {round:?}: {error}"));
    }
}

#[test]
fn no_put_is_complete_that_never_had_its_name_whatever_came_after_it_in_its_round() {
    for (before, round) in rounds(2) {
        check_all_cuts(before, &round);
    }
}

#[test]
fn nor_of_three() {
    for (before, round) in rounds(3) {
        check_all_cuts(before, &round);
    }
}

#[test]
fn the_power_may_go_again_while_a_name_is_given_to_one_after_the_other() {
    for (before, round) in rounds(2) {
        let calls = log_of(before, &round).len() as u64;
        let naming = naming_begins(before, &round);
        for nth in (naming..calls).step_by(2) {
            let (sim, acknowledged) = run(before, &round, Fault::FromThenOn(nth, Errno::IO));
            for again in 20..60 {
                let cut = sim.crash(nth);
                cut.set_fault(Fault::FromThenOn(again, Errno::IO));
                drop(try_open(&cut));
                check(&cut.crash(again), before, &round, &acknowledged).unwrap_or_else(|error| {
                    panic!("{before:?} {round:?}, {nth}, {again}: {error}")
                });
            }
        }
    }
}

/// The number of the call before which all of a round is journalled and nothing has its name.
fn naming_begins(before: Before, round: &Round) -> u64 {
    let log = log_of(before, round);
    let is_first = |call: &String| call.ends_with("rename_new n") || call.ends_with("nameless n");
    log.iter().position(is_first).unwrap() as u64
}

#[test]
fn the_last_that_may_have_the_name_has_it_when_all_were_journalled() {
    for (round, bytes, complete) in [
        // The second is not there any more.
        (vec![FULL, LOOSE], b"one", vec![0]),
        // The first is refused, the second is not.
        (vec![FULL_IF_ABSENT, FULL], b"two", vec![1]),
        (vec![FULL, FULL_IF_ABSENT], b"one", vec![0]),
        // Each has its turn.
        (vec![FULL, FULL], b"two", vec![0, 1]),
        (vec![FULL, FULL, FULL_IF_ABSENT], b"two", vec![0, 1]),
    ] {
        let naming = naming_begins(Before::Old, &round);
        let (sim, _) = run(Before::Old, &round, Fault::FromThenOn(naming, Errno::IO));
        let check = |sim: &Sim, what: &str| {
            sim.set_fault(Fault::None);
            let store = open(sim);
            assert_eq!(sim.content("n").as_deref(), Some(&bytes[..]), "{round:?} {what}");
            let places = (0..round.len()).filter(|place| is_complete(&store, *place));
            assert_eq!(places.collect::<Vec<_>>(), complete, "{round:?} {what}");
        };
        for seed in 0..8 {
            check(&sim.crash(seed), "cut");
        }
        check(&sim, "killed");
    }
}

#[test]
fn a_put_that_could_not_have_its_name_does_not_take_it_from_who_came_after_it() {
    let sim = Sim::new();
    let store = open(&sim);
    let round = vec![FULL, FULL];
    let ready = [0, 1].map(|place| whole(&store, put("n", place, &FULL), BROUGHT[place]).unwrap());
    sim.before("rename_new n", |sim| {
        // That call fails, and all calls from when the journal is to be told so.
        sim.set_fault(Fault::Once(0, Errno::IO));
        sim.before("write_at ", |sim| sim.set_fault(Fault::FromThenOn(0, Errno::IO)));
    });
    assert!(commit(&store, ready.into()).iter().all(Result::is_err));
    drop(store);
    assert_eq!(sim.content("n").as_deref(), Some(BROUGHT[1]));
    check_left(&sim, Fault::None, 20, |sim| {
        check(sim, Before::Nothing, &round, &[])?;
        match sim.content("n").as_deref() {
            Some(b"two") => Ok(()),
            found => Err(format!("the name has {found:?}")),
        }
    })
    .unwrap();
}

/// Who has put a file that nobody may read hears as much of it as of any other.
#[test]
fn a_file_that_its_own_mode_keeps_from_being_read_is_the_same_when_it_is_asked_for_again() {
    for mode in [0o200, 0].map(Mode::new) {
        let put = move |at| Put { at, mode: Some(mode), ..put("n", 0, &FULL) };
        let check = move |store: &Store<Sim>, what: &str| {
            assert!(is_complete(store, 0), "{what}");
            let upload = store.begin(put(BROUGHT[0].len() as u64)).unwrap();
            let replayed = commit(store, vec![finish(store, upload, BROUGHT[0]).unwrap()]);
            let replayed = replayed.into_iter().next().unwrap().unwrap();
            assert_eq!(replayed.replayed, Some(Replay::Same), "{what}");
            assert_eq!(replayed.mode, Some(mode), "{what}");
            assert!(replayed.version.is_some(), "{what}");
        };
        let begun = || {
            let sim = Sim::new();
            let store = open(&sim);
            let ready = whole(&store, put(0), BROUGHT[0]).unwrap();
            (sim, store, ready)
        };
        let (sim, store, ready) = begun();
        commit(&store, vec![ready]).remove(0).unwrap();
        check(&store, "answered");
        drop(store);
        check(&open(&sim), "started again");
        for call in ["rename_new n", "sync root"] {
            let (sim, store, ready) = begun();
            sim.before(call, move |sim| {
                (0..4).for_each(|seed| check(&open(&sim.crash(seed)), call))
            });
            commit(&store, vec![ready]).remove(0).unwrap();
        }
    }
}

/// A store for one job, such as a `get -r`: its next run uses the same ids.
fn open_forgetful(sim: &Sim) -> Store<Sim> {
    let options = Options { memory: Memory::Nothing, ..super::options() };
    Store::open(sim.clone(), Path::new("/"), options).unwrap().0
}

#[test]
fn a_store_for_one_job_brings_again_what_an_earlier_one_brought_and_somebody_has_changed() {
    let sim = Sim::new();
    let bring = |bytes: &[u8]| {
        let store = open_forgetful(&sim);
        assert!(!is_complete(&store, 0));
        let ready = whole(&store, put("n", 0, &FULL), bytes).unwrap();
        let stored = commit(&store, vec![ready]).remove(0).unwrap();
        assert_eq!(stored.replayed, None);
        assert_eq!(sim.content("n").as_deref(), Some(bytes));
    };
    bring(BROUGHT[0]);
    let file = sim.open_part(&super::root(&sim), b"n", Want::File).unwrap();
    write_all(&sim, &file, b"bad", 0).unwrap();
    bring(BROUGHT[0]);
}

#[test]
fn a_store_for_one_job_leaves_a_server_what_that_remembers() {
    let sim = Sim::new();
    let store = open(&sim);
    let ready = whole(&store, put("n", 0, &FULL), BROUGHT[0]).unwrap();
    commit(&store, vec![ready]).remove(0).unwrap();
    drop(store);
    drop(open_forgetful(&sim));
    assert!(is_complete(&open(&sim), 0));
}

#[test]
fn a_start_without_room_for_the_journal_takes_what_was_removed_away_first() {
    let removed = || {
        let sim = Sim::new();
        let store = open(&sim);
        let ready = whole(&store, put("n", 0, &FULL), BROUGHT[0]).unwrap();
        commit(&store, vec![ready]).remove(0).unwrap();
        let durability = Durability::Full;
        let change = Change::Remove { name: name("n"), depth: Depth::One, durability };
        store.commit(vec![Step::Change { change, within: None }]).remove(0).unwrap();
        assert!(store.has_trash());
        drop(store);
        sim
    };
    let sim = removed();
    sim.set_fault(Fault::None);
    open(&sim);
    let log = sim.log();
    let nth = log.iter().position(|call| call.ends_with("create journal.new")).unwrap();
    let sim = removed();
    sim.set_fault(Fault::Once(nth as u64, Errno::NOSPC));
    let store = open(&sim);
    assert!(!store.has_trash());
    assert!(is_complete(&store, 0));
}

/// A file of a put that can be gone on with, which the server was killed in the middle of: what is promised of it,
/// and something that is not.
fn killed() -> (Sim, SimHandle) {
    let sim = Sim::new();
    let store = open(&sim);
    let mut upload = store.begin(super::put("n", transfer(0), None)).unwrap();
    let checkpoint = upload.write(&[7; GRID_BYTES as usize]).unwrap().unwrap();
    let _ = store.make_durable(checkpoint).unwrap();
    upload.write(b"more").unwrap();
    drop((upload, store));
    let staged = directory(&sim, ".ftx/staging");
    let file = sim.open_part(&staged, b"00000001-00000000", Want::File).unwrap();
    assert_eq!(sim.stat(&file).unwrap().size, GRID_BYTES + 4);
    (sim, file)
}

#[test]
fn a_start_gives_back_the_room_of_what_was_not_promised() {
    let (sim, file) = killed();
    let store = open(&sim);
    assert_eq!(sim.stat(&file).unwrap().size, GRID_BYTES);
    assert_eq!(store.held(&transfer(0), None).at, GRID_BYTES);
}

#[test]
fn what_has_lost_a_part_of_what_was_promised_is_not_gone_on_with() {
    let (sim, file) = killed();
    sim.truncate(&file, GRID_BYTES - 1).unwrap();
    let store = open(&sim);
    assert_eq!(store.held(&transfer(0), None).at, 0);
    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
}

#[test]
fn a_start_has_the_room_of_what_nobody_can_go_on_with_for_the_journal() {
    const ORPHAN: &str = ".ftx/staging/00000002-00000000";
    let (sim, file) = killed();
    let store = open(&sim);
    let mut orphan = store.begin(super::put("m", transfer(1), None)).unwrap();
    orphan.write(b"no promise").unwrap();
    drop((orphan, store));
    assert!(sim.content(ORPHAN).is_some());
    write_all(&sim, &file, b"more", GRID_BYTES).unwrap();
    sim.before("create journal.new", |sim| {
        let promised = sim.content(".ftx/staging/00000001-00000000");
        if sim.content(ORPHAN).is_some() || promised.is_none_or(|it| it.len() as u64 > GRID_BYTES) {
            sim.set_fault(Fault::Full);
        }
    });
    let store = open(&sim);
    assert_eq!(store.held(&transfer(0), None).at, GRID_BYTES);
    assert_eq!(store.counts().unwrap(), Counts { partial: 1, staged: 1 });
}
