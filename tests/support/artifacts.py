"""A tiny artifact built by hand, quickly and without torch; its products can be counted on paper."""

import json
from pathlib import Path

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, pre_tokenizers, processors

WORDS = ["open", "close", "early", "late", "red", "blue", "un", "##able"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
LABELS = ["first", "second", "third"]
WIDTH, HIDDEN, MAX_LENGTH = 16, 32, 24
TEXTS = ["open early red", "close late", "blue unable open close early"]


def tiny_graph(*, reads_types: bool = False) -> onnx.ModelProto:
    """Token rows [B, S, 16], with ``reads_types`` plus those of token types → 32 wide → the first token's 3 logits."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(size=(len(PIECES), WIDTH)),
        "inner": rng.normal(size=(WIDTH, HIDDEN)),
        "outer": rng.normal(size=(HIDDEN, len(LABELS))),
    }
    constants = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in weights.items()]
    constants.append(numpy_helper.from_array(np.array(0), "first_token"))
    constants.append(numpy_helper.from_array(np.array([1]), "tokens_axis"))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "tokens_axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["rows", "mean"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "inner"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("Gather", ["positive", "first_token"], ["pooled"], axis=1),
        helper.make_node("MatMul", ["pooled", "outer"], ["logits"]),
    ]
    names = ["input_ids"]
    if reads_types:
        names.append("token_type_ids")
        kinds = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
        constants.append(numpy_helper.from_array(kinds, "kinds"))
        nodes[0] = helper.make_node("Gather", ["table", "input_ids"], ["words"])
        nodes.insert(1, helper.make_node("Gather", ["kinds", "token_type_ids"], ["of_kind"]))
        nodes.insert(2, helper.make_node("Add", ["words", "of_kind"], ["rows"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def tiny_artifact(directory: Path, **config) -> Path:
    """Write graph, tokenizer and configuration into a new ``directory``; returns it."""
    directory.mkdir(parents=True)
    graph = tiny_graph(reads_types=config.get("takes_pairs", False))
    onnx.save_model(graph, str(directory / "model.onnx"))
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(directory / "tokenizer.json"))
    values = {
        "task": "single_label",
        "labels": LABELS,
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
        "num_threads": 1,
        **config,
    }
    (directory / "distiltune.json").write_text(json.dumps(values))
    return directory
