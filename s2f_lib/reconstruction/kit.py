"""All that a voice needs to become a face, out of a finished run: the kit of `s2f reconstruct`.

A kit is made once from a run's trained models and people, and kept in the run's
folder: the models' files, straight-line probes for attributes, how far these were off
on the test people's voices, and the people's faces to retrieve from.  Reading it
takes a fraction of a second, where opening the study reads and checks all clips.
"""

from __future__ import annotations

import itertools
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from s2f_lib.config import StudyConfig
from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.paths import RunPaths
from s2f_lib.study import Study

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # of the files; another number makes them anew
_INTERVAL = 0.8  # of the people lie in the interval that is given with a number
_NUMBERS = "numbers.npz"
_TEXTS = "kit.json"


@dataclass(frozen=True)
class Probe:
    """A straight line from unit features to an attribute.

    Attributes
    ----------
    name
        "gender", "age_years" and so on.
    classes
        What it chooses from; empty for a number.
    weight, bias
        (d, c) and (c,): scores are `unit(features) @ weight + bias`; a class's score is a
        logit, two classes have one, that of the second.
    error
        Numbers: (2,) quantiles of truth less guess on the test people's voices.
        Classes: (c,) how often a guess of each class was right on the test people's voices.
    n
        Test people that `error` is from.
    """

    name: str
    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    n: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return `(n, c)`, probabilities for classes, numbers else, of `(n, d)` features."""
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        raw = unit @ self.weight + self.bias
        if not self.classes:
            return raw
        if len(self.classes) == 2:
            second = 1 / (1 + np.exp(-raw[:, 0]))
            return np.stack([1 - second, second], axis=1)
        raised = np.exp(raw - raw.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ReconstructionKit:
    """What `reconstruct` works with.

    Attributes
    ----------
    config
        The run's settings.
    encoder, decoder
        Files of the trained models.
    probes
        Of the attributes that are known of the run's people; none of real clips.
    names, features, images
        The gallery: n names, (n, d) features, n JPEG files.
    """

    config: StudyConfig
    encoder: Path
    decoder: Path
    probes: tuple[Probe, ...]
    names: tuple[str, ...]
    features: np.ndarray
    images: tuple[bytes, ...]


def kit_of_run(run_dir: Path) -> ReconstructionKit:
    """Read the kit of a run; where it is missing or of other settings, make it.

    Raises
    ------
    MissingFileError
        The folder holds no run; the message says what to type.
    """
    run = RunPaths(Path(run_dir))
    if not run.settings.is_file():
        raise MissingFileError(
            f"no run at {run.root} (it has no {run.settings.name}): type `make book` or `s2f run` first, "
            "or give a run's folder with --run"
        )
    config = _settings(run.settings)
    kit = _read(run, config)
    return kit if kit is not None else make_kit(Study(config, run))


def make_kit(study: Study) -> ReconstructionKit:
    """Make the kit of a run and keep it in the run's folder; models that are not trained yet are trained."""
    from s2f_lib.training.checkpoint import MODEL_FILE

    train, predictions = study.split("train"), study.features("test")
    people = study.clips
    folder = _folder(study.paths)
    folder.mkdir(parents=True, exist_ok=True)
    probes = _probes(study, train.features, predictions.predicted)
    offsets = np.cumsum([0, *map(len, people.crops_jpeg)])
    numbers = {
        "features": people.features,
        "pictures": np.frombuffer(b"".join(people.crops_jpeg), np.uint8),
        "offsets": offsets,
    }
    for index, probe in enumerate(probes):
        numbers |= {f"{part}_{index}": getattr(probe, part) for part in ("weight", "bias", "error")}
    files = {
        "encoder": study.encoder().folder / MODEL_FILE,
        "decoder": study.decoder().folder / MODEL_FILE,
    }
    texts = {
        "form": FORMAT_VERSION,
        "settings": _digest(study.config),
        "names": list(people.clip_ids),
        "probes": [{"name": probe.name, "classes": probe.classes, "n": probe.n} for probe in probes],
    } | {name: path.relative_to(study.paths.root).as_posix() for name, path in files.items()}
    (folder / _TEXTS).unlink(missing_ok=True)  # a kit without it is none
    np.savez(folder / _NUMBERS, **numbers)
    (folder / _TEXTS).write_text(json.dumps(texts) + "\n", encoding="utf-8")
    return ReconstructionKit(
        study.config,
        files["encoder"],
        files["decoder"],
        probes,
        tuple(people.clip_ids),
        people.features,
        tuple(people.crops_jpeg),
    )


