"""Archives made to harm: nothing leaves the folder, and no claim takes memory or time."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from common.errors import ToolkitError, UsageError
from offline.data.archives import DamagedArchiveError, UnsafeArchiveError, read_members
from offline.data.packing import open_game
from offline.data.unpacking import extract_archive, pack_archive
from tests.command_runs import run_python
from tests.data_fixtures import make_episode
from tests.released_archives import released_members
from tests.tar_fixtures import (
    BLOCK,
    END,
    TERABYTE,
    attributes,
    base_256,
    header,
    honest_tar,
    member,
    padded,
)

EPISODE_NAME = b"20230329T092246_0_3_5_1.00"
UNPACK: dict[str, Callable[[Path, Path], object]] = {
    "read": lambda archive, folder: list(read_members(archive)),
    "pack": lambda archive, folder: pack_archive(archive, folder, identity="1", game="miner"),
    "extract": lambda archive, folder: extract_archive(archive, folder, game="miner"),
}


# Members that no archive of episodes has

UNSAFE: Mapping[str, bytes] = {
    "/etc/passwd.npy": header(b"/etc/passwd.npy", 1),
    "../a.npy": header(b"../a.npy", 1),
    "miner/../../a.npy": header(b"miner/../../a.npy", 1),
    "miner/..": header(b"miner/..", kind=b"5"),
    "/tmp/long.npy": member(b"/tmp/long.npy\0", b"././@LongLink", b"L") + header(b"a.npy", 1),
    "../pax.npy": attributes((b"path", b"../pax.npy")) + header(b"a.npy", 1),
    "symlink.npy": header(b"symlink.npy", kind=b"2", link=b"/etc/passwd"),
    "hard.npy": header(b"hard.npy", kind=b"1", link=b"miner/a.npy"),
    "character": header(b"character", kind=b"3"),
    "block": header(b"block", kind=b"4"),
    "fifo": header(b"fifo", kind=b"6"),
    "sparse.npy": header(b"sparse.npy", 512, kind=b"S") + bytes(BLOCK),
    "sparse-0.0.npy": attributes((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"0"))
    + header(b"sparse-0.0.npy"),
    "sparse-0.1.npy": attributes((b"GNU.sparse.map", b"0,9")) + header(b"sparse-0.1.npy"),
    "sparse-1.0.npy": attributes((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
    + member(b"1\n0\n9\n", b"sparse-1.0.npy"),
    "of several volumes": header(b"of several volumes", kind=b"M"),
    "of no known type": header(b"of no known type", kind=b"?"),
    "two\\nlines.npy": header(b"two\nlines.npy", 1),
    "\\x1b[2J.npy": header(b"\x1b[2J.npy", 1),
    "\\udcff.npy": header(b"\xff.npy", 1),
    "zero\\x00.npy": attributes((b"path", b"zero\0.npy")) + header(b"a.npy", 1),
    "n" * 256: attributes((b"path", b"n" * 256)) + header(b"a.npy", 1),
    "plain.npy": header(b"plain.npy", b"77777777777\0"),
    "octal.npy": header(b"octal.npy", b"777777777777"),
    "base_256.npy": header(b"base_256.npy", base_256(TERABYTE)),
    "huge.npy": header(b"huge.npy", base_256(2**87)),
    "negative.npy": header(b"negative.npy", base_256(-512)),
    "negative.tar": header(b"negative.tar", base_256(-512)),
    "folder": header(b"folder", base_256(-(2**80)), kind=b"5"),
    "size.npy": attributes((b"size", b"%d" % TERABYTE)) + header(b"size.npy", 1),
}


@pytest.mark.parametrize("unpack", UNPACK.values(), ids=UNPACK)
@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_member_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, name: str, unpack: Callable[[Path, Path], object]
) -> None:
    archive, folder = tmp_path / "archive.tar", tmp_path / "outer" / "dataset"
    archive.write_bytes(UNSAFE[name] + bytes(BLOCK) + END)
    folder.mkdir(parents=True)
    with pytest.raises(UnsafeArchiveError) as caught:
        unpack(archive, folder)
    message = str(caught.value)
    assert message.startswith(f"{archive} is refused: its member '{name}' ")
    assert message.isprintable()
    assert [path for path in tmp_path.rglob("*") if path not in (archive, folder)] == [
        folder.parent
    ]


@pytest.mark.parametrize("unpack", [UNPACK["pack"], UNPACK["extract"]], ids=["pack", "extract"])
def test_an_unsafe_last_member_leaves_nothing_that_training_would_take(
    tmp_path: Path, unpack: Callable[[Path, Path], object]
) -> None:
    archive = tmp_path / "archive.tar"
    episodes = released_members({"miner": [make_episode(1, [1.0]), make_episode(2, [0.0])]})
    members = b"".join(member(data, path.encode()) for path, data in episodes.items())
    archive.write_bytes(members + UNSAFE["symlink.npy"] + END)
    with pytest.raises(UnsafeArchiveError, match=r"symlink\.npy"):
        unpack(archive, tmp_path)
    with pytest.raises(UsageError, match=r"no episode files|no folder miner"):
        open_game(tmp_path, "miner")


@pytest.mark.parametrize("name", ["../a.npy", "symlink.npy", "base_256.npy"])
def test_an_unsafe_member_of_an_inner_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "archive.tar"
    inner = lzma.compress(UNSAFE[name] + bytes(BLOCK) + END)
    archive.write_bytes(honest_tar(("miner.tar.xz", inner)))
    with pytest.raises(UnsafeArchiveError, match=name):
        list(read_members(archive))


def test_an_unsafe_member_is_refused_even_if_it_is_not_wanted(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(UNSAFE["symlink.npy"] + END)
    with pytest.raises(UnsafeArchiveError):
        list(read_members(archive, wanted=lambda path: False))


# Claims


def xz_with_a_dictionary_of_4_gib() -> bytes:
    """A whole .tar.xz whose block header claims the largest dictionary there is."""
    data = bytearray(lzma.compress(honest_tar(("a.npy", b"1"))))
    size = (data[12] + 1) * 4
    block = data[12 : 12 + size - 4]
    assert block[2:4] == b"\x21\x01"  # LZMA2, with one byte for the dictionary
    block[4] = 40
    data[12 : 12 + size] = block + zlib.crc32(block).to_bytes(4, "little")
    return bytes(data)


def bomb(*parts: bytes) -> bytes:
    return lzma.compress(b"".join(parts), preset=0)


LONG_NAME = header(b"././@LongLink", 10, b"L") + padded(b"a" * 9)
CLAIMS: Mapping[str, tuple[bytes, str]] = {
    # name: (archive, what must come of it)
    "attributes": (header(b"x", base_256(TERABYTE), b"x") + END, "DamagedArchiveError"),
    "common_attributes": (header(b"g", base_256(TERABYTE), b"g") + END, "DamagedArchiveError"),
    "long_name": (header(b"L", base_256(TERABYTE), b"L") + END, "DamagedArchiveError"),
    "long_link": (header(b"K", base_256(TERABYTE), b"K") + END, "DamagedArchiveError"),
    "long_name_below_zero": (header(b"L", base_256(-1), b"L") + END, "DamagedArchiveError"),
    "inner_archive": (header(b"m.tar", base_256(TERABYTE)) + TERABYTE.to_bytes(BLOCK), "Damaged"),
    "a_gigabyte": (header(b"a.npy", 2**30) + END, "DamagedArchiveError"),
    "dictionary": (xz_with_a_dictionary_of_4_gib(), "DamagedArchiveError"),
    "archive_in_inner_archive": (
        bomb(
            header(b"miner.tar", base_256(TERABYTE)),
            header(EPISODE_NAME + b".tar", base_256(TERABYTE // 2)),
            bytes(100 * 2**20),
        ),
        "UnsafeArchiveError",
    ),
    "long_names_in_a_row": (
        bomb(*[LONG_NAME] * 20_000, member(b"1"), END),
        "[('aaaaaaaaa', 1)]",
    ),
    "many_common_attributes": (
        bomb(
            *[attributes((b"key %d" % i, b"v" * 60_000), kind=b"g") for i in range(1500)],
            member(b"1"),
            END,
        ),
        "[('a.npy', 1)]",
    ),
    "a_name_of_100_megabytes": (
        bomb(header(b"L", 100 * 2**20, b"L"), b"a" * (100 * 2**20), member(b"1"), END),
        "DamagedArchiveError",
    ),
    "digits": (member(b"1" * 60_000, kind=b"x") * 20 + member(b"1") + END, "DamagedArchiveError"),
    "map_of_a_sparse_file": (
        bomb(
            attributes((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")),
            header(b"a.npy", 10),
            b"9999999999\n" + b"0\n" * 10_000_000,
        ),
        "UnsafeArchiveError",
    ),
    "much_that_is_not_wanted": (
        bomb(header(b"zeros.txt", 100 * 2**20), bytes(100 * 2**20), member(b"1"), END),
        "[('a.npy', 1)]",
    ),
    "much_behind_the_end": (bomb(member(b"1"), END, bytes(100 * 2**20)), "[('a.npy', 1)]"),
    # It shows that the limit is one.
    "an_honest_file_larger_than_the_limit": (
        bomb(header(b"a.npy", 100 * 2**20), bytes(100 * 2**20), END),
        "MemoryError",
    ),
}
_READ = """
import resource, sys
from pathlib import Path
from common.errors import ToolkitError
from offline.data.archives import read_members
for folder in sys.argv[1:]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
    members = read_members(Path(folder), lambda path: not path.endswith(".txt"))
    try:
        print([(member.path, len(member.data)) for member in members])
    except (ToolkitError, MemoryError) as error:
        print(type(error).__name__, error)
