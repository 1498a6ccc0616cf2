"""Which columns hold personal or confidential data, concluded from their names and a sample of their rows.

Every kind has two thresholds: the share of the different values in the sample that must look like it, and a
lower one for columns whose name says the same. What is found is told in numbers; no value is ever kept.
Detection errs: it is a help for whoever decides, who can declare or decline what it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from lakehouse.datasets import recognizers as looks
from lakehouse.datasets.manifest import Sensitivity

SAMPLE_VALUES = 500
"""Of so many different values of a column each is looked at."""
_CHARACTERS = 2000
_FIRST_LOOK = 20
_SOME = 0.2


@dataclass(frozen=True, slots=True)
class _Hint:
    """What changes where the name of a column says of which kind it is.

    Attributes:
        names: What such names look like.
        share: Which share of the values must fit then.
        fits: Whether a value looks like it, where less is enough.
        integers: Whether integers can be it then.
    """

    names: re.Pattern[str]
    share: float
    fits: Callable[[str], bool] | None = None
    integers: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind is recognised.

    Attributes:
        name: As ``Sensitivity.kind`` has it.
        fits: Whether a value looks like it.
        says: What such values are said to do in the evidence.
        share: Which share of the values must fit.
        reliability: The confidence where every value fits.
        values: How many values at least must fit.
        hint: What changes where the column's name says the same.
        integers: Whether integers can be it.
    """

    name: str
    fits: Callable[[str], bool]
    says: str
    share: float
    reliability: float
    values: int
    hint: _Hint | None = None
    integers: bool = False


def _words(pattern: str) -> re.Pattern[str]:
    """Matches where one of the words stands by itself in a name in lower case with ``_`` between words."""
    return re.compile(rf"(?:^|_)(?:{pattern})(?:_|\d|$)")


_EMAIL = _words("e_?mails?|mail|email_?addr(?:ess)?")
_CARD = _words("(?:credit_?|debit_?|payment_?)?card(?:_?(?:no|num|number))?|pan|cc_?(?:no|num|number)")
_PHONE = _words(
    "phones?|phone_?(?:no|num|number)|tel|telephone|telefon(?:o|e)?|mobile|cell|handy|fax|whatsapp|msisdn"
)
_ACCOUNT = _words("iban|bank_?account|account_?(?:no|num|number)|konto(?:nummer)?")
_ID = _words(
    "ssn|social_?security(?:_?(?:no|num|number))?|national_?(?:id|insurance)(?:_?(?:no|number))?|nino|nhs_?(?:no|number)"
    "|passport(?:_?(?:no|number))?|tax_?(?:id|payer_?id|no|number)|tin|steuer_?(?:id|nummer)|idnr|dni|nie|nif|cpf|rut"
    "|pesel|bsn|aadhaar|personnummer|fodselsnummer|cpr|hetu|codice_?fiscale|curp|egn|cnp|oib|amka|svnr|ahv"
    "|id_?card(?:_?(?:no|number))?|drivers?_?licen[cs]e(?:_?(?:no|number))?"
)
_NAME = _words(
    "(?:first|last|given|family|middle|maiden|full|nick|sur|fore|user_?real|person|customer|client|employee|patient"
    "|passenger|contact|owner|author|driver|holder|member|guest|student|teacher|recipient|sender)_?names?"
    "|vorname|nachname|familienname|prenom|prénom|apellidos?|cognome|nombre|surname|fname|lname"
)
_ADDRESS = _words(
    "(?<!mail_)(?<!ip_)(?<!mac_)(?<!web_)(?<!url_)(?:street|home|postal|mailing|billing|shipping|delivery|customer)?"
    "_?addr(?:ess)?(?:_?line)?|street"
    "|stra(?:ß|ss)e|adresse|anschrift|direcci[oó]n|indirizzo|endere[cç]o|adres"
)
_LEAVES = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer)
_PROSE = _words(
    "comments?|notes?|description|remarks?|message|body|text|content|feedback|review|bio|abstract"
)
_CARDS = _Hint(_CARD, 0.3)
_KINDS = (
    _Kind("email", looks.is_email, "are e-mail addresses", 0.5, 0.99, 1, _Hint(_EMAIL, 0.1)),
    _Kind("email", looks.has_email, "contain an e-mail address", 0.01, 0.9, 3),
    _Kind("card_number", looks.is_card_number, "are card numbers", 0.8, 0.98, 5, _CARDS, integers=True),
    _Kind("card_number", looks.has_card_number, "contain a card number", 0.05, 0.8, 3),
    _Kind("bank_account", looks.is_bank_account, "are IBANs", 0.5, 0.99, 1, _Hint(_ACCOUNT, 0.2)),
    _Kind("national_id", looks.has_ssn, "contain a number in the form of us.ssn", 0.02, 0.7, 3),
    _Kind(
        "phone", looks.is_phone, "are phone numbers", 0.6, 0.9, 3,
        _Hint(_PHONE, 0.3, looks.is_digits_of_phone, integers=True),
    ),
    _Kind("phone", looks.has_phone, "contain a phone number", 0.02, 0.85, 3),
    _Kind(
        "person_name", looks.has_first_name, "are like names, with a common given name", 0.4, 0.85, 5,
        _Hint(_NAME, 0.5, looks.is_name_like),
    ),
    _Kind(
        "address", looks.is_address, "contain a street with a number", 0.3, 0.9, 3,
        _Hint(_ADDRESS, 0.3, looks.is_address_like),
    ),
    _Kind("free_text", looks.is_prose, "are texts of eight words or more", 0.4, 0.9, 3, _Hint(_PROSE, 0.15)),
)  # fmt: skip


