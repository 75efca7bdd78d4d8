//! Lines: where one ends, what message it holds, and what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::asked::{Asked, Verb};
use crate::digest::Algorithm;
use crate::error::{Code, Refusal};
use crate::escape::Escaped;
use crate::ids::RequestId;
use crate::limits::{LINE_BYTES, NEED_WORDS};
use crate::message::{ClientMessage, FTX_VERSION, Hello, ServerMessage};
use crate::name::BAD_NAME_MARK;
use crate::strict;
use crate::token::TOKEN_PREFIX;

/// Collects a line that arrives in pieces. Holds nothing while lines arrive whole, less than the
/// longest line otherwise, and looks at no byte twice.
#[derive(Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
}

impl fmt::Debug for LineBuffer {
    /// Without the bytes: half a `hello` may have most of a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineBuffer({} bytes)", self.partial.len())
    }
}

/// What [`LineBuffer::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// A whole line, without its `\n`; so many bytes of the input belong to it.
    Line(Cow<'a, [u8]>, usize),
    /// No end yet: all of the input was kept.
    Partial,
    /// No end within the longest line.
    TooLong,
}

impl LineBuffer {
    /// Takes the next line, or what there is of it, from the front of `input`.
    pub fn take<'a>(&mut self, input: &'a [u8]) -> Taken<'a> {
        self.take_within(LINE_BYTES, input)
    }

    /// As [`LineBuffer::take`], of a line that has at most so many bytes with its `\n`.
    pub fn take_within<'a>(&mut self, line_bytes: usize, input: &'a [u8]) -> Taken<'a> {
        let room = line_bytes.saturating_sub(self.partial.len());
        let end = memchr::memchr(b'\n', input.get(..room).unwrap_or(input));
        match end {
            Some(end) => {
                let (line, _) = input.split_at(end);
                let used = end.saturating_add(1);
                if self.partial.is_empty() {
                    return Taken::Line(line.into(), used);
                }
                // Taken, not cleared: an idle connection owns no buffer.
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                Taken::Line(whole.into(), used)
            }
            None if input.len() >= room => {
                self.partial = Vec::new();
                Taken::TooLong
            }
            None => {
                self.partial.extend_from_slice(input);
                Taken::Partial
            }
        }
    }

    /// Bytes of an unfinished line.
    pub fn held_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Forgets an unfinished line.
    pub fn clear(&mut self) {
        self.partial = Vec::new();
    }
}

/// Appends the message and its `\n`.
pub fn write<M: Serialize>(message: &M, out: &mut Vec<u8>) {
    let start = out.len();
    match serde_json::to_writer(&mut *out, message) {
        Ok(()) => out.push(b'\n'),
        // Only a map with keys that are no strings can fail, and no message has one.
        Err(error) => {
            debug_assert!(false, "a message cannot be written: {error}");
            out.truncate(start);
        }
    }
}

/// A line that is not a message which can be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineError {
    /// The request is refused, and what it asks for; the connection lives on.
    Refused(RequestId, Asked, Refusal),
    /// The connection is over.
    Fatal(Refusal),
}

/// Reads a line from a client.
///
/// # Errors
/// [`LineError::Refused`] for a request of an unknown kind, with an unknown word in `need`, a bad
/// name or an unknown digest; [`LineError::Fatal`] for everything that is no message.
pub fn read_client(line: &[u8]) -> Result<ClientMessage, LineError> {
    strict::check(line).map_err(|error| LineError::Fatal(bad_message(line, &error)))?;
    let message: ClientMessage = match serde_json::from_slice(line) {
        Ok(message) => message,
        Err(error) => {
            let hello = foreign_hello(line).map(ClientMessage::Hello);
            return hello.ok_or_else(|| classify(line, &error));
        }
    };
    let need = match &message {
        ClientMessage::Put(put) => Some((put.id, &put.need)),
        ClientMessage::Get(get) => Some((get.id, &get.need)),
        ClientMessage::Resume(resume) => Some((resume.id, &resume.need)),
        ClientMessage::Stat(stat) => Some((stat.id, &stat.need)),
        ClientMessage::List(list) => Some((list.id, &list.need)),
        ClientMessage::Ping(ping) => Some((ping.id, &ping.need)),
        ClientMessage::Mkdir(mkdir) => Some((mkdir.id, &mkdir.need)),
        ClientMessage::Move(moving) => Some((moving.id, &moving.need)),
        ClientMessage::Remove(remove) => Some((remove.id, &remove.need)),
        _ => None,
    };
    match need {
        Some((id, words)) if !words.is_empty() => {
            Err(LineError::Refused(id, Asked::of(&message), unknown_need(words)))
        }
        _ => Ok(message),
    }
}

