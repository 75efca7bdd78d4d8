//! What may be typed at the prompt, offered at the tabulator key.

use std::ops::ControlFlow;

use ftx_client::{Depth, Kind};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

use super::{COMMANDS, TAKES_PATHS, There};

/// Names that are offered at once; a directory may have a million.
const OFFERED_MAX: usize = 256;

/// What fits where a word is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Directory,
}

/// Completes names: on the server, and here for the words that are about files here.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub(super) struct Names {
    pub(super) there: There,
    pub(super) here: FilenameCompleter,
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..position).unwrap_or(line);
        let (begin, word) = last_word(before);
        let mut words = before.get(..begin).unwrap_or_default().split_whitespace();
        let Some(command) = words.next() else {
            let fits = COMMANDS.into_iter().filter(|command| command.starts_with(&word));
            let pair = |command: &str| Pair {
                display: command.to_owned(),
                replacement: format!("{command} "),
            };
            return Ok((begin, fits.map(pair).collect()));
        };
        let names_a_path = matches!(words.next_back(), Some("-o" | "--output"));
        if TAKES_PATHS.contains(&command) || names_a_path {
            return self.here.complete(line, position, context);
        }
        let wanted = if command == "cd" { Wanted::Directory } else { Wanted::Any };
        Ok((begin, self.there.begins_with(&word, wanted)))
    }
}

impl There {
    /// Names that begin like this, as they would be typed.
    fn begins_with(&self, word: &str, wanted: Wanted) -> Vec<Pair> {
        let (above, begin) = match word.rfind('/') {
            Some(slash) => word.split_at(slash.saturating_add(1)),
            None => ("", word),
        };
        let Ok(directory) = self.resolve(above.as_bytes()) else { return Vec::new() };
        let Ok(mut session) = self.client.session() else { return Vec::new() };
        let mut found = Vec::new();
        let listed = session.list(directory.as_ref(), Depth::One, &mut |entries| {
            for entry in entries.entries {
                let Ok(part) = std::str::from_utf8(entry.name.last_part()) else { continue };
                let fits = wanted == Wanted::Any || entry.kind == Kind::Directory;
                // A line break cannot be typed.
                if !fits || !part.starts_with(begin) || part.contains(char::is_control) {
                    continue;
                }
                let end = if entry.kind == Kind::Directory { "/" } else { "" };
                let replacement = format!("{}{end}", typed(&format!("{above}{part}")));
                found.push(Pair { display: format!("{part}{end}"), replacement });
            }
            match found.len() {
                ..=OFFERED_MAX => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        // What cannot be listed offers nothing more.
        drop(listed);
        found.truncate(OFFERED_MAX);
        found.sort_by(|one, other| one.display.cmp(&other.display));
        found
    }
}

/// A name as it is typed so that it is one word.
fn typed(name: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+,:@%=~".contains(letter);
    let mut typed = String::new();
    for letter in name.chars() {
        if !plain(letter) {
            typed.push('\\');
        }
        typed.push(letter);
    }
    typed
}

/// Where the last word of a line begins, and what it says so far.
fn last_word(line: &str) -> (usize, String) {
    let mut begin = 0;
    let mut quote = None;
    let mut word = String::new();
    let mut letters = line.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some('\''), letter) => word.push(letter),
            (None | Some('"'), '\\') => word.extend(letters.next().map(|(_, letter)| letter)),
            (Some(_), letter) => word.push(letter),
            (None, '\'' | '"') => quote = Some(letter),
            (None, letter) if letter.is_whitespace() => {
                begin = at.saturating_add(letter.len_utf8());
                word.clear();
            }
            (None, letter) => word.push(letter),
        }
    }
    (begin, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_name_is_read_back_as_one_word() {
        for name in ["a b", "it's", "\"q\"", "back\\slash", "a;b|c&d", "$HOME", "\u{1f4be} x", "#"]
        {
            assert_eq!(shlex::split(&typed(name)).unwrap(), [name]);
            assert_eq!(last_word(&format!("get {}", typed(name))), (4, name.to_owned()));
        }
        assert_eq!(last_word("get 'a b/c"), (4, "a b/c".to_owned()));
        assert_eq!(last_word("get x "), (6, String::new()));
        assert_eq!(last_word("ge"), (0, "ge".to_owned()));
    }
}
