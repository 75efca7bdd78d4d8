//! What the tests of the store have in common: a store, the steps of a put, what another process
//! does beside it, and trials on disks that fail.

mod box_faults;
mod change_faults;
mod faults;
mod nameless_faults;
mod on_disk;
mod owned;
mod races;
mod recover_faults;
mod scoped;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ftx_protocol::{Algorithm, Condition, Digest, Durability, Mode, Name, Refusal, TransferId};
use rustix::io::Errno;

use crate::hash::Running;
use crate::log::write_all;
use crate::sim::{Fault, Sim, SimHandle};
use crate::store::{
    Access, Finished, ListLimits, Memory, Naming, OpenLimit, Options, Put, Settled, Step, Store,
    Stored, Upload,
};
use crate::sys::{Disk, Native, Want};
use crate::walk::names_room;

/// What a store has on its hands, for tests of leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Transfers that are not complete, live or resumable.
    pub(super) partial: usize,
    /// Files in staging.
    pub(super) staged: usize,
}

impl<D: Disk> Store<D> {
    pub(super) fn counts(&self) -> std::io::Result<Counts> {
        let staged = match &self.private {
            Some(private) => self.disk.names(&private.staging)?.count(),
            None => 0,
        };
        Ok(Counts { partial: self.transfers.partials(), staged })
    }
}

pub(super) fn options() -> Options {
    Options {
        access: Access::ReadWrite,
        durability: Durability::Full,
        memory: Memory::Puts,
        size_max_bytes: 1 << 40,
        free_min_bytes: 0,
    }
}

/// `None` when the disk fails.
pub(super) fn try_open(sim: &Sim) -> Option<Store<Sim>> {
    Store::open(sim.clone(), Path::new("/"), options()).ok().map(|(store, _)| store)
}

pub(super) fn open(sim: &Sim) -> Store<Sim> {
    try_open(sim).unwrap()
}

/// On a real disk.
pub(super) fn open_native(root: &Path) -> Store<Native> {
    Store::open(Native, root, options()).unwrap().0
}

/// For a listing of somebody who may list all that a store lets be listed.
pub(super) fn share() -> ListLimits {
    share_of(1_000)
}

