"""Tools around the service: benchmarks, container image, monitoring, and the harness shared with the load tests."""
