"""Bugs in what a step does: noise, sampling, clipping, and which models are trained."""

from .bug import Bug, tests

NOISE, STREAM, PLAN = (f"interplant.privacy.{name}" for name in ("noise", "stream", "plan"))
DPSGD, STEPS = (f"interplant.privacy.{name}" for name in ("dpsgd", "steps"))
ONEPASS, LAYERS, LINEAR = (f"interplant.privacy.onepass{name}" for name in ("", "_layers", "_linear"))
TRAINING, CHECKS, ALIKE = (f"interplant.privacy.{name}" for name in ("training", "checks", "alike"))

OF_NOISE = (
    # --- how much noise ---
    Bug(
        "noise-1-percent-short",
        "Every ε that was ever stated is a little too low.",
        NOISE,
        (("self.deviation = plan.noise", "self.deviation = 0.99 * plan.noise"),),
        tests("privacy/test_noise", "test_it_is_never_smaller_than_charged_and_hardly_larger"),
    ),
    Bug(
        "noise-over-root-2",
        "Variance taken for deviation: ε is about 1.4 times what is stated.",
        STREAM,
        ((".mul_(-2.0).sqrt_()", ".mul_(-1.0).sqrt_()"),),
        (
            *tests(
                "privacy/test_stream",
                "test_gaussian_numbers_are_double_and_have_the_moments_and_tails_of_the_normal",
            ),
            *tests("privacy/test_noise", "test_it_is_never_smaller_than_charged_and_hardly_larger"),
        ),
    ),
    Bug(
        "no-noise",
        "Nothing is protected, and the ledger says otherwise.",
        STEPS,
        (("self.noise.add_to(flat).float()", "flat.float()"),),
        (
            *tests("privacy/test_training", "test_noise_has_the_magnitude_that_is_charged"),
            *tests("privacy/test_engines", "test_noise_has_the_size_that_is_charged"),
        ),
    ),
    Bug(
        "noise-without-clip",
        "Noise that forgets the clipping norm is too small wherever that is above 1.",
        NOISE,
        (("self.deviation = plan.noise * plan.clip *", "self.deviation = plan.noise *"),),
        tests("privacy/test_noise", "test_it_is_never_smaller_than_charged_and_hardly_larger"),
    ),
    Bug(
        "margin-missing",
        "What rounding adds to the sensitivity is paid by nobody.",
        NOISE,
        (("* (1.0 + margin(plan.noise, count))", ""),),
        tests("privacy/test_killers", "test_the_noise_that_is_drawn_holds_the_margin"),
    ),
    Bug(
        "single-precision-unpaid",
        "Norms, factors and sums are rounded, a record moves the sum by a little more than the clip.",
        NOISE,
        (("SINGLE_PRECISION = 1e-2", "SINGLE_PRECISION = 0.0"),),
        tests("privacy/test_killers", "test_the_noise_that_is_drawn_holds_the_margin"),
    ),
    # --- which noise ---
    Bug(
        "noise-repeated",
        "One step subtracted from another leaves the data bare.",
        NOISE,
        ((".view(steps, self.count)", ".view(steps, self.count)[:1].expand(steps, -1)"),),
        (
            *tests("privacy/test_noise", "test_every_step_has_its_own"),
            *tests("privacy/test_training", "test_noise_is_fresh_in_every_step"),
        ),
    ),
    Bug(
        "noise-that-goes-in-pairs",
        "One weight's noise tells another's: their difference leaves bare.",
        STREAM,
        (
            (
                "torch.mul(radius[: len(out) - half], angle.sin()",
                "torch.mul(radius[: len(out) - half], angle.cos()",
            ),
        ),
        tests(
            "privacy/test_stream",
            "test_gaussian_numbers_are_double_and_have_the_moments_and_tails_of_the_normal",
        ),
    ),
    Bug(
        "noise-from-the-experiments-seed",
        "Who knows the seed subtracts the noise.",
        STREAM,
        (("secrets.token_bytes(48) if secret is None", "np.random.bytes(48) if secret is None"),),
        (
            *tests("privacy/test_stream", "test_two_streams_have_nothing_in_common_whatever_the_seeds"),
            *tests("privacy/test_training", "test_the_same_torch_seed_does_not_give_the_same_noise"),
        ),
    ),
    Bug(
        "key-of-32-bits",
        "All keys can be tried in an hour: that is what torch's generator keeps of a seed.",
        STREAM,
        (("secrets.token_bytes(48) if secret is None", "secrets.token_bytes(4) * 12 if secret is None"),),
        tests("privacy/test_stream", "test_the_key_is_of_the_operating_system_and_whole"),
    ),
    Bug(
        "fork-shares-the-key",
        "Two trainers forked from one process add the same noise to different data.",
        STREAM,
        (("if self._secret is None and os.getpid() != self._process:", "if False:"),),
        tests("privacy/test_stream", "test_a_forked_process_draws_other_numbers"),
    ),
    # --- how numbers are held ---
    Bug(
        "noise-in-single-precision",
        "Noise that ends at 5.8 deviations on a lattice: some outputs are possible for one neighbour only.",
        STREAM,
        (
            (
                "found = torch.empty(count, dtype=torch.float64)",
                "found = torch.empty(count, dtype=torch.float32)",
            ),
        ),
        tests(
            "privacy/test_stream",
            "test_gaussian_numbers_are_double_and_have_the_moments_and_tails_of_the_normal",
        ),
    ),
    Bug(
        "sum-off-the-grid",
        "The low bits of what leaves tell the sum (Mironov 2012).",
        NOISE,
        (("total.div_(self.grid).round_().mul_(self.grid).add_(", "total.add_("),),
        tests(
            "privacy/test_noise",
            "test_what_leaves_lies_on_one_grid_whatever_the_sum",
            "test_adding_to_a_sum_is_rounding_the_ideal_result",
        ),
    ),
    Bug(
        "grid-wider-than-the-margin",
        "Rounding to the grid moves neighbours further apart than is paid for.",
        NOISE,
        (("2.0 ** math.floor(math.log2(", "2.0 ** math.ceil(math.log2("),),
        tests("privacy/test_killers", "test_the_grid_is_never_wider_than_what_the_margin_pays_for"),
    ),
    Bug(
        "sum-in-single-precision",
        "The sum is rounded before it meets the grid, by more than the margin pays for.",
        STEPS,
        (("shaped.double() if kept is None", "shaped if kept is None"),),
        tests("privacy/test_killers", "test_the_sum_that_meets_the_noise_is_double"),
    ),
)

