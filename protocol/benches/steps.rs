//! The pure steps that every message takes: a line is read, a name is checked, the machine moves.
//!
//! `cargo bench -p ftx-protocol` measures time, which drifts with the machine. `benches/instructions`
//! counts instructions, which do not; for it `steps run NAME COUNT` does one step so many times.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use ftx_protocol::message::{Done, Limits, ServerMessage};
use ftx_protocol::server::{Command, Event, Output, Server, Settings, Work};
use ftx_protocol::{Name, Time, line};

const HELLO: &[u8] = b"{\"hello\":{\"ftx\":1}}\n";
const PUT: &str = r#"{"put":{"id":2,"name":"photos/2026/11/IMG_0042.jpg","digest":"sha256","size":4096,"transfer":"9f3c0b6e5d8a41f7a2b4c6d8e0f11223","mtime":[1764000000,0],"mode":420}}"#;
const DATA: &str = r#"{"data":{"id":2,"at":0,"size":4096}}"#;
const END: &str = r#"{"end":{"id":2,"size":4096,"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}"#;
const DONE: &str = r#"{"done":{"id":2,"size":4096,"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","durability":"full","version":"5d41402abc4b2a76b9719d911017c592","mtime":[1764000000,0],"mode":420}}"#;
const NAME: &[u8] = b"photos/2026/11/IMG_0042.jpg";

/// Each does its step once.
const STEPS: [(&str, fn()); 10] = [
    ("nothing", || {}),
    ("name_parse", name_parse),
    ("read_put", read_put),
    ("read_data", read_data),
    ("read_end", read_end),
    ("write_done", write_done),
    ("refuse_garbage", refuse_garbage),
    ("machine_put", machine_put),
    ("waits_for_one", waits_for_one),
    ("one_by_one", one_by_one),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, name, count] = words.as_slice() else { return divan::main() };
    if command != "run" {
        return divan::main();
    }
    let (_, step) = STEPS.iter().find(|(step, _)| step == name).expect("a step of that name");
    (0..count.parse::<u32>().expect("a count")).for_each(|_| step());
}

#[divan::bench]
fn name_parse() {
    black_box(Name::parse(black_box(NAME)).unwrap());
}

#[divan::bench]
fn read_put() {
    black_box(line::read_client(black_box(PUT.as_bytes())).unwrap());
}

#[divan::bench]
fn read_data() {
    black_box(line::read_client(black_box(DATA.as_bytes())).unwrap());
}

#[divan::bench]
fn read_end() {
    black_box(line::read_client(black_box(END.as_bytes())).unwrap());
}

/// What is said at the end of every put; reading it first is part of the step.
#[divan::bench]
fn write_done() {
    let message = line::read_server(black_box(DONE.as_bytes())).unwrap().unwrap();
    let mut out = Vec::with_capacity(512);
    line::write(&message, &mut out);
    black_box(out);
}

#[divan::bench]
fn refuse_garbage() {
    black_box(line::read_client(black_box(b"{\"put\":{\"id\":2,\"id\":3}}")).unwrap_err());
}

/// A connection's machine, from accepting to the reply of one small put that came in one read.
#[divan::bench]
fn machine_put() {
    thread_local! {
        static INPUT: Vec<u8> = small_put();
    }
    INPUT.with(|input| {
        let mut machine = Server::new(settings(), Time(0));
        machine.receive(HELLO, Time(0));
        machine.receive(black_box(input), Time(0));
        while let Some(command) = machine.poll_command() {
            if let Command::Work(Work::Finish(_)) = &command {
                machine.handle(Event::Stored(done()), Time(1));
            }
            black_box(command);
        }
        while let Output::Bytes(bytes) = machine.output(Time(1)) {
            let written = black_box(bytes).len() as u64;
            machine.wrote(written, Time(1));
        }
        black_box(machine);
    });
}

/// Requests with names of 4,000 bytes, all of which wait for one put: heard, let go on, and refused.
#[divan::bench(sample_count = 20)]
fn waits_for_one() {
    thread_local! {
        static INPUT: Vec<u8> = {
            let deep = ["x".repeat(31).as_str(); 126].join("/");
            let stats = (3..3 + WAITING).map(|id| stat(id, &format!("a/{deep}/{id}")));
            format!("{}\n{}", PUT.replace("photos/2026/11/IMG_0042.jpg", "a"), stats.collect::<String>()).into()
        };
    }
    INPUT.with(|input| refuse_all(input));
}

/// Requests for one directory, behind as many below it: each waits for all before it.
#[divan::bench(sample_count = 20)]
fn one_by_one() {
    thread_local! {
        static INPUT: Vec<u8> = {
            let below = (1..=WAITING / 2).map(|id| stat(id, &format!("a/{id}")));
            let above = (WAITING / 2 + 1..=WAITING).map(|id| stat(id, "a"));
            below.chain(above).collect::<String>().into()
        };
    }
    INPUT.with(|input| refuse_all(input));
}

/// What a step has waiting: a quarter of what a connection may have.
const WAITING: usize = ftx_protocol::limits::REQUESTS / 4;

fn stat(id: usize, name: &str) -> String {
    format!("{{\"stat\":{{\"id\":{id},\"name\":\"{name}\"}}}}\n")
}

/// A machine hears this, and is refused all that it asks of storage.
fn refuse_all(input: &[u8]) {
    let mut machine = Server::new(settings(), Time(0));
    machine.receive(HELLO, Time(0));
    machine.receive(black_box(input), Time(0));
    while let Some(command) = machine.poll_command() {
        if let Command::Work(work) = command
            && let Some(id) = work.id()
        {
            let refusal = ftx_protocol::Code::NotFound.into();
            machine.handle(Event::Refused { id, refusal }, Time(1));
        }
    }
    assert_eq!(machine.requests(), 0);
}

fn small_put() -> Vec<u8> {
    let mut input = format!("{PUT}\n{DATA}\n").into_bytes();
    input.extend_from_slice(&[7; 4096]);
    input.extend_from_slice(format!("{END}\n").as_bytes());
    input
}

fn done() -> Done {
    match line::read_server(DONE.as_bytes()).unwrap().unwrap() {
        ServerMessage::Done(done) => done,
        other => panic!("{other:?}"),
    }
}

fn settings() -> Settings {
    Settings {
        agent: "ftx".to_owned(),
        features: vec!["sha256".to_owned(), "blake3".to_owned()],
        limits: Limits::default(),
        requests_total_max: ftx_protocol::limits::REQUESTS_TOTAL,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    }
}
