//! The server's patience with its peer: its clocks run while it waits for the peer, and at no
//! other time (rule 10.3).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use ftx_protocol::message::File;
use ftx_protocol::message::Limits;
use ftx_protocol::server::{Event, Output, Reason, Server, Settings};
use ftx_protocol::{Code, FileTime, Mode, RequestId, Time, Version};

const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

fn settings() -> Settings {
    Settings {
        agent: String::new(),
        features: vec!["sha256".into()],
        limits: Limits::default(),
        requests_total_max: ftx_protocol::limits::REQUESTS_TOTAL,
        header_timeout: HEADER_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
    }
}

fn greeted() -> Server {
    let mut server = Server::new(settings(), Time(0));
    server.receive(b"{\"hello\":{\"ftx\":1}}\n", Time(0));
    server
}

#[test]
fn a_greeting_has_the_header_time_in_all_and_none_while_nobody_reads() {
    let mut server = Server::new(settings(), Time(0));
    // An hour for which the driver had no buffer.
    assert_eq!(server.deadline(), None);
    let late = Time(3_600_000);
    // Silence before the first byte, then drops.
    server.starving(late);
    assert_eq!(server.deadline(), Some(late.after(HEADER_TIMEOUT)));
    let mut now = late;
    for byte in b"{\"h" {
        now = now.after(Duration::from_millis(900));
        server.receive(&[*byte], now);
        server.starving(now);
        assert_eq!(server.deadline(), Some(late.after(HEADER_TIMEOUT)));
    }
    server.not_reading(now);
    assert_eq!(server.deadline(), None);
    server.receive(b"ello\":{\"ftx\":1}}\n", now.after(HEADER_TIMEOUT));
    assert_eq!(server.closed(), None);
    assert!(matches!(server.output(now), Output::Bytes(bytes) if bytes.starts_with(b"{\"welcome")));
}

fn with_an_open_part(size: u64) -> Server {
    let mut server = greeted();
    let put = r#"{"put":{"id":1,"name":"a","digest":"sha256","size":SIZE,"transfer":"00112233445566778899aabbccddeeff"}}"#;
    server.receive(format!("{put}\n").replace("SIZE", &size.to_string()).as_bytes(), Time(0));
    server.receive(
        format!("{{\"data\":{{\"id\":1,\"at\":0,\"size\":{size}}}}}\n").as_bytes(),
        Time(0),
    );
    server
}

/// What the server does with a peer that it waits for until its deadline.
fn failure_at_deadline(server: &mut Server) -> Option<Time> {
    let mut now = server.deadline().unwrap();
    // Signs of life come before the end.
    for _ in 0..100 {
        server.on_time(now);
        while let ftx_protocol::server::Output::Bytes(bytes) = server.output(now) {
            let count = bytes.len() as u64;
            server.wrote(count, now);
        }
        if server.requests() == 0 {
            return Some(now);
        }
        now = server.deadline().unwrap();
    }
    None
}

#[test]
fn time_in_which_the_server_does_not_read_is_not_counted_against_a_part() {
    let mut server = with_an_open_part(1024);
    // An hour for which the driver had no buffer: it never said that it waits for the peer.
    let late = Time(3_600_000);
    server.receive(&[0; 512], late);
    server.starving(late);
    let end = failure_at_deadline(&mut server).unwrap();
    assert_eq!(late.until(end), IDLE_TIMEOUT);
}

#[test]
fn a_driver_that_stops_reading_does_not_wait_for_the_peer_any_more() {
    let mut server = with_an_open_part(1024);
    server.starving(Time(0));
    assert!(server.deadline().is_some());
    server.not_reading(Time(1_000));
    assert_eq!(server.deadline(), None);
    let late = Time(3_600_000);
    server.starving(late);
    let end = failure_at_deadline(&mut server).unwrap();
    assert_eq!(late.until(end), IDLE_TIMEOUT);
}

#[test]
fn a_part_that_comes_in_drops_has_its_idle_time_and_its_slowest_time_in_all() {
    let mut server = with_an_open_part(2048);
    let mut now = Time(0);
    for _ in 0..2048 {
        server.starving(now);
        let next = now.after(Duration::from_secs(1));
        if server.deadline().unwrap() < next {
            break;
        }
        server.receive(b"x", next);
        now = next;
    }
    let end = failure_at_deadline(&mut server).unwrap();
    assert_eq!(Time(0).until(end), IDLE_TIMEOUT + Duration::from_secs(2));
}

#[test]
fn a_line_that_comes_in_drops_has_the_header_time_in_all_and_none_while_nobody_reads() {
    let mut server = greeted();
    server.receive(b"{", Time(0));
    let late = Time(60_000);
    server.receive(b"\"", late);
    let mut now = late;
    for _ in 0..100 {
        server.starving(now);
        let next = now.after(Duration::from_secs(1));
        if server.deadline().unwrap() <= next {
            break;
        }
        server.receive(b"x", next);
        now = next;
    }
    let end = server.deadline().unwrap();
    assert_eq!(late.until(end), HEADER_TIMEOUT);
    server.on_time(end);
    server.receive_end(end);
    assert_eq!(server.closed(), Some(Reason::Failed(Code::Timeout)));
}

