//! Trees that change, refuse, collide or lead elsewhere while they are moved, and peers that lie
//! about theirs: a clear line for each, nothing lost, a true exit code, and the same command
//! finishes it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Line, MIB, Server, World, noise, not_tested, text, until};
use crate::injection::Injection;
use crate::liars::liar;
use crate::talk::{HELLO_DIGEST, Talk};
use crate::trees::{assert_same, count_files, events, many, seen, set_mode, summary};

/// A line that holds back what the client says from the first time it says certain words.
struct Gate {
    address: SocketAddr,
    state: Arc<(Mutex<Passage>, Condvar)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Passage {
    Watched,
    Closed,
    Open,
}

impl Gate {
    fn closing_at(words: &'static str, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(Passage::Watched), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(server).unwrap();
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let state = Arc::clone(&shared);
                std::thread::spawn(move || hold_back(words, near, far, &state));
                std::thread::spawn(move || pass(back.0, back.1, |_| {}));
            }
        });
        Self { address, state }
    }

    /// Does something while the client waits.
    fn while_closed(&self, act: impl FnOnce()) {
        until("the client has said it", || *self.state.0.lock().unwrap() == Passage::Closed);
        act();
        *self.state.0.lock().unwrap() = Passage::Open;
        self.state.1.notify_all();
    }
}

fn hold_back(words: &str, from: TcpStream, to: TcpStream, state: &(Mutex<Passage>, Condvar)) {
    pass(from, to, |bytes| {
        let mut passage = state.0.lock().unwrap();
        if *passage == Passage::Watched && text(bytes).contains(words) {
            *passage = Passage::Closed;
        }
        while *passage == Passage::Closed {
            passage = state.1.wait(passage).unwrap();
        }
    });
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut watch: impl FnMut(&[u8])) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        watch(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// The lines that tell of failures, by the word that each has to have.
#[track_caller]
fn assert_told(output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    for word in words {
        let lines = said.lines().filter(|line| line.contains(word)).count();
        assert_eq!(lines, 1, "{word}: {said}");
    }
    // And nothing else, but for the summary.
    assert_eq!(said.lines().count(), words.len() + 1, "{said}");
    assert!(said.lines().all(|line| line.starts_with("ftx: ")), "{said}");
}

const NAMES: [&str; 8] =
    ["calm", "d/calm", "fifo", "grows", "link", "shrinks", "turns/directory", "vanishes"];

fn calm_tree(tree: &Path) {
    for name in NAMES {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), [name.as_bytes(), b" and more"].concat()).unwrap();
    }
}

/// What happens to it between the listing and the reading.
fn stir(tree: &Path) {
    fs::remove_file(tree.join("vanishes")).unwrap();
    fs::write(tree.join("shrinks"), "s").unwrap();
    fs::write(tree.join("grows"), noise(200_000, 3)).unwrap();
    for name in ["fifo", "link", "turns/directory"] {
        fs::remove_file(tree.join(name)).unwrap();
    }
    fs::create_dir(tree.join("turns/directory")).unwrap();
    symlink("/etc/hostname", tree.join("link")).unwrap();
    assert!(Command::new("mkfifo").arg(tree.join("fifo")).status().unwrap().success());
}

#[test]
fn files_that_change_between_the_listing_and_the_sending_are_told_and_the_rest_arrives() {
    let world = World::new();
    let server = world.serve();
    let (tree, there) = (world.here().join("tree"), world.served().join("tree"));
    calm_tree(&tree);
    fs::create_dir(&there).unwrap();
    fs::write(there.join("extra"), "extra").unwrap();
    let gate = Gate::closing_at("\"stat\"", server.address);
    let args = ["put", "-r", "-u", "--delete", "tree"];
    let client = world.ftx(gate.address, args).spawn().unwrap();
    gate.while_closed(|| stir(&tree));
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_told(
        &output,
        &[
            "tree/vanishes",
            "tree/shrinks",
            "tree/grows",
            "tree/fifo",
            "tree/link",
            "turns/directory",
            "nothing was removed",
        ],
    );
    let arrived = seen(&there);
    let mut arrived: Vec<_> = arrived.keys().map(|name| name.to_str().unwrap()).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, ["calm", "d", "d/calm", "extra", "turns"]);
    let again = world.run(gate.address, &args, 0);
    assert!(text(&again.stderr).contains("2 skipped"), "{}", text(&again.stderr));
    assert_same(seen(&there), seen(&tree));
}

#[test]
fn files_that_change_between_the_listing_and_the_fetching_come_as_they_are_or_are_told() {
    let world = World::new();
    let server = world.serve();
    let (tree, back) = (world.served().join("tree"), world.here().join("back"));
    calm_tree(&tree);
    fs::create_dir(&back).unwrap();
    fs::write(back.join("extra"), "extra").unwrap();
    symlink(&back, world.here().join("tree")).unwrap();
    let gate = Gate::closing_at("\"get\"", server.address);
    let args = ["get", "-r", "--delete", "tree"];
    let client = world.ftx(gate.address, args).spawn().unwrap();
    gate.while_closed(|| stir(&tree));
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_told(
        &output,
        &["tree/vanishes", "tree/fifo", "tree/link", "turns/directory", "nothing was removed"],
    );
    for name in ["calm", "d/calm", "shrinks", "grows"] {
        assert_eq!(fs::read(back.join(name)).unwrap(), fs::read(tree.join(name)).unwrap());
    }
    assert!(back.join("extra").exists());
    world.run(gate.address, &args, 0);
    assert_same(seen(&back), seen(&tree));
}

