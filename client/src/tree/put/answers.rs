//! What the server says, and what follows from it.

use ftx_protocol::client::Event;
use ftx_protocol::limits::RESUMABLE_BYTES;
use ftx_protocol::message::{Done, Held, HeldState, Info};
use ftx_protocol::{Code, Digest, Kind, Name, Refusal, RequestId, Retry as Again};

use super::{Earlier, File, Job, Left, Sent, Taken, Work};
use crate::failure::{Class, Failure, Trouble};
use crate::ids::new_id;
use crate::state::{Direction, Key, State};
use crate::tree::{Mood, TreeNotice, Update};

impl Job<'_, '_> {
    pub(super) fn heard(&mut self, event: Event) -> Result<(), Trouble> {
        match event {
            Event::Done(done) => self.acknowledged(&done),
            Event::Info(info) => self.compared(&info)?,
            Event::Held(held) => self.held(&held)?,
            Event::Ok(okay) => {
                let is_listed = matches!(self.under_way.get(&okay.id), Some(Work::List));
                self.okayed(okay.id);
                if is_listed {
                    self.end_removal();
                }
            }
            Event::Entries(entries) => self.compare_listed(&entries)?,
            Event::Refused { id, refusal } => self.refused(id, refusal)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, done: &Done) {
        self.patience.progress();
        if let Some(Work::Put(file)) = self.under_way.remove(&done.id) {
            self.forget_bytes(file.stat.size);
            self.succeed(&file, done.name.as_ref(), done.size, done.digest);
        }
    }

    /// What was asked for is done. What a list had may not have been heard all the same.
    pub(super) fn okayed(&mut self, id: RequestId) {
        let work = self.under_way.remove(&id);
        // What was listed is listed anew after a break.
        if !matches!(work, Some(Work::List)) {
            self.patience.progress();
        }
        if let Some(Work::Remove(remove)) = work {
            self.removed(&remove.name);
        }
    }

    pub(super) fn forget_bytes(&mut self, bytes: u64) {
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_sub(bytes);
    }

    /// A file is at the server, perhaps under another name than was asked for.
    pub(super) fn succeed(
        &mut self,
        file: &File,
        stored_as: Option<&Name>,
        bytes: u64,
        digest: Digest,
    ) {
        self.note_done(file);
        self.count(&file.name, stored_as, bytes, Some(digest));
    }

    fn note_done(&mut self, file: &File) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.add_done(&file.mark(), self.options.durability)
        {
            self.log = None;
            let message = format!("cannot keep the log for going on later: {error}");
            (self.observer)(TreeNotice::Warning(message));
        }
    }

    pub(super) fn count(
        &mut self,
        name: &Name,
        stored_as: Option<&Name>,
        bytes: u64,
        digest: Option<Digest>,
    ) {
        self.is_there(name);
        self.done.files = self.done.files.saturating_add(1);
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        let name = name.as_bytes();
        (self.observer)(TreeNotice::File { name, stored_as, bytes, digest });
    }

    /// The server has said what it has under the name of a file.
    fn compared(&mut self, info: &Info) -> Result<(), Trouble> {
        let file = match self.under_way.get(&info.id) {
            Some(Work::Ask(file)) if self.options.update == Update::Digest => Some(file),
            Some(Work::Find(taken)) => Some(&taken.file),
            _ => None,
        };
        if file.is_some_and(|file| file.stat.size >= RESUMABLE_BYTES)
            && let Some(pipe) = &mut self.pipe
        {
            // It takes its time to read; the server answers the others meanwhile.
            pipe.flush()?;
        }
        let file = match self.under_way.remove(&info.id) {
            Some(Work::Ask(file)) => file,
            Some(Work::Find(taken)) => return self.found_taken(taken, info),
            _ => return Ok(()),
        };
        self.asked.remove(&file.number);
        let same = info.kind == Kind::File
            && info.size == file.stat.size
            && match self.options.update {
                Update::Digest => match self.digest_here(&file)? {
                    Some(ours) => info.digest == Some(ours),
                    None => return Ok(()),
                },
                Update::SizeAndTime | Update::All => {
                    let is_same = match file.earlier {
                        Earlier::Nothing => crate::tree::same_time,
                        Earlier::Done => crate::tree::about_same_time,
                    };
                    is_same(info.mtime, file.stat.modified)
                }
            };
        if same {
            self.unchanged(&file);
        } else {
            self.again.push_back(Work::Put(file));
        }
        Ok(())
    }

