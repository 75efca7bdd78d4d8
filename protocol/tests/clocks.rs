//! The server's patience with its peer: its clocks run while it waits for the peer, and at no
//! other time (rule 10.3).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use ftx_protocol::message::Limits;
use ftx_protocol::server::{Reason, Server, Settings};
use ftx_protocol::{Code, Time};

const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

fn greeted() -> Server {
    let settings = Settings {
        agent: String::new(),
        features: vec!["sha256".into()],
        limits: Limits::default(),
        header_timeout: HEADER_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
    };
    let mut server = Server::new(settings, Time(0));
    server.receive(b"{\"hello\":{\"ftx\":1}}\n", Time(0));
    server
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
