"""Personal data is found by what it looks like, and what only resembles it is left alone."""

from __future__ import annotations

import random
import string

import pyarrow as pa
import pytest

from lakehouse.datasets.sensitivity import SAMPLE_VALUES, detect

RANDOM = random.Random(20261121)
FIRST = "Anna Peter María Jürgen Chloé Olivia Ahmed Priya Иван Søren Katarzyna Luca Emily Hans".split()
LAST = "Walker Müller García Lefèvre Nowak Rossi Kowalska Иванов Jensen O'Brien Smith-Jones Ito".split()


def digits(form: str) -> str:
    return "".join(RANDOM.choice(string.digits) if sign == "#" else sign for sign in form)


def many(form: str, count: int = 200) -> list[str]:
    return [digits(form) for _ in range(count)]


def luhn(payload: str) -> str:
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(payload), 1 - 1)]
    return payload + str(-sum(d // 10 + d % 10 for d in doubled) % 10)


def dni() -> str:
    number = RANDOM.randrange(10**7, 10**8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


CARDS = [luhn(digits("45###########" + "##")) for _ in range(100)]
SENSITIVE = {
    "email": [f"{digits('u###')}@example{i}.org" for i in range(50)],
    "phone": [digits("+49 30 2#### ###") for _ in range(50)],
    "phone ": [digits("(212) 4##-####") for _ in range(50)],
    "card_number": CARDS,
    "card_number ": [" ".join(card[i : i + 4] for i in range(0, 16, 4)) for card in CARDS],
    "national_id": [dni() for _ in range(50)],
    "national_id ": [digits("5#6-4#-1###") for _ in range(50)],
    "bank_account": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606"],
    "person_name": [f"{RANDOM.choice(FIRST)} {RANDOM.choice(LAST)}" for _ in range(60)],
    "address": [
        f"{i} {RANDOM.choice(LAST)} {RANDOM.choice(['Street', 'Ave', 'Road'])}, Springfield"
        for i in range(40)
    ],
    "address ": [f"{RANDOM.choice(['Haupt', 'Linden'])}straße {i}, 10115 Berlin" for i in range(1, 40)],
    "free_text": [
        f"The {w} customer called twice and asked why order {i} had not arrived." for i, w in enumerate(LAST)
    ],
}
HARMLESS = {
    "sequence": [str(i) for i in range(100_000_000, 100_000_200)],
    "nine digits": many("#########"),
    "eleven digits": many("###########"),
    "sixteen digits": many("################"),
    "uuid": many("########-####-####-####-############"),
    "date": many("20##-0#-1#"),
    "german date": many("1#.0#.20##"),
    "timestamp": many("20##-0#-1# 1#:2#:3#.######"),
    "decimal": many("###.##########"),
    "ip": many("1#.2#.1##.1#"),
    "isbn": many("978-3-16-14####-#"),
    "code": many("AB-####"),
    "carrier": ["Endeavor Air Inc.", "American Airlines Inc.", "JetBlue Airways", "Delta Air Lines Inc."],
    "city": ["New York", "San Francisco", "Paris", "Köln", "Łódź", "東京", "London", "Lima", "Oslo", "Rome"],
    "url": [f"https://example.org/{i}" for i in range(50)],
    "word": ["red", "green", "blue", "AIR", "TRUCK", "SHIP", "1-URGENT"],
    "blank": ["", " ", "\n"],
}


@pytest.mark.parametrize("kind", SENSITIVE)
def test_values_are_recognised_whatever_their_column_is_called(kind: str) -> None:
    [found] = detect(pa.table({"c": SENSITIVE[kind]})).values()
    assert found[0].kind == kind.strip()
    assert 0.3 < found[0].confidence < 1


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_resembles_personal_data_is_left_alone(name: str) -> None:
    assert detect(pa.table({"c": HARMLESS[name]})) == {}


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("lastName", ["Walker", "Ziegert", "Hamel"], "person_name"),
        ("customer_name", ["Walker", "Ziegert"], "person_name"),
        ("PHONE_NO", many("030#######"), "phone"),
        ("shipping address", ["3581 Anna Meadows Apt. 787", "12 Hinterm Berg"], "address"),
        ("Passport-Number", many("C0####X#"), "national_id"),
        ("email", ["a@example.org", "unknown", "n/a", "none"], "email"),
    ],
)
def test_the_name_of_a_column_counts(name: str, values: list[str], kind: str) -> None:
    assert kind in [told.kind for told in detect(pa.table({name: values}))[name]]
    assert kind not in [told.kind for found in detect(pa.table({"c": values})).values() for told in found]


@pytest.mark.parametrize(
    "name", ["ip_address", "mac_address", "product_name", "carrier_name", "panel", "hotel"]
)
def test_names_that_sound_alike_do_not_count(name: str) -> None:
    assert detect(pa.table({name: ["10.0.0.1 x", "Endeavor Air Inc.", "aa:bb:cc:00:11:22", "123"]})) == {}


def test_addresses_within_texts_are_found_however_few() -> None:
    texts = [f"Order {i} was sent on time." for i in range(300)]
    texts[7::60] = [f"Please write to someone{i}@example.org today." for i in range(5)]
    [found] = detect(pa.table({"c": texts}))["c"]
    assert (found.kind, found.evidence.split(" sampled")[0]) == ("email", "5 of 300")


def test_no_value_is_told() -> None:
    for found in detect(pa.table({f"c{i}": (v * 60)[:60] for i, v in enumerate(SENSITIVE.values())})).items():
        for told in found[1]:
            for values in SENSITIVE.values():
                assert not any(value in told.evidence for value in values)


def test_every_type_of_column_is_looked_into() -> None:
    emails = SENSITIVE["email"]
    rows = pa.table(
        {
            "dictionary": pa.array(emails).dictionary_encode(),
            "view": pa.array(emails, pa.string_view()),
            "list": pa.array([[e, None] for e in emails]),
            "struct": pa.array([{"contact": {"mail": e}} for e in emails]),
            "map": pa.array([[("k", e)] for e in emails], pa.map_(pa.string(), pa.string())),
            "card": pa.array([int(card) for card in CARDS[: len(emails)]]),
            "bytes": pa.array([e.encode() for e in emails]),
            "number": pa.array([1.5] * len(emails)),
            "nothing": pa.nulls(len(emails)),
            "nulls": pa.nulls(len(emails), pa.string()),
            "uuid": pa.array([bytes(16)] * len(emails), pa.uuid()),
        }
    )
    found = {name: told[0].kind for name, told in detect(rows).items()}
    assert found == dict.fromkeys(["dictionary", "view", "list", "struct", "map"], "email") | {
        "card": "card_number"
    }
    assert "of 'struct.contact.mail'" in detect(rows)["struct"][0].evidence


@pytest.mark.parametrize("rows", [pa.table({}), pa.table({"c": pa.array([], pa.string())})])
def test_nothing_is_found_where_there_is_nothing(rows: pa.Table) -> None:
    assert detect(rows) == {}


def test_hostile_values_are_looked_at_in_bounded_time() -> None:
    texts = [
        "a@" * 500_000,
        "1 " * 500_000,
        "+" * 1_000_000,
        "(" * 9999,
        "é" * 1_000_000,
        "4" * 1_000_000,
        "\0",
    ]
    rows = pa.table(
        {"email": texts * (SAMPLE_VALUES // 50), "phone_ssn_address": texts * (SAMPLE_VALUES // 50)}
    )
    detect(rows)
