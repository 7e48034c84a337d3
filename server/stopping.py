"""Whether a run has learned enough to end before its last round; see `interplant.core.schema.Stopping`.

It looks at nothing but the noised losses that plants were charged for: to compute from them costs no more.
"""

from statistics import fmean

from interplant.core.schema import Task
from interplant.server.run_folder import RunFolder


def learned_enough(task: Task, run: RunFolder) -> str:
    """Say why the run ends here, or nothing if it goes on.

    Args:
        task: What is learned.
        run: Its folder. Rounds of which no plant told a loss do not count.
    """
    rounds = task.stopping.rounds
    if not rounds:
        return ""
    told = [one.get("metrics", {}) for one in run.records() if one["settled"]]
    losses = [metrics["loss"] for metrics in told if "loss" in metrics]
    if len(losses) < 2 * rounds:
        return ""
    before, now = fmean(losses[-2 * rounds : -rounds]), fmean(losses[-rounds:])
    if now < before - task.stopping.improvement * abs(before):
        return ""
    return f"its loss falls no more: {now:.4g} over {rounds} rounds, {before:.4g} over as many before"
