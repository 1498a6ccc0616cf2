"""Sessions: what one client has set, prepared, left open and keeps in temporary tables."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lakehouse.access.guarded_catalogs import GuardedCatalogs
from lakehouse.access.policy import Access
from lakehouse.access.principal import Principal
from lakehouse.clock import Clock
from lakehouse.config.settings import SessionSettings
from lakehouse.engine.database import CursorState
from lakehouse.engine.gate import Analysis, TableReference
from lakehouse.engine.running import StatementRecord
from lakehouse.engine.transaction import Transaction
from lakehouse.errors import (
    InvalidRequest,
    LakehouseError,
    LimitExceeded,
    StatementNotFound,
    TransactionNotFound,
    TransactionStateError,
)
from lakehouse.journal.change_event import Origin, acting

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.engine.engine import Engine, Plan

_MAX_ALIASES = 8
_WORKSPACE_CHARACTERS = 200
WORKSPACE = "workspace"
"""The option of a session that names what its work is for; the event journal keeps it with each change."""


PROFILE = "profile"
"""The option of a session that names the profile whose vector indexes it searches; none for none."""


def check_workspace(name: str) -> str:
    """The name itself, if it can be that of a workspace.

    Raises:
        InvalidRequest: It is too long, or has characters that cannot be printed.
    """
    if len(name) > _WORKSPACE_CHARACTERS or not (name.isprintable() or not name):
        raise InvalidRequest(
            f"the name of a workspace has {len(name)} characters, expected at most {_WORKSPACE_CHARACTERS} "
            "that can be printed"
        )
    return name


@dataclass
class PreparedStatement:
    """A statement kept for repeated use.

    ``rows`` are the parameter rows bound last; ``transaction`` is the one in which it was prepared.
    """

    handle: str
    sql: str
    analysis: Analysis
    transaction: Transaction | None
    parameter_schema: pa.Schema
    rows: list[list[Any]] | None = None


@dataclass
class StatementHandle:
    """A planned query waiting to be fetched, or the finished result of a statement that ran at once.

    ``plans`` holds one plan for each bound row of parameters. ``record`` is that of the statement; its first
    fetch belongs to it, which sets ``is_taken``. ``fetches`` are the records of the fetches going on.
    """

    handle: str
    schema: pa.Schema
    plans: tuple[Plan, ...] = ()
    result: pa.Table | None = None
    expires_s: float = 0.0
    record: StatementRecord | None = None
    is_taken: bool = False
    fetches: set[StatementRecord] = field(default_factory=set)
    cancelled: bool = False


@dataclass(eq=False)
class Session:
    """One client's session. All public methods may be called from any thread.

    ``principal`` is whom it belongs to, ``lakes`` the catalogs as that principal sees them. ``tokens`` and
    ``aliases`` stand for it: what it was opened by, and cookies offered since; ``has_cookie`` says whether
    one of these has come back.
    """

    id: str
    engine: Engine
    clock: Clock
    catalog: str
    schema: str
    index: dict[str, Session]
    max_handles: int = 1000
    max_transactions: int = 100
    principal: Principal = field(kw_only=True)
    lakes: GuardedCatalogs = field(kw_only=True)
    settings: dict[str, str] = field(default_factory=dict)
    temporary: str = ""
    workspace: str = ""
    profile: str = ""
    created_at: datetime = field(kw_only=True)
    created_s: float = field(kw_only=True)
    last_used_s: float = 0.0
    peer: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    sql_transaction: Transaction | None = None
    temp_views: dict[str, tuple[TableReference, ...]] = field(default_factory=dict)
    closed: bool = False
    home: tuple[str, str] = ("", "")
    tokens: list[str] = field(default_factory=list)
    has_cookie: bool = False
    aliases: deque[str] = field(default_factory=deque)
    _calls: int = 0
    _prepared: OrderedDict[str, PreparedStatement] = field(default_factory=OrderedDict)
    _handles: OrderedDict[str, StatementHandle] = field(default_factory=OrderedDict)
    _state: CursorState | None = None
    _temp_objects: dict[str, str] | None = None

    def state(self) -> CursorState:
        """What a cursor must be set to for this session."""
        state = self._state
        if state is None:
            settings = tuple(sorted(self.settings.items()))
            state = self._state = CursorState(
                self.catalog, self.schema, self.temporary, settings, self.access.key
            )
        return state

    @property
    def access(self) -> Access:
        """What the session's principal may do."""
        return self.lakes.access

    def changed(self) -> None:
        """Forget what was derived from settings and temporary objects."""
        self._state = None
        self._temp_objects = None

    def temp_objects(self) -> dict[str, str]:
        """Temporary tables and views: lower-case name → name as created."""
        if not self.temporary:
            return {}
        found = self._temp_objects
        if found is None:
            found = self._temp_objects = self.engine.changes.list_temporary(self)
        return found

    def temp_tables(self) -> list[tuple[str, pa.Schema]]:
        """Name and schema of every temporary table and view, sorted by name."""
        return [
            (name, self.engine.changes.temporary_schema(self, name))
            for name in sorted(self.temp_objects().values())
        ]

    def __post_init__(self) -> None:
        self.home = (self.catalog, self.schema)

    # -- prepared statements and handles ------------------------------------------------------------

    def add_prepared(self, statement: PreparedStatement) -> None:
        """Keep a prepared statement.

        Raises:
            LimitExceeded: Too many are open.
        """
        with self.lock:
            if len(self._prepared) >= self.max_handles:
                raise LimitExceeded(
                    f"{self.max_handles} prepared statements are open in this session",
                    "close some, or raise session.max_prepared_per_session",
                )
            self._prepared[statement.handle] = statement
            self.index[statement.handle] = self

    def prepared(self, handle: str) -> PreparedStatement:
        """A prepared statement by its handle.

        Raises:
            StatementNotFound: It is unknown or closed.
        """
        found = self._prepared.get(handle)
        if found is None:
            raise StatementNotFound("the prepared statement is unknown or closed in this session")
        return found

    def close_prepared(self, handle: str) -> None:
        """Forget a prepared statement; harmless when it is unknown."""
        self._prepared.pop(handle, None)
        self.index.pop(handle, None)

    def add_handle(self, handle: StatementHandle) -> None:
        """Keep a planned query until it expires; the oldest give way when there are too many."""
        with self.lock:
            self._handles[handle.handle] = handle
            self.index[handle.handle] = self
            now = self.clock.monotonic()
            while self._handles:
                oldest = next(iter(self._handles.values()))
                if oldest.expires_s > now and len(self._handles) <= self.max_handles:
                    break
                self._drop(oldest)

    def expire_handles(self) -> None:
        """Forget the planned queries that nobody fetched in time."""
        with self.lock:
            now = self.clock.monotonic()
            for handle in [h for h in self._handles.values() if h.expires_s <= now]:
                self._drop(handle)

    def take_record(self, handle: StatementHandle) -> StatementRecord | None:
        """The record of a planned query for its first fetch; later ones are statements of their own."""
        with self.lock:
            taken, handle.is_taken = handle.is_taken, True
            return None if taken else handle.record

    def _drop(self, handle: StatementHandle) -> None:
        self._handles.pop(handle.handle, None)
        self.index.pop(handle.handle, None)
        record = self.take_record(handle)
        if record is not None:
            self.engine.running.abandon(record)

    def handle(self, handle: str) -> StatementHandle:
        """A planned query by its handle.

        Raises:
            StatementNotFound: It is unknown or expired.
        """
        found = self._handles.get(handle)
        if found is None or found.expires_s <= self.clock.monotonic():
            raise StatementNotFound(
                "the statement handle is unknown or expired", "execute the statement again"
            )
        return found

    # -- transactions -------------------------------------------------------------------------------

    def begin(self) -> Transaction:
        """Open a transaction.

        Raises:
            LimitExceeded: Too many are open.
        """
        with self.lock:
            if len(self.transactions) >= self.max_transactions:
                raise LimitExceeded(
                    f"{self.max_transactions} transactions are open in this session",
                    "end some, or raise session.max_transactions_per_session",
                )
            transaction = Transaction(self.clock.token(), self.engine.catalogs)
            self.transactions[transaction.id] = transaction
            self.index[transaction.id] = self
            return transaction

    def transaction(self, transaction_id: bytes | None) -> Transaction | None:
        """The transaction in which a statement runs; without an id the one opened by SQL, if any.

        Raises:
            TransactionNotFound: The id is unknown or the transaction has ended.
        """
        if not transaction_id:
            return self.sql_transaction
        found = self.transactions.get(transaction_id.decode("ascii", "replace"))
        if found is None:
            raise TransactionNotFound("the transaction is unknown or has ended", "begin a new one")
        return found

    def only_transaction(self) -> Transaction | None:
        """The session's open transaction where there is exactly one (for clients that send no id)."""
        if self.sql_transaction is not None:
            return self.sql_transaction
        return next(iter(self.transactions.values())) if len(self.transactions) == 1 else None

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        """Commit or roll back, and forget the transaction either way."""
        self.transactions.pop(transaction.id, None)
        self.index.pop(transaction.id, None)
        if self.sql_transaction is transaction:
            self.sql_transaction = None
        origin = Origin(self.principal.name, transaction.origin("sql"), self.workspace)
        with transaction.lock, acting(origin):
            try:
                if commit:
                    transaction.commit()
                else:
                    transaction.rollback()
            finally:
                self.engine.release_transaction(transaction)
                self._temp_objects = None

    def begin_sql(self) -> None:
        """BEGIN as a statement.

        Raises:
            TransactionStateError: One is open already.
        """
        with self.lock:
            if self.sql_transaction is not None:
                raise TransactionStateError(
                    "a transaction is already open in this session", "COMMIT or ROLLBACK first"
                )
            self.sql_transaction = self.begin()

    def end_sql(self, *, commit: bool) -> None:
        """COMMIT or ROLLBACK as a statement.

        Raises:
            TransactionStateError: None is open.
        """
        transaction = self.only_transaction()
        if transaction is None:
            raise TransactionStateError("no transaction is open in this session")
        self.end(transaction, commit=commit)

    def lose_temporary(self) -> None:
        """Forget the temporary tables, which went with the engine that held them."""
        with self.lock:
            self.temporary = ""
            self.temp_views.clear()
            self.changed()

    def begin_call(self) -> None:
        """A call is being answered in this session; pair it with ``end_call``."""
        with self.lock:
            self._calls += 1

    def end_call(self) -> None:
        """The call has been answered. The session is idle from now on at the earliest."""
        with self.lock:
            self._calls -= 1
            self.last_used_s = self.clock.monotonic()

    def is_running(self) -> bool:
        """Whether a call is being answered or a statement at work."""
        return self._calls > 0 or bool(self.engine.running.of_session(self.id))

    def is_disposable(self) -> bool:
        """Whether nothing would be lost by closing this session."""
        held = (
            self.temporary,
            self.workspace,
            self.profile,
            self.settings,
            self.transactions,
            self._prepared,
        )
        return not any(held) and (self.catalog, self.schema) == self.home and not self.is_running()

    def open_counts(self) -> tuple[int, int]:
        """How many transactions and prepared statements are open."""
        return len(self.transactions), len(self._prepared)

    def close(self, reason: LakehouseError | None = None) -> None:
        """Stop what runs, roll back what is open, drop the temporary tables. Harmless when repeated.

        Args:
            reason: What the clients of running statements are told.
        """
        with self.lock:
            if self.closed:
                return
            self.closed = True
        self.engine.running.cancel_session(self.id, reason)
        for transaction in list(self.transactions.values()):
            self.end(transaction, commit=False)
        with self.lock:
            for token in self._prepared:
                self.index.pop(token, None)
            self._prepared.clear()
            for handle in list(self._handles.values()):
                self._drop(handle)
        if self.temporary:
            self.engine.database.forget(self.temporary)


