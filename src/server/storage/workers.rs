//! Threads that may wait for a disk, and strands: queues whose jobs run one after another.
//!
//! Each connection has two strands, one for what it brings and one for what it fetches, so it can
//! hold two workers and no more, whatever its disk does. Strands have their turns by client, so nobody waits for all
//! that another one asks for on however many connections. Knows nothing of what a job does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{JoinHandle, Thread};

use ftx_disk::aligned::PageAligned;

use super::Job;
use super::client::Client;
use crate::server::fair_line::FairLine;
use crate::server::lock::lock;

/// Workers. They wait for disks more than they compute, so there are more than cores.
pub(super) const WORKERS: usize = 16;

/// Jobs that a strand may do before the others have their turn.
const BATCH_JOBS: usize = 96;

/// What a worker reads from files at a time: it is hashed or encrypted, and sent, while it is in a cache.
const SCRATCH_BYTES: usize = 256 * 1024;

/// Whoever does the jobs of one strand.
pub(super) trait Hand: Send {
    /// Does one job. `scratch` is the worker's own buffer, of [`SCRATCH_BYTES`].
    fn work(&mut self, job: Job, scratch: &mut [u8]) -> Worked;

    /// After a run of jobs: says what it held back to say in one go.
    fn pause(&mut self, ahead: Ahead);

    /// Whether nothing of it would be missed.
    fn is_empty(&self) -> bool;
}

/// What is left to do when a strand pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Jobs wait: what another thread can do meanwhile is gained.
    Jobs,
    /// Nothing, as far as can be seen.
    Nothing,
}

/// How a job ended.
pub(super) enum Worked {
    /// It is done.
    Done,
    /// It goes on with this, after the other strands had their turn.
    Unfinished(Job),
}

/// A queue of jobs and the hand that does them.
pub(super) struct Strand {
    /// Whose share its turns are of.
    client: Client,
    queue: Mutex<Queue>,
    hand: Mutex<Box<dyn Hand>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    activity: Activity,
}

/// What a strand is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Activity {
    #[default]
    Idle,
    /// In the line of the ready, or with a worker.
    Busy,
}

impl Strand {
    pub(super) fn new(client: Client, hand: Box<dyn Hand>) -> Self {
        Self { client, queue: Mutex::default(), hand: Mutex::new(hand) }
    }

    /// Whether nothing of it would be missed. Whoever asks has it alone.
    pub(super) fn is_empty(&mut self) -> bool {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        let hand = self.hand.get_mut().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.is_empty() && hand.is_empty()
    }

    /// Takes out jobs that wait and are like this.
    pub(super) fn take_out(&self, like_this: impl Fn(&Job) -> bool) -> VecDeque<Job> {
        let mut queue = lock(&self.queue);
        let (taken, left) = std::mem::take(&mut queue.jobs).into_iter().partition(like_this);
        queue.jobs = left;
        taken
    }

    fn next(&self) -> Option<Job> {
        lock(&self.queue).jobs.pop_front()
    }

    fn ahead(&self) -> Ahead {
        if lock(&self.queue).jobs.is_empty() { Ahead::Nothing } else { Ahead::Jobs }
    }

    /// Idle if there is nothing to do; else it has to stand in line again.
    fn rest(&self) -> Activity {
        let mut queue = lock(&self.queue);
        if queue.jobs.is_empty() {
            queue.activity = Activity::Idle;
            // Given back, not kept: a connection may be idle for long.
            queue.jobs = VecDeque::new();
        }
        queue.activity
    }
}

/// The line of strands that have something to do.
#[derive(Default)]
pub(super) struct Line {
    ready: Mutex<Ready>,
}

#[derive(Default)]
struct Ready {
    strands: FairLine<Client, Arc<Strand>>,
    /// Workers with nothing to do. The one that came last is woken first: what it works with is still in a cache.
    idle: Vec<Thread>,
    closed: bool,
}

/// The threads.
pub(super) struct Workers {
    line: Arc<Line>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start() -> std::io::Result<Self> {
        let line = Arc::new(Line::default());
        let threads = (0..WORKERS)
            .map(|number| {
                let line = Arc::clone(&line);
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || line.work())
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { line, threads })
    }

    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Does what stands in line, and ends.
    pub(super) fn finish(self) {
        self.line.close();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a fault in the program");
            }
        }
    }
}

impl Line {
    /// Adds jobs to a strand, and the strand to the line.
    pub(super) fn submit(&self, strand: &Arc<Strand>, jobs: Vec<Job>) {
        let mut queue = lock(&strand.queue);
        queue.jobs.extend(jobs);
        let was = std::mem::replace(&mut queue.activity, Activity::Busy);
        drop(queue);
        if was == Activity::Idle {
            self.stand(Arc::clone(strand));
        }
    }

