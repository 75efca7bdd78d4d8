//! What a put of a tree removes, and the times of directories that it gives again: connections that break meanwhile, and
//! directories that change.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{MIB, World, relay_both, run_to_its_end, text};
use crate::hostile_trees::entry;
use crate::liars::liar;
use crate::talk::Talk;
use crate::trees::{assert_same, seen, summary};

/// A line whose first connection brings nothing more to the client from when a directory is to have its time again after a
/// removal, and breaks when that was asked for so many.
fn breaking_at_times(server: SocketAddr, many: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let mut far = TcpStream::connect(server).unwrap();
        let (mut near_back, mut far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let holds_back = Arc::new(AtomicBool::new(false));
        let is_held_back = Arc::clone(&holds_back);
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(count @ 1..) = far_back.read(&mut buffer)
                && !is_held_back.load(Ordering::SeqCst)
                && near_back.write_all(&buffer[..count]).is_ok()
            {}
        });
        let (mut removes, mut times) = (0, 0);
        for line in BufReader::new(&near).lines().map_while(Result::ok) {
            if line.starts_with("{\"remove\"") {
                removes += 1;
            } else if removes > 0 && line.starts_with("{\"mkdir\"") {
                holds_back.store(true, Ordering::SeqCst);
                times += 1;
            }
            if times == many || far.write_all(format!("{line}\n").as_bytes()).is_err() {
                break;
            }
        }
        for end in [near, far] {
            let _ = end.shutdown(Shutdown::Both);
        }
        for near in listener.incoming().flatten() {
            relay_both(near, server);
        }
    });
    address
}

/// More than may be under way.
#[test]
fn a_break_while_many_directories_get_their_times_again_is_gone_on_after() {
    const DIRECTORIES: usize = 2_100;
    let world = World::new();
    let server = world.serve();
    let (here, there) = (world.here().join("tree"), world.served().join("tree"));
    for number in 0..DIRECTORIES {
        let name = format!("d{number}");
        fs::create_dir_all(here.join(&name)).unwrap();
        fs::create_dir_all(there.join(&name)).unwrap();
        fs::write(there.join(&name).join("extra"), "").unwrap();
    }
    let line = breaking_at_times(server.address, 1_024);
    let put = ["put", "-r", "--delete", "--durability", "none", "tree"];
    let output = run_to_its_end(&mut world.ftx(line, put));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("broke"), "{}", text(&output.stderr));
    assert_same(seen(&there), seen(&here));
}

/// How a server answers a request.
enum Answer {
    /// It is done.
    Ok,
    /// As was said.
    Said,
    /// Not, and nothing that is asked on this connection.
    Gone,
}

/// A server that answers each request as is decided here.
fn answering(answer: impl Fn(&mut Talk, &str, &Value) -> Answer + Send + 'static) -> SocketAddr {
    liar(move |talk, request| {
        let mut request = request.clone();
        while let Some((kind, fields)) = request.as_object().and_then(|all| all.iter().next()) {
            match answer(talk, kind, fields) {
                Answer::Ok => talk.say(json!({"ok": {"id": fields["id"], "durability": "full"}})),
                Answer::Said => {}
                Answer::Gone => return talk.stream().shutdown(Shutdown::Write).unwrap(),
            }
            request = talk.line();
        }
    })
}

/// Reads the body of a put; returns how it is acknowledged.
fn past_body(talk: &mut Talk, put: &Value) -> Value {
    let (end, size) = talk.past_parts();
    let (id, digest) = (&put["id"], &end["end"]["digest"]);
    json!({"done": {"id": id, "size": size, "digest": digest, "durability": "full"}})
}

