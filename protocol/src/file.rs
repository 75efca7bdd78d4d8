//! What is said about a file besides its bytes.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::Version;
use crate::limits::INTEGER_MAX;
use crate::word::words;

/// A point in time as files carry it: `[seconds, nanoseconds]` since 1970-01-01 UTC. Seconds may
/// be negative; nanoseconds are 0 to 999,999,999 and always count forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct FileTime(i64, u32);

impl FileTime {
    /// `None` when the nanoseconds are a second or more, or the seconds are beyond
    /// [`INTEGER_MAX`] on either side.
    pub fn new(seconds: i64, nanoseconds: u32) -> Option<Self> {
        let fits = nanoseconds < 1_000_000_000 && seconds.unsigned_abs() <= INTEGER_MAX;
        fits.then_some(Self(seconds, nanoseconds))
    }

    /// The nearest time that can be said: seconds and nanoseconds are cut to their ranges.
    pub fn nearest(seconds: i64, nanoseconds: u32) -> Self {
        const SECONDS_MAX: i64 = INTEGER_MAX as i64;
        Self(seconds.clamp(-SECONDS_MAX, SECONDS_MAX), nanoseconds.min(999_999_999))
    }

    /// Whole seconds, rounded down.
    pub fn seconds(&self) -> i64 {
        self.0
    }

    /// What is above the whole seconds.
    pub fn nanoseconds(&self) -> u32 {
        self.1
    }
}

impl<'de> Deserialize<'de> for FileTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (seconds, nanoseconds) = Deserialize::deserialize(deserializer)?;
        Self::new(seconds, nanoseconds)
            .ok_or_else(|| de::Error::custom("a time is [seconds, nanoseconds below 10^9]"))
    }
}

/// Permission bits, 0 to 0o777. Setuid, setgid and sticky do not travel: they are cut off when a
/// mode is read, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Mode(u32);

impl Mode {
    /// Keeps the nine permission bits and drops the rest.
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o777)
    }

    /// The nine bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new((u64::deserialize(deserializer)? & 0o777) as u32))
    }
}

/// What an acknowledged file survives. Ordered: each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Durability {
    /// A crash of the server program. A power cut may lose the file, or leave it empty or torn.
    None,
    /// As far as a file system in memory can go: everything but the end of the machine's uptime.
    /// A client does not ask for it; `full` on such a file system gives it.
    Memory,
    /// A power cut: file, name and every directory above it have been synced to the disk.
    #[default]
    Full,
}

words!(Durability { None = "none", Memory = "memory", Full = "full" });

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a put may take its name. Checked again at the moment of the rename, under a lock of the
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Always; an old file of that name is replaced. The `if` field is left out.
    #[default]
    Always,
    /// Only if nothing has the name: `"if":"absent"`.
    Absent,
    /// Only if the name holds this version: `"if":{"version":"…"}`.
    Version(Version),
}

impl Condition {
    /// Whether the field is left out on the wire.
    pub fn is_always(&self) -> bool {
        matches!(self, Self::Always)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConditionVisitor)
    }
}

struct ConditionVisitor;

impl<'de> Visitor<'de> for ConditionVisitor {
    type Value = Condition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a condition: \"always\", \"absent\" or {\"version\":\"…\"}")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Condition, E> {
        match word {
            "always" => Ok(Condition::Always),
            "absent" => Ok(Condition::Absent),
            _ => Err(E::unknown_variant(word, &["always", "absent"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Condition, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Holds {
            version: Version,
        }
        let holds = Holds::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Condition::Version(holds.version))
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file, or a symlink to one inside the served directory.
    File,
    /// A directory.
    Directory,
    /// A symbolic link. Only listings show it; everything else follows it, or refuses it.
    Symlink,
    /// A device, FIFO or socket. Only listings show it.
    Special,
}

words!(Kind { File = "file", Directory = "directory", Symlink = "symlink", Special = "special" });

/// How far a request goes below the name that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Depth {
    /// The name itself, or what is directly in it.
    #[default]
    One,
    /// Everything below it.
    All,
}

words!(Depth { One = "one", All = "all" });

/// What becomes of directories that are missing above a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Parents {
    /// They have to be there.
    #[default]
    Require,
    /// They are made.
    Make,
}

words!(Parents { Require = "require", Make = "make" });

/// What a replayed acknowledgement says of the time since the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// The name still holds what this transfer put there.
    Same,
    /// The name has been given another file, or none, since.
    Changed,
}

words!(Replay { Same = "same", Changed = "changed" });
