"""Roles and their grants: what a principal may do with which table and which action.

A principal has all that any of its roles gives. Within one role the most specific pattern that fits a
table holds, so that ``lake.*.*`` can be narrowed by ``lake.hr.*`` and that by ``lake.hr.salaries``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from lakehouse.access.object_grants import READ, WRITE, ObjectGrants
from lakehouse.access.patterns import TablePattern, wildcard
from lakehouse.access.principal import Principal
from lakehouse.access.profile_access import Profile, profiles_of
from lakehouse.access.restriction import Restriction, check_restriction
from lakehouse.config import GrantSettings, ObjectGrantSettings, RoleSettings, Settings
from lakehouse.errors import ProfileNotFound
from lakehouse.types import TableName

SYSTEM_SCHEMA = "system"
_ADMIN = "admin"
_MAX_CACHED = 10_000


class Privilege(Enum):
    """What can be done with a table."""

    READ = "read"
    WRITE = "write"


class Permission(Enum):
    """What a principal must be allowed to do in order to run an action."""

    READ = "read"
    AI = "ai"
    """To have models work, which takes time and memory of the server. Roles of one's own name the actions."""
    WRITE = "write"
    ADMIN = "admin"


class _Grant:
    def __init__(self, role: str, settings: GrantSettings) -> None:
        self.pattern = TablePattern(settings.on)
        self.privileges = frozenset(Privilege(p) for p in settings.privileges)
        self.restriction = (
            Restriction(
                role,
                settings.row_filter,
                tuple(sorted((column.lower(), mask) for column, mask in settings.masks.items())),
                exact=self.pattern.exact,
            )
            if settings.row_filter or settings.masks
            else None
        )


class _Role:
    def __init__(
        self,
        name: str,
        grants: Sequence[_Grant],
        actions: Iterable[str],
        permissions: frozenset[Permission],
        objects: ObjectGrants,
    ) -> None:
        self.name = name
        self.objects = objects
        self.grants = sorted(grants, key=lambda g: g.pattern.specificity)
        restrictions = [grant.restriction for grant in grants if grant.restriction is not None]
        self.is_personal = any(restriction.is_personal for restriction in restrictions)
        self.actions = tuple(map(wildcard, actions))
        self.permissions = permissions

    def grant(self, name: TableName) -> _Grant | None:
        """The most specific grant that fits a table; of equals the one that is listed last."""
        for grant in reversed(self.grants):
            if grant.pattern.fits(name.catalog, name.schema, name.table):
                return grant
        return None

    def schema_privileges(self, catalog: str, schema: str) -> frozenset[Privilege]:
        """What is granted on tables of any name in a schema."""
        for grant in reversed(self.grants):
            if grant.pattern.any_table and grant.pattern.fits(catalog, schema):
                return grant.privileges
        return frozenset()

    def sees_schema(self, catalog: str, schema: str) -> bool:
        """Whether there can be a table in a schema with which something may be done."""
        return bool(self.schema_privileges(catalog, schema)) or any(
            grant.privileges and not grant.pattern.any_table and grant.pattern.fits(catalog, schema)
            for grant in self.grants
        )

    def sees_catalog(self, catalog: str) -> bool:
        """Whether there can be a table in a catalog with which something may be done."""
        whole = next(
            (g for g in reversed(self.grants) if g.pattern.any_schema and g.pattern.fits(catalog)), None
        )
        return bool(whole is not None and whole.privileges) or any(
            grant.privileges and not grant.pattern.any_schema and grant.pattern.fits(catalog)
            for grant in self.grants
        )


_EVERYTHING = "*.*.*"
_ALL_OBJECTS = ObjectGrants([ObjectGrantSettings(on="*/*", privileges=("read", "write"))])
_BUILT_IN = (
    ("reader", ("read",), frozenset({Permission.READ, Permission.AI})),
    ("writer", ("read", "write"), frozenset({Permission.READ, Permission.AI, Permission.WRITE})),
    (_ADMIN, ("read", "write"), frozenset(Permission)),
)


@dataclass(frozen=True, slots=True)
class TableAccess:
    """What may be done with one table.

    ``restrictions``: when there are any, a row can be read where one of them lets it through, as that one
    shows it; without any the table is read as it is.
    """

    read: bool
    write: bool
    restrictions: tuple[Restriction, ...] = ()


