//! What a put takes over from an earlier process, and what it leaves to a later one.

use std::sync::mpsc::sync_channel;

use ftx_disk::hash::Saved;
use ftx_disk::identity::Identity;
use ftx_protocol::limits::{GRID_BYTES, RESUMABLE_BYTES};
use ftx_protocol::message::{HeldState, Put};
use ftx_protocol::{Code, Condition, Durability, TransferId};

use super::{Begun, Held, Known, Transfer, held_of};
use crate::Client;
use crate::ask::wait;
use crate::failure::{Class, Failure, GOES_ON, Trouble, is_about_the_login};
use crate::ids::new_id;
use crate::interrupt::Interrupt;
use crate::link::{LAST_WORDS, Link};
use crate::source::Kind;
use crate::state::{Direction, Key, State, Subject, note, warn_stateless};

/// A transfer that nobody goes on with any more, and of which the server may hold something.
pub(super) struct GivenUp {
    pub(super) transfer: TransferId,
    /// As it was put.
    pub(super) size: Option<u64>,
    pub(super) durability: Durability,
}

impl Transfer<'_, '_> {
    /// Has the server drop what it holds of a transfer that was given up for a new one: nobody would come
    /// for it, and it would take its room, and count for who put it, for days. A server that refuses
    /// that keeps it, and no more comes of it.
    pub(super) fn drop_given_up(&mut self, link: &Link) -> Result<(), Trouble> {
        let Some(given_up) = &self.given_up else { return Ok(()) };
        let &GivenUp { transfer, size, durability } = given_up;
        let put = Put { transfer, size, durability, ..self.request(0) };
        match drop_held(link, put) {
            Err(Trouble::Refused(refusal)) if !passes(refusal.code) => {}
            // What did not come to that is for the next connection.
            result => result?,
        }
        self.given_up = None;
        Ok(())
    }

    /// Has the server drop what it holds of a stream that was interrupted: no other process has its bytes. On
    /// another connection, for this one may have been left inside a part; and whoever interrupts does not wait
    /// for long.
    fn drop_stream(&self) {
        let (interrupt, keeper) = (Interrupt::default(), None);
        let client = Client { interrupt, keeper, pace: None, ..self.client.clone() };
        let put = self.request(0);
        let (is_over, over) = sync_channel(1);
        std::thread::spawn(move || {
            let dropped = client.link().and_then(|link| drop_held(&link, put));
            // Perhaps too late for whoever waited.
            let _ = is_over.send(dropped);
        });
        // A server that cannot be told so drops it when its time is over.
        let _ = over.recv_timeout(LAST_WORDS);
    }

    /// Nobody goes on with the transfer any more; a new one begins.
    pub(super) fn give_up_transfer(&mut self) {
        let (transfer, durability) = (self.transfer, self.durability);
        let size = self.reading.source.size();
        self.given_up = Some(GivenUp { transfer, size, durability });
    }

    /// Finds out whether an earlier process began this.
    pub(super) fn take_up_state(&mut self) {
        let Kind::File { identity, .. } = &self.reading.source.kind else { return };
        let identity = *identity;
        // Of a small one the server holds no part; but whether it was put tells nothing else where it may not be put again.
        if identity.size < RESUMABLE_BYTES && self.options.condition != Condition::Absent {
            return;
        }
        let key = Key {
            direction: Direction::Put,
            server: &self.client.server,
            name: self.name,
            path: &self.reading.source.path,
            algorithm: self.options.algorithm,
        };
        match State::open(&key) {
            Ok(Some((state, earlier))) => {
                self.state = Some(state);
                match earlier.map(|earlier| (earlier.subject, earlier.saved)) {
                    Some((Subject::Put { transfer, source, durability, .. }, saved))
                        if identity.is_same_after_reboot(&source) =>
                    {
                        self.transfer = transfer;
                        self.durability = durability;
                        self.known = Known::Perhaps;
                        self.begun = Begun::Earlier;
                        // What the earlier process did after its last note is not known exactly;
                        // this is the most that it can have been.
                        let last = saved.last().map_or(0, Saved::offset);
                        let most = last.saturating_add(GRID_BYTES).min(identity.size);
                        self.sent_to = most;
                        self.reading.take_over(saved, most);
                    }
                    earlier => {
                        if let Some((Subject::Put { transfer, source, durability, .. }, _)) =
                            earlier
                        {
                            let size = Some(source.size);
                            self.given_up = Some(GivenUp { transfer, size, durability });
                        }
                        self.begin_state(identity);
                    }
                }
            }
            // Another process puts the same file; this one is a transfer of its own.
            Ok(None) => {}
            Err(error) => warn_stateless(self.observer, &error),
        }
    }

