"""Fault injection and overload: each run reports what was sent, what was answered and what was lost."""
