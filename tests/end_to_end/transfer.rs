//! Putting and getting, as a person does it.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use crate::harness::{MIB, World, done_event, noise, text};

const GRID: usize = 8 * MIB;

#[test]
fn files_of_every_size_come_back_as_they_went_with_both_digests() {
    let world = World::new();
    let server = world.serve();
    for size in [0, 1, 4_096, MIB - 1, MIB, MIB + 1, GRID - 1, GRID, GRID + 1, 3 * GRID + 7] {
        let bytes = world.noise("f", size);
        for digest in ["sha256", "blake3"] {
            let name = format!("{size}/{digest}");
            world.run(server.address, &["put", "f", "--as", &name, "--digest", digest], 0);
            assert!(world.stored(&name) == bytes, "{name} on the server");
            // Not by the algorithm that the server knows it by: it has to read it.
            let other = if digest == "sha256" { "blake3" } else { "sha256" };
            for get in [digest, other] {
                world.run(server.address, &["get", &name, "-o", "back", "--digest", get], 0);
                assert!(std::fs::read(world.here().join("back")).unwrap() == bytes, "{name} back");
            }
        }
    }
    assert_eq!(world.staged(), 0);
}

#[test]
fn checksum_lines_are_what_sha256sum_checks() {
    let world = World::new();
    let server = world.serve();
    let awkward = "with space \\ and\nnewline";
    for name in ["plain", awkward] {
        world.noise(name, 5_000);
    }
    let put = world.run(server.address, &["put", "plain", awkward], 0);
    std::fs::write(world.home.path().join("SUMS"), &put.stdout).unwrap();
    let check = Command::new("sha256sum")
        .args(["-c", "../SUMS"])
        .current_dir(world.served())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}{}", text(&put.stdout), text(&check.stderr));
    let put = world.run(server.address, &["put", "plain", "--digest", "blake3"], 0);
    assert!(text(&put.stdout).starts_with("BLAKE3 (plain) = "));
}

#[test]
fn names_that_are_no_text_and_names_of_255_bytes_arrive_byte_for_byte() {
    let world = World::new();
    let server = world.serve();
    let long = "n".repeat(255);
    let names: [&[u8]; 4] =
        [b"\xff\xfe.bin", long.as_bytes(), b"-rf *", "\u{1f600} \u{202e}x".as_bytes()];
    for name in names {
        let name = std::ffi::OsStr::from_bytes(name);
        std::fs::write(world.here().join(name), b"content").unwrap();
        let put = world
            .ftx(server.address, [std::ffi::OsStr::new("put"), "--".as_ref(), name])
            .output()
            .unwrap();
        assert!(put.status.success(), "{}", text(&put.stderr));
        assert_eq!(std::fs::read(world.served().join(name)).unwrap(), b"content");
        std::fs::remove_file(world.here().join(name)).unwrap();
        let get = world
            .ftx(server.address, [std::ffi::OsStr::new("get"), "--".as_ref(), name])
            .output()
            .unwrap();
        assert!(get.status.success(), "{}", text(&get.stderr));
        assert_eq!(std::fs::read(world.here().join(name)).unwrap(), b"content");
    }
}

#[test]
fn permissions_and_times_travel_and_setuid_does_not() {
    let world = World::new();
    let server = world.serve();
    world.noise("key", 100);
    let path = world.here().join("key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6600)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    world.run(server.address, &["put", "key"], 0);
    world.run(server.address, &["get", "key", "-o", "back"], 0);
    for path in [world.served().join("key"), world.here().join("back")] {
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{path:?}");
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (1_234_567_890, 123_456_789),
            "{path:?}"
        );
    }
}

