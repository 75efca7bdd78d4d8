//! How the last of what a connection says gets out: what TLS holds back, and that there is no more.

use std::io::ErrorKind;

use ftx_protocol::server::Reason;
use ftx_protocol::{Code, Time};

use super::{Connection, LastTry, TurnEnd};

/// How far the end of what this side says has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying {
    /// It goes on.
    On,
    /// The socket did not take all that was written. Only inside TLS.
    Held,
    /// All was said, and that it was.
    Ended,
}

impl Connection {
    /// Has the socket take what was written, as far as it does.
    pub(super) fn flush(&mut self, now: Time) {
        if self.stream.plain().is_some() || !self.writable {
            return;
        }
        let before = self.stream.unsent_bytes();
        let flushed = self.stream.flush();
        self.wrote_late(before, now);
        match flushed {
            Ok(()) if self.saying == Saying::Held => {
                self.saying = Saying::On;
                // The peer has read: it is not waited for any more.
                self.machine.not_blocked(now);
            }
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                self.saying = Saying::Held;
                self.machine.blocked(now);
            }
            Err(_) => {
                self.machine.broken();
                self.carry_out(None, now);
            }
        }
    }

    /// Says that nothing more will be said, behind what was written.
    pub(super) fn end_saying(&mut self, now: Time) {
        let can_say = self.writable || self.stream.plain().is_some();
        if self.saying == Saying::Ended || !can_say {
            return;
        }
        let before = self.stream.unsent_bytes();
        let ended = self.stream.shut_down_sending();
        self.wrote_late(before, now);
        match ended {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                self.machine.blocked(now);
            }
            // A socket that is gone already is what this would bring about.
            Ok(()) | Err(_) => self.saying = Saying::Ended,
        }
    }

    /// Counts what is out of so many bytes that TLS held back.
    fn wrote_late(&mut self, held_bytes: usize, now: Time) {
        let out = held_bytes.saturating_sub(self.stream.unsent_bytes());
        if out > 0 {
            self.last_try = LastTry::Left;
            self.machine.wrote_late(out as u64, now);
        }
    }

    /// The machine is done. What it said may not be out yet, inside TLS: the last acknowledgement
    /// must not be lost, and who reads on slowly is waited for as before. One that was told of an error has
    /// had its time to read it; it hears of the end behind it all the same, also if it ended first.
    pub(super) fn leave(&mut self, reason: Reason, now: Time) -> TurnEnd {
        match reason {
            _ if !self.stream.is_ready() => return TurnEnd::Close(reason),
            Reason::Finished => {}
            Reason::Failed(_) | Reason::Foreign => {
                if self.machine.has_said_all() {
                    self.end_saying(now);
                }
                return TurnEnd::Close(reason);
            }
            Reason::PeerGone => return TurnEnd::Close(reason),
        }
        self.end_saying(now);
        match self.saying {
            Saying::Ended => TurnEnd::Close(reason),
            Saying::On | Saying::Held if self.machine.is_unread(now) => {
                TurnEnd::Close(Reason::Failed(Code::Timeout))
            }
            Saying::On | Saying::Held => {
                self.machine.blocked(now);
                TurnEnd::Wait
            }
        }
    }
}
