//! Changes of names on a disk that fails every call, once and from then on, and that loses its
//! power at every call: what was answered stays, what was refused was not made, and nothing that
//! was answered is undone by what a start finds in the journal. And the other way round: with a
//! sync left out, the same checks must find it out.

mod outcomes;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Code, Condition, Depth, Durability, Mode, Parents, Refusal};
use outcomes::{Tree, allowed};
use rustix::io::Errno;

use super::{check_left, directory, id, name, open, options, try_open, whole, write};
use crate::sim::{Fault, Sim};
use crate::store::recover::Stretches;
use crate::store::{Change, OldMode, Put, Settled, Step, Store, Swept};
use crate::sys::Disk;

/// Answers that leave open what was made, after which the store is opened again: each may double
/// what there may be.
const UNKNOWN_MAX: usize = 4;

/// What is asked for.
#[derive(Debug, Clone)]
enum Ask {
    Put(&'static str, &'static [u8]),
    /// With its mode, if it is given one.
    Make(&'static str, Option<u32>),
    MakeAll(&'static str),
    Move(&'static str, &'static str),
    Remove(&'static str, Depth),
    /// As above, and nothing is promised.
    Loose(Box<Ask>),
}

use Ask::{Loose, Make, MakeAll, Move, Remove};

/// What a run was told of each thing that it asked for, round by round.
type Told = Vec<Vec<(Ask, Answer)>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Acknowledged,
    Refused,
    /// There was none, or one that promises nothing.
    Unknown,
}

fn rounds() -> Vec<Vec<Ask>> {
    vec![
        vec![Make("d", Some(0o750))],
        vec![Ask::Put("d/f", b"one")],
        vec![MakeAll("p/q/r")],
        vec![Ask::Put("p/q/x", b"x"), Make("d", Some(0o711))],
        vec![Move("d/f", "p/q/r/g")],
        vec![Move("p/q", "d/q")],
        vec![Ask::Put("d/q/r/h", b"h")],
        // In one round, each on what the one before it has made.
        vec![
            Ask::Put("d/q/new", b"n"),
            Move("d/q", "m"),
            Ask::Put("m/late", b"l"),
            Make("m/s", None),
        ],
        vec![Remove("m/x", Depth::One), Remove("d", Depth::One)],
        vec![Make("e", None), Ask::Put("e/old", b"old"), Make("e2", None)],
        vec![Move("e", "e2"), Move("m/late", "e2/old")],
        vec![Ask::Put("t/a/b", b"b"), Remove("t", Depth::All)],
        // Their inodes may be those of the removed ones.
        vec![Ask::Put("t/a/b", b"again")],
        vec![Remove("t/a", Depth::All)],
        vec![MakeAll("t/a/c")],
        // What was not synced has to be when something in it is.
        vec![Loose(Box::new(Make("n", None)))],
        vec![Ask::Put("n/one", b"1"), Ask::Put("n/s/t/three", b"3")],
        vec![Loose(Box::new(Move("n", "o")))],
        // That of what is deeper in it, too.
        vec![Ask::Put("o/s/t/four", b"4")],
        vec![Ask::Put("o/two", b"2")],
        vec![Remove("m", Depth::All)],
        vec![Ask::Put("m/w", b"w"), Remove("e2/old", Depth::All)],
    ]
}

/// The step that asks for it; `Err` when a put has failed before it.
fn step(
    store: &Store<Sim>,
    ask: &Ask,
    number: u8,
    durability: Durability,
) -> Result<Step<Sim>, Refusal> {
    let make = |path: &str, parents, mode: Option<u32>| Change::MakeDirectory {
        name: name(path),
        parents,
        condition: Condition::Always,
        modified: None,
        mode: mode.map(Mode::new),
        old_mode: OldMode::Replaced,
        durability,
    };
    let change = match ask {
        Ask::Put(path, bytes) => {
            let put = super::put(path, id(number), Some(bytes.len()));
            return whole(store, Put { durability, ..put }, bytes).map(Step::Put);
        }
        Make(path, mode) => make(path, Parents::Require, *mode),
        MakeAll(path) => make(path, Parents::Make, None),
        Move(from, to) => Change::Move {
            name: name(from),
            to: name(to),
            condition: Condition::Always,
            durability,
        },
        Remove(path, depth) => Change::Remove { name: name(path), depth: *depth, durability },
        Loose(ask) => return step(store, ask, number, Durability::None),
    };
    Ok(Step::Change { change, within: None })
}

fn answer(ask: &Ask, result: &Result<Settled, Refusal>, fault: Fault) -> Answer {
    match (result, ask) {
        (Ok(_), Loose(_)) => Answer::Unknown,
        (Ok(_), _) => Answer::Acknowledged,
        (Err(refusal), _) if refusal.code == Code::DurabilityUnknown => Answer::Unknown,
        // What it made may stay when it cannot be taken back either.
        (Err(_), Make(..) | MakeAll(_) | Loose(_)) => Answer::Unknown,
        // Nor can its record be, when no call works any more.
        (Err(_), Ask::Put(..)) if matches!(fault, Fault::FromThenOn(..)) => Answer::Unknown,
        (Err(_), _) => Answer::Refused,
    }
}

/// Asks for everything, once.
fn scenario(sim: &Sim, rounds: &[Vec<Ask>], fault: Fault) -> Told {
    let mut told = Told::new();
    let Some(mut store) = try_open(sim) else { return told };
    let mut number = 0;
    let mut unknown = 0;
    for asked in rounds {
        let answers = ask_round(&store, asked, &mut number, fault);
        let is_open =
            |(ask, answer): &&(Ask, Answer)| *answer == Answer::Unknown && !matches!(ask, Loose(_));
        unknown += answers.iter().filter(is_open).count();
        told.push(answers);
        store.sweep_trash(&|| true);
        if unknown >= UNKNOWN_MAX {
            unknown = 0;
            drop(store);
            let Some(opened) = try_open(sim) else { return told };
            store = opened;
        }
    }
    told
}

fn ask_round(
    store: &Store<Sim>,
    asked: &[Ask],
    number: &mut u8,
    fault: Fault,
) -> Vec<(Ask, Answer)> {
    let (mut steps, mut taken) = (Vec::new(), Vec::new());
    for ask in asked {
        *number += 1;
        // What fails here did not get as far as to have anything made.
        if let Ok(step) = step(store, ask, *number, Durability::Full) {
            steps.push(step);
            taken.push(ask.clone());
        }
    }
    let results = store.commit(steps);
    let answered = |(ask, result): (Ask, _)| {
        let answer = answer(&ask, &result, fault);
        (ask, answer)
    };
    taken.into_iter().zip(results).map(answered).collect()
}

/// Holds what is there against what was told. `Err` says what is wrong.
fn check(sim: &Sim, allowed: &BTreeSet<Tree>) -> Result<(), String> {
    sim.set_fault(Fault::None);
    let (store, _) = Store::open(sim.clone(), Path::new("/"), options())
        .map_err(|error| format!("it does not open again: {error}"))?;
    let tree = sim.tree();
    if !allowed.contains(&tree) {
        let near = allowed.first();
        return Err(format!("there is {tree:?}\n{} others may be, as {near:?}", allowed.len()));
    }
    if store.sweep_trash(&|| true) != Swept::Clean || store.has_trash() {
        return Err("there is trash that is not swept".into());
    }
    if sim.tree() != tree {
        return Err("a sweep removed what is not trash".into());
    }
    match store.counts() {
        Ok(counts) if counts.staged == 0 => Ok(()),
        counts => Err(format!("something is left in staging: {counts:?}")),
    }
}

/// Runs with a fault, and checks what is left: as after a kill, and as after a cut.
fn run(sim: &Sim, rounds: &[Vec<Ask>], fault: Fault, seeds: u64) -> Result<(), String> {
    sim.set_fault(fault);
    let told = scenario(sim, rounds, fault);
    let allowed = allowed(&told);
    check_left(sim, fault, seeds, |sim| check(sim, &allowed))
        .map_err(|error| format!("{error}\ntold: {told:?}"))
}

fn calls_of_a_clean_run() -> u64 {
    let sim = Sim::new();
    sim.set_fault(Fault::None);
    let told = scenario(&sim, &rounds(), Fault::None);
    for (ask, answer) in told.iter().flatten() {
        let expected = match ask {
            Loose(_) => Answer::Unknown,
            _ => Answer::Acknowledged,
        };
        assert_eq!(*answer, expected, "{ask:?}");
    }
    sim.calls()
}

#[test]
fn changes_that_are_answered_survive_every_cut() {
    calls_of_a_clean_run();
    run(&Sim::new(), &rounds(), Fault::None, 200).unwrap();
}

#[test]
fn any_call_of_a_change_may_fail_once() {
    for nth in 0..calls_of_a_clean_run() {
        for errno in [Errno::IO, Errno::NOSPC] {
            run(&Sim::new(), &rounds(), Fault::Once(nth, errno), 8).unwrap();
        }
    }
}

#[test]
fn any_call_of_a_change_and_all_after_it_may_fail_as_when_the_power_goes() {
    for nth in 0..calls_of_a_clean_run() {
        run(&Sim::new(), &rounds(), Fault::FromThenOn(nth, Errno::IO), 8).unwrap();
    }
}

#[test]
fn a_directory_that_cannot_be_given_its_mode_is_not_left_behind() {
    let clean = {
        let sim = Sim::new();
        let store = open(&sim);
        sim.set_fault(Fault::None);
        let made = step(&store, &Make("d", Some(0o700)), 1, Durability::Full).unwrap();
        store.commit(vec![made]).remove(0).unwrap();
        sim.calls()
    };
    let mut refused = 0;
    for nth in 0..clean {
        let sim = Sim::new();
        let store = open(&sim);
        sim.set_fault(Fault::Once(nth, Errno::IO));
        let made = step(&store, &Make("d", Some(0o700)), 1, Durability::Full).unwrap();
        match store.commit(vec![made]).remove(0) {
            Err(refusal) if refusal.code == Code::DurabilityUnknown => {}
            Err(_) => {
                refused += 1;
                assert!(sim.tree().is_empty(), "call {nth}");
            }
            Ok(_) => assert!(sim.tree().contains_key("d")),
        }
    }
    assert!(refused > 3);
}

#[test]
fn a_put_that_was_refused_does_not_come_back_over_a_change_that_was_answered() {
    let mut answered = 0;
    for (nth, then) in (0..12).flat_map(|nth| [(nth, Fault::None), (nth, Fault::Full)]) {
        let sim = Sim::new();
        let store = open(&sim);
        let first = step(&store, &Ask::Put("f", b"one"), 1, Durability::Full).unwrap();
        store.commit(vec![first]).remove(0).unwrap();
        let second = step(&store, &Ask::Put("f", b"two"), 2, Durability::Full).unwrap();
        // The disk fails while the second put takes its name, and what the journal says of that
        // cannot be taken back.
        sim.set_fault(Fault::FromThenOn(nth, Errno::NOSPC));
        let put = store.commit(vec![second]).remove(0);
        sim.set_fault(then);
        let remove = step(&store, &Remove("f", Depth::One), 3, Durability::Full).unwrap();
        if store.commit(vec![remove]).remove(0).is_err() {
            continue;
        }
        answered += usize::from(put.is_err());
        let gone = BTreeSet::from([Tree::new()]);
        let failed = |error| panic!("{nth}, then {then:?}: {error}");
        for seed in 0..8 {
            check(&sim.crash(seed), &gone).unwrap_or_else(failed);
        }
        drop(store);
        check(&sim, &gone).unwrap_or_else(failed);
    }
    assert!(answered > 3);
}

/// Whatever was refused for want of room before.
#[test]
fn what_is_removed_from_a_full_disk_is_acknowledged() {
    let sim = Sim::new();
    let store = open(&sim);
    let ready = |ask, number| step(&store, &ask, number, Durability::Full).unwrap();
    store.commit(vec![ready(Ask::Put("f", b"one"), 1)]).remove(0).unwrap();
    let refused = ready(Ask::Put("g", b"two"), 2);
    let mut broken_off = store.begin(super::put("h", id(3), None)).unwrap();
    let checkpoint = broken_off.write(&[7; GRID_BYTES as usize]).unwrap().unwrap();
    let _ = store.make_durable(checkpoint).unwrap();
    sim.set_fault(Fault::Full);
    assert!(store.commit(vec![refused]).remove(0).is_err());
    store.discard(broken_off);
    let remove = ready(Remove("f", Depth::One), 4);
    assert_eq!(store.commit(vec![remove]).remove(0), Ok(Settled::Changed(Durability::Full)));
}

/// Puts a file `f`, and fills the disk. A put is refused, and nobody knows what the journal says of it.
fn fill(sim: &Sim, store: &Store<Sim>) {
    let ready = |ask, number| step(store, &ask, number, Durability::Full).unwrap();
    store.commit(vec![ready(Ask::Put("f", b"one"), 1)]).remove(0).unwrap();
    let refused = ready(Ask::Put("g", b"two"), 2);
    sim.before("sync journal", |sim| {
        sim.set_fault(Fault::Once(0, Errno::IO));
        sim.before("create journal.new", |sim| sim.set_fault(Fault::Full));
    });
    assert!(store.commit(vec![refused]).remove(0).is_err());
}

/// Makes a change, in a round of its own.
fn change(store: &Store<Sim>, ask: &Ask) -> Result<Settled, Code> {
    let change = step(store, ask, 3, Durability::Full).unwrap();
    store.commit(vec![change]).remove(0).map_err(|refusal| refusal.code)
}

/// How often such a call was made since the fault was set.
fn count(sim: &Sim, call: &str) -> usize {
    sim.log().iter().filter(|made| made.contains(call)).count()
}

/// Nobody knows what the journal says, and it is written anew with the room of what is removed.
#[test]
fn what_is_removed_makes_the_room_that_its_acknowledgement_needs() {
    let sim = Sim::new();
    let store = open(&sim);
    fill(&sim, &store);
    sim.before("remove 00000001-00000002", |sim| sim.set_fault(Fault::None));
    let removed = change(&store, &Remove("f", Depth::One));
    assert_eq!(removed, Ok(Settled::Changed(Durability::Full)));
    assert!(!store.has_trash());
    drop(store);
    check_left(&sim, Fault::None, 8, |sim| check(sim, &BTreeSet::from([Tree::new()]))).unwrap();
}

/// A tree that is larger than what a round waits for.
#[test]
fn a_round_beside_a_sweep_removes_only_some_of_a_tree_for_the_journal_and_the_sweep_goes_on() {
    let sim = Sim::new();
    let store = open(&sim);
    let some = Stretches::IN_A_ROUND.entries * Stretches::IN_A_ROUND.times;
    sim.make_directory(&super::root(&sim), b"t", Mode::new(0o755)).unwrap();
    let tree = directory(&sim, "t");
    write(&sim, &tree, "entry", b"");
    for number in 0..some + 2_000 {
        sim.link(&tree, b"entry", format!("entry-{number}").as_bytes()).unwrap();
    }
    change(&store, &Remove("t", Depth::All)).unwrap();
    fill(&sim, &store);
    let asked = Cell::new(0);
    // What waits for the sweep here would wait for ever.
    let swept = store.sweep_trash(&|| {
        asked.set(asked.get() + 1);
        if asked.get() == 3 {
            let before = count(&sim, "remove entry");
            assert_eq!(change(&store, &Move("f", "h")), Err(Code::DurabilityUnknown));
            let removed = count(&sim, "remove entry") - before;
            assert!((some / 2..=some).contains(&(removed as u32)), "{removed}");
            // One of the last five hundred makes the room.
            sim.before("remove entry-6", |sim| sim.set_fault(Fault::None));
            let removed = change(&store, &Remove("h", Depth::One));
            assert_eq!(removed, Ok(Settled::Changed(Durability::Full)));
            assert!(count(&sim, "remove entry") <= Stretches::IN_A_ROUND.entries as usize);
        }
        true
    });
    assert_eq!(swept, Swept::Clean);
    assert!(!store.has_trash());
}

#[test]
fn what_cannot_be_removed_is_not_tried_again_in_a_round() {
    let sim = Sim::new();
    let store = open(&sim);
    fill(&sim, &store);
    sim.before("sync trash", |sim| {
        sim.set_fault(Fault::Once(0, Errno::IO));
        sim.before("create journal.new", |sim| sim.set_fault(Fault::Full));
    });
    assert_eq!(change(&store, &Remove("f", Depth::One)), Err(Code::DurabilityUnknown));
    assert!(store.has_trash());
    assert_eq!(count(&sim, "create journal.new"), 0, "after what was not removed");
}

/// Whether the checks find out that these syncs are left out in the last rounds.
fn is_found_out(first: &[Vec<Ask>], then: &[Vec<Ask>], ignored: fn(&str) -> bool) -> bool {
    let all: Vec<Vec<Ask>> = first.iter().chain(then).cloned().collect();
    run(&Sim::new(), &all, Fault::None, 40).unwrap();
    let sim = Sim::new();
    let mut told = scenario(&sim, first, Fault::None);
    // Everything before is on the disk.
    let sim = sim.crash(0);
    sim.ignore_syncs(ignored);
    told.extend(scenario(&sim, then, Fault::None));
    let allowed = allowed(&told);
    (0..40).any(|seed| check(&sim.crash(seed), &allowed).is_err())
}

#[test]
fn control_without_the_sync_of_the_parent_of_a_made_directory_the_checks_fail() {
    assert!(is_found_out(&[vec![Make("home", None)]], &[vec![Make("home/d", None)]], |label| {
        label == "home"
    }));
}

#[test]
fn control_without_the_sync_of_a_directory_that_is_given_a_mode_the_checks_fail() {
    assert!(is_found_out(
        &[vec![Make("home", None)]],
        &[vec![Make("home", Some(0o700))]],
        |label| label == "home"
    ));
}

#[test]
fn control_without_the_syncs_of_both_directories_of_a_move_the_checks_fail() {
    let first = [vec![Make("from", None), Make("to", None)], vec![Make("from/d", None)]];
    // One of them is enough for a rename.
    let then = [vec![Move("from/d", "to/d")]];
    assert!(!is_found_out(&first, &then, |label| label == "to"));
    assert!(is_found_out(&first, &then, |label| label == "to" || label == "from"));
}

#[test]
fn control_without_the_sync_of_the_directory_of_what_is_removed_the_checks_fail() {
    let first = [vec![MakeAll("home/d"), Ask::Put("home/f", b"f")]];
    let then = [vec![Remove("home/d", Depth::One)]];
    assert!(is_found_out(&first, &then, |label| label == "home"));
    // The sweep syncs the other directory of these renames.
    for then in [[vec![Remove("home/d", Depth::All)]], [vec![Remove("home/f", Depth::One)]]] {
        assert!(is_found_out(&first, &then, |label| label == "home" || label == "trash"));
    }
}

#[test]
fn control_without_the_sync_of_the_trash_a_tree_that_comes_back_is_not_whole() {
    let first = [vec![MakeAll("home/t/d"), Ask::Put("home/t/f", b"f")]];
    let then = [vec![Loose(Box::new(Remove("home/t", Depth::All)))]];
    assert!(is_found_out(&first, &then, |label| label == "trash"));
}

#[test]
fn directories_in_the_trash_that_may_not_be_written_to_are_swept() {
    let sim = Sim::new();
    let rounds = [
        vec![MakeAll("t/a/b")],
        vec![Ask::Put("t/a/b/f", b"f")],
        vec![Make("t/a/b", Some(0o555)), Make("t/a", Some(0o500))],
        vec![Remove("t", Depth::All)],
    ];
    run(&sim, &rounds, Fault::None, 8).unwrap();
    assert!(sim.tree().is_empty());
}

/// Something is put below a directory that may not be read, when nothing is known to be synced.
fn below_unread() -> Vec<Vec<Ask>> {
    vec![
        vec![MakeAll("x/y")],
        vec![Make("x", Some(0o311))],
        vec![Make("a", None)],
        vec![Move("a", "b")],
        vec![Ask::Put("x/y/f", b"f")],
        vec![Make("q", None)],
        vec![Move("b", "a")],
    ]
}

#[test]
fn what_is_below_a_directory_that_may_not_be_read_survives_by_a_sync_of_all() {
    let told = scenario(&Sim::new(), &below_unread(), Fault::None);
    assert!(told.iter().flatten().all(|(_, answer)| *answer == Answer::Acknowledged), "{told:?}");
    run(&Sim::new(), &below_unread(), Fault::None, 8).unwrap();
}

#[test]
fn a_directory_that_its_owner_may_not_search_has_its_name_and_mode_for_good() {
    for mode in [0, 0o200, 0o400, 0o600] {
        let shut = |path| Make(path, Some(mode));
        let rounds = [
            vec![shut("z")],
            vec![MakeAll("p/q")],
            // In one round: with what is in it, and in one that is shut as well.
            vec![Make("p/q/a", None), Ask::Put("p/q/f", b"f"), shut("p/q"), shut("p")],
            vec![Loose(Box::new(MakeAll("o/n")))],
            vec![shut("m"), Loose(Box::new(Move("m", "o/n/m")))],
        ];
        let told = scenario(&Sim::new(), &rounds, Fault::None);
        let promised = told.iter().flatten().filter(|(ask, _)| !matches!(ask, Loose(_)));
        for (ask, answer) in promised {
            assert_eq!(*answer, Answer::Acknowledged, "{mode:o} {ask:?}");
        }
        run(&Sim::new(), &rounds, Fault::None, 40).unwrap();
    }
    let then = [vec![Make("home/z", Some(0))]];
    assert!(is_found_out(&[vec![Make("home", None)]], &then, |label| label == "home"));
}

#[test]
fn a_directory_that_cannot_be_synced_is_doubtful_and_nobody_elses_is() {
    let sim = Sim::new();
    sim.set_fault(Fault::None);
    scenario(&sim, &below_unread(), Fault::None);
    let log = sim.log();
    let call = log.iter().find_map(|call| call.strip_suffix(" sync_file_system ")).unwrap();
    let fault = Fault::Once(call.parse().unwrap(), Errno::IO);
    let sim = Sim::new();
    sim.set_fault(fault);
    for (ask, answer) in scenario(&sim, &below_unread(), fault).iter().flatten() {
        let expected = match ask {
            Ask::Put(..) => Answer::Unknown,
            _ => Answer::Acknowledged,
        };
        assert_eq!(*answer, expected, "{ask:?}");
    }
    run(&Sim::new(), &below_unread(), fault, 8).unwrap();
}

#[test]
fn control_without_the_sync_of_all_what_is_below_a_directory_that_may_not_be_read_is_lost() {
    let then = [
        vec![Loose(Box::new(MakeAll("x/y")))],
        vec![Loose(Box::new(Make("x", Some(0o311))))],
        vec![Ask::Put("x/y/f", b"f")],
    ];
    assert!(is_found_out(&[vec![Make("a", None)]], &then, |label| label == "file system"));
}

#[test]
fn directories_in_the_trash_that_may_not_be_entered_are_swept() {
    for mode in [0, 0o100, 0o300, 0o400] {
        let rounds = [
            vec![MakeAll("t/a/b"), MakeAll("u/c")],
            vec![Ask::Put("t/a/b/f", b"f"), Ask::Put("u/c/f", b"f")],
            vec![Make("t/a/b", Some(mode))],
            vec![Make("t/a", Some(mode)), Make("u", Some(mode))],
            vec![Remove("t", Depth::All), Remove("u", Depth::All)],
        ];
        run(&Sim::new(), &rounds, Fault::None, 8)
            .unwrap_or_else(|error| panic!("{mode:o}: {error}"));
    }
}
