//! Bytes that go through, however the sockets behave, and how connections end.

use std::time::{Duration, Instant};

use super::line::{Pace, Random, free};
use super::*;
use crate::STEP_BYTES;
use crate::tls::{NARROW_STEP_BYTES, WHOLE_STEPS};

/// The longest record: its header, 16 KiB, the type of what is in it, and the tag.
const RECORD_BYTES: usize = 5 + 16 * 1024 + 1 + 16;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Both sides write all and read all, in turns by chance, then close; the caller says how the
/// sockets behave.
fn exchange(client: &mut Peer, server: &mut Peer, sizes: [usize; 2], random: &mut Random) {
    let bodies = sizes.map(content);
    let mut peers = [client, server];
    let (mut sent, mut heard) = ([0, 0], [Vec::new(), Vec::new()]);
    let (mut closed, mut ended) = ([false; 2], [false; 2]);
    for _ in 0..4_000_000 {
        if closed == [true; 2] && ended == [true; 2] {
            break;
        }
        let side = random.below(2);
        let peer = &mut peers[side];
        if random.below(2) == 0 {
            if sent[side] < bodies[side].len() {
                let most = bodies[side].len().min(sent[side] + 1 + random.below(200_000));
                let count = peer.write(&bodies[side][sent[side]..most]);
                assert!(count <= STEP_BYTES);
                sent[side] += count;
            } else {
                closed[side] |= peer.tls.close(&mut peer.socket).is_ok();
            }
        } else if !ended[side] {
            let room = [1, 10, 3_000, 50_001, 300_000][random.below(5)];
            match peer.read(room) {
                Read::Bytes(bytes) => heard[side].extend(bytes),
                Read::Blocked => assert!(!peer.tls.has_plain()),
                Read::End => ended[side] = true,
                Read::Error(kind) => panic!("{kind}"),
            }
        }
    }
    assert_eq!((closed, ended), ([true; 2], [true; 2]), "it does not end");
    assert!(heard[0] == bodies[1] && heard[1] == bodies[0]);
}

#[test]
fn split_at_every_byte() {
    let one = |next| Pace::EverySecondBlocks { most: 1, next: [next, !next] };
    let (mut client, mut server) = pair(one(false), one(true));
    exchange(&mut client, &mut server, [20_000, 17_000], &mut Random(1));
}

#[test]
fn every_second_call_blocks() {
    let some = |next| Pace::EverySecondBlocks { most: 1_461, next: [next; 2] };
    let (mut client, mut server) = pair(some(true), some(false));
    exchange(&mut client, &mut server, [500_000, 300_000], &mut Random(2));
}

/// The handshake and the first bytes in pieces of every size.
#[test]
fn a_handshake_in_pieces_of_every_size() {
    for cut in 1..1_200 {
        let (mut client, mut server) =
            pair(Pace::EverySecondBlocks { most: cut, next: [false; 2] }, free());
        shake_hands(&mut client, &mut server);
        assert_eq!(client.write(b"hello"), 5);
        while !client.is_out() {}
        assert_eq!(server.read(100), Read::Bytes(b"hello".to_vec()), "{cut}");
    }
}

