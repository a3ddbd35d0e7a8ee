/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast_model_test.c - the forecaster as its users have it: calls and their refusals, what is known in advance is forecast,
 * nothing of the future is, work in slices gives the same, gates, trust, memory.
 */
#include <malloc.h>

#include <thundermq/forecast.h>

#include "forecast/rig.h"

TestSuite(forecast_model, .timeout = 60);

#define LEN 300u

static const uint32_t all_models[] = {THMQ_FORECAST_NAIVE, THMQ_FORECAST_SES,
				      THMQ_FORECAST_AR,    THMQ_FORECAST_ARIMA,
				      THMQ_FORECAST_MODES, THMQ_FORECAST_TRAFFIC};

static struct thmq_forecast *open_model(uint32_t model, uint32_t window)
{
	struct thmq_forecast *f;

	cr_assert_eq(
		thmq_forecast_open(
			THMQ_FORECAST_OPTS(.model = model, .window = window, .members = 6), &f),
		0);
	return f;
}

static struct thmq_forecast_stats stats(struct thmq_forecast *f)
{
	struct thmq_forecast_stats s = {.size = sizeof(s)};

	cr_assert_eq(thmq_forecast_stats(f, &s), 0);
	return s;
}

static void tick(struct thmq_forecast *f, double value)
{
	cr_assert_eq(thmq_forecast_feed(f, value), 0);
	cr_assert_eq(thmq_forecast_work(f, UINT32_MAX), 0);
}

/* ------------------------------------------------------------------- calls */

Test(forecast_model, options_out_of_bounds_are_refused)
{
	const struct thmq_forecast_opts wrong[] = {
		{.size = sizeof(struct thmq_forecast_opts), .flags = 8},
		{.size = sizeof(struct thmq_forecast_opts), .model = 7},
		{.size = sizeof(struct thmq_forecast_opts), .window = THMQ_FORECAST_WINDOW_MIN - 1},
		{.size = sizeof(struct thmq_forecast_opts), .window = THMQ_FORECAST_WINDOW_MAX + 1},
		{.size = sizeof(struct thmq_forecast_opts), .extension = 129},
		{.size = sizeof(struct thmq_forecast_opts),
		 .members = THMQ_FORECAST_MEMBERS_MAX + 1},
		{.size = sizeof(struct thmq_forecast_opts), .mode_max = 1},
		{.size = sizeof(struct thmq_forecast_opts),
		 .mode_max = THMQ_FORECAST_MODES_MAX + 1},
		{.size = sizeof(struct thmq_forecast_opts), .sift_max = 2001},
		{.size = sizeof(struct thmq_forecast_opts),
		 .horizon = THMQ_FORECAST_HORIZON_MAX + 1},
		{.size = sizeof(struct thmq_forecast_opts), .ar_max = 9},
		{.size = sizeof(struct thmq_forecast_opts), .ma_max = 5},
		{.size = sizeof(struct thmq_forecast_opts), .reserved = 1},
		{.size = sizeof(struct thmq_forecast_opts), .noise = -0.1},
		{.size = sizeof(struct thmq_forecast_opts), .noise = NAN},
		{.size = sizeof(struct thmq_forecast_opts), .noise = 11},
		{.size = 4},
	};
	struct thmq_forecast *f = (void *)&f, *same = f;
	double x[4] = {0}, modes[32];

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(wrong); i++) {
		cr_assert_eq(thmq_forecast_open(&wrong[i], &f), -EINVAL, "%zu", i);
		cr_assert_eq(thmq_forecast_decompose(x, 4, &wrong[i], modes), -EINVAL, "%zu", i);
		cr_assert(strlen(thmq_errmsg()) > 0);
	}
	cr_assert_eq(f, same, "a failed open changes nothing");
	cr_assert_eq(thmq_forecast_open(NULL, NULL), -EINVAL);
	cr_assert_eq(thmq_forecast_open(NULL, &f), 0);
	thmq_forecast_close(f);
	thmq_forecast_close(NULL);
}

