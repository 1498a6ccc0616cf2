"""Which parameters to try next, and which of those that were tried are the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lakehouse.errors import InvalidRequest, TrialNotFound
from lakehouse.vectors.parameters import IndexParameters, Storage, check_ef
from lakehouse.vectors.trials.journal import Build, Trial
from lakehouse.vectors.trials.measuring import MOST_THREADS

NEIGHBOURS = (8, 16, 32, 48, 64)
EFFORTS_OF_BUILDING = (40, 80, 160, 320)
EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
MOST_BUILDS = 1000
MOST_EFFORTS = 50
_ALL_FOUND = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What to try.

    Without a bound it is a grid: every combination. With one, of the combinations (or of usual ones where
    none are given) those are built first that promise most, until the bound is reached.

    Attributes:
        evaluation: The evaluation set; the newest that fits where left out.
        storage: How numbers are kept; as the live index keeps them where left out.
        m: Neighbours of a vector; likewise.
        ef_construction: Efforts of building; likewise.
        ef_search: Efforts of searching, measured on each index. Where left out, they grow until
            half of what ``recall`` allows to be missing is found for sure.
        recall: What is aimed at by the choice of what to build next.
        max_trials: Most indexes to build, those that are known already among them.
        max_seconds: Most seconds to take.
        threads: How many search at once in the second part of measuring; 0 for as many as there are cores.
        again: Whether what has been measured before is measured once more.

    Raises:
        InvalidRequest: There is nothing to try, or a value is out of bounds.
    """

    evaluation: str = ""
    storage: tuple[Storage, ...] | None = None
    m: tuple[int, ...] | None = None
    ef_construction: tuple[int, ...] | None = None
    ef_search: tuple[int, ...] | None = None
    recall: float = 0.99
    max_trials: int | None = None
    max_seconds: float | None = None
    threads: int = 0
    again: bool = False

    def __post_init__(self) -> None:
        check_recall(self.recall)
        given = [self.storage, self.m, self.ef_construction, self.ef_search]
        for name, values in zip(("storage", "m", "ef_construction", "ef_search"), given, strict=True):
            if values is not None and not values:
                raise InvalidRequest(f"{name} names nothing to try", "leave it out, or give values")
        if not self.is_bounded and all(values is None for values in given):
            raise InvalidRequest(
                "there is nothing to try",
                "give values of m, ef_construction, ef_search or storage, or max_trials or max_seconds",
            )
        if self.max_trials is not None and self.max_trials < 1:
            raise InvalidRequest(f"max_trials = {self.max_trials}, expected at least 1")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise InvalidRequest(f"max_seconds = {self.max_seconds}, expected more than 0")
        if not 0 <= self.threads <= MOST_THREADS:
            raise InvalidRequest(f"threads = {self.threads}, expected 0 to {MOST_THREADS}")
        if len(self.ef_search or ()) > MOST_EFFORTS:
            raise InvalidRequest(f"ef_search has {len(self.ef_search or ())} values, most are {MOST_EFFORTS}")
        for ef in self.ef_search or ():
            check_ef(ef)

    @property
    def is_bounded(self) -> bool:
        """Whether it is not a grid of which everything is tried."""
        return self.max_trials is not None or self.max_seconds is not None

    def builds(self, live: IndexParameters) -> list[Build]:
        """All that may be built, the cheapest first.

        Args:
            live: What the index is now: its parameters stand for those that are left out.

        Raises:
            InvalidRequest: A value is out of bounds, or it is too much.
        """
        wide = self.is_bounded and self.m is None and self.ef_construction is None
        storage = self.storage or (live.storage,)
        m = self.m or (NEIGHBOURS if wide else (live.m,))
        efforts = self.ef_construction or (EFFORTS_OF_BUILDING if wide else (live.ef_construction,))
        if len(storage) * len(m) * len(efforts) > MOST_BUILDS:
            raise InvalidRequest(f"these are more than {MOST_BUILDS} indexes to build", "try fewer values")
        found = {Build(*each) for each in product(storage, m, efforts)}
        for each in found:
            each.parameters(live.metric, live.ef_search)  # within bounds
        return sorted(found, key=lambda each: (cost(each), each))

    def efforts(self) -> tuple[int, ...]:
        """The efforts of searching, the least first."""
        return tuple(sorted(set(self.ef_search or EFFORTS)))

    def goes_on(self, found: Sequence[Trial]) -> bool:
        """Whether more effort is worth a look, after what was found with less."""
        if self.ef_search is not None or not found:
            return True
        enough = 1 - (1 - self.recall) / 2
        return found[-1].recall < _ALL_FOUND and found[-1].recall_low < enough


