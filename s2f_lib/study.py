"""One run of the study and its steps, for the chapters.

Each step is computed once and stored: clips and shards under `data/`, in folders named by a digest of the
settings that decide them; models, tables and figures in the run folder. An interrupted step is resumed.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import ValidationError

from s2f_lib import paths, registry
from s2f_lib.config import DecoderKind, DownloadConfig, LossName, StudyConfig, changed_keys, load_config
from s2f_lib.errors import ConfigError, DataError, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import cached_array, digest, locked, write_atomically

if TYPE_CHECKING:
    from s2f_lib.evaluation.tables import Predictions
    from s2f_lib.faces.extractor import FaceFeatureExtractor
    from s2f_lib.preparation.download_feed import Download
    from s2f_lib.preparation.ledger import PreparationSummary
    from s2f_lib.preparation.shards import PreparedClips
    from s2f_lib.sources.avspeech import BadRow
    from s2f_lib.sources.clip import ClipRef
    from s2f_lib.training.decoder import TrainedDecoder
    from s2f_lib.training.encoder import TrainedEncoder
    from s2f_lib.training.losses import Loss

logger = logging.getLogger(__name__)


class Study:
    """Resolved settings and the steps of the study, each computed when it is first used.

    Parameters
    ----------
    config
        All settings.
    run_paths
        The run's folders.
    """

    def __init__(self, config: StudyConfig, run_paths: RunPaths) -> None:
        self.config = config
        self.paths = run_paths

    @classmethod
    def open(
        cls,
        profile: str | Path = "quick",
        *,
        run_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Study:
        """Open a run. The settings are written to a new folder; an existing file of settings is not changed.

        Only `run_chapters` (`s2f run`, `s2f book`) changes the stored settings of a run. If they differ from
        the requested settings, a warning is logged; the models of both are stored in the same folder.

        Parameters
        ----------
        profile
            A name in `book/profiles`, or the path of a YAML file.
        run_dir
            Folder of the run. None: `runs/<profile>`; with overrides `runs/<profile>-<digest>`, which shares
            the models of `runs/<profile>`.
        settings
            Dotted overrides, for example ``{"training.epochs": 3}``.

        Raises
        ------
        ConfigError
            The profile or a setting is invalid.

        Examples
        --------
        >>> from tempfile import mkdtemp
        >>> Study.open("quick", run_dir=mkdtemp(), settings={"training.epochs": 3}).config.training.epochs
        3
        """
        config = load_config(profile, settings)
        if run_dir is not None:
            run_paths = paths_of_run(config, Path(run_dir))
        elif changed_keys(config, load_config(profile)):
            run_paths = _paths_of_changed(config)
        else:
            run_paths = RunPaths.of_profile(config.profile)
        run_paths.root.mkdir(parents=True, exist_ok=True)
        if run_paths.settings.is_file():
            _compare_with_stored(config, run_paths.settings)
        else:
            write_atomically(run_paths.settings, config.to_yaml())
        return cls(config, run_paths)

    def on_generated(self) -> Study:
        """Return this study if its source is synthetic, otherwise a synthetic one with the same settings."""
        if self.config.source.kind == "synthetic":
            return self
        run_paths = RunPaths(self.paths.root / "generated")
        run_paths.root.mkdir(parents=True, exist_ok=True)
        return Study(self.config.with_(source__kind="synthetic", source__options={}), run_paths)

    @functools.cached_property
    def source_dir(self) -> Path:
        """Folder of the synthetic clips, which are generated if needed."""
        if self.config.source.kind != "synthetic":
            raise ConfigError(
                f"source.kind is {self.config.source.kind!r}: only the synthetic source has a folder of clips"
            )
        from s2f_lib.sources.synthetic.clips import make_synthetic_clips

        folder = paths.data_dir() / f"synthetic-{self.config.source.synthetic.digest()}"
        with locked(folder):
            make_synthetic_clips(
                self.config.source.synthetic,
                folder,
                workers=self.config.preparation.workers,
                progress=_log_progress("clips generated"),
            )
        return folder

    @functools.cached_property
    def prepared_dir(self) -> Path:
        """Folder of the shards and the ledger; clips that are not prepared yet are prepared."""
        return self._prepare()[0]

    @property
    def preparation(self) -> PreparationSummary:
        """Outcome of the preparation: counts, reasons of refusal, seconds per stage."""
        return self._prepare()[1]

    @functools.cached_property
    def clips(self) -> PreparedClips:
        """All prepared clips, sorted by split and then by the clip list; mapped from disk."""
        from s2f_lib.preparation.shards import read_prepared

        clips = read_prepared(self.prepared_dir)
        return clips[np.argsort([split or "" for split in clips.splits], kind="stable")]

    def split(self, name: str) -> PreparedClips:
        """Return the prepared clips of "train" or "test". An empty split is a `DataError`."""
        chosen = np.array([split == name for split in self.clips.splits])
        if not chosen.any():
            found = sorted({split or "none" for split in self.clips.splits})
            raise DataError(f"no prepared clip is in split {name!r}: splits are {found}")
        return self.clips[chosen]

    @functools.cached_property
    def extractor(self) -> FaceFeatureExtractor:
        """The face feature extractor of the settings."""
        from s2f_lib.faces.extractor import make_extractor

        return make_extractor(self.config.features, device="auto")

    def encoder(self, loss: LossName | Loss | None = None, *, seed: int | None = None) -> TrainedEncoder:
        """Return the voice encoder trained with a loss, by default `training.main_loss`.

        The loss is a name or a custom function; see `s2f_lib.train_voice_encoder`.

        The seed decides the initial weights, the batches and the validation videos; by default
        `training.seed`.
        """
        training = self.config.training
        return self._encoder(loss or training.main_loss, training.seed if seed is None else seed)

    def decoder(self, kind: DecoderKind | None = None) -> TrainedDecoder:
        """Return a face decoder trained on the faces of the training clips, by default of `decoder.kind`.

        If `decoder_training.utkface` names a folder, the decoder is trained on those faces first.
        """
        return self._decoder(kind or self.config.decoder.kind)

    def features(
        self, split: str, loss: LossName | Loss | None = None, *, seed: int | None = None
    ) -> Predictions:
        """Return true and predicted features of the clips of a split."""
        return self.predicted(self.encoder(loss, seed=seed), self.split(split))

    def predicted(self, encoder: TrainedEncoder, clips: PreparedClips) -> Predictions:
        """Return true and predicted features of any clips, grouped by video.

        Predictions are stored next to the encoder, because most chapters use them.
        """
        from s2f_lib.evaluation.tables import Predictions
        from s2f_lib.models.inference import predict_features

        windows, spectrogram = self.config.evaluation.windows, self.config.spectrogram
        key = digest(clips.digest, windows, spectrogram.digest())
        predicted = cached_array(
            encoder.folder / f"predicted-{key}.npz",
            lambda: predict_features(encoder.model, clips.audio, spectrogram, windows=windows),
        )
        return Predictions(tuple(clips.clip_ids), clips.features, predicted, tuple(clips.video_ids))

    @functools.cache  # noqa: B019 - a study lives as long as its notebook
    def _encoder(self, loss: LossName | Loss, seed: int) -> TrainedEncoder:
        from s2f_lib.training.encoder import train_voice_encoder

        # Speech2Face's own loss compares the first layer of a decoder
        decoder = self.decoder("report") if loss == "speech2face" else None
        return train_voice_encoder(
            self.split("train"),
            spectrogram=self.config.spectrogram,
            encoder=self.config.encoder,
            training=self.config.training.with_(seed=seed),
            loss=loss,
            parent=self.paths.models,
            decoder=decoder,
            vgg_face_weights=self.config.features.weights,
        )

    @functools.cache  # noqa: B019 - as above
    def _decoder(self, kind: DecoderKind) -> TrainedDecoder:
        from s2f_lib.faces.face_set import load_utkface
        from s2f_lib.training.decoder import train_face_decoder

        decoder = self.config.decoder
        train = functools.partial(
            train_face_decoder,
            decoder=decoder if kind == decoder.kind else decoder.with_(kind=kind, options={}),
            training=self.config.decoder_training,
            parent=self.paths.models,
            extractor=self.extractor,
        )
        start, folder = None, self.config.decoder_training.utkface
        if folder is not None:
            faces = load_utkface(folder, self.extractor, cache=paths.data_dir() / "utkface").train
            start = train(faces, name=f"decoder-{kind}-utkface")
        return train(self.split("train"), start=start)

    @property
    def is_prepared(self) -> bool:
        """Whether clips of these settings have been prepared, at least in part."""
        return any(self._prepared_folder().glob("*.arrow"))

    def _prepared_folder(self) -> Path:
        config = self.config
        kind = config.source.kind
        # the number of processes and the way of downloading do not change the prepared clips
        if registry.is_built_in("sources", kind):
            source = getattr(config.source, kind).digest(6, exclude={"fetch_missing", "download"})
        else:
            _, fingerprint = registry.identity("sources", kind)
            source = digest(config.source.model_dump_json(include={"options"}), fingerprint, length=6)
        features = config.features.digest(6)
        if not registry.is_built_in("extractors", config.features.extractor):
            features = digest(features, self.extractor.fingerprint, length=6)
        digests = source, config.preparation.digest(6, exclude={"workers"}), features
        return paths.data_dir() / f"prepared-{kind}-{'-'.join(digests)}"

    @functools.cache  # noqa: B019 - as above
    def _prepare(self) -> tuple[Path, PreparationSummary]:
        from s2f_lib.preparation.pipeline import prepare

        config, folder = self.config, self._prepared_folder()
        if config.source.kind == "pairs":
            return folder, self._prepare_pairs(folder)
        download = self._download(folder)
        clips = self._listed_clips(download)
        with locked(folder):
            summary = prepare(
                clips,
                folder,
                preparation=config.preparation,
                features=config.features,
                progress=_log_progress("clips prepared"),
                download=download,
            )
        if summary.n_pending:
            logger.warning(
                "the server is rate-limiting: %d clips are left; run the command again later",
                summary.n_pending,
            )
        return folder, summary

    def _prepare_pairs(self, folder: Path) -> PreparationSummary:
        from s2f_lib.pairs.shards import prepare_pairs

        with locked(folder):
            return prepare_pairs(
                self.config.source.pairs,
                preparation=self.config.preparation,
                features=self.config.features,
                out=folder,
                progress=_log_progress("pairs prepared"),
            )

    def _download(self, prepared: Path) -> Download | None:
        """Return how missing media are downloaded; None if clips without media are refused."""
        from s2f_lib.preparation.download_feed import Download

        source = self.config.source.avspeech
        if self.config.source.kind != "avspeech":
            return None
        if not source.fetch_missing:
            if source.download != DownloadConfig():
                raise ConfigError(
                    "source.avspeech.download has no effect without a download: "
                    "add -p source.avspeech.fetch_missing=true, or leave out the settings of the download"
                )
            return None
        folder = source.media if source.media is not None else prepared / "media"
        folder.mkdir(parents=True, exist_ok=True)
        return Download(folder, source.download)

    def _listed_clips(self, download: Download | None) -> Iterator[ClipRef | BadRow]:
        from s2f_lib.sources.avspeech import load_clips

        if self.config.source.kind == "synthetic":
            folder = self.source_dir
            return load_clips(folder / "clips.csv", folder / "media", split_csv=folder / "splits.csv")
        if not registry.is_built_in("sources", self.config.source.kind):
            return self._custom_clips()
        source = self.config.source.avspeech
        if source.csv is None:
            raise ConfigError(
                "source.avspeech.csv is not set: give the clip list and the folder of media, "
                "for example -p source.avspeech.csv=clips.csv -p source.avspeech.media=media "
                "(or -p source.avspeech.fetch_missing=true to download them)"
            )
        media = download.folder if download is not None else source.media
        return load_clips(
            source.csv,
            media,
            test_share=source.test_share,
            split_csv=source.split,
            youtube_ids=download is not None,
        )

    def _custom_clips(self) -> Iterator[ClipRef | BadRow]:
        from s2f_lib.sources.clip import ClipRef

        source = self.config.source
        for clip in registry.make("sources", registry.load("sources", source.kind), source.options):
            if not isinstance(clip, ClipRef):
                raise InputError(
                    f"source {source.kind!r} yielded a {type(clip).__name__}: expected a ClipRef"
                )
            yield clip


def read_settings(path: Path) -> StudyConfig:
    """Return the stored settings of a run; a damaged file or one of another version is a `DataError`."""
    try:
        return StudyConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged or of another version ({type(error).__name__}): run `s2f run` again"
        ) from None


def paths_of_run(config: StudyConfig, run_dir: Path) -> RunPaths:
    """Return the folders of the run in `run_dir`, which was made with these settings."""
    changed = _paths_of_changed(config)
    return changed if run_dir.resolve() == changed.root else RunPaths(run_dir)


def _paths_of_changed(config: StudyConfig) -> RunPaths:
    """Return the folders of a run whose settings are not the profile's; it shares the profile's models."""
    profile = RunPaths.of_profile(config.profile)
    name = f"{config.profile}-{config.digest(8, exclude={'profile'})}"
    return RunPaths(profile.root.with_name(name), shared_models=profile.models)


def _compare_with_stored(config: StudyConfig, path: Path) -> None:
    try:
        changed = changed_keys(config, read_settings(path))
    except DataError:
        changed = ["they are damaged or of another version"]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        logger.warning(
            "%s holds other settings than this study uses (%s%s); the file is not changed",
            path, ", ".join(changed[:3]), more,
        )  # fmt: skip


def log_to_output(level: int = logging.INFO) -> None:
    """Print the log of the package under the cell of a notebook.

    Lines that name a clip are dropped, because the output stays in the page.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: not getattr(record, "names_clip", False))
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("s2f_lib")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False


def _log_progress(what: str, every: int = 100) -> Callable[..., None]:
    def report(done: int, total: int, *_: object) -> None:
        if done % every == 0 or done == total:
            logger.info("%d of %d %s", done, total, what)

    return report
