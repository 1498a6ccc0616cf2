"""Where in the buckets the server keeps what is its own: no object there is for clients to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lakehouse.config import Settings
from lakehouse.storage import Bucket
from lakehouse.storage.object_upload import UNFINISHED_PREFIX

# Keys that grant access, and what is not there yet: not even to be read.
_SECRET = ("_access", "_auth", UNFINISHED_PREFIX)
# Their services say where in the bucket a table is.
_ANYWHERE = ("rest", "hive", "glue")


class ServerPlaces:
    """Tells which objects are the server's own, in whatever bucket they are met.

    Two buckets of the configuration may lead to one place, or one into the other, by ways that nothing
    tells of. So objects are compared by their URIs, whatever the case, and whatever the endpoint.

    Args:
        settings: The configuration.
        buckets: The buckets by name.
    """

    def __init__(self, settings: Settings, buckets: Mapping[str, Bucket]) -> None:
        roots = [f"{bucket.uri}/" for bucket in buckets.values()]
        self._secret = _folded(f"{root}{name}" for root in roots for name in _SECRET)
        own = [f"{root}_" for root in roots]
        for catalog in (settings.catalog, *settings.catalogs):
            place = f"{buckets[settings.bucket_of(catalog)].uri}/"
            own.append(place if catalog.type in _ANYWHERE else f"{place}{catalog.warehouse}/")
        # What is read in place of others is nothing that anybody but its operator may change.
        rescue = [buckets[b.name].uri for b in settings.buckets if b.bucket_class == "rescue"]
        own += [f"{uri}/" for uri in rescue]
        self._rescue = _folded(f"{uri}/" for uri in rescue)
        self._own = _folded(own)

    def is_secret(self, uri: str) -> bool:
        """Whether nobody may read an object, or know that it is there."""
        uri = uri.lower()
        if any(uri == place or uri.startswith(f"{place}/") for place in self._secret):
            return True
        return uri.startswith(self._rescue) and not set(_SECRET).isdisjoint(uri.split("/"))

    def is_own(self, uri: str) -> bool:
        """Whether an object is the server's own, or would stand in the way of such ones."""
        uri = uri.lower()
        return any(f"{uri}/".startswith(place) or place.startswith(f"{uri}/") for place in self._own)

    def is_within(self, uri: str) -> bool:
        """Whether all objects whose URIs begin with one that ends with a slash are the server's own."""
        return uri.lower().startswith(self._own)


def _folded(places: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.lower() for place in places))
