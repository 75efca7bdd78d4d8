//! `ftx token`: what it prints, what it leaves on the disk, and what it refuses.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{World, text};

/// Nobody listens there: none of this needs a server.
const NOWHERE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn token<S: AsRef<OsStr>>(world: &World, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = world.ftx(NOWHERE, ["token"]);
    command.args(args).env_remove("STATE_DIRECTORY");
    command
}

/// Runs it about the served directory, and expects this exit code.
fn run(world: &World, args: &[&str], code: i32) -> Output {
    let served = world.served();
    let words = [args, &["--of", served.to_str().unwrap()]].concat();
    let output = token(world, words).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    output
}

fn add(world: &World, args: &[&str]) -> String {
    let told = text(&run(world, &[&["add"], args].concat(), 0).stdout);
    told.strip_suffix('\n').unwrap().to_owned()
}

/// What `ls --json` says, a value a line.
fn listed(world: &World) -> Vec<Value> {
    let lines = text(&run(world, &["ls", "--json"], 0).stdout);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The state of the only directory that has one.
fn state(world: &World) -> PathBuf {
    let states = world.home.path().join("state/ftx/serve");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(states).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 1);
    paths.remove(0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_token_is_made_shown_once_listed_and_taken_back() {
    let world = World::new();
    let output = run(&world, &["add", "alice", "--can", "read,list", "--under", "photos/"], 0);
    let secret = text(&output.stdout).trim_end().to_owned();
    assert_eq!((secret.len(), text(&output.stdout)), (48, format!("{secret}\n")), "alone");
    let hint = text(&output.stderr);
    assert_eq!(hint.lines().count(), 1);
    let expected =
        "ftx: alice may read,list in photos/, which is not there yet. The token is not shown";
    assert!(hint.starts_with(expected), "{hint}");
    assert!(hint.contains("ftx login ADDRESS") && !hint.contains(&secret));

    let limits = ["--expires", "7d", "--max-bytes", "10G", "--max-partials", "8"];
    add(&world, &[&["bob", "--can", "drop"], &limits[..]].concat());
    let ls = text(&run(&world, &["ls"], 0).stdout);
    let lines: Vec<&str> = ls.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "alice  read,list  in photos/"));
    assert!(lines[1].starts_with("bob    drop  until 20"), "{ls}");
    assert!(lines[1].ends_with("  brought 0 B of 10.00 GiB  8 unfinished at most"), "{ls}");
    let listed = listed(&world);
    assert_eq!(listed[0]["under"], "photos");
    assert_eq!(listed[1]["can"], serde_json::json!(["drop"]));
    assert_eq!(
        (&listed[1]["max_bytes"], &listed[1]["ended"]),
        (&(10u64 << 30).into(), &false.into())
    );

    let output = run(&world, &["rm", "alice"], 0);
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let said = text(&run(&world, &["rm", "alice"], 6).stderr);
    let command = format!("; ftx token --of {} ls shows", world.served().display());
    assert!(said.contains("no token alice") && said.contains(&command), "{said}");
    assert_eq!(text(&run(&world, &["ls"], 0).stdout).lines().count(), 1);
    assert_eq!(fs::read_dir(world.served()).unwrap().count(), 0, "nothing of it is served");
}

#[test]
fn a_token_that_nobody_would_see_is_not_made() {
    let world = World::new();
    let served = world.served();
    let words = [env!("CARGO_BIN_EXE_ftx"), "token", "add", "alice", "--can", "read", "--of"];
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" >&-", "sh"]).args(words).arg(&served);
    command.env("XDG_STATE_HOME", world.home.path().join("state")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("standard output: it is closed"), "{said}");
    assert_eq!(listed(&world), Vec::<Value>::new());
}

