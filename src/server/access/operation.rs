//! The one decision: who may do what. Nothing reaches storage without it, and it is made before
//! anything is opened, so that a refusal does not tell what there is.

use std::time::SystemTime;

use ftx_disk::store::{Naming, OldMode};
use ftx_protocol::message::Change;
use ftx_protocol::server::Work;
use ftx_protocol::{Code, Condition, Name, Refusal, Verb};

use super::grant::{Grant, Granted, Lease};
use super::principal::Principal;
use super::rights::{Right, Rights};
use super::tokens::Known;

/// One for each request that can have an effect or tell something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Operation<'a> {
    /// To bring a file.
    Put { name: &'a Name, condition: &'a Condition },
    /// To ask for what is held of a transfer, and take it over.
    Resume,
    /// To go on with what was granted: [`Lease::check`] has the right to it.
    Continue,
    /// To see what a name stands for.
    Stat(&'a Name),
    /// The same with the digest of its bytes.
    Sum(&'a Name),
    /// To fetch a file.
    Get(&'a Name),
    /// To see what is in a directory; `None` is the root.
    List(Option<&'a Name>),
    /// To make a directory.
    Mkdir(&'a Name),
    /// To give something another name.
    Move { from: &'a Name, to: &'a Name, condition: &'a Condition },
    /// To take something away.
    Remove(&'a Name),
    /// To let go of something.
    End,
}

impl<'a> Operation<'a> {
    /// What the machine asks for. No `_` here: a new kind of work has to be thought about.
    pub(in crate::server) fn of(work: &'a Work) -> Self {
        match work {
            Work::Begin(put, _) => Self::Put { name: &put.name, condition: &put.condition },
            Work::Resume(_) => Self::Resume,
            Work::Write { .. } | Work::Finish(_) | Work::More(_) | Work::Digest(_) => {
                Self::Continue
            }
            Work::Stat(stat) => Self::Stat(&stat.name),
            Work::Sum(stat) => Self::Sum(&stat.name),
            Work::Open(get) => Self::Get(&get.name),
            Work::List(list) => Self::List(list.name.as_ref()),
            Work::Change(Change::Mkdir(mkdir)) => Self::Mkdir(&mkdir.name),
            Work::Change(Change::Move(moving)) => {
                Self::Move { from: &moving.name, to: &moving.to, condition: &moving.condition }
            }
            Work::Change(Change::Remove(remove)) => Self::Remove(&remove.name),
            Work::Discard(..) | Work::Suspend(_) | Work::Close(_) | Work::HangUp => Self::End,
        }
    }

    /// Which kind of request it is; unknown if it is a part of any.
    pub(in crate::server) fn verb(&self) -> Verb {
        match self {
            Self::Put { .. } => Verb::Put,
            Self::Resume => Verb::Resume,
            Self::Stat(_) => Verb::Stat,
            Self::Sum(_) => Verb::Sum,
            Self::Get(_) => Verb::Get,
            Self::List(_) => Verb::List,
            Self::Mkdir(_) => Verb::Mkdir,
            Self::Move { .. } => Verb::Move,
            Self::Remove(_) => Verb::Remove,
            Self::Continue | Self::End => Verb::Unknown,
        }
    }
}

/// Whether somebody may do something, and what of it. Looks at nothing but its arguments, and at
/// the table of tokens where that has changed.
pub(in crate::server) fn authorize(
    principal: &mut Principal,
    operation: &Operation<'_>,
    now: SystemTime,
) -> Result<Granted, Refusal> {
    // To let go is always allowed: otherwise nobody could get rid of what was taken from them.
    if *operation == Operation::End {
        return Ok(Granted::default());
    }
    match principal {
        Principal::Nobody => Err(Code::LoginRequired.into()),
        Principal::Local => Ok(Granted::default()),
        Principal::Public(rights) => match allow(*rights, operation) {
            Ok(Allowed {
                condition: None,
                naming: Naming::AsAsked,
                old_mode: OldMode::Replaced,
                ..
            }) => Ok(Granted::default()),
            Ok(Allowed { condition, naming, old_mode, .. }) => {
                Ok(Grant { condition, naming, old_mode, ..Grant::of_anybody() }.into())
            }
            Err(NotAllowed(what)) => Err(Refusal::new(
                Code::Denied,
                format!("without a token nobody may {what} here: log in with ftx login"),
            )),
        },
        Principal::Token(member) => {
            member.renew(now)?;
            let known = &member.known;
            let (allowed, within) = match allow_to_all(member.seen_by_all, operation) {
                Some(allowed) => (allowed, None),
                None => (allow_by_token(known, operation)?, known.under.clone()),
            };
            Ok(Grant {
                condition: allowed.condition,
                within,
                owner: Some(known.id),
                naming: allowed.naming,
                old_mode: allowed.old_mode,
                share: Some(known.share()),
                lease: Lease::of(member, allowed.needs),
            }
            .into())
        }
    }
}

/// What of an operation is allowed, and by which rights.
struct Allowed {
    needs: Rights,
    /// In place of the one that was asked for.
    condition: Option<Condition>,
    naming: Naming,
    old_mode: OldMode,
}

/// What is not allowed, in words: "may not …".
struct NotAllowed(&'static str);

impl Allowed {
    fn by(needs: Rights) -> Self {
        Self { needs, condition: None, naming: Naming::AsAsked, old_mode: OldMode::Replaced }
    }
}

/// What whoever has no token may see, so that it takes no right of a token.
fn allow_to_all(rights: Rights, operation: &Operation<'_>) -> Option<Allowed> {
    match operation {
        Operation::Stat(_) | Operation::Sum(_) | Operation::Get(_) | Operation::List(_) => {
            allow(rights, operation).ok().map(|_| Allowed::by(Rights::NONE))
        }
        Operation::Put { .. }
        | Operation::Resume
        | Operation::Continue
        | Operation::Mkdir(_)
        | Operation::Move { .. }
        | Operation::Remove(_)
        | Operation::End => None,
    }
}

fn allow_by_token(known: &Known, operation: &Operation<'_>) -> Result<Allowed, Refusal> {
    let rights = known.rights;
    let allowed = allow(rights, operation).map_err(|NotAllowed(what)| {
        Refusal::new(Code::Denied, format!("the token may not {what}: it may {rights}"))
    })?;
    if let Some(scope) = &known.under {
        hold_to(scope, operation)?;
    }
    Ok(allowed)
}

fn allow(rights: Rights, operation: &Operation<'_>) -> Result<Allowed, NotAllowed> {
    if rights.is_drop() {
        return allow_drop(operation);
    }
    let with = |right: Right, what: &'static str| match rights.has(right) {
        true => Ok(Rights::of(right)),
        false => Err(NotAllowed(what)),
    };
    match operation {
        Operation::End | Operation::Continue => Ok(Allowed::by(Rights::NONE)),
        Operation::Put { condition, .. } => {
            let needs = with(Right::Write, "put files")?;
            taking_a_name(rights, needs, condition)
        }
        Operation::Resume => with(Right::Write, "put files").map(Allowed::by),
        Operation::Stat(_) if rights.has(Right::Read) => Ok(Allowed::by(Rights::of(Right::Read))),
        Operation::Stat(_) => with(Right::List, "see what names stand for").map(Allowed::by),
        Operation::Sum(_) | Operation::Get(_) => with(Right::Read, "read files").map(Allowed::by),
        Operation::List(_) => with(Right::List, "list directories").map(Allowed::by),
        Operation::Mkdir(_) => {
            let needs = with(Right::Write, "make directories")?;
            // Whoever may not replace anything must not lock others out of what is there.
            let old_mode = match rights.has(Right::Replace) {
                true => OldMode::Replaced,
                false => OldMode::Kept,
            };
            Ok(Allowed { old_mode, ..Allowed::by(needs) })
        }
        Operation::Move { condition, .. } => {
            let write = with(Right::Write, "give names")?;
            let delete = with(Right::Delete, "take names away")?;
            taking_a_name(rights, write.with(delete), condition)
        }
        Operation::Remove(_) => with(Right::Delete, "take names away").map(Allowed::by),
    }
}

/// Without the right to replace, a name is taken only where nothing has it, whatever was asked for.
fn taking_a_name(
    rights: Rights,
    needs: Rights,
    condition: &Condition,
) -> Result<Allowed, NotAllowed> {
    match (condition, rights.has(Right::Replace)) {
        (Condition::Absent, _) => Ok(Allowed::by(needs)),
        (Condition::Always | Condition::Version(_), true) => {
            Ok(Allowed::by(needs.with(Rights::of(Right::Replace))))
        }
        (Condition::Always, false) => {
            Ok(Allowed { condition: Some(Condition::Absent), ..Allowed::by(needs) })
        }
        (Condition::Version(_), false) => Err(NotAllowed("replace files")),
    }
}

fn allow_drop(operation: &Operation<'_>) -> Result<Allowed, NotAllowed> {
    match operation {
        Operation::End | Operation::Continue => Ok(Allowed::by(Rights::NONE)),
        Operation::Put { condition: Condition::Always | Condition::Absent, .. } => Ok(Allowed {
            condition: Some(Condition::Absent),
            naming: Naming::Numbered,
            ..Allowed::by(Rights::DROP)
        }),
        Operation::Put { condition: Condition::Version(_), .. } => Err(NotAllowed("replace files")),
        Operation::Resume => Ok(Allowed::by(Rights::DROP)),
        Operation::Stat(_) => Err(NotAllowed("see what names stand for")),
        Operation::Sum(_) | Operation::Get(_) => Err(NotAllowed("read files")),
        Operation::List(_) => Err(NotAllowed("list directories")),
        Operation::Mkdir(_) => Err(NotAllowed("make directories")),
        Operation::Move { .. } | Operation::Remove(_) => Err(NotAllowed("take names away")),
    }
}

/// Whether every name of an operation is, or is below, the one that the token is held to.
fn hold_to(scope: &Name, operation: &Operation<'_>) -> Result<(), Refusal> {
    // The directory itself may be made and looked at; to take it away, or to put something in its
    // place, is a change of the directory above it.
    let at_or_below = |name: &Name| name.is_or_is_below(scope);
    let below = |name: &Name| name.is_or_is_below(scope) && name != scope;
    let holds = match operation {
        Operation::End | Operation::Continue | Operation::Resume => true,
        Operation::Put { name, .. } | Operation::Remove(name) => below(name),
        Operation::Move { from, to, .. } => below(from) && below(to),
        Operation::Stat(name)
        | Operation::Sum(name)
        | Operation::Get(name)
        | Operation::Mkdir(name) => at_or_below(name),
        Operation::List(name) => name.is_some_and(at_or_below),
    };
    match holds {
        true => Ok(()),
        false => {
            Err(Refusal::new(Code::Denied, format!("the token is for what is in {scope}/ only")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::access::WithoutToken;
    use crate::server::access::grant::OF_ANYBODY;
    use crate::server::access::testing::{State, line, secret};
    use ftx_protocol::message::{End, Get, List, Mkdir, Move, Put, Remove, Resume, Stat};
    use ftx_protocol::server::Behind;
    use ftx_protocol::{Algorithm, Digest, RequestId, Version};

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    fn member(rights: Rights, under: Option<&str>) -> Principal {
        let state = State::new();
        state.add(line(1, rights, under));
        let member = state.tokens().login(&secret(1), SystemTime::now()).unwrap();
        Principal::Token(member)
    }

    /// What somebody is answered: `Ok` with what the name may be taken on, or the code.
    fn answer(
        principal: &mut Principal,
        operation: &Operation<'_>,
    ) -> Result<(Option<Condition>, Naming), Code> {
        authorize(principal, operation, SystemTime::now())
            .map(|grant| (grant.condition.clone(), grant.naming))
            .map_err(|refusal| refusal.code)
    }

    /// Which of these words let somebody do it. Exhaustive, as the decision itself.
    fn needed(operation: &Operation<'_>) -> &'static [&'static [Right]] {
        use Right::{Delete, List, Read, Replace, Write};
        match operation {
            Operation::End | Operation::Continue => &[&[]],
            Operation::Put { condition: Condition::Version(_), .. } => &[&[Write, Replace]],
            Operation::Put { .. } | Operation::Resume | Operation::Mkdir(_) => &[&[Write]],
            Operation::Stat(_) => &[&[Read], &[List]],
            Operation::Sum(_) | Operation::Get(_) => &[&[Read]],
            Operation::List(_) => &[&[List]],
            Operation::Move { condition: Condition::Version(_), .. } => {
                &[&[Write, Delete, Replace]]
            }
            Operation::Move { .. } => &[&[Write, Delete]],
            Operation::Remove(_) => &[&[Delete]],
        }
    }

    const VERSIONED: fn() -> Condition = || Condition::Version(Version::parse("v1").unwrap());

    /// Calls for every operation, with every condition that it may have.
    fn each_operation(mut look: impl FnMut(&Operation<'_>)) {
        let (one, other) = (name("photos/a"), name("photos/b"));
        for condition in [Condition::Always, Condition::Absent, VERSIONED()] {
            look(&Operation::Put { name: &one, condition: &condition });
            look(&Operation::Move { from: &one, to: &other, condition: &condition });
        }
        for operation in [
            Operation::Resume,
            Operation::Continue,
            Operation::Stat(&one),
            Operation::Sum(&one),
            Operation::Get(&one),
            Operation::List(Some(&one)),
            Operation::List(None),
            Operation::Mkdir(&one),
            Operation::Remove(&one),
            Operation::End,
        ] {
            look(&operation);
        }
    }

    /// Every set of rights there is but the drop box.
    fn each_set() -> impl Iterator<Item = Rights> {
        (1u8..32).map(|bits| {
            let of = Right::ALL.into_iter().enumerate();
            let set = of.filter(|(place, _)| bits >> place & 1 == 1).map(|(_, right)| right);
            set.map(Rights::of).fold(Rights::NONE, Rights::with)
        })
    }

    #[test]
    fn every_operation_needs_its_right() {
        for rights in each_set() {
            let mut who = [member(rights, None), Principal::Public(rights)];
            each_operation(|operation| {
                let has = |set: &&[Right]| set.iter().all(|&right| rights.has(right));
                let may = needed(operation).iter().any(has);
                for principal in &mut who {
                    let answer = answer(principal, operation);
                    let expected = if may { None } else { Some(Code::Denied) };
                    assert_eq!(answer.err(), expected, "{rights} {operation:?} {principal:?}");
                }
            });
        }
    }

    /// What is read without a token is read with any, and nothing else is more allowed for it.
    #[test]
    fn who_has_a_token_may_see_what_everybody_may() {
        let here = |rights, public, scope| {
            let Principal::Token(member) = member(rights, scope) else { unreachable!() };
            Principal::Token(member.where_allowed(public))
        };
        for public in each_set().chain([Rights::DROP]) {
            for rights in each_set().chain([Rights::DROP]) {
                for scope in [None, Some("elsewhere")] {
                    let mut alone = member(rights, scope);
                    let mut with = here(rights, WithoutToken::Public(public), scope);
                    each_operation(|operation| {
                        use Operation::{Get, List, Stat, Sum};
                        let reads = matches!(operation, Get(_) | List(_) | Stat(_) | Sum(_));
                        let mut expected = answer(&mut alone, operation);
                        if reads && expected.is_err() {
                            expected = answer(&mut Principal::Public(public), operation);
                        }
                        let context = format!("{public} {rights} {scope:?} {operation:?}");
                        assert_eq!(answer(&mut with, operation), expected, "{context}");
                    });
                }
            }
        }
        let mut local = here(Rights::of(Right::Write), WithoutToken::Local, None);
        assert_eq!(answer(&mut local, &Operation::Get(&name("a"))), Err(Code::Denied));
    }

    #[test]
    fn what_everybody_may_see_ends_with_a_token_and_not_with_its_rights() {
        let state = State::new();
        let writing = Rights::of(Right::Write).with(Rights::of(Right::Read));
        state.add(line(1, writing, Some("elsewhere")));
        let tokens = state.tokens();
        let _watch = tokens.watch(|| {}).unwrap();
        let member = tokens.login(&secret(1), SystemTime::now()).unwrap();
        let public = WithoutToken::Public(Rights::READING);
        let mut principal = Principal::Token(member.where_allowed(public));
        let (there, elsewhere) = (name("a"), name("elsewhere/a"));
        let grants = [&there, &elsewhere].map(|name| {
            authorize(&mut principal, &Operation::Get(name), SystemTime::now()).unwrap()
        });
        state.change(|lines| lines.iter_mut().for_each(|line| line.can = Rights::of(Right::Write)));
        for grant in &grants {
            assert_eq!(grant.within, None, "no symlink is followed less than without a token");
            assert_eq!(grant.lease.check(), Ok(()));
        }
        state.change(|lines| lines.clear());
        for grant in &grants {
            assert_eq!(grant.lease.check().map_err(|refusal| refusal.code), Err(Code::Denied));
        }
    }

    #[test]
    fn without_the_right_to_replace_only_a_free_name_is_taken() {
        for rights in each_set() {
            let mut principal = member(rights, None);
            each_operation(|operation| {
                let (Operation::Put { condition, .. } | Operation::Move { condition, .. }) =
                    operation
                else {
                    return;
                };
                let Ok((granted, naming)) = answer(&mut principal, operation) else { return };
                let holds = granted.as_ref().unwrap_or(condition);
                assert!(rights.has(Right::Replace) || *holds == Condition::Absent, "{operation:?}");
                assert!(!rights.has(Right::Replace) || holds == *condition, "as it was asked");
                assert_eq!(naming, Naming::AsAsked);
            });
        }
    }

    #[test]
    fn without_the_right_to_replace_nobody_is_locked_out_of_a_directory() {
        let name = name("photos");
        let old_mode = |principal: &mut Principal| {
            let grant = authorize(principal, &Operation::Mkdir(&name), SystemTime::now());
            grant.map(|grant| grant.old_mode)
        };
        for rights in each_set().filter(|rights| rights.has(Right::Write)) {
            let expected = match rights.has(Right::Replace) {
                true => OldMode::Replaced,
                false => OldMode::Kept,
            };
            assert_eq!(old_mode(&mut member(rights, None)), Ok(expected), "{rights}");
            assert_eq!(old_mode(&mut Principal::Public(rights)), Ok(expected), "{rights}");
        }
        assert_eq!(old_mode(&mut Principal::Local), Ok(OldMode::Replaced));
    }

    #[test]
    fn a_grant_is_carried_only_where_it_is_less_than_was_asked_for() {
        let is_carried = |mut principal: Principal, operation: &Operation<'_>| {
            let grant = authorize(&mut principal, operation, SystemTime::now()).ok()?;
            Some(!std::ptr::eq(&raw const *grant, &raw const OF_ANYBODY))
        };
        each_operation(|operation| {
            assert_eq!(is_carried(Principal::Local, operation), Some(false), "{operation:?}");
            let public = is_carried(Principal::Public(Rights::ALL), operation);
            assert_eq!(public, Some(false), "{operation:?}");
            let token = is_carried(member(Rights::ALL, None), operation);
            assert_eq!(token, Some(*operation != Operation::End), "{operation:?}");
        });
        let (name, condition) = (name("x"), &Condition::Always);
        let put = Operation::Put { name: &name, condition };
        let writing = Principal::Public(Rights::of(Right::Write));
        assert_eq!(is_carried(writing, &put), Some(true));
        assert_eq!(is_carried(Principal::Public(Rights::DROP), &put), Some(true));
    }

    #[test]
    fn a_drop_box_takes_files_and_does_nothing_else() {
        for mut principal in [member(Rights::DROP, None), Principal::Public(Rights::DROP)] {
            each_operation(|operation| {
                let expected = match operation {
                    Operation::Put { condition: Condition::Version(_), .. } => Err(Code::Denied),
                    Operation::Put { .. } => Ok((Some(Condition::Absent), Naming::Numbered)),
                    Operation::Resume | Operation::Continue | Operation::End => {
                        Ok((None, Naming::AsAsked))
                    }
                    Operation::Stat(_)
                    | Operation::Sum(_)
                    | Operation::Get(_)
                    | Operation::List(_)
                    | Operation::Mkdir(_)
                    | Operation::Move { .. }
                    | Operation::Remove(_) => Err(Code::Denied),
                };
                assert_eq!(answer(&mut principal, operation), expected, "{operation:?}");
            });
        }
    }

    #[test]
    fn nobody_may_do_nothing_and_who_is_on_this_machine_everything() {
        each_operation(|operation| {
            let open = *operation == Operation::End;
            let expected = if open { None } else { Some(Code::LoginRequired) };
            assert_eq!(answer(&mut Principal::Nobody, operation).err(), expected);
            assert_eq!(answer(&mut Principal::Local, operation), Ok((None, Naming::AsAsked)));
        });
    }

    #[test]
    fn what_is_past_its_time_or_taken_back_is_over_but_for_letting_go() {
        let hour = std::time::Duration::from_secs(3_700);
        let mut expired = member(Rights::ALL, None);
        let state = State::new();
        state.add(line(1, Rights::ALL, None));
        let tokens = state.tokens();
        let mut gone = Principal::Token(tokens.login(&secret(1), SystemTime::now()).unwrap());
        let _watch = tokens.watch(|| {}).unwrap();
        state.change(|lines| lines.clear());
        each_operation(|operation| {
            let open = *operation == Operation::End;
            let code = |code| if open { None } else { Some(code) };
            let late = authorize(&mut expired, operation, SystemTime::now() + hour);
            assert_eq!(late.err().map(|refusal| refusal.code), code(Code::Expired));
            assert_eq!(answer(&mut gone, operation).err(), code(Code::Denied));
        });
    }

    #[test]
    fn a_scope_is_a_directory_and_not_the_beginning_of_a_word() {
        let mut principal = member(Rights::ALL, Some("photos/2026"));
        let mut may = |operation: Operation<'_>| answer(&mut principal, &operation).is_ok();
        let always = &Condition::Always;
        let (inside, scope) = (name("photos/2026/a"), name("photos/2026"));
        for outside in ["photos", "photos/2026b", "photos/202", "photos/2026 /a", "a/photos/2026"] {
            let outside = name(outside);
            assert!(!may(Operation::Get(&outside)), "{outside}");
            assert!(!may(Operation::Move { from: &inside, to: &outside, condition: always }));
            assert!(!may(Operation::Move { from: &outside, to: &inside, condition: always }));
        }
        assert!(may(Operation::Move { from: &inside, to: &inside, condition: always }));
        assert!(!may(Operation::List(None)));
        for (operation, expected) in [
            (Operation::Mkdir(&scope), true),
            (Operation::List(Some(&scope)), true),
            (Operation::Stat(&scope), true),
            (Operation::Put { name: &scope, condition: always }, false),
            (Operation::Remove(&scope), false),
            (Operation::Move { from: &scope, to: &inside, condition: always }, false),
            (Operation::Move { from: &inside, to: &scope, condition: always }, false),
        ] {
            assert_eq!(may(operation), expected, "{operation:?}");
        }
    }

    #[test]
    fn a_scope_is_told_to_whom_it_holds_and_a_refusal_says_what_is_allowed() {
        let said = |mut principal: Principal, operation: &Operation<'_>| {
            authorize(&mut principal, operation, SystemTime::now()).unwrap_err().message
        };
        let ls = said(member(Rights::ALL, Some("photos/new\nline")), &Operation::List(None));
        assert_eq!(ls, "the token is for what is in photos/new\\nline/ only");
        let name = name("x");
        let rm = said(member(Rights::READING, None), &Operation::Remove(&name));
        assert_eq!(rm, "the token may not take names away: it may read,list");
        let public = said(Principal::Public(Rights::READING), &Operation::Mkdir(&name));
        assert!(public.contains("without a token") && public.contains("ftx login"), "{public}");
    }

    /// Random numbers from a seed.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, count: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % count as u64) as usize
        }

        /// A name of few letters, so that beginnings of names meet often.
        fn name(&mut self) -> Name {
            const PARTS: [&[u8]; 9] =
                [b"photos", b"photos2", b"photo", b"photos ", b"p", b"...", b"\xff", b"\n", b"P"];
            let count = 1 + self.below(4);
            let parts: Vec<&[u8]> = (0..count).map(|_| PARTS[self.below(PARTS.len())]).collect();
            Name::parse(&parts.join(&b'/')).unwrap()
        }
    }

    #[test]
    fn no_operation_is_granted_names_outside_the_scope() {
        let seed = getrandom::u64().unwrap() | 1;
        println!("seed {seed}");
        let mut chance = Chance(seed);
        let mut granted = [0u32; 2];
        for _ in 0..50 {
            let scope = chance.name();
            let state = State::new();
            let scoped = crate::server::access::Line {
                under: Some(scope.clone()),
                ..line(1, Rights::ALL, None)
            };
            state.add(scoped);
            let member = state.tokens().login(&secret(1), SystemTime::now()).unwrap();
            let mut principal = Principal::Token(member);
            let prefix = [scope.as_bytes(), b"/"].concat();
            for _ in 0..2_000 {
                let (one, other) = (chance.name(), chance.name());
                let condition = Condition::Always;
                let operation = match chance.below(9) {
                    0 => Operation::Put { name: &one, condition: &condition },
                    1 => Operation::Stat(&one),
                    2 => Operation::Sum(&one),
                    3 => Operation::Get(&one),
                    4 => Operation::List(Some(&one)),
                    5 => Operation::Mkdir(&one),
                    6 => Operation::Remove(&one),
                    7 => Operation::List(None),
                    _ => Operation::Move { from: &one, to: &other, condition: &condition },
                };
                let names: &[&Name] = match operation {
                    Operation::List(None) => &[],
                    Operation::Move { .. } => &[&one, &other],
                    _ => &[&one],
                };
                let below = |name: &&&Name| name.as_bytes().starts_with(&prefix);
                let inside = |name: &&&Name| below(name) || **name == &scope;
                let grant = authorize(&mut principal, &operation, SystemTime::now());
                granted[usize::from(grant.is_ok())] += 1;
                match grant {
                    Ok(grant) => {
                        let all = !names.is_empty() && names.iter().all(|name| inside(&name));
                        assert!(all, "{scope} {operation:?} seed {seed}");
                        assert_eq!(grant.within.as_ref(), Some(&scope));
                        assert_eq!(grant.owner, Some(ftx_protocol::Owner([1; 8])));
                    }
                    Err(refusal) => {
                        let all = !names.is_empty() && names.iter().all(|name| below(&name));
                        assert!(!all, "{scope} {operation:?} seed {seed}");
                        assert_eq!(refusal.code, Code::Denied);
                    }
                }
            }
        }
        assert!(granted.iter().all(|&count| count > 1_000), "both answers: {granted:?}");
    }

    #[test]
    fn what_is_asked_for_is_the_operation_that_it_is() {
        let (id, one, other) = (RequestId(1), name("a"), name("b"));
        let digest = Digest { algorithm: Algorithm::Sha256, bytes: [0; 32] };
        let transfer = ftx_protocol::TransferId([0; 16]);
        let json = |kind: &str, more: &str| format!(r#"{{"id":1,"name":"{kind}"{more}}}"#);
        let put: Put = serde_json::from_str(&json(
            "a",
            r#","digest":"sha256","transfer":"00112233445566778899aabbccddeeff","if":"absent""#,
        ))
        .unwrap();
        let get: Get = serde_json::from_str(&json("a", r#","digest":"sha256""#)).unwrap();
        let stat: Stat = serde_json::from_str(&json("a", "")).unwrap();
        let list: List = serde_json::from_str(&json("a", "")).unwrap();
        let root: List = serde_json::from_str(r#"{"id":1}"#).unwrap();
        let mkdir: Mkdir = serde_json::from_str(&json("a", "")).unwrap();
        let moving: Move = serde_json::from_str(&json("a", r#","to":"b""#)).unwrap();
        let remove: Remove = serde_json::from_str(&json("a", "")).unwrap();
        let resume = Resume { id, transfer, need: Vec::new() };
        let end = End { id, size: 0, digest, spent: None };
        let (absent, always) = (&Condition::Absent, &Condition::Always);
        for (work, operation) in [
            (Work::Begin(put, Behind::Nothing), Operation::Put { name: &one, condition: absent }),
            (Work::Write { id, bytes: 0..1 }, Operation::Continue),
            (Work::Finish(end), Operation::Continue),
            (Work::Discard(id, Code::Changed.into()), Operation::End),
            (Work::Suspend(id), Operation::End),
            (Work::Resume(resume), Operation::Resume),
            (Work::Stat(stat.clone()), Operation::Stat(&one)),
            (Work::Sum(stat), Operation::Sum(&one)),
            (Work::List(list), Operation::List(Some(&one))),
            (Work::List(root), Operation::List(None)),
            (Work::More(id), Operation::Continue),
            (Work::Change(Change::Mkdir(mkdir)), Operation::Mkdir(&one)),
            (
                Work::Change(Change::Move(moving)),
                Operation::Move { from: &one, to: &other, condition: always },
            ),
            (Work::Change(Change::Remove(remove)), Operation::Remove(&one)),
            (Work::Open(get), Operation::Get(&one)),
            (Work::Digest(id), Operation::Continue),
            (Work::Close(id), Operation::End),
            (Work::HangUp, Operation::End),
        ] {
            assert_eq!(Operation::of(&work), operation, "{work:?}");
        }
    }
}
