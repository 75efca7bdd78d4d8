//! Questions, and changes of names: everything that brings no file. One connection for as many of
//! them as there are, with no round trip for each.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_protocol::client::Event;
use ftx_protocol::message::{Change, Entries, Info, List, Stat};
use ftx_protocol::{Code, Depth, Durability, Name, Refusal, RequestId};

use crate::failure::{Failure, Trouble};
use crate::link::{Link, READ_BYTES};
use crate::{Client, ServerAddress};

/// Questions and gets under way at most, and the bytes of their lines: so few that the server has room for
/// them while it answers and sends, and this side never has to wait for that.
pub(crate) const ASKED_MAX: usize = 512;
pub(crate) const ASKED_BYTES: usize = 32 * 1024;

/// A question, or a change of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// What a name stands for.
    Stat(Stat),
    /// To change names.
    Change(Change),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What a name stands for.
    Info(Info),
    /// Names were changed, and survive this.
    Changed(Durability),
}

impl Ask {
    /// For messages.
    fn what(&self) -> String {
        match self {
            Self::Stat(Stat { name, digest: None, .. }) => format!("stat {name}"),
            Self::Stat(Stat { name, .. }) => format!("sum {name}"),
            Self::Change(Change::Mkdir(mkdir)) => format!("mkdir {}", mkdir.name),
            Self::Change(Change::Move(moving)) => format!("mv {} {}", moving.name, moving.to),
            Self::Change(Change::Remove(remove)) => format!("rm {}", remove.name),
        }
    }

    fn line_bytes(&self) -> usize {
        const REST_BYTES: usize = 256;
        let (one, other) = match self {
            Self::Stat(stat) => (&stat.name, None),
            Self::Change(change) => change.names(),
        };
        let bytes = |name: &Name| Name::line_bytes(name.as_bytes());
        bytes(one).saturating_add(other.map_or(0, bytes)).saturating_add(REST_BYTES)
    }
}

impl Client {
    /// Opens a connection for questions.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn session(&self) -> Result<Session, Failure> {
        match self.link() {
            Ok(link) => Ok(Session { client: self.clone(), link, buffer: vec![0; READ_BYTES] }),
            Err(trouble) => Err(trouble.into_failure("connect", &self.server)),
        }
    }

    /// Asks what a name stands for.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn stat(&self, name: &Name) -> Result<Info, Failure> {
        self.session()?.stat(Stat::of(name.clone()))
    }

    /// Asks for a sign of life, and says how long it took once the connection stood.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn ping(&self) -> Result<Duration, Failure> {
        self.sign_of_life().map_err(|trouble| trouble.into_failure("ping", &self.server))
    }

    /// Makes sure that there is a server and that it lets this client in. A [`Keeper`](crate::Keeper)
    /// has the connection then: one on which the greeting is still to come would not be kept.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn greet(&self) -> Result<(), Failure> {
        let greeted = self.sign_of_life().map(drop);
        greeted.map_err(|trouble| trouble.into_failure("connect", &self.server))
    }

    pub(crate) fn sign_of_life(&self) -> Result<Duration, Trouble> {
        let link = self.link()?;
        let sent = Instant::now();
        link.send(|machine, out, now| machine.ping(out, now))?;
        let time = wait(&link, |event| matches!(event, Event::Pong(_)).then(|| sent.elapsed()))?;
        self.leave(&link);
        Ok(time)
    }
}

/// A connection for questions. One that has failed stays failed.
pub struct Session {
    client: Client,
    link: Arc<Link>,
    buffer: Vec<u8>,
}

