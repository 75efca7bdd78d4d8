//! What can be wrong before there is a connection. What goes wrong on one is an `io::Error`, as on
//! any other socket.

use std::io;

use rustls::{AlertDescription, Error};

/// A certificate, a key or a host name that TLS cannot be begun with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text that is not one, or has not what it should have.
    #[error("{what}: {why}")]
    Pem {
        /// Which text: the certificates or the key.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The key is not the one of the certificate, or of a kind that is not known here.
    #[error("the certificate and its key cannot be used: {0}")]
    Unfit(#[source] Error),
    /// Neither a name nor an address.
    #[error("{0:?} is not the name of a host")]
    Host(String),
    /// The system has no roots to check a certificate by.
    #[error("this system has no certificate authorities to check a server by")]
    NoRoots,
    /// rustls refuses for a reason of its own.
    #[error("cannot begin TLS: {0}")]
    Begin(#[from] Error),
}

/// Whether this error of [`Tls::read`](crate::Tls::read) says that the server is not the right
/// one, or not known: what it is stands in [`Sight`](crate::Sight).
#[cfg(test)]
pub(crate) fn is_about_the_certificate(error: &io::Error) -> bool {
    matches!(inner(error), Some(Error::InvalidCertificate(_)))
}

/// Whether this error of [`Tls::read`](crate::Tls::read) says that what the other side speaks inside
/// TLS is not ftx.
pub fn is_about_what_is_spoken(error: &io::Error) -> bool {
    matches!(
        inner(error),
        Some(
            Error::NoApplicationProtocol
                | Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        )
    )
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
