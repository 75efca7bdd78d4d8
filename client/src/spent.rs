//! Where the time of a transfer went, and what limited it.

use std::time::Duration;

pub(crate) use ftx_disk::timed::timed;
use ftx_protocol::message::Spent as AtServer;

/// Where the time of a transfer went. What ran beside each other is counted in full, so the parts
/// may be more together than the time that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// The time that passed.
    pub wall: Duration,
    /// In reading or writing files here.
    pub disk: Duration,
    /// In computing digests here.
    pub hash: Duration,
    /// In waiting for the network and the server.
    pub waiting: Duration,
    /// In making files durable here.
    pub sync: Duration,
    /// In keeping to the rate that was asked for; a part of the waiting.
    pub paced: Duration,
    /// In pauses before another try.
    pub pauses: Duration,
    /// What the server says of its time. `None` when it says nothing.
    pub server: Option<AtServer>,
}

/// A part of the way of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Files here.
    Disk,
    /// Digests here.
    Hash,
    /// Making files durable here.
    Sync,
    /// Between here and the server.
    Network,
    /// The same and the server, where it says nothing of its time.
    Far,
    /// Files at the server.
    ServerDisk,
    /// Digests at the server.
    ServerHash,
    /// Making files durable at the server.
    ServerSync,
    /// The rate that was asked for.
    Rate,
    /// Pauses before another try.
    Pauses,
}

impl Part {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk here",
            Self::Hash => "digest here",
            Self::Sync => "sync here",
            Self::Network => "network",
            Self::Far => "network or server",
            Self::ServerDisk => "server disk",
            Self::ServerHash => "server digest",
            Self::ServerSync => "server sync",
            Self::Rate => "limit rate",
            Self::Pauses => "broken connections",
        }
    }
}

impl Spent {
    /// The parts that took time, in the order of the way.
    pub fn parts(&self) -> Vec<(Part, Duration)> {
        let server = self.server.unwrap_or_default();
        let [server_disk, server_hash, server_sync] =
            [server.disk, server.hash, server.sync].map(Duration::from_micros);
        // The rest of the waiting is for what the server was doing.
        let network = [self.paced, server_disk, server_hash, server_sync]
            .into_iter()
            .fold(self.waiting, Duration::saturating_sub);
        let parts = [
            (Part::Disk, self.disk),
            (Part::Hash, self.hash),
            (Part::Sync, self.sync),
            (if self.server.is_some() { Part::Network } else { Part::Far }, network),
            (Part::ServerDisk, server_disk),
            (Part::ServerHash, server_hash),
            (Part::ServerSync, server_sync),
            (Part::Rate, self.paced),
            (Part::Pauses, self.pauses),
        ];
        parts.into_iter().filter(|(_, time)| !time.is_zero()).collect()
    }

    /// The part that took most of the time, and how many percent of it that was.
    pub fn limit(&self) -> Option<(Part, u32)> {
        let (part, time) = self.parts().into_iter().max_by_key(|(_, time)| *time)?;
        Some((part, self.percent(time)))
    }

    /// How much of the time that passed a part of it was; at most 100.
    pub fn percent(&self, time: Duration) -> u32 {
        let percent = time.as_nanos().saturating_mul(100).checked_div(self.wall.as_nanos());
        percent.map_or(0, |percent| u32::try_from(percent).unwrap_or(100).min(100))
    }

    /// Adds a part of something larger, whose own time is measured by itself.
    pub(crate) fn add_part(&mut self, part: Self) {
        *self = self.and(Self { wall: Duration::ZERO, ..part });
    }

    /// What both took, one after the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let server = match (self.server, other.server) {
            (Some(one), Some(other)) => Some(AtServer {
                disk: one.disk.saturating_add(other.disk),
                hash: one.hash.saturating_add(other.hash),
                sync: one.sync.saturating_add(other.sync),
            }),
            (one, other) => one.or(other),
        };
        Self {
            wall: self.wall.saturating_add(other.wall),
            disk: self.disk.saturating_add(other.disk),
            hash: self.hash.saturating_add(other.hash),
            waiting: self.waiting.saturating_add(other.waiting),
            sync: self.sync.saturating_add(other.sync),
            paced: self.paced.saturating_add(other.paced),
            pauses: self.pauses.saturating_add(other.pauses),
            server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_a_server_says_it_did_is_not_the_network() {
        let spent = Spent {
            wall: 10 * SECOND,
            disk: SECOND,
            hash: 3 * SECOND,
            waiting: 9 * SECOND,
            server: Some(AtServer { disk: 7_000_000, hash: 1_000_000, sync: 0 }),
            ..Spent::default()
        };
        assert_eq!(spent.limit(), Some((Part::ServerDisk, 70)));
        let parts = spent.parts();
        assert!(parts.contains(&(Part::Network, SECOND)) && parts.len() == 5, "{parts:?}");
        let silent = Spent { server: None, ..spent };
        assert_eq!(silent.limit(), Some((Part::Far, 90)));
        // More than was waited for: it was done beside the rest.
        let beside = Spent { waiting: SECOND, ..spent };
        assert!(!beside.parts().iter().any(|(part, _)| *part == Part::Network));
        assert_eq!(Spent::default().limit(), None);
    }
}
