"""Every way to say who one is, in process: what is accepted, what is refused, and what it costs who fails."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.access.authenticator import Authenticator
from lakehouse.access.passwords import hash_password
from lakehouse.access.principal import Principal
from lakehouse.access.throttle import Throttle
from lakehouse.clock import FixedClock
from lakehouse.config import Settings
from lakehouse.errors import ConfigError, LakehouseError, LimitExceeded, Unauthenticated
from lakehouse.storage import open_local_bucket

PASSWORD = "pass:wörd €"
TOKEN = "t0ken-" * 6
# As cheap as a hash can be; what users get is tried by itself.
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
HERE = "ipv4:198.51.100.7:4711"
ELSEWHERE = "ipv4:203.0.113.9:4711"
WRONG = "are wrong, expired or of a kind not accepted"


class Door:
    """An authenticator over a fixed clock, and what it reported."""

    def __init__(self, bucket: Path, **auth: Any) -> None:
        session, server = auth.pop("session", {}), auth.pop("server", {})
        self.clock = FixedClock()
        self.attempts: list[tuple[str, ...]] = []
        self.authenticator = Authenticator(
            Settings(auth=auth, session=session, server=server, roles=[{"name": "analyst"}]),
            open_local_bucket("primary", bucket),
            self.clock,
            lambda *attempt: self.attempts.append(attempt),
        )

    def enter(self, header: str = "", peer: str = HERE, certificate: str = "") -> Principal:
        return self.authenticator.authenticate(header, peer, certificate).principal

    def refusal(self, header: str = "", peer: str = HERE, certificate: str = "") -> str:
        with pytest.raises(Unauthenticated) as refused:
            self.enter(header, peer, certificate)
        return str(refused.value)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Door]:
    monkeypatch.setenv("ALICE", HASH)
    monkeypatch.setenv("DASH", TOKEN)

    def build(**auth: Any) -> Door:
        return Door(tmp_path / "bucket", **auth)

    return build


ALICE = {"name": "alice", "roles": ["reader"], "password_hash": {"env": "ALICE"}}
DASH = {"name": "dash", "roles": ["analyst"], "token": {"env": "DASH"}}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- no way set up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Basic xx", basic("a", "b"), "Bearer nobody", "Negotiate zzz"])
def test_while_no_way_is_set_up_everybody_is_anonymous(door, header):
    open_door = door(anonymous_role="reader")
    assert open_door.enter(header) == Principal("anonymous", frozenset({"reader"}))
    assert open_door.attempts == []


def test_while_no_way_is_set_up_a_login_still_gives_a_session(door):
    open_door = door()
    one, other = (open_door.authenticator.log_in(basic("x", "y")) for _ in range(2))
    sessions = {open_door.authenticator.recall(f"Bearer {token}").session for token in (one, other)}
    assert len(sessions) == 2
    assert "" not in sessions


# -- passwords ------------------------------------------------------------------------------------------


def test_a_user_is_let_in_with_the_password_and_only_with_it(door):
    entrance = door(users=[ALICE])
    found = entrance.enter(basic("alice", PASSWORD))
    assert (found, found.method) == (Principal("alice", frozenset({"reader"})), "password")
    for user, password in [
        ("alice", PASSWORD + " "),
        ("alice", ""),
        ("Alice", PASSWORD),
        ("bob", PASSWORD),
        ("", PASSWORD),
    ]:
        assert WRONG in entrance.refusal(basic(user, password))


def test_a_password_is_the_same_however_its_letters_are_composed(door):
    assert door(users=[ALICE]).enter(basic("alice", PASSWORD.replace("ö", "o\u0308"))).name == "alice"


def test_the_hash_that_the_command_makes_is_accepted(door, monkeypatch):
    made = hash_password(PASSWORD)
    assert made.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert made != hash_password(PASSWORD)
    monkeypatch.setenv("ALICE", made)
    assert door(users=[ALICE]).enter(basic("alice", PASSWORD)).name == "alice"


def test_whether_a_user_exists_is_not_told(door):
    entrance = door(users=[ALICE])
    assert entrance.refusal(basic("alice", "no")) == entrance.refusal(basic("nobody", "no"))


def test_a_password_that_was_right_is_not_hashed_again(door, monkeypatch):
    entrance = door(users=[ALICE])
    header = basic("alice", PASSWORD)
    entrance.enter(header)
    monkeypatch.setattr("argon2.PasswordHasher.verify", None)
    assert entrance.authenticator.recall(header).principal.name == "alice"
    assert entrance.authenticator.recall(basic("alice", "no")) is None


def test_what_is_no_argon2_hash_is_refused_at_the_start_without_being_shown(door, monkeypatch):
    monkeypatch.setenv("ALICE", "hunter2")
    with pytest.raises(ConfigError, match="'alice' is not an argon2 hash") as refused:
        door(users=[ALICE])
    assert "hunter2" not in str(refused.value)


# -- session tokens -------------------------------------------------------------------------------------


def test_a_login_gives_a_token_that_ends_with_its_lifetime(door):
    entrance = door(users=[ALICE], session={"lifetime_seconds": 60})
    token = entrance.authenticator.log_in(basic("alice", PASSWORD))
    found = entrance.enter(f"bearer   {token} ")
    assert (found.name, found.method) == ("alice", "password")
    assert (found.expires_at - entrance.clock.now()).total_seconds() == 60
    assert entrance.attempts == [("alice", "", "password", "ok")]
    entrance.clock.elapsed_s += 60
    assert WRONG in entrance.refusal(f"Bearer {token}")


def test_a_token_ends_with_its_session_and_leaves_others_alone(door):
    entrance = door(users=[ALICE])
    one, other = (entrance.authenticator.log_in(basic("alice", PASSWORD)) for _ in range(2))
    session = entrance.authenticator.recall(f"Bearer {one}").session
    assert one not in session
    entrance.authenticator.log_out(session)
    entrance.authenticator.log_out(session)
    entrance.authenticator.log_out("")
    assert WRONG in entrance.refusal(f"Bearer {one}")
    assert entrance.enter(f"Bearer {other}").name == "alice"


def test_a_principal_has_so_many_tokens_and_the_oldest_give_way(door):
    entrance = door(users=[ALICE], session={"max_sessions_per_principal": 3})
    tokens = [entrance.authenticator.log_in(basic("alice", PASSWORD)) for _ in range(5)]
    assert [entrance.authenticator.recall(f"Bearer {token}") is not None for token in tokens] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_a_session_is_not_handed_out_for_a_token_that_stays_good(door):
    entrance = door(users=[ALICE], tokens=[DASH])
    assert entrance.authenticator.log_in(f"Bearer {TOKEN}") == ""
    with pytest.raises(Unauthenticated):
        entrance.authenticator.log_in("")


# -- fixed tokens and certificates ----------------------------------------------------------------------


def test_a_fixed_token_is_its_holder(door):
    found = door(tokens=[DASH]).enter(f"Bearer {TOKEN}")
    assert (found, found.method) == (Principal("dash", frozenset({"analyst"})), "token")


def test_a_fixed_token_that_could_be_guessed_is_refused_at_the_start(door, monkeypatch):
    monkeypatch.setenv("DASH", "short-token")
    with pytest.raises(ConfigError, match="'dash' has 11 characters, expected at least 32") as refused:
        door(tokens=[DASH])
    assert "short-token" not in str(refused.value)


def test_one_token_is_not_two_holders(door):
    with pytest.raises(ConfigError, match="'dash' and 'twin' have the same token"):
        door(tokens=[DASH, {**DASH, "name": "twin"}])


CERTIFICATES = [{"subject": "etl.example.org", "name": "etl", "roles": ["writer"]}]
MUTUAL = {"tls": {"certificate": "c.pem", "key": "k.pem", "client_authorities": "ca.pem"}}


def test_certificates_that_nobody_checks_are_refused_at_the_start(door):
    with pytest.raises(ConfigError, match=r"needs server\.tls\.client_authorities"):
        door(certificates=CERTIFICATES)


def test_a_certificate_is_its_holder_unless_credentials_say_otherwise(door):
    entrance = door(tokens=[DASH], certificates=CERTIFICATES, server=MUTUAL)
    found = entrance.enter(certificate="etl.example.org")
    assert (found, found.method) == (Principal("etl", frozenset({"writer"})), "certificate")
    assert entrance.enter(f"Bearer {TOKEN}", certificate="etl.example.org").name == "dash"
    assert WRONG not in entrance.refusal(certificate="other.example.org")
    assert WRONG in entrance.refusal("Bearer wrong", certificate="etl.example.org")


# -- what is refused ------------------------------------------------------------------------------------


def test_who_says_nothing_is_told_what_is_accepted(door):
    said = door(users=[ALICE], api_keys=True, tokens=[DASH]).refusal()
    assert said == (
        "[UNAUTHENTICATED] this server asks who is calling (it accepts a user with a password, "
        "an API key as a bearer token, a bearer token)"
    )


@given(
    st.one_of(
        st.text(max_size=200),
        st.text(max_size=200).map(lambda text: f"Bearer {text}"),
        st.text(max_size=200).map(lambda text: f"Basic {text}"),
        st.binary(max_size=200).map(lambda raw: "Basic " + base64.b64encode(raw).decode()),
        st.integers(1, 5).map(lambda n: "Basic " + "QUFB" * 10**n),
        st.sampled_from(["Bearer lh_", "Bearer a.b.c", "Bearer ..", "Bearer eyJhbGciOiJub25lIn0.e30."]),
    )
)
def test_no_garbage_gets_in_or_fails_otherwise_than_by_refusal(tmp_path_factory, header):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DASH", TOKEN)
        environment.setenv("SECRET", "s" * 32)
        jwt = {"issuer": "i", "audience": "a", "algorithms": ["HS256"], "secret": {"env": "SECRET"}}
        entrance = Door(tmp_path_factory.getbasetemp() / "garbage", api_keys=True, tokens=[DASH], jwt=jwt)
    assert entrance.authenticator.recall(header) is None
    said = entrance.refusal(header)
    credentials = header.partition(" ")[2].strip()
    assert len(credentials) < 8 or credentials not in said


def test_a_header_of_any_size_is_refused_without_being_worked_on(door):
    entrance = door(users=[ALICE], api_keys=True, tokens=[DASH])
    for scheme in ("Basic", "Bearer", "X"):
        assert WRONG in entrance.refusal(f"{scheme} " + "A" * 10_000_000)


# -- what failing costs ---------------------------------------------------------------------------------


def fail(entrance: Door, header: str, peer: str = HERE, times: int = 3) -> list[str]:
    return [entrance.refusal(header, peer) for _ in range(times)]


def test_wrong_passwords_are_slowed_by_user_and_address(door):
    entrance = door(users=[ALICE], failures_per_minute=3)
    assert all(WRONG in said for said in fail(entrance, basic("alice", "no")))
    assert entrance.refusal(basic("alice", "no")) == (
        "[UNAUTHENTICATED] too many failed attempts, try again in 20 s"
    )
    # Not even a right one is looked at, or guessing would go on at full speed ...
    assert "try again in 20 s" in entrance.refusal(basic("alice", PASSWORD))
    # ... but only from that address, and not for ever.
    assert entrance.enter(basic("alice", PASSWORD), ELSEWHERE).name == "alice"
    entrance.clock.elapsed_s += 20
    assert WRONG in entrance.refusal(basic("bob", "no"))


def test_who_was_let_in_once_is_not_locked_out_by_others(door):
    entrance = door(users=[ALICE], failures_per_minute=3)
    entrance.enter(basic("alice", PASSWORD))
    fail(entrance, basic("alice", "no"), times=10)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            entrance.authenticator.log_in(basic("alice", "no"))
    assert entrance.enter(basic("alice", PASSWORD)).name == "alice"
    assert entrance.authenticator.log_in(basic("alice", PASSWORD))


def test_trying_one_user_after_the_other_is_slowed_by_address(door):
    entrance = door(users=[ALICE], failures_per_minute=3)
    for user in ("ann", "ben", "cyd"):
        assert WRONG in entrance.refusal(basic(user, "no"))
    assert "too many failed attempts" in entrance.refusal(basic("dan", "no"))


def test_another_port_or_address_of_one_network_is_no_other_caller(door):
    entrance = door(users=[ALICE], failures_per_minute=1)
    assert WRONG in entrance.refusal("Bearer no", "ipv6:%5B2001:db8:0:1::1%5D:4711")
    assert "too many" in entrance.refusal("Bearer no", "ipv6:%5B2001:db8:0:1:ffff::2%5D:4712")
    assert WRONG in entrance.refusal("Bearer no", "ipv6:%5B2001:db8:0:2::1%5D:4711")
    assert WRONG in entrance.refusal("Bearer no", "ipv4:192.0.2.1:1")
    assert "too many" in entrance.refusal("Bearer no", "ipv4:192.0.2.1:2")


def test_a_right_token_gets_in_whoever_fails_beside_it(door):
    entrance = door(tokens=[DASH], failures_per_minute=2)
    said = fail(entrance, "Bearer wrong", times=4)
    assert [("too many" in text) for text in said] == [False, False, True, True]
    assert entrance.enter(f"Bearer {TOKEN}").name == "dash"


def test_what_succeeds_costs_no_attempt(door):
    entrance = door(users=[ALICE], failures_per_minute=1)
    assert entrance.enter(basic("alice", PASSWORD)).name == "alice"
    assert WRONG in entrance.refusal(basic("alice", "no"))


def handshake(entrance: Door, header: str) -> str:
    with pytest.raises((Unauthenticated, LimitExceeded)) as refused:
        entrance.authenticator.log_in(header)
    return str(refused.value)


def test_handshakes_are_limited_but_not_for_who_was_let_in_before(door):
    entrance = door(users=[ALICE], tokens=[DASH], handshakes_per_minute=3, failures_per_minute=100)
    entrance.authenticator.log_in(basic("alice", PASSWORD))
    for _ in range(2):
        assert WRONG in handshake(entrance, basic("bob", "no"))
    for _ in range(3):
        assert "too many handshakes, try again in 20 s" in handshake(entrance, basic("ben", "no"))
    assert entrance.attempts[3:] == [("", "", "handshake", "throttled")]
    assert entrance.authenticator.log_in(basic("alice", PASSWORD))
    assert entrance.authenticator.log_in(f"Bearer {TOKEN}") == ""


def test_wrong_tokens_in_handshakes_are_slowed_and_right_ones_are_not(door):
    entrance = door(tokens=[DASH], failures_per_minute=3)
    said = [handshake(entrance, "Bearer wrong") for _ in range(5)]
    assert [WRONG in text for text in said] == [True, True, True, False, False]
    assert len(entrance.attempts) == 4
    assert entrance.authenticator.log_in(f"Bearer {TOKEN}") == ""


def test_failures_are_reported_and_those_refused_unseen_once_a_minute(door):
    entrance = door(users=[ALICE], failures_per_minute=2)
    fail(entrance, basic("alice", "no"), times=20)
    failed = ("alice", HERE, "password", "failed")
    throttled = ("alice", HERE, "password", "throttled")
    assert entrance.attempts == [failed, failed, throttled]


def test_who_gets_in_is_reported_when_the_password_is_checked_and_at_every_login(door):
    entrance = door(users=[ALICE], tokens=[DASH])
    for _ in range(3):
        entrance.enter(basic("alice", PASSWORD))
        entrance.enter(f"Bearer {TOKEN}")
    entrance.authenticator.log_in(basic("alice", PASSWORD))
    assert entrance.attempts == [("alice", HERE, "password", "ok"), ("alice", "", "password", "ok")]


def test_what_is_reported_of_a_name_is_printable_and_short(door):
    entrance = door(users=[ALICE])
    entrance.refusal(basic("a\nb\x1b[31m" + "x" * 100, "no"))
    entrance.refusal(basic("x" * 1000, "no"))
    assert [name for name, *_ in entrance.attempts] == ["a?b?[31m" + "x" * 100, ""]


def test_no_secret_is_in_the_text_of_anything(door, capsys):
    entrance = door(users=[ALICE], tokens=[DASH], api_keys=True)
    key, text = entrance.authenticator.api_keys.create("k", "k", ["reader"])
    secrets = [PASSWORD, TOKEN, text, text.rsplit("_", 1)[1], HASH]
    token = entrance.authenticator.log_in(basic("alice", PASSWORD))
    said = [repr(key), str(key), repr(entrance.authenticator.recall(f"Bearer {token}"))]
    for header in (basic("alice", PASSWORD + "x"), f"Bearer {TOKEN}x", f"Bearer {text}0", f"Bearer {token}x"):
        with pytest.raises(LakehouseError) as refused:
            entrance.enter(header)
        said.append(str(refused.value))
    everything = "".join((*said, *map(str, entrance.attempts), *capsys.readouterr()))
    assert [secret for secret in (*secrets, token) if secret in everything] == []


# -- the measure itself ---------------------------------------------------------------------------------


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 30), st.booleans()), max_size=100),
)
def test_no_key_has_more_attempts_than_its_bucket_and_time_give(per_minute, steps):
    clock = FixedClock()
    throttle = Throttle(per_minute, clock)
    taken = Counter()
    for key, seconds, succeeds in steps:
        clock.elapsed_s += seconds
        wait = throttle.take(key)
        if wait:
            clock.elapsed_s += wait + 1e-6
            assert throttle.take(key) == 0
        if succeeds:
            throttle.give_back(key)
        else:
            taken[key] += 1
        assert taken[key] <= per_minute * (1 + clock.elapsed_s / 60) + 1e-6


def test_an_attempt_that_one_key_refuses_costs_the_other_none():
    throttle = Throttle(1, FixedClock())
    assert throttle.take("a") == 0
    assert throttle.take("a", "b") == 60
    assert throttle.take("b") == 0


def test_so_many_keys_are_kept_and_no_more():
    throttle = Throttle(1, FixedClock(), max_keys=10)
    assert [throttle.take(str(n)) for n in range(1000)] == [0] * 1000
    assert [throttle.take(str(n)) for n in range(990, 1000)] == [60] * 10
