//! A server that the system gives few descriptors, and more puts than that: they wait, and all are stored.

use std::collections::HashSet;
use std::ffi::OsString;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{MIB, Server, World, until};
use crate::injection::Injection;
use crate::talk::{HELLO_DIGEST, Talk};

/// Descriptors of the server: some for itself, 32 for connections, 16 for puts and eight for files that are sent. Of the puts
/// all but eight are for connections that have no other one under way.
const DESCRIPTORS: usize = 128;

/// Files that one address may have open of these eight, and directories of the 32 that may be listed.
const FILES: usize = 6;
const DIRECTORIES: usize = 24;

/// Puts on one connection. With those of another one that is more than there are descriptors.
const PUTS: u64 = 100;

fn serve_with_few(world: &World) -> Server {
    Server::spawn(few(world))
}

/// A server that has so many.
pub fn few(world: &World) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_ftx"), "serve"]).arg(world.served());
    command.args(["--listen", "127.0.0.1:0", "--min-free", "0"]);
    command.env("XDG_STATE_HOME", world.home.path().join("state-of-the-server"));
    command
}

fn is_stored(line: &Value) -> bool {
    line["done"]["digest"] == HELLO_DIGEST
}

/// Gets a file of five bytes, and lists a directory.
fn read_something(talk: &mut Talk, id: u64) {
    talk.say(json!({"get": {"id": id, "name": "old", "digest": "sha256"}}));
    assert_eq!(talk.line()["file"]["size"], 5);
    let (line, bytes) = talk.past_parts();
    assert_eq!((&line["end"]["digest"], bytes), (&json!(HELLO_DIGEST), 5), "{line}");
    talk.say(json!({"list": {"id": id + 1, "name": "some"}}));
    assert!(talk.line()["entries"].is_object());
    assert_eq!(talk.line()["ok"]["id"], id + 1);
}

#[test]
fn puts_that_wait_for_a_slow_disk_leave_descriptors_to_the_others() {
    const CLIENTS: u64 = 4;
    let world = World::new();
    std::fs::create_dir(world.served().join("some")).unwrap();
    for name in ["old", "some/thing"] {
        std::fs::write(world.served().join(name), "hello").unwrap();
    }
    let server = serve_with_few(&world);
    let mut clients: Vec<Talk> = (0..CLIENTS).map(|_| Talk::with(server.address)).collect();
    let mut other = Talk::with(server.address);
    let before = server.descriptors();
    let Some(fault) = Injection::into(&server, "fsync,fdatasync", None, "delay_enter=10000") else {
        return;
    };
    for (talk, first) in clients.iter_mut().zip((1..).step_by(PUTS as usize)) {
        for id in first..first + PUTS {
            talk.put_hello(id, &format!("new/{id}"), "full");
        }
    }
    let (mut read, mut most) = (0, 0);
    let clients = std::thread::scope(|scope| {
        let hear = |mut talk: Talk| {
            for _ in 0..PUTS {
                let line = talk.line();
                assert!(is_stored(&line), "{line}");
            }
            talk
        };
        let heard: Vec<_> =
            clients.into_iter().map(|talk| scope.spawn(move || hear(talk))).collect();
        while heard.iter().any(|heard| !heard.is_finished()) {
            read_something(&mut other, 2 * read + 1);
            // New ones are let in, too.
            assert!(Talk::with(server.address).is_answered(1));
            most = most.max(server.descriptors() - before);
            read += 1;
        }
        // They go when all is over.
        heard.into_iter().map(|heard| heard.join().unwrap()).collect::<Vec<Talk>>()
    });
    drop(fault);
    drop(clients);
    assert!(read > 0, "all was over before anybody else asked for anything");
    assert!((8..32).contains(&most), "{most} descriptors");
    let new = std::fs::read_dir(world.served().join("new")).unwrap().count();
    assert_eq!(new as u64, CLIENTS * PUTS);
    until("all files are closed", || server.descriptors() <= before);
    assert!(!server.log().contains("busy"), "{}", server.log());
}

