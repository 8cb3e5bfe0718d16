"""XML as a stream of small trees, one a document: safe against hostile files, and bounded.

Owns which elements are kept and what is refused. Never resolves an entity: a document type declaration ends the
reading before anything it declares is looked at. On expat itself, because it shows every declaration, depth and line
as it comes; the libraries above it (ElementTree, lxml) build first and let themselves be asked afterwards.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from xml.parsers import expat

from adapters.sources.purchasing import Unfit

DEPTH_MAX = 48
ELEMENTS_MAX = 600_000  # of one document, as kept
TEXT_CHARS_MAX = 16 * 2**20  # of one document, as kept
ELEMENT_CHARS_MAX = 64 * 1024  # of one element's text, as kept
TOKEN_BYTES_MAX = 2**20  # of one tag, comment or instruction, which the parser holds whole

_FEED_BYTES = 64 * 1024
_PASSED_OVER = {"UBLExtensions", "Attachment", "PostalAddress", "Contact", "Item", "PaymentMeans", "Delivery", "Note"}
_NO_ATTRIBUTES: Mapping[str, str] = {}


class Node:
    """An element by its local name, with the line it begins in and its number in the file."""

    __slots__ = ("attributes", "body", "children", "line", "name", "ordinal", "text")

    def __init__(self, name: str, attributes: Mapping[str, str], line: int, ordinal: int) -> None:
        self.name, self.attributes, self.line, self.ordinal = name, attributes, line, ordinal
        self.text = ""
        self.body = ""  # of a document: the hash of its whole content
        self.children: list[Node] = []

    def all(self, name: str) -> Iterator["Node"]:
        """Its own children of that name."""
        return (child for child in self.children if child.name == name)

    def first(self, *path: str) -> "Node | None":
        """The first element at the end of that path."""
        node: Node | None = self
        for name in path:
            node = next(node.all(name), None) if node else None
        return node

    def text_at(self, *path: str) -> str:
        """The text there, without blanks around it; "" when there is none."""
        node = self.first(*path)
        return node.text.strip() if node else ""

    def unfit(self, code: str) -> Unfit:
        """A fault whose place is this element."""
        return Unfit(code, self.line, self.ordinal)


def documents(path: Path, names: frozenset[str]) -> Iterator[Node | Unfit]:
    """Each element of those names that lies in none of them, as a tree; a fault where the reading has to end.

    A document beyond the limits comes as a fault too, and the reading goes on after it.
    """
    builder = _Builder(names)
    with path.open("rb") as file:
        while not builder.ended:
            builder.feed(file.read(_FEED_BYTES))
            yield from builder.take()


class _Builder:
    """Expat's handlers. Keeps one document; what lies outside of any is only counted."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._done: list[Node | Unfit] = []
        self._open: list[Node] = []
        self._depth = self._ordinal = self._passing_over = self._silent_bytes = 0
        self._kept_elements = self._kept_chars = 0
        self._too_large = False
        self._hash = sha256()
        self.ended = False
        self._parser = self._new_parser()

    def _new_parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        return parser

    def feed(self, chunk: bytes) -> None:
        """Parse some more; nothing more ends it."""
        self._silent_bytes += len(chunk)
        try:
            self._parser.Parse(chunk, not chunk)
            if self._silent_bytes > TOKEN_BYTES_MAX:
                raise self._refusal("too_large")
        except (expat.ExpatError, ValueError, LookupError):
            self._end_with(self._refusal("malformed"))
        except Unfit as refusal:
            self._end_with(refusal)
        self.ended = self.ended or not chunk

    def take(self) -> list[Node | Unfit]:
        """What has been finished since it was asked last."""
        done, self._done = self._done, []
        return done

    def _end_with(self, refusal: Unfit) -> None:
        self._done.append(refusal)
        self.ended = True

    def _refusal(self, code: str) -> Unfit:
        return Unfit(code, self._parser.CurrentLineNumber, self._ordinal)

    def _doctype(self, *_: object) -> None:
        raise self._refusal("doctype")

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        self._silent_bytes = 0
        self._depth += 1
        self._ordinal += 1
        if self._depth > DEPTH_MAX:
            raise self._refusal("too_deep")
        name = qualified.rpartition(":")[2]
        if not self._open and name not in self._names:
            return
        self._digest("<", name, *(f"{key}={attributes[key]}" for key in sorted(attributes) if _is_content(key)))
        if self._passing_over or name in _PASSED_OVER or self._too_large:
            self._passing_over += 1
            return
        self._keep(Node(name, attributes or _NO_ATTRIBUTES, self._parser.CurrentLineNumber, self._ordinal))

    def _keep(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        self._open.append(node)
        self._count(elements=1, chars=sum(map(len, node.attributes.values())))

    def _count(self, elements: int, chars: int) -> None:
        self._kept_elements += elements
        self._kept_chars += chars
        overlong = len(self._open[-1].text) > ELEMENT_CHARS_MAX
        if overlong or self._kept_elements > ELEMENTS_MAX or self._kept_chars > TEXT_CHARS_MAX:
            self._too_large = True
            for node in self._open:
                node.children, node.text = [], ""

    def _characters(self, text: str) -> None:
        self._silent_bytes = 0
        if not self._open:
            return
        self._digest("".join(text.split()))
        if not self._passing_over and not self._too_large:
            self._open[-1].text += text
            self._count(elements=0, chars=len(text))

    def _end(self, _: str) -> None:
        self._silent_bytes = 0
        self._depth -= 1
        if not self._open:
            return
        self._digest(">")
        if self._passing_over:
            self._passing_over -= 1
            return
        node = self._open.pop()
        if not self._open:
            self._finish(node)

    def _finish(self, document: Node) -> None:
        document.body = self._hash.hexdigest()
        self._done.append(document.unfit("too_large") if self._too_large else document)
        self._hash, self._too_large = sha256(), False
        self._kept_elements = self._kept_chars = 0

    def _digest(self, *parts: str) -> None:
        # Blanks are no content, and how a text is cut into calls must not matter.
        self._hash.update("\x1f".join(parts).encode())


def _is_content(attribute: str) -> bool:
    return not attribute.startswith(("xmlns", "xsi:"))