Test(forecast_model, options_of_other_versions_are_taken_where_they_can_be)
{
	struct {
		struct thmq_forecast_opts o;
		uint64_t later;
	} newer = {.o = {.size = sizeof(newer)}};
	struct thmq_forecast_opts old = {
		.size = 12, .model = THMQ_FORECAST_SES, .window = 3 /* not seen */};
	struct thmq_forecast *f;

	cr_assert_eq(thmq_forecast_open(&old, &f), 0);
	thmq_forecast_close(f);
	cr_assert_eq(thmq_forecast_open(&newer.o, &f), 0);
	thmq_forecast_close(f);
	newer.later = 1;
	cr_assert_eq(thmq_forecast_open(&newer.o, &f), -E2BIG);
}

Test(forecast_model, calls_refuse_what_they_cannot_use_and_change_nothing)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_DEFAULT, 0);
	struct thmq_forecast_stats s = {.size = 4};
	double next[20] = {-1};

	cr_assert_eq(thmq_forecast_feed(NULL, 1), -EINVAL);
	cr_assert_eq(thmq_forecast_work(NULL, 1), -EINVAL);
	cr_assert_eq(thmq_forecast_predict(NULL, 1, next), -EINVAL);
	cr_assert_eq(thmq_forecast_mode(NULL, 0, next, 1), -EINVAL);
	cr_assert_eq(thmq_forecast_stats(NULL, &s), -EINVAL);
	cr_assert_eq(thmq_forecast_stats(f, NULL), -EINVAL);
	cr_assert_eq(thmq_forecast_stats(f, &s), -EINVAL);
	cr_assert_eq(thmq_forecast_predict(f, 1, next), -EAGAIN);
	cr_assert_eq(thmq_forecast_feed(f, NAN), -EINVAL);
	cr_assert_eq(thmq_forecast_feed(f, INFINITY), -EINVAL);
	cr_assert_eq(thmq_forecast_feed(f, -1.1e100), -EINVAL);
	cr_assert_eq(stats(f).values, 0);
	tick(f, 3);
	cr_assert_eq(thmq_forecast_predict(f, 17, next), -EINVAL, "beyond the horizon");
	cr_assert_eq(thmq_forecast_predict(f, 1, NULL), -EINVAL);
	cr_assert_eq(thmq_forecast_predict(f, 0, NULL), 0);
	cr_assert_eq(next[0], -1);
	cr_assert_eq(thmq_forecast_predict(f, 16, next), 0);
	cr_assert(next[0] == 3 && next[15] == 3);
	cr_assert_eq(thmq_forecast_mode(f, 0, next, 20), -ENOENT);
	thmq_forecast_close(f);
}

Test(forecast_model, decompose_refuses_and_gives_modes_that_add_up)
{
	static double x[LEN], modes[8 * LEN];
	int n;

	for (uint32_t i = 0; i < LEN; i++)
		x[i] = sin(i / 2.0) + sin(i / 15.0) + i / 100.0;
	cr_assert_eq(thmq_forecast_decompose(NULL, 10, NULL, modes), -EINVAL);
	cr_assert_eq(thmq_forecast_decompose(x, LEN, NULL, NULL), -EINVAL);
	cr_assert_eq(thmq_forecast_decompose(x, 3, NULL, modes), -EINVAL);
	cr_assert_eq(thmq_forecast_decompose(x, 65537, NULL, modes), -EINVAL);
	n = thmq_forecast_decompose(x, LEN, NULL, modes);
	cr_assert(n >= 3 && n <= 8, "%d", n);
	for (uint32_t i = 0; i < LEN; i++) {
		double sum = 0;

		for (int k = 0; k < n; k++)
			sum += modes[(size_t)k * LEN + i];
		cr_assert_float_eq(sum, x[i], 1e-11);
	}
	x[5] = NAN;
	cr_assert_eq(thmq_forecast_decompose(x, LEN, NULL, modes), -EINVAL);
}

/* --------------------------------------------------------------- forecasts */

