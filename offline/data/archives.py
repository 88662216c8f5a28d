"""Reading a downloaded tar archive as a stream, trusting nothing in it.

Members come one after the other, straight out of the decompressor: nothing is unpacked on the disk,
no more than one member is in memory, and its bytes are copied once. Archives inside the archive
are read through in the same way: the released single-level data are one archive for all games.
"""

from __future__ import annotations

import itertools
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from common.episode_formats import MAX_EPISODE_BYTES
from common.errors import ToolkitError

if TYPE_CHECKING:
    from typing_extensions import Self

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz")
_CHUNK_BYTES = 1 << 18
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


_Bytes: TypeAlias = "bytes | memoryview"


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
        yield from _members(_read_chunks(archive, on_bytes), archive, "", wanted)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DamagedArchiveError(f"{archive}: cut short or damaged ({error})") from error
    except (tarfile.TarError, ValueError) as error:
        raise DamagedArchiveError(f"{archive}: no tar archive, or damaged ({error})") from error
    except OSError as error:
        raise ToolkitError(f"cannot read {archive}: {error.strerror or error}") from error


def _read_chunks(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            on_bytes(len(chunk))
            yield chunk


def _members(
    chunks: Iterator[_Bytes], archive: Path, container: str, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    stream = _ForwardStream(_decompressed(chunks))
    with _TarFile(fileobj=stream) as tar:  # type: ignore[arg-type]  # it needs no more of a file
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            _require_safe(info, archive)
            path = str(PurePosixPath(container) / info.name)
            if not info.isreg():
                continue
            if not container and path.endswith(ARCHIVE_SUFFIXES):
                yield from _members(stream.pieces(info.size), archive, path, wanted)
            elif wanted(path):
                data = stream.read(info.size)
                if len(data) != info.size:
                    raise EOFError(f"{path} ends after {len(data)} of {info.size} bytes")
                yield Member(path, data)
        if not tar.end_seen:
            raise EOFError("the mark of its end is missing")
    for _ in stream.pieces(sys.maxsize):  # checksums come last
        pass


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
            assert isinstance(tar, _TarFile)
            tar.end_seen = True
            raise


class _TarFile(tarfile.TarFile):
    tarinfo = _TarInfo
    end_seen = False


class _ForwardStream:
    """Bytes that are read forwards only, with what tarfile needs of a file."""

    def __init__(self, chunks: Iterator[_Bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        for _ in self.pieces(position - self._position):
            pass

    def read(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, or all that are left, without a copy.

        Memory is taken as bytes come, so a header may claim what it likes.
        """
        while size > 0:
            while not self._rest:  # a decompressor's pieces may be empty
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._rest = memoryview(chunk)
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._position += len(piece)
            size -= len(piece)
            yield piece


def _decompressed(chunks: Iterator[_Bytes]) -> Iterator[_Bytes]:
    """What the chunks hold, in pieces of bounded size; as they are if not compressed."""
    first = next(chunks, b"")
    chunks = itertools.chain([first], chunks)
    magic = bytes(first[: len(_XZ)])
    if magic.startswith(_XZ):
        return _unxz(chunks)
    if magic.startswith(_GZIP):
        return _gunzip(chunks)
    if magic.lstrip().startswith(b"<"):
        raise tarfile.ReadError("it is a web page")
    if magic.startswith(_ZIP):
        raise tarfile.ReadError("it is a zip file")
    return chunks


def _unxz(chunks: Iterator[_Bytes]) -> Iterator[bytes]:
    # `lzma.LZMAFile` would let the file say how much memory is taken.
    decoder = None
    for chunk in chunks:
        while chunk:
            if decoder is None:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)
            yield decoder.decompress(chunk, _CHUNK_BYTES)
            while not decoder.needs_input and not decoder.eof:
                yield decoder.decompress(b"", _CHUNK_BYTES)
            chunk = b""
            if decoder.eof:  # another stream may follow, behind padding of zeros
                chunk, decoder = decoder.unused_data.lstrip(b"\0"), None
    if decoder is not None:
        raise EOFError("its compressed bytes end too early")


def _gunzip(chunks: Iterator[_Bytes]) -> Iterator[bytes]:
    decoder = None
    for chunk in chunks:
        while chunk:
            if decoder is None:
                decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header and checksum
            yield decoder.decompress(chunk, _CHUNK_BYTES)
            chunk = decoder.unconsumed_tail
            if decoder.eof:  # another member may follow, behind padding of zeros
                chunk, decoder = decoder.unused_data.lstrip(b"\0"), None
    if decoder is not None:
        raise EOFError("its compressed bytes end too early")
