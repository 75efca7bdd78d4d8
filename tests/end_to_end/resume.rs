//! Every interruption resumes by itself, and costs at most 32 MiB on each side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::harness::{
    Line, MIB, Server, World, done_event, noise, not_tested, relay_both, text, until,
};
use crate::injection::Injection;
use crate::talk::Talk;

/// Large enough that the promise of 32 MiB says something.
const FILE_BYTES: usize = 96 * MIB;

/// What an interruption may cost.
const COST_BYTES: u64 = 32 * 1024 * 1024;

fn assert_cheap(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let event = done_event(output);
    for count in ["moved_again_bytes", "read_again_bytes"] {
        let bytes = event[count].as_u64().unwrap();
        assert!(bytes <= COST_BYTES, "{count} is {bytes} in {event}");
    }
}

#[test]
fn a_put_over_a_line_that_breaks_goes_on_from_where_the_server_has_it_safe() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    for (digest, cut) in [("sha256", 3), ("sha256", 50), ("sha256", 95), ("blake3", 60)] {
        let line = Line::cut_after(server.address, cut * MIB as u64 + 12_345, 0);
        let args = ["put", "big", "--json", "--digest", digest];
        let output = world.ftx(line.address, args).output().unwrap();
        assert_cheap(&output);
        assert!(line.was_cut());
        assert_eq!(done_event(&output)["connections"], 2);
        assert!(world.stored("big") == bytes, "{digest} {cut}");
    }
    assert_eq!(world.staged(), 0);
}

#[test]
fn a_get_over_a_line_that_breaks_goes_on_at_the_byte_where_it_was() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    world.run(server.address, &["put", "big"], 0);
    for (digest, cut) in [("sha256", 3), ("sha256", 90), ("blake3", 60)] {
        let line = Line::cut_after(server.address, 0, cut * MIB as u64 + 12_345);
        let args = ["get", "big", "-o", "back", "--json", "--digest", digest];
        let output = world.ftx(line.address, args).output().unwrap();
        assert_cheap(&output);
        assert!(line.was_cut());
        assert!(std::fs::read(world.here().join("back")).unwrap() == bytes, "{digest} {cut}");
        // Also to a pipe, where nothing can be written twice.
        let line = Line::cut_after(server.address, 0, cut * MIB as u64);
        let output = world
            .ftx(line.address, ["get", "big", "-o", "-", "--digest", digest])
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout == bytes, "{digest} {cut}");
    }
}

#[test]
fn a_put_goes_on_after_the_server_was_killed() {
    let world = World::new();
    let mut server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    let put = world.ftx(server.address, ["put", "big", "--json"]).spawn().unwrap();
    until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
    server.kill_and_restart(&world.served(), &[]);
    assert_cheap(&put.wait_with_output().unwrap());
    assert!(world.stored("big") == bytes);
    assert_eq!(world.staged(), 0);
}

#[test]
fn the_same_put_goes_on_after_the_client_was_killed() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    for digest in ["sha256", "blake3"] {
        let args = ["put", "big", "--json", "--digest", digest];
        let mut put = world.ftx(server.address, args).spawn().unwrap();
        until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
        put.kill().unwrap();
        put.wait().unwrap();
        let output = world.ftx(server.address, args).output().unwrap();
        assert_cheap(&output);
        assert!(text(&output.stdout).contains("\"at\":"));
        let moved = done_event(&output)["moved_bytes"].as_u64().unwrap();
        assert!(moved < FILE_BYTES as u64 * 3 / 4, "it did not go on: {moved}");
        assert!(world.stored("big") == bytes);
        std::fs::remove_file(world.served().join("big")).unwrap();
    }
    let state = world.home.path().join("state/ftx");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "no state stays");
}

#[test]
fn a_put_that_is_begun_anew_with_another_durability_leaves_nothing_of_the_old_one() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    let mut put =
        world.ftx(server.address, ["put", "big", "--durability", "none"]).spawn().unwrap();
    until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
    put.kill().unwrap();
    put.wait().unwrap();
    let output = world.run(server.address, &["put", "big"], 0);
    assert!(text(&output.stderr).contains("(transfer_mismatch)"), "{}", text(&output.stderr));
    assert!(world.stored("big") == bytes);
    assert_eq!(world.staged(), 0);
}

