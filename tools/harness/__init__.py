"""Starts real servers and puts them under load; shared by load tests, benchmarks and checks."""
