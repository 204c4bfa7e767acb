//! The models that the runtime is given: a capsule's graph under the model's head, with its weights where they lie.

use std::collections::HashSet;
use std::ops::Range;

use prost::Message;

use super::api::Region;
use super::raw::RawType;
use super::value;
use crate::container::manifest::Capsule;
use crate::convert::onnx::export::{graph_of, head_of};
use crate::convert::onnx::import::assets;
use crate::convert::onnx::join::Joined;
use crate::convert::onnx::proto::{
    AttributeProto, EXTERNAL, GraphProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, dimension, type_proto,
};
use crate::convert::onnx::proto::{Dimension, NodeProto};
use crate::convert::onnx::subgraph::graphs_of;
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::store::Store;
use crate::store::mapped::MappedFile;

/// `ModelProto.graph`, a field of its own message: number 7, with a length.
const GRAPH_KEY: u8 = 7 << 3 | 2;

/// Reads the head and the graphs of all capsules of a file, as the store's mode serves them, and finds all their weights.
///
/// # Errors
/// [`Error::Malformed`] naming the asset, or [`Error::NotFound`] naming a weight.
pub fn check(store: &Store) -> Result<()> {
    Head::read(store.primary())?;
    (0..store.manifest().capsules.len()).try_for_each(|index| Part::of_capsule(store, index).map(drop))
}

/// What all sub-models of a model share.
#[derive(Debug)]
pub(super) struct Head {
    /// The message without its graph, ready to have one put behind it.
    encoded: Vec<u8>,
    /// The model's inputs with their full types.
    inputs: Vec<ValueInfoProto>,
}

/// What is stated of a tensor's dimensions: lengths, `None` of those that are left open.
pub(super) type Dims = Vec<Option<u64>>;

impl Head {
    /// Reads the head of a model's file.
    pub fn read(file: &MappedFile) -> Result<Self> {
        let mut model = head_of(file)?;
        for function in &model.functions {
            let attributes = function.attribute_proto.iter();
            if look_through(&function.node).is_err() || attributes.flat_map(tensors_of).any(is_external) {
                let why = format!("function {}: a tensor is external", function.name());
                return Err(malformed(file, assets::HEAD, &why));
            }
        }
        // Only computing is asked of the runtime.
        model.training_info.clear();
        let graph = model.graph.take().unwrap_or_default();
        // From version 4 on initializers need not be listed as inputs too, as those of capsules are not.
        model.ir_version = model.ir_version.map(|version| version.max(4));
        Ok(Self { encoded: model.encode_to_vec(), inputs: graph.input })
    }

    /// The model's input of that name, with its full type.
    pub fn input(&self, name: &str) -> Option<&ValueInfoProto> {
        self.inputs.iter().find(|input| input.name.as_deref() == Some(name))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.encoded.len() as u64
    }

    /// A whole model with `graph`.
    pub fn model_of(&self, graph: &GraphProto) -> Vec<u8> {
        let mut model = Vec::with_capacity(self.encoded.len() + graph.encoded_len() + 16);
        model.extend_from_slice(&self.encoded);
        model.push(GRAPH_KEY);
        prost::encoding::encode_varint(graph.encoded_len() as u64, &mut model);
        // A vector grows as needed.
        let _ = graph.encode(&mut model);
        model
    }
}

fn malformed(file: &MappedFile, asset: &str, why: &str) -> Error {
    Error::malformed(file.name(), format!("asset \"{asset}\": {why}; convert the model again"))
}

/// The graph of a capsule or of several together, its weights tied to where they lie.
#[derive(Debug)]
pub(super) struct Part {
    /// The graph; what is external of it is in `regions`.
    pub graph: GraphProto,
    /// The extents that its weights are in.
    pub regions: Vec<Region>,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Whether a node computes with weights of few bits, which the runtime is of use for only when it prepacks them.
    pub has_few_bits: bool,
}

impl Part {
    /// Reads the graph of neighbouring capsules, as the store's mode serves them; it gives `outputs`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the asset, or [`Error::NotFound`] naming a weight.
    pub fn read(store: &Store, capsules: Range<usize>, outputs: &[&str]) -> Result<Self> {
        let mut parts = capsules.clone().map(|index| Self::of_capsule(store, index));
        let mut whole = parts.next().unwrap_or_else(|| Err(Error::Internal("no capsules".into())))?;
        if capsules.len() == 1 {
            return Ok(whole);
        }
        let name = whole.graph.name.take();
        let (mut joined, mut inputs, mut given) = (Joined::default(), Vec::new(), Vec::new());
        let mut next = Some(std::mem::take(&mut whole.graph));
        while let Some(graph) = next {
            inputs.extend(graph.input.iter().cloned());
            given.extend(graph.output.iter().filter(|output| outputs.contains(&output.name())).cloned());
            joined.add(graph).map_err(|name| {
                let file = store.primary().name();
                Error::malformed(
                    file,
                    format!("two capsules have different things named {name}; convert the model again"),
                )
            })?;
            next = parts.next().transpose()?.map(|part| whole.take_in(part));
        }
        let graph = joined.graph();
        let made: HashSet<&str> =
            graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let mut seen = HashSet::new();
        inputs.retain(|input| !made.contains(input.name()) && seen.insert(input.name().to_owned()));
        whole.graph = GraphProto { name, input: inputs, output: given, ..graph };
        Ok(whole)
    }

