//! The store on a disk that fails every call, once and from then on, and that loses its power at
//! every call: no acknowledgement is ever false, nothing half has a name, no promise shrinks. And
//! the other way round: with any one sync left out, the same checks must find it out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Code, Digest, Durability, Refusal, Replay, TransferId};
use rustix::io::Errno;

use super::{Counts, Trial, check_left, commit, id, options, try_open};
use crate::sim::{Fault, Sim};
use crate::store::{Completeness, Finished, Put, Store, Stored, Upload};

const TRIAL: Trial<Told> = Trial { scenario, check };

const BIG_BYTES: usize = GRID_BYTES as usize + 100;

/// What was put under one name.
type Attempts = Vec<(TransferId, Vec<u8>, Answer)>;

/// What a run was told, and what it tried.
#[derive(Default)]
struct Told {
    /// For each name, what was put there, oldest first, and whether it was acknowledged.
    puts: BTreeMap<&'static str, Attempts>,
    /// What was promised of a transfer that is not over.
    kept: BTreeMap<TransferId, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Acknowledged,
    Refused,
    /// The run ended before an answer.
    Unknown,
}

/// Of the large file and its first part it is always the same, and computed once.
fn digest(bytes: &[u8]) -> Digest {
    static LARGE: [OnceLock<Digest>; 2] = [OnceLock::new(), OnceLock::new()];
    match bytes.len() {
        BIG_BYTES => *LARGE[0].get_or_init(|| super::digest(bytes)),
        length if length as u64 == GRID_BYTES => *LARGE[1].get_or_init(|| super::digest(bytes)),
        _ => super::digest(bytes),
    }
}

fn put(path: &str, transfer: TransferId, size: usize, at: u64) -> Put {
    Put { at, ..super::put(path, transfer, Some(size)) }
}

impl Told {
    fn begin(&mut self, name: &'static str, transfer: TransferId, bytes: &[u8]) {
        self.puts.entry(name).or_default().push((transfer, bytes.to_vec(), Answer::Unknown));
    }

    fn answer(&mut self, transfer: TransferId, result: &Result<Stored, Refusal>) {
        let answer = match result {
            Ok(_) => Answer::Acknowledged,
            // It has its name, and nobody knows whether it keeps it.
            Err(refusal) if refusal.code == Code::DurabilityUnknown => Answer::Unknown,
            Err(_) => Answer::Refused,
        };
        for entry in self.puts.values_mut().flatten() {
            if entry.0 == transfer {
                entry.2 = answer;
            }
        }
        self.kept.remove(&transfer);
    }
}

/// Everything that a store does, once. Ends where the disk ends it.
fn scenario(sim: &Sim, told: &mut Told) -> Option<()> {
    {
        let store = try_open(sim)?;
        whole(&store, told, "a/b/small", id(1), b"first");
        let big = vec![7; BIG_BYTES];
        told.begin("big", id(2), &big);
        let mut upload = attempt(told, id(2), store.begin(put("big", id(2), BIG_BYTES, 0)))?;
        let (first, _) = big.split_at(GRID_BYTES as usize + 10);
        let written = upload.write(first);
        let Ok(checkpoint) = written else {
            store.discard(upload);
            told.answer(id(2), &Err(written.err()?));
            return None;
        };
        match store.make_durable(checkpoint.expect("the grid was passed")) {
            Ok(durable) => drop(told.kept.insert(id(2), durable.at())),
            Err(refusal) => told.answer(id(2), &Err(refusal)),
        }
        store.suspend(upload);
    }
    let store = try_open(sim)?;
    check_kept(&store, told);
    let at = store.held(&id(2), None).at;
    let big = vec![7; BIG_BYTES];
    let begun = store.begin(put("big", id(2), BIG_BYTES, at));
    let mut upload = attempt_resume(&store, told, begun)?;
    if upload.write(&big[at as usize..]).is_err() {
        store.discard(upload);
        told.kept.remove(&id(2));
        return None;
    }
    let mut round = Vec::new();
    let mut ids = Vec::new();
    if let Some(finished) = finish(&store, told, id(2), upload, &big) {
        round.push(finished);
        ids.push(id(2));
    }
    for (name, transfer, bytes) in [("x", id(3), &b"x"[..]), ("a/b/small", id(4), b"second")] {
        told.begin(name, transfer, bytes);
        let Ok(mut upload) = store.begin(put(name, transfer, bytes.len(), 0)) else { continue };
        if upload.write(bytes).is_err() {
            store.discard(upload);
        } else if let Some(finished) = finish(&store, told, transfer, upload, bytes) {
            round.push(finished);
            ids.push(transfer);
        }
    }
    for (transfer, result) in ids.iter().zip(commit(&store, round)) {
        told.answer(*transfer, &result);
    }
    whole(&store, told, "a/c/deep", id(5), b"deep");
    Some(())
}