/* Mean absolute error at the next tick, of the second half; *ret_naive: of the last value again. */
static double run(struct thmq_forecast *f, const double *x, uint32_t len, double *ret_naive)
{
	double error = 0, next;

	*ret_naive = 0;
	for (uint32_t i = 0; i + 1 < len; i++) {
		tick(f, x[i]);
		cr_assert_eq(thmq_forecast_predict(f, 1, &next), 0);
		if (i < len / 2)
			continue;
		error += fabs(next - x[i + 1]);
		*ret_naive += fabs(x[i] - x[i + 1]);
	}
	return error;
}

Test(forecast_model, a_wave_is_forecast_by_all_that_can)
{
	static double x[LEN];
	struct thmqi_prng p;
	double naive, error;

	thmqi_prng_seed(&p, 1);
	for (uint32_t i = 0; i < LEN; i++)
		x[i] = 100 + 50 * sin(i / 3.0) + 3 * rig_normal(&p);
	for (size_t k = 0; k < THMQI_ARRAY_COUNT(all_models); k++) {
		struct thmq_forecast *f = open_model(all_models[k], 64);

		error = run(f, x, LEN, &naive);
		if (all_models[k] == THMQ_FORECAST_NAIVE)
			cr_assert_float_eq(error, naive, 1e-9);
		else if (all_models[k] == THMQ_FORECAST_SES)
			cr_assert_lt(error, 1.1 * naive);
		else
			cr_assert(error < 0.6 * naive, "model %u: %.3f of naive", all_models[k],
				  error / naive);
		cr_assert_eq(stats(f).trusted, all_models[k] >= THMQ_FORECAST_AR, "model %u",
			     all_models[k]);
		thmq_forecast_close(f);
	}
}

Test(forecast_model, noise_about_a_level_is_smoothed)
{
	static double x[LEN];
	struct thmqi_prng p;
	double naive, error;
	struct thmq_forecast *f = open_model(THMQ_FORECAST_TRAFFIC, 64);

	thmqi_prng_seed(&p, 2);
	for (uint32_t i = 0; i < LEN; i++)
		x[i] = 100 + 10 * rig_normal(&p);
	error = run(f, x, LEN, &naive);
	cr_assert(error < 0.85 * naive, "%.3f of naive", error / naive);
	cr_assert_eq(stats(f).trusted, 1);
	thmq_forecast_close(f);
}

Test(forecast_model, a_random_walk_is_left_to_naive)
{
	static double x[LEN];
	struct thmqi_prng p;
	double naive, error;
	struct thmq_forecast *f = open_model(THMQ_FORECAST_TRAFFIC, 64);
	struct thmq_forecast_stats s;

	thmqi_prng_seed(&p, 3);
	x[0] = 1000;
	for (uint32_t i = 1; i < LEN; i++)
		x[i] = x[i - 1] + rig_normal(&p);
	error = run(f, x, LEN, &naive);
	s = stats(f);
	cr_assert(error < 1.05 * naive, "%.3f of naive", error / naive);
	cr_assert_gt(s.skipped_trust, 100, "it decomposes although that does not help");
	cr_assert_gt(s.decompositions, 10, "and is tried again now and then");
	cr_assert_lt(s.decompositions, 100);
	thmq_forecast_close(f);
}

Test(forecast_model, forecasts_stay_within_what_is_plausible)
{
	double next[16];

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(all_models); k++) {
		struct thmq_forecast *f = open_model(all_models[k], 32);
		double most = 0;

		for (uint32_t i = 0; i < 100; i++) {
			double v = i < 50 ? exp(i / 3.0) : exp((100 - i) / 3.0);

			most = i < 32 ? fmax(most, v) : exp(50 / 3.0);
			tick(f, v);
			cr_assert_eq(thmq_forecast_predict(f, 16, next), 0);
			for (int h = 0; h < 16; h++)
				cr_assert(next[h] >= 0 && next[h] <= 2 * most, "model %u: %g",
					  all_models[k], next[h]);
		}
		thmq_forecast_close(f);
	}
}