/// Changes what is in a directory, in every way, until it is told to stop.
fn stir_on(hot: &Path, stop: &AtomicBool) {
    let mut round = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let name = |number: u64| hot.join(format!("d{}/f{}", number % 5, number % 40));
        let _ = fs::create_dir_all(hot.join(format!("d{}", round % 5)));
        let size = usize::try_from(round % 7).unwrap() * 9_000;
        let _ = fs::write(name(round), noise(size, round));
        let _ = fs::remove_file(name(round * 3));
        let _ = fs::rename(name(round * 7), name(round * 11));
        if round.is_multiple_of(50) {
            let _ = fs::remove_dir_all(hot.join("d1"));
            let _ = symlink("/etc", hot.join("d1"));
        } else if round.is_multiple_of(25) {
            let _ = fs::remove_file(hot.join("d1"));
        }
    }
}

#[test]
fn a_tree_that_never_rests_is_put_and_got_and_what_is_printed_is_true() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree.join("calm"), 100);
    let served = world.served().join("tree");
    for (hot, args, to) in [
        (tree.join("hot"), ["put", "-r", "tree", "--json"], &served),
        (served.join("hot"), ["get", "-r", "tree", "--json"], &tree),
    ] {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| stir_on(&hot, &stop));
            for _ in 0..5 {
                let output = world.ftx(server.address, args).output().unwrap();
                let (done, said) = (summary(&output), text(&output.stderr));
                let failed = done["failed"].as_u64().unwrap();
                let code = if failed == 0 { 0 } else { 7 };
                assert_eq!(output.status.code(), Some(code), "{said}");
                let count = |name: &str| {
                    events(&output).iter().filter(|event| event["event"] == name).count() as u64
                };
                assert_eq!(count("failed"), failed, "{said}");
                assert_eq!(count("done"), done["files"].as_u64().unwrap());
                assert_eq!(count_files(&to.join("calm")), 100, "{said}");
            }
            stop.store(true, Ordering::SeqCst);
        });
        let _ = fs::remove_file(hot.join("d1"));
        world.run(server.address, &args, 0);
        assert!(!to.join("hot/d1/hostname").exists(), "a symlink was followed");
    }
}

/// The words that run a program as somebody without rights; `None`, loudly, where that cannot be.
fn as_nobody(world: &World, program: &str) -> Option<Command> {
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let tried = Command::new("setpriv").args(nobody).arg(program).arg("--version").output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        not_tested("this needs root and the program setpriv: files that may not be read");
        return None;
    }
    set_mode(world.home.path(), 0o755);
    set_mode(&world.home.path().join("state"), 0o777);
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(program).current_dir(world.here());
    Some(command)
}

const FTX: &str = env!("CARGO_BIN_EXE_ftx");

fn client_as_nobody(world: &World, server: SocketAddr) -> Option<Command> {
    let mut command = as_nobody(world, FTX)?;
    command.env("FTX_SERVER", server.to_string());
    command.env("XDG_STATE_HOME", world.home.path().join("state"));
    Some(command)
}

