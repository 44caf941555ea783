from .config import StudyConfig as StudyConfig
from .config import load_config as load_config
from .errors import InputError as InputError
from .errors import StudyError as StudyError
from .evaluation.tables import Predictions as Predictions
from .evaluation.tables import evaluate_retrieval as evaluate_retrieval
from .evaluation.tables import plot_recall as plot_recall
from .media.spectrogram import complex_spectrogram as complex_spectrogram
from .preparation.pipeline import prepare as prepare
from .preparation.shards import PreparedClips as PreparedClips
from .preparation.shards import read_prepared as read_prepared
from .reconstruction.voice import Reconstruction as Reconstruction
from .reconstruction.voice import reconstruct as reconstruct
from .study import Study as Study

__version__: str
