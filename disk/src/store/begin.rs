//! Beginning a put: everything that can be refused is refused before the first byte.

use std::io;
use std::sync::Arc;

use ftx_protocol::limits::RESUMABLE_BYTES;
use ftx_protocol::{Code, Condition, Durability, Mode, Name, Refusal};
use rustix::io::Errno;

use super::naming::check_absent;
use super::private::{Nameless, Private};
use super::record::{Begun, Complete, Survival};
use super::room::ASKING;
use super::scope::check_reach;
use super::transfers::{Kept, Partial, Use};
use super::upload::{Body, Entry, Limit, Resume, Staged, StagedFile};
use super::{Naming, Put, Shared, Spent, Store, Upload, lock, room};
use crate::failure::{Cause, refusal};
use crate::hash::Running;
use crate::identity::Inode;
use crate::syncs::Syncs;
use crate::sys::{Disk, Want};

/// Bodies below this are not reserved in advance: on ext4 that makes many small files seven times
/// slower, because it defeats delayed allocation.
pub(crate) const RESERVE_BYTES: u64 = 1024 * 1024;

/// Permissions of a staged file that an interrupted put comes back to: its owner has to open it again.
const RESUMABLE_MODE: Mode = Mode::new(0o600);

/// A put of at most this size comes with its bytes right behind its header. To look first whether it
/// could take its name would cost as much as a part of storing it, and save nothing: the commit refuses
/// what cannot have it.
const COMES_WHOLE_BYTES: u64 = 64 * 1024;

impl<D: Disk> Store<D> {
    /// Begins a put, or goes on with one.
    ///
    /// # Errors
    /// What can be known before the bytes come, where that spares them; nothing is left of a put that
    /// is refused here, and one that was held is held as before.
    pub fn begin(&self, put: Put) -> Result<Upload<D>, Refusal> {
        self.begin_at(put, |put| self.check_target(put))
    }

    /// As [`Store::begin`], for a put behind changes of its name that are to come: what has the name is looked at when
    /// they are made, which is when the put takes it.
    ///
    /// # Errors
    /// What does not depend on what has the name.
    pub fn begin_behind_others(&self, put: Put) -> Result<Upload<D>, Refusal> {
        self.begin_at(put, |_| Ok(()))
    }

    fn begin_at(
        &self,
        put: Put,
        check_target: impl FnOnce(&Put) -> Result<(), Refusal>,
    ) -> Result<Upload<D>, Refusal> {
        let private = self.writable()?;
        let put = self.take_on(put)?;
        if let Some(complete) = self.transfers.complete(&put.transfer) {
            return self.begin_complete(put, complete);
        }
        let comes_whole = put.size.is_some_and(|size| size <= COMES_WHOLE_BYTES);
        if !comes_whole || (put.condition != Condition::Always && put.naming == Naming::AsAsked) {
            check_target(&put)?;
        }
        match self.transfers.partial(&put.transfer) {
            Some(partial) => self.begin_again(private, put, &partial),
            None if put.at > 0 => {
                Err(Refusal::new(Code::BadOffset, "nothing is held of this transfer"))
            }
            None => self.begin_new(private, put),
        }
    }

