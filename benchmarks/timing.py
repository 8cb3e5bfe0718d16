"""How long named methods take while a block runs, by standing in front of them.

Owns putting every method back. A method that does not exist is left out: parts come and go as the engine changes.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Place = tuple[object, str]  # a class, module or object, and the name of what is called on it


@contextmanager
def timed(places: Mapping[str, Place]) -> Iterator[dict[str, list[float]]]:
    """The seconds of each call of each place, by its name in `places`. A place within another one counts in both."""
    found = {name: place for name, place in places.items() if hasattr(*place)}
    originals = {name: getattr(*place) for name, place in found.items()}
    spent: dict[str, list[float]] = {name: [] for name in found}
    for name, (owner, attribute) in found.items():
        setattr(owner, attribute, _timed(originals[name], spent[name]))
    try:
        yield spent
    finally:
        for name, (owner, attribute) in found.items():
            setattr(owner, attribute, originals[name])


def _timed(call: Callable, calls_s: list[float]) -> Callable:
    @functools.wraps(call)
    def timed_call(*arguments: object, **named: object) -> object:
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            calls_s.append(time.perf_counter() - began)

    return timed_call
