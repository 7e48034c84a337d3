"""Bugs in what is charged and what leaves: plans, accounts, the ledger, receipts, policy, the gateway."""

from .bug import Bug, tests

PLAN, TRAINING = "interplant.privacy.plan", "interplant.privacy.training"
STATISTICS = "interplant.privacy.statistics"
ACCOUNTING, LEDGER, HISTORY = (f"interplant.privacy.{name}" for name in ("accounting", "ledger", "history"))
SCHEMA, RELEASE, RECEIPT = (f"interplant.core.{name}" for name in ("task_config", "release", "receipt"))
ROUND, PARTICIPATION = "interplant.client.round_training", "interplant.client.participation"
LOOKING, PROPOSALS, RUNWAY = (f"interplant.client.{name}" for name in ("looking", "proposals", "runway"))
POLICY, GATEWAY = "interplant.client.policy", "interplant.client.gateway"
QUALITY, MEASURING, ACCOUNT = (f"interplant.client.{name}" for name in ("quality", "measuring", "account"))
RELEASES = "interplant.server.releases"
WINDOWS, SHARES, CONTRACT = (f"interplant.data.{name}" for name in ("windows", "shares", "contract"))

OF_CHARGES = (
    Bug(
        "charged-rate-of-a-loader",
        "q is 1/len(loader), as in Opacus: less is charged than is drawn.",
        PLAN,
        (
            (
                "Event(self.unit, self.q, float(self.noise)",
                "Event(self.unit, 1 / -(-self.records // self.batch), float(self.noise)",
            ),
        ),
        tests("privacy/test_plan", "test_event_is_what_the_plan_runs"),
    ),
    Bug(
        "steps-charged-as-one",
        "A round of a hundred steps at the price of one.",
        PLAN,
        (("float(self.noise), self.steps)", "float(self.noise), 1)"),),
        tests("privacy/test_plan", "test_event_is_what_the_plan_runs"),
    ),
    Bug(
        "charged-after-the-noise",
        "A crash in the round leaves noise that nobody was charged for.",
        TRAINING,
        (
            ("    reserve()\n    metrics = measure()\n", "    metrics = measure()\n"),
            ("    finally:\n        noise.close()\n", "    finally:\n        noise.close()\n    reserve()\n"),
        ),
        (
            *tests("privacy/test_training", "test_the_charge_is_written_before_noise_is_drawn"),
            *tests("privacy/test_engines", "test_the_charge_comes_once_and_before_noise"),
        ),
    ),
    Bug(
        "refused-charge-ignored",
        "A plant whose budget is spent trains on.",
        TRAINING,
        (
            (
                "    reserve()\n    metrics = measure()\n",
                "    try:\n        reserve()\n    except InterplantError:\n        pass\n"
                "    metrics = measure()\n",
            ),
        ),
        (
            *tests("privacy/test_training", "test_the_charge_is_written_before_noise_is_drawn"),
            *tests("privacy/test_engines", "test_a_refused_charge_runs_nothing"),
        ),
    ),
)

