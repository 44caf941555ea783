"""Re-synthesised speech: the same people with another rho, other sentences or other accents."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.media.decode import read_audio
from s2f_lib.sources.synthetic.clips import clip_path, make_clip
from s2f_lib.sources.synthetic.people import draw_population
from s2f_lib.sources.synthetic.recordings import resynthesize_speech

WORLD = SyntheticConfig(n_train=3, n_test=1, duration_s=3.0, width_px=160, height_px=120)


@pytest.fixture(scope="module")
def clip_ids():
    return [person.clip_id for person in draw_population(WORLD)]


def test_resynthesize_speech_equals_clip_before_coding(clip_ids, tmp_path):
    person = draw_population(WORLD)[0]
    make_clip(person, WORLD, tmp_path)
    coded = read_audio(clip_path(tmp_path, person), start_s=0, end_s=person.duration_s, sample_rate_hz=16_000)
    recorded = resynthesize_speech(WORLD, clip_ids[:1], audio_s=person.duration_s, workers=1)[0]
    assert len(coded) == len(recorded)
    assert np.corrcoef(coded, recorded)[0, 1] > 0.97


def test_resynthesize_speech_short_is_repeated(clip_ids):
    audio = resynthesize_speech(WORLD, clip_ids[:1], audio_s=6.0, workers=1)
    assert audio.shape == (1, 96_000)
    assert np.array_equal(audio[0, :48_000], audio[0, 48_000:])


def test_resynthesize_speech_processes_change_nothing(clip_ids):
    single = resynthesize_speech(WORLD, clip_ids, audio_s=1.0, workers=1)
    assert np.array_equal(single, resynthesize_speech(WORLD, clip_ids, audio_s=1.0, workers=2))


def test_resynthesize_speech_take_rho_accent_change_it(clip_ids):
    own = resynthesize_speech(WORLD, clip_ids[:2], audio_s=1.0, workers=1)
    for change in ({"take": 1}, {"rho": 0.0}, {"accent": "de"}):
        other = resynthesize_speech(WORLD, clip_ids[:2], audio_s=1.0, workers=1, **change)
        assert not np.array_equal(own, other), change
    same = resynthesize_speech(WORLD, clip_ids[:2], audio_s=1.0, workers=1, rho=WORLD.rho)
    assert np.array_equal(own, same)


def test_resynthesize_speech_unknown_clip_raises(clip_ids):
    with pytest.raises(InputError, match="not part of the synthetic world of seed 0"):
        resynthesize_speech(WORLD, ["x" * 11 + "_0-3"], workers=1)
