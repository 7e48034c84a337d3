"""Errors a person can act on: what was expected, what was found, what to do."""

from typing import Final


class InterplantError(Exception):
    """A failure with one clear sentence; the command that meets it exits with 1."""

    exit_code = 1


class UsageError(InterplantError):
    """The words or the file are wrong; the command that meets it exits with 2."""

    exit_code = 2


REFUSALS: Final[dict[str, str]] = {
    "budget_spent": "the plant's privacy budget does not cover this round",
    "policy_task": "the plant's policy does not offer this task",
    "policy_model": "the plant's policy does not allow this model",
    "policy_strategy": "the plant's policy does not allow this strategy",
    "policy_privacy": "the plant's policy does not allow this privacy setting",
    "policy_terms": "the task asks for another contract, windows or unit than when the plant first met it",
    "task_invalid": "the plant cannot read this task: check that both sides run the same version",
    "model_missing": "the model is not installed at the plant",
    "model_unfit": "the model does not fit the global weights or cannot be trained privately",
    "no_snapshot": "the plant has no snapshot of its data yet",
    "contract": "the plant's data does not fit the task's contract",
    "contract_version": "the plant's contract is another version than the task needs",
    "quarantine": "more of what the plant's sources brought breaks its contract than the contract allows",
    "undeclared_size": "the plant has not declared the public size of its data (data.declared_windows)",
    "model_lost": "the plant has lost the model that this round's differs from; it gets the next one whole",
    "trainer_died": "the plant's trainer process ended while it worked",
    "ledger": "the plant's privacy ledger is damaged or cannot be written",
    "ledger_behind": "the plant's privacy ledger is older than what the plant has signed",
    "disk_full": "the plant's disk is full",
    "paused": "the plant is paused by its engineer",
    "quiet": "the plant takes part in no round at this time of the week",
    "gateway": "the plant's gateway did not let the reply out",
    "unreadable": "the plant's reply cannot be read: check that both sides run the same version",
    "internal": "the plant met an unexpected fault; its own log has the details",
}
"""What a plant may tell the coordinator of a failure: a code and our own sentence, no values."""


class Refusal(InterplantError):
    """A plant does not take part, or cannot; only ``code`` and its sentence leave the plant.

    Args:
        code: A key of `REFUSALS`.
        detail: For the plant's own log; never sent.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{REFUSALS[code]} [{code}]" + (f": {detail}" if detail else ""))
