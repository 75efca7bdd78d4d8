//! Peers that speak something else, or mean harm.

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};

use super::line::free;
use super::*;
use crate::config::{client_config_with, provider};
use crate::error::{is_about_the_certificate, is_about_what_is_spoken};

fn server() -> (End, Peer) {
    let (raw, socket) = line(free(), free());
    (raw, Peer { tls: Tls::accept(&server_config(&identity()).unwrap()).unwrap(), socket })
}

/// A TLS alert in the clear: type 21, version, length 2, fatal.
fn is_alert(bytes: &[u8]) -> bool {
    matches!(bytes, [21, 3, _, 0, 2, 2, _])
}

#[test]
fn what_is_no_tls_gets_an_alert_once() {
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16; 400],
        &[0x16, 3, 1, 0, 4, 1, 0, 0, 0],
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
    ];
    for bytes in garbage {
        let (raw, mut server) = server();
        raw.put(bytes);
        assert_eq!(server.read(100), Read::Error(ErrorKind::InvalidData), "{bytes:?}");
        assert_eq!(server.read(100), Read::Error(ErrorKind::InvalidData), "and stays");
        assert!(!server.tls.is_ready());
        assert!(server.tls.write(&mut server.socket, b"x").is_err());
        server.tls.close(&mut server.socket).unwrap();
        let sent = server.socket.sent();
        assert!(is_alert(&sent), "{bytes:?}: {sent:?}");
    }
}

/// Garbage at every place of a good ClientHello: no panic, and an end.
#[test]
fn a_client_hello_with_one_wrong_byte() {
    let (mut client, _) = pair(free(), free());
    assert!(client.is_out());
    let hello = client.socket.sent();
    for at in 0..hello.len() {
        for wrong in [0, 0xff, hello[at] ^ 1] {
            let (raw, mut server) = server();
            let mut bytes = hello.clone();
            bytes[at] = wrong;
            raw.put(&bytes);
            raw.end();
            let read = server.read(100);
            assert!(matches!(read, Read::Error(_)), "{at}: {read:?}");
        }
    }
}

/// A record that was changed on the way is not content, and everything behind it is not either.
#[test]
fn a_changed_record_ends_it() {
    let (mut client, mut server) = pair(free(), free());
    shake_hands(&mut client, &mut server);
    let before = client.socket.sent().len();
    client.write(b"pay 10 to alice");
    let mut record = client.socket.sent()[before..].to_vec();
    // All of the record came already; what is changed comes in its place.
    server.socket.take_all();
    record[9] ^= 1;
    client.socket.put(&record);
    assert_eq!(server.read(100), Read::Error(ErrorKind::InvalidData));
    assert_eq!(client.read(100), Read::Error(ErrorKind::InvalidData), "the alert came");
}

/// A rustls client of its own, to do what ours does not.
fn other_client(change: impl FnOnce(&mut ClientConfig)) -> (ClientConnection, End, Peer) {
    let identity = identity();
    let ours = client_config(Trust::Pin(identity.pin()), &Sight::default()).unwrap();
    let mut config = ClientConfig::clone(&ours);
    change(&mut config);
    rustls_client(config, &identity)
}

fn rustls_client(config: ClientConfig, identity: &Arc<Identity>) -> (ClientConnection, End, Peer) {
    let name = "ftx".try_into().unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let (raw, socket) = line(free(), free());
    let tls = Tls::accept(&server_config(identity).unwrap()).unwrap();
    (client, raw, Peer { tls, socket })
}

/// Both ends until nothing moves; what the server's read said last, and the client's error.
fn run(
    client: &mut ClientConnection,
    raw: &mut End,
    server: &mut Peer,
) -> (Read, Option<rustls::Error>) {
    let mut said = Read::Blocked;
    for _ in 0..10 {
        while client.wants_write() {
            client.write_tls(raw).unwrap();
        }
        said = server.read(100);
        let _ = client.read_tls(raw);
        if let Err(error) = client.process_new_packets() {
            return (said, Some(error));
        }
    }
    (said, None)
}

#[test]
fn another_protocol_is_refused_and_none_is_not() {
    let (mut client, mut raw, mut server) =
        other_client(|config| config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()]);
    let (said, error) = run(&mut client, &mut raw, &mut server);
    assert_eq!(said, Read::Error(ErrorKind::InvalidData));
    assert_eq!(
        error,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol))
    );

    for protocols in [vec![], vec![b"h2".to_vec(), b"ftx/1".to_vec()]] {
        let (mut client, mut raw, mut server) =
            other_client(|config| config.alpn_protocols = protocols);
        assert_eq!(run(&mut client, &mut raw, &mut server), (Read::Blocked, None));
        assert!(server.tls.is_ready());
    }
}

