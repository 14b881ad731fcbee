"""Runs that try to break the service: each says what was sent, what was answered and what was lost."""
