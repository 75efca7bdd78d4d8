//! What one client holds or keeps busy is not taken from the others.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ftx_protocol::limits::NAME_PARTS;
use serde_json::{Value, json};

use crate::harness::{MIB, PATIENCE, Server, World, until};
use crate::injection::Injection;
use crate::talk::{HELLO_DIGEST, Talk};

/// Clients that send one small put each. More than the server has buffers.
const CLIENTS: usize = 300;

/// Longer than this the disk does not let anybody wait who is stuck; the test is over before.
const STUCK: &str = "delay_enter=100000000";

/// Connections with an open put, of which some of the body is there.
fn unfinished(server: &Server, count: usize) -> Vec<Talk> {
    let begin = |number: usize| {
        let mut talk = Talk::with(server.address);
        talk.say(json!({"put": {
            "id": 1, "name": format!("unfinished/{number}"), "digest": "sha256", "size": 1_000_000,
            "transfer": format!("f{number:031x}"),
        }}));
        talk.say(json!({"data": {"id": 1, "at": 0, "size": 1_000_000}}));
        talk.send(&vec![1; 100_000]);
        talk
    };
    (0..count).map(begin).collect()
}

/// All of them put at once, and each gets its answer.
fn all_are_served(world: &World, server: &Server) {
    let mut talks: Vec<Talk> = (0..CLIENTS).map(|_| Talk::with(server.address)).collect();
    // When the server goes on, all have something for it to read.
    server.signal("-STOP");
    for (number, talk) in talks.iter_mut().enumerate() {
        // Nothing behind the put brings the server back to a connection that it forgot.
        talk.put_hello(number as u64 + 1, &format!("small/{number}"), "none");
    }
    server.signal("-CONT");
    for (number, talk) in talks.iter_mut().enumerate() {
        let line = talk.line();
        assert_eq!(line["done"]["digest"], HELLO_DIGEST, "client {number}: {line}");
    }
    assert_eq!(std::fs::read_dir(world.served().join("small")).unwrap().count(), CLIENTS);
}

#[test]
fn more_clients_than_there_are_buffers_all_get_their_acknowledgement() {
    let world = World::new();
    let server = world.serve();
    let mut slow = unfinished(&server, 8);
    // A slow disk: what is read waits in its buffers, so that they run out.
    let fault = Injection::into(&server, "openat2,openat", None, "delay_enter=20000");
    all_are_served(&world, &server);
    drop(fault);
    // Those that never finish are not what was given up for the others.
    for talk in &mut slow {
        talk.send(&vec![1; 900_000]);
        talk.say(json!({"abort": {"id": 1, "code": "aborted"}}));
        assert_eq!(talk.code(), "aborted");
    }
}

#[test]
fn a_client_whose_disk_is_stuck_keeps_a_few_buffers_and_the_others_get_theirs() {
    let world = World::new();
    let server = world.serve();
    let fault = Injection::into(&server, "openat2,openat", Some(OsStr::new("stuck")), STUCK);
    let Some(fault) = fault else { return };
    let mut stuck = stuck(&server, 11);
    all_are_served(&world, &server);
    // They were stuck all the while.
    drop(fault);
    for talk in &mut stuck {
        let codes: Vec<String> = std::iter::repeat_with(|| talk.line())
            .take_while(|line| !line.is_null())
            .filter_map(|line| line["error"]["code"].as_str().map(str::to_owned))
            .take(1)
            .collect();
        assert_eq!(codes, ["not_found"]);
    }
}

/// The server has no buffer to read a greeting into: that is not the silence of whoever has sent it.
#[test]
fn nobody_is_sent_away_for_what_the_server_could_not_read() {
    let world = World::new();
    let server = world.serve_with(&["--header-timeout", "1s"]);
    let fault = Injection::into(&server, "openat2,openat", Some(OsStr::new("stuck")), STUCK);
    let Some(fault) = fault else { return };
    let _stuck = stuck(&server, 16);
    let before = server.descriptors();
    let mut unread = Talk::connect(server.address);
    // It is waited for before it has said anything.
    until("it is let in", || server.descriptors() > before);
    unread.send(b"{\"hello\":{\"ftx\":1}}\n");
    // Who came later and says nothing is gone by its time.
    assert_eq!(Talk::connect(server.address).error().as_deref(), Some("timeout"));
    drop(fault);
    let line = unread.line();
    assert!(line["welcome"].is_object(), "{line}");
}

