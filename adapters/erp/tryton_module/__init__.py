"""A module for Tryton 8.2, not for Penstock: it gives `account.move` an external reference that is unique.

Owns nothing at run time here; Tryton loads it by the entry point `external_ref`. It stands alone (no import of
Penstock), so that an ERP's own server can install this folder by itself.
"""
