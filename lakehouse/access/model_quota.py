"""How much one principal may ask of models within a minute, in calls and in texts."""

from __future__ import annotations

from math import ceil

from lakehouse.access.policy import Access, Permission
from lakehouse.access.throttle import Throttle
from lakehouse.clock import Clock
from lakehouse.config import AiSettings
from lakehouse.errors import PermissionDenied, RateLimited


class ModelQuota:
    """Counts what principals ask of models. Safe to use from several threads.

    Args:
        settings: The bounds.
        clock: Source of time.
    """

    def __init__(self, settings: AiSettings, clock: Clock) -> None:
        self._settings = settings
        self._calls = Throttle(settings.calls_per_minute, clock)
        self._texts = Throttle(settings.texts_per_minute, clock)

    def admit(self, principal: str, texts: int = 1) -> None:
        """Count a call of so many texts.

        Raises:
            RateLimited: It is too much for now; nothing was counted.
        """
        bounds = self._settings
        seconds = self._calls.take(principal)
        if seconds:
            raise RateLimited(
                f"{principal} has made {bounds.calls_per_minute} calls of models within a minute",
                f"try again in {ceil(seconds)} s, or raise ai.calls_per_minute",
            )
        seconds = self._texts.take(principal, attempts=texts)
        if seconds:
            self._calls.give_back(principal)
            raise RateLimited(
                f"{texts} texts are more than are left of the {bounds.texts_per_minute} that {principal} may "
                "have models read within a minute",
                f"try again in {ceil(seconds)} s, or raise ai.texts_per_minute",
            )

    def admit_reranking(self, principal: str, access: Access, texts: int) -> None:
        """Count a search that has a model put so many texts in order.

        Raises:
            PermissionDenied: The principal may not do that.
            RateLimited: It is too much for now; nothing was counted.
        """
        if not access.may_run("ai.rerank", Permission.AI):
            raise PermissionDenied(
                f"{principal} may not have a search reranked", "it needs what the action ai.rerank needs"
            )
        self.admit(principal, texts)

    def take(self, principal: str) -> float:
        """Count a call; gives 0, or for how many seconds there is none left."""
        return self._calls.take(principal)
