//! The thread that gives back the room of what was removed. It may wait for the disk as long as
//! it likes: nobody waits for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Store;
use crate::server::lock::lock;

/// The thread, and the way to it.
pub(super) struct Sweeper {
    wish: Arc<Wish>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    Sweep,
    End,
}

struct Wish {
    next: Mutex<Next>,
    wake: Condvar,
}

impl Sweeper {
    /// Starts it, with what an earlier server left.
    pub(super) fn start(store: Arc<Store>) -> std::io::Result<Self> {
        let wish = Arc::new(Wish { next: Mutex::new(Next::Sweep), wake: Condvar::new() });
        let thread = {
            let wish = Arc::clone(&wish);
            std::thread::Builder::new().name("sweep".into()).spawn(move || wish.work(&store))?
        };
        Ok(Self { wish, thread: Mutex::new(Some(thread)) })
    }

    /// Something was removed.
    pub(super) fn sweep(&self) {
        let mut next = lock(&self.wish.next);
        if *next == Next::Wait {
            *next = Next::Sweep;
            self.wish.wake.notify_one();
        }
    }

    /// Ends the thread. What is left is taken up at the next start.
    pub(super) fn finish(&self) {
        *lock(&self.wish.next) = Next::End;
        self.wish.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the sweeping thread ended by a fault in the program");
        }
    }
}

impl Wish {
    fn work(&self, store: &Store) {
        loop {
            let mut next = lock(&self.next);
            while *next == Next::Wait {
                next = self.wake.wait(next).unwrap_or_else(PoisonError::into_inner);
            }
            if *next == Next::End {
                return;
            }
            // Before it looks: what is removed from now on is looked for again.
            *next = Next::Wait;
            drop(next);
            store.sweep_trash(&|| *lock(&self.next) != Next::End);
        }
    }
}