#[test]
fn puts_that_wait_for_each_other_need_no_more_places_than_there_are() {
    let world = World::new();
    let server = serve_with_few(&world);
    let mut talk = Talk::with(server.address);
    (1..=PUTS).for_each(|id| talk.put_hello(id, "same", "none"));
    for _ in 0..PUTS {
        let line = talk.line();
        assert!(is_stored(&line), "{line}");
    }
    // Files wait for the directories that they go to.
    for number in 0..400 {
        let directory = world.here().join(format!("tree/{}/{}", number % 7, number % 40));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(number.to_string()), number.to_string()).unwrap();
    }
    world.run(server.address, &["put", "-r", "tree"], 0);
    for number in 0..400 {
        let name = format!("tree/{}/{}/{number}", number % 7, number % 40);
        assert_eq!(world.stored(&name), number.to_string().as_bytes());
    }
    assert!(!server.log().contains("busy"), "{}", server.log());
}

/// Lists that do not go on unless they are asked to, and so many puts that wait for them.
fn hold_back(talk: &mut Talk, first: u64) {
    talk.say(json!({"list": {"id": 1, "name": "many"}}));
    talk.say(json!({"list": {"id": 2, "name": "held"}}));
    (first..first + PUTS).for_each(|id| talk.put_hello(id, &format!("held/{id}"), "none"));
}

fn all_are_stored(talk: &mut Talk, first: u64, durability: &str) {
    (first..first + PUTS).for_each(|id| talk.put_hello(id, &format!("new/{id}"), durability));
    for _ in 0..PUTS {
        let line = talk.line();
        assert!(is_stored(&line), "{line}");
    }
}

#[test]
fn who_keeps_places_by_a_list_that_does_not_go_on_keeps_nobody_from_putting() {
    const OPEN: u64 = 900;
    let world = World::new();
    for directory in ["many", "held"] {
        std::fs::create_dir(world.served().join(directory)).unwrap();
    }
    for number in 0..2_500 {
        let name = format!("many/{}-{number}", "x".repeat(240));
        std::fs::write(world.served().join(name), "").unwrap();
    }
    let server = serve_with_few(&world);
    let before = server.descriptors();
    let mut idle = Talk::with(server.address);
    hold_back(&mut idle, 100);
    idle.say(json!({"put": {
        "id": OPEN, "name": "held/open", "digest": "sha256", "size": 5, "transfer": format!("{OPEN:032x}"),
    }}));
    // A connection, a directory, and eight files.
    until("it has what there is for it", || server.descriptors() > before + 8);
    let mut busy = Talk::with(server.address);
    all_are_stored(&mut busy, 1_000, "full");
    assert_eq!(std::fs::read_dir(world.served().join("held")).unwrap().count(), 0);
    // What it says meanwhile is heard: it gives one up, and then goes on with its list.
    idle.part(OPEN, 0, b"hel");
    idle.say(json!({"abort": {"id": OPEN, "code": "aborted"}}));
    (0..100).for_each(|_| idle.say(json!({"more": {"id": 1}})));
    let (mut stored, mut aborted) = (0, 0);
    while stored < PUTS {
        let line = idle.line();
        match &line["error"] {
            Value::Null if is_stored(&line) => stored += 1,
            Value::Null => assert!(line["entries"].is_object() || line["ok"].is_object(), "{line}"),
            error => {
                assert_eq!((&error["id"], &error["code"]), (&json!(OPEN), &json!("aborted")));
                aborted += 1;
            }
        }
    }
    assert!(aborted == 1 && !world.served().join("held/open").exists());
    until("its line is written", || server.log().contains("name=held/open"));
    assert_eq!(server.log().matches("name=held/open").count(), 1);
    // One that goes takes what waits with it, and leaves its places.
    let mut gone = Talk::with(server.address);
    hold_back(&mut gone, 2_000);
    assert!(gone.line()["entries"].is_object());
    drop(gone);
    all_are_stored(&mut busy, 3_000, "none");
    drop((idle, busy));
    until("all files are closed", || server.descriptors() <= before);
    assert_eq!(world.staged(), 0);
}

/// Asks for a list that does not go on, and puts so much that has to wait; the server reads all of it.
fn put_beside_a_list(server: &Server, transfer: u64, mebibytes: usize) -> Talk {
    let mut talk = Talk::with(server.address);
    talk.say(json!({"list": {"id": 1, "name": "many"}}));
    talk.say(json!({"put": {
        "id": 2, "name": "large", "digest": "sha256", "size": mebibytes * MIB, "transfer": format!("{transfer:032x}"),
    }}));
    (0..mebibytes).for_each(|part| talk.part(2, part * MIB, &vec![1; MIB]));
    talk.say(json!({"ping": {"id": 3}}));
    while talk.line()["pong"].is_null() {}
    talk
}