fn attempt(
    told: &mut Told,
    transfer: TransferId,
    begun: Result<Upload<Sim>, Refusal>,
) -> Option<Upload<Sim>> {
    match begun {
        Ok(upload) => Some(upload),
        Err(refusal) => {
            told.answer(transfer, &Err(refusal));
            None
        }
    }
}

/// A resume that fails takes nothing of what was promised back, unless it says that it is lost.
fn attempt_resume(
    store: &Store<Sim>,
    told: &mut Told,
    begun: Result<Upload<Sim>, Refusal>,
) -> Option<Upload<Sim>> {
    if begun.is_err() && store.held(&id(2), None).at == 0 {
        told.kept.remove(&id(2));
    }
    begun.ok()
}

fn finish(
    store: &Store<Sim>,
    told: &mut Told,
    transfer: TransferId,
    upload: Upload<Sim>,
    bytes: &[u8],
) -> Option<Finished<Sim>> {
    told.kept.remove(&transfer);
    let mut finished = upload.finish(store, bytes.len() as u64, digest(bytes)).ok()?;
    match store.sync(&mut finished) {
        Ok(()) => Some(finished),
        Err(refusal) => {
            told.answer(transfer, &Err(refusal));
            None
        }
    }
}

fn whole(
    store: &Store<Sim>,
    told: &mut Told,
    name: &'static str,
    transfer: TransferId,
    bytes: &[u8],
) {
    told.begin(name, transfer, bytes);
    let Ok(mut upload) = store.begin(put(name, transfer, bytes.len(), 0)) else { return };
    if upload.write(bytes).is_err() {
        return store.discard(upload);
    }
    if let Some(finished) = finish(store, told, transfer, upload, bytes) {
        let result = commit(store, vec![finished]).remove(0);
        told.answer(transfer, &result);
    }
}

fn check_kept(store: &Store<Sim>, told: &Told) {
    for (transfer, at) in &told.kept {
        let held = store.held(transfer, None);
        assert!(held.at >= *at, "{at} was promised, {} is held", held.at);
    }
}

/// Holds what is there against what was told. `Err` says what is wrong.
fn check(sim: &Sim, told: &Told) -> Result<(), String> {
    sim.set_fault(Fault::None);
    let (store, recovery) = Store::open(sim.clone(), Path::new("/"), options())
        .map_err(|error| format!("it does not open again: {error}"))?;
    for (name, puts) in &told.puts {
        let found = sim.content(name);
        // From the last acknowledged one on, each may be what the name holds.
        let last = puts.iter().rposition(|put| put.2 == Answer::Acknowledged);
        let mut allowed = puts.iter().skip(last.unwrap_or(0)).map(|put| &put.1);
        match &found {
            None if last.is_none() => {}
            Some(found) if allowed.any(|bytes| bytes == found) => {}
            _ => {
                let size = found.as_ref().map(Vec::len);
                return Err(format!(
                    "{name} has {size:?} bytes; {:?}",
                    puts.iter().map(|put| (put.1.len(), put.2)).collect::<Vec<_>>()
                ));
            }
        }
        for (transfer, bytes, answer) in puts {
            check_replay(&store, name, *transfer, bytes, *answer, found.as_deref())?;
        }
    }
    for (transfer, at) in &told.kept {
        let held = store.held(transfer, None);
        if held.at < *at
            || held
                .digest
                .is_some_and(|held_digest| held_digest != digest(&vec![7; held.at as usize]))
        {
            return Err(format!("{at} was promised, {} is held", held.at));
        }
    }
    let counts = store.counts().map_err(|error| error.to_string())?;
    if counts.staged != recovery.resumable {
        return Err(format!(
            "staging has {} files, {} can be resumed",
            counts.staged, recovery.resumable
        ));
    }
    Ok(())
}

