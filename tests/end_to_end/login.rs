//! The client, servers inside TLS, and those who would like to be one: who is spoken to, and what
//! leaves this machine before that is certain.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::front::{Front, Tap, certificate_of_authority, is_only_a_greeting, own_certificate};
use crate::harness::{Line, MIB, World, done_event, fed, not_tested, text, until};
use crate::liars::liar;
use crate::talk::HELLO_DIGEST;

const TOKEN: &str = "ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const HERE: &str = "127.0.0.1:0";
const FTX: &str = env!("CARGO_BIN_EXE_ftx");

/// Lets the one token in.
fn wants_the_token(token: Option<&str>) -> Option<&'static str> {
    match token {
        Some(TOKEN) => None,
        Some(_) => Some("login_failed"),
        None => Some("login_required"),
    }
}

fn wants_nothing(_: Option<&str>) -> Option<&'static str> {
    None
}

fn log_in(world: &World, front: &Front) {
    let output = fed(&mut world.ftx(front.address, ["login", &front.line()]), TOKEN);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("logged in to {}\n", front.address));
}

/// A terminal in which the command of a shell runs.
struct Terminal {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    shown: String,
}

impl Terminal {
    /// None where there is no script(1).
    fn with(world: &World, command: &str) -> Option<Self> {
        let mut child = Command::new("script")
            .args(["-qec", command, "/dev/null"])
            .current_dir(world.here())
            .env("XDG_STATE_HOME", world.home.path().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, input, output, shown: String::new() })
    }

    /// Waits until it shows this.
    fn shows(&mut self, what: &str) {
        let mut buffer = [0; 4_096];
        while !self.shown.contains(what) {
            let count = self.output.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", self.shown);
            self.shown.push_str(&text(&buffer[..count]));
        }
    }

    fn type_in(&mut self, what: &str) {
        self.input.write_all(what.as_bytes()).unwrap();
    }

    /// How the command ended, and all that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        let _ = self.output.read_to_string(&mut self.shown);
        drop(self.input);
        (self.child.wait().unwrap().code(), self.shown)
    }
}

/// Runs the client to its end; nothing that it sent to the tap was more than a greeting.
fn sends_nothing(tap: &Tap, command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let heard = tap.take();
    assert!(!heard.is_empty(), "nothing was connected to: {said}");
    for bytes in heard {
        assert!(is_only_a_greeting(&bytes), "{said}: {:?}", text(&bytes));
    }
    said
}

fn servers(world: &World) -> PathBuf {
    world.home.path().join("state/ftx/servers")
}

/// Has the client know this server, and no other.
fn remember(world: &World, server: &Value) {
    let list = servers(world);
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, format!("{server}\n")).unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();
}

