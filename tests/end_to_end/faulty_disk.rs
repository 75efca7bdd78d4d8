//! The disk fails under a running server: what failed is told by its documented code, nothing that
//! is not true is acknowledged, and the server goes on for others.

use std::ffi::OsStr;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::harness::{MIB, Server, World, noise, text, until};
use crate::injection::Injection;
use crate::talk::{HELLO_DIGEST, Talk};

const SYNCS: &str = "fsync,fdatasync";

/// Sends 16 MiB of a larger file, so that the server syncs while more comes, and says with which
/// code that ended.
fn code_of_a_large_put(server: &Server, name: &str, transfer: u64) -> Option<String> {
    let socket = TcpStream::connect(server.address).unwrap();
    let writing = socket.try_clone().unwrap();
    let mut talk = Talk::over(socket);
    let sender = std::thread::spawn({
        let (put, mut talk) = (
            json!({"put": {
                "id": 1, "name": name, "digest": "sha256", "size": 64 * MIB,
                "transfer": format!("{transfer:032x}"),
            }}),
            Talk::over(writing.try_clone().unwrap()),
        );
        move || {
            talk.say(json!({"hello": {"ftx": 1}}));
            talk.say(put);
            let part = vec![7; MIB];
            (0..16).for_each(|number| talk.part(1, number * MIB, &part));
        }
    });
    let code = loop {
        let line = talk.line();
        assert!(line["kept"].is_null(), "nothing of it is durable: {line}");
        if line.is_null() {
            break None;
        }
        if let Some(code) = line["error"]["code"].as_str() {
            break Some(code.to_owned());
        }
    };
    sender.join().unwrap();
    let _ = writing.shutdown(Shutdown::Both);
    code
}

#[test]
fn a_sync_that_fails_is_a_failed_put_whenever_it_comes_and_no_takeover() {
    let world = World::new();
    let mut server = world.serve();
    world.noise("a", 300_000);
    world.run(server.address, &["put", "a"], 0);
    let old = world.stored("a");
    let Some(fault) = Injection::into(&server, SYNCS, None, "error=EIO") else { return };
    for round in 0..24 {
        let code = code_of_a_large_put(&server, "large", 1_000 + round);
        assert_eq!(code.as_deref(), Some("storage_failed"), "round {round}");
    }
    until("nothing of it is kept", || world.staged() == 0);
    let mut talk = Talk::with(server.address);
    talk.put_hello(1, "a", "full");
    assert_eq!(talk.code(), "storage_failed");
    world.noise("b", 9 * MIB);
    let put = world.run(server.address, &["put", "b"], 4);
    assert!(text(&put.stderr).contains("storage_failed"), "{}", text(&put.stderr));
    // Others, and what needs no sync, go on; the connection too.
    assert!(talk.is_answered(2));
    assert!(world.run(server.address, &["get", "a", "-o", "-"], 0).stdout == old);
    assert!(!world.served().join("large").exists() && !world.served().join("b").exists());
    drop(fault);
    let bytes = world.noise("b", 9 * MIB);
    world.run(server.address, &["put", "b"], 0);
    assert!(world.stored("b") == bytes);
    // Where not even the journal could be synced, the room is back after the next start.
    server.kill_and_restart(&world.served(), &[]);
    assert_eq!(world.staged(), 0);
    assert!(world.stored("b") == bytes && world.stored("a") == old);
}

