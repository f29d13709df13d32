"""Which ONNX operators the importer takes, and the list of those in a network that it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from dlcomp.errors import ModelError
from dlcomp.frontend.shapes import declared

# The standard operators that TVM 0.27's importer converts (a test compares this with TVM's registry).
# Its "Attention" is com.microsoft's, not the standard one. "If" is handled without a converter.
STANDARD = frozenset(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Compress Concat
    ConcatFromSequence Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish
    Mod Mul Neg NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or
    PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize RoiAlign Round Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct
    SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
    """.split()
)
# Those that TVM's importer lacks and converters of our own take (dlcomp.frontend.ops; a test compares them).
OWN = frozenset(
    """
    BitCast Col2Im ConvInteger CumProd DFT Det GRU LSTM LpNormalization QLinearConv QLinearMatMul RNN
    ReverseSequence TensorScatter
    """.split()
)
# Those that the host runs beside the compiled code, because the data decide the size of their results or
# because no network spends its time in them.
ON_HOST = frozenset(
    """
    Compress DeformConv If Loop MelWeightMatrix NonMaxSuppression NonZero STFT Scan TfIdfVectorizer Unique
    """.split()
)
# Of ai.onnx.ml: what scikit-learn's and the tree libraries' exporters write.
LEARNING = "ai.onnx.ml"
LEARNING_ON_HOST = frozenset(
    """
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
    Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
    TreeEnsembleRegressor
    """.split()
)
# The operands that decide what the result looks like; the host runs a node whose deciding operands are data.
_DECIDING: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (2,),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# Those that are written out as other operators where shapes and counts are known (dlcomp.frontend.unroll).
WRITTEN_OUT = frozenset({"Scan", "Loop", "If", "LSTM", "GRU", "RNN"})
# Those of onnxruntime's own domain.
CONTRIB = frozenset(
    "Attention BiasGelu EmbedLayerNormalization FastGelu Gelu MatMulInteger16 SkipLayerNormalization".split()
)
_CONTRIB_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class UnsupportedOp:
    """One operator type that the importer does not take, and the nodes that use it."""

    op: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.nodes[:4]) + (", ..." if len(self.nodes) > 4 else "")
        return f"{len(self.nodes)} {self.op} ({shown})"


def qualified(node: onnx.NodeProto) -> str:
    """``Conv``, or ``domain::Op`` outside the standard domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def label(node: onnx.NodeProto) -> str:
    """A node's name, or the name of its first output if it has none."""
    return str(node.name or next(iter(node.output), "") or "unnamed")


def deciding(node: onnx.NodeProto) -> list[str]:
    """The names of the operands of ``node`` that decide what its result looks like."""
    if node.domain not in ("", "ai.onnx"):
        return []
    places = (1,) if node.op_type.startswith("Reduce") else _DECIDING.get(node.op_type, ())
    return [node.input[place] for place in places if place < len(node.input) and node.input[place]]


def taken(node: onnx.NodeProto) -> list[str]:
    """The names of all values that ``node`` takes, those that its bodies see outside included."""
    names = dict.fromkeys(name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                names |= dict.fromkeys(name for name in taken(inner) if name not in own)
                own |= set(inner.output)
            names |= dict.fromkeys(value.name for value in graph.output if value.name not in own)
    return list(names)


def describe_node(node: onnx.NodeProto, graph: onnx.GraphProto) -> str:
    """Operator, name and input shapes of a node, for messages."""
    known = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shape = declared(value)
        if shape is not None:
            known.setdefault(value.name, list(shape))
    operands = ", ".join(f"{i}{known[i]}" if i in known else i or "(none)" for i in node.input)
    return f"{qualified(node)} node {label(node)!r} of {operands or 'no inputs'}"


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of nested graphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
            for nested in attribute.graphs:
                yield from nodes(nested)


def unsupported(graph: onnx.GraphProto) -> tuple[UnsupportedOp, ...]:
    """All operator types in ``graph`` that cannot be imported, most frequent first."""
    found: dict[str, list[str]] = {}
    for node in nodes(graph):
        if not is_supported(node):
            found.setdefault(qualified(node), []).append(label(node))
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(UnsupportedOp(op, tuple(names)) for op, names in ranked)


def require_supported(graph: onnx.GraphProto, name: str) -> None:
    """Raise a ModelError that lists every unsupported operator of ``graph`` at once."""
    found = unsupported(graph)
    if found:
        listing = "; ".join(map(str, found))
        raise ModelError(
            f"unsupported operators: {listing}",
            where=name,
            hint="export the model without them, or replace these nodes by supported ones "
            "(`dlcomp inspect` lists what the model uses)",
        )


def is_supported(node: onnx.NodeProto) -> bool:
    """Whether the importer has a converter for ``node``'s operator."""
    if node.domain in ("", "ai.onnx"):
        return node.op_type in STANDARD or node.op_type in OWN or node.op_type in ON_HOST
    if node.domain == LEARNING:
        return node.op_type in LEARNING_ON_HOST
    return node.domain == _CONTRIB_DOMAIN and node.op_type in CONTRIB


def runs_on_host(node: onnx.NodeProto) -> bool:
    """Whether the host runs ``node`` whatever its operands are."""
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return True  # the places of the largest elements
    if node.domain in ("", "ai.onnx"):
        return node.op_type in ON_HOST
    return node.domain == LEARNING and node.op_type in LEARNING_ON_HOST
