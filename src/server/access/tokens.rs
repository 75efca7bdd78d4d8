//! The tokens that a running server knows: what their file said a moment ago.
//!
//! A thread looks at the file's stat twenty times a second, and reads it where that has changed: a
//! decision never waits for a disk. A file that cannot be read or understood is one without tokens.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ftx_disk::identity::Identity;
use ftx_protocol::{Code, Escaped, Name, Owner, Refusal, Token};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::clock::Clock;
use super::file::{Holds, Opened, TokensError, TokensFile, Youth, youth};
use super::line::{Line, TokenName, system_time, token_digest};
use super::principal::{Member, gone};
use super::rights::Rights;
use super::usage::{Account, Share};
use super::usage_file::{Changed, UsageFile, Used};
use super::watch::Watch;
use crate::server::lock::lock;

/// Unfinished uploads of a token that does not say how many: a client has one for each file that
/// it sends at a time, and a few that broke off.
pub const TOKEN_PARTIALS: u32 = 64;

/// How often a file that is being replaced is opened anew at one look.
const OPENS_MAX: usize = 4;

/// What the file says of one token.
#[derive(Debug)]
pub(in crate::server) struct Known {
    pub(super) id: Owner,
    pub(super) name: TokenName,
    pub(super) rights: Rights,
    pub(super) under: Option<Name>,
    expires: Option<SystemTime>,
    max_bytes: Option<u64>,
    max_partials: u32,
    account: Arc<Account>,
}

impl Known {
    pub(super) fn share(&self) -> Share {
        Share {
            account: Arc::clone(&self.account),
            max_bytes: self.max_bytes,
            max_partials: self.max_partials,
        }
    }

    /// None where it does not end.
    pub(super) fn time_left(&self, now: SystemTime) -> Option<Duration> {
        self.expires.map(|end| end.duration_since(now).unwrap_or_default())
    }

    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), Refusal> {
        match self.expires {
            Some(end) if now >= end => Err(Code::Expired.into()),
            Some(_) | None => Ok(()),
        }
    }
}

/// See the module's documentation.
pub(in crate::server) struct Tokens {
    file: TokensFile,
    usage: UsageFile,
    clock: Clock,
    table: Mutex<Arc<Table>>,
    generation: AtomicU64,
    looking: Mutex<Looking>,
}

/// A digest, as it is compared fastest: at most ten thousand for each login.
type Words = [u64; 4];

/// What one state of the file says, to look up in.
#[derive(Default)]
struct Table {
    digests: Vec<(Words, Arc<Known>)>,
    by_id: HashMap<Owner, Arc<Known>>,
    doubt: Doubt,
}

/// Whether the file can be read and understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Doubt {
    #[default]
    No,
    /// It cannot: nobody knows which tokens there are. Nobody is let in then; and nothing is lost that whoever turns
    /// out to have one would go on with.
    Yes,
}

/// What was last seen of the file, and what became of it.
struct Looking {
    seen: Seen,
    lines: Vec<Line>,
    /// The accounts of all tokens that there were since the start: a file that is unreadable for a
    /// while forgives nobody.
    accounts: HashMap<Owner, Arc<Account>>,
    written: Used,
}

/// What was last seen of the file.
enum Seen {
    Nothing,
    /// It could not be understood, or not even be looked at.
    Bad {
        why: String,
    },
    /// It was taken up, and is held until the next one is.
    Good(Opened),
}

/// What a look at the file brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    Same,
    Changed,
}

/// Whether what was used is written down, as far as it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    Yes,
    /// Another server does the same at this moment.
    NotNow,
}

impl Tokens {
    /// Reads the tokens in a state directory; makes a file of none if there is no file.
    ///
    /// # Errors
    /// When what is there cannot be read or understood.
    pub(in crate::server) fn open(state: &Path) -> Result<Arc<Self>, TokensError> {
        let (file, usage) = (TokensFile::of_state(state), UsageFile::of_state(state));
        file.make()?;
        // What is wrong with it is an error here, and a closed gate later on.
        file.read()?;
        let written = usage.read()?;
        let accounts =
            written.iter().map(|(&id, &bytes)| (id, Arc::new(Account::with(bytes)))).collect();
        let tokens = Self {
            file,
            usage,
            clock: Clock::new(),
            table: Mutex::default(),
            generation: AtomicU64::new(0),
            looking: Mutex::new(Looking {
                seen: Seen::Nothing,
                lines: Vec::new(),
                accounts,
                written,
            }),
        };
        tokens.look();
        Ok(Arc::new(tokens))
    }