/// Another service of the host, with the same key: our client says nothing to it.
#[test]
fn a_server_that_does_not_speak_ftx_is_told_nothing() {
    let identity = identity();
    let mut config = ServerConfig::clone(&server_config(&identity).unwrap());
    config.alpn_protocols.clear();
    let (one, other) = line(free(), free());
    let trust = client_config(Trust::Pin(identity.pin()), &Sight::default()).unwrap();
    let mut client = Peer { tls: Tls::connect(&trust, "ftx").unwrap(), socket: one };
    let mut server = Peer { tls: Tls::accept(&Arc::new(config)).unwrap(), socket: other };
    assert_eq!(client.read(10), Read::Blocked);
    assert_eq!(server.read(10), Read::Blocked);
    assert_eq!(client.read(10), Read::Error(ErrorKind::InvalidData));
    let error = client.tls.read(&mut client.socket, &mut [0]).unwrap_err();
    assert!(is_about_what_is_spoken(&error) && !is_about_the_certificate(&error), "{error}");
    assert!(!client.tls.is_ready());
    assert!(client.tls.write(&mut client.socket, b"secret").is_err());
}

/// A ClientHello as TLS 1.2 has it: no `supported_versions`.
#[test]
fn an_older_tls_is_refused() {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    // supported_groups: x25519, P-256; signature_algorithms: ECDSA P-256 with SHA-256.
    let extensions = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    let (raw, mut server) = server();
    raw.put(&hello);
    assert_eq!(server.read(10), Read::Error(ErrorKind::InvalidData));
    let sent = server.socket.sent();
    assert!(is_alert(&sent) && sent[6] == 70, "protocol_version: {sent:?}");
}

#[test]
fn there_are_no_tickets() {
    let (mut client, mut raw, mut server) =
        other_client(|config| config.resumption = Resumption::in_memory_sessions(10));
    assert_eq!(run(&mut client, &mut raw, &mut server), (Read::Blocked, None));
    assert_eq!(client.tls13_tickets_received(), 0);
    assert_eq!(client.protocol_version(), Some(version::TLS13.version));
    assert!(provider().cipher_suites.iter().all(|suite| suite.tls13().is_some()));
}

/// Who records it today cannot read it with a quantum computer later; and a client that knows no such exchange is served.
#[test]
fn keys_are_agreed_on_by_ml_kem_and_x25519_together_where_both_sides_can() {
    use rustls::NamedGroup::{X25519, X25519MLKEM768};
    let (mut client, mut raw, mut server) = other_client(|_| {});
    assert_eq!(run(&mut client, &mut raw, &mut server), (Read::Blocked, None));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), X25519MLKEM768);

    let identity = identity();
    let mut older = CryptoProvider::clone(&provider());
    older.kx_groups.retain(|group| group.name() == X25519);
    let trust = Trust::Pin(identity.pin());
    let config =
        client_config_with(trust, &Sight::default(), Arc::new(older), RootCertStore::empty);
    let config = ClientConfig::clone(&config.unwrap());
    let (mut client, mut raw, mut server) = rustls_client(config, &identity);
    assert_eq!(run(&mut client, &mut raw, &mut server), (Read::Blocked, None));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), X25519);
}

/// New keys for each byte: what waits to be sent must not grow while nobody writes.
#[test]
fn many_key_updates_end_it_and_fill_nothing() {
    let (mut client, mut raw, mut server) = other_client(|_| {});
    run(&mut client, &mut raw, &mut server);
    let before = server.socket.sent().len();
    let mut said = Read::Blocked;
    for _ in 0..100 {
        client.refresh_traffic_keys().unwrap();
        while client.wants_write() {
            client.write_tls(&mut raw).unwrap();
        }
        said = server.read(100);
        if said != Read::Blocked {
            break;
        }
    }
    assert_eq!(said, Read::Error(ErrorKind::InvalidData));
    assert!(server.socket.sent().len() - before < 100);
}

/// With content between them they are allowed, and the answer to them goes out with a write.
#[test]
fn a_key_update_changes_nothing_for_the_content() {
    let (mut client, mut raw, mut server) = other_client(|_| {});
    run(&mut client, &mut raw, &mut server);
    for _ in 0..100 {
        client.refresh_traffic_keys().unwrap();
        std::io::Write::write_all(&mut client.writer(), b"more").unwrap();
        while client.wants_write() {
            client.write_tls(&mut raw).unwrap();
        }
        assert_eq!(server.read(100), Read::Bytes(b"more".to_vec()));
        assert_eq!(server.write(b"yes"), 3);
        client.read_tls(&mut raw).unwrap();
        client.process_new_packets().unwrap();
        let mut answer = [0; 3];
        std::io::Read::read_exact(&mut client.reader(), &mut answer).unwrap();
    }
}

/// Records that say nothing, without an end: a handshake message in pieces that never is whole.
#[test]
fn a_flood_without_content_ends_it() {
    let (raw, mut server) = server();
    // ClientHello of 60,000 bytes, a byte in each record.
    raw.put(&[22, 3, 1, 0, 4, 1, 0, 0xea, 0x60]);
    let mut sent = 0;
    let said = loop {
        raw.put(&[22, 3, 1, 0, 1, 0].repeat(100));
        sent += 600;
        match server.read(100) {
            Read::Blocked if sent < 1 << 20 => {}
            other => break other,
        }
    };
    assert_eq!(said, Read::Error(ErrorKind::InvalidData), "{sent}");
    assert!(sent < 400_000, "{sent}");
    assert_eq!(server.tls.kept_bytes(), 0);
}