Test(forecast_model, degenerate_series_of_any_length_do_no_harm)
{
	double next[16];

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(all_models); k++)
		for (uint32_t kind = 0; kind < 6; kind++) {
			struct thmq_forecast *f = open_model(all_models[k], 24);

			for (uint32_t i = 0; i < 70; i++) {
				double v = kind == 0   ? 0
					   : kind == 1 ? -7
					   : kind == 2 ? i
					   : kind == 3 ? i == 40
					   : kind == 4 ? (i % 2 ? 1e100 : -1e100)
						       : (i / 9 % 2) * 1e-300;

				tick(f, v);
				cr_assert_eq(thmq_forecast_predict(f, 16, next), 0);
				for (int h = 0; h < 16; h++)
					cr_assert(isfinite(next[h]));
				if (kind < 2)
					cr_assert_eq(next[15], v);
			}
			thmq_forecast_close(f);
		}
}

/* ------------------------------------------------------------------ future */

/* The same past has the same forecasts, to the bit, whatever comes later. */
Test(forecast_model, changing_the_future_changes_no_forecast)
{
	static double x[LEN], y[LEN], said[LEN][4];
	double next[4];
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 4);
	for (uint32_t i = 0; i < LEN; i++) {
		x[i] = 50 + 20 * sin(i / 4.0) + rig_normal(&p);
		y[i] = i < 200 ? x[i] : 1000 * rig_uniform(&p);
	}
	for (size_t k = 0; k < THMQI_ARRAY_COUNT(all_models); k++) {
		struct thmq_forecast *f = open_model(all_models[k], 64),
				     *g = open_model(all_models[k], 64);
		bool differs = false;

		for (uint32_t i = 0; i < LEN; i++) {
			tick(f, x[i]);
			cr_assert_eq(thmq_forecast_predict(f, 4, said[i]), 0);
		}
		for (uint32_t i = 0; i < LEN; i++) {
			tick(g, y[i]);
			cr_assert_eq(thmq_forecast_predict(g, 4, next), 0);
			if (i < 200)
				cr_assert_eq(memcmp(next, said[i], sizeof(next)), 0,
					     "model %u, tick %u", all_models[k], i);
			differs |= memcmp(next, said[i], sizeof(next)) != 0;
		}
		cr_assert(differs);
		thmq_forecast_close(f);
		thmq_forecast_close(g);
	}
}

/* A value that comes while a job is under way has no part in it. */
Test(forecast_model, a_job_under_way_knows_only_its_own_past)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_MODES, 64),
			     *g = open_model(THMQ_FORECAST_MODES, 64);
	double a[8], b[8];

	for (uint32_t i = 0; i < 64; i++) {
		tick(f, sin(i / 3.0));
		tick(g, sin(i / 3.0));
	}
	cr_assert_eq(thmq_forecast_feed(f, 2), 0);
	cr_assert_eq(thmq_forecast_feed(g, 2), 0);
	cr_assert_eq(thmq_forecast_work(f, 3), 1);
	cr_assert_eq(thmq_forecast_work(g, 3), 1);
	cr_assert_eq(thmq_forecast_feed(f, 0.5), 0); /* the future of that job */
	cr_assert_eq(thmq_forecast_feed(g, -0.5), 0);
	cr_assert_eq(stats(f).late, 1);
	while (stats(f).decompositions < 34) /* the job of value 65 */
		cr_assert_eq(thmq_forecast_work(f, 1), 1);
	while (stats(g).decompositions < 34)
		cr_assert_eq(thmq_forecast_work(g, 1), 1);
	for (uint32_t k = 0; k < stats(f).mode_count; k++) {
		cr_assert_eq(thmq_forecast_mode(f, k, a, 8), 64);
		cr_assert_eq(thmq_forecast_mode(g, k, b, 8), 64);
		cr_assert_eq(memcmp(a, b, sizeof(a)), 0);
	}
	thmq_forecast_close(f);
	thmq_forecast_close(g);
}