def _probes(study: Study, features: np.ndarray, predicted: np.ndarray) -> tuple[Probe, ...]:
    """Fit a probe an attribute on true features of training people; see how far off it is on test voices."""
    if study.config.source.kind != "synthetic":
        return ()  # nothing is known of real people
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(study.config.source.synthetic).table().set_index("clip_id")
    ids = {split: study.split(split).clip_ids for split in ("train", "test")}
    columns = {"gender": {"f": "female", "m": "male"}, "age_years": None, "group": None}
    probes = []
    for name, words in columns.items():
        values = {}
        for split, chosen in ids.items():
            column = known.loc[chosen, name]
            values[split] = (column.map(words) if words else column).to_numpy()
        probes.append(_probe(name, features, values["train"], predicted, values["test"]))
    return tuple(probes)


def _probe(
    name: str, features: np.ndarray, values: np.ndarray, test_features: np.ndarray, test_values: np.ndarray
) -> Probe:
    from s2f_lib.evaluation.probes import fit_probe

    scaler, model = (step for _, step in fit_probe(features, values).steps)
    classes = tuple(str(word) for word in getattr(model, "classes_", ()))
    # the scaler and the model are one straight line
    weight = np.atleast_2d(model.coef_).T / scaler.scale_[:, None]
    bias = np.atleast_1d(model.intercept_) - scaler.mean_ @ weight
    probe = Probe(name, classes, weight, bias, np.zeros(0), len(test_values))
    scores = probe.scores(test_features)
    if classes:
        guess = np.array(classes)[scores.argmax(axis=1)]
        right = guess == test_values
        error = np.array(
            [right[guess == word].mean() if (guess == word).any() else np.nan for word in classes]
        )
    else:
        tail = (1 - _INTERVAL) / 2
        error = np.quantile(test_values - scores[:, 0], [tail, 1 - tail])
    return Probe(name, classes, weight, bias, error, len(test_values))


def _read(run: RunPaths, config: StudyConfig) -> ReconstructionKit | None:
    """Return the kit in the run's folder; None where there is none of these settings."""
    folder = _folder(run)
    try:
        texts: Mapping[str, Any] = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
        if texts["form"] != FORMAT_VERSION or texts["settings"] != _digest(config):
            logger.info("the kit in %s is of other settings: made anew", folder)
            return None
        encoder, decoder = run.root / texts["encoder"], run.root / texts["decoder"]
        if not (encoder.is_file() and decoder.is_file()):
            return None
        with np.load(folder / _NUMBERS) as numbers:
            offsets, data = numbers["offsets"], numbers["pictures"].tobytes()
            images = tuple(data[a:b] for a, b in itertools.pairwise(offsets))
            probes = tuple(
                Probe(
                    about["name"],
                    tuple(about["classes"]),
                    numbers[f"weight_{index}"],
                    numbers[f"bias_{index}"],
                    numbers[f"error_{index}"],
                    about["n"],
                )
                for index, about in enumerate(texts["probes"])
            )
            names = tuple(texts["names"])
            return ReconstructionKit(config, encoder, decoder, probes, names, numbers["features"], images)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        logger.warning("the kit in %s is damaged (%s): made anew", folder, type(error).__name__)
        return None


def _settings(path: Path) -> StudyConfig:
    try:
        return StudyConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged or of another version ({type(error).__name__}): run `s2f run` again"
        ) from None


def _digest(config: StudyConfig) -> str:
    return config.model_copy(update={"profile": ""}).digest()


def _folder(run: RunPaths) -> Path:
    return run.models / "reconstruction-kit"