#[test]
fn the_same_get_goes_on_after_either_side_was_killed() {
    let world = World::new();
    let mut server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    world.run(server.address, &["put", "big"], 0);
    let args = ["get", "big", "-o", "back", "--json", "--digest", "blake3"];
    std::fs::write(world.here().join("back"), "old").unwrap();

    let mut get = world.ftx(server.address, args).spawn().unwrap();
    until("a third is here", || world.part_bytes() > FILE_BYTES as u64 / 3);
    get.kill().unwrap();
    get.wait().unwrap();
    assert_eq!(std::fs::read(world.here().join("back")).unwrap(), b"old");

    let get = world.ftx(server.address, args).spawn().unwrap();
    until("two thirds are here", || world.part_bytes() > FILE_BYTES as u64 * 2 / 3);
    server.kill_and_restart(&world.served(), &[]);
    let output = get.wait_with_output().unwrap();
    assert_cheap(&output);
    let moved = done_event(&output)["moved_bytes"].as_u64().unwrap();
    // Of the third that was here what waited to be hashed, up to 24 MiB, comes again.
    assert!(moved <= FILE_BYTES as u64 * 11 / 12, "it did not go on: {moved}");
    assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
    assert_eq!(world.part_bytes(), 0);
}

#[test]
fn a_pipe_goes_on_too_from_the_bytes_that_are_kept_in_memory() {
    let world = World::new();
    let server = world.serve();
    let bytes = crate::harness::noise(FILE_BYTES, 9);
    let line = Line::cut_after(server.address, 70 * MIB as u64, 0);
    let mut put = world
        .ftx(line.address, ["put", "-", "--as", "piped", "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = put.wait_with_output().unwrap();
    assert_cheap(&output);
    assert!(line.was_cut());
    assert!(world.stored("piped") == bytes);
}

#[test]
fn a_pipe_that_is_interrupted_leaves_nothing_that_nobody_can_go_on_with() {
    let world = World::new();
    let server = world.serve();
    let mut put = world.ftx(server.address, ["put", "-", "--as", "a"]);
    let mut put = put.stdin(Stdio::piped()).spawn().unwrap();
    // It stays open: more may come.
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&noise(20 * MIB, 1)).unwrap();
    until("some of it is stored", || world.staged_bytes() > 9 * MIB as u64);
    let id = put.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    until("nothing is staged", || world.staged() == 0);
}

/// How many puts were stored, and how many told again, by the log.
fn logged(server: &Server) -> [usize; 2] {
    let log = server.log();
    [" stored ", " told again "].map(|said| log.matches(said).count())
}

#[test]
fn a_lost_acknowledgement_is_given_again() {
    let world = World::new();
    let server = world.serve();
    world.noise("small", 1_000);
    // The welcome has about 200 bytes; the line breaks inside the acknowledgement behind it.
    let line = Line::cut_after(server.address, 0, 260);
    let output = world.ftx(line.address, ["put", "small", "--json"]).output().unwrap();
    assert_cheap(&output);
    assert!(line.was_cut());
    until("both are in the log", || logged(&server) == [1, 1]);
    assert_eq!(done_event(&output)["moved_bytes"], 1_000, "nothing was sent twice");
}

#[test]
fn a_lost_acknowledgement_is_given_again_by_a_server_that_was_killed() {
    let world = World::new();
    let mut server = world.serve();
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let transfer = "00112233445566778899aabbccddeeff";
    let mut peer = Talk::with(server.address);
    peer.send(
        format!(
            "{{\"put\":{{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"size\":5,\"transfer\":\"{transfer}\"}}}}\n\
             {{\"data\":{{\"id\":1,\"at\":0,\"size\":5}}}}\nhello\
             {{\"end\":{{\"id\":1,\"size\":5,\"digest\":\"{digest}\"}}}}\n"
        )
        .as_bytes(),
    );
    until("it has its name", || world.served().join("a").exists());
    server.kill_and_restart(&world.served(), &[]);
    let replay = |replayed: &str| {
        let mut peer = Talk::with(server.address);
        peer.send(format!("{{\"resume\":{{\"id\":1,\"transfer\":\"{transfer}\"}}}}\n").as_bytes());
        let held = peer.line();
        assert_eq!(held["held"]["state"], "complete", "{held}");
        peer.send(
            format!(
                "{{\"put\":{{\"id\":2,\"name\":\"a\",\"digest\":\"sha256\",\"size\":5,\"at\":5,\"transfer\":\"{transfer}\"}}}}\n\
                 {{\"end\":{{\"id\":2,\"size\":5,\"digest\":\"{digest}\"}}}}\n"
            )
            .as_bytes(),
        );
        let done = peer.line();
        assert_eq!(done["done"]["replayed"], replayed, "{done}");
        assert_eq!(done["done"]["digest"], digest);
    };
    replay("same");
    std::fs::write(world.served().join("a"), "other").unwrap();
    replay("changed");
}

/// It is there when the command says so, not when an earlier one did.
#[test]
fn what_was_put_by_an_earlier_run_and_removed_since_is_put_again() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", 9 * MIB);
    // Behind the welcome and one `kept`, inside the acknowledgement.
    let line = Line::cut_after(server.address, 0, 320);
    world.run(line.address, &["put", "big", "--retry-for", "0"], 3);
    until("it is stored all the same", || world.served().join("big").exists());
    assert!(line.was_cut());
    std::fs::remove_file(world.served().join("big")).unwrap();
    let output = world.run(line.address, &["put", "big"], 0);
    assert!(text(&output.stderr).contains("putting it again"), "{}", text(&output.stderr));
    assert!(world.stored("big") == bytes);
    until("all three are in the log", || logged(&server) == [2, 1]);
    // What is there, and was only touched, is there.
    let line = Line::cut_after(server.address, 0, 320);
    world.run(line.address, &["put", "big", "--as", "touched", "--retry-for", "0"], 3);
    until("it is stored all the same", || world.served().join("touched").exists());
    let touched = world.served().join("touched");
    std::fs::set_permissions(touched, std::fs::Permissions::from_mode(0o600)).unwrap();
    let again = ["put", "big", "--as", "touched", "--no-clobber"];
    let output = world.run(line.address, &again, 0);
    assert!(!text(&output.stderr).contains("again"), "{}", text(&output.stderr));
}