Test(forecast_model, work_in_slices_comes_to_the_same)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_TRAFFIC, 48),
			     *g = open_model(THMQ_FORECAST_TRAFFIC, 48);
	double a[16], b[16];

	for (uint32_t i = 0; i < 150; i++) {
		double v = 10 + 5 * sin(i / 2.0) + (i % 7);

		tick(f, v);
		cr_assert_eq(thmq_forecast_feed(g, v), 0);
		while (thmq_forecast_work(g, 1 + i % 3) == 1)
			;
		cr_assert_eq(thmq_forecast_predict(f, 16, a), 0);
		cr_assert_eq(thmq_forecast_predict(g, 16, b), 0);
		cr_assert_eq(memcmp(a, b, sizeof(a)), 0);
	}
	cr_assert_eq(stats(f).units, stats(g).units);
	thmq_forecast_close(f);
	thmq_forecast_close(g);
}

/* A forecaster that is given too little time has older forecasts, not wrong ones: it says what its old window said. */
Test(forecast_model, late_work_ages_and_is_not_lost)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_MODES, 64);
	double next, error = 0, naive = 0, v = 0, last;

	for (uint32_t i = 0; i < LEN; i++) {
		last = v;
		v = 100 + 50 * sin(i / 3.0);
		if (i > 150) {
			cr_assert_eq(thmq_forecast_predict(f, 1, &next), 0);
			error += fabs(next - v);
			naive += fabs(last - v);
		}
		cr_assert_eq(thmq_forecast_feed(f, v), 0);
		thmq_forecast_work(f, 20); /* a job takes some forty units */
	}
	cr_assert_gt(stats(f).late, 50);
	cr_assert_gt(stats(f).decompositions, 20);
	cr_assert(error < 0.9 * naive, "%.3f of naive", error / naive);
	thmq_forecast_close(f);
}

/* ------------------------------------------------------------ gates, costs */

Test(forecast_model, nothing_is_done_while_nothing_happens)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_TRAFFIC, 64);
	uint64_t before;

	for (uint32_t i = 0; i < 100; i++)
		tick(f, i % 16 == 3); /* next to nothing */
	cr_assert_eq(stats(f).decompositions, 0);
	cr_assert_gt(stats(f).skipped_idle, 60);
	for (uint32_t i = 0; i < 100; i++)
		tick(f, 5 + i % 4);
	cr_assert_gt(stats(f).decompositions, 10);
	for (uint32_t i = 0; i < 40; i++)
		tick(f, 0);
	before = stats(f).units;
	for (uint32_t i = 0; i < 100; i++)
		tick(f, 0);
	cr_assert_eq(stats(f).units, before, "idle costs units");
	thmq_forecast_close(f);
}

Test(forecast_model, nothing_is_decomposed_without_history)
{
	struct thmq_forecast *f = open_model(THMQ_FORECAST_TRAFFIC, 128);

	for (uint32_t i = 0; i < 31; i++)
		tick(f, i % 5);
	cr_assert_eq(stats(f).decompositions, 0);
	cr_assert_eq(stats(f).skipped_history, 31);
	tick(f, 2);
	cr_assert_eq(stats(f).decompositions, 1);
	thmq_forecast_close(f);
}

Test(forecast_model, modes_of_the_window_add_up_to_it)
{
	static double x[LEN];
	struct thmq_forecast *f = open_model(THMQ_FORECAST_MODES, 64);
	double mode[64], sum[64] = {0};
	struct thmq_forecast_stats s;

	for (uint32_t i = 0; i < LEN; i++) {
		x[i] = sin(i / 2.0) + 3 * sin(i / 11.0) + i * 0.01;
		tick(f, x[i]);
	}
	s = stats(f);
	cr_assert(s.mode_count >= 2 && s.mode_count <= 8);
	for (uint32_t k = 0; k < s.mode_count; k++) {
		cr_assert_eq(thmq_forecast_mode(f, k, mode, 64), 64);
		for (uint32_t i = 0; i < 64; i++)
			sum[i] += mode[i];
		cr_assert_eq(thmq_forecast_mode(f, k, sum, 0), 64);
	}
	cr_assert(rig_largest(sum, x + LEN - 64, 64) < 1e-10);
	cr_assert_eq(thmq_forecast_mode(f, s.mode_count, mode, 64), -ENOENT);
	thmq_forecast_close(f);
}

