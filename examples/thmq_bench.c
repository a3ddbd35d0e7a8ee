/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_bench.c - thmq bench: a first impression of a directory's device, beside its data and then removed, or of a broker at a URL, in
 * topics that are made and deleted; bench/ in the sources measures properly.
 */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thundermq/reactor.h>

#include "thmq.h"

#define SAMPLES_MAX (1u << 20)
#define SIZE_MAX_BYTES 500000u

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_latency(const char *what, uint64_t *ns, uint32_t n, bool json)
{
	qsort(ns, n, sizeof(*ns), by_value);
	if (json)
		printf("{\"what\":\"%s\",\"count\":%u,\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%"
		       ".2f}\n",
		       what, n, (double)ns[n / 2] / 1e3, (double)ns[(uint64_t)n * 99 / 100] / 1e3,
		       (double)ns[(uint64_t)n * 999 / 1000] / 1e3);
	else
		printf("%-34s p50 %9.1f us   p99 %9.1f us   p99.9 %9.1f us\n", what,
		       (double)ns[n / 2] / 1e3, (double)ns[(uint64_t)n * 99 / 100] / 1e3,
		       (double)ns[(uint64_t)n * 999 / 1000] / 1e3);
}

/* One message at a time, each awaited. */
static int one_by_one(struct connection *c, const char *topic, uint32_t level, const char *what,
		      const void *data, uint32_t size, uint64_t seconds, bool json)
{
	uint64_t *ns = malloc(SAMPLES_MAX * sizeof(*ns)), until = clock_ns() + seconds * SECOND,
		 begin;
	struct thmq_producer *p;
	uint32_t n = 0;
	int rc;

	if (!ns)
		return fail(-ENOMEM, "out of memory");
	rc = thmq_producer_open(c->session, topic, THMQ_PRODUCER_OPTS(.durability = level), &p);
	while (!rc && !interrupted && n < SAMPLES_MAX && (begin = clock_ns()) < until) {
		int64_t seq = thmq_send(p, data, size, NULL);

		while (seq == -EAGAIN && thmq_poll(c->env, SECOND) >= 0) /* the device is behind */
			seq = thmq_send(p, data, size, NULL);
		if (seq < 0)
			rc = (int)seq;
		while (!rc && thmq_watermark(p) < seq)
			rc = thmq_poll(c->env, SECOND) < 0 ? -EIO : 0;
		ns[n++] = clock_ns() - begin;
	}
	if (rc == 0 && n)
		print_latency(what, ns, n, json);
	free(ns);
	return rc ? fail(rc, "%s: %s", what, thmq_strerror(rc))
		  : (thmq_producer_close(p, SECOND * 10), 0);
}

/* As many outstanding as the window takes. */
static int pipelined(struct connection *c, const char *topic, uint32_t level, const char *what,
		     const void *data, uint32_t size, uint64_t seconds, bool json)
{
	uint64_t begin = clock_ns(), until = begin + seconds * SECOND, count = 0;
	struct thmq_producer *p;
	int64_t seq = 0;
	int rc = thmq_producer_open(c->session, topic, THMQ_PRODUCER_OPTS(.durability = level), &p);
	double took;

	while (!rc && !interrupted && clock_ns() < until) {
		uint32_t i;

		for (i = 0; i < 256 && seq >= 0; i++) {
			seq = thmq_send(p, data, size, NULL);
			count += seq > 0;
		}
		if (seq == -EAGAIN)
			seq = 0;
		if (seq < 0)
			rc = (int)seq;
		thmq_poll(c->env, 0);
	}
	if (rc == 0)
		rc = thmq_flush(p, 60 * SECOND);
	took = (double)(clock_ns() - begin) / 1e9;
	if (rc)
		return fail(rc, "%s: %s", what, thmq_strerror(rc));
	if (json)
		printf("{\"what\":\"%s\",\"messages_per_s\":%.0f,\"mb_per_s\":%.1f}\n", what,
		       (double)count / took, (double)count * size / took / 1e6);
	else
		printf("%-34s %10.0f messages/s   %8.1f MB/s\n", what, (double)count / took,
		       (double)count * size / took / 1e6);
	thmq_producer_close(p, 10 * SECOND);
	return 0;
}

/* ---------------------------------------------------- a directory of its own */

struct place {
	char path[4400];
};

