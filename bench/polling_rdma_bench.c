/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling_rdma_bench.c - how a core waits for verbs' completion channels: at rest, at a message now and then, and one at a time. It needs an RDMA
 * device; the laboratory has an emulated one (tests/lab/run.sh polling_rdma_bench), whose times show relations only: what counts there is how
 * often the core sleeps and is woken, and the share of its processor.
 *
 * Matrix: policy (poll, event, fixed, ski, adaptive) x load (nothing, 100 a second by chance, one at a time). Each policy takes its turn in each
 * round. Roofline: event is what processor time and sleeps can be, poll what latency can be. Lines: processor share (%), p50 (us), sleeps and
 * wake-ups for a message. Bars: at rest at most 5 points above event; poll never sleeps.
 */
#include "rig_polling.h"

#include <stdio.h>
#include <string.h>

#define ROUNDS 3u
#define SAMPLES 100000u
#define POLICIES 5u

static const uint32_t policies[POLICIES] = {THMQ_POLICY_EVENT, THMQ_POLICY_POLL, THMQ_POLICY_FIXED,
					    THMQ_POLICY_SKI, THMQ_POLICY_ADAPTIVE};

enum load { REST, SELDOM, PING, LOADS };
static const char *const loads[LOADS] = {"rest", "100", "ping"};

enum figure { CPU, P50, SLEEPS, HITS, FIGURES };
static const char *const figures[FIGURES] = {"cpu", "p50", "sleeps", "hits"},
			 *const units[FIGURES] = {"%", "us", "a message", "a message"};

static void measure(struct bench *b, enum load load, uint32_t policy, struct bench_samples *s,
		    double *ret)
{
	uint64_t ns = b->smoke ? 3000000 : 500000000;
	struct polling_figures f;
	struct polling_rig r;
	double messages;

	polling_open(&r, b, POLLING_RDMA, THMQ_ENV_OPTS(.policy = policy));
	polling_load(&r, POLLING_POISSON, 100, ns / 4, s, &f);
	if (load == PING)
		polling_ping(&r, 0, ns, s, &f);
	else
		polling_load(&r, POLLING_POISSON, load == REST ? 0 : 100, ns, s, &f);
	polling_close(&r);
	messages = f.messages > 0 ? f.messages : 1;
	ret[CPU] = f.cpu / f.seconds / 1e7;
	ret[P50] = f.p50 / 1e3;
	ret[SLEEPS] = f.sleeps / messages;
	ret[HITS] = f.hits / messages;
}

static void report(struct bench *b, enum load load, unsigned policy, enum figure what,
		   double (*v)[POLICIES][FIGURES], unsigned rounds)
{
	struct bench_line line = {.unit = units[what], .rival = "event", .measure = BENCH_VALUE};
	char name[96];

	snprintf(name, sizeof(name), "rdma_%s_%s_%s", loads[load],
		 polling_policies[policies[policy]], figures[what]);
	line.name = name;
	if (load == REST && (what == P50 || what == HITS))
		return;
	if (load == REST && what == CPU && policies[policy] >= THMQ_POLICY_FIXED) {
		line.sense = BENCH_AT_MOST;
		line.bar = 5;
	} else if (what == SLEEPS && policies[policy] == THMQ_POLICY_POLL) {
		line.sense = BENCH_AT_MOST;
		line.bar = 0;
	}
	for (unsigned i = 0; i < rounds; i++)
		bench_pairs_add(&line.pairs,
				v[i][policy][what] - (line.bar > 0 ? v[i][0][what] : 0),
				v[i][0][what]);
	bench_report(b, &line);
}

static void compare(struct bench *b, enum load load, struct bench_samples *s)
{
	unsigned rounds = b->pairs_min < ROUNDS ? b->pairs_min : ROUNDS;
	double v[ROUNDS][POLICIES][FIGURES];

	for (unsigned round = 0; round < rounds; round++)
		for (unsigned k = 0; k < POLICIES; k++) {
			unsigned at = (k + round) % POLICIES;

			measure(b, load, policies[at], s, v[round][at]);
		}
	for (unsigned k = 0; k < POLICIES; k++)
		for (unsigned what = 0; what < FIGURES; what++)
			report(b, load, k, what, v, rounds);
}

int main(int argc, char **argv)
{
	struct bench_samples samples;
	struct bench b;
	const char *why;

	bench_init(&b, argc, argv, "polling");
	why = b.cpu_app < 0 ? "one CPU only" : polling_lacks(POLLING_RDMA);
	if (why) {
		bench_skip(&b, "rdma", why);
		return bench_end(&b);
	}
	bench_samples_init(&samples, SAMPLES);
	for (unsigned load = 0; load < LOADS; load++)
		compare(&b, load, &samples);
	bench_samples_fini(&samples);
	return bench_end(&b);
}
