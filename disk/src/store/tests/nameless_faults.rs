//! Puts that are not synced, on a disk that fails every call: what was acknowledged is there after the program
//! was killed and started again, what was refused has changed nothing, and nothing stays in staging.

use ftx_protocol::{Code, Condition, Durability, Refusal, TransferId};
use rustix::io::Errno;

use super::{commit, id, open, root, try_open, whole, write};
use crate::sim::{Fault, Sim};
use crate::store::{Completeness, Put, Store};

/// A name, what is put there, how, and what was there before.
type Case = (&'static str, &'static [u8], Condition, Option<&'static [u8]>);

fn cases() -> [Case; 4] {
    [
        ("new", b"new bytes", Condition::Always, None),
        ("a/deep", b"deep bytes", Condition::Absent, None),
        ("old", b"newer bytes", Condition::Always, Some(b"old bytes")),
        ("taken", b"unwanted", Condition::Absent, Some(b"what was first")),
    ]
}

fn put(
    store: &Store<Sim>,
    transfer: TransferId,
    name: &str,
    bytes: &[u8],
    condition: Condition,
) -> Result<(), Refusal> {
    let durability = Durability::None;
    let put = Put { condition, durability, ..super::put(name, transfer, Some(bytes.len())) };
    let finished = whole(store, put, bytes)?;
    commit(store, vec![finished]).remove(0).map(drop)
}

/// A disk with what is there before.
fn prepared() -> Sim {
    let sim = Sim::new();
    let store = open(&sim);
    for (number, (name, _, _, before)) in (100..).zip(cases()) {
        if let Some(bytes) = before {
            put(&store, id(number), name, bytes, Condition::Always).unwrap();
        }
    }
    sim
}

/// Runs all cases with a fault, kills the program, and looks. Returns the calls.
fn run(fault: Fault) -> (u64, Vec<String>) {
    let sim = prepared();
    sim.set_fault(fault);
    let store = try_open(&sim);
    let answers: Vec<Option<Result<(), Refusal>>> = (0..)
        .zip(cases())
        .map(|(number, (name, bytes, condition, _))| {
            store.as_ref().map(|store| put(store, id(number), name, bytes, condition))
        })
        .collect();
    let (calls, log) = (sim.calls(), sim.log());
    drop(store);
    sim.set_fault(Fault::None);
    let store = open(&sim);
    assert_eq!(store.counts().unwrap().staged, 0, "{fault:?}");
    for (number, ((name, bytes, _, before), answer)) in (0..).zip(cases().into_iter().zip(answers))
    {
        let content = sim.content(name);
        let (old, new) = (before.map(<[u8]>::to_vec), Some(bytes.to_vec()));
        match &answer {
            Some(Ok(())) => assert_eq!(content, new, "{fault:?} {name}"),
            // Where not even the journal can be told that it was refused, the next start decides.
            Some(Err(_)) | None if matches!(fault, Fault::FromThenOn(..)) => {
                assert!(content == old || content == new, "{fault:?} {name} {content:?}");
            }
            Some(Err(_)) | None => assert_eq!(content, old, "{fault:?} {name}"),
        }
        if store.held(&id(number), None).complete == Completeness::Complete {
            assert_eq!(content, new, "{fault:?} {name}");
        }
        // Whoever was not answered asks again.
        let again = put(&store, id(number), name, bytes, Condition::Always);
        if let Err(refusal) = again {
            assert_eq!(refusal.code, Code::BadOffset, "{fault:?} {name}: {refusal:?}");
        }
        assert_eq!(sim.content(name), new, "{fault:?} {name}");
    }
    (calls, log)
}

#[test]
fn a_put_that_is_not_synced_is_there_or_is_not_whatever_fails() {
    let (calls, log) = run(Fault::None);
    let has = |what: &str| log.iter().any(|call| call.contains(what));
    assert!(has("create_nameless") && has("link_nameless new") && has("rename old"), "{log:?}");
    for nth in 0..calls {
        for errno in [Errno::IO, Errno::NOSPC] {
            run(Fault::Once(nth, errno));
            run(Fault::FromThenOn(nth, errno));
        }
    }
    run(Fault::Full);
}

#[test]
fn what_comes_in_between_keeps_its_name_or_loses_it_as_the_condition_says() {
    for (condition, ends) in
        [(Condition::Always, &b"ours"[..]), (Condition::Absent, &b"theirs"[..])]
    {
        let sim = Sim::new();
        let store = open(&sim);
        sim.before("link_nameless b", |sim| write(sim, &root(sim), "b", b"theirs"));
        let result = put(&store, id(1), "b", b"ours", condition.clone());
        assert_eq!(result.is_ok(), condition == Condition::Always, "{result:?}");
        assert_eq!(sim.content("b").as_deref(), Some(ends));
        assert_eq!(store.counts().unwrap().staged, 0);
    }
}