#[test]
fn a_new_connection_takes_a_transfer_over_at_once() {
    let world = World::new();
    let server = world.serve();
    let transfer = "ffeeddccbbaa99887766554433221100";
    let mut old = Talk::with(server.address);
    old.send(
        format!("{{\"put\":{{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"size\":20000000,\"transfer\":\"{transfer}\"}}}}\n")
            .as_bytes(),
    );
    for part in 0..9 {
        old.part(1, part * MIB, &vec![7; MIB]);
    }
    let kept = old.line();
    assert_eq!(kept["kept"]["at"], 8 * MIB, "{kept}");
    // The old one neither closes nor says anything: its line is dead, and nobody knows.
    let mut new = Talk::with(server.address);
    new.send(format!("{{\"resume\":{{\"id\":1,\"transfer\":\"{transfer}\"}}}}\n").as_bytes());
    let held = new.line();
    assert_eq!(held["held"]["ranges"], serde_json::json!([[0, 8 * MIB]]), "{held}");
    assert_eq!(old.error().as_deref(), Some("taken_over"));
}

/// The disk is slower than the line, and the body stops: what came while it was waited for is promised all the same.
#[test]
fn what_comes_before_a_pause_is_promised_in_it() {
    let world = World::new();
    let server = world.serve();
    let mut talk = Talk::with(server.address);
    // Where that cannot be had, a disk that is slow by itself does as well.
    let _slow = Injection::into(&server, "fsync,fdatasync", None, "delay_enter=300000");
    talk.send(b"{\"put\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"size\":40000000,\"transfer\":\"ffeeddccbbaa99887766554433221100\"}}\n");
    for part in 0..33 {
        talk.part(1, part * MIB, &vec![7; MIB]);
    }
    let mut kept = 0;
    while kept < 32 * MIB as u64 {
        let line = talk.line();
        let at = line["kept"]["at"].as_u64().unwrap_or_else(|| panic!("{line}"));
        assert!(at > kept, "{at} after {kept}");
        kept = at;
    }
    assert_eq!(kept, 32 * MIB as u64);
}