/// A server that has begun to send a file.
fn with_a_file(size: u64) -> Server {
    let mut server = greeted();
    server.receive(b"{\"get\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\"}}\n", Time(0));
    let (mtime, mode) = (FileTime::nearest(1, 0), Mode::new(0o644));
    let version = Version::of_hash(&[0; 32]);
    let file = File { id: RequestId(1), size, at: 0, version, mtime, mode };
    server.handle(Event::Opened(file), Time(0));
    while let Output::Bytes(bytes) = server.output(Time(0)) {
        let count = bytes.len() as u64;
        server.wrote(count, Time(0));
    }
    server
}

/// A client that reads so many bytes after each pause; until when it is borne with, and what it
/// has read by then.
fn read_slowly(server: &mut Server, bytes: u64, pause: Duration) -> (Time, u64) {
    let (mut now, mut read) = (Time(0), 0);
    for _ in 0..10_000 {
        let count = match server.output(now) {
            Output::File { size, .. } => size.min(bytes),
            Output::Bytes(said) => (said.len() as u64).min(bytes),
            _ => break,
        };
        server.blocked(now);
        let next = now.after(pause);
        if let Some(deadline) = server.deadline()
            && deadline <= next
        {
            server.on_time(deadline);
            return (deadline, read);
        }
        now = next;
        read += count;
        server.wrote(count, now);
    }
    (now, read)
}

#[test]
fn who_reads_a_byte_now_and_then_has_the_idle_time_in_all() {
    let mut server = with_a_file(1 << 20);
    let (end, read) = read_slowly(&mut server, 1, IDLE_TIMEOUT.mul_f64(0.9));
    assert_eq!(read, 1);
    // Less than a byte's time more.
    assert_eq!(Time(0).until(end).as_millis().div_ceil(100), IDLE_TIMEOUT.as_millis() / 100);
    assert!(server.edges_taken().missing().iter().all(|edge| edge != "talk failed"));
}

#[test]
fn who_reads_a_little_less_than_the_slowest_has_a_second_more_for_each_kib() {
    let mut server = with_a_file(1 << 20);
    let (end, read) = read_slowly(&mut server, 960, Duration::from_secs(1));
    let seconds = Time(0).until(end).as_secs_f64();
    let allowed = IDLE_TIMEOUT.as_secs_f64() + read as f64 / 1024.0;
    assert!((seconds - allowed).abs() < 1.0, "{seconds} s, and not {allowed} s");
}

#[test]
fn who_reads_a_little_more_than_the_slowest_gets_its_file() {
    let mut server = with_a_file(4 << 20);
    let (_, read) = read_slowly(&mut server, 1100, Duration::from_secs(1));
    assert!(read >= 4 << 20, "{read}");
}

/// The socket has room; whoever reads the file does not come to it.
#[test]
fn time_in_which_the_disk_is_waited_for_is_not_counted_against_a_reader() {
    let mut server = with_a_file(1 << 20);
    let (half, second) = (IDLE_TIMEOUT / 2, Duration::from_secs(1));
    server.blocked(Time(0));
    let room = Time(0).after(half);
    server.not_blocked(room);
    assert_eq!(server.deadline(), None);
    // It has not read a byte, for the socket had none for it: what was waited before counts.
    let later = room.after(2 * IDLE_TIMEOUT);
    server.blocked(later);
    assert_eq!(server.deadline(), Some(later.after(half)));
    server.on_time(later.after(half - second));
    assert_eq!(server.closed(), None);
    assert!(!matches!(server.output(later), Output::Shutdown));
}

#[test]
fn a_reader_that_was_slow_has_its_patience_back_when_it_has_read() {
    let mut server = with_a_file(3 << 20);
    for minute in 0..3 {
        let now = Time(minute * 60_000);
        assert_ne!(server.output(now), Output::Nothing);
        server.blocked(now);
        assert_eq!(server.deadline().map(|end| now.until(end)), Some(IDLE_TIMEOUT));
        let late = now.after(IDLE_TIMEOUT - Duration::from_secs(1));
        // One part.
        for _ in 0..2 {
            let count = match server.output(late) {
                Output::File { size, .. } => size,
                Output::Bytes(bytes) => bytes.len() as u64,
                _ => 0,
            };
            server.wrote(count, late);
        }
    }
}

/// The client has said that it is done, and the server too; but the driver holds something back.
#[test]
fn what_is_not_out_at_the_end_is_waited_for_as_before_and_not_for_ever() {
    let finished = || {
        let mut server = greeted();
        server.receive_end(Time(0));
        while let Output::Bytes(bytes) = server.output(Time(0)) {
            let count = bytes.len() as u64;
            server.wrote(count, Time(0));
        }
        assert_eq!(server.closed(), Some(Reason::Finished));
        assert_eq!(server.deadline(), None);
        server.blocked(Time(0));
        server
    };
    let mut server = finished();
    assert_eq!(server.deadline(), Some(Time(0).after(IDLE_TIMEOUT)));
    server.on_time(Time(0).after(IDLE_TIMEOUT));
    assert_eq!(server.closed(), Some(Reason::Finished));
    let every = Duration::from_secs(2);
    // How often somebody takes so many bytes before it is over.
    let times = |bytes: u64| {
        let (mut server, mut now) = (finished(), Time(0));
        for times in 0..1_000 {
            now = now.after(every);
            if server.deadline().unwrap() <= now {
                return times;
            }
            server.wrote_late(bytes, now);
            server.blocked(now);
        }
        1_000
    };
    assert_eq!(times(1), 5, "a byte now and then keeps nothing");
    assert_eq!(times(2 * 1024), 1_000, "who is as fast as a reader must be is waited for");
}
