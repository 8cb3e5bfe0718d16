"""What the sections of the configuration are made of: their common base, and the forms of names and addresses.

Owns no key. Says what is wrong with a value; whoever parses says where it stands.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
_HOST = r"(\[[0-9a-fA-F:.]+\]|[^:/@\s\[\]]+)"
_REDIS = rf"^$|^rediss?://([^/\s]*@)?{_HOST}(:[0-9]{{1,5}})?(/[0-9]*)?(\?\S*)?$|^unix://\S+$"


def _redis_url(url: str) -> str:
    if not re.match(_REDIS, url):
        raise ValueError("no such address; it looks like redis://host:6379/0")
    return url


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
