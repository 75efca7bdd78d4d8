//! Getting a file: receive, hash, store, in one pass, on as many connections as it takes.

use std::ops::Range;
use std::time::{Duration, Instant};

use ftx_disk::hash::{Running, Saved};
use ftx_disk::landing::{Landing, Replace};
use ftx_disk::sys::Native;
use ftx_protocol::client::Event;
use ftx_protocol::limits::{GRID_BYTES, RESUMABLE_BYTES};
use ftx_protocol::message::{Cache, End, File, Get};
use ftx_protocol::{Algorithm, Code, Digest, Durability, Name, RequestId, Retry as Again};

use crate::failure::{Class, Failure, GOES_ON, Trouble, shown};
use crate::hashing::{Hashing, Piece};
use crate::retry::Patience;
use crate::sink::{Landed, Sink, directory, is_part_name, remove_left};
use crate::spent::{Spent, timed};
use crate::state::{Direction, Key, State, Subject, boot_id, note, warn_stateless};
use crate::{Client, Counts, Notice, Observer};

/// How often what has arrived is synced to the local disk: with a point of the grid that is not quite reached, a power
/// cut here costs no more than 32 MiB.
const SYNC_EVERY_BYTES: u64 = 3 * GRID_BYTES;

/// How a file is got.
#[derive(Debug, Clone)]
pub struct GetOptions {
    /// How the digest is computed.
    pub algorithm: Algorithm,
    /// Whether a file that is there may be replaced.
    pub replace: Replace,
    /// Whether the file is synced before it takes its name, and its name before that is told.
    /// [`Durability::None`] gives that up; a file that is not whole and verified takes no name all
    /// the same.
    pub durability: Durability,
    /// What messages call it: the word by which whoever reads them has asked for it.
    pub called: &'static str,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            replace: Replace::Yes,
            durability: Durability::Full,
            called: "get",
        }
    }
}

/// A get whose bytes have the digest that the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetDone {
    /// Bytes.
    pub size: u64,
    /// Equal on both sides.
    pub digest: Digest,
    /// What it cost.
    pub counts: Counts,
    /// Where its time went.
    pub spent: Spent,
}

impl Client {
    /// Gets a file. Tries again, and goes on where it broke, as long as there is progress.
    ///
    /// # Errors
    /// When the server refuses, cannot be reached for too long, the local disk fails, or the bytes
    /// do not have the digest that they should. A file that was there stays as it was.
    pub fn get(
        &self,
        name: &Name,
        sink: Sink,
        options: &GetOptions,
        observer: &mut Observer<'_>,
    ) -> Result<GetDone, Failure> {
        Transfer::new(self, name, sink, options, observer)?.run()
    }
}

/// Which thread writes what has come.
#[derive(Clone, Copy)]
enum Writer {
    /// The one that receives it.
    Receiver,
    /// The one that hashes it, before it does.
    Hasher,
}

/// One file on its way.
struct Transfer<'a, 'o> {
    client: &'a Client,
    name: &'a Name,
    sink: Sink,
    options: &'a GetOptions,
    observer: &'a mut Observer<'o>,
    patience: Patience,
    counts: Counts,
    began: Instant,
    /// How long the client had waited for its rate when this began.
    paced_before: Duration,
    spent: Spent,
    state: Option<State>,
    /// Why there is none; said once it turns out to matter.
    stateless: Option<std::io::Error>,
    /// What the bytes that are here came from.
    file: Option<File>,
    landed: Landed,
    /// Of what has landed.
    hashing: Hashing,
    cache: Cache,
    moved_to: u64,
    synced_to: u64,
}

impl<'a, 'o> Transfer<'a, 'o> {
    fn new(
        client: &'a Client,
        name: &'a Name,
        sink: Sink,
        options: &'a GetOptions,
        observer: &'a mut Observer<'o>,
    ) -> Result<Self, Failure> {
        let mut transfer = Self {
            client,
            name,
            sink,
            options,
            observer,
            patience: Patience::new(client.retry),
            counts: Counts::default(),
            began: Instant::now(),
            paced_before: client.paced(),
            spent: Spent::default(),
            state: None,
            stateless: None,
            file: None,
            landed: Landed::Nothing,
            hashing: Hashing::new(Running::new(options.algorithm)),
            cache: Cache::Use,
            moved_to: 0,
            synced_to: 0,
        };
        transfer.sink.check(options.replace)?;
        transfer.take_up_state();
        Ok(transfer)
    }

