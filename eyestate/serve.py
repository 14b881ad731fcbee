"""The command ``eyestate serve``, with an option for each setting of the service."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from eyestate.bundle import DEFAULT_MODEL
from eyestate.extras import extra
from eyestate.settings import PREFIX, Settings

_HOME: Final = "BENTOML_HOME"
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

Function = TypeVar("Function", bound=Callable[..., Any])


def _setting_options(command: Function) -> Function:
    """Give a command an option for each field of ``Settings``, which checks the value itself."""
    for name, field in reversed(Settings.model_fields.items()):
        description = str(field.description).replace("`", "")
        variable = PREFIX + name.upper()
        default = f"; default: {field.default}" if field.default not in (None, ()) else ""
        command = click.option(
            f"--{name.replace('_', '-')}",
            metavar="VALUE",
            envvar=variable,
            help=f"{description[0].upper()}{description[1:]}.  [${variable}{default}]",
        )(command)
    return command


@click.command(
    epilog="""\b
Examples:
  eyestate serve
  eyestate serve --host 0.0.0.0 --api-keys-file keys.txt
  eyestate serve --port 8443 --tls-cert cert.pem --tls-key key.pem
Once /readyz answers, score an eye from another terminal:
  curl -F image=@eye.jpg http://127.0.0.1:3000/v1/score
"""
)
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="BENTOML_HOST",
    metavar="ADDRESS",
    callback=lambda _context, _parameter, value: _address(value),
    help="Address of this computer to listen on; 0.0.0.0 means all.  [$BENTOML_HOST; default: 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=3000,
    envvar="BENTOML_PORT",
    metavar="PORT",
    help="TCP port to listen on.  [$BENTOML_PORT; default: 3000]",
)
@click.option(
    "--model",
    envvar=f"{PREFIX}MODEL",
    metavar="NAME",
    help="Name of a bundle in the folder of models, or the path of a bundle's folder.  [$EYESTATE_MODEL; default: "
    f"{DEFAULT_MODEL}]",
)
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False),
    envvar=f"{PREFIX}MODELS",
    metavar="DIR",
    help="Folder of models.  [$EYESTATE_MODELS; default: models/ beside the package, else here]",
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Serve https with this certificate, or chain of them.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, unless the certificate's file holds it.")
@click.option(
    "--tls-client-ca", type=_FILE, metavar="FILE", help="Serve only clients whose certificate is of one of these CAs."
)
@_setting_options
def serve(
    *,
    host: str,
    port: int,
    model: str | None,
    models: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    **given: str | None,
) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C, which first finishes the requests in flight.

    An option overrides the environment variable that is named with it.
    """
    _check_address(host, port)
    if tls_cert:
        _check_tls(tls_cert, tls_key, tls_client_ca)
    elif tls_key or tls_client_ca:
        raise click.UsageError("--tls-key and --tls-client-ca need --tls-cert")
    given |= {"model": model, "models": models}
    os.environ.update({PREFIX + name.upper(): value for name, value in given.items() if value})
    with ExitStack() as stack:
        if not os.environ.get(_HOME):
            os.environ[_HOME] = stack.enter_context(tempfile.TemporaryDirectory(prefix="eyestate-"))
        with extra("serve"):  # reads the environment
            from eyestate.server.service import serve_http  # noqa: PLC0415  # the extra `serve`
        serve_http(host, port, certificate=tls_cert, key=tls_key, client_ca=tls_client_ca)


def _address(host: str) -> str:
    """The IP address of a host name, which is all that BentoML takes.

    Raises:
        BadParameter: there is none.
    """
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise click.BadParameter(f"{host!r} is no address or name of this computer") from None


def _check_address(host: str, port: int) -> None:
    """See that the address can be listened on, before the model is loaded.

    Raises:
        ClickException: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(f"port {port} is in use; choose another with --port") from None
        reason = os.strerror(error.errno or 0)
        raise click.ClickException(f"cannot listen on {host}, port {port}: {reason}") from None


def _check_tls(certificate: Path, key: Path | None, client_ca: Path | None) -> None:
    """See that the files can be used; a worker could only fail.

    Raises:
        ClickException: they cannot.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as error:
        files = f"{certificate} and {key} are" if key else f"{certificate} is"
        raise click.ClickException(f"{files} no certificate with its private key: {error.strerror or error}") from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise click.ClickException(f"{client_ca} is no certificate of a CA: {error.strerror or error}") from None


def _no_password() -> NoReturn:
    raise click.ClickException("the private key has a passphrase; give one without: openssl pkey -in KEY -out FILE")
