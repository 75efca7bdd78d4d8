//! A tree whose connection is cut after every message, in both directions, there and back: the
//! command says so and the same one finishes it; or it goes on by itself.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::{Line, MIB, Server, World, noise, relay_both, text, until};
use crate::trees::{assert_same, seen, summary};

/// What went over a line, which may break once.
struct Recorder {
    address: SocketAddr,
    up: Arc<Mutex<Vec<u8>>>,
    down: Arc<Mutex<Vec<u8>>>,
    /// When so many bytes would have gone one way, and this has become `NOW`; 0 is never.
    breaks_at: Arc<AtomicUsize>,
}

/// The line may break now, when more than this has gone one way.
const NOW: usize = 30 * MIB - 1;

impl Recorder {
    fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Arc::default(), Arc::default());
        let (to_up, to_down) = (Arc::clone(&up), Arc::clone(&down));
        let breaks_at = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&breaks_at);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(server).unwrap();
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let (up, down) = (Arc::clone(&to_up), Arc::clone(&to_down));
                let breaks_at = Arc::clone(&shared);
                std::thread::spawn(move || record(near, far, &up, &breaks_at));
                let breaks_at = Arc::clone(&shared);
                std::thread::spawn(move || record(back.0, back.1, &down, &breaks_at));
            }
        });
        Self { address, up, down, breaks_at }
    }

    /// Bytes that went one way or the other, whatever was more, since this was asked last.
    fn take_bytes(&self) -> usize {
        let take = |heard: &Mutex<Vec<u8>>| std::mem::take(&mut *heard.lock().unwrap()).len();
        take(&self.up).max(take(&self.down))
    }

    /// The offsets in what went there, over all connections, at which a message ends.
    fn ends(heard: &Mutex<Vec<u8>>) -> Vec<u64> {
        let heard = heard.lock().unwrap();
        let breaks = heard.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        breaks.map(|(at, _)| at as u64 + 1).collect()
    }
}

fn record(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>, breaks_at: &AtomicUsize) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let heard_bytes = {
            let mut heard = heard.lock().unwrap();
            heard.extend_from_slice(&buffer[..count]);
            heard.len()
        };
        let limit = breaks_at.load(Ordering::SeqCst);
        if limit > 0 && heard_bytes > limit {
            // Not before the receiver has kept something of it.
            until("something is kept", || breaks_at.load(Ordering::SeqCst) == NOW);
            breaks_at.store(0, Ordering::SeqCst);
            break;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Four files in three directories, none with a line break in it.
fn small_tree(world: &World) {
    let tree = world.here().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::create_dir(tree.join("void")).unwrap();
    for (name, size) in [("one", 10), ("a/two", 3_000), ("a/b/three", 0), ("zuletzt", 1)] {
        fs::write(tree.join(name), vec![b'x'; size]).unwrap();
    }
}

const FILES: u64 = 4;

/// Where to cut: with every message whole, and in the middle of each.
fn cuts(heard: &Mutex<Vec<u8>>) -> BTreeSet<u64> {
    let ends = Recorder::ends(heard);
    assert!(ends.len() >= 6, "{ends:?}");
    let middles = ends.windows(2).map(|pair| pair[0].midpoint(pair[1]));
    // A cut lets one byte less pass than it says.
    std::iter::once(0).chain(ends.iter().copied()).chain(middles).map(|at| at + 1).collect()
}

/// Runs a command on lines that are cut at every place, and holds what it left against `expected`.
fn is_finished_after_every_cut(
    world: &World,
    server: SocketAddr,
    args: &[&str],
    check: &dyn Fn(&str),
) {
    let recorder = Recorder::new(server);
    let name = |place: &str| args.iter().map(|arg| arg.replace("@", place)).collect::<Vec<_>>();
    let whole = world.ftx(recorder.address, name("whole")).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    check("whole");
    let places = cuts(&recorder.up).into_iter().map(|at| (at, 0));
    let places = places.chain(cuts(&recorder.down).into_iter().map(|at| (0, at)));
    for (up, down) in places {
        let place = format!("cut-{up}-{down}");
        let line = Line::cut_after(server, up, down);
        let mut first = world.ftx(line.address, name(&place));
        let first = first_of(first.args(["--retry-for", "0"]), &place);
        // So much was not said this time; or what was cut off, nobody waited for.
        if first == Some(0) {
            check(&place);
            continue;
        }
        assert!(line.was_cut(), "{place}");
        let again = world.ftx(line.address, name(&place)).output().unwrap();
        assert!(again.status.success(), "{place}: {}", text(&again.stderr));
        check(&place);
        // A file of which the acknowledgement was cut off is put again; none is lost.
        let done = summary(&again);
        let (files, before) = (&done["files"], &done["done_before"]);
        assert_eq!(files.as_u64().unwrap() + before.as_u64().unwrap(), FILES, "{place}: {done}");
    }
}

/// Runs the cut command; it has to end as one whose connection broke, in one line.
fn first_of(command: &mut std::process::Command, place: &str) -> Option<i32> {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(3) => {
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines.len(), 1, "{place}: {said}");
            assert!(lines[0].starts_with("ftx: "), "{place}: {said}");
            assert!(said.contains("the same command goes on with the rest"), "{said}");
        }
        code => panic!("{place}: {code:?}: {said}"),
    }
    output.status.code()
}

