"""Tar archives byte by byte: honest ones, as `tarfile` writes them, and parts that it would not."""

from __future__ import annotations

import io
import tarfile

BLOCK = 512
END = bytes(2 * BLOCK)
TERABYTE = 2**40


def honest_tar(*members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A .tar of these files, each with a path and its bytes; the paths may be long."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for path, data in members:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def header(
    name: bytes = b"a.npy", size: int | bytes = 0, kind: bytes = b"0", link: bytes = b""
) -> bytes:
    """One header block with a right checksum; `size` in octal digits, or the field as it stands."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(BLOCK)
    for start, text in (
        (0, name),
        (100, b"0000644\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, field.ljust(12, b"\0")),
        (136, b"00000000000\0"),
        (148, b" " * 8),
        (156, kind),
        (157, link),
        (257, b"ustar\x0000"),
        (329, b"0000000\0"),
        (337, b"0000000\0"),
    ):
        block[start : start + len(text)] = text
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base_256(size: int) -> bytes:
    """The size field of GNU tar for what does not fit into octal digits."""
    return (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")


def padded(data: bytes) -> bytes:
    """As it lies in an archive: filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def member(data: bytes, name: bytes = b"a.npy", kind: bytes = b"0") -> bytes:
    """A header and its data."""
    return header(name, len(data), kind) + padded(data)


def attributes(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header with these keys and values, for the member that follows."""
    return member(b"".join(_record(*record) for record in records), b"attributes", kind)


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3  # a space, an equals sign, a line's end
    length = rest + 1
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
