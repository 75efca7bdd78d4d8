//! What the machine of a connection wants done: who it is found out, and what is allowed becomes a job.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ftx_protocol::message::Change;
use ftx_protocol::server::{Command, Event, Work};
use ftx_protocol::token::Token;
use ftx_protocol::{Refusal, Time};

use super::Connection;
use crate::server::access::{self, Granted, Operation, Principal, Who};
use crate::server::buffers::{Buffer, Piece};
use crate::server::storage::{Job, audit};

impl Connection {
    /// Turns the machine's commands into jobs, as far as they are allowed. Whatever was done before, this comes
    /// after it, so here room is given back that the machine needs no more.
    pub(super) fn carry_out(&mut self, input: Option<&Arc<Buffer>>, now: Time) {
        let mut jobs = Vec::new();
        while let Some(command) = self.machine.poll_command() {
            match command {
                Command::Login(token) => self.log_in(token.as_ref(), now),
                Command::Work(work) => jobs.extend(self.allowed(work, input, now)),
                Command::Refused(refused) => {
                    audit::unbegun(self.peer(), &self.who(), &refused, now);
                }
            }
        }
        self.begin_later(&mut jobs);
        self.submit(jobs);
        self.claim.shrink_to(self.machine.held_bytes());
    }

    fn log_in(&mut self, token: Option<&Token>, now: Time) {
        let Some(guest) = &mut self.guest else { return };
        let began = Instant::now();
        match guest.log_in(token, self.stream.channel(), now) {
            Ok(()) if guest.is_at_home() && self.stream.plain().is_some() => self.guest = None,
            Ok(()) => {
                if token.is_some() {
                    audit::logged_in(self.lane.peer(), &guest.who(), began);
                }
            }
            Err(refusal) => {
                audit::not_admitted(self.lane.peer(), &refusal, began.elapsed());
                self.machine.refuse_login(refusal, now);
            }
        }
    }

    /// The job, if it is allowed and has not to wait.
    fn allowed(&mut self, work: Work, input: Option<&Arc<Buffer>>, now: Time) -> Option<Job> {
        let operation = Operation::of(&work);
        match self.authorize(&operation) {
            Ok(granted) => {
                let job = self.job(work, granted, input, now)?;
                self.hold_back(job, now)
            }
            Err(refusal) => {
                audit::denied(self.peer(), &self.who(), &operation, &refusal);
                let id = work.id()?;
                self.machine.handle(Event::Refused { id, refusal }, now);
                None
            }
        }
    }

    fn authorize(&mut self, operation: &Operation<'_>) -> Result<Granted, Refusal> {
        match (&mut self.guest, operation) {
            // What was granted travels with what goes on, and is asked for its part by storage.
            (_, Operation::Continue) => Ok(Granted::default()),
            (Some(guest), operation) => guest.authorize(operation),
            (None, operation) => {
                // It has no time that could be over.
                let now = SystemTime::UNIX_EPOCH;
                access::authorize(&mut Principal::Local, operation, now)
            }
        }
    }

    pub(in crate::server) fn who(&self) -> Who {
        self.guest.as_ref().map_or(Who::Local, |guest| guest.who())
    }

    pub(super) fn submit(&mut self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            let who = self.who();
            self.lane.submit(jobs, &who);
        }
    }

    fn job(
        &mut self,
        work: Work,
        granted: Granted,
        input: Option<&Arc<Buffer>>,
        now: Time,
    ) -> Option<Job> {
        Some(match work {
            Work::Begin(mut put, behind) => {
                if let Some(condition) = granted.condition.clone() {
                    put.condition = condition;
                }
                self.begin(put, behind, granted, now)?
            }
            Work::Write { id, bytes } => Job::Write { id, piece: Piece::new(input?, bytes) },
            Work::Finish(end) => Job::Finish(end),
            Work::Discard(id, refusal) => Job::Discard(id, refusal),
            Work::Suspend(id) => Job::Suspend(id),
            Work::Resume(resume) => Job::Resume(resume, granted),
            Work::Stat(stat) => Job::Stat(stat, granted),
            Work::Sum(stat) => Job::Sum(stat, granted),
            Work::List(list) => Job::List(list, granted),
            Work::More(id) => Job::More(id),
            Work::Change(mut change) => {
                if let (Change::Move(moving), Some(condition)) =
                    (&mut change, granted.condition.clone())
                {
                    moving.condition = condition;
                }
                Job::Change(change, granted)
            }
            Work::Open(get) => Job::Open(get, granted),
            Work::Digest(id) => Job::Digest(id),
            Work::Close(id) => Job::Close(id),
            Work::HangUp => Job::HangUp,
        })
    }
}
