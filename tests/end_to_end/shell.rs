//! The prompt, fed through a pipe; and Ctrl-C.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Output, Stdio};

use crate::harness::{MIB, Server, World, done_event, fed, text, until};

/// Larger than what is kept for resuming, several times over.
const FILE_BYTES: usize = 96 * MIB;

/// What a shell makes of these lines, that come through a pipe.
pub fn shell(world: &World, server: &Server, lines: &str) -> Output {
    fed(&mut world.ftx(server.address, ["shell"]), lines)
}

#[test]
fn the_shell_has_a_place_on_the_server_and_one_here() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.here().join("inner")).unwrap();
    fs::write(world.here().join("inner/a b"), "hello").unwrap();
    let output = shell(
        &world,
        &server,
        "mkdir docs\ncd docs\nlcd inner\nput 'a b'\nput 'a b' --as ../top\nls\ncat a\\ b\nmkdir ../more\n\
         mv 'a b' ../more/c\ncd ..\nls more\ncd more/../more\npwd\nsum c\nget c -o fetched\nrm c\nls\ndu /\n",
    );
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let hex = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(
        text(&output.stdout),
        format!(
            "{hex}  docs/a b\n{hex}  top\na b\nhelloc\n/more\n{hex}  more/c\n{hex}  fetched\n\
             5 B  1 file  2 directories  /\n"
        )
    );
    assert_eq!(fs::read(world.here().join("inner/fetched")).unwrap(), b"hello");
    assert_eq!(world.stored("top"), b"hello");
    let log = server.log();
    let peers: BTreeSet<&str> =
        log.split_whitespace().filter_map(|word| word.strip_prefix("peer=")).collect();
    assert_eq!(peers.len(), 1, "all on one connection: {log}");
}

#[test]
fn commands_that_are_piped_in_end_at_the_first_that_fails() {
    let world = World::new();
    let server = world.serve();
    for (line, code) in [
        ("cat nothing", 4),
        ("cd nothing", 4),
        ("get a -o /proc/nothing/x", 6),
        ("lcd nothing", 6),
        ("frobnicate", 2),
        ("cat 'open", 2),
        ("cd .ftx", 4),
    ] {
        let output = shell(&world, &server, &format!("{line}\nmkdir never\n"));
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
        assert!(!world.served().join("never").exists(), "{line}");
    }
    let output = shell(&world, &server, "exit\nmkdir never\n");
    assert_eq!(output.status.code(), Some(0));
    assert!(!world.served().join("never").exists());
}

#[test]
fn a_shell_has_one_server_for_all_of_its_commands() {
    let world = World::new();
    let server = world.serve();
    for line in
        ["ls -s 127.0.0.1:1", "put a --server=127.0.0.1:1", &format!("rm x -s {}", server.address)]
    {
        let output = shell(&world, &server, line);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains("a shell has one server"), "{line}: {said}");
    }
    for command in ["ls", "get", "mkdir", "stat"] {
        let help = shell(&world, &server, &format!("{command} --help"));
        assert_eq!(help.status.code(), Some(0), "{}", text(&help.stderr));
        let help = text(&help.stdout);
        assert!(help.contains("--plaintext") && !help.contains("--server"), "{help}");
        assert!(!help.contains("default: false"), "{help}");
    }
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let place = server.address.to_string();
    let mut said_by_word = world.ftx(nowhere, ["shell", "-s", &place, "--plaintext"]);
    let output = fed(&mut said_by_word, "mkdir made\nls\nls --plaintext\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "made/\nmade/\n");
}

/// They would be its content, or its list, and not be done.
#[test]
fn what_comes_behind_a_put_of_standard_input_is_not_taken_for_its_content() {
    let world = World::new();
    let server = world.serve();
    for put in [
        "put - --as notes",
        "put - --as /notes --no-clobber",
        "put /dev/stdin --as notes",
        "put --files-from -",
        "put --files-from /dev/stdin -0",
    ] {
        let output = shell(&world, &server, &format!("{put}\nmkdir never\n"));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{put}: {said}");
        assert!(said.contains("standard input has the commands of this shell"), "{put}: {said}");
        assert!(["notes", "never"].iter().all(|name| !world.served().join(name).exists()), "{put}");
    }
}

#[test]
fn a_shell_goes_on_when_the_server_was_restarted() {
    let world = World::new();
    let mut server = world.serve();
    let mut shell = world.ftx(server.address, ["shell"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(b"mkdir one\nls\npwd\n").unwrap();
    // What pwd says comes when the answer to ls has come whole.
    let mut answered = [0; "one/\n/\n".len()];
    shell.stdout.as_mut().unwrap().read_exact(&mut answered).unwrap();
    server.kill_and_restart(&world.served(), &[]);
    input.write_all(b"mkdir two\nls\n").unwrap();
    drop(input);
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = text(&output.stdout);
    assert_eq!(
        output.lines().collect::<BTreeSet<_>>(),
        ["one/", "two/"].into(),
        "after the restart"
    );
}

fn interrupt(mut child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(child.stdin.take());
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupted_put_says_how_to_go_on_and_does() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    let put = world.ftx(server.address, ["put", "big", "--json"]).spawn().unwrap();
    until("some is there", || world.staged_bytes() > FILE_BYTES as u64 / 4);
    let output = interrupt(put);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("put big: interrupted") && said.contains("the same command goes on"));
    assert!(text(&output.stdout).contains("\"class\":\"interrupted\""));
    let output = world.run(server.address, &["put", "big", "--json"], 0);
    assert!(done_event(&output)["moved_bytes"].as_u64().unwrap() < FILE_BYTES as u64);
    assert!(world.stored("big") == bytes);
}

#[test]
fn an_interrupted_get_says_where_the_part_lies() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", FILE_BYTES);
    world.run(server.address, &["put", "big"], 0);
    let get = world.ftx(server.address, ["get", "big", "-o", "back"]).spawn().unwrap();
    until("some is here", || world.part_bytes() > FILE_BYTES as u64 / 4);
    let output = interrupt(get);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let part = said
        .split_once("what has arrived is in ")
        .and_then(|(_, rest)| rest.split_once(';'))
        .map(|(part, _)| world.here().join(part));
    assert!(part.is_some_and(|part| part.is_file()), "{said}");
    let output = world.run(server.address, &["get", "big", "-o", "back", "--json"], 0);
    assert!(done_event(&output)["moved_bytes"].as_u64().unwrap() < FILE_BYTES as u64);
    assert!(fs::read(world.here().join("back")).unwrap() == bytes);
}

#[test]
fn an_interrupted_wait_for_a_server_ends_at_once() {
    let world = World::new();
    let mut server = world.serve();
    let mut put =
        world.ftx(server.address, ["put", "-", "--as", "x"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.as_mut().unwrap().write_all(&vec![7; 9 * MIB]).unwrap();
    until("it has begun", || world.staged_bytes() > 0);
    server.kill();
    let output = interrupt(put);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
}
