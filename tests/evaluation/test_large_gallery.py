"""Chunked places equal the whole matrix's, also from a memory-mapped file."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.large_gallery import ranks_in_gallery
from s2f_lib.evaluation.retrieval import ranks_with_ties, similarity_matrix

MEASURES = ("l1", "l2", "cosine")


@pytest.mark.parametrize("chunks", [(7, 5), (1000, 1000), (1, 1)])
def test_chunks_equal_the_whole(chunks):
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(60, 16)).astype(np.float32)
    gallery[40:50] = gallery[:10]  # ties
    target = np.concatenate([rng.integers(0, 60, size=17), [0, 3, 9, 40, 44, 49]])
    queries = gallery[target] + rng.normal(size=(23, 16)).astype(np.float32)
    sizes = {"gallery_chunk": chunks[0], "query_chunk": chunks[1]}
    found = ranks_in_gallery(queries, gallery, target, measures=MEASURES, device="cpu", **sizes)
    for measure in MEASURES:
        expected = ranks_with_ties(similarity_matrix(queries, gallery, measure).round(12), target)
        assert expected.ties[-6:].tolist() == [1] * 6
        np.testing.assert_array_equal(found[measure].ranks, expected.ranks)
        np.testing.assert_array_equal(found[measure].ties, expected.ties)


def test_duplicates_in_the_gallery_are_ties():
    gallery = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    places = ranks_in_gallery(gallery[:1], gallery, [0], measures=MEASURES)
    assert [(p.ranks.tolist(), p.ties.tolist()) for p in places.values()] == [([1.5], [1])] * 3


def test_memory_does_not_grow_with_the_gallery():
    """numpy's and Python's share of it: nothing of the size of all with all is made on the way."""
    features = np.random.default_rng(0).normal(size=(1_000, 8)).astype(np.float32)
    tracemalloc.start()
    ranks_in_gallery(features, features, measures=MEASURES, gallery_chunk=50, query_chunk=50, device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000 * 1_000  # bytes; the similarity alone has eight times as many


def test_a_memory_mapped_gallery_is_read(tmp_path):
    rng = np.random.default_rng(1)
    stored = np.lib.format.open_memmap(tmp_path / "gallery.npy", "w+", np.float16, (500, 8))
    stored[:] = rng.normal(size=(500, 8))
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = np.asarray(gallery[::50], np.float32)
    places = ranks_in_gallery(queries, gallery, np.arange(0, 500, 50), gallery_chunk=64)
    np.testing.assert_array_equal(places["cosine"].ranks, 1.0)


def test_what_does_not_fit_is_refused():
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
