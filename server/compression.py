"""What leaves the coordinator in fewer bytes: each round's model as a difference from the last one.

Beside the global model the coordinator keeps the model that plants hold. A round packs the difference
between the two, once, and adds what a plant will read of it to the model that plants hold: that is what every
plant trains from, whether it gets the difference or the whole. So what packing leaves out of one difference
is in the next (error feedback), and the global model itself, which updates are added to, is never rounded.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from interplant.core.compression import NONE, PACKED, difference, digest_of, moved, pack, unpack
from interplant.core.flower import arrays
from interplant.core.schema import Compression
from interplant.core.tensors import Tensors
from interplant.server.run_folder import Checkpoint


@dataclass(frozen=True)
class Broadcast:
    """A round's model on its way to the plants.

    Args:
        offer: What the coordinator offers.
        weights: What every plant trains from.
        packed: Its difference from the model whose digest is ``base``; empty if there is none.
        base: The digest of the model that plants hold before.
        digest: The digest of ``weights``; empty where no difference will be sent.
    """

    offer: Compression
    weights: Tensors
    packed: bytes = b""
    base: str = ""
    digest: str = ""
    _records: dict[bool, ArrayRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, offer: Compression, state: Checkpoint) -> "Broadcast":
        """Make the round's after ``state``; the same from the same state.

        Raises:
            InterplantError: The model has moved too far for single precision.
        """
        if offer.model == NONE:
            return cls(offer, state.weights)
        if not state.held:
            return cls(offer, state.weights, digest=digest_of(state.weights))
        packed = pack(offer.model, difference(state.weights, state.held), offer.keep)
        weights = moved(state.held, unpack(offer.model, packed, state.held, offer.keep))
        return cls(offer, weights, packed, digest_of(state.held), digest_of(weights))

    def to(self, holds: str) -> tuple[ArrayRecord, dict[str, Any]]:
        """The arrays for a plant, and the words beside them.

        Args:
            holds: Digest of the model that the plant says it holds. Who holds this round's already is sent
                the difference too, and leaves it unread.

        Returns:
            Arrays that all plants of a kind share, and words that are empty if nothing is offered.
        """
        light = bool(self.packed) and holds in (self.base, self.digest)
        if light not in self._records:
            packed = {PACKED: np.frombuffer(self.packed, np.uint8)}
            self._records[light] = arrays(packed if light else self.weights)
        if not self.offer.offered:
            return self._records[light], {}
        codec, base = (self.offer.model, self.base) if light else (NONE, "")
        words = asdict(self.offer) | {"codec": codec, "base": base, "digest": self.digest}
        return self._records[light], words
