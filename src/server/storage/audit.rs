//! The line in the log that each operation leaves which ended or was refused: who did what, to which
//! name, how much of it, how it ended and how long it took.
//!
//! Its target is `audit`, so that `RUST_LOG=audit=info` has these lines and no others. Names are
//! escaped, their spaces too: a peer chooses them, and must not write fields of its own. There is never
//! a token in it, and never the id of a transfer, which would be enough to take it over.
//!
//! A request costs one line, whatever is wrong with it, and whoever writes the log keeps no more of them than it
//! has room for. What ends a connection and asked for nothing is the selector's to tell.

use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ftx_disk::store::{Held, Stored};
use ftx_protocol::clock::milliseconds;
use ftx_protocol::message::{Change, Spent};
use ftx_protocol::server::Refused;
use ftx_protocol::{Code, Digest, Durability, Fault, Name, Refusal, Replay, Time, Verb};
use tracing::{info, warn};

use super::Origin;
use crate::server::access::{Operation, Who};

/// A put took effect; or it had before, and that is told again: then nothing was brought.
pub(super) fn stored(origin: &Origin, name: &Name, stored: &Stored, began: Instant, spent: Spent) {
    let Origin { peer, who, .. } = origin;
    info!(
        target: "audit",
        %who,
        token = who.token(),
        %peer,
        op = Verb::Put.as_str(),
        name = %Word(name),
        numbered = stored.name.as_ref().map(Word).map(tracing::field::display),
        replayed = stored.replayed.map(replay),
        bytes = stored.replayed.is_none().then_some(stored.size),
        digest = %stored.digest,
        durability = %stored.durability,
        result = "ok",
        ms = milliseconds_since(began),
        disk_us = spent.disk,
        hash_us = spent.hash,
        sync_us = spent.sync,
        "{}",
        if stored.replayed.is_none() { "stored" } else { "told again" }
    );
}

/// As the peer is told it.
fn replay(replay: Replay) -> &'static str {
    match replay {
        Replay::Same => "same",
        Replay::Changed => "changed",
    }
}

/// A file was sent from an offset on, with the digest of all of it, or its digest was.
pub(super) fn read(
    origin: &Origin,
    verb: Verb,
    name: &Name,
    (at, bytes, digest): (u64, u64, Digest),
    began: Instant,
    spent: Spent,
) {
    let Origin { peer, who, .. } = origin;
    info!(
        target: "audit",
        %who,
        token = who.token(),
        %peer,
        op = verb.as_str(),
        name = %Word(name),
        at = (at > 0).then_some(at),
        bytes,
        %digest,
        result = "ok",
        ms = milliseconds_since(began),
        disk_us = spent.disk,
        hash_us = spent.hash,
        "{}",
        if verb == Verb::Get { "sent" } else { "summed" }
    );
}

/// Whoever asked for a file, or brought one, has given up or is gone: so much of it was moved.
pub(super) fn broken_off(origin: &Origin, verb: Verb, name: &Name, bytes: u64, began: Instant) {
    let Origin { peer, who, .. } = origin;
    let op = verb.as_str();
    let (token, ms, result) = (who.token(), milliseconds_since(began), Code::Aborted);
    let name = Word(name);
    info!(target: "audit", %who, token, %peer, op, %name, bytes, %result, ms, "{op} broken off");
}

/// A list is complete, or was broken off after so many entries.
pub(super) fn listed(
    origin: &Origin,
    name: Option<&Name>,
    entries: u64,
    result: &'static str,
    began: Instant,
) {
    let Origin { peer, who, .. } = origin;
    let (op, name, ms) = (Verb::List.as_str(), Word(directory(name)), milliseconds_since(began));
    info!(
        target: "audit", %who, token = who.token(), %peer, op, %name, entries, result, ms,
        "listed"
    );
}

/// What a name stands for was told.
pub(super) fn told(origin: &Origin, verb: Verb, name: &Name, began: Instant) {
    let Origin { peer, who, .. } = origin;
    let (op, name, ms) = (verb.as_str(), Word(name), milliseconds_since(began));
    info!(target: "audit", %who, token = who.token(), %peer, op, %name, result = "ok", ms, "told");
}

/// Names were changed.
pub(super) fn changed(origin: &Origin, change: &Change, durability: Durability, began: Instant) {
    let Origin { peer, who, .. } = origin;
    let (name, to) = change.names();
    let message = match change {
        Change::Mkdir(_) => "made the directory",
        Change::Move(_) => "moved",
        Change::Remove(_) => "removed",
    };
    info!(
        target: "audit",
        %who,
        token = who.token(),
        %peer,
        op = change.verb().as_str(),
        name = %Word(name),
        to = to.map(Word).map(tracing::field::display),
        %durability,
        result = "ok",
        ms = milliseconds_since(began),
        "{message}"
    );
}

/// How far something came that was refused, besides its name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Came<'a> {
    /// To nothing.
    Nowhere,
    /// So many bytes of a body were moved.
    Bytes(u64),
    /// So many entries of a list were told.
    Entries(u64),
    /// Something was to get this name.
    To(Option<&'a Name>),
}

