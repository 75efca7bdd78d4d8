//! Files on their way: compared, asked for, received.

use std::time::{Duration, Instant};

use ftx_disk::aligned::PageAligned;
use ftx_disk::hash::Running;
use ftx_disk::store;
use ftx_protocol::client::Event;
use ftx_protocol::limits::{GRID_BYTES, RESUMABLE_BYTES, UNKEPT_BYTES};
use ftx_protocol::message::{self, Cache, Info};
use ftx_protocol::{Code, Digest, Name, Refusal, RequestId, Retry as Again, TransferId, Version};

use super::settling::UNSETTLED_MAX;
use super::{File, Job, Listing, Next, Work};
use crate::Client;
use crate::ask::{ASKED_BYTES, ASKED_MAX};
use crate::failure::{Class, Failure, GOES_ON, Trouble};
use crate::link::{Link, READ_BYTES};
use crate::short_hash::hash_of;
use crate::spent::Spent;
use crate::tree::settle::Item;
use crate::tree::{Mood, TreeNotice, TreeOptions};

/// As many are asked for in one go, when there is room for them: each message costs both sides.
const ASKED_TOGETHER: usize = 64;

/// How often the server hears something while a file is read here, however long that takes: more often
/// than any server wants to.
const SIGN_WHEN_COMPARING: Duration = Duration::from_secs(1);

/// Files and directories that were listed and not asked for: more are listed when there are fewer.
const LISTED_MAX: usize = 1_024;

impl Job<'_, '_> {
    /// Sends the next requests, and allows more of the list.
    pub(super) fn ask_for_more(&mut self, link: &Link) -> Result<(), Trouble> {
        let mut lines = Vec::new();
        let has_room = self.visit.under_way.len() <= ASKED_MAX.saturating_sub(ASKED_TOGETHER);
        while has_room
            && self.visit.under_way.len() < ASKED_MAX
            && self.visit.line_bytes < ASKED_BYTES
            && self.unsettled.len() < UNSETTLED_MAX
            && let Some(file) = self.visit.listed.pop_front()
        {
            let cost = Name::line_bytes(file.name.as_bytes());
            self.visit.line_bytes = self.visit.line_bytes.saturating_add(cost);
            self.request(link, file, &mut lines);
        }
        if let Listing::Running { id, owed, ahead } = &mut self.visit.list
            && self.visit.listed.len() < LISTED_MAX
        {
            for _ in 0..std::mem::take(owed) {
                *ahead = ahead.saturating_add(1);
                link.machine().more(*id, &mut lines);
            }
        }
        Ok(link.write(&lines)?)
    }

    pub(super) fn request(&mut self, link: &Link, file: File, lines: &mut Vec<u8>) {
        if file.next == Next::Compare {
            let stat = message::Stat {
                digest: Some(self.tree.options.algorithm),
                ..message::Stat::of(file.name.clone())
            };
            let id = link.machine().stat(stat, lines, link.now());
            self.visit.under_way.insert(id, Work::Ask(file));
            return;
        }
        if self.tree.options.mood == Mood::Tell {
            self.visit.line_bytes = 0;
            return self.count(&file, None);
        }
        let (at, version) = self.held(&file);
        let get = message::Get {
            id: RequestId(0),
            name: file.name.clone(),
            digest: self.tree.options.algorithm,
            at,
            version,
            cache: match file.next {
                Next::Compare | Next::Fetch => Cache::Use,
                Next::FetchAgain => Cache::Bypass,
            },
            need: Vec::new(),
        };
        let id = link.machine().get(get, lines, link.now());
        self.visit.under_way.insert(id, Work::Get { file, upload: None });
    }

