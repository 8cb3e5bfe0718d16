"""Delivery words: frames, dedupe, admission, pacing, outcomes. Knows nothing of accounting."""
