//! Getting trees: list, compare, receive, and settle in groups, in one pass.
//!
//! What arrives is stored by the same confined writer as the server's: a store whose root is the
//! target. So nothing is written outside of it, whatever names a server lists and whatever happens
//! to its directories meanwhile.

mod extra;
mod fetching;
mod ground;
pub(crate) mod left;
mod listing;
mod logs;
mod look;
mod settling;
mod single;
mod versions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_disk::store::{Change, Upload};
use ftx_disk::sys::{Disk, Native};
use ftx_protocol::limits::ENTRIES_AHEAD;
use ftx_protocol::message::{self, Entry, Info};
use ftx_protocol::{
    Code, Condition, Depth, Digest, Durability, FileTime, Mode, Name, Refusal, RequestId,
    TransferId,
};
pub(crate) use ground::Private;
use ground::{Complete, Ground, Target};
use logs::{Logs, Noted};
use settling::UNSETTLED_MAX;
use versions::Versions;

use super::folds::Folds;
use super::log::Log;
use super::settle::{Item, Settler};
use super::{Mood, TreeDone, TreeNotice, TreeObserver, TreeOptions, forget_beside};
use crate::Client;
use crate::failure::{Class, Failure, Trouble};
use crate::ids::Ids;
use crate::link::{Link, READ_BYTES};
use crate::retry::Patience;
use crate::spent::{Spent, timed};

pub use logs::Interrupted;
pub use single::Single;

/// What is to be fetched, and where to.
pub struct GetTree<'a> {
    /// A directory on the server; its root if there is none.
    pub name: Option<&'a Name>,
    /// The directory here; made if the one above it is there.
    pub target: &'a Path,
    /// How. The condition says whether a file that is there may be replaced.
    pub options: &'a TreeOptions,
}

/// What a directory on the server is called in messages and notes. The root has no name, and no name is `/`.
fn called(name: Option<&Name>) -> String {
    name.map_or_else(|| "/".to_owned(), Name::to_string)
}

/// The bytes of its name.
fn bytes_of(name: Option<&Name>) -> &[u8] {
    name.map_or(b"", Name::as_bytes)
}

impl Client {
    /// Gets a tree, over one connection. Tries again, and goes on where it broke, as long as there
    /// is progress. What fails is told, and the rest goes on.
    ///
    /// # Errors
    /// When the server cannot be reached for too long or does not keep to the protocol, when the
    /// name is no directory, or when the target cannot be written to.
    pub fn get_tree(
        &self,
        tree: &GetTree<'_>,
        observer: &mut TreeObserver<'_>,
    ) -> Result<TreeDone, Failure> {
        let began = Instant::now();
        let mut patience = Patience::new(self.retry);
        // Before anything is made here. The root is a directory, and has no information.
        let info = match tree.name {
            Some(name) => Some(self.look_at_directory(name, &mut patience, observer)?),
            None => None,
        };
        if tree.options.mood == Mood::Tell {
            let ground = Ground::look(tree.target)?;
            let mut job = Job::new(self, tree, &ground, None, patience, observer);
            let result = job.run();
            let done = job.done;
            job.close(is_complete(&result, &done));
            return result.map(|()| done);
        }
        let noted = Noted::begin(self, tree, observer);
        let (ground, log) = match Ground::prepare(self, tree, noted.target()) {
            Ok(ground) => (ground, noted.made(observer)),
            Err(failure) => {
                noted.take_back(observer);
                return Err(failure);
            }
        };
        let paced = self.paced();
        let mut job = Job::new(self, tree, &ground, log, patience, observer);
        let result = job.run();
        job.done.spent.wall = began.elapsed();
        job.done.spent.paced = self.paced().saturating_sub(paced);
        let mut done = job.done;
        let complete = is_complete(&result, &done);
        let log = job.close(complete);
        let target = ground.leave(complete);
        if result.is_ok()
            && target == Target::There
            && let Some(info) = &info
            && let Err(error) = give_times(tree.target, info, tree.options.durability)
        {
            let failure = Failure::local("cannot set the time of", tree.target, &error);
            done.count_failure(&failure);
            observer(TreeNotice::Failed { name: b"", failure: &failure });
        }
        // Last: until then the same command finds what is left as its own.
        if let Some(log) = log
            && (target == Target::Gone || is_complete(&result, &done) == Complete::Yes)
        {
            forget_beside(log.path());
            log.remove();
        }
        result.map(|()| done)
    }
}

fn is_complete(result: &Result<(), Failure>, done: &TreeDone) -> Complete {
    match result {
        Ok(()) if done.failed == 0 => Complete::Yes,
        Ok(()) | Err(_) => Complete::No,
    }
}

