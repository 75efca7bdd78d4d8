//! Those who are slow, in every way there is, in plain and inside TLS: all are gone by their deadline,
//! their places and descriptors are free again, and meanwhile others are served as ever.
//!
//! Who stalls before a login inside TLS, and how long exactly that lasts, is in `locked::doors`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::harness::{MIB, until};
use crate::locked::house::{House, Secured, put, word};
use crate::talk::Talk;

const HEADER: &str = "1s";
const IDLE: &str = "1500ms";

/// When the last one has to be gone: the longer of both, the second that a part of 1,000 bytes may take,
/// the two in which an error is left to be read, and what all may be late on a busy machine.
const DEADLINE: Duration = Duration::from_millis(1_500 + 1_000 + 2_000 + 3_000);

/// Faster than any timeout, and slower than any rate that is put up with.
const PAUSE: Duration = Duration::from_millis(100);

/// What a good client may wait for one answer, while nobody is let wait for the slow ones.
const GOOD: Duration = Duration::from_millis(900);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    Nothing,
    /// The first line, a byte at a time; it never ends.
    Greeting,
    /// The same with the token in it.
    Token,
    AfterHello,
    Request,
    /// A put, and nothing of its body.
    NoBody,
    Body,
    /// Parts that are as small as can be, each in time.
    Parts,
    /// A large file is asked for, and not read; or read a byte at a time.
    ReadsNothing,
    Reads,
    /// A list that is not asked to go on.
    Lists,
    /// Only one direction is open any more: at once, in a line, in a body, and while a file comes.
    HalfOpen,
    HalfLine,
    HalfBody,
    HalfRead,
}

const ALL: [Slow; 15] = [
    Slow::Nothing,
    Slow::Greeting,
    Slow::Token,
    Slow::AfterHello,
    Slow::Request,
    Slow::NoBody,
    Slow::Body,
    Slow::Parts,
    Slow::ReadsNothing,
    Slow::Reads,
    Slow::Lists,
    Slow::HalfOpen,
    Slow::HalfLine,
    Slow::HalfBody,
    Slow::HalfRead,
];

/// What carries the bytes, and the socket below it.
trait Line: Read + Write {
    fn socket(&self) -> &TcpStream;

    /// What stands in a hello beside the version.
    fn token<'a>(&self, token: &'a str) -> Option<&'a str>;
}

impl Line for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn token<'a>(&self, _: &'a str) -> Option<&'a str> {
        None
    }
}

impl Line for Secured {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn token<'a>(&self, token: &'a str) -> Option<&'a str> {
        Some(token)
    }
}

/// A socket in which little is on its way.
fn narrow(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1_024).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.into()
}

/// A byte at a time, until it is over or nobody takes it any more.
fn trickle(line: &mut impl Write, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) && line.write_all(b" ").and(line.flush()).is_ok() {
        std::thread::sleep(PAUSE);
    }
}

/// Is slow in this way until it is over.
fn be_slow<S: Line>(line: S, how: Slow, token: &str, number: u64, over: &AtomicBool) {
    let mut hello = json!({"hello": {"ftx": 1}});
    if let Some(token) = line.token(token) {
        hello["hello"]["token"] = json!(token);
    }
    let mut talk = Talk::inside(line);
    let get = json!({"get": {"id": 1, "name": "big", "digest": "sha256"}});
    let before_hello = matches!(how, Slow::Nothing | Slow::Greeting | Slow::Token | Slow::HalfOpen);
    if !before_hello {
        talk.say(hello.clone());
        assert_eq!(word(&talk.line()), "welcome");
    }
    let announced = put(1, &format!("slow-{number}"), MIB, number);
    match how {
        Slow::Nothing | Slow::AfterHello => {}
        Slow::Greeting => {
            talk.send(b"{\"hello\":");
            trickle(talk.stream(), over);
        }
        Slow::Token => {
            let text = hello.to_string();
            talk.send(&text.as_bytes()[..text.len() - 2]);
            trickle(talk.stream(), over);
        }
        Slow::Request => {
            talk.send(b"{\"stat\":{\"id\":1,");
            trickle(talk.stream(), over);
        }
        Slow::NoBody => talk.say(announced),
        Slow::Body => {
            talk.say(announced);
            talk.say(json!({"data": {"id": 1, "at": 0, "size": 1_000}}));
            trickle(talk.stream(), over);
        }
        Slow::Parts => {
            talk.say(announced);
            // Each is a line, and that is fast enough; the last one never comes to its end.
            for at in 0..5 {
                talk.part(1, at, b" ");
                std::thread::sleep(PAUSE);
            }
            talk.send(b"{\"data\":{\"id\":1,");
            trickle(talk.stream(), over);
        }
        Slow::ReadsNothing => talk.say(get),
        Slow::Reads => {
            talk.say(get);
            // Not through the buffer of the talk, and slower than a server puts up with.
            while !over.load(Ordering::SeqCst) {
                let _ = talk.stream().read(&mut [0]);
                std::thread::sleep(PAUSE);
            }
        }
        Slow::Lists => {
            talk.say(json!({"list": {"id": 1, "name": "many"}}));
            assert_eq!(word(&talk.line()), "entries");
        }
        Slow::HalfOpen => talk.stream().socket().shutdown(Shutdown::Write).unwrap(),
        Slow::HalfLine => {
            talk.send(b"{\"stat\":{\"id\":1,");
            talk.stream().socket().shutdown(Shutdown::Write).unwrap();
        }
        Slow::HalfBody => {
            talk.say(announced);
            talk.part(1, 0, &[1; 1_000]);
            talk.stream().socket().shutdown(Shutdown::Write).unwrap();
        }
        Slow::HalfRead => {
            talk.say(get);
            talk.stream().socket().shutdown(Shutdown::Write).unwrap();
        }
    }
    // It stays, and does not even look whether it was hung up on.
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(PAUSE);
    }
}