/// A tree of which a file and a directory may not be read.
fn forbidding_tree(tree: &Path) {
    for name in ["open/a", "closed/b", "c", "secret"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    set_mode(&tree.join("closed"), 0o000);
    set_mode(&tree.join("secret"), 0o000);
}

#[test]
fn what_may_not_be_read_here_is_told_and_nothing_is_removed_for_it() {
    let world = World::new();
    let server = world.serve();
    let (tree, there) = (world.here().join("tree"), world.served().join("tree"));
    forbidding_tree(&tree);
    for name in ["closed/b", "secret", "extra"] {
        fs::create_dir_all(there.join(name).parent().unwrap()).unwrap();
        fs::write(there.join(name), "older").unwrap();
    }
    let Some(mut put) = client_as_nobody(&world, server.address) else { return };
    put.args(["put", "-r", "--delete", "tree"]);
    let output = put.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_told(&output, &["tree/closed: Perm", "tree/secret: Perm", "nothing was removed"]);
    for name in ["closed/b", "secret", "extra"] {
        assert_eq!(fs::read(there.join(name)).unwrap(), b"older");
    }
    assert_eq!(fs::read(there.join("open/a")).unwrap(), b"open/a");
    set_mode(&tree.join("closed"), 0o755);
    set_mode(&tree.join("secret"), 0o644);
    assert!(put.output().unwrap().status.success());
    assert_same(seen(&there), seen(&tree));
}

#[test]
fn what_the_server_may_not_read_is_told_and_nothing_is_removed_for_it() {
    let world = World::new();
    let (tree, back) = (world.served().join("tree"), world.here().join("tree"));
    forbidding_tree(&tree);
    let _ = Command::new("chown").args(["-R", "65534"]).arg(world.served()).status();
    let Some(mut serve) = as_nobody(&world, FTX) else { return };
    serve.arg("serve").arg(world.served()).args(["--listen", "127.0.0.1:0", "--min-free", "0"]);
    let server = Server::spawn(serve);
    for name in ["closed/b", "secret", "extra"] {
        fs::create_dir_all(back.join(name).parent().unwrap()).unwrap();
        fs::write(back.join(name), "older").unwrap();
    }
    let args = ["get", "-r", "--delete", "tree"];
    let output = world.run(server.address, &args, 7);
    assert_told(&output, &["tree/closed: ", "tree/secret: ", "nothing was removed"]);
    for name in ["closed/b", "secret", "extra"] {
        assert_eq!(fs::read(back.join(name)).unwrap(), b"older");
    }
    set_mode(&tree.join("closed"), 0o755);
    set_mode(&tree.join("secret"), 0o644);
    world.run(server.address, &args, 0);
    assert_same(seen(&back), seen(&tree));
    // Nor is it removed there, and that is told, if the server cannot say what is in it.
    fs::create_dir(tree.join("open/shut")).unwrap();
    let _ = Command::new("chown").arg("65534").arg(tree.join("open/shut")).status();
    set_mode(&tree.join("open/shut"), 0o000);
    fs::write(tree.join("open/shut/inside"), "").unwrap();
    let args = ["put", "-r", "-u", "--delete", "--exclude", "*.kept", "tree"];
    let output = world.run(server.address, &args, 7);
    assert_told(&output, &["list tree/open/shut, to remove what is not in the source: "]);
    assert!(tree.join("open/shut/inside").exists());
}

#[test]
fn a_target_that_may_not_be_written_to_is_told_file_by_file() {
    let world = World::new();
    let server = world.serve();
    let tree = world.served().join("tree");
    for name in ["open/a", "closed/b", "c"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    let Some(mut get) = client_as_nobody(&world, server.address) else { return };
    set_mode(&world.here(), 0o755);
    get.args(["get", "-r", "tree"]);
    let output = get.output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    // Somebody else's, in which everybody may write: but nobody may give it a time.
    let back = world.here().join("tree");
    fs::create_dir_all(back.join("closed")).unwrap();
    set_mode(&back, 0o777);
    let output = get.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(fs::read(back.join("open/a")).unwrap(), b"open/a");
    assert_eq!(fs::read(back.join("c")).unwrap(), b"c");
    assert!(!back.join("closed/b").exists());
    assert!(text(&output.stderr).contains("tree/closed/b: "), "{}", text(&output.stderr));
}

/// Something small that is mounted for one test.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, arguments: &[&str], what: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(arguments).arg(path).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(path.to_owned()));
        }
        not_tested(what);
        None
    }

    fn small(path: &Path) -> Option<Self> {
        let arguments = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
        Self::mount(path, &arguments, "this needs root: a tree on a disk that is full")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// More than the small disk has room for, as soon as `ballast` is on it too.
fn heavy_tree(tree: &Path) {
    fs::create_dir_all(tree).unwrap();
    for number in 0..20 {
        fs::write(tree.join(format!("f{number:02}")), noise(100_000, number)).unwrap();
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_tree_is_told_and_the_rest_comes_when_there_is_room() {
    let world = World::new();
    let (served, tree) = (world.served(), world.here().join("tree"));
    heavy_tree(&tree);
    let Some(_disk) = Disk::small(&served) else { return };
    let server = world.serve();
    let ballast = served.join("ballast");
    fs::write(&ballast, vec![0; 3 * MIB]).unwrap();
    let put = ["put", "-r", "tree", "--json"];
    let output = world.run(server.address, &put, 7);
    let first = summary(&output);
    let (files, failed) = (first["files"].as_u64().unwrap(), first["failed"].as_u64().unwrap());
    assert!(files > 0 && failed > 0 && files + failed == 20, "{first}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().filter(|line| line.contains("(no_space)")).count() as u64, failed);
    fs::remove_file(&ballast).unwrap();
    let again = summary(&world.run(server.address, &put, 0));
    assert_eq!((&again["files"], &again["done_before"]), (&json!(failed), &json!(files)));
    assert_same(seen(&served.join("tree")), seen(&tree));
    assert_eq!(world.staged(), 0);
}

#[test]
fn a_disk_here_that_is_full_in_the_middle_of_a_tree_is_told_and_the_rest_comes_later() {
    let world = World::new();
    let tree = world.served().join("tree");
    heavy_tree(&tree);
    let small = world.here().join("small");
    let Some(_disk) = Disk::small(&small) else { return };
    let server = world.serve();
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![0; 3 * MIB]).unwrap();
    let get = ["get", "-r", "tree", "-o", "small/tree", "--json"];
    let output = world.run(server.address, &get, 7);
    let first = summary(&output);
    let (files, failed) = (first["files"].as_u64().unwrap(), first["failed"].as_u64().unwrap());
    assert!(files > 0 && failed > 0 && files + failed == 20, "{first}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().filter(|line| line.contains("small/tree/f")).count() as u64, failed);
    assert!(said.contains("no room") || said.contains("No space"), "{said}");
    fs::remove_file(&ballast).unwrap();
    let again = summary(&world.run(server.address, &get, 0));
    assert_eq!((&again["files"], &again["done_before"]), (&json!(failed), &json!(files)));
    assert_same(seen(&small.join("tree")), seen(&tree));
}

/// Writes other bytes into a file, as many, and gives it back its time.
fn falsify(file: &Path) {
    let metadata = fs::metadata(file).unwrap();
    fs::write(file, vec![b'?'; usize::try_from(metadata.len()).unwrap()]).unwrap();
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
}

#[test]
fn what_a_run_that_failed_in_part_has_done_is_done_again_where_it_is_gone_or_another() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["blocked", "false", "gone", "kept", "other"] {
        fs::write(tree.join(name), name).unwrap();
    }
    world.run(server.address, &["put", "-r", "tree", "--as", "all"], 0);
    let run = |args: &[&str], code| summary(&world.run(server.address, args, code));
    for (args, to) in [
        (["put", "-r", "tree", "--as", "to", "--json"], world.served().join("to")),
        (["get", "-r", "all", "-o", "back", "--json"], world.here().join("back/all")),
    ] {
        fs::create_dir_all(to.join("blocked/inside")).unwrap();
        let first = run(&args, 7);
        assert_eq!((&first["files"], &first["failed"]), (&json!(4), &json!(1)), "{first}");
        fs::remove_file(to.join("gone")).unwrap();
        fs::write(to.join("other"), "of another size").unwrap();
        let again = run(&args, 7);
        assert_eq!((&again["files"], &again["done_before"]), (&json!(2), &json!(2)), "{again}");
        // That cannot be seen without reading it.
        falsify(&to.join("false"));
        let again = run(&args, 7);
        assert_eq!((&again["files"], &again["done_before"]), (&json!(0), &json!(4)), "{again}");
        let again = run(&[&args[..], &["--checksum"]].concat(), 7);
        let same = again["done_before"].as_u64().unwrap() + again["unchanged"].as_u64().unwrap();
        assert_eq!((&again["files"], same), (&json!(1), 3), "{again}");
        fs::remove_dir_all(to.join("blocked")).unwrap();
        run(&args, 0);
        assert_same(seen(&to), seen(&tree));
    }
}

/// A drop box: it takes every file but `b`, which is once too much for it, and answers no question.
fn drop_box() -> SocketAddr {
    let refused = AtomicBool::new(false);
    liar(move |talk: &mut Talk, request| {
        let mut request = request.clone();
        while !request.is_null() {
            let id =
                [&request["put"]["id"], &request["stat"]["id"]].into_iter().find(|id| id.is_u64());
            let refuse = |talk: &mut Talk, code: &str| {
                talk.say(json!({"error": {"id": id, "code": code, "message": "No."}}));
            };
            if request["put"].is_null() {
                refuse(talk, "denied");
            } else {
                let end = talk.past_parts().0["end"].clone();
                if request["put"]["name"] == "in/b" && !refused.swap(true, Ordering::SeqCst) {
                    refuse(talk, "no_space");
                } else {
                    talk.say(
                        json!({"done": {"id": id, "size": end["size"], "digest": end["digest"],
                                             "durability": "full"}}),
                    );
                }
            }
            request = talk.line();
        }
    })
}

#[test]
fn what_was_put_where_nobody_may_ask_is_not_put_again() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        fs::write(world.here().join(name), name).unwrap();
    }
    let server = drop_box();
    let args = ["put", "a", "b", "c", "--to", "in", "--json"];
    let first = summary(&world.run(server, &args, 7));
    assert_eq!((&first["files"], &first["failed"]), (&json!(2), &json!(1)), "{first}");
    let again = summary(&world.run(server, &args, 0));
    assert_eq!((&again["files"], &again["done_before"]), (&json!(1), &json!(2)), "{again}");
}

/// It has `in/a` and breaks off before it says so; for `in/b` it has room the second time.
fn losing_an_acknowledgement() -> SocketAddr {
    let (has_a, has_room) = (AtomicBool::new(false), AtomicBool::new(false));
    let digest = Mutex::new(Value::Null);
    liar(move |talk: &mut Talk, request| {
        let mut request = request.clone();
        while !request.is_null() {
            if let Some(id) = request["stat"]["id"].as_u64() {
                let mut info =
                    json!({"id": id, "kind": "file", "size": 1, "mtime": [1, 0], "mode": 420});
                if request["stat"]["digest"].is_string() {
                    info["digest"] = digest.lock().unwrap().clone();
                }
                talk.say(json!({"info": info}));
            } else {
                let (id, end) = (request["put"]["id"].clone(), talk.past_parts().0["end"].clone());
                let refuse = |talk: &mut Talk, code: &str| {
                    talk.say(json!({"error": {"id": id, "code": code, "message": "No."}}));
                };
                if request["put"]["name"] == "in/a" {
                    if !has_a.swap(true, Ordering::SeqCst) {
                        *digest.lock().unwrap() = end["digest"].clone();
                        talk.stream().shutdown(Shutdown::Write).unwrap();
                        talk.rest();
                        return;
                    }
                    refuse(talk, "exists");
                } else if !has_room.swap(true, Ordering::SeqCst) {
                    refuse(talk, "no_space");
                } else {
                    talk.say(json!({"done": {
                        "id": id, "size": 1, "digest": end["digest"], "durability": "full"
                    }}));
                }
            }
            request = talk.line();
        }
    })
}

#[test]
fn what_was_found_to_be_put_is_known_to_all_later_runs() {
    let world = World::new();
    for name in ["a", "b"] {
        file_of_1970(&world, name);
    }
    let server = losing_an_acknowledgement();
    let put = ["put", "a", "b", "--to", "in", "--no-clobber", "--json", "--retry-for", "0"];
    world.run(server, &put, 3);
    for (code, files) in [(7, 0), (0, 1)] {
        let done = summary(&world.run(server, &put, code));
        assert_eq!((&done["done_before"], &done["files"]), (&json!(1), &json!(files)), "{done}");
    }
}

/// A file whose name it holds.
fn file_of_1970(world: &World, name: &str) {
    let path = world.here().join(name);
    fs::write(&path, name).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
}

/// It says of one file in each connection what becomes of it, and ends.
fn saying_one_thing_at_a_time() -> SocketAddr {
    liar(|talk: &mut Talk, request| {
        let mut request = request.clone();
        while let Some(id) = request["resume"]["id"].as_u64() {
            talk.say(json!({"held": {"id": id, "state": "nothing", "ranges": []}}));
            request = talk.line();
        }
        if let Some(id) = request["stat"]["id"].as_u64() {
            talk.say(json!({"info": {
                "id": id, "kind": "file", "size": 1, "mtime": [1, 0], "mode": 420
            }}));
        } else {
            talk.past_parts();
            let id = &request["put"]["id"];
            talk.say(json!({"error": {"id": id, "code": "exists", "message": "It is there."}}));
        }
        talk.stream().shutdown(Shutdown::Write).unwrap();
        talk.rest();
    })
}

#[test]
fn a_file_that_is_refused_or_there_already_is_progress() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        file_of_1970(&world, name);
    }
    for (word, count) in [("--no-clobber", "failed"), ("-u", "unchanged")] {
        let put = [&["put", word, "--json", "--to", "in"], &names[..]].concat();
        let output = world.ftx(saying_one_thing_at_a_time(), put).output().unwrap();
        assert_eq!(summary(&output)[count], names.len(), "{}", text(&output.stderr));
        let pauses = events(&output).into_iter().filter_map(|event| event["pause_ms"].as_u64());
        let pauses: Vec<u64> = pauses.collect();
        // Where there was none, each is longer than the one before.
        assert!(pauses.len() >= 2 && pauses.iter().all(|pause| *pause <= 200), "{pauses:?}");
    }
}

