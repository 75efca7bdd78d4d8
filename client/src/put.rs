//! Putting a file: read, hash, send, in one pass, on as many connections as it takes.

mod between;

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use between::GivenUp;
use ftx_disk::aligned::PageAligned;
use ftx_protocol::client::{Event, Violation};
use ftx_protocol::limits::PART_BYTES;
use ftx_protocol::message::{Done, Held as HeldThere, HeldState, Put, Resume, Stat};
use ftx_protocol::{
    Algorithm, Code, Condition, Digest, Durability, Name, Replay, RequestId, Retry as Again,
    TransferId,
};

use crate::ask::wait;
use crate::failure::{Failure, Trouble};
use crate::ids::new_id;
use crate::link::{Heard, Link, READ_BYTES, UNHEARD_MAX, last_words};
use crate::reading::Reading;
use crate::retry::Patience;
use crate::source::{Got, Source};
use crate::spent::{Spent, timed};
use crate::state::{State, note};
use crate::{Client, Counts, Notice, Observer};

/// While a source is quiet, the server gets a sign of life this often: more often than its idle timeout
/// (rule 5.3).
const SIGN_WHEN_QUIET: Duration = Duration::from_secs(15);

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
    /// The name under which the server has stored it, if it is another one than was asked for.
    pub stored_as: Option<Name>,
    /// What it cost.
    pub counts: Counts,
    /// Where its time went.
    pub spent: Spent,
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
        let (done, state) = self.put_noted(source, name, options, observer)?;
        if let Some(state) = state {
            state.remove();
        }
        Ok(done)
    }

    /// The same, for who has to note first that it is done: until then its state says so.
    pub(crate) fn put_noted(
        &self,
        source: Source,
        name: &Name,
        options: &PutOptions,
        observer: &mut Observer<'_>,
    ) -> Result<(PutDone, Option<State>), Failure> {
        Transfer::new(self, source, name, options, observer)?.run()
    }
}

/// One file on its way.
struct Transfer<'a, 'o> {
    client: &'a Client,
    reading: Reading,
    name: &'a Name,
    options: &'a PutOptions,
    observer: &'a mut Observer<'o>,
    patience: Patience,
    counts: Counts,
    began: Instant,
    /// How long the client had waited for its rate when this began.
    paced_before: Duration,
    spent: Spent,
    state: Option<State>,
    transfer: TransferId,
    /// What the transfer was begun with; an earlier process may have been asked for something else.
    durability: Durability,
    /// Whether the server may know the transfer.
    known: Known,
    begun: Begun,
    held: Held,
    /// What it was before, where it was given up.
    given_up: Option<GivenUp>,
    /// How far it was sent at the most.
    sent_to: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    No,
    Perhaps,
}

/// Who began a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Here,
    /// An earlier process: what became of it then is not what is asked for now.
    Earlier,
}

/// Whether an acknowledgement is of now.
enum Standing {
    Holds(Done),
    /// Its name has something else, or nothing.
    OfThePast,
}

