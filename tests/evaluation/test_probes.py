"""Probes on features with and without attributes."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.probes import ProbeData, fit_probe, probe_table


def _people(n: int, seed: int) -> ProbeData:
    rng = np.random.default_rng(seed)
    gender, age = rng.choice(["f", "m"], size=n), rng.uniform(20, 70, size=n)
    features = rng.normal(size=(n, 12)) * 0.3
    features[:, 0] += np.where(gender == "m", 1.0, -1.0)
    features[:, 1] += (age - 45) / 20
    return ProbeData(features + 1.0, {"gender": gender, "age": age})


def test_probe_table_reads_attributes_but_not_noise():
    test = _people(200, 2)
    noise = ProbeData(np.random.default_rng(3).normal(size=(200, 12)) + 1.0, test.attributes)
    table = probe_table(
        _people(300, 1), {"true": test, "noise": noise}, IntervalSettings(n_resamples=100)
    ).set_index(["attribute", "name"])
    assert table.loc[("gender", "true"), "value"] > 0.9
    assert table.loc[("gender", "noise"), "value"] < 0.7
    assert table.loc[("age", "true"), "value"] < 0.7 * table.loc[("age", "true"), "chance"]
    assert ((table.low <= table.value) & (table.value <= table.high)).all()


def test_fit_probe_other_length_raises():
    with pytest.raises(InputError, match="3 feature vectors and 2 attribute values"):
        fit_probe(np.ones((3, 2)), np.array(["a", "b"]))
