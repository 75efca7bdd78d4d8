//! Everything that the client does goes with a token inside TLS as it goes without.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::house::House;
use crate::harness::{MIB, text, until};

#[test]
fn trees_and_the_shell_go_inside_tls_with_a_token() {
    let house = House::locked();
    let token = house.add_with("alice", "read,list,write,replace,delete", &["--under", "mine"]);
    let run = |args: &[&str], code: i32| house.run(Some(&token), args, code);
    let here = house.world.here();
    fs::create_dir_all(here.join("tree/deep/er")).unwrap();
    for number in 0..300 {
        fs::write(here.join(format!("tree/deep/{number}")), "x".repeat(number * 7)).unwrap();
    }
    fs::write(here.join("tree/big"), crate::harness::noise(20 * MIB, 3)).unwrap();
    let sums = run(&["put", "-r", "tree", "--to", "mine"], 0).stdout;
    assert_eq!(text(&sums).lines().count(), 301);
    fs::write(here.join("SUMS"), &sums).unwrap();
    run(&["verify", "SUMS"], 0);
    assert!(text(&run(&["ls", "-r", "mine"], 0).stdout).contains("deep/299"));
    run(&["get", "-r", "mine/tree", "-q", "-o", "back"], 0);
    let same = Command::new("diff").args(["-r", "tree", "back"]).current_dir(&here).status();
    assert!(same.unwrap().success());
    // Damaged, it is told.
    fs::write(house.world.served().join("mine/tree/deep/7"), "other").unwrap();
    run(&["verify", "SUMS"], 5);

    let mut shell = house.ftx(Some(&token), &["shell"]).stdin(Stdio::piped()).spawn().unwrap();
    let words =
        "cd mine\nmkdir made\nput tree/big\nls\nmv big made/big\nsum made/big\ndu\nrm -r made\n";
    shell.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("made/big"), "{}", text(&output.stdout));
    run(&["rm", "-r", "mine/tree"], 0);
    assert_eq!(house.names(), ["mine"]);
    // Its scope, and no more.
    let output = run(&["put", "-r", "tree", "-q"], 4);
    assert!(text(&output.stderr).contains("(denied)"), "{}", text(&output.stderr));
    run(&["ls"], 4);
    let all = run(&["get", "-r", "/", "-o", "all"], 4);
    assert!(
        text(&all.stderr).contains("get /: the server refused (denied)"),
        "{}",
        text(&all.stderr)
    );
    assert!(!here.join("all").exists());
    assert_eq!(house.names(), ["mine"]);
    let trash = house.world.served().join(".ftx/trash");
    until("the trash is swept", || fs::read_dir(&trash).unwrap().next().is_none());
}

/// What is printed is pasted, and that is all.
#[test]
fn the_line_that_a_server_prints_is_the_one_to_log_in_with() {
    let house = House::locked();
    let token = house.add("alice", "read,list");
    fs::write(house.world.served().join("file"), "hello").unwrap();
    until("it says how to connect", || house.server.said().ends_with('\n'));
    let said = house.server.said();
    let words: Vec<&str> =
        said.trim().strip_prefix("to connect: ftx ").unwrap().split(' ').collect();
    let mut login = house.world.ftx(house.server.address, &words);
    let mut login = login.env_remove("FTX_SERVER").stdin(Stdio::piped()).spawn().unwrap();
    login.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
    let output = login.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // From then on its address is enough.
    house.world.run(house.server.address, &["get", "file", "-o", "back"], 0);
    assert_eq!(fs::read(house.world.here().join("back")).unwrap(), b"hello");
    let output = house.world.run(house.server.address, &["put", "back"], 4);
    assert!(text(&output.stderr).contains("(denied)"), "{}", text(&output.stderr));
    house.remove("alice");
    let output = house.world.run(house.server.address, &["get", "file", "-o", "again"], 4);
    assert!(text(&output.stderr).contains("(login_failed)"), "{}", text(&output.stderr));
}