    /// What an earlier connection, or run, left of a large file.
    fn held(&self, file: &File) -> (u64, Option<Version>) {
        if file.entry.size < RESUMABLE_BYTES {
            return (0, None);
        }
        let transfer = transfer_of(self.client, self.tree.options, file);
        let held = self.ground.store.as_ref().map_or(0, |store| store.held(&transfer, None).at);
        match self.versions.get(&transfer) {
            Some(version) if held > 0 => (held, Some(version.clone())),
            _ => (0, None),
        }
    }

    pub(super) fn heard(&mut self, event: Event, input: &[u8]) -> Result<(), Trouble> {
        match event {
            Event::Entries(entries) => {
                let Listing::Running { owed, ahead, .. } = &mut self.visit.list else {
                    return Err(crate::tree::listed_too_much());
                };
                *ahead = ahead.checked_sub(1).ok_or_else(crate::tree::listed_too_much)?;
                *owed = owed.saturating_add(1);
                for entry in entries.entries {
                    self.seen(entry);
                }
                for unread in entries.unread {
                    self.unread(&unread);
                }
            }
            Event::Ok(okay) => {
                self.visit.under_way.remove(&okay.id);
                self.visit.list = Listing::Complete;
                (self.observer)(TreeNotice::FoundAll);
                self.leave_to(None);
            }
            Event::Info(info) => self.compared(&info)?,
            Event::File(file) => self.opened(&file)?,
            Event::Body { id, bytes, .. } => {
                self.arrived(id, input.get(bytes).unwrap_or_default())?;
            }
            Event::End(end) => self.ended(end.id, end.digest),
            Event::Refused { id, refusal } => self.refused(id, refusal)?,
            _ => {}
        }
        Ok(())
    }

    /// The server has said the digest of a file.
    fn compared(&mut self, info: &Info) -> Result<(), Trouble> {
        let Some(Work::Ask(mut file)) = self.visit.under_way.remove(&info.id) else {
            return Ok(());
        };
        self.answered(&file);
        let digest = self.digest_here(&file.path, info.size);
        // One that was interrupted says nothing.
        self.client.interrupt.check()?;
        match digest {
            Some(digest) if Some(digest) == info.digest => self.unchanged(&file.path),
            _ => {
                file.next = Next::Fetch;
                self.visit.listed.push_front(file);
            }
        }
        Ok(())
    }

    fn digest_here(&self, path: &Name, size: u64) -> Option<Digest> {
        let reading = self.ground.store.as_ref()?.open_file(path, None).ok()?;
        if reading.size() != size {
            return None;
        }
        let mut running = Running::new(self.tree.options.algorithm);
        let mut buffer = PageAligned::new(READ_BYTES);
        let mut said = Instant::now();
        while running.offset() < size {
            self.client.interrupt.check().ok()?;
            if said.elapsed() >= SIGN_WHEN_COMPARING
                && let Some(link) = &self.visit.link
            {
                // Who cannot be told is found out to be gone when this is over.
                link.send(|machine, out, now| machine.ping(out, now)).ok()?;
                said = Instant::now();
            }
            let count = reading.read_at(&mut buffer, running.offset()).ok()?;
            if count == 0 {
                return None;
            }
            running.update(buffer.get(..count)?);
        }
        Some(running.digest())
    }

    fn answered(&mut self, file: &File) {
        let cost = Name::line_bytes(file.name.as_bytes());
        self.visit.line_bytes = self.visit.line_bytes.saturating_sub(cost);
    }

