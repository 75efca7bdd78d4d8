//! What a server has given up by the time that it takes connections, and that it misses none of it.
//!
//! That who is confined cannot open a file outside is tested beside the code (`src/cli/confine.rs`);
//! here it is that all threads of the real server are, and what the system calls of one are.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Line, MIB, Server, World, not_tested, text, until};
use crate::talk::{HELLO_DIGEST, Talk};

const FTX: &str = env!("CARGO_BIN_EXE_ftx");
const CONFINED: &str = "confined: landlock ABI ";

/// Everything that a server does: puts, small, large and cut off; trees; reading; changes of names.
fn everything_works(world: &World, server: &Server) {
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        world.run(server.address, &words, 0)
    };
    let small = world.noise("small", 3_000);
    let large = world.noise("large", 20 * MIB);
    fs::create_dir_all(world.here().join("tree/deep")).unwrap();
    fs::write(world.here().join("tree/deep/file"), "content").unwrap();
    run("put small");
    let line = Line::cut_after(server.address, 12 * MIB as u64, 0);
    world.run(line.address, &["put", "large", "--as", "there/large"], 0);
    assert!(line.was_cut());
    run("put -r tree");
    run("put small --as tree/deep/file");
    run("mkdir made");
    run("mv there/large made/large");
    run("mv tree made/tree");
    assert!(world.stored("made/large") == large && world.stored("made/tree/deep/file") == small);
    run("get made/large -o back");
    assert!(fs::read(world.here().join("back")).unwrap() == large);
    run("get -r made -o copy");
    run("ls -lr");
    run("sum small made/large");
    // What is removed is renamed into the trash, whatever it is.
    symlink("small", world.served().join("link")).unwrap();
    assert!(Command::new("mkfifo").arg(world.served().join("fifo")).status().unwrap().success());
    run("rm link");
    run("rm fifo");
    run("rm -r made");
    run("rm small");
    let trash = world.served().join(".ftx/trash");
    until("the trash is swept", || fs::read_dir(&trash).unwrap().next().is_none());
}

/// Everything below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    inside
        .flat_map(|path| {
            let below = if path.is_dir() { walk(&path) } else { Vec::new() };
            [path].into_iter().chain(below)
        })
        .collect()
}

/// Whether the kernel here has what the server asks of it; said loudly if not. The kernel is asked, and not the server.
#[cfg(target_os = "linux")]
fn kernel_can() -> bool {
    use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let can = required.handle_access(AccessFs::Refer).and_then(Ruleset::create).is_ok();
    if !can {
        not_tested("this needs a kernel with landlock: a server that is confined");
    }
    can
}

#[cfg(not(target_os = "linux"))]
fn kernel_can() -> bool {
    not_tested("this needs Linux: a server that is confined");
    false
}

/// Whether the server is confined: it is where the kernel can do it.
fn is_confined(server: &Server) -> bool {
    until("the log says what holds", || server.log().contains("confined"));
    let is_confined = server.log().contains(CONFINED);
    assert_eq!(is_confined, kernel_can(), "{}", server.log());
    assert!(is_confined || server.log().contains("not confined to the directory"));
    is_confined
}

/// What the status of each thread says of new privileges.
fn no_new_privileges(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let statuses =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let field = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
        line.unwrap().trim().to_owned()
    };
    statuses.map(field).collect()
}

/// A server under strace, that is the parent of neither. `None`, and said loudly, without strace.
fn traced(directory: &Path, strace: &[&str], options: &[&str]) -> Option<Server> {
    let can =
        Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        not_tested("this needs the program strace, and that it may trace: a server's system calls");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(["-D", "-f"]).args(strace).arg(FTX).arg("serve").arg(directory);
    command.args(["--listen", "127.0.0.1:0", "--min-free", "0"]).args(options);
    command.env("XDG_STATE_HOME", directory.with_file_name("state-of-the-server"));
    Some(Server::spawn(command))
}

#[test]
fn every_thread_has_given_up_new_privileges() {
    let world = World::new();
    let server = world.serve_with(&["--threads", "3"]);
    everything_works(&world, &server);
    let threads = no_new_privileges(&server);
    assert!(threads.len() > 20, "{} threads", threads.len());
    assert!(threads.iter().all(|value| value == "1"), "{threads:?}");
    if is_confined(&server) {
        assert!(server.log().contains(", no new privileges\n"), "{}", server.log());
    }
}

