//! The legal edges of a request and of a connection, for both sides.
//!
//! ```text
//!   put     Receive --end--> Commit --stored--> Reply
//!   get     Open --opened--> Send --finished--> Reply
//!   others  Ask --answered--> Reply;  a list Ask --entries--> Ask, Ask --abort--> Reply
//!           any phase --refused--> Reply;  Receive and Open --abort--> Reply
//!           Send --abort--> Send: the open part is ended, then --refused--> Reply
//!
//!   a connection at the server
//!           Greet --hello--> Talk --quiet--> Drain --finished--> Closed
//!           Greet, Talk, Drain --failed--> Linger --gone--> Closed;  any stage --gone--> Closed
//! ```
//!
//! The data of a phase is no part of this table: it lives in the variants of the machines. A phase
//! changes nowhere but along an edge that stands here; protocol.md prints the table, and a test
//! holds it against this one.

/// Where a request is between its line and its final reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The body of a put is on its way.
    Receive,
    /// The body of a put is complete; it is being checked, made durable and given its name.
    Commit,
    /// A get waits for its file to be opened.
    Open,
    /// The body of a get is on its way, or its digest is being waited for.
    Send,
    /// Any other request waits for its answer.
    Ask,
    /// The final reply was given; the request is over.
    Reply,
}

/// What moves a request along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// A part of the body.
    Data,
    /// `kept`.
    Kept,
    /// `end` of a put.
    End,
    /// `abort`.
    Abort,
    /// `done`: the put took effect.
    Stored,
    /// `file`: the get's file is open.
    Opened,
    /// `end` of a get.
    Finished,
    /// `entries` of a list.
    Entries,
    /// `held`, `info`, `ok` or `pong`.
    Answered,
    /// `error`.
    Refused,
}

/// The edges of a request.
pub const REQUEST: &[(Phase, Step, Phase)] = {
    use Phase::*;
    use Step::*;
    &[
        (Receive, Data, Receive),
        (Receive, Kept, Receive),
        (Receive, End, Commit),
        (Receive, Abort, Reply),
        (Receive, Refused, Reply),
        (Commit, Kept, Commit),
        (Commit, Stored, Reply),
        (Commit, Refused, Reply),
        (Open, Opened, Send),
        (Open, Abort, Reply),
        (Open, Refused, Reply),
        (Send, Data, Send),
        (Send, Finished, Reply),
        (Send, Abort, Send),
        (Send, Refused, Reply),
        (Ask, Entries, Ask),
        (Ask, Answered, Reply),
        (Ask, Abort, Reply),
        (Ask, Refused, Reply),
    ]
};

/// Where a connection is, as its server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StageKind {
    /// `hello` has not come.
    Greet,
    /// Requests are welcome.
    Talk,
    /// No more requests: what is owed is answered, and then it is over.
    Drain,
    /// The last error was said; what still comes is thrown away, so that no reset eats the error.
    Linger,
    /// Over.
    Closed,
}

/// What moves a connection along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Turn {
    /// A `hello` of our version.
    Hello,
    /// The client closed its sending direction, or the server is about to stop.
    Quiet,
    /// Everything owed was said.
    Finished,
    /// The client broke the protocol or a deadline, or the server stops.
    Failed,
    /// The connection is gone, or has lingered long enough.
    Gone,
}

/// The edges of a connection.
pub const CONNECTION: &[(StageKind, Turn, StageKind)] = {
    use StageKind::*;
    use Turn::*;
    &[
        (Greet, Hello, Talk),
        (Greet, Failed, Linger),
        (Greet, Gone, Closed),
        (Talk, Quiet, Drain),
        (Talk, Failed, Linger),
        (Talk, Gone, Closed),
        (Drain, Quiet, Drain),
        (Drain, Finished, Closed),
        (Drain, Failed, Linger),
        (Drain, Gone, Closed),
        (Linger, Gone, Closed),
    ]
};

/// Where a request goes from `phase` on `step`, if that is legal.
pub fn request(phase: Phase, step: Step) -> Option<Phase> {
    REQUEST.iter().find(|edge| edge.0 == phase && edge.1 == step).map(|edge| edge.2)
}

/// Where a connection goes from `stage` on `turn`, if that is legal.
pub fn connection(stage: StageKind, turn: Turn) -> Option<StageKind> {
    CONNECTION.iter().find(|edge| edge.0 == stage && edge.1 == turn).map(|edge| edge.2)
}

/// Which edges a machine has taken, so that tests can ask that all of them are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edges {
    /// Bits, in the order of [`REQUEST`].
    requests: u32,
    /// Bits, in the order of [`CONNECTION`].
    connections: u32,
}

impl Edges {
    pub(crate) fn request(&mut self, phase: Phase, step: Step) {
        let place = REQUEST.iter().position(|edge| edge.0 == phase && edge.1 == step);
        debug_assert!(place.is_some(), "no edge leads from {phase:?} on {step:?}");
        self.requests |= place.map_or(0, |place| 1 << place);
    }

    pub(crate) fn connection(&mut self, stage: StageKind, turn: Turn) {
        let place = CONNECTION.iter().position(|edge| edge.0 == stage && edge.1 == turn);
        debug_assert!(place.is_some(), "no edge leads from {stage:?} on {turn:?}");
        self.connections |= place.map_or(0, |place| 1 << place);
    }

    /// Those that either has taken.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests: self.requests | other.requests,
            connections: self.connections | other.connections,
        }
    }

    /// Those that were not, as they are written in protocol.md.
    pub fn missing(self) -> Vec<String> {
        let untaken = |bits: u32, place: usize| bits >> place & 1 == 0;
        let requests = REQUEST.iter().enumerate();
        let requests = requests.filter(|(place, _)| untaken(self.requests, *place));
        let connections = CONNECTION.iter().enumerate();
        let connections = connections.filter(|(place, _)| untaken(self.connections, *place));
        requests
            .map(|(_, (phase, step, _))| format!("{phase:?} {step:?}").to_lowercase())
            .chain(
                connections
                    .map(|(_, (stage, turn, _))| format!("{stage:?} {turn:?}").to_lowercase()),
            )
            .collect()
    }
}

const _: () = assert!(REQUEST.len() <= 32 && CONNECTION.len() <= 32, "a bit for each");
