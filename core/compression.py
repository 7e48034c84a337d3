"""The same arrays in fewer bytes: ``bf16``, ``int8`` and ``top_k``. Plain numpy; nothing here loads Flower.

What is packed is one deflate stream without names, shapes and types: those are the model's, which the
receiver knows. So it also knows to the byte how long the stream must be when it is inflated, and nothing
that a sender writes makes it allocate more. Only float32 arrays of two values or more are coded; all others
(whole numbers, truth values, double precision, single values) would lose or not gain, and travel as they are.

- ``bf16``: the upper half of each float32, rounded to nearest, ties to even; 2 bytes a value.
- ``int8``: each block of at most `BLOCK` values of an array is divided by a scale, a 127th of its largest
  magnitude, and rounded to nearest, ties to even; 1 byte a value and 4 a block.
- ``top_k``: a fixed share of all values, those of largest magnitude, in bf16; where they stand is a bit for
  each value, which can name no place twice and none outside. The others read zero.

What a receiver reads differs from what was meant. The sender of updates keeps the difference and adds it to
its next one (error feedback: Seide et al., "1-bit stochastic gradient descent", 2014; Karimireddy et al.,
"Error feedback fixes SignSGD and other gradient compression schemes", 2019).
"""

from __future__ import annotations  # a command that names codecs does not load Flower

import hashlib
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interplant.core.errors import InterplantError

if TYPE_CHECKING:
    from interplant.core.tensors import Tensors

NONE = "none"
"""The word for arrays that travel as they are."""

COMPRESSION, PACKED = "compression", "packed"
"""The record of words about compression in a message, and the one array of bytes in place of the model's."""

HOLDS = re.compile(r"([0-9a-f]{64})?")
"""What a plant may say that it holds: the digest of a model, or nothing."""

BLOCK = 4096
"""Values that share a scale, at most; an array never shares one with another."""

_LARGEST = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
"""The largest scale: 127 times it is still finite."""

Flat = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layout:
    """Where a model's values stand in a stream: all coded ones in one row, then the others.

    Args:
        coded: Names of the coded arrays, sorted.
        rest: Names of the others, sorted.
        like: The model's arrays.
    """

    coded: list[str]
    rest: list[str]
    like: Tensors

    @classmethod
    def of(cls, like: Tensors) -> Layout:
        """Lay out a model."""
        worth = {name for name, array in like.items() if array.dtype == np.float32 and array.size > 1}
        return cls(sorted(worth), sorted(like.keys() - worth), like)

    @property
    def values(self) -> int:
        """How many values are coded."""
        return sum(self.like[name].size for name in self.coded)

    @property
    def blocks(self) -> tuple[Flat, Flat]:
        """Where each block of `BLOCK` begins, and how many values it has."""
        starts, at = [], 0
        for name in self.coded:
            size = self.like[name].size
            starts.append(np.arange(at, at + size, BLOCK))
            at += size
        begins = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        return begins, np.diff(begins, append=at)


@dataclass(frozen=True)
class Codec:
    """How the row of coded values becomes bytes and comes back.

    Args:
        size: Bytes of the row, from its layout and the share that is kept.
        write: From values to bytes.
        read: From bytes, exactly ``size``, to values; raises `InterplantError`.
        strategy: zlib's. Values do not repeat, so nothing looks for repeats but for runs of zero bits.
    """

    size: Callable[[Layout, float], int]
    write: Callable[[Flat, Layout, float], bytes]
    read: Callable[[bytes, Layout, float], Flat]
    strategy: int = zlib.Z_HUFFMAN_ONLY


def pack(codec: str, arrays: Tensors, keep: float) -> bytes:
    """Pack arrays.

    Args:
        codec: One of `CODECS`.
        arrays: All finite.
        keep: Share of the values that ``top_k`` keeps.
    """
    layout, kind = Layout.of(arrays), CODECS[codec]
    parts = [arrays[name].reshape(-1) for name in layout.coded]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, kind.strategy)
    packed = stream.compress(kind.write(flat, layout, keep))
    packed += b"".join(stream.compress(np.ascontiguousarray(arrays[name]).data) for name in layout.rest)
    return packed + stream.flush()


def unpack(codec: str, packed: bytes, like: Tensors, keep: float) -> Tensors:
    """Read what `pack` wrote.

    Args:
        codec: One of `CODECS`.
        packed: From a stranger.
        like: The model: names, shapes and types that the arrays have.
        keep: Share of the values that ``top_k`` keeps.

    Returns:
        The arrays; all that are floating point are finite.

    Raises:
        InterplantError: It is not what `pack` writes for such a model.
    """
    layout, kind = Layout.of(like), CODECS[codec]
    size = kind.size(layout, keep)
    raw = _inflated(packed, size + sum(like[name].nbytes for name in layout.rest))
    flat, found, at = kind.read(raw[:size], layout, keep), {}, 0
    for name in layout.coded:
        found[name] = flat[at : at + like[name].size].reshape(like[name].shape)
        at += like[name].size
    at = size
    for name in layout.rest:
        array = np.frombuffer(raw, like[name].dtype, like[name].size, at).reshape(like[name].shape)
        found[name] = array.copy()
        at += array.nbytes
    for name, array in found.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise InterplantError(f"packed arrays: {name}: expected finite values and scales, found others")
    return found


