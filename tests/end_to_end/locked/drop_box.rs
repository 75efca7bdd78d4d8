//! A drop box: files are put into it, and nothing else is done with it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use ftx_protocol::limits::RESUMABLE_BYTES;
use serde_json::json;

use super::house::{House, put, word};
use crate::harness::{done_event, text};
use crate::talk::{HELLO_DIGEST, Talk};

/// The box of everybody, and that of a token: `(house, token)`.
fn boxes() -> [(House, Option<String>); 2] {
    let open = House::with(&["--drop"]);
    let house = House::locked();
    let token = house.add("box", "drop");
    [(open, None), (house, Some(token))]
}

#[test]
fn drop_box_shows_nothing_and_takes_nothing_away() {
    for (house, token) in boxes() {
        fs::create_dir(house.world.served().join("dir")).unwrap();
        fs::write(house.world.served().join("file"), "as it was").unwrap();
        let before = house.names();
        let (mut talk, answered) = house.hello(token.as_deref());
        assert_eq!(answered, "welcome");
        let mut version = put(10, "file", 5, 10);
        version["put"]["if"] = json!({"version": "x"});
        for message in [
            json!({"stat": {"id": 1, "name": "file"}}),
            json!({"stat": {"id": 2, "name": "no-such-file"}}),
            json!({"stat": {"id": 3, "name": "file", "digest": "sha256"}}),
            json!({"get": {"id": 4, "name": "file", "digest": "sha256"}}),
            json!({"get": {"id": 5, "name": "no-such-file", "digest": "sha256"}}),
            json!({"list": {"id": 6}}),
            json!({"mkdir": {"id": 7, "name": "made"}}),
            json!({"move": {"id": 8, "name": "file", "to": "other"}}),
            json!({"remove": {"id": 9, "name": "file"}}),
            version,
        ] {
            talk.say(message.clone());
            assert_eq!(word(&talk.line()), "denied", "{message}");
        }
        assert_eq!(house.names(), before);
        for args in [["get", "file"].as_slice(), &["ls"], &["stat", "file"], &["rm", "file"]] {
            let output = house.run(token.as_deref(), args, 4);
            assert!(text(&output.stderr).contains("(denied)"), "{}", text(&output.stderr));
        }
        assert_eq!(house.world.stored("file"), b"as it was");
    }
}

/// No more than SECURITY.md says.
#[test]
fn drop_box_tells_what_is_no_directory() {
    for (house, token) in boxes() {
        let served = house.world.served();
        fs::write(served.join("file"), "").unwrap();
        for (to, link) in [("/etc", "out"), ("circle", "circle"), ("none", "nothing")] {
            symlink(to, served.join(link)).unwrap();
        }
        let (mut talk, _) = house.hello(token.as_deref());
        for (id, name, code) in [
            (1, "file/x", "not_a_directory"),
            (2, "out/x", "outside_root"),
            (3, "circle/x", "outside_root"),
            (4, "nothing/x", "not_found"),
        ] {
            talk.put_hello(id, name, "none");
            assert_eq!(word(&talk.line()), code, "{name}");
        }
    }
}

#[test]
fn drop_box_gives_a_taken_name_a_number_and_says_which() {
    for (house, token) in boxes() {
        let token = token.as_deref();
        fs::write(house.world.here().join("cv.pdf"), "hello").unwrap();
        let hex = HELLO_DIGEST.strip_prefix("sha256:").unwrap();
        for name in ["cv.pdf", "cv-1.pdf", "cv-2.pdf"] {
            let output = house.run(token, &["put", "cv.pdf"], 0);
            assert_eq!(text(&output.stdout), format!("{hex}  {name}\n"));
        }
        // The file that is there stays, whatever the client asks for.
        fs::write(house.world.here().join("cv.pdf"), "other").unwrap();
        let output = house.run(token, &["put", "cv.pdf", "--json"], 0);
        assert_eq!(done_event(&output)["stored_as"], "cv-3.pdf");
        assert_eq!(house.names(), ["cv-1.pdf", "cv-2.pdf", "cv-3.pdf", "cv.pdf"]);
        assert_eq!(house.world.stored("cv.pdf"), b"hello");
        assert_eq!(house.world.stored("cv-3.pdf"), b"other");
        house.until_logged("numbered=cv-3.pdf");
    }
}