#[test]
fn a_put_that_is_cut_after_any_message_is_finished_by_the_same_command() {
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    let args = ["put", "-r", "tree", "--as", "@", "--json"];
    is_finished_after_every_cut(&world, server.address, &args, &|place| {
        assert_same(seen(&world.served().join(place)), seen(&world.here().join("tree")));
    });
    let left = world.run(server.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
}

/// The files that it has put are there, and some of them by acknowledgements that nobody has heard.
#[test]
fn a_put_that_replaces_nothing_and_is_cut_is_finished_by_the_same_command() {
    fn put(place: &str) -> [&str; 7] {
        ["put", "-r", "tree", "--as", place, "--no-clobber", "--json"]
    }
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    let recorder = Recorder::new(server.address);
    world.run(recorder.address, &put("whole"), 0);
    // The line, and what is said to be put if it is cut before the end.
    let cut = |at, place: &str| {
        let line = Line::cut_after(server.address, 0, at);
        let mut first = world.ftx(line.address, put(place));
        let first = first.args(["--retry-for", "0"]).output().unwrap();
        let said = (first.status.code() == Some(3)).then(|| text(&first.stdout));
        (line.address, said)
    };
    let mut gone_on = None;
    for at in cuts(&recorder.down) {
        let place = format!("cut-{at}");
        let (line, Some(said)) = cut(at, &place) else { continue };
        let done = summary(&world.run(line, &put(&place), 0));
        let (files, before) = (&done["files"], &done["done_before"]);
        assert_eq!(files.as_u64().unwrap() + before.as_u64().unwrap(), FILES, "{place}: {done}");
        gone_on = gone_on.or(said.contains("\"done\"").then_some(at));
    }
    // What others have put there meanwhile is not taken for its own.
    let (line, said) = cut(gone_on.unwrap(), "other");
    let said = said.unwrap();
    for name in ["one", "a/two", "a/b/three", "zuletzt"] {
        let there = world.served().join("other").join(name);
        if !said.contains(&format!("other/{name}")) {
            fs::create_dir_all(there.parent().unwrap()).unwrap();
            fs::write(there, "theirs").unwrap();
        }
    }
    // The same cut may have come before the first acknowledgement this time: then there is nothing of its own.
    let code = if said.contains("\"done\"") { 7 } else { 4 };
    let output = world.run(line, &put("other"), code);
    assert!(text(&output.stderr).contains("(exists)"), "{}", text(&output.stderr));
}

#[test]
fn a_small_file_whose_acknowledgement_was_cut_off_is_not_taken_for_that_of_somebody_else() {
    let world = World::new();
    let server = world.serve();
    fs::write(world.here().join("a"), "hello").unwrap();
    let recorder = Recorder::new(server.address);
    world.run(recorder.address, &["put", "a", "--as", "whole"], 0);
    let welcome = Recorder::ends(&recorder.down)[0];
    let line = Line::cut_after(server.address, 0, welcome + 5);
    let put = ["put", "a", "--no-clobber", "--retry-for", "0"];
    let said = text(&world.run(line.address, &put, 3).stderr);
    assert!(said.contains("the same command finds out"), "{said}");
    assert_eq!(world.stored("a"), b"hello");
    world.run(line.address, &put, 0);
    world.run(line.address, &put, 4);
    let left = world.run(line.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
}

#[test]
fn a_get_that_is_cut_after_any_message_is_finished_by_the_same_command() {
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    world.run(server.address, &["put", "-r", "tree"], 0);
    let args = ["get", "-r", "tree", "-o", "@", "--json"];
    is_finished_after_every_cut(&world, server.address, &args, &|place| {
        let got = world.here().join(place);
        assert_same(seen(&got), seen(&world.here().join("tree")));
        assert!(!got.join(".ftx").exists(), "{place}");
    });
    let left = world.run(server.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
}

#[test]
fn what_was_got_without_durability_is_got_again_by_a_job_that_asks_for_it() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir_all(world.here().join("tree/large")).unwrap();
    for number in 0..20 {
        world.noise(&format!("tree/{number}"), 100);
    }
    world.noise("tree/large/large", 30 * MIB);
    world.run(server.address, &["put", "-r", "tree"], 0);
    for (place, then) in [("none", "none"), ("full", "full")] {
        let line = Line::cut_after(server.address, 0, 25 * MIB as u64);
        let get =
            |durability| ["get", "-r", "tree", "-o", place, "--json", "--durability", durability];
        let mut first = world.ftx(line.address, get("none"));
        assert_eq!(first_of(first.args(["--retry-for", "0"]), place), Some(3));
        assert!(line.was_cut());
        let done = summary(&world.run(line.address, &get(then), 0));
        let (files, before) = (done["files"].as_u64().unwrap(), done["done_before"].as_u64());
        assert_eq!(files + before.unwrap(), 21, "{done}");
        assert!(then == "none" || before == Some(0), "{done}");
        let got = world.here().join(place);
        // Nor is a part left that was got without durability, and was not gone on with.
        assert!(!got.join(".ftx").exists());
        assert_same(seen(&got), seen(&world.here().join("tree")));
    }
}

#[test]
fn a_tree_that_is_cut_after_any_message_goes_on_by_itself_and_counts_everything_once() {
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    std::os::unix::fs::symlink("one", world.here().join("tree/link")).unwrap();
    fs::create_dir_all(world.served().join("all")).unwrap();
    world.run(server.address, &["put", "-r", "tree", "--as", "all"], 0);
    std::os::unix::fs::symlink("one", world.served().join("all/link")).unwrap();
    for args in [["put", "-r", "tree", "--as", "@"], ["get", "-r", "all", "-o", "@"]] {
        let recorder = Recorder::new(server.address);
        let run = |address, place: &str| {
            let args = args.iter().map(|arg| arg.replace("@", place));
            world.ftx(address, args.chain(["--json".to_owned()])).output().unwrap()
        };
        run(recorder.address, "whole");
        for at in cuts(&recorder.down).into_iter().skip(1) {
            let place = format!("{}-{at}", args[0]);
            let output = run(Line::cut_after(server.address, 0, at).address, &place);
            let said = text(&output.stderr);
            if at == 1 || output.status.code() == Some(3) {
                // Nothing was heard of a server before: it is not waited for.
                continue;
            }
            assert_eq!(output.status.code(), Some(0), "{place}: {said}");
            let done = summary(&output);
            assert_eq!(done["files"], FILES, "{place}: {done}");
            assert_eq!(done["skipped"], 1, "{place}: {done}");
            assert_eq!(done["done_before"], 0, "{place}: {done}");
            let skips = said.lines().filter(|line| line.contains("skipped")).count();
            assert_eq!(skips, 1, "{place}: {said}");
        }
    }
}

#[test]
fn a_removal_that_is_cut_after_any_message_goes_on_by_itself() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    fs::write(tree.join("below/kept"), "x").unwrap();
    let run = |address, place: &str| {
        let copy = world.served().join(place);
        fs::create_dir_all(copy.join("directory/deeper")).unwrap();
        fs::create_dir(copy.join("below")).unwrap();
        for name in ["directory/deeper/one", "directory/two", "three", "below/four"] {
            fs::write(copy.join(name), "x").unwrap();
        }
        // With a rule, whose directories go one by one.
        let put = ["put", "-r", "--delete", "--exclude", "*.tmp", "tree", "--as", place];
        let output = world.ftx(address, put).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let recorder = Recorder::new(server.address);
    run(recorder.address, "whole");
    let up = cuts(&recorder.up).into_iter().map(|at| (at, 0));
    let down = cuts(&recorder.down).into_iter().map(|at| (0, at));
    for (up, down) in up.chain(down) {
        let place = format!("cut-{up}-{down}");
        let (code, said) = run(Line::cut_after(server.address, up, down).address, &place);
        if up + down == 1 || code == Some(3) {
            // Nothing was heard of a server before: it is not waited for.
            continue;
        }
        assert_eq!(code, Some(0), "{place}: {said}");
        let copy = world.served().join(&place);
        assert_same(seen(&copy), seen(&tree));
        let [there, here] = [&copy, &tree].map(|path| path.metadata().unwrap().modified().unwrap());
        assert_eq!(there, here, "{place}");
    }
}

/// A connection breaks at the first removal, and before the next one something else happens.
fn cut_at_a_removal(server: SocketAddr, meanwhile: impl FnOnce() + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut near, _) = listener.accept().unwrap();
        let mut far = TcpStream::connect(server).unwrap();
        let (mut near_back, mut far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut far_back, &mut near_back));
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = near.read(&mut buffer).unwrap();
            if text(&buffer[..count]).contains("{\"remove\"") {
                break;
            }
            far.write_all(&buffer[..count]).unwrap();
        }
        meanwhile();
        for end in [near, far] {
            end.shutdown(Shutdown::Both).unwrap();
        }
        for near in listener.incoming().flatten() {
            relay_both(near, server);
        }
    });
    address
}

