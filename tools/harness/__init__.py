"""Starts real servers and puts them under load; shared by load tests, benchmarks and image checks."""
