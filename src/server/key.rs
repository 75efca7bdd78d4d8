//! What a key of a poll, which mio calls a token, stands for: the waker, a listener, or one connection.

use mio::Token;

pub(super) const WAKER: Token = Token(usize::MAX);

/// Listeners have the keys below the waker's; connections the rest.
pub(super) const LISTENERS_MAX: usize = 1_024;

/// The number of low bits of a key that are the connection's place in the table of its selector.
const PLACE_BITS: u32 = usize::BITS / 2;

/// The number of bits above them that say whose table it is.
const SELECTOR_BITS: u32 = 4;

/// As many as the bits of a key tell apart, and more than any use was measured for.
pub const SELECTORS_MAX: usize = 1 << SELECTOR_BITS;

/// The bits above count how often places were taken, so that an event for a connection that is gone
/// never reaches its successor. The highest bit is left to the waker and the listeners.
const GENERATION_MAX: usize = usize::MAX >> (PLACE_BITS + SELECTOR_BITS + 1);

/// Names one connection, and no other before or after it; and says which selector has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionKey(usize);

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Waker,
    Listener,
    Connection(ConnectionKey),
}

impl ConnectionKey {
    /// The key of the connection that takes a place. Generations may be counted on for ever.
    pub(super) fn new(selector: usize, generation: usize, place: usize) -> Self {
        let generation = (generation & GENERATION_MAX) << (PLACE_BITS + SELECTOR_BITS);
        Self(generation | (selector % SELECTORS_MAX) << PLACE_BITS | place)
    }

    pub(super) fn selector(self) -> usize {
        (self.0 >> PLACE_BITS) % SELECTORS_MAX
    }

    pub(super) fn place(self) -> usize {
        self.0 & (usize::MAX >> PLACE_BITS)
    }

    /// As a poll knows it.
    pub(super) fn of_poll(self) -> Token {
        Token(self.0)
    }
}

impl Source {
    pub(super) fn of(key: Token) -> Self {
        match key {
            WAKER => Self::Waker,
            Token(number) if number >= listener(LISTENERS_MAX).0 => Self::Listener,
            Token(number) => Self::Connection(ConnectionKey(number)),
        }
    }
}

pub(super) fn listener(place: usize) -> Token {
    Token(WAKER.0.saturating_sub(1).saturating_sub(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_says_whose_it_is() {
        assert_eq!(Source::of(WAKER), Source::Waker);
        for place in [0, LISTENERS_MAX - 1] {
            assert_eq!(Source::of(listener(place)), Source::Listener);
        }
        for selector in [0, 1, SELECTORS_MAX - 1] {
            for generation in [0, 1, GENERATION_MAX, usize::MAX] {
                let key = ConnectionKey::new(selector, generation, 7);
                assert_eq!((key.selector(), key.place()), (selector, 7));
                assert_eq!(Source::of(key.of_poll()), Source::Connection(key));
            }
        }
        assert_ne!(ConnectionKey::new(1, 1, 7), ConnectionKey::new(1, 2, 7));
    }
}
