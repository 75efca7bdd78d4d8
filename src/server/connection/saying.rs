//! How the last of what a connection says gets out: what TLS holds back, and that there is no more.

use std::io::ErrorKind;

use ftx_protocol::Time;
use ftx_protocol::server::Reason;

use super::{Connection, TurnEnd};

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
        match self.stream.flush() {
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
    pub(super) fn end_saying(&mut self) {
        let can_say = self.writable || self.stream.plain().is_some();
        if self.saying != Saying::Ended && can_say {
            match self.stream.shut_down_sending() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                // A socket that is gone already is what this would bring about.
                Ok(()) | Err(_) => self.saying = Saying::Ended,
            }
        }
    }

    /// The machine is done. What it said may not be out yet, inside TLS: the last acknowledgement
    /// must not be lost, and a peer that does not read is not waited for without end. One that was
    /// told of an error has had its time to read it.
    pub(super) fn leave(&mut self, reason: Reason, now: Time) -> TurnEnd {
        if reason == Reason::Finished {
            self.end_saying();
        }
        let is_out = reason != Reason::Finished
            || self.saying == Saying::Ended
            || self.stream.plain().is_some()
            || !self.stream.is_ready();
        match &mut self.guest {
            Some(guest) if !is_out => match guest.leaves_at(now) {
                until if now < until => TurnEnd::Wait,
                _ => TurnEnd::Close(reason),
            },
            _ => TurnEnd::Close(reason),
        }
    }
}
