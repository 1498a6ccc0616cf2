"""What single values look like: e-mail addresses, phone numbers, national ids, card numbers, names.

Numbers with rules of their own are checked by libraries that know these rules: phonenumbers (Google's list of
numbering plans) and python-stdnum (national ids, bank accounts, check digits).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from importlib import resources

import phonenumbers
from stdnum import iban, luhn

_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}\b")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
# Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay, Maestro.
_ISSUER = re.compile(
    r"4|5[1-5]|2(?:2(?:2[1-9]|[3-9])|[3-6]|7(?:[01]|20))|3[47]|6(?:011|4[4-9]|5)|35(?:2[89]|[3-8])"
    r"|3(?:0[0-5]|[689])|62|50|5[6-9]|6[37]"
)
_INTERNATIONAL = re.compile(r"(?<![\w+])(?:\+|00)[1-9][\d ()./-]{6,20}\d(?!\w)")
_NATIONAL_PHONE = re.compile(r"\(?\d[\d ()./-]{5,18}\d(?: ?(?:x|ext\.?) ?\d{1,5})?")
_NOT_PHONE = re.compile(
    r"\d{4}-\d\d-\d\d|\d\d[./-]\d\d[./-]\d{4}|\d{3}-\d\d-\d{4}|\d+\.\d+|(?:\d{1,3}\.){3}\d{1,3}"
)
_REGIONS = ("US", "GB", "DE", "FR", "IN", "BR", "ES", "IT", "JP", "AU", "PL", "NL")
_DIGITS = re.compile(r"\d")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])")
_NINO = re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?(?:\d\d ?){3}[A-D]")
_ID_LIKE = re.compile(r"(?=(?:.*\d){5})[A-Za-z]{0,6}[\d ./-]{4,18}[\dA-Za-z .-]{0,8}")
_NAME = re.compile(r"[^\W\d_]+(?:[ .,'’-]{1,2}[^\W\d_]+){0,5}\.?")
_STREET = re.compile(
    r"\b\d{1,5}[a-z]?,? (?:[\w.'-]+ ){1,5}?(?:street|st|road|rd|avenue|ave|boulevard|blvd|lane|ln|drive|dr"
    r"|court|ct|square|sq|place|pl|way|terrace|crescent|close|highway|hwy|parkway|pkwy|broadway)\b"
    r"|\b[\w-]*(?:stra(?:ß|ss)e|str\.|gasse|weg|platz|allee|ufer|damm|straat|laan|gatan|vägen|vej|gade|ulica|ul\.)"
    r" ?\d{1,4}\b"
    r"|\b(?:rue|avenue|boulevard|via|viale|piazza|calle|avenida|plaza|rua|travessa|ul\.|ulica|ulice|улица|ул\.)"
    r" [^\d,]{2,40},? ?(?:n[.º°]? ?)?\d{1,5}\b"
    r"|\b\d{1,4},? ?(?:bis |ter )?(?:rue|avenue|av\.|boulevard|bd|place|chemin|impasse|allée) "
    r"|\bp\.? ?o\.? box \d+|\bpostfach \d+",
    re.IGNORECASE,
)
_ADDRESS_LIKE = re.compile(r"(?=.*\d)[^\W\d_]{3}")
# python-stdnum's modules of numbers that persons have, by country; those without check digits are not here.
_NATIONAL_IDS = (
    "at.vnr be.nn bg.egn br.cpf ca.sin ch.ssn cl.rut cn.ric cz.rc de.idnr dk.cpr ee.ik es.dni es.nie "
    "fi.hetu fr.nir gr.amka hr.oib ie.pps il.idnr in_.aadhaar is_.kennitala it.codicefiscale jp.in_ "
    "kr.rrn lt.asmens mx.curp nl.bsn no.fodselsnummer pl.pesel pt.cc ro.cnp se.personnummer si.emso "
    "th.pin tr.tckimlik za.idnr au.tfn gb.nhs"
).split()


def has_email(text: str) -> bool:
    """Whether an e-mail address is in a text."""
    return "@" in text and _EMAIL.search(text) is not None


def is_email(text: str) -> bool:
    """Whether a text is an e-mail address and nothing else."""
    return _EMAIL.fullmatch(text.strip()) is not None


def has_card_number(text: str) -> bool:
    """Whether there is a number in a text that an issuer of payment cards could have given (ISO/IEC 7812)."""
    for found in _CARD.finditer(text):
        digits = found[0].replace(" ", "").replace("-", "")
        if _ISSUER.match(digits) and len(set(digits)) > 1 and luhn.is_valid(digits):
            return True
    return False


def is_card_number(text: str) -> bool:
    """Whether a text is a card number and nothing else."""
    return _CARD.fullmatch(text.strip()) is not None and has_card_number(text)


def has_phone(text: str) -> bool:
    """Whether a phone number with its country code is in a text."""
    for found in _INTERNATIONAL.finditer(text):
        number = "+" + found[0].removeprefix("+").removeprefix("00")
        if _is_phone(number, None):
            return True
    return False


def is_phone(text: str) -> bool:
    """Whether a text is a phone number, with its country code or as it is written within some country.

    Without a country code it has to be written in groups: a mere row of digits can be anything.
    """
    stripped = text.strip()
    if has_phone(stripped) and len(stripped) < 30:
        return True
    if _NATIONAL_PHONE.fullmatch(stripped) is None or _NOT_PHONE.fullmatch(stripped) or stripped.isdigit():
        return False
    return any(_is_phone(stripped, region) for region in _REGIONS)


def is_digits_of_phone(text: str) -> bool:
    """Whether a text could be a phone number, where there is reason to expect one."""
    return is_phone(text) or (
        6 <= len(_DIGITS.findall(text)) <= 15 and _NATIONAL_PHONE.fullmatch(text.strip()) is not None
    )


def _is_phone(text: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False


def is_bank_account(text: str) -> bool:
    """Whether a text is an international bank account number (ISO 13616)."""
    return text[:2].isalpha() and bool(iban.is_valid(text))


def has_ssn(text: str) -> bool:
    """Whether a social security number of the United States, written with hyphens, is in a text."""
    return _SSN.search(text) is not None


def is_id_like(text: str) -> bool:
    """Whether a text is mostly digits, with at most some letters, as ids are."""
    return len(text) <= 24 and _ID_LIKE.fullmatch(text.strip()) is not None


@cache
def national_ids() -> dict[str, Callable[[str], bool]]:
    """The checks of national ids, by country and kind. Most of random numbers fail each."""
    checks: dict[str, Callable[[str], bool]] = {
        "us.ssn": lambda text: _SSN.fullmatch(text.strip()) is not None,
        "gb.nino": lambda text: _NINO.fullmatch(text.strip().upper()) is not None,
    }
    for name in _NATIONAL_IDS:
        checks[name.replace("_", "")] = importlib.import_module(f"stdnum.{name}").is_valid
    return checks


def is_name_like(text: str) -> bool:
    """Whether a text has the form of a person's name: up to six words that begin with a capital."""
    stripped = text.strip()
    if len(stripped) > 60 or _NAME.fullmatch(stripped) is None:
        return False
    words = [word for word in re.split(r"[ .,'’-]+", stripped) if word]
    return all(word[0].isupper() or not word[0].islower() or len(word) <= 3 for word in words)


def has_first_name(text: str) -> bool:
    """Whether a text has the form of a name, and a common given name (or Chinese family name) is in it."""
    if not is_name_like(text):
        return False
    words = re.split(r"[ .,'’-]+", text.strip().lower())
    known = _first_names()
    return any(word in known for word in words) or (len(text.strip()) <= 4 and text.strip()[0] in known)


@cache
def _first_names() -> frozenset[str]:
    text = resources.files(__package__).joinpath("first_names.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


def is_address(text: str) -> bool:
    """Whether a street and a number, or a post box, is in a text."""
    return _DIGITS.search(text) is not None and _STREET.search(text) is not None


def is_address_like(text: str) -> bool:
    """Whether a text could be an address, where there is reason to expect one: words and a number."""
    return is_address(text) or (" " in text.strip() and _ADDRESS_LIKE.search(text) is not None)


def is_prose(text: str) -> bool:
    """Whether a text is a sentence or more: at least eight words, of which most are of letters."""
    words = text.split()
    return (
        len(words) >= 8
        and len(text) >= 40
        and sum(word[:1].isalpha() for word in words) * 3 >= len(words) * 2
    )
