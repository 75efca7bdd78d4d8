//! Putting a file: read, hash, send, in one pass, on as many connections as it takes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use ftx_disk::hash::{Running, Saved};
use ftx_disk::identity::Identity;
use ftx_protocol::client::{Event, Violation};
use ftx_protocol::limits::{GRID_BYTES, PART_BYTES, RESUMABLE_BYTES};
use ftx_protocol::message::{Done, HeldState, Put, Resume};
use ftx_protocol::{
    Algorithm, Code, Condition, Digest, Durability, Name, Replay, RequestId, Retry as Again,
    TransferId,
};

use crate::ask::wait;
use crate::failure::{Class, Failure, GOES_ON, Reached, Trouble};
use crate::link::{Link, READ_BYTES};
use crate::retry::Patience;
use crate::source::{Got, Kind, Source};
use crate::state::{Key, State, Subject};
use crate::{Client, Counts, Notice, Observer};

/// Read and hashed at once: stays in a core's cache between the two.
const BLOCK_BYTES: usize = 256 * 1024;

/// After a failed write the server may still have said why; this is how long it is listened to.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the server may have said and nobody has looked at. An honest one says far less.
const UNHEARD_MAX: usize = 4_096;

/// How a file is put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// How the digest is computed.
    pub algorithm: Algorithm,
    /// When the file may take its name.
    pub condition: Condition,
    /// What the acknowledgement has to mean.
    pub durability: Durability,
}

/// A put that the server has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutDone {
    /// Bytes.
    pub size: u64,
    /// Equal on both sides.
    pub digest: Digest,
    /// What the file survives.
    pub durability: Durability,
    /// There when the acknowledgement had been lost and was given again.
    pub replayed: Option<Replay>,
    /// What it cost.
    pub counts: Counts,
}

impl Client {
    /// Puts a file. Tries again, and goes on where it broke, as long as there is progress.
    ///
    /// # Errors
    /// When the server refuses, cannot be reached for too long, or the source changes.
    pub fn put(
        &self,
        source: Source,
        name: &Name,
        options: &PutOptions,
        observer: &mut Observer<'_>,
    ) -> Result<PutDone, Failure> {
        Transfer::new(self, source, name, options, observer)?.run()
    }
}

/// One file on its way.
struct Transfer<'a, 'o> {
    client: &'a Client,
    source: Source,
    name: &'a Name,
    options: &'a PutOptions,
    observer: &'a mut Observer<'o>,
    patience: Patience,
    counts: Counts,
    state: Option<State>,
    transfer: TransferId,
    /// Whether the server may know the transfer.
    known: Known,
    reached: Reached,
    running: Running,
    /// States to go back to, rising, from the last `kept` on.
    saved: Vec<Saved>,
    /// How far the source was read, and sent, at the most.
    read_to: u64,
    sent_to: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    No,
    Perhaps,
}

impl<'a, 'o> Transfer<'a, 'o> {
    fn new(
        client: &'a Client,
        source: Source,
        name: &'a Name,
        options: &'a PutOptions,
        observer: &'a mut Observer<'o>,
    ) -> Result<Self, Failure> {
        let mut transfer = Self {
            client,
            source,
            name,
            options,
            observer,
            patience: Patience::new(client.retry),
            counts: Counts::default(),
            state: None,
            transfer: new_id()?,
            known: Known::No,
            reached: Reached::No,
            running: Running::new(options.algorithm),
            saved: Vec::new(),
            read_to: 0,
            sent_to: 0,
        };
        transfer.take_up_state();
        Ok(transfer)
    }

    /// Finds out whether an earlier process began this.
    fn take_up_state(&mut self) {
        let Kind::File { identity, .. } = &self.source.kind else { return };
        let identity = *identity;
        if identity.size < RESUMABLE_BYTES {
            return;
        }
        let key = Key {
            direction: "put",
            server: &self.client.server,
            name: self.name,
            path: &self.source.path,
            algorithm: self.options.algorithm,
        };
        match State::open(&key) {
            Ok(Some((state, earlier))) => {
                self.state = Some(state);
                match earlier.map(|earlier| (earlier.subject, earlier.saved)) {
                    Some((Subject::Put { transfer, source }, saved))
                        if identity.is_same_after_reboot(&source) =>
                    {
                        self.transfer = transfer;
                        self.known = Known::Perhaps;
                        // What the earlier process did after its last note is not known exactly;
                        // this is the most that it can have been.
                        let last = saved.last().map_or(0, Saved::offset);
                        let most = last.saturating_add(GRID_BYTES).min(identity.size);
                        (self.read_to, self.sent_to) = (most, most);
                        self.saved = saved;
                    }
                    _ => self.begin_state(identity),
                }
            }
            // Another process puts the same file; this one is a transfer of its own.
            Ok(None) => {}
            Err(error) => self.warn_stateless(&error),
        }
    }

