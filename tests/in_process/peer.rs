//! A conversation by hand, in plain or inside TLS.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ftx_channel::{Sight, Tls, Trust, client_config};
use ftx_protocol::token::Token;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::both::{MIB, PATIENCE};
use crate::world::World;

pub enum Wire {
    Plain(TcpStream),
    Tls(TcpStream, Box<Tls>),
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(room),
            Self::Tls(socket, tls) => patient(|| tls.read(socket, room)),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(socket, tls) => patient(|| tls.write(socket, bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(socket, tls) => patient(|| tls.flush(socket)),
        }
    }
}

/// What does not block is asked again.
fn patient<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_micros(300));
            }
            result => return result,
        }
    }
}

pub struct Peer {
    wire: BufReader<Wire>,
}

pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Peer {
    pub fn over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { wire: BufReader::new(Wire::Plain(socket)) }
    }

    pub fn plain(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub fn tls(world: &World) -> Self {
        Self::tls_over(world, TcpStream::connect(world.address).unwrap())
    }

    /// Shakes hands.
    pub fn tls_over(world: &World, mut socket: TcpStream) -> Self {
        let config = client_config(Trust::Pin(world.pin), &Sight::default()).unwrap();
        let tls = Tls::connect(&config, "127.0.0.1").unwrap();
        socket.set_nonblocking(true).unwrap();
        let began = Instant::now();
        while !tls.is_ready() {
            match tls.read(&mut socket, &mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(300));
                }
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() < PATIENCE);
        }
        patient(|| tls.flush(&mut socket)).unwrap();
        Self { wire: BufReader::new(Wire::Tls(socket, Box::new(tls))) }
    }

    pub fn socket(&self) -> &TcpStream {
        match self.wire.get_ref() {
            Wire::Plain(socket) | Wire::Tls(socket, _) => socket,
        }
    }

    pub fn hello(&mut self, token: Option<&Token>) {
        match token {
            Some(token) => self.say(json!({"hello": {"ftx": 1, "token": token.text()}})),
            None => self.say(json!({"hello": {"ftx": 1}})),
        }
    }

    pub fn say(&mut self, message: Value) {
        self.send(format!("{message}\n").as_bytes());
    }

    /// Sends bytes. That the server has gone is no failure here: what it said is.
    pub fn send(&mut self, bytes: &[u8]) {
        let wire = self.wire.get_mut();
        let _ = wire.write_all(bytes).and_then(|()| wire.flush());
    }

    /// Says that nothing more will be sent, as TLS has it.
    pub fn end(&mut self) {
        match self.wire.get_mut() {
            Wire::Plain(_) => {}
            Wire::Tls(socket, tls) => patient(|| tls.close(socket)).unwrap(),
        }
        self.socket().shutdown(Shutdown::Write).unwrap();
    }

    pub fn begin(&mut self, id: u64, name: &str, size: usize, transfer: &str) {
        self.say(json!({"put": {
            "id": id, "name": name, "digest": "sha256", "size": size, "transfer": transfer,
        }}));
    }

    pub fn part(&mut self, id: u64, at: usize, bytes: &[u8]) {
        self.say(json!({"data": {"id": id, "at": at, "size": bytes.len()}}));
        self.send(bytes);
    }

    pub fn finish(&mut self, id: u64, bytes: &[u8]) {
        self.say(json!({"end": {"id": id, "size": bytes.len(), "digest": digest_of(bytes)}}));
    }

    /// A whole put.
    pub fn put(&mut self, id: u64, name: &str, bytes: &[u8]) {
        self.begin(id, name, bytes.len(), &format!("{id:032x}"));
        for (number, part) in bytes.chunks(MIB).enumerate() {
            self.part(id, number * MIB, part);
        }
        self.finish(id, bytes);
    }

    /// The answer to a get.
    pub fn get(&mut self, id: u64, name: &str) -> Vec<u8> {
        self.say(json!({"get": {"id": id, "name": name, "digest": "sha256"}}));
        let mut bytes = Vec::new();
        loop {
            let line = self.line();
            if let Some(size) = line["data"]["size"].as_u64() {
                let at = bytes.len();
                bytes.resize(at + usize::try_from(size).unwrap(), 0);
                self.wire.read_exact(&mut bytes[at..]).unwrap();
            } else if line["end"].is_object() {
                assert_eq!(line["end"]["digest"], digest_of(&bytes));
                return bytes;
            } else {
                assert!(line["file"].is_object(), "{line}");
            }
        }
    }

    /// The next line but `alive` and `kept`; `null` at the end of the connection, if it was said
    /// that it is.
    pub fn line(&mut self) -> Value {
        loop {
            let mut line = String::new();
            match self.wire.read_line(&mut line) {
                Ok(0) => return Value::Null,
                Ok(_) => {
                    let line: Value = serde_json::from_str(&line).unwrap();
                    if line["alive"].is_null() && line["kept"].is_null() {
                        return line;
                    }
                }
                Err(error) => return json!({ "broken": error.kind().to_string() }),
            }
        }
    }

    /// Waits until it is said that some of a body is durable.
    pub fn until_kept(&mut self) {
        let mut line = String::new();
        self.wire.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"kept\""), "{line}");
    }

    /// The code of the next line, which is to be an error.
    pub fn code(&mut self) -> String {
        let line = self.line();
        line["error"]["code"].as_str().map_or_else(|| line.to_string(), str::to_owned)
    }

    /// Bytes as they come.
    pub fn raw(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.wire.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
