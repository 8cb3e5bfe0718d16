"""The same work by other tools, side by side in one run: `python -m benchmarks.peers.run`.

Owns the task, its truth, one readable module for each tool, and the table of their figures. Modules of tools run in
environments of their own (`make peers`), so they import nothing of Penstock's but `task`.
"""
