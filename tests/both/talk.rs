//! A conversation in the protocol, held by hand, message by message.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::PATIENCE;
pub use super::secured::Secured;

pub const HELLO_DIGEST: &str =
    "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A talk inside TLS.
pub type Inside = Talk<Secured>;

pub struct Talk<S = TcpStream> {
    reader: BufReader<S>,
}

impl Talk {
    pub fn over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::inside(socket)
    }

    /// Connects, and has said nothing yet.
    pub fn connect(server: SocketAddr) -> Self {
        Self::over(TcpStream::connect(server).unwrap())
    }

    /// Connects, says hello, and is welcome.
    pub fn with(server: SocketAddr) -> Self {
        let mut talk = Self::connect(server);
        talk.say(json!({"hello": {"ftx": 1}}));
        let welcome = talk.line();
        assert!(welcome["welcome"].is_object(), "{welcome}");
        talk
    }

    /// This side's address, as the server's log has it.
    pub fn address(&self) -> SocketAddr {
        self.reader.get_ref().local_addr().unwrap()
    }

    /// How long an answer is waited for, from now on.
    pub fn patience(&mut self, patience: Duration) {
        self.reader.get_mut().set_read_timeout(Some(patience)).unwrap();
    }
}

impl<S: Read + Write> Talk<S> {
    /// Over what carries the bytes. It has to give up by itself what takes too long.
    pub fn inside(stream: S) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    /// What carries the bytes, to say there is no more to say.
    pub fn stream(&mut self) -> &mut S {
        self.reader.get_mut()
    }

    pub fn say(&mut self, message: Value) {
        self.send(format!("{message}\n").as_bytes());
    }

    /// Sends bytes. That the peer has gone is no failure here: what it said is.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// The announcement of a part, and the part.
    pub fn part(&mut self, id: u64, at: usize, bytes: &[u8]) {
        self.say(json!({"data": {"id": id, "at": at, "size": bytes.len()}}));
        self.send(bytes);
    }

    /// A whole put of `hello`, in one write.
    pub fn put_hello(&mut self, id: u64, name: &str, durability: &str) {
        let put = json!({"put": {
            "id": id, "name": name, "digest": "sha256", "size": 5,
            "transfer": format!("{id:032x}"), "durability": durability,
        }});
        let data = json!({"data": {"id": id, "at": 0, "size": 5}});
        let end = json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}});
        self.send(format!("{put}\n{data}\nhello{end}\n").as_bytes());
    }

    /// The next line but `alive`; `null` at the end of the connection.
    pub fn line(&mut self) -> Value {
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(1..) => {
                    let line: Value = serde_json::from_str(&line).unwrap();
                    if line["alive"].is_null() {
                        return line;
                    }
                }
                _ => return Value::Null,
            }
        }
    }

    /// Whether the peer says now that it has no more to say. A cut is not that.
    pub fn is_ended(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0))
    }

    /// The code of the next line, which is to be an error.
    pub fn code(&mut self) -> String {
        let line = self.line();
        line["error"]["code"].as_str().map_or_else(|| line.to_string(), str::to_owned)
    }

    /// The code of the next error, passing over other lines; `None` at the end.
    pub fn error(&mut self) -> Option<String> {
        loop {
            let line = self.line();
            match line["error"]["code"].as_str() {
                Some(code) => return Some(code.to_owned()),
                None if line.is_null() => return None,
                None => {}
            }
        }
    }

    /// Everything until the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.reader.read_to_end(&mut bytes);
        bytes
    }

    /// The raw bytes of a part.
    pub fn raw(&mut self, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next line that announces no part, and how many bytes of parts came before it.
    pub fn past_parts(&mut self) -> (Value, u64) {
        let mut came = 0;
        loop {
            let line = self.line();
            let Some(size) = line["data"]["size"].as_u64() else { return (line, came) };
            self.raw(size);
            came += size;
        }
    }

    pub fn is_answered(&mut self, id: u64) -> bool {
        self.say(json!({"ping": {"id": id}}));
        self.line()["pong"]["id"] == id
    }
}

/// Says hello, and returns what that was answered with.
pub fn introduced<S: Read + Write>(talk: &mut Talk<S>, token: Option<&str>) -> String {
    talk.say(match token {
        Some(token) => json!({"hello": {"ftx": 1, "token": token}}),
        None => json!({"hello": {"ftx": 1}}),
    });
    word(&talk.line())
}

/// What kind of answer a line is: the code of an error, or the name of the message.
pub fn word(line: &Value) -> String {
    if let Some(code) = line["error"]["code"].as_str() {
        return code.to_owned();
    }
    match line.as_object().and_then(|object| object.keys().next()) {
        Some(name) => name.clone(),
        None => "the end".to_owned(),
    }
}

/// A put that is announced: `transfer` is any number that nobody else has.
pub fn put(id: u64, name: &str, size: usize, transfer: u64) -> Value {
    json!({"put": {
        "id": id, "name": name, "digest": "sha256", "size": size,
        "transfer": format!("{transfer:032x}"),
    }})
}
