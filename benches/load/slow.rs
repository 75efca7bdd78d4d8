//! Those who are slow, and somebody who is not: what 2,000 little requests take beside 200 clients that say
//! nothing, say or read a byte a second, or have only half of a connection left.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cases::{row, spawn};
use crate::server::Server;
use crate::talk::{Body, MIB, Talk, percentile};
use crate::{Options, Row};

/// Two seconds in all: those that have not said who they are live for ten.
const INTERVAL: Duration = Duration::from_millis(1);

/// What a slow one does when it is its turn, which is about once a second.
enum Turn {
    Nothing,
    Says,
    Reads,
}

pub fn slow(options: &Options) -> Vec<Row> {
    let home = tempfile::tempdir_in(&options.memory).unwrap();
    let identity = home.path().join("identity");
    let server = Server::with_identity(&options.memory, options.threads, &identity);
    Talk::with(server.address).put("big", &Body::of(64 * MIB));
    let (requests, count) = (options.pick(2_000, 200), options.pick(200, 20));
    // The first of them are beside what the put has left to do.
    drop(stats(&server, requests));
    let mut alone = stats(&server, requests);
    let crowd: Vec<(TcpStream, Turn)> = (0..count).map(|number| join(&server, number)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let crowd = spawn(move || {
        let mut crowd = crowd;
        while !stop.load(Ordering::Relaxed) {
            for (socket, turn) in &mut crowd {
                match turn {
                    Turn::Nothing => {}
                    Turn::Says => drop(socket.write(b" ")),
                    Turn::Reads => drop(socket.read(&mut [0])),
                }
                thread::sleep(Duration::from_secs(1) / u32::try_from(count).unwrap());
            }
        }
        crowd
    });
    let mut beside = stats(&server, requests);
    over.store(true, Ordering::Relaxed);
    // None of them was hung up on meanwhile: else this would be no measure.
    let crowd = crowd.join().unwrap();
    let there = crowd.iter().filter(|(socket, turn)| is_there(socket, turn)).count();
    let figures =
        |times: &mut [Duration]| [50, 99].map(|percent| percentile(times, percent) * 1_000.0);
    let ([p50, p99], [p50_beside, p99_beside]) = (figures(&mut alone), figures(&mut beside));
    vec![row(
        format!(
            "{requests} stats beside {count} slow clients of all kinds, {there} of them there to the end"
        ),
        format!(
            "p50 {p50:.0} -> {p50_beside:.0} µs, p99 {p99:.0} -> {p99_beside:.0} µs ({:.2}x)",
            p99_beside / p99
        ),
        "p99 within 2x",
    )]
}

/// The latencies of little requests, one at each tick.
fn stats(server: &Server, count: usize) -> Vec<Duration> {
    let mut talk = Talk::with(server.address);
    let began = Instant::now();
    let tick = |number: usize| began + INTERVAL * u32::try_from(number).unwrap();
    (0..count)
        .map(|number| {
            thread::sleep(tick(number).saturating_duration_since(Instant::now()));
            let asked = Instant::now();
            talk.stat("big");
            asked.elapsed()
        })
        .collect()
}

fn join(server: &Server, number: usize) -> (TcpStream, Turn) {
    const GREETING: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let plain = || TcpStream::connect(server.address).unwrap();
    let begun = |bytes: &[u8]| {
        let mut socket = plain();
        socket.write_all(bytes).unwrap();
        (socket, Turn::Says)
    };
    let greeted = || Talk::with(server.address);
    let put = || {
        let mut talk = greeted();
        let id = talk.begin_put(&format!("slow-{number}"), MIB);
        talk.say(&json!({"data": {"id": id, "at": 0, "size": MIB}}));
        talk.into_socket()
    };
    let get = || {
        let mut talk = greeted();
        talk.ask_for(2, "big");
        talk.into_socket()
    };
    match number % 10 {
        0 => (plain(), Turn::Nothing),
        1 => begun(b"{\"hello\":"),
        2 => begun(&GREETING),
        3 => begun(b"{\"hello\":{\"ftx\":1,\"token\":\"ftx1_"),
        4 => (greeted().into_socket(), Turn::Nothing),
        5 => {
            let mut socket = greeted().into_socket();
            socket.write_all(b"{\"stat\":{").unwrap();
            (socket, Turn::Says)
        }
        6 => (put(), Turn::Says),
        7 => (get(), Turn::Nothing),
        8 => (get(), Turn::Reads),
        _ => {
            // What it has asked for it can still be given.
            let socket = get();
            socket.shutdown(Shutdown::Write).unwrap();
            (socket, Turn::Nothing)
        }
    }
}

/// Whether the server has not closed it. To those that are being sent something more is always there.
fn is_there(socket: &TcpStream, turn: &Turn) -> bool {
    socket.set_nonblocking(true).unwrap();
    match socket.peek(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => {
            !matches!(turn, Turn::Reads) && error.kind() == std::io::ErrorKind::WouldBlock
        }
    }
}
