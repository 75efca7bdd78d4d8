//! The name of a file on the server, as the wire carries it.
//!
//! A name is bytes. It is relative, has `/` between its parts, and is never normalised. Parsing is
//! the only way to a [`Name`], so whoever holds one need not check again. Whether a server lets a
//! peer use a name (its own staging directory, say) is the store's business, not the wire's.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use thiserror::Error;

use crate::escape::Escaped;
use crate::limits::{NAME_BYTES, NAME_PART_BYTES, NAME_PARTS};

/// A relative path of one or more parts, checked. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

/// Why some bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// No bytes at all, or nothing between two slashes, before the first or behind the last.
    /// An absolute path has an empty first part.
    #[error("a name has no empty parts: it is relative, with one slash between parts")]
    EmptyPart,
    /// A part is `.` or `..`.
    #[error("no part of a name is \".\" or \"..\"")]
    DotPart,
    /// A NUL byte, which no file system can store.
    #[error("a name has no NUL byte")]
    Nul,
    /// A part is longer than [`NAME_PART_BYTES`].
    #[error("a part of a name has at most 255 bytes")]
    PartTooLong,
    /// The whole is longer than [`NAME_BYTES`].
    #[error("a name has at most 4,095 bytes")]
    TooLong,
    /// There are more parts than [`NAME_PARTS`].
    #[error("a name has at most 128 parts")]
    TooManyParts,
}

impl Name {
    /// Checks `bytes` and keeps a copy of them.
    ///
    /// # Errors
    /// The first rule that the bytes break, from the left.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > NAME_BYTES {
            return Err(NameError::TooLong);
        }
        for (before, part) in bytes.split(|&byte| byte == b'/').enumerate() {
            match part {
                _ if before >= NAME_PARTS => return Err(NameError::TooManyParts),
                b"" => return Err(NameError::EmptyPart),
                b"." | b".." => return Err(NameError::DotPart),
                part if part.contains(&0) => return Err(NameError::Nul),
                part if part.len() > NAME_PART_BYTES => return Err(NameError::PartTooLong),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes as they were given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The parts from the root down; at least one.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }

    /// The last part.
    pub fn last_part(&self) -> &[u8] {
        self.split_last().1
    }

    /// As [`Name::parent`], without making a name of it.
    pub fn parent_bytes(&self) -> Option<&[u8]> {
        self.split_last().0
    }

    /// Everything before the last slash, if there is one.
    pub fn parent(&self) -> Option<Name> {
        self.split_last().0.map(|parent| Self(parent.into()))
    }

    /// Whether one of the two is the other, or an ancestor of it.
    pub fn overlaps(&self, other: &Name) -> bool {
        let (short, long) =
            if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        long.0.strip_prefix(&*short.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Whether it is `above`, or below it.
    pub fn is_or_is_below(&self, above: &Name) -> bool {
        self.0.len() >= above.0.len() && self.overlaps(above)
    }

    /// Whether it is what a drop box may make of `asked` (rule 14.9): a number before the last dot, or
    /// at the end, and of what gets too long by that, the stem cut. How it is cut is the server's.
    pub fn is_numbered(&self, asked: &Name) -> bool {
        let part = asked.last_part();
        let dot = part.iter().rposition(|&byte| byte == b'.').unwrap_or(0);
        let (stem, extension) = part.split_at(dot);
        self.parent_bytes() == asked.parent_bytes()
            && (has_number(self.last_part(), stem, extension)
                || has_number(self.last_part(), part, b""))
    }

    /// The name of what is called `part` in a directory; `None` is the root.
    ///
    /// # Errors
    /// When that is no name; `part` may have several parts itself.
    pub fn inside(directory: Option<&Name>, part: &[u8]) -> Result<Self, NameError> {
        match directory {
            Some(directory) => Self::parse(&[directory.as_bytes(), b"/", part].concat()),
            None => Self::parse(part),
        }
    }

    /// What a name of these bytes takes on a line, at most.
    pub fn line_bytes(bytes: &[u8]) -> usize {
        const B64: usize = br#"{"b64":""}"#.len();
        if std::str::from_utf8(bytes).is_err() {
            return BASE64.encode_len(bytes.len()).saturating_add(B64);
        }
        // A control character is written as six.
        let escapes = bytes.iter().filter(|&&byte| byte < b' ' || byte == b'"' || byte == b'\\');
        bytes.len().saturating_add(escapes.count().saturating_mul(5)).saturating_add(2)
    }

    fn split_last(&self) -> (Option<&[u8]>, &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let (parent, rest) = self.0.split_at(slash);
                (Some(parent), rest.strip_prefix(b"/").unwrap_or(rest))
            }
            None => (None, &self.0),
        }
    }
}