    /// A file is about to come.
    fn opened(&mut self, opened: &message::File) -> Result<(), Trouble> {
        let Some(Work::Get { file, upload }) = self.visit.under_way.get_mut(&opened.id) else {
            return Ok(());
        };
        let Some(store) = &self.ground.store else { return Ok(()) };
        let transfer = match opened.size.max(file.entry.size) {
            // Nobody comes back to it.
            ..RESUMABLE_BYTES => self.ids.next()?,
            RESUMABLE_BYTES.. => transfer_of(self.client, self.tree.options, file),
        };
        if opened.at == 0 && opened.size >= RESUMABLE_BYTES {
            self.versions.note(transfer, &opened.version);
        }
        let begin = |transfer| store::Put {
            name: file.path.clone(),
            algorithm: self.tree.options.algorithm,
            size: Some(opened.size),
            at: opened.at,
            transfer,
            condition: self.tree.options.condition.clone(),
            durability: self.tree.options.durability,
            modified: Some(opened.mtime),
            mode: Some(opened.mode),
            owner: None,
            unfinished_max: None,
            within: None,
            naming: store::Naming::AsAsked,
        };
        let mut begun = store.begin(begin(transfer));
        if begun.is_err() && opened.at == 0 {
            // Something is held under this id that cannot be gone on with.
            begun = store.begin(begin(crate::ids::new_id()?));
        }
        match begun {
            Ok(begun) => *upload = Some(Box::new(begun)),
            Err(_) if opened.at > 0 && file.next != Next::FetchAgain => self.ask_anew(opened.id)?,
            Err(refusal) => self.stop(opened.id, &refusal)?,
        }
        Ok(())
    }

    /// What is held here of the file cannot be gone on with: it comes from its first byte.
    fn ask_anew(&mut self, id: RequestId) -> Result<(), Trouble> {
        if let Some(Work::Get { mut file, .. }) = self.visit.under_way.insert(id, Work::Stopped) {
            self.answered(&file);
            file.next = Next::FetchAgain;
            self.visit.listed.push_front(file);
        }
        self.abort(id)
    }

    /// This side cannot take the file.
    fn stop(&mut self, id: RequestId, refusal: &Refusal) -> Result<(), Trouble> {
        if let Some(Work::Get { file, .. }) = self.visit.under_way.insert(id, Work::Stopped) {
            self.answered(&file);
            self.fail_here(&file.path, refusal);
        }
        self.abort(id)
    }