/// All of them at once, twice, on a server that has just as many places and two more.
fn all_are_gone<S: Line>(house: &House, token: &str, connect: impl Fn(&House) -> S + Sync) {
    let served = house.world.served();
    let big = std::fs::File::create(served.join("big")).unwrap();
    big.set_len(64 * MIB as u64).unwrap();
    std::fs::create_dir(served.join("many")).unwrap();
    for number in 0..2_000 {
        let name = format!("many/{}-{number}", "x".repeat(200));
        std::fs::write(served.join(name), "").unwrap();
    }
    let mut good = house.talk(token);
    assert!(good.is_answered(1));
    let before = house.server.descriptors();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (number, how) in (1..).zip(ALL.into_iter().chain(ALL)) {
            let (connect, over) = (&connect, &over);
            scope.spawn(move || be_slow(connect(house), how, token, number, over));
        }
        // Half of a connection, and nothing that is still owed to it, is seen to be over at once.
        let most = 2 * (ALL.len() - 3);
        let (mut id, mut worst) = (1, Duration::ZERO);
        let mut seen = 0;
        let began = Instant::now();
        let gone = loop {
            id += 1;
            let asked = Instant::now();
            good.say(json!({"stat": {"id": id, "name": "big"}}));
            assert_eq!(word(&good.line()), "info");
            worst = worst.max(asked.elapsed());
            let now = house.server.descriptors();
            seen = seen.max(now.saturating_sub(before));
            if (seen >= most && now <= before) || began.elapsed() > DEADLINE {
                break began.elapsed();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Whatever fails, nobody is waited for.
        over.store(true, Ordering::SeqCst);
        assert!(seen >= most, "only {seen} were there at once");
        assert!(
            gone < DEADLINE,
            "after {gone:?} there are {}",
            house.server.descriptors() - before
        );
        assert!(gone > Duration::from_millis(900), "they were not slow: {gone:?}");
        assert!(worst < GOOD, "a good client waited {worst:?}");
    });
    until("staging is empty", || house.world.staged() == 0);
    // All places are free again.
    let mut all: Vec<_> = (0..2 * ALL.len()).map(|_| house.talk(token)).collect();
    assert!(all.iter_mut().all(|talk| talk.is_answered(1)));
}

fn house(more: &[&str]) -> House {
    let places = (2 * ALL.len() + 2).to_string();
    let options =
        ["--header-timeout", HEADER, "--idle-timeout", IDLE, "--max-connections", &places];
    House::with(&[&options[..], more].concat())
}

#[test]
fn who_is_slow_in_plain_is_gone_by_the_deadline() {
    let house = house(&[]);
    let token = house.add("alice", "read,list,write");
    all_are_gone(&house, &token, |house| {
        let socket = narrow(house.server.address);
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    });
}

#[test]
fn who_is_slow_inside_tls_is_gone_by_the_deadline() {
    let house = house(&["--require-token"]);
    let token = house.add("alice", "read,list,write");
    all_are_gone(&house, &token, |house| {
        Secured::over(narrow(house.server.address), house.pin).unwrap()
    });
}
