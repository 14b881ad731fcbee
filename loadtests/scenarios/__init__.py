"""What callers do to the service, for Locust: ``loadtests/locustfile.py`` puts it together."""
