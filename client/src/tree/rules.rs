//! Which files of a tree take part: patterns by the rules of gitignore.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ftx_protocol::Kind;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::failure::{Class, Failure, shown};

/// Patterns. Of those that match, the last one decides.
#[derive(Debug, Clone)]
pub struct Rules {
    patterns: Gitignore,
}

/// One pattern, as it was given.
#[derive(Debug, Clone)]
pub enum Rule {
    /// What it matches stays out.
    Exclude(String),
    /// What it matches takes part, though an earlier pattern says otherwise.
    Include(String),
    /// A file with patterns, one a line.
    ExcludeFrom(std::path::PathBuf),
}

impl Default for Rules {
    fn default() -> Self {
        Self { patterns: Gitignore::empty() }
    }
}

impl Rules {
    /// Reads patterns, in the order in which they were given.
    ///
    /// # Errors
    /// When one is no pattern, or a file cannot be read.
    pub fn new(rules: &[Rule]) -> Result<Self, Failure> {
        let wrong = |pattern: &str, error: &dyn std::fmt::Display| {
            Failure::new(Class::Usage, format!("\"{pattern}\" is no pattern: {error}"))
        };
        // Paths are given relative to the tree.
        let mut builder = GitignoreBuilder::new("");
        for rule in rules {
            match rule {
                Rule::Exclude(pattern) => {
                    builder.add_line(None, pattern).map_err(|error| wrong(pattern, &error))?;
                }
                Rule::Include(pattern) => {
                    let line = format!("!{pattern}");
                    builder.add_line(None, &line).map_err(|error| wrong(pattern, &error))?;
                }
                Rule::ExcludeFrom(path) => {
                    if let Some(error) = builder.add(path) {
                        if let Some(error) = error.io_error() {
                            return Err(Failure::local("cannot read", path, error));
                        }
                        let message = format!("cannot take patterns from {}: {error}", shown(path));
                        return Err(Failure::new(Class::Usage, message));
                    }
                }
            }
        }
        let patterns = builder.build().map_err(|error| wrong("", &error))?;
        Ok(Self { patterns })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a file stays out that is asked for by this path, and not found in a tree.
    pub fn excludes_file(&self, path: &[u8]) -> bool {
        self.takes_with_parents(path, PathKind::Other) == TakesPart::No
    }

    /// Whether what has this path in the tree takes part.
    pub(crate) fn takes(&self, path: &[u8], kind: PathKind) -> TakesPart {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        match self.patterns.matched(path, kind == PathKind::Directory).is_ignore() {
            true => TakesPart::No,
            false => TakesPart::Yes,
        }
    }

    /// As [`Rules::takes`], for something whose directories were not asked about.
    pub(crate) fn takes_with_parents(&self, path: &[u8], kind: PathKind) -> TakesPart {
        let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let outside = slashes.any(|(at, _)| {
            let above = path.get(..at).unwrap_or_default();
            self.takes(above, PathKind::Directory) == TakesPart::No
        });
        if outside { TakesPart::No } else { self.takes(path, kind) }
    }
}

/// What a path is, as far as patterns care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    Directory,
    Other,
}

impl PathKind {
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Directory => Self::Directory,
            Kind::File | Kind::Symlink | Kind::Special => Self::Other,
        }
    }
}

/// Whether something takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakesPart {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore_and_the_last_one_decides() {
        let rules = Rules::new(&[
            Rule::Exclude("*.o".into()),
            Rule::Include("keep.o".into()),
            Rule::Exclude("/target/".into()),
        ])
        .unwrap();
        let takes = |path: &str, kind| rules.takes(path.as_bytes(), kind) == TakesPart::Yes;
        assert!(!takes("a/b.o", PathKind::Other));
        assert!(takes("a/keep.o", PathKind::Other));
        assert!(!takes("target", PathKind::Directory));
        assert!(takes("target", PathKind::Other), "only a directory");
        assert!(takes("a/target", PathKind::Directory), "only at the top");
        let inside = rules.takes_with_parents(b"target/debug/x", PathKind::Other);
        assert_eq!(inside, TakesPart::No);
        assert!(Rules::new(&[Rule::Exclude("[z-a]".into())]).is_err());
    }

    #[test]
    fn names_that_are_no_text_are_matched_too() {
        let rules = Rules::new(&[Rule::Exclude("*.tmp".into())]).unwrap();
        assert_eq!(rules.takes(b"\xff\xfe.tmp", PathKind::Other), TakesPart::No);
        assert_eq!(rules.takes(b"\xff\xfe", PathKind::Other), TakesPart::Yes);
    }
}
