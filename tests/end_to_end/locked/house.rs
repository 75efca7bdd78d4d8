//! A server that wants TLS and a token, though it is on this machine only; and those who come to it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ftx_channel::{Identity, Pin};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::{Server, World, text, until};
use crate::talk::Talk;
pub use crate::talk::{Inside, Secured, introduced, put, word};

pub const FTX: &str = env!("CARGO_BIN_EXE_ftx");

/// The server, its state and its world.
pub struct House {
    pub world: World,
    pub server: Server,
    pub pin: Pin,
    options: Vec<String>,
}

impl House {
    /// One that nobody gets into without a token.
    pub fn locked() -> Self {
        Self::with(&["--require-token"])
    }

    /// One with these options. It speaks TLS in any case.
    pub fn with(options: &[&str]) -> Self {
        Self::started(World::new(), options, |_| {})
    }

    /// One whose command is made ready further, by an environment or by another program in front.
    pub fn started(world: World, options: &[&str], ready: impl FnOnce(&mut Command)) -> Self {
        let mut command = serve(&world, "127.0.0.1:0", options);
        ready(&mut command);
        let server = Server::spawn(command);
        let pin = pin(&state(&world));
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { world, server, pin, options }
    }

    /// kill -9, and another one in its place.
    pub fn kill_and_restart(&mut self) {
        self.server.kill();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let place = self.server.address.to_string();
        self.server = Server::spawn(serve(&self.world, &place, &options));
    }

    pub fn state(&self) -> PathBuf {
        state(&self.world)
    }

    /// The line that leads to it, by way of this address.
    pub fn line_by(&self, address: SocketAddr) -> String {
        format!("ftx://{address}#{}", self.pin)
    }

    /// `ftx token` with these words, about this server.
    pub fn token(&self, words: &[&str]) -> Output {
        let mut command = Command::new(FTX);
        command.args(["token", "--state"]).arg(self.state()).args(words).env_remove("RUST_LOG");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        output
    }

    /// Makes a token, and returns it.
    pub fn add(&self, name: &str, can: &str) -> String {
        self.add_with(name, can, &[])
    }

    pub fn add_with(&self, name: &str, can: &str, words: &[&str]) -> String {
        let output = self.token(&[&["add", name, "--can", can], words].concat());
        text(&output.stdout).trim_end().to_owned()
    }

    /// What the log has of the id of the token that was made last, of this name.
    pub fn id_of(&self, name: &str) -> String {
        let tokens = fs::read_to_string(self.state().join("tokens")).unwrap();
        let line: Value = serde_json::from_str(tokens.lines().last().unwrap()).unwrap();
        assert_eq!(line["name"], name);
        line["id"].as_str().unwrap()[..8].to_owned()
    }

    pub fn remove(&self, name: &str) {
        self.token(&["rm", name]);
    }

    /// The client, with a token, or with none.
    pub fn ftx(&self, token: Option<&str>, args: &[&str]) -> Command {
        self.ftx_by(self.server.address, token, args)
    }

    /// The same by way of another address.
    pub fn ftx_by(&self, address: SocketAddr, token: Option<&str>, args: &[&str]) -> Command {
        let mut command = self.world.ftx(address, args);
        command.env("FTX_SERVER", self.line_by(address)).envs(token.map(|t| ("FTX_TOKEN", t)));
        command
    }

    /// Runs the client to its end, and expects this exit code.
    pub fn run(&self, token: Option<&str>, args: &[&str], code: i32) -> Output {
        let output = self.ftx(token, args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        output
    }

    /// Connected inside TLS, and nothing said yet.
    pub fn connected(&self) -> Inside {
        Talk::inside(Secured::connect(self.server.address, self.pin).unwrap())
    }

    /// What it says to a hello with a token, or with none: `welcome`, or the code of a refusal.
    pub fn hello(&self, token: Option<&str>) -> (Inside, String) {
        let mut talk = self.connected();
        let word = introduced(&mut talk, token);
        (talk, word)
    }

    /// Somebody who was let in.
    pub fn talk(&self, token: &str) -> Inside {
        let (talk, word) = self.hello(Some(token));
        assert_eq!(word, "welcome");
        talk
    }

    /// The names in the served directory, and below it, but for what the server keeps there.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.world.served(), &self.world.served(), &mut names);
        names.sort();
        names
    }

    /// Writes the tokens file anew, as `ftx token` does it.
    pub fn change_tokens(&self, change: impl FnOnce(String) -> String) {
        let path = self.state().join("tokens");
        let new = self.state().join("tokens.by-hand");
        fs::write(&new, change(fs::read_to_string(&path).unwrap())).unwrap();
        fs::set_permissions(&new, fs::metadata(&path).unwrap().permissions()).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub fn until_logged(&self, what: &str) {
        until(&format!("the log has {what}"), || self.server.log().contains(what));
    }
}

fn serve(world: &World, listen: &str, options: &[&str]) -> Command {
    let state = state(world);
    let mut command = Command::new(FTX);
    command.arg("serve").arg(world.served());
    command.args(["--listen", listen, "--min-free", "0", "--state"]).arg(&state);
    command.arg("--identity").arg(state.join("identity")).args(options).env_remove("RUST_LOG");
    command
}

fn state(world: &World) -> PathBuf {
    world.home.path().join("kept")
}

fn pin(state: &Path) -> Pin {
    let read = |name| fs::read(state.join("identity").join(name)).unwrap();
    Identity::from_pem(&read("cert.pem"), &read("key.pem")).unwrap().pin()
}

fn walk(root: &Path, directory: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if name == ".ftx" {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, names);
        }
        names.push(name);
    }
}

/// A connection from this address of the machine.
pub fn connect_from(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}
