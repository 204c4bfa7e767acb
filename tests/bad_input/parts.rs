//! Files taken apart and sealed again: header and manifest with checksums that are right.

use capsulegraph::container::header::{HEADER_LEN, Header, Kind};
use serde_json::Value;

/// A file taken apart: what lies before the manifest, and the manifest.
pub struct Parts {
    kind: Kind,
    payload: Vec<u8>,
    /// The manifest as it was.
    pub manifest: Value,
}

impl Parts {
    /// Takes a whole file apart.
    pub fn new(file: &[u8]) -> Self {
        let head: &[u8; HEADER_LEN] = file[..HEADER_LEN].try_into().unwrap();
        let header = Header::decode("parts", head, file.len() as u64).unwrap();
        let at = header.manifest_offset as usize;
        Self {
            kind: header.kind,
            payload: file[..at].to_vec(),
            manifest: serde_json::from_slice(&file[at..]).unwrap(),
        }
    }

    /// As [`Parts::new`] of `sound`, with the payload of `file`, which is as long.
    pub fn new_payload(file: &[u8], sound: &[u8]) -> Self {
        let mut parts = Self::new(sound);
        let len = parts.payload.len();
        parts.payload.copy_from_slice(&file[..len]);
        parts
    }

    /// The file with `manifest` in place of its own and all checksums of header and manifest right.
    pub fn sealed(&self, manifest: &Value) -> Vec<u8> {
        self.sealed_text(manifest.to_string().as_bytes())
    }

    /// As [`Parts::sealed`], with any text for a manifest.
    pub fn sealed_text(&self, text: &[u8]) -> Vec<u8> {
        let header = Header {
            version: (0, 1),
            kind: self.kind,
            manifest_offset: self.payload.len() as u64,
            manifest_len: text.len() as u64,
            manifest_blake3: *blake3::hash(text).as_bytes(),
            file_len: (self.payload.len() + text.len()) as u64,
        };
        let mut file = Vec::with_capacity(header.file_len as usize);
        file.extend_from_slice(&self.payload);
        file.extend_from_slice(text);
        file[..HEADER_LEN].copy_from_slice(&header.encode());
        file
    }
}
