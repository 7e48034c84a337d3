"""Bugs in what a release's trial tells: a score and who pays for it, a verdict, how often it was asked."""

from .bug import Bug, tests

GATE, HOLDOUT, SCORING = (f"interplant.client.{name}" for name in ("gate", "holdout", "scoring"))
SCORES, VERDICTS, GATEWAY = (f"interplant.client.{name}" for name in ("scores", "verdicts", "gateway"))
TRIES = "interplant.client.tries"

_NOISED = "total = statistics.noised(values, self.one, Stream())"

OF_THE_GATE = (
    Bug(
        "gate-tells-what-is-billed",
        "A release's verdict tells exactly, for nothing, what the rounds tell with noise.",
        HOLDOUT,
        (("checked = billed(plant.load().policy.privacy, task)", "checked = False"),),
        tests("client/test_deployment", "test_a_verdict_does_not_tell_for_nothing_what_the_plant_bills"),
    ),
    Bug(
        "score-not-charged",
        "A number about the hold-out leaves that stands on no account.",
        SCORING,
        (
            (
                "charge = account.reserve(asked, RUN, 0)",
                'charge = Reservation("", 0, RUN, 0, task.name, account.lineage, asked)',
            ),
            ("        self.account.ledger.commit(self.charge)\n", ""),
        ),
        tests(
            "client/test_scoring",
            "test_a_score_is_the_mean_loss_over_the_public_number_of_units_and_is_charged",
        ),
    ),
    Bug(
        "score-charged-after-the-look",
        "A crash after the hold-out was read leaves a look without a charge.",
        SCORING,
        (
            (
                "    paid = pay(directory, release)\n",
                "    holdout.score_windows(directory, snapshot, release.task)\n"
                "    paid = pay(directory, release)\n",
            ),
        ),
        tests("client/test_scoring", "test_the_charge_is_on_the_disk_before_the_hold_out_is_read"),
    ),
    Bug(
        "score-not-clipped",
        "One machine at which the release is far off shows through the noise.",
        SCORING,
        (
            (
                _NOISED,
                "total = float(values.sum()) + statistics.noised(np.empty(0), self.one, Stream())",
            ),
        ),
        tests("client/test_scoring", "test_each_unit_adds_no_more_than_the_bound"),
    ),
    Bug(
        "score-with-less-noise-than-charged",
        "The noise is a quarter of what the ledger was told.",
        SCORING,
        (
            (
                _NOISED,
                "total = statistics.noised("
                'values, Statistic("score", self.one.bound, self.one.noise / 4), Stream())',
            ),
        ),
        tests("client/test_scoring", "test_the_noise_is_that_of_the_charge"),
    ),
    Bug(
        "score-sent-plain",
        "The mean loss on the hold-out leaves without noise.",
        SCORING,
        ((_NOISED, "total = float(values.clip(0.0, self.one.bound).sum())"),),
        tests("client/test_scoring", "test_the_noise_is_that_of_the_charge"),
    ),
    Bug(
        "score-of-releases-that-passed",
        "That there is a score tells the verdict, exactly and for nothing.",
        GATE,
        (
            (
                "    scoring.score(plant, snapshot, release)\n"
                "    return measure(plant, snapshot, release, champion)\n",
                "    figures = measure(plant, snapshot, release, champion)\n"
                "    scoring.score(plant, snapshot, release)\n"
                "    return figures\n",
            ),
        ),
        tests("client/test_scoring", "test_a_score_comes_whatever_the_trial_finds_and_does_not_follow_it"),
    ),
    Bug(
        "score-told-whatever-the-policy-says",
        "A plant that wants nothing told of its trials tells a number about each.",
        SCORES,
        (
            (
                'if plant.load().policy.release.report != "score" or state != RECEIVED:',
                "if state != RECEIVED:",
            ),
        ),
        tests("client/test_scoring", "test_only_score_tells_a_score"),
    ),
    Bug(
        "unpaid-score-let-out",
        "The gateway takes a score's charge on its word.",
        GATEWAY,
        (("    if not paid:\n", "    if False:\n"),),
        tests("client/test_scoring", "test_the_gateway_holds_back_a_score_that_was_not_paid_for"),
    ),
    Bug(
        "verdict-told-under-nothing",
        "The coordinator learns by a release that it wrote what a plant's readings say of it.",
        VERDICTS,
        (('if policy.release.report == "verdict" or free:', 'if policy.release.report != "score" or free:'),),
        tests("client/test_deployment", "test_nothing_hides_every_verdict_that_depends_on_data"),
    ),
    Bug(
        "verdict-past-the-gateway",
        "The one way out lets a verdict pass that the policy keeps.",
        GATEWAY,
        (
            (
                'if told != "verdict" and state != RECEIVED and code not in DATA_FREE:',
                "if False:",
            ),
        ),
        tests("client/test_scoring", "test_the_gateway_lets_no_verdict_out_that_the_policy_keeps"),
    ),
    Bug(
        "own-cases-told",
        "The coordinator asks one release after the other what the plant's own sanity cases say.",
        VERDICTS,
        (('"slow", "case")', '"slow", "case", "own_case")'),),
        tests("client/test_sanity", "test_a_case_of_the_plants_own_is_nobody_elses_business"),
    ),
    Bug(
        "tries-forgotten",
        "Each release is tried as if it were the first: by chance, a bad one passes in the end.",
        TRIES,
        (("len(before) + 1, level(before, alpha))", "1, level([], alpha))"),),
        tests("client/test_tries", "test_each_release_is_another_try_and_the_same_again_is_not"),
    ),
    Bug(
        "try-not-written",
        "What was tried is gone with the process that tried it: a trial that is killed counts for nothing.",
        TRIES,
        (("        self._write([*known, made])\n", ""),),
        tests("client/test_tries", "test_each_release_is_another_try_and_the_same_again_is_not"),
    ),
    Bug(
        "tries-begun-anew-by-each-snapshot",
        "A snapshot with one new reading makes a hold-out that was never asked.",
        TRIES,
        (("SHARED: Final = 0.5", "SHARED: Final = 1.0"),),
        tests("client/test_tries", "test_what_a_snapshot_adds_begins_nothing_anew_until_half_is_new"),
    ),
)
