"""Signatures of the checksums, by each program for which there is a key."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.release.changelog import ReleaseError


@dataclass(frozen=True, slots=True)
class Signer:
    """A program that signs a file.

    Attributes:
        name: its command.
        variable: the environment variable that names the key.
        suffix: of the signature's file.
        arguments: with ``{key}``, ``{file}`` and ``{signature}``.
    """

    name: str
    variable: str
    suffix: str
    arguments: tuple[str, ...]

    def sign(self, file: Path, key: str) -> Path:
        """Sign a file and return the signature, which lies beside it.

        Raises:
            ReleaseError: the program fails; it has said why.
        """
        signature = file.with_name(f"{file.name}{self.suffix}")
        command = [one.format(key=key, file=file, signature=signature) for one in self.arguments]
        if subprocess.run([self.name, *command]).returncode:  # noqa: S603, PLW1510
            raise ReleaseError(f"{self.name} cannot sign with the key of {self.variable}; its output above says why")
        return signature


SIGNERS: Final = (
    Signer(
        "cosign",
        "COSIGN_KEY",
        ".sig",
        ("sign-blob", "--yes", "--key", "{key}", "--output-signature", "{signature}", "{file}"),
    ),
    Signer(
        "gpg",
        "GPG_KEY",
        ".asc",
        ("--batch", "--yes", "--armor", "--local-user", "{key}", "--output", "{signature}", "--detach-sign", "{file}"),
    ),
    Signer("minisign", "MINISIGN_KEY", ".minisig", ("-S", "-s", "{key}", "-x", "{signature}", "-m", "{file}")),
)


def chosen(environment: Mapping[str, str] = os.environ) -> dict[str, Signer]:
    """The signers for which there is a key, by that key.

    Raises:
        ReleaseError: there is a key for a program that is not installed.
    """
    found = {environment[signer.variable]: signer for signer in SIGNERS if environment.get(signer.variable)}
    for signer in found.values():
        if not shutil.which(signer.name):
            raise ReleaseError(f"{signer.variable} is set, but {signer.name} is not installed")
    return found
