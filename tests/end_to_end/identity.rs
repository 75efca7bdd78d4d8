//! What a server shows of itself inside TLS: where it comes from, how it is renewed, and who the
//! server is to its own system.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ftx_channel::{Identity, Pin, Sight, Tls, Trust, client_config};
use rcgen::{CertificateParams, KeyPair};

use crate::harness::{
    PATIENCE, Server, World, not_tested, run_to_its_end, text, to_its_end, until,
};

/// The key that a server shows; to ask for it ends the connection.
fn shown(server: SocketAddr) -> Pin {
    let sight = Sight::default();
    let tls = Tls::connect(&client_config(Trust::Ask, &sight).unwrap(), "ftx").unwrap();
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = tls.read(&mut socket, &mut [0]).unwrap_err();
    sight.found().unwrap_or_else(|| panic!("the server showed nothing: {error}")).pin
}

/// A connection that knows the server by its key.
struct Inside {
    tls: Tls,
    socket: TcpStream,
}

impl Inside {
    fn greeted(server: SocketAddr, pin: Pin) -> Self {
        let config = client_config(Trust::Pin(pin), &Sight::default()).unwrap();
        let tls = Tls::connect(&config, "ftx").unwrap();
        let socket = TcpStream::connect(server).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut inside = Self { tls, socket };
        until("the handshake is over", || {
            assert_eq!(inside.hear(), "");
            inside.tls.is_ready()
        });
        assert!(inside.ask("{\"hello\":{\"ftx\":1}}\n").contains("welcome"));
        inside
    }

    fn ask(&mut self, line: &str) -> String {
        self.tls.write(&mut self.socket, line.as_bytes()).unwrap();
        let mut answer = String::new();
        until("an answer comes", || {
            answer += &self.hear();
            answer.ends_with('\n')
        });
        answer
    }

