//! One connection's way into storage.

use std::sync::Arc;

use super::Job;
use super::workers::{Line, Strand};

/// Two strands: what a connection brings, and what it fetches, do not wait for each other.
pub(in crate::server) struct Lane {
    line: Arc<Line>,
    bring: Arc<Strand>,
    fetch: Arc<Strand>,
}

impl Lane {
    pub(super) fn new(line: Arc<Line>, bring: Strand, fetch: Strand) -> Self {
        Self { line, bring: Arc::new(bring), fetch: Arc::new(fetch) }
    }

    /// Hands a job over. Never waits.
    pub(in crate::server) fn submit(&self, job: Job) {
        match job {
            Job::Begin(_)
            | Job::Write { .. }
            | Job::Finish(_)
            | Job::Discard(_)
            | Job::Suspend(_)
            | Job::Resume(_)
            | Job::Stat(_)
            | Job::Change(_) => self.line.submit(&self.bring, job),
            Job::Open(_)
            | Job::Send { .. }
            | Job::Digest(_)
            | Job::Sum(_)
            | Job::List(_)
            | Job::More(_)
            | Job::Close(_) => {
                self.line.submit(&self.fetch, job);
            }
            Job::HangUp => {
                self.line.submit(&self.bring, Job::HangUp);
                self.line.submit(&self.fetch, Job::HangUp);
            }
        }
    }
}
