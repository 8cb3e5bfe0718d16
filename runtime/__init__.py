"""The core: what an event is, what it does to the books, and how delivery is decided.

Owns every decision. Never touches Ray, a network, a file, the environment, a clock or randomness:
time and outside facts arrive as arguments, so the same input gives the same bytes.
"""