/// An address of this machine that is not one of those that only it reaches.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it is only asked which way it would go.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn after_a_login_everything_goes_as_in_plain_and_nothing_of_it_can_be_read_on_the_way() {
    let world = World::new();
    let server = world.serve();
    let certificate = own_certificate();
    let front = Front::start(HERE, server.address, &certificate, wants_the_token);
    let tap = Tap::start(HERE, front.address);
    let line = format!("ftx://{}#{}", tap.address, front.pin());
    let output = fed(&mut world.ftx(tap.address, ["login", &line]), &format!("{TOKEN}\n"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let big = world.noise("big", 20 * MIB);
    let run = |args: &[&str]| text(&world.run(tap.address, args, 0).stdout);
    let put = world.run(tap.address, &["put", "big", "--json", "--as", "very-secret"], 0);
    assert_eq!(done_event(&put)["connections"], 1);
    assert!(world.stored("very-secret") == big);
    run(&["get", "very-secret", "-o", "back"]);
    assert!(fs::read(world.here().join("back")).unwrap() == big);
    fs::create_dir_all(world.here().join("tree/inner")).unwrap();
    for number in 0..300 {
        let path = world.here().join(format!("tree/inner/{number}"));
        fs::write(path, "not for everybody".repeat(number)).unwrap();
    }
    fs::copy(world.here().join("big"), world.here().join("tree/big")).unwrap();
    run(&["put", "-r", "tree", "-q"]);
    run(&["get", "-r", "tree", "-q", "-o", "tree-back"]);
    let same =
        Command::new("diff").args(["-r", "tree", "tree-back"]).current_dir(world.here()).status();
    assert!(same.unwrap().success());
    assert!(run(&["ls", "-r"]).contains("tree/inner/299"));
    assert!(run(&["sum", "very-secret"]).contains("very-secret"));
    assert!(run(&["ping"]).contains("answered"));
    run(&["mkdir", "other"]);
    run(&["mv", "very-secret", "other/"]);
    run(&["rm", "-r", "other"]);

    let heard = tap.take();
    let all = heard.concat();
    assert!(heard.iter().all(|bytes| bytes.first() == Some(&0x16)) && all.len() > 40 * MIB);
    for secret in [TOKEN, "very-secret", "not for everybody", "hello", "tree"] {
        let secret = secret.as_bytes();
        assert!(!all.windows(secret.len()).any(|window| window == secret), "{}", text(secret));
    }
    assert!(front.take_tokens().iter().all(|token| token.as_deref() == Some(TOKEN)));

    // One connection for all of a shell.
    let mut shell = world.ftx(tap.address, ["shell"]);
    let output = fed(&mut shell, "mkdir place\ncd place\nput big\nls\nstat big\ndu /\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(tap.take().len(), 1);
}

#[test]
fn what_was_cut_off_or_interrupted_goes_on_inside_tls() {
    let world = World::new();
    let server = world.serve();
    let certificate = own_certificate();
    let front = Front::start(HERE, server.address, &certificate, wants_the_token);
    let big = world.noise("big", 48 * MIB);
    for (up, down, args, from, to) in [
        (30 * MIB as u64, 0, ["put", "big", "--json"], "here/big", "served/big"),
        (0, 30 * MIB as u64, ["get", "big", "--json"], "served/big", "here/big"),
    ] {
        let line = Line::cut_after(front.address, up, down);
        let login = format!("ftx://{}#{}", line.address, front.pin());
        let mut command = world.ftx(line.address, args);
        command.env("FTX_SERVER", &login).env("FTX_TOKEN", TOKEN);
        let _ = fs::remove_file(world.home.path().join(to));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(line.was_cut());
        let done = done_event(&output);
        assert_eq!(done["connections"], 2, "{done}");
        assert!(done["moved_again_bytes"].as_u64().unwrap() < 40 * MIB as u64, "{done}");
        assert!(fs::read(world.home.path().join(to)).unwrap() == big);
        assert!(fs::read(world.home.path().join(from)).unwrap() == big);
    }
    // Ctrl-C; and what was begun without a key in the address goes on with one.
    log_in(&world, &front);
    fs::rename(world.here().join("big"), world.here().join("large")).unwrap();
    let put = world.ftx(front.address, ["put", "large", "--limit-rate", "20M"]).spawn().unwrap();
    until("some is there", || world.staged_bytes() > 16 * MIB as u64);
    let pid = rustix::process::Pid::from_child(&put);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let mut again = world.ftx(front.address, ["put", "large", "--json"]);
    let output = again.env("FTX_SERVER", front.line()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(done_event(&output)["moved_bytes"].as_u64().unwrap() < big.len() as u64);
    assert!(world.stored("large") == big);
}

#[test]
fn tls_is_verified() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let certificate = own_certificate();
    let front = Front::start(HERE, server.address, &certificate, wants_the_token);
    let tap = Tap::start(HERE, front.address);
    let put = |server: &str| {
        let mut command = world.ftx(tap.address, ["put", "a"]);
        command.env("FTX_SERVER", server).env("FTX_TOKEN", TOKEN);
        command
    };
    let place = tap.address.to_string();
    let wrong = format!("sha256:{}", "0".repeat(64));

    // Not known, and nobody to ask.
    let said = sends_nothing(&tap, &mut put(&place), 3);
    assert!(said.contains(&format!("ftx login ftx://{place}#sha256:…")), "{said}");
    assert!(
        !said.contains(&front.pin()),
        "nobody is told to believe what came on this way: {said}"
    );
    // Another key than the address says; also to log in.
    let said = sends_nothing(&tap, &mut put(&format!("{place}#{wrong}")), 3);
    assert!(said.contains(&wrong) && said.contains(&front.pin()), "{said}");
    let mut login = world.ftx(tap.address, ["login", &format!("{place}#{wrong}")]);
    sends_nothing(&tap, login.env("FTX_TOKEN", TOKEN), 3);
    assert!(!servers(&world).exists());
    assert_eq!(front.take_tokens(), []);
    // Known, and then another one.
    let login = world
        .ftx(tap.address, ["login", &format!("{place}#{}", front.pin())])
        .env("FTX_TOKEN", TOKEN)
        .output()
        .unwrap();
    assert_eq!(login.status.code(), Some(0), "{}", text(&login.stderr));
    assert_eq!(put(&place).output().unwrap().status.code(), Some(0));
    tap.take();
    let before = front.pin();
    front.become_another(&own_certificate());
    let said = sends_nothing(&tap, &mut put(&place), 3);
    assert!(said.contains("has CHANGED") && said.contains(&before) && said.contains(&front.pin()));
    assert!(said.contains(&format!("ftx login --forget {place}")), "{said}");
    // Not even the new line goes past what is remembered; nor does an option.
    let new = format!("ftx://{place}#{}", front.pin());
    let login = world.ftx(tap.address, ["login", &new]).env("FTX_TOKEN", TOKEN).output().unwrap();
    assert_eq!((login.status.code(), tap.take().len()), (Some(3), 0), "{}", text(&login.stderr));
    let mut plain = put(&place);
    sends_nothing(&tap, plain.arg("--plaintext"), 3);
    let forget = world.run(tap.address, &["login", "--forget", &place], 0);
    assert_eq!(text(&forget.stdout), format!("{place} is forgotten\n"));
    assert_eq!(fs::read_to_string(servers(&world)).unwrap(), "");
    let login = world.ftx(tap.address, ["login", &new]).env("FTX_TOKEN", TOKEN).output().unwrap();
    assert_eq!(login.status.code(), Some(0), "{}", text(&login.stderr));
}

#[test]
fn a_server_in_plain_behind_a_client_that_wants_tls_gets_a_greeting_and_nothing_else() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let tap = Tap::start(HERE, server.address);
    let pin = format!("sha256:{}", "0".repeat(64));
    let mut with_pin = world.ftx(tap.address, ["put", "a"]);
    let said = sends_nothing(&tap, with_pin.env("FTX_SERVER", format!("{}#{pin}", tap.address)), 3);
    assert!(said.contains("Nothing was sent") && said.contains("once more"), "{said}");
    assert!(!said.contains("--plaintext"), "that would not help: {said}");
    let mut with_token = world.ftx(tap.address, ["put", "a"]);
    let said = sends_nothing(&tap, with_token.env("FTX_TOKEN", TOKEN), 3);
    assert!(said.contains("--plaintext"), "{said}");
    assert!(!world.served().join("a").exists());
    // One that knows nothing, and has nothing to hide, speaks to this machine as ever.
    world.run(tap.address, &["put", "a"], 0);
    // In the place of one that is known there may be anything.
    tap.take();
    for trust in [&pin, "roots"] {
        remember(&world, &json!({"server": tap.address.to_string(), "trust": trust}));
        let said = sends_nothing(&tap, &mut world.ftx(tap.address, ["put", "a", "--plaintext"]), 3);
        let forget = format!("ftx login --forget {}", tap.address);
        assert!(said.contains("another service") && said.contains(&forget), "{said}");
        assert!(!said.contains("accept the danger"), "that would not help: {said}");
    }
}

#[test]
fn a_certificate_is_good_if_the_roots_of_the_system_say_so_for_this_host() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let (root, good) = certificate_of_authority("127.0.0.1", 4096);
    let roots = world.home.path().join("roots.pem");
    fs::write(&roots, root).unwrap();
    let front = Front::start(HERE, server.address, &good, wants_the_token);
    let tap = Tap::start(HERE, front.address);
    let put = || {
        let mut command = world.ftx(tap.address, ["put", "a"]);
        command.env("FTX_TOKEN", TOKEN).env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
        command
    };
    for (host, last_year) in [("127.0.0.2", 4096), ("127.0.0.1", 2020)] {
        let (root, bad) = certificate_of_authority(host, last_year);
        let all = fs::read_to_string(&roots).unwrap() + &root;
        fs::write(&roots, all).unwrap();
        front.become_another(&bad);
        sends_nothing(&tap, &mut put(), 3);
        assert!(!servers(&world).exists());
    }
    front.become_another(&good);
    let output = put().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let known = fs::read_to_string(servers(&world)).unwrap();
    assert_eq!(known, format!("{{\"server\":\"{}\",\"trust\":\"roots\"}}\n", tap.address));
    // From now on nothing less is good, and nobody is asked.
    tap.take();
    front.become_another(&own_certificate());
    let said = sends_nothing(&tap, &mut put(), 3);
    assert!(said.contains("good certificate before"), "{said}");
}

