"""Accounting words: rules, crosswalk, flows, open items, posting, journal entries. Knows nothing of delivery."""
