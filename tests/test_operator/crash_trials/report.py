"""What a run showed: a table by variant and phase, and the whole history of an account with which something is wrong."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .evidence import Phase
from .strike import Trial

HIT = [phase for phase in Phase if phase is not Phase.IDLE]


@dataclass
class Outcome:
    """All trials of a run; `failures` has a text for each account with which something is wrong."""

    seed: int
    trials: list[Trial] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    strikes: int = 0
    kills: int = 0
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """The table, and a line about the whole."""
        rows = [["variant", "grace", *(phase.name.lower() for phase in HIT), "trials", "logins"]]
        for variant in dict.fromkeys(trial.variant for trial in self.trials):
            for has_grace in (True, False):
                found = [trial for trial in self.trials if (trial.variant, trial.has_grace) == (variant, has_grace)]
                rows.append([variant, "yes" if has_grace else "no", *_counts(found)])
        rows.append(["all", "", *_counts(self.trials)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, "", self._closing_line])

    @property
    def _closing_line(self) -> str:
        instants = sorted(trial.seconds for trial in self.trials) or [0.0]
        quantiles = statistics.quantiles(instants, n=10) if len(instants) > 1 else instants * 9
        return (
            f"{len(self.trials)} trials with {self.kills} kills in {self.seconds:.0f} s, seed {self.seed}; kills fell "
            f"{quantiles[0]:.2f} s (first tenth), {quantiles[4]:.2f} s (median), {quantiles[8]:.2f} s (last tenth) "
            f"after the rotations were set off; {len(self.failures)} accounts with something wrong"
        )


def _counts(trials: Sequence[Trial]) -> list[str]:
    by_phase = [sum(trial.phase is phase for trial in trials) for phase in HIT]
    return [str(count) for count in (*by_phase, len(trials), sum(trial.needs_login for trial in trials))]
