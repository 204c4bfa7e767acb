//! Numbers of dimensions of values of which the model states no shape, as far as operators tell: ONNX's checker wants a shape,
//! of dimensions of unknown length at least, for all that a model takes and gives. What is not certain stays unknown, as a
//! runtime refuses a shape that is wrong.

use super::proto::{
    AttributeProto, Dimension, GraphProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto,
    dimension, type_proto,
};
use super::scope::Scope;
use super::subgraph::graphs_of;

/// What is known of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    rank: usize,
    /// Of a tensor of one dimension: its length, as such tensors are the shapes that others get.
    len: Option<usize>,
    /// Of a constant of whole numbers: what they are.
    numbers: Option<Vec<i64>>,
}

/// More dimensions than any operator takes: a number above it is the length of a list that a crafted model states.
const MOST_DIMENSIONS: usize = 64;

impl Known {
    fn of(rank: usize) -> Option<Self> {
        (rank <= MOST_DIMENSIONS).then(|| Self { rank, ..Self::default() })
    }

    fn list(len: Option<usize>) -> Option<Self> {
        Some(Self { rank: 1, len, numbers: None })
    }
}

/// Ranks by the names of values.
#[derive(Debug, Default)]
pub struct Ranks(Scope<Known>);

impl Ranks {
    /// Adds what a graph states and what its nodes tell; to be called for graphs in the order of computation.
    pub fn learn(&mut self, graph: &GraphProto) {
        for info in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            self.0.set(info.name(), stated(info));
        }
        graph.initializer.iter().for_each(|tensor| self.0.set(tensor.name(), of_tensor(tensor)));
        for node in &graph.node {
            for (name, made) in node.output.iter().zip(self.outputs(node)) {
                self.0.set(name, made);
            }
        }
    }

    /// Gives the tensors among `infos` that have no shape one of dimensions of unknown length, where their number is known.
    pub fn fill(&self, infos: &mut [ValueInfoProto]) {
        for info in infos {
            let Some(known) = self.0.get(info.name()) else { continue };
            if let Some(type_proto::Value::TensorType(tensor)) =
                info.r#type.as_mut().and_then(|own| own.value.as_mut())
                && tensor.shape.is_none()
            {
                tensor.shape = Some(TensorShapeProto { dim: vec![Dimension::default(); known.rank] });
            }
        }
    }

    fn input(&self, node: &NodeProto, number: usize) -> Option<&Known> {
        self.0.get(node.input.get(number)?)
    }

    fn rank(&self, node: &NodeProto, number: usize) -> Option<usize> {
        self.input(node, number).map(|known| known.rank)
    }

    /// The greatest rank of the inputs, where all are known: what broadcasting gives.
    fn widest(&self, node: &NodeProto) -> Option<Known> {
        let ranks: Option<Vec<usize>> = (0..node.input.len()).map(|number| self.rank(node, number)).collect();
        Known::of(ranks?.into_iter().max()?)
    }

    /// What all outputs of a node are known to be: graphs in it are looked at once.
    fn outputs(&mut self, node: &NodeProto) -> Vec<Option<Known>> {
        let own = matches!(node.domain(), "" | "ai.onnx");
        let given = match node.op_type() {
            "If" if own => self.branches(node),
            "Loop" if own => self.repeated(node),
            "Scan" if own => self.scanned(node),
            _ => return (0..node.output.len()).map(|number| self.output(node, number)).collect(),
        };
        let mut given = given.unwrap_or_default();
        given.resize(node.output.len(), None);
        given
    }

    /// What output `number` of a node without graphs in it is known to be.
    fn output(&self, node: &NodeProto, number: usize) -> Option<Known> {
        let rank = |k| self.rank(node, k);
        let same = || Known::of(rank(0)?);
        if !matches!(node.domain(), "" | "ai.onnx") {
            // What weights in few bits are multiplied by.
            return if is_few_bits(node) { same() } else { None };
        }
        match node.op_type() {
            op if SAME.contains(&op) && number == 0 => same(),
            op if BROADCAST.contains(&op) => self.widest(node),
            op if op.starts_with("Reduce") => self.reduced(node),
            "Identity" => self.input(node, 0).cloned(),
            "Cast" => self.input(node, 0).cloned(),
            "MaxPool" | "TopK" | "Split" | "Dropout" => same(),
            "DynamicQuantizeLinear" => {
                if number == 0 {
                    same()
                } else {
                    Known::of(0)
                }
            }
            "Shape" => Known::list(rank(0).filter(|_| node.attribute.is_empty())),
            "Size" => Known::of(0),
            "Range" => Known::of(1),
            "Gemm" | "Flatten" | "NonZero" | "NonMaxSuppression" => Known::of(2),
            "LSTM" | "GRU" | "RNN" => Known::of(if number == 0 { 4 } else { 3 }),
            "OneHot" => Known::of(rank(0)? + 1),
            "Constant" => constant(node),
            "ConstantOfShape" => Known::of(self.input(node, 0)?.len?),
            "Reshape" => match attribute(node, "shape") {
                Some(shape) => Known::of(shape.ints.len()),
                None => Known::of(self.input(node, 1)?.len?),
            },
            "Expand" => Known::of(rank(0)?.max(self.input(node, 1)?.len?)),
            "MatMul" | "MatMulInteger" => Known::of(product(rank(0)?, rank(1)?)),
            "QLinearMatMul" => Known::of(product(rank(0)?, rank(3)?)),
            "ArgMax" | "ArgMin" => Known::of(rank(0)?.checked_sub(usize::from(!keeps(node)))?),
            "Gather" => Known::of((rank(0)? + rank(1)?).checked_sub(1)?),
            "Unsqueeze" => {
                let known = Known::of(rank(0)?.checked_add(self.axes(node)?)?)?;
                Some(Known { len: (known.rank == 1).then_some(1), ..known })
            }
            "Squeeze" => Known::of(rank(0)?.checked_sub(self.axes(node)?)?),
            "Concat" => self.joined(node),
            "Slice" => self.slice(node),
            _ => None,
        }
    }

    /// Number of axes that a node names, in its second input or, before version 13, in an attribute.
    fn axes(&self, node: &NodeProto) -> Option<usize> {
        match attribute(node, "axes") {
            Some(axes) => Some(axes.ints.len()),
            None => self.input(node, 1)?.len,
        }
    }

    fn reduced(&self, node: &NodeProto) -> Option<Known> {
        let rank = self.rank(node, 0)?;
        if keeps(node) {
            return Known::of(rank);
        }
        let is_named =
            attribute(node, "axes").is_some() || node.input.get(1).is_some_and(|name| !name.is_empty());
        // Without axes all go, or none.
        if is_named { Known::of(rank.checked_sub(self.axes(node)?)?) } else { None }
    }

    fn joined(&self, node: &NodeProto) -> Option<Known> {
        let parts: Vec<&Known> =
            (0..node.input.len()).filter_map(|number| self.input(node, number)).collect();
        let rank = parts.first()?.rank;
        let lens: Option<Vec<usize>> = parts.iter().map(|part| part.len).collect();
        let len = lens.filter(|lens| rank == 1 && lens.len() == node.input.len());
        let sum = |lens: Vec<usize>| lens.into_iter().try_fold(0usize, usize::checked_add);
        Some(Known { rank, len: len.and_then(sum), numbers: None })
    }

    fn slice(&self, node: &NodeProto) -> Option<Known> {
        let known = self.input(node, 0)?;
        let numbers = |number: usize, name: &str| match attribute(node, name) {
            Some(own) => Some(own.ints.clone()),
            None => self.input(node, number)?.numbers.clone(),
        };
        let len = || {
            let len = i64::try_from(known.len?).ok()?;
            let ([start], [end]) = (
                numbers(1, "starts")?.as_slice().try_into().ok()?,
                numbers(2, "ends")?.as_slice().try_into().ok()?,
            );
            let has_steps = node.input.get(4).is_some_and(|name| !name.is_empty());
            let place = |at: i64| if at < 0 { (at + len).max(0) } else { at.min(len) };
            let taken: i64 = place(end) - place(start);
            usize::try_from(taken.max(0)).ok().filter(|_| !has_steps)
        };
        Some(Known { rank: known.rank, len: if known.rank == 1 { len() } else { None }, numbers: None })
    }

    /// What the graphs of a node all give.
    fn branches(&mut self, node: &NodeProto) -> Option<Vec<Option<Known>>> {
        let given: Vec<Ranked> = graphs_of(node).map(|body| self.inside(body, &[])).collect();
        let (first, others) = given.split_first()?;
        let same = |(number, rank): (usize, &Option<usize>)| {
            let all = others.iter().all(|other| other.get(number) == Some(rank));
            rank.filter(|_| all).and_then(Known::of)
        };
        Some(first.iter().enumerate().map(same).collect())
    }

    /// A loop's outputs: values that are carried on, and ones that each round gives, joined to one dimension more.
    fn repeated(&mut self, node: &NodeProto) -> Option<Vec<Option<Known>>> {
        let carried: Ranked = (2..node.input.len()).map(|number| self.rank(node, number)).collect();
        let before: Ranked = [Some(0), Some(0)].into_iter().chain(carried.iter().copied()).collect();
        let made = self.inside(graphs_of(node).next()?, &before);
        // The first says whether the loop goes on.
        Some(
            made.iter().skip(1).enumerate().map(|(number, rank)| carry(*rank, carried.get(number))).collect(),
        )
    }

    /// A scan's outputs: states, and what each step gives, joined to one dimension more.
    fn scanned(&mut self, node: &NodeProto) -> Option<Vec<Option<Known>>> {
        let scanned = usize::try_from(attribute(node, "num_scan_inputs")?.i?).ok()?;
        let states = node.input.len().checked_sub(scanned)?;
        let before: Ranked = (0..node.input.len())
            .map(|number| self.rank(node, number)?.checked_sub(usize::from(number >= states)))
            .collect();
        let made = self.inside(graphs_of(node).next()?, &before);
        let given = |(number, rank): (usize, &Option<usize>)| carry(*rank, before[..states].get(number));
        Some(made.iter().enumerate().map(given).collect())
    }

    /// Ranks of what a graph in a node gives, whose inputs have the ranks `before`.
    fn inside(&mut self, body: &GraphProto, before: &[Option<usize>]) -> Ranked {
        let hidden = self.0.enter(body);
        for (info, rank) in body.input.iter().zip(before) {
            self.0.set(info.name(), rank.and_then(Known::of));
        }
        self.learn(body);
        let given = body.output.iter().map(|output| self.0.get(output.name()).map(|known| known.rank));
        let given = given.collect();
        self.0.leave(hidden);
        given
    }
}