#[test]
fn a_server_that_is_asked_to_stop_leaves_what_can_be_resumed() {
    let world = World::new();
    let options = ["--drain-timeout", "200ms"];
    let mut server = world.serve_with(&options);
    let bytes = world.noise("big", FILE_BYTES);
    // A source that stops in the middle keeps the transfer open.
    let mut put = world
        .ftx(server.address, ["put", "-", "--as", "big", "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&bytes[..FILE_BYTES / 2]).unwrap();
    until("it is stored", || world.staged_bytes() > 40 * MIB as u64);
    let id = server.child.id().to_string();
    assert!(std::process::Command::new("kill").arg(&id).status().unwrap().success());
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
    server.kill_and_restart(&world.served(), &[]);
    stdin.write_all(&bytes[FILE_BYTES / 2..]).unwrap();
    drop(stdin);
    assert_cheap(&put.wait_with_output().unwrap());
    assert!(world.stored("big") == bytes);
}

#[test]
fn a_source_that_changed_in_between_is_put_from_the_start() {
    let world = World::new();
    let server = world.serve();
    world.noise("big", FILE_BYTES);
    let mut put = world.ftx(server.address, ["put", "big"]).spawn().unwrap();
    until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
    put.kill().unwrap();
    put.wait().unwrap();
    let other = crate::harness::noise(FILE_BYTES, 77);
    std::fs::write(world.here().join("big"), &other).unwrap();
    world.run(server.address, &["put", "big"], 0);
    assert!(world.stored("big") == other);
    until("what nobody goes on with is gone", || world.staged() == 0);
}

#[test]
fn a_put_that_is_refused_at_once_goes_on_once_it_is_let() {
    let world = World::new();
    let mut server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    let mut put = world.ftx(server.address, ["put", "big"]).spawn().unwrap();
    until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
    put.kill().unwrap();
    put.wait().unwrap();
    server.kill_and_restart(&world.served(), &["--max-size", "1M"]);
    for _ in 0..2 {
        let refused = world.run(server.address, &["put", "big"], 4);
        let said = text(&refused.stderr);
        assert!(said.contains("goes on with what the server still has"), "{said}");
    }
    server.kill_and_restart(&world.served(), &[]);
    let output = world.run(server.address, &["put", "big", "--json"], 0);
    assert_cheap(&output);
    let moved = done_event(&output)["moved_bytes"].as_u64().unwrap();
    assert!(moved < FILE_BYTES as u64 * 3 / 4, "it did not go on: {moved}");
    assert!(world.stored("big") == bytes);
}

#[test]
fn a_source_that_changes_while_it_is_read_is_an_error_and_the_old_file_stays() {
    let world = World::new();
    let server = world.serve();
    let old = world.noise("big", 1_000);
    world.run(server.address, &["put", "big"], 0);
    world.noise("big", FILE_BYTES);
    let put = world.ftx(server.address, ["put", "big"]).spawn().unwrap();
    until("it has begun", || world.staged_bytes() > 0);
    let source = std::fs::File::options().append(true).open(world.here().join("big")).unwrap();
    (&source).write_all(b"more").unwrap();
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("changed while it was read"));
    assert!(world.stored("big") == old);
    until("staging is empty", || world.staged() == 0);
}

#[test]
fn a_source_whose_time_is_set_back_after_a_change_is_found_out() {
    let world = World::new();
    let server = world.serve();
    world.noise("big", FILE_BYTES);
    let path = world.here().join("big");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let put = world.ftx(server.address, ["put", "big"]).spawn().unwrap();
    until("it has begun", || world.staged_bytes() > 0);
    let source = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&source, b"other", 0).unwrap();
    source.set_modified(time).unwrap();
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(!world.served().join("big").exists());
}

#[test]
fn a_small_get_that_fails_leaves_nothing_behind() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000_000);
    world.run(server.address, &["put", "a"], 0);
    let line = Line::cut_after(server.address, 0, 500_000);
    let output =
        world.ftx(line.address, ["get", "a", "-o", "b", "--retry-for", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(world.home.path().join("state/ftx")).unwrap().count(), 0);
}