/// Reads a line from a server. `None` is a kind of message that this crate does not know, which a
/// client passes over.
///
/// # Errors
/// A fatal [`Refusal`]: the server does not speak the protocol.
pub fn read_server(line: &[u8]) -> Result<Option<ServerMessage>, Refusal> {
    const KINDS: [&str; 13] = [
        "welcome", "kept", "done", "file", "data", "end", "held", "info", "entries", "ok", "pong",
        "alive", "error",
    ];
    let fatal = |error: &dyn fmt::Display| bad_message(line, error);
    strict::check(line).map_err(|error| fatal(&error))?;
    match serde_json::from_slice::<ServerMessage>(line) {
        Ok(message) => Ok(Some(message)),
        Err(error) => match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(object))
                if object.len() == 1 && object.keys().all(|key| !KINDS.contains(&key.as_str())) =>
            {
                Ok(None)
            }
            _ => Err(fatal(&error)),
        },
    }
}

/// A `hello` of another version than this one: what else is in it is of that version, and not read.
fn foreign_hello(line: &[u8]) -> Option<Hello> {
    #[derive(Deserialize)]
    enum Greeting {
        #[serde(rename = "hello")]
        Hello { ftx: u64 },
    }
    let Greeting::Hello { ftx } = serde_json::from_slice(line).ok()?;
    (ftx != FTX_VERSION).then(|| Hello { ftx, agent: String::new(), token: None })
}

/// Finds out why a line that is sound JSON is no message of a client. Slow, and only for errors.
fn classify(line: &[u8], error: &serde_json::Error) -> LineError {
    let fatal = || LineError::Fatal(bad_message(line, error));
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line) else {
        return fatal();
    };
    let mut members = object.iter();
    let (Some((kind, Value::Object(body))), None) = (members.next(), members.next()) else {
        return fatal();
    };
    let Some(id) = body.get("id").and_then(Value::as_u64).map(RequestId) else {
        return fatal();
    };
    if matches!(kind.as_str(), "hello" | "data" | "end" | "abort" | "more") {
        return fatal();
    }
    let asked = Asked::read(kind, body);
    let verb = asked.verb;
    let refused = |refusal| LineError::Refused(id, asked, refusal);
    if let Some(Value::Array(words)) = body.get("need")
        && !words.is_empty()
    {
        let words: Option<Vec<String>> =
            words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
        return words.map_or_else(fatal, |words| refused(unknown_need(&words)));
    }
    if verb == Verb::Unknown {
        let message = format!("no request is called \"{}\"", Escaped(kind.as_bytes()));
        return refused(Refusal::new(Code::UnknownRequest, message));
    }
    let text = error.to_string();
    if let Some((_, rule)) = text.split_once(BAD_NAME_MARK) {
        let rule = rule.split(" at line ").next().unwrap_or(rule);
        return refused(Refusal::new(Code::BadName, rule));
    }
    if let Some(Value::String(word)) = body.get("digest")
        && !Algorithm::ALL.iter().any(|known| known.as_str() == word)
    {
        return refused(Code::UnsupportedDigest.into());
    }
    fatal()
}

fn unknown_need(words: &[String]) -> Refusal {
    let shown: Vec<String> =
        words.iter().take(NEED_WORDS).map(|word| Escaped(word.as_bytes()).to_string()).collect();
    let message = format!("this server does not know {}", shown.join(", "));
    Refusal::new(Code::UnknownNeed, message)
}

