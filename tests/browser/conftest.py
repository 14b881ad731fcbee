from __future__ import annotations

from tests.service.conftest import service, service_log

__all__ = ["service", "service_log"]
