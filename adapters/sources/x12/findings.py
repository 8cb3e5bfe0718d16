"""Why a part of an X12 file is set aside: the table of codes.

Owns the codes and which of them are about form and which about arithmetic. A finding names a transaction set (counted
from 1 in the file), a segment (counted from 1 at ST) and an element, never what stands there. Findings of transaction
0 are about the envelope: their segments are counted from the file's first one, and they hold nothing back.
"""

ENVELOPE_CODES = {
    "missing_isa": "a group or set without an interchange header",
    "isa_length": "the ISA is not 106 characters long; its separators were found all the same",
    "missing_gs": "a set without a group header",
    "missing_ge": "a group that does not end",
    "missing_iea": "an interchange that does not end",
    "wrong_set_count": "GE01 is not the number of sets in the group",
    "wrong_group_number": "GE02 is not GS06",
    "wrong_group_count": "IEA01 is not the number of groups in the interchange",
    "wrong_interchange_number": "IEA02 is not ISA13",
    "stray_segment": "a segment outside every set",
    "no_transaction_set": "the file holds no set at all",
}
STRUCTURE_CODES = {
    "unread_set": "ST01 names a set that is not read here",
    "missing_se": "the set does not end before the next one or the envelope does",
    "wrong_segment_count": "SE01 is not the number of segments from ST to SE: some may be lost",
    "wrong_set_number": "SE02 is not ST02",
    "missing_bpr": "an 835 without BPR, or with it after its claims: nothing says what was paid",
    "missing_trn": "an 835 without TRN, or with it after its claims: the payment has no identity",
    "missing_bht": "an 837 or 277 without BHT: nothing dates it",
    "missing_ak1": "a 999 or 997 without AK1: nothing says what it answers",
    "repeated_segment": "a header segment comes twice",
    "orphan_segment": "a segment whose owner (claim, line, acknowledged set) has not come",
    "missing_element": "an element that identifies is empty",
    "missing_status": "a claim of a 277 without STC",
    "missing_date": "no readable date",
    "bad_amount": "not a decimal with at most the places of its currency",
    "bad_code": "not of the form of a code, or not one that is defined here",
}
ARITHMETIC_CODES = {
    "line_unbalanced": "SVC02 less the line's adjustments is not SVC03",
    "lines_differ_from_claim": "the lines' SVC02 do not sum to CLP03",
    "claim_unbalanced": "CLP03 less all adjustments is not CLP04",
    "transaction_unbalanced": "BPR02 is not the sum of CLP04 less the sum of the PLB amounts",
    "negative_payment": "BPR02 has a sign; BPR03 says the direction",
    "predetermination_paid": "CLP02 is 25, which is never posted, and CLP04 is not zero",
}
CODES = ENVELOPE_CODES | STRUCTURE_CODES | ARITHMETIC_CODES

FINDINGS_PER_SET_MAX = 20
FINDINGS_PER_ENVELOPE_MAX = 100  # of one file
