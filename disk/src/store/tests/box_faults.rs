//! A drop box: puts of one name, by one token, held to a directory that is not there at first, on a
//! disk that fails every call, once and from then on, and that loses its power at every call. Each
//! file has a name of its own and keeps it, none is half or there twice, and nothing is outside
//! the box. And the other way round: with a sync left out, the same checks must find it out.

use std::collections::BTreeSet;

use ftx_protocol::{Code, Name, Owner, Refusal, Replay, TransferId};
use rustix::io::Errno;

use super::{Trial, commit, digest, directory, id, name, open, try_open, whole};
use crate::sim::{Fault, Sim};
use crate::store::{Completeness, Naming, Put, Store, Stored};
use crate::sys::Disk;

const TRIAL: Trial<Told> = Trial { scenario, check };

const OWNER: Owner = Owner([7; 8]);
const STRANGER: Owner = Owner([8; 8]);

/// What is put, in this order; between the rounds the store is opened again.
const ROUNDS: [&[&[u8]]; 3] = [&[b"one"], &[b"two", b"three"], &[b"four"]];

/// What a run was told of each put.
type Told = Vec<(TransferId, &'static [u8], Answer)>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// With the name that the file got.
    Acknowledged(Name),
    Refused,
    /// There was none, or nobody knows.
    Unknown,
}

fn put(transfer: TransferId, bytes: &[u8], at: u64) -> Put {
    Put {
        at,
        owner: Some(OWNER),
        within: Some(name("box/in")),
        naming: Naming::Numbered,
        ..super::put("box/in/f.x", transfer, Some(bytes.len()))
    }
}

fn answer(result: &Result<Stored, Refusal>) -> Answer {
    match result {
        Ok(stored) => {
            Answer::Acknowledged(stored.name.clone().unwrap_or_else(|| name("box/in/f.x")))
        }
        Err(refusal) if refusal.code == Code::DurabilityUnknown => Answer::Unknown,
        Err(_) => Answer::Refused,
    }
}

/// Ends where the disk ends it.
fn scenario(sim: &Sim, told: &mut Told) -> Option<()> {
    for round in ROUNDS {
        let store = try_open(sim)?;
        let mut ready = Vec::new();
        let mut places = Vec::new();
        for bytes in round {
            let transfer = id(told.len() as u8);
            let finished = whole(&store, put(transfer, bytes, 0), bytes);
            told.push((transfer, bytes, Answer::Unknown));
            match finished {
                Ok(finished) => {
                    ready.push(finished);
                    places.push(told.len() - 1);
                }
                Err(_) => told.last_mut()?.2 = Answer::Refused,
            }
        }
        for (place, result) in places.into_iter().zip(commit(&store, ready)) {
            told[place].2 = answer(&result);
        }
    }
    Some(())
}

/// Holds what is there against what was told. `Err` says what is wrong.
fn check(sim: &Sim, told: &Told) -> Result<(), String> {
    sim.set_fault(Fault::None);
    let store = try_open(sim).ok_or("it does not open again")?;
    let tree = sim.tree();
    let mut seen = BTreeSet::new();
    for (path, what) in &tree {
        match what {
            Err(_) if path == "box" || path == "box/in" => {}
            Ok(bytes) if path.starts_with("box/in/f") => {
                // One that was refused may be there, if the journal could not be told so.
                let is_whole = told.iter().any(|put| put.1 == bytes);
                if !is_whole || !seen.insert(bytes) {
                    return Err(format!("{path} is half, or there twice: {bytes:?}"));
                }
            }
            _ => return Err(format!("{path} is there")),
        }
    }
    for (transfer, bytes, answer) in told {
        if let Answer::Acknowledged(name) = answer
            && tree.get(&name.to_string()) != Some(&Ok(bytes.to_vec()))
        {
            return Err(format!("{name} was acknowledged and is not there"));
        }
        check_replay(sim, &store, *transfer, bytes, answer)?;
    }
    if store.counts().map_err(|error| error.to_string())?.staged > 0 {
        return Err("staging has files that nobody can go on with".to_owned());
    }
    Ok(())
}

