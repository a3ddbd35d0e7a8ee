/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling_elsewhere_bench.c - where a forecast of the next tenth of a second might help other than in spinning, each tried in a model, in
 * virtual time: no machine is measured, the same figures come out everywhere.
 *
 *   ready   how much to have ready for the next tick, such as receive buffers posted. Each method adds a margin that it learns, such that
 *           one tick in twenty needs more than is ready; what is compared is what lies idle.
 *   slabs   a core fetches slabs from the global pool as it needs them, which holds up the message that needs them, and keeps four that are
 *           free; compared with fetching before the tick what the forecast says that it will need: slabs fetched late, and (idle) slabs held
 *           for nothing, which is the price.
 *   cap     a core under a cap of its processor takes its worth of latency back before a rise that is forecast, and gives it again before a fall;
 *           compared is the share above the cap, beside a core that only looks at what it used, and what messages wait for.
 *   group   a log waits 50 us for company only where so much is expected that company comes; compared is the cost of writes and waiting.
 *
 * The rival is in each case what needs no forecast: the next tick will be as the last; for slabs, the pool as it is. Pairs are seeds of the noise. Matrix: square waves and tides of
 * some seconds, a random walk, bursts, and two traces of requests (NAB). No bars: below 1 the forecast wins, and what wins is kept.
 */
#include <thundermq/forecast.h>

#include "forecast/policy.h"

#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TICKS 700u
#define WARM 100u /* ticks that are not judged */
#define TICK_NS 1e8
#define SEEDS 5u

enum shape { WAVES, TIDE, WALK, BURSTS, TRACE_ELB, TRACE_EC2, SHAPES };
static const char *const shapes[SHAPES] = {"waves",  "tide",          "walk",
					   "bursts", "load_balancer", "host"};
static const char *const traces[] = {TRACES "/nab_elb_request_count_8c0756.csv",
				     TRACES "/nab_ec2_network_in_257a54.csv"};

static double uniform(struct thmqi_prng *p)
{
	return (double)((thmqi_prng_next(p) >> 11) + 1) * 0x1p-53;
}

static double normal(struct thmqi_prng *p)
{
	return sqrt(-2 * log(uniform(p))) * cos(2 * 3.14159265358979 * uniform(p));
}

/* ---------------------------------------------------------------------- series */

/* The values behind the last comma of each line, scaled to a mean of @mean. */
static void read_trace(const char *path, double mean, double *ret)
{
	FILE *f = fopen(path, "r");
	uint32_t n = 0, i;
	double sum = 0;
	char line[200];

	if (!f)
		bench_die(path, errno);
	while (n < TICKS && fgets(line, sizeof(line), f))
		n += sscanf(line, "%*[^,],%lf", &ret[n]) == 1;
	fclose(f);
	if (n < 2)
		bench_die(path, EINVAL);
	for (i = 0; i < n; i++)
		sum += ret[i] / n;
	for (i = 0; i < TICKS; i++)
		ret[i] = (i < n ? ret[i] / sum : ret[i - n]) * (i < n ? mean : 1);
}

/* Counts per tick of @mean, by chance about a shape. */
static void make(enum shape shape, uint64_t seed, double mean, double *ret)
{
	struct thmqi_prng p;
	double level = 1, quiet = 0;
	uint32_t i;

	thmqi_prng_seed(&p, seed);
	if (shape >= TRACE_ELB)
		read_trace(traces[shape - TRACE_ELB], mean, ret);
	for (i = 0; i < TICKS; i++) {
		switch (shape) {
		case WAVES:
			ret[i] = mean * (i / 8 % 2 ? 0.2 : 1.8);
			break;
		case TIDE:
			ret[i] = mean * pow(10, sin(i * 0.314159) / 2);
			break;
		case WALK:
			level = fmin(fmax(level * exp(0.1 * normal(&p)), 0.1), 10);
			ret[i] = mean * level;
			break;
		case BURSTS:
			quiet = quiet > 0           ? quiet - 1
				: uniform(&p) < 0.2 ? fmin(3 / uniform(&p), 40)
						    : 0;
			ret[i] = quiet > 0 ? mean * 0.05 : mean * 2;
			break;
		default:
			break;
		}
		ret[i] = fmax(round(ret[i] + sqrt(fmax(ret[i], 0)) * normal(&p)), 0);
	}
}