#[test]
fn drop_box_takes_a_tree_whose_directories_nobody_may_make() {
    for (house, token) in boxes() {
        let token = token.as_deref();
        fs::create_dir_all(house.world.here().join("tree/a/b")).unwrap();
        for name in ["tree/a/b/one", "tree/a/two"] {
            fs::write(house.world.here().join(name), "hello").unwrap();
        }
        let output = house.run(token, &["put", "-r", "tree"], 0);
        assert_eq!(text(&output.stdout).lines().count(), 2);
        assert!(!text(&output.stderr).contains("denied"), "{}", text(&output.stderr));
        assert_eq!(house.names(), ["tree", "tree/a", "tree/a/b", "tree/a/b/one", "tree/a/two"]);
        // One that goes its own way, alone in its directory.
        fs::create_dir(house.world.here().join("film")).unwrap();
        house.world.noise("film/large", RESUMABLE_BYTES as usize);
        house.run(token, &["put", "-r", "film"], 0);
        // One with no file in it is not there, and is told once.
        fs::create_dir(house.world.here().join("tree/void")).unwrap();
        let said = text(&house.run(token, &["put", "-r", "tree"], 7).stderr);
        assert_eq!(said.matches("(denied)").count(), 1, "{said}");
        assert!(said.contains("put tree/void: the server refused (denied)"), "{said}");
    }
    let house = House::locked();
    let token = house.add("reader", "read");
    fs::create_dir(house.world.here().join("tree")).unwrap();
    fs::write(house.world.here().join("tree/one"), "hello").unwrap();
    let said = text(&house.run(Some(&token), &["put", "-r", "tree"], 4).stderr);
    assert_eq!(said.matches("(denied)").count(), 2, "{said}");
}

#[test]
fn drop_box_keeps_all_of_fifty_puts_of_one_name_at_once() {
    const PUTS: u64 = 50;
    for (house, token) in boxes() {
        let names: BTreeSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..PUTS)
                .map(|number| {
                    let (house, token) = (&house, token.as_deref());
                    scope.spawn(move || {
                        let (mut talk, _) = house.hello(token);
                        let durability = if number % 2 == 0 { "full" } else { "none" };
                        talk.put_hello(number + 1, "a.txt", durability);
                        let line = talk.line();
                        let name = line["done"]["name"].as_str().unwrap_or("a.txt").to_owned();
                        assert_eq!(word(&line), "done", "{line}");
                        name
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(names.len() as u64, PUTS, "{names:?}");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), {
            let mut there = house.names();
            there.sort();
            there
        });
        assert!(house.names().iter().all(|name| house.world.stored(name) == b"hello"));
        assert_eq!(house.world.staged(), 0);
    }
}

#[test]
fn what_is_public_is_for_everybody_and_to_write_takes_a_token() {
    let house = House::with(&["--public", "read, list"]);
    fs::create_dir(house.world.served().join("dir")).unwrap();
    fs::write(house.world.served().join("dir/file"), "hello").unwrap();
    house.world.noise("new", 1_000);
    let token = house.add("alice", "write");
    // In plain, and inside TLS.
    let mut plain = Talk::with(house.server.address);
    plain.say(json!({"stat": {"id": 1, "name": "dir/file", "digest": "sha256"}}));
    assert_eq!(plain.line()["info"]["digest"], HELLO_DIGEST);
    for (args, code) in [
        (["get", "-r", "dir", "-o", "copy"].as_slice(), 0),
        (&["ls", "-r"], 0),
        (&["sum", "dir/file"], 0),
        (&["put", "new"], 4),
        (&["put", "new", "--as", "dir/file"], 4),
        (&["mkdir", "made"], 4),
        (&["mv", "dir/file", "dir/other"], 4),
        (&["rm", "dir/file"], 4),
    ] {
        let output = house.run(None, args, code);
        if code != 0 {
            let said = text(&output.stderr);
            assert!(said.contains("(denied)") && said.contains("ftx login"), "{args:?}: {said}");
        }
    }
    assert_eq!(fs::read(house.world.here().join("copy/file")).unwrap(), b"hello");
    house.run(Some(&token), &["put", "new"], 0);
    // Who has a token is somebody, too.
    house.run(Some(&token), &["get", "-r", "dir", "-o", "back"], 0);
    let held = house.add_with("bob", "write", &["--under", "bobs"]);
    house.run(Some(&held), &["get", "dir/file", "-o", "bobs"], 0);
    house.run(Some(&held), &["put", "new", "--as", "dir/new"], 4);
    house.run(Some(&token), &["rm", "new"], 4);
    assert_eq!(house.names(), ["dir", "dir/file", "new"]);
}
