"""ONNX models that a dishonest or careless coordinator could sign: they fail where torch's own would not."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write(path: Path, kind: str, turns: int = 1) -> None:
    """Write a model of windows (N, channels, length) that predicts their mean, or fails to.

    Args:
        path: The file.
        kind: ``mean``; ``nan``; ``nan_later``: finite for zeros; ``loop``; or ``loop_later``: where a mean is
            above 0.5.
        turns: Of the loop, which adds nothing each time.
    """
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1000.0])
    nodes = [helper.make_node("ReduceMean", ["windows", "axes"], ["mean"], keepdims=0)]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    if kind == "mean":
        nodes.append(helper.make_node("Identity", ["mean"], ["prediction"]))
    elif kind == "nan_later":
        nodes.append(helper.make_node("Neg", ["mean"], ["less"]))
        nodes.append(helper.make_node("Sqrt", ["less"], ["prediction"]))
    elif kind == "nan":
        nodes.append(helper.make_node("Sub", ["mean", "one"], ["less"]))
        nodes.append(helper.make_node("Sqrt", ["less"], ["prediction"]))
    else:
        if kind == "loop_later":
            nodes += [
                helper.make_node("ReduceMax", ["mean"], ["most"], keepdims=0),
                helper.make_node("Greater", ["most", "half"], ["above"]),
                helper.make_node("Cast", ["above"], ["once"], to=TensorProto.INT64),
                helper.make_node("Mul", ["once", "all_turns"], ["turns"]),
            ]
        nodes.append(helper.make_node("Loop", ["turns", "go", "mean"], ["prediction"], body=_body()))
    constants = [
        one,
        axes,
        helper.make_tensor("all_turns" if kind == "loop_later" else "turns", TensorProto.INT64, [], [turns]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("go", TensorProto.BOOL, [], [True]),
    ]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("windows", TensorProto.FLOAT, ["n", None, None])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _body() -> onnx.GraphProto:
    values = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
    ]
    nodes = [
        helper.make_node("Identity", ["going"], ["goes"]),
        helper.make_node("Identity", ["before"], ["after"]),
    ]
    outputs = [
        helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
        helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
    ]
    return helper.make_graph(nodes, "turn", values, outputs)
