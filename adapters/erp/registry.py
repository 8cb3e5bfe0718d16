"""Which ERPs there are: each module of this folder that has an `open_gateway` is a kind of that name.

Owns finding and opening them. A new vendor is one file here and no line elsewhere.
"""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

import adapters.erp
from adapters.erp.http.gateway import ErpConnection
from runtime.errors import ConfigError
from runtime.ports import ErpGateway

OPENER = "open_gateway"


def kinds() -> tuple[str, ...]:
    """The names of all ERPs, sorted."""
    found = (module.name for module in pkgutil.iter_modules(adapters.erp.__path__) if not module.ispkg)
    return tuple(sorted(name for name in found if hasattr(_module(name), OPENER)))


def opener(kind: str) -> Callable[[ErpConnection], ErpGateway]:
    """What opens a connection to this kind of ERP. Raises ConfigError, which lists the kinds."""
    known = kinds()
    if kind not in known:
        raise ConfigError(f"erp.kind: there is no {kind!r}; known are {', '.join((*known, 'none'))}")
    return getattr(_module(kind), OPENER)


def open_gateway_of(connection: ErpConnection) -> ErpGateway:
    """The adapter that the configuration names, not yet logged in. Raises ConfigError."""
    return opener(connection.section.kind)(connection)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"adapters.erp.{name}")
