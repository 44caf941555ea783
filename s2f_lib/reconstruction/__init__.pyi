from .kit import Probe as Probe
from .kit import ReconstructionKit as ReconstructionKit
from .kit import kit_of_run as kit_of_run
from .kit import make_kit as make_kit
from .voice import AttributeGuess as AttributeGuess
from .voice import FoundFace as FoundFace
from .voice import Reconstruction as Reconstruction
from .voice import reconstruct as reconstruct
