//! The state of one side of TLS, as rustls has it: records in, content and records out. Knows no socket,
//! and keeps none of the bytes.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use crate::config::ALPN;

/// What the records around content are longer than it: for each of them, of up to 16 KiB, 22 bytes;
/// and the answer to a key update.
const RECORDS_BYTES: usize = 1024;

pub(crate) enum Engine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What became of bytes that came.
pub(crate) struct Fed {
    /// So many in front are done with. The others are not whole, and have to be in front of what comes
    /// next.
    pub(crate) taken: usize,
    /// The peer said that it is done; what is behind that is nothing.
    pub(crate) has_ended: bool,
}

/// Where content goes: first to the caller, then to a place where it is kept.
pub(crate) struct Room<'a> {
    free: &'a mut [u8],
    filled: usize,
    spill: &'a mut Vec<u8>,
}

impl<'a> Room<'a> {
    pub(crate) fn new(free: &'a mut [u8], spill: &'a mut Vec<u8>) -> Self {
        Self { free, filled: 0, spill }
    }

    /// Bytes that the caller has.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    fn put(&mut self, content: &[u8]) {
        let free = self.free.get_mut(self.filled..).unwrap_or_default();
        let count = free.len().min(content.len());
        let (now, later) = content.split_at(count);
        if let Some(place) = free.get_mut(..count) {
            place.copy_from_slice(now);
        }
        self.filled = self.filled.saturating_add(count);
        self.spill.reserve_exact(later.len());
        self.spill.extend_from_slice(later);
    }

    /// It was not for us.
    fn forget(&mut self) {
        self.filled = 0;
        self.spill.clear();
    }
}

/// What one step of rustls left to be done.
enum Step {
    More,
    Ended,
    /// Nothing, until more comes or is to be sent.
    Idle,
}

impl Engine {
    pub(crate) fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        UnbufferedClientConnection::new(Arc::clone(config), name).map(Self::Client)
    }

    pub(crate) fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(Arc::clone(config)).map(Self::Server)
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Goes through all that came. What is to be said to it is put behind `out`.
    ///
    /// # Errors
    /// The end of the connection: what is no TLS, and a peer that is not the right one. What is to be
    /// said to that is behind `out` as well.
    pub(crate) fn feed(
        &mut self,
        wire: &mut [u8],
        room: &mut Room<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Fed, Error> {
        let mut taken: usize = 0;
        let mut has_ended = false;
        loop {
            let rest = wire.get_mut(taken..).unwrap_or_default();
            let (discard, step) = self.step(rest, room, out);
            taken = taken.saturating_add(discard);
            let checked = step.and_then(|step| self.check_what_is_spoken().map(|()| step));
            match checked {
                Ok(Step::More) => {}
                Ok(Step::Ended) => has_ended = true,
                Ok(Step::Idle) => return Ok(Fed { taken, has_ended }),
                Err(error) => {
                    if error == Error::NoApplicationProtocol {
                        room.forget();
                    }
                    self.speak(out);
                    return Err(error);
                }
            }
        }
    }

    /// Puts what rustls has to say by itself behind `out`.
    pub(crate) fn speak(&mut self, out: &mut Vec<u8>) {
        while self.common().wants_write() {
            // It says that before it looks at what came.
            let (_, step) = self.step(&mut [], &mut Room::new(&mut [], &mut Vec::new()), out);
            if step.is_err() {
                return;
            }
        }
    }

    /// Encrypts all of `content` into `wire`, and makes it as long as that takes. Returns how long that
    /// is. `unfinished` is what came and was not whole. What rustls says by itself comes before:
    /// [`speak`](Self::speak).
    ///
    /// # Errors
    /// Those of rustls, after which nothing more can be sent.
    pub(crate) fn encrypt(
        &mut self,
        unfinished: &mut Vec<u8>,
        content: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let room = content.len().saturating_add(RECORDS_BYTES);
        if wire.len() < room {
            wire.resize(room, 0);
        }
        self.say(Say::Content(content), unfinished, wire)
    }

    /// Puts the word that nothing more follows behind `out`, and behind what rustls says by itself.
    ///
    /// # Errors
    /// Those of rustls, after which nothing more can be sent.
    pub(crate) fn say_closed(
        &mut self,
        unfinished: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.speak(out);
        let mut room = [0; RECORDS_BYTES];
        let count = self.say(Say::Closed, unfinished, &mut room)?;
        out.extend_from_slice(room.get(..count).unwrap_or_default());
        Ok(())
    }

    fn say(
        &mut self,
        say: Say<'_>,
        unfinished: &mut Vec<u8>,
        room: &mut [u8],
    ) -> Result<usize, Error> {
        loop {
            let (discard, said) = match self {
                Self::Client(client) => say_by(client.process_tls_records(unfinished), say, room),
                Self::Server(server) => say_by(server.process_tls_records(unfinished), say, room),
            };
            unfinished.drain(..discard.min(unfinished.len()));
            if let Some(count) = said? {
                return Ok(count);
            }
        }
    }

    fn step(
        &mut self,
        wire: &mut [u8],
        room: &mut Room<'_>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Client(client) => step_by(client.process_tls_records(wire), room, out),
            Self::Server(server) => step_by(server.process_tls_records(wire), room, out),
        }
    }

    /// A server that did not say that it speaks ftx is another service of that host, with the same
    /// certificate: nothing is said to it. (rustls sees to the other side.)
    fn check_what_is_spoken(&self) -> Result<(), Error> {
        match self {
            Self::Client(client)
                if !client.is_handshaking() && client.alpn_protocol() != Some(ALPN) =>
            {
                Err(Error::NoApplicationProtocol)
            }
            _ => Ok(()),
        }
    }
}

/// What is to be said once rustls has dealt with all that came.
#[derive(Clone, Copy)]
enum Say<'a> {
    Content(&'a [u8]),
    Closed,
}

/// Returns how long it is, or nothing: it could not be said yet.
fn say_by<D>(
    UnbufferedStatus { discard, state, .. }: UnbufferedStatus<'_, '_, D>,
    say: Say<'_>,
    room: &mut [u8],
) -> (usize, Result<Option<usize>, Error>) {
    let said = match state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match say {
            Say::Content(content) => traffic.encrypt(content, room),
            Say::Closed => traffic.queue_close_notify(room),
        }
        .map(Some)
        .map_err(|error| Error::General(error.to_string())),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(None)
        }
        Ok(_) => Err(Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (discard, said)
}

fn step_by<D>(
    UnbufferedStatus { mut discard, state, .. }: UnbufferedStatus<'_, '_, D>,
    room: &mut Room<'_>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    room.put(record.payload);
                    discard = discard.saturating_add(record.discard);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::More),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out).map(|()| Step::More),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in `out`, and so on its way.
            data.done();
            Ok(Step::More)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::Ended),
        Ok(
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed,
        ) => Ok(Step::Idle),
        // There is no early data in any configuration of ours.
        Ok(_) => Err(Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (discard, step)
}

/// Puts what rustls says by itself behind `out`.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Error> {
    let at = out.len();
    // It tells how much room it needs only if it has too little.
    let size = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => needed.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    out.resize(at.saturating_add(size), 0);
    data.encode(out.get_mut(at..).unwrap_or_default())
        .map(|_| ())
        .map_err(|error| Error::General(error.to_string()))
}
