"""Benchmark of eye-state models: accuracy and cost, this project's models and public ones side by side."""
