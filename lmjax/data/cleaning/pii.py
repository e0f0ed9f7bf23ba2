"""Personal data by pattern, masked by tokens with names: what has a check digit must pass it.

Patterns find what looks like such data in running text. They do not find names or postal addresses, and are no proof
that nothing personal is left.
"""

from __future__ import annotations

import ipaddress
import re

EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)"
    r"+[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
CARD = re.compile(r"(?<![\d.,-])[2-6](?:[ -]?\d){12,18}(?![\d-]|[.,]\d)")
IP4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
# International (+ and 7 to 15 digits, E.164), or North American with its separators: (212) 555-0123, 212-555-0123.
PHONE = re.compile(
    r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){6,14}(?![\d-])"
    r"|(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-. ]\d{4}(?![\w-]|\.\d)"
)


def mask(text: str) -> tuple[str, dict[str, int]]:
    """The text with each find replaced by <email>, <iban>, <card>, <ip> or <phone>; and how many of each."""
    found: dict[str, int] = {}
    for name, pattern, needs, valid in RULES:
        if not any(mark in text for mark in needs):
            continue

        def replace(match: re.Match, name=name, valid=valid) -> str:
            if not valid(match[0]):
                return match[0]
            found[name] = found.get(name, 0) + 1
            return f"<{name}>"

        text = pattern.sub(replace, text)
    return text, found


def luhn(number: str) -> bool:
    """Whether a payment card's check digit is right (ISO/IEC 7812-1, annex B), for 13 to 19 digits."""
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    return (
        sum(digit if i % 2 == 0 else (2 * digit - 9 if digit > 4 else 2 * digit) for i, digit in enumerate(digits)) % 10
        == 0
    )


def mod97(iban: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    bare = iban.replace(" ", "")
    return 15 <= len(bare) <= 34 and int("".join(str(int(sign, 36)) for sign in bare[4:] + bare[:4])) % 97 == 1


def _address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    if found.version == 6 and len([group for group in text.split(":") if group]) < 3:
        return False  # a::b is code
    return not (found.is_loopback or found.is_unspecified)  # 127.0.0.1 and 0.0.0.0 are nobody's


DIGITS = tuple("0123456789")
# In this order: an e-mail's host may look like an address, and a card's digits like a telephone number. A pattern is
# tried where one of its marks is in the text.
RULES = (
    ("email", EMAIL, ("@",), lambda text: True),
    ("iban", IBAN, DIGITS, mod97),
    ("card", CARD, DIGITS, luhn),
    ("ip", IP4, DIGITS, _address),
    ("ip", IP6, (":",), _address),
    ("phone", PHONE, DIGITS, lambda text: True),
)
NAMES = ("email", "iban", "card", "ip", "phone")
