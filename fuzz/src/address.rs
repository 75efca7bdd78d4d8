//! Addresses and names as people type them.

use ftx_client::{Remote, ServerAddress};

/// What is taken for a server's address is shown as it can be typed again, and cannot move a cursor.
pub fn address(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(address) = text.parse::<ServerAddress>()
    {
        check(&address);
    }
    if let Ok(remote) = Remote::parse(bytes) {
        assert_eq!(remote.server.is_some(), bytes.starts_with(b"ftx://"));
        assert!(!remote.name.as_bytes().is_empty());
        if let Some(server) = remote.server {
            check(&server);
        }
    }
}

fn check(address: &ServerAddress) {
    let shown = address.to_string();
    let same = shown.parse::<ServerAddress>().map(|again| again.to_string());
    assert_eq!(same.as_ref(), Ok(&shown), "{shown:?}");
    // With the key, which is not part of what is displayed.
    let whole = address.whole();
    assert_eq!(whole.parse().as_ref(), Ok(address), "{whole:?}");
    assert!(address.port() != 0 && !address.host().is_empty());
    assert!(
        !shown.contains(|letter: char| letter.is_control() || letter.is_whitespace()),
        "{shown:?}"
    );
}