    /// `None` where the file cannot be read, which is told.
    fn digest_here(&mut self, file: &File) -> Result<Option<Digest>, Trouble> {
        let (algorithm, interrupt) = (self.options.algorithm, &self.client.interrupt);
        match file.digest(algorithm, &mut self.buffer, interrupt) {
            Ok(digest) => Ok(Some(digest)),
            Err(Trouble::Final(failure)) => {
                self.fail(file.name.as_bytes(), &failure);
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// The server has said what has the name that a file was to have.
    fn found_taken(&mut self, taken: Taken, info: &Info) -> Result<(), Trouble> {
        let Taken { file, failure } = taken;
        if info.kind != Kind::File || info.size != file.stat.size {
            self.refuse_for(&file.name, &failure);
            return Ok(());
        }
        let ours = match file.sent {
            Sent::All(digest) => digest,
            Sent::Nothing | Sent::Some => match self.digest_here(&file)? {
                Some(digest) => digest,
                None => return Ok(()),
            },
        };
        if info.digest == Some(ours) {
            self.note_done(&file);
            self.unchanged(&File { earlier: Earlier::Done, ..file });
        } else {
            self.refuse_for(&file.name, &failure);
        }
        Ok(())
    }

    /// A file is at the server already.
    fn unchanged(&mut self, file: &File) {
        self.patience.progress();
        self.is_there(&file.name);
        if file.stat.size >= RESUMABLE_BYTES && self.options.mood == Mood::Do {
            State::forget(&Key {
                direction: Direction::Put,
                server: &self.client.server,
                name: &file.name,
                path: &file.shown_path(),
                algorithm: self.options.algorithm,
            });
        }
        let count = match file.earlier {
            Earlier::Nothing => &mut self.done.unchanged,
            Earlier::Done => &mut self.done.done_before,
        };
        *count = count.saturating_add(1);
        (self.observer)(TreeNotice::Unchanged { name: file.name.as_bytes() });
    }

    /// A file is at the server, and so are the directories that it is in, whoever may make some.
    fn is_there(&mut self, name: &Name) {
        let mut above = name.parent();
        while let Some(directory) = above.filter(|_| !self.denied.is_empty()) {
            self.denied.remove(&directory);
            above = directory.parent();
        }
    }

    /// The server has said what it has of a file that was under way when the connection broke.
    fn held(&mut self, held: &Held) -> Result<(), Trouble> {
        let Some(Work::Resume(mut file)) = self.under_way.remove(&held.id) else { return Ok(()) };
        self.asked.remove(&file.number);
        let size = file.stat.size;
        if let (HeldState::Complete, Sent::All(digest), Some(theirs)) =
            (held.state, file.sent, held.digest)
            && theirs == digest
        {
            let put = self.put_of(&file, size);
            self.request(Work::Put(file), |machine, out, now| machine.put(put, out, now))?;
            if let Some((&id, _)) = self.under_way.last_key_value() {
                self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(size);
                self.pipe()?.make(|machine, out, _| machine.end(id, size, digest, out));
            }
            return Ok(());
        }
        if held.state != HeldState::Nothing {
            file.transfer = new_id()?;
        }
        file.sent = Sent::Nothing;
        self.again.push_front(Work::Put(file));
        Ok(())
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal) -> Result<(), Trouble> {
        let Some(work) = self.under_way.remove(&id) else { return Ok(()) };
        // What concerns all that is still to come ends the connection, or the job.
        if Class::Refused(refusal.code).is_about_the_way() {
            self.under_way.insert(id, work);
            return Err(Trouble::Refused(refusal));
        }
        match work {
            Work::Ask(file) => {
                self.asked.remove(&file.number);
                match refusal.code {
                    Code::NotFound | Code::NotAFile | Code::NotADirectory => {
                        self.again.push_back(Work::Put(file));
                    }
                    // It is there, and the server may not read it; to replace it needs no such right.
                    Code::PermissionDenied if file.earlier == Earlier::Done => {
                        self.again.push_back(Work::Put(file));
                    }
                    // Who may not ask, of a drop box for one, has nothing but the log to go by.
                    Code::Denied if file.earlier == Earlier::Done => self.unchanged(&file),
                    _ => self.refuse(&file.name, refusal),
                }
            }
            Work::Put(file) => self.refused_put(file, refusal)?,
            Work::Find(Taken { file, failure }) => self.refuse_for(&file.name, &failure),
            Work::Resume(file) => {
                self.asked.remove(&file.number);
                self.refuse(&file.name, refusal);
            }
            // What could not be made gets no time either, and that is told already.
            Work::Mkdir(mkdir) if mkdir.mtime.is_some() && self.unmade.remove(&mkdir.name) => {}
            Work::Mkdir(mkdir) => {
                if mkdir.mtime.is_none() {
                    self.unmade.insert(mkdir.name.clone());
                }
                match refusal.code {
                    // Whether that is a failure shows when all files have come.
                    Code::Denied => drop(self.denied.insert(mkdir.name, refusal)),
                    _ => self.refuse(&mkdir.name, refusal),
                }
            }
            Work::Remove(remove) => self.not_removed(&remove, refusal),
            // It would be made, and have nothing to remove.
            Work::List if self.options.mood == Mood::Tell && refusal.code == Code::NotFound => {
                self.end_removal();
            }
            Work::List => return Err(Trouble::Refused(refusal)),
            Work::Aborted => {}
        }
        Ok(())
    }

    fn refused_put(&mut self, mut file: File, refusal: Refusal) -> Result<(), Trouble> {
        self.forget_bytes(file.stat.size);
        if refusal.code.retry() == Again::Fresh && file.tries_left > 0 {
            self.leave_again(file.name.parent().as_ref());
            file.tries_left = 0;
            file.transfer = new_id()?;
            file.sent = Sent::Nothing;
            self.again.push_front(Work::Put(file));
        } else if refusal.code == Code::Exists {
            let failure = self.failure_of(&file.name, refusal);
            self.refused_as_taken(file, failure);
        } else {
            self.refuse(&file.name, refusal);
        }
        Ok(())
    }

    /// The time of a directory that was asked for behind a file is given before that is put again, and then it is the
    /// wrong one: it is asked for once more. What could not be made gets none.
    fn leave_again(&mut self, directory: Option<&Name>) {
        if directory.is_some_and(|name| self.unmade.contains(name)) {
            return;
        }
        let times = self.under_way.values().filter_map(|work| match work {
            Work::Mkdir(mkdir) if mkdir.mtime.is_some() => Some(mkdir),
            _ => None,
        });
        let ours = times.filter(|mkdir| Some(&mkdir.name) == directory);
        let barrier = self.next_number;
        self.left.extend(ours.map(|mkdir| Left { barrier, mkdir: mkdir.clone() }));
    }

    /// Where an earlier run may have put it and not have come to note it, it is found out what has the name.
    pub(super) fn refused_as_taken(&mut self, file: File, failure: Failure) {
        let durability = self.options.durability;
        if self.log.as_ref().is_some_and(|log| log.may_have_done(durability)) {
            self.again.push_back(Work::Find(Taken { file, failure }));
        } else {
            self.refuse_for(&file.name, &failure);
        }
    }

    pub(super) fn refuse(&mut self, name: &Name, refusal: Refusal) {
        let failure = self.failure_of(name, refusal);
        self.refuse_for(name, &failure);
    }

    /// What became of a file is settled, though it is no success: a server that ends each connection after so much of
    /// what it refuses gets to the end of it.
    fn refuse_for(&mut self, name: &Name, failure: &Failure) {
        self.patience.progress();
        self.fail(name.as_bytes(), failure);
    }

    fn failure_of(&self, name: &Name, refusal: Refusal) -> Failure {
        Trouble::Refused(refusal).into_failure(&format!("put {name}"), &self.client.server)
    }
}
