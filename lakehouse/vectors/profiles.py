"""Profiles: which model and which indexes a reader gets over the same lake.

A profile has indexes of its own: the index ``notes`` of the profile ``fresh`` is called ``fresh:notes``, and
``notes`` for those who search with that profile. Which one somebody searches with is said by the request,
else by the session, else by the first of the principal's roles that has one, else it is that of everybody.

What is said of roles and of everybody while the server runs is kept in the primary bucket: slots below
``_vectors/active/``, of which each is created once and never changed, and the highest holds. So all servers
follow, and of two changes at once one is made on top of the other.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import structlog

from lakehouse.access.policy import Access
from lakehouse.access.profile_access import Profile
from lakehouse.ai.models import Models
from lakehouse.ai.provider import Purpose
from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.config.profiles import NO_PROFILE
from lakehouse.errors import (
    CommitConflict,
    InvalidRequest,
    ObjectAlreadyExists,
    ObjectNotFound,
    ProfileInactive,
    StorageError,
    VectorIndexNotFound,
)
from lakehouse.journal.change_event import ChangeEvent, ChangeRecorder
from lakehouse.storage import Bucket
from lakehouse.vectors.faiss_index import unchecked
from lakehouse.vectors.generation import Generation, checked_name, parted_name
from lakehouse.vectors.generation_store import IndexDamaged
from lakehouse.vectors.parameters import Algorithm, IndexParameters, Metric, Storage

if TYPE_CHECKING:
    from lakehouse.engine.session import Session
    from lakehouse.vectors.indexes import VectorIndexes

SLOTS = "_vectors/active"
EVERYBODY = ""
"""The key of the default of those whose roles have none."""
_SLOT = re.compile(r"(\d{12})\.json")
_ATTEMPTS = 20
_KEPT_SLOTS = 10
_PROBE = "warm-up"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProfileState:
    """What was said of profiles while servers ran.

    Attributes:
        number: Counts the changes.
        defaults: The profile by role, that of everybody under ``EVERYBODY``; ``none`` for no profile.
        inactive: Profiles that may not be used for now.
    """

    number: int = 0
    defaults: Mapping[str, str] = field(default_factory=dict)
    inactive: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WarmIndex:
    """What loading an index showed.

    Attributes:
        generation: What was loaded.
        milliseconds: How long that took, a search included.
        was_loaded: Whether it was in memory before.
        is_loaded: Whether it still is, after all that were asked for were loaded.
    """

    generation: Generation
    milliseconds: float
    was_loaded: bool
    is_loaded: bool


@dataclass(frozen=True, slots=True)
class Warm:
    """What warming a profile showed. ``model`` is what the configuration calls the model."""

    model: str
    model_milliseconds: float
    indexes: tuple[WarmIndex, ...]


class Profiles:
    """The profiles of a lake. Safe to use from several threads, and by several servers.

    Args:
        settings: The configuration.
        profiles: The profiles by name.
        bucket: Where it is kept which are the defaults.
        indexes: All indexes.
        models: The models of the configuration.
        clock: Source of ids.
        recorder: Told of changes.

    Attributes:
        configured: The profiles by name.
        searches: How many searches were made with each, since the server was started.
    """

    def __init__(
        self,
        settings: Settings,
        profiles: Mapping[str, Profile],
        bucket: Bucket,
        indexes: VectorIndexes,
        models: Models,
        clock: Clock,
        recorder: ChangeRecorder,
    ) -> None:
        self.configured = profiles
        self.searches: Counter[str] = Counter()
        self._bucket = bucket
        self._indexes = indexes
        self._models = models
        self._clock = clock
        self._recorder = recorder
        self._refresh_s = settings.vectors.refresh_ms / 1000
        said = {role.name: role.profile for role in settings.roles if role.profile}
        self._configured_defaults = {EVERYBODY: settings.vectors.profile or NO_PROFILE, **said}
        self._lock = threading.Lock()
        self._state = ProfileState()
        self._asked_s: float | None = None

    # -- which one ----------------------------------------------------------------------------------------

    def of(self, session: Session) -> str:
        """The profile that a session works with; empty where it is none.

        Raises:
            ProfileNotFound: The session may not use the one that is said any more.
        """
        said = session.profile or self.default_of(session.principal.roles)
        return "" if said == NO_PROFILE else session.access.profile(said).name

    def default_of(self, roles: Iterable[str]) -> str:
        """The profile of those of these roles who say none themselves; ``none`` where it is none."""
        defaults = self.defaults()
        mine = next((role for role in sorted(roles) if role in defaults), EVERYBODY)
        return defaults[mine]

    def defaults(self) -> Mapping[str, str]:
        """The profile by role, and under ``EVERYBODY`` that of those whose roles have none."""
        said = self.state().defaults
        there = {role: name for role, name in said.items() if name == NO_PROFILE or name in self.configured}
        return {**self._configured_defaults, **there}

    def named(self, index: str, profile: str, access: Access) -> str:
        """The full name of an index: what is in no profile by itself is in this one.

        Args:
            index: As somebody names it: ``notes``, ``fresh:notes``, or ``:notes`` for one of no profile.
            profile: The profile; empty for none.
            access: What the principal may do.

        Raises:
            ProfileNotFound: There is no such profile for the principal.
            ProfileInactive: It was deactivated.
        """
        said, colon, name = index.rpartition(":")
        wanted = said.lower() if colon else profile
        if not wanted:
            return name
        self.check_active(access.profile(wanted).name)
        return f"{wanted}:{name}"

    def check_active(self, profile: str) -> None:
        """Refuse a profile that was deactivated.

        Raises:
            ProfileInactive: It was.
        """
        if profile in self.state().inactive:
            raise ProfileInactive(f"the profile '{profile}' is not active", "profiles.activate makes it so")

    def parameters(self, profile: Profile) -> IndexParameters:
        """How indexes of a profile are built that say nothing."""
        said = profile.settings
        return IndexParameters(
            Metric(said.metric),
            Algorithm(said.algorithm),
            Storage(said.storage),
            said.m,
            said.ef_construction,
            said.ef_search,
        )

    def names(self, profile: str) -> list[str]:
        """The full names of the live indexes of a profile, empty for those of none."""
        return [g.index for g in self._generations(profile)]

    # -- what is said while servers run ---------------------------------------------------------------------

    def state(self) -> ProfileState:
        """What was said, as it was a moment ago."""
        now = time.monotonic()
        if self._asked_s is not None and now - self._asked_s < self._refresh_s:
            return self._state
        try:
            self._refresh()
        except StorageError as error:
            if self._asked_s is None:
                raise
            _log.warning("profiles_not_refreshed", reason=error.message)
        self._asked_s = now
        return self._state

    @property
    def known(self) -> ProfileState:
        """What was said, as far as this process knows it without asking storage."""
        return self._state

    def activate(self, profile: str, *, roles: Iterable[str] = (), partial: bool = False) -> ProfileState:
        """Make a profile usable, and that of roles.

        Args:
            profile: The profile, or ``none``.
            roles: Whose it becomes; ``EVERYBODY`` for those whose roles have none.
            partial: Whether it may lack indexes that the present one has.

        Raises:
            InvalidRequest: It is not for such a role, or lacks an index that they search now.
            CommitConflict: Others changed it again and again.
        """
        wanted = tuple(roles)
        for role in wanted:
            self._check_fits(profile, role, partial)
        return self._change(
            lambda old: replace(
                old,
                defaults={**old.defaults, **dict.fromkeys(wanted, profile)},
                inactive=old.inactive - {profile},
            )
        )

    def deactivate(self, profile: str) -> ProfileState:
        """Refuse a profile from now on, and let go of what is in memory for it.

        Raises:
            InvalidRequest: It is the one of a role, or of everybody.
            CommitConflict: Others changed it again and again.
        """

        def change(old: ProfileState) -> ProfileState:
            users = sorted(role for role, name in self.defaults().items() if name == profile)
            if users:
                shown = ", ".join(
                    "everybody" if role == EVERYBODY else f"the role '{role}'" for role in users
                )
                raise InvalidRequest(
                    f"the profile '{profile}' is that of {shown}", "activate another one for them first"
                )
            return replace(old, inactive=old.inactive | {profile})

        return self._change(change)

    def _check_fits(self, profile: str, role: str, partial: bool) -> None:
        if profile != NO_PROFILE:
            found = self.configured[profile]
            if not found.is_for({role} if role else ()):
                whom = f"the role '{role}'" if role else "everybody"
                raise InvalidRequest(f"the profile '{profile}' is not for {whom}")
        present = self.default_of({role} if role else ())
        if partial or present == profile:
            return
        there = {parted_name(each)[1] for each in self.names(_own(profile))}
        lacking = sorted({parted_name(each)[1] for each in self.names(_own(present))} - there)
        if lacking:
            raise InvalidRequest(
                f"the profile '{profile}' has no index '{lacking[0]}', which is searched with "
                f"'{present}' now",
                "build it, or say partial",
            )

    def _change(self, change: Callable[[ProfileState], ProfileState]) -> ProfileState:
        for _ in range(_ATTEMPTS):
            self._refresh()
            old = self._state
            new = replace(change(old), number=old.number + 1)
            if replace(new, number=old.number) == old:
                return old
            if self._put(new):
                self._tell(old, new)
                self._take(new)
                return new
        raise CommitConflict("profiles were changed by others again and again", "try again")

    def _put(self, new: ProfileState) -> bool:
        """Take the next slot; gives whether this was it."""
        key, content = _key(new.number), _content(new, self._clock.token())
        try:
            self._bucket.put_new(key, content)
        except ObjectAlreadyExists:
            if self._bucket.get(key) != content:
                return False
        numbers = self._numbers()
        if numbers[-1] != new.number and min(numbers) == new.number:
            self._bucket.delete(key)  # given free long ago
            return False
        for number in numbers[:-_KEPT_SLOTS]:
            try:
                self._bucket.delete(_key(number))
            except ObjectNotFound:
                continue
        return True

    def _refresh(self) -> None:
        while True:
            numbers = self._numbers()
            if not numbers or numbers[-1] == self._state.number:
                return
            try:
                found = _parsed(numbers[-1], self._bucket.get(_key(numbers[-1])))
            except ObjectNotFound:
                continue
            except (ValueError, KeyError, TypeError, AttributeError):
                _log.warning("profile_state_unreadable", slot=numbers[-1])
                found = replace(self._state, number=numbers[-1])
            self._take(found)
            return

    def _take(self, new: ProfileState) -> None:
        with self._lock:
            old = self._state
            if new.number < old.number:
                return
            self._state = new
        for profile in sorted(new.inactive - old.inactive):
            self._release(profile)

    def _release(self, profile: str) -> None:
        """Let go of what is in memory for a profile; what is in use goes when it is not any more."""
        if profile in self.configured:
            self._indexes.loader.forget_all(f"{profile}:")
            active = {
                self.model(each) for name, each in self.configured.items() if name not in self._state.inactive
            }
            model = self.model(self.configured[profile])
            if model not in active and model is not None:
                self._models.unload(model)

    def _tell(self, old: ProfileState, new: ProfileState) -> None:
        events = [
            ChangeEvent("update", f"profile:{name}", field=what, old=before, new=after, source="")
            for name, what, before, after in _differences(old, new)
        ]
        self._recorder.record(*events)

    def _numbers(self) -> list[int]:
        names = map(_SLOT.fullmatch, self._bucket.names(SLOTS))
        return sorted(int(match[1]) for match in names if match)

    # -- memory ---------------------------------------------------------------------------------------------

    def model(self, profile: Profile) -> str | None:
        """What the configuration calls the model of a profile; None where nothing embeds."""
        return profile.settings.model or self._models.default_embedder

    def loaded(self, profile: str) -> Mapping[str, int]:
        """Bytes in memory of the generations of a profile's indexes, by index."""
        return self._indexes.loader.loaded(f"{profile}:")

    def warm(
        self,
        profile: Profile,
        wanted: Iterable[str] | None = None,
        *,
        may_search: Callable[[Generation], bool] = lambda _: True,
        check: Callable[[], None] = unchecked,
        progress: Callable[[float, str], None] = lambda *_: None,
    ) -> Warm:
        """Load the model and the indexes of a profile, so that the first search finds them in memory.

        Args:
            profile: The profile.
            wanted: Which of its indexes; all of them when left out.
            may_search: Which of them it is about.
            check: Raises where this shall stop; what is loaded stays.
            progress: Told of what is done.

        Raises:
            VectorIndexNotFound: It has no such index.
            LakehouseError: Its model cannot be asked, or an index cannot be loaded.
        """
        found = [each for each in self._generations(profile.name) if may_search(each)]
        if wanted is not None:
            by_name = {parted_name(each.index)[1]: each for each in found}
            missing = [name for name in wanted if _plain(name) not in by_name]
            if missing:
                raise VectorIndexNotFound(f"the profile '{profile.name}' has no vector index '{missing[0]}'")
            found = [by_name[_plain(name)] for name in wanted]
        model = self.model(profile)
        progress(0.0, f"loading the model {model}")
        began_s = time.perf_counter()
        if model is not None:
            self._models.embedder(model).embed([_PROBE], purpose=Purpose.QUERY, check=check)
        model_ms = (time.perf_counter() - began_s) * 1000
        done = []
        for number, generation in enumerate(found, 1):
            check()
            progress(number / (len(found) + 1), f"loading {generation.index}")
            done.append(self._loaded(generation, check))
        there = self.loaded(profile.name)
        return Warm(
            model or "",
            model_ms,
            tuple(replace(each, is_loaded=each.generation.index in there) for each in done),
        )

    def _loaded(self, generation: Generation, check: Callable[[], None]) -> WarmIndex:
        """Load an index and search it once, which has the mapped pages of it read."""
        was_loaded = generation.index in self._indexes.loader.loaded(generation.index)
        began_s = time.perf_counter()
        if generation.count:
            probe = np.ones(generation.dimension, np.float32)
            hits = self._indexes.search(generation.index, probe, 1, check=check)
            generation = hits.generation
            if generation.lexical is not None:
                # Where it is damaged, the first search by words has it made anew.
                with (
                    suppress(IndexDamaged),
                    self._indexes.loader.held_words(generation, generation.lexical, check),
                ):
                    pass
        return WarmIndex(generation, (time.perf_counter() - began_s) * 1000, was_loaded, True)

    def _generations(self, profile: str) -> list[Generation]:
        found = []
        for index in self._indexes.store.indexes():
            if parted_name(index)[0] != profile:
                continue
            try:
                generation = self._indexes.live(index).generation
            except (VectorIndexNotFound, IndexDamaged):
                continue
            if generation is not None:
                found.append(generation)
        return found


def _own(profile: str) -> str:
    return "" if profile == NO_PROFILE else profile


def _plain(name: str) -> str:
    return checked_name(name.rpartition(":")[2])


def _differences(old: ProfileState, new: ProfileState) -> Iterable[tuple[str, str, object, object]]:
    for role in sorted({*old.defaults, *new.defaults}):
        before, after = old.defaults.get(role), new.defaults.get(role)
        if before != after:
            yield after or "", f"role {role}" if role else "everybody", before, after
    for name in sorted(old.inactive ^ new.inactive):
        yield name, "active", name not in old.inactive, name not in new.inactive


def _key(number: int) -> str:
    return f"{SLOTS}/{number:012d}.json"


def _content(state: ProfileState, token: str) -> bytes:
    told = {"defaults": dict(state.defaults), "inactive": sorted(state.inactive), "token": token}
    return json.dumps(told, sort_keys=True).encode()


def _parsed(number: int, content: bytes) -> ProfileState:
    told = json.loads(content)
    return ProfileState(
        number,
        {str(role): str(name) for role, name in told["defaults"].items()},
        frozenset(map(str, told["inactive"])),
    )
