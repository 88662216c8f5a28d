"""Whole archives are read in every format; one that is not whole is never taken for it."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ToolkitError
from offline.data.archives import DamagedArchiveError, Member, read_members
from tests.tar_fixtures import END, attributes, header, honest_tar, member

CHUNK = 2**18  # bytes that are read of a file at once
FORMATS = {"GNU": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": lambda tar: tar,
    ".tar.xz": lzma.compress,
    ".tar.gz": gzip.compress,
}
FILES = (("miner/a.npy", b"first " * 100), ("miner/b.npy", b""), ("c.npy", b"x" * 512))
TAR = honest_tar(*FILES)
COMPRESSED = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A place for an archive, with a name that says nothing of its format."""
    return tmp_path / "archive"


def members_of(archive: Path, data: bytes) -> list[Member]:
    archive.write_bytes(data)
    return list(read_members(archive))


def damage(archive: Path, data: bytes) -> str:
    """The one line with which `data` are refused for not being a whole archive."""
    with pytest.raises(DamagedArchiveError) as caught:
        members_of(archive, data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{archive}: ")
    return message


# Whole archives


@COMPRESSED
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_files_come_in_their_order_byte_for_byte(
    archive: Path, form: int, compress: Callable[[bytes], bytes]
) -> None:
    assert members_of(archive, compress(honest_tar(*FILES, form=form))) == list(FILES)


@COMPRESSED
@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.tar.gz", "a.npz", "a"])
def test_the_format_is_told_by_content_whatever_the_name(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    assert members_of(tmp_path / name, compress(TAR)) == list(FILES)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_long_names_are_read_whole(archive: Path, form: int) -> None:
    length = 80 if form == tarfile.USTAR_FORMAT else 250
    path = f"{'folder/' * 12}{'n' * length}.npy"
    assert members_of(archive, honest_tar((path, b"data"), form=form)) == [(path, b"data")]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_outside_ascii_are_read(archive: Path, form: int) -> None:
    assert members_of(archive, honest_tar(("jeu/épisode.npy", b"1"), form=form)) == [
        ("jeu/épisode.npy", b"1")
    ]


def test_a_name_that_was_extended_is_not_kept_for_the_next_member(archive: Path) -> None:
    files = [(f"miner/{'n' * 200}.npy", b"1"), ("miner/short.npy", b"2")]
    assert members_of(archive, honest_tar(*files)) == files


def test_attributes_of_the_whole_archive_are_passed_by(archive: Path) -> None:
    data = attributes((b"comment", b"made by"), kind=b"g") + member(b"1", b"a.npy") + END
    assert members_of(archive, data) == [("a.npy", b"1")]


def test_a_size_among_the_attributes_counts(archive: Path) -> None:
    data = attributes((b"size", b"3"), (b"mtime", b"1.5")) + header(b"a.npy", 0) + b"123"
    assert members_of(archive, data + bytes(509) + END) == [("a.npy", b"123")]


def test_folders_are_passed_by(archive: Path) -> None:
    folders = [
        header(b"miner/", kind=b"5"),
        header(b"miner.tar", kind=b"5"),
        header(b"of a size/", 512, kind=b"5"),  # no data follow
        header(b"old/", kind=b"\0"),  # as before there was a type for folders
    ]
    assert members_of(archive, b"".join([*folders, member(b"1"), END])) == [("a.npy", b"1")]


def test_only_what_is_wanted_comes(archive: Path) -> None:
    archive.write_bytes(TAR)
    asked: list[str] = []

    def wanted(path: str) -> bool:
        asked.append(path)
        return path == "c.npy"

    assert list(read_members(archive, wanted)) == [FILES[2]]
    assert asked == ["miner/a.npy", "miner/b.npy", "c.npy"]


def test_no_file_at_all_is_a_whole_archive(archive: Path) -> None:
    assert members_of(archive, honest_tar()) == []


@pytest.mark.parametrize("padding", [0, 4, 512, CHUNK + 4])
def test_xz_streams_may_follow_each_other_with_padding_between(archive: Path, padding: int) -> None:
    half = len(TAR) // 2
    data = lzma.compress(TAR[:half]) + bytes(padding) + lzma.compress(TAR[half:]) + bytes(padding)
    assert members_of(archive, data) == list(FILES)


@pytest.mark.parametrize("padding", [0, 512, CHUNK + 1])
def test_gzip_members_may_follow_each_other(archive: Path, padding: int) -> None:
    half = len(TAR) // 2
    data = gzip.compress(TAR[:half]) + gzip.compress(TAR[half:]) + bytes(padding)
    assert members_of(archive, data) == list(FILES)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_padding_may_begin_where_a_read_ends(
    archive: Path, compress: Callable[[bytes], bytes], more: int
) -> None:
    incompressible = os.urandom(CHUNK)
    data = compress(honest_tar(("a.npy", incompressible)))
    data = data.ljust(2 * CHUNK, b"\0") if more < 0 else data + bytes(2 * CHUNK - len(data) + more)
    assert members_of(archive, data) == [("a.npy", incompressible)]


def test_each_byte_may_come_in_a_stream_of_its_own(archive: Path) -> None:
    tar = honest_tar(("a.npy", b"1"))
    data = b"".join(gzip.compress(tar[i : i + 1]) for i in range(len(tar)))
    assert members_of(archive, data) == [("a.npy", b"1")]


# Archives in archives


@COMPRESSED
@pytest.mark.parametrize("inner", COMPRESSIONS)
def test_archives_in_an_archive_are_read_through(
    archive: Path, inner: str, compress: Callable[[bytes], bytes]
) -> None:
    coinrun = COMPRESSIONS[inner](honest_tar(("coinrun/a.npy", b"2")))
    outer = honest_tar(
        (f"level/miner{inner}", COMPRESSIONS[inner](TAR)),
        (f"level/coinrun{inner}", coinrun),
        ("z.npy", b"3"),
    )
    assert members_of(archive, compress(outer)) == [
        *((f"level/miner{inner}/{path}", data) for path, data in FILES),
        (f"level/coinrun{inner}/coinrun/a.npy", b"2"),
        ("z.npy", b"3"),
    ]


@pytest.mark.parametrize("bytes_at_first", range(1, 8))
def test_an_inner_archive_is_told_by_content_however_few_bytes_come_at_first(
    archive: Path, bytes_at_first: int
) -> None:
    outer = honest_tar(("miner.tar.xz", lzma.compress(TAR)), form=tarfile.GNU_FORMAT)
    split = 512 + bytes_at_first  # one header in front
    data = lzma.compress(outer[:split]) + lzma.compress(outer[split:])
    paths = [member.path for member in members_of(archive, data)]
    assert paths == [f"miner.tar.xz/{path}" for path, _ in FILES]


def test_deeper_archives_are_files_like_others(archive: Path) -> None:
    data = honest_tar(("a.tar", honest_tar(("b.tar", TAR))))
    assert members_of(archive, data) == [("a.tar/b.tar", TAR)]


# What is told of bytes


@COMPRESSED
def test_the_bytes_that_are_told_sum_up_to_the_file(
    archive: Path, compress: Callable[[bytes], bytes]
) -> None:
    archive.write_bytes(compress(honest_tar(("a.npy", os.urandom(3 * CHUNK)))))
    told: list[int] = []
    assert len(list(read_members(archive, on_bytes=told.append))) == 1
    assert len(told) > 1
    assert sum(told) == archive.stat().st_size


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ToolkitError("stop"), ValueError("stop"), OSError("stop")]
)
def test_what_is_raised_where_bytes_are_told_comes_out(archive: Path, error: BaseException) -> None:
    archive.write_bytes(TAR)

    def stop(count: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        list(read_members(archive, on_bytes=stop))
    assert caught.value is error


def test_a_reader_that_stops_early_closes_the_file(archive: Path) -> None:
    archive.write_bytes(TAR)
    before = os.listdir("/proc/self/fd")
    members = read_members(archive)
    next(members)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    members.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before


# Not whole


def is_whole(archive: Path, data: bytes, whole: list[Member]) -> bool:
    """Whether `data` are read as `whole`; else they must be refused, not fall short."""
    try:
        assert members_of(archive, data) == whole
    except DamagedArchiveError:
        return False
    return True


def flipped(data: bytes, spot: int, flip: int) -> bytes:
    return data[:spot] + bytes([data[spot] ^ flip]) + data[spot + 1 :]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_tar_cut_anywhere_before_the_mark_of_its_end_is_damaged(archive: Path, form: int) -> None:
    files = [("miner/a.npy", b"1" * 600), (f"{'f/' * 60}b.npy", b""), ("c.npy", b"2" * 512)]
    tar = honest_tar(*files, form=form)
    whole = members_of(archive, tar)
    end = len(tar.rstrip(b"\0"))  # the last member fills its block
    around_blocks = {
        cut
        for block in range(0, end + 1024, 512)
        for cut in (block, block + 1, block + 100, block + 511)
    }
    around_data = {512 + 599, 512 + 600, 512 + 601}
    for cut in sorted(around_blocks | around_data):
        assert is_whole(archive, tar[:cut], whole) == (cut >= end + 512)


@COMPRESSED
def test_a_member_that_is_cut_short_does_not_come(
    archive: Path, compress: Callable[[bytes], bytes]
) -> None:
    archive.write_bytes(compress(TAR[: 512 + 600 - 1]))
    members = read_members(archive)
    with pytest.raises(DamagedArchiveError, match=r"miner/a\.npy ends after 599 of 600 bytes"):
        next(members)


@pytest.mark.parametrize("kind", [".tar.xz", ".tar.gz"])
def test_a_compressed_archive_cut_at_any_byte_is_damaged(archive: Path, kind: str) -> None:
    data = COMPRESSIONS[kind](TAR)
    for cut in range(len(data)):
        damage(archive, data[:cut])


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_an_inner_archive_cut_short_is_damaged(archive: Path, kind: str) -> None:
    inner = COMPRESSIONS[kind](honest_tar(("a.npy", b"1"), form=tarfile.GNU_FORMAT)[:2048])
    for cut in range(0, min(len(inner), 1536), 7):
        damage(archive, honest_tar((f"miner{kind}", inner[:cut])))


@pytest.mark.parametrize("kind", [".tar.xz", ".tar.gz"])
def test_a_flipped_byte_of_a_compressed_archive_is_found_or_harmless(
    archive: Path, kind: str
) -> None:
    data = COMPRESSIONS[kind](TAR)
    whole = [Member(*file) for file in FILES]
    harmless = {
        spot
        for spot in range(len(data))
        for flip in (0x01, 0xFF)
        if is_whole(archive, flipped(data, spot, flip), whole)
    }
    if kind == ".tar.xz":  # gzip has a time, hints, and bits that fill up
        assert not harmless


def test_a_flipped_byte_of_a_header_is_found(archive: Path) -> None:
    checksum = range(148, 156)  # it may be written in several ways
    for spot in set(range(512)) - set(checksum):
        damage(archive, flipped(TAR, spot, 0x01))


def test_a_flipped_byte_of_a_tar_never_crashes_the_reader(archive: Path) -> None:
    for spot in range(512, 4096, 13):
        archive.write_bytes(flipped(TAR, spot, 0xFF))
        with contextlib.suppress(ToolkitError):
            list(read_members(archive))


def test_a_hole_of_zeros_is_no_end(archive: Path) -> None:
    hole = honest_tar(FILES[0])[:-10240] + bytes(1024) + TAR
    assert "goes on behind the mark of its end" in damage(archive, hole)


@pytest.mark.parametrize("kind", [".tar.xz", ".tar.gz"])
def test_bytes_behind_the_compressed_ones_are_refused(archive: Path, kind: str) -> None:
    damage(archive, COMPRESSIONS[kind](TAR) + b"more")


def test_a_file_without_its_header_block_is_damaged(archive: Path) -> None:
    damage(archive, TAR[512:])


# No archive


NO_ARCHIVE = {
    "nothing": (b"", "it is empty"),
    "a page": (b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
    "a page with space in front": (b"\r\n  \n <html>" + bytes(600), "it is a web page"),
    "a page, compressed": (gzip.compress(b"<html>" * 1000), "no tar archive"),
    "an answer": (b"{'error': 404}" * 100, "no tar archive"),
    "two bytes of gzip": (b"\x1f\x8b", "cut short"),
    "xz of nothing": (lzma.compress(b""), "cut short"),
    "another lzma": (lzma.compress(TAR, lzma.FORMAT_ALONE), "no tar archive"),
    "noise": (b"\x00" + random.Random(0).randbytes(4095), "no tar archive"),
}


@pytest.mark.parametrize(("data", "reason"), NO_ARCHIVE.values(), ids=NO_ARCHIVE)
def test_what_is_no_archive_is_refused_in_one_line(archive: Path, data: bytes, reason: str) -> None:
    assert reason in damage(archive, data)


def test_a_zip_file_is_called_so(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("miner/a.npy", b"1")
    assert "it is a zip file" in damage(archive, archive.read_bytes())


@pytest.mark.parametrize(("name", "reason"), [(".", "Is a directory"), ("none", "No such file")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ToolkitError, match=f"cannot read {tmp_path / name}: {reason}") as caught:
        list(read_members(tmp_path / name))
    assert not isinstance(caught.value, DamagedArchiveError)  # fetching it again would not help
