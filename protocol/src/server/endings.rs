//! How a connection comes to its end: because its client is done or gone, is turned away, breaks the
//! rules or a deadline, has asked enough, or because the server stops.

use super::order::Order;
use super::outbound::Outbound;
use super::{
    Admission, Attachment, Cancelled, DrainCause, Inbound, NoMore, Reason, Server, Stage, Work,
};
use crate::clock::Time;
use crate::edges::{Step, Turn};
use crate::error::{Code, Refusal};
use crate::limits::{CANCELLED, CANCELLED_WITHIN, LINGER, LINGER_BYTES};
use crate::message::{Error, More, ServerMessage};

impl Server {
    /// The peer will send no more.
    pub fn receive_end(&mut self, now: Time) {
        self.starving = None;
        match self.stage {
            Stage::Talk | Stage::Drain(_) => {
                let torn =
                    self.line.held_bytes() > 0 || matches!(self.inbound, Inbound::Part { .. });
                self.line.clear();
                self.inbound = Inbound::LINE;
                if let Some(id) = self.receiving.take() {
                    self.forget(id, Step::Refused);
                    self.busy.ask(Work::Suspend(id));
                    self.release();
                }
                if torn && self.busy.requests.is_empty() && self.busy.outbound.is_empty() {
                    return self.gone(Reason::PeerGone);
                }
                self.turn(Turn::Quiet, Stage::Drain(DrainCause::PeerFinished));
                self.continue_list();
                self.finish_drain(now);
            }
            Stage::Greet => self.gone(Reason::PeerGone),
            Stage::Linger { reason, .. } => self.gone(reason),
            Stage::Closed(_) => {}
        }
    }

    /// The connection broke: nothing more can be read or written.
    pub fn broken(&mut self) {
        self.gone(Reason::PeerGone);
    }

    /// Ends the connection for this reason, of which the peer cannot be told.
    pub fn end_untold(&mut self, code: Code) {
        self.gone(Reason::Failed(code));
    }

    /// The server is about to stop: finishes what runs and takes no new requests.
    pub fn shut_down(&mut self, now: Time) {
        self.wind_up(NoMore::Stops, now);
    }

    /// The client's token is over, in one of its two ways: finishes what runs, which storage refuses to go on with,
    /// and takes no new requests.
    pub fn end_admission(&mut self, why: NoMore, now: Time) {
        // A list that waits for its client would not come to know of it.
        if let Some(&id) = self.busy.lists.front() {
            self.allow_more(&More { id });
        }
        self.wind_up(why, now);
    }

    fn wind_up(&mut self, why: NoMore, now: Time) {
        match self.stage {
            Stage::Talk => {
                self.take_no_more(why);
                self.finish_drain(now);
            }
            Stage::Greet => self.fail(why.refusal(), now),
            Stage::Drain(_) | Stage::Linger { .. } | Stage::Closed(_) => {}
        }
    }

    /// Ends the connection with an error that the peer is told. What storage has of it is
    /// suspended. A part that is open is still filled with the file's bytes; if it cannot be, the connection ends
    /// inside it, without a word (rule 5.6).
    pub fn fail(&mut self, refusal: Refusal, now: Time) {
        if matches!(self.stage, Stage::Linger { .. } | Stage::Closed(_)) {
            return;
        }
        let code = refusal.code;
        if self.busy.outbound.has_zeros() {
            return self.gone(Reason::Failed(code));
        }
        self.say(&ServerMessage::Error(Error::new(None, refusal)), now);
        self.linger(Reason::Failed(code), now);
    }

    /// Ends the connection because the client is not admitted. To be called when
    /// [`Login`](super::Command::Login) was polled, and before anything else is: of what the client sent behind
    /// `hello` nothing is carried out and nothing answered, whatever it was. The error comes in the
    /// place of `welcome`.
    pub fn refuse_login(&mut self, refusal: Refusal, now: Time) {
        if self.admission == Admission::Settled {
            return self.fail(refusal, now);
        }
        self.admission = Admission::Settled;
        self.drop_requests();
        self.busy.outbound = Outbound::new();
        // A last one for storage may have been among them; it is given again.
        self.busy.commands.clear();
        self.storage = Attachment::Attached;
        let failed = Reason::Failed(refusal.code);
        match &mut self.stage {
            // What came behind `hello` ended the connection; it has no effect either.
            Stage::Linger { reason, .. } => *reason = failed,
            Stage::Closed(_) => return self.detach(),
            Stage::Greet | Stage::Talk | Stage::Drain(_) => self.linger(failed, now),
        }
        self.say(&ServerMessage::Error(Error::new(None, refusal)), now);
        self.detach();
    }

