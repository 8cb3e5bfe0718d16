"""HTTP for ERPs: one transport, one reading of failures, authentication as data.

Owns what every vendor has in common. A vendor's file holds its payloads and its dialect and nothing of the wire.
"""
