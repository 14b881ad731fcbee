"""Crops of known brightness, and files that hold them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@cache
def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), brightness, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_folder(folder: Path, images: dict[str, bytes]) -> Path:
    for name, data in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path: Path, images: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in images.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def write_tar(path: Path, images: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, images: Sequence[bytes | None], row_group_size: int = 7) -> Path:
    keys = [f"eye-{place}" for place in range(len(images))]
    table = pa.table({"id": keys, "number": range(len(images)), "image": pa.array(images, pa.binary())})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path