/// Clients that have as many buffers as they get, behind a name that takes for ever to look up.
fn stuck(server: &Server, clients: usize) -> Vec<Talk> {
    let mut stuck: Vec<Talk> = (0..clients).map(|_| Talk::with(server.address)).collect();
    for talk in &mut stuck {
        talk.say(json!({"stat": {"id": 1, "name": "stuck"}}));
        talk.say(json!({"put": {
            "id": 2, "name": "a", "digest": "sha256", "transfer": format!("{:032x}", 1),
        }}));
        // One byte at a time, until the server reads no more of it: each is in a buffer of its own.
        talk.patience(Duration::from_millis(500));
        let read = (0..200).take_while(|number| {
            talk.part(2, *number, b"x");
            talk.is_answered(3 + *number as u64)
        });
        assert!(read.count() < 200, "nothing holds it back");
        talk.patience(PATIENCE);
    }
    stuck
}

/// Sends that as long as there is a server, and counts it.
fn flood(server: SocketAddr, bytes: &[u8], sent: &AtomicU64) {
    let mut socket = TcpStream::connect(server).unwrap();
    let mut pieces = std::iter::once(&b"{\"hello\":{\"ftx\":1}}\n"[..])
        .chain(std::iter::repeat(bytes).flat_map(|bytes| bytes.chunks(16 * 1024)));
    while let Some(piece) = pieces.next()
        && socket.write_all(piece).is_ok()
    {
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

/// They ask for nothing, and are neither answered nor counted. So each costs little, and there may be as many as a
/// connection can send.
#[test]
fn lines_that_ask_for_nothing_keep_the_others_from_their_turns_for_few_of_them() {
    const FLOODS: u64 = 8;
    const SIZE: usize = 64 * 1024;
    /// Of each, while one line of another one waits: far less than what one may move in a turn.
    const BYTES_MAX: u64 = 640 * 1024;
    let line = "{\"more\":{\"id\":1}}\n";
    let lines = line.repeat(SIZE / line.len());
    // What is read ends inside a part as often as not, and then as much is read as of a large body.
    let part = json!({"data": {"id": 1, "at": 0, "size": SIZE}}).to_string() + "\n";
    for bytes in [lines.clone(), part + &"x".repeat(SIZE) + &lines] {
        let world = World::new();
        let sent = AtomicU64::new(0);
        let most = std::thread::scope(|scope| {
            let server = world.serve();
            let mut other = Talk::with(server.address);
            for _ in 0..FLOODS {
                let (address, bytes, sent) = (server.address, bytes.as_bytes(), &sent);
                scope.spawn(move || flood(address, bytes, sent));
            }
            let sent = || sent.load(Ordering::Relaxed);
            until("all are at it", || sent() > FLOODS * 2 * MIB as u64);
            let waits = (1..=5).map(|id| {
                let before = sent();
                assert!(other.is_answered(id));
                sent() - before
            });
            waits.min().unwrap()
        });
        assert!(most < FLOODS * BYTES_MAX, "{most} bytes were taken while one line waited");
    }
}

/// How often the server has a file open.
fn open_as(server: &Server, name: &str) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let targets = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.ends_with(name)).count()
}

/// Bytes that the server has read, from wherever.
fn read_bytes(server: &Server) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{}/io", server.child.id())).unwrap();
    let count = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    count.unwrap().parse().unwrap()
}

#[test]
fn a_digest_that_nobody_waits_for_any_more_is_not_computed_to_its_end() {
    const SIZE: u64 = 1 << 40;
    let world = World::new();
    let server = world.serve();
    // All hole: it takes no room, and many minutes to hash.
    let file = std::fs::File::create(world.served().join("huge")).unwrap();
    file.set_len(SIZE).unwrap();
    let open = || open_as(&server, "huge");
    let ask = || {
        let mut talk = Talk::with(server.address);
        talk.say(json!({"get": {"id": 1, "name": "huge", "digest": "sha256", "at": SIZE}}));
        let line = talk.line();
        assert_eq!(line["file"]["at"], SIZE, "{line}");
        talk
    };
    let talks = [ask(), ask()];
    let before = read_bytes(&server);
    until("it is being hashed", || read_bytes(&server) > before + (256 << 20));
    assert_eq!(open(), 2);
    drop(talks);
    until("the file is let go of", || open() == 0);
    assert!(read_bytes(&server) < SIZE / 2, "it was read to its end");
    assert!(Talk::with(server.address).is_answered(1));
}

