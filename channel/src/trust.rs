//! Whether the server at the other end is the one that is meant.
//!
//! There are two ways to know: its key is the one that the user has confirmed, or the roots of this
//! system vouch for it under the name that was asked for. Which of them holds is the caller's
//! decision; that the server has the key which it shows is checked in any case.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

use crate::error::TlsError;
use crate::pin::Pin;

/// By what a client knows a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// By its key, whatever its certificate says of names and times.
    Pin(Pin),
    /// By its certificate: the roots that this system trusts vouch for it, for this host.
    Roots,
    /// Not at all: the handshake is made to fail once the key has been seen, so that nobody can be
    /// talked to by mistake. [`Sight`] has what was found.
    Ask,
}

/// What the roots of this system say of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByRoots {
    /// They vouch for it under the name that was asked for.
    Good,
    /// They do not, or there are none.
    Bad,
    /// Nobody asked them: the server is known by its key.
    NotAsked,
}

/// What a server showed of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its key.
    pub pin: Pin,
    /// Whether this system's roots vouch for it.
    pub by_roots: ByRoots,
}

/// Where the verifier leaves what it [`Found`], whether or not it let the server pass. For one
/// connection.
#[derive(Debug, Clone, Default)]
pub struct Sight(Arc<Mutex<Option<Found>>>);

impl Sight {
    /// What was found; `None` if it did not come to a certificate.
    pub fn found(&self) -> Option<Found> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, found: Found) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }
}

#[derive(Debug)]
pub(crate) struct Verifier {
    way: Way,
    sight: Sight,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Way {
    Pin(Pin),
    Roots(Arc<WebPkiServerVerifier>),
    Ask(Option<Arc<WebPkiServerVerifier>>),
}

impl Verifier {
    pub(crate) fn new(
        trust: Trust,
        sight: Sight,
        provider: &Arc<CryptoProvider>,
        roots: impl FnOnce() -> RootCertStore,
    ) -> Result<Self, TlsError> {
        let judge = || {
            let (roots, provider) = (Arc::new(roots()), Arc::clone(provider));
            WebPkiServerVerifier::builder_with_provider(roots, provider).build().ok()
        };
        let way = match trust {
            Trust::Pin(pin) => Way::Pin(pin),
            Trust::Roots => Way::Roots(judge().ok_or(TlsError::NoRoots)?),
            Trust::Ask => Way::Ask(judge()),
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { way, sight, algorithms })
    }
}

/// The roots of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. What cannot be read of them is
/// left out: a server that only it could vouch for is then not vouched for.
pub(crate) fn roots_of_the_system() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = Pin::of(certificate)?;
        let ask = |roots: &WebPkiServerVerifier| {
            let verdict = roots.verify_server_cert(certificate, others, name, ocsp, now);
            let by_roots = if verdict.is_ok() { ByRoots::Good } else { ByRoots::Bad };
            (by_roots, verdict)
        };
        let (by_roots, verdict) = match &self.way {
            Way::Pin(known) if *known == pin => {
                (ByRoots::NotAsked, Ok(ServerCertVerified::assertion()))
            }
            Way::Pin(_) => (ByRoots::NotAsked, Err(not_taken())),
            Way::Roots(roots) => ask(roots),
            Way::Ask(Some(roots)) => (ask(roots).0, Err(not_taken())),
            Way::Ask(None) => (ByRoots::Bad, Err(not_taken())),
        };
        self.sight.note(Found { pin, by_roots });
        verdict
    }

    /// Never asked: both sides speak TLS 1.3 only.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn not_taken() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
