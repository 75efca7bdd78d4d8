//! States of digests that were put away, and the client's files of them.

use data_encoding::BASE64;
use ftx_disk::hash::{Running, Saved};

/// A state file, a state as JSON, or (what does not begin with `{`) the kind of digest in one byte, the
/// offset in eight and the state as it is: what can be gone on with is what was put away.
pub fn saved_state(bytes: &[u8]) {
    if bytes.starts_with(b"{") {
        for saved in ftx_client::saved_in(bytes) {
            check(&saved);
        }
        if let Ok(saved) = serde_json::from_slice::<Saved>(bytes) {
            check(&saved);
        }
    } else if let Some((kind, rest)) = bytes.split_first()
        && let Some((offset, state)) = rest.split_first_chunk::<8>()
    {
        let algorithm = if kind & 1 == 0 { "sha256" } else { "blake3" };
        let (offset, state) = (u64::from_le_bytes(*offset), BASE64.encode(state));
        let saved = serde_json::json!({"algorithm": algorithm, "offset": offset, "state": state});
        if let Ok(saved) = serde_json::from_value(saved) {
            check(&saved);
        }
    }
}

fn check(saved: &Saved) {
    let Ok(mut running) = Running::restore(saved) else { return };
    assert_eq!((running.offset(), running.algorithm()), (saved.offset(), saved.algorithm()));
    assert_eq!(running.save().as_ref(), Some(saved));
    let before = running.digest();
    running.update(&[0; 65]);
    assert_eq!(running.offset(), saved.offset() + 65);
    assert_ne!(running.digest(), before);
}
