//! A digest that is computed while bytes pass, and whose state can be put away and taken up again.

use blake3::hazmat::{self, HasherExt};
use data_encoding::BASE64;
use ftx_protocol::limits::{GRID_BYTES, INTEGER_MAX};
use ftx_protocol::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::digest::{FixedOutput, Update};
use thiserror::Error;

/// A running digest of a file that is read from front to back.
#[derive(Debug, Clone)]
pub struct Running {
    offset: u64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Blake3(Subtrees),
}

/// The state of a [`Running`] as text, for journals and state files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    algorithm: Algorithm,
    offset: u64,
    state: String,
}

/// What was read is not the state of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not the state of a digest")]
pub struct BadState;

impl Running {
    /// A digest of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::default()),
            Algorithm::Blake3 => State::Blake3(Subtrees::new()),
        };
        Self { offset: 0, state }
    }

    /// The kind.
    pub fn algorithm(&self) -> Algorithm {
        match self.state {
            State::Sha256(_) => Algorithm::Sha256,
            State::Blake3(_) => Algorithm::Blake3,
        }
    }

    /// How many bytes have passed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Blake3(subtrees) => subtrees.update(bytes, self.offset),
        }
        self.offset = self.offset.saturating_add(bytes.len() as u64);
    }

    /// The digest of what has passed. More may follow.
    pub fn digest(&self) -> Digest {
        let bytes = match &self.state {
            State::Sha256(hasher) => hasher.clone().finalize_fixed().0,
            State::Blake3(subtrees) => subtrees.digest(),
        };
        Digest { algorithm: self.algorithm(), bytes }
    }

    /// The state, to go on later. A BLAKE3 state can be put away only at multiples of
    /// [`GRID_BYTES`], where all of it is in the values of whole subtrees; a SHA-256 state
    /// everywhere.
    pub fn save(&self) -> Option<Saved> {
        let bytes = match &self.state {
            State::Sha256(hasher) => hasher.serialize().to_vec(),
            State::Blake3(subtrees) if self.offset.is_multiple_of(GRID_BYTES) => subtrees.save(),
            State::Blake3(_) => return None,
        };
        let state = BASE64.encode(&bytes);
        Some(Saved { algorithm: self.algorithm(), offset: self.offset, state })
    }

    /// Goes on from a state that was put away.
    ///
    /// # Errors
    /// When the text is no state, one of another offset than it says, or one that no file is long
    /// enough for: SHA-256 counts bits, and what comes behind it must not be more than it can count.
    pub fn restore(saved: &Saved) -> Result<Self, BadState> {
        if saved.offset > INTEGER_MAX {
            return Err(BadState);
        }
        let bytes = BASE64.decode(saved.state.as_bytes()).map_err(|_| BadState)?;
        let state = match saved.algorithm {
            Algorithm::Sha256 => State::Sha256(restore_sha256(&bytes, saved.offset)?),
            Algorithm::Blake3 => State::Blake3(Subtrees::restore(&bytes, saved.offset)?),
        };
        Ok(Self { offset: saved.offset, state })
    }
}

impl Saved {
    /// How many bytes had passed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The kind.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn restore_sha256(bytes: &[u8], offset: u64) -> Result<Sha256, BadState> {
    const BLOCK_BYTES: u64 = 64;
    // Eight words, the number of blocks (8 bytes), and the block that is not full with its length
    // in its first byte. The number of blocks and that length together are the offset.
    let blocks = bytes.get(32..40).and_then(|count| count.try_into().ok()).map(u64::from_le_bytes);
    let pending = bytes.get(40).copied().map(u64::from);
    let (Some(blocks), Some(pending)) = (blocks, pending) else { return Err(BadState) };
    if blocks.checked_mul(BLOCK_BYTES).and_then(|whole| whole.checked_add(pending)) != Some(offset)
    {
        return Err(BadState);
    }
    let state = SerializedState::<Sha256>::try_from(bytes).map_err(|_| BadState)?;
    Sha256::deserialize(&state).map_err(|_| BadState)
}

