//! Which library seals and opens the records, derives their keys and hashes the handshake.

use rustls::SupportedCipherSuite;
use rustls::crypto::{aws_lc_rs, ring};

/// A library that has the suites of TLS 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealer {
    AwsLc,
    Ring,
}

impl Sealer {
    /// On x86 with VAES each has a fast AES-GCM that the other has not: AWS-LC with AVX-512 and ring with AVX2. With AES-128-GCM
    /// 1 GiB takes AWS-LC 0.05 to 0.07 s and ring 0.10 to 0.13 on Zen 5, and 0.28 to 0.38 and 0.15 to 0.19 on Zen 3. Without VAES
    /// both have the same code; on ARM AWS-LC has more of it.
    pub(crate) fn fastest_here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // As AWS-LC asks before it uses it.
            let has_wide_aes = is_x86_feature_detected!("vaes")
                && is_x86_feature_detected!("vpclmulqdq")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if has_wide_aes { Self::AwsLc } else { Self::Ring }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::AwsLc
    }

    /// The suites, the fastest on a processor with AES first.
    pub(crate) fn suites(self) -> Vec<SupportedCipherSuite> {
        match self {
            Self::AwsLc => vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            Self::Ring => vec![
                ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
                ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
                ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
        }
    }
}