/// What the server may hold of the transfer from before this connection. A refusal of a put that
/// goes on with it leaves it there, if it comes at once (rule 7.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
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
            reading: Reading::new(source, options.algorithm),
            name,
            options,
            observer,
            patience: Patience::new(client.retry),
            counts: Counts::default(),
            began: Instant::now(),
            paced_before: client.paced(),
            spent: Spent::default(),
            state: None,
            transfer: new_id()?,
            durability: options.durability,
            known: Known::No,
            begun: Begun::Here,
            held: Held::Nothing,
            given_up: None,
            sent_to: 0,
        };
        transfer.take_up_state();
        Ok(transfer)
    }

    fn run(mut self) -> Result<(PutDone, Option<State>), Failure> {
        let mut fresh_tries_left: u32 = 1;
        loop {
            let trouble = match self.attempt().and_then(|done| self.judge(done)) {
                Ok(Standing::OfThePast) => {
                    let what = "an earlier run has put this, and it is not there any more";
                    (self.observer)(Notice::Warning(format!("{what}; putting it again")));
                    self.start_over()?;
                    continue;
                }
                Ok(Standing::Holds(done)) => return Ok((self.done(&done), self.state)),
                Err(trouble) => trouble,
            };
            match trouble.retry(self.client.reached()) {
                Again::Fresh if fresh_tries_left > 0 && self.reading.source.reaches_back_to(0) => {
                    fresh_tries_left -= 1;
                    let cause = self.failure(trouble);
                    (self.observer)(Notice::Warning(format!("{cause}; beginning again")));
                    self.start_over()?;
                }
                Again::Later | Again::No | Again::Fresh => {
                    let (what, observer) = (self.what(), &mut self.observer);
                    let tell = |cause, pause| observer(Notice::Retrying { cause, pause });
                    self.patience
                        .again(trouble, &what, self.client, tell)
                        .map_err(|trouble| self.give_up(trouble))?;
                }
            }
        }
    }

    /// Whether an acknowledgement is of now. One that an earlier process did not hear may be of long ago: if
    /// something has changed since, the server is asked what the name has.
    fn judge(&self, done: Done) -> Result<Standing, Trouble> {
        if self.begun == Begun::Here || done.replayed != Some(Replay::Changed) {
            return Ok(Standing::Holds(done));
        }
        let name = done.name.as_ref().unwrap_or(self.name).clone();
        let link = self.client.link()?;
        let stat = Stat { digest: Some(self.options.algorithm), ..Stat::of(name) };
        link.send(|machine, out, now| machine.stat(stat, out, now))?;
        let there = wait(&link, |event| match event {
            Event::Info(info) => Some(info.digest),
            _ => None,
        });
        self.client.leave(&link);
        match there {
            Ok(digest) if digest == Some(done.digest) => Ok(Standing::Holds(done)),
            Ok(_) => Ok(Standing::OfThePast),
            Err(Trouble::Refused(refusal)) => match refusal.code {
                Code::NotFound | Code::NotAFile | Code::NotADirectory => Ok(Standing::OfThePast),
                // Who may not ask, of a drop box for one, goes by what was said.
                Code::Denied | Code::PermissionDenied => Ok(Standing::Holds(done)),
                // A server that is busy, for one, has said nothing of the name.
                _ => Err(Trouble::Refused(refusal)),
            },
            Err(trouble) => Err(trouble),
        }
    }

    fn what(&self) -> String {
        format!("put {}", self.name)
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(&self.what(), &self.client.server)
    }

    fn done(&self, done: &Done) -> PutDone {
        PutDone {
            size: done.size,
            digest: done.digest,
            durability: done.durability,
            replayed: done.replayed,
            stored_as: done.name.clone(),
            counts: Counts {
                read_bytes: self.reading.read_bytes,
                read_again_bytes: self.reading.read_again_bytes,
                ..self.counts
            },
            spent: Spent {
                wall: self.began.elapsed(),
                disk: self.reading.disk,
                hash: self.reading.hash,
                paced: self.client.paced().saturating_sub(self.paced_before),
                pauses: self.patience.paused(),
                server: done.spent,
                ..self.spent
            },
        }
    }

    /// One connection.
    fn attempt(&mut self) -> Result<Done, Trouble> {
        let link = timed(&mut self.spent.waiting, || self.client.link())?;
        self.counts.connections = self.counts.connections.saturating_add(1);
        self.drop_given_up(&link)?;
        self.held = Held::Nothing;
        let at = match self.known {
            Known::No => 0,
            Known::Perhaps => {
                self.held = Held::Perhaps;
                self.resume(&link)?
            }
        };
        if at == 0 {
            self.held = Held::Nothing;
        }
        self.rewind(at)?;
        let put = self.request(at);
        self.known = Known::Perhaps;
        let id = link.send(|machine, out, now| machine.put(put, out, now))?;
        (self.observer)(Notice::Began { at, size: self.reading.source.size() });
        let (sender, heard) = sync_channel(UNHEARD_MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| link.listen(&sender, |event| matches!(event, Event::Done(_))));
            // Whoever speaks to nobody any more does not wait to be heard.
            let result = self.feed(&link, id, heard);
            if result.is_err() {
                // Ends the listener.
                link.close();
            }
            result
        })
        .inspect(|_| {
            self.client.leave(&link);
        })
    }

    fn request(&self, at: u64) -> Put {
        Put {
            id: RequestId(0),
            name: self.name.clone(),
            digest: self.options.algorithm,
            size: self.reading.source.size(),
            at,
            transfer: self.transfer,
            mtime: self.reading.source.modified(),
            mode: self.reading.source.mode(),
            condition: self.options.condition.clone(),
            durability: self.options.durability,
            need: Vec::new(),
        }
    }

    /// Asks what the server has, and makes sure that it is what we have. Returns where to go on.
    fn resume(&mut self, link: &Link) -> Result<u64, Trouble> {
        let held = held_of(link, self.transfer)?;
        let (HeldState::Partial | HeldState::Complete, Some(&(_, at)), Some(digest)) =
            (held.state, held.ranges.first(), held.digest)
        else {
            return Ok(0);
        };
        if self.reading.source.size().is_some_and(|size| at > size) {
            return Err(Trouble::Corrupt("the server holds more than there is".to_owned()));
        }
        self.rewind(at)?;
        if self.reading.digest() != digest {
            self.give_up_transfer();
            let cause = "the server holds other bytes than the source has".to_owned();
            return Err(Trouble::Corrupt(cause));
        }
        Ok(at)
    }

    fn rewind(&mut self, at: u64) -> Result<(), Trouble> {
        self.reading.rewind(at, &self.client.interrupt, &mut |saved| {
            note(&mut self.state, self.observer, |state| state.passed(saved));
        })
    }

    /// Sends the body, and waits for the final reply.
    fn feed(
        &mut self,
        link: &Link,
        id: RequestId,
        heard: Receiver<Heard>,
    ) -> Result<Done, Trouble> {
        match self.send_body(link, id, &heard) {
            Ok(()) => {}
            // The server may have said why before it closed.
            Err(trouble @ Trouble::Broken(_)) => {
                return Err(last_words(&heard, |said| self.hear(said).err()).unwrap_or(trouble));
            }
            // As a break: what can be resumed is kept.
            Err(Trouble::Interrupted) => return Err(Trouble::Interrupted),
            Err(trouble) => {
                let code = match &trouble {
                    Trouble::Final(failure) => failure.code_of_abort(),
                    _ => Code::Aborted,
                };
                self.abort(link, id, code, &heard);
                return Err(trouble);
            }
        }
        loop {
            match timed(&mut self.spent.waiting, || heard.recv()) {
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
    fn abort(&mut self, link: &Link, id: RequestId, code: Code, heard: &Receiver<Heard>) {
        // Whether it arrives or not, nothing better can be done.
        let _ = link.send(|machine, out, _| machine.abort(id, code, out));
        link.finish_sending();
        drop(last_words(heard, |said| self.hear(said).err()));
    }

    fn send_body(
        &mut self,
        link: &Link,
        id: RequestId,
        heard: &Receiver<Heard>,
    ) -> Result<(), Trouble> {
        let mut part = PageAligned::new(usize::try_from(PART_BYTES).unwrap_or(READ_BYTES));
        let mut said = Instant::now();
        loop {
            self.client.interrupt.check()?;
            while let Ok(event) = heard.try_recv() {
                self.hear(event)?;
            }
            let window = link.machine().window_bytes(id);
            if window == 0 {
                match timed(&mut self.spent.waiting, || heard.recv()) {
                    Ok(event) => drop(self.hear(event)?),
                    Err(_) => return Err(Violation::Closed.into()),
                }
                continue;
            }
            let (filled, next) = self.reading.fill(&mut part, window, &mut |saved| {
                note(&mut self.state, self.observer, |state| state.passed(saved));
            })?;
            if filled > 0 || (next == Got::Quiet && said.elapsed() >= SIGN_WHEN_QUIET) {
                self.send_part(link, id, part.get(..filled).unwrap_or_default())?;
                said = Instant::now();
            }
            if next == Got::End {
                break;
            }
        }
        if self.reading.source.size().is_some_and(|size| size != self.reading.offset()) {
            return Err(self.reading.source.changed().into());
        }
        self.reading.source.check_unchanged()?;
        let (size, digest) = (self.reading.offset(), self.reading.digest());
        link.send(|machine, out, _| machine.end(id, size, digest, out))?;
        Ok(())
    }

    fn send_part(&mut self, link: &Link, id: RequestId, bytes: &[u8]) -> Result<(), Trouble> {
        let size = bytes.len() as u64;
        let mut header = Vec::new();
        let Some(at) = link.machine().data(id, size, &mut header) else {
            // Refused meanwhile; the reason is on its way from the listener.
            return Ok(());
        };
        timed(&mut self.spent.waiting, || link.write(&header).and_then(|()| link.write(bytes)))?;
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

    fn hear(&mut self, event: Heard) -> Result<Option<Done>, Trouble> {
        match event? {
            Event::Kept(kept) => {
                self.patience.progress();
                self.reading.forget_before(kept.at);
            }
            Event::Done(done) => return Ok(Some(done)),
            Event::Refused { refusal, .. } => {
                // It was begun as something else, with another durability for one.
                if refusal.code == Code::TransferMismatch && self.held == Held::Perhaps {
                    self.give_up_transfer();
                }
                return Err(Trouble::Refused(refusal));
            }
            _ => {}
        }
        Ok(None)
    }
}

/// Asks what the server has of a transfer.
fn held_of(link: &Link, transfer: TransferId) -> Result<HeldThere, Trouble> {
    let resume = Resume { id: RequestId(0), transfer, need: Vec::new() };
    link.send(|machine, out, now| machine.resume(resume, out, now))?;
    wait(link, |event| match event {
        Event::Held(held) => Some(held),
        _ => None,
    })
}