class Access:
    """What one principal may do.

    Attributes:
        key: Empty where every table may be read as it is; else equal for those to whom every table looks
            the same.
        is_admin: Whether the principal has the role admin.
        mask_key: The secret that goes into the mask ``hash``.
        profiles: Those that the principal may use, by name.
    """

    def __init__(
        self,
        principal: Principal,
        roles: Sequence[_Role],
        mask_key: str,
        profiles: Mapping[str, Profile] = MappingProxyType({}),
    ) -> None:
        self.principal = principal
        self.mask_key = mask_key
        self.profiles = profiles
        self._roles = tuple(roles)
        self.is_admin = any(role.name == _ADMIN for role in roles)
        reads_all = any(role.name in ("reader", "writer", _ADMIN) for role in roles)
        self.key = "" if reads_all else ",".join(sorted(role.name for role in roles)) or "-"
        if self.key and any(role.is_personal for role in roles):
            self.key += f"\x00{principal.name}"
        self._permissions = frozenset({Permission.READ}).union(*(role.permissions for role in roles))
        self._tables: dict[TableName, TableAccess] = {}

    def table(self, name: TableName) -> TableAccess:
        """What may be done with a table of that name, whether there is one or not."""
        found = self._tables.get(name)
        if found is None:
            if len(self._tables) >= _MAX_CACHED:
                self._tables.clear()
            found = self._tables[name] = self._of(name)
        return found

    def _of(self, name: TableName) -> TableAccess:
        grants = [grant for role in self._roles if (grant := role.grant(name)) is not None]
        readers = [grant for grant in grants if Privilege.READ in grant.privileges]
        write = any(Privilege.WRITE in grant.privileges for grant in grants)
        found = tuple(dict.fromkeys(grant.restriction for grant in readers))
        restrictions = () if None in found else tuple(r for r in found if r is not None)
        return TableAccess(bool(readers), write, restrictions)

    def profile(self, name: str) -> Profile:
        """A profile that the principal may use.

        Raises:
            ProfileNotFound: There is none of that name for it.
        """
        found = self.profiles.get(name.lower())
        if found is None:
            known = ", ".join(sorted(self.profiles))
            raise ProfileNotFound(
                f"profile '{name}' does not exist", f"there are: {known}" if known else "there are none"
            )
        return found

    def sees_catalog(self, catalog: str) -> bool:
        """Whether a catalog is there for this principal."""
        return any(role.sees_catalog(catalog) for role in self._roles)

    def sees_schema(self, catalog: str, schema: str) -> bool:
        """Whether a schema is there for this principal."""
        return any(role.sees_schema(catalog, schema) for role in self._roles)

    def may_write_schema(self, catalog: str, schema: str) -> bool:
        """Whether tables of any name may be written in a schema, so that it may be created and dropped."""
        return any(Privilege.WRITE in role.schema_privileges(catalog, schema) for role in self._roles)

    def may_run(self, action: str, permission: Permission) -> bool:
        """Whether an action may be run."""
        if permission in self._permissions:
            return True
        return any(pattern.fullmatch(action) for role in self._roles for pattern in role.actions)

    def reads_object(self, bucket: str, key: str) -> bool:
        """Whether an object may be read, unless it is the server's own."""
        return any(READ in role.objects.privileges(bucket, key) for role in self._roles)

    def writes_object(self, bucket: str, key: str) -> bool:
        """Whether an object may be written and deleted, unless it is the server's own."""
        return any(WRITE in role.objects.privileges(bucket, key) for role in self._roles)

    def reads_objects_below(self, bucket: str, prefix: str) -> bool:
        """Whether objects with a prefix may be read."""
        return any(role.objects.reads_below(bucket, prefix) for role in self._roles)

    def sees_bucket(self, bucket: str) -> bool:
        """Whether a bucket is there for this principal."""
        return any(role.objects.sees_bucket(bucket) for role in self._roles)

    def sees_all_of(self, catalog: str, table: str) -> bool:
        """Whether a system table shows what concerns everybody, not only the principal itself.

        Admins see it, and so does who has a grant that names the schema ``system``.
        """
        if self.is_admin:
            return True
        name = TableName(catalog, SYSTEM_SCHEMA, table)
        grants = [role.grant(name) for role in self._roles]
        return any(
            g is not None and g.pattern.schema_text == SYSTEM_SCHEMA and Privilege.READ in g.privileges
            for g in grants
        )


class AccessPolicy:
    """The roles of the configuration.

    Args:
        settings: The whole configuration.

    Raises:
        ConfigError: A row filter or mask is not one SQL expression over columns.
    """

    def __init__(self, settings: Settings) -> None:
        self._roles = {
            name: _Role(
                name,
                [_Grant(name, GrantSettings(on=_EVERYTHING, privileges=privileges))],
                (),
                permissions,
                _ALL_OBJECTS if name == _ADMIN else ObjectGrants(),
            )
            for name, privileges, permissions in _BUILT_IN
        }
        for role in settings.roles:
            self._roles[role.name] = _named(role)
        self.profiles = profiles_of(settings.profiles)
        secret = settings.auth.mask_key
        self._mask_key = secret.resolve().get_secret_value() if secret else secrets.token_hex(32)
        self._known: dict[Principal, Access] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of all roles, sorted."""
        return tuple(sorted(self._roles))

    def expressions(self) -> tuple[str, ...]:
        """Every row filter and mask of the configuration that is SQL, to be checked by the engine."""
        return tuple(
            text
            for role in self._roles.values()
            for grant in role.grants
            if grant.restriction is not None
            for text in grant.restriction.expressions()
        )

    def restricted_columns(self, name: TableName) -> frozenset[str]:
        """The columns, in lower case, that row filters and masks of any role name in a table."""
        return frozenset(
            column
            for role in self._roles.values()
            for grant in role.grants
            if grant.restriction is not None and grant.pattern.fits(name.catalog, name.schema, name.table)
            for column in grant.restriction.columns()
        )

    def of(self, principal: Principal) -> Access:
        """What a principal may do. Roles that are not configured give nothing."""
        found = self._known.get(principal)
        if found is None:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            roles = [self._roles[name] for name in sorted(principal.roles) if name in self._roles]
            names = [role.name for role in roles]
            profiles = {
                name: each for name, each in self.profiles.items() if _ADMIN in names or each.is_for(names)
            }
            found = self._known[principal] = Access(principal, roles, self._mask_key, profiles)
        return found


def _named(settings: RoleSettings) -> _Role:
    grants = [_Grant(settings.name, grant) for grant in settings.grants]
    for grant in grants:
        if grant.restriction is not None:
            check_restriction(grant.restriction)
    objects = ObjectGrants(settings.objects)
    return _Role(settings.name, grants, settings.actions, frozenset({Permission.READ}), objects)
