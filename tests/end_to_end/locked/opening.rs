//! Nothing is opened for somebody who may not have it: not to look, not to make, not to find out.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use super::house::{FTX, House, put, word};
use crate::harness::{World, not_tested, run_to_its_end, until};

#[test]
fn authorize_comes_before_open() {
    let can =
        Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return not_tested("this needs strace, and that it may trace: what a server opens");
    }
    let world = World::new();
    let trace = world.home.path().join("trace");
    for name in ["closed", "open"] {
        fs::create_dir(world.served().join(name)).unwrap();
        fs::write(world.served().join(name).join("inner"), "content").unwrap();
    }
    let mut house = House::started(world, &["--require-token"], |command| {
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut traced = Command::new("strace");
        traced.args(["-D", "-f", "-e", "trace=%file,unlinkat,mkdirat", "-o"]).arg(&trace);
        traced.arg(FTX).args(words).env_remove("RUST_LOG");
        *command = traced;
    });
    let requests = |directory: &str| {
        let at = |name: &str| format!("{directory}/{name}");
        [
            json!({"stat": {"id": 1, "name": at("inner")}}),
            json!({"stat": {"id": 2, "name": at("inner"), "digest": "sha256"}}),
            json!({"get": {"id": 3, "name": at("inner"), "digest": "sha256"}}),
            json!({"list": {"id": 4, "name": directory}}),
            json!({"list": {"id": 5, "name": directory, "depth": "all"}}),
            put(6, &at("new"), 5, 6),
            json!({"mkdir": {"id": 7, "name": at("deep/made")}}),
            json!({"move": {"id": 8, "name": at("inner"), "to": at("other")}}),
            json!({"remove": {"id": 9, "name": directory, "depth": "all"}}),
        ]
    };
    // One that may do everything, elsewhere; one that may only take away; one that may only look.
    for (name, can, under) in [
        ("elsewhere", "read,list,write,replace,delete", &["--under", "open"][..]),
        ("box", "drop", &["--under", "open"]),
    ] {
        let mut talk = house.talk(&house.add_with(name, can, under));
        for message in requests("closed") {
            talk.say(message.clone());
            assert_eq!(word(&talk.line()), "denied", "{name}: {message}");
        }
    }
    let mut reads = house.talk(&house.add("reads", "list"));
    for message in requests("closed").into_iter().filter(|message| {
        ["get", "put", "mkdir", "move", "remove"].iter().any(|word| !message[word].is_null())
    }) {
        reads.say(message.clone());
        assert_eq!(word(&reads.line()), "denied", "{message}");
    }
    // Such a one is seen in the trace when it is allowed.
    let mut may = house.talk(&house.add("may", "read"));
    may.say(json!({"get": {"id": 1, "name": "open/inner", "digest": "sha256"}}));
    assert_eq!(word(&may.line()), "file");
    house.server.signal("-TERM");
    assert!(house.server.child.wait().unwrap().success());
    let seen = fs::read_to_string(&trace).unwrap();
    assert!(seen.contains("open/inner"), "nothing is seen in the trace");
    let opened: Vec<&str> = seen.lines().filter(|line| line.contains("closed")).collect();
    assert!(opened.is_empty(), "{opened:#?}");
}

#[test]
fn whoever_may_not_write_leaves_no_file() {
    let house = House::with(&["--public", "read"]);
    fs::write(house.world.served().join("file"), "content").unwrap();
    let everything = || {
        let output = Command::new("find").arg(house.world.served()).output().unwrap();
        let mut lines: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = everything();
    let mut anyone = crate::talk::Talk::with(house.server.address);
    for id in 1..=20 {
        anyone.say(put(id, &format!("deep/er/{id}"), 20_000_000, id));
        assert_eq!(word(&anyone.line()), "denied");
    }
    anyone.say(json!({"mkdir": {"id": 21, "name": "deep/er"}}));
    assert_eq!(word(&anyone.line()), "denied");
    // Nor does whoever may read know what there is.
    anyone.say(json!({"list": {"id": 22}}));
    assert_eq!(word(&anyone.line()), "denied");
    assert_eq!(everything(), before);
}

/// A file of tokens that cannot be read or understood is one without tokens, but whoever has one is told to come
/// again; at the start it is refused.
#[test]
fn broken_tokens_file_opens_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let mut house = House::locked();
    fs::write(house.world.served().join("file"), "content").unwrap();
    let token = house.add("alice", "read");
    let state = house.state();
    let path = state.join("tokens");
    let good = fs::read_to_string(&path).unwrap();
    let mut talk = house.talk(&token);
    let mut id = 0;
    let mut answer = || {
        id += 1;
        talk.say(json!({"stat": {"id": id, "name": "file"}}));
        word(&talk.line())
    };
    assert_eq!(answer(), "info");
    let write = |text: &str, mode: u32| {
        let new = state.join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, &path).unwrap();
    };
    let broken: [(&str, String, u32); 7] = [
        ("garbage", "garbage\n".to_owned(), 0o600),
        ("empty", String::new(), 0o600),
        ("half of it", good[..good.len() - 20].to_owned(), 0o600),
        ("a field that is not known", good.replace("\"made\"", "\"only\":1,\"made\""), 0o600),
        ("a right that is not known", good.replace("\"read\"", "\"raed\""), 0o600),
        ("a line twice", format!("{good}{}\n", good.lines().last().unwrap()), 0o600),
        ("for others to read", good.clone(), 0o644),
    ];
    for (what, text, mode) in &broken {
        write(text, *mode);
        until(what, || answer() == "busy");
        assert_eq!(house.hello(Some(&token)).1, "busy", "{what}");
        assert_eq!(house.hello(None).1, "login_required", "{what}");
        write(&good, 0o600);
        until("it is good again", || answer() == "info");
        assert_eq!(house.hello(Some(&token)).1, "welcome");
    }
    fs::rename(&path, house.state().join("elsewhere")).unwrap();
    until("it is gone", || answer() == "busy");
    assert_eq!(house.hello(Some(&token)).1, "busy");
    let log = house.server.log();
    assert!(log.contains("nobody is let in by one"), "{log}");
    house.server.kill();
    for (what, text, mode) in &broken {
        write(text, *mode);
        let mut command = Command::new(FTX);
        command.arg("serve").arg(house.world.served()).args(["--listen", "127.0.0.1:0"]);
        command.args(["--require-token", "--state"]).arg(house.state());
        let output = run_to_its_end(command.stdin(Stdio::null()));
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(output.stdout.is_empty(), "{what}: it listens");
    }
}