    fn abort(&self, id: RequestId) -> Result<(), Trouble> {
        match &self.visit.link {
            Some(link) => {
                link.send(|machine, out, _| machine.abort(id, Code::Aborted, out))?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn arrived(&mut self, id: RequestId, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(Work::Get { file, upload: Some(upload), .. }) = self.visit.under_way.get_mut(&id)
        else {
            return Ok(());
        };
        (self.observer)(TreeNotice::Moved {
            bytes: bytes.len() as u64,
            name: file.path.as_bytes(),
        });
        let points = upload.offset() / GRID_BYTES;
        match upload.write(bytes) {
            Ok(checkpoint) => {
                // What is begun anew on each connection has achieved nothing before it is settled.
                if file.entry.size >= RESUMABLE_BYTES {
                    let transfer = transfer_of(self.client, self.tree.options, file);
                    let come_to = self.come_to.entry(transfer).or_default();
                    if upload.offset() > *come_to {
                        *come_to = upload.offset();
                        self.patience.progress();
                    }
                }
                self.group.extend(checkpoint.map(Item::Keep));
                // The disk here is slower than the line: what would be fetched again after a crash is bounded.
                if upload.offset() / GRID_BYTES > points && upload.unkept_bytes() > UNKEPT_BYTES {
                    self.settle_all();
                }
            }
            Err(refusal) => {
                self.drop_upload(id);
                self.stop(id, &refusal)?;
            }
        }
        Ok(())
    }

    fn drop_upload(&mut self, id: RequestId) {
        if let Some(Work::Get { upload, .. }) = self.visit.under_way.get_mut(&id)
            && let (Some(upload), Some(store)) = (upload.take(), &self.ground.store)
        {
            store.discard(*upload);
        }
    }

    /// Every byte of a file has come.
    fn ended(&mut self, id: RequestId, digest: Digest) {
        let Some(Work::Get { mut file, upload: Some(upload), .. }) =
            self.visit.under_way.remove(&id)
        else {
            return;
        };
        self.answered(&file);
        let Some(store) = &self.ground.store else { return };
        let size = upload.offset();
        let store::Spent { disk, hash } = upload.spent();
        self.done.spent.add_part(Spent { disk, hash, ..Spent::default() });
        match upload.finish(store, size, digest) {
            Ok(finished) => {
                let number = file.number;
                self.group_bytes = self.group_bytes.saturating_add(size);
                self.group.push(Item::File { number, finished: Box::new(finished) });
                file.entry.size = size;
                self.unsettled.insert(number, file);
            }
            Err(refusal)
                if refusal.code == Code::DigestMismatch && file.next != Next::FetchAgain =>
            {
                // Perhaps the server's memory of it is out of date: it has to read it again.
                file.next = Next::FetchAgain;
                self.visit.listed.push_front(file);
            }
            Err(refusal) if refusal.code == Code::DigestMismatch => {
                let message =
                    format!("get {}: the bytes that arrived are not the server's", file.name);
                self.fail(&file.path, &Failure::new(Class::Integrity, message));
            }
            Err(refusal) => self.fail_here(&file.path, &refusal),
        }
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal) -> Result<(), Trouble> {
        // What concerns all that is still to come ends the connection, or the job, and what has come is kept.
        if Class::Refused(refusal.code).is_about_the_way() {
            return Err(Trouble::Refused(refusal));
        }
        // So does a right that is lost in the middle of a file; who may not get one at all may get another.
        if let Some(Work::Get { file, upload: Some(_), .. }) = self.visit.under_way.get(&id)
            && refusal.code == Code::Denied
        {
            let what = format!("get {}", file.name);
            let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
            return Err(Trouble::Final(failure.with_hint(GOES_ON)));
        }
        self.drop_upload(id);
        let Some(work) = self.visit.under_way.remove(&id) else { return Ok(()) };
        let mut file = match work {
            Work::List => return Err(Trouble::Refused(refusal)),
            Work::Stopped => return Ok(()),
            Work::Ask(file) | Work::Get { file, .. } => file,
        };
        self.answered(&file);
        if refusal.code.retry() == Again::Fresh && file.next != Next::FetchAgain {
            file.next = Next::FetchAgain;
            self.visit.listed.push_front(file);
        } else {
            let what = format!("get {}", file.name);
            let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
            self.fail(&file.path, &failure);
        }
        Ok(())
    }
}

/// The same for the same file, in every run.
fn transfer_of(client: &Client, options: &TreeOptions, file: &File) -> TransferId {
    TransferId(hash_of(&[
        client.server.to_string().as_bytes(),
        file.name.as_bytes(),
        options.algorithm.as_str().as_bytes(),
        // What is held for one is not for the other.
        options.durability.as_str().as_bytes(),
        &file.entry.size.to_le_bytes(),
        &file.entry.mtime.seconds().to_le_bytes(),
        &file.entry.mtime.nanoseconds().to_le_bytes(),
        // Not the one that could not be gone on with.
        &[u8::from(file.next == Next::FetchAgain)],
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Retry;
    use ftx_protocol::message::Entry;
    use ftx_protocol::{Durability, FileTime, Kind, Mode};

    #[test]
    fn what_an_earlier_version_left_of_a_large_file_is_found() {
        let client = Client::new("box:1".parse().unwrap(), Retry::default());
        let options = TreeOptions { durability: Durability::Full, ..TreeOptions::default() };
        let name = Name::parse(b"a/b").unwrap();
        let entry = Entry {
            name: name.clone(),
            kind: Kind::File,
            size: 5,
            mtime: FileTime::new(7, 9).unwrap(),
            mode: Mode::new(0o600),
        };
        let file = File { number: 0, path: name.clone(), name, entry, next: Next::Fetch };
        let TransferId(id) = transfer_of(&client, &options, &file);
        assert_eq!(u128::from_be_bytes(id), 0xd3b2_f50f_bc77_1d7c_0b11_dac9_f2ee_6ddb);
    }
}
