"""The external reference of an account move, and the call that creates and posts moves by it.

Owns what a reference promises: within a company it names at most one move, for ever. Never decides what is booked:
the moves are the caller's, and Tryton's own checks all hold.
"""

from itertools import groupby
from typing import Any

from sql.aggregate import Min
from sql.operators import Like
from trytond.exceptions import UserError
from trytond.i18n import gettext
from trytond.model import Unique, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval
from trytond.rpc import RPC
from trytond.transaction import Transaction, without_check_access

_OF_A_DRAFT = {"readonly": Eval("state") == "posted"}
_ADOPTED = "PS-%"  # descriptions that were Penstock's keys before the module was there


class Move(metaclass=PoolMeta):
    """Adds to `account.move` the reference, a digest of its content by the caller's reckoning, and `post_batch`."""

    __name__ = "account.move"

    # Not declared readonly: such a field can't be set over RPC.
    external_ref = fields.Char("External Reference", states=_OF_A_DRAFT)
    external_digest = fields.Char("External Digest", states=_OF_A_DRAFT)

    @classmethod
    def __setup__(cls) -> None:
        super().__setup__()
        table = cls.__table__()
        unique = Unique(table, table.company, table.external_ref)
        cls._sql_constraints.append(("external_ref_unique", unique, "external_ref.msg_duplicate"))
        # No fresh session is asked for: a service that was idle posts as well as one that was not.
        cls.__rpc__["post_batch"] = RPC(readonly=False)

    @classmethod
    def __register__(cls, module: str) -> None:
        is_new = not cls.__table_handler__(module).column_exist("external_ref")
        super().__register__(module)
        if is_new:
            cls._adopt_descriptions()

    @classmethod
    def _adopt_descriptions(cls) -> None:
        """Make references of the keys that were descriptions, so that none of those entries can be booked again."""
        table, same = cls.__table__(), cls.__table__()
        ours = Like(same.description, _ADOPTED)
        first = same.select(Min(same.id), where=ours, group_by=[same.company, same.description])
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update([table.external_ref], [table.description], where=table.id.in_(first)))

    @classmethod
    def copy(cls, moves: list["Move"], default: dict[str, Any] | None = None) -> list["Move"]:
        """A copy, as a cancellation is one, is another move: it has no reference."""
        return super().copy(moves, default={"external_ref": None, "external_digest": None, **(default or {})})

    @classmethod
    def post_batch(cls, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Create and post moves, all or none, each once: what a reference names already is answered, not booked.

        `values` are those of `create`, each with `company`, `period`, `external_ref` and `external_digest`. Returns
        `{external_ref, id, number, replayed}` of each, in order. Raises EXTREF_* (see message.xml) and what `create`
        and `post` raise.
        """
        refs = [(value.get("company"), value.get("external_ref")) for value in values]
        if not all(company and ref for company, ref in refs):
            raise UserError(gettext("external_ref.msg_missing"))
        if len(set(refs)) < len(refs):
            raise UserError(gettext("external_ref.msg_repeated"))
        cls._lock_numbers(values)
        known = cls._known(refs)
        cls._refuse_others(values, known)
        created = cls.create([value for ref, value in zip(refs, values, strict=True) if ref not in known])
        for _, of_company in groupby(created, key=lambda move: move.company):
            cls.post(list(of_company))
        # Read anew: posting has given them their numbers.
        all_moves = known | {(move.company.id, move.external_ref): move for move in cls.browse(created)}
        return [
            {"external_ref": ref[1], "id": all_moves[ref].id, "number": all_moves[ref].number, "replayed": ref in known}
            for ref in refs
        ]

    @classmethod
    @without_check_access
    def _lock_numbers(cls, values: list[dict[str, Any]]) -> None:
        """Take the lock that posting will need, first: taken later, Tryton starts the whole call again.

        It also makes calls of one company wait for each other, so that what `_known` finds stays true.
        """
        pool = Pool()
        periods = pool.get("account.period").browse({value["period"] for value in values if value.get("period")})
        sequences = {period.move_sequence_used for period in periods}
        pool.get("ir.sequence.strict").lock(list(filter(None, sequences)))

    @classmethod
    @without_check_access
    def _known(cls, refs: list[tuple[int, str]]) -> dict[tuple[int, str], "Move"]:
        """The moves that these references name, whoever may see them."""
        companies, names = {company for company, _ in refs}, [ref for _, ref in refs]
        found = cls.search([("company", "in", list(companies)), ("external_ref", "in", names)], order=[])
        moves = {(move.company.id, move.external_ref): move for move in found}
        return {ref: moves[ref] for ref in refs if ref in moves}

    @classmethod
    def _refuse_others(cls, values: list[dict[str, Any]], known: dict[tuple[int, str], "Move"]) -> None:
        """A reference that names another content, or a draft, is no replay. A move without a digest was adopted."""
        for value in values:
            move = known.get((value["company"], value["external_ref"]))
            if move is None:
                continue
            if move.state != "posted" or move.external_digest not in (None, value.get("external_digest")):
                raise UserError(gettext("external_ref.msg_conflict", ref=move.external_ref))
