"""Tensors in files: written without a copy in memory, and read as views of the file.

A model of 50 MB crosses some ten hands in a round. Each copy of it costs fresh memory, which the kernel
has to clear page by page; a file that was just written is in the page cache, and mapping it costs nothing.
Files are safetensors, written and checked by that library; only the views are ours.
"""

from __future__ import annotations  # a command that looks at the spool does not load Flower

import json
import mmap
import os
import re
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors import numpy as tensors_file

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sha256_file, sync_folder

if TYPE_CHECKING:
    from interplant.core.tensors import Tensors

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
"""What numpy can hold, by safetensors' names; the others (BF16, F8) are no model's of ours."""

STORED = frozenset(map(np.dtype, _DTYPES.values()))
"""Dtypes of arrays that can be written."""

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_NUMBER = re.compile(r"\(os error (\d+)\)")


def save(path: Path, tensors: Tensors, notes: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file, which is whole or not there; its folder must exist.

    Args:
        path: The file.
        tensors: Arrays by name.
        notes: The file's metadata.

    Raises:
        InterplantError: The disk is full or the folder cannot be written.
    """
    # safetensors stores only C-ordered arrays rightly.
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with disk_errors(path):
        try:
            tensors_file.save_file(ordered, path, dict(notes) if notes else None)
        except SafetensorError as error:
            raise _as_os_error(error) from error


def replace(path: Path, tensors: Tensors, notes: Mapping[str, str]) -> None:
    """Write tensors durably in place of a file: a reader sees the old content or the new, never a part.

    Raises:
        InterplantError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save(temporary, tensors, notes)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def keep(path: Path, tensors: Tensors) -> pb.Blob:
    """Have tensors in a file that outlives a power cut; return its digest and size.

    A file that they are views of is moved there, any other is written.

    Raises:
        InterplantError: The disk is full or the folder cannot be written.
    """
    source = file_of(tensors)
    with disk_errors(path):
        source.replace(path) if source else save(path, tensors)
        with path.open("rb") as file, ThreadPoolExecutor(1) as beside:
            on_disk = beside.submit(os.fsync, file.fileno())
            blob = describe(path)  # while the disk is busy
            on_disk.result()
        sync_folder(path.parent)
    return blob


def describe(path: Path) -> pb.Blob:
    """Name a file by its digest and size in bytes."""
    return pb.Blob(sha256=sha256_file(path), size=path.stat().st_size)


def load(path: Path, writable: bool = False) -> Tensors:
    """Read a file's tensors as views of it; they stay when it is removed.

    Args:
        path: The file. It must not be changed in place, as nothing here does.
        writable: Whether the arrays can be written to; the file stays as it is.

    Raises:
        InterplantError: The file is not safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            kinds = [(name, _DTYPES[each.get_dtype()], each.get_shape()) for name, each in slices]
        return _views(path, kinds, mmap.ACCESS_COPY if writable else mmap.ACCESS_READ)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InterplantError(f"expected tensors as safetensors, found something else: {error}") from None


def file_of(tensors: Tensors, record: str = "") -> Path | None:
    """The file that these arrays are views of, if it holds them and nothing else; else None.

    A head with notes, or one that the library would have written in another way, could carry more than
    the arrays: such a file is not sent in their place.

    Args:
        tensors: Arrays by name.
        record: What stands before their names in the file.
    """
    views = {id(view): view for array in tensors.values() if (view := _view_of(array)) is not None}
    if len(views) != 1 or any(array.flags.writeable for array in tensors.values()):
        return None  # what can be written to may not be the file's any more
    (view,) = views.values()
    same = view.layout == _layout(tensors, record) and view.inode == _inode(view.path)
    return view.path if same and view.is_plain else None


def open_under(tensors: Mapping[str, np.ndarray[Any, Any]]) -> tuple[int, dict[str, int]] | None:
    """Open the one file that arrays are views of; who reads it there needs no copy of them.

    Args:
        tensors: Arrays by name.

    Returns:
        Its descriptor, and the byte at which each array begins, in C order. None if an array is no such
        view, can be written to (it may differ from the file), or the file is gone or is another now.
    """
    views = {id(view): view for array in tensors.values() if (view := _view_of(array)) is not None}
    unlike = [array for array in tensors.values() if array.flags.writeable or not array.flags.c_contiguous]
    if len(views) != 1 or unlike or None in map(_view_of, tensors.values()):
        return None
    (view,) = views.values()
    try:
        file = os.open(view.path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if view.inode != _inode(file):
        os.close(file)
        return None
    first = np.frombuffer(view, np.uint8).ctypes.data
    return file, {name: array.ctypes.data - first for name, array in tensors.items()}


class _View(mmap.mmap):
    """A mapped file that knows where its arrays lie."""

    path: Path
    inode: tuple[int, int] | None
    is_plain: bool
    layout: dict[str, object]


def _views(path: Path, kinds: list[tuple[str, type[np.generic], list[int]]], access: int) -> Tensors:
    """Lay arrays over a file: safetensors has made sure that they fill it, one after another."""
    with path.open("rb") as file:
        view = _View(file.fileno(), 0, access=access)
    (head,) = struct.unpack_from("<Q", view)
    at, found = 8 + head, {}
    for name, dtype, shape in kinds:
        flat = np.frombuffer(view, dtype, int(np.prod(shape, dtype=object)), at)
        found[name] = flat.reshape(shape)
        at += flat.nbytes
    view.path, view.inode, view.layout = path, _inode(path), _layout(found)
    view.is_plain = view[8 : 8 + head] == _head(found)
    return found


def _head(tensors: Tensors) -> bytes:
    """The head that the library writes for these arrays alone; at worst another, never one with more."""
    at, entries = 0, {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        array = tensors[name]
        entries[name] = {
            "dtype": _NAMES[array.dtype.type],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def _inode(file: Path | int) -> tuple[int, int] | None:
    """What tells a file, by path or descriptor, from another of its name that has taken its place."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino)


def _view_of(array: np.ndarray[Any, Any]) -> _View | None:
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) and isinstance(owner.obj, _View) else None


def _layout(tensors: Tensors, record: str = "") -> dict[str, object]:
    """Where each array lies in memory, and how."""
    return {
        record + name: (array.ctypes.data, array.shape, array.strides, array.dtype)
        for name, array in tensors.items()
    }


def _as_os_error(error: SafetensorError) -> Exception:
    """The operating system's error behind one of safetensors', which tells only its text."""
    number = _NUMBER.search(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error