OF_ACCOUNTS = (
    Bug(
        "accountant-reset",
        "Each round is held against the budget alone, as if it were the first.",
        LEDGER,
        (
            (
                "accounting.spent([*history, *plan.events], caps.delta",
                "accounting.spent(plan.events, caps.delta",
            ),
        ),
        (
            *tests("privacy/test_ledger", "test_a_spent_budget_is_refused_and_nothing_is_written"),
            *tests("client/test_round_training", "test_a_spent_budget_refuses_and_charges_nothing"),
        ),
    ),
    Bug(
        "refund-after-a-crash",
        "A round whose noise was drawn and which then failed costs nothing.",
        HISTORY,
        (
            (
                "            self.committed.add(entry.id)\n",
                "            self.committed.add(entry.id)\n"
                "            paid = next(one for one in self.entries if one.id == entry.id)\n"
                "            _add(self._totals.setdefault((paid.lineage, paid.task), {}), paid.events)\n",
            ),
            ("        if entry.events:\n", '        if entry.events and entry.kind != "reserve":\n'),
        ),
        (
            *tests("privacy/test_ledger", "test_a_reservation_without_commit_is_spent"),
            *tests(
                "client/test_round_training",
                "test_a_round_that_fails_after_its_charge_is_charged_all_the_same",
            ),
        ),
    ),
    Bug(
        "other-tasks-forgotten",
        "The cap for all tasks is held against one task's history: each new task renews the budget.",
        LEDGER,
        (
            (
                '"policy.privacy.epsilon", self._history.events(lineage))',
                '"policy.privacy.epsilon", self._history.events(lineage, task))',
            ),
        ),
        tests("privacy/test_ledger", "test_a_task_has_a_cap_of_its_own_and_all_tasks_have_one"),
    ),
    Bug(
        "statistics-charged-to-nobody",
        "A number leaves beside the update that stands on no account.",
        HISTORY,
        (("return self.plan.events if self.plan", "return (self.plan.event,) if self.plan"),),
        tests("privacy/test_ledger", "test_what_leaves_beside_the_update_is_charged_with_it"),
    ),
    Bug(
        "metric-sent-plain",
        "A loss leaves without its noise.",
        STATISTICS,
        (("np.rint(noise / grid)", "0 * noise"),),
        tests(
            "privacy/test_statistics",
            "test_noise_has_the_magnitude_that_is_charged",
            "test_every_place_of_a_vector_has_the_noise_that_is_charged_for_all",
        ),
    ),
    Bug(
        "one-noise-for-a-whole-vector",
        "Every bin of a histogram has the same noise: one empty bin takes it off all others.",
        STATISTICS,
        (("stream.gaussian(len(total)).numpy()", "stream.gaussian(1).numpy().repeat(len(total))"),),
        tests(
            "privacy/test_statistics", "test_every_place_of_a_vector_has_the_noise_that_is_charged_for_all"
        ),
    ),
    Bug(
        "vector-clipped-place-by-place",
        "A unit moves every bin by the bound, and the whole by much more than was charged.",
        STATISTICS,
        (
            (
                "np.maximum(norms, statistic.bound))",
                "np.maximum(np.abs(block).max(axis=1), statistic.bound))",
            ),
        ),
        tests("privacy/test_statistics", "test_each_units_vector_is_clipped_as_a_whole"),
    ),
    Bug(
        "shares-not-by-unit",
        "A machine with many readings adds all of them to a histogram, whatever was charged for one.",
        SHARES,
        (("minlength=size + 1)[:size] / len(rows)", "minlength=size + 1)[:size] / 1.0"),),
        tests("data/test_shares", "test_no_unit_adds_more_than_the_bound_whatever_it_reads"),
    ),
    Bug(
        "answer-told-exactly",
        "Whether data fits its contract is billed, and told without noise: one reading turns it.",
        QUALITY,
        (
            (
                "bool(total[0] > limit)",
                "any(own.any() for own in bad_shares(frames(snapshot, task.split), task))",
            ),
        ),
        tests("client/test_quality", "test_one_bad_reading_is_no_refusal_where_noise_hides_it"),
    ),
    Bug(
        "answer-not-charged",
        "Whether data fits its contract is told with noise that stands on no account.",
        QUALITY,
        (("        charge(asked)\n", ""),),
        tests("client/test_quality", "test_good_data_trains_and_the_answer_is_charged_once"),
    ),
    Bug(
        "answer-drawn-anew",
        "Data that was refused is asked about again each round, until chance lets it in.",
        QUALITY,
        (("    if answer is None:\n", "    if answer is None or not answer.fits:\n"),),
        tests("client/test_quality", "test_bad_data_is_refused_again_and_again_for_one_charge"),
    ),
    Bug(
        "billed-answer-told-by-the-windows-too",
        "After the noised answer the exact check refuses all the same.",
        WINDOWS,
        (("    if checked:\n        return usable", "    if not checked:\n        return usable"),),
        tests("client/test_quality", "test_one_bad_reading_is_no_refusal_where_noise_hides_it"),
    ),
    Bug(
        "answer-outlives-its-charge",
        "A ledger put back gives the budget back, and the answer that it paid for goes on being told.",
        QUALITY,
        (("    account.ledger.require_receipt(answer.entries, answer.head)\n", ""),),
        tests("client/test_quality", "test_an_answer_is_worth_nothing_without_its_charge"),
    ),
    Bug(
        "refusal-for-data-leaves-no-receipt",
        "Data that is refused never brings an update: nothing would show that its ledger went back.",
        ROUND,
        (("        if charges:\n            seal()", "        if not charges:\n            seal()"),),
        tests("client/test_quality", "test_a_refusal_that_was_charged_leaves_a_receipt"),
    ),
    Bug(
        "one-cell-refuses-a-table",
        "A cell that is no number turns its column to text, and that refusal is exact and free.",
        CONTRACT,
        (('pd.to_numeric(frame[name], errors="coerce")', "pd.to_numeric(frame[name])"),),
        tests("data/test_contract", "test_a_cell_that_is_no_number_is_its_own_readings_affair"),
    ),
    Bug(
        "task-names-the-machines",
        "A task calls the cycle a machine: epsilon by machine protects no machine.",
        POLICY,
        (("    check_columns(plant, task)\n", ""),),
        tests("client/test_policy", "test_the_plant_says_which_column_tells_machines"),
    ),
    Bug(
        "unit-changed-after-the-fact",
        "A task comes back with a smaller unit on data that it was agreed for by machine.",
        POLICY,
        (("[*map(config.dump, parts), task.privacy.unit]", "[*map(config.dump, parts)]"),),
        tests(
            "client/test_hostile_coordinator",
            "test_a_private_task_cannot_come_back_with_other_questions_about_the_data",
        ),
    ),
    Bug(
        "classes-changed-after-the-fact",
        "A task comes back with other classes again and again, and reads the labels off the refusals.",
        POLICY,
        (
            (
                "(task.contract, task.window, task.target, task.split)",
                "(task.contract, task.window, task.split)",
            ),
        ),
        tests(
            "client/test_hostile_coordinator",
            "test_a_private_task_cannot_come_back_with_other_questions_about_the_data",
        ),
    ),
    Bug(
        "measured-before-the-charge",
        "A crash after a look at the data leaves its result without a charge.",
        MEASURING,
        (
            (
                "        charge = account.reserve(asked, RUN, 0)\n",
                "        list(frames(snapshot, task.split))\n"
                "        charge = account.reserve(asked, RUN, 0)\n",
            ),
        ),
        tests("client/test_measuring", "test_the_charge_comes_before_the_data_is_read"),
    ),
    Bug(
        "size-told-exactly",
        "The count of units is told as it is.",
        MEASURING,
        (("round(noised(np.ones(count), one, Stream()))", "count"),),
        tests("client/test_measuring", "test_a_size_is_never_told_exactly"),
    ),
    Bug(
        "ranges-charged-for-one-sensor",
        "All sensors' histograms at the price of one.",
        MEASURING,
        (('Statistic("ranges", over.bound, noise)', 'Statistic("ranges", 1.0, noise)'),),
        tests("client/test_measuring", "test_noise_of_ranges_is_that_of_all_sensors_together"),
    ),
    Bug(
        "metric-not-clipped",
        "One unit with a huge loss shows through the noise.",
        STATISTICS,
        ((".clip(0.0, statistic.bound)", ".clip(-1e9, 1e9)"),),
        tests("privacy/test_statistics", "test_each_unit_adds_0_to_its_bound"),
    ),
    Bug(
        "metric-told-against-the-policy",
        "The task alone decides which numbers leave.",
        GATEWAY,
        (("statistics_of(task, plant.load().policy.metrics)", "statistics_of(task, task.metrics)"),),
        tests("client/test_gateway", "test_a_metric_stays_that_the_policy_does_not_name"),
    ),
    Bug(
        "statistics-not-in-the-budget",
        "A number beside the update is on the account, but no budget stops it.",
        LEDGER,
        (("[*history, *plan.events], caps.delta", "[*history, plan.event], caps.delta"),),
        tests("privacy/test_killers", "test_a_statistic_can_pass_the_budget_too"),
    ),
    Bug(
        "budget-at-the-tasks-delta",
        "The coordinator's task chooses the δ at which its own price is seen.",
        LEDGER,
        (("[*history, *plan.events], caps.delta,", "[*history, *plan.events], plan.delta,"),),
        tests("privacy/test_killers", "test_the_budget_is_counted_at_its_own_delta"),
    ),
    Bug(
        "equal-rounds-counted-once",
        "A hundred rounds of one kind at the price of the last.",
        ACCOUNTING,
        (("totals[key] = totals.get(key, 0) + event.steps", "totals[key] = event.steps"),),
        tests("privacy/test_accounting", "test_history_composes_over_rounds"),
    ),
    Bug(
        "account-in-the-smallest-unit",
        "What was charged by machine is read as if it were charged by window.",
        ACCOUNTING,
        (("unit = max((event.unit", "unit = min((event.unit"),),
        tests("privacy/test_accounting", "test_units_are_never_added_up_as_if_they_were_the_same"),
    ),
    Bug(
        "no-figure-is-within-the-budget",
        "An accountant that finds no number lets every round pass.",
        LEDGER,
        (("if not after.epsilon <= cap:", "if after.epsilon > cap:"),),
        tests("privacy/test_killers", "test_a_figure_that_is_none_passes_no_budget"),
    ),
    Bug(
        "group-size-ignored",
        "Charges by window are added to a machine's account as if a machine had one window.",
        ACCOUNTING,
        (("unit_windows if lifted else 1)", "1)"),),
        tests("privacy/test_accounting", "test_units_are_never_added_up_as_if_they_were_the_same"),
    ),
    Bug(
        "group-at-a-windows-noise",
        "The bound for a machine forgets that its windows shift a step together.",
        ACCOUNTING,
        (("noise=one.noise / one.group", "noise=one.noise"),),
        tests(
            "privacy/test_accounting", "test_a_group_that_is_always_drawn_whole_costs_as_one_with_less_noise"
        ),
    ),
    Bug(
        "a-windows-epsilon-said-to-be-a-machines",
        "Who has a hundred windows reads the protection of one.",
        ACCOUNTING,
        (
            (
                'return _grouped(_merge(history, "unit", windows), delta)',
                "return spent(history, delta).epsilon",
            ),
        ),
        tests(
            "privacy/test_accounting",
            "test_a_machine_costs_much_more_than_a_window",
            "test_machine_reading_is_exact_where_everybody_is_drawn",
        ),
    ),
    Bug(
        "one-accountant-on-its-word",
        "A fault in the accountant is believed.",
        ACCOUNTING,
        (("if not lowest <= epsilon <= _highest(check):", "if False:"),),
        tests("privacy/test_accounting", "test_accountants_that_disagree_are_refused[0.3]"),
    ),
    Bug(
        "sampling-that-did-not-happen-priced-in",
        "The accountant is told a rate ten times lower.",
        ACCOUNTING,
        (("noise, sampling_prob=q,", "noise, sampling_prob=0.1 * q,"),),
        tests(
            "privacy/test_accounting",
            "test_certificate_is_the_exact_figure_where_one_is_known_and_never_below",
        ),
    ),
)

