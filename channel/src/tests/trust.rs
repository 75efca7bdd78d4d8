//! Which servers a client talks to.

use rcgen::{BasicConstraints, IsCa, Issuer, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::line::free;
use super::*;
use crate::config::{client_config_with, provider};
use crate::error::is_about_the_certificate;
use crate::{ByRoots, Found};

/// An authority, and a server that it vouches for.
struct Authority {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn vouch(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let pem = key.serialize_pem();
        Arc::new(Identity::from_pem(certificate.as_bytes(), pem.as_bytes()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
        store
    }
}

/// What a client that trusts in this way comes to at this server.
struct Met {
    error: Option<std::io::Error>,
    found: Option<Found>,
    /// Whether anything but a ClientHello and an alert went out.
    ready: [bool; 2],
}

fn meet(server: &Arc<Identity>, trust: Trust, host: &str, roots: RootCertStore) -> Met {
    let sight = Sight::default();
    let config = client_config_with(trust, &sight, provider(), || roots).unwrap();
    let (one, other) = line(free(), free());
    let mut client = Peer { tls: Tls::connect(&config, host).unwrap(), socket: one };
    let mut server =
        Peer { tls: Tls::accept(&server_config(server).unwrap()).unwrap(), socket: other };
    assert_eq!(client.read(1), Read::Blocked);
    assert_eq!(server.read(1), Read::Blocked);
    let error = client.tls.read(&mut client.socket, &mut [0]).unwrap_err();
    let error = (error.kind() != ErrorKind::WouldBlock).then_some(error);
    if error.is_some() {
        assert!(client.tls.write(&mut client.socket, b"secret").is_err());
        let said = server.read(1);
        assert_eq!(said, Read::Error(ErrorKind::InvalidData), "the client's alert");
    } else {
        assert_eq!(server.read(1), Read::Blocked);
    }
    Met { error, found: sight.found(), ready: [client.tls.is_ready(), server.tls.is_ready()] }
}

impl Met {
    fn is_refused(&self) -> bool {
        let refused = self.error.as_ref().is_some_and(is_about_the_certificate);
        assert_eq!(refused, self.error.is_some());
        assert_eq!(self.ready, [!refused; 2]);
        refused
    }
}

#[test]
fn a_pin_takes_its_key_and_no_other() {
    let (server, other) = (identity(), identity());
    let none = RootCertStore::empty;
    let met = meet(&server, Trust::Pin(server.pin()), "whatever.example", none());
    assert!(!met.is_refused());
    assert_eq!(met.found, Some(Found { pin: server.pin(), by_roots: ByRoots::NotAsked }));
    // It tells which key it was: the user has to be told both.
    let met = meet(&server, Trust::Pin(other.pin()), "whatever.example", none());
    assert!(met.is_refused());
    assert_eq!(met.found, Some(Found { pin: server.pin(), by_roots: ByRoots::NotAsked }));
}

/// Whoever has only the certificate, which is public, is not the server.
#[test]
fn a_certificate_without_its_key_is_nobody() {
    use rustls::sign::CertifiedKey;
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Thief {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let (certificate, key) = own();
    let pin = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap().pin();
    let other = KeyPair::generate().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(other.serialize_der().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let mut config = rustls::ServerConfig::clone(&server_config(&identity()).unwrap());
    config.cert_resolver = Arc::new(Thief(Arc::new(CertifiedKey::new(chain, key))));

    let trust = client_config(Trust::Pin(pin), &Sight::default()).unwrap();
    let (one, other) = line(free(), free());
    let mut client = Peer { tls: Tls::connect(&trust, "ftx").unwrap(), socket: one };
    let mut server = Peer { tls: Tls::accept(&Arc::new(config)).unwrap(), socket: other };
    assert_eq!(client.read(1), Read::Blocked);
    assert_eq!(server.read(1), Read::Blocked);
    assert_eq!(client.read(1), Read::Error(ErrorKind::InvalidData));
    assert!(!client.tls.is_ready());
}

#[test]
fn roots_take_the_right_name_at_the_right_time() {
    let authority = Authority::new();
    let server = authority.vouch("files.example", |_| {});
    let met = meet(&server, Trust::Roots, "files.example", authority.roots());
    assert!(!met.is_refused());
    assert_eq!(met.found, Some(Found { pin: server.pin(), by_roots: ByRoots::Good }));

    let refused = |server: &Arc<Identity>, host, roots| {
        let met = meet(server, Trust::Roots, host, roots);
        assert_eq!(met.found.map(|found| found.by_roots), Some(ByRoots::Bad));
        met.is_refused()
    };
    assert!(refused(&server, "other.example", authority.roots()));
    assert!(refused(&server, "127.0.0.1", authority.roots()));
    assert!(refused(&server, "files.example", Authority::new().roots()));
    assert!(refused(&identity(), "ftx", authority.roots()));
    let expired = authority.vouch("files.example", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    assert!(refused(&expired, "files.example", authority.roots()));
    let early = authority.vouch("files.example", |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
    });
    assert!(refused(&early, "files.example", authority.roots()));
}

#[test]
fn roots_vouch_for_addresses_too() {
    let authority = Authority::new();
    let server = authority.vouch("10.1.2.3", |_| {});
    assert!(!meet(&server, Trust::Roots, "10.1.2.3", authority.roots()).is_refused());
    assert!(meet(&server, Trust::Roots, "10.1.2.4", authority.roots()).is_refused());
    let server = authority.vouch("fe80::1", |_| {});
    assert!(!meet(&server, Trust::Roots, "fe80::1%eth0", authority.roots()).is_refused());
}

/// To ask is to fail, whatever is found.
#[test]
fn asking_tells_and_talks_to_nobody() {
    let authority = Authority::new();
    let server = authority.vouch("files.example", |_| {});
    let cases = [
        ("files.example", authority.roots(), ByRoots::Good),
        ("other.example", authority.roots(), ByRoots::Bad),
        ("files.example", RootCertStore::empty(), ByRoots::Bad),
    ];
    for (host, roots, by_roots) in cases {
        let met = meet(&server, Trust::Ask, host, roots);
        assert!(met.is_refused());
        assert_eq!(met.found, Some(Found { pin: server.pin(), by_roots }));
    }
}

#[test]
fn without_roots_nobody_can_be_known_by_them() {
    let config =
        client_config_with(Trust::Roots, &Sight::default(), provider(), RootCertStore::empty);
    assert!(matches!(config, Err(crate::TlsError::NoRoots)));
}

#[test]
fn a_host_has_a_name() {
    let trust = client_config(Trust::Pin(identity().pin()), &Sight::default()).unwrap();
    for host in ["ftx", "my_host.local", "10.0.0.1", "::1", "fe80::1%3", "example.com."] {
        assert!(Tls::connect(&trust, host).is_ok(), "{host}");
    }
    for host in ["", "a b", "host/x", "%eth0", "\u{7f}"] {
        assert!(Tls::connect(&trust, host).is_err(), "{host}");
    }
}

/// A handshake takes the certificate that is current then.
#[test]
fn a_certificate_is_replaced_for_those_who_come_later() {
    let server = identity();
    let before = server.pin();
    let (certificate, key) = own();
    server.replace(certificate.as_bytes(), key.as_bytes()).unwrap();
    let none = RootCertStore::empty;
    assert!(meet(&server, Trust::Pin(before), "ftx", none()).is_refused());
    assert!(!meet(&server, Trust::Pin(server.pin()), "ftx", none()).is_refused());
}
