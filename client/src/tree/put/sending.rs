//! Requests on their way: questions, bodies of files, directories.

use std::time::{Duration, Instant};

use ftx_disk::hash::Running;
use ftx_protocol::limits::RESUMABLE_BYTES;
use ftx_protocol::message::{self, Cache, Change, Put, Resume};
use ftx_protocol::{Algorithm, Code, Digest, Name, RequestId};

use super::{File, Job, Sent, Work};
use crate::Notice;
use crate::failure::{Class, Failure, Trouble, is_about_the_login};
use crate::put::PutOptions;
use crate::source::Source;
use crate::spent::{Spent, timed};
use crate::tree::{Mood, TreeNotice, Update};

impl Job<'_, '_> {
    pub(super) fn start(&mut self, work: Work) -> Result<(), Trouble> {
        match work {
            Work::Ask(file) => {
                let digest = self.options.update == Update::Digest;
                let digest = digest.then_some(self.options.algorithm);
                self.ask(file.name.clone(), digest, Work::Ask(file))
            }
            Work::Find(taken) => {
                let digest = Some(self.options.algorithm);
                self.ask(taken.file.name.clone(), digest, Work::Find(taken))
            }
            Work::Resume(file) => {
                let resume = Resume { id: RequestId(0), transfer: file.transfer, need: Vec::new() };
                self.request(Work::Resume(file), |machine, out, now| {
                    machine.resume(resume, out, now)
                })
            }
            Work::Put(file) if self.options.mood == Mood::Tell => {
                self.count(&file.name, None, file.stat.size, None);
                Ok(())
            }
            Work::Put(file) if file.stat.size >= RESUMABLE_BYTES => self.put_large(file),
            Work::Put(file) => self.put_small(file),
            Work::Mkdir(mkdir) => {
                let change = Change::Mkdir(mkdir.clone());
                self.request(Work::Mkdir(mkdir), |machine, out, now| {
                    machine.change(change, out, now)
                })
            }
            Work::Remove(remove) if self.options.mood == Mood::Tell => {
                self.removed(&remove.name);
                Ok(())
            }
            Work::Remove(remove) => {
                let change = Change::Remove(remove.clone());
                self.request(Work::Remove(remove), |machine, out, now| {
                    machine.change(change, out, now)
                })
            }
            Work::List | Work::Aborted => Ok(()),
        }
    }

    /// Makes a request and notes it as under way.
    pub(super) fn request(
        &mut self,
        work: Work,
        make: impl FnOnce(
            &mut ftx_protocol::client::Client,
            &mut Vec<u8>,
            ftx_protocol::Time,
        ) -> RequestId,
    ) -> Result<(), Trouble> {
        let id = match self.pipe() {
            Ok(pipe) => pipe.make(make),
            Err(trouble) => {
                self.again.push_front(work);
                return Err(trouble);
            }
        };
        self.under_way.insert(id, work);
        self.pipe()?.flush_full()
    }

    fn ask(&mut self, name: Name, digest: Option<Algorithm>, work: Work) -> Result<(), Trouble> {
        let stat = message::Stat { digest, cache: Cache::Use, ..message::Stat::of(name) };
        self.request(work, |machine, out, now| machine.stat(stat, out, now))
    }

