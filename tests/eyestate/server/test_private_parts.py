"""The server relies on private parts of its dependencies: these are the versions they were checked against."""

from __future__ import annotations

from importlib.metadata import version

import pytest

CHECKED = {
    "bentoml": (
        "1.4.39",
        "service_class, to_asgi, usage_stats, serve_http in service; Arbiter, ensure_prometheus_dir in launcher",
    ),
    "uvicorn": (
        "0.54.0",
        "HTTP_PROTOCOLS, _TrustedHosts and HttpToolsProtocol's attributes and callbacks in connections.Connection; "
        "what it asks of a RequestResponseCycle in fast_path.DirectRequest",
    ),
    "httptools": ("0.9.0", "the exceptions that feed_data raises in connections.Connection"),
    "starlette": ("1.10.0", "compile_path in routing.RoutingTable; Response.raw_headers in edge and connections"),
    "python-multipart": ("0.0.34", "MultipartParser's callbacks in uploads._Collector"),
    "prometheus-client": ("0.26.0", "_metric_init, _buckets, _sum, _upper_bounds, ValueClass and REGISTRY in metrics"),
}


@pytest.mark.parametrize("package", CHECKED)
def test_private_parts_were_checked_against_the_version_installed(package: str) -> None:
    checked, parts = CHECKED[package]
    assert version(package) == checked, f"check {parts} against this version, then name it here"
