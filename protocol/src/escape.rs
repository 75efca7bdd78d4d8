//! Text from a peer or a disk, made harmless for terminals and logs.

use std::ffi::OsStr;
use std::fmt::{self, Write};

/// Shows bytes as text: what is printable UTF-8 as it is; control characters (C0, DEL, C1), marks
/// that change the direction of text or cannot be seen, and the backslash as escapes; bytes that
/// are not UTF-8 as `\xNN`. The result has no line break and the original can be told from it.
pub struct Escaped<'a>(
    /// The bytes to show.
    pub &'a [u8],
);

impl<'a> Escaped<'a> {
    /// A path, or other text of the system.
    pub fn of<T: AsRef<OsStr> + ?Sized>(text: &'a T) -> Self {
        Self(text.as_ref().as_encoded_bytes())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                escape(character, f)?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn escape(character: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match character {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        '\\' => f.write_str("\\\\"),
        '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(character)),
        // C1 controls, zero-width and direction marks, line and paragraph separators, the BOM.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => write!(f, "\\u{{{:x}}}", u32::from(character)),
        other => f.write_char(other),
    }
}
