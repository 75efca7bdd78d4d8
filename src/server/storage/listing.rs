//! Lists that a connection has open, and the messages that are made of what they come upon.

use std::time::Instant;

use ftx_disk::store::Listed;
use ftx_disk::sys::Stat;
use ftx_protocol::limits::LINE_BYTES;
use ftx_protocol::message::{Entries, Entry, Okay, Unread};
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Kind, Name, RequestId, Verb};

use super::audit::Came;
use super::download::Told;
use super::{Granted, Listing, Origin, audit};

/// What one message holds at most: a turn of a worker, and a line.
const ENTRIES_MAX: usize = 512;

/// Everything of an entry but its name, and everything of a message but its entries, on the line.
const ENTRY_BYTES: usize = 128;

/// The text of an error in a list; it may have to share a line with the longest name.
const MESSAGE_BYTES: usize = 200;

/// One list.
pub(super) struct OpenList {
    /// None: the root.
    name: Option<Name>,
    granted: Granted,
    listing: Listing,
    /// What did not fit the last message.
    left_over: Option<Listed>,
    entries: u64,
    began: Instant,
    told: Told,
}

impl OpenList {
    pub(super) fn new(name: Option<Name>, granted: Granted, listing: Listing) -> Self {
        let began = Instant::now();
        Self { name, granted, listing, left_over: None, entries: 0, began, told: Told::No }
    }

    /// The next message: entries as far as they fit a line, or that there are no more.
    pub(super) fn next(&mut self, id: RequestId, origin: &Origin) -> Event {
        if let Err(refusal) = self.granted.check() {
            let name = audit::directory(self.name.as_ref());
            self.told = Told::Yes;
            let came = Came::Entries(self.entries);
            audit::refused(origin, Verb::List, name, came, &refusal, self.began);
            return Event::Refused { id, refusal };
        }
        let mut message = Entries { id, entries: Vec::new(), unread: Vec::new() };
        let mut room_bytes = LINE_BYTES.saturating_sub(ENTRY_BYTES);
        for _ in 0..ENTRIES_MAX {
            let Some(listed) = self.left_over.take().or_else(|| self.listing.next()) else { break };
            let Some(left) = room_bytes.checked_sub(line_bytes(&listed)) else {
                self.left_over = Some(listed);
                break;
            };
            room_bytes = left;
            match listed {
                Listed::Entry { name, stat } => message.entries.push(entry(name, &stat)),
                Listed::Unread { name, refusal } => message.unread.push(Unread {
                    name,
                    code: refusal.code,
                    message: refusal.message.chars().take(MESSAGE_BYTES / 4).collect(),
                }),
            }
        }
        if message.entries.is_empty() && message.unread.is_empty() {
            self.told = Told::Yes;
            let result = "ok";
            audit::listed(origin, self.name.as_ref(), self.entries, result, self.began);
            return Event::Ok(Okay { id, durability: None });
        }
        self.entries = self.entries.saturating_add(message.entries.len() as u64);
        Event::Entries(message)
    }

    /// Nobody wants the rest of it. That some of it was told must be in the log all the same.
    pub(super) fn let_go(self, origin: &Origin) {
        if self.told == Told::No {
            let result = Code::Aborted.as_str();
            audit::listed(origin, self.name.as_ref(), self.entries, result, self.began);
        }
    }
}

/// What it takes on the line, at most.
fn line_bytes(listed: &Listed) -> usize {
    let (name, more) = match listed {
        Listed::Entry { name, .. } => (Some(name), ENTRY_BYTES),
        // A character of the text is written in six bytes at most.
        Listed::Unread { name, .. } => {
            (name.as_ref(), ENTRY_BYTES.saturating_add(MESSAGE_BYTES * 6 / 4))
        }
    };
    name.map_or(0, |name| Name::line_bytes(name.as_bytes())).saturating_add(more)
}

fn entry(name: Name, stat: &Stat) -> Entry {
    let size = match stat.kind {
        Kind::File => stat.size,
        Kind::Directory | Kind::Symlink | Kind::Special => 0,
    };
    Entry { name, kind: stat.kind, size, mtime: stat.modified, mode: stat.mode }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::store::{Access, ListLimits, Memory, OpenLimit, Options, Store};
    use ftx_disk::walk::names_room;
    use ftx_protocol::message::ServerMessage;
    use ftx_protocol::{Depth, Durability};

    fn origin(peer: &str, connection: usize) -> Origin {
        let key = crate::server::key::ConnectionKey::new(0, connection, 0);
        Origin { key, peer: peer.parse().unwrap(), who: crate::server::access::Who::Local }
    }

    #[test]
    fn no_message_of_a_list_is_longer_than_a_line_whatever_the_names_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..12 {
            path.push("\u{1}".repeat(250));
            std::fs::create_dir(&path).unwrap();
            for name in ["\"\\".repeat(120), "\u{7f}x".repeat(100), "ü".repeat(120)] {
                std::fs::write(path.join(name), "").unwrap();
            }
        }
        let options = Options {
            access: Access::ReadWrite,
            durability: Durability::Full,
            memory: Memory::Puts,
            size_max_bytes: 1,
            free_min_bytes: 0,
        };
        let (store, _) = Store::open(ftx_disk::sys::Native, dir.path(), options).unwrap();
        let share = ListLimits { directories: OpenLimit::at_most(100), names: names_room() };
        let listing = store.list(None, Depth::All, None, &share).unwrap();
        let mut list = OpenList::new(None, Granted::default(), listing);
        let origin = origin("127.0.0.1:1", 0);
        let mut entries = 0;
        while let Event::Entries(message) = list.next(RequestId(u64::MAX >> 11), &origin) {
            entries += message.entries.len();
            assert!(message.unread.is_empty());
            let mut line = Vec::new();
            ftx_protocol::line::write(&ServerMessage::Entries(message), &mut line);
            assert!(line.len() <= LINE_BYTES, "{}", line.len());
        }
        assert_eq!(entries, 48);
    }
}