    pub(super) fn throw_away(&mut self, count: usize) {
        if let Stage::Linger { left_bytes, reason, .. } = &mut self.stage {
            *left_bytes = left_bytes.saturating_sub(count as u64);
            if *left_bytes == 0 {
                let reason = *reason;
                self.gone(reason);
            }
        }
    }

    /// Whether the first bytes of the connection are no ftx.
    pub(super) fn is_foreign(&self, input: &[u8]) -> bool {
        self.line.held_bytes() == 0 && !input.starts_with(b"{")
    }

    pub(super) fn refuse_foreign(&mut self, input: &[u8], now: Time) {
        const TLS_ALERT_PROTOCOL_VERSION: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
        const HTTP: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\
            Content-Type: text/plain\r\nContent-Length: 44\r\n\r\n\
            This port speaks ftx/1. Use the ftx program.";
        match input.first() {
            Some(0x16) => self.busy.outbound.say_raw(TLS_ALERT_PROTOCOL_VERSION),
            Some(b'A'..=b'Z') => self.busy.outbound.say_raw(HTTP),
            _ => {
                let refusal = Refusal::new(Code::BadMessage, "a message begins with {");
                return self.fail(refusal, now);
            }
        }
        self.linger(Reason::Foreign, now);
    }

    /// Finishes what runs, and refuses what comes.
    pub(super) fn take_no_more(&mut self, why: NoMore) {
        if let Stage::Talk = self.stage {
            self.turn(Turn::Quiet, Stage::Drain(DrainCause::NoMore(why)));
        }
    }

    /// The client broke off a request that storage may still be about to begin with.
    pub(super) fn count_cancelled(&mut self, now: Time) {
        let Cancelled { since, count } = &mut self.cancelled;
        if since.after(CANCELLED_WITHIN) <= now {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count > CANCELLED {
            self.take_no_more(NoMore::Enough);
        }
    }

    fn linger(&mut self, reason: Reason, now: Time) {
        let until = now.after(LINGER);
        self.drop_requests();
        if !self.busy.outbound.has_part() {
            self.detach();
        }
        self.turn(Turn::Failed, Stage::Linger { until, left_bytes: LINGER_BYTES, reason });
    }

    pub(super) fn gone(&mut self, reason: Reason) {
        if self.closed().is_none() {
            self.drop_requests();
            self.detach();
            self.turn(Turn::Gone, Stage::Closed(reason));
        }
    }

    fn drop_requests(&mut self) {
        self.receiving = None;
        self.line.clear();
        self.busy.requests.clear();
        self.busy.order = Order::default();
        self.busy.to_open.clear();
        self.busy.opening.clear();
        self.busy.lists.clear();
        self.busy.requests_bytes = 0;
        self.busy.send_queue.clear();
    }

    /// Storage has nothing more to do for this connection.
    pub(super) fn detach(&mut self) {
        if self.storage == Attachment::Attached {
            self.storage = Attachment::Detached;
            self.busy.ask(Work::HangUp);
        }
    }

    /// Ends a connection on which nothing is owed any more.
    pub(super) fn finish_drain(&mut self, now: Time) {
        let Stage::Drain(cause) = self.stage else { return };
        if !self.busy.requests.is_empty() || !self.busy.outbound.is_empty() {
            return;
        }
        match cause {
            DrainCause::PeerFinished => {
                self.drop_requests();
                self.detach();
                self.turn(Turn::Finished, Stage::Closed(Reason::Finished));
            }
            DrainCause::NoMore(why) => self.fail(why.refusal(), now),
        }
    }
}
