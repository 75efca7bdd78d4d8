//! Those who come too often, or come and say nothing: they are gone by their deadline, and nobody else
//! waits for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ftx_channel::{Sight, Tls, Trust, client_config};
use serde_json::json;

use super::house::{House, Inside, Secured, connect_from, introduced};
use crate::harness::PATIENCE;
use crate::talk::Talk;

const ABUSER: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

/// The deadline of everything before a login.
const DEADLINE: Duration = Duration::from_secs(1);

/// What it may be late on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Logs in from an address; what that was answered with, if it came that far.
fn login_from(house: &House, from: [u8; 4], token: &str) -> Option<String> {
    let socket = connect_from(from, house.server.address).ok()?;
    let mut talk: Inside = Talk::inside(Secured::over(socket, house.pin).ok()?);
    Some(introduced(&mut talk, Some(token)))
}

/// Whether whoever comes from an address now is not let in: it is over before anything is said.
fn is_shut(house: &House, from: [u8; 4]) -> bool {
    let mut socket = connect_from(from, house.server.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    matches!(socket.read(&mut [0]), Ok(0))
}

/// Whether the server has closed the connection.
fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let closed = match socket.read(&mut [0; 1_024]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    socket.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn one_address_does_not_lock_out_another() {
    let house = House::with(&["--require-token", "--count-loopback", "--max-failed-logins", "3"]);
    let token = house.add("alice", "read,list");
    let wrong = format!("ftx1_{}A", "B".repeat(42));
    // A crowd that says nothing, and one that speaks TLS and then says nothing.
    let crowd: Vec<TcpStream> =
        (0..100).map(|_| connect_from(ABUSER, house.server.address).unwrap()).collect();
    crate::harness::until("most of the crowd is turned away", || {
        crowd.iter().filter(|socket| is_closed(socket)).count() >= 100 - 32
    });
    let kept = crowd.iter().filter(|socket| !is_closed(socket)).count();
    assert!(kept <= 32, "{kept} were let in");
    assert_eq!(login_from(&house, ABUSER, &token), None, "it has its share already");
    assert_eq!(login_from(&house, OTHER, &token).as_deref(), Some("welcome"));
    drop(crowd);
    // Logins that fail: so many are answered, and then nothing.
    let mut answered = 0;
    crate::harness::until("the address has to wait", || {
        match login_from(&house, ABUSER, &wrong).as_deref() {
            Some("login_failed") => answered += 1,
            Some(word) => panic!("{word}"),
            // That the crowd has gone is seen a moment later.
            None if answered == 0 => {}
            None => return true,
        }
        false
    });
    assert_eq!(answered, 4, "three, and the one that was too much");
    assert!(is_shut(&house, ABUSER));
    assert_eq!(login_from(&house, ABUSER, &token), None, "also with the right one");
    let began = Instant::now();
    for from in [OTHER, [127, 0, 0, 1], [127, 0, 0, 4]] {
        assert_eq!(login_from(&house, from, &token).as_deref(), Some("welcome"));
    }
    assert!(began.elapsed() < DEADLINE, "others waited: {:?}", began.elapsed());
    // Said once a minute, whatever the reason.
    house.until_logged("connections not let in");
    // And the address itself, when its time is over.
    crate::harness::until("the penalty is over", || {
        login_from(&house, ABUSER, &token).as_deref() == Some("welcome")
    });
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let options = ["--require-token", "--count-loopback", "--max-connections-per-address", "5"];
    let house = House::with(&options);
    let token = house.add("alice", "read,list");
    let mut inside: Vec<Inside> = (0..5)
        .map(|_| {
            let socket = connect_from(ABUSER, house.server.address).unwrap();
            let mut talk = Talk::inside(Secured::over(socket, house.pin).unwrap());
            assert_eq!(introduced(&mut talk, Some(&token)), "welcome");
            talk
        })
        .collect();
    assert!(is_shut(&house, ABUSER));
    assert_eq!(login_from(&house, OTHER, &token).as_deref(), Some("welcome"));
    assert!(inside.iter_mut().all(|talk| talk.is_answered(1)));
    drop(inside.pop());
    crate::harness::until("one may come in its place", || {
        login_from(&house, ABUSER, &token).as_deref() == Some("welcome")
    });
}

/// Until when whoever cannot be told anything yet is gone: it is not waited for to read what was said.
const UNTOLD: Duration = Duration::from_millis(2_500);

/// How somebody stalls before a login.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stall {
    Nothing,
    /// So many bytes of a ClientHello, and then nothing.
    Begun(usize),
    /// A ClientHello, a byte at a time.
    Greeting,
    /// The first flight, and then nothing, or the second one a byte at a time.
    Handshake,
    SecondFlight,
    /// A `hello`, a byte at a time, each in a record of its own.
    Hello,
    /// TLS, and then nothing.
    Silence,
}

impl Stall {
    /// Whether TLS is begun, and not so far that anything can be said inside it.
    fn is_untold(self) -> bool {
        matches!(self, Self::Begun(_) | Self::Greeting | Self::Handshake | Self::SecondFlight)
    }
}

/// Stalls until the connection is over. Returns how long that took.
fn stall(house: &House, how: Stall) -> Duration {
    const PAUSE: Duration = Duration::from_millis(50);
    let socket = TcpStream::connect(house.server.address).unwrap();
    socket.set_nodelay(true).unwrap();
    let began = Instant::now();
    let trickle = |bytes: &[u8]| {
        for byte in bytes {
            std::thread::sleep(PAUSE);
            if is_closed(&socket) || (&socket).write_all(&[*byte]).is_err() {
                return;
            }
        }
    };
    match how {
        Stall::Nothing => {}
        Stall::Begun(count) => (&socket).write_all(&flights(house).0[..count]).unwrap(),
        Stall::Greeting => trickle(&flights(house).0),
        Stall::Handshake | Stall::SecondFlight => {
            let (first, tls) = flights(house);
            (&socket).write_all(&first).unwrap();
            if how == Stall::SecondFlight {
                trickle(&second_flight(&socket, &tls));
            }
        }
        Stall::Hello | Stall::Silence => {
            let mut inside: Inside =
                Talk::inside(Secured::over(socket.try_clone().unwrap(), house.pin).unwrap());
            // It shares its file with the clone, which waits where it reads.
            let text = format!("{}{}", " ".repeat(500), json!({"hello": {"ftx": 1}}));
            for byte in text.bytes().filter(|_| how == Stall::Hello) {
                std::thread::sleep(PAUSE);
                if inside.stream().write_all(&[byte]).is_err() || began.elapsed() > PATIENCE {
                    break;
                }
            }
            while !matches!(inside.stream().read(&mut [0; 1_024]), Ok(0) | Err(_)) {}
            return began.elapsed();
        }
    }
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = std::io::copy(&mut &socket, &mut std::io::sink());
    began.elapsed()
}

/// What a client sends first, and its side of the conversation.
fn flights(house: &House) -> (Vec<u8>, Tls) {
    let config = client_config(Trust::Pin(house.pin), &Sight::default()).unwrap();
    let tls = Tls::connect(&config, "ftx").unwrap();
    let mut ends = Ends { from: &[], to: Vec::new() };
    let _ = tls.read(&mut ends, &mut [0]);
    let _ = tls.flush(&mut ends);
    assert_eq!(ends.to.first(), Some(&0x16));
    (ends.to, tls)
}

/// What it sends to what the server answered.
fn second_flight(mut socket: &TcpStream, tls: &Tls) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut room = [0; 16 * 1_024];
    while !tls.is_ready() {
        let count = socket.read(&mut room).unwrap();
        assert_ne!(count, 0);
        let mut ends = Ends { from: &room[..count], to: Vec::new() };
        let _ = tls.read(&mut ends, &mut [0]);
        let _ = tls.flush(&mut ends);
        sent.extend(ends.to);
    }
    sent
}

