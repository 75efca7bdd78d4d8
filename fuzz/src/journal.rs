//! The journal of a store.

use ftx_disk::store::JournalText;

/// Lines of a journal. One that begins with `=` gets the checksum that it needs, which no fuzzer would find.
/// Only whole records count, up to the first that is not; written anew, they say the same.
pub fn journal(text: &[u8]) {
    let bytes = with_checksums(text);
    let (records, whole_bytes) = whole(&bytes);
    let Ok(read) = JournalText::read(&bytes) else {
        assert!(records > 0, "only a whole record can be one that is not understood");
        return;
    };
    assert_eq!((read.records, read.whole_bytes), (records, whole_bytes));
    let again = JournalText::read(&read.anew).unwrap();
    assert_eq!(again.whole_bytes, read.anew.len() as u64);
    assert_eq!(sorted(&again.anew), sorted(&read.anew));
    // A crash may end it anywhere.
    let cut = &bytes[..bytes.len() / 2];
    let (records, whole_bytes) = whole(cut);
    let read = JournalText::read(cut).unwrap();
    assert_eq!((read.records, read.whole_bytes), (records, whole_bytes));
}

fn with_checksums(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_prefix(b"=") {
            Some(line) => {
                let json = line.strip_suffix(b"\n").unwrap_or(line);
                bytes.extend_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
                bytes.extend_from_slice(line);
            }
            None => bytes.extend_from_slice(line),
        }
    }
    bytes
}

/// How many lines from the first on are whole, and their bytes.
fn whole(bytes: &[u8]) -> (usize, u64) {
    let is_whole = |line: &&[u8]| {
        let Some((sum, json)) = line.strip_suffix(b"\n").and_then(|line| line.split_at_checked(9))
        else {
            return false;
        };
        sum == format!("{:08x} ", crc32fast::hash(json)).as_bytes()
    };
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').take_while(is_whole);
    lines.fold((0, 0), |(count, size), line| (count + 1, size + line.len() as u64))
}

/// Transfers have no order among each other.
fn sorted(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = bytes.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines
}
