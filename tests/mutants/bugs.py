"""The catalogue of planted bugs, and its page in the documentation.

As a program it writes the page: ``python -m tests.mutants.bugs``.
"""

from .account_bugs import OF_ACCOUNTS, OF_CHARGES, OF_THE_LEDGER, OF_THE_PLANT
from .bug import ROOT
from .gate_bugs import OF_THE_GATE
from .training_bugs import OF_CLIPPING, OF_MODELS, OF_NOISE, OF_SAMPLING

PAGE = ROOT / "docs" / "privacy-mutants.md"

BUGS = (
    *(*OF_NOISE, *OF_SAMPLING, *OF_CLIPPING, *OF_MODELS),
    *(*OF_CHARGES, *OF_ACCOUNTS, *OF_THE_LEDGER, *OF_THE_PLANT, *OF_THE_GATE),
)

_HEAD = """# Planted bugs

A test suite that passes says little; one that notices says more. Each bug below is planted in turn, \
in memory, and the tests beside it are run: they must fail, by an assertion and not by a crash, and pass \
without the bug. `make test` does this every time (`tests/mutants/`); a bug that no longer fits the code is \
a failure too.

What the guarantees are that these bugs would break: [Privacy](privacy.md).

This page is made from the catalogue by `python -m tests.mutants.bugs`.

| bug | what it would mean | planted in | noticed by |
|---|---|---|---|
"""


def page() -> str:
    """Return the page of the documentation."""
    rows = []
    for bug in BUGS:
        files: dict[str, list[str]] = {}
        for killer in bug.killers:
            file, _, test = killer.partition("::")
            files.setdefault(file.removeprefix("tests/"), []).append(f"`{test}`")
        tests = "; ".join(f"`{file}`: {', '.join(names)}" for file, names in files.items())
        rows.append(f"| {bug.name} | {bug.meaning} | `{bug.path.relative_to(ROOT)}` | {tests} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
