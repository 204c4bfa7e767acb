//! The fixed header of a `.cgraph` file.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// First bytes of every file: a high bit, "CGR", CR LF, Ctrl-Z, LF.
pub const MAGIC: [u8; 8] = *b"\x8bCGR\r\n\x1a\n";
/// Bytes of the header.
pub const HEADER_LEN: usize = 128;
/// Format version that this library writes and reads: `(major, minor)`.
pub const VERSION: (u16, u16) = (0, 1);
/// Largest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 64 << 20;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every tensor, bit for bit.
    Full,
    /// A light derivation of a full file.
    Mini,
}

impl Kind {
    /// The kind's name: `full` or `mini`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Mini => "mini",
        }
    }
}

/// The decoded header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Format major and minor version.
    pub version: (u16, u16),
    /// Full or mini.
    pub kind: Kind,
    /// Where the manifest begins.
    pub manifest_offset: u64,
    /// Bytes of the manifest.
    pub manifest_len: u64,
    /// BLAKE3 of the manifest.
    pub manifest_blake3: [u8; 32],
    /// Length that the whole file must have.
    pub file_len: u64,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.0.to_le_bytes());
        out[10..12].copy_from_slice(&self.version.1.to_le_bytes());
        let kind: u32 = match self.kind {
            Kind::Full => 1,
            Kind::Mini => 2,
        };
        out[12..16].copy_from_slice(&kind.to_le_bytes());
        out[16..24].copy_from_slice(&self.manifest_offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.manifest_len.to_le_bytes());
        out[32..64].copy_from_slice(&self.manifest_blake3);
        out[64..72].copy_from_slice(&self.file_len.to_le_bytes());
        let check = xxh3_64(&out[..120]);
        out[120..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// Decodes the header of `file`, whose length is `actual_len` bytes, and holds every field against it.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the bytes are no header of this format or the file was cut or grown;
    /// [`Error::Unsupported`] for another major version.
    pub fn decode(file: &str, bytes: &[u8; HEADER_LEN], actual_len: u64) -> Result<Self> {
        let bad = |detail: String| Error::malformed(file, detail);
        if bytes[..8] != MAGIC {
            return Err(bad(not_ours(&bytes[..8])));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let version = (u16_at(8), u16_at(10));
        if version.0 != VERSION.0 {
            return Err(Error::Unsupported(format!(
                "{file}: format version {}.{} cannot be read by this library (it reads {}.x); convert the source again or use another release",
                version.0, version.1, VERSION.0
            )));
        }
        if xxh3_64(&bytes[..120]) != u64_at(120) {
            return Err(bad(
                "the header's checksum does not match: the file is damaged; make it again (cgraph convert; a mini: cgraph split)".into()
            ));
        }
        if bytes[72..120].iter().any(|b| *b != 0) {
            return Err(bad("reserved bytes of the header are not zero".into()));
        }
        let kind = match u32_at(12) {
            1 => Kind::Full,
            2 => Kind::Mini,
            other => return Err(bad(format!("unknown file kind {other}"))),
        };
        let mut manifest_blake3 = [0; 32];
        manifest_blake3.copy_from_slice(&bytes[32..64]);
        let header = Self {
            version,
            kind,
            manifest_offset: u64_at(16),
            manifest_len: u64_at(24),
            manifest_blake3,
            file_len: u64_at(64),
        };
        header.check(file, actual_len)?;
        Ok(header)
    }

    fn check(&self, file: &str, actual_len: u64) -> Result<()> {
        let bad = |detail: String| Err(Error::malformed(file, detail));
        if self.file_len != actual_len {
            return bad(format!(
                "the file has {actual_len} bytes where its header says {}: it was cut or extended; copy it again or make it again (cgraph convert; a mini: cgraph split)",
                self.file_len
            ));
        }
        if self.manifest_len > MAX_MANIFEST {
            return bad(format!(
                "a manifest of {} bytes exceeds the limit of {MAX_MANIFEST}",
                self.manifest_len
            ));
        }
        let end = self.manifest_offset.checked_add(self.manifest_len);
        let aligned = self.manifest_offset.is_multiple_of(super::PLANE_ALIGN);
        if !aligned || self.manifest_offset < HEADER_LEN as u64 || end != Some(self.file_len) {
            return bad(format!(
                "the manifest ({} bytes at {}) does not end the file of {} bytes",
                self.manifest_len, self.manifest_offset, self.file_len
            ));
        }
        Ok(())
    }
}

/// How an ONNX model begins: the tag of its field 1, `ir_version`, a small number.
const ONNX_VERSION: u8 = 0x08;

/// Says what a file without our magic most likely is.
fn not_ours(magic: &[u8]) -> String {
    if magic.starts_with(b"GGUF") {
        "this is a GGUF model; convert it to a .cgraph file first (convert, on the command line: cgraph convert MODEL.gguf)".into()
    } else if magic[0] == ONNX_VERSION && magic[1] < 0x20 {
        "this may be an ONNX model; convert it to a .cgraph file first (convert, on the command line: cgraph convert MODEL.onnx)"
            .into()
    } else if magic[0] == 0x0b || magic.starts_with(b"\xc2\x8bCGR") || magic.starts_with(b"\x8bCGR") {
        "a .cgraph file changed by a text-mode transfer; copy it again in binary mode".into()
    } else {
        "not a .cgraph file (its first bytes are not the format's); a model in another format is converted first (convert, on the \
         command line: cgraph convert MODEL)"
            .into()
    }
}
