//! The one decision: who may do what. Nothing reaches storage without it, and it is made before
//! anything is opened, so that a refusal does not tell what there is.

use std::time::SystemTime;

use ftx_disk::store::Naming;
use ftx_protocol::message::Change;
use ftx_protocol::server::Command;
use ftx_protocol::{Code, Condition, Name, Refusal};

use super::grant::{Grant, Lease};
use super::principal::Principal;
use super::rights::{Right, Rights};

/// One for each request that can have an effect or tell something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Operation<'a> {
    /// To say who one is.
    Login,
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
    /// What a command of the machine is. No `_` here: a new command has to be thought about.
    pub(in crate::server) fn of(command: &'a Command) -> Self {
        match command {
            Command::Login(_) => Self::Login,
            Command::Begin(put) => Self::Put { name: &put.name, condition: &put.condition },
            Command::Resume(_) => Self::Resume,
            Command::Write { .. } | Command::Finish(_) | Command::More(_) | Command::Digest(_) => {
                Self::Continue
            }
            Command::Stat(stat) => Self::Stat(&stat.name),
            Command::Sum(stat) => Self::Sum(&stat.name),
            Command::Open(get) => Self::Get(&get.name),
            Command::List(list) => Self::List(list.name.as_ref()),
            Command::Change(Change::Mkdir(mkdir)) => Self::Mkdir(&mkdir.name),
            Command::Change(Change::Move(moving)) => {
                Self::Move { from: &moving.name, to: &moving.to, condition: &moving.condition }
            }
            Command::Change(Change::Remove(remove)) => Self::Remove(&remove.name),
            Command::Discard(_) | Command::Suspend(_) | Command::Close(_) | Command::HangUp => {
                Self::End
            }
        }
    }
}

/// Whether somebody may do something, and what of it. Looks at nothing but its arguments, and at
/// the table of tokens where that has changed.
pub(in crate::server) fn authorize(
    principal: &mut Principal,
    operation: &Operation<'_>,
    now: SystemTime,
) -> Result<Grant, Refusal> {
    // To let go is always allowed: otherwise nobody could get rid of what was taken from them.
    if matches!(operation, Operation::End | Operation::Login) {
        return Ok(Grant::of_anybody());
    }
    match principal {
        Principal::Nobody => Err(Code::LoginRequired.into()),
        Principal::Local => Ok(Grant::of_anybody()),
        Principal::Public(rights) => match allow(*rights, operation) {
            Ok(allowed) => Ok(Grant {
                condition: allowed.condition,
                naming: allowed.naming,
                ..Grant::of_anybody()
            }),
            Err(NotAllowed(what)) => Err(Refusal::new(
                Code::Denied,
                format!("without a token nobody may {what} here: log in with ftx login"),
            )),
        },
        Principal::Token(member) => {
            let known = member.renew(now)?;
            let allowed = allow(known.rights, operation).map_err(|NotAllowed(what)| {
                let rights = known.rights;
                Refusal::new(Code::Denied, format!("the token may not {what}: it may {rights}"))
            })?;
            if let Some(scope) = &known.under {
                hold_to(scope, operation)?;
            }
            Ok(Grant {
                condition: allowed.condition,
                within: known.under.clone(),
                owner: Some(known.id),
                naming: allowed.naming,
                share: Some(known.share()),
                lease: Lease::of(member, allowed.needs),
            })
        }
    }
}

/// What of an operation is allowed, and by which rights.
struct Allowed {
    needs: Rights,
    /// In place of the one that was asked for.
    condition: Option<Condition>,
    naming: Naming,
}

/// What is not allowed, in words: "may not …".
struct NotAllowed(&'static str);

impl Allowed {
    fn by(needs: Rights) -> Self {
        Self { needs, condition: None, naming: Naming::AsAsked }
    }
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
        Operation::Login | Operation::End | Operation::Continue => Ok(Allowed::by(Rights::NONE)),
        Operation::Put { condition, .. } => {
            let needs = with(Right::Write, "put files")?;
            taking_a_name(rights, needs, condition)
        }
        Operation::Resume => with(Right::Write, "put files").map(Allowed::by),
        Operation::Stat(_) if rights.has(Right::Read) => Ok(Allowed::by(Rights::of(Right::Read))),
        Operation::Stat(_) => with(Right::List, "see what names stand for").map(Allowed::by),
        Operation::Sum(_) | Operation::Get(_) => with(Right::Read, "read files").map(Allowed::by),
        Operation::List(_) => with(Right::List, "list directories").map(Allowed::by),
        Operation::Mkdir(_) => with(Right::Write, "make directories").map(Allowed::by),
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
        Operation::Login | Operation::End | Operation::Continue => Ok(Allowed::by(Rights::NONE)),
        Operation::Put { condition: Condition::Always | Condition::Absent, .. } => Ok(Allowed {
            needs: Rights::DROP,
            condition: Some(Condition::Absent),
            naming: Naming::Numbered,
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
        Operation::Login | Operation::End | Operation::Continue | Operation::Resume => true,
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
