//! Checksums of planes and digests of files, in the forms that the manifest holds.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// XXH3-64 of `bytes` as 16 hexadecimal digits.
#[must_use]
pub fn xxh3_hex(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

/// BLAKE3 of the concatenated `parts` as 64 hexadecimal digits.
#[must_use]
pub fn blake3_hex(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// XXH3-64 of bytes that come in pieces.
#[derive(Default)]
pub struct Running(Xxh3Default);

impl Running {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all pieces so far, as 16 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        format!("{:016x}", self.0.digest())
    }
}

/// A capsule's checksum: XXH3-64 of its planes' checksums in order (see docs/format.md). `None` where a
/// plane's checksum is not 16 hexadecimal digits.
pub fn capsule_checksum<'a>(planes: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut hasher = Running::default();
    for hex in planes {
        hasher.update(&parse_hex64(hex)?.to_le_bytes());
    }
    Some(hasher.hex())
}

/// The number that 16 hexadecimal digits write.
#[must_use]
pub fn parse_hex64(hex: &str) -> Option<u64> {
    let digits = hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if digits { u64::from_str_radix(hex, 16).ok() } else { None }
}
