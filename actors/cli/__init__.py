"""The command line: `penstock`. Each command is a few lines over `installation`, `reports`, `submission` and `demo`."""

from actors.cli.app import app

__all__ = ["app"]