/// What is complete is acknowledged again to its owner, under the name that it got.
fn check_replay(
    sim: &Sim,
    store: &Store<Sim>,
    transfer: TransferId,
    bytes: &[u8],
    answered: &Answer,
) -> Result<(), String> {
    for other in [None, Some(&STRANGER)] {
        if store.held(&transfer, other).complete == Completeness::Complete {
            return Err("a stranger is told of it".to_owned());
        }
    }
    let held = store.held(&transfer, Some(&OWNER));
    if held.complete == Completeness::Partial {
        return match answered {
            Answer::Acknowledged(name) => Err(format!("{name} was acknowledged, and is forgotten")),
            Answer::Refused | Answer::Unknown => Ok(()),
        };
    }
    let stored = store
        .begin(put(transfer, bytes, held.at))
        .and_then(|upload| upload.finish(store, bytes.len() as u64, digest(bytes)))
        .and_then(|finished| commit(store, vec![finished]).remove(0))
        .map_err(|refusal| format!("not replayed: {refusal}"))?;
    let is_same = stored.replayed == Some(Replay::Same);
    let Answer::Acknowledged(name) = answer(&Ok(stored)) else { return Ok(()) };
    if is_same && sim.content(&name.to_string()).as_deref() != Some(bytes) {
        return Err(format!("{name} is said to be the same, and is not"));
    }
    match answered {
        Answer::Acknowledged(before) if *before != name => {
            Err(format!("{before} was acknowledged, and then {name}"))
        }
        Answer::Refused if !is_same => {
            Err(format!("{name} was refused, and is complete and not there"))
        }
        Answer::Acknowledged(_) | Answer::Refused | Answer::Unknown => Ok(()),
    }
}

#[test]
fn each_file_of_a_clean_run_has_the_next_number() {
    let (sim, told) = TRIAL.clean_run();
    for ((_, bytes, answer), path) in
        told.iter().zip(["box/in/f.x", "box/in/f-1.x", "box/in/f-2.x", "box/in/f-3.x"])
    {
        assert_eq!(*answer, Answer::Acknowledged(name(path)));
        assert_eq!(sim.content(path).as_deref(), Some(*bytes));
    }
    TRIAL.run(Fault::None, 40).unwrap();
}

#[test]
fn any_call_of_a_put_into_a_box_may_fail_once() {
    for nth in 0..TRIAL.calls() {
        for errno in [Errno::IO, Errno::NOSPC] {
            TRIAL.run(Fault::Once(nth, errno), 1).unwrap();
        }
    }
}

#[test]
fn any_call_of_a_put_into_a_box_and_all_after_it_may_fail_as_when_the_power_goes() {
    for nth in 0..TRIAL.calls() {
        TRIAL.run(Fault::FromThenOn(nth, Errno::IO), 3).unwrap();
    }
}

#[test]
fn the_power_may_go_again_while_a_box_recovers() {
    for nth in (0..TRIAL.calls()).step_by(3) {
        TRIAL.cut_twice(nth, 0..40);
    }
}

/// Between the journal and the rename: what the journal says is done, and nothing is chosen again.
#[test]
fn a_number_that_was_journalled_is_kept_whatever_has_come_and_gone() {
    let sim = Sim::new();
    let store = open(&sim);
    let finish = |number, bytes| whole(&store, put(id(number), bytes, 0), bytes).unwrap();
    let first = finish(1, b"one");
    assert!(commit(&store, vec![first])[0].is_ok());
    let second = finish(2, b"two");
    sim.before("rename_new f-1.x", |sim| {
        let cut = sim.crash(0);
        // Its first name is free again.
        cut.remove(&directory(&cut, "box/in"), b"f.x").unwrap();
        let store = open(&cut);
        assert_eq!(cut.content("box/in/f.x"), None);
        assert_eq!(cut.content("box/in/f-1.x").as_deref(), Some(&b"two"[..]));
        let again = store.begin(put(id(2), b"two", 3)).unwrap();
        let again = again.finish(&store, 3, digest(b"two")).unwrap();
        let again = commit(&store, vec![again]).remove(0).unwrap();
        assert_eq!(again.name, Some(name("box/in/f-1.x")));
        assert_eq!(again.replayed, Some(Replay::Same));
    });
    assert!(commit(&store, vec![second])[0].is_ok());
}

/// Whether the sync of what has such a label is left out.
type Ignored = fn(&str) -> bool;

#[test]
fn control_without_a_sync_the_checks_of_a_box_fail() {
    let ignored: [(&str, Ignored); 5] = [
        ("the files", |label| label.contains('-')),
        ("the scope", |label| label == "in"),
        ("what is above the scope", |label| label == "box"),
        ("the root", |label| label == "root"),
        ("the journal", |label| label.starts_with("journal")),
    ];
    for (what, ignored) in ignored {
        assert!(TRIAL.is_found_out(ignored), "{what}");
    }
}
