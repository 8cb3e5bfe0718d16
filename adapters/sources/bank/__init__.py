"""What banks send: statements and notifications (camt.053, camt.054), BAI2 and NACHA files.

Owns the table of bank formats and how one is recognised. Never reads an entry itself.
"""

import re

from adapters.sources.bank import bai2, camt, nacha
from adapters.sources.bank.entries import reader
from adapters.sources.source import Reader

__all__ = ["FORMATS", "recognise"]

FORMATS: dict[str, Reader] = {
    "camt": reader("camt", camt.scan),
    "bai2": reader("bai2", bai2.scan),
    "nacha": reader("nacha", nacha.scan),
}
_CONTENTS = {
    "camt": re.compile(rb"<[^>]*urn:iso:std:iso:20022:tech:xsd:camt\.05[34]\.001\.\d\d", re.DOTALL),
    "bai2": re.compile(rb"\s*01,[^,\r\n]*,[^,\r\n]*,\d{6,8},"),
    "nacha": re.compile(
        rb"(?:101[ \d]\d{9}[ \d]\d{9}\d{10}|5(?:200|220|225|280)[^,\r\n]{46}[A-Z]{3}|6[2-5]\d{10}[^,\r\n]{27})"
    ),
}


def recognise(head: bytes) -> str:
    """The format whose beginning this is, or nothing."""
    content = head.removeprefix(b"\xef\xbb\xbf")
    for name, pattern in _CONTENTS.items():
        if pattern.search(content) if name == "camt" else pattern.match(content):
            return name
    return ""
