"""Doubles of ERPs: loopback HTTP servers that keep a vendor's published contract, with books of their own.

Owns each vendor's side of the wire, written from its documents and never from our adapter: a double that shares the
adapter's misreading would prove nothing. They can misbehave on order. `python -m adapters.erp.doubles NAME` serves one.
"""