def detect(rows: pa.Table) -> dict[str, tuple[Sensitivity, ...]]:
    """What kinds of personal or confidential data some rows seem to hold.

    Args:
        rows: A sample of a dataset, the more random the better.

    Returns:
        By column, the most certain kind first; columns in which nothing was found are left out. What is found
        in fields of structs and elements of lists is told of their column.
    """
    found: dict[str, dict[str, Sensitivity]] = {}
    for index, name in enumerate(rows.column_names):
        for path, values in _leaves(name, rows.column(index)):
            for told in _of(path.rsplit(".", 1)[-1], values, path if path != name else ""):
                known = found.setdefault(name, {})
                if told.kind not in known or told.confidence > known[told.kind].confidence:
                    known[told.kind] = told
    return {
        name: tuple(sorted(kinds.values(), key=lambda told: (-told.confidence, told.kind)))
        for name, kinds in found.items()
    }


def _leaves(path: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The texts and integers of a column, however deep they are in it, with the names that lead to them."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        yield from _leaves(path, column)
    elif types.is_struct(kind):
        for index in range(kind.num_fields):
            inner = pa.chunked_array(
                [pc.struct_field(chunk, index) for chunk in column.chunks], kind[index].type
            )
            yield from _leaves(f"{path}.{kind[index].name}", inner)
    elif types.is_map(kind):
        items = [chunk.items for chunk in column.chunks]
        yield from _leaves(path, pa.chunked_array(items, kind.item_type))
    elif isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        yield from _leaves(path, pc.list_flatten(column))
    elif any(is_such(kind) for is_such in _LEAVES):
        yield path, column


def _of(name: str, column: pa.ChunkedArray, path: str) -> Iterator[Sensitivity]:
    """What the values of a column, or of a part of it at ``path``, look like."""
    is_integer = types.is_integer(column.type)
    values = _sample(column)
    if not values:
        return
    named = _plain(name)
    where = f" of '{path}'" if path else ""
    told: set[str] = set()
    for kind in _KINDS:
        hint = kind.hint if kind.hint and kind.hint.names.search(named) else None
        if kind.name in told or (is_integer and not (kind.integers or (hint and hint.integers))):
            continue
        found = _judged(kind, values, hint, where)
        if found is not None:
            told.add(kind.name)
            yield found
    ids = _national_id(values, _ID.search(named) is not None, is_integer, where)
    if ids is not None and "card_number" not in told:
        yield ids


def _judged(kind: _Kind, values: Sequence[str], hint: _Hint | None, where: str) -> Sensitivity | None:
    """What there is to say of a kind, if the values look enough like it."""
    fits = hint.fits if hint and hint.fits else kind.fits
    needed, fewest = (hint.share, 1) if hint else (kind.share, kind.values)
    if needed > _SOME and not _worth_it(fits, values, needed):
        return None
    count = sum(map(fits, values))
    share = count / len(values)
    if share < needed or count < fewest:
        return None
    # Where few values are enough, it does not matter how many more there are.
    certainty = kind.reliability * (share if kind.share > _SOME else 1)
    evidence = _evidence(count, values, where, kind.says, hint is not None)
    return Sensitivity(kind.name, _confidence(certainty, count, hint is not None), evidence)


def _national_id(values: Sequence[str], hinted: bool, is_integer: bool, where: str) -> Sensitivity | None:
    """The kind of national id that most values are valid numbers of, if there is any."""
    if not _worth_it(looks.is_id_like, values, 0.5):
        return None
    best, most = "", 0
    for name, check in looks.national_ids().items():
        if not _worth_it(check, values, 0.5):
            continue
        count = sum(map(check, values))
        if count > most:
            best, most = name, count
    share = most / len(values)
    # A tenth of random numbers is valid where there is one check digit, so that some hits mean nothing.
    needed = 0.5 if hinted else 0.95 if is_integer else 0.9
    if best and share >= needed and (hinted or most >= 10):
        says = f"are valid as {best}"
        return Sensitivity(
            "national_id",
            _confidence(0.95 * share, most, hinted),
            _evidence(most, values, where, says, hinted),
        )
    if hinted:
        like = sum(map(looks.is_id_like, values))
        if like / len(values) >= 0.5:
            evidence = _evidence(like, values, where, "have the form of an id", hinted)
            return Sensitivity("national_id", round(0.6 * like / len(values), 2), evidence)
    return None


def _worth_it(fits: Callable[[str], bool], values: Sequence[str], share: float) -> bool:
    """Whether so many of the first values fit that all are worth looking at."""
    first = values[:_FIRST_LOOK]
    return sum(map(fits, first)) >= len(first) * share / 3


def _confidence(certainty: float, count: int, hinted: bool) -> float:
    """Less for few values; more where the name of the column says the same."""
    certainty *= (count + 1) / (count + 2)
    return round(min(0.99, 1 - (1 - certainty) / 2 if hinted else certainty), 2)


def _evidence(count: int, values: Sequence[str], where: str, says: str, hinted: bool) -> str:
    name = ", and the column's name says so" if hinted else ""
    return f"{count} of {len(values)} sampled values{where} {says}{name}"


def _sample(column: pa.ChunkedArray) -> list[str]:
    """Some different values, as texts of bounded length; blank ones are left out."""
    different = pc.unique(column).drop_null()
    step = max(1, len(different) // SAMPLE_VALUES)
    texts = (str(value.as_py())[:_CHARACTERS] for value in different[::step][:SAMPLE_VALUES])
    return [text for text in texts if text.strip()]


def _plain(name: str) -> str:
    """The name of a column in lower case, with ``_`` between its words: ``workEmail`` as work_email."""
    split = re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", name).lower()
    return re.sub(r"[\W_]+", "_", split)
