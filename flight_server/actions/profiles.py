"""Actions on profiles: which there are, which readers get, and having them ready before the first search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from pydantic import Field, model_validator

from flight_server.actions.registry import (
    ActionSpec,
    Permission,
    Progress,
    Request,
    Response,
    in_a_thread,
    sparingly,
)
from flight_server.actions.table_request import guarded_indexes
from flight_server.context import CallContext
from flight_server.execution import Recording
from lakehouse.access.profile_access import Profile
from lakehouse.config.profiles import NO_PROFILE
from lakehouse.errors import InvalidRequest, PermissionDenied
from lakehouse.vectors.generation import Generation, parted_name
from lakehouse.vectors.profiles import EVERYBODY, Profiles, Warm

_ACTIVATE = "profiles.activate"


class ListProfilesRequest(Request):
    """Nothing to say."""


class ProfileDescription(Response):
    """A profile that the caller may use."""

    profile: str
    is_active: bool = Field(description="whether it may be used for now")
    is_mine: bool = Field(description="whether this session searches with it where nothing else is said")
    is_default: bool = Field(description="whether those get it whose roles have none")
    default_for: list[str] = Field(description="roles whose holders get it")
    roles: list[str] = Field(description="who may use it; empty is everybody")
    model: str = Field(description="what ai.models calls it; empty where nothing embeds")
    datasets: list[str] = Field(description="tables that it covers")
    metric: str
    algorithm: str
    storage: str
    m: int
    ef_construction: int
    ef_search: int
    k: int
    bucket: str = Field(description="where its indexes are")
    loaded_bytes: int = Field(description="of its indexes in the memory of this server")
    searches: int = Field(description="made with it since this server was started")


class ListProfilesResponse(Response):
    """The profiles that the caller may use, by name."""

    profiles: list[ProfileDescription]
    mine: str = Field(description="what this session searches with where nothing else is said")


class OfProfile(Request):
    """A profile by name."""

    profile: str = Field(description="its name", min_length=1)


class ProfileIndex(Response):
    """An index of a profile that the caller may search."""

    index: str = Field(description="its full name")
    generation: str
    table: str = Field(description="what the vectors were made from")
    count: int | None = Field(description="none for those who do not see all rows")
    size_bytes: int | None
    is_loaded: bool = Field(description="whether it is in the memory of this server")


class ProfileDetails(Response):
    """A profile with its indexes."""

    profile: ProfileDescription
    indexes: list[ProfileIndex]


class ActivateProfileRequest(OfProfile):
    """Whose profile it becomes: that of this session, unless it is said otherwise."""

    profile: str = Field(description="its name, or none for no profile", min_length=1)
    role: str | None = Field(default=None, description="that of the holders of this role, on all servers")
    everybody: bool = Field(
        default=False, description="that of all whose roles have none, on all servers, from now on"
    )
    warm: bool = Field(default=True, description="load its model and indexes before")
    partial: bool = Field(
        default=False, description="even if it lacks an index that they can search now; refused without it"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.role is not None and self.everybody:
            raise ValueError("expected either role or everybody")
        return self


class WarmedIndex(Response):
    """What loading an index showed."""

    index: str
    generation: str
    size_bytes: int | None = Field(description="none for those who do not see all rows")
    milliseconds: float = Field(description="of loading it and of one search")
    was_loaded: bool = Field(description="whether it was in memory before")
    is_loaded: bool = Field(description="whether it is still, after all were loaded")


class WarmProfileRequest(OfProfile):
    """What to load."""

    indexes: list[str] | None = Field(default=None, description="only these; all of them when left out")


class WarmProfileResponse(Response):
    """What is in memory now."""

    profile: str
    model: str
    model_milliseconds: float = Field(description="of loading the model and embedding a word")
    indexes: list[WarmedIndex]
    milliseconds: float
    loaded_bytes: int


class ActivateProfileResponse(Response):
    """What it is now."""

    profile: str
    before: str = Field(description="which one it was; none for no profile")
    role: str | None
    everybody: bool
    warmed: WarmProfileResponse | None


def _profiles(ctx: CallContext) -> Profiles | None:
    return ctx.lakehouse.vectors.profiles


def _found(ctx: CallContext, name: str) -> tuple[Profiles, Profile]:
    """A profile that the caller may use.

    Raises:
        ProfileNotFound: There is none of that name for it.
    """
    found = ctx.session.access.profile(name)
    profiles = _profiles(ctx)
    assert profiles is not None
    return profiles, found


def _list(ctx: CallContext, _: ListProfilesRequest) -> Iterator[Response]:
    profiles = _profiles(ctx)
    mine = guarded_indexes(ctx).profile or NO_PROFILE
    found = [] if profiles is None else sorted(ctx.session.access.profiles.items())
    yield ListProfilesResponse(
        profiles=[_described(ctx, profiles, each, mine) for _, each in found if profiles is not None],
        mine=mine,
    )


def _describe(ctx: CallContext, request: OfProfile) -> Iterator[Response]:
    profiles, found = _found(ctx, request.profile)
    mine = guarded_indexes(ctx).profile
    loaded = profiles.loaded(found.name)
    indexes = []
    for live in guarded_indexes(ctx, NO_PROFILE).all():
        generation = live.generation
        if generation is None or parted_name(generation.index)[0] != found.name:
            continue
        is_whole = _is_whole(ctx, generation)
        indexes.append(
            ProfileIndex(
                index=generation.index,
                generation=generation.id,
                table=str(generation.guard.table),
                count=generation.count if is_whole else None,
                size_bytes=generation.size_bytes if is_whole else None,
                is_loaded=generation.index in loaded,
            )
        )
    yield ProfileDetails(profile=_described(ctx, profiles, found, mine), indexes=indexes)


def _described(ctx: CallContext, profiles: Profiles, found: Profile, mine: str) -> ProfileDescription:
    said, state, defaults = found.settings, profiles.state(), profiles.defaults()
    return ProfileDescription(
        profile=found.name,
        is_active=found.name not in state.inactive,
        is_mine=found.name == mine,
        is_default=defaults[EVERYBODY] == found.name,
        default_for=sorted(role for role, name in defaults.items() if role and name == found.name),
        roles=list(said.roles),
        model=profiles.model(found) or "",
        datasets=list(said.datasets),
        metric=said.metric,
        algorithm=said.algorithm,
        storage=said.storage,
        m=said.m,
        ef_construction=said.ef_construction,
        ef_search=said.ef_search,
        k=said.k,
        bucket=ctx.lakehouse.settings.bucket_of_profile(found.name),
        loaded_bytes=sum(profiles.loaded(found.name).values()),
        searches=profiles.searches[found.name],
    )


def _activate(ctx: CallContext, request: ActivateProfileRequest) -> Iterator[Progress | Response]:
    name = request.profile.lower()
    if name != NO_PROFILE:
        profiles, found = _found(ctx, name)
    elif (there := _profiles(ctx)) is not None:
        profiles, found = there, None
    else:
        raise InvalidRequest("no profile is configured", "add one to [[profiles]], see docs/vectors.md")
    is_shared = request.everybody or request.role is not None
    wakes = found is not None and found.name in profiles.state().inactive
    if (is_shared or wakes) and not ctx.session.access.may_run(_ACTIVATE, Permission.ADMIN):
        raise PermissionDenied(
            f"{ctx.principal.name} may not activate the profile '{name}' for others",
            "it needs the permission admin",
        )
    if request.role is not None and request.role not in ctx.lakehouse.policy.roles:
        raise InvalidRequest(f"there is no role '{request.role}'")
    roles = () if not is_shared else (request.role or EVERYBODY,)

    def work(report: Callable[[float, str], None]) -> Response:
        warmed = None
        with Recording(ctx, f"PROFILES ACTIVATE {name}", "vectors"):
            if found is not None and request.warm:
                warmed = _warmed(ctx, profiles, found, None, report)
            if is_shared:
                before = profiles.default_of(() if request.role is None else (request.role,))
            else:
                before = guarded_indexes(ctx).profile or NO_PROFILE
            if is_shared or wakes:
                profiles.activate(name, roles=roles, partial=request.partial)
            if not is_shared:
                ctx.session.profile = name
        return ActivateProfileResponse(
            profile=name, before=before, role=request.role, everybody=request.everybody, warmed=warmed
        )

    return in_a_thread(_ACTIVATE, work)


def _deactivate(ctx: CallContext, request: OfProfile) -> Iterator[Response]:
    profiles, found = _found(ctx, request.profile)
    profiles.deactivate(found.name)
    yield _described(ctx, profiles, found, "")


def _warm(ctx: CallContext, request: WarmProfileRequest) -> Iterator[Progress | Response]:
    profiles, found = _found(ctx, request.profile)
    profiles.check_active(found.name)

    def work(report: Callable[[float, str], None]) -> Response:
        with Recording(ctx, f"PROFILES WARM {found.name}", "vectors"):
            return _warmed(ctx, profiles, found, request.indexes, report)

    return in_a_thread("profiles.warm", work)


def _warmed(
    ctx: CallContext,
    profiles: Profiles,
    found: Profile,
    wanted: list[str] | None,
    report: Callable[[float, str], None],
) -> WarmProfileResponse:
    indexes = guarded_indexes(ctx, NO_PROFILE)
    done: Warm = profiles.warm(
        found,
        wanted,
        may_search=indexes.may_search,
        check=ctx.check_cancelled,
        progress=sparingly(report),
    )
    shown = []
    for each in done.indexes:
        generation = each.generation
        is_whole = _is_whole(ctx, generation)
        shown.append(
            WarmedIndex(
                index=generation.index,
                generation=generation.id,
                size_bytes=generation.size_bytes if is_whole else None,
                milliseconds=round(each.milliseconds, 3),
                was_loaded=each.was_loaded,
                is_loaded=each.is_loaded,
            )
        )
    total = done.model_milliseconds + sum(each.milliseconds for each in done.indexes)
    return WarmProfileResponse(
        profile=found.name,
        model=done.model,
        model_milliseconds=round(done.model_milliseconds, 3),
        indexes=shown,
        milliseconds=round(total, 3),
        loaded_bytes=sum(profiles.loaded(found.name).values()),
    )


def _is_whole(ctx: CallContext, generation: Generation) -> bool:
    return not ctx.session.access.table(generation.guard.table).restrictions


ACTIONS: tuple[ActionSpec, ...] = (
    ActionSpec(
        "profiles.list",
        "The profiles that the caller may use, and which one this session searches with",
        ListProfilesRequest,
        ListProfilesResponse,
        _list,
        Permission.READ,
    ),
    ActionSpec(
        "profiles.describe",
        "A profile: its model, parameters and indexes, and what of them is in memory",
        OfProfile,
        ProfileDetails,
        _describe,
        Permission.READ,
    ),
    ActionSpec(
        _ACTIVATE,
        "Make a profile that of this session; or of a role or everybody, which needs the permission admin",
        ActivateProfileRequest,
        ActivateProfileResponse,
        _activate,
        Permission.READ,
        streams=True,
    ),
    ActionSpec(
        "profiles.deactivate",
        "Refuse a profile from now on, and let go of what is in memory for it",
        OfProfile,
        ProfileDescription,
        _deactivate,
        Permission.ADMIN,
    ),
    ActionSpec(
        "profiles.warm",
        "Load the model and the indexes of a profile before the first search",
        WarmProfileRequest,
        WarmProfileResponse,
        _warm,
        Permission.READ,
        streams=True,
    ),
)
