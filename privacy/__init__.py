"""Private training, accounting and the ledger."""

import os

# A product's last digits must not follow from where in memory a unit's numbers begin (see `alike`). Intel's
# library looks here when it is first used; it takes no more time this way.
os.environ.setdefault("MKL_CBWR", "AUTO")