    fn begin_state(&mut self, source: Identity) {
        let subject = Subject::Put { transfer: self.transfer, source };
        if let Some(state) = &mut self.state
            && let Err(error) = state.begin(&subject)
        {
            self.state = None;
            self.warn_stateless(&error);
        }
    }

    fn warn_stateless(&mut self, error: &std::io::Error) {
        let message =
            format!("cannot keep state for resuming after a crash of this program: {error}");
        (self.observer)(Notice::Warning(message));
    }

    fn run(mut self) -> Result<PutDone, Failure> {
        let mut fresh_tries_left: u32 = 1;
        loop {
            let trouble = match self.attempt() {
                Ok(done) => {
                    if let Some(state) = self.state.take() {
                        state.remove();
                    }
                    return Ok(self.done(&done));
                }
                Err(trouble) => trouble,
            };
            match trouble.retry(self.reached) {
                Again::Fresh if fresh_tries_left > 0 && self.source.reaches_back_to(0) => {
                    fresh_tries_left -= 1;
                    let cause = self.failure(trouble);
                    (self.observer)(Notice::Warning(format!("{cause}; beginning again")));
                    self.start_over()?;
                }
                Again::Later if let Some(pause) = self.patience.next_pause() => {
                    let cause = self.failure(trouble).to_string();
                    (self.observer)(Notice::Retrying { cause, pause });
                    std::thread::sleep(pause);
                }
                Again::Later | Again::No | Again::Fresh => return Err(self.give_up(trouble)),
            }
        }
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(&format!("put {}", self.name), &self.client.server)
    }

    /// The end, unless the same command may still succeed where this one ended.
    fn give_up(&mut self, trouble: Trouble) -> Failure {
        let stays = match &trouble {
            Trouble::Refused(refusal) => {
                refusal.code == Code::TakenOver || refusal.code.retry() == Again::Later
            }
            Trouble::Unreachable(_) | Trouble::Broken(_) => self.known == Known::Perhaps,
            _ => false,
        };
        if !stays && let Some(state) = self.state.take() {
            state.remove();
        }
        let failure = self.failure(trouble);
        if stays && self.state.is_some() { failure.with_hint(GOES_ON) } else { failure }
    }

    fn start_over(&mut self) -> Result<(), Failure> {
        self.transfer = new_id()?;
        self.known = Known::No;
        self.saved.clear();
        self.running = Running::new(self.options.algorithm);
        if let Kind::File { identity, .. } = &self.source.kind {
            let identity = *identity;
            self.begin_state(identity);
        }
        Ok(())
    }

    fn done(&self, done: &Done) -> PutDone {
        PutDone {
            size: done.size,
            digest: done.digest,
            durability: done.durability,
            replayed: done.replayed,
            counts: self.counts,
        }
    }