impl Session {
    /// Asks what a name stands for.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub fn stat(&mut self, stat: Stat) -> Result<Info, Failure> {
        match self.ask(Ask::Stat(stat))? {
            Answer::Info(info) => Ok(info),
            Answer::Changed(_) => Err(self.nonsense("stat")),
        }
    }

    /// Changes names.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks: then they may have been changed.
    pub fn change(&mut self, change: Change) -> Result<Durability, Failure> {
        match self.ask(Ask::Change(change))? {
            Answer::Changed(durability) => Ok(durability),
            Answer::Info(_) => Err(self.nonsense("change")),
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let mut found = None;
        self.ask_all(&mut std::iter::once(((), ask)), &mut |(), answer| found = Some(answer))?;
        found.unwrap_or_else(|| Err(self.nonsense("ask")))
    }

    fn nonsense(&self, what: &str) -> Failure {
        Trouble::Broken("no answer came".to_owned()).into_failure(what, &self.client.server)
    }

    /// Asks many questions, each with something that tells it from the others. The answers come in
    /// any order. A server that lets one connection ask no more (rule 4.12) is asked on another one.
    ///
    /// # Errors
    /// When the connection breaks. What is refused is an answer, and the rest goes on.
    pub fn ask_all<K>(
        &mut self,
        asks: &mut dyn Iterator<Item = (K, Ask)>,
        each: &mut dyn FnMut(K, Result<Answer, Failure>),
    ) -> Result<(), Failure> {
        let mut asking = Asking::default();
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            if self.link.is_over()
                && asking.busy.is_empty()
                && let Some(next) = asking.next(asks)
            {
                asking.again.push_front(next);
                if let Err(failure) = self.connect_anew(&mut asking) {
                    break Err(failure);
                }
            }
            let lines = asking.take_more(asks, &self.link);
            if asking.is_over() {
                break Ok(());
            }
            if asking.asked.is_empty() {
                match self.come_anew(&mut asking, each) {
                    Ok(()) => continue,
                    Err(failure) => break Err(failure),
                }
            }
            let (link, server) = (&self.link, &self.client.server);
            let heard = link.write(&lines).map_err(Trouble::from).and_then(|()| {
                link.receive(&mut buffer, &mut |event, _| {
                    if let Some((key, ask, answer)) = asking.heard(event) {
                        each(key, answer.map_err(|refusal| refused(&ask, refusal, server)));
                    }
                    Ok(())
                })
            });
            match heard {
                Ok(()) => {}
                // It may ask no more, or the server has too much to do.
                Err(Trouble::Refused(refusal))
                    if refusal.code == Code::Busy
                        && (link.machine().was_turned_away() || asking.changed_nothing_more()) =>
                {
                    asking.all_refused(&refusal);
                }
                // The end of such a connection.
                Err(_) if asking.asked.is_empty() && !asking.busy.is_empty() => {}
                Err(trouble) => {
                    let failure = trouble.into_failure(&asking.what(), &self.client.server);
                    break Err(match (link.machine().was_turned_away(), asking.doubt()) {
                        (false, Some(doubt)) => failure.with_hint(&doubt),
                        (true, _) | (_, None) => failure,
                    });
                }
            }
        };
        self.buffer = buffer;
        result
    }

    /// Goes on with what was refused as too much, on another connection; if that was of no use, it is the answer.
    fn come_anew<K>(
        &mut self,
        asking: &mut Asking<K>,
        each: &mut dyn FnMut(K, Result<Answer, Failure>),
    ) -> Result<(), Failure> {
        let busy = std::mem::take(&mut asking.busy);
        match asking.used {
            Use::Answered => {
                self.connect_anew(asking)?;
                asking.again.extend(busy.into_iter().map(|(key, ask, _)| (key, ask)));
            }
            Use::New => {
                for (key, ask, refusal) in busy {
                    each(key, Err(refused(&ask, refusal, &self.client.server)));
                }
            }
        }
        Ok(())
    }

    fn connect_anew<K>(&mut self, asking: &mut Asking<K>) -> Result<(), Failure> {
        let link = self.client.link();
        self.link = link.map_err(|trouble| trouble.into_failure("connect", &self.client.server))?;
        asking.used = Use::New;
        Ok(())
    }

    /// Lists a directory; `None` is the root. Hands over what comes as it comes; a caller that
    /// breaks off ends the session.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub fn list(
        &mut self,
        name: Option<&Name>,
        depth: Depth,
        each: &mut dyn FnMut(Entries) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let what = name.map_or_else(|| "list".to_owned(), |name| format!("list {name}"));
        let list = List { id: RequestId(0), name: name.cloned(), depth, need: Vec::new() };
        let mut buffer = std::mem::take(&mut self.buffer);
        let link = &self.link;
        let listed =
            link.send(|machine, out, now| machine.list(list, out, now)).map_err(Trouble::from);
        let listed = listed.and_then(|id| {
            let mut over = ControlFlow::Continue(());
            let mut owed: u32 = 0;
            while over.is_continue() {
                link.receive(&mut buffer, &mut |event, _| {
                    match event {
                        Event::Entries(entries) => {
                            owed = owed.saturating_add(1);
                            if over.is_continue() {
                                over = each(entries);
                            }
                        }
                        Event::Ok(_) => over = ControlFlow::Break(()),
                        Event::Refused { refusal, .. } => return Err(Trouble::Refused(refusal)),
                        _ => {}
                    }
                    Ok(())
                })?;
                for _ in 0..std::mem::take(&mut owed) {
                    link.send(|machine, out, _| machine.more(id, out))?;
                }
            }
            Ok(())
        });
        self.buffer = buffer;
        listed.map_err(|trouble| trouble.into_failure(&what, &self.client.server))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.client.leave(&self.link);
    }
}

/// What a connection was good for so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It has answered, or may have, before these questions.
    Answered,
    /// It came in the place of another one, and has answered nothing.
    New,
}

