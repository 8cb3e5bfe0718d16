"""What runs from a data folder, as it is written down: servers, Ray, addresses.

Owns the shape alone.
"""

from adapters import embedded


class RunRecord(embedded.PartsRecord, kw_only=True):
    """What was started, written as it starts, so that `down` can end a start that was cut short."""

    ray: embedded.EmbeddedPart | None = None
    ray_address: str = ""
    ray_token_file: str = ""
    dashboard_url: str = ""
    metrics_url: str = ""
    gateway: str = ""
    erp_url: str = ""
    wiring: dict | None = None