    /// A put as the store takes it: with the durability that it gives, and the condition under which the name is
    /// taken.
    fn take_on(&self, put: Put) -> Result<Put, Refusal> {
        let durability = self.given(put.durability)?;
        check_reach(put.within.as_ref(), &put.name)?;
        if put.within.as_ref() == Some(&put.name) {
            return Err(Code::IsDirectory.into());
        }
        if put.size.is_some_and(|size| size > self.options.size_max_bytes) {
            let most = self.options.size_max_bytes;
            let message = format!("this server takes files up to {most} bytes");
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let condition = match put.naming {
            Naming::AsAsked => put.condition,
            Naming::Numbered => Condition::Absent,
        };
        Ok(Put { condition, durability, ..put })
    }

    fn begin_complete(&self, put: Put, complete: Arc<Complete>) -> Result<Upload<D>, Refusal> {
        let committed = &complete.committed;
        let same = committed.owner == put.owner
            && *committed.asked() == put.name
            && committed.digest.algorithm == put.algorithm
            && put.size.is_none_or(|size| size == committed.size)
            && put.durability <= committed.durability;
        if !same {
            return Err(Code::TransferMismatch.into());
        }
        if put.at != committed.size {
            let message = format!("this transfer is complete, with {} bytes", committed.size);
            return Err(Refusal::new(Code::BadOffset, message));
        }
        Ok(Upload {
            disk: self.disk.clone(),
            put,
            body: Body::Complete(complete),
            spent: Spent::default(),
        })
    }

    fn begin_new(&self, private: &Private<D>, put: Put) -> Result<Upload<D>, Refusal> {
        let resumable = put.size.is_none_or(|size| size >= RESUMABLE_BYTES);
        self.room.check(put.size, || self.medium_free(), self.options.free_min_bytes)?;
        let announced = match resumable {
            true => Some(self.transfers.announce(put.owner, put.unfinished_max)?),
            false => None,
        };
        let wanted = put.mode.unwrap_or(private.default_mode);
        let mode = if resumable { RESUMABLE_MODE } else { wanted };
        let part = self.new_staged_part();
        let failed = |error: &io::Error| refusal(Cause::Bytes, "making a file", error);
        // What nobody comes back to after a crash needs no entry in staging.
        let entry = match (put.durability, private.nameless) {
            (Durability::None, Nameless::Possible) if !resumable => Entry::Nowhere,
            _ => Entry::InStaging,
        };
        let file = match entry {
            Entry::InStaging => self.disk.create(&private.staging, part.as_bytes(), mode),
            Entry::Nowhere => self.disk.create_nameless(&private.staging, mode),
        };
        let file = file.map_err(|error| failed(&error))?;
        let (inode, mode) = match self.disk.stat(&file) {
            Ok(stat) => (Inode::of(&stat), stat.mode),
            Err(error) => {
                // See remove_staged.
                let _ = self.disk.remove(&private.staging, part.as_bytes());
                return Err(failed(&error));
            }
        };
        self.reserved.reserve(inode);
        let worth_it = put.size.is_none_or(|size| size >= RESERVE_BYTES);
        let room = if worth_it { self.make_room(&file, put.size) } else { Ok(None) };
        let free_min_bytes = room.inspect_err(|_| self.remove_staged(&part, inode))?;
        let syncs = Arc::<Syncs>::default();
        let file = Arc::new(StagedFile::new(file, mode, entry, Arc::clone(&syncs)));
        let resume = if let Some(announced) = announced {
            let begun = Begun {
                transfer: put.transfer,
                staged: part.clone(),
                inode,
                name: put.name.clone(),
                algorithm: put.algorithm,
                size: put.size,
                survival: Survival::of(put.durability, self.boot_id.as_ref()),
                owner: put.owner,
            };
            let partial = Partial { begun, kept: Kept::Nothing, epoch: 0, use_: Use::Busy, syncs };
            let partial = announced.insert(put.transfer, partial);
            Resume::Yes { partial, epoch: 0, keeping: Shared::default() }
        } else {
            Resume::No
        };
        let running = Running::new(put.algorithm);
        let limit = self.limit(&put);
        let staged = Staged { file, part, inode, running, limit, free_min_bytes, resume };
        let body = Body::Staged(Box::new(staged));
        Ok(Upload { disk: self.disk.clone(), put, body, spent: Spent::default() })
    }

    fn begin_again(
        &self,
        private: &Private<D>,
        put: Put,
        shared: &Shared<Partial>,
    ) -> Result<Upload<D>, Refusal> {
        let mut partial = lock(shared);
        let survival = Survival::of(put.durability, self.boot_id.as_ref());
        let running = running_of(&partial, &put, &survival)?;
        let (part, inode) = (partial.begun.staged.clone(), partial.begun.inode);
        let (file, mode) = match self.reopen_staged(private, &part, inode, put.at) {
            Ok(reopened) => reopened,
            Err(error) => {
                drop(partial);
                // Anything else (no descriptor left, say) passes, and what was promised stays.
                if is_gone(&error) {
                    self.transfers.remove(&put.transfer);
                    self.drop_partial(shared);
                }
                return Err(refusal(Cause::Store, "opening what was held", &error));
            }
        };
        let more = put.size.map(|size| size.saturating_sub(put.at));
        self.room.check(more, || self.medium_free(), self.options.free_min_bytes)?;
        let free_min_bytes = self.make_room(&file, put.size).inspect_err(|_| {
            // A file system may have taken all the room there was before it gave up. If it does not give it back,
            // whoever goes on does that.
            let _ = self.disk.truncate(&file, put.at);
        })?;
        let syncs = Arc::clone(&partial.syncs);
        let file = Arc::new(StagedFile::new(file, mode, Entry::InStaging, syncs));
        partial.epoch = partial.epoch.saturating_add(1);
        partial.use_ = Use::Busy;
        let resume = Resume::Yes {
            partial: Arc::clone(shared),
            epoch: partial.epoch,
            keeping: Shared::default(),
        };
        let limit = self.limit(&put);
        let staged = Staged { file, part, inode, running, limit, free_min_bytes, resume };
        let body = Body::Staged(Box::new(staged));
        Ok(Upload { disk: self.disk.clone(), put, body, spent: Spent::default() })
    }

    /// Opens a staged file to go on at an offset, and says its permissions. `STALE` when it is not
    /// what it was.
    pub(super) fn reopen_staged(
        &self,
        private: &Private<D>,
        part: &str,
        inode: Inode,
        at: u64,
    ) -> io::Result<(D::Handle, Mode)> {
        let open = || self.disk.open_part(&private.staging, part.as_bytes(), Want::File);
        let file = match open() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => {
                self.give_back_mode(private, part)?;
                open()?
            }
            result => result?,
        };
        let stat = self.disk.stat(&file)?;
        if stat.inode != inode.number || stat.size < at {
            return Err(Errno::STALE.into());
        }
        // Nothing past the promise counts, whatever the file's size says.
        self.disk.truncate(&file, at)?;
        Ok((file, stat.mode))
    }

