"""Tests of the tables of losses."""

from __future__ import annotations

import numpy as np

from s2f_lib.chapters import losses
from s2f_lib.config import EvaluationConfig
from s2f_lib.evaluation.tables import Predictions, rank_table, recall_table

CONFIG = EvaluationConfig(n_bootstrap=50, recall_at=(1, 5))


def predictions_of(n: int, *, noise: float, seed: int = 0) -> Predictions:
    """Return features of `n` people, and the same features plus noise as the predictions."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 16))
    ids = tuple(f"clip{i}" for i in range(n))
    return Predictions(ids, true, true + noise * rng.normal(size=true.shape))


def test_loss_audit_finds_impossible_distances():
    # design section 4: only the L1 loss's L2 distance is possible
    assert list(losses.loss_audit()["can be"]) == [True, False, False, False]


def test_recall_of_losses_has_one_row_per_loss():
    predictions = {"l1": predictions_of(10, noise=0.1), "contrastive": predictions_of(10, noise=5.0)}
    recall = recall_table(rank_table(predictions), CONFIG)
    table = losses.recall_of_losses(recall, measure="cosine", k=5)
    assert list(table["label"]) == ["L1 loss", "contrastive loss"]
    assert table["chance"].tolist() == [0.5, 0.5]
