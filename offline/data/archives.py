"""Reading a downloaded tar archive as a stream, trusting nothing in it.

Members come one after the other, straight out of the decompressor: nothing is unpacked on the disk,
no more than one member is in memory, and its bytes are copied once. Archives inside the archive
are read through in the same way: the released single-level data are one archive for all games.
"""

from __future__ import annotations

import lzma
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from common.episode_formats import MAX_EPISODE_BYTES
from common.errors import ToolkitError

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz")
_CHUNK_BYTES = 1 << 18
_MAX_NAME = 255  # characters; what file systems take
_MAX_EXTENSION_BYTES = 1 << 16  # of a long name or of attributes, which are read whole
_XZ_MEMORY_BYTES = 256 * 2**20  # `xz -9` takes 65 MB
_XZ, _GZIP, _ZIP = b"\xfd7zXZ\x00", b"\x1f\x8b", b"PK\x03\x04"
_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_ATTRIBUTES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_ATTRIBUTE = re.compile(rb"(\d{1,5}) ([^=]+)=")  # "{length of all of it} {key}={value}\n"

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


def is_archive(head: bytes) -> bool:
    """Whether a file whose first 512 bytes are `head` may be a .tar, .tar.xz or .tar.gz."""
    if head.startswith((_XZ, _GZIP)):
        return True
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


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
        yield from _members(_counted(_read_chunks(archive), on_bytes), archive, "", wanted)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DamagedArchiveError(f"{archive}: cut short or damaged ({error})") from error
    except tarfile.TarError as error:
        raise DamagedArchiveError(f"{archive}: no tar archive, or damaged ({error})") from error


