"""The task as a rulebook of Penstock's: the same tables as `task`, in the form that its engine reads.

Owns no rule of its own, and how its effects are read as an outcome of the task. Each kind is summed by itself, with
facility and department kept.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from benchmarks import workload
from benchmarks.peers.task import ACCOUNTS, DIMENSIONS, LINKS, Outcome, name_of
from runtime.config import Config
from runtime.ledger.rule_file import BUILT_IN_EXCEPTIONS

_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")  # roles have no digits
_ITEM_DAYS = 30
_EXCEPTION = "unmatched_card_payment"
_KINDS_OF_ENTITY = ("card_", "refund_", "payout_", "deposit_")  # routed as in the standard rulebook


def configuration(folder: Path, **sections: dict) -> Config:
    """A configuration of the workload's hospitals under the task's rules, which are written into `folder`."""
    path = folder / "task.toml"
    path.write_text(_rulebook())
    codes = {code for pair in ACCOUNTS.values() if pair for code in pair}
    mapping = [{"role": _role(code), "account": code} for code in sorted(codes)]
    return workload.configuration(rulebook=str(path), mapping=mapping, **sections)


def _role(code: str) -> str:
    return "ACCOUNT_" + code.translate(_LETTERS)


def _rulebook() -> str:
    items = {link.opens[0] for link in LINKS.values() if link.opens}
    tables = [_kind(kind) for kind in ACCOUNTS] + [_item(item) for item in sorted(items)]
    return "\n".join([*tables, *map(_exception, (_EXCEPTION, *BUILT_IN_EXCEPTIONS))])


def _kind(kind: str) -> str:
    entity = kind.startswith(_KINDS_OF_ENTITY)
    lines = [
        f"[kind.{kind}]",
        'flow = "task"',
        f'scope = "{"entity" if entity else "facility"}"',
        'sign = "any"',
        f"requires = {_required(kind, entity)}",
    ]
    if accounts := ACCOUNTS[kind]:
        debit, credit = map(_role, accounts)
        lines += ['mode = "summary"', 'keep = ["facility", "department"]']
        lines += [f'post = [{{ debit = "{debit}", credit = "{credit}" }}]']
    else:
        lines += ['mode = "none"']
    if kind in LINKS:
        lines += [f"[kind.{kind}.links]", *_links(kind)]
    return "\n".join(lines) + "\n"


def _required(kind: str, entity: bool) -> str:
    link = LINKS.get(kind)
    columns = {named[1] for named in (link or ()) if named}
    return str(sorted(columns | (set() if entity else {"facility"}))).replace("'", '"')


def _links(kind: str) -> list[str]:
    named = {"consumes": LINKS[kind].waits, "opens": LINKS[kind].opens}
    return [f'{verb} = {{ item = "{item[0]}", key = "{item[1]}" }}' for verb, item in named.items() if item]


def _item(item: str) -> str:
    return (
        f'[item.{item}]\nuse = "part"\nwait_days = {_ITEM_DAYS}\nunopened = "{_EXCEPTION}"\n'
        f'unused = "expires"\ndiffers = "{_EXCEPTION}"\n'
    )


def _exception(name: str) -> str:
    return (
        f'[exception.{name}]\nowner = "finance_operations"\nseverity = "medium"\n'
        'triage_h = 4\nresolve_h = 48\naction = "held"\n'
    )


def found(
    repeats: int, conflicts: pl.DataFrame, outcomes: pl.DataFrame, events: Iterable[pl.DataFrame], lines: pl.DataFrame
) -> Outcome:
    """What Penstock found, from its event conflicts, the changes of events' states in order, the events as they came,
    and its posting lines.

    The sums are what each kind's debit account shows (a negative amount is a credit there): that credits equal debits
    Penstock proves itself. Kinds that post nothing have no sum.
    """
    debited = {kind: accounts[0] for kind, accounts in ACCOUNTS.items() if accounts}
    mine = pl.col("account_code") == pl.col("kind").replace_strict(debited, default=None)
    amount = pl.when(pl.col("side") == "D").then("amount_minor").otherwise(-pl.col("amount_minor"))
    debits = lines.lazy().filter(mine).group_by(DIMENSIONS).agg(amount.sum().alias("amount"))
    held = outcomes.unique("id_hash", keep="last", maintain_order=True).filter(pl.col("state") == "pending")
    linked = pl.col("kind").is_in(list(LINKS)) & pl.col("id_hash").is_in(held["id_hash"].implode())
    waiting = pl.concat(frame.filter(linked).select("source", "event_id") for frame in events)
    names = [name_of(*row) for row in waiting.unique().rows()]
    sums = {tuple(key): amount for *key, amount in debits.collect().rows()}
    return Outcome(repeats, [name_of(*row) for row in conflicts.select("source", "event_id").rows()], names, sums)