fn bad_message(line: &[u8], error: &dyn fmt::Display) -> Refusal {
    const SHOWN_BYTES: usize = 80;
    // What is meant for a token, and is none, may be one but for a typing error.
    let secrets = ["\"token\"", TOKEN_PREFIX].map(|mark| memmem::find(line, mark.as_bytes()));
    let shown_bytes = secrets.into_iter().flatten().fold(SHOWN_BYTES, usize::min);
    let (shown, more) = match line.split_at_checked(shown_bytes) {
        Some((shown, _)) => (shown, "…"),
        None => (line, ""),
    };
    let error = error.to_string();
    let message = format!("{} in {}{more}", Escaped(error.as_bytes()), Escaped(shown));
    Refusal::new(Code::BadMessage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> Result<(), (Option<u64>, Code)> {
        match read_client(line.as_bytes()) {
            Ok(_) => Ok(()),
            Err(LineError::Refused(id, _, refusal)) => Err((Some(id.0), refusal.code)),
            Err(LineError::Fatal(refusal)) => Err((None, refusal.code)),
        }
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        for line in [
            "",
            "\r",
            "hello",
            "[]",
            "{}",
            "null",
            "{\"ping\":{\"id\":1}} x",
            "{\"ping\":{\"id\":1},\"stat\":{\"id\":2,\"name\":\"a\"}}",
            "{\"ping\":{\"id\":1,\"id\":2}}",
            "{\"ping\":{\"id\":1,\"x\":{\"y\":1,\"y\":1}}}",
            "{\"ping\":{\"id\":\"1\"}}",
            "{\"ping\":{\"id\":-1}}",
            "{\"ping\":{\"id\":1.0}}",
            "{\"ping\":{\"id\":1e3}}",
            "{\"ping\":{\"id\":9007199254740992}}",
            "{\"ping\":{\"id\":18446744073709551616}}",
            "{\"ping\":{\"id\":1,\"x\":-9007199254740992}}",
            "{\"ping\":{}}",
            "{\"ping\":[1]}",
            "{\"ping\":{\"id\":1},\"ping\":{\"id\":2}}",
            "{\"data\":{\"id\":1,\"at\":0}}",
            "{\"dat\u{0}a\":{}}",
            "{\"put\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"transfer\":\"00\"}}",
        ] {
            assert_eq!(code(line), Err((None, Code::BadMessage)), "{line:?}");
        }
        assert_eq!(code(&"[".repeat(5_000)), Err((None, Code::BadMessage)));
        assert_eq!(
            read_client(b"{\"ping\":{\"id\":1,\"x\":\"\xff\"}}").map(drop).map_err(|error| {
                matches!(error, LineError::Fatal(refusal) if refusal.code == Code::BadMessage)
            }),
            Err(true)
        );
    }

    /// A derived reader takes an object of the word and nothing for the word.
    #[test]
    fn a_word_is_a_string_and_nothing_else() {
        const PUT: &str = r#""put":{"id":1,"name":"a","digest":"sha256","transfer":"00112233445566778899aabbccddeeff""#;
        let client = |field: &str| code(&format!("{{{field}}}}}"));
        let server =
            |line: &str| read_server(line.as_bytes()).map(drop).map_err(|error| error.code);
        for word in [r#"{"WORD":null}"#, r#"["WORD"]"#, "0", "true"] {
            for (field, known) in [
                (r#""get":{"id":1,"name":"a","digest":WORD"#, "sha256"),
                (r#""stat":{"id":1,"name":"a","digest":WORD"#, "blake3"),
                (r#""stat":{"id":1,"name":"a","cache":WORD"#, "bypass"),
                (r#"PUT,"if":WORD"#, "absent"),
                (r#"PUT,"if":WORD"#, "always"),
                (r#"PUT,"durability":WORD"#, "none"),
                (r#""list":{"id":1,"depth":WORD"#, "all"),
                (r#""mkdir":{"id":1,"name":"a","parents":WORD"#, "make"),
                (r#""abort":{"id":1,"code":WORD"#, "changed"),
            ] {
                let field = field.replace("PUT", PUT);
                let written = |word: &str| field.replace("WORD", &word.replace("WORD", known));
                assert_eq!(client(&written("\"WORD\"")), Ok(()), "{field}");
                assert_eq!(client(&written(word)), Err((None, Code::BadMessage)), "{field} {word}");
            }
            for (line, known) in [
                (r#"{"error":{"code":WORD}}"#, "busy"),
                (r#"{"held":{"id":1,"state":WORD,"ranges":[]}}"#, "nothing"),
                (r#"{"info":{"id":1,"kind":WORD,"size":0,"mtime":[0,0],"mode":0}}"#, "directory"),
                (r#"{"ok":{"id":1,"durability":WORD}}"#, "full"),
                (
                    r#"{"done":{"id":1,"size":0,"digest":"DIGEST","durability":"full","replayed":WORD}}"#,
                    "same",
                ),
            ] {
                let line = line.replace("DIGEST", &format!("sha256:{}", "00".repeat(32)));
                let written = |word: &str| line.replace("WORD", &word.replace("WORD", known));
                assert_eq!(server(&written("\"WORD\"")), Ok(()), "{line}");
                assert_eq!(server(&written(word)), Err(Code::BadMessage), "{line} {word}");
            }
        }
        for holds in ["{}", r#"{"version":1}"#, r#"{"version":"v","x":1}"#, r#"{"x":"v"}"#] {
            assert_eq!(client(&format!("{PUT},\"if\":{holds}")), Err((None, Code::BadMessage)));
        }
        assert_eq!(client(&format!(r#"{PUT},"if":{{"version":"v"}}"#)), Ok(()));
    }

    #[test]
    fn what_is_only_not_known_or_not_allowed_is_refused_by_its_id() {
        for (line, expected) in [
            (r#"{"fly":{"id":7}}"#, Code::UnknownRequest),
            (r#"{"stat":{"id":7,"name":"a","need":["x"]}}"#, Code::UnknownNeed),
            (r#"{"fly":{"id":7,"need":["x"]}}"#, Code::UnknownNeed),
            (r#"{"stat":{"id":7,"name":"a","need":[1]}}"#, Code::BadMessage),
            (r#"{"stat":{"id":7,"name":"../a","need":["x",null]}}"#, Code::BadMessage),
            (r#"{"fly":{"id":7,"need":[["x"]]}}"#, Code::BadMessage),
            (r#"{"stat":{"id":7,"name":"../a","need":["x"]}}"#, Code::UnknownNeed),
            (r#"{"stat":{"id":7,"name":"../a"}}"#, Code::BadName),
            (r#"{"stat":{"id":7,"name":{"b64":"YQ"}}}"#, Code::BadMessage),
            (r#"{"get":{"id":7,"name":"a","digest":"md5"}}"#, Code::UnsupportedDigest),
        ] {
            let id = (expected != Code::BadMessage).then_some(7);
            assert_eq!(code(line), Err((id, expected)), "{line}");
        }
        assert_eq!(code(r#"{"stat":{"id":7,"name":"a","later":[1,{"x":null}]}}"#), Ok(()));
    }

    /// Its version is all that is known of it: whoever speaks another one is told so, and not of its types.
    #[test]
    fn a_hello_of_another_version_is_read_as_far_as_that() {
        for rest in ["\"agent\":2,\"token\":[]", "\"token\":\"ftx2_x\"", "\"agent\":\"x\""] {
            let read = |version| {
                read_client(format!("{{\"hello\":{{\"ftx\":{version},{rest}}}}}").as_bytes())
            };
            assert!(matches!(read(2), Ok(ClientMessage::Hello(Hello { ftx: 2, token: None, .. }))));
        }
        assert_eq!(code(r#"{"hello":{"ftx":1,"agent":2}}"#), Err((None, Code::BadMessage)));
        assert_eq!(code(r#"{"hello":{"ftx":2,"ftx":1}}"#), Err((None, Code::BadMessage)));
    }

    #[test]
    fn a_line_is_the_same_however_it_is_cut() {
        let input = b"{\"ping\":{\"id\":1}}\nrest";
        for cut in 0..18 {
            let mut buffer = LineBuffer::default();
            let (head, tail) = input.split_at(cut);
            assert_eq!(buffer.take(head), Taken::Partial);
            assert_eq!(
                buffer.take(tail),
                Taken::Line(b"{\"ping\":{\"id\":1}}"[..].into(), 18 - cut)
            );
            assert_eq!(buffer.held_bytes(), 0);
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up_at_the_limit() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.take(&vec![b'a'; LINE_BYTES - 1]), Taken::Partial);
        assert_eq!(buffer.take(b"\n"), Taken::Line(vec![b'a'; LINE_BYTES - 1].into(), 1));
        assert_eq!(buffer.take(&vec![b'a'; LINE_BYTES - 1]), Taken::Partial);
        assert_eq!(buffer.take(b"a"), Taken::TooLong);
        assert_eq!(buffer.held_bytes(), 0);
    }

    #[test]
    fn a_message_from_a_newer_server_is_passed_over_and_an_unknown_code_is_kept() {
        assert_eq!(read_server(br#"{"news":{"id":1}}"#), Ok(None));
        assert!(read_server(br#"{"pong":{}}"#).is_err());
        let Ok(Some(ServerMessage::Error(error))) =
            read_server(br#"{"error":{"id":1,"code":"no_such_code_yet"}}"#)
        else {
            panic!("an error");
        };
        assert_eq!(error.code, Code::Unknown);
    }
}