/// The target itself is a directory of the tree too.
fn give_times(path: &Path, info: &Info, durability: Durability) -> std::io::Result<()> {
    let directory = Native.open_root(path)?;
    Native.set_mode(&directory, info.mode)?;
    Native.set_modified(&directory, info.mtime)?;
    match durability {
        Durability::None => Ok(()),
        Durability::Memory | Durability::Full => Native.sync(&directory),
    }
}

/// A file that is to be fetched.
struct File {
    number: u64,
    /// On the server.
    name: Name,
    /// In the target.
    path: Name,
    entry: Entry,
    next: Next,
}

/// What is to be done for a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its digest is asked for, and compared with that of the file here.
    Compare,
    Fetch,
    /// Once more, from its first byte, past the server's memory of its digest.
    FetchAgain,
}

/// A request under way.
enum Work {
    List,
    Ask(File),
    Get { file: File, upload: Option<Box<Upload<Native>>> },
    Stopped,
}

/// A directory that all entries were seen of: its time is set when the files before it are settled.
struct Left {
    barrier: u64,
    change: Change,
}

/// A directory whose entries are being listed.
struct Open {
    path: Name,
    mtime: FileTime,
    mode: Mode,
}

struct Job<'a, 'o> {
    client: &'a Client,
    tree: &'a GetTree<'a>,
    ground: &'a Ground,
    observer: &'a mut TreeObserver<'o>,
    visit: Visit,
    next_number: u64,
    unsettled: BTreeMap<u64, File>,
    settler: Option<Settler>,
    group: Vec<Item>,
    group_bytes: u64,
    /// When the last group was handed over.
    handed_over: Instant,
    /// What the first bytes of large files came from.
    versions: Versions,
    ids: Ids,
    log: Option<Log>,
    done_earlier: Earlier,
    /// What the server has, for the removal of everything else.
    seen: Option<Log>,
    /// What was listed, where the disk takes some of it for one.
    folds: Option<Folds>,
    whole: Whole,
    patience: Patience,
    done: TreeDone,
    /// Files that were told as found.
    found: u64,
    /// How many of them the listing that runs has still to come to, after an earlier one broke.
    found_again: u64,
    /// The same of the files that this run has moved.
    done_again: u64,
    /// How many they were at the most, on any connection.
    done_most: u64,
    /// How far each large file has come at the most: bytes that come once more are no progress.
    come_to: BTreeMap<TransferId, u64>,
    /// What was told as skipped; so that it is not told again after a break.
    told: BTreeSet<super::log::Mark>,
}

/// What is of one connection: on the next one all that is not settled is listed, and asked for, again.
#[derive(Default)]
struct Visit {
    link: Option<Arc<Link>>,
    under_way: BTreeMap<RequestId, Work>,
    line_bytes: usize,
    list: Listing,
    listed: VecDeque<File>,
    way: Vec<Open>,
    left: VecDeque<Left>,
    /// Directories that could not be made, and whose time is still to come.
    unmade: BTreeSet<Name>,
}

/// How far the listing is.
#[derive(Clone, Copy, Default)]
enum Listing {
    #[default]
    ToBegin,
    Running {
        id: RequestId,
        /// Messages of it that have come and were not asked for again.
        owed: u32,
        /// Those that the server may still send without being asked.
        ahead: u32,
    },
    Complete,
}

/// Whether something was done before the listing that runs began: then each of its files is looked
/// up in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    Nothing,
    Something,
}

/// Whether everything of the source was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

impl<'a, 'o> Job<'a, 'o> {
    fn new(
        client: &'a Client,
        tree: &'a GetTree<'a>,
        ground: &'a Ground,
        log: Option<Log>,
        patience: Patience,
        observer: &'a mut TreeObserver<'o>,
    ) -> Self {
        let Logs { log, seen, folds, versions } = Logs::open(client, tree, ground, log, observer);
        let settler = match tree.options.mood {
            Mood::Do => ground.store.clone().map(Settler::start),
            Mood::Tell => None,
        };
        Self {
            client,
            tree,
            ground,
            observer,
            visit: Visit::default(),
            next_number: 0,
            unsettled: BTreeMap::new(),
            settler,
            group: Vec::new(),
            group_bytes: 0,
            handed_over: Instant::now(),
            versions,
            ids: Ids::default(),
            log,
            done_earlier: Earlier::Something,
            seen,
            folds,
            whole: Whole::Yes,
            patience,
            done: TreeDone::default(),
            found: 0,
            found_again: 0,
            done_again: 0,
            done_most: 0,
            come_to: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let trouble = match self.attempt() {
                Ok(()) => break,
                Err(trouble) => trouble,
            };
            self.take_back();
            let what = format!("get {}", called(self.tree.name));
            let tell = |cause, pause| (self.observer)(TreeNotice::Retrying { cause, pause });
            self.patience
                .again(trouble, &what, self.client, tell)
                .map_err(|trouble| trouble.into_failure(&what, &self.client.server))?;
        }
        self.remove_extra()?;
        self.settle_all();
        self.done.spent.add_part(Spent { pauses: self.patience.paused(), ..Spent::default() });
        Ok(())
    }

