/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_ping.c - thmq ping: how long a broker takes to answer; a request and its reply are the smallest round trip that there is. */
#include <errno.h>

#include "thmq.h"

#define COUNT_MAX 10000000u

struct ping_opts {
	uint64_t count, interval_us;
	bool json;
};

static void print_times(uint64_t *ns, uint32_t n, const char *url, bool json)
{
	struct times t;

	times_of(ns, n, &t);
	if (json) {
		printf("{\"url\":");
		print_json_string(stdout, url, strlen(url));
		printf(",\"count\":%u,\"min_us\":%.2f,\"mean_us\":%.2f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,"
		       "\"max_us\":%.2f}\n",
		       n, t.min_us, t.mean_us, t.p50_us, t.p99_us, t.p999_us, t.max_us);
		return;
	}
	printf("%u round trip%s: min %.1f, mean %.1f, p50 %.1f, p99 %.1f, p99.9 %.1f, max %.1f us\n", n, plural(n), t.min_us, t.mean_us,
	       t.p50_us, t.p99_us, t.p999_us, t.max_us);
	print_plot(ns, n);
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
	const char *count = NULL, *interval = NULL, *wait = NULL;
	struct ping_opts o = {.count = 1000};
	const struct option_spec specs[] = {{"--count", &count, NULL},
					    {"--interval-us", &interval, NULL},
					    {"--wait", &wait, NULL},
					    {"--json", NULL, &o.json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct connection c;

	if (words < 0 || !count_words(argv, words, 1, "ping needs the URL of a broker, or a directory"))
		return EXIT_USAGE;
	if (count && (!parse_number(count, COUNT_MAX, &o.count) || !o.count))
		return usage_error("--count is a number from 1 to %u, not %s", COUNT_MAX, count);
	if (interval && !parse_number(interval, 3600000000ull, &o.interval_us))
		return usage_error("--interval-us is a number of microseconds, not %s", interval);
	if (wait && (rc = parse_duration("--wait", wait, &connect_wait_ns)) != EXIT_OK)
		return rc;
	rc = connect_dir(&c, argv[0], false, THMQ_POLICY_POLL);
	if (rc)
		return rc;
	return disconnect(&c, ping(&c, argv[0], &o));
}
