"""Similarity of predicted and true features, and retrieval of the true face (report, "Recall@K")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from s2f_lib.config import SimilarityName
from s2f_lib.errors import InputError
from s2f_lib.faces.extractor import unit_rows

if TYPE_CHECKING:
    import torch

SIMILARITIES: tuple[SimilarityName, ...] = ("l1", "l2", "cosine")
#: Similarities that differ by less are ties (for L1, times the root of the dimension): float64 sums of
#: 4,096 terms differ by less from one chunk to another.
TIE = 1e-12


def feature_array(values: ArrayLike, name: str = "features") -> np.ndarray:
    """Return features as a checked array of floating-point numbers; an error names the argument.

    Parameters
    ----------
    values
        `(n, dimension)` numbers: NumPy array, torch tensor (on any device, also with gradients), pandas
        DataFrame or nested lists.
    name
        Name of the argument, for errors.

    Returns
    -------
    numpy.ndarray
        `(n, dimension)` float16, float32 or float64; copied only if necessary.

    Raises
    ------
    InputError
        The shape or the type is wrong, or a row is zero or not finite.

    Examples
    --------
    >>> feature_array([[1, 2], [3, 4]])
    array([[1., 2.],
           [3., 4.]])
    """
    array = _number_array(values, name)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", array, array, dtype=np.float64)
    bad = ~np.isfinite(squares) | (squares == 0)
    if bad.any():
        raise InputError(
            f"{name}: {int(bad.sum())} of {len(array)} feature vectors are zero or not finite "
            f"(first: row {int(np.flatnonzero(bad)[0])}): they have no direction to compare"
        )
    return array


def feature_pair(true: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return true and predicted features as checked arrays of one shape; see `feature_array`."""
    if isinstance(true, pd.DataFrame) and isinstance(predicted, pd.DataFrame):
        check_same_index(true=true, predicted=predicted)
        if set(true.columns) == set(predicted.columns) and not true.columns.equals(predicted.columns):
            raise InputError(
                "true and predicted: the order of the columns differs: use predicted[true.columns]"
            )
    true, predicted = feature_array(true, "true"), feature_array(predicted, "predicted")
    if true.shape != predicted.shape:
        raise InputError(f"true and predicted: expected one shape, found {true.shape} and {predicted.shape}")
    return true, predicted


def check_same_index(**tables: object) -> None:
    """Refuse pandas objects with different indexes: their rows may not belong together."""
    indexed = {
        name: each.index for name, each in tables.items() if isinstance(each, pd.DataFrame | pd.Series)
    }
    for name in list(indexed)[1:]:
        first = next(iter(indexed))
        if not indexed[name].equals(indexed[first]):
            raise InputError(
                f"{first} and {name}: the indexes differ, so rows may not belong together: use "
                f"{name}.loc[{first}.index], or {name}.to_numpy() if the rows have the same order"
            )


