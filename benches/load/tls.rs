//! Connections inside TLS, which have said who they are.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use ftx_channel::{ClientConfig, Sight, Tls, Trust, client_config};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use crate::cases::{WARM, quiet, row};
use crate::server::Locked;
use crate::{Options, Row};

/// Connections that shook hands, gave a token and were welcomed, and nothing more.
pub fn idle(options: &Options) -> Vec<Row> {
    let Locked { server, pin, token, .. } = &Locked::start(&options.memory, options.threads);
    let config = client_config(Trust::Pin(*pin), &Sight::default()).unwrap();
    let (count, before) = (options.pick(5_000, 200), server.cpu_seconds());
    let (each, cpu) = quiet(server, count, || welcomed(server.address, &config, token));
    let login = (server.cpu_seconds() - before) / (count + WARM) as f64 * 1e6;
    let figure = format!("{each:.0} bytes each; {login:.0} µs of the server's CPU to let each in");
    vec![row(format!("{count} idle connections inside TLS, with a token"), figure, "-"), cpu]
}

/// The socket of one, without the memory that a client needs.
fn welcomed(server: SocketAddr, config: &Arc<ClientConfig>, token: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let tls = Tls::connect(config, "127.0.0.1").unwrap();
    loop {
        assert_eq!(came(&tls, &mut socket), b"");
        if tls.is_ready() {
            break;
        }
        wait(&socket);
    }
    let hello = format!("{}\n", json!({"hello": {"ftx": 1, "token": token}}));
    assert_eq!(tls.write(&mut socket, hello.as_bytes()).unwrap(), hello.len());
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        wait(&socket);
        line.extend(came(&tls, &mut socket));
    }
    let welcome: Value = serde_json::from_slice(&line).unwrap();
    assert!(welcome["welcome"].is_object(), "{welcome}");
    socket
}

/// What is there to read now.
fn came(tls: &Tls, socket: &mut TcpStream) -> Vec<u8> {
    let mut room = [0; 1024];
    match tls.read(socket, &mut room) {
        Ok(0) => panic!("the server has hung up"),
        Ok(count) => room[..count].to_vec(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

fn wait(socket: &TcpStream) {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
}