OF_SAMPLING = (
    Bug(
        "no-subsampling",
        "Everybody is in every step, at the price of a sample.",
        PLAN,
        (("yield np.flatnonzero(stream.uniform(count) < self.q)", "yield np.arange(count)"),),
        tests(
            "privacy/test_plan",
            "test_sampler_has_the_rate_that_is_charged",
            "test_every_unit_is_as_likely_as_any_other_and_steps_are_independent",
        ),
    ),
    Bug(
        "batches-of-a-fixed-size",
        "A shuffled loader at Poisson's price: the accountant's theorem does not hold for it.",
        PLAN,
        (
            (
                "yield np.flatnonzero(stream.uniform(count) < self.q)",
                "yield np.argsort(stream.uniform(count))[: round(self.q * count)]",
            ),
        ),
        tests("privacy/test_plan", "test_sampler_has_the_rate_that_is_charged"),
    ),
    Bug(
        "one-sample-for-all-steps",
        "Who is drawn at all is in every step of the round, at the price of chance anew.",
        PLAN,
        (
            (
                "for _ in range(self.steps):\n"
                "            yield np.flatnonzero(stream.uniform(count) < self.q)",
                "chosen = np.flatnonzero(stream.uniform(count) < self.q)\n"
                "        for _ in range(self.steps):\n            yield chosen",
            ),
        ),
        tests("privacy/test_plan", "test_every_unit_is_as_likely_as_any_other_and_steps_are_independent"),
    ),
    Bug(
        "rate-from-the-datas-size",
        "The batch follows the true number of records, which nobody has declared.",
        PLAN,
        (("stream.uniform(count) < self.q", "stream.uniform(count) < min(1.0, self.batch / count)"),),
        tests("privacy/test_plan", "test_rate_does_not_follow_the_size_of_the_data"),
    ),
    Bug(
        "batches-from-the-experiments-seed",
        "Who knows the seed knows who was in which batch: sampling hides nothing.",
        PLAN,
        (
            (
                "yield np.flatnonzero(stream.uniform(count) < self.q)",
                "yield np.flatnonzero(np.random.random(count) < self.q)",
            ),
        ),
        tests("privacy/test_plan", "test_two_runs_of_a_plan_draw_different_batches_whatever_the_seeds"),
    ),
    Bug(
        "k-ignored",
        "All windows of a machine enter a step, not the plan's K.",
        PLAN,
        (("if len(windows) <= self.windows:", "if len(windows):"),),
        tests("privacy/test_plan", "test_at_most_k_windows_are_drawn_each_as_likely"),
    ),
    Bug(
        "always-the-same-windows",
        "A machine's first K windows are in every one of its steps, and the others never.",
        PLAN,
        (
            (
                "windows[np.argpartition(stream.uniform(len(windows)), self.windows)[: self.windows]]",
                "windows[: self.windows]",
            ),
        ),
        tests("privacy/test_plan", "test_at_most_k_windows_are_drawn_each_as_likely"),
    ),
    Bug(
        "windows-drawn-with-replacement",
        "A window may count K times in its machine's mean, which the plan rules out.",
        PLAN,
        (
            (
                "windows[np.argpartition(stream.uniform(len(windows)), self.windows)[: self.windows]]",
                "windows[(stream.uniform(self.windows) * len(windows)).astype(np.int64)]",
            ),
        ),
        tests("privacy/test_plan", "test_at_most_k_windows_are_drawn_each_as_likely"),
    ),
    Bug(
        "empty-batch-skipped",
        "A step without noise tells that nobody was drawn.",
        TRAINING,
        (
            (
                "            for chosen in plan.batches(units.count, stream):\n",
                "            for chosen in plan.batches(units.count, stream):\n"
                "                if not len(chosen):\n                    continue\n",
            ),
        ),
        tests(
            "privacy/test_training",
            "test_empty_batches_are_noise_alone_and_counted",
            "test_steps_that_draw_no_machine_are_noise_alone",
        ),
    ),
)