    /// A crash came when a staged file had the mode of what it was to be, and its owner may not write to it. `STALE`
    /// when its owner may not read it either.
    fn give_back_mode(&self, private: &Private<D>, part: &str) -> io::Result<()> {
        let name = Name::parse(part.as_bytes()).map_err(|_| Errno::STALE)?;
        let mode = self.disk.stat_part(&private.staging, part.as_bytes())?.mode;
        if mode.bits() & 0o400 == 0 {
            return Err(Errno::STALE.into());
        }
        let file = self.disk.open_beneath(&private.staging, &name, Want::File)?;
        self.disk.set_mode(&file, RESUMABLE_MODE)
    }

    fn limit(&self, put: &Put) -> Limit {
        put.size.map_or(Limit::Most(self.options.size_max_bytes), Limit::Size)
    }

    /// Makes room for a body, where it says its size and the file system can. Returns what has to stay free while it
    /// grows.
    fn make_room(&self, file: &D::Handle, size: Option<u64>) -> Result<Option<u64>, Refusal> {
        let least = self.options.free_min_bytes;
        let Some(size) = size else { return Ok(Some(least)) };
        match self.disk.reserve(file, size) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(Some(least)),
            Err(error) => Err(refusal(Cause::Bytes, "making room for the file", &error)),
            // Others that looked at the same time found the same room.
            Ok(()) => room::check_left(self.medium_free()?, least).map(|()| None),
        }
    }

    fn medium_free(&self) -> Result<u64, Refusal> {
        let medium = self.disk.medium(&self.root);
        Ok(medium.map_err(|error| refusal(Cause::Store, ASKING, &error))?.free)
    }

    /// Refuses a put that could not take its name as things are now.
    fn check_target(&self, put: &Put) -> Result<(), Refusal> {
        let check_taking = |directory: &D::Handle| match put.naming {
            Naming::AsAsked => self.check_taking(directory, put.name.last_part(), &put.condition),
            // Whatever has it.
            Naming::Numbered => Ok(()),
        };
        let mut above = put.name.parent();
        if above.is_none() {
            return check_taking(&self.root);
        }
        let parent = above.clone();
        while let Some(directory) = above {
            match self.look(put.within.as_ref(), &directory, Want::Directory) {
                Ok(handle) => {
                    self.check_directory(&handle)?;
                    return match parent.as_ref() == Some(&directory) {
                        true => check_taking(&handle),
                        false => check_absent(&put.condition),
                    };
                }
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                    above = directory.parent();
                }
                Err(error) => {
                    let refusal = refusal(Cause::Name, "looking up the directory", &error);
                    return Err(self.not_opened(&directory, put.within.as_ref(), refusal));
                }
            }
        }
        check_absent(&put.condition)
    }
}

/// Whether a staged file that could not be opened again is not what it was, or not there.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::STALE))
}