#[test]
fn a_pipe_of_unknown_length_goes_in_and_out() {
    let world = World::new();
    let server = world.serve();
    let bytes = noise(20 * MIB + 3, 5);
    let mut put = world
        .ftx(server.address, ["put", "-", "--as", "piped"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    assert!(put.wait().unwrap().success());
    assert!(world.stored("piped") == bytes);
    let get = world.run(server.address, &["get", "piped", "-o", "-"], 0);
    assert!(get.stdout == bytes);
    assert!(text(&get.stderr).ends_with("  piped\n"), "the checksum line goes to stderr");
    world.run(server.address, &["put", "-"], 2);
}

#[test]
fn output_goes_where_it_is_told_and_devices_are_written_into_not_replaced() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("a", 3_000);
    world.run(server.address, &["put", "a"], 0);
    std::fs::create_dir(world.here().join("dir")).unwrap();
    world.run(server.address, &["get", "a", "-o", "dir"], 0);
    assert_eq!(std::fs::read(world.here().join("dir/a")).unwrap(), bytes);

    world.run(server.address, &["get", "a", "-o", "/dev/null"], 0);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());

    let fifo = world.here().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::read(fifo).unwrap()
    });
    world.run(server.address, &["get", "a", "-o", "fifo"], 0);
    assert_eq!(reader.join().unwrap(), bytes);
    assert!(!std::fs::metadata(&fifo).unwrap().is_file());
    // Other words for standard output, and never a file in the place of the link.
    std::os::unix::fs::symlink("/proc/self/fd/1", world.here().join("stdout")).unwrap();
    for path in ["stdout", "/dev/stdout"] {
        let get = world.run(server.address, &["get", "a", "-o", path], 0);
        assert_eq!(get.stdout, bytes, "{path}");
    }
    assert!(world.here().join("stdout").symlink_metadata().unwrap().is_symlink());
    world.run(server.address, &["get", "a", "-o", "newdir/"], 2);
    // Nothing else is left behind.
    assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 4);
}

#[test]
fn what_is_there_is_replaced_unless_told_otherwise() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 10);
    world.run(server.address, &["put", "a"], 0);
    let newer = world.noise("a", 20);
    let refused = world.run(server.address, &["put", "a", "--no-clobber"], 4);
    assert!(text(&refused.stderr).contains("exists"));
    world.run(server.address, &["put", "a"], 0);
    assert_eq!(world.stored("a"), newer);
    std::fs::write(world.here().join("a"), "mine").unwrap();
    world.run(server.address, &["get", "a", "--no-clobber"], 6);
    assert_eq!(std::fs::read(world.here().join("a")).unwrap(), b"mine");
    world.run(server.address, &["get", "a"], 0);
    assert_eq!(std::fs::read(world.here().join("a")).unwrap(), newer);
}

#[test]
fn the_exit_code_says_what_kind_of_failure_it_was() {
    let world = World::new();
    let server = world.serve();
    let address = server.address;
    world.noise("a", 10);
    world.run(address, &["get", "nothing"], 4);
    world.run(address, &["stat", "nothing"], 4);
    world.run(address, &["put", "missing"], 6);
    world.run(address, &["put", "."], 2);
    world.run(address, &["put", "/tmp"], 6);
    world.run(address, &["get", "../x"], 2);
    world.run(address, &["fly"], 2);
    world.run(address, &["put", "a", "--as", "/abs"], 2);
    std::fs::create_dir(world.here().join("d")).unwrap();
    world.noise("d/a", 11);
    world.run(address, &["put", "a", "d/a"], 2);
    world.run(address, &["get", "x/a", "y/a"], 2);
    // Each is tried, and the first failure decides.
    world.run(address, &["put", "missing", "a"], 6);
    assert!(world.served().join("a").exists());
    drop(server);
    let gone = world.run(address, &["put", "a"], 3);
    assert!(text(&gone.stderr).contains("ftx serve"), "the next step is named");
    world.run(address, &["ping"], 3);
}

#[test]
fn an_address_may_come_with_the_name() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("a", 10);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let url = format!("ftx://{}/some%20dir/a", server.address);
    world.run(nowhere, &["put", "a", "--as", &url], 0);
    assert_eq!(world.stored("some dir/a"), bytes);
    world.run(nowhere, &["get", &url, "-o", "b"], 0);
    world.run(nowhere, &["stat", &url], 0);
    world.run(nowhere, &["ping", "-s", &server.address.to_string()], 0);
    // A variable that is set to nothing says no more than one that is not set.
    let mut stat = world.ftx(nowhere, ["stat", &url]);
    assert!(stat.env("FTX_SERVER", "").status().unwrap().success());
    assert!(stat.env_remove("FTX_SERVER").status().unwrap().success());
}

#[test]
fn two_files_that_would_be_one_here_are_refused_however_they_are_written() {
    let world = World::new();
    for name in ["one", "other"] {
        std::fs::create_dir(world.served().join(name)).unwrap();
        std::fs::write(world.served().join(name).join("a b"), name).unwrap();
    }
    let server = world.serve();
    let url = format!("ftx://{}/other/a%20b", server.address);
    let said = text(&world.run(server.address, &["get", "one/a b", &url], 2).stderr);
    assert!(said.contains("two of these would be called a b here"), "{said}");
    assert!(!world.here().join("a b").exists());
}

