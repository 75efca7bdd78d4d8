//! Every kept input once through its target.

use std::fs;
use std::path::Path;

/// The corpus is kept small: what it reaches counts, and not how often.
const CORPUS_BYTES_MAX: u64 = 150 * 1024;

#[test]
fn every_kept_input_keeps_the_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut bytes: u64 = 0;
    for (name, body) in ftx_fuzz::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            // Of an input that breaks a promise, the test's output ends with its path.
            println!("{}", path.display());
            let input = fs::read(&path).unwrap();
            bytes += input.len() as u64;
            inputs += 1;
            body(&input);
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes");
}
