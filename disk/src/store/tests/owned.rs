//! Whose a transfer is: what its owner is told and may go on with, and nobody else.

use std::sync::Barrier;
use std::time::Duration;

use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Code, Mode, Owner, Refusal, Replay};

use super::{Counts, commit, digest, directory, finish, id, open};
use crate::log::write_all;
use crate::sim::{Fault, Sim};
use crate::store::{Completeness, Held, Put, Store, Stored, Upload};
use crate::sys::Disk;

const BIG_BYTES: usize = GRID_BYTES as usize + 100;
const SMALL: &[u8] = b"first";
const ALICE: Owner = Owner([1; 8]);
const BOB: Owner = Owner([2; 8]);
const EVERYBODY: [Option<Owner>; 3] = [None, Some(ALICE), Some(BOB)];

/// What a store wrote, before transfers had owners: of a small put that is complete, and of the
/// first 8 MiB of a large one. The times in it are those of the simulated clock, which counts calls.
const JOURNAL_WITHOUT_OWNER: &str = include_str!("journal_without_owner");

fn put(path: &str, number: u8, size: usize, at: u64, owner: Option<Owner>) -> Put {
    Put { at, owner, ..super::put(path, id(number), Some(size)) }
}

fn end(store: &Store<Sim>, upload: Upload<Sim>, bytes: &[u8]) -> Stored {
    let finished = finish(store, upload, bytes).unwrap();
    commit(store, vec![finished]).remove(0).unwrap()
}

/// Puts a small file, and the first part of a large one.
fn store_both(store: &Store<Sim>, owner: Option<Owner>) {
    let mut upload = store.begin(put("a/b/small", 1, SMALL.len(), 0, owner)).unwrap();
    upload.write(SMALL).unwrap();
    end(store, upload, SMALL);
    let mut upload = store.begin(put("big", 2, BIG_BYTES, 0, owner)).unwrap();
    let checkpoint = upload.write(&vec![7; GRID_BYTES as usize + 10]).unwrap().unwrap();
    let _ = store.make_durable(checkpoint).unwrap();
    store.suspend(upload);
}

fn is_nothing(held: &Held) -> bool {
    *held == Held { at: 0, digest: None, complete: Completeness::Partial, name: None }
}

fn code(begun: Result<Upload<Sim>, Refusal>) -> Option<Code> {
    begun.err().map(|refusal| refusal.code)
}

/// Whoever has not begun them is told nothing, gets nothing, and changes nothing; then the owner
/// hears the one again, and ends the other.
fn check_owned(sim: &Sim, store: &Store<Sim>, owner: Option<Owner>) {
    for stranger in EVERYBODY.into_iter().filter(|stranger| *stranger != owner) {
        for number in [1, 2] {
            assert!(is_nothing(&store.held(&id(number), stranger.as_ref())));
        }
        for (name, number, size) in [("a/b/small", 1, SMALL.len()), ("big", 2, BIG_BYTES)] {
            for (size, at) in [(size, 0), (size, size as u64), (size, GRID_BYTES), (3, 0)] {
                let begun = store.begin(put(name, number, size, at, stranger));
                assert_eq!(code(begun), Some(Code::TransferMismatch), "{name} {at}");
            }
        }
        assert_eq!(store.partials_of(stranger.as_ref()), 0);
    }
    assert_eq!(store.partials_of(owner.as_ref()), 1);
    let held = store.held(&id(1), owner.as_ref());
    assert_eq!((held.at, held.complete), (SMALL.len() as u64, Completeness::Complete));
    let again = store.begin(put("a/b/small", 1, SMALL.len(), held.at, owner)).unwrap();
    assert_eq!(end(store, again, SMALL).replayed, Some(Replay::Same));
    let held = store.held(&id(2), owner.as_ref());
    assert_eq!((held.at, held.complete), (GRID_BYTES, Completeness::Partial));
    let mut upload = store.begin(put("big", 2, BIG_BYTES, held.at, owner)).unwrap();
    upload.write(&[7; BIG_BYTES - GRID_BYTES as usize]).unwrap();
    let big = vec![7; BIG_BYTES];
    assert_eq!(end(store, upload, &big).replayed, None);
    assert!(sim.content("big") == Some(big));
    assert_eq!(store.partials_of(owner.as_ref()), 0);
    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
}

#[test]
fn takeover_and_replay_need_the_owner_before_and_after_a_restart() {
    for owner in EVERYBODY {
        for restarts in 0..3 {
            let sim = Sim::new();
            let mut store = open(&sim);
            store_both(&store, owner);
            for _ in 0..restarts {
                drop(store);
                store = open(&sim);
            }
            check_owned(&sim, &store, owner);
        }
    }
}

#[test]
fn journal_without_owner_still_resumes() {
    let sim = Sim::new();
    let store = open(&sim);
    store_both(&store, None);
    drop(store);
    // Who has no token writes what was always written: an older server reads it, too.
    let written = String::from_utf8(sim.content(".ftx/journal").unwrap()).unwrap();
    assert_eq!(written, JOURNAL_WITHOUT_OWNER);
    let private = directory(&sim, ".ftx");
    sim.remove(&private, b"journal").unwrap();
    let journal = sim.create(&private, b"journal", Mode::new(0o600)).unwrap();
    write_all(&sim, &journal, JOURNAL_WITHOUT_OWNER.as_bytes(), 0).unwrap();
    let store = open(&sim);
    check_owned(&sim, &store, None);
}

