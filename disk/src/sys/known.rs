//! Names that were read together.

/// The names of one directory, one behind the other: far less than as many allocations.
#[derive(Debug, Default)]
pub struct KnownNames {
    /// Each with a NUL behind it, which is in no name.
    bytes: Vec<u8>,
    at: usize,
}

impl KnownNames {
    pub(super) fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }

    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl<N: AsRef<[u8]>> FromIterator<N> for KnownNames {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        let mut known = Self::default();
        names.into_iter().for_each(|name| known.push(name.as_ref()));
        known
    }
}

impl Iterator for KnownNames {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let name = self.bytes.get(self.at..)?.split(|byte| *byte == 0).next()?;
        if name.is_empty() {
            return None;
        }
        self.at = self.at.saturating_add(name.len()).saturating_add(1);
        Some(name.to_vec())
    }
}