/* What @model says of each tick, from those before it only. */
static void foretell(uint32_t model, const double *x, double *ret)
{
	struct thmq_forecast *f;
	uint32_t i;

	if (thmq_forecast_open(THMQ_FORECAST_OPTS(.model = model, .window = 64, .members = 10,
						  .mode_max = 6, .horizon = 4),
			       &f) != 0)
		bench_die("forecast", ENOMEM);
	ret[0] = x[0];
	for (i = 1; i < TICKS; i++) {
		thmq_forecast_feed(f, x[i - 1]);
		thmq_forecast_work(f, UINT32_MAX);
		thmq_forecast_predict(f, 1, &ret[i]);
	}
	thmq_forecast_close(f);
}

/* ----------------------------------------------------------------------- ready */

static double idle_when_ready(const double *x, const double *said)
{
	double margin = 0, spread = 1, idle = 0, sum = 0;
	uint32_t i;

	for (i = 1; i < TICKS; i++) {
		double ready = fmax(said[i] + margin, 0);

		if (i >= WARM) {
			idle += fmax(ready - x[i], 0);
			sum += x[i];
		}
		spread += 0.05 * (fabs(x[i] - said[i]) - spread);
		margin += spread * (x[i] > ready ? 0.95 : -0.05);
	}
	return idle / sum;
}

/* ----------------------------------------------------------------------- slabs */

#define PER_SLAB 50.0 /* messages of a tick whose memory is one slab */
#define KEPT 4.0      /* free slabs that a core does not give back */

/* Slabs fetched late, and held idle, a tick. @said NULL: none is fetched before. */
static void fetched(const double *x, const double *said, double *ret_late, double *ret_idle)
{
	double held = 0, late = 0, idle = 0, need, expected;
	uint32_t i;

	for (i = 1; i < TICKS; i++) {
		need = ceil(x[i] / PER_SLAB);
		expected = said ? ceil(fmax(said[i], 0) / PER_SLAB) : 0;
		held = fmax(held, expected);
		if (i >= WARM) {
			late += fmax(need - held, 0);
			idle += fmax(held - need, 0);
		}
		held = fmin(fmax(held, need), need + KEPT);
	}
	*ret_late = late / (TICKS - WARM);
	*ret_idle = idle / (TICKS - WARM);
}

/* ------------------------------------------------------------------------- cap */

#define CAP 0.25
#define SERVICE_NS 1000.0
#define SLICES 10u /* of a tick: as often is a cap looked at */

/* Mean share above the cap, in points, and mean wait for a message in ns. @said NULL: it only looks back. */
static void capped(const double *x, const double *said, uint64_t seed, double *ret_above,
		   double *ret_wait)
{
	const struct thmqi_policy_costs costs = {.wake_cpu_ns = 2500,
						 .wake_latency_ns = 4500,
						 .omega = 100,
						 .spin_max_ns = 1e6,
						 .poll_ns = 50};
	struct thmqi_policy p;
	struct thmqi_prng chance;
	double above = 0, waits = 0, messages = 0;
	uint32_t i, k, n;

	thmqi_policy_init(&p, THMQI_POLICY_ADAPTIVE, &costs);
	thmqi_prng_seed(&chance, seed);
	for (i = 1; i < TICKS; i++) {
		if (said && said[i] > 1.25 * x[i - 1])
			p.omega = fmax(p.omega * x[i - 1] / said[i], costs.omega * 1e-3);
		else if (said && said[i] < 0.8 * x[i - 1])
			p.omega = fmin(p.omega * 1.25, costs.omega);
		thmqi_policy_reckon(&p);
		for (k = 0; k < SLICES; k++) {
			double used = 0, at = 0, mean = TICK_NS / fmax(x[i], 1);

			for (n = 0; at < TICK_NS / SLICES && n < 100000; n++) {
				double gap = -mean * log(uniform(&chance)),
				       budget = (double)thmqi_policy_budget_ns(&p);

				used += SERVICE_NS +
					(gap <= budget ? gap : budget + costs.wake_cpu_ns);
				waits += gap <= budget || i < WARM ? 0 : costs.wake_latency_ns;
				messages += i >= WARM;
				at += gap + SERVICE_NS;
				thmqi_policy_report(&p, (uint64_t)gap, gap <= budget);
			}
			thmqi_policy_cap(&p, used / at, CAP);
			if (i >= WARM)
				above += fmax(used / at - CAP, 0) * 100 / SLICES / (TICKS - WARM);
		}
	}
	*ret_above = above;
	*ret_wait = waits / messages;
}

