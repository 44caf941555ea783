"""The wheel in separate environments, outside the checkout: contents, commands, examples and extras."""

from __future__ import annotations

import functools
import http.server
import importlib.metadata
import re
import subprocess
import threading
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import s2f_lib
from s2f_lib.extras import EXTRAS
from s2f_lib.paths import STUDY_FILES

ROOT = Path(__file__).resolve().parents[2]
SMALL_ENCODER = ["encoder.width=0.03125", "encoder.hidden=16"]
# the smallest study that all chapters accept
SMALL_STUDY = [
    "source.synthetic.n_train=16",
    "source.synthetic.n_test=12",
    "source.synthetic.duration_s=3.5",
    *SMALL_ENCODER,
    "training.epochs=1",
    "training.batch_size=8",
    "training.precision=no",
    "decoder.width=0.03125",
    "decoder.residual_channels=[8,8,8,8,8]",
    "decoder.residual_hidden=16",
    "decoder_training.epochs=1",
    "decoder_training.batch_size=8",
    "decoder_training.precision=no",
    "controls.epochs=1",
    "controls.rho_share=1.0",
    "controls.rhos=[0.0,0.9]",
    "controls.clip_shares=[1.0]",
    "evaluation.n_bootstrap=10",
]


def _parameters(settings: list[str]) -> list[str]:
    return [text for setting in settings for text in ("-p", setting)]


@pytest.fixture(scope="session")
def base(make_environment):
    """An environment with the wheel and no extra."""
    return make_environment()


@pytest.fixture(scope="session")
def clips(make_environment, tmp_path_factory) -> Path:
    """A folder with `clips/` of six people, generated, and `prepared/`, with the extra `prepare` only."""
    folder = tmp_path_factory.mktemp("clips")
    environment = make_environment("prepare")
    sizes = ["--n-train", 4, "--n-test", 2, "--duration-s", 3, "--workers", 1]
    environment.run("s2f", "synth", "--out", "clips", *sizes, cwd=folder)
    given = ["--csv", "clips/clips.csv", "--media", "clips/media", "--split", "clips/splits.csv"]
    environment.run("s2f", "prepare", *given, "--out", "prepared", "--workers", 1, cwd=folder)
    return folder


def test_wheel_holds_package_and_study_folder(wheel):
    listed = ["git", "ls-files", "s2f_lib", *STUDY_FILES]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    expected = {name if name.startswith("s2f_lib/") else f"s2f_lib/template/{name}" for name in files}
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert expected - names == set()
    assert not [name for name in names if "__pycache__" in name or name.endswith(".ipynb")]


def test_base_reads_computes_and_trains(base, clips, tmp_path):
    (tmp_path / "prepared").symlink_to(clips / "prepared")
    assert base.run("s2f", "--version", cwd=tmp_path).stdout.split()[1] == s2f_lib.__version__
    shown = base.run("s2f", "info", cwd=tmp_path).stdout
    assert re.search(r"profiles +avspeech, gpu, pairs, quick", shown)
    assert re.search(rf"workspace +{re.escape(str(tmp_path))}\b", shown)
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    code = "import s2f_lib as s; print(s.__file__, s.Study.open(None).paths.root, tuple(spectrogram.shape))"
    package, run, shape = base.python(f"{example}\n{code}", cwd=tmp_path).split(maxsplit=2)
    assert Path(package).is_relative_to(base.site_packages)
    assert Path(run).is_relative_to(tmp_path)
    assert shape.strip() == "(6, 2, 298, 129)"
    sizes = _parameters([*SMALL_ENCODER, "training.epochs=1", "training.batch_size=2"])
    base.run("s2f", "train", "prepared", "--out", "model", *sizes, cwd=tmp_path)
    assert list((tmp_path / "model").rglob("*.safetensors"))