    /// Keeps them as the file has them, and what was used written down, until the watch is dropped. Calls
    /// `changed` after each change, which is not to wait for anything.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(in crate::server) fn watch(
        self: &Arc<Self>,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Watch> {
        Watch::start(Arc::clone(self), changed)
    }

    /// Whether the file, which can be read, has no such token, or one whose time is over.
    pub(in crate::server) fn is_over(&self, id: Owner) -> bool {
        let table = self.table();
        match table.by_id.get(&id) {
            Some(known) => known.check_time(self.now()).is_err(),
            None => table.doubt == Doubt::No,
        }
    }

    pub(in crate::server) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Rises when the tokens change.
    pub(in crate::server) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is known of a token.
    ///
    /// # Errors
    /// When it is gone, or, with `busy`, when nobody knows whether it is.
    pub(super) fn find(&self, id: Owner) -> Result<Arc<Known>, Refusal> {
        let table = self.table();
        table.by_id.get(&id).cloned().ok_or_else(|| table.not_found(gone))
    }

    /// Whose token this is.
    pub(super) fn login(
        self: &Arc<Self>,
        token: &Token,
        now: SystemTime,
    ) -> Result<Member, Refusal> {
        // First the number, then the table: at worst it is looked up once more.
        let generation = self.generation();
        let table = self.table();
        let digest = words(&token_digest(token).bytes);
        // Every digest is compared whole, so that the time tells nothing.
        let mut place = u64::MAX;
        for ((known, _), number) in table.digests.iter().zip(0..) {
            place.conditional_assign(&number, known[..].ct_eq(&digest[..]));
        }
        let found = usize::try_from(place).ok().and_then(|place| table.digests.get(place));
        let (_, known) = found.ok_or_else(|| table.not_found(|| Code::LoginFailed.into()))?;
        known.check_time(now)?;
        let (tokens, known) = (Arc::clone(self), Arc::clone(known));
        Ok(Member { tokens, known, generation, seen_by_all: Rights::NONE })
    }

    /// Looks whether the file has changed, and goes by what it says.
    pub(super) fn look(&self) -> Looked {
        let mut looking = lock(&self.looking);
        if let Seen::Good(held) = &looking.seen
            && let Ok(now) = self.file.path().metadata()
            && Identity::of_metadata(&now) == *held.version()
            && youth(held.version()) == Youth::Settled
        {
            return Looked::Same;
        }
        match self.take_up() {
            Ok((opened, lines)) => {
                let looked = self.apply(&mut looking, lines, Doubt::No);
                let had = std::mem::replace(&mut looking.seen, Seen::Good(opened));
                if let Seen::Bad { .. } = had {
                    tracing::info!("the tokens file is good again");
                }
                looked
            }
            Err(why) => {
                let looked = self.apply(&mut looking, Vec::new(), Doubt::Yes);
                let is_news = !matches!(&looking.seen, Seen::Bad { why: said } if *said == why);
                if is_news {
                    tracing::error!(
                        "{why}: until then no token is known, and nobody is let in by one"
                    );
                }
                looking.seen = Seen::Bad { why };
                looked
            }
        }
    }

    /// Opens the file that is there now, holds it and reads it.
    fn take_up(&self) -> Result<(Opened, Vec<Line>), String> {
        let path = self.file.path();
        for _ in 0..OPENS_MAX {
            let opened = self.file.open().map_err(|error| error.to_string())?;
            let Some(opened) = opened else {
                return Err(format!("{} is gone", Escaped::of(path)));
            };
            // Only one that is held, and has its name after that, is sure to be waited for.
            let holds = opened.hold();
            let named = path.metadata().map(|metadata| Identity::of_metadata(&metadata));
            if holds == Holds::Yes && named.is_ok_and(|named| named == *opened.version()) {
                let lines = opened.read(path).map_err(|error| error.to_string())?;
                return Ok((opened, lines));
            }
        }
        Err(format!("{} changes all the time", Escaped::of(path)))
    }

    fn apply(&self, looking: &mut Looking, lines: Vec<Line>, doubt: Doubt) -> Looked {
        // What is not in the file was in doubt, and is over when that has gone.
        let is_same = lines == looking.lines && doubt == self.table().doubt;
        if is_same && !matches!(looking.seen, Seen::Nothing) {
            return Looked::Same;
        }
        let mut table = Table { doubt, ..Table::default() };
        for line in &lines {
            let account = looking.accounts.entry(line.id).or_default();
            let known = Arc::new(known(line, Arc::clone(account)));
            table.digests.push((words(&line.digest.bytes), Arc::clone(&known)));
            table.by_id.insert(line.id, known);
        }
        looking.lines = lines;
        *lock(&self.table) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
        Looked::Changed
    }