/// Ranks, where they are known.
type Ranked = Vec<Option<usize>>;

/// An output of a body that is repeated and gives `rank`: a value carried on from one of rank `before`, or joined to those of
/// the other rounds.
fn carry(rank: Option<usize>, before: Option<&Option<usize>>) -> Option<Known> {
    match before {
        Some(before) => Known::of(rank?).filter(|_| *before == rank),
        None => Known::of(rank? + 1),
    }
}

/// The first output has the rank of the first input.
const SAME: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Bernoulli",
    "BitwiseNot",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Elu",
    "Erf",
    "Exp",
    "EyeLike",
    "Floor",
    "GatherElements",
    "Gelu",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "PRelu",
    "Pad",
    "QLinearConv",
    "QuantizeLinear",
    "RMSNormalization",
    "RandomNormalLike",
    "RandomUniformLike",
    "Reciprocal",
    "Relu",
    "Resize",
    "ReverseSequence",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "Trilu",
    "Upsample",
];

/// The inputs are broadcast to one shape.
const BROADCAST: &[&str] = &[
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
];

fn is_few_bits(node: &NodeProto) -> bool {
    node.domain() == "com.microsoft" && node.op_type() == "MatMulNBits"
}

/// Rank of a product of matrices, of which a vector loses its dimension.
fn product(left: usize, right: usize) -> usize {
    match (left, right) {
        (1, 1) => 0,
        (1, other) | (other, 1) => other.saturating_sub(1),
        (left, right) => left.max(right),
    }
}