/// A stranger takes nothing away from an upload that is going on, either.
#[test]
fn no_stranger_disturbs_an_upload_that_goes_on() {
    let sim = Sim::new();
    let store = open(&sim);
    let mut upload = store.begin(put("big", 2, BIG_BYTES, 0, Some(ALICE))).unwrap();
    let big = vec![7; BIG_BYTES];
    let checkpoint = upload.write(&big[..GRID_BYTES as usize]).unwrap().unwrap();
    assert!(is_nothing(&store.held(&id(2), Some(&BOB))));
    assert_eq!(code(store.begin(put("other", 2, 3, 0, None))), Some(Code::TransferMismatch));
    assert_eq!(store.make_durable(checkpoint).unwrap().at(), GRID_BYTES);
    upload.write(&big[GRID_BYTES as usize..]).unwrap();
    end(&store, upload, &big);
    // And to the owner it is taken over, as always.
    let upload = store.begin(put("big2", 3, BIG_BYTES, 0, Some(ALICE))).unwrap();
    store.held(&id(3), Some(&ALICE));
    let finished = upload.finish(&store, 0, digest(b"")).err().unwrap();
    assert_eq!(finished.code, Code::TakenOver);
}

#[test]
fn what_an_owner_has_left_goes_and_nothing_else() {
    let sim = Sim::new();
    let store = open(&sim);
    let begin = |number, owner| {
        let mut upload = store.begin(put("big", number, BIG_BYTES, 0, owner)).unwrap();
        let checkpoint = upload.write(&[7; GRID_BYTES as usize]).unwrap().unwrap();
        let _ = store.make_durable(checkpoint).unwrap();
        upload
    };
    for (number, owner) in [(1, Some(ALICE)), (2, Some(ALICE)), (3, Some(BOB)), (4, None)] {
        store.suspend(begin(number, owner));
    }
    let live = begin(5, Some(ALICE));
    let mut owners = store.owners();
    owners.sort();
    assert_eq!(owners, [ALICE, BOB]);
    assert_eq!(store.forget_owner(ALICE), 2);
    let held = |number, owner: Option<Owner>| store.held(&id(number), owner.as_ref()).at;
    assert_eq!([held(1, Some(ALICE)), held(2, Some(ALICE))], [0, 0]);
    assert_eq!([held(3, Some(BOB)), held(4, None)], [GRID_BYTES; 2]);
    assert_eq!(store.counts().unwrap(), Counts { partial: 3, staged: 3 });
    store.suspend(live);
    assert_eq!((store.forget_owner(ALICE), store.forget_owner(ALICE)), (1, 0));
    assert_eq!(store.owners(), [BOB]);
    drop(store);
    assert_eq!(open(&sim).counts().unwrap(), Counts { partial: 2, staged: 2 });
}

#[test]
fn unfinished_uploads_are_counted_for_each_owner_until_they_are_over() {
    let sim = Sim::new();
    let store = open(&sim);
    let count = || EVERYBODY.map(|owner| store.partials_of(owner.as_ref()));
    let begin = |number, owner| store.begin(put("big", number, BIG_BYTES, 0, owner)).unwrap();
    let [first, second] = [1, 2].map(|number| begin(number, Some(ALICE)));
    let third = begin(3, Some(BOB));
    let mut fourth = begin(4, None);
    // What cannot be resumed leaves nothing behind, and is not counted.
    store.discard(store.begin(put("small", 5, 5, 0, Some(BOB))).unwrap());
    assert_eq!(count(), [1, 2, 1]);
    store.discard(first);
    store.suspend(third);
    assert_eq!(count(), [1, 1, 0]);
    let checkpoint = fourth.write(&vec![7; GRID_BYTES as usize]).unwrap().unwrap();
    let _ = store.make_durable(checkpoint).unwrap();
    store.suspend(fourth);
    assert_eq!(count(), [1, 1, 0]);
    // Held, and of nobody who comes back.
    for seconds in [0, 100] {
        store.expire(Duration::from_secs(50), Duration::from_secs(seconds));
    }
    assert_eq!(count(), [0, 1, 0]);
    store.discard(second);
    assert_eq!(count(), [0, 0, 0]);
}

/// Sixteen that look first would all find room.
#[test]
fn an_owner_has_no_more_unfinished_uploads_than_it_may_however_many_begin_at_once() {
    let sim = Sim::new();
    let store = open(&sim);
    let begin = |number, owner| {
        let put = put("big", number, BIG_BYTES, 0, owner);
        store.begin(Put { unfinished_max: Some(3), ..put })
    };
    let together = Barrier::new(16);
    let mut begun: Vec<_> = std::thread::scope(|scope| {
        let begin = |number| {
            together.wait();
            begin(number, Some(ALICE))
        };
        let threads: Vec<_> = (1..=16).map(|number| scope.spawn(move || begin(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    begun.retain(|begun| !begun.as_ref().is_err_and(|refusal| refusal.code == Code::Quota));
    assert_eq!((begun.len(), store.partials_of(Some(&ALICE))), (3, 3));
    // Nobody else's count, and what is refused for another reason gives its room back.
    store.discard(begin(20, Some(BOB)).unwrap());
    store.discard(begun.remove(0).unwrap());
    sim.set_fault(Fault::Full);
    assert_eq!(code(begin(21, Some(ALICE))), Some(Code::NoSpace));
    sim.set_fault(Fault::None);
    begin(22, Some(ALICE)).unwrap();
    assert_eq!(code(begin(23, Some(ALICE))), Some(Code::Quota));
    assert_eq!(store.owners(), [ALICE]);
}