#[test]
fn no_silent_plaintext() {
    let Some(address) = other_address() else {
        return not_tested("this machine has no address that others reach");
    };
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let tap = Tap::start(&SocketAddr::new(address, 0).to_string(), server.address);
    let put = || world.ftx(tap.address, ["put", "a", "--retry-for", "0"]);
    for with in [None, Some(TOKEN)] {
        let mut command = put();
        command.envs(with.map(|token| ("FTX_TOKEN", token)));
        sends_nothing(&tap, &mut command, 3);
        for no in ["", "0", "no", "perhaps"] {
            sends_nothing(&tap, command.env("FTX_PLAINTEXT", no), 3);
        }
    }
    assert!(!world.served().join("a").exists());
    // By name, and then without the token.
    let output = put().arg("--plaintext").env("FTX_TOKEN", TOKEN).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let heard = text(&tap.take().concat());
    assert!(heard.starts_with("{\"hello\":{") && !heard.contains("ftx1_"), "{heard}");
    assert_eq!(put().env("FTX_PLAINTEXT", "1").output().unwrap().status.code(), Some(0));
}

#[test]
fn an_unknown_server_in_a_script_is_refused_and_a_login_says_what_it_was() {
    let Some(address) = other_address() else {
        return not_tested("this machine has no address that others reach");
    };
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let listen = SocketAddr::new(address, 0).to_string();
    let front = Front::start(&listen, server.address, &own_certificate(), wants_nothing);
    let tap = Tap::start(&listen, front.address);
    let output = sends_nothing(&tap, &mut world.ftx(tap.address, ["put", "a", "--json"]), 3);
    assert!(output.contains("is not known here"), "{output}");
    let json = world.ftx(tap.address, ["put", "a", "--json"]).output().unwrap();
    assert!(text(&json.stdout).contains("\"class\":\"untrusted\""), "{}", text(&json.stdout));
    tap.take();
    for args in [
        ["ls"].as_slice(),
        &["put", "-r", ".", "--to", "all"],
        &["get", "-r", "x"],
        &["shell"],
        &["ping"],
    ] {
        sends_nothing(&tap, &mut world.ftx(tap.address, args), 3);
    }
    let line = format!("{}#{}", tap.address, front.pin());
    let known = world.run(tap.address, &["login", "--no-token", &line], 0);
    let said = text(&known.stdout);
    assert_eq!(said, format!("{} is known; there is no token for it\n", tap.address));
    world.run(tap.address, &["put", "a"], 0);
    world.run(tap.address, &["put", "-r", ".", "-q", "--to", "all"], 0);
    assert!(tap.take().iter().all(|bytes| bytes.first() == Some(&0x16)));
    assert_eq!(front.take_tokens().into_iter().flatten().count(), 0);
}