OF_THE_LEDGER = (
    Bug(
        "charge-not-written",
        "The charge is gone with the process that made it.",
        LEDGER,
        (('connection.execute("COMMIT")', 'connection.execute("ROLLBACK")'),),
        tests("privacy/test_ledger", "test_history_is_read_from_disk_by_a_new_process"),
    ),
    Bug(
        "charge-not-on-the-disk",
        "A power cut after the noise undoes the charge.",
        LEDGER,
        (("PRAGMA synchronous = EXTRA", "PRAGMA synchronous = OFF"),),
        tests("privacy/test_killers", "test_a_charge_is_synced_with_its_folder_before_it_counts"),
    ),
    Bug(
        "chain-not-checked",
        "An entry made cheaper by hand is believed.",
        LEDGER,
        (("if previous != head.hash or digest != _digest(previous, text):", "if False:"),),
        tests("privacy/test_ledger", "test_a_changed_entry_is_named"),
    ),
    Bug(
        "removed-entry-not-missed",
        "A charge cut out of the chain is forgotten.",
        LEDGER,
        (
            ("if seq != expected:", "if False:"),
            ("if previous != head.hash or digest", "if digest"),
        ),
        tests("privacy/test_ledger", "test_a_removed_entry_is_named"),
    ),
    Bug(
        "rollback-accepted-while-running",
        "An older copy of the ledger put back gives the budget back.",
        LEDGER,
        (("if last != (known.hash,):", "if False:"),),
        tests("privacy/test_ledger", "test_an_older_copy_put_back_is_noticed_while_the_plant_runs"),
    ),
    Bug(
        "rollback-accepted-after-a-stop",
        "A restored backup gives the budget back, and the plant's own receipt is not asked.",
        ACCOUNT,
        (("with receipts.require(directory, ledger):", "with ledger.one_look():"),),
        tests(
            "client/test_round_training",
            "test_an_older_ledger_put_back_while_the_plant_is_stopped_is_refused_and_repaired",
            "test_a_clone_that_trained_elsewhere_is_refused",
        ),
    ),
    Bug(
        "fork-accepted",
        "Two clones of a disk spend one budget twice.",
        HISTORY,
        (("self.entries[entries - 1].hash == head", "True"),),
        tests("privacy/test_ledger", "test_a_fork_at_the_same_entry_is_noticed"),
    ),
    Bug(
        "repair-without-a-charge",
        "A ledger that went back is made good in words alone.",
        LEDGER,
        (('"missing": [asdict(event) for event in missing],', '"missing": [],'),),
        (
            *tests(
                "privacy/test_ledger",
                "test_a_ledger_that_a_receipt_is_ahead_of_is_refused_until_it_is_repaired",
            ),
            *tests(
                "client/test_round_training",
                "test_an_older_ledger_put_back_while_the_plant_is_stopped_is_refused_and_repaired",
            ),
        ),
    ),
    Bug(
        "repair-by-totals",
        "What a clone charged of its own is taken for what the receipt names.",
        HISTORY,
        (
            (
                "common = self._common(end)",
                "common = {name: self._kinds({name}) for name in self.lineages()}",
            ),
        ),
        tests("privacy/test_ledger", "test_what_a_copy_charged_of_its_own_stays_when_it_is_repaired"),
    ),
    Bug(
        "former-names-forgotten",
        "A dataset under a new name has a new budget.",
        HISTORY,
        (("[lineage, *self._former.get(lineage, ())]", "[lineage]"),),
        tests("privacy/test_ledger", "test_charges_under_a_former_name_count_for_the_lineage"),
    ),
    Bug(
        "coordinators-receipt-not-heard",
        "A disk that went back as a whole gives the budget back.",
        PARTICIPATION,
        (("        receipts.hear(plant, request.receipt)\n", ""),),
        tests("client/test_killers", "test_the_coordinators_copy_of_the_receipt_is_kept_for_the_ledger"),
    ),
    Bug(
        "receipts-of-others-believed",
        "Anybody can say what a plant has spent.",
        RECEIPT,
        (
            (
                "        key.verify(signature, _signed_text(receipt.as_dict()), ec.ECDSA(hashes.SHA256()))\n",
                "",
            ),
        ),
        tests("client/test_round_training", "test_a_receipt_is_signed_and_names_the_ledgers_end"),
    ),
)

