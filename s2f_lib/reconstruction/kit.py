"""The kit of `s2f reconstruct`: everything that it reads from a finished run.

A kit is made once from a run's trained models and people, and stored in the run folder: the paths of the
models, linear probes for attributes with their errors on test voices, and the people's faces. Reading it
takes a fraction of a second; opening the study reads and checks all clips.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s2f_lib.config import StudyConfig
from s2f_lib.errors import MissingFileError
from s2f_lib.faces.extractor import unit_rows
from s2f_lib.media.jpeg import PackedJpegs
from s2f_lib.paths import RunPaths
from s2f_lib.storage import cached_arrays, digest
from s2f_lib.study import Study, paths_of_run, read_settings

FORMAT_VERSION = 3  # part of the file name, so kits of other versions are made again
_COVERAGE = 0.8  # share of test people inside the interval of a guessed number
_PARTS = ("weight", "bias", "error")


@dataclass(frozen=True)
class Probe:
    """Linear map from unit features to an attribute.

    Attributes
    ----------
    name
        Name of the attribute, such as "gender" or "age_years".
    classes
        Names of the classes; empty for a number.
    weight, bias
        `(d, c)` and `(c,)`; `unit(features) @ weight + bias` are logits for classes. Two classes have one
        logit, that of the second.
    error
        For a number: `(2,)` quantiles of truth minus guess on the voices of the test people. For classes:
        `(c,)` share of right guesses of each class on these voices.
    n
        Number of test people behind `error`.

    Examples
    --------
    >>> age = Probe("age_years", (), np.array([[10.0], [0.0]]), np.array([30.0]), np.array([-9.0, 9.0]), 20)
    >>> age.scores(np.array([[2.0, 0.0]]))
    array([[40.]])
    """

    name: str
    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    n: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return `(n, c)` probabilities of the classes, or `(n, 1)` numbers, for `(n, d)` features."""
        raw = unit_rows(features) @ self.weight + self.bias
        if not self.classes:
            return raw
        if len(self.classes) == 2:
            second = 1 / (1 + np.exp(-raw[:, 0]))
            return np.stack([1 - second, second], axis=1)
        raised = np.exp(raw - raw.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ReconstructionKit:
    """Models, probes and gallery of a run.

    Attributes
    ----------
    config
        The run's settings.
    encoder, decoder
        Files of the trained models.
    probes
        One probe per known attribute of the run's people; empty for real clips.
    names, features, images
        The gallery: `n` names, `(n, d)` features and `n` JPEG files.
    """

    config: StudyConfig
    encoder: Path
    decoder: Path
    probes: tuple[Probe, ...]
    names: tuple[str, ...]
    features: np.ndarray
    images: Sequence[bytes]


def kit_of_run(run_dir: Path, *, train: bool = False) -> ReconstructionKit:
    """Return the kit of a run folder; make it if it is missing, damaged or made with other settings.

    Parameters
    ----------
    run_dir
        Folder with the stored settings of a run.
    train
        Whether to prepare clips and to train models that are missing.

    Raises
    ------
    MissingFileError
        The folder contains no run, or it lacks a model; the message names the command to type.

    Examples
    --------
    >>> kit_of_run(Path("absent"))
    Traceback (most recent call last):
    s2f_lib.errors.MissingFileError: no run at absent ...
    """
    settings = RunPaths(Path(run_dir)).settings
    if not settings.is_file():
        raise MissingFileError(
            f"no run at {run_dir} (it has no {settings.name}): type `make book` or `s2f run` first, "
            "or give a run's folder with --run"
        )
    config = read_settings(settings)
    run = paths_of_run(config, Path(run_dir))
    study = Study(config, run)
    with nullcontext() if train else _without_training(study):
        kit = _kit(config, run, cached_arrays(_path(config, run), lambda: _arrays(study)))
        return kit if kit.encoder.is_file() and kit.decoder.is_file() else make_kit(study)


@contextmanager
def _without_training(study: Study) -> Iterator[None]:
    from s2f_lib.training.loop import training_forbidden

    missing = (
        f"{study.paths.root} has no trained models for its settings: train them with "
        "`s2f reconstruct --train` (train=True in Python), or finish the run with `s2f run`"
    )
    if not study.is_prepared:
        raise MissingFileError(missing)
    with training_forbidden(missing):
        yield


def make_kit(study: Study) -> ReconstructionKit:
    """Make the kit of a run and store it in the run folder; models that do not exist yet are trained.

    Examples
    --------
    >>> kit = make_kit(Study.open("quick"))  # doctest: +SKIP
    """
    path = _path(study.config, study.paths)
    path.unlink(missing_ok=True)
    return _kit(study.config, study.paths, cached_arrays(path, lambda: _arrays(study)))


def _arrays(study: Study) -> dict[str, np.ndarray]:
    """Return the content of a kit's file."""
    from s2f_lib.training.checkpoint import MODEL_FILE

    probes = _fit_probes(study, study.split("train").features, study.features("test").predicted)
    people = study.clips
    images = PackedJpegs.pack(people.crops_jpeg)
    encoder, decoder = study.encoder().folder / MODEL_FILE, study.decoder().folder / MODEL_FILE
    models = study.paths.models
    texts = {
        "names": list(people.clip_ids),
        "probes": [{"name": probe.name, "classes": probe.classes, "n": probe.n} for probe in probes],
        "encoder": encoder.relative_to(models).as_posix(),
        "decoder": decoder.relative_to(models).as_posix(),
    }
    arrays = {"texts": np.array(json.dumps(texts)), "features": people.features}
    arrays |= {"jpeg_data": images.data, "jpeg_spans": images.spans}
    for index, probe in enumerate(probes):
        arrays |= {f"{part}_{index}": getattr(probe, part) for part in _PARTS}
    return arrays


def _kit(config: StudyConfig, run: RunPaths, arrays: Mapping[str, np.ndarray]) -> ReconstructionKit:
    texts = json.loads(str(arrays["texts"]))
    probes = (
        Probe(
            about["name"],
            tuple(about["classes"]),
            **{part: arrays[f"{part}_{index}"] for part in _PARTS},
            n=about["n"],
        )
        for index, about in enumerate(texts["probes"])
    )
    return ReconstructionKit(
        config,
        run.models / texts["encoder"],
        run.models / texts["decoder"],
        tuple(probes),
        tuple(texts["names"]),
        arrays["features"],
        PackedJpegs(arrays["jpeg_data"], arrays["jpeg_spans"]),
    )


def _fit_probes(study: Study, features: np.ndarray, predicted: np.ndarray) -> tuple[Probe, ...]:
    """Fit one linear probe per attribute on training faces, and measure its error on test voices."""
    if study.config.source.kind != "synthetic":
        return ()  # attributes of real people are not known
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(study.config.source.synthetic).table().set_index("clip_id")
    known["gender"] = known["gender"].map({"f": "female", "m": "male"})
    train, test = (known.loc[study.split(split).clip_ids] for split in ("train", "test"))
    return tuple(
        _fit_probe(name, features, train[name].to_numpy(), predicted, test[name].to_numpy())
        for name in ("gender", "age_years", "group")
    )


def _fit_probe(
    name: str, features: np.ndarray, values: np.ndarray, test_features: np.ndarray, test_values: np.ndarray
) -> Probe:
    from s2f_lib.evaluation.probes import fit_probe

    scaler, model = (step for _, step in fit_probe(features, values).steps)
    classes = tuple(str(word) for word in getattr(model, "classes_", ()))
    # the scaler and the model together are one linear map
    weight = np.atleast_2d(model.coef_).T / scaler.scale_[:, None]
    bias = np.atleast_1d(model.intercept_) - scaler.mean_ @ weight
    probe = Probe(name, classes, weight, bias, np.zeros(0), len(test_values))
    scores = probe.scores(test_features)
    if classes:
        guess = np.array(classes)[scores.argmax(axis=1)]
        right = guess == test_values
        shares = [right[guess == word].mean() if (guess == word).any() else np.nan for word in classes]
        return replace(probe, error=np.array(shares))
    tail = (1 - _COVERAGE) / 2
    return replace(probe, error=np.quantile(test_values - scores[:, 0], [tail, 1 - tail]))


def _path(config: StudyConfig, run: RunPaths) -> Path:
    name = digest(FORMAT_VERSION, config.digest(exclude={"profile"}))
    return run.models / f"reconstruction-kit-{name}.npz"
