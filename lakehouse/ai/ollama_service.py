"""A connection to an Ollama service: requests that can be stopped, are made again, and fail in our words.

Requests are made by an event loop in a thread of its own, since only there they can be stopped at any time:
whoever waits for one asks its ``check`` meanwhile, and what is stopped is closed, which stops the model too.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lakehouse.ai.provider import Check
from lakehouse.config import ModelSettings
from lakehouse.errors import (
    LakehouseError,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    ShuttingDown,
)

if TYPE_CHECKING:
    import httpx
    from ollama import AsyncClient

T = TypeVar("T")
Request = Callable[["AsyncClient"], Awaitable[T]]

_POLL_SECONDS = 0.05
_CONNECT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_DEFAULT_HOST = "http://localhost:11434"
_BUSY = frozenset({429, 502, 503, 504})
_REFUSED = frozenset({401, 403})
# The longest vector there may be, each number with its digits; and what else an answer holds.
_BYTES_PER_TEXT = 65_536 * 24
_OTHER_BYTES = 4_000_000
_PATH = re.compile(r"(?:\b[A-Za-z]:)?[/\\][^\s:;,'\"]+")
_SHOWN = 200


class _TryAgain(Exception):
    """A request found no service, which may be there in a moment."""

    def __init__(self, error: ModelUnavailable) -> None:
        self.error = error


@dataclass(slots=True)
class _Parts(Generic[T]):
    """An answer in parts, of which one was awaited already."""

    rest: AsyncIterator[T]
    first: T | None


@dataclass(slots=True)
class _Loop:
    """A running event loop and what belongs to it."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    client: AsyncClient
    slots: asyncio.Semaphore