/// Swaps a directory with a symlink to another place, again and again.
fn swap_on(directory: &Path, outside: &Path, stop: &AtomicBool) {
    let aside = directory.with_extension("aside");
    while !stop.load(Ordering::SeqCst) {
        let _ = fs::create_dir(directory);
        let _ = fs::rename(directory, &aside);
        let _ = symlink(outside, directory);
        let _ = fs::remove_file(directory);
        let _ = fs::rename(&aside, directory);
    }
}

#[test]
fn a_directory_that_becomes_a_symlink_meanwhile_leads_nowhere_outside() {
    let world = World::new();
    let server = world.serve();
    let outside = world.home.path().join("outside");
    many(&outside, 3);
    let before = seen(&outside);
    let (tree, served) = (world.here().join("tree"), world.served().join("tree"));
    many(&tree, 200);
    let put = ["put", "-r", "tree", "--json"];
    world.run(server.address, &put, 0);
    let get = ["get", "-r", "tree", "--json"];
    // Of the receiver in both directions, and of the source of a put.
    for (swapped, args) in
        [(tree.join("d2"), get), (served.join("d2"), put), (tree.join("d2"), put)]
    {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| swap_on(&swapped, &outside, &stop));
            for _ in 0..8 {
                let output = world.ftx(server.address, args).output().unwrap();
                let code = output.status.code().unwrap();
                assert!([0, 7].contains(&code), "{args:?}: {code}: {}", text(&output.stderr));
                let failed = summary(&output)["failed"].as_u64().unwrap();
                assert_eq!(code == 0, failed == 0, "{}", text(&output.stderr));
            }
            stop.store(true, Ordering::SeqCst);
        });
        let _ = fs::remove_file(&swapped);
        assert_same(seen(&outside), before.clone());
        let _ = fs::remove_dir_all(swapped.with_extension("aside"));
        world.run(server.address, &args, 0);
    }
    assert!(!served.join("d2/d0").exists(), "what is outside was put");
}

