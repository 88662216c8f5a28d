"""Reading a downloaded tar archive as a stream, trusting nothing in it.

Members come one after the other, straight out of the decompressor: nothing is unpacked on the disk,
and no more than one member is in memory. Archives inside the archive are read through in the same
way: the released single-level data are one archive for all games.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from common.episode_formats import MAX_EPISODE_BYTES
from common.errors import ToolkitError

if TYPE_CHECKING:
    from typing_extensions import Self

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz")
_CHUNK_BYTES = 1 << 20
_MAX_NAME_BYTES = 1 << 16  # of a long name or of extended attributes: tarfile reads them whole
_XZ_MEMORY_BYTES = 256 * 2**20  # `xz -9` takes 65 MB
_XZ, _GZIP, _ZIP = b"\xfd7zXZ\x00", b"\x1f\x8b", b"PK\x03\x04"
_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class UnsafeArchiveError(ToolkitError):
    """An archive with a member that no honest archive of episodes has; nothing of it is used."""


class DamagedArchiveError(ToolkitError):
    """An archive cut short, with a wrong checksum, or none at all: fetch it again."""


class Member(NamedTuple):
    """One regular file of an archive.

    `path` as it stands there, below the path of an archive within the archive if it is in one.
    """

    path: str
    data: bytes


def read_members(
    archive: Path,
    wanted: Callable[[str], bool] = lambda path: True,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Member]:
    """The regular files that are `wanted`, by path, of a .tar, .tar.xz or .tar.gz, in their order.

    The formats are told apart by content. `on_bytes` is told how many bytes of the archive were
    read; what it raises comes out here. When the iterator ends, the archive has been found whole,
    its checksums included.

    Raises UnsafeArchiveError for a member that is a link or device, leads out of the folder, or
    claims more than an episode can have; DamagedArchiveError for what is not a whole archive;
    ToolkitError if the file cannot be read.
    """
    try:
        with _CountedFile(archive, on_bytes) as raw:
            yield from _members(_buffered(raw), archive, "", wanted)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedArchiveError(f"{archive}: cut short or damaged ({error})") from error
    except (tarfile.TarError, ValueError) as error:
        raise DamagedArchiveError(f"{archive}: no tar archive, or damaged ({error})") from error
    except OSError as error:
        raise ToolkitError(f"cannot read {archive}: {error.strerror or error}") from error


def _members(
    stream: io.BufferedReader, archive: Path, container: str, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    content = _decompressed(stream)
    with _TarStream.open(fileobj=content, mode="r|", bufsize=_CHUNK_BYTES) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            _require_safe(info, archive)
            if not info.isreg():
                continue
            path = str(PurePosixPath(container) / info.name)
            file = tar.extractfile(info)
            assert file is not None  # as it is for a regular file
            if not container and path.endswith(ARCHIVE_SUFFIXES):
                yield from _members(_buffered(file), archive, path, wanted)
            elif wanted(path):
                yield Member(path, _read(file, info))
        if not tar.end_seen:
            raise EOFError("the mark of its end is missing")
    while content.read(_CHUNK_BYTES):  # the checksums come last
        pass


def _buffered(file: Any) -> io.BufferedReader:
    return io.BufferedReader(file, _CHUNK_BYTES)


def _decompressed(stream: io.BufferedReader) -> io.BufferedReader:
    magic = stream.peek(len(_XZ))
    if magic.startswith(_XZ):
        return _buffered(_XzStream(stream))
    if magic.startswith(_GZIP):
        return _buffered(gzip.GzipFile(fileobj=stream))
    if magic.lstrip()[:1] == b"<":
        raise tarfile.ReadError("it is a web page")
    if magic.startswith(_ZIP):
        raise tarfile.ReadError("it is a zip file")
    return stream


def _require_safe(info: tarfile.TarInfo, archive: Path) -> None:
    """Refuse what an archive of episodes has no use for, before a byte of it is read."""
    name = info.name
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        reason = "leads out of the folder"
    elif info.issym() or info.islnk():
        reason = f"is a link to {info.linkname!r}"
    elif not (info.isreg() or info.isdir()) or info.issparse():
        reason = "is neither a file nor a folder"
    elif not 0 <= info.size <= MAX_EPISODE_BYTES and not name.endswith(ARCHIVE_SUFFIXES):
        reason = f"claims {info.size} bytes, more than an episode can have"
    else:
        return
    raise UnsafeArchiveError(f"{archive} is refused: its member {name!r} {reason}")


def _read(file: IO[bytes], info: tarfile.TarInfo) -> bytes:
    """The contents; memory is taken as the bytes come, whatever the header claims."""
    data = io.BytesIO()
    while chunk := file.read(_CHUNK_BYTES):
        data.write(chunk)
    if data.tell() != info.size:
        raise EOFError(f"{info.name} ends after {data.tell()} of {info.size} bytes")
    return data.getvalue()


class _TarInfo(tarfile.TarInfo):
    """A header whose extensions may not be large, and which notes the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENSION_TYPES and not 0 <= info.size <= _MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a name or attributes of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        # tarfile itself ends in the same way at the mark of the end and where bytes are missing.
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            assert isinstance(tar, _TarStream)
            tar.end_seen = True
            raise


class _TarStream(tarfile.TarFile):
    tarinfo = _TarInfo
    end_seen = False


class _CountedFile(io.FileIO):
    """A file that tells how many bytes were read from it."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._on_bytes(count)
        return count


class _XzStream(io.RawIOBase):
    """What an .xz file holds. Unlike `lzma.LZMAFile` it bounds the memory that a file asks for."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            compressed = b""
            if (
                self._decoder.eof
            ):  # another stream may follow, as `xz` writes where files are joined
                compressed = self._decoder.unused_data.lstrip(b"\0")
                while not compressed:
                    padding = self._stream.read1(_CHUNK_BYTES)
                    if not padding:
                        return 0
                    compressed = padding.lstrip(b"\0")
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)
            elif self._decoder.needs_input:
                compressed = self._stream.read1(_CHUNK_BYTES)
                if not compressed:
                    raise EOFError("the compressed bytes end too early")
            data = self._decoder.decompress(compressed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
