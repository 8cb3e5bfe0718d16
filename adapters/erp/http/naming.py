"""What entries and lines are called at an ERP.

Owns short names of keys where an ERP has too little room, and the text of a line. A short name is a hash of the key:
two keys may meet in one, so whoever finds a document by it also compares the whole key.
"""

import base64
import hashlib
import re

from runtime.ports import JournalLine


def short_name(key: str, chars: int, prefix: str = "PS") -> str:
    """A stable name of this key in `chars` characters: capital letters and digits, 5 bits each after the prefix."""
    digest = hashlib.blake2b(key.encode(), digest_size=32).digest()
    return (prefix + base64.b32encode(digest).decode())[:chars]


def plain_name(key: str, allowed: str = "A-Za-z0-9_-") -> str:
    """The key itself where it has only allowed characters; otherwise with the others replaced, and told apart by a
    hash."""
    if re.fullmatch(f"[{allowed}]+", key):
        return key
    return f"{re.sub(f'[^{allowed}]', '_', key)}-{short_name(key, 12, '')}"


def line_text(line: JournalLine) -> str:
    """A line's text, with the dimensions that the ERP has no place for after it."""
    return " ".join(part for part in (line.text, line.facility, line.department, line.variance) if part)
