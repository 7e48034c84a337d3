"""What a plant's agent does with releases: receives, tries and reports them, and goes back from them."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from interplant.client import receiving, reports, rollback, scores, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.gateway import let_out_deployment
from interplant.client.link import Link
from interplant.client.moments import Pause
from interplant.client.trainer import KeptTrainer
from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError, Refusal
from interplant.core.files import sha256_file
from interplant.core.release import ReleaseRefused, check_id
from interplant.core.signing import MANIFEST

log = logging.getLogger(__name__)

_TRY_AGAIN = 60.0


class ReleaseHandling:
    """A plant's releases.

    Args:
        plant: The plant's directory.
        trainer: Tries them.
        link: Returns the connection; raises `AwayError` while there is none.
        later: Has a job done in the agent's working thread, after those before it.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        trainer: KeptTrainer,
        link: Callable[[], Link],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._plant, self._trainer, self._link, self._later = plant, trainer, link, later
        self._decided: object = None
        self._mending = ""
        self._unheeded: dict[str, pb.Rollback] = {}
        self._offers: dict[str, pb.Release] = {}
        self._trying = Pause(first=_TRY_AGAIN)
        self._untried = False

    def receive(self, offer: pb.Release) -> None:
        """Fetch, verify and try a release, unless this plant knows it already."""
        if self._is_another(offer):
            log.error(
                "release %s: another of this name is here; it is not fetched, and not reported", offer.id
            )
            return
        self._offers[offer.task] = offer
        if verdicts.verdict_of(self._plant, offer.id) is None:
            try:
                folder = receiving.incoming(self._plant, offer.id)
                for file in offer.files:
                    self._link().fetch(file.blob, folder / Path(file.name).name)
                receiving.accept(self._plant, offer.id)
                self._try(offer.id)
            except ReleaseRefused as error:
                log.error("release %s refused: %s", offer.id, error)
        self._report(offer.id)

    def _try(self, release: str) -> None:
        """Try a release; a fault has left a verdict, and one whose trainer died is tried again later."""
        try:
            self._trainer.try_release(release)
        except Refusal as refusal:
            log.error("release %s: %s", release, refusal)

    def _is_another(self, offer: pb.Release) -> bool:
        """Whether a release of this name is here whose manifest is not the one on offer."""
        here = self._plant.releases / check_id(offer.id) / MANIFEST
        wanted = {file.blob.sha256 for file in offer.files if file.name == MANIFEST}
        return here.exists() and sha256_file(here) not in wanted

    def _wanted(self) -> list[pb.Release]:
        """What is on offer and neither here nor refused: a person wants it tried again."""
        found = []
        for offer in list(self._offers.values()):
            here = (self._plant.releases / offer.id).exists()
            if not here and verdicts.verdict_of(self._plant, offer.id) is None:
                found.append(offer)
        return found

    def _is_left(self) -> bool:
        """Whether a release is still to be tried."""
        return bool(verdicts.untried(self._plant) or self._wanted())

    def finish(self) -> None:
        """Try what an earlier process received and did not finish."""
        for release in verdicts.untried(self._plant):
            self._try(release)
            self._report(release, again=False)

    def look(self) -> None:
        """Finish what a killed process began with them, and report what was decided in another process."""
        for word in list(self._unheeded.values()):
            self.heed_rollback(word)
        self._try_again()
        changed = reports.changed(self._plant)
        if changed == self._decided:
            return
        try:
            with verdicts.deciding(self._plant):
                rollback.mend(self._plant)
        except (InterplantError, OSError) as error:
            if str(error) != self._mending:
                log.error("%s", error)
            self._mending = str(error)
            return
        self._decided, self._mending = changed, ""
        self._later(self.report_changes)

    def _try_again(self) -> None:
        """Try releases without a verdict, as one that a wrong file has kept from it, with growing pauses."""
        if self._untried or not self._trying.over(time.monotonic()):
            return
        if not self._is_left():
            self._trying.note(True, time.monotonic())
        else:
            self._untried = True
            self._later(self._try_untried)

    def _try_untried(self) -> None:
        try:
            self.finish()
            for offer in self._wanted():
                self.receive(offer)
        finally:
            self._trying.note(not self._is_left(), time.monotonic())
            self._untried = False

    def report_changes(self) -> None:
        """Report what was decided since it was reported last."""
        due, seen = reports.due(self._plant)
        for release in due:
            self._report(release)
        reports.settle(self._plant, seen)

    def heed_rollback(self, word: pb.Rollback) -> None:
        """The federation goes back from a release; the plant's policy says what that means here."""
        try:
            verdict = rollback.heed(self._plant, word.release, word.to)
        except (InterplantError, OSError) as error:
            if word.release not in self._unheeded:
                log.error("the federation goes back from release %r: %s; trying again", word.release, error)
            self._unheeded[word.release] = word
            return
        self._unheeded.pop(word.release, None)
        if verdict is not None:
            log.warning("release %s: %s", word.release, verdict.sentence)

    def _report(self, release: str, again: bool = True) -> None:
        """Report a release; that it was tried again is told only where there is something new to tell."""
        now = reports.report(self._plant, release)
        if now is not None and (again or not reports.was_told(self._plant, release, now)):
            state, code = now
            score = scores.told(self._plant, release, state)
            let_out_deployment(self._plant, release, state, code, score)
            self._link().report(release, state, code, score.value if score else None)
            reports.note(self._plant, release, now)
