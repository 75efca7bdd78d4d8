//! Inputs of the machines, as text that a fuzzer can mutate and a person can read: the peer's bytes as they
//! are, and between them `^` and a letter for everything else that happens. `^^` is the byte itself.

/// What is left of a script.
pub(crate) struct Script<'a>(&'a [u8]);

/// A step of one.
pub(crate) enum Step<'a> {
    /// The peer's bytes, which arrive at once.
    Bytes(&'a [u8]),
    /// Something else, by its letter. Its numbers follow.
    Act(u8),
}

impl<'a> Script<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// The next step.
    pub(crate) fn step(&mut self) -> Option<Step<'a>> {
        let (&first, rest) = self.0.split_first()?;
        if first != b'^' {
            let end = self.0.iter().position(|&byte| byte == b'^').unwrap_or(self.0.len());
            let (bytes, rest) = self.0.split_at(end);
            self.0 = rest;
            return Some(Step::Bytes(bytes));
        }
        let (&letter, rest) = rest.split_first()?;
        self.0 = rest;
        Some(if letter == b'^' { Step::Bytes(b"^") } else { Step::Act(letter) })
    }

    /// A number of the step: a digit, or any byte for larger ones.
    pub(crate) fn number(&mut self) -> u64 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte.wrapping_sub(b'0').into()
    }
}