class SessionRegistry:
    """Every open session, found by token; those idle or open for too long are closed by ``sweep``.

    Args:
        create: Makes a session of a given id.
        clock: Source of time and ids.
        settings: How many sessions may be open, and for how long.
    """

    def __init__(
        self,
        create: Callable[[str, dict[str, Session], Principal], Session],
        clock: Clock,
        settings: SessionSettings,
    ) -> None:
        self._create = create
        self._clock = clock
        self._settings = settings
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._by_principal: dict[str, set[Session]] = {}
        self._by_token: dict[tuple[Principal, str], Session] = {}
        self._owners: dict[str, Session] = {}

    def known(self, principal: Principal, token: str) -> bool:
        """Whether a token belongs to an open session of a principal."""
        return (principal, token) in self._by_token

    def owner(self, handle: str, otherwise: Session) -> Session:
        """The session that a handle or transaction id belongs to.

        Handles are unguessable, so a principal may use one of its own on whichever connection; those of
        others are as unknown as any.
        """
        found = self._owners.get(handle)
        return found if found is not None and found.principal == otherwise.principal else otherwise

    def alias(self, token: str, session: Session) -> None:
        """Let a further token stand for a session; the oldest such tokens are forgotten."""
        with self._lock:
            if session.closed:
                return
            self._by_token[session.principal, token] = session
            session.aliases.append(token)
            if len(session.aliases) > _MAX_ALIASES:
                self._by_token.pop((session.principal, session.aliases.popleft()), None)

    def get(self, token: str, principal: Principal, peer: str = "") -> Session:
        """The session of a principal's token; a new one where the token is new for that principal.

        Args:
            token: What the client presents.
            principal: Who it is.
            peer: The address it calls from.

        Raises:
            LimitExceeded: Too many sessions are open.
        """
        session = self._by_token.get((principal, token))
        now = self._clock.monotonic()
        if session is not None and session.has_cookie and token in session.tokens:
            # Whoever has a cookie sends it: this is another client that got the same address.
            self._part(token, session)
            session = None
        elif session is not None and token in session.aliases:
            session.has_cookie = True
        if session is not None and now - session.created_s > self._settings.lifetime_seconds:
            self.close(session)
        if session is None or session.closed:
            session = self._open(token, principal)
        session.last_used_s = now
        if peer:
            session.peer = peer
        return session

    def _part(self, token: str, session: Session) -> None:
        """Let a token no longer stand for a session, which can still be reached by its others."""
        with self._lock:
            if token in session.tokens:
                session.tokens.remove(token)
                self._by_token.pop((session.principal, token), None)

    def _open(self, token: str, principal: Principal) -> Session:
        evicted: list[Session] = []
        with self._lock:
            session = self._by_token.get((principal, token))
            if session is None or session.closed:
                evicted = self._make_room(principal)
                session = self._create(self._clock.token(), self._owners, principal)
                session.last_used_s = session.created_s
                session.tokens.append(token)
                self._sessions[session.id] = self._by_token[principal, token] = session
                self._by_principal.setdefault(principal.name, set()).add(session)
        for old in evicted:
            old.close()
        return session

    def _make_room(self, principal: Principal) -> list[Session]:
        """What has to be closed before one more session of a principal can be opened."""
        settings = self._settings
        own = self._by_principal.get(principal.name, set())
        if len(own) >= settings.max_sessions_per_principal:
            return self._evict(
                own,
                LimitExceeded(
                    f"{len(own)} sessions of {principal.name} are open",
                    "close some, or raise session.max_sessions_per_principal",
                ),
            )
        if len(self._sessions) < settings.max_sessions:
            return []
        full = LimitExceeded(
            f"{len(self._sessions)} sessions are open", "close some, or raise session.max_sessions"
        )
        try:
            return self._evict(own, full)
        except LimitExceeded:
            return self._evict(self._sessions.values(), full)

    def _evict(self, candidates: Iterable[Session], full: LimitExceeded) -> list[Session]:
        """Forget a tenth of these sessions, those idle longest among them that hold nothing.

        Clients without cookies leave such sessions behind with every connection that they drop.

        Raises:
            LimitExceeded: All of them hold something.
        """
        among = list(candidates)
        idle = sorted((s for s in among if s.is_disposable()), key=lambda s: s.last_used_s)
        if not idle:
            raise full
        chosen = idle[: max(1, len(among) // 10)]
        for session in chosen:
            self._forget(session)
        return chosen

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        own = self._by_principal.get(session.principal.name)
        if own is not None:
            own.discard(session)
            if not own:
                del self._by_principal[session.principal.name]
        for token in (*session.tokens, *session.aliases):
            self._by_token.pop((session.principal, token), None)

    def close(self, session: Session, reason: LakehouseError | None = None) -> None:
        """Close a session and forget its tokens.

        Args:
            session: The session.
            reason: What the clients of its running statements are told.
        """
        with self._lock:
            self._forget(session)
        session.close(reason)

    def sweep(self) -> int:
        """Close the sessions that were idle or open for too long, and forget results that nobody fetched.

        Returns:
            How many sessions were closed.
        """
        now, settings = self._clock.monotonic(), self._settings
        over = []
        for session in self.sessions():
            session.expire_handles()
            if session.created_s < now - settings.lifetime_seconds:
                over.append((session, f"open for {settings.lifetime_seconds:g} s (session.lifetime_seconds)"))
            elif session.last_used_s < now - settings.idle_seconds and not session.is_running():
                over.append((session, f"idle for {settings.idle_seconds:g} s (session.idle_seconds)"))
        for session, what in over:
            self.close(session, LimitExceeded(f"the session was {what}"))
        return len(over)

    def find(self, session_id: str) -> Session | None:
        """The open session of that id."""
        return self._sessions.get(session_id)

    def sessions(self) -> list[Session]:
        """The open sessions."""
        return list(self._sessions.copy().values())

    def close_all(self) -> None:
        """Close every session."""
        for session in self.sessions():
            self.close(session)
