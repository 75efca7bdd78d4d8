//! Which version of a file the bytes are of that an earlier run left.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use ftx_protocol::{TransferId, Version};
use serde::{Deserialize, Serialize};

use crate::address::ServerAddress;
use crate::tree::state_path;

/// What the first bytes of large files came from, over the end of the process.
pub(super) struct Versions {
    known: HashMap<TransferId, Version>,
    file: Option<(std::fs::File, PathBuf)>,
}

/// One line of it.
#[derive(Serialize, Deserialize)]
struct Noted {
    transfer: TransferId,
    version: Version,
}

impl Versions {
    /// For a job that does nothing.
    pub(super) fn none() -> Self {
        Self { known: HashMap::new(), file: None }
    }

    /// Without it a large file begins again after the end of the process, and no worse.
    pub(super) fn open(server: &ServerAddress, key: &[u8]) -> Self {
        let opened = state_path("versions", server, key).and_then(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let file = std::fs::File::options().append(true).create(true).open(&path)?;
            Ok((text, file, path))
        });
        match opened {
            Ok((text, file, path)) => {
                let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
                let known = lines.map(|noted: Noted| (noted.transfer, noted.version)).collect();
                Self { known, file: Some((file, path)) }
            }
            Err(_) => Self::none(),
        }
    }

    pub(super) fn get(&self, transfer: &TransferId) -> Option<&Version> {
        self.known.get(transfer)
    }

    pub(super) fn note(&mut self, transfer: TransferId, version: &Version) {
        let noted = Noted { transfer, version: version.clone() };
        if let (Some((file, _)), Ok(line)) = (&mut self.file, serde_json::to_string(&noted)) {
            // See `open`.
            let _ = writeln!(file, "{line}");
        }
        self.known.insert(transfer, noted.version);
    }

    pub(super) fn remove(&mut self) {
        if let Some((_, path)) = self.file.take() {
            // One that stays says what is not true any more, and is found out when it is used.
            let _ = std::fs::remove_file(path);
        }
    }
}
