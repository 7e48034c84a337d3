"""Sanity cases: inputs that people made up, and where a sensible model's prediction must lie."""

from dataclasses import dataclass, field
from typing import Any, Final

from interplant.core.contract import Contract
from interplant.core.possible import is_range, need
from interplant.core.targets import CLASS, Target

STEPS: Final = 5
"""Inputs that are tried from one end of a column's range to the other, where a case asks for a direction."""


@dataclass
class Case:
    """One case. Its inputs are made up, in the columns' own units; no reading needs to be told for it.

    Args:
        name: What is expected, for people.
        task: The task that it is for; empty: every one. A task's own cases leave it empty.
        inputs: By column a number, which holds in the whole window, or as many as a window has readings. A
            column that is not named stands in the middle of its range, of the operating condition that the
            settings name; settings that are not named are those of the first condition.
        within: Lowest and highest prediction, in the label's unit; of an event its probability.
        classes: Of classes, those of which one must be predicted.
        rises: A column with which the prediction must not fall as it goes from its low end to its high one.
        falls: A column with which it must not rise.
    """

    name: str = ""
    task: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    # A pair; `check` looks at it, since OmegaConf takes no 200 for a nested float.
    within: list[Any] = field(default_factory=list)
    classes: list[Any] = field(default_factory=list)
    rises: str = ""
    falls: str = ""

    def check(self, key: str) -> None:
        """Raise `Impossible` for the first value that cannot be, whatever the task."""
        need(bool(self.name), f"{key}.name", "expected what the case is about, found nothing")
        asks = [bool(self.within), bool(self.classes), bool(self.rises), bool(self.falls)]
        need(
            sum(asks) == 1,
            key,
            f"expected one of within, classes, rises and falls, found {sum(asks)}: a case asks one thing",
        )
        need(
            not self.within or is_range(self.within),
            f"{key}.within",
            f"expected [low, high] with low < high, found {self.within!r}",
        )
        for name, value in self.inputs.items():
            values = value if isinstance(value, list) else [value]
            plain = all(type(one) in (int, float) for one in values)
            need(
                plain and bool(values),
                f"{key}.inputs.{name}",
                f"expected a number, or one for each reading, found {value!r}",
            )

    def check_fits(self, key: str, contract: Contract, length: int, target: Target) -> None:
        """Raise `Impossible` unless the case can be asked of a task.

        Args:
            key: Of the case.
            contract: The task's.
            length: Readings in a window.
            target: What is predicted.
        """
        columns = [*contract.settings, *contract.sensors]
        for name in [*self.inputs, *filter(None, (self.rises, self.falls))]:
            need(name in columns, key, f"expected inputs of the contract, found {name!r}")
        for name, value in self.inputs.items():
            need(
                not isinstance(value, list) or len(value) == length,
                f"{key}.inputs.{name}",
                f"expected a number, or one for each of {length} readings, found {value!r}",
            )
        of_classes = target.kind == CLASS
        need(
            bool(self.classes) == of_classes,
            key,
            f"expected {'classes' if of_classes else 'within, rises or falls'} for target.kind {target.kind}",
        )
        unknown = [one for one in self.classes if one not in target.classes]
        need(not unknown, f"{key}.classes", f"expected some of {target.classes}, found {unknown}")