#[test]
fn a_login_that_fails_leaves_what_was_known_as_it_was() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    log_in(&world, &front);
    let before = fs::read(servers(&world)).unwrap();
    let other = TOKEN.replace("AAEC", "CCCC");
    let login = |words: &[&str], input: &str| {
        let args = ["login"].iter().chain(words);
        fed(&mut world.ftx(front.address, args), input)
    };
    let place = front.address.to_string();
    let failed = login(&[&place], &other);
    assert_eq!(failed.status.code(), Some(4), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).contains("login_failed"), "{}", text(&failed.stderr));
    for (input, word) in [("", "--no-token"), ("\n", "--no-token"), ("ftx1_x", "no token")] {
        let output = login(&[&place], input);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(fs::read(servers(&world)).unwrap(), before);
    let file = world.here().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    assert_eq!(login(&["--token-file", "token", &place], "").status.code(), Some(0));
    assert_eq!(fs::read(servers(&world)).unwrap(), before);
    // For one command: the environment goes before what is remembered.
    let ping = |name: &str, value: &str| {
        world.ftx(front.address, ["ping"]).env(name, value).output().unwrap()
    };
    front.take_tokens();
    assert_eq!(ping("FTX_TOKEN", &other).status.code(), Some(4));
    assert_eq!(ping("FTX_TOKEN_FILE", "token").status.code(), Some(0));
    assert_eq!(ping("FTX_TOKEN", "").status.code(), Some(0));
    assert_eq!(front.take_tokens(), [Some(other), Some(TOKEN.into()), Some(TOKEN.into())]);
    for (name, value, code) in [("FTX_TOKEN", "ftx1_AAECsecret", 2), ("FTX_TOKEN_FILE", "none", 6)]
    {
        let output = ping(name, value);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("secret"), "{}", text(&output.stderr));
    }
    // Only a login can do without.
    fs::write(&file, "\n").unwrap();
    for (name, value, words) in [
        ("FTX_TOKEN", " ", "there is no token in FTX_TOKEN\n"),
        (
            "FTX_TOKEN_FILE",
            "token",
            "there is no token in token, where FTX_TOKEN_FILE says that it is\n",
        ),
    ] {
        let output = ping(name, value);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.ends_with(words), "{name}: {said}");
    }
    let output = login(&["--token-file", "token", &place], "");
    assert!(text(&output.stderr).contains("there is no token in token; to remember"));
    assert_eq!(front.take_tokens(), []);
}