#[test]
fn it_is_confined_before_it_has_a_second_thread_and_opens_nothing_else_afterwards() {
    let world = World::new();
    let trace = world.home.path().join("trace");
    let strace = ["-o", trace.to_str().unwrap(), "-e"];
    let calls = "trace=%file,clone,clone3,fork,vfork,landlock_restrict_self,bind,connect";
    let Some(mut server) = traced(&world.served(), &[&strace[..], &[calls]].concat(), &[]) else {
        return;
    };
    everything_works(&world, &server);
    let is_confined = is_confined(&server);
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    if !is_confined {
        return;
    }
    let trace = fs::read_to_string(trace).unwrap();
    let (before, after) = trace.split_once("landlock_restrict_self(").unwrap();
    assert!(!before.contains("clone") && !before.contains("fork("), "{before}");
    assert!(after.lines().next().unwrap().ends_with("= 0"));
    assert!(after.contains("clone") && !after.contains("landlock_restrict_self("));
    assert!(!after.contains("EACCES") && !after.contains(" bind(") && !after.contains(" connect("));
    let served = world.served();
    let known = [served.to_str().unwrap(), "/proc/sys/kernel/random/boot_id"];
    for line in after.lines().filter(|line| !line.contains("execve(")) {
        // What is relative to an open descriptor is within the directory; see `names.rs`.
        let path = line.split('"').nth(1).unwrap_or_default();
        if line.contains("AT_FDCWD") || line.contains(" open(") || path.starts_with('/') {
            assert!(known.contains(&path), "{line}");
        }
    }
}

#[test]
fn a_kernel_that_has_less_gives_what_it_has() {
    let can = kernel_can();
    // What the kernel says of its landlock, and what the log says then.
    for (inject, said) in [
        (
            "landlock_create_ruleset:error=ENOSYS:when=1",
            "not confined to the directory: no landlock here",
        ),
        (
            "landlock_create_ruleset:error=EOPNOTSUPP:when=1",
            "not confined to the directory: no landlock here",
        ),
        // It cannot rename from one directory to another.
        (
            "landlock_create_ruleset:retval=1:when=1",
            "not confined to the directory: no landlock here",
        ),
        ("landlock_create_ruleset:retval=2:when=1", "confined: landlock ABI 2, no new privileges"),
        ("landlock_create_ruleset:retval=3:when=1", "confined: landlock ABI 3, no new privileges"),
        ("landlock_restrict_self:error=E2BIG", "not confined to the directory: landlock fails"),
        ("prctl:error=EINVAL", "cannot give up new privileges"),
    ] {
        let needs_landlock = said.starts_with("confined") || said.contains("landlock fails");
        if needs_landlock && !can {
            continue;
        }
        let world = World::new();
        let inject = format!("inject={inject}");
        let Some(server) = traced(&world.served(), &["-o", "/dev/null", "-e", &inject], &[]) else {
            return;
        };
        until("the log says what holds", || server.log().contains("confined"));
        assert!(server.log().contains(said), "{inject}: {}", server.log());
        everything_works(&world, &server);
    }
}