/// Whether dimensions that are reduced stay, with the length 1.
fn keeps(node: &NodeProto) -> bool {
    attribute(node, "keepdims").and_then(|own| own.i) != Some(0)
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

fn stated(info: &ValueInfoProto) -> Option<Known> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref() else {
        return None;
    };
    let dims = &tensor.shape.as_ref()?.dim;
    let len = match dims.as_slice() {
        [Dimension { value: Some(dimension::Value::DimValue(len)), .. }] => usize::try_from(*len).ok(),
        _ => None,
    };
    Some(Known { len, ..Known::of(dims.len())? })
}

fn of_tensor(tensor: &TensorProto) -> Option<Known> {
    let len = match tensor.dims.as_slice() {
        [len] => usize::try_from(*len).ok(),
        _ => None,
    };
    Some(Known { len, numbers: numbers(tensor), ..Known::of(tensor.dims.len())? })
}

/// The elements of a small tensor of int64.
fn numbers(tensor: &TensorProto) -> Option<Vec<i64>> {
    /// Longer ones are no places in a shape.
    const MOST: usize = 64;
    if tensor.data_type() != 7 || tensor.is_external() {
        return None;
    }
    let raw = tensor.raw_data.as_ref().filter(|raw| raw.len() <= 8 * MOST)?;
    raw.chunks(8).map(|part| Some(i64::from_le_bytes(part.try_into().ok()?))).collect()
}

