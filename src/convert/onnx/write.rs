//! Writing a model as an ONNX file whose weights are streamed, inside it or into a data file beside it.

use std::path::{Path, PathBuf};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::Serialize;

use super::proto::{EXTERNAL, GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use crate::container::disk::{Disk, WriteFile};
use crate::convert::import::ProgressFn;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, unless_cancelled};

/// Bytes of weights up to which they lie in the model: protobuf's limit is 2 GiB for all of it.
pub const MAX_INLINE: u64 = 1_800_000_000;
/// Alignment of weights in a data file: a page, so that they can be mapped.
const DATA_ALIGN: u64 = 4096;
/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Takes a weight's bytes in pieces.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Hands a weight's bytes to a sink.
pub type Reader<'a> = dyn Fn(&mut Sink<'_>) -> Result<()> + 'a;

/// A weight of a model that is written.
pub struct Part<'a> {
    /// Name, type and shape; no data.
    pub tensor: TensorProto,
    /// Bytes of its data.
    pub len: u64,
    /// Hands the data to the sink.
    pub data: Box<Reader<'a>>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenModel {
    /// The model.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The file of its weights, where they do not lie in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Bytes of its weights.
    pub weight_bytes: u64,
}

/// The data file of a model at `target`.
#[must_use]
pub fn data_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".data");
    target.with_file_name(name)
}

/// Writes `model` with `parts` as further initializers; those beyond `max_inline` bytes go into a data file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Cancelled`]; [`Error::Limit`] where the model would be too long without its weights too.
pub fn write_model(
    disk: &dyn Disk,
    target: &Path,
    model: ModelProto,
    mut parts: Vec<Part<'_>>,
    max_inline: u64,
    cancel: Option<&CancelToken>,
    progress: &mut ProgressFn<'_>,
) -> Result<WrittenModel> {
    let weight_bytes = parts.iter().map(|part| part.len).sum();
    let mut output =
        Output { file: disk.create(target)?, written: 0, done: 0, total: weight_bytes, cancel, progress };
    let mut data = None;
    if weight_bytes > max_inline {
        let path = data_path(target);
        let model_file = std::mem::replace(&mut output.file, disk.create(&path)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for part in &mut parts {
            output.pad()?;
            part.tensor.data_location = Some(EXTERNAL);
            let len = part.len.to_string();
            let entries =
                [("location", name.clone()), ("offset", output.written.to_string()), ("length", len)];
            part.tensor.external_data = entries.map(entry).into();
            output.data(part)?;
        }
        data = Some((path, std::mem::replace(&mut output.file, model_file)));
        output.written = 0;
    }
    output.model(model, &parts, data.is_none())?;
    // The data first: a model that is there is whole.
    let data = match data {
        Some((path, file)) => {
            file.commit()?;
            Some(path)
        }
        None => None,
    };
    let bytes = output.written;
    output.file.commit()?;
    Ok(WrittenModel { path: target.to_owned(), bytes, data, weight_bytes })
}

fn entry((key, value): (&str, String)) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) }
}

struct Output<'a, 'p> {
    file: Box<dyn WriteFile>,
    /// Bytes of the file.
    written: u64,
    /// Bytes of weights.
    done: u64,
    total: u64,
    cancel: Option<&'a CancelToken>,
    progress: &'a mut ProgressFn<'p>,
}

impl Output<'_, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        unless_cancelled(self.cancel)?;
        self.file.append(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn data(&mut self, part: &Part<'_>) -> Result<()> {
        (part.data)(&mut |piece| {
            self.put(piece)?;
            self.done += piece.len() as u64;
            (self.progress)(self.done, self.total);
            Ok(())
        })
    }

    fn pad(&mut self) -> Result<()> {
        let missing = self.written.next_multiple_of(DATA_ALIGN) - self.written;
        // Below the alignment.
        self.put(&vec![0; missing as usize])
    }

    /// The fields of the model, its graph last, and in that the weights last.
    fn model(&mut self, mut model: ModelProto, parts: &[Part<'_>], inline: bool) -> Result<()> {
        let graph = model.graph.take().unwrap_or_default().encode_to_vec();
        let heads: Vec<Vec<u8>> = parts.iter().map(|part| initializer(part, inline)).collect();
        let data = |part: &Part<'_>| if inline { part.len } else { 0 };
        let weights: u64 = heads.iter().zip(parts).map(|(head, part)| head.len() as u64 + data(part)).sum();
        let mut front = model.encode_to_vec();
        encode_key(7, WireType::LengthDelimited, &mut front);
        let len = graph.len() as u64 + weights;
        encode_varint(len, &mut front);
        if len + front.len() as u64 > i32::MAX as u64 {
            return Err(Error::Limit(format!(
                "the model would have {len} bytes beside its weights; ONNX allows for 2 GiB"
            )));
        }
        self.put(&front)?;
        graph.chunks(PIECE).try_for_each(|piece| self.put(piece))?;
        for (head, part) in heads.iter().zip(parts) {
            self.put(head)?;
            if inline {
                self.data(part)?;
            }
        }
        Ok(())
    }
}

/// An initializer's field of a graph, up to its data where that lies in it.
fn initializer(part: &Part<'_>, inline: bool) -> Vec<u8> {
    let mut tensor = part.tensor.encode_to_vec();
    if inline {
        encode_key(9, WireType::LengthDelimited, &mut tensor);
        encode_varint(part.len, &mut tensor);
    }
    let len = tensor.len() as u64 + if inline { part.len } else { 0 };
    let mut field = Vec::with_capacity(tensor.len() + 16);
    encode_key(5, WireType::LengthDelimited, &mut field);
    encode_varint(len, &mut field);
    field.append(&mut tensor);
    field
}

/// Takes the weights out of a graph's initializers: those whose data is in capsules.
pub fn take_weights(graph: &mut GraphProto) -> Vec<TensorProto> {
    let all = std::mem::take(&mut graph.initializer);
    let (weights, rest) = all.into_iter().partition(TensorProto::is_external);
    graph.initializer = rest;
    weights
}
