"""Connections to an Ollama service that read no more than an answer can be."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from lakehouse.errors import ModelFailed


class Bounded(httpx.AsyncHTTPTransport):
    """Connections whose answers have a bound.

    Args:
        most_bytes: Of one answer.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, self._most_bytes)
        return response


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, most_bytes: int) -> None:
        self._stream = stream
        self._most_bytes = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._most_bytes:
                raise ModelFailed(f"the Ollama service answers with more than {self._most_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
