"""Processes that only read a ledger stay small: no torch, no Opacus, no accountant."""

import subprocess
import sys


def test_light_modules_import_nothing_heavy() -> None:
    code = (
        "import sys, interplant.privacy.ledger, interplant.privacy.accounting, "
        "interplant.privacy.plan, interplant.privacy.training, interplant.privacy.checks\n"
        "print([m for m in ('torch', 'opacus', 'dp_accounting', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
