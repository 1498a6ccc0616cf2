"""pyiceberg's exceptions become domain errors here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError as ModelError
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchNamespaceError,
    NoSuchTableError,
    ValidationError,
    ValidationException,
)

from lakehouse.errors import (
    CommitConflict,
    CommitStateUnknown,
    InternalError,
    LakehouseError,
    SchemaMismatch,
    SchemaNotFound,
    TableNotFound,
)


@contextmanager
def iceberg_errors(subject: str) -> Iterator[None]:
    """Turn what pyiceberg raises into domain errors.

    Args:
        subject: What is being worked on, such as ``table 'lake.main.t'``.
    """
    try:
        yield
    except LakehouseError:
        raise
    except NoSuchTableError as error:
        raise TableNotFound(f"{subject} does not exist") from error
    except NoSuchNamespaceError as error:
        raise SchemaNotFound(f"the schema of {subject} does not exist") from error
    except CommitFailedException as error:
        raise CommitConflict(
            f"{subject} was changed by another writer at the same time; nothing was stored", "try again"
        ) from error
    except CommitStateUnknownException as error:
        raise CommitStateUnknown(
            f"it is not known whether the change of {subject} took place",
            "look at the table before trying again",
        ) from error
    except (ValidationError, ValidationException) as error:
        raise SchemaMismatch(f"{subject} cannot be changed like this: {error}") from error
    except (ModelError, ValueError, TypeError, KeyError) as error:
        raise InternalError(f"the metadata of {subject} cannot be read") from error