    /// Writes down what was used since that was last done, if it was anything. It is added to what is written: another
    /// server may go by the same tokens, and one that takes no files has nothing to add.
    pub(super) fn save_usage(&self) -> Saved {
        let mut looking = lock(&self.looking);
        let Looking { seen: Seen::Good(_), lines, accounts, written } = &mut *looking else {
            return Saved::Yes;
        };
        let settled: Used = lines
            .iter()
            .filter_map(|line| Some((line.id, accounts.get(&line.id)?.settled())))
            .collect();
        let before = |id| written.get(id).copied().unwrap_or(0);
        if settled.iter().all(|(id, now)| *now == before(id)) {
            return Saved::Yes;
        }
        let added = self.usage.change(|used| {
            used.retain(|id, _| settled.contains_key(id));
            for (id, now) in &settled {
                let all = used.entry(*id).or_default();
                // What was durable of a put that came to nothing is given back.
                *all = all.saturating_add(*now).saturating_sub(before(id));
            }
            used.retain(|_, bytes| *bytes > 0);
        });
        match added {
            Ok(Changed::Yes) => *written = settled,
            Ok(Changed::NotNow) => return Saved::NotNow,
            Err(error) => tracing::error!("{error}: a restart would forget what tokens have used"),
        }
        Saved::Yes
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&lock(&self.table))
    }
}

impl Table {
    /// The refusal of a token that is not found: it is over, or whoever has it is to come again when the file is
    /// good.
    fn not_found(&self, over: impl FnOnce() -> Refusal) -> Refusal {
        match self.doubt {
            Doubt::Yes => Refusal::new(
                Code::Busy,
                "the server cannot read now which tokens there are: come again later",
            ),
            Doubt::No => over(),
        }
    }
}

/// Says nothing of what it knows.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

fn words(digest: &[u8; 32]) -> Words {
    let (words, _) = digest.as_chunks::<8>();
    std::array::from_fn(|place| words.get(place).map_or(0, |word| u64::from_ne_bytes(*word)))
}

