//! Memory that the content of files is read into.

use std::ops::{Deref, DerefMut, Range};

/// The smallest page. Only these low bits of an address matter, however large the pages of a system are.
const PAGE_BYTES: usize = 4096;

/// Bytes that begin at a page, as those of a file do in the cache of the kernel.
///
/// A large allocation of glibc begins 16 bytes behind a page. 1 to 31 bytes behind the place of what is copied, some processors
/// (Zen 3 among them) copy three times slower: `rep movsb`, which the kernel copies with, takes each byte that it reads for one
/// that it has just written. So it helps where the offset in the file is a multiple of a page, too.
#[derive(Debug, Default)]
pub struct PageAligned {
    memory: Box<[u8]>,
    /// Where in it they are.
    range: Range<usize>,
}

impl PageAligned {
    /// So many zeros. Where they are many, no memory is used for them before they are touched.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes.saturating_add(PAGE_BYTES)].into_boxed_slice();
        // Where it cannot be told (its contract allows that), they begin anywhere: slower, and as good.
        let begin = Some(memory.as_ptr().align_offset(PAGE_BYTES)).filter(|gap| *gap < PAGE_BYTES);
        let begin = begin.unwrap_or_default();
        Self { memory, range: begin..begin.saturating_add(bytes) }
    }
}

impl Deref for PageAligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.range.clone()).unwrap_or_default()
    }
}

impl DerefMut for PageAligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_is_as_long_as_was_asked_for() {
        for bytes in [0, 1, 4095, 4096, 4097, 256 * 1024, 1024 * 1024] {
            let mut buffer = PageAligned::new(bytes);
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE_BYTES), "{bytes}");
            buffer.fill(1);
            assert!(buffer.iter().all(|byte| *byte == 1));
        }
    }
}