/* Never in the data that may be in @dir, which must be there. 0, or an exit code. */
static int make_place(struct place *p, const char *dir)
{
	if ((size_t)snprintf(p->path, sizeof(p->path), "%s/thmq-bench-XXXXXX", dir) >=
	    sizeof(p->path))
		return fail(-ENAMETOOLONG, "%s: %s", dir, strerror(ENAMETOOLONG));
	if (mkdtemp(p->path))
		return 0;
	return errno == ENOENT ? fail(-ENOENT, "%s: there is no such directory", dir)
			       : fail(-EIO, "%s: %s", dir, strerror(errno));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int remove_place(struct place *p, int code)
{
	if (nftw(p->path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0 && errno != ENOENT)
		code = fail(-EIO, "%s could not be removed: %s", p->path, strerror(errno));
	return code;
}

/* ------------------------------------------------------------------ command */

struct bench_opts {
	uint64_t seconds, size, group_us;
	uint32_t flush_method, polled_io;
	bool json;
	const char *url;    /* NULL: a directory */
	char topics[2][64]; /* of messages that are durable, and of those that are written */
};

/* By a core of this thread's own. */
static int connect_remote(struct connection *c, const struct bench_opts *o)
{
	const struct thmq_tls_opts *tls;
	int rc = tls_given(false, &tls);

	memset(c, 0, sizeof(*c));
	if (rc)
		return rc;
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL));
	if (!rc)
		rc = thmq_connect(c->env, o->url, THMQ_SESSION_OPTS(.tls = tls), &c->session);
	if (!rc)
		return 0;
	rc = fail(rc, "%s", thmq_errmsg());
	thmq_env_close(c->env, 0);
	return rc;
}

static int make_topics(struct connection *c, const struct bench_opts *o)
{
	int rc = thmq_topic_create(c->session, o->topics[0], NULL);

	/* its readers do not wait for the flush, so that neither does the device */
	if (!rc)
		rc = thmq_topic_create(c->session, o->topics[1],
				       THMQ_TOPIC_OPTS(.visible_at = THMQ_DURABILITY_WRITTEN));
	return rc;
}

static int connect_bench(struct connection *c, const char *dir, const struct bench_opts *o)
{
	int rc;

	memset(c, 0, sizeof(*c));
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL));
	if (!rc)
		rc = thmq_broker_open(c->env,
				      THMQ_BROKER_OPTS(.data_dir = dir,
						       .group_ns = o->group_us * 1000,
						       .flush_method = o->flush_method,
						       .polled_io = o->polled_io),
				      &c->broker);
	if (!rc)
		rc = thmq_connect(c->env, "inproc://", NULL, &c->session);
	if (!rc)
		return 0;
	rc = fail(rc, "%s", thmq_errmsg());
	thmq_env_close(c->env, 0);
	return rc;
}

/* What the figures were measured through. */
static void print_ways(struct connection *c, bool json)
{
	static const char *const engines[] = {"none", "io_uring", "threads", "inline", "simulated"};
	static const char *const methods[] = {"?", "dsync", "fdatasync"};
	struct thmq_broker_stats st = {.size = sizeof(st)};

	if (thmq_broker_stats(c->broker, &st) != 0 || st.disk_engine > 4 || st.flush_method > 2)
		return;
	printf(json ? "{\"what\":\"device\",\"engine\":\"%s\",\"direct_io\":%s,\"flush\":\"%s\","
		      "\"polled\":%s}\n"
		    : "%s, O_DIRECT %s, flush by %s, polled %s\n",
	       engines[st.disk_engine],
	       st.direct_io ? (json ? "true" : "yes") : (json ? "false" : "no"),
	       methods[st.flush_method],
	       st.polled_io == THMQ_POLLED_ON ? (json ? "true" : "yes") : (json ? "false" : "no"));
}

/* What the core that does it all was doing. */
static void print_core(struct connection *c, bool json)
{
	struct thmq_core_stats st = {.size = sizeof(st)};

	if (thmq_core_stats(thmq_env_core(c->env, 0), &st) != 0 || !st.counted_ns)
		return;
	printf(json ? "{\"what\":\"core\",\"busy\":%.3f,\"idle\":%.3f,\"slept\":%.3f,\"away\":%.3f,"
		      "\"longest_us\":%.1f}\n"
		    : "core: busy %.3f, idle %.3f, asleep %.3f, away %.3f of the time; longest "
		      "iteration %.1f us\n",
	       (double)st.busy_ns / (double)st.counted_ns,
	       (double)st.idle_ns / (double)st.counted_ns,
	       (double)st.slept_ns / (double)st.counted_ns,
	       (double)st.away_ns / (double)st.counted_ns, (double)st.longest_ns / 1e3);
}