OF_CLIPPING = (
    Bug(
        "clip-doubled",
        "One record moves the sum by twice what the noise is made for.",
        STEPS,
        (
            (
                "return (clip / (norms + 1e-6)).clamp(max=1.0)",
                "return (2 * clip / (norms + 1e-6)).clamp(max=1.0)",
            ),
        ),
        (
            *tests("privacy/test_training", "test_one_record_moves_the_sum_by_the_clip_at_most"),
            *tests("privacy/test_onepass", "test_no_sample_moves_the_sum_by_more_than_the_clip"),
        ),
    ),
    Bug(
        "normalised-without-a-norm",
        "A gradient is multiplied by a constant and not bounded at all.",
        STEPS,
        (("return clip / (norms + 0.01)", "return clip / (0.0 * norms + 0.01)"),),
        tests("privacy/test_onepass", "test_normalised_clipping_brings_every_gradient_near_the_clip"),
    ),
    Bug(
        "one-layer-left-out-of-the-norm",
        "The first layer's gradient is not bounded (Opacus's way).",
        DPSGD,
        (
            (
                "torch.linalg.vector_norm(own, dim=1) for own in units]",
                "torch.linalg.vector_norm(own, dim=1) for own in units[1:]]",
            ),
        ),
        tests("privacy/test_training", "test_a_machine_gives_the_mean_of_its_windows_clipped_once"),
    ),
    Bug(
        "one-layer-left-out-of-the-norm-in-one-pass",
        "The first layer's gradient is not bounded (in one pass).",
        ONEPASS,
        (("torch.stack(squares).sum(0).sqrt()", "torch.stack(squares[1:] or squares).sum(0).sqrt()"),),
        tests("privacy/test_onepass", "test_the_clipped_sum_is_that_of_a_loop[cnn1d-9]"),
    ),
    Bug(
        "biases-left-out-of-the-norm-in-one-pass",
        "The bias of a layer whose gradients are formed is not bounded.",
        LINEAR,
        (("return sum(others, start=first)", "return first"),),
        tests("privacy/test_onepass", "test_the_clipped_sum_is_that_of_a_loop[cnn1d-9]"),
    ),
    Bug(
        "windows-clipped-one-by-one",
        "A machine of K windows moves the sum by K times the clip (Opacus's way).",
        DPSGD,
        (("units = [_by_unit(rows, self.windows)", "units = [_by_unit(rows, 1)"),),
        tests("privacy/test_training", "test_a_machine_gives_the_mean_of_its_windows_clipped_once"),
    ),
    Bug(
        "windows-clipped-one-by-one-in-one-pass",
        "A machine of K windows moves the sum by K times the clip (in one pass).",
        ONEPASS,
        (("batch.y, batch.weights, optimizer.windows)", "batch.y, batch.weights, 1)"),),
        tests("privacy/test_training", "test_a_machine_gives_the_mean_of_its_windows_clipped_once"),
    ),
    Bug(
        "norms-without-their-rounding",
        "Where positions cancel, single precision takes a long gradient for a short one.",
        LAYERS,
        (("squares + ROUNDING * uncancelled", "squares"),),
        tests("privacy/test_onepass", "test_gradients_that_cancel_along_a_sequence_are_not_taken_for_short"),
    ),
    Bug(
        "products-without-their-rounding",
        "Positions that cancel in a product have no norm, and drown everybody else's sum.",
        LAYERS,
        (("squared_lengths(grads.sum(1)) + ROUNDING * uncancelled", "squared_lengths(grads.sum(1))"),),
        tests("privacy/test_onepass", "test_what_cancels_in_a_product_is_not_taken_for_nothing"),
    ),
    Bug(
        "tiny-times-huge-taken-for-nothing",
        "A gradient whose factors overflow and underflow has a norm of nothing, and is not clipped.",
        LAYERS,
        (("longest > LONGEST**2", "longest > torch.inf"),),
        tests("privacy/test_onepass", "test_a_product_of_tiny_and_huge_is_not_taken_for_nothing"),
    ),
    Bug(
        "sum-carried-into-the-next-step",
        "A record that was drawn once is in every later step of the round.",
        DPSGD,
        (
            (
                "    optimizer.zero_grad(set_to_none=True)\n",
                "    sums = [one.summed_grad for one in optimizer.params]\n"
                "    optimizer.zero_grad(set_to_none=True)\n"
                "    for one, total in zip(optimizer.params, sums, strict=True):\n"
                "        one.summed_grad = total\n",
            ),
        ),
        tests("privacy/test_killers", "test_a_step_forgets_the_sum_of_the_one_before"),
    ),
    Bug(
        "sum-carried-into-the-next-step-in-one-pass",
        "The same, in one pass.",
        ONEPASS,
        (
            (
                "parameter.grad = parameter.summed_grad = None",
                'parameter.summed_grad = getattr(parameter, "summed_grad", None)',
            ),
        ),
        tests("privacy/test_killers", "test_a_step_forgets_the_sum_of_the_one_before"),
    ),
    Bug(
        "nan-not-zeroed",
        "One broken reading destroys the model for all, and tells that it was there (Opacus's way).",
        DPSGD,
        (("bad = ~torch.isfinite(norms)", "bad = torch.zeros_like(norms, dtype=torch.bool)"),),
        tests("privacy/test_training", "test_a_bad_window_takes_its_machine_out_and_no_other"),
    ),
    Bug(
        "nan-not-zeroed-in-one-pass",
        "The same, in one pass.",
        ONEPASS,
        (("bad = not_finite(norms)", "bad = torch.zeros(0, dtype=torch.long)"),),
        tests("privacy/test_engines", "test_one_bad_record_does_no_more_than_a_good_one"),
    ),
    Bug(
        "batches-not-filled-up",
        "Weights that a last digit decides over: a unit turns the gradients of others round.",
        TRAINING,
        (("units.batch(part, fill, stream)", "units.batch(part, 1, stream)"),),
        tests("privacy/test_alike", "test_a_unit_does_not_move_the_gradients_of_others"),
    ),
    Bug(
        "places-taken-for-alike",
        "A model that gives a unit other last digits at another place is trained in batches.",
        ALIKE,
        (("        if not all(torch.equal(", "        if False and not all(torch.equal("),),
        tests(
            "privacy/test_alike",
            "test_a_model_that_tells_places_or_sizes_apart_is_given_one_unit_at_a_time[False]",
            "test_what_is_tried_would_notice",
        ),
    ),
    Bug(
        "places-tried-with-the-weights-that-came",
        "A coordinator that sends zeros first has every model taken for safe: with them nothing differs.",
        ALIKE,
        (("    _shake(probe)\n", ""),),
        tests("privacy/test_alike", "test_weights_with_which_nothing_differs_yet_do_not_hide_it"),
    ),
    Bug(
        "logarithms-not-tried",
        "Logarithms come out of another routine past the last full block: a unit moves the gradients of "
        "others by their last digits.",
        "interplant.privacy.losses",
        (('if name not in ("bce", "cross_entropy"):', "if True:"),),
        tests("privacy/test_losses", "test_a_loss_with_logarithms_is_tried_itself"),
    ),
    Bug(
        "losses-not-filled-up",
        "A unit moves the losses of others by their last digits, which weights can be chosen to decide over.",
        "interplant.privacy.statistics",
        (("len(part) + -len(part) % fill", "len(part)"),),
        tests("privacy/test_alike", "test_a_window_does_not_move_the_losses_of_others"),
    ),
    Bug(
        "dropout-foreseen",
        "Masks fall by place: a unit that is left out shifts everybody else's, which are known.",
        TRAINING,
        (("torch.manual_seed(int(stream.part", "torch.manual_seed(0 * int(stream.part"),),
        tests("privacy/test_alike", "test_nobody_can_foresee_dropout"),
    ),
    Bug(
        "denominator-from-the-batch",
        "How many were drawn shows in the length of the update.",
        TRAINING,
        (
            (
                "                stepper.descend([",
                "                stepper.optimizer.expected_batch_size = max(1, len(chosen))\n"
                "                stepper.descend([",
            ),
        ),
        (
            *tests("privacy/test_training", "test_the_denominator_is_the_plans_not_the_datas"),
            *tests("privacy/test_engines", "test_the_denominator_is_the_plans"),
        ),
    ),
)

