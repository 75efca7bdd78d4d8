//! What makes a file the same file with the same bytes, as far as a file system can tell.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use ftx_protocol::{FileTime, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::sys::Stat;

/// Where a file is, however it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inode {
    /// The file system.
    pub device: u64,
    /// The number on it.
    pub number: u64,
}

impl Inode {
    /// That of a stat.
    pub fn of(stat: &Stat) -> Self {
        Self { device: stat.device, number: stat.inode }
    }
}

/// All that changes when the bytes of a file are changed by write or truncate, or when another
/// file takes the name. A store through mmap changes none of it until later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Which file.
    pub inode: Inode,
    /// Bytes.
    pub size: u64,
    /// Last modification, which a user may set.
    pub modified: FileTime,
    /// Last change, which nobody can set.
    pub changed: FileTime,
}

impl Identity {
    /// That of a stat.
    pub fn of(stat: &Stat) -> Self {
        Self {
            inode: Inode::of(stat),
            size: stat.size,
            modified: stat.modified,
            changed: stat.changed,
        }
    }

    /// The same, of what the standard library found.
    pub fn of_metadata(metadata: &Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| {
            FileTime::nearest(seconds, u32::try_from(nanoseconds).unwrap_or(0))
        };
        Self {
            inode: Inode { device: metadata.dev(), number: metadata.ino() },
            size: metadata.size(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is the same file with the same bytes, on a file system whose device number may
    /// have changed over a reboot.
    pub fn is_same_after_reboot(&self, then: &Self) -> bool {
        let device = then.inode.device;
        Self { inode: Inode { device, ..self.inode }, ..*self } == *then
    }

    /// The opaque word for it: 32 hexadecimal digits that tell nothing about the machine. The
    /// device is no part of it: its number changes over a reboot, and the bytes do not.
    pub fn version(&self) -> Version {
        let mut hash = Sha256::new();
        for number in [
            self.inode.number,
            self.size,
            self.modified.seconds().cast_unsigned(),
            self.modified.nanoseconds().into(),
            self.changed.seconds().cast_unsigned(),
            self.changed.nanoseconds().into(),
        ] {
            hash.update(number.to_le_bytes());
        }
        Version::of_hash(&hash.finalize().0)
    }
}
