//! What a server has to say: lines, and between two of them at most one part of a file. The bytes
//! of the part pass this by; it only counts them.

use crate::ids::RequestId;
use crate::line;
use crate::message::ServerMessage;

/// What the driver should write next.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// This many bytes of the file that the get has open, from this offset.
    File {
        /// The get.
        id: RequestId,
        /// Where in the file.
        at: u64,
        /// How many; at least 1.
        size: u64,
    },
    /// This many zero bytes, in the place of bytes that could not be read.
    Zeros(u64),
    /// Nothing now.
    Nothing,
    /// Everything is written and nothing will follow: close the sending direction.
    Shutdown,
}

/// Where the bytes of a part come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filling {
    File,
    Zeros,
}

/// A part whose header line was queued.
#[derive(Debug)]
struct Part {
    id: RequestId,
    at: u64,
    left: u64,
    filling: Filling,
}

/// The queue. Lines in front go first, then the part, then the lines behind it.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    front: Vec<u8>,
    sent: usize,
    part: Option<Part>,
    behind: Vec<u8>,
}

impl Outbound {
    pub(super) const fn new() -> Self {
        Self { front: Vec::new(), sent: 0, part: None, behind: Vec::new() }
    }

    /// Queues a line. It never lands inside a part.
    pub(super) fn say(&mut self, message: &ServerMessage) {
        let queue = if self.part.is_some() { &mut self.behind } else { &mut self.front };
        line::write(message, queue);
    }

    /// Queues bytes that are no message: the refusal of another protocol.
    pub(super) fn say_raw(&mut self, bytes: &[u8]) {
        self.front.extend_from_slice(bytes);
    }

    /// Queues the header of a part of a file; the part's bytes follow it. Only when no part is
    /// open.
    pub(super) fn open_part(&mut self, header: &ServerMessage, id: RequestId, at: u64, size: u64) {
        debug_assert!(self.part.is_none());
        self.say(header);
        self.part = Some(Part { id, at, left: size, filling: Filling::File });
    }

    /// Queues a part whole. Only when no part is open.
    pub(super) fn say_part(&mut self, header: &ServerMessage, bytes: &[u8]) {
        debug_assert!(self.part.is_none());
        self.say(header);
        self.front.extend_from_slice(bytes);
    }

    /// Whether a part of this request is under way.
    pub(super) fn has_part_of(&self, id: RequestId) -> bool {
        self.part.as_ref().is_some_and(|part| part.id == id)
    }

    /// Whether any part is under way.
    pub(super) fn has_part(&self) -> bool {
        self.part.is_some()
    }

    /// From here on the open part, if there is one, is filled with zeros.
    pub(super) fn fill_with_zeros(&mut self) {
        if let Some(part) = &mut self.part {
            part.filling = Filling::Zeros;
        }
    }

    /// Whether a part under way is filled with zeros.
    pub(super) fn has_zeros(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.filling == Filling::Zeros)
    }

    /// What to write next.
    pub(super) fn next(&self) -> Output<'_> {
        match (self.front.get(self.sent..), &self.part) {
            (Some(bytes), _) if !bytes.is_empty() => Output::Bytes(bytes),
            (_, Some(Part { left, filling: Filling::Zeros, .. })) => Output::Zeros(*left),
            (_, Some(Part { id, at, left, .. })) => Output::File { id: *id, at: *at, size: *left },
            (_, None) => Output::Nothing,
        }
    }

    /// So many bytes of what [`Outbound::next`] showed were written. Returns the request whose
    /// part is complete by that.
    pub(super) fn wrote(&mut self, count: u64) -> Option<RequestId> {
        if self.sent < self.front.len() {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.sent = self.sent.saturating_add(count).min(self.front.len());
            if self.sent == self.front.len() {
                // Given back, not cleared: an idle connection owns no buffer.
                self.front = Vec::new();
                self.sent = 0;
            } else if self.sent > self.front.len() / 2 {
                // A peer that never reads all of it does not make it grow.
                self.front.drain(..self.sent);
                self.sent = 0;
            }
            return None;
        }
        let part = self.part.as_mut()?;
        let count = count.min(part.left);
        part.left = part.left.saturating_sub(count);
        part.at = part.at.saturating_add(count);
        if part.left > 0 {
            return None;
        }
        let id = part.id;
        self.part = None;
        self.front = std::mem::take(&mut self.behind);
        Some(id)
    }

    /// Bytes of lines that wait.
    pub(super) fn queued_bytes(&self) -> usize {
        self.front.len().saturating_sub(self.sent).saturating_add(self.behind.len())
    }

    /// Whether nothing waits, neither line nor part.
    pub(super) fn is_empty(&self) -> bool {
        self.part.is_none() && self.queued_bytes() == 0
    }
}
