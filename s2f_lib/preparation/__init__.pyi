from .download_feed import Download as Download
from .ledger import Ledger as Ledger
from .ledger import PreparationSummary as PreparationSummary
from .pipeline import prepare as prepare
from .shards import PreparedClips as PreparedClips
from .shards import PreparedRow as PreparedRow
from .shards import read_prepared as read_prepared
from .shards import write_shard as write_shard
