"""Near-duplicates: the same picture re-encoded or a little changed, which must not count twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from eyestate.images import decode, to_input
from training.data.datasets import Crop

HASH_BITS: Final = 63
MAX_DISTANCE: Final = 12  # bits in which the hashes of near-duplicates differ at most
MIN_CORRELATION: Final = 0.965  # of their grey values; JPEG at quality 50 keeps 99 in 100 above 0.98
_SIDE: Final = 32
_LOW: Final = 8  # frequencies along each axis that make the hash

Groups = npt.NDArray[np.int64]


def perceptual_hashes(crops: Sequence[Crop]) -> npt.NDArray[np.uint64]:
    """pHash of each crop (N,), ``HASH_BITS`` bits: which low frequencies of its cosine transform exceed their median.

    After Zauner 2010, "Implementation and benchmarking of perceptual image hash functions". Brightness, which is the
    frequency 0, is left out.
    """
    low = dctn(_pictures(crops), axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(crops), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes: npt.NDArray[np.uint64] = (bits.astype(np.uint64) << np.arange(HASH_BITS, dtype=np.uint64)).sum(axis=1)
    return hashes


def near_duplicates(crops: Sequence[Crop]) -> Groups:
    """The group of each crop: int64 (N,), equal where two crops are the same picture, directly or by way of others.

    Two crops count as the same picture where their hashes differ in at most ``MAX_DISTANCE`` bits and their grey values
    correlate by ``MIN_CORRELATION`` or more: on small, smooth crops hashes of different eyes can be alike.
    """
    if not crops:
        return np.empty(0, dtype=np.int64)
    hashes, pictures = perceptual_hashes(crops), _pictures(crops).reshape(len(crops), -1)
    pictures = pictures - pictures.mean(axis=1, keepdims=True)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True) + 1e-9
    first: list[npt.NDArray[np.int64]] = []
    second: list[npt.NDArray[np.int64]] = []
    for place, own in enumerate(hashes[:-1]):
        alike = place + 1 + np.flatnonzero(np.bitwise_count(hashes[place + 1 :] ^ own) <= MAX_DISTANCE)
        same = alike[pictures[alike] @ pictures[place] >= MIN_CORRELATION]
        first.append(np.full(same.size, place))
        second.append(same)
    edges = (np.concatenate([*first, np.empty(0, int)]), np.concatenate([*second, np.empty(0, int)]))
    graph = coo_matrix((np.ones(edges[0].size), edges), shape=(len(crops), len(crops)))
    groups: Groups = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _pictures(crops: Sequence[Crop]) -> npt.NDArray[np.float64]:
    """Grey values (N, ``_SIDE``, ``_SIDE``)."""
    return np.stack([to_input(decode(crop.data), _SIDE) for crop in crops]).astype(np.float64)