Test(forecast_model, nothing_is_allocated_after_the_open)
{
	struct mallinfo2 before, behind;
	double next[16];

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(all_models); k++) {
		struct thmq_forecast *f = open_model(all_models[k], 64);

		before = mallinfo2();
		for (uint32_t i = 0; i < 120; i++) {
			thmq_forecast_feed(f, 10 + sin(i));
			thmq_forecast_work(f, UINT32_MAX);
			thmq_forecast_predict(f, 16, next);
		}
		behind = mallinfo2();
		cr_assert_eq(before.uordblks, behind.uordblks);
		cr_assert_eq(before.hblkhd, behind.hblkhd);
		cr_assert(stats(f).memory_bytes > 1000 && stats(f).memory_bytes < 1u << 20, "%llu",
			  (unsigned long long)stats(f).memory_bytes);
		thmq_forecast_close(f);
	}
}

/* On real traffic: never worse than naive by more than measuring costs, and better where there is something to be had. */
Test(forecast_model, on_traffic_of_a_balancer_and_hosts_it_is_no_worse_than_naive)
{
	static const struct {
		const char *file;
		double most;
	} series[] = {{"nab_elb_request_count_8c0756.csv", 0.85},
		      {"nab_ec2_network_in_257a54.csv", 0.9},
		      {"nab_ec2_network_in_5abac7.csv", 1.05}};
	static double x[700];

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(series); i++) {
		struct thmq_forecast *f;
		double naive, error;
		uint32_t n = rig_traffic(series[i].file, x, 700);

		cr_assert_eq(
			thmq_forecast_open(THMQ_FORECAST_OPTS(.members = 10, .window = 96), &f), 0);
		error = run(f, x, n, &naive);
		cr_assert(error <= series[i].most * naive, "%s: %.3f of naive", series[i].file,
			  error / naive);
		thmq_forecast_close(f);
	}
}

/* ----------------------------------------------------------------- options */

static struct thmq_forecast *open_opts(const struct thmq_forecast_opts *opts)
{
	struct thmq_forecast *f;

	cr_assert_eq(thmq_forecast_open(opts, &f), 0, "%s", thmq_errmsg());
	return f;
}

/* What is said after each of so many ticks of a series with all that a model can tell apart. */
#define TICKS 150u
static void said_by(const struct thmq_forecast_opts *opts, double said[TICKS][16])
{
	struct thmq_forecast *f = open_opts(opts);
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 21);
	for (uint32_t i = 0; i < TICKS; i++) {
		tick(f, 100 + 30 * sin(i / 2.5) + 20 * sin(i / 17.0) + i * 0.05 + 5 * rig_normal(&p));
		cr_assert_eq(thmq_forecast_predict(f, 16, said[i]), 0);
	}
	thmq_forecast_close(f);
}

Test(forecast_model, defaults_are_those_that_the_header_tells)
{
	static double none[TICKS][16], all[TICKS][16];
	const struct thmq_forecast_opts told = {.size = sizeof(told),
						.model = THMQ_FORECAST_TRAFFIC,
						.window = 128,
						.extension = 32,
						.members = 20,
						.mode_max = 8,
						.sift_max = 100,
						.horizon = 16,
						.ar_max = 5,
						.ma_max = 2,
						.noise = 0.2};

	said_by(NULL, none);
	said_by(&told, all);
	cr_assert_eq(memcmp(none, all, sizeof(all)), 0);
	said_by(THMQ_FORECAST_OPTS(.model = THMQ_FORECAST_ARIMA), none);
	said_by(THMQ_FORECAST_OPTS(.model = THMQ_FORECAST_ARIMA, .ar_max = 3, .ma_max = 2), all);
	cr_assert_eq(memcmp(none, all, sizeof(all)), 0);
}

