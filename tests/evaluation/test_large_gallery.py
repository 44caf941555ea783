"""Chunked ranks equal the whole matrix's, also from a memory-mapped file."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.large_gallery import ranks_in_gallery
from s2f_lib.evaluation.retrieval import similarity_matrix, true_ranks


@pytest.mark.parametrize("chunks", [(7, 5), (1000, 1000), (1, 1)])
def test_chunks_equal_the_whole(chunks):
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(60, 16)).astype(np.float32)
    target = rng.integers(0, 60, size=23)
    queries = gallery[target] + rng.normal(size=(23, 16)).astype(np.float32)
    ranks = ranks_in_gallery(queries, gallery, target, gallery_chunk=chunks[0], query_chunk=chunks[1])
    expected = true_ranks(similarity_matrix(queries, gallery, "cosine"), target)
    np.testing.assert_array_equal(ranks, expected)


def test_duplicates_in_the_gallery_are_ties():
    gallery = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    np.testing.assert_array_equal(ranks_in_gallery(gallery[:1], gallery, [0]), [1.5])


def test_a_memory_mapped_gallery_is_read(tmp_path):
    rng = np.random.default_rng(1)
    stored = np.lib.format.open_memmap(tmp_path / "gallery.npy", "w+", np.float16, (500, 8))
    stored[:] = rng.normal(size=(500, 8))
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    ranks = ranks_in_gallery(
        np.asarray(gallery[::50], np.float32), gallery, np.arange(0, 500, 50), gallery_chunk=64
    )
    np.testing.assert_array_equal(ranks, 1.0)


def test_targets_outside_the_gallery_are_refused():
    with pytest.raises(InputError, match=r"targets lie in \[0, 9\], the gallery has 5 rows"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((5, 3)), [0, 9])
    with pytest.raises(InputError, match="2 queries and 1 targets"):
        ranks_in_gallery(np.ones((2, 3)), np.ones((5, 3)), [0])
