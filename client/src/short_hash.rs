//! Short hashes by which things are found again after the end of the process. What they are of, and how that
//! is written, stays as it is from version to version.

use sha2::{Digest as _, Sha256};

/// The first half of a SHA-256: enough to tell what one user transfers apart.
pub(crate) type ShortHash = [u8; 16];

/// Of several fields. Each says how long it is, so that no two lists of them are one.
pub(crate) fn hash_of(fields: &[&[u8]]) -> ShortHash {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    shortened(hash)
}

/// Of what was hashed.
pub(crate) fn shortened(hash: Sha256) -> ShortHash {
    let mut short = ShortHash::default();
    short.iter_mut().zip(hash.finalize()).for_each(|(to, byte)| *to = byte);
    short
}
