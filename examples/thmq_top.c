/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_top.c - thmq top: what the cores of this process spend their time on, and how they wait, once a second. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/forecast.h>
#include <thundermq/reactor.h>

#include "thmq.h"

#define INTERVAL_NS 1000000000ull
#define NAP_NS 50000000

static const char *const policies[] = {"default", "poll",     "event",     "fixed",
				       "ski",     "adaptive", "predictive"};
static const char *const models[] = {"-", "naive", "ses", "ar", "arima", "modes", "traffic"};

int parse_policy(const char *text, uint32_t *ret_policy)
{
	uint32_t i;

	for (i = 0; i < sizeof(policies) / sizeof(policies[0]); i++)
		if (strcmp(text, policies[i]) == 0) {
			*ret_policy = i;
			return EXIT_OK;
		}
	return usage_error(
		"--policy is default, poll, event, fixed, ski, adaptive or predictive, not %s",
		text);
}

const char *policy_name(uint32_t policy)
{
	return policy < sizeof(policies) / sizeof(policies[0]) ? policies[policy] : "?";
}

const char *model_name(uint32_t model)
{
	return model < sizeof(models) / sizeof(models[0]) ? models[model] : "?";
}

/* What happened between two looks at a core. */
struct span {
	double seconds;
	double busy, spun, slept, forecast;      /* shares of the time */
	double iterations, hits, misses, sleeps; /* a second */
};

static double share(uint64_t ns, uint64_t before, const struct span *s)
{
	return s->seconds > 0 ? (double)(ns - before) / 1e9 / s->seconds : 0;
}

static struct span span_of(const struct thmq_core_stats *a, const struct thmq_core_stats *b)
{
	struct span s = {.seconds = (double)(b->counted_ns - a->counted_ns) / 1e9};
	double each = s.seconds > 0 ? 1 / s.seconds : 0;

	s.busy = share(b->busy_ns, a->busy_ns, &s);
	s.spun = share(b->idle_ns, a->idle_ns, &s);
	s.slept = share(b->slept_ns, a->slept_ns, &s);
	s.forecast = share(b->forecast_cpu_ns, a->forecast_cpu_ns, &s);
	s.iterations = (double)(b->iterations - a->iterations) * each;
	s.hits = (double)(b->spin_hits - a->spin_hits) * each;
	s.misses = (double)(b->spin_misses - a->spin_misses) * each;
	s.sleeps = (double)(b->sleeps - a->sleeps) * each;
	return s;
}

const char *budget_text(uint64_t ns, struct unit_text *buffer)
{
	if (ns == UINT64_MAX)
		return "ever";
	snprintf(buffer->text, sizeof(buffer->text), "%.1f us", (double)ns / 1e3);
	return buffer->text;
}

static void print_row(struct thmq_env *env, const struct thmq_core_stats *b, const struct span *s)
{
	struct thmq_place place = {.size = sizeof(place), .cpu = -1};
	struct unit_text cpu = {"-"}, budget;

	if (thmq_env_place(env, b->core_index, &place) == 0 && place.flags & THMQ_PLACE_PINNED)
		snprintf(cpu.text, sizeof(cpu.text), "%d", place.cpu);
	printf("%4u %9s  %-10s %6.2f %6.2f %6.2f %11.0f %9.0f %9.0f %9.0f %9s", b->core_index,
	       cpu.text, policy_name(b->policy), 100 * s->busy, 100 * s->spun, 100 * s->slept,
	       s->iterations, s->hits, s->misses, s->sleeps, budget_text(b->budget_ns, &budget));
	if (b->forecast_ratio && b->forecast_model != THMQ_FORECAST_NAIVE)
		printf("  %s, %.2f of naive's error, %.2f %%", model_name(b->forecast_model),
		       (double)b->forecast_ratio / 1e3, 100 * s->forecast);
	else if (b->forecast_ratio)
		printf("  none is better than naive, %.2f %%", 100 * s->forecast);
	else if (b->forecast_ticks)
		printf("  not measured yet, %.2f %%", 100 * s->forecast);
	putchar('\n');
}

static void print_json(const struct thmq_core_stats *b, const struct span *s)
{
	printf("{\"core\":%u,\"seconds\":%.3f,\"policy\":\"%s\",\"busy\":%.6f,\"spun\":%.6f,"
	       "\"slept\":%.6f,"
	       "\"iterations_per_s\":%.1f,\"spin_hits_per_s\":%.1f,\"spin_misses_per_s\":%.1f,"
	       "\"sleeps_per_s\":%.1f,"
	       "\"budget_ns\":",
	       b->core_index, s->seconds, policy_name(b->policy), s->busy, s->spun, s->slept,
	       s->iterations, s->hits, s->misses, s->sleeps);
	if (b->budget_ns == UINT64_MAX)
		printf("null");
	else
		printf("%llu", (unsigned long long)b->budget_ns);
	printf(",\"wake_cpu_ns\":%u,\"wake_latency_ns\":%u,\"forecast_model\":\"%s\",\"forecast_"
	       "ticks\":%llu,"
	       "\"forecast_ratio\":%.3f,\"forecast_cpu\":%.6f}\n",
	       b->wake_cpu_ns, b->wake_latency_ns, model_name(b->forecast_model),
	       (unsigned long long)b->forecast_ticks, (double)b->forecast_ratio / 1e3, s->forecast);
}

static void look(struct thmq_env *env, struct thmq_core_stats *cores, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		cores[i].size = sizeof(cores[i]);
		thmq_core_stats(thmq_env_core(env, i), &cores[i]);
	}
}

static void print_all(struct thmq_env *env, const struct thmq_core_stats *a,
		      const struct thmq_core_stats *b, uint32_t count, bool json)
{
	uint32_t i;

	if (!json)
		printf("%4s %9s  %-10s %6s %6s %6s %11s %9s %9s %9s %9s  %s\n", "core", "processor",
		       "policy", "busy%", "spin%", "sleep%", "looks/s", "hits/s", "misses/s",
		       "sleeps/s", "spins", "forecast");
	for (i = 0; i < count && !output_failed(); i++) {
		struct span s = span_of(&a[i], &b[i]);

		if (json)
			print_json(&b[i], &s);
		else
			print_row(env, &b[i], &s);
	}
	fflush(stdout);
}

static void pause_until(uint64_t until)
{
	struct timespec nap = {.tv_nsec = NAP_NS};

	while (!interrupted && clock_ns() < until)
		nanosleep(&nap, NULL);
}

int top(struct thmq_env *env, const char *title, bool once, bool json)
{
	struct thmq_env_stats st = {.size = sizeof(st)};
	struct thmq_core_stats *cores;
	uint32_t count;
	bool live;

	if (thmq_env_stats(env, &st) != 0)
		return fail(-EINVAL, "%s", thmq_errmsg());
	count = st.core_count;
	cores = calloc(2 * (size_t)count, sizeof(*cores));
	if (!cores)
		return fail(-ENOMEM, "out of memory");
	live = !once && !json && isatty(STDOUT_FILENO);
	look(env, cores, count);
	do {
		pause_until(clock_ns() + INTERVAL_NS);
		look(env, cores + count, count);
		if (interrupted)
			break;
		if (live)
			printf("\033[H\033[J"); /* the upper left, and nothing behind it */
		if (!json)
			fputs(title, stdout);
		print_all(env, cores, cores + count, count, json);
		memcpy(cores, cores + count, count * sizeof(*cores));
	} while (live && !output_failed());
	free(cores);
	return EXIT_OK;
}