"""


def test_no_claim_takes_memory(tmp_path: Path) -> None:
    for name, (data, _) in CLAIMS.items():
        (tmp_path / name).write_bytes(data)
    done = run_python("-c", _READ, *(str(tmp_path / name) for name in CLAIMS))
    assert done.returncode == 0, done.stderr
    outcomes = dict(zip(CLAIMS, done.stdout.splitlines(), strict=True))
    for name, (_, expected) in CLAIMS.items():
        assert outcomes[name].startswith(expected), (name, outcomes[name])


# Anything else

blocks = st.one_of(
    st.builds(
        header,
        st.binary(max_size=100),
        st.one_of(
            st.integers(0, 3000),
            st.builds(base_256, st.integers(-(2**87), 2**87 - 1)),
            st.binary(max_size=12),
        ),
        st.sampled_from([bytes([kind]) for kind in b"\x000123456789LKxXgSMDVN?"]),
        st.binary(max_size=100),
    ),
    st.builds(
        lambda text, kind: member(text, kind=kind),
        st.binary(max_size=600),
        st.sampled_from([b"0", b"x", b"g", b"L", b"K"]),
    ),
    st.lists(
        st.tuples(
            st.sampled_from([b"path", b"size", b"GNU.sparse.major", b"hdrcharset", b"mtime", b""]),
            st.one_of(st.binary(max_size=20), st.sampled_from([b"-1", b"BINARY", b"1" * 5000])),
        ),
        max_size=3,
    ).map(lambda records: attributes(*records)),
    st.binary(max_size=1100),
    st.just(bytes(BLOCK)),
)


@given(st.lists(blocks, max_size=8).map(b"".join))
@example(attributes((b"size", b"1" * 5000)) + header() + END)
@example(attributes((b"path", b"")) + header() + END)
@example(member(b"99999 path=a\n", kind=b"x") + header() + END)
@example(member(b"0 path=a\n", kind=b"x") + header() + END)
@example(member(b"13 path=hello", kind=b"x") + header() + END)
@examples(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_blocks_come_the_reader_ends_with_members_or_one_line(
    tmp_path: Path, data: bytes
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    try:
        for each in read_members(archive):
            assert not each.path.startswith("/")
            assert ".." not in each.path.split("/")
    except ToolkitError as error:
        assert isinstance(error, DamagedArchiveError | UnsafeArchiveError)
        assert len(str(error).splitlines()) == 1


def test_the_headers_made_here_are_read_by_tarfile_too(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(attributes((b"path", b"b.npy")) + member(b"data") + LONG_NAME)
    with tarfile.open(archive) as tar:
        info = tar.next()
        assert info is not None
        assert (info.name, info.size) == ("b.npy", 4)
    assert tarfile.TarInfo.frombuf(header(b"a", base_256(-512)), "utf-8", "strict").size == -512
    assert tarfile.TarInfo.frombuf(header(b"a", base_256(TERABYTE)), "utf-8", "strict").size == (
        TERABYTE
    )