    fn stand(&self, strand: Arc<Strand>) {
        let mut ready = lock(&self.ready);
        ready.strands.push(strand.client, strand);
        let worker = ready.idle.pop();
        drop(ready);
        if let Some(worker) = worker {
            worker.unpark();
        }
    }

    /// Takes a strand out of the line, if nothing of it would be missed and no worker has it in hand. Its last job
    /// was submitted.
    pub(super) fn lets_go(&self, strand: &Arc<Strand>) -> bool {
        // A worker that has it in hand may be waiting for its disk.
        let hand = match strand.hand.try_lock() {
            Ok(hand) => hand,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !hand.is_empty() || strand.ahead() == Ahead::Jobs {
            return false;
        }
        lock(&self.ready).strands.remove(strand.client, |other| Arc::ptr_eq(other, strand));
        true
    }

    fn close(&self) {
        let mut ready = lock(&self.ready);
        ready.closed = true;
        ready.idle.drain(..).for_each(|worker| worker.unpark());
    }

    fn work(&self) {
        let mut scratch = PageAligned::new(SCRATCH_BYTES);
        while let Some(strand) = self.next() {
            let mut hand = lock(&strand.hand);
            loop {
                for _ in 0..BATCH_JOBS {
                    let Some(job) = strand.next() else { break };
                    if let Worked::Unfinished(job) = hand.work(job, &mut scratch) {
                        // Behind the others: the end of the connection may be among them.
                        lock(&strand.queue).jobs.push_back(job);
                        break;
                    }
                }
                hand.pause(strand.ahead());
                if strand.rest() == Activity::Idle {
                    break;
                }
                // To wake another worker for it, with nobody waiting, would be all cost.
                if !lock(&self.ready).strands.is_empty() {
                    drop(hand);
                    self.stand(strand);
                    break;
                }
            }
        }
    }

    fn next(&self) -> Option<Arc<Strand>> {
        let this = std::thread::current();
        loop {
            let mut ready = lock(&self.ready);
            // It stands there still if it was not woken for a strand.
            ready.idle.retain(|worker| worker.id() != this.id());
            if let Some(strand) = ready.strands.pop() {
                return Some(strand);
            }
            if ready.closed {
                return None;
            }
            ready.idle.push(this.clone());
            drop(ready);
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::network::Network;

    /// A hand that has so much open.
    struct Has(usize);

    impl Hand for Has {
        fn work(&mut self, _: Job, _: &mut [u8]) -> Worked {
            Worked::Done
        }

        fn pause(&mut self, _: Ahead) {}

        fn is_empty(&self) -> bool {
            self.0 == 0
        }
    }

    fn of(address: u32, has: usize) -> Arc<Strand> {
        let client = Client::Address(Network::V4(address));
        Arc::new(Strand::new(client, Box::new(Has(has))))
    }

    impl Line {
        pub(in super::super) fn standing(&self) -> usize {
            lock(&self.ready).strands.len()
        }
    }

    #[test]
    fn a_strand_that_a_worker_has_in_hand_or_that_has_something_open_is_not_let_go() {
        let line = Line::default();
        let strand = of(1, 0);
        line.submit(&strand, vec![Job::HangUp]);
        assert!(!line.lets_go(&strand), "it has a job");
        drop(strand.next());
        let hand = lock(&strand.hand);
        assert!(!line.lets_go(&strand), "it is in hand");
        drop(hand);
        assert_eq!(line.standing(), 1);
        assert!(line.lets_go(&strand));
        assert_eq!(line.standing(), 0);
        assert!(!line.lets_go(&of(1, 1)), "it has something open");
    }

    #[test]
    fn a_client_with_many_connections_has_no_more_turns_than_one_with_one() {
        let line = Line::default();
        let stands = |address| {
            let strand = of(address, 0);
            line.submit(&strand, vec![Job::HangUp]);
            strand
        };
        let many: Vec<Arc<Strand>> = (0..256).map(|_| stands(1)).collect();
        let one = stands(2);
        assert!(Arc::ptr_eq(&line.next().unwrap(), &many[0]));
        assert!(Arc::ptr_eq(&line.next().unwrap(), &one));
        // It has more to do after its turn, as what is read to be hashed has.
        line.stand(Arc::clone(&one));
        assert!(Arc::ptr_eq(&line.next().unwrap(), &many[1]));
        assert!(Arc::ptr_eq(&line.next().unwrap(), &one));
        assert_eq!(line.standing(), 254);
    }
}
