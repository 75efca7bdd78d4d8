//! A TLS server for the tests: it shows a certificate, asks for a token, and hands what is inside
//! on to a server in plain. And a tap, which writes down what a client sends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ftx_channel::{Identity, ServerConfig, Tls, server_config};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, until};

/// A certificate that vouches for itself, and its key, both as PEM.
pub fn own_certificate() -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["ftx".to_owned()]).unwrap();
    [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
}

/// An authority, and a certificate of it for a host, with its key: all as PEM.
pub fn certificate_of_authority(host: &str, last_year: i32) -> (String, [String; 2]) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_after = date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    (root, [params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem()])
}

/// What a front says to a token, or to none: the code of a refusal, or nothing.
pub type Door = fn(Option<&str>) -> Option<&'static str>;

/// The server. Lives as long as the test.
pub struct Front {
    pub address: SocketAddr,
    identity: Arc<Identity>,
    /// What came with each hello.
    tokens: Arc<Mutex<Vec<Option<String>>>>,
}

impl Front {
    pub fn start(listen: &str, behind: SocketAddr, certificate: &[String; 2], door: Door) -> Self {
        let [chain, key] = certificate;
        let identity = Arc::new(Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap());
        let config = server_config(&identity).unwrap();
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&tokens);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (config, seen) = (Arc::clone(&config), Arc::clone(&seen));
                std::thread::spawn(move || {
                    // A client that hangs up ends its thread, and nothing else.
                    let _ = serve(near, &config, behind, &seen, door);
                });
            }
        });
        Self { address, identity, tokens }
    }

    /// The line that a server prints.
    pub fn line(&self) -> String {
        format!("ftx://{}#{}", self.address, self.identity.pin())
    }

    pub fn pin(&self) -> String {
        self.identity.pin().to_string()
    }

    /// From now on it is another server.
    pub fn become_another(&self, certificate: &[String; 2]) {
        let [chain, key] = certificate;
        self.identity.replace(chain.as_bytes(), key.as_bytes()).unwrap();
    }

    /// The tokens that came since this was asked.
    pub fn take_tokens(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.tokens.lock().unwrap())
    }
}

fn serve(
    near: TcpStream,
    config: &Arc<ServerConfig>,
    behind: SocketAddr,
    seen: &Mutex<Vec<Option<String>>>,
    door: Door,
) -> io::Result<()> {
    near.set_nonblocking(true)?;
    near.set_nodelay(true)?;
    let near = Arc::new(Near { socket: near, tls: Tls::accept(config).map_err(io::Error::other)? });
    let mut begin = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        let count = near.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        begin.extend_from_slice(&buffer[..count]);
        if let Some(end) = begin.iter().position(|&byte| byte == b'\n') {
            break end;
        }
    };
    let mut hello: Value = serde_json::from_slice(&begin[..end])?;
    let token = hello["hello"].as_object_mut().and_then(|hello| hello.remove("token"));
    let token = token.as_ref().and_then(Value::as_str);
    seen.lock().unwrap().push(token.map(str::to_owned));
    if let Some(code) = door(token) {
        let error = json!({"error": {"code": code, "message": "says the door"}});
        near.write(format!("{error}\n").as_bytes())?;
        return near.end();
    }
    let far = TcpStream::connect(behind)?;
    (&far).write_all(format!("{hello}\n").as_bytes())?;
    (&far).write_all(&begin[end + 1..])?;
    let (down, from) = (Arc::clone(&near), far.try_clone()?);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&from).read(&mut buffer) {
            if down.write(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = down.end();
    });
    loop {
        match near.read(&mut buffer) {
            Ok(0) => return far.shutdown(Shutdown::Write),
            Ok(count) => (&far).write_all(&buffer[..count])?,
            Err(error) => {
                let _ = far.shutdown(Shutdown::Both);
                return Err(error);
            }
        }
    }
}

/// The client's side of a front.
struct Near {
    socket: TcpStream,
    tls: Tls,
}

impl Near {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN, |socket| self.tls.read(socket, buffer))
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.wait(PollFlags::OUT, |socket| self.tls.write(socket, bytes))?;
            bytes = &bytes[count..];
        }
        self.wait(PollFlags::OUT, |socket| self.tls.flush(socket))
    }

    fn end(&self) -> io::Result<()> {
        self.wait(PollFlags::OUT, |socket| self.tls.close(socket))?;
        self.socket.shutdown(Shutdown::Write)
    }

    fn wait<T>(
        &self,
        what: PollFlags,
        mut act: impl FnMut(&mut &TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            match act(&mut &self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
                result => return result,
            }
            let look = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&self.socket, what)], Some(&look));
        }
    }
}

/// What came on a connection. Whoever relays it has a hand on it, until it has ended.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Writes down what clients send on their way to a server.
pub struct Tap {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Tap {
    pub fn start(listen: &str, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writing = Arc::clone(&heard);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(behind) else { continue };
                let heard = Heard::default();
                writing.lock().unwrap().push(Arc::clone(&heard));
                let (back, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || relay(to, back, |_| {}));
                std::thread::spawn(move || {
                    relay(near, far, |bytes| heard.lock().unwrap().extend(bytes));
                });
            }
        });
        Self { address, heard }
    }

    /// What came on each connection since this was asked, once all of them have ended.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        until("all connections have ended", || {
            heard.iter().all(|bytes| Arc::strong_count(bytes) == 1)
        });
        heard.iter().map(|bytes| bytes.lock().unwrap().clone()).collect()
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        each(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Whether bytes are the beginning of a handshake and nothing but its end: what a client sends that
/// speaks TLS and then goes away without a word.
pub fn is_only_a_greeting(bytes: &[u8]) -> bool {
    /// An alert in a record of its own, and what middleboxes want before it.
    const REST_BYTES_MAX: usize = 64;
    let Some((&[kind, 3, _, high, low], rest)) = bytes.split_first_chunk() else { return false };
    let size = usize::from(u16::from_be_bytes([high, low]));
    // A record of a handshake, and in it a ClientHello.
    kind == 0x16 && rest.first() == Some(&1) && rest.len().saturating_sub(size) <= REST_BYTES_MAX
}