#[test]
fn a_small_put_does_not_wait_for_all_the_directories_that_others_ask_for() {
    const CLIENTS: u64 = 3;
    const PUTS: u64 = 4;
    let world = World::new();
    let server = world.serve();
    // A disk that takes its time for each of them.
    let Some(fault) = Injection::into(&server, "fsync,fdatasync", None, "delay_enter=2000") else {
        return;
    };
    let deep = |id: u64| format!("deep-{id}/{}hello", "d/".repeat(NAME_PARTS - 2));
    let mut others: Vec<Talk> = (0..CLIENTS).map(|_| Talk::with(server.address)).collect();
    for (talk, first) in others.iter_mut().zip((0..).step_by(10)) {
        (first..first + PUTS).for_each(|id| talk.put_hello(id, &deep(id), "full"));
    }
    // By now the files of all of them are synced, and it is the directories that they wait for.
    assert_eq!(others[0].line()["done"]["durability"], "full");
    let mut small = Talk::with(server.address);
    small.put_hello(100, "small", "full");
    assert_eq!(small.line()["done"]["durability"], "full");
    for (talk, unanswered) in others.iter_mut().zip([PUTS - 1, PUTS, PUTS]) {
        (0..unanswered).for_each(|_| assert_eq!(talk.line()["done"]["durability"], "full"));
    }
    drop(fault);
    let puts = || server.log().matches("op=\"put\"").count() as u64;
    until("the log has all", || puts() == CLIENTS * PUTS + 1);
    let log = server.log();
    let before = log.lines().filter(|line| line.contains("op=\"put\""));
    let before = before.take_while(|line| !line.contains("name=small")).count() as u64;
    assert!(before <= CLIENTS * PUTS / 2, "it came after {before} of the others");
}

/// Opens a put, and asks so many things about names below it, which wait for it. Each takes 4 KB.
fn park(talk: &mut Talk, name: &str, stats: usize) {
    let long = vec!["x".repeat(250); 15].join("/");
    talk.say(json!({"put": {
        "id": 1, "name": name, "digest": "sha256", "size": 5, "transfer": format!("{stats:032x}"),
    }}));
    for id in 2..2 + stats {
        talk.say(json!({"stat": {"id": id, "name": format!("{name}/{long}")}}));
    }
}

#[test]
fn who_holds_most_of_what_a_server_may_hold_is_ended_and_not_who_asks_last() {
    const SELECTORS: usize = 16;
    let world = World::new();
    // Each has its part of 64 MiB: 4 MiB.
    let server = world.serve_with(&["--threads", &SELECTORS.to_string()]);
    let mut hoarder = Talk::with(server.address);
    let _others: Vec<Talk> = (1..SELECTORS).map(|_| Talk::with(server.address)).collect();
    park(&mut hoarder, "much", 760);
    assert!(hoarder.is_answered(10_000), "it may hold as much, if nobody else wants it");
    let mut honest = Talk::with(server.address);
    park(&mut honest, "little", 300);
    assert!(honest.is_answered(10_000));
    let line = hoarder.line();
    assert_eq!((&line["error"]["code"], &line["error"]["id"]), (&json!("busy"), &Value::Null));
    honest.part(1, 0, b"hello");
    honest.say(json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}}));
    assert_eq!(honest.line()["done"]["digest"], HELLO_DIGEST);
}

#[test]
fn small_files_that_were_asked_for_and_broken_off_leave_their_room_to_others() {
    const SIZE: usize = 64 * 1024;
    let world = World::new();
    let server = world.serve();
    let file = world.served().join("small");
    std::fs::write(&file, vec![1; SIZE]).unwrap();
    let get = |id: usize| json!({"get": {"id": id, "name": "small", "digest": "sha256"}});
    let lines: Vec<String> = (1..=2 * 8 * MIB / SIZE)
        .map(|id| format!("{}\n{}\n", get(id), json!({"abort": {"id": id, "code": "aborted"}})))
        .collect();
    let mut idle = Talk::with(server.address);
    idle.send(lines.concat().as_bytes());
    for _ in &lines {
        assert_eq!(idle.code(), "aborted");
    }
    until("all were opened", || server.log().matches("small").count() >= lines.len());
    // More than is on its way to one who does not read. A file for which there is room is not open meanwhile.
    let mut waiting = Talk::with(server.address);
    for id in 1..=400 {
        waiting.say(get(id));
    }
    assert_eq!(waiting.line()["file"]["size"], SIZE);
    until("the files are read whole", || open_as(&server, "small") == 0);
    assert!(idle.is_answered(100_000));
}