#[test]
fn a_file_in_the_way_of_a_directory_and_the_reverse_are_told_and_stay() {
    let world = World::new();
    let server = world.serve();
    let (tree, back) = (world.served().join("tree"), world.here().join("tree"));
    for name in ["a/inside", "b", "c"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), "new").unwrap();
    }
    fs::create_dir_all(back.join("b/inside")).unwrap();
    fs::write(back.join("a"), "old").unwrap();
    let output = world.run(server.address, &["get", "-r", "tree"], 7);
    let said = text(&output.stderr);
    assert!(said.contains("tree/a: ") && said.contains("tree/b: "), "{said}");
    assert_eq!(fs::read(back.join("a")).unwrap(), b"old");
    assert!(back.join("b/inside").exists());
    assert_eq!(fs::read(back.join("c")).unwrap(), b"new");
    // The same there.
    let output = world.run(server.address, &["put", "-r", "tree"], 7);
    let said = text(&output.stderr);
    assert!(said.contains("tree/a: ") && said.contains("tree/b: "), "{said}");
    assert!(tree.join("a/inside").exists());
    assert_eq!(fs::read(tree.join("b")).unwrap(), b"new");
    // Out of the way with it, and the same command goes through.
    fs::remove_file(back.join("a")).unwrap();
    fs::remove_dir_all(back.join("b")).unwrap();
    world.run(server.address, &["get", "-r", "tree"], 0);
    assert_same(seen(&back), seen(&tree));
}

/// Every name, mode and time below a place, the hidden ones too.
fn everything(place: &Path) -> Vec<String> {
    let found =
        Command::new("find").arg(place).args(["-printf", "%P %y %m %s %T@\\n"]).output().unwrap();
    let mut lines: Vec<String> = text(&found.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_dry_run_does_nothing_at_all() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 20);
    world.run(server.address, &["put", "-r", "tree"], 0);
    fs::write(tree.join("new"), "new").unwrap();
    fs::write(world.served().join("tree/newer"), "newer").unwrap();
    fs::remove_dir_all(world.home.path().join("state")).unwrap();
    fs::create_dir(world.home.path().join("state")).unwrap();
    world.run(server.address, &["ls", "-r"], 0);
    let before = everything(world.home.path());
    for args in [
        &["put", "-r", "-n", "--delete", "tree"][..],
        &["put", "-r", "-n", "-u", "--delete", "tree", "--exclude", "d0"],
        &["put", "-r", "-n", "tree", "--as", "other/tree"],
        &["get", "-r", "-n", "--delete", "tree"],
        &["get", "-r", "-n", "--checksum", "--delete", "tree", "--exclude", "d0"],
        &["get", "-r", "-n", "tree", "-o", "other"],
        &["get", "-r", "-n", "tree", "-o", "other/"],
    ] {
        let output = world.run(server.address, args, 0);
        assert!(text(&output.stdout).contains("would "), "{args:?}: {}", text(&output.stderr));
        let now: Vec<String> = everything(world.home.path())
            .into_iter()
            .filter(|line| !before.contains(line))
            .collect();
        // The server may remember a digest that it was asked for, and the directory of states may
        // be there, and is empty.
        let now: Vec<String> =
            now.into_iter().filter(|line| !line.starts_with("served/.ftx/digests ")).collect();
        let done: Vec<&String> = now.iter().filter(|line| !line.starts_with("state")).collect();
        assert!(done.is_empty(), "{args:?}: {done:?}");
        assert!(now.iter().all(|line| line.contains(" d ")), "{args:?}: {now:?}");
    }
}

