"""A pickle reader that runs nothing: NumPy arrays, containers and built-in scalars come out of it.

Released Procgen episodes are pickles, and a pickle is a program: `pickle.load` on a downloaded
file may run any command. Here three walls stand in front of it. The opcodes are scanned first, and
only those that build plain values pass. Names are looked up in a short table whose entries are
recipes of this module, never NumPy's own functions, which take memory or reinterpret it on a file's
word. The recipes are turned into arrays last, with every size checked against the bytes at hand.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn, TypeGuard

import numpy as np

_OPCODE_NAMES = """
    PROTO FRAME STOP MARK POP POP_MARK GLOBAL STACK_GLOBAL REDUCE BUILD
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE
    INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_PLAIN_OPCODES = frozenset(_OPCODE_NAMES.split())
_MAX_MEMO = 1 << 20  # CPython takes memory for a memo slot's number, whatever the file's size
_MAX_LISTED_VALUES = 1 << 24
_MAX_DEPTH = 8
_DTYPE = re.compile(r"[<>|=]?(?:[biuf](?:1|2|4|8)|O(?:4|8)?)")


class PickleRefusedError(ValueError):
    """The pickle is broken, or holds something other than plain arrays and values."""


class _Recipe:
    """What a whitelisted name stands for: it can be called, and nothing can be set on it."""

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *args: object) -> object:
        try:
            return self._make(*args)
        except (TypeError, ValueError) as error:
            raise PickleRefusedError(f"a call with unusual arguments ({error})") from error

    def __setstate__(self, state: object) -> NoReturn:
        raise PickleRefusedError("an attempt to change a function")


class _DType:
    """The recipe of a dtype; `state` sets its byte order, fields and flags are refused."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise PickleRefusedError(f"an array of type {code!r}")
        self.code = code
        self.is_object = "O" in code

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise PickleRefusedError("an array type with fields")
        if state[1] not in ("<", ">", "|", "="):
            raise PickleRefusedError(f"an array type of byte order {state[1]!r}")
        self.code = f"{state[1]}{self.code.lstrip('<>|=')}"

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _Array:
    """The recipe of an array, filled by the state that `ndarray.__reduce__` writes."""

    def __init__(self) -> None:
        self.shape: object = None
        self.dtype: object = None
        self.data: object = None
        self.order: object = "C"
        self.axis_order: Any = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise PickleRefusedError("an array of unknown format")
        _, self.shape, self.dtype, fortran, self.data = state
        self.order = "F" if fortran else "C"

    def resolve(self) -> np.ndarray:
        """The array, read-only and without a copy. Objects inside arrays are refused."""
        if not isinstance(self.dtype, _DType) or not _is_shape(self.shape):
            raise PickleRefusedError("an array without type or shape")
        if self.dtype.is_object or not isinstance(self.data, bytes | bytearray):
            raise PickleRefusedError("an array of Python objects")
        dtype = self.dtype.resolve()
        if math.prod(self.shape) * dtype.itemsize != len(self.data):
            raise PickleRefusedError(
                f"an array of {len(self.data)} bytes that claims shape {self.shape} of {dtype}"
            )
        flat = np.frombuffer(self.data, dtype) if self.data else np.empty(0, dtype)
        if self.axis_order is not None:
            return flat.reshape(self.shape).transpose(self.axis_order)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


class _Scalar:
    """The recipe of a NumPy scalar."""

    def __init__(self, dtype: object, data: object) -> None:
        self.array = _Array()
        self.array.shape, self.array.dtype, self.array.data = (), dtype, data

    def resolve(self) -> Any:
        return self.array.resolve()[()]


_NDARRAY = _Recipe(lambda: None)  # named in every array's recipe, of no use by itself


def _is_shape(shape: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    if subtype is not _NDARRAY:
        raise PickleRefusedError("an array of unknown class")
    return _Array()


def _frombuffer(
    data: object, dtype: object, shape: object, order: object, axis_order: object = None
) -> _Array:
    array = _Array()
    array.data, array.dtype, array.shape = data, dtype, shape
    array.order, array.axis_order = order, axis_order
    return array


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleRefusedError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], _Recipe] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Recipe(_DType),
    ("_codecs", "encode"): _Recipe(_encode),
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2 name their parts differently
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Recipe(_reconstruct)
    _NAMES[f"{_core}.multiarray", "scalar"] = _Recipe(_Scalar)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Recipe(_frombuffer)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Recipe:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise PickleRefusedError(f"the name {module}.{name}") from None

    def persistent_load(self, pid: object) -> NoReturn:
        raise PickleRefusedError(f"a persistent id {pid!r}")


class _BoundedReader:
    """A file that is never asked for more bytes than it has, whatever length its contents claim."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = _end_of(file)

    def read(self, size: int = -1) -> bytes:
        if size > self._end - self._file.tell():
            raise PickleRefusedError("a value longer than the file: truncated?")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()

    def tell(self) -> int:
        return self._file.tell()


def _end_of(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end


def _scan(file: BinaryIO) -> None:
    end = _end_of(file)
    for opcode, argument, _ in pickletools.genops(_BoundedReader(file)):  # type: ignore[arg-type]
        if opcode.name not in _PLAIN_OPCODES:
            raise PickleRefusedError(f"the opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > _MAX_MEMO:
            raise PickleRefusedError(f"memo number {argument}")
        if opcode.name == "FRAME" and int(argument or 0) > end - file.tell():
            raise PickleRefusedError("a frame longer than the file: truncated?")


def _plain(value: object, listed: list[int], depth: int = 0) -> object:
    """Turn recipes into arrays and scalars; `listed` counts what lists hold, to bound memory."""
    if depth > _MAX_DEPTH:
        raise PickleRefusedError("containers nested too deep")
    if isinstance(value, dict):
        return {_plain_key(key): _plain(item, listed, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = []
        for item in value:
            plain = _plain(item, listed, depth + 1)
            listed[0] += plain.size if isinstance(plain, np.ndarray) else 1
            if listed[0] > _MAX_LISTED_VALUES:
                raise PickleRefusedError(f"lists of more than {_MAX_LISTED_VALUES} values")
            items.append(plain)
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, _Array | _Scalar):
        return value.resolve()
    if isinstance(value, _Recipe | _DType):
        raise PickleRefusedError("a bare function or type")
    return value


def _plain_key(key: object) -> object:
    if not isinstance(key, str | bytes | int | float | None):
        raise PickleRefusedError("a dictionary key that is no text or number")
    return key


def load_plain(file: BinaryIO) -> object:
    """The value pickled at the current position of a seekable file, made of plain parts only.

    A 0-d object array, which is how `np.save` wraps a dictionary, is unwrapped. Arrays share the
    file's bytes and are read-only. Raises PickleRefusedError saying what is not admitted.
    """
    start = file.tell()
    try:
        _scan(file)
        file.seek(start)
        value = _PlainUnpickler(file).load()
        if isinstance(value, _Array) and isinstance(value.dtype, _DType) and value.dtype.is_object:
            if value.shape != () or not isinstance(value.data, list) or len(value.data) != 1:
                raise PickleRefusedError("an array of Python objects")
            value = value.data[0]
        return _plain(value, [0])
    except PickleRefusedError:
        raise
    except MemoryError as error:
        raise PickleRefusedError("a value too large for memory") from error
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise PickleRefusedError(f"broken bytes ({error})") from error
