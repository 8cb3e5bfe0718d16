"""A whole Penstock in one process, over virtual time and ports that fail: from one seed, the same history every time.

`simulator` runs a seed, `auditor` says what must have come of it. Knows no Ray, no network, no file and no real clock.
"""