/// It lists what is to go each time, and sets the times of directories.
#[test]
fn a_removal_that_comes_to_nothing_again_and_again_is_given_up() {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    for (is_busy, code) in [(false, 3), (true, 4)] {
        let server = answering(move |talk, kind, fields| match kind {
            "list" => {
                let entries = [entry("tree/extra", "file")];
                talk.say(json!({"entries": {"id": fields["id"], "entries": entries}}));
                Answer::Ok
            }
            "remove" if is_busy => {
                talk.say(refused(&fields["id"], "busy"));
                Answer::Said
            }
            "remove" => Answer::Gone,
            "more" => Answer::Said,
            _ => Answer::Ok,
        });
        let put = ["put", "-r", "--delete", "--retry-for", "1s", "tree"];
        let output = run_to_its_end(&mut world.ftx(server, put));
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}

/// As one does whose directory has more names than it reads at once: it says of so many lists that the tree was changed
/// while it was listed, and has removed something from it by then, if that was asked for.
fn changing_while_it_lists(changed: usize, asks: &'static str, seen: Sender<String>) -> SocketAddr {
    let lists = AtomicUsize::new(0);
    answering(move |talk, kind, fields| {
        let id = &fields["id"];
        if kind != "more" {
            // Nobody listens when the test has failed.
            let _ = seen
                .send(format!("{kind}{}", if fields["mtime"].is_array() { " time" } else { "" }));
        }
        if kind == "list" {
            let number = lists.fetch_add(1, Ordering::SeqCst);
            if number == 0 {
                let entries = [entry("tree/extra", "file")];
                talk.say(json!({"entries": {"id": id, "entries": entries}}));
                let asked =
                    std::iter::from_fn(|| Some(talk.line())).find(|line| line[asks].is_object());
                let asked = asked.unwrap();
                if asks == "remove" {
                    let _ = seen.send(asks.to_owned());
                    talk.say(json!({"ok": {"id": asked[asks]["id"], "durability": "full"}}));
                }
            }
            if number < changed {
                let unread = [json!({"name": "tree", "code": "changed", "message": "It was."})];
                talk.say(json!({"entries": {"id": id, "unread": unread}}));
            }
        }
        if kind == "more" { Answer::Said } else { Answer::Ok }
    })
}

#[test]
fn a_directory_that_a_removal_has_changed_while_it_was_listed_is_listed_once_more() {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    let (put, removal) = (["mkdir", "mkdir time", "list"], ["remove", "list"]);
    let done = [&put[..], &removal[..], &["mkdir time"]].concat();
    for (changed, code, expected) in
        [(0, 0, [&put[..], &["remove", "mkdir time"]].concat()), (1, 0, done.clone()), (2, 4, done)]
    {
        let (tell, told) = channel();
        let server = changing_while_it_lists(changed, "remove", tell);
        let put = ["put", "-r", "--delete", "--json", "tree"];
        let output = run_to_its_end(&mut world.ftx(server, put));
        assert_eq!(output.status.code(), Some(code), "{changed}: {}", text(&output.stderr));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), expected, "{changed}");
        let done = summary(&output);
        assert_eq!(done["removed"], 1, "{changed}: {done}");
    }
    // Who only tells has changed nothing.
    let (tell, told) = channel();
    let server = changing_while_it_lists(1, "more", tell);
    let put = ["put", "-r", "--delete", "--json", "-n", "tree"];
    let output = run_to_its_end(&mut world.ftx(server, put));
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["list"]);
    assert_eq!(summary(&output)["removed"], 1);
}

/// What goes as a whole may be gone before all of it was listed, and what is behind it in a message is told of before that.
#[test]
fn what_could_not_be_listed_of_a_directory_that_goes_as_a_whole_is_no_failure() {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    for (name, code) in [("tree/y/deep", 0), ("tree/yes", 4)] {
        let server = answering(move |talk, kind, fields| {
            if kind == "list" {
                let entries = ["tree/x", "tree/y"].map(|name| entry(name, "directory"));
                let unread = |name| [json!({"name": name, "code": "not_found", "message": "No."})];
                talk.say(json!({"entries": {
                    "id": fields["id"], "entries": entries, "unread": unread("tree/x/deep"),
                }}));
                talk.say(json!({"entries": {"id": fields["id"], "unread": unread(name)}}));
            }
            if kind == "more" { Answer::Said } else { Answer::Ok }
        });
        let put = ["put", "-r", "--delete", "--json", "tree"];
        let output = run_to_its_end(&mut world.ftx(server, put));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(summary(&output)["removed"], 2, "{said}");
        assert!(!said.contains("deep"), "{said}");
    }
}