static int measure(const char *dir, const struct bench_opts *o)
{
	uint32_t size = (uint32_t)o->size;
	uint64_t seconds = o->seconds;
	bool json = o->json;
	struct connection c;
	void *data = calloc(1, size + 1);
	int rc;

	if (!data)
		return fail(-ENOMEM, "out of memory");
	rc = o->url ? connect_remote(&c, o) : connect_bench(&c, dir, o);
	if (rc) {
		free(data);
		return rc;
	}
	rc = make_topics(&c, o);
	if (rc)
		rc = fail(rc, "%s", thmq_errmsg());
	else if (c.broker)
		print_ways(&c, json);
	if (!rc && !interrupted)
		rc = one_by_one(&c, o->topics[0], THMQ_DURABILITY_DURABLE, "durable, one at a time",
				data, size, seconds, json);
	if (!rc && !interrupted)
		rc = pipelined(&c, o->topics[0], THMQ_DURABILITY_DURABLE,
			       "durable, many outstanding", data, size, seconds, json);
	if (!rc && !interrupted)
		rc = pipelined(&c, o->topics[1], THMQ_DURABILITY_WRITTEN,
			       "written, many outstanding", data, size, seconds, json);
	if (!rc && !interrupted)
		rc = one_by_one(&c, o->topics[0], THMQ_DURABILITY_MEMORY, "memory, one at a time",
				data, size, 1, json);
	if (!rc && !interrupted)
		print_core(&c, json);
	free(data);
	if (o->url) { /* whatever happened: they are nobody else's */
		thmq_topic_delete(c.session, o->topics[0]);
		thmq_topic_delete(c.session, o->topics[1]);
	}
	return disconnect(&c, rc);
}

/* Which of @names @text is; the first one is the default. 0, or an exit code. */
static int parse_choice(const char *option, const char *text, const char *const names[3],
			uint32_t *ret)
{
	uint32_t i;

	for (i = 0; i < 3; i++)
		if (strcmp(text, names[i]) == 0) {
			*ret = i;
			return EXIT_OK;
		}
	return usage_error("%s is %s, %s or %s, not %s", option, names[0], names[1], names[2],
			   text);
}

int cmd_bench(int argc, char **argv)
{
	static const char *const methods[3] = {"auto", "dsync",
					       "fdatasync"};        /* enum thmq_flush_method */
	static const char *const polled[3] = {"auto", "off", "on"}; /* enum thmq_polled_io */
	const char *seconds_text = NULL, *size = NULL, *group_text = NULL, *flush_text = NULL,
		   *polled_text = NULL;
	struct bench_opts o = {.seconds = 2, .size = 100};
	const struct option_spec specs[] = {{"--seconds", &seconds_text, NULL},
					    {"--size", &size, NULL},
					    {"--group-us", &group_text, NULL},
					    {"--flush", &flush_text, NULL},
					    {"--polled", &polled_text, NULL},
					    {"--json", NULL, &o.json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc = 0;
	struct place place;

	if (words < 0)
		return EXIT_USAGE;
	if (seconds_text && (!parse_number(seconds_text, 3600, &o.seconds) || !o.seconds))
		return usage_error("--seconds is a number from 1 to 3600, not %s", seconds_text);
	if (size && strcmp(size, "0") == 0)
		o.size = 0;
	else if (size)
		rc = parse_size("--size", size, &o.size);
	if (rc)
		return rc;
	if (o.size > SIZE_MAX_BYTES)
		return usage_error("--size is at most %u bytes", SIZE_MAX_BYTES);
	if (group_text && !parse_number(group_text, 1000000, &o.group_us))
		return usage_error("--group-us is a number of microseconds up to 1000000, not %s",
				   group_text);
	if (flush_text && (rc = parse_choice("--flush", flush_text, methods, &o.flush_method)) != 0)
		return rc;
	if (polled_text && (rc = parse_choice("--polled", polled_text, polled, &o.polled_io)) != 0)
		return rc;
	if (!count_words(argv, words, 1, "bench needs a directory or a URL"))
		return EXIT_USAGE;
	snprintf(o.topics[0], sizeof(o.topics[0]), "thmq-bench-%llx-%x",
		 (unsigned long long)clock_ns(), (unsigned)getpid());
	snprintf(o.topics[1], sizeof(o.topics[1]), "%.50s-written", o.topics[0]);
	if (is_url(argv[0])) {
		if (group_text || flush_text || polled_text)
			return usage_error(
				"--group-us, --flush and --polled are for a directory; the "
				"broker at a URL has its own ways");
		o.url = argv[0];
		rc = measure(NULL, &o);
		return !rc && interrupted ? fail(-EINTR, "interrupted") : rc;
	}
	rc = make_place(&place, argv[0]);
	if (rc)
		return rc;
	rc = remove_place(&place, measure(place.path, &o));
	return !rc && interrupted ? fail(-EINTR, "interrupted") : rc;
}
