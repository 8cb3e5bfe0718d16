"""UBL 2.x orders, despatch advices, receipt advices, invoices and credit notes, Peppol BIS and EN 16931 among them.

Owns which XML is UBL, and the reading of a file document by document. Never fetches a schema: what the arithmetic
needs is checked, what else a profile demands of a sender is not ours to enforce.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from adapters.sources.purchasing import Reading, Unfit, chunks
from adapters.sources.source import Chunk, Reader, SourceSettings
from adapters.sources.ubl.reading import READERS, figures_of
from adapters.sources.ubl.xml_documents import Node, documents

_NAMESPACE = re.compile(rb"urn:oasis:names:specification:ubl:schema:xsd:(%s)-" % "|".join(READERS).encode())


def recognise(head: bytes) -> str:
    """The format's name when a file that begins so is UBL, else ""."""
    # Without its zero bytes, UTF-16 reads like ASCII as far as names go.
    plain = head.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return "ubl" if plain.startswith(b"<") and _NAMESPACE.search(plain) else ""


def read(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """Read the file document by document. One whose sums do not agree is quarantined whole, the next goes on.

    A place's segment is the line of the file, its element the number of the XML element in the file.
    """
    return chunks(_readings(path), "ubl", settings)


def _readings(path: Path) -> Iterator[Reading]:
    ordinal = 0
    for ordinal, document in enumerate(documents(path, frozenset(READERS)), start=1):
        yield _unreadable(ordinal, document) if isinstance(document, Unfit) else _reading(ordinal, document)
    if not ordinal:
        yield _unreadable(1, Unfit("no_document", 1, 1))


def _unreadable(ordinal: int, unfit: Unfit) -> Reading:
    return Reading(None, unfit.aside(ordinal))


def _reading(ordinal: int, document: Node) -> Reading:
    figures = figures_of(document)
    try:
        return Reading(READERS[document.name](document), (), figures)
    except Unfit as unfit:
        return Reading(None, unfit.aside(ordinal), figures)


FORMATS: dict[str, Reader] = {"ubl": read}
