//! What TLS changes for the bytes, and what it must not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bodies::{end, got, puts};
use crate::both::talk::{Talk, put};
use crate::both::{MIB, noise, until};
use crate::world::World;

#[test]
fn one_port_takes_both_and_the_first_byte_tells() {
    let world = World::open();
    let (small, large) = (noise(5_000, 1), noise(20 * MIB + 17, 1));
    let mut tls = world.greeted();
    puts(&mut tls, 1, "small", &small);
    puts(&mut tls, 2, "large", &large);
    assert!(world.stored("large").unwrap() == large && world.stored("small").unwrap() == small);
    let mut plain = Talk::with(world.address);
    assert!(got(&mut plain, 1, "small") == small && got(&mut tls, 3, "small") == small);
    // With a digest that is known.
    assert!(got(&mut plain, 2, "large") == large && got(&mut tls, 4, "large") == large);
    std::fs::write(world.served().join("new"), &large).unwrap();
    assert!(got(&mut tls, 10, "new") == large, "hashed while it is sent");
    tls.stream().end();
    let began = Instant::now();
    assert!(tls.is_ended(), "it says that it is done, too");
    assert!(began.elapsed() < Duration::from_secs(1), "and at once");
}

/// Nothing in plain gets further than the first byte, whatever it speaks.
#[test]
fn other_protocols_are_told_so() {
    let world = World::locked();
    let mut peer = Talk::connect(world.address);
    peer.send(b"GET / HTTP/1.1\r\n\r\n");
    assert!(peer.rest().starts_with(b"HTTP/1.1 505 "));
}

#[test]
fn a_cut_without_close_notify_is_not_the_end_of_a_client() {
    let world = World::open();
    let mut peer = world.greeted();
    // In plain this asks for an answer and says that nothing more will be asked.
    peer.say(put(1, "a", 5, 1));
    peer.part(1, 0, b"hel");
    peer.stream().socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(peer.stream().read(&mut [0]).is_err(), "the server has nothing to say to that");
    until("nothing is left of it", || world.staged() == 0);
}

/// A socket that takes everything and has nothing to read.
struct Records(Vec<u8>);

impl Read for Records {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Else the error could have been cut off by anybody on the way, as far as the client knows.
#[test]
fn an_error_to_a_client_that_has_ended_is_followed_by_an_end() {
    let world = World::open();
    let mut peer = world.greeted();
    // In one go: whoever reads the line reads the end as well.
    let mut records = Records(Vec::new());
    peer.stream().tls.write(&mut records, b"{}\n").unwrap();
    peer.stream().tls.close(&mut records).unwrap();
    peer.stream().socket.write_all(&records.0).unwrap();
    assert_eq!(peer.code(), "bad_message");
    assert!(peer.is_ended(), "not cut off");
}

#[test]
fn what_is_no_tls_behind_its_first_byte_is_over_at_once() {
    let world = World::open();
    let mut socket = TcpStream::connect(world.address).unwrap();
    socket.write_all(&[0x16; 4_000]).unwrap();
    let began = Instant::now();
    let _ = socket.read_to_end(&mut Vec::new());
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_reader_that_stops_inside_tls_is_given_up() {
    // What its system still takes after that counts as read.
    let world = World::with(|options| options.idle_timeout = Duration::from_secs(2));
    std::fs::write(world.served().join("b"), noise(64 * MIB, 1)).unwrap();
    let mut peer = world.greeted();
    peer.say(json!({"get": {"id": 1, "name": "b", "digest": "sha256"}}));
    std::thread::sleep(Duration::from_millis(8_500));
    assert!(peer.stream().read_to_end(&mut Vec::new()).is_err(), "cut off, not ended");
}

#[test]
fn records_of_one_byte_are_as_good_and_do_not_hold_up_others() {
    let world = World::open();
    let mut peer = world.connected();
    let put = put(1, "a", 5, 1);
    let session = format!(
        "{{\"hello\":{{\"ftx\":1}}}}\n{put}\n{{\"data\":{{\"id\":1,\"at\":0,\"size\":5}}}}\nhello"
    );
    for byte in session.as_bytes() {
        peer.send(&[*byte]);
    }
    assert!(peer.line()["welcome"].is_object());
    peer.say(end(1, b"hello"));
    assert!(peer.line()["done"].is_object());
}

/// What no kernel has taken when the server is done would be lost. It is so for answers of a certain length, which
/// depends on the system: there are some of all lengths, and each ends with one of which TLS takes all in one step.
#[test]
fn the_last_words_wait_for_a_client_that_is_done_and_reads_late() {
    const STEP: usize = 40 * 1024;
    const PEERS: usize = 100;
    let world = World::with(|options| options.idle_timeout = Duration::from_secs(60));
    std::fs::write(world.served().join("large"), noise(PEERS * STEP, 1)).unwrap();
    std::fs::write(world.served().join("small"), noise(60_000, 1)).unwrap();
    let ask = |number| {
        let mut peer = world.greeted();
        let at = (PEERS - number) * STEP;
        peer.say(json!({"get": {"id": 1, "name": "large", "digest": "sha256", "at": at}}));
        peer.say(json!({"get": {"id": 2, "name": "small", "digest": "sha256"}}));
        peer.stream().end();
        peer
    };
    let mut peers: Vec<_> = (1..=PEERS).map(ask).collect();
    std::thread::sleep(Duration::from_millis(3_500));
    for peer in &mut peers {
        let mut ended = 0;
        while ended < 2 {
            let (line, _) = peer.past_parts();
            assert!(line["file"].is_object() || line["end"].is_object(), "{line}");
            ended += usize::from(line["end"].is_object());
        }
        assert!(peer.is_ended());
    }
}

/// Takes far more than the patience of a server until the system tells that there is room: on Linux a third of some MiB.
fn read_slowly<S: Read + Write>(mut talk: Talk<S>) {
    talk.say(json!({"get": {"id": 1, "name": "large", "digest": "sha256"}}));
    for _ in 0..64 {
        std::thread::sleep(Duration::from_millis(60));
        talk.raw(16 * 1024);
    }
    let rest = talk.rest();
    let tail = String::from_utf8_lossy(&rest[rest.len().saturating_sub(400)..]);
    assert!(tail.contains("{\"end\":"), "{tail}");
}

#[test]
fn who_reads_more_than_is_asked_for_is_not_cut_though_the_system_tells_of_no_room() {
    let world = World::with(|options| options.idle_timeout = Duration::from_secs(1));
    std::fs::write(world.served().join("large"), noise(48 * MIB, 1)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| read_slowly(Talk::with(world.address)));
        scope.spawn(|| read_slowly(world.greeted()));
    });
}