/// So the next step, which the refusal says, needs no line once more, and trusts nobody at first sight.
#[test]
fn a_server_whose_key_was_proven_is_remembered_whatever_becomes_of_the_login() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let place = front.address.to_string();
    let known =
        |token: &str| format!("{{\"server\":\"{place}\",\"trust\":\"{}\"{token}}}\n", front.pin());
    let remembered = || fs::read_to_string(servers(&world)).unwrap();
    let login = |words: &[&str], input: &str, code: i32| {
        let output = fed(&mut world.ftx(front.address, ["login"].iter().chain(words)), input);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
    };
    login(&[&front.line()], &TOKEN.replace("AAEC", "CCCC"), 4);
    assert_eq!(remembered(), known(""));
    login(&[&place], TOKEN, 0);
    assert_eq!(remembered(), known(&format!(",\"token\":\"{TOKEN}\"")));
    front.take_tokens();
    login(&["--no-token", &place], "", 0);
    assert_eq!(remembered(), known(""));
    assert_eq!(front.take_tokens(), [], "nothing is tried");
    fs::remove_file(servers(&world)).unwrap();
    login(&["--no-token", &front.line()], "", 0);
    assert_eq!(remembered(), known(""));
}

#[test]
fn refusals_that_are_about_the_login_say_what_to_do() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    fs::create_dir(world.here().join("tree")).unwrap();
    fs::write(world.here().join("tree/a"), "a").unwrap();
    let doors: [(&str, crate::front::Door); 4] = [
        ("login_required", |_| Some("login_required")),
        ("login_failed", |_| Some("login_failed")),
        ("expired", |_| Some("expired")),
        ("tls_required", |_| Some("tls_required")),
    ];
    for (code, door) in doors {
        let front = Front::start(HERE, server.address, &own_certificate(), door);
        for args in [
            ["put", "a"].as_slice(),
            &["get", "a"],
            &["put", "-r", "tree"],
            &["get", "-r", "tree"],
            &["ls"],
            &["stat", "a"],
            &["ping"],
            &["shell"],
        ] {
            let output = world.ftx(front.address, args).env("FTX_SERVER", front.line()).output();
            let output = output.unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{args:?}: {said}");
            assert!(said.contains(&format!("({code})")), "{args:?}: {said}");
            assert!(said.contains("ftx login "), "{args:?}: {said}");
        }
    }
}