#[test]
fn what_has_come_here_since_a_removal_was_asked_for_is_not_removed_after_a_break() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "x").unwrap();
    world.run(server.address, &["put", "-r", "tree"], 0);
    for extra in ["b", "c"] {
        fs::write(world.served().join("tree").join(extra), "theirs").unwrap();
    }
    // As another put of it would.
    let (here, there) = (tree.join("b"), world.served().join("tree/b"));
    let line = cut_at_a_removal(server.address, move || {
        for path in [here, there] {
            fs::write(path, "new").unwrap();
        }
    });
    world.run(line, &["put", "-r", "-u", "--delete", "--exclude", "*.tmp", "tree"], 0);
    assert_eq!(world.stored("tree/b"), b"new");
    assert!(!world.served().join("tree/c").exists());
}

/// What it has staged by now is in the same place as what the get had left.
#[test]
fn what_is_left_of_a_get_is_not_removed_under_a_server_that_has_the_directory_by_now() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.here().join("tree")).unwrap();
    fs::write(world.here().join("tree/film"), noise(20 * MIB, 1)).unwrap();
    world.run(server.address, &["put", "-r", "tree"], 0);
    let line = Line::cut_after(server.address, 0, 15 * MIB as u64);
    world.run(line.address, &["get", "-r", "tree", "-o", "back", "--retry-for", "0"], 3);
    let back = world.here().join("back");
    let private = back.join(".ftx");
    let remove = |code| {
        let output = world.run(line.address, &["partials", "--remove", "--json"], code);
        let lines = text(&output.stdout);
        assert_eq!(lines.lines().count(), 1, "{lines}");
        let said: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(said["removed"], code == 0, "{said}");
        output
    };
    let mut other = Server::start(&back, "127.0.0.1:0", &[]);
    let staged = || fs::read_dir(private.join("staging")).unwrap().count();
    let before = staged();
    assert!(before > 0);
    let said = text(&remove(6).stderr);
    assert!(said.contains("is being used by another ftx"), "{said}");
    assert_eq!(staged(), before);
    world.run(other.address, &["put", "tree/film", "--as", "new"], 0);
    other.kill();
    remove(0);
    assert!(!private.exists() && back.join("new").exists());
    let left = world.run(line.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
}

