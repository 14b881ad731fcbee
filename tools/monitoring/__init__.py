"""Dashboards, rules and a local Prometheus for the service."""
