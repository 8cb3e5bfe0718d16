"""A second, naive model of everything Penstock promises: row by row, in plain dicts, from the log alone.

Shares with the engine the event schema and the rule tables, and nothing else. One module a mechanism: `accounts` (which
account a role is), `matching` (what waits for what), `shard` (what becomes of a row), `books` and `delivery` (what the
books and the ERP must hold).
"""
