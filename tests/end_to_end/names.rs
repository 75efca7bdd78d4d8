//! Names that lead where nobody may go, while things move, and past a server that only reads.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{MIB, Server, World, not_tested, text, until};
use crate::talk::Talk;

/// The codes that `stat` and `get` answer to a name.
fn codes(server: &Server, name: &str) -> [String; 2] {
    ["stat", "get"].map(|kind| {
        let mut peer = Talk::with(server.address);
        let mut request = json!({"id": 1, "name": name});
        if kind == "get" {
            request["digest"] = json!("sha256");
        }
        peer.say(json!({kind: request}));
        peer.code()
    })
}

fn assert_reserved(server: &Server, names: &[&str]) {
    for name in names {
        assert_eq!(codes(server, name), ["reserved_name"; 2], "{name}");
    }
}

#[test]
fn a_server_that_only_reads_hides_the_staging_directory_of_a_running_one() {
    let world = World::new();
    let writer = world.serve();
    symlink(".ftx", world.served().join("link")).unwrap();
    std::fs::create_dir(world.served().join("dir")).unwrap();
    symlink("../.ftx/staging", world.served().join("dir/link")).unwrap();
    let reader = world.serve_with(&["--read-only"]);
    world.noise("a", 100);
    world.run(writer.address, &["put", "a"], 0);
    let file = std::fs::read_dir(world.served().join(".ftx")).unwrap().flatten();
    let journal = file.map(|entry| entry.file_name().into_string().unwrap());
    let inside: Vec<String> = journal.map(|name| format!(".ftx/{name}")).collect();
    assert!(inside.len() > 1, "{inside:?}");
    for name in &inside {
        assert_reserved(&reader, &[name, &name.replace(".ftx", "link")]);
    }
    assert_reserved(&reader, &[".ftx", "link", "dir/link"]);
}

#[test]
fn a_server_that_only_reads_hides_what_a_running_one_stages_later() {
    let world = World::new();
    let writer = world.serve();
    symlink(".ftx/staging", world.served().join("link")).unwrap();
    let reader = world.serve_with(&["--read-only"]);
    let mut talk = Talk::with(writer.address);
    talk.say(json!({"put": {"id": 1, "name": "a", "digest": "sha256", "size": 9 * MIB, "transfer": "00112233445566778899aabbccddeeff"}}));
    talk.part(1, 0, &vec![1; MIB]);
    until("it is staged", || world.staged() > 0);
    let staged = std::fs::read_dir(world.served().join(".ftx/staging")).unwrap().flatten().next();
    let staged = staged.unwrap().file_name().into_string().unwrap();
    assert_reserved(&reader, &[&format!("link/{staged}"), "link/missing"]);
}

#[test]
fn a_server_that_only_reads_hides_a_staging_directory_that_comes_later() {
    let world = World::new();
    symlink(".ftx", world.served().join("link")).unwrap();
    let reader = world.serve_with(&["--read-only"]);
    let _writer = world.serve();
    assert_reserved(&reader, &[".ftx", ".ftx/journal", "link", "link/journal"]);
}

#[test]
fn names_that_only_look_like_the_staging_directory_are_names_like_any_other() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 100);
    for name in
        [".FTX", ".ftx2/a", "dir/.ftx/a", ".ftx\u{200b}", "a\\b", "C:\\a", "~", "$HOME", "*"]
    {
        world.run(server.address, &["put", "a", "--as", name], 0);
        assert_eq!(world.stored(name).len(), 100, "{name}");
    }
    for name in [".ftx/", "./.ftx", "dir/../.ftx", "//.ftx", ".ftx//journal"] {
        assert_eq!(codes(&server, name), ["bad_name"; 2], "{name}");
    }
}