OF_THE_PLANT = (
    Bug(
        "budget-told-by-a-look",
        "The time of the word says that the plant has new data, which its policy keeps to itself.",
        LOOKING,
        (
            (
                "    plant.look_begun.unlink(missing_ok=True)\n",
                "    plant.look_begun.unlink(missing_ok=True)\n    telling.tell(plant)\n",
            ),
        ),
        tests("client/test_looking", "test_a_look_tells_nothing_of_the_budget"),
    ),
    Bug(
        "same-budget-told-again",
        "The budget is told again and again, at times that say what else goes on.",
        PROPOSALS,
        (("    if _told(plant).get(task) == runs:\n        return None\n", ""),),
        tests("client/test_looking", "test_the_same_budget_is_told_once_whatever_data_comes"),
    ),
    Bug(
        "budget-counts-the-newest-snapshot",
        "The number of runs that is told steps down when there is a new snapshot.",
        RUNWAY,
        (
            (
                "    if not quality.billed(settings.policy.privacy, task):\n        return None\n"
                "    return quality.question(Plan.of(task, settings.data), settings.policy.privacy)\n",
                "    return None\n",
            ),
        ),
        tests("client/test_runway", "test_an_answer_about_readings_is_always_counted"),
    ),
    Bug(
        "noise-from-the-tasks-seed",
        "The coordinator, which writes the seed, subtracts the noise.",
        ROUND,
        (
            (
                "    if task.privacy.private:\n        return None\n    return Stream(",
                "    return Stream(",
            ),
        ),
        tests("client/test_round_training", "test_with_privacy_no_round_repeats"),
    ),
    Bug(
        "test-mode-taken-for-private",
        "Noise that the seed repeats passes a policy that allows only privacy.",
        SCHEMA,
        (("return self.mechanism == PRIVATE", 'return self.mechanism != "none"'),),
        (
            *tests("client/test_policy", "test_nothing_else_is"),
            *tests(
                "client/test_round_training",
                "test_noise_that_repeats_is_charged_nothing_and_called_not_private",
            ),
        ),
    ),
    Bug(
        "test-mode-release-called-private",
        "Who gets the model is told that its training was private.",
        RELEASES,
        (("one.mechanism == PRIVATE for one", 'one.mechanism != "none" for one'),),
        tests("server/test_releases", "test_one_plant_whose_noise_repeats_marks_the_release"),
    ),
    Bug(
        "test-mode-lineage-accepted-as-private",
        "A forged lineage calls training private whose noise the seed repeats.",
        RELEASE,
        (("all(plant.mechanism == PRIVATE for", 'all(plant.mechanism != "none" for'),),
        tests("core/test_release", "test_noise_that_repeats_makes_the_release_not_private"),
    ),
    Bug(
        "policy-on-privacy-not-asked",
        "A coordinator turns privacy off, and the plant trains.",
        POLICY,
        (("if not task.privacy.private and not policy.privacy.allow_none:", "if False:"),),
        tests("client/test_policy", "test_nothing_else_is"),
    ),
    Bug(
        "delta-not-capped",
        "A task with a large δ promises nothing and is admitted.",
        POLICY,
        (("if task.privacy.delta > allowed.delta:", "if False:"),),
        tests("client/test_policy", "test_nothing_else_is"),
    ),
    Bug(
        "unit-not-capped",
        "A plant that protects machines takes part in a task that protects windows.",
        POLICY,
        (("if task.privacy.unit not in allowed.units:", "if task.privacy.unit not in SIZES:"),),
        tests("client/test_policy", "test_nothing_else_is"),
    ),
    Bug(
        "nothing-charged",
        "Private rounds stand on no account.",
        ROUND,
        (
            (
                "if task.privacy.private:  # noise that can be repeated",
                "if not task.privacy.private:  # noise that can be repeated",
            ),
        ),
        tests("client/test_round_training", "test_the_receipt_says_what_the_ledger_says"),
    ),
    Bug(
        "data-read-on-a-spent-budget",
        "Whether data fits the contract is told to who has no budget left.",
        ROUND,
        (("        account.require(plan, *([answer] if answer else []))", "        pass"),),
        tests("client/test_killers", "test_a_spent_budget_is_refused_before_data_is_read"),
    ),
    Bug(
        "contract-asked-again-and-again",
        "Refusals of ever new ranges spell out the readings, and no budget pays.",
        POLICY,
        (("if known.get(task.name, terms) != terms:", "if False:"),),
        tests("client/test_hostile_coordinator", "test_the_plants_people_agree_to_new_terms_by_hand"),
    ),
    Bug(
        "snapshot-named-without-a-key",
        "Who guesses the data confirms the guess by its digest.",
        ACCOUNT,
        (("keyed_digest(snapshot.digest, directory.snapshot_key.read_bytes())", "snapshot.digest"),),
        tests("client/test_round_training", "test_the_receipt_names_the_snapshot_only_keyed"),
    ),
    Bug(
        "normalised-by-the-datas-range",
        "The extremes of the readings shape every gradient, and no budget pays for them.",
        WINDOWS,
        (
            (
                "low, high = limits(values[:, : len(contract.settings)], contract)",
                "low, high = values.min(0), values.max(0) + 1e-9",
            ),
        ),
        tests("data/test_windows", "test_normalise_is_bounded_and_linear_between"),
    ),
    Bug(
        "undeclared-arrays-let-out",
        "What lies beside the update in the trainer's answer leaves with it.",
        GATEWAY,
        (
            ("if update.keys() != weights.keys():", "if weights.keys() - update.keys():"),
            (
                "    for name, array in update.items():\n        if array.shape",
                "    for name, array in update.items():\n"
                "        if name not in weights:\n            continue\n        if array.shape",
            ),
        ),
        tests("client/test_gateway", "test_an_update_that_is_not_the_models_stays"),
    ),
)