/// The running digest to go on with, if the put is the one that was begun.
fn running_of(partial: &Partial, put: &Put, survival: &Survival) -> Result<Running, Refusal> {
    let begun = &partial.begun;
    let same = begun.owner == put.owner
        && begun.name == put.name
        && begun.algorithm == put.algorithm
        && begun.size == put.size
        && begun.survival == *survival;
    if !same {
        return Err(Code::TransferMismatch.into());
    }
    let running = match &partial.kept {
        Kept::UpTo(saved) => Running::restore(saved)
            .map_err(|error| Refusal::new(Code::StorageFailed, error.to_string()))?,
        Kept::Nothing => Running::new(put.algorithm),
        Kept::Lost => return Err(Code::StorageFailed.into()),
    };
    if running.offset() != put.at {
        let message = format!("{} bytes are durable", running.offset());
        return Err(Refusal::new(Code::BadOffset, message));
    }
    Ok(running)
}

/// A transfer whose time is over just when somebody comes back to it: either is first, and not half of each.
#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use ftx_protocol::Owner;
    use ftx_protocol::limits::GRID_BYTES;

    use super::super::tests::{Counts, commit, finish, id, open};
    use super::super::{Options, tests};
    use super::*;
    use crate::sim::{Fault, Sim};

    const OWNER: Owner = Owner([1; 8]);
    const TTL: Duration = Duration::from_secs(50);
    const BODY: &[u8] = &[7; GRID_BYTES as usize + 100];

    /// The one transfer of these tests, from here on.
    fn put(at: u64) -> Put {
        Put { at, owner: Some(OWNER), ..tests::put("big", id(1), Some(BODY.len())) }
    }

    /// A store in which it was begun, and broke off after what is on the grid.
    fn broken_off(sim: &Sim) -> Store<Sim> {
        let store = open(sim);
        let mut upload = store.begin(put(0)).unwrap();
        let checkpoint = upload.write(&BODY[..GRID_BYTES as usize]).unwrap().unwrap();
        let _ = store.make_durable(checkpoint).unwrap();
        assert_eq!(store.suspend(upload), GRID_BYTES);
        store
    }

    /// The crash came in the last sync, when it had the mode that the file was to have.
    #[test]
    fn what_has_the_mode_of_its_target_is_gone_on_with_or_else_is_begun_anew() {
        for (mode, is_gone_on_with) in [(0o444, true), (0o555, true), (0o200, false), (0, false)] {
            let sim = Sim::new();
            drop(broken_off(&sim));
            let staged = tests::name(".ftx/staging/00000001-00000000");
            let staged = sim.open_beneath(&tests::root(&sim), &staged, Want::File).unwrap();
            sim.set_mode(&staged, Mode::new(mode)).unwrap();
            drop(staged);
            let store = open(&sim);
            let asked = Put { mode: Some(Mode::new(mode)), ..put(GRID_BYTES) };
            let upload = match store.begin(asked.clone()) {
                Ok(upload) => upload,
                Err(refusal) => {
                    assert!(!is_gone_on_with, "{mode:o}: {refusal}");
                    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
                    let mut upload = store.begin(Put { at: 0, ..asked }).unwrap();
                    upload.write(&BODY[..GRID_BYTES as usize]).unwrap();
                    upload
                }
            };
            end(&sim, &store, upload);
            let named = sim.stat_part(&tests::root(&sim), b"big").unwrap();
            assert_eq!(named.mode, Mode::new(mode));
        }
    }

    fn expire(store: &Store<Sim>, seconds: u64) -> usize {
        store.expire(TTL, Duration::from_secs(seconds))
    }

    fn end(sim: &Sim, store: &Store<Sim>, mut upload: Upload<Sim>) {
        upload.write(&BODY[GRID_BYTES as usize..]).unwrap();
        let finished = finish(store, upload, BODY).unwrap();
        commit(store, vec![finished]).remove(0).unwrap();
        assert!(sim.content("big").unwrap() == BODY);
    }

    #[test]
    fn who_is_told_what_is_held_has_all_the_time_again() {
        let sim = Sim::new();
        let store = broken_off(&sim);
        assert_eq!([expire(&store, 0), expire(&store, 49)], [0, 0]);
        assert_eq!(store.held(&id(1), Some(&OWNER)).at, GRID_BYTES);
        // Its time would be over now. From the first look on that finds it left alone it has as much again.
        assert_eq!([expire(&store, 51), expire(&store, 100)], [0, 0]);
        assert_eq!(store.counts().unwrap(), Counts { partial: 1, staged: 1 });
        assert_eq!(expire(&store, 101), 1);
        assert_eq!(store.held(&id(1), Some(&OWNER)).at, 0);
        assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
    }

    #[test]
    fn who_is_first_to_go_on_loses_nothing_however_long_it_takes() {
        let sim = Sim::new();
        let store = broken_off(&sim);
        assert_eq!(expire(&store, 0), 0);
        let upload = store.begin(put(GRID_BYTES)).unwrap();
        assert_eq!([expire(&store, 51), expire(&store, 1_000)], [0, 0]);
        assert_eq!(store.forget_owner(OWNER), 0);
        end(&sim, &store, upload);
    }

    /// The same between the two: its lock is held while its file is opened again.
    #[test]
    fn who_is_about_to_go_on_loses_nothing() {
        let sim = Sim::new();
        let store = broken_off(&sim);
        assert_eq!(expire(&store, 0), 0);
        let shared = store.transfers.partial(&id(1)).unwrap();
        let begins = lock(&shared);
        assert!(store.transfers.take_expired(TTL, TTL).is_empty());
        assert!(store.transfers.take_owned(OWNER).is_empty());
        drop(begins);
        end(&sim, &store, store.begin(put(GRID_BYTES)).unwrap());
    }

    /// Whoever found it in the table just before it was taken out does not go on with a file that is about to go.
    #[test]
    fn who_comes_too_late_goes_on_with_nothing() {
        type Take = fn(&Store<Sim>) -> Vec<Shared<Partial>>;
        let takes: [Take; 2] = [
            |store| store.transfers.take_expired(TTL, TTL),
            |store| store.transfers.take_owned(OWNER),
        ];
        for take in takes {
            let sim = Sim::new();
            let store = broken_off(&sim);
            assert_eq!(expire(&store, 0), 0);
            let found = store.transfers.partial(&id(1)).unwrap();
            let [taken] = take(&store).try_into().ok().unwrap();
            let again = store.take_on(put(GRID_BYTES)).unwrap();
            let begun = store.begin_again(store.writable().unwrap(), again, &found);
            assert_eq!(begun.err().map(|refusal| refusal.code), Some(Code::StorageFailed));
            // From its first byte it may be begun as if nothing had been, also while what there was goes.
            let mut upload = store.begin(put(0)).unwrap();
            store.drop_partial(&taken);
            assert_eq!(store.counts().unwrap(), Counts { partial: 1, staged: 1 });
            let checkpoint = upload.write(&BODY[..GRID_BYTES as usize]).unwrap().unwrap();
            let _ = store.make_durable(checkpoint).unwrap();
            assert_eq!(store.held(&id(1), Some(&OWNER)).at, GRID_BYTES);
            end(&sim, &store, store.begin(put(GRID_BYTES)).unwrap());
            drop(upload);
            drop(store);
            assert_eq!(open(&sim).counts().unwrap(), Counts { partial: 0, staged: 0 });
        }
    }

    /// What looks at the same time finds the same room; and what does not say its size is asked again.
    #[test]
    fn nothing_takes_the_room_that_is_to_stay_free() {
        const LEAST: u64 = 1 << 30;
        let sim = Sim::new();
        let options = Options { free_min_bytes: LEAST, ..tests::options() };
        let (store, _) = Store::open(sim.clone(), Path::new("/"), options).unwrap();
        sim.set_free(LEAST + BODY.len() as u64 + 10);
        // Another put reserves between the look and the reservation of this one.
        sim.before("reserve ", |sim| sim.set_free(LEAST + 10));
        let refused = store.begin(put(0)).err().unwrap();
        assert_eq!(refused.code, Code::NoSpace);
        assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
        sim.set_free(2 * LEAST);
        let unknown = Put { size: None, ..put(0) };
        let mut upload = store.begin(unknown).unwrap();
        let (point, rest) = BODY.split_at(GRID_BYTES as usize);
        sim.set_free(LEAST - 1);
        assert_eq!(upload.write(point).err().unwrap().code, Code::NoSpace);
        store.discard(upload);
        // Whoever has its room is not asked; where a file system reserves none, all are.
        sim.set_free(2 * LEAST);
        sim.set_fault(Fault::None);
        let mut upload = store.begin(put(0)).unwrap();
        let reserve = sim.log().iter().position(|call| call.contains(" reserve ")).unwrap();
        sim.set_free(0);
        upload.write(point).unwrap();
        upload.write(rest).unwrap();
        store.discard(upload);
        sim.set_free(2 * LEAST);
        sim.set_fault(Fault::Once(reserve as u64, Errno::OPNOTSUPP));
        let mut upload = store.begin(put(0)).unwrap();
        sim.set_free(LEAST - 1);
        assert_eq!(upload.write(point).err().unwrap().code, Code::NoSpace);
    }
}