#[test]
fn nobody_else_gets_at_what_is_kept_and_no_secret_is_kept() {
    let world = World::new();
    let secrets: Vec<String> = ["alice", "bob"]
        .map(|name| add(&world, &[name, "--can", "read", "--max-bytes", "5"]))
        .into();
    let state = state(&world);
    assert_eq!(mode(&state), 0o700);
    for directory in [state.parent().unwrap(), state.parent().unwrap().parent().unwrap()] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    let (kept, ls) = (files(&state), run(&world, &["ls"], 0).stdout);
    assert!(kept.contains(&state.join("tokens")));
    assert!(kept.iter().all(|path| !path.to_str().unwrap().ends_with(".part")));
    let json = run(&world, &["ls", "--json"], 0).stdout;
    for secret in &secrets {
        let digits = secret.strip_prefix("ftx1_").unwrap();
        let bytes = BASE64URL_NOPAD.decode(digits.as_bytes()).unwrap();
        assert_eq!(bytes.len(), 32);
        let has = |text: &[u8]| {
            let finds = |needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
            finds(digits.as_bytes()) || finds(&bytes)
        };
        for path in &kept {
            assert_eq!(mode(path), 0o600, "{}", path.display());
            assert!(!has(&fs::read(path).unwrap()), "{}", path.display());
        }
        assert!(!has(&ls) && !has(&json));
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
        assert!(fs::read_to_string(state.join("tokens")).unwrap().contains(&digest));
        assert!(!text(&json).contains(&digest));
    }
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn removed_token_with_reused_name_is_another() {
    let world = World::new();
    let first = add(&world, &["alice", "--can", "read"]);
    let id = |world: &World| listed(world)[0]["id"].as_str().unwrap().to_owned();
    let before = id(&world);
    let said = text(&run(&world, &["add", "alice", "--can", "write"], 6).stderr);
    let command = format!(" ftx token --of {} rm alice,", world.served().display());
    assert!(said.contains("a token alice already") && said.contains(&command), "{said}");
    assert_eq!(id(&world), before);
    run(&world, &["rm", "alice"], 0);
    let second = add(&world, &["alice", "--can", "read"]);
    assert_ne!((first, before), (second, id(&world)));
}

#[test]
fn the_command_to_type_next_says_where_as_it_was_said() {
    let world = World::new();
    for (state, typed) in [
        ("kept", " kept "),
        ("my state", " 'my state' "),
        ("it's", r#" "it's" "#),
        ("$HOME", " '$HOME' "),
        ("red\x1b", r" 'red\x1b' "),
        ("new\nline", r" 'new\nline' "),
    ] {
        let add = || token(&world, ["add", "a", "--can", "read", "--state", state]).output();
        assert!(add().unwrap().status.success());
        let again = text(&add().unwrap().stderr);
        assert!(again.contains(&format!("ftx token --state{typed}rm a,")), "{again}");
        let none = text(&token(&world, ["rm", "b", "--state", state]).output().unwrap().stderr);
        assert!(none.contains(&format!("; ftx token --state{typed}ls shows")), "{none}");
    }
    run(&world, &["add", "a", "--can", "read"], 0);
    let none = text(&token(&world, ["rm", "b"]).output().unwrap().stderr);
    assert!(none.contains("; ftx token ls shows"), "nothing was said: {none}");
}

#[test]
fn broken_tokens_file_is_told_and_left_as_it_is() {
    let world = World::new();
    add(&world, &["alice", "--can", "read"]);
    let path = state(&world).join("tokens");
    let good = fs::read_to_string(&path).unwrap();
    let cases = [
        ("garbage\x1b[2J".to_owned(), "line 1"),
        (good.replace("\"can\"", "\"must\":1,\"can\""), "unknown field `must`"),
        (good.replace("read", "re\\u001bad"), r"re\\u{1b}ad"),
        (good.clone() + "{", "line 3"),
    ];
    for (bad, expected) in cases {
        fs::write(&path, &bad).unwrap();
        for args in [&["ls"][..], &["rm", "alice"], &["add", "bob", "--can", "read"]] {
            let output = run(&world, args, 6);
            let said = text(&output.stderr);
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains('\x1b') && output.stdout.is_empty(), "{said:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(listed(&world).len(), 1);
}

#[test]
fn what_others_can_get_at_is_not_believed() {
    let world = World::new();
    add(&world, &["alice", "--can", "read"]);
    let state = state(&world);
    for (path, wrong, right) in [
        (state.join("tokens"), 0o644, 0o600),
        (state.join("tokens"), 0o620, 0o600),
        (state.clone(), 0o755, 0o700),
        (state.clone(), 0o710, 0o700),
    ] {
        set_mode(&path, wrong);
        for args in [&["ls"][..], &["rm", "alice"], &["add", "bob", "--can", "read"]] {
            let said = text(&run(&world, args, 6).stderr);
            let (shown, mode) = (path.to_str().unwrap(), format!("mode {wrong:03o}"));
            assert!(said.contains(shown) && said.contains(&mode), "{said}");
            assert!(said.contains("chmod"), "the next step: {said}");
        }
        set_mode(&path, right);
    }
    assert_eq!(listed(&world).len(), 1);
}

#[test]
fn names_cannot_move_the_terminal_or_the_log() {
    let world = World::new();
    let scopes: [&[u8]; 3] = [b"new\nline/", b"\x1b[2J", b"\xff\xfe"];
    for (scope, name) in scopes.into_iter().zip(["a", "b", "c"]) {
        let served = world.served();
        let words = [OsStr::new("add"), OsStr::new(name), OsStr::new("--can=read")];
        let more = [OsStr::new("--under"), OsStr::from_bytes(scope), OsStr::new("--of")];
        let output =
            token(&world, words.iter().chain(&more).chain([&served.as_os_str()])).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            (text(&output.stderr).lines().count(), text(&output.stderr).contains('\x1b')),
            (1, false)
        );
    }
    let ls = text(&run(&world, &["ls"], 0).stdout);
    assert_eq!(ls, "a  read  in new\\nline/\nb  read  in \\x1b[2J/\nc  read  in \\xff\\xfe/\n");
    assert_eq!(listed(&world)[2]["under"], serde_json::json!({"b64": "//4="}));
}

#[test]
fn words_that_mean_nothing_are_refused() {
    let world = World::new();
    for (args, expected) in [
        (&["add", "alice"][..], "--can"),
        (&["add", "--can", "read"], "NAME"),
        (&["add", "alice", "--can", ""], "none of read"),
        (&["add", "alice", "--can", "read,admin"], "none of read"),
        (&["add", "alice", "--can", "read,drop"], "drop stands alone"),
        (&["add", "alice", "--can", "replace"], "write,replace"),
        (&["add", "al/ice", "--can", "read"], "a token's name"),
        (&["add", "local", "--can", "read"], "the log"),
        (&["add", "alice", "--can", "read", "--under", "../x"], "\"..\""),
        (&["add", "alice", "--can", "read", "--under", "/etc"], "relative"),
        (&["add", "alice", "--can", "read", "--under", "/"], "empty"),
        (&["add", "alice", "--can", "read", "--under", ".ftx/"], "the server's own"),
        (&["add", "alice", "--can", "read", "--under", ".ftx/staging"], "the server's own"),
        (&["add", "alice", "--can", "read", "--expires", "0s"], "ended already"),
        (&["add", "alice", "--can", "read", "--expires", "yesterday"], "such as 12h or 7d"),
        (&["add", "alice", "--can", "read", "--max-bytes", "0"], "bring nothing"),
        (&["add", "alice", "--can", "read", "--max-partials", "0"], "a number from 1 to"),
        (&["ls", "--state", "x"], "--state"),
    ] {
        let said = text(&run(&world, args, 2).stderr);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let file = world.here().join("file");
    fs::write(&file, "").unwrap();
    for args in [&["add", "alice", "--can", "read"][..], &["ls"], &["rm", "alice"]] {
        let output = token(&world, args.iter().chain(&["--of", "file"])).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(&format!("{} is not a directory", file.display())), "{said}");
    }
    assert!(!world.home.path().join("state/ftx").exists(), "nothing was made");
}

#[test]
fn which_directory_it_is_about_is_clear_or_asked() {
    let world = World::new();
    let other = world.home.path().join("other");
    fs::create_dir(&other).unwrap();
    let without = |args: &[&str], code: i32| {
        let output = token(&world, args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        output
    };
    for args in [&["ls"][..], &["add", "alice", "--can", "read"]] {
        let said = text(&without(args, 2).stderr);
        let expected = ["wants tokens", "wants none as it stands", "ftx token --of DIR add NAME"];
        assert!(expected.iter().all(|&words| said.contains(words)), "{said}");
    }
    run(&world, &["ls"], 2);
    assert!(!world.home.path().join("state/ftx").exists(), "to ask makes nothing");

    add(&world, &["alice", "--can", "read"]);
    assert_eq!(text(&without(&["ls"], 0).stdout), "alice  read\n", "there is but one");
    without(&["add", "bob", "--can", "list"], 0);
    let to_other = other.to_str().unwrap();
    without(&["add", "carol", "--can", "list", "--of", to_other], 0);
    for args in [&["ls"][..], &["rm", "alice"], &["add", "dave", "--can", "read"]] {
        let said = text(&without(args, 2).stderr);
        assert!(said.contains("--of DIR") && said.contains(to_other), "{said}");
        assert!(said.contains(world.served().to_str().unwrap()), "{said}");
    }
    assert_eq!(text(&without(&["ls", "--of", to_other], 0).stdout), "carol  list\n");
    let link = world.home.path().join("link");
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let by_link = without(&["ls", "--of", link.to_str().unwrap()], 0);
    assert_eq!(text(&by_link.stdout), "carol  list\n", "the same by another path");
    fs::remove_dir(&other).unwrap();
    assert_eq!(text(&without(&["ls"], 0).stdout).lines().count(), 2, "of those still there");
    without(&["ls", "--of", to_other], 6);

    let own = world.home.path().join("own");
    without(&["add", "erin", "--can", "read", "--state", own.to_str().unwrap()], 0);
    assert_eq!(mode(&own), 0o700);
    let output = token(&world, ["ls"]).env("STATE_DIRECTORY", &own).output().unwrap();
    assert_eq!(text(&output.stdout), "erin  read\n", "as systemd says it");
    let mut nowhere = token(&world, ["ls"]);
    let output = nowhere.env_remove("XDG_STATE_HOME").env_remove("HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--state DIR"));
}

#[test]
fn the_state_is_never_inside_what_is_served_nor_around_it() {
    let world = World::new();
    let served = world.served();
    let inside = served.join("state");
    let around = world.home.path().join("around");
    let below = around.join("ftx/serve");
    fs::create_dir_all(&below).unwrap();
    let refused = |of: &Path, state: &Path| {
        let words = [OsStr::new("add"), OsStr::new("alice"), OsStr::new("--can=read")];
        let of = [OsStr::new("--of"), of.as_os_str()];
        let output = token(&world, words.into_iter().chain(of))
            .env("XDG_STATE_HOME", state)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
        let said = text(&output.stderr);
        assert!(said.contains("is inside") && said.contains("--state DIR"), "{said}");
    };
    refused(&served, &inside);
    refused(&served, &served.join("deep/../state"));
    let link = world.home.path().join("link");
    std::os::unix::fs::symlink(&served, &link).unwrap();
    refused(&served, &link);
    refused(&link, &inside);
    assert_eq!(fs::read_dir(&served).unwrap().count(), 0, "nothing was made there");

    let of = |directory: &Path, state: &Path| {
        let words = ["add", "alice", "--can", "read", "--of", directory.to_str().unwrap()];
        token(&world, words).env("STATE_DIRECTORY", state).output().unwrap()
    };
    let output = of(&below, &around);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(!around.join("tokens").exists());
    assert_eq!(of(&served, &served).status.code(), Some(6), "nor both at once");
    set_mode(&around, 0o700);
    assert_eq!(of(&served, &around).status.code(), Some(0));
}

#[test]
fn nobody_is_held_to_what_is_no_directory() {
    let world = World::new();
    fs::create_dir_all(world.served().join("photos/2026")).unwrap();
    fs::write(world.served().join("file"), "").unwrap();
    std::os::unix::fs::symlink("photos", world.served().join("link")).unwrap();
    for scope in ["file", "link/", "link/2026", "file/x"] {
        let said = text(&run(&world, &["add", "a", "--can", "read", "--under", scope], 6).stderr);
        assert!(said.contains("is not a directory"), "{scope}: {said}");
    }
    let hint =
        text(&run(&world, &["add", "a", "--can", "read", "--under", "photos/2026"], 0).stderr);
    assert!(hint.starts_with("ftx: a may read in photos/2026/. "), "{hint}");
}

#[test]
fn those_who_add_at_the_same_time_do_not_lose_each_others_tokens() {
    let world = World::new();
    let names: Vec<String> = (0..12).map(|number| format!("token-{number:02}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| add(&world, &[name, "--can", "read"]));
        }
    });
    let mut there: Vec<String> =
        listed(&world).iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect();
    there.sort();
    assert_eq!(there, names);
}

#[test]
fn a_token_that_nobody_has_seen_is_taken_back() {
    let world = World::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let words = ["add", "alice", "--can", "read", "--of", world.served().to_str().unwrap()]
        .map(str::to_owned);
    let output = token(&world, words).stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("taken back"), "{}", text(&output.stderr));
    assert!(listed(&world).is_empty());
}
