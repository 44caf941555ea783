"""How well Speech2Face's own drawings keep a face: the anchor for any decoder.

Their `Face_f2f` images are drawn from the true face's features, no voice in between; how often
dlib's descriptors find the true face from them says what a good decoder reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.config import EvaluationConfig
from s2f_lib.evaluation.retrieval import chance_recall, similarity_matrix, true_ranks
from s2f_lib.pairs.faces import extract_faces
from s2f_lib.pairs.statistics import RankBootstrap, SplitRanks
from s2f_lib.pairs.systems import PairData

RECALL_AT = (1, 10)
_SYSTEM = "face_from_face"


def face_from_face(
    data: PairData, config: EvaluationConfig, *, cache: Path | None
) -> dict[str, dict[str, Any]]:
    """Return, for each set, recall of the true face from the authors' drawing of it.

    Parameters
    ----------
    data
        Pairs; those without a drawing are not asked for, but their faces are in the gallery.
    config
        Of the intervals, which resample videos and persons.
    cache
        Folder of descriptions, as `extract_faces`.

    Returns
    -------
    dict
        Set to recall@1 and recall@10 in [0, 1], each with its interval and chance, "n" queries and
        "gallery" faces.  Without a set of which two or more videos or persons have drawings.
    """
    sets = np.array([pair.set_name for pair in data.pairs])
    has_reconstruction = np.array([pair.face_from_face is not None for pair in data.pairs])
    return {
        name: _evaluate_set(data, np.flatnonzero(sets == name), has_reconstruction, config, cache=cache)
        for name in dict.fromkeys(sets.tolist())
        if len(set(data.group_ids[(sets == name) & has_reconstruction])) > 1
    }


def _evaluate_set(
    data: PairData,
    rows: np.ndarray,
    has_reconstruction: np.ndarray,
    config: EvaluationConfig,
    *,
    cache: Path | None,
) -> dict[str, Any]:
    query_rows = rows[has_reconstruction[rows]]
    files: Sequence[Path] = [data.pairs[row].face_from_face for row in query_rows]
    queries = extract_faces(files, mirrored=False, cache=cache).upright
    similarity = similarity_matrix(queries, data.faces.upright[rows], "cosine")
    ranks = true_ranks(similarity, np.searchsorted(rows, query_rows))
    split = SplitRanks(data.group_ids[query_rows], len(rows), {_SYSTEM: ranks})
    bootstrap = RankBootstrap([split], config.interval)
    found = dict(zip(RECALL_AT, bootstrap.recall(_SYSTEM, RECALL_AT), strict=True))
    return {
        **{f"recall@{k}": interval.value for k, interval in found.items()},
        "intervals": {f"recall@{k}": [interval.low, interval.high] for k, interval in found.items()},
        "chance": {f"recall@{k}": chance_recall(k, len(rows)) for k in RECALL_AT},
        "n": len(query_rows),
        "gallery": len(rows),
    }