    fn put_small(&mut self, mut file: File) -> Result<(), Trouble> {
        let source = match file.open(self.near(&file)) {
            Ok(source) => source,
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                return Ok(());
            }
        };
        let size = file.stat.size;
        let put = self.put_of(&file, 0);
        let name = file.name.clone();
        file.sent = Sent::Some;
        self.request(Work::Put(file), |machine, out, now| machine.put(put, out, now))?;
        let Some((&id, _)) = self.under_way.last_key_value() else { return Ok(()) };
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(size);
        match self.send_body(id, source, size, &name)? {
            Ok(digest) => {
                self.pipe()?.make(|machine, out, _| machine.end(id, size, digest, out));
                if let Some(Work::Put(file)) = self.under_way.get_mut(&id) {
                    file.sent = Sent::All(digest);
                }
            }
            Err(failure) => {
                let code = failure.code_of_abort();
                self.pipe()?.make(|machine, out, _| machine.abort(id, code, out));
                self.forget_bytes(size);
                self.under_way.insert(id, Work::Aborted);
                self.fail(name.as_bytes(), &failure);
            }
        }
        self.pipe()?.flush_full()
    }

    /// Reads, hashes and sends. The inner error is of this side.
    fn send_body(
        &mut self,
        id: RequestId,
        mut source: Source,
        size: u64,
        name: &Name,
    ) -> Result<Result<Digest, Failure>, Trouble> {
        let mut running = Running::new(self.options.algorithm);
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            let left = size.saturating_sub(running.offset());
            if left == 0 {
                break source.check_unchanged().map(|()| running.digest());
            }
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let (at, spent) = (running.offset(), &mut self.done.spent);
            let part = buffer.get_mut(..room).unwrap_or_default();
            let bytes = match timed(&mut spent.disk, || source.read_full(part, at)) {
                Ok(bytes) => bytes,
                Err(failure) => break Err(failure),
            };
            timed(&mut spent.hash, || running.update(bytes));
            let count = bytes.len() as u64;
            let began = Instant::now();
            let sent = self.pipe().and_then(|pipe| {
                pipe.part(id, bytes);
                pipe.flush_full()
            });
            self.waited_since(began);
            if let Err(trouble) = sent {
                self.buffer = buffer;
                return Err(trouble);
            }
            (self.observer)(TreeNotice::Moved { bytes: count, name: name.as_bytes() });
        };
        self.buffer = buffer;
        Ok(result)
    }

    /// The request that brings a file, from this offset on.
    pub(super) fn put_of(&self, file: &File, at: u64) -> Put {
        Put {
            id: RequestId(0),
            name: file.name.clone(),
            digest: self.options.algorithm,
            size: Some(file.stat.size),
            at,
            transfer: file.transfer,
            mtime: Some(file.stat.modified),
            mode: Some(file.stat.mode),
            condition: self.options.condition.clone(),
            durability: self.options.durability,
            need: Vec::new(),
        }
    }

    /// A file that is worth a connection of its own, on which it resumes by itself.
    fn put_large(&mut self, file: File) -> Result<(), Trouble> {
        let source = match file.open(None) {
            Ok(source) => source,
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                return Ok(());
            }
        };
        // The others are on their way meanwhile.
        if let Some(pipe) = &mut self.pipe
            && let Err(trouble) = pipe.flush()
        {
            self.again.push_front(Work::Put(file));
            return Err(trouble);
        }
        let options = PutOptions {
            algorithm: self.options.algorithm,
            condition: self.options.condition.clone(),
            durability: self.options.durability,
        };
        let observer = &mut self.observer;
        observer(TreeNotice::Waiting);
        let name = file.name.as_bytes();
        let mut moved_to = 0;
        let result =
            self.client.put_noted(source, &file.name, &options, &mut |notice| match notice {
                Notice::Began { at, .. } => moved_to = at,
                Notice::Moved { at } => {
                    let bytes = at.saturating_sub(moved_to);
                    moved_to = moved_to.max(at);
                    observer(TreeNotice::Moved { bytes, name });
                }
                Notice::Retrying { cause, pause } => {
                    observer(TreeNotice::Retrying { cause, pause })
                }
                Notice::Warning(text) => observer(TreeNotice::Warning(text)),
            });
        match result {
            Ok((done, state)) => {
                self.patience.progress();
                self.done.spent.add_part(Spent { paced: Duration::ZERO, ..done.spent });
                let heard = self.hear_of_directories();
                self.succeed(&file, done.stored_as.as_ref(), done.size, done.digest);
                if let Some(state) = state {
                    state.remove();
                }
                heard
            }
            Err(failure) if failure.class == Class::Refused(Code::Exists) => {
                self.refused_as_taken(file, failure);
                Ok(())
            }
            Err(failure) if ends_the_job(failure.class) => Err(Trouble::Final(failure)),
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                Ok(())
            }
        }
    }

    /// Hears whether the directories were made that were asked for before a large file went its own way: what is in one
    /// tells more of it than that it may not be made.
    fn hear_of_directories(&mut self) -> Result<(), Trouble> {
        while self.under_way.values().any(|work| matches!(work, Work::Mkdir(_))) {
            self.wait()?;
        }
        Ok(())
    }
}

/// What would be the same with the next file. A server that had no time, or no room, for one may
/// have some for another.
fn ends_the_job(class: Class) -> bool {
    match class {
        Class::Refused(code) => is_about_the_login(code),
        class => class.is_about_the_way(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::retry::Retry;
    use crate::tree::put::PutTree;
    use crate::tree::{TreeOptions, Update};

    #[test]
    fn a_large_file_whose_turn_comes_on_a_connection_that_is_gone_is_put_on_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film");
        std::fs::File::create(&path).unwrap().set_len(RESUMABLE_BYTES).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let client = Client::new(address, Retry::default());
        // A job that only tells keeps no log; what it is given here it does all the same.
        let options =
            TreeOptions { mood: Mood::Tell, update: Update::All, ..TreeOptions::default() };
        let name = Name::parse(b"film").unwrap();
        let mut observer = |_: TreeNotice<'_>| {};
        let tree = PutTree {
            sources: &mut std::iter::once((path, name)),
            job: b"",
            about: Default::default(),
            options: &options,
        };
        let mut job = Job::new(&client, tree, &mut observer);
        assert!(job.walk_on().unwrap());
        let Some(Work::Put(file)) = job.again.pop_front() else { panic!("no file was found") };
        let pipe = job.pipe().unwrap();
        let (socket, _) = listener.accept().unwrap();
        // Its hello is not read: so it hears at once that nobody is there.
        socket.peek(&mut [0]).unwrap();
        drop(socket);
        pipe.make(|machine, out, now| machine.ping(out, now));
        assert!(job.put_large(file).is_err());
        assert!(matches!(job.again.front(), Some(Work::Put(_))), "it is lost");
    }
}
