//! What lies between the bytes of ftx and a socket when strangers may listen: TLS 1.3, and the
//! question whether the other side is the right one.
//!
//! Both sides use it. It owns everything that touches rustls. It knows no message, no token and no
//! file: certificates and keys come in as text, bytes go through, and nothing is decided here about
//! who may do what.
#![forbid(unsafe_code)]

mod config;
mod engine;
mod error;
mod identity;
mod pin;
mod suites;
mod tls;
mod trust;

#[cfg(test)]
mod tests;

pub use config::{client_config, server_config};
pub use error::{TlsError, is_about_what_is_spoken};
pub use identity::Identity;
pub use pin::{Pin, PinError};
pub use rustls::{ClientConfig, ServerConfig};
pub use tls::{STEP_BYTES, Tls};
pub use trust::{ByRoots, Found, Sight, Trust};
