"""Similarities, ranks, recall and chance, also in large galleries."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import (
    SIMILARITIES,
    chance_recall,
    expected_hits,
    hit_probability,
    nearest,
    pair_distances,
    ranks_in_gallery,
    ranks_with_ties,
    reciprocal_rank,
    similarity_matrix,
    true_ranks,
    unit,
)
from s2f_lib.evaluation.statistics import chance_reciprocal_rank


def test_true_ranks_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    np.testing.assert_array_equal(true_ranks(similarity), [1, 3, 1])
    np.testing.assert_array_equal(true_ranks(similarity, np.array([2, 2, 0])), [2, 2, 3])


@pytest.mark.parametrize("k", [1, 10, 50, 51, 100])
def test_constant_similarity_is_at_chance(k):
    ranked = ranks_with_ties(np.zeros((100, 100)))
    np.testing.assert_array_equal(ranked.ranks, 50.5)
    np.testing.assert_array_equal(ranked.ties, 99)
    assert hit_probability(ranked.ranks, k, ranked.ties).mean() == pytest.approx(chance_recall(k, 100))
    expected = chance_reciprocal_rank(100)
    np.testing.assert_allclose(reciprocal_rank(ranked.ranks, ranked.ties), expected)


def test_reciprocal_rank_shares_ranks_of_ties():
    # rank 1; tied ranks 2 and 3; rank 4 without ties
    values = reciprocal_rank(np.array([1.0, 2.5, 4.0]), np.array([0, 1, 0]))
    np.testing.assert_allclose(values, [1.0, (1 / 2 + 1 / 3) / 2, 1 / 4])


@pytest.mark.parametrize("measure", ["cosine", "l1", "l2"])
def test_similarity_matrix_ranks_same_face_first(measure):
    faces = np.random.default_rng(0).normal(size=(40, 16))
    assert (true_ranks(similarity_matrix(3 * faces, faces, measure)) == 1).all()


def test_similarity_matrix_by_hand():
    queries, gallery = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "cosine"), [[0.6, 0.8]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "l1"), [[-1.2, -0.8]])
    np.testing.assert_allclose(similarity_matrix(queries, gallery, "l2"), [[-np.sqrt(0.8), -np.sqrt(0.4)]])


def test_true_ranks_of_random_features_are_at_chance():
    rng = np.random.default_rng(1)
    ranks = true_ranks(similarity_matrix(rng.normal(size=(2000, 8)), rng.normal(size=(2000, 8)), "cosine"))
    for k in (20, 200, 1000):
        expected = chance_recall(k, 2000)
        spread = np.sqrt(expected * (1 - expected) / 2000)
        assert abs(np.mean(ranks <= k) - expected) < 4 * spread


def test_nearest_returns_best_first():
    np.testing.assert_array_equal(nearest(np.array([[0.1, 0.9, 0.5]]), 2), [[1, 2]])


def test_chance_recall_by_hand():
    assert chance_recall(10, 400) == 0.025
    assert chance_recall(50, 20) == 1.0


def test_similarity_and_ranks_refuse_bad_input():
    with pytest.raises(InputError, match="2 queries and 3 gallery faces"):
        true_ranks(np.zeros((2, 3)))
    with pytest.raises(InputError, match="unknown similarity 'dot'"):
        similarity_matrix(np.ones((1, 2)), np.ones((1, 2)), "dot")


def test_expected_hits_share_ranks_of_ties():
    similarity = np.array([[3.0, 2, 1, 0], [9, 5, 5, 5], [0, 0, 0, 0], [1, 2, 3, 0]])
    # rank 1; tied ranks 2 to 4, of which k=2 holds one; all four tied; last
    np.testing.assert_allclose(expected_hits(similarity, 2), [1, 1 / 3, 1 / 2, 0])
    np.testing.assert_allclose(expected_hits(np.zeros((8, 8)), 2), np.full(8, 2 / 8))


# distances


def test_pair_distances_by_hand():
    result = pair_distances(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 4.0], [0.0, -1.0]]))
    np.testing.assert_allclose(result["l1"], [0.4 + 0.8, 2.0])
    np.testing.assert_allclose(result["l2"], [np.sqrt(0.16 + 0.64), 2.0])
    np.testing.assert_allclose(result["cosine"], [0.6, -1.0])


def test_pair_distances_l2_follows_from_cosine():
    rng = np.random.default_rng(0)
    result = pair_distances(rng.normal(size=(50, 7)), rng.normal(size=(50, 7)))
    np.testing.assert_allclose(result["l2"] ** 2, 2 - 2 * result["cosine"])
    assert (result["l1"] >= result["l2"]).all()
    assert (result["l1"] <= np.sqrt(7) * result["l2"] + 1e-12).all()


def test_pair_distances_refuse_bad_rows_and_shapes():
    with pytest.raises(InputError, match=r"1 of 2 feature vectors are zero .*first: row 1"):
        unit(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InputError, match="not finite"):
        unit(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match=r"found \(2, 3\) and \(2, 4\)"):
        pair_distances(np.ones((2, 3)), np.ones((2, 4)))


# large galleries


@pytest.mark.parametrize("chunks", [(7, 5), (1000, 1000), (1, 1)])
def test_ranks_in_gallery_chunks_equal_whole_matrix(chunks):
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(60, 16)).astype(np.float32)
    gallery[40:50] = gallery[:10]  # ties
    target = np.concatenate([rng.integers(0, 60, size=17), [0, 3, 9, 40, 44, 49]])
    queries = gallery[target] + rng.normal(size=(23, 16)).astype(np.float32)
    sizes = {"gallery_chunk": chunks[0], "query_chunk": chunks[1]}
    found = ranks_in_gallery(queries, gallery, target, measures=SIMILARITIES, device="cpu", **sizes)
    for measure in SIMILARITIES:
        expected = ranks_with_ties(similarity_matrix(queries, gallery, measure).round(12), target)
        assert expected.ties[-6:].tolist() == [1] * 6
        np.testing.assert_array_equal(found[measure].ranks, expected.ranks)
        np.testing.assert_array_equal(found[measure].ties, expected.ties)


def test_ranks_in_gallery_duplicates_are_ties():
    gallery = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = ranks_in_gallery(gallery[:1], gallery, [0], measures=SIMILARITIES)
    assert [(p.ranks.tolist(), p.ties.tolist()) for p in found.values()] == [([1.5], [1])] * 3


def test_ranks_in_gallery_memory_is_bounded():
    """Only numpy's and Python's memory is counted; no matrix of all with all is made."""
    features = np.random.default_rng(0).normal(size=(1_000, 8)).astype(np.float32)
    tracemalloc.start()
    ranks_in_gallery(
        features, features, measures=SIMILARITIES, gallery_chunk=50, query_chunk=50, device="cpu"
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000 * 1_000  # bytes; the whole similarity matrix has eight times as many


def test_ranks_in_gallery_reads_mapped_file(tmp_path):
    rng = np.random.default_rng(1)
    stored = np.lib.format.open_memmap(tmp_path / "gallery.npy", "w+", np.float16, (500, 8))
    stored[:] = rng.normal(size=(500, 8))
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = np.asarray(gallery[::50], np.float32)
    found = ranks_in_gallery(queries, gallery, np.arange(0, 500, 50), gallery_chunk=64)
    np.testing.assert_array_equal(found["cosine"].ranks, 1.0)


def test_ranks_in_gallery_refuses_bad_input():
    with pytest.raises(InputError, match="2 queries and 5 gallery faces"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((5, 3)))
    with pytest.raises(InputError, match="unknown similarities"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((2, 3)), measures=["dot"])
    with pytest.raises(InputError, match="no direction"):
        ranks_in_gallery(np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(InputError, match=r"targets lie in \[0, 9\], the gallery has 5 rows"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((5, 3)), [0, 9])
    with pytest.raises(InputError, match="2 queries and 1 targets"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((5, 3)), [0])
