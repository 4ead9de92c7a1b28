"""Faults on purpose; see docs/reliability.md."""
