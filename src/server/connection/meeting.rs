//! The first byte of a connection: whether it speaks plain or TLS, and whether it may.

use std::io::ErrorKind;
use std::time::Duration;

use ftx_protocol::{Code, Time};
use tracing::debug;

use super::{Connection, Face};
use crate::server::access::Transport;
use crate::server::storage::audit;
use crate::server::stream::TLS_FIRST_BYTE;

impl Connection {
    /// Finds out from its first byte what a connection speaks. The byte stays where it is.
    pub(super) fn meet(&mut self, now: Time) -> Face {
        let Some(guest) = &self.guest else { return Face::Known };
        if !self.readable {
            self.machine.starving(now);
            return Face::Unknown;
        }
        match (self.stream.first_byte(), guest.transport(), guest.tls()) {
            (Ok(Some(TLS_FIRST_BYTE)), _, Some(tls)) => match self.stream.inside_tls(tls) {
                Ok(stream) => self.stream = stream,
                Err(error) => {
                    debug!(peer = %self.peer(), %error, "cannot speak TLS");
                    self.machine.broken();
                }
            },
            (Ok(Some(b'{')), Transport::Tls, _) => {
                let refusal = Code::TlsRequired.into();
                audit::not_admitted(self.peer(), &refusal, Duration::ZERO);
                self.face = Face::Known;
                self.fail(refusal.code, now);
            }
            // It is done, or speaks something else, which the machine sees.
            (Ok(_), _, _) => {}
            (Err(error), _, _) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                self.machine.starving(now);
                return Face::Unknown;
            }
            (Err(error), _, _) if error.kind() == ErrorKind::Interrupted => return self.meet(now),
            (Err(_), _, _) => self.machine.broken(),
        }
        self.face = Face::Known;
        Face::Known
    }
}
