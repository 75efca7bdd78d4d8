//! Names and paths in JSON that programs read.

use data_encoding::BASE64;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A name or path as the protocol writes names (rule 3.3): a JSON string where its bytes are UTF-8,
/// else `{"b64":"…"}`, so that no byte is lost. A local path may be what a name on a server may
/// not, such as absolute.
#[derive(Debug, Clone, Copy)]
pub struct JsonName<'a>(pub &'a [u8]);

impl Serialize for JsonName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &BASE64.encode(self.0))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_protocol::Name;

    #[test]
    fn a_name_in_json_keeps_every_byte_and_is_what_the_wire_has() {
        for bytes in [&b"a b"[..], "\u{e9}\n".as_bytes(), b"x/\xff\x80", b"\xff"] {
            let name = Name::parse(bytes).unwrap();
            let json = serde_json::to_string(&JsonName(bytes)).unwrap();
            assert_eq!(json, serde_json::to_string(&name).unwrap());
        }
        assert_eq!(serde_json::to_string(&JsonName(b"/\xff")).unwrap(), r#"{"b64":"L/8="}"#);
    }
}