/// BLAKE3 as a tree over subtrees of [`GRID_BYTES`] (section 2.1 of the BLAKE3 paper). A subtree
/// is merged with its left neighbour only when there is input behind it: the last one hangs
/// directly below the root.
#[derive(Debug, Clone)]
struct Subtrees {
    /// Values of merged subtrees, largest first: one for each binary digit of `merged`.
    stack: Vec<hazmat::ChainingValue>,
    /// How many subtrees are in the stack.
    merged: u64,
    last: Last,
}

/// The subtree that has nothing behind it yet.
#[derive(Debug, Clone)]
enum Last {
    Filling { hasher: Box<blake3::Hasher>, bytes: u64 },
    Full { value: hazmat::ChainingValue, alone: Alone },
}

/// What the digest is if the last subtree is also the first: its own root.
#[derive(Debug, Clone, Copy)]
enum Alone {
    Root([u8; 32]),
    /// There are others before it.
    No,
}

impl Subtrees {
    fn new() -> Self {
        let hasher = Box::new(blake3::Hasher::new());
        Self { stack: Vec::new(), merged: 0, last: Last::Filling { hasher, bytes: 0 } }
    }

    fn update(&mut self, mut input: &[u8], mut offset: u64) {
        while !input.is_empty() {
            if let Last::Full { value, .. } = self.last {
                self.merge(value);
                let mut hasher = Box::new(blake3::Hasher::new());
                hasher.set_input_offset(offset);
                self.last = Last::Filling { hasher, bytes: 0 };
            }
            let Last::Filling { hasher, bytes } = &mut self.last else { return };
            let room = usize::try_from(GRID_BYTES.saturating_sub(*bytes)).unwrap_or(usize::MAX);
            let (now, later) = input.split_at(room.min(input.len()));
            blake3::Hasher::update(hasher, now);
            *bytes = bytes.saturating_add(now.len() as u64);
            if *bytes == GRID_BYTES {
                let alone = match self.merged {
                    0 => Alone::Root(*hasher.finalize().as_bytes()),
                    _ => Alone::No,
                };
                self.last = Last::Full { value: hasher.finalize_non_root(), alone };
            }
            offset = offset.saturating_add(now.len() as u64);
            input = later;
        }
    }

    /// Adds a whole subtree to the stack, as a one is added to a binary number.
    fn merge(&mut self, value: hazmat::ChainingValue) {
        let mut value = value;
        let mut digits = self.merged;
        while digits & 1 == 1 {
            let Some(left) = self.stack.pop() else { break };
            value = hazmat::merge_subtrees_non_root(&left, &value, hazmat::Mode::Hash);
            digits >>= 1;
        }
        self.stack.push(value);
        self.merged = self.merged.saturating_add(1);
    }

    fn digest(&self) -> [u8; 32] {
        let (mut right, alone) = match &self.last {
            Last::Full { value, alone } => (*value, *alone),
            Last::Filling { hasher, .. } if self.stack.is_empty() => {
                (Default::default(), Alone::Root(*hasher.finalize().as_bytes()))
            }
            Last::Filling { hasher, .. } => (hasher.finalize_non_root(), Alone::No),
        };
        if let Alone::Root(root) = alone {
            return root;
        }
        let mut lefts = self.stack.iter().rev().peekable();
        while let Some(left) = lefts.next() {
            if lefts.peek().is_none() {
                return *hazmat::merge_subtrees_root(left, &right, hazmat::Mode::Hash).as_bytes();
            }
            right = hazmat::merge_subtrees_non_root(left, &right, hazmat::Mode::Hash);
        }
        right
    }

    /// The values in the stack, that of the last subtree, and its root where it is alone. Nothing
    /// of nothing.
    fn save(&self) -> Vec<u8> {
        let mut saved = self.stack.concat();
        if let Last::Full { value, alone } = &self.last {
            saved.extend_from_slice(value);
            if let Alone::Root(root) = alone {
                saved.extend_from_slice(root);
            }
        }
        saved
    }