    /// One connection.
    fn attempt(&mut self) -> Result<Done, Trouble> {
        let link = Link::open(&self.client.server)?;
        self.reached = Reached::Yes;
        self.counts.connections = self.counts.connections.saturating_add(1);
        let at = match self.known {
            Known::No => 0,
            Known::Perhaps => self.resume(&link)?,
        };
        self.rewind(at)?;
        let put = self.request(at);
        self.known = Known::Perhaps;
        let id = link.send(|machine, out, now| machine.put(put, out, now))?;
        (self.observer)(Notice::Began { at, size: self.source.size() });
        let (sender, heard) = sync_channel(UNHEARD_MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| listen(&link, &sender));
            let result = self.feed(&link, id, &heard);
            // Ends the listener.
            link.close();
            result
        })
    }

    fn request(&self, at: u64) -> Put {
        Put {
            id: RequestId(0),
            name: self.name.clone(),
            digest: self.options.algorithm,
            size: self.source.size(),
            at,
            transfer: self.transfer,
            mtime: self.source.modified(),
            mode: self.source.mode(),
            condition: self.options.condition.clone(),
            durability: self.options.durability,
            need: Vec::new(),
        }
    }

    /// Asks what the server has, and makes sure that it is what we have. Returns where to go on.
    fn resume(&mut self, link: &Link) -> Result<u64, Trouble> {
        let resume = Resume { id: RequestId(0), transfer: self.transfer, need: Vec::new() };
        link.send(|machine, out, now| machine.resume(resume, out, now))?;
        let held = wait(link, |event| match event {
            Event::Held(held) => Some(held),
            _ => None,
        })?;
        let (HeldState::Partial | HeldState::Complete, Some(&(_, at)), Some(digest)) =
            (held.state, held.ranges.first(), held.digest)
        else {
            return Ok(0);
        };
        if self.source.size().is_some_and(|size| at > size) {
            return Err(Trouble::Corrupt("the server holds more than there is".to_owned()));
        }
        self.rewind(at)?;
        if self.running.digest() != digest {
            let cause = "the server holds other bytes than the source has".to_owned();
            return Err(Trouble::Corrupt(cause));
        }
        Ok(at)
    }

    /// Brings the running digest to an offset, reading as little as possible.
    fn rewind(&mut self, at: u64) -> Result<(), Trouble> {
        if self.running.offset() == at {
            return Ok(());
        }
        let base = self
            .saved
            .iter()
            .rev()
            .filter(|saved| saved.offset() <= at)
            .find_map(|saved| Running::restore(saved).ok());
        self.running = base.unwrap_or_else(|| Running::new(self.options.algorithm));
        if !self.source.reaches_back_to(self.running.offset()) {
            let message = format!(
                "put {}: the server has lost what it had of {}, and a stream cannot be read again",
                self.name,
                crate::failure::shown(&self.source.path)
            );
            return Err(Failure::new(Class::Network, message).into());
        }
        let mut block = vec![0; BLOCK_BYTES];
        while self.running.offset() < at {
            let left = at.saturating_sub(self.running.offset());
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            let room = block.get_mut(..room).unwrap_or_default();
            match self.read(room)? {
                Got::Bytes(_) => {}
                Got::Quiet => {}
                Got::End => return Err(self.source.changed().into()),
            }
        }
        Ok(())
    }

    /// Reads the next bytes of the source through the digest.
    fn read(&mut self, room: &mut [u8]) -> Result<Got, Failure> {
        let at = self.running.offset();
        let to_grid = GRID_BYTES.saturating_sub(at % GRID_BYTES);
        let limit = usize::try_from(to_grid).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..limit).unwrap_or_default();
        let got = self.source.read_at(room, at)?;
        if let Got::Bytes(count) = got {
            self.running.update(room.get(..count).unwrap_or_default());
            let end = self.running.offset();
            self.counts.read_bytes = self.counts.read_bytes.saturating_add(count as u64);
            let again = self.read_to.min(end).saturating_sub(at);
            self.counts.read_again_bytes = self.counts.read_again_bytes.saturating_add(again);
            self.read_to = self.read_to.max(end);
            if end.is_multiple_of(GRID_BYTES) {
                self.pass_grid();
            }
        }
        Ok(got)
    }

    fn pass_grid(&mut self) {
        let Some(saved) = self.running.save() else { return };
        if self.saved.last().is_some_and(|last| last.offset() >= saved.offset()) {
            return;
        }
        if let Some(state) = &mut self.state
            && let Err(error) = state.passed(&saved)
        {
            self.state = None;
            self.warn_stateless(&error);
        }
        self.saved.push(saved);
    }

    /// Sends the body, and waits for the final reply.
    fn feed(
        &mut self,
        link: &Link,
        id: RequestId,
        heard: &Receiver<Result<Event, Trouble>>,
    ) -> Result<Done, Trouble> {
        match self.send_body(link, id, heard) {
            Ok(()) => {}
            // The server may have said why before it closed.
            Err(trouble @ Trouble::Broken(_)) => {
                return Err(self.last_words(heard).unwrap_or(trouble));
            }
            Err(trouble) => {
                let code = match &trouble {
                    Trouble::Final(_) => Code::Changed,
                    _ => Code::Aborted,
                };
                self.abort(link, id, code, heard);
                return Err(trouble);
            }
        }
        loop {
            match heard.recv() {
                Ok(event) => {
                    if let Some(done) = self.hear(event)? {
                        return Ok(done);
                    }
                }
                Err(_) => return Err(Violation::Closed.into()),
            }
        }
    }

    /// Gives a put up, and waits until the server has heard it: to one that is just hung up on, it
    /// would look like a break, and what can be resumed would be kept.
    fn abort(
        &mut self,
        link: &Link,
        id: RequestId,
        code: Code,
        heard: &Receiver<Result<Event, Trouble>>,
    ) {
        // Whether it arrives or not, nothing better can be done.
        let _ = link.send(|machine, out, _| machine.abort(id, code, out));
        link.finish_sending();
        drop(self.last_words(heard));
    }

    fn send_body(
        &mut self,
        link: &Link,
        id: RequestId,
        heard: &Receiver<Result<Event, Trouble>>,
    ) -> Result<(), Trouble> {
        let mut part = vec![0; usize::try_from(PART_BYTES).unwrap_or(BLOCK_BYTES)];
        loop {
            while let Ok(event) = heard.try_recv() {
                self.hear(event)?;
            }
            let window = link.machine().window_bytes(id);
            if window == 0 {
                match heard.recv() {
                    Ok(event) => drop(self.hear(event)?),
                    Err(_) => return Err(Violation::Closed.into()),
                }
                continue;
            }
            let (filled, next) = self.fill(&mut part, window)?;
            if filled > 0 || next == Got::Quiet {
                self.send_part(link, id, part.get(..filled).unwrap_or_default())?;
            }
            if next == Got::End {
                break;
            }
        }
        if self.source.size().is_some_and(|size| size != self.running.offset()) {
            return Err(self.source.changed().into());
        }
        self.source.check_unchanged()?;
        let (size, digest) = (self.running.offset(), self.running.digest());
        link.send(|machine, out, _| machine.end(id, size, digest, out))?;
        Ok(())
    }

    /// Fills a part from the source: as much as fits a part, the window and the grid, or as much as
    /// a stream has now.
    fn fill(&mut self, part: &mut [u8], window: u64) -> Result<(usize, Got), Failure> {
        let is_stream = matches!(self.source.kind, Kind::Stream(_));
        let size = self.source.size();
        let limit = usize::try_from(window).unwrap_or(usize::MAX).min(part.len());
        let mut filled: usize = 0;
        while filled < limit {
            if size.is_some_and(|size| self.running.offset() >= size) {
                return Ok((filled, Got::End));
            }
            let left = size.map_or(u64::MAX, |size| size.saturating_sub(self.running.offset()));
            let end = filled
                .saturating_add(BLOCK_BYTES)
                .min(limit)
                .min(filled.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
            let got = self.read(part.get_mut(filled..end).unwrap_or_default())?;
            match got {
                Got::Bytes(count) => filled = filled.saturating_add(count),
                Got::Quiet | Got::End => return Ok((filled, got)),
            }
            if is_stream || self.running.offset().is_multiple_of(GRID_BYTES) {
                break;
            }
        }
        Ok((filled, Got::Bytes(filled)))
    }

    fn send_part(&mut self, link: &Link, id: RequestId, bytes: &[u8]) -> Result<(), Trouble> {
        let size = bytes.len() as u64;
        let mut header = Vec::new();
        let Some(at) = link.machine().data(id, size, &mut header) else {
            // Refused meanwhile; the reason is on its way from the listener.
            return Ok(());
        };
        link.write(&header)?;
        link.write(bytes)?;
        let end = at.saturating_add(size);
        self.counts.moved_bytes = self.counts.moved_bytes.saturating_add(size);
        let again = self.sent_to.min(end).saturating_sub(at);
        self.counts.moved_again_bytes = self.counts.moved_again_bytes.saturating_add(again);
        if end > self.sent_to {
            self.sent_to = end;
            self.patience.progress();
        }
        (self.observer)(Notice::Moved { at: end });
        Ok(())
    }

    fn hear(&mut self, event: Result<Event, Trouble>) -> Result<Option<Done>, Trouble> {
        match event? {
            Event::Kept(kept) => {
                self.patience.progress();
                self.source.forget_before(kept.at);
                self.saved.retain(|saved| saved.offset() >= kept.at);
            }
            Event::Done(done) => return Ok(Some(done)),
            Event::Refused { refusal, .. } => return Err(Trouble::Refused(refusal)),
            _ => {}
        }
        Ok(None)
    }

    /// What the server said before the connection broke, if it said anything that explains it.
    fn last_words(&mut self, heard: &Receiver<Result<Event, Trouble>>) -> Option<Trouble> {
        loop {
            match heard.recv_timeout(LAST_WORDS) {
                Ok(event) => {
                    if let Err(trouble) = self.hear(event) {
                        return Some(trouble);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

/// Reads what the server says until the connection ends.
fn listen(link: &Link, heard: &SyncSender<Result<Event, Trouble>>) {
    let mut buffer = vec![0; READ_BYTES];
    let result = loop {
        let received = link.receive(&mut buffer, &mut |event, _| {
            match heard.try_send(Ok(event)) {
                // It must not wait: then nobody would time the server.
                Err(TrySendError::Full(_)) => {
                    return Err(Trouble::Broken(
                        "the server says more than it was asked".to_owned(),
                    ));
                }
                // Nobody listens any more when the transfer is over.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            }
            Ok(())
        });
        if let Err(trouble) = received {
            break trouble;
        }
    };
    // As above; who still listens takes what is before it.
    let _ = heard.send(Err(result));
}

pub(crate) fn new_id() -> Result<TransferId, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(Class::Local, format!("the system gives no random numbers: {error}"))
    })?;
    Ok(TransferId(bytes))
}
