//! A connection on which many requests are under way: one thread sends, another one hears.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use ftx_protocol::RequestId;
use ftx_protocol::Time;
use ftx_protocol::client::{Client as Machine, Event};

use crate::Client;
use crate::failure::Trouble;
use crate::interrupt::Interrupt;
use crate::link::{Heard, Link, UNHEARD_MAX, last_words};

/// Requests under way at most: below what every server allows.
pub(super) const PIPE_REQUESTS_MAX: usize = 2_048;

/// Lines and bodies are written together up to this.
const FLUSH_BYTES: usize = 256 * 1024;

/// The connection. Ends when it is dropped.
pub(super) struct Pipe {
    link: Arc<Link>,
    heard: Receiver<Heard>,
    listener: Option<JoinHandle<()>>,
    out: Vec<u8>,
    /// What was heard to be done while the reason of a failure was looked for.
    acknowledged: Vec<Event>,
}

impl Pipe {
    pub(super) fn open(client: &Client) -> Result<Self, Trouble> {
        let link = client.link()?;
        let (sender, heard) = sync_channel(UNHEARD_MAX);
        let listener = {
            let link = Arc::clone(&link);
            std::thread::spawn(move || link.listen(&sender, |_| false))
        };
        let (out, acknowledged) = (Vec::new(), Vec::new());
        Ok(Self { link, heard, listener: Some(listener), out, acknowledged })
    }

    /// Has the machine make lines. They are written when there are enough of them, by
    /// [`Pipe::flush_full`], or by [`Pipe::hear`].
    pub(super) fn make<T>(
        &mut self,
        make: impl FnOnce(&mut Machine, &mut Vec<u8>, Time) -> T,
    ) -> T {
        let now = self.link.now();
        make(&mut self.link.machine(), &mut self.out, now)
    }

    /// Adds a part of an open body. Nothing, when the put was refused meanwhile.
    pub(super) fn part(&mut self, id: RequestId, bytes: &[u8]) {
        if self.link.machine().data(id, bytes.len() as u64, &mut self.out).is_some() {
            self.out.extend_from_slice(bytes);
        }
    }

    /// Writes what waits, if it is much.
    pub(super) fn flush_full(&mut self) -> Result<(), Trouble> {
        if self.out.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<(), Trouble> {
        let written = self.link.write(&self.out);
        self.out.clear();
        let acknowledged = &mut self.acknowledged;
        let mut explains =
            |said: Heard| said.map(|event| acknowledged.extend(acknowledges(event))).err();
        written
            .map_err(|error| last_words(&self.heard, &mut explains).unwrap_or_else(|| error.into()))
    }

    /// What the server has said; `None` when that is nothing.
    pub(super) fn try_hear(&mut self) -> Result<Option<Event>, Trouble> {
        match self.heard.try_recv() {
            Ok(heard) => heard.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    /// Writes what waits, and waits for what the server says.
    pub(super) fn hear(&mut self) -> Result<Event, Trouble> {
        self.flush()?;
        self.heard.recv().map_err(|_| gone())?
    }

    /// Ends the connection. Returns what the server has acknowledged by then and nobody has heard; to who is
    /// interrupted it acknowledges all that was sent, if that does not take long.
    pub(super) fn end(mut self, interrupt: &Interrupt) -> Vec<Event> {
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        if !interrupt.is_set() {
            self.link.close();
        }
        // It ends now, by the one or the other.
        acknowledged.extend(self.heard.iter().flatten().filter_map(acknowledges));
        if interrupt.is_set() {
            self.link.hear_out(&mut |event| acknowledged.extend(acknowledges(event)));
        }
        acknowledged
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.link.close();
        if let Some(listener) = self.listener.take() {
            // It may wait for room to say something.
            while self.heard.recv().is_ok() {}
            // A listener that panicked has been told of by its panic.
            let _ = listener.join();
        }
    }
}

fn acknowledges(event: Event) -> Option<Event> {
    matches!(event, Event::Done(_) | Event::Ok(_)).then_some(event)
}

fn gone() -> Trouble {
    Trouble::Broken("the connection is over".to_owned())
}