#[test]
fn secret_is_never_on_argv_or_in_what_is_said() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let place = front.address.to_string();
    for words in [
        ["login", &place, TOKEN].as_slice(),
        &["login", TOKEN],
        &["login", &format!("{place}#{TOKEN}")],
        &["login", &place, "--token", TOKEN],
        &["login", &place, &format!("--token={TOKEN}")],
    ] {
        let output = world.run(front.address, words, 2);
        assert!(!text(&output.stderr).contains("AAEC"), "{}", text(&output.stderr));
    }
    assert_eq!(front.take_tokens(), []);
    let mut login = world
        .ftx(front.address, ["login", &front.line()])
        .env("RUST_LOG", "trace")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = login.stdin.take().unwrap();
    input.write_all(TOKEN.as_bytes()).unwrap();
    let line = fs::read(format!("/proc/{}/cmdline", login.id())).unwrap_or_default();
    assert!(!text(&line).contains("AAEC"));
    drop(input);
    let output = login.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&[output.stdout, output.stderr].concat()).contains("AAEC"));
}

/// Anybody may send somebody an address, with a key of their own in it.
#[test]
fn an_address_that_is_brought_along_gets_no_token_that_is_for_another() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let (at, pin) = (front.address, front.pin());
    let elsewhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let name = format!("ftx://{at}#{pin}/x");
    // The token of the environment is for the server that -s or FTX_SERVER says.
    let get = |at: SocketAddr, name: &str| {
        let output = world.ftx(at, ["get", name]).env("FTX_TOKEN", TOKEN).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(get(elsewhere, &name).contains("login_required"));
    let mut said = world.ftx(at, ["get", "x", "-s", &format!("{at}#{pin}")]);
    let said = text(&said.env("FTX_TOKEN", TOKEN).output().unwrap().stderr);
    assert!(said.contains("not_found"), "{said}");
    // What is remembered is for the server that has the certificate.
    remember(&world, &json!({"server": at.to_string(), "trust": "roots", "token": TOKEN}));
    let output = world.ftx(elsewhere, ["get", &name]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("known here by its certificate") && said.contains("--forget"), "{said}");
}

#[test]
fn a_token_in_the_place_of_a_server_is_neither_shown_nor_looked_up() {
    let world = World::new();
    let elsewhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for server in [TOKEN.to_owned(), format!("h:1#{TOKEN}"), format!("{TOKEN}:1")] {
        let address = format!("ftx://{server}");
        let name = format!("{address}/x");
        for words in [["ls", "-s", &server], ["ls", "-s", &address], ["get", "-q", &name]] {
            let output = world.ftx(elsewhere, words).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("token") && !said.contains(&TOKEN[5..15]), "{said}");
        }
    }
}

