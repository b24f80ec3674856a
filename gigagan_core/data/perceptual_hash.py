"""A perceptual hash: equal for pictures that differ by re-encoding or a little scaling."""

from __future__ import annotations

import numpy as np


def difference_hash(encoded: bytes) -> str | None:
    """dHash of an encoded image: 16 hex digits, or None where it cannot be decoded.

    Bit i, j says whether pixel (i, j + 1) of the grey picture shrunk to 8 x 9 is brighter than pixel (i, j)
    (Krawetz 2013, "Kind of like that"). Flat parts count as equal, so a white border gives zeros.
    """
    import cv2

    grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        return None
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()
