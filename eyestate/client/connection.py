"""How the clients reach a service: its address, certificates, proxies and key."""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path
from typing import Any, TypeVar

from eyestate import __version__
from eyestate.errors import UnreachableError
from eyestate.extras import extra

with extra("client"):
    import httpx

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


def connected(
    kind: type[Http], endpoint: str, api_key: str | None, verify: bool | Path, timeout: float, **options: Any
) -> Http:
    """An httpx client of a service. One on this machine is reached directly, others as the environment's proxies say.

    Raises:
        UnreachableError: the endpoint, the key, the certificates or the proxy settings cannot be used.
    """
    try:
        url = httpx.URL(endpoint.strip())
        url.raw_host.decode().encode("idna")  # as it will be to look it up
        is_one = url.scheme in ("http", "https") and bool(url.host) and not url.query
    except (httpx.InvalidURL, UnicodeError):
        is_one = False
    if not is_one:
        raise UnreachableError(f"the endpoint {endpoint!r} is no URL such as http://127.0.0.1:3000")
    # Loading certificates takes a tenth of a second, which plain HTTP can do without.
    trusted = url.scheme == "https" and verify is not False and _trusted(verify)
    headers = {b"User-Agent": f"eyestate/{__version__}".encode(), **_authorization(api_key)}
    try:
        return kind(
            base_url=url,
            headers=headers,
            verify=trusted,
            timeout=timeout,
            trust_env=not _is_this_machine(url.host),
            **options,
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise UnreachableError(
            f"the environment's proxy settings cannot be used ({error}): correct ALL_PROXY, HTTP_PROXY, HTTPS_PROXY "
            f"and NO_PROXY, or set NO_PROXY='*' to reach {url} without a proxy"
        ) from None
    except OSError as error:  # such as of SSLKEYLOGFILE
        raise UnreachableError(f"cannot prepare for {url}: {error}") from None


def _authorization(api_key: str | None) -> dict[bytes, bytes]:
    key = (api_key or "").strip().encode(errors="surrogateescape")  # no header can end in white space, as files do
    if not key:
        return {}
    if any(byte < 0x20 or byte == 0x7F for byte in key):
        raise UnreachableError("the API key has a line break or another control character, which no request can carry")
    return {b"Authorization": b"Bearer " + key}


def _trusted(verify: bool | Path) -> ssl.SSLContext | bool:
    """The certificates to trust: of a file, of ``SSL_CERT_FILE``, of ``SSL_CERT_DIR``, or httpx's own."""
    if isinstance(verify, Path):
        return _certificates(str(verify), "")
    if file := os.environ.get("SSL_CERT_FILE"):
        return _certificates(file, ", which SSL_CERT_FILE names")
    if folder := os.environ.get("SSL_CERT_DIR"):
        if not any(Path(each).is_dir() for each in folder.split(os.pathsep)):
            raise UnreachableError(f"SSL_CERT_DIR names {folder}, where there is no folder of CA certificates")
        return ssl.create_default_context(capath=folder)
    return True


def _certificates(file: str, named: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl's own error is one
        raise UnreachableError(f"cannot read CA certificates from {file}{named}: {error.strerror or error}") from None


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".").endswith("localhost")
    return address.is_loopback or address.is_unspecified
