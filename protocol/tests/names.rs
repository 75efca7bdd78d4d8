//! The rules of names, over names that nobody thought of: those of the fuzz target, without a fuzzer.
//! `FTX_SEED=n` runs one seed again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../fuzz/src/name.rs"]
mod rules;

const TRIES: usize = 10_000;

/// What a rule is about, and what has a meaning in JSON.
const PIECES: [&[u8]; 16] = [
    b"/",
    b"/",
    b".",
    b"..",
    b"a",
    b"b",
    b"\0",
    b"\n",
    b"\"",
    b"\\",
    b"\x1b",
    b"\xff",
    b"\xc3\xa9",
    b"{\"b64\":\"",
    b"/w==\"}",
    &[b'x'; 254],
];

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Short for the most part, and now and then as long, or of as many parts, as a name may be.
    fn name(&mut self) -> Vec<u8> {
        if self.below(50) == 0 {
            return ["a"; 130][..126 + self.below(4)].join("/").into_bytes();
        }
        let (count, kinds) = match self.below(20) {
            0 => (30 + self.below(10), PIECES.len()),
            _ => (self.below(9), PIECES.len() - 1),
        };
        (0..count).flat_map(|_| PIECES[self.below(kinds)]).copied().collect()
    }
}

#[test]
fn random_names_keep_the_rules() {
    let given = std::env::var("FTX_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("FTX_SEED={seed} runs this one again");
    let mut random = Random(seed);
    for _ in 0..TRIES {
        let (one, other) = (random.name(), random.name());
        rules::name(&[&one[..], b"\n", &other].concat());
        rules::name(&[b"\"", &one[..], b"\""].concat());
    }
}
