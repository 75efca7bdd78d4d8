//! Clients that break off, in every phase and many at once: what they cost is given back.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::json;

use crate::harness::{MIB, PATIENCE, Server, World, text, until};
use crate::injection::Injection;
use crate::talk::{HELLO_DIGEST, Talk};

/// Clients that break off together.
const CLIENTS: usize = 200;

/// Storms until the server has to have all that it needs for them: its buffers are made when they
/// are first needed, and how many that are is for the threads to say.
const STORMS_MAX: usize = 30;

/// Storms one after another in which nothing may grow any more.
const CALM: usize = 6;

/// What they may differ by all the same: some 70 bytes for each client.
const NOISE_KIB: u64 = 512;

#[derive(Debug, Clone, Copy)]
enum Phase {
    BeforeHello,
    InTheHello,
    InTheHeader,
    InTheBody,
    BeforeTheAck,
    InTheGet,
}

const PHASES: [Phase; 6] = [
    Phase::BeforeHello,
    Phase::InTheHello,
    Phase::InTheHeader,
    Phase::InTheBody,
    Phase::BeforeTheAck,
    Phase::InTheGet,
];

impl Phase {
    /// What a client has sent when it breaks off.
    fn sent(self, number: usize) -> Vec<u8> {
        const HELLO: &str = "{\"hello\":{\"ftx\":1}}\n";
        let put = |size: usize| {
            format!(
                "{HELLO}{{\"put\":{{\"id\":1,\"name\":\"n/{number}\",\"digest\":\"sha256\",\"size\":{size},\
                 \"transfer\":\"{number:032x}\"}}}}\n{{\"data\":{{\"id\":1,\"at\":0,\"size\":{size}}}}}\n"
            )
        };
        let end = format!("{{\"end\":{{\"id\":1,\"size\":5,\"digest\":\"{HELLO_DIGEST}\"}}}}\n");
        match self {
            Self::BeforeHello => Vec::new(),
            Self::InTheHello => HELLO.as_bytes()[..9].to_vec(),
            Self::InTheHeader => put(5).as_bytes()[..60].to_vec(),
            Self::InTheBody => [put(MIB).as_bytes(), &[1; 50_000]].concat(),
            Self::BeforeTheAck => [put(5).as_bytes(), b"hello", end.as_bytes()].concat(),
            Self::InTheGet => {
                format!("{HELLO}{{\"get\":{{\"id\":1,\"name\":\"big\",\"digest\":\"sha256\"}}}}\n")
                    .into()
            }
        }
    }

    /// Whether the server says something before the client breaks off.
    fn is_answered(self) -> bool {
        !matches!(self, Self::BeforeHello | Self::InTheHello)
    }
}

/// All clients come, get as far as the phase says, and break off.
fn storm(server: SocketAddr, phase: Phase) {
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|number| {
            let mut socket = TcpStream::connect(server).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(&phase.sent(number)).unwrap();
            socket
        })
        .collect();
    for (number, mut socket) in clients.into_iter().enumerate() {
        if phase.is_answered() {
            // One byte: what else the server has said is thrown away, with a reset.
            socket.read_exact(&mut [0]).unwrap();
        }
        // Some end their sending direction first, as if they were done.
        if number % 2 == 0 {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }
}

fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn clients_that_break_off_in_any_phase_leave_no_descriptor_no_staged_file_and_no_memory() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", 8 * MIB);
    // Before anybody comes: who has just gone may not have been seen off yet.
    let descriptors = server.descriptors();
    world.run(server.address, &["put", "big"], 0);
    let over = |what: &str| {
        until(&format!("the descriptors are back, {what}"), || server.descriptors() == descriptors);
        until(&format!("staging is empty, {what}"), || world.staged() == 0);
    };
    let mut memory = vec![memory_kib(&server)];
    let is_calm = |memory: &[u64]| {
        let last = memory.len() - 1;
        last > CALM && memory[last] <= memory[last - CALM] + NOISE_KIB
    };
    while !is_calm(&memory) {
        assert!(memory.len() <= STORMS_MAX, "it grows and grows, KiB after each storm: {memory:?}");
        for phase in PHASES {
            storm(server.address, phase);
            over(&format!("storm {}, {phase:?}", memory.len()));
        }
        memory.push(memory_kib(&server));
    }
    println!("KiB after each storm: {memory:?}");
    assert!(world.run(server.address, &["get", "big", "-o", "-"], 0).stdout == bytes);
    // What was whole has its name, whether or not anybody heard of it.
    for entry in std::fs::read_dir(world.served().join("n")).unwrap().flatten() {
        assert_eq!(text(&std::fs::read(entry.path()).unwrap()), "hello");
    }
}

/// What they ask for costs a round each. Kept, it would grow with each connection, and a stop would wait for all of it.
#[test]
fn changes_that_wait_for_a_round_are_not_made_for_who_is_gone() {
    const CHANGES: u64 = 600;
    let world = World::new();
    let mut server = world.serve();
    let mut talk = Talk::with(server.address);
    for id in 1..=CHANGES {
        let name = format!("{id}{}", "/d".repeat(100));
        talk.say(json!({"mkdir": {"id": id, "name": name, "parents": "make"}}));
    }
    talk.say(json!({"ping": {"id": CHANGES + 1}}));
    while talk.line()["pong"].is_null() {}
    drop(talk);
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    let made = std::fs::read_dir(world.served()).unwrap().count() as u64;
    assert!(made < CHANGES / 2, "{made} were made");
}

/// Behind a file that the disk keeps. Kept until that is open, they would grow with each connection that comes and goes.
#[test]
fn gets_and_lists_that_wait_for_a_stuck_disk_are_not_kept_for_who_is_gone() {
    const EACH: u64 = 100;
    let world = World::new();
    let server = world.serve();
    let (calls, stuck) = ("openat2,openat", "delay_enter=100000000");
    let Some(_fault) = Injection::into(&server, calls, Some(OsStr::new("stuck")), stuck) else {
        return;
    };
    let mut talk = Talk::with(server.address);
    talk.say(json!({"get": {"id": 1, "name": "stuck", "digest": "sha256"}}));
    talk.say(json!({"get": {"id": 2, "name": "waits", "digest": "sha256"}}));
    talk.say(json!({"list": {"id": 3, "name": "waits"}}));
    for id in (4..4 + 2 * EACH).step_by(2) {
        talk.say(json!({"get": {"id": id, "name": "other", "digest": "sha256"}}));
        talk.say(json!({"list": {"id": id + 1, "name": "others"}}));
        for id in [id, id + 1] {
            talk.say(json!({"abort": {"id": id, "code": "aborted"}}));
            assert_eq!(talk.code(), "aborted");
        }
    }
    let logged = |line: &str| server.log().matches(line).count() as u64;
    let broken_off = || [logged("op=\"get\" name=other "), logged("op=\"list\" name=others ")];
    assert_eq!(broken_off(), [0, 0], "they were not begun");
    drop(talk);
    until("all are given up", || broken_off() == [EACH, EACH]);
    assert_eq!(logged("name=waits "), 0, "of what still waited nothing was told");
}
