"""Penstock's contract with producers: the messages (`penstock.v1`) and a client.

    from penstock import Client

    with Client("127.0.0.1:7717") as client:
        print(client.submit([{"event_id": "1", "source": "billing", "kind": "charge_posted", ...}]).accepted)

Owns what a producer imports. Never imports the runtime.
"""

from penstock.client import Client, NoAnswer, Rejected, SubmitError, SubmitFailed, SubmitSummary, SubmitTimeout

__all__ = ["Client", "NoAnswer", "Rejected", "SubmitError", "SubmitFailed", "SubmitSummary", "SubmitTimeout"]