#[test]
fn symlinks_that_lead_nowhere_or_in_a_circle_are_answered() {
    let world = World::new();
    let server = world.serve();
    symlink("circle", world.served().join("circle")).unwrap();
    symlink("missing", world.served().join("dangling")).unwrap();
    symlink("/", world.served().join("slash")).unwrap();
    symlink("/proc/self/root", world.served().join("magic")).unwrap();
    assert_eq!(codes(&server, "dangling"), ["not_found"; 2]);
    for name in ["slash", "slash/etc/passwd", "magic", "magic/etc/passwd"] {
        assert_eq!(codes(&server, name), ["outside_root"; 2], "{name}");
    }
    for code in codes(&server, "circle") {
        assert!(!code.starts_with('{') && code != "internal" && code != "storage_failed", "{code}");
    }
    // A put replaces each of them, and nothing that they lead to.
    world.noise("a", 100);
    for name in ["circle", "dangling", "slash", "magic"] {
        world.run(server.address, &["put", "a", "--as", name], 0);
        assert!(world.served().join(name).symlink_metadata().unwrap().is_file(), "{name}");
    }
    assert!(!world.served().join("missing").exists());
}

#[test]
fn devices_and_sockets_are_no_files() {
    let world = World::new();
    let server = world.serve();
    let _socket = std::os::unix::net::UnixListener::bind(world.served().join("socket")).unwrap();
    let mut names = vec!["socket"];
    let device = world.served().join("device");
    let made = Command::new("mknod").arg(&device).args(["c", "1", "5"]).output().unwrap();
    if made.status.success() {
        names.push("device");
    } else {
        not_tested("this needs root: a device in the directory");
    }
    world.noise("a", 100);
    for name in names {
        assert_eq!(codes(&server, name), ["not_a_file"; 2], "{name}");
        let put = world.run(server.address, &["put", "a", "--as", name], 4);
        assert!(text(&put.stderr).contains("not_a_file"), "{}", text(&put.stderr));
        assert!(!world.served().join(name).metadata().unwrap().is_file());
    }
}

/// Ends a loop on another thread, also when the test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn flip(served: &Path, outside: &Path, over: &AtomicBool) {
    let (flip, real, lure) = (served.join("flip"), served.join("real"), served.join("lure"));
    while !over.load(Ordering::SeqCst) {
        // A directory and a symlink to the outside take turns under one name.
        let _ = std::fs::rename(&flip, &real);
        symlink(outside, &lure).unwrap();
        let _ = std::fs::rename(&lure, &flip);
        let _ = std::fs::remove_file(&flip);
        // What could not be put there, because a put had made a directory of that name.
        let _ = std::fs::remove_file(&lure);
        let _ = std::fs::remove_dir_all(&flip);
        let _ = std::fs::rename(&real, &flip);
    }
}

#[test]
fn no_race_of_a_directory_with_a_symlink_leads_outside() {
    let world = World::new();
    let server = world.serve();
    let outside = world.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::create_dir(world.served().join("flip")).unwrap();
    std::fs::write(world.served().join("flip/secret"), "inside").unwrap();
    let over = AtomicBool::new(false);
    let served = world.served();
    std::thread::scope(|scope| {
        let _until = Until(&over);
        scope.spawn(|| flip(&served, &outside, &over));
        let mut peer = Talk::with(server.address);
        let (mut done, mut refused) = (0, 0);
        for round in 0..600 {
            let id = round * 2 + 1;
            peer.put_hello(id, &format!("flip/{round}"), "none");
            peer.say(json!({"get": {"id": id + 1, "name": "flip/secret", "digest": "sha256"}}));
            let mut replies = 0;
            while replies < 2 {
                let line = peer.line();
                assert!(!line.is_null(), "the connection ended in round {round}");
                if let Some(size) = line["data"]["size"].as_u64() {
                    assert_eq!(peer.raw(size), b"inside");
                } else if line["file"].is_null() {
                    replies += 1;
                    match line["error"]["code"].as_str() {
                        None => done += 1,
                        Some("internal" | "storage_failed") => panic!("{line}"),
                        Some(_) => refused += 1,
                    }
                }
            }
        }
        assert!(done > 0 && refused > 0, "{done} and {refused}: there was no race");
    });
    let there: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(there.len(), 1, "something was written outside");
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
}
