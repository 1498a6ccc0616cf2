"""Queries that are texts: their vectors are of the model that made those of the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lakehouse.ai.models import Models
from lakehouse.ai.provider import Purpose
from lakehouse.errors import InvalidRequest
from lakehouse.vectors.embeddings import identity_key
from lakehouse.vectors.faiss_index import unchecked
from lakehouse.vectors.generation import Generation


def embedded_queries(
    generation: Generation,
    texts: Sequence[str],
    models: Models,
    check: Callable[[], None] = unchecked,
    instead: str = "search it by vectors",
) -> NDArray[np.floating]:
    """The vectors of queries, by the model that made those of an index; of shape ``(texts, dimension)``.

    Args:
        generation: The index.
        texts: The queries.
        models: All models.
        check: Raises where it shall stop.
        instead: What can be done where nobody knows the model.

    Raises:
        InvalidRequest: Nobody knows that model, or it is another version of it now.
        ModelUnavailable, ModelFailed: It does not answer.
    """
    made_by = generation.model
    if not made_by.name:
        raise InvalidRequest(
            f"nobody said which model made the vectors of '{generation.index}', so no text can be a query",
            instead,
        )
    embedder = models.embedder(made_by.profile or None)
    found = embedder.model
    if identity_key(found) != identity_key(made_by):
        raise InvalidRequest(
            f"the vectors of '{generation.index}' were made with {made_by.name} {made_by.digest} of "
            f"{made_by.provider}, the model is {found.name} {found.digest} of {found.provider} now",
            "embed its table again and build another generation",
        )
    return embedder.embed(texts, purpose=Purpose.QUERY, check=check)