    /// A connection is gone: what is done is settled, the rest is listed again.
    fn take_back(&mut self) {
        self.visit.link = None;
        // Before they are suspended: what is to be kept of large files is among it, and is void
        // afterwards.
        self.settle_all();
        for (_, work) in std::mem::take(&mut self.visit).under_way {
            if let (Work::Get { upload: Some(upload), .. }, Some(store)) =
                (work, &self.ground.store)
            {
                store.suspend(*upload);
            }
        }
        self.settle_all();
        self.unsettled.clear();
        self.count_anew();
    }

    /// Everything is listed again, and is to be counted and told once.
    fn count_anew(&mut self) {
        self.whole = Whole::Yes;
        self.found_again = self.found;
        let moved = match &self.log {
            Some(_) => self.done,
            // Without a log they are fetched again.
            None => TreeDone::default(),
        };
        self.done_again = moved.files;
        self.done = TreeDone {
            files: moved.files,
            bytes: moved.bytes,
            connections: self.done.connections,
            spent: self.done.spent,
            ..TreeDone::default()
        };
    }

    /// One connection.
    fn attempt(&mut self) -> Result<(), Trouble> {
        let link = self.client.link()?;
        self.visit.link = Some(Arc::clone(&link));
        self.done.connections = self.done.connections.saturating_add(1);
        let mut buffer = vec![0; READ_BYTES];
        let list = message::List {
            id: RequestId(0),
            name: self.tree.name.cloned(),
            depth: Depth::All,
            need: Vec::new(),
        };
        let id = link.send(|machine, out, now| machine.list(list, out, now))?;
        self.visit.list = Listing::Running { id, owed: 0, ahead: ENTRIES_AHEAD };
        self.visit.under_way.insert(id, Work::List);
        self.done_earlier = match &self.log {
            Some(log) if log.is_empty() => Earlier::Nothing,
            _ => Earlier::Something,
        };
        loop {
            self.take_answers();
            self.leave_directories();
            self.ask_for_more(&link)?;
            if self.unsettled.len() >= UNSETTLED_MAX {
                self.make_room();
            } else if !self.visit.under_way.is_empty() {
                self.hand_over_when_due();
                self.receive(&link, &mut buffer)?;
            } else if !self.visit.listed.is_empty() {
                // The next ones are asked for.
            } else if self.group.is_empty() && self.visit.left.is_empty() && self.is_settled() {
                self.client.leave(&link);
                return Ok(());
            } else {
                self.settle_all();
            }
        }
    }

    fn receive(&mut self, link: &Link, buffer: &mut [u8]) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut heard = Duration::ZERO;
        let received = link
            .receive(buffer, &mut |event, input| timed(&mut heard, || self.heard(event, input)));
        let waiting = &mut self.done.spent.waiting;
        *waiting = waiting.saturating_add(began.elapsed().saturating_sub(heard));
        received
    }

    fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.settler.as_ref().is_none_or(Settler::is_idle)
    }

    fn count(&mut self, file: &File, digest: Option<Digest>) {
        self.done.files = self.done.files.saturating_add(1);
        self.done.bytes = self.done.bytes.saturating_add(file.entry.size);
        let (name, bytes) = (file.path.as_bytes(), file.entry.size);
        (self.observer)(TreeNotice::File { name, stored_as: None, bytes, digest });
    }

    fn fail_here(&mut self, path: &Name, refusal: &Refusal) {
        use std::os::unix::ffi::OsStrExt;
        let shown = self.ground.path.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let shown = crate::failure::shown(&shown);
        let message = match (refusal.code, &self.tree.options.condition) {
            (Code::Exists, Condition::Absent) => {
                format!("{shown} is there already; it was left as it is")
            }
            _ => {
                let words = refusal.message.trim_end_matches('.');
                format!("cannot write {shown}: {words}")
            }
        };
        self.fail(path, &Failure::new(Class::Local, message));
    }

    fn fail_target(&mut self, failure: &Failure) {
        self.done.count_failure(failure);
        (self.observer)(TreeNotice::Failed { name: b"", failure });
    }

    fn fail(&mut self, name: &Name, failure: &Failure) {
        self.done.count_failure(failure);
        (self.observer)(TreeNotice::Failed { name: name.as_bytes(), failure });
    }
}
