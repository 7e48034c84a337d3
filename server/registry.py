"""The coordinator's memory: plants, invitations, runs, rounds, releases and history.

Several processes use one database at once; each method is one transaction. What comes back are
plain frozen values of `interplant.server.records`. Each subject has a module: `enrolments`,
`run_records`, `release_records`; the history is in `store`.
"""

from interplant.server.enrolments import Enrolments
from interplant.server.release_records import ReleaseRecords
from interplant.server.run_records import RunRecords


class Registry(Enrolments, RunRecords, ReleaseRecords):
    """An open registry; safe to share between threads, and between processes by opening it in each."""