#[test]
fn a_large_file_of_a_tree_that_is_cut_goes_on_in_its_middle() {
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    fs::write(world.here().join("tree/film"), noise(40 * MIB, 1)).unwrap();
    for args in [&["put", "-r", "tree"][..], &["get", "-r", "tree", "-o", "back"]] {
        let line = Recorder::new(server.address);
        line.breaks_at.store(30 * MIB, Ordering::SeqCst);
        let first = [args, &["--retry-for", "0"]].concat();
        let first = world.ftx(line.address, first).spawn().unwrap();
        until("something is kept", || {
            let down = line.down.lock().unwrap();
            let heard = text(&down[..down.len().min(4_096)]);
            drop(down);
            let staging = world.here().join("back/.ftx/staging");
            let staged = fs::read_dir(staging).into_iter().flatten().flatten();
            let mut sizes = staged.filter_map(|entry| Some(entry.metadata().ok()?.len()));
            heard.contains("\"kept\"") || sizes.any(|size| size > 9 * MIB as u64)
        });
        line.breaks_at.store(NOW, Ordering::SeqCst);
        let first = first.wait_with_output().unwrap();
        assert_eq!(first.status.code(), Some(3), "{}", text(&first.stderr));
        assert!(line.take_bytes() > 29 * MIB, "{}", text(&first.stderr));
        let left = text(&world.run(line.address, &["partials"], 0).stdout);
        assert!(!left.is_empty(), "what was left is listed");
        world.run(line.address, args, 0);
        let sent = line.take_bytes();
        assert!(sent < 33 * MIB, "{args:?}: {sent} bytes were sent again, all of it is 40 MiB");
        let left = world.run(line.address, &["partials"], 0);
        assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
    }
    assert_same(seen(&world.served().join("tree")), seen(&world.here().join("tree")));
    assert_same(seen(&world.here().join("back")), seen(&world.here().join("tree")));
}