/// Puts a tree of one file to a server that answers the first put behind what comes after it, and is done with each later
/// one. How a mkdir is answered is decided here: it is told which put waits when the directory is to have its time behind
/// that. Returns what the server was asked.
fn asked_where_a_file_is_put_again(
    mkdir: impl Fn(&mut Talk, &Value, Option<&Value>) -> Answer + Send + 'static,
) -> Vec<String> {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    fs::write(world.here().join("tree/a"), "hello").unwrap();
    let (tell, told) = channel();
    let puts = Mutex::new(Vec::new());
    let server = answering(move |talk, kind, fields| {
        // Nobody listens when the test has failed.
        let _ = tell.send(kind.to_owned());
        let (mut puts, id) = (puts.lock().unwrap(), &fields["id"]);
        match kind {
            "put" => {
                let done = past_body(talk, fields);
                puts.push(id.clone());
                if puts.len() > 1 {
                    talk.say(done);
                }
            }
            "resume" => talk.say(json!({"held": {"id": id, "state": "nothing", "ranges": []}})),
            _ => {
                let waits = puts.first().filter(|_| fields["mtime"].is_array() && puts.len() == 1);
                return mkdir(talk, fields, waits);
            }
        }
        Answer::Said
    });
    let output = run_to_its_end(&mut world.ftx(server, ["put", "-r", "tree"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    told.try_iter().collect()
}

fn refused(id: &Value, code: &str) -> Value {
    json!({"error": {"id": id, "code": code, "message": "Come again."}})
}

/// The server is too busy for the first put, and has done what was asked behind it when the client hears so.
#[test]
fn a_directory_gets_its_time_behind_a_file_that_is_put_again_though_it_had_it_already() {
    let asked = asked_where_a_file_is_put_again(|talk, fields, waits| {
        let Some(put) = waits else { return Answer::Ok };
        let done = json!({"ok": {"id": fields["id"], "durability": "full"}});
        talk.send(format!("{}\n{done}\n", refused(put, "busy")).as_bytes());
        Answer::Gone
    });
    assert_eq!(asked, ["mkdir", "put", "mkdir", "resume", "put", "mkdir"]);
}

/// The bytes of the first put came damaged, and the server has done what was asked behind it.
#[test]
fn a_directory_gets_its_time_once_more_behind_a_file_that_came_damaged() {
    let asked = asked_where_a_file_is_put_again(|talk, _, waits| {
        waits.into_iter().for_each(|put| talk.say(refused(put, "digest_mismatch")));
        Answer::Ok
    });
    assert_eq!(asked, ["mkdir", "put", "mkdir", "put", "mkdir"]);
}

/// As a drop box does it, where directories come with the files that are in them.
#[test]
fn a_directory_that_was_not_to_be_made_gets_no_time_either_though_a_file_is_put_again() {
    let asked = asked_where_a_file_is_put_again(|talk, fields, waits| {
        waits.into_iter().for_each(|put| talk.say(refused(put, "storage_failed")));
        talk.say(refused(&fields["id"], "denied"));
        Answer::Said
    });
    assert_eq!(asked, ["mkdir", "put", "mkdir", "put"]);
}

/// The connection breaks while the time of the directory stands behind files that fill the line.
#[test]
fn a_directory_whose_time_was_not_asked_for_yet_gets_it_behind_what_is_put_again() {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    for name in ["a", "b", "c", "d"] {
        fs::write(world.here().join("tree").join(name), vec![7; 7 * MIB]).unwrap();
    }
    let (tell, told) = channel();
    let puts = AtomicUsize::new(0);
    let server = answering(move |talk, kind, fields| {
        let _ = tell.send(kind.to_owned());
        let id = &fields["id"];
        match kind {
            "stat" => talk.say(json!({"info": {
                "id": id, "kind": "file", "size": 1, "mtime": [0, 0], "mode": 420, "version": "v"
            }})),
            "put" => {
                let done = past_body(talk, fields);
                match puts.fetch_add(1, Ordering::SeqCst) {
                    0..3 => {}
                    3 => return Answer::Gone,
                    _ => talk.say(done),
                }
            }
            "resume" => talk.say(json!({"held": {"id": id, "state": "nothing", "ranges": []}})),
            _ => return Answer::Ok,
        }
        Answer::Said
    });
    let output = run_to_its_end(&mut world.ftx(server, ["put", "-r", "-u", "tree"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let asked: Vec<String> = told.try_iter().collect();
    let last = asked.iter().rposition(|kind| kind == "put").unwrap();
    assert_eq!(&asked[last..], ["put", "mkdir"], "{asked:?}");
}