    /// What has come by now.
    fn hear(&mut self) -> String {
        let mut room = [0; 4_096];
        match self.tls.read(&mut self.socket, &mut room) {
            Ok(0) => panic!("the connection has ended"),
            Ok(count) => text(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A certificate, its key, and what clients know it by.
fn new_certificate() -> (String, String, Pin) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["files.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let key = key.serialize_pem();
    let pin = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap().pin();
    (certificate, key, pin)
}

fn refused(world: &World, options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.arg("serve").arg(world.served()).args(["--listen", "127.0.0.1:0"]).args(options);
    command.env("XDG_STATE_HOME", world.home.path().join("elsewhere"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = to_its_end(command.spawn().unwrap());
    assert_eq!(output.status.code(), Some(1), "{options:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// As a program that renews certificates leaves them: links in one directory, files in another.
#[test]
fn certificate_is_reloaded_on_sighup() {
    let world = World::new();
    let at = |name: &str| world.home.path().join("tls").join(name);
    fs::create_dir_all(at("live")).unwrap();
    fs::create_dir_all(at("archive")).unwrap();
    let renew = |number: u32, certificate: &str, key: &str| {
        for (name, content) in [("cert", certificate), ("key", key)] {
            fs::write(at("archive").join(format!("{name}{number}.pem")), content).unwrap();
            symlink(format!("../archive/{name}{number}.pem"), at("live/new")).unwrap();
            fs::rename(at("live/new"), at("live").join(format!("{name}.pem"))).unwrap();
        }
    };
    let (certificate, key, first) = new_certificate();
    renew(1, &certificate, &key);
    let (cert, key) = (at("live/cert.pem"), at("live/key.pem"));
    // Who is connected says nothing for as long as this takes.
    let options = ["--cert", word(&cert), "--key", word(&key), "--idle-timeout", "1h"];
    let server = world.serve_with(&options);
    assert_eq!(shown(server.address), first);
    let mut before = Inside::greeted(server.address, first);

    let (certificate, key, second) = new_certificate();
    renew(2, &certificate, &key);
    assert_eq!(shown(server.address), first, "nobody has said that it is renewed");
    server.signal("-HUP");
    until("the new certificate is shown", || shown(server.address) == second);
    until("it is said", || server.log().contains("read the certificate anew"));

    // Half of a pair, and half of a file.
    for (number, certificate) in [(3, new_certificate().0), (4, certificate[..100].to_owned())] {
        renew(number, &certificate, &key);
        server.signal("-HUP");
        let told = || server.log().matches("the one before stays").count();
        until("it is said that this cannot be used", || told() == number as usize - 2);
        assert_eq!(shown(server.address), second);
    }
    assert!(!server.log().contains("PRIVATE"));
    // Who was connected is not disturbed.
    assert!(before.ask("{\"ping\":{\"id\":1}}\n").contains("\"id\":1"));
    Inside::greeted(server.address, second);
}

/// Of what it does not need, the server has given up the rest; this it needs.
#[test]
fn an_identity_outside_the_state_is_reloaded_on_sighup() {
    let world = World::new();
    let identity = world.home.path().join("identity");
    let server = world.serve_with(&["--require-token", "--identity", word(&identity)]);
    server.signal("-HUP");
    until("it is said", || server.log().contains("the certificate anew"));
    assert!(!server.log().contains("cannot"), "{}", server.log());
}

#[test]
fn sighup_is_no_end_where_there_is_nothing_to_renew() {
    let world = World::new();
    let server = world.serve();
    server.signal("-HUP");
    until("it is said", || server.log().contains("there is no certificate"));
    world.noise("a", 100);
    world.run(server.address, &["put", "a"], 0);
    assert!(!world.home.path().join("state-of-the-server").exists(), "state that nobody needs");
}

/// A service counts as started when its process is there. The certificate is a pipe here, which the server waits for.
#[test]
fn sighup_before_it_serves_is_heard_when_it_does() {
    let world = World::new();
    let (cert, key) = (world.home.path().join("cert"), world.home.path().join("key"));
    let (certificate, secret, _) = new_certificate();
    fs::write(&key, secret).unwrap();
    set_mode(&key, 0o600);
    assert!(Command::new("mkfifo").arg(&cert).status().unwrap().success());
    let log = world.home.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.arg("serve").arg(world.served()).args(["--listen", "127.0.0.1:0"]);
    command.args(["--cert", word(&cert), "--key", word(&key)]);
    command.env("XDG_STATE_HOME", world.home.path().join("elsewhere"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let server = Reaped(command.spawn().unwrap());
    let has_it_open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", server.0.id())).unwrap();
        let open = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        open.into_iter().any(|path| path == cert)
    };
    // It reads it once to begin with, and once more when all that it may do is settled.
    for time in 1..=3 {
        let mut pipe = fs::File::options().write(true).open(&cert).unwrap();
        if time == 1 {
            let id = server.0.id().to_string();
            assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
        }
        pipe.write_all(certificate.as_bytes()).unwrap();
        until("it has it open", &has_it_open);
        drop(pipe);
        until("it has read it", || !has_it_open());
    }
    let said = || fs::read_to_string(&log).unwrap();
    until("it says so", || said().contains("read the certificate anew"));
}

/// A process that does not outlive its test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGHUP for another reason: nobody is left who could stop it by hand.
#[test]
fn a_terminal_that_is_gone_is_an_end() {
    let world = World::new();
    let serve = format!("exec {} serve served --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_ftx"));
    let mut command = Command::new("script");
    command.args(["-q", "-c", &serve, "/dev/null"]).current_dir(world.home.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(mut terminal) = command.spawn() else {
        return not_tested("this needs the program script (the package bsdutils)");
    };
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|line| {
        line.split("listening on ").nth(1).and_then(|address| address.trim().parse().ok())
    });
    let address: SocketAddr = address.unwrap();
    drop(TcpStream::connect(address).unwrap());
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    until("the server is gone", || TcpStream::connect(address).is_err());
}

#[test]
fn an_identity_is_made_once_for_nobody_else_to_read() {
    let world = World::new();
    let state = world.home.path().join("kept");
    let options = ["--require-token", "--state", word(&state)];
    let server = world.serve_with(&options);
    let (identity, key) = (state.join("identity"), state.join("identity/key.pem"));
    assert_eq!((mode(&state), mode(&identity), mode(&key)), (0o700, 0o700, 0o600));
    let pin = shown(server.address);
    until("it says how to connect", || server.said().ends_with('\n'));
    let expected = format!("to connect: ftx login ftx://{}#{pin}\n", server.address);
    assert_eq!(server.said(), expected);
    drop(server);

    // The certificate is made anew for the same key.
    fs::remove_file(identity.join("cert.pem")).unwrap();
    assert_eq!(shown(world.serve_with(&options).address), pin);
    // Without --require-token, what is there is used.
    assert_eq!(shown(world.serve_with(&options[1..]).address), pin);
    assert_eq!(fs::read_dir(&identity).unwrap().count(), 2, "parts are left behind");

    set_mode(&key, 0o640);
    assert!(refused(&world, &options).contains("others can read"));
    fs::remove_file(&key).unwrap();
    assert!(refused(&world, &options).contains("key.pem is missing"));
    assert!(!key.exists(), "another key was made");
    // Nothing of it was ever in the directory that is served.
    let served: Vec<_> = fs::read_dir(world.served()).unwrap().flatten().collect();
    assert_eq!(served.len(), 1, "{served:?}");
}

/// A line that asks for a token is for those who have one.
#[test]
fn who_needs_no_token_is_told_so() {
    let world = World::new();
    for (listen, options) in [
        ("0.0.0.0:0", &["--allow-anyone"][..]),
        ("0.0.0.0:0", &["--drop"]),
        ("127.0.0.1:0", &["--public", "read"]),
    ] {
        let server = Server::start(&world.served(), listen, options);
        until("it says how to connect", || server.said().ends_with('\n'));
        for line in server.said().lines() {
            assert!(line.starts_with("to connect: ftx login --no-token ftx://"), "{line}");
        }
        let here = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
        let line = format!("ftx://{here}#{}", shown(here));
        world.run(here, &["login", "--no-token", &line], 0);
    }
}

/// On loopback as well, where nobody needs one to do what everybody may.
#[test]
fn a_token_can_be_used_where_not_everybody_may_do_everything_and_where_there_is_one() {
    let world = World::new();
    let kept = world.home.path().join("state-of-the-server");
    let add = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
        command.args(["token", "--of", word(&world.served()), "add", name, "--can", "read,write"]);
        let output = command.env("XDG_STATE_HOME", &kept).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let puts = |server: &Server, token: &str, name: &str| {
        let place = format!("{}#{}", server.address, shown(server.address));
        let mut put = world.ftx(server.address, ["put", "a", "--as", name, "-s", &place]);
        let output = put.env("FTX_TOKEN", token.trim()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    world.noise("a", 100);
    for (number, options) in [&["--public", "read"][..], &["--drop"]].into_iter().enumerate() {
        let server = world.serve_with(options);
        let name = format!("t{number}");
        puts(&server, &add(&name), &name);
    }
    fs::remove_dir_all(&kept).unwrap();
    // Made before there was a server.
    let token = add("alice");
    puts(&world.serve(), &token, "alice");
}

/// Whoever listens everywhere says an address under which others find it, though they may not know its name.
#[test]
fn a_server_that_listens_everywhere_says_an_address() {
    let world = World::new();
    let server = Server::start(&world.served(), "0.0.0.0:0", &[]);
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let by_name = format!("to connect: ftx login ftx://{name}:{}#", server.address.port());
    until("it says how to connect", || server.said().contains(&by_name));
    let said = server.said();
    let first = said.lines().next().unwrap();
    if first.starts_with(&by_name) {
        return not_tested("this machine has no way to others");
    }
    let (address, pin) =
        first.strip_prefix("to connect: ftx login ftx://").unwrap().split_once('#').unwrap();
    assert_eq!(shown(address.parse().unwrap()).to_string(), pin);
}

#[test]
fn a_key_in_the_served_directory_is_refused() {
    let world = World::new();
    let (certificate, key, _) = new_certificate();
    let served = world.served();
    fs::write(served.join("cert.pem"), certificate).unwrap();
    fs::write(served.join("key.pem"), key).unwrap();
    // By another name, too.
    let other = world.home.path().join("other");
    symlink(&served, &other).unwrap();
    for directory in [&served, &other] {
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        let said = refused(&world, &["--cert", word(&cert), "--key", word(&key)]);
        assert!(said.contains("must not be in the directory that is served"), "{said}");
        let identity = directory.join("identity");
        let said = refused(&world, &["--identity", word(&identity)]);
        assert!(said.contains("must not be in the directory that is served"), "{said}");
        let state = directory.join("state");
        let said = refused(&world, &["--require-token", "--state", word(&state)]);
        assert!(said.contains("inside"), "{said}");
        assert!(!identity.exists() && !state.exists());
    }
}

/// By what is mounted elsewhere, too.
#[test]
fn a_key_in_a_bind_mount_of_the_served_directory_is_refused() {
    let world = World::new();
    let mounted = world.home.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let serve = "mount --bind \"$1\" \"$2\" || exit 77; \
                 exec \"$0\" serve \"$1\" --listen 127.0.0.1:0 --identity \"$2/identity\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", serve, env!("CARGO_BIN_EXE_ftx")]);
    command.arg(world.served()).arg(&mounted).stdin(Stdio::null());
    command.env("XDG_STATE_HOME", world.home.path().join("elsewhere"));
    let output = run_to_its_end(&mut command);
    let said = text(&output.stderr);
    if output.status.code() == Some(77) || said.starts_with("unshare") {
        return not_tested("this needs root: a mount");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("must not be in the directory that is served"), "{said}");
    assert_eq!(fs::read_dir(world.served()).unwrap().count(), 0);
}

#[test]
fn a_certificate_of_others_is_announced_by_its_name_and_without_a_key() {
    let world = World::new();
    let at = |name: &str| world.home.path().join(name);
    let (certificate, key, _) = new_certificate();
    fs::write(at("cert"), certificate).unwrap();
    fs::write(at("key"), key).unwrap();
    let (cert, key) = (at("cert"), at("key"));
    let server = world.serve_with(&["--require-token", "--cert", word(&cert), "--key", word(&key)]);
    until("it says how to connect", || server.said().ends_with('\n'));
    let port = server.address.port();
    let expected = format!("to connect: ftx login ftx://files.example:{port}\n");
    assert_eq!(server.said(), expected);
    let said = refused(&world, &["--cert", word(&key), "--key", word(&key)]);
    assert!(said.contains("the certificate"), "{said}");
    let said = refused(&world, &["--cert", word(&cert), "--key", word(&at("none"))]);
    assert!(said.contains("cannot read"), "{said}");
}

/// Whom root starts a server for.
const USER: &str = "nobody";

/// That user's numbers, and those of the group.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        not_tested("--user needs root");
        return None;
    }
    let id = |option| Command::new("id").args([option, USER]).output().unwrap().stdout;
    let number = |option| text(&id(option)).trim().parse::<u32>().unwrap();
    Some((number("-u"), number("-g")))
}

/// A server that is started as root is somebody else when it takes the first byte.
#[test]
fn user_is_who_serves() {
    let Some((uid, gid)) = user() else { return };
    let world = World::new();
    // A temporary directory is for its owner only.
    set_mode(world.home.path(), 0o755);
    let (new, state) = (world.home.path().join("new"), world.home.path().join("kept"));
    let options = ["--user", USER, "--state", word(&state), "--identity"];
    let identity = state.join("identity");
    let options = [&options[..], &[word(&identity)]].concat();
    let server = Server::start(&new, "127.0.0.1:0", &options);
    world.noise("a", 10_000);
    world.run(server.address, &["put", "a"], 0);
    let pin = shown(server.address);

    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), vec![uid.to_string(); 4]);
    assert_eq!(line("Gid:"), vec![gid.to_string(); 4]);
    assert_eq!(line("Groups:"), Vec::<String>::new());
    assert_eq!(line("CapEff:"), ["0000000000000000"]);
    assert_eq!(line("CapPrm:"), ["0000000000000000"]);
    let key = identity.join("key.pem");
    for path in [&new, &new.join("a"), &state, &identity, &key] {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{}", path.display());
    }
    assert_eq!(mode(&key), 0o600);
    // What it needs while it runs, it can still do.
    server.signal("-HUP");
    until("the key is read again", || server.log().contains("read the certificate anew"));
    drop(server);
    // And so it is when it is started again.
    assert_eq!(shown(Server::start(&new, "127.0.0.1:0", &options).address), pin);

    // A link that the user has put there is not followed.
    let secret = world.home.path().join("secret");
    fs::write(&secret, "of root").unwrap();
    symlink(&secret, state.join("usage.old")).unwrap();
    fs::hard_link(&secret, state.join("other")).unwrap();
    // Nor does it get what of root's it has moved there from another directory of its own.
    let moved = state.join("moved");
    fs::write(&moved, "of root").unwrap();
    let _server = Server::start(&new, "127.0.0.1:0", &options);
    for path in [&secret, &moved] {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
    }
}

/// What root has made for the server before it is another user is that user's then.
#[test]
fn state_of_root_is_handed_over() {
    let Some((uid, _)) = user() else { return };
    let world = World::new();
    set_mode(world.home.path(), 0o755);
    let state = world.home.path().join("kept");
    let mut token = Command::new(env!("CARGO_BIN_EXE_ftx"));
    token.args(["token", "--state", word(&state), "add", "alice", "--can", "read"]);
    assert!(token.output().unwrap().status.success());
    assert_eq!(fs::metadata(&state).unwrap().uid(), 0);
    let options = ["--user", USER, "--require-token", "--state", word(&state)];
    let _server = Server::start(&world.home.path().join("new"), "127.0.0.1:0", &options);
    let names = ["", "tokens", "tokens.lock", "served", "identity", "identity/key.pem"];
    for path in names.map(|name| state.join(name)) {
        assert_eq!(fs::metadata(&path).unwrap().uid(), uid, "{}", path.display());
    }
}

/// What only root gets to is not given to another user, who could do nothing with it; nor is it made for one.
#[test]
fn state_that_the_user_does_not_get_to_stays_roots() {
    if user().is_none() {
        return;
    }
    let world = World::new();
    let state = world.home.path().join("state-of-the-server");
    fs::create_dir(&state).unwrap();
    set_mode(&state, 0o700);
    let options = ["--user", USER, "--require-token"];
    let refuses = || {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_ftx"));
        serve.arg("serve").arg(world.served()).args(["--listen", "127.0.0.1:0"]).args(options);
        serve.env("XDG_STATE_HOME", &state).stdin(Stdio::null());
        let output = serve.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("say --state DIR") && said.lines().count() == 1, "{said}");
    };
    refuses();
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing was made");
    drop(world.serve_with(&["--require-token"]));
    refuses();
    drop(world.serve_with(&["--require-token"]));
}

/// Root makes nothing, and gives nothing away, where a link of the user leads.
#[test]
fn root_is_led_nowhere_by_the_user() {
    let Some((uid, gid)) = user() else { return };
    let world = World::new();
    let at = |name: &str| world.home.path().join(name);
    set_mode(world.home.path(), 0o755);
    for directory in ["of-root", "of-user"] {
        fs::create_dir(at(directory)).unwrap();
    }
    chown(at("of-user"), Some(uid), Some(gid)).unwrap();
    symlink(at("of-root"), at("of-user/way")).unwrap();
    lchown(at("of-user/way"), Some(uid), Some(gid)).unwrap();
    let state = at("kept");
    for options in [
        ["--state", word(&at("of-user/way/state"))],
        ["--identity", word(&at("of-user/way/identity"))],
        ["--identity", word(&at("of-user/way"))],
    ] {
        let state = ["--user", USER, "--require-token", "--state", word(&state)];
        let options = match options[0] {
            "--state" => [&state[..3], &options].concat(),
            _ => [&state[..], &options].concat(),
        };
        let said = refused(&world, &options);
        assert!(said.contains("lead root anywhere") || said.contains("is a link"), "{said}");
    }
    let mut serve = Command::new(env!("CARGO_BIN_EXE_ftx"));
    serve.arg("serve").arg(at("of-user/way/served")).args(["--listen", "127.0.0.1:0"]);
    serve.args(["--user", USER]).env("XDG_STATE_HOME", at("elsewhere"));
    serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = to_its_end(serve.spawn().unwrap());
    assert!(text(&output.stderr).contains("lead root anywhere"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(at("of-root")).unwrap().count(), 0);
    // A link of root's own leads on, and so does one of the user's to what is the user's.
    fs::create_dir(at("of-user/real")).unwrap();
    symlink("real", at("of-user/short")).unwrap();
    for path in ["of-user/real", "of-user/short"] {
        lchown(at(path), Some(uid), Some(gid)).unwrap();
    }
    symlink(at("of-user/short"), at("link")).unwrap();
    let (state, identity) = (at("link/state"), at("link/more/identity"));
    let options = ["--user", USER, "--require-token", "--state", word(&state)];
    let options = [&options[..], &["--identity", word(&identity)]].concat();
    let _server = Server::start(&at("link/served"), "127.0.0.1:0", &options);
    for name in ["state", "state/tokens", "more", "more/identity", "served"] {
        let path = at("of-user/real").join(name);
        assert_eq!(fs::metadata(&path).unwrap().uid(), uid, "{name}");
    }
}

#[test]
fn user_is_somebody_else_and_is_there() {
    let world = World::new();
    assert!(refused(&world, &["--user", "root"]).contains("else than root"));
    assert!(refused(&world, &["--user", "no-such-user-here"]).contains("no user"));
}
