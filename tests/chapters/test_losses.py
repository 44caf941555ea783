"""Tests of the tables of losses."""

from __future__ import annotations

from s2f_lib.chapters import losses
from s2f_lib.config import EvaluationConfig
from s2f_lib.evaluation.tables import rank_table, recall_table
from tests.chapters.predictions import predictions_of

CONFIG = EvaluationConfig(n_bootstrap=50, recall_at=(1, 5))


def test_loss_audit_finds_impossible_distances():
    # design section 4: only the L1 loss's L2 distance is possible
    assert list(losses.loss_audit()["can be"]) == [True, False, False, False]


def test_recall_of_losses_has_one_row_per_loss():
    predictions = {"l1": predictions_of(10, noise=0.1), "contrastive": predictions_of(10, noise=5.0)}
    recall = recall_table(rank_table(predictions), CONFIG)
    table = losses.recall_of_losses(recall, measure="cosine", k=5)
    assert list(table["label"]) == ["L1 loss", "contrastive loss"]
    assert table["chance"].tolist() == [0.5, 0.5]
