"""Whether the server can do its work: cheap, real probes with a time limit, asked by HTTP and by gRPC."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from lakehouse.engine.usage import check_engine
from lakehouse.errors import LakehouseError, SchemaNotFound
from lakehouse.runtime import Lakehouse

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 5.0
_KEPT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found. ``reason`` is empty where all is well."""

    name: str
    reason: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.reason


class Probe:
    """One check, run in a thread of its own so that a check that hangs can be told from one that fails.

    What was found is kept for a moment: however often it is asked, the probe runs about once a second, and
    never twice at the same time.

    Args:
        name: What findings call it.
        check: Raises where something is wrong.
        time_limit_s: How long the check may take.
        kept_s: How long a finding holds.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], object],
        time_limit_s: float = _PROBE_SECONDS,
        kept_s: float = _KEPT_SECONDS,
    ) -> None:
        self.name = name
        self._check = check
        self._time_limit_s = time_limit_s
        self._kept_s = kept_s
        self._lock = threading.Lock()
        self._last = Finding(name, "", 0.0)
        self._last_s = -float("inf")
        self._answer: queue.SimpleQueue[Finding] | None = None

    def finding(self) -> Finding:
        """What the check finds now, or found a moment ago."""
        with self._lock:
            if time.monotonic() - self._last_s < self._kept_s:
                return self._last
            found = self._look()
            if found.ok != self._last.ok:
                level = log.info if found.ok else log.warning
                level("health changed", check=self.name, healthy=found.ok, reason=found.reason)
            self._last, self._last_s = found, time.monotonic()
            return found

    def _look(self) -> Finding:
        limit_s = self._time_limit_s
        if self._answer is None:
            self._answer = queue.SimpleQueue()
            threading.Thread(
                target=self._run, args=(self._answer,), name=f"probe-{self.name}", daemon=True
            ).start()
        else:
            limit_s = 0.0  # an earlier run has not come back: only look whether it has by now
        try:
            found = self._answer.get(timeout=limit_s) if limit_s else self._answer.get_nowait()
        except queue.Empty:
            return Finding(self.name, f"no answer within {self._time_limit_s:g} s", self._time_limit_s)
        self._answer = None
        return found

    def _run(self, answer: queue.SimpleQueue[Finding]) -> None:
        begun = time.monotonic()
        reason = ""
        try:
            self._check()
        except LakehouseError as error:
            reason = str(error)
        except Exception:
            log.exception("health check failed", check=self.name)
            reason = "the check failed; the server's log has the details"
        answer.put(Finding(self.name, reason, time.monotonic() - begun))


class Readiness:
    """The probes of a server, and whether it takes new work.

    Args:
        probes: What has to be well, by name.
        alive: Names of those that tell whether the process is alive at all.
    """

    def __init__(self, probes: Mapping[str, Probe], alive: tuple[str, ...]) -> None:
        self._probes = probes
        self._alive = alive
        self._draining = threading.Event()

    @classmethod
    def of(cls, lakehouse: Lakehouse, kept_s: float = _KEPT_SECONDS) -> Readiness:
        """The probes of a lakehouse: the engine answers, storage can be reached, the catalog can be read.

        Args:
            lakehouse: What is looked at.
            kept_s: How long a finding holds.
        """
        checks: dict[str, Callable[[], object]] = {
            "engine": lambda: check_engine(lakehouse.engine),
            "storage": lakehouse.bucket.check,
            "catalog": lambda: _check_catalog(lakehouse),
        }
        others = sorted(lakehouse.buckets.needed - {lakehouse.bucket.name})
        checks |= {f"storage-{name}": lakehouse.buckets[name].check for name in others}
        own = {lakehouse.catalog, lakehouse.registered}  # the latter is there as long as the storage is
        mounted = [catalog for catalog in lakehouse.catalogs if catalog not in own]
        checks |= {f"catalog-{catalog.name}": catalog.schemas for catalog in mounted}
        return cls({name: Probe(name, check, kept_s=kept_s) for name, check in checks.items()}, ("engine",))

    @property
    def names(self) -> tuple[str, ...]:
        """What is looked at."""
        return tuple(self._probes)

    @property
    def draining(self) -> bool:
        """Whether the server takes no new work."""
        return self._draining.is_set()

    def drain(self) -> None:
        """From now on the server is not ready, whatever the probes find."""
        self._draining.set()

    def alive(self) -> list[Finding]:
        """What tells whether the process is alive."""
        return [self._probes[name].finding() for name in self._alive]

    def findings(self) -> list[Finding]:
        """What every probe finds; they are asked one after the other, each within its time limit."""
        found = [probe.finding() for probe in self._probes.values()]
        if self.draining:
            found.append(Finding("draining", "the server is shutting down", 0.0))
        return found


def _check_catalog(lakehouse: Lakehouse) -> None:
    default = lakehouse.settings.catalog.default_schema
    if default.lower() not in {schema.lower() for schema in lakehouse.catalog.schemas()}:
        raise SchemaNotFound(f"the catalog does not show its default schema {default}")
