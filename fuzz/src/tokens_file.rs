//! The file that says which tokens a server knows.

use std::collections::HashSet;

use ftx::server::access::{Line, parse_tokens, write_tokens};
use serde_json::Value;

/// Every field that there is.
const FIELDS: [&str; 9] =
    ["id", "name", "digest", "can", "under", "made", "expires", "max_bytes", "max_partials"];

/// Every right that there is.
const WORDS: [&str; 6] = ["read", "list", "write", "replace", "delete", "drop"];

/// A tokens file. What begins with `=` gets the first line that it needs. What is understood says again
/// what it said, and opens what its words say and nothing besides.
pub fn tokens_file(bytes: &[u8]) {
    let text = match bytes.strip_prefix(b"=") {
        Some(lines) => [b"{\"ftx_tokens\":1}\n", lines].concat(),
        None => bytes.to_vec(),
    };
    let Ok(lines) = parse_tokens(&text) else { return };
    let again = write_tokens(&lines).unwrap();
    assert_eq!(parse_tokens(&again).as_ref(), Ok(&lines));
    let all: Vec<&[u8]> =
        text.strip_suffix(b"\n").unwrap_or(&text).split(|&b| b == b'\n').collect();
    assert_eq!(all.len(), lines.len() + 1, "no line is passed over");
    let names: HashSet<_> = lines.iter().map(|line| line.name.as_str()).collect();
    let ids: HashSet<_> = lines.iter().map(|line| line.id).collect();
    assert_eq!((names.len(), ids.len()), (lines.len(), lines.len()));
    for (line, text) in lines.iter().zip(&all[1..]) {
        // Read by somebody else.
        let value = serde_json::from_slice(text).unwrap();
        check(line, &value);
    }
}

fn check(line: &Line, value: &Value) {
    let fields = value.as_object().unwrap();
    assert!(fields.keys().all(|field| FIELDS.contains(&field.as_str())), "{value}");
    let said: HashSet<&str> =
        value["can"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert!(!said.is_empty() && said.iter().all(|word| WORDS.contains(word)), "{value}");
    assert_eq!(line.can.words().collect::<HashSet<_>>(), said);
    assert_eq!(line.can.is_drop(), said.contains("drop"));
    assert!(!line.can.is_drop() || said.len() == 1, "{value}");
    // A limit that is there is one that holds.
    let is_there = |field: &str| !value[field].is_null();
    assert_eq!(line.under.is_some(), is_there("under"), "{value}");
    assert_eq!(line.expires.is_some(), is_there("expires"), "{value}");
    assert_eq!(line.max_bytes, value["max_bytes"].as_u64(), "{value}");
    assert_eq!(line.max_partials.map(u64::from), value["max_partials"].as_u64(), "{value}");
    if let Some(scope) = value["under"].as_str() {
        assert_eq!(line.under.as_ref().unwrap().as_bytes(), scope.as_bytes());
    }
    assert_eq!(line.digest.to_string(), value["digest"].as_str().unwrap());
    assert!(line.digest.to_string().starts_with("sha256:"));
}