def check_recall(recall: float) -> float:
    """The same number, if it can be a recall.

    Raises:
        InvalidRequest: It cannot.
    """
    if isinstance(recall, bool) or not 0 < recall <= 1:
        raise InvalidRequest(f"recall = {recall}, expected more than 0 and at most 1")
    return recall


def cost(build: Build) -> float:
    """What building takes, as a ratio: of a graph mostly the candidates that are looked at."""
    return build.ef_construction + 2.0 * build.m


def next_build(
    builds: Sequence[Build], tried: Mapping[Build, Sequence[Trial]], recall: float, start: Build
) -> Build | None:
    """What to build next within a bound: beside the best so far, else the cheapest that is left.

    Args:
        builds: All that may be built, the cheapest first.
        tried: What was built already, with what was measured.
        recall: What is aimed at.
        start: What to begin near.

    Returns:
        None where everything was tried.
    """
    left = [each for each in builds if each not in tried]
    if not left:
        return None
    if not tried:
        return min(left, key=lambda each: (_steps(builds, each, start), cost(each), each))
    best = min(tried, key=lambda each: (*_merit(tried[each], recall), cost(each), each))
    reached = _merit(tried[best], recall)[0] < math.inf
    beside = [each for each in left if _steps(builds, each, best) == 1]
    if not reached:  # more of everything finds more
        beside = [each for each in beside if cost(each) > cost(best)] or beside
    return min(beside or left, key=lambda each: (cost(each), each))


def _merit(found: Sequence[Trial], recall: float) -> tuple[float, float]:
    """Smaller is better: the latency at the recall, else how little is missing of it."""
    fast = min((each.p50_us for each in found if each.recall_low >= recall), default=math.inf)
    return fast, -max((each.recall for each in found), default=0.0)


def _steps(builds: Sequence[Build], one: Build, other: Build) -> int:
    """How many steps two are apart, in the values that there are of each parameter."""
    steps = int(one.storage != other.storage)
    for name in ("m", "ef_construction"):
        low, high = sorted((getattr(one, name), getattr(other, name)))
        steps += len({getattr(each, name) for each in builds if low < getattr(each, name) <= high})
    return steps


def newest(trials: Iterable[Trial]) -> list[Trial]:
    """Of trials with the same parameters, evaluation and callers only the newest, in their order."""
    found: dict[tuple[str, Build, int], Trial] = {}
    for each in trials:
        key = (each.evaluation, each.built, each.ef_search)
        found.pop(key, None)
        found[key] = each
    return list(found.values())


def front(trials: Iterable[Trial]) -> list[Trial]:
    """Those than which none is both as fast and finds more: the Pareto front, the fastest first."""
    found: list[Trial] = []
    for each in sorted(trials, key=lambda each: (each.p50_us, -each.recall, each.trial)):
        if not found or each.recall > found[-1].recall:
            found.append(each)
    return found


def best(trials: Sequence[Trial], recall: float) -> Trial:
    """The fastest whose recall is sure to be as high.

    Args:
        trials: Of one evaluation set.
        recall: What ``recall_low`` has to reach.

    Raises:
        TrialNotFound: There is none.
    """
    check_recall(recall)
    fit = [each for each in trials if each.recall_low >= recall]
    if fit:
        return min(fit, key=lambda each: (each.p50_us, each.index_bytes, each.trial))
    most = max(trials, key=lambda each: (each.recall_low, -each.p50_us), default=None)
    if most is None:
        raise TrialNotFound("nothing was tried yet", "hnsw.trial tries parameters")
    raise TrialNotFound(
        f"no trial reached a recall of {recall:g} for sure: the highest is {most.recall:.4f} (at least "
        f"{most.recall_low:.4f}), with m = {most.m}, ef_construction = {most.ef_construction} and "
        f"ef_search = {most.ef_search}",
        "hnsw.trial with more effort, or an evaluation set with more queries, may",
    )