pub(super) fn share_of(directories: usize) -> ListLimits {
    ListLimits { directories: OpenLimit::at_most(directories), names: names_room() }
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

pub(super) fn id(number: u8) -> TransferId {
    TransferId([number; 16])
}

/// One that no other transfer has.
pub(super) fn new_id() -> TransferId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut transfer = [0; 16];
    transfer[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    TransferId(transfer)
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut running = Running::new(Algorithm::Sha256);
    running.update(bytes);
    running.digest()
}

/// A put as most are: from its first byte, over what has the name, by whoever has no token.
pub(super) fn put(path: &str, transfer: TransferId, size: Option<usize>) -> Put {
    Put {
        name: name(path),
        algorithm: Algorithm::Sha256,
        size: size.map(|size| size as u64),
        at: 0,
        transfer,
        condition: Condition::Always,
        durability: Durability::Full,
        modified: None,
        mode: None,
        owner: None,
        unfinished_max: None,
        within: None,
        naming: Naming::AsAsked,
    }
}

/// A put that is whole and synced, and has no name yet.
pub(super) fn whole<D: Disk>(
    store: &Store<D>,
    put: Put,
    bytes: &[u8],
) -> Result<Finished<D>, Refusal> {
    let mut upload = store.begin(put)?;
    if let Err(refusal) = upload.write(bytes) {
        store.discard(upload);
        return Err(refusal);
    }
    finish(store, upload, bytes)
}

/// Ends an upload that has these bytes.
pub(super) fn finish<D: Disk>(
    store: &Store<D>,
    upload: Upload<D>,
    bytes: &[u8],
) -> Result<Finished<D>, Refusal> {
    let mut finished = upload.finish(store, bytes.len() as u64, digest(bytes))?;
    store.sync(&mut finished)?;
    Ok(finished)
}

/// A round of puts.
pub(super) fn commit<D: Disk>(
    store: &Store<D>,
    round: Vec<Finished<D>>,
) -> Vec<Result<Stored, Refusal>> {
    let answers = store.commit(round.into_iter().map(Step::Put).collect());
    let stored = |settled| match settled {
        Settled::Stored(stored) => stored,
        Settled::Changed(_) => panic!("nothing was to be changed"),
    };
    answers.into_iter().map(|answer| answer.map(stored)).collect()
}

pub(super) fn root(sim: &Sim) -> SimHandle {
    sim.open_root(Path::new("/")).unwrap()
}

pub(super) fn directory(sim: &Sim, path: &str) -> SimHandle {
    sim.open_beneath(&root(sim), &name(path), Want::Directory).unwrap()
}

/// Makes a file beside the store.
pub(super) fn write(sim: &Sim, directory: &SimHandle, part: &str, bytes: &[u8]) {
    let file = sim.create(directory, part.as_bytes(), Mode::new(0o644)).unwrap();
    write_all(sim, &file, bytes, 0).unwrap();
}

/// Checks what a run with a fault has left: as after cuts of the power, and as after a kill.
pub(super) fn check_left(
    sim: &Sim,
    fault: Fault,
    seeds: u64,
    check: impl Fn(&Sim) -> Result<(), String>,
) -> Result<(), String> {
    let log = sim.log();
    let failed = |what: &str, error: String| {
        let end: Vec<&String> = log.iter().rev().take(6).collect();
        format!("{fault:?}, {what}: {error}\nlast calls: {end:?}")
    };
    for seed in 0..seeds {
        check(&sim.crash(seed)).map_err(|error| failed(&format!("cut {seed}"), error))?;
    }
    check(sim).map_err(|error| failed("killed", error))
}

/// Something that is done on a disk that fails, and what must hold of what it leaves. `T` is what it
/// was told.
pub(super) struct Trial<T> {
    /// Ends where the disk ends it, with `None`.
    pub(super) scenario: fn(&Sim, &mut T) -> Option<()>,
    /// Holds what is there against what was told. `Err` says what is wrong.
    pub(super) check: fn(&Sim, &T) -> Result<(), String>,
}

impl<T: Default> Trial<T> {
    /// Goes through the scenario with a fault, and checks what is left.
    pub(super) fn run(&self, fault: Fault, seeds: u64) -> Result<(), String> {
        self.run_on(&Sim::new(), fault, seeds)
    }

    /// A run in which nothing fails.
    pub(super) fn clean_run(&self) -> (Sim, T) {
        let sim = Sim::new();
        let mut told = T::default();
        (self.scenario)(&sim, &mut told).unwrap();
        (sim, told)
    }

    /// Calls of the disk in a run in which nothing fails.
    pub(super) fn calls(&self) -> u64 {
        self.clean_run().0.calls()
    }

    /// The power goes at the n-th call, and again at each of these of the start that follows.
    pub(super) fn cut_twice(&self, nth: u64, again: impl Iterator<Item = u64>) {
        let sim = Sim::new();
        sim.set_fault(Fault::FromThenOn(nth, Errno::IO));
        let mut told = T::default();
        (self.scenario)(&sim, &mut told);
        for again in again {
            let cut = sim.crash(nth);
            cut.set_fault(Fault::FromThenOn(again, Errno::IO));
            drop(try_open(&cut));
            (self.check)(&cut.crash(again), &told)
                .unwrap_or_else(|error| panic!("{nth}, {again}: {error}"));
        }
    }

    /// Whether the check finds out that the syncs of what has such a label are left out.
    pub(super) fn is_found_out(&self, ignored: fn(&str) -> bool) -> bool {
        let cuts = (0..self.calls()).rev().map(|nth| Fault::FromThenOn(nth, Errno::IO));
        std::iter::once(Fault::None).chain(cuts).any(|fault| {
            let sim = Sim::new();
            sim.ignore_syncs(ignored);
            self.run_on(&sim, fault, 6).is_err()
        })
    }

    fn run_on(&self, sim: &Sim, fault: Fault, seeds: u64) -> Result<(), String> {
        sim.set_fault(fault);
        let mut told = T::default();
        (self.scenario)(sim, &mut told);
        check_left(sim, fault, seeds, |sim| (self.check)(sim, &told))
    }
}
