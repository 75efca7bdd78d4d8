//! What a server shows of itself: a certificate and the key to it.
//!
//! It can be replaced while the server runs: each handshake takes the one that is current then, and
//! what is connected already stays as it is. Where the two texts come from is the caller's matter.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::provider;
use crate::error::TlsError;
use crate::pin::Pin;

/// The certificate and key that a server has now.
pub struct Identity {
    now: Mutex<Shown>,
}

#[derive(Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    pin: Pin,
}

impl Identity {
    /// From the certificate, with those that lead to its root behind it, and its key, both as PEM.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Ok(Self { now: Mutex::new(Shown::from_pem(certificates, key)?) })
    }

    /// Another one, from the next handshake on. If it cannot be used, all stays as it is.
    pub fn replace(&self, certificates: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let shown = Shown::from_pem(certificates, key)?;
        *self.lock() = shown;
        Ok(())
    }

    /// What clients know this server by.
    pub fn pin(&self) -> Pin {
        self.lock().pin
    }

    /// A name that the certificate is for, and so one by which clients can be sure of this server. There is none where it is
    /// for an address, or for all names below one.
    pub fn name(&self) -> Option<String> {
        let shown = self.lock();
        let certificate = webpki::EndEntityCert::try_from(shown.key.cert.first()?).ok()?;
        certificate.valid_dns_names().find(|name| !name.starts_with('*')).map(str::to_owned)
    }

    /// Nothing in here can be left half done: a thread that ended while it held the lock has harmed
    /// nothing.
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| not_pem("the certificate", &error))?;
        let Some(first) = chain.first() else {
            return Err(not_pem("the certificate", &"there is none in the file"));
        };
        let pin = Pin::of(first).map_err(TlsError::Unfit)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| not_pem("the key", &error))?;
        // Refuses a key that is not the one of the certificate.
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Unfit)?;
        Ok(Self { key: Arc::new(key), pin })
    }
}

fn not_pem(what: &'static str, why: &dyn fmt::Display) -> TlsError {
    TlsError::Pem { what, why: why.to_string() }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.lock().key))
    }
}

/// The pin and never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.pin()).finish()
    }
}