/// Something was begun and failed, or was refused by what there is.
pub(super) fn refused(
    origin: &Origin,
    verb: Verb,
    name: &dyn Display,
    came: Came<'_>,
    refusal: &Refusal,
    began: Instant,
) {
    let Origin { peer, who, .. } = origin;
    let (result, why) = (refusal.code, why(refusal));
    let (op, name, token) = (verb.as_str(), Word(name), who.token());
    let (bytes, entries, to) = match came {
        Came::Nowhere => (None, None, None),
        Came::Bytes(bytes) => (Some(bytes), None, None),
        Came::Entries(entries) => (None, Some(entries), None),
        Came::To(to) => (None, None, to.map(Word).map(tracing::field::display)),
    };
    let ms = milliseconds_since(began);
    match result.fault() {
        Fault::Server if result != Code::ShuttingDown => warn!(
            target: "audit", %who, token, %peer, op, %name, to, bytes, entries, %result, why, ms,
            "{op} failed"
        ),
        _ => info!(
            target: "audit", %who, token, %peer, op, %name, to, bytes, entries, %result, why, ms,
            "{op} refused"
        ),
    }
}

/// Somebody may not do something: it was refused before anything was looked at, which takes no time.
pub(in crate::server) fn denied(
    peer: SocketAddr,
    who: &Who,
    operation: &Operation<'_>,
    refusal: &Refusal,
) {
    let (name, to) = match operation {
        Operation::Put { name, .. }
        | Operation::Get(name)
        | Operation::Stat(name)
        | Operation::Sum(name)
        | Operation::Mkdir(name)
        | Operation::Remove(name) => (Some(*name), None),
        Operation::List(name) => (*name, None),
        Operation::Move { from, to, .. } => (Some(*from), Some(*to)),
        Operation::Resume | Operation::Continue | Operation::End => (None, None),
    };
    let names = (name.map(|name| name as _), to.map(|to| to as _));
    unlooked(peer, who, operation.verb(), names, refusal, 0);
}

/// The machine refused a request by itself, or what was asked for was given up while it waited.
pub(in crate::server) fn unbegun(peer: SocketAddr, who: &Who, refused: &Refused, now: Time) {
    let Refused { asked, refusal, since } = refused;
    let waited = since.until(now);
    if asked.verb == Verb::Login {
        return not_admitted(peer, refusal, waited);
    }
    let names = (asked.name.as_ref().map(|name| name as _), asked.to.as_ref().map(|to| to as _));
    unlooked(peer, who, asked.verb, names, refusal, milliseconds(waited));
}

/// Something ended before anything was looked at.
fn unlooked(
    peer: SocketAddr,
    who: &Who,
    verb: Verb,
    (name, to): (Option<&dyn Display>, Option<&dyn Display>),
    refusal: &Refusal,
    ms: u64,
) {
    let name = name.or((verb == Verb::List).then(|| directory(None)));
    let (name, to) = (name.map(Word), to.map(Word));
    let (name, to) = (name.map(tracing::field::display), to.map(tracing::field::display));
    let (op, result, token) = (verb.as_str(), refusal.code, who.token());
    if result == Code::Aborted {
        info!(target: "audit", %who, token, %peer, op, name, to, %result, ms, "{op} broken off");
    } else {
        let why = why(refusal);
        info!(target: "audit", %who, token, %peer, op, name, to, %result, why, ms, "{op} refused");
    }
}

/// It was told what is held of a transfer, which belongs to whoever asked from then on.
pub(super) fn resumed(origin: &Origin, held: &Held, began: Instant) {
    let Origin { peer, who, .. } = origin;
    info!(
        target: "audit",
        %who,
        token = who.token(),
        %peer,
        op = Verb::Resume.as_str(),
        name = held.name.as_ref().map(Word).map(tracing::field::display),
        bytes = held.at,
        digest = held.digest.map(tracing::field::display),
        result = "ok",
        ms = milliseconds_since(began),
        "resumed"
    );
}

/// It was not told what is held: somebody else came for the transfer meanwhile, or the right to it is lost.
pub(super) fn resume_refused(origin: &Origin, refusal: &Refusal, began: Instant) {
    let Origin { peer, who, .. } = origin;
    unlooked(*peer, who, Verb::Resume, (None, None), refusal, milliseconds_since(began));
}

/// Somebody with a token logged in.
pub(in crate::server) fn logged_in(peer: SocketAddr, who: &Who, began: Instant) {
    let (op, token, ms) = (Verb::Login.as_str(), who.token(), milliseconds_since(began));
    info!(target: "audit", %who, token, %peer, op, result = "ok", ms, "logged in");
}

/// Somebody was not admitted.
pub(in crate::server) fn not_admitted(peer: SocketAddr, refusal: &Refusal, after: Duration) {
    let (op, result, why) = (Verb::Login.as_str(), refusal.code, why(refusal));
    let ms = milliseconds(after);
    info!(target: "audit", who = "nobody", %peer, op, %result, why, ms, "login refused");
}

/// A directory, as it is called in the log.
pub(super) fn directory(name: Option<&Name>) -> &dyn Display {
    match name {
        Some(name) => name,
        None => &"/",
    }
}

/// As a number: one of 128 bits is text in a log of JSON.
fn milliseconds_since(began: Instant) -> u64 {
    milliseconds(began.elapsed())
}

/// The particulars, for a person; where they repeat words of the peer, what the table says of the code.
fn why(refusal: &Refusal) -> &str {
    match refusal.code {
        Code::UnknownRequest | Code::UnknownNeed | Code::BadMessage => refusal.code.advice(),
        _ => &refusal.message,
    }
}

/// What a peer may have chosen, as one word: a name with ` who=root` in it is no field of the line.
#[derive(Clone, Copy)]
pub(super) struct Word<T>(pub(super) T);

impl<T: Display> Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Spaceless(f), "{}", self.0)
    }
}

struct Spaceless<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Spaceless<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| match letter {
            ' ' => self.0.write_str("\\x20"),
            other if other.is_whitespace() => write!(self.0, "\\u{{{:x}}}", u32::from(other)),
            other => self.0.write_char(other),
        })
    }
}