Test(forecast_model, every_option_has_its_effect)
{
	static double plain[TICKS][16], other[TICKS][16];
	const struct thmq_forecast_opts base = {
		.size = sizeof(base), .model = THMQ_FORECAST_MODES, .window = 64, .members = 6};
	struct {
		const char *name;
		struct thmq_forecast_opts o;
	} options[] = {{"window", base},  {"extension", base}, {"members", base}, {"mode_max", base}, {"sift_max", base},
		       {"ar_max", base},  {"noise", base},     {"seed", base},    {"mirror", base},   {"rising", base},
		       {"with moving averages", base}};
	const struct thmq_forecast_opts moving = {.size = sizeof(moving), .model = THMQ_FORECAST_ARIMA, .window = 64};
	struct thmq_forecast_opts more = moving;

	options[0].o.window = 65;
	options[1].o.extension = 8;
	options[2].o.members = 7;
	options[3].o.mode_max = 2;
	options[4].o.sift_max = 1;
	options[5].o.ar_max = 1;
	options[6].o.noise = 0.3;
	options[7].o.seed = 5;
	options[8].o.flags = THMQ_FORECAST_MIRROR;
	options[9].o.flags = THMQ_FORECAST_SNR_RISING;
	options[10].o.flags = THMQ_FORECAST_MODES_ARMA;
	said_by(&base, plain);
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(options); i++) {
		said_by(&options[i].o, other);
		cr_assert_neq(memcmp(plain, other, sizeof(plain)), 0, "%s has no effect", options[i].name);
	}
	said_by(&moving, plain);
	more.ma_max = 4;
	said_by(&more, other);
	cr_assert_neq(memcmp(plain, other, sizeof(plain)), 0, "ma_max has no effect");
}

Test(forecast_model, the_horizon_is_as_far_as_it_is_told)
{
	struct thmq_forecast *f = open_opts(THMQ_FORECAST_OPTS(.model = THMQ_FORECAST_AR, .horizon = 40));
	double next[41] = {0};

	for (uint32_t i = 0; i < 100; i++)
		tick(f, sin(i / 3.0));
	cr_assert_eq(thmq_forecast_predict(f, 40, next), 0);
	cr_assert_eq(thmq_forecast_predict(f, 41, next), -EINVAL);
	cr_assert(next[39] != 0 && next[40] == 0 && fabs(next[39]) < 2, "%f", next[39]);
	thmq_forecast_close(f);
}

/* The parts are held against reference vectors: forecast_reference_test.c. */
Test(forecast_model, the_public_decomposition_is_that_of_the_parts_in_both_conventions)
{
	static double x[LEN], modes[6 * LEN];

	for (uint32_t i = 0; i < LEN; i++)
		x[i] = sin(i / 2.0) + sin(i / 15.0) + floor(i % 11 / 5.0);
	for (uint32_t snr = THMQI_SNR_RISING; snr <= THMQI_SNR_LEVEL; snr++) {
		struct thmqi_iceemdan d;
		int n = thmq_forecast_decompose(
			x, LEN,
			THMQ_FORECAST_OPTS(.members = 5, .mode_max = 6, .sift_max = 50, .noise = 0.3, .seed = 9,
					   .flags = snr == THMQI_SNR_RISING ? THMQ_FORECAST_SNR_RISING : 0),
			modes);

		RIG_CARVE(thmqi_iceemdan_carve(&d, &c, LEN, 5, 6));
		d.snr = snr;
		d.sift_max = 50;
		d.ratio = 0.3;
		thmqi_iceemdan_seed(&d, 9);
		cr_assert_eq(thmqi_iceemdan_begin(&d, x, LEN), 0);
		while (thmqi_iceemdan_step(&d))
			;
		cr_assert_eq(n, (int)d.mode_count);
		cr_assert_geq(n, 3);
		cr_assert_eq(memcmp(modes, d.modes, (size_t)n * LEN * sizeof(double)), 0);
	}
}