def unit(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Return `(n, dimension)` features scaled to length one, in float64; refuse zero and infinite rows."""
    return unit_rows(np.asarray(feature_array(features, name), dtype=np.float64))


def pair_distances(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the L1 and L2 distance and the cosine similarity of each pair of unit vectors.

    Parameters
    ----------
    true, predicted
        `(n, dimension)` features; row i of one belongs to row i of the other.

    Returns
    -------
    dict of numpy.ndarray
        "l1" in [0, 2 sqrt(dimension)], "l2" in [0, 2], "cosine" in [-1, 1]; `(n,)` each.

    Examples
    --------
    >>> distances = pair_distances(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    >>> {name: round(float(values[0]), 3) for name, values in distances.items()}
    {'l1': 2.0, 'l2': 1.414, 'cosine': 0.0}
    """
    true, predicted = (unit(features) for features in feature_pair(true, predicted))
    difference = true - predicted
    return {
        "l1": np.abs(difference).sum(axis=1),
        "l2": np.linalg.norm(difference, axis=1),
        "cosine": np.clip((true * predicted).sum(axis=1), -1.0, 1.0),
    }


def similarity_matrix(queries: np.ndarray, gallery: np.ndarray, measure: SimilarityName) -> np.ndarray:
    """Return the similarity of each query to each gallery face; larger means more similar.

    Parameters
    ----------
    queries
        `(n, dimension)` features, predicted from voices.
    gallery
        `(m, dimension)` features of true faces.
    measure
        "cosine", or "l1" or "l2" for the negative distance; all on unit vectors.

    Returns
    -------
    numpy.ndarray
        `(n, m)` float64.

    See Also
    --------
    ranks_in_gallery : Ranks in a gallery that does not fit into memory.

    Examples
    --------
    >>> similarity_matrix(np.array([[2.0, 0.0]]), np.eye(2), "cosine")
    array([[1., 0.]])
    """
    queries, gallery = unit(queries, "queries"), unit(gallery, "gallery")
    _check_dimensions(queries, gallery)
    if measure == "cosine":
        return queries @ gallery.T
    if measure == "l2":
        return -np.sqrt(np.maximum(0.0, 2.0 - 2.0 * (queries @ gallery.T)))
    if measure == "l1":
        return -cdist(queries, gallery, "cityblock")  # makes no array of (n, m, dimension)
    raise InputError(f"unknown similarity {measure!r}: expected cosine, l1 or l2")


@dataclass(frozen=True)
class Ranks:
    """Rank of each query's true face in a gallery, with its ties."""

    better: np.ndarray  # (n,) int, number of faces that are more similar to the query than its true face
    ties: np.ndarray  # (n,) int, number of other faces that are equally similar

    @property
    def ranks(self) -> np.ndarray:
        """`(n,)` float64, 1 is first; tied faces share their mean rank."""
        return 1.0 + self.better + self.ties / 2


def ranks_with_ties(similarity: np.ndarray, target: np.ndarray | None = None) -> Ranks:
    """Return the rank of each query's true face, with its ties; arguments as `true_ranks`."""
    n, m = similarity.shape
    target = _targets(target, n, m)
    own = similarity[np.arange(n), target][:, None]
    better = (similarity > own).sum(axis=1)
    return Ranks(better, (similarity == own).sum(axis=1) - 1)  # the true face equals itself


def true_ranks(similarity: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """Return the rank of each query's true face; tied faces share their mean rank.

    Parameters
    ----------
    similarity
        `(n, m)`, larger means more similar.
    target
        `(n,)` int, the column of each query's true face. None: column i for row i.

    Returns
    -------
    numpy.ndarray
        `(n,)` float64 in [1, m]; 1 is first.

    Examples
    --------
    >>> true_ranks(np.array([[0.9, 0.1], [0.5, 0.5]]))
    array([1. , 1.5])
    """
    return ranks_with_ties(similarity, target).ranks


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
    """Return the rank of each query's true face for each measure, computed in chunks.

    The memory is at most `16 dimension (gallery_chunk + query_chunk) + 40 gallery_chunk query_chunk`
    bytes for any number of faces (0.5 GB for the defaults and 4,096 dimensions), plus the arrays
    themselves and 50 bytes per query.

    Parameters
    ----------
    queries
        `(n, dimension)` features.
    gallery
        `(m, dimension)` float16, float32 or float64; a `numpy.memmap` is read chunk by chunk.
    target
        `(n,)` int, the gallery row of each query's true face. None: row i for query i.
    measures
        Names of similarities, as in `similarity_matrix`; sums are in float64.
    gallery_chunk, query_chunk
        Numbers of rows that are compared at once.
    device
        Torch device; "auto" is a GPU if there is one.

    Raises
    ------
    InputError
        A measure is unknown, targets do not fit, or a row is zero or not finite.

    Examples
    --------
    >>> ranks_in_gallery(np.eye(3), np.eye(3))["cosine"].ranks
    array([1., 1., 1.])
    """
    import torch

    queries, gallery = _number_array(queries, "queries"), _number_array(gallery, "gallery")
    _check_dimensions(queries, gallery)
    target = _targets(target, len(queries), len(gallery))
    if set(measures) - set(SIMILARITIES):
        raise InputError(f"unknown similarities in {tuple(measures)}: expected cosine, l1 or l2")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # L2 distances of unit vectors have the order of cosines, so one product serves both
    kinds = {"l1" if measure == "l1" else "cosine" for measure in measures}
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
                margin = voices @ faces.T if kind == "cosine" else -torch.cdist(voices, faces, p=1.0)
                margin -= own[kind][rows, None]  # (q, c)
                better[kind][rows] += (margin > tie[kind]).sum(dim=1)
                equal[kind][rows] += (margin.abs_() <= tie[kind]).sum(dim=1)
    found = {  # the true face is one of the equal ones
        kind: Ranks(better[kind].cpu().numpy(), (equal[kind] - 1).clamp_(min=0).cpu().numpy())
        for kind in kinds
    }
    return {measure: found["l1" if measure == "l1" else "cosine"] for measure in measures}


def hit_probability(ranks: np.ndarray, k: int | np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """Return the probability that each query's true face is among the first k, with ties broken at random.

    Without ties this is 0 or 1. If a query finds all faces equally similar, it is k divided by the
    gallery's size, as for guessing.

    Parameters
    ----------
    ranks
        Ranks from 1, of any shape; tied faces share their mean rank.
    k
        Number of retrieved faces.
    ties
        Number of other faces that are equally similar, in the shape of `ranks`. None: no ties.

    Examples
    --------
    >>> hit_probability(np.array([1.0, 2.5, 7.0]), 2, ties=np.array([0, 1, 0]))
    array([1. , 0.5, 0. ])
    """
    ties = np.zeros(()) if ties is None else np.asarray(ties)
    better = np.asarray(ranks) - 1 - ties / 2
    return np.clip((k - better) / (ties + 1.0), 0.0, 1.0)


def reciprocal_rank(ranks: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the expected reciprocal rank of each query; arguments as `hit_probability`."""
    ranks, ties = np.asarray(ranks, dtype=np.float64), np.asarray(ties)
    value = 1.0 / ranks
    tied = ties > 0
    if tied.any():
        first, last = ranks[tied] - ties[tied] / 2, ranks[tied] + ties[tied] / 2
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int(last.max()) + 1))])
        value[tied] = (harmonic[last.astype(int)] - harmonic[first.astype(int) - 1]) / (ties[tied] + 1)
    return value


def expected_hits(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return `hit_probability`, `(n,)`, for an `(n, n)` similarity whose true face of row i is column i."""
    ranked = ranks_with_ties(similarity)
    return hit_probability(ranked.ranks, k, ranked.ties)


def chance_recall(k: int, gallery_size: int) -> float:
    """Return the recall at k of guessing: k divided by the gallery's size, at most 1."""
    return min(1.0, k / gallery_size)


def nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k most similar gallery faces, best first: `(n, k)` int."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _number_array(values: Any, name: str) -> np.ndarray:
    """Return `(n, dimension)` numbers as an array of floating-point numbers."""
    if isinstance(values, pd.DataFrame):
        for column, dtype in values.dtypes.items():
            if not pd.api.types.is_numeric_dtype(dtype):
                raise InputError(
                    f"{name}: column {column!r} is of type {dtype}, expected numbers: leave out the columns "
                    "that are not features"
                )
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)
    elif hasattr(values, "detach"):  # a torch tensor
        values = values.detach().cpu()
        values = values.float() if values.element_size() == 2 else values  # NumPy has no bfloat16
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # such as rows of different length
        raise InputError(
            f"{name}: not an array ({error}), expected numbers of shape (n, dimension)"
        ) from None
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise InputError(
            f"{name}: found shape {array.shape} of type {array.dtype}, expected numbers of shape "
            "(n, dimension), one row per clip"
        )
    return array if array.dtype in (np.float16, np.float32, np.float64) else array.astype(np.float64)


def _check_dimensions(queries: np.ndarray, gallery: np.ndarray) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} features and gallery faces {gallery.shape[1]}: "
            "expected equal numbers"
        )


def _targets(target: np.ndarray | None, n: int, m: int) -> np.ndarray:
    """Return the checked gallery index of each query's true face."""
    if target is None:
        if n != m:
            raise InputError(
                f"{n} queries and {m} gallery faces: give the true face of each query as `target`"
            )
        return np.arange(n)
    target = np.asarray(target)
    if len(target) != n:
        raise InputError(f"{n} queries and {len(target)} targets: expected one each")
    if n and not (target.min() >= 0 and target.max() < m):
        raise InputError(f"targets lie in [{target.min()}, {target.max()}], the gallery has {m} rows")
    return target


def _to_unit(rows: np.ndarray, device: str | torch.device) -> torch.Tensor:
    import torch

    # a copy, because torch does not support read-only arrays such as memory-mapped files
    tensor = torch.from_numpy(np.array(rows)).to(device, torch.float64)
    length = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    if not bool((torch.isfinite(length) & (length > 0)).all()):
        raise InputError("a feature vector is zero or not finite: it has no direction to compare")
    return tensor.div_(length)
