//! Both sides against each other in memory.

mod flow;
mod line;
mod peers;
mod suites;
mod trust;

use std::io::ErrorKind;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};

use crate::{Identity, Pin, Sight, Tls, Trust, client_config, server_config};
use line::{End, Pace, line};

/// A certificate that vouches for itself, as `ftx serve` makes one, and its key.
fn own() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["ftx".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn identity() -> Arc<Identity> {
    let (certificate, key) = own();
    Arc::new(Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap())
}

/// One side with its socket.
struct Peer {
    tls: Tls,
    socket: End,
}

/// What a call came to.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Bytes(Vec<u8>),
    Blocked,
    End,
    Error(ErrorKind),
}

impl Peer {
    fn read(&mut self, room: usize) -> Read {
        let mut bytes = vec![0; room];
        match self.tls.read(&mut self.socket, &mut bytes) {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(bytes[..count].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::Blocked,
            Err(error) => Read::Error(error.kind()),
        }
    }

    /// Everything up to the next block, or the end.
    fn read_all(&mut self) -> (Vec<u8>, Read) {
        let mut all = Vec::new();
        loop {
            match self.read(5_000) {
                Read::Bytes(bytes) => all.extend(bytes),
                other => return (all, other),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.tls.write(&mut self.socket, bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn is_out(&mut self) -> bool {
        match self.tls.flush(&mut self.socket) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Client and server that know each other.
fn pair(client: Pace, server: Pace) -> (Peer, Peer) {
    let identity = identity();
    let config = client_config(Trust::Pin(identity.pin()), &Sight::default()).unwrap();
    let (one, other) = line(client, server);
    (
        Peer { tls: Tls::connect(&config, "ftx.example").unwrap(), socket: one },
        Peer { tls: Tls::accept(&server_config(&identity).unwrap()).unwrap(), socket: other },
    )
}

/// The calls that two sides with nothing to say make until the handshake is over.
fn shake_hands(client: &mut Peer, server: &mut Peer) {
    for _ in 0..100_000 {
        if client.tls.is_ready() && server.tls.is_ready() && client.is_out() && server.is_out() {
            return;
        }
        assert_eq!(client.read(1), Read::Blocked);
        assert_eq!(server.read(1), Read::Blocked);
    }
    panic!("the handshake comes to no end");
}

#[test]
fn a_pin_is_written_and_read() {
    let pin = identity().pin();
    let text = pin.to_string();
    assert_eq!(text.len(), "sha256:".len() + 64);
    assert_eq!(text.parse(), Ok(pin));
    assert_eq!(text.to_uppercase().replace("SHA256", "sha256").parse(), Ok(pin));
    for wrong in ["", "sha256:", &text[1..], &text[..70], &format!("{text}0"), &format!("{text} ")]
    {
        assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
    }
}

#[test]
fn the_pin_is_the_digest_of_the_key_and_stays_with_it() {
    let key = KeyPair::generate().unwrap();
    let pin = |name: &str| {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let pem = key.serialize_pem();
        Identity::from_pem(certificate.as_bytes(), pem.as_bytes()).unwrap().pin()
    };
    assert_eq!(pin("one"), pin("other"));
    use rcgen::PublicKeyData;
    use sha2::Digest;
    let digest = sha2::Sha256::digest(key.subject_public_key_info());
    assert_eq!(
        pin("one").to_string(),
        format!("sha256:{}", data_encoding::HEXLOWER.encode(&digest))
    );
}

#[test]
fn an_identity_that_cannot_be_used_is_refused_and_replaces_nothing() {
    let (certificate, key) = own();
    let (other_certificate, other_key) = own();
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let pin = identity.pin();
    let broken = certificate.replace("MII", "MIJ");
    let wrong: [(&str, &str, &str); 7] = [
        (&certificate, &other_key, "another key"),
        (&key, &key, "no certificate"),
        (&certificate, &certificate, "no key"),
        ("", &key, "empty certificate"),
        (&certificate, "", "empty key"),
        (&certificate[..200], &key, "half of a certificate"),
        (&broken, &key, "not DER"),
    ];
    for (certificate, key, what) in wrong {
        let error = identity.replace(certificate.as_bytes(), key.as_bytes()).expect_err(what);
        assert!(!error.to_string().contains("PRIVATE"), "{error}");
        assert_eq!(identity.pin(), pin, "{what}");
    }
    identity.replace(other_certificate.as_bytes(), other_key.as_bytes()).unwrap();
    assert_ne!(identity.pin(), pin);
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}