/// A call that only Linux has, and that an old kernel or a sandbox lacks: what stands in for it does all that it does,
/// and leads outside no more than it.
#[test]
fn a_kernel_without_a_call_is_served_by_what_stands_in_for_it() {
    for lacks in ["openat2:error=ENOSYS", "openat2:error=EPERM", "renameat2:error=ENOSYS"] {
        let world = World::new();
        let (trace, outside) = (world.home.path().join("trace"), world.home.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x"), "secret").unwrap();
        symlink(&outside, world.served().join("link")).unwrap();
        symlink("../outside", world.served().join("up")).unwrap();
        let inject = format!("inject={lacks}");
        let call = format!("trace={}", lacks.split(':').next().unwrap());
        let strace = ["-o", trace.to_str().unwrap(), "-e", &call, "-e", &inject];
        let Some(server) = traced(&world.served(), &strace, &[]) else { return };
        let mut talk = Talk::with(server.address);
        for (id, name) in [(11, "link/x"), (21, "up/x")] {
            talk.put_hello(id, name, "none");
            assert_eq!(talk.code(), "outside_root", "{lacks}: put {name}");
            talk.say(json!({"get": {"id": id + 1, "name": name, "digest": "sha256"}}));
            assert_eq!(talk.code(), "outside_root", "{lacks}: get {name}");
        }
        talk.put_hello(31, "a", "none");
        assert_eq!(talk.line()["done"]["digest"], HELLO_DIGEST, "{lacks}");
        let rename = |id: u64| json!({"move": {"id": id, "name": "a", "to": "b", "if": "absent"}});
        talk.say(rename(32));
        assert_eq!(talk.line()["ok"]["id"], 32, "{lacks}");
        talk.put_hello(33, "a", "none");
        assert_eq!(talk.line()["done"]["digest"], HELLO_DIGEST, "{lacks}");
        talk.say(rename(34));
        assert_eq!(talk.code(), "exists", "{lacks}");
        fs::remove_file(world.served().join("link")).unwrap();
        everything_works(&world, &server);
        assert!(
            fs::read_to_string(&trace).unwrap().contains("(INJECTED)"),
            "{lacks}: never called"
        );
        assert_eq!(fs::read(outside.join("x")).unwrap(), b"secret");
    }
}

#[test]
fn a_directory_may_be_given_in_any_way_and_may_be_new() {
    for path in ["new", "link/new", "./new", "link"] {
        let world = World::new();
        let home = world.home.path();
        symlink("served", home.join("link")).unwrap();
        let mut command = Command::new(FTX);
        command.current_dir(home).args(["serve", path, "--listen", "127.0.0.1:0"]);
        command.env("XDG_STATE_HOME", home.join("state-of-the-server"));
        let server = Server::spawn(command);
        let mut talk = Talk::with(server.address);
        talk.put_hello(1, "a/b", "full");
        assert_eq!(talk.line()["done"]["digest"], HELLO_DIGEST, "{path}");
        assert_eq!(fs::read(home.join(path).join("a/b")).unwrap(), b"hello");
        is_confined(&server);
    }
}

#[test]
fn a_server_that_only_reads_reads() {
    let world = World::new();
    fs::create_dir(world.served().join("deep")).unwrap();
    fs::write(world.served().join("deep/file"), "content").unwrap();
    symlink("deep/file", world.served().join("link")).unwrap();
    let server = world.serve_with(&["--read-only"]);
    for name in ["deep/file", "link"] {
        assert_eq!(world.run(server.address, &["get", name, "-o", "-"], 0).stdout, b"content");
    }
    world.run(server.address, &["get", "-r", "deep"], 0);
    world.run(server.address, &["ls", "-lr"], 0);
    world.noise("small", 100);
    let refused = world.run(server.address, &["put", "small"], 4);
    assert!(text(&refused.stderr).contains("read_only"), "{}", text(&refused.stderr));
    assert_eq!(walk(&world.served()).len(), 3);
    is_confined(&server);
}

#[test]
fn the_first_line_of_the_log_says_what_holds_and_the_audit_is_in_it_whatever_else_there_is_to_say()
{
    let world = World::new();
    let mut command = crate::places::few(&world);
    command.env("RUST_LOG", "infoo");
    let server = Server::spawn(command);
    world.noise("file", 5);
    world.run(server.address, &["put", "file"], 0);
    until("the put is in the log", || server.log().contains("op=\"put\""));
    let log = server.log();
    assert!(log.lines().next().unwrap().contains("confined"), "{log}");
    for said in ["fewer connections than asked for", "RUST_LOG is not understood"] {
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn nothing_is_given_up_when_that_is_asked_for() {
    let world = World::new();
    let server = world.serve_with(&["--unconfined"]);
    until("it is said", || server.log().contains("unconfined, as asked for"));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if own.contains("NoNewPrivs:\t1") {
        return not_tested("these tests have no new privileges themselves: --unconfined");
    }
    assert!(no_new_privileges(&server).iter().all(|value| value == "0"));
    everything_works(&world, &server);
}

#[test]
fn nothing_is_for_others_to_write_unless_that_was_asked_for() {
    for (umask, directories, files) in [("000", 0o755, 0o644), ("027", 0o750, 0o640)] {
        let world = World::new();
        let served = world.served().join("new");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", FTX, "serve"]);
        command.arg(&served).args(["--listen", "127.0.0.1:0", "--min-free", "0"]);
        command.env("XDG_STATE_HOME", world.home.path().join("state-of-the-server"));
        let server = Server::spawn(command);
        let mut talk = Talk::with(server.address);
        talk.put_hello(1, "made/on/the/way", "full");
        assert_eq!(talk.line()["done"]["digest"], HELLO_DIGEST);
        talk.say(json!({"mkdir": {"id": 2, "name": "asked"}}));
        assert_eq!(talk.line()["ok"]["id"], 2);
        // The permissions of a file travel with it, whatever the umask.
        world.noise("small", 100);
        fs::set_permissions(world.here().join("small"), fs::Permissions::from_mode(0o666)).unwrap();
        world.run(server.address, &["put", "small"], 0);
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&served.join("small")), 0o666);
        assert_eq!(mode(&served.join("made/on/the/way")), files);
        for made in ["", "made", "made/on/the", "asked"] {
            assert_eq!(mode(&served.join(made)), directories, "{made}");
        }
        assert_eq!(mode(&served.join(".ftx")), 0o700);
        for path in walk(&served.join(".ftx")) {
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        }
    }
}
