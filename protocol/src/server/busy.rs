//! What a machine holds for requests that are not answered. Most connections of most servers have
//! none, and hold nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};

use super::order::Order;
use super::outbound::Outbound;
use super::requests::{Command, Request, SendQueue, Work};
use crate::ids::RequestId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Busy {
    pub(super) requests: BTreeMap<RequestId, Request>,
    pub(super) order: Order,
    /// Gets, and stats that want a digest, that may be opened, and those that are being opened.
    pub(super) to_open: VecDeque<RequestId>,
    pub(super) opening: BTreeSet<RequestId>,
    /// Lists, in the order in which they are carried out: the first one is.
    pub(super) lists: VecDeque<RequestId>,
    /// What live requests make the server hold.
    pub(super) requests_bytes: usize,
    pub(super) send_queue: SendQueue,
    pub(super) outbound: Outbound,
    pub(super) commands: VecDeque<Command>,
}

impl Busy {
    /// Has storage asked to do something.
    pub(super) fn ask(&mut self, work: Work) {
        self.commands.push_back(Command::Work(work));
    }
}

/// That, made when it is first written to.
#[derive(Debug, Default)]
pub(super) struct Lazily(Option<Box<Busy>>);

static IDLE: Busy = Busy {
    requests: BTreeMap::new(),
    order: Order::new(),
    to_open: VecDeque::new(),
    opening: BTreeSet::new(),
    lists: VecDeque::new(),
    requests_bytes: 0,
    send_queue: SendQueue::new(),
    outbound: Outbound::new(),
    commands: VecDeque::new(),
};

impl Lazily {
    /// Lets go of it, if there is nothing in it.
    pub(super) fn rest(&mut self) {
        let is_idle = self.0.as_ref().is_some_and(|busy| {
            busy.requests.is_empty()
                && busy.to_open.is_empty()
                && busy.opening.is_empty()
                && busy.lists.is_empty()
                && busy.send_queue.is_empty()
                && busy.outbound.is_empty()
                && busy.commands.is_empty()
        });
        if is_idle {
            self.0 = None;
        }
    }
}

impl Deref for Lazily {
    type Target = Busy;

    fn deref(&self) -> &Busy {
        self.0.as_deref().unwrap_or(&IDLE)
    }
}

impl DerefMut for Lazily {
    fn deref_mut(&mut self) -> &mut Busy {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Output, Server, Settings};
    use crate::clock::Time;
    use crate::message::Limits;

    /// Writes all, carries out all, and returns how much was written.
    fn settle(server: &mut Server) -> usize {
        let mut written = 0;
        while let Output::Bytes(bytes) = server.output(Time::default()) {
            let count = bytes.len();
            written += count;
            server.wrote(count as u64, Time::default());
        }
        while server.poll_command().is_some() {}
        written
    }

    #[test]
    fn a_connection_with_nothing_under_way_holds_nothing() {
        let settings = Settings {
            agent: "test".to_owned(),
            features: vec!["sha256".to_owned()],
            limits: Limits::default(),
            requests_total_max: crate::limits::REQUESTS_TOTAL,
            header_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        };
        let mut server = Server::new(Arc::new(settings), Time::default());
        server.receive(b"{\"hello\":{\"ftx\":1}}\n", Time::default());
        assert!(settle(&mut server) > 0);
        assert!(server.busy.0.is_none());
        server.receive(b"{\"stat\":{\"id\":1,\"name\":\"a\"}}\n", Time::default());
        settle(&mut server);
        assert!(server.busy.0.is_some(), "until it is answered");
        server.receive(b"{\"ping\":{\"id\":2}}\n", Time::default());
        let refusal = crate::error::Code::NotFound.into();
        let id = crate::ids::RequestId(1);
        server.handle(super::super::Event::Refused { id, refusal }, Time::default());
        settle(&mut server);
        assert!(server.busy.0.is_none());
        // What is kept of each of ten thousand of them.
        assert!(size_of::<Server>() <= 304, "{}", size_of::<Server>());
    }
}
