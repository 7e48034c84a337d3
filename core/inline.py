"""Small blobs travel within their messages. Nothing here loads Flower: commands use it too."""

import hashlib

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError

INLINE = 256 << 10
"""Bytes of a blob that travels within its message; a larger one goes in pieces, and uploads take turns."""


def blob_of(body: bytes) -> pb.Blob:
    """Name a blob by its digest and size in bytes."""
    return pb.Blob(sha256=hashlib.sha256(body).hexdigest(), size=len(body))


def check_inline(parcel: pb.Parcel) -> None:
    """Raise `InterplantError` unless the blob within a message is the one that it names, and small."""
    if len(parcel.inline) > INLINE or blob_of(parcel.inline) != parcel.body:
        raise InterplantError(
            f"expected the {parcel.body.size} bytes that it names, at most {INLINE}, within a message, found "
            f"{len(parcel.inline)} or others"
        )
