"""A custom extractor that is passed to `prepare` directly."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import PreparationConfig
from s2f_lib.errors import InputError
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.sources.clip import ClipRef

SETTINGS = PreparationConfig(detection_width_px=160, frame_positions=(0.5,), audio_s=1.0, workers=1)


class MeanColour:
    """Mean colour of a face: needs no network, and no attribute `runs_in_workers`."""

    name, dimension = "mean_colour", 3

    def __init__(self, fingerprint: str = "1", scale: float = 1.0) -> None:
        self.fingerprint, self.scale = fingerprint, scale

    def __call__(self, faces):
        return faces.mean(axis=(1, 2)) * self.scale


@pytest.fixture(scope="module")
def clips(tmp_path_factory, media_writer, small_portrait, tone_maker):
    folder = tmp_path_factory.mktemp("media")
    paths = [folder / f"clip{number}.mp4" for number in range(2)]
    for path in paths:
        media_writer(path, image=small_portrait, sound=tone_maker(1.2), duration_s=1.2)
    return [ClipRef(path.stem, path.stem, 0.0, 1.2, 0.5, 0.5, path) for path in paths]


def test_custom_extractor_gives_the_features_and_is_recorded(clips, tmp_path):
    prepare(clips, tmp_path, preparation=SETTINGS, extractor=MeanColour())
    prepared = read_prepared(tmp_path)
    expected = prepared.crops().mean(axis=(1, 2))
    np.testing.assert_array_equal(prepared.features, expected.astype(np.float16))
    about = {"extractor": "mean_colour", "fingerprint": "1"}
    assert prepared.provenance["features"] == about
    assert prepare(clips, tmp_path, preparation=SETTINGS, extractor=MeanColour()).n_this_run == 0
    with pytest.raises(InputError, match=r"features.fingerprint is '1' there and '2' now"):
        prepare(clips, tmp_path, preparation=SETTINGS, extractor=MeanColour("2"))


def test_custom_extractor_of_a_wrong_form_is_refused(clips, tmp_path):
    with pytest.raises(InputError, match="lacks fingerprint: it needs name, dimension, fingerprint"):
        prepare(clips, tmp_path, extractor=type("Half", (), {"name": "half", "dimension": 3})())
    with pytest.raises(InputError, match=r"'mean_colour' returned .* expected \(2, 3\) finite numbers"):
        prepare(clips, tmp_path, preparation=SETTINGS, extractor=MeanColour(scale=1e6))
    with pytest.raises(InputError, match="processes of a cluster do not know this extractor"):
        prepare(clips, tmp_path, extractor=MeanColour(), engine="ray")
