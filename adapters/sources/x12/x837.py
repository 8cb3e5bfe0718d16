"""X12 837P, 837I and 837D: claims as they were sent to a payer.

Owns how a submitted claim becomes an event. Patients, diagnoses, procedures and lines are not read; claim numbers
leave as tokens. A claim ends where the next HL or CLM, its first line or another payer's loop begins.
"""

from adapters.sources.source import SourceSettings
from adapters.sources.x12.sets import CLAIM, PAYER_CLAIM, Handler, Header, TransactionSet, payer_of, stamped_ms
from adapters.sources.x12.segments import COMPONENT
from adapters.sources.x12.values import DAY_MS, element

_BILLING, _SUBSCRIBER = "20", "22"  # HL03; a patient (23) has the payer of the subscriber above


class ClaimBatch(TransactionSet):
    """One 837."""

    source = "837"