OF_MODELS = (
    Bug(
        "mixing-accepted",
        "A model in which samples meet: clipping one of them bounds nothing.",
        CHECKS,
        (("    _check_independent(probe, inputs, other, outputs)\n", ""),),
        (
            *tests("privacy/test_checks", "test_a_model_that_mixes_samples_is_refused"),
            *tests("privacy/test_engines", "test_a_model_that_mixes_samples_is_refused_by_every_engine"),
        ),
    ),
    Bug(
        "mixing-behind-a-gate-accepted",
        "A model that begins to mix samples with its first step.",
        CHECKS,
        (("0.05 * torch.randn(parameter.shape", "0.0 * torch.randn(parameter.shape"),),
        tests("privacy/test_killers", "test_mixing_behind_a_gate_that_opens_later_is_found"),
    ),
    Bug(
        "statistics-accepted",
        "A model that keeps a running mean of the data, which no noise covers.",
        CHECKS,
        (("    _check_buffers(probe, inputs)\n    _check", "    _check"),),
        tests("privacy/test_checks", "test_a_model_that_keeps_statistics_is_refused_by_the_buffers_name"),
    ),
    Bug(
        "norms-taken-on-trust",
        "A layer that one pass gets wrong is clipped by a wrong norm.",
        CHECKS,
        (("if _one_pass_right(probe, inputs):", "if True:"),),
        tests(
            "privacy/test_engines",
            "test_wrong_norms_are_found_before_anything_is_charged",
            "test_other_models_take_opacus_saying_so",
        ),
    ),
    Bug(
        "gradients-taken-on-trust",
        "One of Opacus's ways that is wrong for a layer gives wrong norms.",
        CHECKS,
        (("if _right(probe, inputs, mode):", "if True:"),),
        tests("privacy/test_checks", "test_a_mode_with_wrong_gradients_is_not_chosen"),
    ),
    Bug(
        "buffers-sent",
        "What a model keeps beside its weights leaves without noise.",
        TRAINING,
        (
            ("old = dict(before.named_parameters())", "old = before.state_dict()"),
            (
                "for name, parameter in after.named_parameters()\n        if parameter.requires_grad\n",
                "for name, parameter in after.state_dict().items()\n",
            ),
        ),
        tests("privacy/test_training", "test_buffers_never_leave", "test_frozen_parameters_stay"),
    ),
)
