//! A source on its way through the running digest, with points to go back to: after a break the
//! source is read again from the last of them, not from its beginning.

use std::time::Duration;

use ftx_disk::aligned::PageAligned;
use ftx_disk::hash::{Running, Saved};
use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Algorithm, Digest};

use crate::failure::{Class, Failure, Trouble, shown};
use crate::interrupt::Interrupt;
use crate::source::{Got, Kind, Source};
use crate::spent::timed;

/// Read and hashed at once: stays in a core's cache between the two.
const BLOCK_BYTES: usize = 256 * 1024;

/// Is told each point of the grid that is passed for the first time.
pub(crate) type Passed<'a> = dyn FnMut(&Saved) + 'a;

pub(crate) struct Reading {
    pub(crate) source: Source,
    algorithm: Algorithm,
    running: Running,
    /// States to go back to, rising.
    saved: Vec<Saved>,
    /// How far the source was read at the most.
    read_to: u64,
    /// Bytes that were read.
    pub(crate) read_bytes: u64,
    /// Of these, bytes that had been read before.
    pub(crate) read_again_bytes: u64,
    /// Time that went into reading.
    pub(crate) disk: Duration,
    /// Time that went into the digest.
    pub(crate) hash: Duration,
}

impl Reading {
    pub(crate) fn new(source: Source, algorithm: Algorithm) -> Self {
        Self {
            source,
            algorithm,
            running: Running::new(algorithm),
            saved: Vec::new(),
            read_to: 0,
            read_bytes: 0,
            read_again_bytes: 0,
            disk: Duration::ZERO,
            hash: Duration::ZERO,
        }
    }

    /// Bytes that are in the digest.
    pub(crate) fn offset(&self) -> u64 {
        self.running.offset()
    }

    /// Of the bytes before the offset.
    pub(crate) fn digest(&self) -> Digest {
        self.running.digest()
    }

    /// Takes over what an earlier process noted. It had read up to here at the most.
    pub(crate) fn take_over(&mut self, saved: Vec<Saved>, read_to: u64) {
        self.saved = saved;
        self.read_to = read_to;
    }

    /// Begins again with nothing to go back to.
    pub(crate) fn start_over(&mut self) {
        self.saved.clear();
        self.running = Running::new(self.algorithm);
    }

    /// Nobody will go back to before this offset.
    pub(crate) fn forget_before(&mut self, at: u64) {
        self.source.forget_before(at);
        self.saved.retain(|saved| saved.offset() >= at);
    }

    /// Brings the digest to an offset, reading as little as possible.
    pub(crate) fn rewind(
        &mut self,
        at: u64,
        interrupt: &Interrupt,
        passed: &mut Passed<'_>,
    ) -> Result<(), Trouble> {
        if self.running.offset() == at {
            return Ok(());
        }
        let base = self
            .saved
            .iter()
            .rev()
            .filter(|saved| saved.offset() <= at)
            .find_map(|saved| Running::restore(saved).ok());
        self.running = base.unwrap_or_else(|| Running::new(self.algorithm));
        if !self.source.reaches_back_to(self.running.offset()) {
            let message = format!(
                "the server has lost what it had of {}, and a stream cannot be read again",
                shown(&self.source.path)
            );
            return Err(Failure::new(Class::Network, message).into());
        }
        let mut block = PageAligned::new(BLOCK_BYTES);
        while self.running.offset() < at {
            interrupt.check()?;
            let left = at.saturating_sub(self.running.offset());
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            match self.read(block.get_mut(..room).unwrap_or_default(), passed)? {
                Got::Bytes(_) | Got::Quiet => {}
                Got::End => return Err(self.source.changed().into()),
            }
        }
        Ok(())
    }

    /// Fills a part: as much as fits it, the window and the grid, or as much as a stream has now.
    pub(crate) fn fill(
        &mut self,
        part: &mut [u8],
        window: u64,
        passed: &mut Passed<'_>,
    ) -> Result<(usize, Got), Failure> {
        let is_stream = matches!(self.source.kind, Kind::Stream(_));
        let size = self.source.size();
        let limit = usize::try_from(window).unwrap_or(usize::MAX).min(part.len());
        let mut filled: usize = 0;
        while filled < limit {
            if size.is_some_and(|size| self.running.offset() >= size) {
                return Ok((filled, Got::End));
            }
            let left = size.map_or(u64::MAX, |size| size.saturating_sub(self.running.offset()));
            let end = filled
                .saturating_add(BLOCK_BYTES)
                .min(limit)
                .min(filled.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
            let got = self.read(part.get_mut(filled..end).unwrap_or_default(), passed)?;
            match got {
                Got::Bytes(count) => filled = filled.saturating_add(count),
                Got::Quiet | Got::End => return Ok((filled, got)),
            }
            if is_stream || self.running.offset().is_multiple_of(GRID_BYTES) {
                break;
            }
        }
        Ok((filled, Got::Bytes(filled)))
    }

    /// Reads the next bytes, not beyond the next point of the grid.
    fn read(&mut self, room: &mut [u8], passed: &mut Passed<'_>) -> Result<Got, Failure> {
        let at = self.running.offset();
        let to_grid = GRID_BYTES.saturating_sub(at % GRID_BYTES);
        let limit = usize::try_from(to_grid).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..limit).unwrap_or_default();
        let got = timed(&mut self.disk, || self.source.read_at(room, at))?;
        if let Got::Bytes(count) = got {
            let bytes = room.get(..count).unwrap_or_default();
            timed(&mut self.hash, || self.running.update(bytes));
            let end = self.running.offset();
            self.read_bytes = self.read_bytes.saturating_add(count as u64);
            let again = self.read_to.min(end).saturating_sub(at);
            self.read_again_bytes = self.read_again_bytes.saturating_add(again);
            self.read_to = self.read_to.max(end);
            if end.is_multiple_of(GRID_BYTES) {
                self.pass_grid(passed);
            }
        }
        Ok(got)
    }

    fn pass_grid(&mut self, passed: &mut Passed<'_>) {
        let Some(saved) = self.running.save() else { return };
        if self.saved.last().is_none_or(|last| last.offset() < saved.offset()) {
            passed(&saved);
            self.saved.push(saved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_reads_from_the_last_point_that_was_passed() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("a");
        let size = 2 * GRID_BYTES + 5;
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let mut reading = Reading::new(Source::open(&path).unwrap(), Algorithm::Sha256);
        let (mut points, interrupt) = (Vec::new(), Interrupt::default());
        reading.rewind(size, &interrupt, &mut |saved| points.push(saved.offset())).unwrap();
        assert_eq!(points, [GRID_BYTES, 2 * GRID_BYTES]);
        let whole = reading.digest();
        let mut nothing_new = |saved: &Saved| panic!("passed {} again", saved.offset());
        reading.rewind(GRID_BYTES + 1, &interrupt, &mut nothing_new).unwrap();
        reading.rewind(size, &interrupt, &mut nothing_new).unwrap();
        assert_eq!(reading.digest(), whole);
        assert_eq!(reading.read_bytes, size + 1 + 5);
        assert_eq!(reading.read_again_bytes, 1 + 5);
    }
}
