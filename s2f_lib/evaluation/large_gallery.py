"""Places in a gallery that does not fit into memory, in chunks, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from s2f_lib.config import SimilarityName
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import Ranks

#: Similarities closer than this, times the root of the dimension for L1, are ties: float64 sums
#: of 4,096 terms differ by less from one chunk to another.
TIE = 1e-12


def ranks_in_gallery(
    queries: np.ndarray,
    gallery: np.ndarray,
    target: np.ndarray | None = None,
    *,
    measures: Sequence[SimilarityName] = ("cosine",),
    gallery_chunk: int = 4_096,
    query_chunk: int = 1_024,
    device: str | torch.device = "auto",
) -> dict[str, Ranks]:
    """Return where each query's true face stands, by each of some similarities, in float64.

    Memory is `16 dimension (gallery_chunk + query_chunk) + 40 gallery_chunk query_chunk` bytes at
    most, whatever the number of queries and the gallery's size: 0.5 GB at the defaults and 4,096
    dimensions, beside the arrays themselves and 50 bytes a query.

    Parameters
    ----------
    queries
        `(n, dimension)` float.
    gallery
        `(m, dimension)` float16, float32 or float64; a `numpy.memmap` is read chunk by chunk.
    target
        `(n,)` int, the row of each query's true face in the gallery; by default row i's is row i.
    measures
        "cosine", "l1", "l2", as `retrieval.similarity_matrix` has them.
    gallery_chunk, query_chunk
        Rows compared at a time.
    device
        A torch device; "auto" is a GPU where there is one.

    Returns
    -------
    dict of Ranks
        A measure each.

    Raises
    ------
    InputError
        A measure is unknown, targets are not as many or lie outside, or a row has no direction.
    """
    if target is None and len(queries) != len(gallery):
        raise InputError(
            f"{len(queries)} queries and {len(gallery)} gallery faces: say which face is whose with `target`"
        )
    target = np.arange(len(queries)) if target is None else np.asarray(target)
    if len(queries) != len(target):
        raise InputError(f"{len(queries)} queries and {len(target)} targets: expected one each")
    if len(target) and not (target.min() >= 0 and target.max() < len(gallery)):
        raise InputError(
            f"targets lie in [{target.min()}, {target.max()}], the gallery has {len(gallery)} rows"
        )
    if set(measures) - {"cosine", "l1", "l2"}:
        raise InputError(f"unknown similarities in {tuple(measures)}: expected cosine, l1 or l2")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # L2 distances of unit vectors order as cosines do: one product serves both
    kinds = {"l1" if measure == "l1" else "cosine" for measure in measures}
    # (kinds, n): faces that are more alike, and equally
    better = {kind: torch.zeros(len(queries), dtype=torch.int64, device=device) for kind in kinds}
    equal = {kind: torch.zeros_like(counts) for kind, counts in better.items()}
    chunks = [slice(start, start + query_chunk) for start in range(0, len(queries), query_chunk)]
    own = {kind: torch.empty(len(queries), dtype=torch.float64, device=device) for kind in kinds}
    for rows in chunks:
        voices, faces = _to_unit(queries[rows], device), _to_unit(gallery[target[rows]], device)
        for kind in kinds:
            pairwise = (voices * faces).sum(dim=1) if kind == "cosine" else -(voices - faces).abs().sum(dim=1)
            own[kind][rows] = pairwise
    tie = {"cosine": TIE, "l1": TIE * np.sqrt(np.shape(gallery)[1])}
    for first in range(0, len(gallery), gallery_chunk):
        faces = _to_unit(gallery[first : first + gallery_chunk], device)  # (c, d)
        for rows in chunks:
            voices = _to_unit(queries[rows], device)  # (q, d)
            for kind in kinds:
                margin = (
                    voices @ faces.T if kind == "cosine" else -torch.cdist(voices, faces, p=1.0)
                )  # (q, c)
                margin -= own[kind][rows, None]
                better[kind][rows] += (margin > tie[kind]).sum(dim=1)
                equal[kind][rows] += (margin.abs_() <= tie[kind]).sum(dim=1)
    found = {
        # the true face is among the equal ones
        kind: Ranks(better[kind].cpu().numpy(), (equal[kind] - 1).clamp_(min=0).cpu().numpy())
        for kind in kinds
    }
    return {measure: found["l1" if measure == "l1" else "cosine"] for measure in measures}


def _to_unit(rows: np.ndarray, device: str | torch.device) -> Tensor:
    # a copy: rows of a memory-mapped file cannot be written to, which torch does not know
    tensor = torch.from_numpy(np.array(rows)).to(device, torch.float64)
    length = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    if not bool((torch.isfinite(length) & (length > 0)).all()):
        raise InputError("a feature vector is zero or not finite: it has no direction to compare")
    return tensor.div_(length)
