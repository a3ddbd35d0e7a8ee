/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_ping.c - thmq ping: how long a broker takes to answer; a request and its reply are the smallest round trip that there is. */
#include <errno.h>

#include "thmq.h"

#define COUNT_MAX 10000000u
#define ROWS_MAX 40u /* of the plot: powers of the square root of two */
#define BAR 50u
#define RATIO 1.41421356

struct ping_opts {
	uint64_t count, interval_us;
	bool json;
};

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

/* Rows of equal ratio, from the shortest to the longest. */
static uint32_t row_of(uint64_t ns, uint64_t shortest)
{
	double edge = (double)shortest * RATIO;
	uint32_t row = 0;

	for (; (double)ns >= edge && row < ROWS_MAX - 1; row++)
		edge *= RATIO;
	return row;
}

static void plot(const uint64_t *ns, uint32_t n)
{
	uint32_t rows[ROWS_MAX] = {0}, most = 0, last = row_of(ns[n - 1], ns[0]), i, k;
	double edge = us(ns[0]);

	for (i = 0; i < n; i++)
		rows[row_of(ns[i], ns[0])]++;
	for (i = 0; i <= last; i++)
		most = rows[i] > most ? rows[i] : most;
	printf("\n");
	for (i = 0; i <= last; i++) {
		printf("%10.1f us |", edge);
		edge *= RATIO;
		for (k = 0; k < ((uint64_t)rows[i] * BAR + most - 1) / most; k++)
			putchar('#');
		if (rows[i])
			printf(" %u", rows[i]);
		putchar('\n');
	}
}

static void print_times(uint64_t *ns, uint32_t n, const char *url, bool json)
{
	double sum = 0;
	uint32_t i;

	qsort(ns, n, sizeof(*ns), by_value);
	for (i = 0; i < n; i++)
		sum += us(ns[i]);
	if (json) {
		printf("{\"url\":");
		print_json_string(stdout, url, strlen(url));
		printf(",\"count\":%u,\"min_us\":%.2f,\"mean_us\":%.2f,\"p50_us\":%.2f,\"p99_us\":%"
		       ".2f,\"p999_us\":%.2f,"
		       "\"max_us\":%.2f}\n",
		       n, us(ns[0]), sum / n, us(ns[n / 2]), us(ns[(uint64_t)n * 99 / 100]),
		       us(ns[(uint64_t)n * 999 / 1000]), us(ns[n - 1]));
		return;
	}
	printf("%u round trip%s: min %.1f, mean %.1f, p50 %.1f, p99 %.1f, p99.9 %.1f, max %.1f "
	       "us\n",
	       n, plural(n), us(ns[0]), sum / n, us(ns[n / 2]), us(ns[(uint64_t)n * 99 / 100]),
	       us(ns[(uint64_t)n * 999 / 1000]), us(ns[n - 1]));
	plot(ns, n);
}

static void rest(struct connection *c, uint64_t until)
{
	uint64_t now;

	while (!interrupted && (now = clock_ns()) < until)
		thmq_session_wait(c->session, until - now);
}

static int ping(struct connection *c, const char *url, const struct ping_opts *o)
{
	uint64_t *ns = malloc(o->count * sizeof(*ns)), begin;
	uint32_t n = 0;
	int rc = 0;

	if (!ns)
		return fail(-ENOMEM, "out of memory");
	thmq_topic_list(c->session, NULL, 0); /* the first one finds nothing in any cache */
	while (n < o->count && !interrupted) {
		begin = clock_ns();
		rc = thmq_topic_list(c->session, NULL, 0);
		if (rc < 0)
			break;
		ns[n++] = clock_ns() - begin;
		if (o->interval_us)
			rest(c, begin + o->interval_us * 1000);
	}
	if (n)
		print_times(ns, n, url, o->json);
	free(ns);
	return rc < 0 ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

int cmd_ping(int argc, char **argv)
{
	const char *count = NULL, *interval = NULL;
	struct ping_opts o = {.count = 1000};
	const struct option_spec specs[] = {{"--count", &count, NULL},
					    {"--interval-us", &interval, NULL},
					    {"--json", NULL, &o.json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct connection c;

	if (words < 0 || !count_words(argv, words, 1, "the URL of a broker, or a directory"))
		return EXIT_USAGE;
	if (count && (!parse_number(count, COUNT_MAX, &o.count) || !o.count))
		return usage_error("--count is a number from 1 to %u, not %s", COUNT_MAX, count);
	if (interval && !parse_number(interval, 3600000000ull, &o.interval_us))
		return usage_error("--interval-us is a number of microseconds, not %s", interval);
	rc = connect_dir(&c, argv[0], false, THMQ_POLICY_POLL);
	if (rc)
		return rc;
	return disconnect(&c, ping(&c, argv[0], &o));
}
