//! How long the server waits for its peer (rule 10.3), and when it gives a sign of life itself.
//!
//! A clock runs only while the driver says that it waits: for bytes, or for room to write. Time in
//! which the server waits for its storage, or the driver for a buffer, is nobody's fault.

use std::time::Duration;

use super::requests::{Progress, Request};
use super::{DrainCause, Inbound, Reason, Server, Settings, Stage};
use crate::clock::Time;
use crate::error::Code;
use crate::limits::{
    ALIVE_EVERY, PART_BYTES_PER_SECOND_MIN, READ_BYTES_PER_SECOND_MIN, UNKEPT_BYTES,
};
use crate::message::{Alive, ServerMessage};

/// The peer's reading of what the server says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Since when nothing more can be written.
    blocked: Option<Time>,
    /// How long the driver has waited for room, less a second for each
    /// [`READ_BYTES_PER_SECOND_MIN`] that were written: what is left of it is patience that is used up.
    waited: Duration,
}

impl Reading {
    /// There may be room again.
    fn not_blocked(&mut self, now: Time) {
        if let Some(since) = self.blocked.take() {
            self.waited = self.waited.saturating_add(since.until(now));
        }
    }

    /// There was room for so many bytes.
    pub(super) fn wrote(&mut self, count: u64, now: Time) {
        self.not_blocked(now);
        if !self.waited.is_zero() {
            let micros = count.saturating_mul(1_000_000) / READ_BYTES_PER_SECOND_MIN;
            self.waited = self.waited.saturating_sub(Duration::from_micros(micros));
        }
    }

    /// When the patience with a peer that does not read ends.
    fn deadline(&self, idle_timeout: Duration) -> Option<Time> {
        self.blocked.map(|since| since.after(idle_timeout.saturating_sub(self.waited)))
    }
}

impl Server {
    /// There was nothing to read.
    pub fn starving(&mut self, now: Time) {
        self.starving.get_or_insert(now);
    }

    /// The driver does not look for more, whatever may have come: it does not wait for the peer.
    pub fn not_reading(&mut self, now: Time) {
        if let Some(since) = self.starving.take() {
            self.count_waiting(since.until(now));
        }
    }

    /// Nothing more could be written.
    pub fn blocked(&mut self, now: Time) {
        self.reading.blocked.get_or_insert(now);
    }

    /// More may be written: from now on the peer waits for the driver, and for whoever reads the file.
    pub fn not_blocked(&mut self, now: Time) {
        self.reading.not_blocked(now);
    }

    /// So many bytes are out only now that the driver had taken before: inside TLS it holds some back.
    pub fn wrote_late(&mut self, count: u64, now: Time) {
        self.reading.wrote(count, now);
    }

    /// Whether the peer has read nothing for as long as it may, as far as the driver has said.
    pub fn is_unread(&self, now: Time) -> bool {
        self.reading.deadline(self.settings.idle_timeout).is_some_and(|end| end <= now)
    }

    /// When [`Server::on_time`] has to be called, at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let alive = self.owes_a_sign().then(|| self.spoke.after(ALIVE_EVERY));
        [self.patience(), alive].into_iter().flatten().min()
    }

    /// Does what the time asks for.
    pub fn on_time(&mut self, now: Time) {
        if self.patience().is_some_and(|end| end <= now) {
            match self.stage {
                Stage::Linger { reason, .. } => self.gone(reason),
                _ => self.fail(Code::Timeout.into(), now),
            }
        } else if self.owes_a_sign() && self.spoke.after(ALIVE_EVERY) <= now {
            self.say(&ServerMessage::Alive(Alive {}), now);
        }
    }

    /// The end of the server's patience with its peer: none while it waits for itself.
    fn patience(&self) -> Option<Time> {
        let Settings { header_timeout, idle_timeout, .. } = *self.settings;
        let unread = self.reading.deadline(idle_timeout);
        let silent = match &self.stage {
            // The last of what was said may not be out yet.
            Stage::Closed(Reason::Finished) => None,
            Stage::Closed(_) => return None,
            Stage::Linger { until, .. } => return Some(*until),
            Stage::Drain(DrainCause::PeerFinished) => None,
            Stage::Greet | Stage::Talk | Stage::Drain(DrainCause::NoMore(_)) => {
                self.starving.and_then(|since| {
                    let idle = since.after(idle_timeout);
                    match self.inbound {
                        Inbound::Part { waited, size, .. } => {
                            let slowest = Duration::from_secs(size / PART_BYTES_PER_SECOND_MIN);
                            let left = idle_timeout.saturating_add(slowest).saturating_sub(waited);
                            Some(idle.min(since.after(left)))
                        }
                        Inbound::Line { waited }
                            if self.line.held_bytes() > 0 || matches!(self.stage, Stage::Greet) =>
                        {
                            Some(since.after(header_timeout.saturating_sub(waited)))
                        }
                        Inbound::Line { .. } if self.waits_for_peer() => Some(idle),
                        Inbound::Line { .. } => None,
                    }
                })
            }
        };
        [unread, silent].into_iter().flatten().min()
    }

    /// Whether it is the client's turn: it has asked for nothing, has more of a body to send (not
    /// when it has sent as much as it may before more is kept), or has to ask for more of a list.
    fn waits_for_peer(&self) -> bool {
        match self.receiving.and_then(|id| self.busy.requests.get(&id)) {
            Some(Request::Receive(receiving)) => {
                receiving.at.saturating_sub(receiving.kept) < UNKEPT_BYTES
            }
            // What is held back, by a list that waits for its turn, goes on when that does.
            _ => {
                let lists = self.busy.lists.len().saturating_add(self.busy.order.held_back());
                self.busy.requests.len() <= lists && !self.is_listing()
            }
        }
    }

    /// Whether storage looks for entries, or the next ones wait for room to be said.
    fn is_listing(&self) -> bool {
        match self.busy.lists.front().and_then(|id| self.busy.requests.get(id)) {
            Some(Request::List(listing)) => {
                listing.ahead > 0 || listing.progress != Progress::Connection
            }
            _ => false,
        }
    }

    fn owes_a_sign(&self) -> bool {
        let open = matches!(self.stage, Stage::Talk | Stage::Drain(_));
        open && !self.busy.requests.is_empty() && self.busy.outbound.is_empty()
    }

    /// The client was waiting for this; its silence counts from now.
    pub(super) fn answered(&mut self, now: Time) {
        if let Some(since) = self.starving {
            self.count_waiting(since.until(now));
            self.starving = Some(now);
        }
    }

    /// Counts the time that the driver waited for the rest of what the peer has begun.
    pub(super) fn count_waiting(&mut self, time: Duration) {
        let (Inbound::Part { waited, .. } | Inbound::Line { waited }) = &mut self.inbound;
        *waited = waited.saturating_add(time);
    }
}
