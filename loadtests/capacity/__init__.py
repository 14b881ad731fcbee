"""Capacity of one pod, and the sizing that follows from it."""
