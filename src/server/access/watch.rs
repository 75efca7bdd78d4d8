//! The thread that looks at the tokens file, and writes down what was used.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::error;

use super::tokens::{Looked, Saved, Tokens};

/// How often it looks: a stat costs a few microseconds.
const LOOK: Duration = Duration::from_millis(50);

/// How often it writes down what was used: each time costs a sync.
const SAVE: Duration = Duration::from_secs(5);

/// How long it tries to write it down at the end, while another server does the same: each has it for one sync.
const SAVE_LAST: Duration = Duration::from_secs(2);

/// And how often.
const SAVE_AGAIN: Duration = Duration::from_millis(10);

/// Keeps the tokens as the file has them, until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Watch {
    /// Hung up to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(
        tokens: Arc<Tokens>,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("tokens".into()).spawn(move || {
            let mut saved = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                if tokens.look() == Looked::Changed {
                    changed();
                }
                if saved.elapsed() >= SAVE && tokens.save_usage() == Saved::Yes {
                    saved = Instant::now();
                }
            }
            let end = Instant::now() + SAVE_LAST;
            while tokens.save_usage() == Saved::NotNow {
                if Instant::now() >= end {
                    error!("another server keeps what tokens have used to itself: what they used here last is forgotten");
                    break;
                }
                std::thread::sleep(SAVE_AGAIN);
            }
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A thread that failed has said so.
            let _ = thread.join();
        }
    }
}