/// Bytes in the place of a socket.
struct Ends<'a> {
    from: &'a [u8],
    to: Vec<u8>,
}

impl Read for Ends<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        match self.from.read(room)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Ends<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The deadline is of the whole, not of each step: who goes a step further each time gains nothing.
#[test]
fn stall_before_login_ends_by_its_deadline() {
    let options = ["--require-token", "--header-timeout", "1s", "--max-connections", "16"];
    let house = House::with(&options);
    let token = house.add("alice", "read,list");
    let all = [
        Stall::Nothing,
        Stall::Begun(1),
        Stall::Begun(11),
        Stall::Greeting,
        Stall::Handshake,
        Stall::SecondFlight,
        Stall::Hello,
        Stall::Silence,
    ];
    std::thread::scope(|scope| {
        let stalls: Vec<_> = all
            .into_iter()
            .chain(all)
            .map(|how| {
                (
                    how,
                    scope.spawn({
                        let house = &house;
                        move || stall(house, how)
                    }),
                )
            })
            .collect();
        for (how, thread) in stalls {
            let took = thread.join().unwrap();
            assert!(took >= DEADLINE - Duration::from_millis(100), "{how:?}: {took:?}");
            assert!(took < DEADLINE + SLACK, "{how:?}: {took:?}");
            assert!(!how.is_untold() || took < UNTOLD, "{how:?}: {took:?}");
        }
    });
    // All the places there are were taken, and all are free again.
    let mut talks: Vec<Inside> = (0..16).map(|_| house.talk(&token)).collect();
    assert!(talks.iter_mut().all(|talk| talk.is_answered(1)));
}

/// Its greeting may be on the way: a line in plain would look like somebody in between to it, and it would not try
/// again.
#[test]
fn who_has_not_said_a_byte_hears_nothing_in_plain() {
    let house = House::with(&["--header-timeout", "1s"]);
    let token = house.add("alice", "read");
    let connect = || TcpStream::connect(house.server.address).unwrap();
    let heard = |mut socket: TcpStream| {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).map(|_| all).unwrap()
    };
    assert_eq!(heard(connect()), b"", "its time is over");
    let silent = connect();
    // They are let in one after another.
    assert!(house.talk(&token).is_answered(1));
    house.server.signal("-TERM");
    assert_eq!(heard(silent), b"", "the server stops");
}

/// Nobody waits for those who say nothing: neither to be let in, nor for as long as they have.
#[test]
fn a_good_client_comes_in_while_others_stall() {
    let house = House::with(&["--require-token", "--header-timeout", "2s"]);
    let token = house.add("alice", "read,list");
    let silent: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(house.server.address).unwrap()).collect();
    let address: SocketAddr = house.server.address;
    let began = Instant::now();
    let mut talk: Inside = Talk::inside(Secured::connect(address, house.pin).unwrap());
    assert_eq!(introduced(&mut talk, Some(&token)), "welcome");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    crate::harness::until("they are gone", || silent.iter().all(is_closed));
    assert!(talk.is_answered(1), "who has logged in stays");
}