#[test]
fn a_list_of_servers_that_others_can_read_or_nobody_understands_is_not_gone_by() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 1_000);
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    log_in(&world, &front);
    let mode = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    let list = servers(&world);
    assert_eq!(mode(&list), 0o600);
    assert_eq!(mode(&list.parent().unwrap().to_owned()), 0o700);
    front.take_tokens();
    let whole = fs::read_to_string(&list).unwrap();
    for damage in [
        whole.replace("}", ",\"only\":\"Mondays\"}"),
        whole.replace("sha256:", "sha1:"),
        whole[..whole.len() / 2].to_owned(),
        format!("{whole}{whole}"),
    ] {
        fs::write(&list, &damage).unwrap();
        // Not in plain to this machine either: it may be one that is known.
        let output = world.run(server.address, &["put", "a"], 6);
        let said = text(&output.stderr);
        assert!(said.contains(list.to_str().unwrap()) && !said.contains("AAEC"), "{said}");
        world.run(front.address, &["login", &front.line()], 6);
        assert_eq!(fs::read_to_string(&list).unwrap(), damage);
    }
    fs::write(&list, &whole).unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
    let output = world.run(front.address, &["put", "a"], 6);
    assert!(text(&output.stderr).contains("chmod 600"), "{}", text(&output.stderr));
    assert_eq!(front.take_tokens(), []);
    assert!(!world.served().join("a").exists());
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();
    world.run(front.address, &["put", "a"], 0);
}

#[test]
fn a_person_at_a_terminal_is_asked_once_and_nobody_sees_the_token() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let place = front.address.to_string();
    let login = format!("{FTX} login {place}");
    let talks = |command: &str, answers: &[(&str, &str)]| {
        let mut terminal = Terminal::with(&world, command)?;
        for (question, answer) in answers {
            terminal.shows(question);
            terminal.type_in(answer);
        }
        Some(terminal.end())
    };
    let Some((code, shown)) = talks(&login, &[("[y/N]", "\n")]) else {
        return not_tested("there is no script(1)");
    };
    assert!(code == Some(3) && shown.contains(&front.pin()), "{shown}");
    assert!(!servers(&world).exists());
    let (code, shown) = talks(&login, &[("[y/N]", "\u{3}")]).unwrap();
    assert_eq!(code, Some(130), "{shown}");
    // A no is for all that one command does.
    for name in ["g1", "g2", "token"] {
        fs::write(world.here().join(name), TOKEN).unwrap();
    }
    let put = format!("FTX_TOKEN_FILE=token {FTX} put g1 g2 --server {place}");
    let (code, shown) = talks(&put, &[("[y/N]", "n\n")]).unwrap();
    assert!(code == Some(3) && shown.matches("[y/N]").count() == 1, "{shown}");
    let answers = [("[y/N]", "y\n"), ("is not shown", &format!("{TOKEN}\n"))];
    let (code, shown) = talks(&login, &answers).unwrap();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("logged in to") && !shown.contains("AAEC"), "{shown}");
    // Ctrl-C at the prompt; the terminal shows again what is typed. Ctrl-\ and Ctrl-Z are only typed.
    let (code, shown) = talks(&login, &[("is not shown", "\u{1c}\u{1a}\u{3}")]).unwrap();
    assert_eq!(code, Some(130), "{shown}");
    assert!(!shown.contains("[y/N]"), "it is known now: {shown}");
    assert_eq!(front.take_tokens(), [Some(TOKEN.to_owned())]);
    world.run(front.address, &["ping"], 0);
}

#[test]
fn what_was_typed_before_a_question_does_not_answer_it() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let go = world.here().join("go");
    let ping = format!("FTX_TOKEN={TOKEN} {FTX} ping --server {}", front.address);
    let waits = format!("until [ -e {} ]; do sleep 0.01; done; {ping}", go.display());
    let Some(mut terminal) = Terminal::with(&world, &waits) else {
        return not_tested("there is no script(1)");
    };
    terminal.type_in("y\n");
    terminal.shows("y\r\n");
    fs::write(&go, "").unwrap();
    terminal.shows("[y/N]");
    terminal.type_in("n\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(3), "{shown}");
    assert_eq!(front.take_tokens(), []);
    assert!(!servers(&world).exists());
}