/// Names and their bytes have the same order, so that an ancestor can be looked up by a slice.
impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Escaped, for people: control characters and the like never reach a terminal or a log.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// A JSON string where the bytes are UTF-8, else `{"b64":"…"}`.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &BASE64.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name: a string, or {\"b64\":\"…\"} where its bytes are not UTF-8")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
        Name::parse(text.as_bytes()).map_err(|error| E::custom(BadName(error)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Name, A::Error> {
        let Some((key, value)) = map.next_entry::<String, String>()? else {
            return Err(de::Error::missing_field("b64"));
        };
        if key != "b64" || map.next_key::<String>()?.is_some() {
            return Err(de::Error::custom("a name that is an object has the one key \"b64\""));
        }
        let bytes = BASE64.decode(value.as_bytes()).map_err(de::Error::custom)?;
        if std::str::from_utf8(&bytes).is_ok() {
            return Err(de::Error::custom("a name in UTF-8 is written as a string, not in base64"));
        }
        Name::parse(&bytes).map_err(|error| de::Error::custom(BadName(error)))
    }
}

/// Whether it is the stem, a number and the extension, where only a whole that would be too long
/// may have less of the stem.
fn has_number(part: &[u8], stem: &[u8], extension: &[u8]) -> bool {
    let Some(begin) = part.strip_suffix(extension) else { return false };
    let dash = begin.iter().rposition(|&byte| byte == b'-').unwrap_or(0);
    let (kept, number) = begin.split_at(dash);
    let [b'-', b'1'..=b'9', digits @ ..] = number else { return false };
    let whole = stem.len().saturating_add(number.len()).saturating_add(extension.len());
    digits.iter().all(u8::is_ascii_digit)
        && !kept.is_empty()
        && (kept == stem || stem.starts_with(kept) && whole > NAME_PART_BYTES)
}

/// Marks the text of a JSON error that came from a bad name, so that the one place which turns
/// parse errors into codes can tell it from a malformed message.
struct BadName(NameError);

/// See [`BadName`].
pub(crate) const BAD_NAME_MARK: &str = "bad name: ";

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BAD_NAME_MARK}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_that_a_disk_cannot_or_must_not_see_are_refused() {
        let long_part = "a".repeat(NAME_PART_BYTES + 1);
        let longest_part = "a".repeat(NAME_PART_BYTES);
        let long_name = vec![longest_part; NAME_BYTES / NAME_PART_BYTES + 1].join("/");
        let deep_name = ["a"; NAME_PARTS + 1].join("/");
        assert!(Name::parse(&deep_name.as_bytes()[2..]).is_ok());
        for (text, error) in [
            ("", NameError::EmptyPart),
            ("/etc/passwd", NameError::EmptyPart),
            ("a//b", NameError::EmptyPart),
            ("a/", NameError::EmptyPart),
            ("..", NameError::DotPart),
            ("a/../b", NameError::DotPart),
            ("./a", NameError::DotPart),
            ("a\0b", NameError::Nul),
            (&long_part, NameError::PartTooLong),
            (&long_name, NameError::TooLong),
            (&deep_name, NameError::TooManyParts),
        ] {
            assert_eq!(Name::parse(text.as_bytes()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn everything_else_is_a_name_and_is_never_normalised() {
        for text in ["a", "...", "..a", " ", "a b/c\nd", "C:\\x", "é", "e\u{301}", "~", "-rf", "*"]
        {
            assert_eq!(name(text).as_bytes(), text.as_bytes());
        }
        assert!(Name::parse(b"\xff\xfe/\x01").is_ok());
        assert!(Name::parse("a".repeat(NAME_PART_BYTES).as_bytes()).is_ok());
    }

    #[test]
    fn a_name_survives_json_and_only_bytes_that_are_not_utf8_travel_as_base64() {
        for bytes in [&b"a/b"[..], "ö/\u{1f600}".as_bytes(), b"\xff", b"x/\xc3"] {
            let json = serde_json::to_string(&Name::parse(bytes).unwrap()).unwrap();
            assert_eq!(json.contains("b64"), std::str::from_utf8(bytes).is_err());
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap().as_bytes(), bytes);
        }
        for json in [r#"{"b64":"YQ=="}"#, r#"{"b64":"/w==","x":"y"}"#, r#"{"b64":"/w"}"#, "{}", "1"]
        {
            assert!(serde_json::from_str::<Name>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn parents_and_overlap_follow_the_parts_not_the_letters() {
        assert_eq!(name("a/b/c").parent(), Some(name("a/b")));
        assert_eq!(name("a").parent(), None);
        assert_eq!(name("a/b").last_part(), b"b");
        assert!(name("a/b").overlaps(&name("a")));
        assert!(name("a").overlaps(&name("a/b")));
        assert!(name("a").overlaps(&name("a")));
        assert!(!name("ab").overlaps(&name("a")));
    }

    #[test]
    fn a_number_is_all_that_a_drop_box_may_give_a_name() {
        for (asked, made) in [
            ("photo.jpg", "photo-1.jpg"),
            ("box/a.tar.gz", "box/a.tar-10.gz"),
            ("box.d/a", "box.d/a-2"),
            (".profile", ".profile-3"),
            ("a-1", "a-1-1"),
            ("a.", "a-1."),
        ] {
            assert!(name(made).is_numbered(&name(asked)), "{asked} {made}");
        }
        for (asked, other) in [
            ("photo.jpg", "photo.jpg"),
            ("photo.jpg", "photo-1.exe"),
            ("photo.jpg", "photo-.jpg"),
            ("photo.jpg", "photo-01.jpg"),
            ("photo.jpg", "photo-0.jpg"),
            ("photo.jpg", "photo-1x.jpg"),
            ("photo.jpg", "phot-1.jpg"),
            ("photo.jpg", "photos-1.jpg"),
            ("photo.jpg", "box/photo-1.jpg"),
            ("box/photo.jpg", "photo-1.jpg"),
            ("box/photo.jpg", "bax/photo-1.jpg"),
            (".profile", "-1.profile"),
            ("a", "b"),
        ] {
            assert!(!name(other).is_numbered(&name(asked)), "{asked} {other}");
        }
        let asked = name(&("a".repeat(NAME_PART_BYTES - 4) + ".jpg"));
        let cut = |stem: usize, rest: &str| name(&("a".repeat(stem) + rest));
        assert!(cut(NAME_PART_BYTES - 6, "-1.jpg").is_numbered(&asked));
        assert!(cut(NAME_PART_BYTES - 9, "-12.jpg").is_numbered(&asked), "a character was whole");
        assert!(!cut(NAME_PART_BYTES - 6, "-1.jpe").is_numbered(&asked));
        let all_extension = name(&(".".to_owned() + &"a".repeat(NAME_PART_BYTES - 1)));
        let cut = name(&(".".to_owned() + &"a".repeat(NAME_PART_BYTES - 3) + "-1"));
        assert!(cut.is_numbered(&all_extension));
    }

    #[test]
    fn a_printed_name_cannot_move_the_cursor() {
        let shown = name("a\x1b[2J\u{9b}\u{202e}\n\\").to_string();
        assert_eq!(shown, r"a\x1b[2J\u{9b}\u{202e}\n\\");
    }
}
