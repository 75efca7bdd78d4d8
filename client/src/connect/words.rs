//! What a person reads when a server is not spoken to.

use std::io;
use std::time::Duration;

use ftx_channel::{Found, Pin, TlsError, Trust};

use super::By;
use crate::Client;
use crate::failure::{Class, Failure};

/// Who turns a client away does so at once. A server that hangs up after more than this has waited for the rest of a
/// handshake, for its `--header-timeout` of 10 s or what it was told.
const TURNED_AWAY: Duration = Duration::from_secs(3);

impl Client {
    pub(super) fn untrusted(&self, why: String) -> Failure {
        Failure::new(Class::Untrusted, format!("the server at {} {why}", self.server))
    }

    pub(super) fn unknown(&self) -> Failure {
        let server = &self.server;
        Failure::new(
            Class::Untrusted,
            format!(
                "cannot be sure that this is the right server: {server} is not known here; run: \
                 ftx login ftx://{server}#sha256:… (take the line from the server, not from here)"
            ),
        )
    }

    pub(super) fn two_keys(&self, listed: &str, said: Pin) -> Failure {
        let server = &self.server;
        Failure::new(
            Class::Untrusted,
            format!(
                "{server} is known here by {listed}, and the address says the key {said}: nothing was \
                 sent. If you know why: ftx login --forget {server}, and log in with the new line"
            ),
        )
    }

    /// The server has shown a key, and is not the one that is meant.
    pub(super) fn not_the_one(
        &self,
        trust: Trust,
        by: By,
        found: Found,
        error: &io::Error,
    ) -> Failure {
        let (server, now) = (&self.server, found.pin);
        let anew = format!("ftx login --forget {server}, and log in with the new line");
        match (trust, by) {
            (Trust::Pin(pin), _) if pin == now => self.untrusted(format!(
                "shows the right key and cannot prove that it is its own ({error}): somebody may be in \
                 between. Nothing was sent"
            )),
            (Trust::Pin(pin), By::List) => Failure::new(
                Class::Untrusted,
                format!(
                    "the key of {server} has CHANGED: it was {pin}, it is now {now}. Somebody may be in \
                     between, or the server was set up anew. Nothing was sent. If you know why: {anew}"
                ),
            ),
            (Trust::Pin(pin), By::Address) => self.untrusted(format!(
                "has another key than its address says: that is {pin}, and it has {now}. Somebody may \
                 be in between, or the server was set up anew. Nothing was sent. Take the line from the \
                 server once more"
            )),
            (Trust::Roots | Trust::Ask, _) => self.untrusted(format!(
                "has shown a good certificate before, and now one that this system does not accept \
                 ({error}). Somebody may be in between, or its certificate was not renewed. Nothing was \
                 sent. If it was set up anew: {anew}"
            )),
        }
    }

    /// Another service of that host, perhaps with the same key.
    pub(super) fn speaks_no_ftx(&self) -> Failure {
        let why = "speaks TLS, but not ftx/1: another service may be there. Nothing was sent";
        self.untrusted(why.to_owned())
    }

    pub(super) fn speaks_no_tls(&self, trust: Trust, by: By, error: &io::Error) -> Failure {
        let next = match (trust, by) {
            // Without encryption it is never spoken to, whatever the options say.
            (Trust::Pin(_) | Trust::Roots, By::List) => format!(
                "The one that is known here does: another service may be at that address, or a server \
                 without TLS. If you know why: ftx login --forget {}",
                self.server
            ),
            (Trust::Pin(_) | Trust::Roots, By::Address) => "The one with the key of its address does: \
                 another service may be at that address, or a server without TLS. Take the line from the \
                 server once more"
                .to_owned(),
            (Trust::Ask, _) => "To one on this machine no token and no key is needed; to another: \
                 restart it with what ftx serve --help says, or accept the danger with --plaintext"
                .to_owned(),
        };
        self.untrusted(format!(
            "cannot be spoken to inside TLS ({error}). Nothing was sent, and nothing is without \
             encryption. {next}"
        ))
    }

    pub(super) fn no_tls(&self, error: &TlsError) -> Failure {
        let class = match error {
            TlsError::Host(_) => Class::Usage,
            _ => Class::Untrusted,
        };
        Failure::new(class, format!("cannot speak to {}: {error}", self.server))
    }
}

/// Why a server may have hung up so long after the handshake began.
pub(super) fn hung_up_after(time: Duration) -> &'static str {
    if time < TURNED_AWAY {
        "it hung up before it said who it is: it may be full, or have this address wait after failed \
         logins; then it helps to try again in some minutes"
    } else {
        "it hung up after some seconds, before it said who it is: the line may lose packets, perhaps \
         only large ones (MTU); or it is full, or has this address wait after failed logins; then it \
         helps to try again in some minutes"
    }
}

pub(super) fn nowhere() -> Failure {
    let message = "cannot remember the server: neither XDG_STATE_HOME nor HOME is set";
    Failure::new(Class::Local, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_hangs_up_late_may_have_waited_for_what_was_lost() {
        assert!(!hung_up_after(Duration::from_millis(200)).contains("MTU"));
        assert!(hung_up_after(Duration::from_secs(10)).contains("MTU"));
    }
}