#[test]
fn a_directory_that_cannot_be_synced_after_the_rename_is_told_as_unknown_durability() {
    let world = World::new();
    let mut server = world.serve();
    std::fs::write(world.served().join("a"), "old").unwrap();
    let root = world.served().canonicalize().unwrap();
    let fault = Injection::into(&server, SYNCS, Some(root.as_os_str()), "error=EIO");
    let Some(fault) = fault else { return };
    let mut talk = Talk::with(server.address);
    talk.put_hello(1, "a", "full");
    assert_eq!(talk.code(), "durability_unknown");
    assert_eq!(world.stored("a"), b"hello", "it has its name");
    // What does not need that directory on the disk goes on.
    talk.put_hello(2, "b", "none");
    assert_eq!(talk.line()["done"]["durability"], "none");
    assert_eq!(world.run(server.address, &["get", "a", "-o", "-"], 0).stdout, b"hello");
    // A disk that claims to be well again is not believed by the server that saw it fail.
    drop(fault);
    talk.put_hello(3, "c", "full");
    let line = talk.line();
    assert!(line["done"].is_null(), "{line}");
    // What is removed gives its room back all the same.
    talk.say(json!({"remove": {"id": 4, "name": "a", "durability": "full"}}));
    assert_eq!(talk.code(), "durability_unknown");
    let trash = world.served().join(".ftx/trash");
    until("the trash is swept", || std::fs::read_dir(&trash).unwrap().next().is_none());
    drop(talk);
    server.kill_and_restart(&world.served(), &[]);
    let mut talk = Talk::with(server.address);
    talk.put_hello(4, "d", "full");
    let line = talk.line();
    assert!(line["done"]["durability"] != "none" && line["error"].is_null(), "{line}");
}

/// Asks for a file, reads what is sent of it, and says with which code it ended.
fn code_of_a_get(talk: &mut Talk, id: u64, name: &str, cache: &str) -> String {
    talk.say(json!({"get": {"id": id, "name": name, "digest": "sha256", "cache": cache}}));
    loop {
        let (line, _) = talk.past_parts();
        if line["file"].is_null() {
            assert_eq!(line["error"]["id"], id, "{line}");
            return line["error"]["code"].as_str().unwrap_or_default().to_owned();
        }
    }
}

/// A get of a file whose digest is known, or not, while every reading of the file fails.
fn a_get_fails(known: bool) {
    let world = World::new();
    let server = world.serve();
    let bytes = noise(3 * MIB, 9);
    for name in ["broken", "sound"] {
        std::fs::write(world.served().join(name), &bytes).unwrap();
    }
    if known {
        // A digest is remembered only of a file that was not written to just now.
        let file = std::fs::metadata(world.served().join("broken")).unwrap().modified().unwrap();
        until("the file is old enough", || {
            file.elapsed().is_ok_and(|age| age > Duration::from_millis(200))
        });
        assert!(world.run(server.address, &["get", "broken", "-o", "-"], 0).stdout == bytes);
    }
    let path = world.served().canonicalize().unwrap().join("broken");
    let calls = "read,pread64,preadv,preadv2,sendfile,splice,copy_file_range";
    let fault = Injection::into(&server, calls, Some(path.as_os_str()), "error=EIO");
    let Some(fault) = fault else { return };
    let mut talk = Talk::with(server.address);
    assert_eq!(code_of_a_get(&mut talk, 1, "broken", "use"), "storage_failed");
    assert!(talk.is_answered(2), "the connection goes on");
    let get = world.run(server.address, &["get", "broken", "--retry-for", "0"], 4);
    assert!(text(&get.stderr).contains("storage_failed"), "{}", text(&get.stderr));
    assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 0, "nothing is left of it");
    assert!(world.run(server.address, &["get", "sound", "-o", "-"], 0).stdout == bytes);
    drop(fault);
    assert!(world.run(server.address, &["get", "broken", "-o", "-"], 0).stdout == bytes);
}

#[test]
fn a_file_that_cannot_be_read_is_told_in_the_middle_of_a_get() {
    a_get_fails(false);
}

#[test]
fn a_file_that_cannot_be_read_is_told_when_the_kernel_sends_it_too() {
    a_get_fails(true);
}

#[test]
fn a_file_that_cannot_be_opened_is_not_told_of_without_the_digest_that_was_asked_for() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("fails-once"), "hello").unwrap();
    let mut talk = Talk::with(server.address);
    let path = Some(OsStr::new("fails-once"));
    let Some(fault) = Injection::into(&server, "openat2,openat", path, "error=EACCES:when=1")
    else {
        return;
    };
    let ask = |id| json!({"stat": {"id": id, "name": "fails-once", "digest": "sha256"}});
    talk.say(ask(1));
    assert_eq!(talk.code(), "permission_denied");
    drop(fault);
    talk.say(ask(2));
    assert_eq!(talk.line()["info"]["digest"], HELLO_DIGEST);
}