/// Its acknowledgement was lost, say, or somebody else has brought it.
#[test]
fn nothing_is_left_of_a_large_file_that_turns_out_to_be_there() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.here().join("tree")).unwrap();
    world.noise("tree/film", 8 * MIB);
    for (word, place) in [("-u", "time"), ("--checksum", "bytes")] {
        let line = Line::cut_after(server.address, 4 * MIB as u64, 0);
        world.run(line.address, &["put", "-r", "tree", "--as", place, "--retry-for", "0"], 3);
        let (film, copy) =
            (world.here().join("tree/film"), world.served().join(place).join("film"));
        fs::copy(&film, &copy).unwrap();
        let modified = film.metadata().unwrap().modified().unwrap();
        fs::File::options().write(true).open(copy).unwrap().set_modified(modified).unwrap();
        let left = || text(&world.run(line.address, &["partials"], 0).stdout);
        let put = ["put", "-r", word, "tree", "--as", place, "--json"];
        for (more, is_left) in [(&["-n"][..], true), (&[], false)] {
            let done = summary(&world.run(line.address, &[&put[..], more].concat(), 0));
            assert_eq!(done["unchanged"], 1, "{done}");
            assert_eq!(!left().is_empty(), is_left, "{word} {more:?}: {}", left());
        }
    }
}

/// A get of `tree` to `back` that was cut after 30 MiB; its line goes on, and this is the command.
fn cut_get(world: &World, server: &Server) -> (Line, [&'static str; 5]) {
    let get = ["get", "-r", "tree", "-o", "back"];
    let line = Line::cut_after(server.address, 0, 30 * MIB as u64);
    let mut first = world.ftx(line.address, get);
    assert_eq!(first_of(first.args(["--retry-for", "0"]), "back"), Some(3));
    (line, get)
}

#[test]
fn what_was_got_and_is_another_here_by_now_is_got_again_when_the_job_goes_on() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.here().join("tree")).unwrap();
    for (name, size) in [("tree/first", 10 * MIB), ("tree/second", 30 * MIB)] {
        world.noise(name, size);
    }
    world.run(server.address, &["put", "-r", "tree"], 0);
    let (line, get) = cut_get(&world, &server);
    let back = world.here().join("back");
    assert!(back.join(".ftx").exists(), "there is something to go on with");
    let got = fs::OpenOptions::new().write(true).open(back.join("first")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&got, b"HACKED", 0).unwrap();
    // As times are compared that a disk keeps in coarse steps.
    got.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(60)).unwrap();
    world.run(line.address, &get, 0);
    assert_same(seen(&back), seen(&world.here().join("tree")));
}