/* ----------------------------------------------------------------------- group */

#define GROUP_NS 50e3
#define WRITE_NS 100e3

/* Cost of a message: its share of the device's time, and its delay. */
static double group_cost(const double *x, const double *said, uint64_t seed)
{
	struct thmqi_prng chance;
	double cost = 0, messages = 0;
	uint32_t i;

	thmqi_prng_seed(&chance, seed);
	for (i = WARM; i < TICKS; i++) {
		double bound = said[i] * GROUP_NS / TICK_NS >= 1 ? GROUP_NS : 0,
		       mean = TICK_NS / fmax(x[i], 1), at = 0;

		/* a batch: its first message, who comes until it is written, and who comes meanwhile is of the next */
		while (at < TICK_NS) {
			double left = bound, gap;

			messages++;
			cost += WRITE_NS + bound + WRITE_NS;
			for (gap = -mean * log(uniform(&chance)); gap < left;
			     gap = -mean * log(uniform(&chance))) {
				left -= gap;
				messages++;
				cost += left + WRITE_NS;
			}
			at += bound + fmax(WRITE_NS, gap - left);
		}
	}
	return cost / messages;
}

/* ------------------------------------------------------------------------ lines */

static void line_of(struct bench *b, const char *what, enum shape shape, const char *model,
		    const double *ours, const double *theirs, const char *unit)
{
	struct bench_line line = {.unit = unit,
				  .rival = strncmp(what, "slabs", 5) ? "as the last tick"
								     : "none before",
				  .measure = BENCH_RATIO};
	char name[96];

	snprintf(name, sizeof(name), "elsewhere_%s_%s_%s", what, shapes[shape], model);
	line.name = name;
	for (unsigned s = 0; s < (b->smoke ? 1 : SEEDS); s++)
		bench_pairs_add(&line.pairs, ours[s], theirs[s]);
	snprintf(line.detail, sizeof(line.detail),
		 "\"what\":\"%s\",\"series\":\"%s\",\"model\":\"%s\"", what, shapes[shape], model);
	bench_report(b, &line);
}

#define METHODS 4u

static void compare(struct bench *b, enum shape shape)
{
	static const uint32_t models[METHODS] = {THMQ_FORECAST_SES, THMQ_FORECAST_AR,
						 THMQ_FORECAST_MODES, THMQ_FORECAST_TRAFFIC};
	static const char *const names[METHODS] = {"ses", "ar", "modes", "traffic"};
	static double x[TICKS], naive[TICKS], said[TICKS];
	double ready[METHODS + 1][SEEDS], cap[2][SEEDS], waits[2][SEEDS], group[2][SEEDS],
		late[2][SEEDS], idle[2][SEEDS];

	for (unsigned s = 0; s < (b->smoke ? 1 : SEEDS); s++) {
		make(shape, s + 1, 1000, x);
		foretell(THMQ_FORECAST_NAIVE, x, naive);
		ready[METHODS][s] = idle_when_ready(x, naive);
		group[1][s] = group_cost(x, naive, s + 1);
		capped(x, NULL, s + 1, &cap[1][s], &waits[1][s]);
		fetched(x, NULL, &late[1][s], &idle[1][s]);
		for (unsigned m = 0; m < METHODS; m++) {
			foretell(models[m], x, said);
			ready[m][s] = idle_when_ready(x, said);
		}
		group[0][s] = group_cost(x, said, s + 1);
		capped(x, said, s + 1, &cap[0][s], &waits[0][s]);
		fetched(x, said, &late[0][s], &idle[0][s]);
	}
	for (unsigned m = 0; m < METHODS; m++)
		line_of(b, "ready", shape, names[m], ready[m], ready[METHODS], "of the mean");
	line_of(b, "slabs", shape, "traffic", late[0], late[1], "slabs a tick");
	line_of(b, "slabsidle", shape, "traffic", idle[0], idle[1], "slabs");
	line_of(b, "cap", shape, "traffic", cap[0], cap[1], "points");
	line_of(b, "capwait", shape, "traffic", waits[0], waits[1], "ns");
	line_of(b, "group", shape, "traffic", group[0], group[1], "ns");
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "polling");
	for (unsigned shape = 0; shape < SHAPES; shape++)
		if (bench_wants(&b, "elsewhere"))
			compare(&b, shape);
	return bench_end(&b);
}
