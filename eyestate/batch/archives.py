"""The images in a zip or tar archive, such as a WebDataset shard."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any, Final, Self

from eyestate.batch.reading import Image, unreadable, within_limits
from eyestate.errors import ImageError, UnreadableFileError
from eyestate.files import LeftOut, zip_members
from eyestate.images import MAX_BYTES

_ENCRYPTED: Final = 0x1  # APPNOTE 4.4.4, bit 0
_MAX_HEADER: Final = 2**20  # bytes of a member's name and attributes; tarfile reads them whole
_EXTENDED: Final = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)


def zip_images(file: IO[bytes], name: str, start: int, left_out: LeftOut, *, read: bool) -> Iterator[Image]:
    """The images of a zip archive from position ``start``; their data are empty unless they are to be read."""
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # zipfile and tarfile raise all kinds of errors for damaged files
        if start == 0:
            yield Image(name, unreadable("the archive", error))
        return
    members = [each for each in zip_members(archive) if left_out.unless_image(each[0])]
    for key, member in members[start:]:
        yield Image(key, _zipped(archive, member) if read else b"")


def _zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | ImageError:
    if stat.S_ISLNK(member.external_attr >> 16):
        return UnreadableFileError("the archive's member is a link, not a file")
    if member.flag_bits & _ENCRYPTED:
        return UnreadableFileError("the archive's member is encrypted; pack it without a password")
    try:
        with archive.open(member) as file:
            return within_limits(file.read(MAX_BYTES + 1))
    except Exception as error:
        return unreadable("the archive's member", error)


class _Archive(tarfile.TarFile):
    """A tar archive that is read to the end of its file, so that archives may be joined."""

    has_ended = False  # whether the last header was the end of an archive


class _Member(tarfile.TarInfo):
    """A member of a tar archive whose header is sound and of a reasonable size."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Self:
        """The next member; where tarfile itself would take damage for the end, this raises ReadError."""
        try:
            member = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed has none of HeaderError's kinds
            archive.has_ended = True
            raise
        except Exception as error:
            if archive.has_ended:  # what lies behind is no archive
                raise tarfile.EmptyHeaderError from None  # type: ignore[attr-defined]  # as above
            if isinstance(error, tarfile.HeaderError):
                raise tarfile.ReadError(f"it ends early, or a header is not sound ({error})") from None
            raise
        archive.has_ended = False
        return member

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > _MAX_HEADER:
            raise ValueError(f"a header has {member.size:,} bytes; at most {_MAX_HEADER:,} are read")
        return member


def tar_images(file: IO[bytes], name: str, start: int, left_out: LeftOut, *, read: bool) -> Iterator[Image]:
    """As ``zip_images``, of a tar archive, which may be compressed."""
    place = 0
    try:
        archive = _Archive.open(fileobj=file, mode="r:*", tarinfo=_Member, ignore_zeros=True)
    except Exception as error:
        if isinstance(error, tarfile.ReadError):  # which tells of each compression why it is not that
            error = tarfile.ReadError("it is no tar archive, or its first header is not sound")
        if start == 0:
            yield Image(name, unreadable("the archive", error))
        return
    try:
        with archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would grow with every member passed
                if not member.isdir() and left_out.unless_image(member.name.replace("\\", "/")):
                    if place >= start:
                        yield Image(member.name, _tarred(archive, member) if read else b"")
                    place += 1
    except Exception as error:
        if place >= start:
            yield Image(name, unreadable("the archive, from here on,", error))


def _tarred(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ImageError:
    if not member.isreg():
        return UnreadableFileError("the archive's member is a link or a device, not a file")
    try:
        file = archive.extractfile(member)
        assert file is not None
        return within_limits(file.read(MAX_BYTES + 1))
    except Exception as error:
        return unreadable("the archive's member", error)