    /// Finds out whether an earlier process began this.
    fn take_up_state(&mut self) {
        let Sink::File(path) = &self.sink else { return };
        let key = Key {
            direction: Direction::Get,
            server: &self.client.server,
            name: self.name,
            path,
            algorithm: self.options.algorithm,
        };
        match State::open(&key) {
            Ok(Some((state, earlier))) => {
                self.state = Some(state);
                if let Some(earlier) = earlier
                    && let Subject::Get { version, size, mtime, mode, part, inode, boot } =
                        earlier.subject
                {
                    // Only what was synced is there after a power cut.
                    let same_boot = boot.is_some() && boot == boot_id();
                    let reaches = |saved: &&Saved| same_boot || saved.offset() <= earlier.synced;
                    let last = earlier.saved.iter().map(Saved::offset).max().unwrap_or(0);
                    let is_ours = is_part_name(&part);
                    if is_ours
                        && let Some(saved) = earlier.saved.iter().rev().find(reaches)
                        && let Ok(running) = Running::restore(saved)
                        && let at = running.offset()
                        && let Ok(landing) =
                            Landing::reopen(Native, directory(path), &part, inode, at)
                    {
                        let id = RequestId(0);
                        self.file = Some(File { id, size, at, version, mtime, mode });
                        self.landed = Landed::File(landing);
                        self.hashing = Hashing::new(running);
                        self.synced_to = earlier.synced.min(at);
                        self.moved_to = last.saturating_add(GRID_BYTES).min(size);
                        if !same_boot {
                            self.begin_state(Some(saved));
                        }
                    } else if is_ours {
                        // What cannot be gone on with is in nobody's way, but in the user's sight. What another
                        // process fills by now stays.
                        let _ = remove_left(&Native, directory(path), &part);
                    }
                }
            }
            // Another process gets the same file to the same place; this one lands beside it.
            Ok(None) => {}
            Err(error) => self.stateless = Some(error),
        }
    }

