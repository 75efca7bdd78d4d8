//! Rights, as words and as a set.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// One thing that somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See what is in files.
    Read,
    /// Bring files and make directories.
    Write,
    /// Give a name that something has to something else.
    Replace,
    /// Take names away.
    Delete,
    /// See which names there are.
    List,
}

impl Right {
    /// Every right, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::Read, Self::List, Self::Write, Self::Replace, Self::Delete];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Replace => 4,
            Self::Delete => 8,
            Self::List => 16,
        }
    }
}

/// A set of rights, or a drop box: to bring files, and nothing besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(u8);

/// The word of a drop box. It stands alone: whoever may read has no use for one.
const DROP: &str = "drop";

/// What is not a set of rights.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RightsError {
    /// A word that is no right.
    #[error("{word:?} is none of read, list, write, replace, delete and drop")]
    Unknown {
        /// The word.
        word: String,
    },
    /// Without a word nothing is allowed.
    #[error("say at least one of read, list, write, replace, delete and drop")]
    None,
    /// A word stands twice.
    #[error("{word:?} stands there twice")]
    Twice {
        /// The word.
        word: String,
    },
    /// Somebody with other rights needs no drop box.
    #[error("drop stands alone: it is to bring files, and not to see, replace or remove any")]
    DropAndOthers,
}

impl Rights {
    /// To bring files, under names that nothing has.
    pub const DROP: Self = Self(32);
    /// To see all and change nothing.
    pub const READING: Self = Self(Right::Read.bit() | Right::List.bit());
    /// Everything.
    pub const ALL: Self = Self(31);
    pub(super) const NONE: Self = Self(0);

    /// The set of these words.
    ///
    /// # Errors
    /// When there is none, one is unknown or stands twice, or `drop` is not alone.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, RightsError> {
        let mut rights = Self::NONE;
        for word in words {
            let known = Right::ALL.into_iter().find(|right| right.as_str() == word);
            let one = match known {
                Some(right) => Self::of(right),
                None if word == DROP => Self::DROP,
                None => return Err(RightsError::Unknown { word: word.to_owned() }),
            };
            if rights.0 & one.0 != 0 {
                return Err(RightsError::Twice { word: word.to_owned() });
            }
            rights = rights.with(one);
        }
        match rights {
            Self::NONE => Err(RightsError::None),
            Self::DROP => Ok(rights),
            _ if rights.is_drop() => Err(RightsError::DropAndOthers),
            _ => Ok(rights),
        }
    }

    /// The words for it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let rights = Right::ALL.into_iter().filter(move |&right| self.has(right));
        rights.map(Right::as_str).chain(self.is_drop().then_some(DROP))
    }

    /// Whether this is one of them.
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether it is a drop box.
    pub const fn is_drop(self) -> bool {
        self.0 & Self::DROP.0 != 0
    }

    /// Those of them by which nothing is changed.
    pub(super) const fn reading(self) -> Self {
        Self(self.0 & Self::READING.0)
    }

    pub(super) const fn of(right: Right) -> Self {
        Self(right.bit())
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has_all(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, word) in self.words().enumerate() {
            write!(f, "{}{word}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        Self::from_words(words.iter().map(String::as_str)).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_said_as_they_are_read() {
        for (words, shown) in [
            ("read", "read"),
            ("delete,write,list", "list,write,delete"),
            ("read,list,write,replace,delete", "read,list,write,replace,delete"),
            ("drop", "drop"),
        ] {
            let rights = Rights::from_words(words.split(',')).unwrap();
            assert_eq!(rights.to_string(), shown);
            assert_eq!(Rights::from_words(shown.split(',')), Ok(rights));
        }
        assert_eq!(Rights::ALL.to_string(), "read,list,write,replace,delete");
        assert_eq!(Rights::READING.to_string(), "read,list");
        for bad in ["", "read,", "Read", "read,read", "drop,drop", "drop,list", "write,drop", "all"]
        {
            assert!(Rights::from_words(bad.split(',')).is_err(), "{bad:?}");
        }
        assert_eq!(Rights::from_words([]), Err(RightsError::None));
    }
}