def _read_chunks(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise ToolkitError(f"cannot read {path}: {error.strerror or error}") from error


def _counted(chunks: Iterator[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def _members(
    chunks: Iterator[_Bytes], archive: Path, container: str, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    stream = _ForwardStream(_decompressed(chunks))
    for info in _headers(stream):
        is_archive = not container and info.isreg() and info.name.endswith(ARCHIVE_SUFFIXES)
        _require_safe(info, archive, sys.maxsize if is_archive else MAX_EPISODE_BYTES)
        path = str(PurePosixPath(container) / info.name)
        if is_archive:
            yield from _members(stream.pieces(info.size), archive, path, wanted)
        elif info.isreg() and wanted(path):
            data = stream.read(info.size)
            if len(data) != info.size:
                raise EOFError(f"{path} ends after {len(data)} of {info.size} bytes")
            yield Member(path, data)
    for piece in stream.pieces(sys.maxsize):  # checksums come last
        if bytes(piece).strip(b"\0"):  # a hole in a file looks like the mark of its end
            raise tarfile.ReadError("it goes on behind the mark of its end")


def _require_safe(info: tarfile.TarInfo, archive: Path, max_bytes: int) -> None:
    """Refuse what an archive of episodes has no use for, before a byte of it is read."""
    name = info.name
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        reason = "leads out of the folder"
    elif not name.isprintable() or max(map(len, name.split("/"))) > _MAX_NAME:
        reason = "has a name that no file has"
    elif info.issym() or info.islnk():
        reason = f"is a link to {info.linkname!r}"
    elif not (info.isreg() or info.isdir()) or info.type == tarfile.GNUTYPE_SPARSE:
        reason = "is no plain file and no folder"
    elif not 0 <= info.size <= max_bytes:
        reason = f"claims {info.size} bytes, more than an episode can have"
    else:
        return
    raise UnsafeArchiveError(f"{archive} is refused: its member {name!r} {reason}")


def _headers(stream: _ForwardStream) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar archive up to its end; what the caller leaves of a member is passed by.

    `tarfile.TarFile` takes a recursion for each of a chain of extensions, and memory for whatever
    map of a sparse file an archive brings.
    """
    attributes: dict[str, str] = {}  # of the member to come, in headers before its own
    while any(block := stream.read(tarfile.BLOCKSIZE)):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        start = stream.position
        if info.type in _EXTENSIONS:
            if not 0 <= info.size <= _MAX_EXTENSION_BYTES:
                raise tarfile.ReadError(f"a name or attributes of {info.size} bytes")
            attributes.update(_attributes(info.type, stream.read(info.size)))
        else:
            info.name = attributes.get("path", info.name)
            info.size = int(attributes.get("size", info.size))
            info.type = tarfile.GNUTYPE_SPARSE if "sparse" in attributes else info.type
            attributes = {}
            yield info
        blocks = -(-info.size // tarfile.BLOCKSIZE) if info.type != tarfile.DIRTYPE else 0
        stream.pass_to(start + blocks * tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise EOFError("the mark of its end is missing")


def _attributes(extension: bytes, data: bytes) -> dict[str, str]:
    """What an extension says of the member to come: its `path`, its `size`, that it is `sparse`."""
    if extension == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(data.partition(b"\0")[0])}
    found: dict[str, str] = {}
    start = 0
    while extension in _ATTRIBUTES and start < len(data):
        match = _ATTRIBUTE.match(data, start)
        end = start + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise tarfile.ReadError("broken attributes")
        key, value = match[2], data[match.end() : end - 1]
        if key == b"path" or (key == b"size" and re.fullmatch(rb"\d{1,20}", value)):
            found[key.decode()] = _text(value)
        elif key == b"size":
            raise tarfile.ReadError(f"a size of {value[:20]!r}")
        elif key.startswith(b"GNU.sparse."):
            found["sparse"] = ""
        start = end
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


class _ForwardStream:
    """Bytes that are read forwards only."""

    def __init__(self, chunks: Iterator[_Bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.position = 0

    def pass_to(self, position: int) -> None:
        """Leave out what comes before `position`."""
        for _ in self.pieces(position - self.position):
            pass

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or all that are left."""
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
            self.position += len(piece)
            size -= len(piece)
            yield piece


def _decompressed(chunks: Iterator[_Bytes]) -> Iterator[_Bytes]:
    """What the chunks hold, in pieces of bounded size; as they are if not compressed."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= len(_XZ):
            break
    chunks = chain([first], chunks)
    if first.startswith(_XZ):
        return _unxz(chunks)
    if first.startswith(_GZIP):
        return _gunzip(chunks)
    if not first:
        raise tarfile.ReadError("it is empty")
    if first.lstrip().startswith(b"<"):
        raise tarfile.ReadError("it is a web page")
    if first.startswith(_ZIP):
        raise tarfile.ReadError("it is a zip file")
    return chunks


def _unxz(chunks: Iterator[_Bytes]) -> Iterator[bytes]:
    # `lzma.LZMAFile` would let the file say how much memory is taken.
    decoder = None
    for chunk in chunks:
        if decoder is None:  # another stream may follow, behind padding of zeros
            chunk = bytes(chunk).lstrip(b"\0")
        while chunk:
            if decoder is None:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)
            yield decoder.decompress(chunk, _CHUNK_BYTES)
            while not decoder.needs_input and not decoder.eof:
                yield decoder.decompress(b"", _CHUNK_BYTES)
            chunk = b""
            if decoder.eof:
                chunk, decoder = decoder.unused_data.lstrip(b"\0"), None
    if decoder is not None:
        raise EOFError("its compressed bytes end too early")


def _gunzip(chunks: Iterator[_Bytes]) -> Iterator[bytes]:
    decoder = None
    for chunk in chunks:
        if decoder is None:  # another member may follow, behind padding of zeros
            chunk = bytes(chunk).lstrip(b"\0")
        while chunk:
            if decoder is None:
                decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header and checksum
            yield decoder.decompress(chunk, _CHUNK_BYTES)
            chunk = decoder.unconsumed_tail
            if decoder.eof:
                chunk, decoder = decoder.unused_data.lstrip(b"\0"), None
    if decoder is not None:
        raise EOFError("its compressed bytes end too early")