    /// Adds what another part has beside its graph, and gives that.
    fn take_in(&mut self, part: Self) -> GraphProto {
        let Self { graph, regions, weight_bytes, has_few_bits } = part;
        for region in regions {
            if !self.regions.iter().any(|own| own.name == region.name) {
                self.regions.push(region);
            }
        }
        self.weight_bytes = self.weight_bytes.saturating_add(weight_bytes);
        self.has_few_bits |= has_few_bits;
        graph
    }

    fn of_capsule(store: &Store, index: usize) -> Result<Self> {
        let (file, capsule) = store.capsule(index)?;
        let asset = assets::graph(&capsule.id);
        let bad = |why: String| malformed(file, &asset, &why);
        let graph = graph_of(file, capsule)?;
        let mut part = Self { graph, regions: Vec::new(), weight_bytes: 0, has_few_bits: false };
        let sparse = part.graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices));
        if sparse.clone().any(is_external) {
            return Err(bad("a sparse initializer is external".into()));
        }
        part.has_few_bits = look_through(&part.graph.node).map_err(bad)?;
        let mut initializers = std::mem::take(&mut part.graph.initializer);
        for tensor in initializers.iter_mut().filter(|tensor| tensor.data_location == Some(EXTERNAL)) {
            part.tie(store, tensor, &bad)?;
        }
        part.graph.initializer = initializers;
        Ok(part)
    }

    /// Points an external initializer to its plane in the extent of the capsule that stores it.
    fn tie(&mut self, store: &Store, tensor: &mut TensorProto, bad: &dyn Fn(String) -> Error) -> Result<()> {
        let name = tensor.name.clone().unwrap_or_default();
        let location = tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some("location"));
        let id = location.and_then(|entry| entry.value.clone());
        let id = id.ok_or_else(|| bad(format!("weight {name} has no location")))?;
        let (file, capsule) = store.capsule(store.find(&id)?)?;
        let (extent, plane) = plane_of(capsule, &name)
            .ok_or_else(|| Error::NotFound(format!(
                "{}: capsule {id}: tensor {name} is not stored in this file (a mini only links it: its full file is needed)",
                file.name()
            )))?;
        let element = tensor.data_type.and_then(ElementType::from_onnx);
        let dims: Option<Vec<u64>> = tensor.dims.iter().map(|dim| u64::try_from(*dim).ok()).collect();
        let wanted = element.zip(dims).and_then(|(element, dims)| element.tensor_bytes(&dims));
        if wanted != Some(plane.1) {
            return Err(bad(format!(
                "weight {name}: its type and shape need {} bytes, and capsule {id} stores {}",
                wanted.map_or_else(|| "no certain number of".to_owned(), |bytes| bytes.to_string()),
                plane.1
            )));
        }
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", id.clone()),
            entry("offset", plane.0.to_string()),
            entry("length", plane.1.to_string()),
        ];
        self.weight_bytes = self.weight_bytes.saturating_add(plane.1);
        if !self.regions.iter().any(|region| region.name == id) {
            let bytes = file
                .shared_extent(extent.0, extent.1)?
                .ok_or_else(|| bad(format!("capsule {id} leaves the file")))?;
            self.regions.push(Region { name: id, bytes });
        }
        Ok(())
    }

    /// Whether the graph does not know the type of its input `name`.
    pub fn is_untyped(&self, name: &str) -> bool {
        self.input(name).is_none_or(|input| !is_typed(input.r#type.as_ref()))
    }

    /// What the graph states of the dimensions of its input `name`; `None` where it is no tensor or nothing is stated.
    pub fn stated_dims(&self, name: &str) -> Option<Dims> {
        let Some(type_proto::Value::TensorType(tensor)) = &self.input(name)?.r#type.as_ref()?.value else {
            return None;
        };
        let len = |dim: &Dimension| match &dim.value {
            Some(dimension::Value::DimValue(len)) => u64::try_from(*len).ok(),
            _ => None,
        };
        Some(tensor.shape.as_ref()?.dim.iter().map(len).collect())
    }

    /// Leaves open what of the dimensions of input `name` is open in `left`; `None`: the rank too.
    pub fn open_dims(&mut self, name: &str, left: Option<&Dims>) {
        let input = self.graph.input.iter_mut().find(|input| input.name.as_deref() == Some(name));
        let known = input.and_then(|input| input.r#type.as_mut()?.value.as_mut());
        let Some(type_proto::Value::TensorType(tensor)) = known else { return };
        match (&mut tensor.shape, left) {
            (Some(shape), Some(left)) => {
                for (dim, _) in shape.dim.iter_mut().zip(left).filter(|(_, left)| left.is_none()) {
                    if matches!(dim.value, Some(dimension::Value::DimValue(_))) {
                        dim.value = None;
                    }
                }
            }
            (shape, _) => *shape = None,
        }
    }

    fn input(&self, name: &str) -> Option<&ValueInfoProto> {
        self.graph.input.iter().find(|input| input.name.as_deref() == Some(name))
    }

    /// Gives input `name` a type: the one that it is fed with. The input is added where the graph has none.
    pub fn set_type(&mut self, name: &str, known: &RawType, rank: Option<usize>) {
        let made = Some(type_of(known, rank));
        match self.graph.input.iter_mut().find(|input| input.name.as_deref() == Some(name)) {
            Some(input) => input.r#type = made,
            None => self.graph.input.push(ValueInfoProto {
                name: Some(name.to_owned()),
                r#type: made,
                ..ValueInfoProto::default()
            }),
        }
    }
}

/// The extent of a capsule, and where in it the plane of tensor `name` lies.
fn plane_of(capsule: &Capsule, name: &str) -> Option<((u64, u64), (u64, u64))> {
    let extent = capsule.extent?;
    let plane = capsule.tensors.iter().find(|tensor| tensor.name == name)?.planes.first()?;
    Some(((extent.offset, extent.len), (plane.offset, plane.len)))
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(EXTERNAL)
}

/// Whether one of the nodes, and of those in their graphs, computes with weights of few bits.
///
/// # Errors
/// The place of a tensor whose data is external: the runtime would look for a file of that name.
fn look_through(nodes: &[NodeProto]) -> std::result::Result<bool, String> {
    let mut has_few_bits = false;
    let mut open = vec![nodes];
    while let Some(nodes) = open.pop() {
        for node in nodes {
            has_few_bits |= is_few_bits(node);
            if node.attribute.iter().flat_map(tensors_of).any(is_external) {
                return Err(format!("node {}: an attribute is external", node.name()));
            }
            for graph in graphs_of(node) {
                let sparse = graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices));
                if let Some(tensor) = sparse.chain(&graph.initializer).find(|tensor| is_external(tensor)) {
                    return Err(format!("tensor {} inside node {} is external", tensor.name(), node.name()));
                }
                open.push(&graph.node);
            }
        }
    }
    Ok(has_few_bits)
}