    fn run(mut self) -> Result<GetDone, Failure> {
        let mut fresh_tries_left: u32 = 1;
        loop {
            let trouble = match self.attempt() {
                Ok(end) => return self.finish(&end),
                Err(trouble) => trouble,
            };
            match trouble.retry(self.client.reached()) {
                Again::Fresh if fresh_tries_left > 0 && self.can_start_over() => {
                    fresh_tries_left -= 1;
                    if matches!(trouble, Trouble::Corrupt(_)) {
                        self.cache = Cache::Bypass;
                    }
                    let cause = self.failure(trouble);
                    (self.observer)(Notice::Warning(format!("{cause}; beginning again")));
                    self.start_over();
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

    fn what(&self) -> String {
        format!("{} {}", self.options.called, self.name)
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(&self.what(), &self.client.server)
    }

    /// The end, unless the same command may still succeed where this one ended.
    fn give_up(&mut self, trouble: Trouble) -> Failure {
        let may_go_on = match &trouble {
            Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Interrupted => true,
            // A right that was taken away may be given back.
            Trouble::Refused(refusal) if refusal.code == Code::Denied => true,
            Trouble::Refused(refusal) => Class::Refused(refusal.code).is_about_the_way(),
            Trouble::Final(failure) => failure.class == Class::Untrusted,
            _ => false,
        };
        // Without a state nobody would find the part file again.
        let has_state = self.file.as_ref().is_some_and(|file| file.size >= RESUMABLE_BYTES)
            && matches!(self.landed, Landed::File(_))
            && self.state.as_ref().is_some_and(State::is_kept);
        let failure = self.failure(trouble);
        if may_go_on
            && has_state
            && let (Landed::File(landing), Sink::File(path)) = (&self.landed, &self.sink)
        {
            let part = shown(&directory(path).join(landing.part()));
            return failure.with_hint(&format!("what has arrived is in {part}; {GOES_ON}"));
        }
        self.landed.discard();
        if let Some(state) = self.state.take() {
            state.remove();
        }
        failure
    }

    /// What was written to a stream cannot be taken back.
    fn can_start_over(&self) -> bool {
        match &self.landed {
            Landed::Stream { written } => *written == 0,
            Landed::Nothing | Landed::File(_) => true,
        }
    }

    fn start_over(&mut self) {
        self.landed.discard();
        self.hashing = Hashing::new(Running::new(self.options.algorithm));
        self.file = None;
        self.synced_to = 0;
        // What was achieved before does not measure what comes now.
        self.moved_to = 0;
        self.patience.progress();
    }

    /// One connection.
    fn attempt(&mut self) -> Result<End, Trouble> {
        // The last connection may have broken before that was seen.
        self.check_written()?;
        let link = timed(&mut self.spent.waiting, || self.client.link())?;
        self.counts.connections = self.counts.connections.saturating_add(1);
        let get = Get {
            id: RequestId(0),
            name: self.name.clone(),
            digest: self.options.algorithm,
            at: self.landed.written(),
            version: self.file.as_ref().map(|file| file.version.clone()),
            cache: self.cache,
            need: Vec::new(),
        };
        link.send(|machine, out, now| machine.get(get, out, now))?;
        let mut ended = None;
        while ended.is_none() {
            let mut buffer = self.hashing.buffer();
            let mut body = Vec::new();
            let began = Instant::now();
            let received = link.receive(&mut buffer, &mut |event, _| {
                match event {
                    Event::File(file) => self.opened(file)?,
                    Event::Body { bytes, .. } => body.push(bytes),
                    Event::End(end) => ended = Some(end),
                    Event::Refused { refusal, .. } => return Err(Trouble::Refused(refusal)),
                    _ => {}
                }
                Ok(())
            });
            self.spent.waiting = self.spent.waiting.saturating_add(began.elapsed());
            // What has arrived counts, whatever came behind it.
            let writer = self.writer();
            self.take(buffer, body, writer)?;
            received?;
        }
        self.client.leave(&link);
        let end = ended.ok_or_else(|| Trouble::Broken("no answer".to_owned()))?;
        let hashed = self.hashing.digest()?;
        self.check_written()?;
        self.spent.hash = hashed.hash;
        self.spent.disk = self.spent.disk.saturating_add(hashed.disk);
        let have = hashed.digest;
        if have != end.digest {
            let cause = format!(
                "the bytes that arrived have {have}, the server says {}: something between its disk \
                 and here changed them",
                end.digest
            );
            return Err(Trouble::Corrupt(cause));
        }
        Ok(end)
    }

    fn opened(&mut self, file: File) -> Result<(), Trouble> {
        (self.observer)(Notice::Began { at: file.at, size: Some(file.size) });
        if matches!(self.landed, Landed::Nothing) {
            let number = self.state.as_ref().and_then(State::number);
            self.landed = self.sink.land(file.size, number)?;
            self.file = Some(file);
            self.begin_state(None);
        }
        Ok(())
    }

    /// Notes what is being got, so that another process can go on with it.
    fn begin_state(&mut self, saved: Option<&Saved>) {
        let (Landed::File(landing), Some(file)) = (&self.landed, &self.file) else { return };
        if file.size < RESUMABLE_BYTES {
            return;
        }
        if let Some(error) = self.stateless.take() {
            return warn_stateless(self.observer, &error);
        }
        let subject = Subject::Get {
            version: file.version.clone(),
            size: file.size,
            mtime: file.mtime,
            mode: file.mode,
            part: landing.part().to_owned(),
            inode: landing.inode(),
            boot: boot_id(),
        };
        let synced_to = self.synced_to;
        note(&mut self.state, self.observer, |state| {
            state.begin(&subject)?;
            if let Some(saved) = saved {
                state.passed(saved)?;
            }
            if synced_to > 0 { state.synced(synced_to) } else { Ok(()) }
        });
    }

    /// Who is to write the next bytes. Two who write one file hinder each other, and what was just written is in the
    /// cache of whoever hashes it. But SHA-256 takes longer than to receive, also what is encrypted: when that thread has
    /// fallen behind, this one would wait for it.
    fn writer(&mut self) -> Writer {
        match self.options.algorithm {
            Algorithm::Sha256 if !self.hashing.keeps_up() => Writer::Receiver,
            Algorithm::Sha256 | Algorithm::Blake3 => Writer::Hasher,
        }
    }

    /// Takes bytes of the body, ranges of a buffer: they are written, and hashed beside.
    fn take(
        &mut self,
        buffer: Vec<u8>,
        body: Vec<Range<usize>>,
        writer: Writer,
    ) -> Result<(), Failure> {
        let mut pieces = Vec::with_capacity(body.len());
        for range in body {
            let bytes = buffer.get(range.clone()).unwrap_or_default();
            let at = self.landed.written();
            let gap = match writer {
                Writer::Hasher => self.landed.leave(bytes.len()),
                Writer::Receiver => None,
            };
            if gap.is_none() {
                timed(&mut self.spent.disk, || self.landed.write(&mut self.sink, bytes))?;
            }
            let end = self.landed.written();
            self.counts.moved_bytes = self.counts.moved_bytes.saturating_add(bytes.len() as u64);
            let again = self.moved_to.min(end).saturating_sub(at);
            self.counts.moved_again_bytes = self.counts.moved_again_bytes.saturating_add(again);
            if end > self.moved_to {
                self.moved_to = end;
                self.patience.progress();
            }
            (self.observer)(Notice::Moved { at: end });
            pieces.push(Piece { bytes: range, gap });
        }
        self.hashing.take(buffer, pieces);
        while let Some(saved) = self.hashing.passed() {
            // What could not be written was said before the state behind it.
            self.check_written()?;
            self.pass_grid(&saved)?;
        }
        self.check_written()
    }

    /// Whether all could be written that was hashed.
    fn check_written(&self) -> Result<(), Failure> {
        match (self.hashing.failed(), &self.sink) {
            (Some(error), Sink::File(path)) => Err(Failure::local("cannot write", path, &error)),
            _ => Ok(()),
        }
    }

    /// What was hashed had been written.
    fn pass_grid(&mut self, saved: &Saved) -> Result<(), Failure> {
        let (Landed::File(landing), Some(_), Sink::File(path)) =
            (&self.landed, &self.state, &self.sink)
        else {
            return Ok(());
        };
        let at = saved.offset();
        note(&mut self.state, self.observer, |state| state.passed(saved));
        let is_due = at.saturating_sub(self.synced_to) >= SYNC_EVERY_BYTES;
        if is_due && self.options.durability > Durability::None {
            timed(&mut self.spent.sync, || landing.sync())
                .map_err(|error| Failure::local("cannot sync", path, &error))?;
            self.synced_to = at;
            note(&mut self.state, self.observer, |state| state.synced(at));
        }
        Ok(())
    }

    fn finish(mut self, end: &End) -> Result<GetDone, Failure> {
        // It may have become something else meanwhile.
        if let Err(failure) = self.sink.check(self.options.replace) {
            return Err(self.give_up(failure.into()));
        }
        let landed = std::mem::replace(&mut self.landed, Landed::Nothing);
        let (sink, file) = (&mut self.sink, self.file.as_ref());
        let GetOptions { replace, durability, .. } = *self.options;
        let finished =
            timed(&mut self.spent.sync, || landed.finish(sink, file, replace, durability));
        // Whichever way it ended, there is no part to go on with.
        if let Some(state) = self.state.take() {
            state.remove();
        }
        finished?;
        let paced = self.client.paced().saturating_sub(self.paced_before);
        let (wall, pauses) = (self.began.elapsed(), self.patience.paused());
        let spent = Spent { wall, paced, pauses, server: end.spent, ..self.spent };
        Ok(GetDone { size: end.size, digest: end.digest, counts: self.counts, spent })
    }
}
