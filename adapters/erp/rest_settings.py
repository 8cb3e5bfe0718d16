"""The description of a plain REST interface: `[erp.settings]` of `erp.kind = "rest"`.

Owns its shape and what each key means. Templates in it are checked by `rest_template`, as that knows the placeholders.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from adapters.erp.http.gateway import PatternText
from runtime.sections import Section

Method = Literal["GET", "POST", "PUT", "PATCH"]


class Pattern(Section):
    """An answer: by status (0 is any) and by what its error's code and text match ("" is any)."""

    status: int = 0
    code: PatternText = ""
    text: PatternText = ""


class Meaning(Pattern):
    """What such an answer means."""

    means: Literal["rejected", "throttled", "unavailable", "unauthorised", "unknown"]
    detail: str = ""
    retry_after_s: float = Field(default=0.0, ge=0)


class Errors(Section):
    """Where an error says its code and its text, and what they mean; before the usual meaning of a status. Also of an
    answer that has the status of a success, but not the reference."""

    code: str = ""
    text: str = ""
    meanings: tuple[Meaning, ...] = ()
    duplicate: Pattern | None = Field(default=None, description="the answer to a known key: it is then looked up")


class Items(Section):
    """Answers that tell of each entry by itself: where the list is, and what its items hold."""

    at: str = ""
    key: str = Field(min_length=1, description="of an item: the key as it was sent")
    reference: str = ""
    state: str = Field(default="", description="of an item: how it fared; empty: to be listed is to be posted")
    posted: tuple[str, ...] = Field(default=(), description="states that mean posted")
    rejected: tuple[str, ...] = Field(default=(), description="states that mean rejected; any other one is unknown")
    reason: str = ""


class Column(Section):
    """One column of a CSV file; a row stands for a line."""

    name: str
    value: str


class Csv(Section):
    """A CSV file in the place of a JSON body."""

    columns: tuple[Column, ...] = Field(min_length=1)
    heading: bool = True
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","


class Post(Section):
    """The request that books entries, and where its answer holds the reference: a path, or `header:NAME`."""

    method: Method = "POST"
    path: Annotated[str, Field(pattern="^/")]
    headers: dict[str, str] = {}
    body: Any = None
    csv: Csv | None = None
    content_type: str = ""
    key: str = Field(default="{key}", description="the key as sent; {key} is this elsewhere")
    reference: str = Field(default="", description="an answer without it is no success; empty: none is looked for")
    items: Items | None = Field(default=None, description="without: the answer's status holds for all entries")


class Lookup(Section):
    """The request that finds entries: `{key}` asks for one, `{keys}` for many, joined by `separator`.

    An answer to many may be one page of several: what it lacks is asked for again.
    """

    method: Method = "GET"
    path: Annotated[str, Field(pattern="^/")]
    params: dict[str, str] = {}
    body: Any = None
    separator: str = ","
    items: Items
    absent: tuple[int, ...] = Field(default=(), description="statuses that mean: there is none; else they are errors")


class Settings(Section):
    """`[erp.settings]` of a plain REST interface. `terms` are those of `runtime.ports.ErpTerms`, with `settle_s`."""

    terms: dict[str, Any]
    post: Post
    lookup: Lookup | None = None
    errors: Errors = Errors()
    sides: dict[Literal["D", "C"], str] = {"D": "D", "C": "C"}
    foreign_currencies: bool = Field(default=False, description="entries may be in another currency than the company's")
