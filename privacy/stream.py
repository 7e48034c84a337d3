"""Chance from a cryptographic stream: uniform and Gaussian numbers in double precision.

AES-256 in counter mode (NIST SP 800-38A), keyed by the operating system's entropy, makes the bits; Box and
Muller, "A note on the generation of random normal deviates" (1958), makes them Gaussian. A generator such
as torch's keeps 32 bits of its seed on the CPU, few enough to try; one such as Philox or the Mersenne
Twister was not made to withstand somebody who sees its output.
"""

import hashlib
import math
import os
import secrets
import threading
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_UNIT = 2.0**-53
_PIECE = 1 << 16
"""Gaussians made at a time: the arrays of a piece stay in the processor's cache."""


class Stream:
    """An endless stream of numbers that nobody can foresee, nor find out from those that were seen.

    A process that is forked takes a new key, so that parent and child never draw the same numbers.

    Args:
        secret: Any bytes, for tests and for ``dp-sgd-test`` only: the same stream every time. Left out,
            the key is 256 bits of the operating system's entropy.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._key(secrets.token_bytes(48) if secret is None else hashlib.sha512(secret).digest()[:48])

    def part(self, name: str) -> "Stream":
        """Return another stream, so that two threads need not share one."""
        return Stream(None if self._secret is None else self._secret + name.encode())

    def bits(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform 64-bit numbers."""
        found = bytearray(8 * count + 15)
        with self._lock:
            if self._secret is None and os.getpid() != self._process:
                self._process = os.getpid()
                self._key(secrets.token_bytes(48))
            self._cipher.update_into(bytes(8 * count), found)
        return np.frombuffer(found, np.uint64, count)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` multiples of 2**-53, uniform in [0, 1)."""
        return (self.bits(count) >> np.uint64(11)).astype(np.float64) * _UNIT

    def gaussian(self, count: int) -> "Tensor":
        """Return ``count`` standard normal numbers, float64; none is beyond 8.6."""
        import torch

        found = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, _PIECE):
            self._box_muller(found[start : start + _PIECE])
        return found

    def _box_muller(self, out: "Tensor") -> None:
        import torch

        half = (len(out) + 1) // 2
        chance = torch.from_numpy(self.uniform(2 * half))
        # 1 - u lies in (0, 1], so that its logarithm is finite.
        radius = chance[:half].neg_().log1p_().mul_(-2.0).sqrt_()
        angle = chance[half:].mul_(2.0 * math.pi)
        torch.mul(radius, angle.cos(), out=out[:half])
        torch.mul(radius[: len(out) - half], angle.sin()[: len(out) - half], out=out[half:])

    def _key(self, material: bytes) -> None:
        mode = modes.CTR(material[32:])
        self._cipher = Cipher(algorithms.AES(material[:32]), mode).encryptor()