#[test]
fn a_get_whose_part_file_was_taken_away_is_not_listed_as_one_to_go_on_with() {
    let world = World::new();
    let server = world.serve();
    world.noise("big", 10 * MIB);
    world.run(server.address, &["put", "big"], 0);
    let begun = || {
        let args = ["get", "big", "-o", "back", "--limit-rate", "6M"];
        let get = world.ftx(server.address, args).spawn().unwrap();
        until("it is noted that it has begun", || {
            let notes = std::fs::read_dir(world.home.path().join("state/ftx"));
            let mut names = notes.into_iter().flatten().flatten().map(|note| note.file_name());
            world.part_bytes() > 0
                && names.any(|name| text(name.as_encoded_bytes()).ends_with(".about"))
        });
        get
    };
    let take_away = || {
        let entries = std::fs::read_dir(world.here()).unwrap().flatten();
        let is_part = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "part");
        let part = entries.map(|entry| entry.path()).find(is_part).unwrap();
        std::fs::remove_file(part).unwrap();
    };
    let nothing_is_left = || {
        let state = world.home.path().join("state/ftx");
        assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 1);
    };
    // Its last step, to its name, fails.
    let get = begun();
    take_away();
    let output = get.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    nothing_is_left();
    // Or it was killed before.
    let mut get = begun();
    get.kill().unwrap();
    get.wait().unwrap();
    let listed = |expected| {
        let left = text(&world.run(server.address, &["partials"], 0).stdout);
        assert_eq!(left.lines().count(), expected, "{left}");
    };
    listed(1);
    let full = std::fs::File::options().write(true).open("/dev/full");
    match full {
        Ok(full) => {
            let status = world.ftx(server.address, ["partials"]).stdout(full).status().unwrap();
            assert_eq!(status.code(), Some(6), "the list could not be printed");
        }
        Err(error) => not_tested(&format!("there is no disk that is always full: {error}")),
    }
    take_away();
    listed(0);
    nothing_is_left();
}

/// Two users, or containers, of which neither sees the other's states.
#[test]
fn two_who_get_the_same_to_the_same_place_hinder_each_other_in_nothing() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", 10 * MIB);
    world.run(server.address, &["put", "big"], 0);
    let get = |user: &str, further: &[&str]| {
        let mut get = world.ftx(server.address, [&["get", "big", "-o", "back"], further].concat());
        get.env("XDG_STATE_HOME", world.home.path().join(user)).spawn().unwrap()
    };
    let begun = |user: &str| {
        let get = get(user, &["--limit-rate", "6M"]);
        until("some is here", || world.part_bytes() > 0);
        get
    };
    let parts = || {
        let names = std::fs::read_dir(world.here()).unwrap().flatten();
        let parts = names.filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
        parts.filter_map(|part| part.metadata().ok()?.modified().ok())
    };
    let both_end_well = |slow: std::process::Child, fast: std::process::Child| {
        for get in [fast, slow] {
            let output = get.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
        }
        assert_eq!(parts().count(), 0);
    };
    let slow = begun("one");
    both_end_well(slow, get("other", &[]));
    // What one has left, the other fills by now.
    let mut killed = begun("one");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = parts().next();
    let slow = get("other", &["--limit-rate", "6M"]);
    until("the other one fills it", || parts().next().is_some_and(|part| Some(part) != left));
    both_end_well(slow, get("one", &[]));
}

#[test]
fn a_file_that_changes_while_it_is_fetched_never_arrives_mixed() {
    let world = World::new();
    let server = world.serve();
    world.noise("big", FILE_BYTES);
    world.run(server.address, &["put", "big"], 0);
    std::fs::write(world.here().join("back"), "old").unwrap();
    let mut get = world.ftx(server.address, ["get", "big", "-o", "-"]).spawn().unwrap();
    let mut stdout = get.stdout.take().unwrap();
    let mut first = vec![0; MIB];
    stdout.read_exact(&mut first).unwrap();
    std::fs::File::options()
        .write(true)
        .open(world.served().join("big"))
        .unwrap()
        .set_len(10)
        .unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let output = get.wait_with_output().unwrap();
    assert!([4, 5].contains(&output.status.code().unwrap()), "{}", text(&output.stderr));
}