    fn begin_state(&mut self, source: Identity) {
        let (transfer, durability) = (self.transfer, self.durability);
        let path = &self.reading.source.path;
        note(&mut self.state, self.observer, |state| {
            let path = std::path::absolute(path)?.into();
            state.begin(&Subject::Put { transfer, source, path, durability })
        });
    }

    /// The end, unless the same command may still succeed where this one ended.
    pub(super) fn give_up(&mut self, trouble: Trouble) -> Failure {
        let about_login =
            matches!(&trouble, Trouble::Refused(refusal) if is_about_the_login(refusal.code));
        // One that came too late for that: the next try finds nothing, and that is all.
        let still_held = matches!(&trouble, Trouble::Refused(refusal) if !passes(refusal.code))
            && self.held == Held::Perhaps;
        let stays = match &trouble {
            Trouble::Refused(refusal) => passes(refusal.code) || still_held,
            Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Interrupted => {
                self.known == Known::Perhaps
            }
            Trouble::Final(failure) => {
                failure.class == Class::Untrusted && self.known == Known::Perhaps
            }
            Trouble::Violation(_) | Trouble::Corrupt(_) => false,
        };
        if matches!(trouble, Trouble::Interrupted)
            && self.known == Known::Perhaps
            && matches!(self.reading.source.kind, Kind::Stream(_))
        {
            self.drop_stream();
        }
        let goes_on = stays && self.state.as_ref().is_some_and(State::is_kept);
        if !goes_on && let Some(state) = self.state.take() {
            state.remove();
        }
        let failure = self.failure(trouble);
        // A server that asks for a login has not said that it has anything.
        if !goes_on || about_login {
            failure
        } else if still_held {
            failure.with_hint("the same command goes on with what the server still has")
        } else if self.reading.source.size().is_some_and(|size| size < RESUMABLE_BYTES) {
            failure.with_hint("it may have been put; the same command finds out")
        } else {
            failure.with_hint(&format!("the server keeps what it has; {GOES_ON}"))
        }
    }

    pub(super) fn start_over(&mut self) -> Result<(), Failure> {
        self.transfer = new_id()?;
        self.durability = self.options.durability;
        self.known = Known::No;
        self.begun = Begun::Here;
        self.reading.start_over();
        if let Kind::File { identity, .. } = &self.reading.source.kind {
            let identity = *identity;
            self.begin_state(identity);
        }
        Ok(())
    }
}

/// Has the server drop what it holds of a put.
fn drop_held(link: &Link, put: Put) -> Result<(), Trouble> {
    let held = held_of(link, put.transfer)?;
    let (HeldState::Partial, Some(&(_, at))) = (held.state, held.ranges.first()) else {
        return Ok(());
    };
    let put = Put { at, ..put };
    link.send(|machine, out, now| {
        let id = machine.put(put, out, now);
        machine.abort(id, Code::Aborted, out);
    })?;
    // Nothing but an error can come.
    wait(link, |_| None)
}

/// Whether a refusal says nothing of the transfer itself.
fn passes(code: Code) -> bool {
    code == Code::TakenOver || Class::Refused(code).is_about_the_way()
}