/// A transfer that is said to be complete is acknowledged again, with the truth.
fn check_replay(
    store: &Store<Sim>,
    name: &str,
    transfer: TransferId,
    bytes: &[u8],
    answer: Answer,
    found: Option<&[u8]>,
) -> Result<(), String> {
    let held = store.held(&transfer, None);
    if held.complete == Completeness::Partial {
        return Ok(());
    }
    if answer == Answer::Refused && found != Some(bytes) {
        return Err(format!("{name}: refused, and yet complete"));
    }
    let replayed = store
        .begin(put(name, transfer, bytes.len(), held.at))
        .and_then(|upload| upload.finish(store, bytes.len() as u64, digest(bytes)))
        .map(|finished| commit(store, vec![finished]).remove(0));
    match replayed {
        Ok(Ok(stored)) if stored.replayed == Some(Replay::Same) && found != Some(bytes) => {
            Err(format!("{name}: said to be the same, and is not"))
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) | Err(refusal) => Err(format!("{name}: not replayed: {refusal}")),
    }
}

#[test]
fn a_clean_run_is_acknowledged_and_survives_every_cut() {
    let (_, told) = TRIAL.clean_run();
    assert!(told.puts.values().flatten().all(|put| put.2 == Answer::Acknowledged));
    TRIAL.run(Fault::None, 40).unwrap();
}

#[test]
fn any_call_may_fail_once() {
    for nth in 0..TRIAL.calls() {
        for errno in [Errno::IO, Errno::NOSPC] {
            TRIAL.run(Fault::Once(nth, errno), 1).unwrap();
        }
    }
}

#[test]
fn any_call_and_all_after_it_may_fail_as_when_the_power_goes() {
    for nth in 0..TRIAL.calls() {
        TRIAL.run(Fault::FromThenOn(nth, Errno::IO), 3).unwrap();
    }
}

#[test]
fn the_power_may_go_again_while_the_store_recovers() {
    for nth in (0..TRIAL.calls()).step_by(5) {
        TRIAL.cut_twice(nth, (0..40).step_by(2));
    }
}

#[test]
fn control_without_the_sync_of_files_the_checks_fail() {
    assert!(TRIAL.is_found_out(|label| label.contains('-')));
}

#[test]
fn control_without_the_sync_of_the_directory_of_a_file_the_checks_fail() {
    assert!(TRIAL.is_found_out(|label| label == "b" || label == "c"));
}

#[test]
fn control_without_the_sync_of_the_parents_of_new_directories_the_checks_fail() {
    assert!(TRIAL.is_found_out(|label| label == "a"));
    assert!(TRIAL.is_found_out(|label| label == "root"));
}

#[test]
fn control_without_the_sync_of_the_journal_the_checks_fail() {
    assert!(TRIAL.is_found_out(|label| label.starts_with("journal")));
}

#[test]
fn control_without_the_sync_of_staging_the_checks_fail() {
    assert!(TRIAL.is_found_out(|label| label == "staging"));
}

