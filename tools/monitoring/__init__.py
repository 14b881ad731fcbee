"""Dashboard, rules and a local Prometheus for the service."""