/// `FTX_SEED=n cargo test -p ftx-channel by_chance` runs one seed.
#[test]
fn sockets_that_behave_by_chance() {
    let only = std::env::var("FTX_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = only.map_or(0..150, |seed| seed..seed + 1);
    for seed in seeds {
        println!("FTX_SEED={seed} runs this one again");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut pace = || match random.below(4) {
            0 => Pace::Free { room: 1 + random.below(100_000) },
            _ => Pace::Chance(random.clone()),
        };
        let (mut client, mut server) = pair(pace(), pace());
        let sizes = [random.below(400_000), random.below(400_000)];
        exchange(&mut client, &mut server, sizes, &mut random);
    }
}

#[test]
fn a_write_takes_a_step_and_no_more_until_it_is_out() {
    let (mut client, mut server) = pair(Pace::Free { room: 10_000 }, free());
    shake_hands(&mut client, &mut server);
    let body = content(3 * NARROW_STEP_BYTES);
    assert_eq!(client.write(&body), NARROW_STEP_BYTES);
    assert_eq!(client.write(&body), 0, "the step before is not out");
    assert!(!client.is_out());
    let mut heard = Vec::new();
    while heard.len() < NARROW_STEP_BYTES {
        match server.read(7_000) {
            Read::Bytes(bytes) => heard.extend(bytes),
            other => assert_eq!(other, Read::Blocked),
        }
        client.is_out();
    }
    assert!(heard == body[..NARROW_STEP_BYTES] && client.is_out());
    assert_eq!(client.write(&body[NARROW_STEP_BYTES..]), NARROW_STEP_BYTES);
}

#[test]
fn steps_are_wide_while_the_socket_takes_them_and_little_is_kept_when_it_does_not() {
    let (mut client, mut server) = pair(Pace::Free { room: 600_000 }, free());
    shake_hands(&mut client, &mut server);
    let body = content(STEP_BYTES);
    let narrow = |client: &mut Peer| {
        for _ in 0..WHOLE_STEPS {
            assert_eq!(client.write(&body), NARROW_STEP_BYTES);
            assert!(client.is_out());
        }
    };
    narrow(&mut client);
    assert_eq!(client.write(&body), STEP_BYTES);
    assert!(client.is_out());
    assert_eq!(client.write(&body), STEP_BYTES);
    assert!(!client.is_out(), "there is room for some of it");
    server.read_all();
    assert!(client.is_out());
    server.read_all();
    narrow(&mut client);
    assert_eq!(client.write(&body), STEP_BYTES);
}

#[test]
fn nothing_is_taken_before_the_handshake_is_over() {
    let (mut client, mut server) = pair(free(), free());
    assert_eq!(client.write(b"secret"), 0);
    assert_eq!(server.write(b"secret"), 0);
    shake_hands(&mut client, &mut server);
    assert_eq!(client.write(b"secret"), 6);
    assert!(!client.socket.sent().windows(6).any(|part| part == b"secret"));
}

#[test]
fn an_end_that_is_said() {
    let (mut client, mut server) = pair(free(), free());
    shake_hands(&mut client, &mut server);
    client.tls.close(&mut client.socket).unwrap();
    let error = client.tls.write(&mut client.socket, b"more").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(server.read(10), Read::End);
    assert!(server.tls.has_plain(), "a read gives the end without the socket");
    assert_eq!(server.read(10), Read::End, "and stays");
    // The other direction goes on.
    assert_eq!(server.write(b"bye"), 3);
    server.tls.close(&mut server.socket).unwrap();
    assert_eq!(client.read_all(), (b"bye".to_vec(), Read::End));
}

/// The last bytes and the end come in one piece, and the socket never says more.
#[test]
fn an_end_that_comes_with_the_last_bytes() {
    for room in [1, 2, 4, 100] {
        let (mut client, mut server) = pair(free(), free());
        shake_hands(&mut client, &mut server);
        client.write(b"last");
        client.tls.close(&mut client.socket).unwrap();
        let mut heard = Vec::new();
        let end = loop {
            match server.read(room) {
                Read::Bytes(bytes) => heard.extend(bytes),
                other => break other,
            }
        };
        assert_eq!((heard.as_slice(), end), (&b"last"[..], Read::End));
    }
}

#[test]
fn an_end_that_nobody_said() {
    let (mut client, mut server) = pair(free(), free());
    shake_hands(&mut client, &mut server);
    client.write(b"half of it");
    client.socket.end();
    assert_eq!(server.read_all(), (b"half of it".to_vec(), Read::Error(ErrorKind::UnexpectedEof)));
    assert_eq!(server.read(10), Read::Error(ErrorKind::UnexpectedEof), "and stays");
}

#[test]
fn an_end_within_the_handshake_or_a_record() {
    let (client, mut server) = pair(free(), free());
    client.socket.end();
    assert_eq!(server.read(10), Read::Error(ErrorKind::UnexpectedEof));

    let (mut client, mut server) = pair(Pace::Free { room: 500 }, free());
    shake_hands(&mut client, &mut server);
    client.write(&content(1_000));
    client.socket.end();
    assert_eq!(server.read(2_000), Read::Error(ErrorKind::UnexpectedEof));
}

/// Whichever side ends, and whenever that is before the handshake is over for it: it has nothing to say that with, and
/// the other one is told of a cut and never of an end, also if the handshake is over for that one.
#[test]
fn an_end_before_the_handshake_is_over_is_a_cut() {
    for side in [0, 1] {
        let (mut turns, mut other_was_ready) = (0, false);
        loop {
            let slow = || Pace::EverySecondBlocks { most: 150, next: [false; 2] };
            let (client, server) = pair(slow(), slow());
            let mut peers = [client, server];
            for _ in 0..turns {
                for peer in &mut peers {
                    assert_eq!(peer.read(1), Read::Blocked);
                }
            }
            peers.rotate_left(side);
            let [ends, other] = &mut peers;
            if ends.tls.is_ready() {
                break;
            }
            let said_before = ends.socket.sent().len();
            while let Err(error) = ends.tls.close(&mut ends.socket) {
                block(&error);
            }
            ends.socket.end();
            let error = ends.tls.write(&mut ends.socket, b"more").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            let mut heard = Read::Blocked;
            while heard == Read::Blocked {
                heard = other.read(10);
            }
            let said = ends.socket.sent().len() - said_before;
            assert_eq!(heard, Read::Error(ErrorKind::UnexpectedEof), "{side} {turns} {said}");
            assert_eq!(other.read(10), heard, "and stays");
            other_was_ready |= other.tls.is_ready();
            turns += 1;
        }
        assert!(turns > 2, "{turns}");
        // A server has said all of its handshake before it has heard all of its client's.
        assert_eq!(other_was_ready, side == 1);
    }
}

/// What is kept for a reader with little room is at most a record and what one look at the socket
/// brings, and is given back.
#[test]
fn what_is_kept_is_bounded() {
    let (mut client, mut server) = pair(free(), free());
    shake_hands(&mut client, &mut server);
    let body = content(300_000);
    let mut sent = 0;
    while sent < body.len() {
        sent += client.write(&body[sent..]);
    }
    let mut heard = Vec::new();
    while heard.len() < body.len() {
        let Read::Bytes(bytes) = server.read(1 + heard.len() % 3) else { panic!() };
        heard.extend(bytes);
        let kept = server.tls.kept_bytes();
        assert!(kept <= RECORD_BYTES + 4 * 1024, "{kept}");
    }
    assert!(heard == body);
    assert_eq!(server.tls.kept_bytes(), 0);
}

#[test]
fn one_thread_reads_while_another_writes() {
    let (client, server) = pair(Pace::Free { room: 100_000 }, Pace::Free { room: 30_000 });
    let body = content(1 << 20);
    let until = Instant::now() + Duration::from_secs(60);
    let (client, server) = (split(client), split(server));
    std::thread::scope(|scope| {
        for (tls, reading, writing) in [&client, &server] {
            let body = &body;
            scope.spawn(move || {
                let mut sent = 0;
                while sent < body.len() {
                    assert!(Instant::now() < until, "stuck at {sent}");
                    match tls.write(&mut *writing.lock().unwrap(), &body[sent..]) {
                        Ok(count) => sent += count,
                        Err(error) => block(&error),
                    }
                }
                while let Err(error) = tls.close(&mut *writing.lock().unwrap()) {
                    block(&error);
                }
            });
            scope.spawn(move || {
                let (mut heard, mut room) = (Vec::new(), vec![0_u8; 20_000]);
                loop {
                    assert!(Instant::now() < until, "stuck at {}", heard.len());
                    match tls.read(&mut *reading.lock().unwrap(), &mut room) {
                        Ok(0) => break,
                        Ok(count) => heard.extend_from_slice(&room[..count]),
                        Err(error) => block(&error),
                    }
                }
                assert!(heard == *body);
            });
        }
    });
}

type Split = (Tls, std::sync::Mutex<End>, std::sync::Mutex<End>);

fn split(peer: Peer) -> Split {
    let other = peer.socket.again();
    (peer.tls, peer.socket.into(), other.into())
}

fn block(error: &std::io::Error) {
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    std::thread::yield_now();
}

/// What the documentation says of an idle connection, without what the allocator adds.
#[test]
fn an_idle_connection_is_small() {
    let (mut client, mut server) = pair(free(), free());
    shake_hands(&mut client, &mut server);
    assert!(size_of::<Tls>() <= 1_536, "{}", size_of::<Tls>());
    assert_eq!(server.tls.kept_bytes(), 0);
    assert!(!server.tls.has_plain());
}
