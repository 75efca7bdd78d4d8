//! Words: values that are one string on the wire, of a few that stand in protocol.md.
//!
//! A derived reader of an enum takes `{"word":null}` for the word as well; this one takes the string alone (rule 2.6).

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// A value that is a word.
pub(crate) trait Word: Sized {
    /// Those that a reader knows.
    const WORDS: &'static [&'static str];

    /// The value that is written so.
    fn from_word(word: &str) -> Option<Self>;
}

/// Reads a word, copying nothing.
pub(crate) fn read<'de, D: Deserializer<'de>, W: Word>(deserializer: D) -> Result<W, D::Error> {
    deserializer.deserialize_str(WordVisitor(std::marker::PhantomData))
}

struct WordVisitor<W>(std::marker::PhantomData<W>);

impl<W: Word> Visitor<'_> for WordVisitor<W> {
    type Value = W;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<W, E> {
        W::from_word(word).ok_or_else(|| E::unknown_variant(word, W::WORDS))
    }
}

/// How a value that is a word is written and read: one line for each word.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ }) => {
        impl $type {
            /// The word, on the wire and wherever else it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::word::Word for $type {
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::word::read(deserializer)
            }
        }
    };
}

pub(crate) use words;
