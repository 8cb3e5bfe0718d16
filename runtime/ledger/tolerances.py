"""How much too much is let pass: tolerances, as the texts that policies answer with.

Owns which texts are a tolerance and what they allow, exactly. "0" allows nothing, "unlimited" everything; an empty text
is a policy that nobody has set. A text that can't be read allows nothing. Never asks a policy itself.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

UNLIMITED = "unlimited"
TEXTS_MAX = 4096  # pairs of texts whose reading is remembered; far more than an installation's policies

_PERCENT = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,15}", re.ASCII)


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is checked: the exception of what fails, and the policies that say how much is let pass.

    `percent` names the policy of a percentage of what is due, `most` the one of an absolute excess, in minor units or
    in thousandths as the checked thing is counted.
    """

    exception: str
    percent: str
    most: str


class Tolerance(NamedTuple):
    """An excess that is let pass, in percent of what is due and absolutely; None is no limit of that sort."""

    percent: Fraction | None
    most: Fraction | None

    def ceiling(self, due: Fraction | int) -> Fraction | None:
        """The most that passes where so much is due; None without limit. Of two limits the stricter counts."""
        extras = [self.most] if self.most is not None else []
        if self.percent is not None:
            extras.append(abs(due) * self.percent / 100)
        return due + min(extras) if extras else None


@lru_cache(TEXTS_MAX)
def tolerance(percent: str, most: str) -> Tolerance:
    """Both answers together. One that is not set leaves the other one to count; when neither is, nothing passes."""
    if not percent and not most:
        return Tolerance(Fraction(0), Fraction(0))
    return Tolerance(_limit(percent, _PERCENT), _limit(most, _WHOLE))


def _limit(text: str, form: re.Pattern[str]) -> Fraction | None:
    if text in ("", UNLIMITED):
        return None
    return Fraction(text) if form.fullmatch(text) else Fraction(0)


def is_percent(text: str) -> bool:
    """Whether this is a percentage: a plain decimal with up to six places."""
    return bool(_PERCENT.fullmatch(text))


def percent_fault(text: str) -> str:
    """What is wrong with the answer of a percent policy, "" when nothing is."""
    fine = text == UNLIMITED or is_percent(text)
    return "" if fine else f'expected a percentage such as "2.5", "0" for none, or "{UNLIMITED}"'


def most_fault(text: str) -> str:
    """What is wrong with the answer of a policy of an absolute excess, "" when nothing is."""
    fine = text == UNLIMITED or bool(_WHOLE.fullmatch(text))
    return "" if fine else f'expected a whole number, "0" for none, or "{UNLIMITED}"'
