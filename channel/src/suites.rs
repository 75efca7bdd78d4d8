//! Who encrypts the records.

use rustls::SupportedCipherSuite;
use rustls::crypto::{aws_lc_rs, ring};

/// A library that has the suites of TLS 1.3. The two are as good as each other, and each has code for processors for which
/// the other has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealer {
    AwsLc,
    Ring,
}

impl Sealer {
    /// A GiB of records sealed by AES-128-GCM takes AWS-LC 0.05 to 0.07 s where there is AVX-512 (Zen 5; ring 0.10 to 0.13),
    /// and 0.28 to 0.38 where there is only AVX2 (Zen 3; ring 0.15 to 0.19).
    pub(crate) fn fastest_here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        {
            return Self::Ring;
        }
        Self::AwsLc
    }

    /// The suites of TLS 1.3, the fastest on a processor with AES first.
    pub(crate) fn suites(self) -> Vec<SupportedCipherSuite> {
        match self {
            Self::AwsLc => {
                use aws_lc_rs::cipher_suite as by;
                vec![
                    by::TLS13_AES_128_GCM_SHA256,
                    by::TLS13_AES_256_GCM_SHA384,
                    by::TLS13_CHACHA20_POLY1305_SHA256,
                ]
            }
            Self::Ring => {
                use ring::cipher_suite as by;
                vec![
                    by::TLS13_AES_128_GCM_SHA256,
                    by::TLS13_AES_256_GCM_SHA384,
                    by::TLS13_CHACHA20_POLY1305_SHA256,
                ]
            }
        }
    }
}