/// A get of a tree with one file, that is cut in the middle of it.
fn cut_get_of_a_film(world: &World, server: &Server) -> (Line, [&'static str; 5]) {
    fs::create_dir(world.here().join("tree")).unwrap();
    world.noise("tree/film", 40 * MIB);
    world.run(server.address, &["put", "-r", "tree"], 0);
    cut_get(world, server)
}

#[test]
fn what_is_held_of_a_file_of_a_tree_and_cannot_be_gone_on_with_is_got_from_its_first_byte() {
    let world = World::new();
    let server = world.serve();
    let (line, get) = cut_get_of_a_film(&world, &server);
    let back = world.here().join("back");
    let staged: Vec<_> = fs::read_dir(back.join(".ftx/staging")).unwrap().flatten().collect();
    assert_eq!(staged.len(), 1);
    fs::File::create(staged[0].path()).unwrap();
    world.run(line.address, &get, 0);
    assert_same(seen(&back), seen(&world.here().join("tree")));
}

#[test]
fn a_directory_that_was_made_anew_where_a_get_was_interrupted_is_one_to_get_into() {
    let world = World::new();
    let server = world.serve();
    small_tree(&world);
    world.noise("tree/film", 40 * MIB);
    world.run(server.address, &["put", "-r", "tree"], 0);
    let (line, get) = cut_get(&world, &server);
    let back = world.here().join("back");
    fs::remove_dir_all(&back).unwrap();
    // Many disks give it the number of the one that is gone.
    fs::create_dir(&back).unwrap();
    fs::write(back.join("thesis"), "mine").unwrap();
    world.run(line.address, &[&get[..], &["--delete"]].concat(), 0);
    assert_eq!(fs::read(back.join("thesis")).unwrap(), b"mine");
    assert_same(seen(&back.join("tree")), seen(&world.here().join("tree")));
}

#[test]
fn nothing_is_left_of_a_file_that_changed_after_a_get_that_was_cut() {
    let world = World::new();
    let server = world.serve();
    let (line, get) = cut_get_of_a_film(&world, &server);
    let back = world.here().join("back");
    assert!(back.join(".ftx").exists(), "there is something to go on with");
    world.run(line.address, &[&get[..], &["--exclude", "film"]].concat(), 0);
    assert!(back.join(".ftx").exists(), "that was asked for everything else");
    fs::write(world.here().join("tree/film"), "short").unwrap();
    world.run(server.address, &["put", "-r", "tree"], 0);
    world.run(line.address, &get, 0);
    assert_eq!(fs::read(back.join("film")).unwrap(), b"short");
    assert!(!back.join(".ftx").exists());
}

#[test]
fn what_a_get_that_was_cut_holds_is_not_dropped_by_another_one_in_its_directory() {
    let world = World::new();
    let server = world.serve();
    let (line, get) = cut_get_of_a_film(&world, &server);
    let back = world.here().join("back");
    fs::create_dir_all(world.served().join("other/back")).unwrap();
    fs::write(world.served().join("other/back/file"), "x").unwrap();
    let staged = || fs::read_dir(back.join(".ftx/staging")).unwrap().count();
    assert_eq!(staged(), 1);
    // The second time it finds what the first one has left.
    for _ in 0..2 {
        world.run(line.address, &["get", "-r", "other/back"], 0);
        assert_eq!(staged(), 1);
    }
    let left = text(&world.run(line.address, &["partials"], 0).stdout);
    assert!(left.contains(".ftx"), "it is known whose it is: {left}");
    world.run(line.address, &get, 0);
    assert!(back.join("file").exists() && !back.join(".ftx").exists());
    assert_eq!(fs::read(back.join("film")).unwrap(), world.stored("tree/film"));
}