def largest(codec: str, like: Tensors, keep: float) -> int:
    """Bytes that `pack` never passes for such a model."""
    layout = Layout.of(like)
    size = CODECS[codec].size(layout, keep) + sum(like[name].nbytes for name in layout.rest)
    return size + size // 8 + 64


def difference(new: Tensors, old: Tensors) -> Tensors:
    """What `moved` has to add to ``old`` to come to ``new``: arrays that are not coded stand as they are."""
    coded = set(Layout.of(old).coded)
    return {name: array - old[name] if name in coded else array for name, array in new.items()}


def moved(old: Tensors, step: Tensors) -> Tensors:
    """Add a difference to a model; see `difference`."""
    coded = set(Layout.of(old).coded)
    return {name: old[name] + array if name in coded else array for name, array in step.items()}


def digest_of(arrays: Tensors) -> str:
    """SHA-256 over names, types, shapes and values, lower-case hex: the same model, the same digest."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\n{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _inflated(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        raw = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise InterplantError(f"packed arrays: expected a deflate stream, found another: {error}") from None
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise InterplantError(f"packed arrays: expected {size} bytes when inflated, found fewer or more")
    return raw


def _bf16_bytes(flat: Flat) -> bytes:
    """The upper bytes of all values, then the lower: signs and exponents are alike, and deflate well."""
    bits = flat.view(np.uint32)
    upper = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    upper -= (upper & 0x7FFF) == 0x7F80  # finite values stay so
    return (upper >> 8).astype(np.uint8).tobytes() + upper.astype(np.uint8).tobytes()


def _bf16_values(raw: bytes) -> Flat:
    high, low = np.frombuffer(raw, np.uint8).reshape(2, -1).astype(np.uint32)
    return (high << 24 | low << 16).view(np.float32)


def _int8_size(layout: Layout, _: float) -> int:
    return 4 * len(layout.blocks[0]) + layout.values


def _int8_bytes(flat: Flat, layout: Layout, _: float) -> bytes:
    begins, lengths = layout.blocks
    if not len(begins):
        return b""
    scales: Flat = np.minimum(np.maximum.reduceat(np.abs(flat), begins) / np.float32(127), _LARGEST)
    divisors = np.repeat(np.where(scales > 0, scales, np.float32(1)), lengths)
    codes: Flat = np.clip(np.rint(flat / divisors), -127, 127).astype(np.int8)
    return scales.tobytes() + codes.tobytes()


def _int8_values(raw: bytes, layout: Layout, _: float) -> Flat:
    begins, lengths = layout.blocks
    scales = np.frombuffer(raw, np.float32, len(begins))
    codes = np.frombuffer(raw, np.int8, layout.values, scales.nbytes)
    with np.errstate(over="ignore", invalid="ignore"):  # `unpack` looks at what comes out
        return codes * np.repeat(scales, lengths)


def _kept(values: int, keep: float) -> int:
    return min(values, math.ceil(keep * values))


def _top_k_size(layout: Layout, keep: float) -> int:
    return -(-layout.values // 8) + 2 * _kept(layout.values, keep)


def _top_k_bytes(flat: Flat, _: Layout, keep: float) -> bytes:
    kept = _kept(flat.size, keep)
    if not kept:
        return b""
    size = np.abs(flat)
    edge = np.partition(size, flat.size - kept)[flat.size - kept]
    chosen = size > edge
    chosen[np.flatnonzero(size == edge)[: kept - np.count_nonzero(chosen)]] = True
    return np.packbits(chosen).tobytes() + _bf16_bytes(flat[chosen])


def _top_k_values(raw: bytes, layout: Layout, keep: float) -> Flat:
    values, kept = layout.values, _kept(layout.values, keep)
    bits = -(-values // 8)
    chosen = np.unpackbits(np.frombuffer(raw, np.uint8, bits), count=values).view(np.bool_)
    if np.count_nonzero(chosen) != kept:
        raise InterplantError(f"packed arrays: expected {kept} places of {values}, found fewer or more")
    flat = np.zeros(values, np.float32)
    flat[chosen] = _bf16_values(raw[bits:])
    return flat


CODECS = {
    "bf16": Codec(
        lambda layout, _: 2 * layout.values,
        lambda flat, *_: _bf16_bytes(flat),
        lambda raw, *_: _bf16_values(raw),
    ),
    "int8": Codec(_int8_size, _int8_bytes, _int8_values),
    "top_k": Codec(_top_k_size, _top_k_bytes, _top_k_values, zlib.Z_RLE),
}
"""The codecs by the words that configurations and messages use for them."""