#[test]
fn an_acknowledgement_says_the_durability_that_was_given() {
    let world = World::new();
    world.noise("a", 10);
    let given = |server: &crate::harness::Server, asked: &str| {
        let output = world.run(server.address, &["put", "a", "--json", "--durability", asked], 0);
        done_event(&output)["durability"].as_str().unwrap().to_owned()
    };
    {
        let server = world.serve();
        assert_eq!(given(&server, "none"), "none");
        // Where the tests run, the directory may be in memory.
        assert!(["full", "memory"].contains(&given(&server, "full").as_str()));
    }
    let server = world.serve_with(&["--durability", "none"]);
    assert_eq!(given(&server, "none"), "none");
    let refused = world.run(server.address, &["put", "a"], 4);
    assert!(text(&refused.stderr).contains("durability_unavailable"));
}

#[test]
fn a_server_that_only_reads_makes_nothing_and_takes_nothing() {
    let world = World::new();
    std::fs::write(world.served().join("a"), "content").unwrap();
    let server = world.serve_with(&["--read-only"]);
    assert_eq!(world.run(server.address, &["get", "a", "-o", "-"], 0).stdout, b"content");
    let refused = world.run(server.address, &["put", "a"], 6);
    assert!(text(&refused.stderr).contains("cannot read"));
    std::fs::write(world.here().join("a"), "x").unwrap();
    let refused = world.run(server.address, &["put", "a"], 4);
    assert!(text(&refused.stderr).contains("read_only"));
    assert_eq!(std::fs::read_dir(world.served()).unwrap().count(), 1);
}

#[test]
fn the_directory_is_made_and_a_second_server_on_it_refuses() {
    let world = World::new();
    let new = world.home.path().join("new");
    let server = crate::harness::Server::start(&new, "127.0.0.1:0", &[]);
    crate::harness::until("it is said", || server.log().contains("made the directory"));
    let second = Command::new(env!("CARGO_BIN_EXE_ftx"))
        .args(["serve", new.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert_eq!(said.matches("another ftx server").count(), 1, "{said}");
}

#[test]
fn a_file_that_the_system_makes_up_as_it_is_read_is_not_taken_for_empty() {
    let world = World::new();
    let server = world.serve();
    world.run(server.address, &["put", "/proc/version"], 0);
    assert_eq!(world.stored("version"), std::fs::read("/proc/version").unwrap());
}

/// How often a command of the client syncs something; `None`, and said loudly, where nobody can tell.
fn syncs(world: &World, server: std::net::SocketAddr, args: &[&str]) -> Option<usize> {
    let trace = world.here().join("trace");
    let plain = world.ftx(server, args);
    let mut traced = std::process::Command::new("strace");
    traced.args(["-f", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range", "-o"]).arg(&trace);
    traced.arg(plain.get_program()).args(plain.get_args());
    traced.current_dir(plain.get_current_dir().unwrap());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    let output = match traced.output() {
        Ok(output) if output.status.success() => output,
        _ => {
            crate::harness::not_tested("this needs the program strace: what the client syncs");
            return None;
        }
    };
    assert!(!output.stdout.is_empty());
    let calls = std::fs::read_to_string(trace).unwrap();
    Some(calls.lines().filter(|line| line.contains("sync") && line.contains('(')).count())
}

#[test]
fn a_get_without_durability_syncs_nothing_and_one_with_it_syncs_every_file() {
    let world = World::new();
    let server = world.serve();
    std::fs::create_dir_all(world.served().join("tree/inside")).unwrap();
    for name in ["tree/a", "tree/inside/b", "tree/inside/c"] {
        std::fs::write(world.served().join(name), name).unwrap();
    }
    let of = |args: &[&str]| syncs(&world, server.address, args);
    let Some(full) = of(&["get", "tree/a", "-o", "a"]) else { return };
    assert_eq!(full, 2, "the file and its directory");
    assert_eq!(of(&["get", "tree/a", "-o", "b", "--durability", "none"]), Some(0));
    let none = ["get", "-r", "tree", "-o", "none", "--durability", "none"];
    let inside = ["get", "-r", "tree/inside", "-o", "inside", "--durability", "none"];
    let own = of(&none).unwrap();
    assert_eq!(of(&inside).unwrap(), own, "what opening a store takes, and nothing for a file");
    let full = of(&["get", "-r", "tree", "-o", "full"]).unwrap();
    assert!(full >= own + 5, "each file and directory: {full}");
    for got in ["full", "none"] {
        assert_eq!(
            std::fs::read(world.here().join(got).join("inside/c")).unwrap(),
            b"tree/inside/c"
        );
    }
}