fn tensors_of(attribute: &AttributeProto) -> impl Iterator<Item = &TensorProto> {
    let one = attribute.t.as_deref().into_iter().chain(&attribute.tensors);
    let sparse = attribute.sparse_tensor.as_deref().into_iter().chain(&attribute.sparse_tensors);
    one.chain(sparse.flat_map(|sparse| sparse.values.iter().chain(&sparse.indices)))
}

fn is_few_bits(node: &NodeProto) -> bool {
    node.op_type.as_deref().is_some_and(|name| name.ends_with("NBits"))
}

/// Whether a type says all that a session must be told: an element type at its bottom.
fn is_typed(known: Option<&TypeProto>) -> bool {
    match known.and_then(|known| known.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor) | type_proto::Value::SparseTensorType(tensor)) => {
            tensor.elem_type.is_some_and(|element| element != 0)
        }
        Some(type_proto::Value::SequenceType(inner) | type_proto::Value::OptionalType(inner)) => {
            is_typed(inner.elem_type.as_deref())
        }
        Some(type_proto::Value::MapType(map)) => {
            map.key_type.is_some() && is_typed(map.value_type.as_deref())
        }
        None => false,
    }
}

/// A type in ONNX's terms; of a tensor with `rank` dimensions of unknown length, where that is known.
fn type_of(known: &RawType, rank: Option<usize>) -> TypeProto {
    let tensor = |element: i32| type_proto::Tensor {
        elem_type: value::element_of(element).map(ElementType::onnx),
        shape: rank.map(|rank| TensorShapeProto { dim: vec![Dimension::default(); rank] }),
    };
    let boxed = |inner: &RawType| Some(Box::new(type_of(inner, None)));
    let value = match known {
        RawType::Tensor(element) => type_proto::Value::TensorType(tensor(*element)),
        RawType::Sparse(element) => type_proto::Value::SparseTensorType(tensor(*element)),
        RawType::Sequence(inner) => {
            type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed(inner) }))
        }
        RawType::Optional(inner) => {
            type_proto::Value::OptionalType(Box::new(type_proto::Sequence { elem_type: boxed(inner) }))
        }
        RawType::Map(key, inner) => type_proto::Value::MapType(Box::new(type_proto::Map {
            key_type: value::element_of(*key).map(ElementType::onnx),
            value_type: boxed(inner),
        })),
    };
    TypeProto { value: Some(value), denotation: None }
}
