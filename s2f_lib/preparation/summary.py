"""What came of a clip list: the funnel and the time that each stage took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2f_lib.preparation.ledger import DONE, PENDING, REFUSED, Ledger

if TYPE_CHECKING:
    import pandas as pd

_STAGES = ("download", "decode", "detect", "align", "features")


@dataclass(frozen=True)
class PreparationSummary:
    """What came of a clip list.

    Attributes
    ----------
    n_clips
        Rows of the list, bad ones included; a clip that stands there twice counts once.
    n_done, n_refused
        Of them.
    by_reason
        Reason code to number of clips, the most frequent first.
    seconds_by_stage, clips_by_stage
        Stage to seconds, summed over clips and processes, and to the number of clips that came to
        it, of all runs.
    n_this_run, wall_s
        Clips that this run worked on, and its seconds by the clock.
    n_pending
        Clips that are still to do: the server wanted no more requests.  Their blocks of
        `clips_per_shard` are written when the next run has finished them.
    """

    n_clips: int
    n_done: int
    n_refused: int
    by_reason: dict[str, int] = field(default_factory=dict)
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    n_this_run: int = 0
    wall_s: float = 0.0
    n_pending: int = 0
    clips_by_stage: dict[str, int] = field(default_factory=dict)

    @property
    def core_seconds_per_clip(self) -> float:
        """Seconds of one core a prepared clip, those of refused clips included, download not."""
        seconds = sum(s for stage, s in self.seconds_by_stage.items() if stage != "download")
        return seconds / max(self.n_done, 1)

    def table(self) -> pd.DataFrame:
        """Return the funnel: outcome, clips, share of the list."""
        import pandas as pd

        rows = [("in the list", self.n_clips), ("prepared", self.n_done)]
        rows += [(f"refused: {reason}", n) for reason, n in self.by_reason.items()]
        rows += [("still to do", self.n_pending)] if self.n_pending else []
        table = pd.DataFrame(rows, columns=["outcome", "clips"])
        table["share"] = table["clips"] / max(self.n_clips, 1)
        return table

    def stages(self) -> pd.DataFrame:
        """Return the stages in order: clips, seconds in all and a prepared clip, clips/s of a worker."""
        import pandas as pd

        stages = sorted(self.seconds_by_stage, key=lambda s: (_STAGES.index(s) if s in _STAGES else 99, s))
        table = pd.DataFrame({"stage": stages})
        table["clips"] = [self.clips_by_stage.get(stage, 0) for stage in stages]
        table["seconds"] = [self.seconds_by_stage[stage] for stage in stages]
        table["seconds_per_clip"] = table["seconds"] / max(self.n_done, 1)
        table["clips_per_s"] = table["clips"] / table["seconds"].clip(lower=1e-9)
        return table


def summarise(ledger: Ledger, *, n_this_run: int = 0, wall_s: float = 0.0) -> PreparationSummary:
    """Return what a ledger knows."""
    counts, stages = ledger.counts(), ledger.stages()
    refused = {reason: n for (status, reason), n in counts.items() if status == REFUSED}
    return PreparationSummary(
        n_clips=sum(counts.values()),
        n_done=sum(n for (status, _), n in counts.items() if status == DONE),
        n_refused=sum(refused.values()),
        by_reason=dict(sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
        seconds_by_stage={stage: seconds for stage, (seconds, _) in stages.items()},
        n_this_run=n_this_run,
        wall_s=wall_s,
        n_pending=sum(n for (status, _), n in counts.items() if status == PENDING),
        clips_by_stage={stage: n for stage, (_, n) in stages.items()},
    )