/// Of these two a peer may have as many in a round as it likes.
#[test]
fn a_round_waits_once_for_all_that_it_refuses_and_once_for_the_directory_of_many_new_ones() {
    let sim = Sim::new();
    let store = try_open(&sim).unwrap();
    let mut told = Told::default();
    whole(&store, &mut told, "taken/file", id(0), b"x");
    let names = ["taken", "a/f", "taken", "b/f", "taken", "c/f", "taken"];
    let round = names.into_iter().zip(1..).map(|(name, number)| {
        let mut upload = store.begin(put(name, id(number), 1, 0)).unwrap();
        upload.write(b"x").unwrap();
        finish(&store, &mut told, id(number), upload, b"x").unwrap()
    });
    let round: Vec<Finished<Sim>> = round.collect();
    let before = sim.log().len();
    for (name, answer) in names.into_iter().zip(commit(&store, round)) {
        let code = answer.err().map(|refusal| refusal.code);
        assert_eq!(code, (name == "taken").then_some(Code::IsDirectory), "{name}");
    }
    let log = sim.log();
    let syncs = |of: &str| {
        let sync = format!("sync {of}");
        log[before..].iter().filter(|call| call.ends_with(&sync)).count()
    };
    assert_eq!((syncs("journal"), syncs("root")), (2, 1), "{:?}", &log[before..]);
}

/// A power cut may take them their names, and nobody goes on with them; what asked for no sync has what it asked for.
#[test]
fn puts_whose_directory_was_not_synced_are_over() {
    let big = vec![7; BIG_BYTES];
    let run = |fault| {
        let sim = Sim::new();
        let store = try_open(&sim).unwrap();
        let loose = Put { durability: Durability::None, ..put("loose", id(2), 5, 0) };
        let round = vec![
            super::whole(&store, put("big", id(1), BIG_BYTES, 0), &big).unwrap(),
            super::whole(&store, loose, b"loose").unwrap(),
        ];
        sim.set_fault(fault);
        let answers = commit(&store, round).into_iter();
        let codes: Vec<_> = answers.map(|answer| answer.err().map(|no| no.code)).collect();
        (codes, store, sim)
    };
    let (codes, _, sim) = run(Fault::None);
    assert_eq!(codes, [None, None]);
    let sync = sim.log().iter().position(|call| call.ends_with(" sync root")).unwrap();
    let (codes, store, sim) = run(Fault::Once(sync as u64, Errno::IO));
    assert_eq!(codes, [Some(Code::DurabilityUnknown), None]);
    assert!(sim.content("big").unwrap() == big && sim.content("loose").unwrap() == b"loose");
    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
    assert_eq!(store.held(&id(1), None).at, 0);
}

/// The number of its device is another one after the machine was started again.
#[test]
fn what_gets_its_name_after_a_reboot_is_no_longer_the_stores_own() {
    let sim = Sim::new();
    let store = try_open(&sim).unwrap();
    let big = vec![7; BIG_BYTES];
    let mut upload = store.begin(put("big", id(1), BIG_BYTES, 0)).unwrap();
    let checkpoint = upload.write(&big[..GRID_BYTES as usize]).unwrap().unwrap();
    let _ = store.make_durable(checkpoint).unwrap();
    let small = super::whole(&store, put("small", id(2), 5, 0), b"small").unwrap();
    sim.before("rename_new small", move |sim| {
        let cut = sim.crash(0);
        let store = try_open(&cut).unwrap();
        assert_eq!(cut.content("small").as_deref(), Some(&b"small"[..]));
        assert_eq!(store.open_file(&super::name("small"), None).map(|file| file.size()), Ok(5));
        let mut upload = store.begin(put("big", id(1), BIG_BYTES, GRID_BYTES)).unwrap();
        upload.write(&big[GRID_BYTES as usize..]).unwrap();
        let finished = super::finish(&store, upload, &big).unwrap();
        commit(&store, vec![finished]).remove(0).unwrap();
        let opened = store.open_file(&super::name("big"), None).map(|file| file.size());
        assert_eq!(opened, Ok(BIG_BYTES as u64));
    });
    commit(&store, vec![small]).remove(0).unwrap();
}

