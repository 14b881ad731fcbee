"""Load scenarios for Locust, combined in ``loadtests/locustfile.py``."""