#[test]
fn two_sources_of_one_name_are_refused_before_one_takes_the_place_of_the_other() {
    let world = World::new();
    let server = world.serve();
    for name in ["one/x/a", "two/x/b"] {
        fs::create_dir_all(world.here().join(name).parent().unwrap()).unwrap();
        fs::write(world.here().join(name), name).unwrap();
    }
    let args = ["put", "-r", "--delete", "one/x", "two/x", "--to", "in"];
    let output = world.ftx(server.address, args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let said =
        "ftx: one/x and two/x would both be in/x on the server; put them one by one, with --as\n";
    assert_eq!(text(&output.stderr), said);
    assert!(!world.served().join("in").exists());
}

#[test]
fn a_hidden_directory_of_a_server_below_what_is_got_is_skipped() {
    let world = World::new();
    let server = world.serve();
    let tree = world.served().join("tree");
    many(&tree, 2);
    fs::create_dir_all(tree.join(".ftx/staging")).unwrap();
    fs::write(tree.join(".ftx/journal"), "somebody's").unwrap();
    fs::write(tree.join(".ftx/get"), "somebody's").unwrap();
    let output = world.run(server.address, &["get", "-r", "tree"], 0);
    let said = text(&output.stderr);
    assert!(said.contains("1 skipped"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!world.here().join("tree/.ftx").exists());
    assert_eq!(count_files(&world.here().join("tree")), 2);
}

pub fn entry(name: &str, kind: &str) -> Value {
    json!({"name": name, "kind": kind, "size": if kind == "file" { 5 } else { 0 },
           "mtime": [0, 0], "mode": 493})
}

/// A server that lists this for `tree`, and has `hello` under every name.
pub fn liar_listing(entries: Vec<Value>) -> SocketAddr {
    liar_giving(entries, |talk, id| {
        talk.say(json!({"file": {"id": id, "size": 5, "at": 0, "version": "v", "mtime": [0, 0], "mode": 420}}));
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}}));
    })
}

/// A server that lists this for whatever it is asked for, and answers gets in this way.
fn liar_giving(entries: Vec<Value>, give: impl Fn(&mut Talk, u64) + Send + 'static) -> SocketAddr {
    let list = move |talk: &mut Talk, id| {
        talk.say(json!({"entries": {"id": id, "entries": entries}}));
        talk.say(json!({"ok": {"id": id}}));
    };
    liar_of_directories(list, give)
}

/// A server where everything is a directory, and that answers lists and gets in these ways.
fn liar_of_directories(
    list: impl Fn(&mut Talk, u64) + Send + 'static,
    give: impl Fn(&mut Talk, u64) + Send + 'static,
) -> SocketAddr {
    liar(move |talk: &mut Talk, request| {
        let mut request = request.clone();
        while !request.is_null() {
            if let Some(id) = request["stat"]["id"].as_u64() {
                talk.say(json!({"info": {
                    "id": id, "kind": "directory", "size": 0, "mtime": [0, 0], "mode": 493
                }}));
            } else if let Some(id) = request["list"]["id"].as_u64() {
                list(talk, id);
            } else if let Some(id) = request["get"]["id"].as_u64() {
                give(talk, id);
            }
            request = talk.line();
        }
    })
}