/// What is promised after the sync of one of the store's own directories has failed, which the disk tells once, is
/// kept; and until the next start nothing can be that relies on it.
#[test]
fn a_directory_of_the_stores_own_that_could_not_be_synced_is_not_believed_until_the_next_start() {
    let point = vec![7; GRID_BYTES as usize];
    let keep = |store: &Store<Sim>, number| {
        let mut upload = store.begin(super::put("big", id(number), None)).unwrap();
        let kept = store.make_durable(upload.write(&point).unwrap().unwrap());
        let kept = kept.map(|durable| durable.at()).map_err(|refusal| refusal.code);
        assert_eq!(store.suspend(upload), kept.unwrap_or(0));
        kept
    };
    let fail_staging = |store: &Store<Sim>, sim: &Sim| {
        sim.before("sync staging", |sim| sim.set_fault(Fault::Once(0, Errno::IO)));
        assert_eq!(keep(store, 1), Err(Code::StorageFailed));
    };
    let fail_own = |store: &Store<Sim>, sim: &Sim| {
        // The journal is written anew after a sync of it has failed.
        let ready = super::whole(store, put("a", id(1), 1, 0), b"a").unwrap();
        sim.before("sync journal", |sim| {
            sim.set_fault(Fault::Once(0, Errno::IO));
            sim.before("sync .ftx", |sim| sim.set_fault(Fault::Once(0, Errno::IO)));
        });
        assert!(commit(store, vec![ready]).remove(0).is_err());
    };
    for fail in [&fail_staging as &dyn Fn(&Store<Sim>, &Sim), &fail_own] {
        let sim = Sim::new();
        let store = try_open(&sim).unwrap();
        fail(&store, &sim);
        sim.set_fault(Fault::None);
        assert_eq!(keep(&store, 2), Err(Code::StorageFailed));
        let ready = super::whole(&store, put("b", id(3), 1, 0), b"b").unwrap();
        assert!(commit(&store, vec![ready]).remove(0).is_err());
        drop(store);
        let store = try_open(&sim).unwrap();
        assert_eq!(keep(&store, 4), Ok(GRID_BYTES));
        for seed in 0..6 {
            assert_eq!(try_open(&sim.crash(seed)).unwrap().held(&id(4), None).at, GRID_BYTES);
        }
    }
}

/// Of each of them the journal said at most that it was on its way.
#[test]
fn puts_that_the_journal_has_no_room_for_are_refused_for_that_and_their_own_room_is_given_back() {
    let big = vec![7; BIG_BYTES];
    let sim = Sim::new();
    let store = try_open(&sim).unwrap();
    let kept = |number| {
        let mut upload = store.begin(put("big", id(number), BIG_BYTES, 0)).unwrap();
        let checkpoint = upload.write(&big).unwrap().unwrap();
        let _ = store.make_durable(checkpoint).unwrap();
        super::finish(&store, upload, &big).unwrap()
    };
    let round = vec![kept(1), super::whole(&store, put("small", id(2), 5, 0), b"small").unwrap()];
    let given_up = kept(3);
    let mut upload = store.begin(put("later", id(4), BIG_BYTES, 0)).unwrap();
    let checkpoint = upload.write(&big).unwrap().unwrap();
    sim.set_fault(Fault::Full);
    let answers = commit(&store, round).into_iter();
    let codes: Vec<_> = answers.map(|answer| answer.unwrap_err().code).collect();
    assert_eq!(codes, [Code::NoSpace; 2]);
    store.give_up(vec![given_up]);
    assert_eq!(store.make_durable(checkpoint).err().unwrap().code, Code::NoSpace);
    drop(upload);
    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
    drop(store);
    let check = |sim: &Sim| {
        sim.set_fault(Fault::None);
        try_open(sim).ok_or("it does not open again")?;
        if sim.tree().is_empty() {
            Ok(())
        } else {
            Err("a put that was refused has its name".into())
        }
    };
    check_left(&sim, Fault::Full, 20, check).unwrap();
}