/// Only the time of change tells, and a chmod sets that too: the server reads the file once more.
#[test]
fn a_file_that_is_touched_while_it_is_fetched_arrives_and_one_that_is_patched_does_not() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    let path = world.served().join("big");
    let fetch = |touch: &dyn Fn(&std::fs::File)| {
        // Not put: its digest is not known.
        std::fs::copy(world.here().join("big"), &path).unwrap();
        let mut get = world.ftx(server.address, ["get", "big", "-o", "-"]).spawn().unwrap();
        let mut stdout = get.stdout.take().unwrap();
        let mut received = vec![0; MIB];
        stdout.read_exact(&mut received).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        touch(&file);
        file.set_modified(modified).unwrap();
        stdout.read_to_end(&mut received).unwrap();
        (get.wait_with_output().unwrap(), received)
    };
    let (output, received) = fetch(&|file| {
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    });
    assert!(output.status.success() && received == bytes, "{}", text(&output.stderr));
    // Some of it has been sent, and some has not.
    let (output, received) = fetch(&|file| {
        for at in [0, FILE_BYTES as u64 - 1] {
            file.write_all_at(b"x", at).unwrap();
        }
    });
    assert!(received != bytes && received != std::fs::read(&path).unwrap(), "it is mixed");
    assert!([4, 5].contains(&output.status.code().unwrap()), "{}", text(&output.stderr));
}

#[test]
fn two_processes_that_put_one_file_do_not_disturb_each_other() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", 40 * MIB);
    let puts: Vec<_> =
        (0..3).map(|_| world.ftx(server.address, ["put", "big"]).spawn().unwrap()).collect();
    for put in puts {
        let output = put.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(world.stored("big") == bytes);
    assert_eq!(world.staged(), 0);
}

#[test]
fn nobody_waits_for_a_server_that_is_not_to_be_waited_for() {
    let world = World::new();
    let mut server = world.serve();
    world.noise("big", FILE_BYTES);
    let put = world.ftx(server.address, ["put", "big", "--retry-for", "0"]).spawn().unwrap();
    until("half is there", || world.staged_bytes() > FILE_BYTES as u64 / 2);
    server.kill();
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let server = Server::start(&world.served(), "127.0.0.1:0", &[]);
    drop(server);
}

/// The way to a server that is away for a while behind its first connection.
fn away_for_a_while(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        drop(listener);
        for thread in relay_both(near, server) {
            thread.join().unwrap();
        }
        // The next try comes at once, and finds nobody.
        std::thread::sleep(Duration::from_millis(700));
        for near in TcpListener::bind(address).unwrap().incoming().flatten() {
            relay_both(near, server);
        }
    });
    address
}

/// The next one is not waited for as long again.
#[test]
fn a_server_that_is_gone_is_waited_for_once_however_many_files_there_are() {
    let world = World::new();
    let server = world.serve();
    (0..6).for_each(|number| drop(world.noise(&number.to_string(), 100)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let at = server.address;
    std::thread::spawn(move || drop(relay_both(listener.accept().unwrap().0, at)));
    let args = ["put", "0", "1", "2", "3", "4", "5", "--json", "--retry-for", "1s"];
    let output = world.run(address, &args, 3);
    let (mut paused, mut failed) = (0, 0);
    for line in text(&output.stdout).lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        paused += event["pause_ms"].as_u64().unwrap_or(0);
        failed += u64::from(event["event"] == "failed");
    }
    assert!(failed == 5 && paused <= 1_000, "{failed} failed, {paused} ms");
}

#[test]
fn a_server_that_is_away_between_two_files_of_a_command_is_waited_for() {
    let world = World::new();
    let server = world.serve();
    for name in ["a", "b"] {
        world.noise(name, 8 * MIB);
    }
    for args in
        [&["put", "a", "b", "--to", "tree"][..], &["put", "a", "b"], &["get", "tree/a", "tree/b"]]
    {
        let output = world.run(away_for_a_while(server.address), args, 0);
        assert_eq!(text(&output.stdout).lines().count(), 2, "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains("cannot reach a server"), "{args:?}: {said}");
    }
    // A shell has greeted by then, on the connection that the first of them takes.
    let mut shell = world.ftx(away_for_a_while(server.address), ["shell"]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"put a\nput b\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
