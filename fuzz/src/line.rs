//! Lines and messages, of both directions.

use std::fmt::Debug;

use ftx_protocol::limits::{LINE_BYTES, NAME_BYTES, TEXT_BYTES};
use ftx_protocol::line::{self, LineBuffer, LineError, Taken};
use ftx_protocol::{Code, Refusal};
use serde_json::Value;

/// Lines, cut anywhere, are the same lines. What is taken for a message is JSON, and says the same when
/// it is written again; what is not is told in a line that can be shown.
pub fn line(bytes: &[u8]) {
    let whole = lines(&mut std::iter::once(bytes));
    // A prime, so that the cuts wander through the lines.
    let step = bytes.first().map_or(1, |&first| usize::from(first) * 31 + 1);
    assert_eq!(whole, lines(&mut bytes.chunks(step)));
    // What is behind the last line is none. It is looked at all the same, so that an input may be one message.
    let rest = bytes.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    for line in whole.iter().map(Vec::as_slice).chain([rest]) {
        check(line);
    }
}

fn lines(pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<Vec<u8>> {
    let mut buffer = LineBuffer::default();
    let mut found = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            match buffer.take(piece) {
                Taken::Line(line, used) => {
                    assert!((1..=piece.len()).contains(&used));
                    assert!(line.len() < LINE_BYTES);
                    found.push(line.into_owned());
                    piece = &piece[used..];
                }
                Taken::Partial => piece = &[],
                Taken::TooLong => return found,
            }
            assert!(buffer.held_bytes() < LINE_BYTES);
        }
    }
    found
}

fn check(line: &[u8]) {
    match line::read_client(line) {
        Ok(message) => same_again(line, &message, |line| line::read_client(line).ok()),
        Err(LineError::Refused(_, asked, refusal)) => {
            for called in [asked.name, asked.to].into_iter().flatten() {
                let shown = called.to_string();
                // Each byte is shown in four at most; and that there is more.
                assert!(shown.len() <= NAME_BYTES * 4 + '…'.len_utf8());
                assert!(!shown.contains(char::is_control), "{shown:?}");
            }
            assert!(serde_json::from_slice::<Value>(line).is_ok());
            can_be_shown(&refusal);
        }
        Err(LineError::Fatal(refusal)) => {
            assert_eq!(refusal.code, Code::BadMessage);
            can_be_shown(&refusal);
        }
    }
    match line::read_server(line) {
        Ok(Some(message)) => same_again(line, &message, |line| line::read_server(line).ok()?),
        Ok(None) => assert!(serde_json::from_slice::<Value>(line).is_ok()),
        Err(refusal) => can_be_shown(&refusal),
    }
}

fn same_again<M: serde::Serialize + PartialEq + Debug>(
    line: &[u8],
    message: &M,
    read: impl Fn(&[u8]) -> Option<M>,
) {
    let Ok(Value::Object(object)) = serde_json::from_slice(line) else {
        panic!("a message that is no object");
    };
    assert_eq!(object.len(), 1);
    let mut written = Vec::new();
    line::write(message, &mut written);
    let end = written.pop();
    assert_eq!(end, Some(b'\n'));
    assert!(!written.contains(&b'\n'));
    assert_eq!(read(&written).as_ref(), Some(message));
}

fn can_be_shown(refusal: &Refusal) {
    assert!(refusal.message.len() <= TEXT_BYTES);
    assert!(!refusal.message.contains(char::is_control), "{:?}", refusal.message);
}
