//! Who encrypts is chosen by the processor, so each side may meet each library at the other.

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{CipherSuite, RootCertStore};

use super::line::free;
use super::*;
use crate::config::{client_config_with, provider, provider_by, server_config_with};
use crate::suites::Sealer;

const SEALERS: [Sealer; 2] = [Sealer::AwsLc, Sealer::Ring];

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

#[test]
fn each_sealer_has_its_own_suites_and_in_the_same_order() {
    for sealer in SEALERS {
        let suites: Vec<_> = sealer.suites().iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites, SUITES, "{sealer:?}");
    }
    let own = |sealer: Sealer| sealer.suites()[0].tls13().unwrap();
    let aws_lc = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let ring = ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    assert!(std::ptr::eq(own(Sealer::AwsLc), aws_lc));
    assert!(std::ptr::eq(own(Sealer::Ring), ring));
    let chosen = provider().cipher_suites[0].tls13().unwrap();
    assert!(std::ptr::eq(chosen, own(Sealer::fastest_here())));
}

/// The kernel tells of the processor in another way.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_sealer_is_the_one_for_this_processor() {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = told.lines().find(|line| line.starts_with("flags")).unwrap();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    let wide = ["vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512dq", "avx512vl"].map(has);
    let expected = if wide == [true; 6] { Sealer::AwsLc } else { Sealer::Ring };
    assert_eq!(Sealer::fastest_here(), expected);
}

#[test]
fn each_sealer_understands_each_other_in_each_suite() {
    let content: Vec<u8> = (0..100_000).map(|at| (at % 251) as u8).collect();
    for client in SEALERS {
        for (server, suite) in
            SEALERS.iter().flat_map(|server| SUITES.map(|suite| (*server, suite)))
        {
            let (mut one, mut other) = pair_by(client, server, suite);
            shake_hands(&mut one, &mut other);
            for way in ["to the server", "to the client"] {
                let came = carry(&mut one, &mut other, &content);
                assert!(came == content, "{client:?}, {server:?}, {suite:?}, {way}");
                std::mem::swap(&mut one, &mut other);
            }
        }
    }
}

fn pair_by(client: Sealer, server: Sealer, suite: CipherSuite) -> (Peer, Peer) {
    let identity = identity();
    let mut provider = CryptoProvider::clone(&provider_by(client));
    provider.cipher_suites.retain(|has| has.suite() == suite);
    let (provider, trust) = (Arc::new(provider), Trust::Pin(identity.pin()));
    let client = client_config_with(trust, &Sight::default(), provider, RootCertStore::empty);
    let server = server_config_with(&identity, provider_by(server));
    let (one, other) = line(free(), free());
    (
        Peer { tls: Tls::connect(&client.unwrap(), "ftx").unwrap(), socket: one },
        Peer { tls: Tls::accept(&server.unwrap()).unwrap(), socket: other },
    )
}

fn carry(from: &mut Peer, to: &mut Peer, content: &[u8]) -> Vec<u8> {
    let mut sent = 0;
    let mut came = Vec::new();
    while sent < content.len() {
        sent += from.write(&content[sent..]);
        came.extend(to.read_all().0);
    }
    came
}