def test_base_has_help_of_every_command(base, tmp_path):
    code = """
from typer.main import get_command
from typer.testing import CliRunner
from s2f_lib.cli.main import app
for command in get_command(app).commands:
    result = CliRunner().invoke(app, [command, "--help"], prog_name="s2f")
    assert result.exit_code == 0, (command, result.output)
    print(command)
"""
    assert {"new", "prepare", "book", "reconstruct"} <= set(base.python(code, cwd=tmp_path).split())


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["synth", "--out", "x", "--n-train", "1", "--n-test", "1"], "prepare"),
        (["prepare", "--csv", "clips.csv", "--media", ".", "--out", "x"], "prepare"),
        (["book"], "book"),
    ],
)
def test_base_names_the_extra_that_is_missing(base, arguments, extra, tmp_path):
    (tmp_path / "clips.csv").write_text("AAAAAAAAAAA,0,1,0.5,0.5\n")
    failed = base.run("s2f", *arguments, cwd=tmp_path, status=2)
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("s2f: ")
    assert line.endswith(f'pip install "s2f_lib[{extra}]"')


def test_download_extra_downloads_and_prepares(make_environment, clips, tmp_path):
    environment = make_environment("download")
    serve = functools.partial(_QuietHandler, directory=clips / "clips" / "media")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{{id}}.mp4"
        (tmp_path / "clips.csv").write_text(
            "".join((clips / "clips" / "clips.csv").read_text().splitlines(keepends=True)[:2])
        )
        given = ["--csv", "clips.csv", "--download", "--url-template", address, "--workers", 1]
        environment.run("s2f", "prepare", *given, "--out", "prepared", cwd=tmp_path)
        server.shutdown()
    assert list((tmp_path / "prepared").rglob("*.arrow"))


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("cluster", "from s2f_lib.preparation.cluster import prepare_on_cluster; import ray; ray.util"),
        (
            "pretrained",
            "import h5py, numpy as np; from s2f_lib.voices import AcousticEmbedding, WhisperEmbedding;"
            "audio = np.ones((1, 16000), np.int16);"
            "AcousticEmbedding()(audio); WhisperEmbedding()(audio)",
        ),
        ("jupyter", "import jupyterlab.labapp, jupytext, ipykernel.kernelapp"),
    ],
)
def test_extra_holds_what_it_is_for(make_environment, extra, code, tmp_path):
    make_environment(extra).python(code, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it runs all chapters
def test_new_study_folder_builds_its_book(make_environment, tmp_path):
    environment = make_environment("book")
    before = _listing(environment.site_packages)
    assert "s2f book" in environment.run("s2f", "new", "study", cwd=tmp_path).stdout
    again = environment.run("s2f", "new", "study", cwd=tmp_path, status=2)
    assert "study is not empty" in again.stderr
    outside = environment.run("s2f", "publish", "--profile", "quick", cwd=tmp_path, status=2)
    assert "run `s2f new DIR`" in outside.stderr
    study = tmp_path / "study"
    environment.run("s2f", "book", *_parameters(SMALL_STUDY), cwd=study)
    for folder in ("notebooks", "recipes"):
        pages = {path.stem for path in (study / "_build" / "html" / "book" / folder).glob("*.html")}
        assert pages == {path.stem for path in (study / "book" / folder).glob("*.md")} != set()
    assert "Traceback" not in "".join(path.read_text() for path in study.rglob("_build/html/book/*.html"))
    voice = next(study.glob("data/synthetic-*/media/*.mp4"))
    environment.run("s2f", "reconstruct", voice, "-o", "face.png", cwd=study)
    assert (study / "face.png").stat().st_size > 0
    published = environment.run("s2f", "publish", "--profile", "quick", cwd=study)
    assert "Published in" in published.stdout
    assert (study / "book" / "published" / "quick" / "run.json").is_file()
    assert _listing(environment.site_packages) == before


def _listing(folder: Path) -> dict[str, int]:
    """Return the files of a folder with their sizes, without the compiled ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def test_extras_table_matches_pyproject():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    needed = {extra: {Requirement(text).name.lower() for text in texts} for extra, texts in extras.items()}
    direct = set().union(*needed.values())
    for extra, modules in EXTRAS.items():
        for module in modules:
            names = {name.lower() for name in distributions.get(module, [module.replace("_", "-")])}
            assert names & needed[extra] or not names & direct, f"{module} is not of the extra {extra}"