fn constant(node: &NodeProto) -> Option<Known> {
    let [own] = node.attribute.as_slice() else { return None };
    match own.name() {
        "value" => of_tensor(own.t.as_deref()?),
        "value_int" | "value_float" | "value_string" => Known::of(0),
        "value_ints" => Some(Known { rank: 1, len: Some(own.ints.len()), numbers: Some(own.ints.clone()) }),
        "value_floats" => Known::list(Some(own.floats.len())),
        "value_strings" => Known::list(Some(own.strings.len())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|n| (*n).to_owned()).collect(),
            output: outputs.iter().map(|n| (*n).to_owned()).collect(),
            ..NodeProto::default()
        }
    }

    fn with(node: NodeProto, name: &str, i: Option<i64>, g: Option<GraphProto>) -> NodeProto {
        let own =
            AttributeProto { name: Some(name.into()), i, g: g.map(Box::new), ..AttributeProto::default() };
        NodeProto { attribute: [node.attribute.as_slice(), &[own]].concat(), ..node }
    }

    fn list(name: &str, numbers: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            data_type: Some(7),
            dims: vec![numbers.len() as i64],
            raw_data: Some(numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>().into()),
            ..TensorProto::default()
        }
    }

    fn body(op: &str, output: &str) -> GraphProto {
        let info = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
        GraphProto {
            input: ["i", "go", "carried"].map(info).into(),
            node: vec![
                node("Identity", &["go"], &["on"]),
                node(op, &["carried"], &[output]),
                node("Size", &["x"], &["size"]),
            ],
            output: ["on", output, "size"].map(info).into(),
            ..GraphProto::default()
        }
    }

    #[test]
    fn ranks_follow_the_nodes() {
        let tensor =
            |dims: &[i64]| TensorProto { dims: dims.to_vec(), data_type: Some(1), ..TensorProto::default() };
        let branch = |op: &str| GraphProto {
            node: vec![node(op, &["x"], &["inner"])],
            output: vec![ValueInfoProto { name: Some("inner".into()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let graph = GraphProto {
            initializer: vec![
                TensorProto { name: Some("x".into()), ..tensor(&[2, 3, 4]) },
                TensorProto { name: Some("w".into()), ..tensor(&[4]) },
                list("one", &[1]),
                list("two", &[2]),
                list("axes", &[0, 2]),
            ],
            node: vec![
                node("Add", &["w", "x"], &["sum"]),
                node("MatMul", &["x", "w"], &["product"]),
                with(node("ReduceMean", &["x", "axes"], &["mean"]), "keepdims", Some(0), None),
                with(node("ReduceMean", &["x"], &["all or none"]), "keepdims", Some(0), None),
                node("Shape", &["x"], &["shape"]),
                node("Slice", &["shape", "one", "two"], &["part"]),
                node("Gather", &["shape", "one"], &["picked"]),
                node("Squeeze", &["picked", "one"], &["number"]),
                node("Unsqueeze", &["number", "one"], &["listed"]),
                with(node("Concat", &["part", "listed", "axes"], &["target"]), "axis", Some(0), None),
                node("Reshape", &["x", "target"], &["shaped"]),
                node("Reshape", &["x", "nowhere"], &["unknown"]),
                with(
                    with(node("If", &["b"], &["chosen"]), "then_branch", None, Some(branch("Relu"))),
                    "else_branch",
                    None,
                    Some(branch("Neg")),
                ),
                with(
                    with(node("If", &["b"], &["either"]), "then_branch", None, Some(branch("Relu"))),
                    "else_branch",
                    None,
                    Some(branch("Size")),
                ),
                with(
                    node("Loop", &["n", "b", "x"], &["last", "sizes"]),
                    "body",
                    None,
                    Some(body("Neg", "next")),
                ),
                with(node("Loop", &["n", "b", "x"], &["odd"]), "body", None, Some(body("Size", "next"))),
                NodeProto { domain: Some("own".into()), ..node("Relu", &["x"], &["foreign"]) },
            ],
            ..GraphProto::default()
        };
        let mut ranks = Ranks::default();
        ranks.learn(&graph);
        let wanted = [
            ("sum", Some(3)),
            ("product", Some(2)),
            ("mean", Some(1)),
            ("all or none", None),
            ("part", Some(1)),
            ("number", Some(0)),
            ("shaped", Some(4)),
            ("unknown", None),
            ("chosen", Some(3)),
            ("either", None),
            ("last", Some(3)),
            ("sizes", Some(1)),
            ("odd", None),
            ("foreign", None),
        ];
        for (name, rank) in wanted {
            assert_eq!(ranks.0.get(name).map(|known| known.rank), rank, "{name}");
        }
    }
}
