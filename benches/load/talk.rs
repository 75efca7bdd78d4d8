//! A client that says only what it has to: the load must not be the client's.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const MIB: usize = 1 << 20;

/// The parts that every server takes.
const PART_BYTES: usize = MIB;

pub struct Talk {
    reader: BufReader<TcpStream>,
    next: u64,
}

impl Talk {
    pub fn with(server: SocketAddr) -> Self {
        Self::over(TcpStream::connect(server).unwrap())
    }

    pub fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        let mut talk = Self { reader: BufReader::with_capacity(4096, socket), next: 1 };
        talk.say(&json!({"hello": {"ftx": 1}}));
        let welcome = talk.line();
        assert!(welcome["welcome"].is_object(), "{welcome}");
        talk
    }

    /// Only the socket, without the memory that a client needs.
    pub fn into_socket(self) -> TcpStream {
        self.reader.into_inner()
    }

    pub fn say(&mut self, message: &Value) {
        self.send(format!("{message}\n").as_bytes());
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    pub fn line(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.reader.read_line(&mut line).unwrap() > 0, "the server has hung up");
            let line: Value = serde_json::from_str(&line).unwrap();
            assert!(line["error"].is_null(), "{line}");
            if line["alive"].is_null() && line["kept"].is_null() {
                return line;
            }
        }
    }

    pub fn begin_put(&mut self, name: &str, size: usize) -> u64 {
        let id = self.take_id();
        let mut transfer = [0; 16];
        getrandom(&mut transfer);
        self.say(&json!({"put": {
            "id": id, "name": name, "digest": "sha256", "size": size, "transfer": HEXLOWER.encode(&transfer),
        }}));
        id
    }

    pub fn part(&mut self, id: u64, at: usize, bytes: &[u8]) {
        let line = format!("{}\n", json!({"data": {"id": id, "at": at, "size": bytes.len()}}));
        let sent = self
            .reader
            .get_mut()
            .write_vectored(&[IoSlice::new(line.as_bytes()), IoSlice::new(bytes)]);
        let sent = sent.unwrap();
        let body = sent.checked_sub(line.len()).expect("room for a line");
        self.send(&bytes[body..]);
    }

    pub fn end_put(&mut self, id: u64, size: usize, digest: &str) {
        self.say(&json!({"end": {"id": id, "size": size, "digest": digest}}));
        let done = self.line();
        assert_eq!(done["done"]["id"], id, "{done}");
    }

    pub fn put(&mut self, name: &str, body: &Body) {
        let id = self.begin_put(name, body.bytes.len());
        for (number, part) in body.bytes.chunks(PART_BYTES).enumerate() {
            self.part(id, number * PART_BYTES, part);
        }
        self.end_put(id, body.bytes.len(), &body.digest);
    }

    /// Gets a file; tells of each piece that came how many bytes it had, and goes on while that
    /// says so.
    pub fn get(&mut self, name: &str, mut came: impl FnMut(usize) -> bool) {
        let id = self.take_id();
        self.ask_for(id, name);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let line = self.line();
            if line["end"]["id"] == id {
                return;
            }
            let mut left = usize::try_from(line["data"]["size"].as_u64().unwrap_or(0)).unwrap();
            while left > 0 {
                let room = left.min(buffer.len());
                let count = self.reader.read(&mut buffer[..room]).unwrap();
                assert!(count > 0, "the server has hung up");
                left -= count;
                if !came(count) {
                    return;
                }
            }
        }
    }

    pub fn ask_for(&mut self, id: u64, name: &str) {
        self.say(&json!({"get": {"id": id, "name": name, "digest": "sha256"}}));
    }

    pub fn stat(&mut self, name: &str) {
        let id = self.take_id();
        self.say(&json!({"stat": {"id": id, "name": name}}));
        assert_eq!(self.line()["info"]["id"], id);
    }

    pub fn ping(&mut self) {
        let id = self.take_id();
        self.say(&json!({"ping": {"id": id}}));
        assert_eq!(self.line()["pong"]["id"], id);
    }

    fn take_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// What is put, and its digest.
pub struct Body {
    pub bytes: Vec<u8>,
    pub digest: String,
}

impl Body {
    pub fn of(size: usize) -> Self {
        let mut bytes = vec![0; size];
        getrandom(&mut bytes);
        let digest = spelled(Sha256::digest(&bytes).as_slice());
        Self { bytes, digest }
    }
}

pub fn spelled(digest: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest))
}

fn getrandom(bytes: &mut [u8]) {
    std::fs::File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
}

/// The value that so many of a hundred are not above, in milliseconds.
pub fn percentile(latencies: &mut [std::time::Duration], percent: usize) -> f64 {
    latencies.sort_unstable();
    let place = (latencies.len() * percent).div_ceil(100).max(1);
    latencies[place - 1].as_secs_f64() * 1000.0
}