#[test]
fn a_signal_at_the_hidden_prompt_leaves_a_terminal_that_shows_what_is_typed() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let id = world.here().join("id");
    let login = format!("echo $$ > {}; exec {FTX} login {}", id.display(), front.line());
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let command = format!("sh -c '{login}'; echo code=$?; stty -a");
        let Some(mut terminal) = Terminal::with(&world, &command) else {
            return not_tested("there is no script(1)");
        };
        terminal.shows("is not shown");
        let id = fs::read_to_string(&id).unwrap();
        let kill = Command::new("kill").args(["-s", signal, id.trim()]).status();
        assert!(kill.unwrap().success());
        let (_, shown) = terminal.end();
        assert!(shown.contains(&format!("code={code}")), "{shown}");
        assert!(shown.split_whitespace().any(|word| word == "echo"), "{shown}");
    }
}

/// Whoever answers late may not know what another terminal has done meanwhile.
#[test]
fn an_answer_changes_nothing_that_was_remembered_since_the_question() {
    let world = World::new();
    let server = world.serve();
    let front = Front::start(HERE, server.address, &own_certificate(), wants_the_token);
    let ping = format!("FTX_TOKEN={TOKEN} {FTX} ping --server {}", front.address);
    let asked = || {
        let mut terminal = Terminal::with(&world, &ping)?;
        terminal.shows("[y/N]");
        Some(terminal)
    };
    let Some(mut terminal) = asked() else { return not_tested("there is no script(1)") };
    log_in(&world, &front);
    let remembered = fs::read(servers(&world)).unwrap();
    terminal.type_in("y\n");
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(fs::read(servers(&world)).unwrap(), remembered, "with the token");

    fs::remove_file(servers(&world)).unwrap();
    let mut terminal = asked().unwrap();
    front.become_another(&own_certificate());
    log_in(&world, &front);
    let remembered = fs::read(servers(&world)).unwrap();
    front.take_tokens();
    terminal.type_in("y\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "it has the key that is known now: {shown}");
    assert_eq!(fs::read(servers(&world)).unwrap(), remembered);
}

#[test]
fn a_file_that_was_given_another_name_is_told_by_that_name() {
    let world = World::new();
    fs::write(world.here().join("a"), "hello").unwrap();
    fs::create_dir(world.here().join("tree")).unwrap();
    fs::write(world.here().join("tree/a"), "hello").unwrap();
    let stores = |as_name: fn(&str) -> String| {
        liar(move |talk, request| {
            let mut put = request.clone();
            while put["put"].is_null() && !put.is_null() {
                put = talk.line();
            }
            talk.past_parts();
            talk.say(json!({"done": {
                "id": put["put"]["id"], "size": 5, "digest": HELLO_DIGEST, "durability": "full",
                "name": as_name(put["put"]["name"].as_str().unwrap()),
            }}));
        })
    };
    let server = stores(|name| format!("{name}-1"));
    let hex = HELLO_DIGEST.strip_prefix("sha256:").unwrap();
    for (args, made) in
        [(["put", "a"].as_slice(), "a-1"), (&["put", "a", "--to", "b/c"], "b/c/a-1")]
    {
        let output = world.run(server, args, 0);
        assert_eq!(text(&output.stdout), format!("{hex}  {made}\n"), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("the name was taken; it is stored as {made}")), "{said}");
    }
    let output = world.run(server, &["put", "a", "--json"], 0);
    let done = done_event(&output);
    assert_eq!((&done["name"], &done["stored_as"]), (&json!("a"), &json!("a-1")));
    // Any other name is no number, and is not told as one.
    let server = stores(|name| format!("elsewhere/{name}-1"));
    for args in [["put", "a"].as_slice(), &["put", "-r", "tree"]] {
        let output = world.run(server, args, 3);
        let said = text(&output.stderr);
        assert!(said.contains("does not follow") && output.stdout.is_empty(), "{said}");
    }
}
