//! What is put and got, by hand.

use std::io::{Read, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::both::MIB;
use crate::both::talk::{Talk, put};

pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// The end of a put of these bytes.
pub fn end(id: u64, bytes: &[u8]) -> Value {
    json!({"end": {"id": id, "size": bytes.len(), "digest": digest_of(bytes)}})
}

/// A whole put, which is to be done.
pub fn puts<S: Read + Write>(talk: &mut Talk<S>, id: u64, name: &str, bytes: &[u8]) {
    talk.say(put(id, name, bytes.len(), id));
    for (number, part) in bytes.chunks(MIB).enumerate() {
        talk.part(id, number * MIB, part);
    }
    talk.say(end(id, bytes));
    let mut line = talk.line();
    while line["kept"].is_object() {
        line = talk.line();
    }
    assert_eq!(line["done"]["size"], bytes.len(), "{line}");
}

/// What a get is answered with.
pub fn got<S: Read + Write>(talk: &mut Talk<S>, id: u64, name: &str) -> Vec<u8> {
    talk.say(json!({"get": {"id": id, "name": name, "digest": "sha256"}}));
    let mut bytes = Vec::new();
    loop {
        let line = talk.line();
        if let Some(size) = line["data"]["size"].as_u64() {
            bytes.extend(talk.raw(size));
        } else if line["end"].is_object() {
            assert_eq!(line["end"]["digest"], digest_of(&bytes));
            return bytes;
        } else {
            assert!(line["file"].is_object(), "{line}");
        }
    }
}
