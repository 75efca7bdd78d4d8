//! A connection on which many requests are under way: one thread sends, another one hears.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ftx_protocol::RequestId;
use ftx_protocol::Time;
use ftx_protocol::client::{Client as Machine, Event};

use crate::Client;
use crate::failure::Trouble;
use crate::link::Link;

/// Requests under way at most: below what every server allows.
pub(super) const PIPE_REQUESTS_MAX: usize = 2_048;

/// What the server may have said and nobody has looked at: more than it can have been asked.
const UNHEARD_MAX: usize = 2 * PIPE_REQUESTS_MAX;

/// Lines and bodies are written together up to this.
const FLUSH_BYTES: usize = 256 * 1024;

/// After a failed write the server may still have said why; this is how long it is listened to.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What one end hears from the other.
type Heard = Result<Event, Trouble>;

/// The connection. Ends when it is dropped.
pub(super) struct Pipe {
    link: Arc<Link>,
    heard: Receiver<Heard>,
    listener: Option<JoinHandle<()>>,
    out: Vec<u8>,
}

impl Pipe {
    pub(super) fn open(client: &Client) -> Result<Self, Trouble> {
        let link = client.link()?;
        let (sender, heard) = sync_channel(UNHEARD_MAX);
        let listener = {
            let link = Arc::clone(&link);
            std::thread::spawn(move || link.listen(&sender, |_| false))
        };
        Ok(Self { link, heard, listener: Some(listener), out: Vec::new() })
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
        written.map_err(|error| self.last_words().unwrap_or_else(|| error.into()))
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

    /// What the server said before the connection broke, if that explains it.
    fn last_words(&mut self) -> Option<Trouble> {
        loop {
            match self.heard.recv_timeout(LAST_WORDS) {
                Ok(Ok(_)) => {}
                Ok(Err(trouble)) => return Some(trouble),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
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

fn gone() -> Trouble {
    Trouble::Broken("the connection is over".to_owned())
}