#[test]
fn a_listing_that_contradicts_itself_is_told_and_writes_nothing_it_should_not() {
    for (entries, code, files) in [
        // The same name twice.
        (vec![entry("tree/a", "file"), entry("tree/a", "file")], 0, 1),
        // A file that is a directory too, in both orders.
        (
            vec![entry("tree/a", "file"), entry("tree/a", "directory"), entry("tree/a/b", "file")],
            7,
            1,
        ),
        (
            vec![entry("tree/a", "directory"), entry("tree/a/b", "file"), entry("tree/a", "file")],
            7,
            1,
        ),
        // The private directory of the writer.
        (
            vec![
                entry("tree/.ftx", "directory"),
                entry("tree/.ftx/journal", "file"),
                entry("tree/.ftx/staging/x", "file"),
                entry("tree/.ftx/get", "file"),
                entry("tree/b", "file"),
            ],
            0,
            1,
        ),
        // Never said to be a directory.
        (vec![entry("tree/x/y/z", "file"), entry("tree/b", "file")], 0, 2),
    ] {
        let world = World::new();
        let shown = json!(entries).to_string();
        let server = liar_listing(entries);
        let args = ["get", "-r", "tree", "-o", "back", "--retry-for", "0"];
        let output = world.ftx(server, args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{shown}: {said}");
        assert_eq!(count_files(&world.here()), files, "{shown}: {said}");
        assert!(!world.here().join("back/.ftx").exists(), "{shown}: {said}");
    }
}

/// A server with one file in a tree, whose line always breaks behind the file's first bytes.
fn breaking_off(name: &'static str, size: u64) -> SocketAddr {
    let entry = json!({"name": name, "kind": "file", "size": size, "mtime": [0, 0], "mode": 420});
    liar_giving(vec![entry], move |talk, id| {
        talk.say(json!({"file": {"id": id, "size": size, "at": 0, "version": "v", "mtime": [0, 0], "mode": 420}}));
        talk.part(id, 0, b"hello");
        let _ = talk.stream().shutdown(Shutdown::Both);
    })
}

#[test]
fn a_get_that_is_cut_or_sent_away_with_its_first_question_tries_again() {
    let world = World::new();
    let server = world.serve();
    many(&world.served().join("tree"), 2);
    let line = Line::cut_after(server.address, 0, 1);
    world.run(line.address, &["get", "-r", "tree"], 0);
    assert!(line.was_cut());
    assert_eq!(count_files(&world.here().join("tree")), 2);
    let sent_away = AtomicBool::new(false);
    let busy = liar(move |talk: &mut Talk, request| {
        let mut request = request.clone();
        while !request.is_null() {
            if let Some(id) = request["stat"]["id"].as_u64() {
                talk.say(match sent_away.swap(true, Ordering::SeqCst) {
                    false => json!({"error": {"id": id, "code": "busy", "message": "Too much."}}),
                    true => json!({"info": {
                        "id": id, "kind": "directory", "size": 0, "mtime": [0, 0], "mode": 493
                    }}),
                });
            } else if let Some(id) = request["list"]["id"].as_u64() {
                talk.say(json!({"ok": {"id": id}}));
            }
            request = talk.line();
        }
    });
    let said = text(&world.run(busy, &["get", "-r", "empty"], 0).stderr);
    assert!(said.contains("(busy)"), "{said}");
}

#[test]
fn a_file_among_trees_is_asked_for_again_too() {
    let world = World::new();
    let asked = AtomicUsize::new(0);
    let busy = liar(move |talk: &mut Talk, request| {
        let id = &request["stat"]["id"];
        talk.say(match asked.fetch_add(1, Ordering::SeqCst) {
            1 => json!({"error": {"id": id, "code": "busy", "message": "Too much."}}),
            _ => json!({"info": {
                "id": id, "kind": "file", "size": 5, "mtime": [0, 0], "mode": 420
            }}),
        });
    });
    fs::write(world.here().join("file"), "hello").unwrap();
    let file = fs::File::options().write(true).open(world.here().join("file")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let output = world.run(busy, &["get", "-u", "file", "--json"], 0);
    assert_eq!(summary(&output)["unchanged"], 1);
    assert!(text(&output.stdout).contains("(busy)"), "{}", text(&output.stdout));
}

#[test]
fn a_file_whose_first_bytes_come_again_and_again_is_given_up() {
    for (name, size) in [("tree/small", 100), ("tree/large", 100 * MIB as u64)] {
        let world = World::new();
        let server = breaking_off(name, size);
        let args = ["get", "-r", "tree", "--retry-for", "1s"];
        let mut client = world.ftx(server, args).spawn().unwrap();
        until("it gives up", || client.try_wait().unwrap().is_some());
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
}

#[test]
fn a_listing_without_end_costs_no_memory_and_one_that_does_not_wait_is_refused() {
    use std::sync::atomic::AtomicU64;
    for waits in [true, false] {
        let world = World::new();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let server = liar(move |talk: &mut Talk, request| {
            if let Some(id) = request["stat"]["id"].as_u64() {
                return talk.say(json!({"info": {
                    "id": id, "kind": "directory", "size": 0, "mtime": [0, 0], "mode": 493
                }}));
            }
            let id = request["list"]["id"].clone();
            for number in 0_u64.. {
                let entries: Vec<Value> = (0..100)
                    .map(|one| entry(&format!("tree/{number}-{one}-{}", "x".repeat(100)), "file"))
                    .collect();
                talk.say(json!({"entries": {"id": id, "entries": entries}}));
                counted.store(number, Ordering::SeqCst);
                if waits && number >= 15 && talk.line()["more"].is_null() || number > 20_000 {
                    return;
                }
            }
        });
        // It gets on with a dry run; while no file comes, there is nothing to ask for.
        let mut client = world
            .ftx(server, ["get", if waits { "-nr" } else { "-r" }, "tree", "--retry-for", "0"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if waits {
            until("it has listed much", || sent.load(Ordering::SeqCst) > 500);
            let status = fs::read_to_string(format!("/proc/{}/status", client.id())).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(kib < 64 * 1024, "{kib} KiB");
            client.kill().unwrap();
            client.wait().unwrap();
        } else {
            let output = client.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
            assert!(sent.load(Ordering::SeqCst) < 20_000, "it was listened to for ever");
        }
        assert_eq!(count_files(&world.here()), 0);
    }
}

#[test]
fn a_name_that_the_disk_of_the_server_cannot_store_is_told_and_the_rest_arrives() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 3);
    world.run(server.address, &["put", "-r", "tree"], 0);
    fs::remove_dir_all(world.served().join("tree")).unwrap();
    let calls = "renameat2,renameat,linkat";
    let Some(injection) = Injection::into(&server, calls, None, "error=EILSEQ:when=2") else {
        return;
    };
    let output = world.ftx(server.address, ["put", "-r", "tree", "--json"]).output().unwrap();
    drop(injection);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("(unstorable_name)"), "{said}");
    assert_eq!(summary(&output)["failed"], 1, "{said}");
    world.run(server.address, &["put", "-r", "tree"], 0);
    assert_same(seen(&world.served().join("tree")), seen(&tree));
}

/// What a disk that takes `A` for `a` does, as far as it shows before anything is written: the
/// writer's own directory has both names.
#[test]
fn names_that_differ_only_in_case_are_told_where_the_disk_takes_them_for_one() {
    let world = World::new();
    let back = world.here().join("back");
    fs::create_dir_all(back.join(".ftx")).unwrap();
    fs::create_dir(back.join(".FTX")).unwrap();
    let hidden = back.join(".ftx");
    let arguments = ["--bind", hidden.to_str().unwrap()];
    let what = "this needs root: names that a disk takes for one";
    let Some(_disk) = Disk::mount(&back.join(".FTX"), &arguments, what) else { return };
    let server = world.serve();
    let tree = world.served().join("tree");
    for name in ["README", "readme", "Docs/a", "docs/b", "other"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    symlink("back", world.here().join("tree")).unwrap();
    fs::write(back.join("extra"), "").unwrap();
    let output = world.run(server.address, &["get", "-r", "--delete", "tree"], 7);
    let said = text(&output.stderr);
    // The directory and what is in it, and one of the two files.
    assert_eq!(
        said.lines().filter(|line| line.contains("upper and lower case")).count(),
        3,
        "{said}"
    );
    assert!(said.contains("got 3 files") && said.contains("3 FAILED"), "{said}");
    let names: Vec<_> =
        fs::read_dir(&back).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let has = |name: &str| names.iter().any(|one| one == name);
    assert!(has("README") != has("readme") && has("Docs") != has("docs"), "{names:?}");
    assert!(has("other") && has("extra"), "{names:?}");
}

#[test]
fn names_that_collide_on_a_disk_with_casefold_are_told_and_one_of_them_arrives() {
    let world = World::new();
    let image = world.home.path().join("image");
    fs::write(&image, "").unwrap();
    fs::File::options().write(true).open(&image).unwrap().set_len(64 * MIB as u64).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-O", "casefold"]).arg(&image).output();
    let folding = world.here().join("folding");
    let what = "this needs root, mkfs.ext4 and a kernel with casefold: names that collide";
    if !made.is_ok_and(|made| made.status.success()) {
        return not_tested(what);
    }
    let arguments = ["-o", "loop", image.to_str().unwrap()];
    let Some(_disk) = Disk::mount(&folding, &arguments, what) else { return };
    let back = folding.join("tree");
    fs::create_dir(&back).unwrap();
    let folds = Command::new("chattr").arg("+F").arg(&back).status();
    if !folds.is_ok_and(|folds| folds.success()) {
        return not_tested(what);
    }
    let server = world.serve();
    let tree = world.served().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["README", "readme", "other"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let output = world.run(server.address, &["get", "-r", "tree", "-o", "folding"], 7);
    let said = text(&output.stderr);
    assert!(said.to_lowercase().contains("tree/readme"), "{said}");
    let kept = fs::read_dir(&back).unwrap().count();
    assert_eq!(kept, 2, "{said}");
    assert!(fs::metadata(back.join("other")).unwrap().size() == 5);
    assert!(fs::metadata(back.join("other")).unwrap().permissions().mode() != 0);
}

/// A disk that really takes `A` for `a`: NTFS in a file, as lowntfs-3g shows it.
fn ignoring_case(world: &World, place: &Path) -> Option<Disk> {
    let what =
        "this needs root, FUSE and lowntfs-3g (the package ntfs-3g): a disk that ignores case";
    let image = world.home.path().join("image");
    fs::File::create(&image).unwrap().set_len(64 * MIB as u64).unwrap();
    let made = Command::new("mkntfs").args(["-F", "-Q", "-q"]).arg(&image).output();
    if !made.is_ok_and(|made| made.status.success()) {
        not_tested(what);
        return None;
    }
    let options = ["-t", "lowntfs-3g", "-o", "ignore_case,permissions"];
    let arguments: Vec<&str> = options.into_iter().chain([image.to_str().unwrap()]).collect();
    Disk::mount(place, &arguments, what)
}

#[test]
fn a_tree_of_names_that_a_disk_takes_for_one_arrives_without_them_and_leaves_nothing() {
    let world = World::new();
    let folding = world.here().join("folding");
    let Some(_disk) = ignoring_case(&world, &folding) else { return };
    let server = world.serve();
    let tree = world.served().join("tree");
    for name in ["README", "readme", "Docs/a", "docs/b", "other"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    let output = world.run(server.address, &["get", "-r", "tree", "-o", "folding/tree"], 7);
    let said = text(&output.stderr);
    let told = said.lines().filter(|line| line.contains("upper and lower case")).count();
    assert_eq!(told, 3, "{said}");
    let got = folding.join("tree");
    assert!(
        ["README", "readme"].contains(&fs::read_to_string(got.join("readme")).unwrap().as_str())
    );
    assert_eq!(fs::read_to_string(got.join("other")).unwrap(), "other");
    // What was open when it was removed is there under another name for a moment.
    until("the client's own directory is gone", || fs::read_dir(&got).unwrap().count() == 3);
}

#[test]
fn a_server_on_a_disk_that_ignores_case_knows_its_own_directory_however_it_is_spelled() {
    let world = World::new();
    let served = world.served();
    let Some(_disk) = ignoring_case(&world, &served) else { return };
    let server = world.serve();
    world.noise("file", 10);
    world.run(server.address, &["put", "file", "--as", "ours"], 0);
    let refused = |words: &[&str]| {
        let said = text(&world.run(server.address, words, 4).stderr);
        assert!(said.contains("reserved_name"), "{words:?}: {said}");
    };
    for name in [".FTX", ".Ftx", ".fTx/lock", ".FTX/journal", ".FTX/staging/x"] {
        refused(&["put", "file", "--as", name]);
        refused(&["get", name, "-o", "got"]);
        refused(&["mkdir", "-p", name]);
        refused(&["mv", "ours", name]);
    }
    refused(&["ls", ".FTX"]);
    refused(&["rm", "-r", ".FTX"]);
    refused(&["mv", ".FTX", "moved"]);
    assert_eq!(world.stored("ours"), fs::read(world.here().join("file")).unwrap());
    assert!(served.join(".ftx/journal").exists());
    drop(server);
}

/// A server of `tree/a` that cannot list `tree/shut` at first, and breaks off; from then on it has none.
fn opening_up() -> SocketAddr {
    let broke = AtomicBool::new(false);
    let list = move |talk: &mut Talk, id| {
        if broke.swap(true, Ordering::SeqCst) {
            talk.say(json!({"entries": {"id": id, "entries": [entry("tree/a", "directory")]}}));
            talk.say(json!({"ok": {"id": id}}));
        } else {
            let unread =
                json!({"name": "tree/shut", "code": "permission_denied", "message": "No."});
            talk.say(json!({"entries": {"id": id, "unread": [unread]}}));
            let _ = talk.stream().shutdown(Shutdown::Both);
        }
    };
    liar_of_directories(list, |_, _| {})
}

#[test]
fn what_could_not_be_listed_before_the_line_broke_keeps_nothing_that_is_to_go() {
    let world = World::new();
    fs::create_dir(world.here().join("tree")).unwrap();
    fs::write(world.here().join("tree/extra"), "x").unwrap();
    let output = world.run(opening_up(), &["get", "-r", "--delete", "tree", "--json"], 0);
    let done = summary(&output);
    assert_eq!((&done["failed"], &done["removed"]), (&json!(0), &json!(1)), "{done}");
    assert!(!world.here().join("tree/extra").exists());
}

#[test]
fn what_may_not_be_read_here_is_told_and_then_nothing_is_removed() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    fs::create_dir_all(world.served().join("tree/both")).unwrap();
    for name in ["both/a", "extra/a", "more"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    let Some(mut get) = client_as_nobody(&world, server.address) else { return };
    get.args(["get", "-r", "--delete", "--exclude", "*.kept", "tree"]);
    let _ = Command::new("chown").args(["-R", "65534"]).arg(world.here()).status();
    set_mode(&tree.join("extra"), 0o000);
    let output = get.output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_told(&output, &["tree/extra: Perm", "nothing was removed"]);
    assert!(tree.join("extra/a").exists() && tree.join("more").exists());
}