/// All connections may hold 64 MiB together. What one has held counts as that until a buffer of the pool has it.
#[test]
fn what_waited_for_a_place_counts_until_storage_takes_it() {
    /// What one address has of all places.
    const PLACES: u64 = 12;
    let world = World::new();
    std::fs::create_dir(world.served().join("many")).unwrap();
    for number in 0..2_500 {
        let name = format!("many/{}-{number}", "x".repeat(240));
        std::fs::write(world.served().join(name), "").unwrap();
    }
    let server = serve_with_few(&world);
    let begin = |id: u64| {
        let mut talk = Talk::with(server.address);
        talk.say(json!({"put": {
            "id": 1, "name": "open", "digest": "sha256", "size": MIB, "transfer": format!("{id:032x}"),
        }}));
        talk
    };
    let mut open: Vec<Talk> = (1..=PLACES).map(begin).collect();
    until("all places are taken", || world.staged() as u64 == PLACES);
    let mut first = put_beside_a_list(&server, 100, 40);
    let staged = || -> HashSet<OsString> {
        let entries = std::fs::read_dir(world.served().join(".ftx/staging")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let before = staged();
    let Some(_fault) = Injection::into(&server, "pwrite64", None, "delay_enter=100000000") else {
        return;
    };
    drop(open.pop());
    until("it has a place", || !staged().is_subset(&before));
    let _second = put_beside_a_list(&server, 200, 40);
    until("one of them is ended", || server.log().contains("code=busy"));
    assert_eq!(first.error().as_deref(), Some("busy"));
}

#[test]
fn puts_that_were_given_up_keep_no_file_open_for_a_disk_that_is_stuck() {
    const GIVEN_UP: u64 = 8;
    /// Those that are being synced, by as many threads.
    const SYNCED: usize = 4;
    let world = World::new();
    let server = world.serve();
    let mut talk = Talk::with(server.address);
    let before = server.descriptors();
    let Some(_fault) = Injection::into(&server, "fsync,fdatasync", None, "delay_enter=100000000")
    else {
        return;
    };
    for id in 1..=GIVEN_UP {
        talk.say(json!({"put": {
            "id": id, "name": "large", "digest": "sha256", "size": 9 * MIB, "transfer": format!("{id:032x}"),
        }}));
        // Enough for it to be worth keeping.
        (0..8).for_each(|part| talk.part(id, part * MIB, &vec![1; MIB]));
        talk.say(json!({"abort": {"id": id, "code": "aborted"}}));
        assert_eq!(talk.code(), "aborted");
    }
    talk.put_hello(100, "small", "none");
    let line = talk.line();
    assert!(is_stored(&line), "{line}");
    until("the others are closed", || server.descriptors() <= before + SYNCED);
}

#[test]
fn one_address_has_no_more_files_and_directories_open_than_its_share() {
    let world = World::new();
    std::fs::create_dir(world.served().join("many")).unwrap();
    for number in 0..2_500 {
        let name = format!("many/{}-{number}", "x".repeat(240));
        std::fs::write(world.served().join(name), "").unwrap();
    }
    let large = std::fs::File::create(world.served().join("large")).unwrap();
    large.set_len(64 * MIB as u64).unwrap();
    let server = serve_with_few(&world);
    let mut other = Talk::with(server.address);
    let before = server.descriptors();
    let get = |id: u64| json!({"get": {"id": id, "name": "large", "digest": "sha256"}});
    let mut reads_nothing = Talk::with(server.address);
    (1..=FILES as u64 + 2).for_each(|id| reads_nothing.say(get(id)));
    until("its files are open", || server.descriptors() == before + 1 + FILES);
    for request in [get(1), json!({"stat": {"id": 2, "name": "large", "digest": "sha256"}})] {
        other.say(request);
        assert_eq!(other.code(), "busy");
    }
    let mut lists: Vec<Talk> = (0..DIRECTORIES).map(|_| Talk::with(server.address)).collect();
    for talk in &mut lists {
        talk.say(json!({"list": {"id": 1, "name": "many"}}));
        assert!(talk.line()["entries"].is_object());
    }
    other.say(json!({"list": {"id": 3, "name": "many"}}));
    assert_eq!(other.code(), "busy");
    drop((reads_nothing, lists));
    until("all is closed", || server.descriptors() == before);
    other.say(json!({"stat": {"id": 4, "name": "large", "digest": "sha256"}}));
    assert_eq!(other.line()["info"]["size"], 64 * MIB);
    other.say(json!({"list": {"id": 5, "name": "many"}}));
    assert!(other.line()["entries"].is_object());
}