fn known(line: &Line, account: Arc<Account>) -> Known {
    Known {
        id: line.id,
        name: line.name.clone(),
        rights: line.can,
        under: line.under.clone(),
        expires: line.expires.map(system_time),
        max_bytes: line.max_bytes,
        max_partials: line.max_partials.unwrap_or(TOKEN_PARTIALS),
        account,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Instant;

    use ftx_protocol::server::NoMore;

    use super::*;
    use crate::server::access::Principal;
    use crate::server::access::file::Taken;
    use crate::server::access::testing::{State, line, secret};

    fn code<T>(result: Result<T, Refusal>) -> Option<Code> {
        result.err().map(|refusal| refusal.code)
    }

    fn login(tokens: &Arc<Tokens>, number: u8) -> Option<Code> {
        code(tokens.login(&secret(number), SystemTime::now()))
    }

    #[test]
    fn a_token_is_whose_digest_it_has_and_lasts_as_long_as_it_says() {
        let state = State::new();
        (1..=9).for_each(|number| state.add(line(number, Rights::READING, None)));
        let tokens = state.tokens();
        for number in 1..=9 {
            let member = tokens.login(&secret(number), SystemTime::now()).unwrap();
            assert_eq!(member.known.id, Owner([number; 8]));
        }
        assert_eq!(login(&tokens, 10), Some(Code::LoginFailed));
        let digest = Token::new(token_digest(&secret(1)).bytes);
        let with_digest = tokens.login(&digest, SystemTime::now());
        assert_eq!(code(with_digest), Some(Code::LoginFailed), "the file lets nobody in");
        let late = SystemTime::now() + Duration::from_secs(3_601);
        assert_eq!(code(tokens.login(&secret(1), late)), Some(Code::Expired));
        assert_eq!(format!("{tokens:?}"), "Tokens { .. }");
    }

    #[test]
    fn what_is_not_as_it_should_be_lets_nobody_in_and_is_refused_at_the_start() {
        type Break = fn(&Path);
        let breaks: [(&str, Break); 6] = [
            ("garbage", |file| std::fs::write(file, "garbage").unwrap()),
            ("unknown field", |file| {
                let text = std::fs::read_to_string(file).unwrap();
                std::fs::write(file, text.replace("\"made\"", "\"may\":1,\"made\"")).unwrap();
            }),
            ("mode", |file| {
                std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
            }),
            ("mode of the directory", |file| {
                let directory = file.parent().unwrap();
                std::fs::set_permissions(directory, PermissionsExt::from_mode(0o770)).unwrap();
                // It is looked at when the file has changed.
                let text = std::fs::read(file).unwrap();
                std::fs::write(file, text).unwrap();
            }),
            ("a directory", |file| {
                std::fs::remove_file(file).unwrap();
                std::fs::create_dir(file).unwrap();
            }),
            ("too large", |file| {
                let opened = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                opened.set_len(9 << 20).unwrap();
            }),
        ];
        for (what, break_it) in breaks {
            let state = State::new();
            state.add(line(1, Rights::ALL, None));
            let tokens = state.tokens();
            let mut member = tokens.login(&secret(1), SystemTime::now()).unwrap();
            let path = state.directory.path().join("tokens");
            break_it(&path);
            assert_eq!(tokens.look(), Looked::Changed, "{what}");
            assert_eq!(login(&tokens, 1), Some(Code::Busy), "{what}");
            assert_eq!(code(member.renew(SystemTime::now())), Some(Code::Busy), "{what}");
            assert_eq!(tokens.look(), Looked::Same, "{what}");
            assert!(Tokens::open(state.directory.path()).is_err(), "{what}");
        }
    }

    #[test]
    fn a_file_that_is_gone_lets_nobody_in_until_it_is_back() {
        let state = State::new();
        state.add(line(1, Rights::ALL, None));
        let tokens = state.tokens();
        let (path, away) =
            (state.directory.path().join("tokens"), state.directory.path().join("x"));
        std::fs::rename(&path, &away).unwrap();
        tokens.look();
        assert_eq!(login(&tokens, 1), Some(Code::Busy));
        std::fs::rename(&away, &path).unwrap();
        tokens.look();
        assert_eq!(login(&tokens, 1), None);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        tokens.look();
        assert_eq!(login(&tokens, 1), Some(Code::Busy));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
        tokens.look();
        assert_eq!(login(&tokens, 1), None);
    }

    #[test]
    fn who_is_not_in_a_file_that_is_good_again_is_looked_at_again() {
        let state = State::new();
        state.add(line(1, Rights::ALL, None));
        let tokens = state.tokens();
        let mut member = tokens.login(&secret(1), SystemTime::now()).unwrap();
        let path = state.directory.path().join("tokens");
        std::fs::write(&path, "no tokens\n").unwrap();
        assert_eq!(tokens.look(), Looked::Changed);
        std::fs::remove_file(&path).unwrap();
        state.change(|lines| assert!(lines.is_empty()));
        assert_eq!(tokens.look(), Looked::Changed, "they were unknown, and are over");
        assert_eq!(code(member.renew(SystemTime::now())), Some(Code::Denied));
    }

    #[test]
    fn whose_time_is_over_while_the_file_is_no_good_does_not_stay() {
        let state = State::new();
        state.add(line(1, Rights::ALL, None));
        let tokens = state.tokens();
        let (now, late) = (SystemTime::now(), SystemTime::now() + Duration::from_secs(3_601));
        let mut principal = Principal::Token(tokens.login(&secret(1), now).unwrap());
        let path = state.directory.path().join("tokens");
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "garbage").unwrap();
        tokens.look();
        assert_eq!(principal.check_token(now), Ok(()));
        assert_eq!(principal.check_token(late), Err(NoMore::TokenExpired));
        std::fs::write(&path, &text).unwrap();
        state.change(|lines| lines[0].expires = None);
        tokens.look();
        assert_eq!(principal.check_token(late), Ok(()), "it has more time now");
    }

    #[test]
    fn what_was_looked_up_in_doubt_is_in_doubt_when_the_file_is_good_again() {
        let state = State::new();
        let tokens = state.tokens();
        let path = state.directory.path().join("tokens");
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(tokens.look(), Looked::Changed);
        let in_doubt = tokens.table();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(tokens.look(), Looked::Changed);
        assert_eq!(in_doubt.not_found(gone).code, Code::Busy);
        assert_eq!(tokens.table().not_found(gone).code, Code::Denied);
    }

    #[test]
    fn a_change_holds_when_it_has_returned() {
        let state = State::new();
        let tokens = state.tokens();
        let _watch = tokens.watch(|| {}).unwrap();
        for round in 0..5 {
            state.add(line(1, Rights::READING, None));
            assert_eq!(login(&tokens, 1), None, "{round}");
            state.add(line(2, Rights::READING, None));
            let generation = tokens.generation();
            let act = |lines: &mut Vec<Line>| -> Result<(), TokensError> {
                lines.clear();
                Ok(())
            };
            assert_eq!(state.file().change(act).unwrap().1, Taken::ByAll);
            assert_eq!(login(&tokens, 1), Some(Code::LoginFailed), "{round}");
            assert!(tokens.generation() > generation);
        }
    }

    #[test]
    fn a_change_waits_for_everybody_who_goes_by_the_tokens() {
        let state = State::new();
        state.add(line(1, Rights::READING, None));
        let (quick, slow) = (state.tokens(), state.tokens());
        let _watch = quick.watch(|| {}).unwrap();
        std::thread::scope(|scope| {
            let began = Instant::now();
            let change = scope.spawn(|| state.change(|lines| lines.clear()));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!change.is_finished(), "the slow one has not looked");
            slow.look();
            change.join().unwrap();
            assert!(began.elapsed() < Duration::from_secs(4));
        });
        assert_eq!(login(&slow, 1), Some(Code::LoginFailed));
    }

    #[test]
    fn a_change_waits_for_who_goes_by_what_an_earlier_one_replaced() {
        let state = State::new();
        state.add(line(1, Rights::READING, None));
        let tokens = state.tokens();
        let rename = |name: &str| {
            let act = |lines: &mut Vec<Line>| -> Result<(), TokensError> {
                lines[0].name = name.parse().unwrap();
                Ok(())
            };
            state.file().change(act).unwrap().1
        };
        std::thread::scope(|scope| {
            let earlier = scope.spawn(|| rename("earlier"));
            std::thread::sleep(Duration::from_millis(200));
            let later = scope.spawn(|| rename("later"));
            std::thread::sleep(Duration::from_millis(200));
            assert!(!later.is_finished(), "the earlier one does not hold");
            assert_eq!(earlier.join().unwrap(), Taken::NotYet);
            std::thread::sleep(Duration::from_millis(200));
            assert!(
                !later.is_finished(),
                "what the server goes by was replaced by the earlier one"
            );
            tokens.look();
            assert_eq!(later.join().unwrap(), Taken::ByAll);
        });
        let left = || {
            let names = state.directory.path().read_dir().unwrap();
            names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!(left().len(), 2, "the tokens and the lock: {:?}", left());
    }

    #[test]
    fn a_change_in_place_is_seen_however_soon_it_comes() {
        let state = State::new();
        state.add(line(1, Rights::READING, None));
        let tokens = state.tokens();
        let path = state.directory.path().join("tokens");
        // The same size, and perhaps the same times.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("token-1", "token-x").replace("0101", "0202")).unwrap();
        tokens.look();
        assert!(tokens.find(Owner([1; 8])).is_err() && tokens.find(Owner([2; 8])).is_ok());
    }

    #[test]
    fn a_lease_ends_with_the_rights_it_was_given_by() {
        let lease = |rights: Rights, change: fn(&mut Line)| {
            let state = State::new();
            state.add(line(1, Rights::ALL, Some("a")));
            state.add(line(2, Rights::ALL, None));
            let tokens = state.tokens();
            let member = tokens.login(&secret(1), SystemTime::now()).unwrap();
            let lease = crate::server::access::Lease::of(&member, rights);
            assert_eq!(lease.check(), Ok(()));
            let _watch = tokens.watch(|| {}).unwrap();
            state.change(|lines| change(&mut lines[0]));
            code(lease.check())
        };
        let write = Rights::of(crate::server::access::Right::Write);
        let past = |line: &mut Line| line.expires = Some(line.made);
        assert_eq!(lease(write, |_| {}), None);
        assert_eq!(lease(write, |line| line.max_bytes = Some(5)), None);
        assert_eq!(lease(write, |line| line.can = Rights::READING), Some(Code::Denied));
        assert_eq!(lease(Rights::READING, |line| line.can = Rights::READING), None);
        assert_eq!(lease(write, |line| line.under = None), Some(Code::Denied));
        assert_eq!(lease(write, past), Some(Code::Expired));
        let renamed = |line: &mut Line| line.id = Owner([3; 8]);
        assert_eq!(lease(write, renamed), Some(Code::Denied), "the name again, another token");
    }

    #[test]
    fn what_was_used_outlives_the_server_and_a_file_that_was_unreadable() {
        let state = State::new();
        let limited = |number| Line { max_bytes: Some(100), ..line(number, Rights::ALL, None) };
        state.add(limited(1));
        state.add(limited(2));
        let share = |tokens: &Tokens, number: u8| tokens.find(Owner([number; 8])).unwrap().share();
        let tokens = state.tokens();
        let watch = tokens.watch(|| {}).unwrap();
        share(&tokens, 1).reserve(0, Some(70)).unwrap().keep();
        let path = state.directory.path().join("tokens");
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "garbage").unwrap();
        tokens.look();
        assert_eq!(tokens.save_usage(), Saved::Yes);
        std::fs::write(&path, &text).unwrap();
        tokens.look();
        assert_eq!(code(share(&tokens, 1).reserve(0, Some(31))), Some(Code::Quota));
        let running = share(&tokens, 2).reserve(0, Some(50)).unwrap();
        drop(watch);
        drop(running);
        drop(tokens);
        let tokens = state.tokens();
        let _watch = tokens.watch(|| {}).unwrap();
        assert_eq!(code(share(&tokens, 1).reserve(0, Some(31))), Some(Code::Quota));
        assert!(share(&tokens, 1).reserve(0, Some(30)).is_ok());
        assert!(share(&tokens, 2).reserve(0, Some(100)).is_ok(), "what ran counts for nothing");
        // Another server that goes by them adds what it was brought, and one that was brought nothing adds nothing.
        let (other, idle) = (state.tokens(), state.tokens());
        let used = || UsageFile::of_state(state.directory.path()).read().unwrap();
        for tokens in [&tokens, &other] {
            share(tokens, 2).reserve(0, Some(10)).unwrap().keep();
            tokens.save_usage();
        }
        assert_eq!(used()[&Owner([2; 8])], 20);
        // What was durable, and came to nothing, is taken off again.
        let mut lost = share(&other, 2).reserve(0, Some(40)).unwrap();
        lost.reached(40).unwrap();
        other.save_usage();
        assert_eq!(used()[&Owner([2; 8])], 60);
        lost.discard();
        other.save_usage();
        assert_eq!(used()[&Owner([2; 8])], 20);
        drop(other);
        let _idle_watch = idle.watch(|| {}).unwrap();
        state.change(|lines| drop(lines.remove(0)));
        idle.save_usage();
        assert_eq!(used()[&Owner([2; 8])], 20);
        state.add(Line { id: Owner([3; 8]), ..limited(1) });
        assert!(share(&tokens, 3).reserve(0, Some(100)).is_ok(), "another token of that name");
        std::fs::write(state.directory.path().join("usage"), "garbage").unwrap();
        assert!(Tokens::open(state.directory.path()).is_err());
    }

    #[test]
    fn servers_that_go_by_the_same_tokens_lose_nothing_of_what_each_was_brought() {
        const TIMES: u64 = 15;
        let state = State::new();
        state.add(Line { max_bytes: Some(1_000_000), ..line(1, Rights::ALL, None) });
        let servers = [(); 3].map(|()| state.tokens());
        std::thread::scope(|scope| {
            for tokens in &servers {
                scope.spawn(|| {
                    for _ in 0..TIMES {
                        let share = tokens.find(Owner([1; 8])).unwrap().share();
                        share.reserve(0, Some(1)).unwrap().keep();
                        while tokens.save_usage() == Saved::NotNow {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        let used = UsageFile::of_state(state.directory.path()).read().unwrap();
        assert_eq!(used[&Owner([1; 8])], 3 * TIMES);
    }

    /// One that is stopped while it writes, say.
    #[test]
    fn a_server_that_cannot_write_down_what_was_used_goes_on_looking_at_the_tokens() {
        let state = State::new();
        state.add(Line { max_bytes: Some(100), ..line(1, Rights::ALL, None) });
        let tokens = state.tokens();
        tokens.find(Owner([1; 8])).unwrap().share().reserve(0, Some(10)).unwrap().keep();
        let lock = std::fs::File::create(state.directory.path().join("usage.lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(tokens.save_usage(), Saved::NotNow);
        drop(lock);
        assert_eq!(tokens.save_usage(), Saved::Yes);
        let used = UsageFile::of_state(state.directory.path()).read().unwrap();
        assert_eq!(used[&Owner([1; 8])], 10);
    }
}