    fn restore(saved: &[u8], offset: u64) -> Result<Self, BadState> {
        if !offset.is_multiple_of(GRID_BYTES) {
            return Err(BadState);
        }
        let (values, rest) = saved.as_chunks::<32>();
        let mut values = values.to_vec();
        if !rest.is_empty() {
            return Err(BadState);
        }
        let Some(merged) = (offset / GRID_BYTES).checked_sub(1) else {
            return if values.is_empty() { Ok(Self::new()) } else { Err(BadState) };
        };
        let alone = match merged {
            0 => Alone::Root(values.pop().ok_or(BadState)?),
            _ => Alone::No,
        };
        let value = values.pop().ok_or(BadState)?;
        if values.len() as u64 != u64::from(merged.count_ones()) {
            return Err(BadState);
        }
        Ok(Self { stack: values, merged, last: Last::Full { value, alone } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around every border that the tree has.
    const LENGTHS: [u64; 11] = [
        0,
        1,
        1_024,
        GRID_BYTES - 1,
        GRID_BYTES,
        GRID_BYTES + 1,
        2 * GRID_BYTES,
        3 * GRID_BYTES,
        3 * GRID_BYTES + 5,
        4 * GRID_BYTES,
        5 * GRID_BYTES + 77,
    ];

    fn input(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn plain(algorithm: Algorithm, bytes: &[u8]) -> [u8; 32] {
        match algorithm {
            Algorithm::Sha256 => <Sha256 as sha2::Digest>::digest(bytes).0,
            Algorithm::Blake3 => *blake3::hash(bytes).as_bytes(),
        }
    }

    #[test]
    fn any_split_and_any_save_gives_the_digest_of_one_go() {
        let longest = input(*LENGTHS.last().unwrap());
        for algorithm in Algorithm::ALL {
            for length in LENGTHS {
                let bytes = &longest[..length as usize];
                let expected = plain(algorithm, bytes);
                for step in [1_000_003, GRID_BYTES as usize, 3 * GRID_BYTES as usize] {
                    let mut running = Running::new(algorithm);
                    for piece in bytes.chunks(step) {
                        running.update(piece);
                        if let Some(saved) = running.save() {
                            let text = serde_json::to_string(&saved).unwrap();
                            running =
                                Running::restore(&serde_json::from_str(&text).unwrap()).unwrap();
                        }
                    }
                    assert_eq!(running.offset(), length);
                    assert_eq!(running.digest().bytes, expected, "{algorithm} {length} by {step}");
                }
            }
        }
    }

    #[test]
    fn a_state_at_any_offset_can_be_saved_for_sha256_and_on_the_grid_for_blake3() {
        let bytes = input(GRID_BYTES + 300);
        for algorithm in Algorithm::ALL {
            let mut running = Running::new(algorithm);
            assert!(running.save().is_some(), "of nothing");
            running.update(&bytes[..77]);
            assert_eq!(running.save().is_some(), algorithm == Algorithm::Sha256);
            running.update(&bytes[77..GRID_BYTES as usize]);
            assert!(running.save().is_some());
        }
    }

    #[test]
    fn a_state_of_more_bytes_than_a_file_can_have_is_no_state() {
        let mut state = Sha256::default().serialize().to_vec();
        let blocks: u64 = 1 << 57;
        state[32..40].copy_from_slice(&blocks.to_le_bytes());
        let state = BASE64.encode(&state);
        let saved = Saved { algorithm: Algorithm::Sha256, offset: blocks * 64, state };
        assert_eq!(Running::restore(&saved).err(), Some(BadState));
    }

    #[test]
    fn a_damaged_state_is_an_error_and_not_another_digest() {
        for algorithm in Algorithm::ALL {
            for length in [0, GRID_BYTES, 3 * GRID_BYTES] {
                let mut running = Running::new(algorithm);
                running.update(&input(length));
                let good = running.save().unwrap();
                let state = BASE64.decode(good.state.as_bytes()).unwrap();
                let mut longer = state.clone();
                longer.push(0);
                for (offset, state) in [
                    (length + 1, state.clone()),
                    (length + GRID_BYTES, state.clone()),
                    (length, longer),
                    (length, state.get(1..).unwrap_or_default().to_vec()),
                    (u64::MAX, state.clone()),
                ] {
                    if offset == length && state.is_empty() {
                        continue; // of nothing, there is no shorter state
                    }
                    // Two more subtrees may have as many binary digits: then only the offset lies.
                    let saved = Saved { algorithm, offset, state: BASE64.encode(&state) };
                    if let Ok(restored) = Running::restore(&saved) {
                        assert_ne!(restored.digest(), running.digest());
                        assert_ne!(offset, length);
                    }
                }
            }
        }
    }
}