class OllamaService:
    """The service of one profile. Nothing is connected before the first request.

    Args:
        settings: The profile.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._closed = False

    def ask(self, requests: Sequence[Request[T]], check: Check) -> list[T]:
        """The answers to requests, in their order; a bounded number is under way at once.

        Raises:
            ModelUnavailable: The service does not answer, or not in time.
            ModelNotFound: It does not have the model.
            ModelFailed: It refuses, or what it answers is not understood.
        """
        running = self._start()
        return self._await(self._all(running, requests), check)

    def stream(self, request: Request[AsyncIterator[T]], check: Check) -> Iterator[T]:
        """The parts of an answer as they come; raises like ``ask``. Closing it stops the service's work."""
        running = self._start()
        opening: Coroutine[Any, Any, _Parts[T]] = self._open(running, request)
        parts = self._await(opening, check)
        try:
            while True:
                step = self._next(parts)
                part = self._await(step, check)
                if part is None:
                    return
                yield part
        finally:
            with suppress(LakehouseError):
                self._await(self._shut(running, parts), _uninterrupted)

    def close(self) -> None:
        """Stop what is under way. Harmless when repeated."""
        with self._lock:
            running, self._running = self._running, None
            self._closed = True
        if running is None:
            return
        future = asyncio.run_coroutine_threadsafe(_end(running), running.loop)
        wait([future], timeout=_CONNECT_SECONDS)
        running.loop.call_soon_threadsafe(running.loop.stop)
        running.thread.join(timeout=_CONNECT_SECONDS)

    # -- in the caller's thread ---------------------------------------------------------------------

    def _start(self) -> _Loop:
        with self._lock:
            if self._closed:
                raise ShuttingDown("the server is shutting down")
            if self._running is None:
                client = self._client()
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="ollama", daemon=True)
                slots = asyncio.Semaphore(self._settings.requests_in_flight)
                self._running = _Loop(loop, thread, client, slots)
                thread.start()
            return self._running

    def _client(self) -> AsyncClient:
        import httpx  # noqa: PLC0415 - slow to import
        from ollama import AsyncClient  # noqa: PLC0415 - slow to import

        from lakehouse.ai.ollama_transport import Bounded  # noqa: PLC0415 - needs httpx

        settings = self._settings
        return AsyncClient(
            settings.host,
            follow_redirects=False,
            timeout=httpx.Timeout(
                settings.timeout_seconds, connect=min(_CONNECT_SECONDS, settings.timeout_seconds)
            ),
            auth=self._authorize,
            transport=Bounded(settings.batch_size * _BYTES_PER_TEXT + _OTHER_BYTES),
        )

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        """Put the token in, as it is now; without one nothing, whatever the environment says."""
        request.headers.pop("authorization", None)
        if self._settings.token is not None:
            request.headers["authorization"] = f"Bearer {self._settings.token.resolve().get_secret_value()}"
        return request

    def _await(self, work: Coroutine[Any, Any, T], check: Check) -> T:
        with self._lock:
            running = self._running
            if running is None:
                work.close()
                raise ShuttingDown("the server is shutting down")
            future: Future[T] = asyncio.run_coroutine_threadsafe(work, running.loop)
        try:
            while not wait([future], timeout=_POLL_SECONDS).done:
                check()
            return future.result()
        except CancelledError:
            raise ShuttingDown("the server is shutting down") from None
        finally:
            future.cancel()

    # -- in the loop --------------------------------------------------------------------------------

    async def _all(self, running: _Loop, requests: Sequence[Request[T]]) -> list[T]:
        async def one(request: Request[T]) -> T:
            async with running.slots:
                return await self._persistently(lambda: self._once(running.client, request))

        tasks = [asyncio.ensure_future(one(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _once(self, client: AsyncClient, request: Request[T]) -> T:
        async with self._translated(), asyncio.timeout(self._settings.timeout_seconds):
            return await request(client)

    async def _open(self, running: _Loop, request: Request[AsyncIterator[T]]) -> _Parts[T]:
        """Begin an answer, and keep a slot until it is shut."""
        await running.slots.acquire()
        try:

            async def begin() -> _Parts[T]:
                async with self._translated(), asyncio.timeout(self._settings.timeout_seconds):
                    parts = await request(running.client)
                    try:
                        return _Parts(parts, await anext(parts, None))
                    except BaseException:
                        await _aclose(parts)
                        raise

            return await self._persistently(begin)
        except BaseException:
            running.slots.release()
            raise

    async def _next(self, parts: _Parts[T]) -> T | None:
        if parts.first is not None:
            first, parts.first = parts.first, None
            return first
        try:
            async with self._translated(), asyncio.timeout(self._settings.timeout_seconds):
                return await anext(parts.rest, None)
        except _TryAgain as error:
            raise error.error from error.__cause__

    async def _shut(self, running: _Loop, parts: _Parts[T]) -> None:
        try:
            with suppress(Exception):
                await _aclose(parts.rest)
        finally:
            running.slots.release()

    async def _persistently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again, ever later, while the service is not there."""
        for number in range(self._settings.retries + 1):
            try:
                return await attempt()
            except _TryAgain as error:
                if number == self._settings.retries:
                    raise error.error from error.__cause__
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**number)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Turns what the client raises into our errors."""
        import httpx  # noqa: PLC0415 - slow to import
        from ollama import ResponseError  # noqa: PLC0415 - slow to import

        try:
            yield
        except LakehouseError:
            raise
        except ResponseError as error:
            raise self._answered(error.status_code, error.error) from error
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise ModelUnavailable(
                f"{self._place()} gave no answer within {self._settings.timeout_seconds:g} s",
                "try again, or raise timeout_seconds of the model in ai.models",
            ) from error
        except (ConnectionError, httpx.TransportError) as error:
            raise _TryAgain(
                ModelUnavailable(
                    f"{self._place()} does not answer, or went away",
                    f"`ollama serve` starts one, `{self._pull()}` brings the model",
                )
            ) from error
        except (httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
            raise ModelFailed(
                f"what {self._place()} answers is not what Ollama answers",
                "is host of the model in ai.models that of an Ollama service?",
            ) from error

    def _answered(self, status: int, text: str) -> Exception:
        """The error for one that the service answers with."""
        model = self._settings.model
        if status == 404:
            return ModelNotFound(
                f"{self._place()} does not have the model '{model}'", f"`{self._pull()}` brings it"
            )
        if status in _REFUSED:
            return ModelFailed(f"{self._place()} refuses us", "see token of the model in ai.models")
        said = _PATH.sub("…", " ".join(text.split()))[:_SHOWN] or f"status {status}"
        if status in _BUSY:
            return _TryAgain(ModelUnavailable(f"{self._place()} is busy: {said}", "try again in a moment"))
        return ModelFailed(f"{self._place()} could not do this with the model '{model}': {said}")

    def _place(self) -> str:
        return f"the Ollama service at {self._settings.host}"

    def _pull(self) -> str:
        host = self._settings.host.rstrip("/")
        where = "" if host == _DEFAULT_HOST else f"OLLAMA_HOST={host} "
        return f"{where}ollama pull {self._settings.model}"


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(running: _Loop) -> None:
    """Stop all that is under way, and leave no connection open."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await running.client.close()  # type: ignore[no-untyped-call]
    await running.loop.shutdown_asyncgens()


async def _aclose(parts: AsyncIterator[Any]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()


def _uninterrupted() -> None:
    return None
