//! The everyday commands, as they are typed, and what they print.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Server, World, text};
use crate::shell::shell;

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// `docs/a.txt`, `docs/sub/b`, `docs/new\nline`, a symlink and an empty directory; times are fixed.
fn world() -> (World, Server) {
    let world = World::new();
    let docs = world.served().join("docs");
    fs::create_dir_all(docs.join("sub")).unwrap();
    fs::create_dir(docs.join("void")).unwrap();
    fs::write(docs.join("a.txt"), "hello").unwrap();
    fs::write(docs.join("sub/b"), vec![b'b'; 2048]).unwrap();
    symlink("a.txt", docs.join("link")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for path in ["a.txt", "sub/b", "sub", "void"] {
        let file = fs::File::open(docs.join(path)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    }
    let server = world.serve();
    (world, server)
}

fn sorted(output: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = text(output).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn ls_and_du_show_what_is_there() {
    let (world, server) = world();
    let ls = |args: &[&str]| sorted(&world.run(server.address, args, 0).stdout);
    assert_eq!(ls(&["ls"]), ["docs/"]);
    assert_eq!(ls(&["ls", "docs"]), ["a.txt", "link", "sub/", "void/"]);
    assert_eq!(ls(&["ls", "-r", "docs/"]), ["a.txt", "link", "sub/", "sub/b", "void/"]);
    assert_eq!(ls(&["ls", "docs/a.txt"]), ["docs/a.txt"]);
    let long = ls(&["ls", "-l", "docs"]);
    assert_eq!(
        long.iter().find(|line| line.ends_with("a.txt")).unwrap(),
        "-rw-r--r--          5 B 2023-11-14T22:13:20Z  a.txt"
    );
    let long = ls(&["ls", "-lb", "docs/sub"]);
    assert_eq!(long, ["-rw-r--r--         2048 2023-11-14T22:13:20Z  b"]);
    let json: serde_json::Value =
        serde_json::from_str(&ls(&["ls", "--json", "docs/sub"])[0]).unwrap();
    assert_eq!((&json["name"], &json["size"]), (&"docs/sub/b".into(), &2048.into()));
    assert_eq!(ls(&["du", "-b", "docs"]), ["2053  2 files  2 directories  docs"]);
    world.run(server.address, &["ls", "nothing"], 4);
    world.run(server.address, &["ls", "nothing", "docs"], 7);
    world.run(server.address, &["ls", ".ftx"], 4);
}

#[test]
fn a_directory_may_be_written_as_a_shell_completes_it_and_the_top_as_its_server() {
    let (world, server) = world();
    let there = |args: &[&str]| text(&world.run(server.address, args, 0).stdout);
    assert_eq!(there(&["stat", "docs/"]), there(&["stat", "docs"]));
    assert!(text(&world.run(server.address, &["sum", "docs/"], 4).stderr).contains("a directory"));
    let said = world.run(server.address, &["get", "docs/"], 4);
    assert!(text(&said.stderr).contains("say -r"));
    // A local one, however it is to be put.
    std::fs::create_dir(world.here().join("here")).unwrap();
    for put in [&["put", "here"][..], &["put", "-u", "here/"]] {
        let said = world.run(server.address, put, 6);
        assert!(text(&said.stderr).contains("it is a directory; to put it"), "{put:?}");
    }
    let said = world.run(server.address, &["cat", "docs/"], 4);
    assert!(text(&said.stderr).contains("ftx get -r"), "cat has no -r");
    let top = format!("ftx://{}", server.address);
    for word in [&top, &format!("{top}/")] {
        assert_eq!(there(&["ls", word]), "docs/\n");
        assert_eq!(there(&["du", word]), there(&["du"]));
        let said = world.run(server.address, &["stat", word], 2);
        assert!(text(&said.stderr).contains("no name on it"), "{}", text(&said.stderr));
    }
}

#[test]
fn a_directory_among_the_files_of_a_job_fails_alone() {
    let (world, server) = world();
    fs::create_dir(world.here().join("here")).unwrap();
    fs::write(world.here().join("beside"), "x").unwrap();
    let said = world.run(server.address, &["put", "-u", "--json", "here", "beside"], 7);
    let events = text(&said.stdout);
    let events = events.lines().map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<_> = events
        .map(|event: serde_json::Value| (event["event"].clone(), event["name"].clone()))
        .collect();
    let wanted = [
        ("failed", "here".into()),
        ("done", "beside".into()),
        ("summary", serde_json::Value::Null),
    ];
    assert_eq!(events, wanted.map(|(event, name)| (event.into(), name)));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (world, server) = world();
    for number in 0..5_000 {
        fs::write(world.served().join(format!("file-with-a-long-name-{number}")), "").unwrap();
    }
    let mut client =
        world.ftx(server.address, ["ls", "-l"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(client.stdout.take());
    let output = client.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

/// Linux has a device that is always full.
#[cfg(target_os = "linux")]
fn full_disk() -> fs::File {
    fs::File::options().write(true).open("/dev/full").unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_said_once_and_shows_in_the_exit_code() {
    let (world, server) = world();
    let state = world.home.path().join("tokens");
    let state = state.to_str().unwrap();
    world.run(server.address, &["token", "add", "a", "--can", "read", "--state", state], 0);
    fs::create_dir(world.here().join("tree")).unwrap();
    for name in ["file", "tree/a", "tree/b"] {
        fs::write(world.here().join(name), name).unwrap();
    }
    let sums = world.run(server.address, &["sum", "docs/a.txt", "docs/sub/b"], 0).stdout;
    fs::write(world.here().join("SUMS"), &sums).unwrap();
    fs::write(world.here().join("CHANGED"), text(&sums).replace("a.txt", "sub/b")).unwrap();
    let print_into_a_full_disk = |args: &[&str], code: i32| {
        let output = world.ftx(server.address, args).stdout(full_disk()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!(said.matches("No space left on device").count(), 1, "{args:?}: {said}");
    };
    for args in [
        &["put", "file"][..],
        &["put", "file", "--json"],
        &["put", "-r", "tree"],
        &["put", "-r", "-n", "tree"],
        &["put", "-r", "tree", "--json"],
        &["get", "docs/a.txt"],
        &["get", "-r", "docs"],
        &["get", "docs/a.txt", "-o", "-"],
        &["cat", "docs/a.txt"],
        &["ls", "docs"],
        &["ls", "-lr"],
        &["ls", "docs", "docs/a.txt", "docs/sub", "--json"],
        &["du", "docs", "docs/sub"],
        &["stat", "docs", "docs/sub"],
        &["stat", "docs", "gone", "--json"],
        &["sum", "docs/a.txt", "docs/sub/b"],
        &["verify", "SUMS"],
        &["verify", "SUMS", "--json"],
        &["ping"],
        &["token", "ls", "--state", state],
        &["token", "add", "b", "--can", "read", "--state", state],
        &["completions", "bash"],
        &["help"],
        &["put", "--help"],
        &["--version"],
    ] {
        print_into_a_full_disk(args, 6);
    }
    // What is wrong with the files is the more important thing.
    print_into_a_full_disk(&["verify", "CHANGED"], 5);
    print_into_a_full_disk(&["serve", "elsewhere", "--listen", "127.0.0.1:0"], 1);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_shell_cannot_print_shows_in_its_exit_code() {
    let (world, server) = world();
    for line in ["pwd", "lpwd", "help", "ls --help", "ls"] {
        let mut shell = world
            .ftx(server.address, ["shell"])
            .stdin(Stdio::piped())
            .stdout(full_disk())
            .spawn()
            .unwrap();
        writeln!(shell.stdin.take().unwrap(), "{line}").unwrap();
        let output = shell.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{line}: {}", text(&output.stderr));
    }
}

#[test]
fn names_are_made_moved_and_removed() {
    let (world, server) = world();
    let served = world.served();
    let fails = |args: &[&str], code: i32, words: &str| {
        let said = text(&world.run(server.address, args, code).stderr);
        assert!(said.contains(words), "{args:?}: {said}");
    };
    let does = |args: &[&str]| {
        let output = world.run(server.address, args, 0);
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}: {output:?}");
    };
    fails(&["mkdir", "new/deep"], 4, "(not_found)");
    fails(&["mkdir", "docs"], 4, "(exists)");
    fails(&["mkdir", "-p", "docs/a.txt/x"], 4, "(not_a_directory)");
    fails(&["mkdir", ".ftx/x"], 4, "(reserved_name)");
    does(&["mkdir", "-p", "new/deep", "docs"]);
    does(&["mv", "docs/a.txt", "new/"]);
    assert_eq!(fs::read(served.join("new/a.txt")).unwrap(), b"hello");
    fails(&["mv", "new/a.txt", "docs/sub/b"], 4, "to replace it, say -f");
    fails(&["mv", "-f", "new/a.txt", "docs/sub/b/"], 4, "docs/sub/b is no directory");
    fails(&["mv", "-f", "new/a.txt", "nothing/"], 4, "(not_found)");
    assert_eq!(fs::read(served.join("docs/sub/b")).unwrap(), vec![b'b'; 2048]);
    does(&["mv", "-f", "new/a.txt", "docs/sub/b"]);
    assert_eq!(fs::read(served.join("docs/sub/b")).unwrap(), b"hello");
    fails(&["mv", "docs", "docs/sub/inside"], 4, "into itself");
    fails(&["mv", "docs", ".ftx/docs"], 4, "(reserved_name)");
    does(&["mv", "docs/link", "new/link"]);
    assert!(served.join("new/link").is_symlink(), "the link itself was moved");
    fails(&["rm", "docs"], 4, "say -r");
    fails(&["rm", "nothing", "docs/void"], 7, "(not_found)");
    does(&["rm", "-r", "docs"]);
    does(&["rm", "new/link"]);
    assert!(!served.join("docs").exists());
    let outside = world.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("stays"), "").unwrap();
    symlink(&outside, served.join("new/out")).unwrap();
    does(&["rm", "-r", "new"]);
    assert!(outside.join("stays").exists(), "no link is followed");
    fails(&["rm", "-r", ".ftx"], 4, "(reserved_name)");
    crate::harness::until("the room is given back", || {
        fs::read_dir(served.join(".ftx/trash")).unwrap().count() == 0
    });
}

#[test]
fn a_server_without_durability_makes_the_changes_that_ask_for_none() {
    let world = World::new();
    let server = world.serve_with(&["--durability", "none"]);
    for (number, args) in
        [&["mkdir", "-p", "a/b"][..], &["mv", "a/b", "c"], &["rm", "-r", "a", "c"]]
            .iter()
            .enumerate()
    {
        let refused = world.run(server.address, args, 4);
        assert!(text(&refused.stderr).contains("durability_unavailable"), "{args:?}");
        let asks_for_less = [args, &["--durability", "none"][..]].concat();
        world.run(server.address, &asks_for_less, 0);
        assert_eq!(world.served().join("c").exists(), number == 1, "{args:?}");
    }
    let lines = "mkdir a --durability none\nmv a b --durability none\nrm b --durability none\nls\n";
    let said = shell(&world, &server, lines);
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(0), String::new()));
}

#[test]
fn what_was_removed_while_the_server_died_goes_at_its_next_start() {
    let (world, mut server) = world();
    server.kill();
    fs::create_dir_all(world.served().join(".ftx/trash/00000001-00000000/a/b")).unwrap();
    fs::write(world.served().join(".ftx/trash/00000001-00000000/a/file"), "x").unwrap();
    symlink("../docs", world.served().join(".ftx/trash/00000001-00000000/out")).unwrap();
    symlink(".ftx/trash/00000001-00000000", world.served().join("in")).unwrap();
    let _server = world.serve();
    crate::harness::until("the trash is empty", || {
        fs::read_dir(world.served().join(".ftx/trash")).unwrap().count() == 0
    });
    assert!(world.served().join("docs/a.txt").exists());
}

#[test]
fn sums_are_of_the_bytes_and_verify_tells_what_became_of_them() {
    let (world, server) = world();
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let sum = world.run(server.address, &["sum", "docs/a.txt", "docs/sub/b"], 0).stdout;
    assert!(text(&sum).contains(&format!("{hello}  docs/a.txt\n")), "{}", text(&sum));
    fs::write(world.here().join("SUMS"), &sum).unwrap();
    let quiet = world.run(server.address, &["verify", "-q", "SUMS"], 0);
    assert!(
        quiet.stdout.is_empty() && quiet.stderr.is_empty(),
        "no mail of cron says that all is well"
    );
    fs::write(world.here().join("SUMS"), [&sum[..], b"no checksum line\n"].concat()).unwrap();
    fs::write(world.served().join("docs/sub/b"), vec![b'c'; 2048]).unwrap();
    let verified = world.run(server.address, &["verify", "SUMS"], 5);
    assert_eq!(sorted(&verified.stdout), ["docs/a.txt: ok", "docs/sub/b: changed"]);
    let said = text(&verified.stderr);
    let (line, summary) = said.split_once('\n').unwrap();
    assert!(line.starts_with("ftx: line 3 of SUMS is no checksum line: it is neither"), "{said}");
    assert_eq!(summary, "ftx: 1 ok, 1 changed, 0 missing; 1 line is no checksum line\n");
    fs::remove_file(world.served().join("docs/a.txt")).unwrap();
    let verified = world.run(server.address, &["verify", "-q", "SUMS"], 5);
    assert_eq!(sorted(&verified.stdout), ["docs/a.txt: missing", "docs/sub/b: changed"]);
    assert!(text(&verified.stderr).contains("0 ok, 1 changed, 1 missing"));
    world.run(server.address, &["verify", "nothing"], 6);
    world.run(server.address, &["sum", "docs"], 4);
    let sum = world.run(server.address, &["sum", "--digest", "blake3", "docs/sub/b"], 0).stdout;
    assert!(text(&sum).starts_with("BLAKE3 (docs/sub/b) = "), "{}", text(&sum));
}

#[test]
fn a_list_of_paths_is_read_as_tools_write_it_and_what_is_none_of_it_is_told() {
    let (world, server) = world();
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let list = format!("# CRLF\r\n\r\n{hello}  ./docs/a.txt\r\nSHA256 (docs/a.txt) = {hello}\r\n");
    fs::write(world.here().join("SUMS"), &list).unwrap();
    let verified = world.run(server.address, &["verify", "SUMS"], 0);
    assert_eq!(text(&verified.stdout), "docs/a.txt: ok\n".repeat(2));
    let wrong = format!("{list}{hello}  ../docs\n");
    fs::write(world.here().join("SUMS"), &wrong).unwrap();
    let said = text(&world.run(server.address, &["verify", "SUMS"], 2).stderr);
    assert!(said.contains("line 5 of SUMS is no checksum line: ../docs leads up"), "{said}");
    fs::write(world.here().join("SUMS"), "no list\n".repeat(1_000)).unwrap();
    let said = text(&world.run(server.address, &["verify", "SUMS"], 2).stderr);
    assert!(said.contains("1000 lines are no checksum lines"), "{said}");
    assert!(said.lines().count() < 20, "most of them are counted");
}

#[test]
fn the_backup_of_the_readme_is_verified_on_a_day_on_which_nothing_changed_too() {
    let world = World::new();
    let server = world.serve();
    let photos = world.here().join("photos");
    fs::create_dir_all(photos.join("2026")).unwrap();
    for (name, text) in [("a b", "a"), ("2026/back\\slash", "b"), ("2026/left.tmp", "out")] {
        fs::write(photos.join(name), text).unwrap();
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let recipe = readme.split("**Back up a folder.**").nth(1).unwrap();
    let recipe = recipe.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let mut path = std::ffi::OsString::from(Path::new(env!("CARGO_BIN_EXE_ftx")).parent().unwrap());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    // Never the home of whoever runs the tests.
    let ftx = world.ftx(server.address, [""; 0]);
    let follow = || {
        let mut shell = Command::new("sh");
        for (name, value) in ftx.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell.env("HOME", world.here()).env("PATH", &path).current_dir(world.here());
        shell.args(["-ec", recipe]).output().unwrap()
    };
    for day in ["the first", "a quiet"] {
        let verified = follow();
        let said = text(&verified.stderr);
        assert_eq!(verified.status.code(), Some(0), "{day} day: {said}");
        assert!(said.contains("2 ok, 0 changed, 0 missing"), "{day} day: {said}");
    }
    // Of the same size and time, as a bad disk leaves it.
    let stored = world.served().join("photos/a b");
    let time = fs::metadata(&stored).unwrap().modified().unwrap();
    fs::write(&stored, "x").unwrap();
    fs::File::options().write(true).open(&stored).unwrap().set_modified(time).unwrap();
    let verified = follow();
    assert_eq!(verified.status.code(), Some(5), "{}", text(&verified.stderr));
}

#[test]
fn cat_prints_files_one_after_another() {
    let (world, server) = world();
    let cat = world.run(server.address, &["cat", "docs/a.txt", "docs/link"], 0);
    assert_eq!(text(&cat.stdout), "hellohello");
    world.run(server.address, &["cat", "docs"], 4);
    let said = text(&world.run(server.address, &["cat", "nothing"], 4).stderr);
    assert!(said.starts_with("ftx: cat nothing: "), "{said}");
}

#[test]
fn the_manual_and_the_completions_know_every_command() {
    let (world, server) = world();
    world.run(server.address, &["man", "."], 0);
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&world.run(server.address, &["completions", shell], 0).stdout);
        for command in ["put", "get", "ls", "verify", "partials"] {
            assert!(script.contains(command), "{shell}");
            let page = world.here().join(format!("ftx-{command}.1"));
            assert!(fs::read_to_string(page).unwrap().contains(".TH"));
        }
    }
    world.run(server.address, &["man", "nowhere"], 6);
}

#[test]
fn the_digests_of_many_files_hold_none_of_them_open() {
    let (world, server) = world();
    for number in 0..300 {
        fs::write(world.served().join(format!("many-{number}")), "x").unwrap();
    }
    let mut talk = crate::talk::Talk::with(server.address);
    for id in 1..=300 {
        let name = format!("many-{}", id - 1);
        talk.say(serde_json::json!({"stat": {"id": id, "name": name, "digest": "sha256"}}));
        assert_eq!(talk.line()["info"]["id"], id);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
    assert!(open < 100, "{open} descriptors are open");
}

/// What is missing is no empty file: it would take the place of what has the name.
#[test]
fn a_standard_input_that_is_closed_replaces_nothing_and_an_empty_one_does() {
    let (world, server) = world();
    std::fs::write(world.served().join("backup"), "old").unwrap();
    let put = world.ftx(server.address, ["put", "-", "--as", "backup"]);
    let closed = |redirection: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]);
        shell.arg(put.get_program()).args(put.get_args());
        shell.envs(put.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.output().unwrap()
    };
    let output = closed("<&-");
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_eq!(world.stored("backup"), b"old");
    assert!(closed("< /dev/null").status.success());
    assert_eq!(world.stored("backup"), b"");
}

#[test]
fn what_one_connection_may_not_ask_any_more_is_asked_on_another_one() {
    const LIMIT: usize = 8_192;
    let world = World::new();
    let server = world.serve_with(&["--max-requests", &LIMIT.to_string()]);
    let sums = format!("{EMPTY_SHA256}  empty\n").repeat(LIMIT * 2 + 1);
    fs::write(world.here().join("SUMS"), sums).unwrap();
    fs::write(world.served().join("empty"), "").unwrap();
    let verified = world.run(server.address, &["verify", "SUMS"], 0);
    let ok = text(&verified.stdout).lines().filter(|line| *line == "empty: ok").count();
    assert_eq!(ok, LIMIT * 2 + 1, "{}", text(&verified.stderr));
    // A tree that is larger than that.
    fs::create_dir(world.here().join("tree")).unwrap();
    (0..=LIMIT).for_each(|n| fs::write(world.here().join(format!("tree/{n}")), "").unwrap());
    world.run(server.address, &["put", "-r", "tree", "--durability", "none", "-q"], 0);
    assert_eq!(fs::read_dir(world.served().join("tree")).unwrap().count(), LIMIT + 1);
}
