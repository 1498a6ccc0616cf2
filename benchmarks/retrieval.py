"""Whether searches find what people ask for: a real corpus, and questions whose answers are known."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lakehouse_client import Client, connect

from benchmarks.corpus import descriptions
from benchmarks.processes import Line, lakehouse

Mode = Literal["vector", "lexical", "hybrid"]
_QUESTIONS = Path(__file__).with_name("questions.toml")
_ADMIN = '[auth]\nanonymous_role = "admin"\n[ai]\ncalls_per_minute = 100000\n'
_QUICK_TEXTS = 5000
_HELD = 500
_MODES: tuple[Mode, ...] = ("vector", "lexical", "hybrid")
_EFFORTS = (64, 128, 256)
_BUILD = {"table": "packages_embeddings", "db_schema": "docs", "m": 32, "ef_construction": 200}


def questions() -> dict[str, list[str]]:
    """What is asked, with the packages that are right answers."""
    return tomllib.loads(_QUESTIONS.read_text())


def retrieval(directory: Path, quick: bool) -> list[Line]:
    """Debian's package descriptions, embedded by the built-in model through the server, and asked for."""
    asked = questions()
    corpus = descriptions()
    if quick:
        # The answers, and some others that they have to be told from.
        answers = {name for names in asked.values() for name in names}
        wanted = [
            name in answers or at < _QUICK_TEXTS for at, name in enumerate(corpus["package"].to_pylist())
        ]
        corpus = corpus.filter(wanted)
    with lakehouse(directory, _ADMIN) as (uri, _), connect(uri) as lake:
        lake.execute("CREATE SCHEMA docs")
        lake.ingest("packages", corpus, schema="docs")
        began_s = time.perf_counter()
        embedded = lake.call(
            "vectors.embed",
            {"table": "packages", "db_schema": "docs", "columns": ["text"], "keys": ["package"]},
        )
        embed_s = time.perf_counter() - began_s
        built = lake.call("vectors.build", {"index": "packages", **_BUILD})
        lake.call("vectors.build", {"index": "all", **_BUILD, "algorithm": "exact"})
        lines = [
            Line(
                f"vectors.embed, {len(corpus):,} texts in {embedded['chunks']:,} pieces, to the commit",
                f"{embed_s:.1f} s",
                f"then vectors.build: the graph {built['build_seconds']:.1f} s",
                embedded["chunks"] / embed_s,
                "pieces/s",
            )
        ]
        lines += [_judged(lake, mode, asked) for mode in _MODES]
        lines += _beside_exact(lake, corpus["text"].to_pylist())
    return lines


def _judged(lake: Client, mode: Mode, asked: dict[str, list[str]]) -> Line:
    places = [place_of(found, asked[question]) for question, found in _found(lake, mode, list(asked)).items()]
    mrr, first, tenth = scores(places)
    return Line(
        f"{len(asked)} questions, {mode}",
        f"MRR@10 {mrr:.3f}",
        f"right at 1: {first:.3f}, within 10: {tenth:.3f}",
        mrr,
        "",
    )


def _found(lake: Client, mode: Mode, texts: list[str]) -> dict[str, list[str]]:
    """The packages that are found for each text, the best first, each once."""
    found = lake.search_vectors("packages", texts, k=30, ef=256, mode=mode)
    names: dict[str, list[str]] = {text: [] for text in texts}
    for number, name in zip(found["query"].to_pylist(), found["package"].to_pylist(), strict=True):
        listed = names[texts[number]]
        if name not in listed:
            listed.append(name)
    return names


def place_of(found: list[str], right: list[str]) -> int:
    """Where the first right answer stands among ten, from 1; 0 where none does."""
    return next((place for place, name in enumerate(found[:10], 1) if name in right), 0)


def scores(places: list[int]) -> tuple[float, float, float]:
    """Mean reciprocal rank, and the shares of those that are first and that are there at all."""
    held = np.array(places)
    reciprocal = np.where(held > 0, 1 / np.maximum(held, 1), 0.0)
    return float(reciprocal.mean()), float((held == 1).mean()), float((held > 0).mean())


def _beside_exact(lake: Client, texts: list[str]) -> list[Line]:
    """How much of the true neighbours the graph finds, of queries such as people type: short descriptions."""
    every = max(1, len(texts) // _HELD)
    queries = [text.partition("\n")[0] for text in texts[::every]][:_HELD]

    def nearest(index: str, **more: Any) -> tuple[np.ndarray[Any, Any], float]:
        began_s = time.perf_counter()
        found = lake.search_vectors(index, queries, k=10, **more)
        return found["score"].to_numpy().reshape(len(queries), 10), time.perf_counter() - began_s

    truth, exact_s = nearest("all")
    lines = []
    for ef in _EFFORTS:
        found, took_s = nearest("packages", ef=ef)
        # By score: of pieces with the same text any is as good as another.
        recall = float((found >= truth[:, -1:] - 1e-6).mean())
        lines.append(
            Line(
                f"recall@10 of the live index against exact search, ef {ef}, {len(queries)} texts at once",
                f"{recall:.4f}",
                f"{took_s * 1e3:.0f} ms, exact {exact_s * 1e3:.0f} ms",
                recall,
                "≥ 0.99",
            )
        )
    return lines
