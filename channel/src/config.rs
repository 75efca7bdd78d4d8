//! How both sides speak TLS: version 1.3 and no other, `ftx/1` inside it, and nothing that outlives
//! a connection.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::error::TlsError;
use crate::identity::Identity;
use crate::suites::Sealer;
use crate::trust::{Sight, Trust, Verifier, roots_of_the_system};

/// What is spoken inside, as ALPN has it.
pub(crate) const ALPN: &[u8] = b"ftx/1";

/// Records are sealed, and their keys derived, by who is fastest here; all else is by AWS-LC, which has X25519 together with
/// ML-KEM-768. Each configuration is told of it: rustls has no provider of its own choice where it is built with two.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    provider_by(Sealer::fastest_here())
}

/// The same with a sealer that is given.
pub(crate) fn provider_by(sealer: Sealer) -> Arc<CryptoProvider> {
    let cipher_suites = sealer.suites();
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// For a server that shows `identity`. A client that names no protocol is served, one that names
/// only others is refused.
///
/// There are no tickets and no early data: a connection is made once for a command or a tree, a
/// ticket costs memory and a message on each, and what is sent early can be sent twice by others.
pub fn server_config(identity: &Arc<Identity>) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_with(identity, provider())
}

pub(crate) fn server_config_with(
    identity: &Arc<Identity>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let identity = Arc::clone(identity);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For a client that takes a server by `trust`, and tells through `sight` what it saw.
pub fn client_config(trust: Trust, sight: &Sight) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(trust, sight, provider(), roots_of_the_system)
}

/// `roots` is asked only if `trust` needs them: reading them takes milliseconds.
pub(crate) fn client_config_with(
    trust: Trust,
    sight: &Sight,
    provider: Arc<CryptoProvider>,
    roots: impl FnOnce() -> RootCertStore,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Verifier::new(trust, sight.clone(), &provider, roots)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}