/// Questions under way.
struct Asking<K> {
    asked: BTreeMap<RequestId, (K, Ask)>,
    asked_bytes: usize,
    /// Refused with `busy` on this connection, which may ask no more.
    busy: Vec<(K, Ask, Refusal)>,
    /// To be asked on this one, before the others.
    again: VecDeque<(K, Ask)>,
    used: Use,
}

impl<K> Default for Asking<K> {
    fn default() -> Self {
        let (asked, asked_bytes) = (BTreeMap::new(), 0);
        Self { asked, asked_bytes, busy: Vec::new(), again: VecDeque::new(), used: Use::Answered }
    }
}

impl<K> Asking<K> {
    fn next(&mut self, asks: &mut dyn Iterator<Item = (K, Ask)>) -> Option<(K, Ask)> {
        self.again.pop_front().or_else(|| asks.next())
    }

    /// The lines of as many questions more as the server has room for.
    fn take_more(&mut self, asks: &mut dyn Iterator<Item = (K, Ask)>, link: &Link) -> Vec<u8> {
        let mut lines = Vec::new();
        while self.busy.is_empty()
            && self.asked.len() < ASKED_MAX
            && self.asked_bytes < ASKED_BYTES
            && let Some((key, ask)) = self.next(asks)
        {
            let now = link.now();
            let id = match ask.clone() {
                Ask::Stat(stat) => link.machine().stat(stat, &mut lines, now),
                Ask::Change(change) => link.machine().change(change, &mut lines, now),
            };
            self.asked_bytes = self.asked_bytes.saturating_add(ask.line_bytes());
            self.asked.insert(id, (key, ask));
        }
        lines
    }

    /// Whether nothing was changed of which there is no answer: a server that refuses one by one has answered
    /// what ran (rule 4.12), and another one may have begun with all.
    fn changed_nothing_more(&self) -> bool {
        !self.busy.is_empty() || self.asked.values().all(|(_, ask)| matches!(ask, Ask::Stat(_)))
    }

    /// Changes of which nobody knows whether they were made, if the connection ends now.
    fn unanswered(&self) -> impl Iterator<Item = &Ask> {
        let asked = self.asked.values().map(|(_, ask)| ask);
        asked.filter(|ask| matches!(ask, Ask::Change(_)))
    }

    /// What the end of the connection is told of: the first of these, or else the first question.
    fn what(&self) -> String {
        let first = self.unanswered().chain(self.asked.values().map(|(_, ask)| ask)).next();
        first.map_or_else(String::new, Ask::what)
    }

    fn doubt(&self) -> Option<String> {
        match self.unanswered().count() {
            0 => None,
            1 => Some("it may have been done all the same".to_owned()),
            more => Some(format!(
                "it may have been done all the same, and so may {} more",
                more.saturating_sub(1)
            )),
        }
    }

    /// The server has refused all that it has not answered.
    fn all_refused(&mut self, refusal: &Refusal) {
        let asked = std::mem::take(&mut self.asked).into_values();
        self.busy.extend(asked.map(|(key, ask)| (key, ask, refusal.clone())));
        self.asked_bytes = 0;
    }

    fn is_over(&self) -> bool {
        self.asked.is_empty() && self.busy.is_empty()
    }

    /// A question with its answer, if this is one, and none that another connection may bring.
    fn heard(&mut self, event: Event) -> Option<(K, Ask, Result<Answer, Refusal>)> {
        let (id, answer) = match event {
            Event::Info(info) => (info.id, Ok(Answer::Info(info))),
            Event::Ok(okay) => {
                (okay.id, Ok(Answer::Changed(okay.durability.unwrap_or(Durability::None))))
            }
            Event::Refused { id, refusal } => (id, Err(refusal)),
            _ => return None,
        };
        let (key, ask) = self.asked.remove(&id)?;
        self.asked_bytes = self.asked_bytes.saturating_sub(ask.line_bytes());
        match answer {
            Err(refusal) if refusal.code == Code::Busy => {
                self.busy.push((key, ask, refusal));
                None
            }
            answer => {
                self.used = Use::Answered;
                Some((key, ask, answer))
            }
        }
    }
}

fn refused(ask: &Ask, refusal: Refusal, server: &ServerAddress) -> Failure {
    Trouble::Refused(refusal).into_failure(&ask.what(), server)
}

/// Reads until the answer has come.
pub(crate) fn wait<T>(link: &Link, answer: impl Fn(Event) -> Option<T>) -> Result<T, Trouble> {
    let mut buffer = vec![0; READ_BYTES];
    let mut found = None;
    loop {
        link.receive(&mut buffer, &mut |event, _| match event {
            Event::Refused { refusal, .. } => Err(Trouble::Refused(refusal)),
            event => {
                found = found.take().or_else(|| answer(event));
                Ok(())
            }
        })?;
        if let Some(found) = found.take() {
            return Ok(found);
        }
    }
}
