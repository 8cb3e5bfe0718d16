"""What sources send in a run: rows of every kind in the rulebook, and the trouble that sources make.

`stories` makes rows whose keys meet, `rows` fills one row's columns, `deliveries` packs, repeats and shuffles them.
"""
