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
#define COUNT_MAX 10000000u
#define SIZE_MAX_BYTES 500000u

struct bench_opts {
	uint64_t seconds, size, group_us;
	uint64_t count; /* messages of each figure; 0: as many as there is time for */
	uint64_t rate;  /* messages a second, sent when they are due; 0: as fast as it goes */
	uint32_t flush_method, polled_io;
	bool json, plot;
	const char *url;    /* NULL: a directory */
	char topics[2][64]; /* of messages that are durable, and of those that are written */
	const void *data;   /* of each message */
};

static void print_latency(const char *what, uint64_t *ns, uint32_t n, const struct bench_opts *o)
{
	struct times t;

	times_of(ns, n, &t);
	if (o->json) {
		printf("{\"what\":\"%s\",\"count\":%u,\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"min_us\":%.2f,\"mean_us\":%.2f,"
		       "\"max_us\":%.2f}\n",
		       what, n, t.p50_us, t.p99_us, t.p999_us, t.min_us, t.mean_us, t.max_us);
		return;
	}
	printf("%-34s p50 %9.1f us   p99 %9.1f us   p99.9 %9.1f us   max %9.1f us\n", what, t.p50_us, t.p99_us, t.p999_us, t.max_us);
	if (o->plot) {
		print_plot(ns, n);
		printf("\n");
	}
}

static void print_rate(const char *what, uint64_t count, uint64_t took_ns, const struct bench_opts *o)
{
	double seconds = (double)took_ns / 1e9, rate = (double)count / seconds;

	printf(o->json ? "{\"what\":\"%s\",\"messages_per_s\":%.0f,\"mb_per_s\":%.1f}\n"
		       : "%-34s %10.0f messages/s   %8.1f MB/s\n",
	       what, rate, rate * (double)o->size / 1e6);
}

/* When a figure that begins now has to end; one that is counted has all time. */
static uint64_t end_of(const struct bench_opts *o, uint64_t seconds)
{
	return o->count ? UINT64_MAX : clock_ns() + seconds * SECOND;
}

/* Until something has come, or so long. 0, or why there is no point in waiting any longer. */
static int go_on(struct connection *c, uint64_t ns)
{
	int rc = thmq_session_wait(c->session, ns);
	struct thmq_event e;

	while (thmq_events(c->session, &e, 1) == 1)
		if (e.type == THMQ_EVENT_CLOSED)
			rc = e.error ? e.error : -ESHUTDOWN;
	return rc < 0 ? rc : 0;
}

/* -EAGAIN: the device is behind, or the network. */
static int64_t send_one(struct connection *c, struct thmq_producer *p, const struct bench_opts *o)
{
	int64_t seq = thmq_send(p, o->data, (uint32_t)o->size, NULL);

	while (seq == -EAGAIN && !interrupted && go_on(c, SECOND) == 0)
		seq = thmq_send(p, o->data, (uint32_t)o->size, NULL);
	return seq;
}

static int say(int rc, const char *what)
{
	return fail(rc, "%s: %s", what, thmq_strerror(rc));
}

/* One message at a time, each awaited: settled, or with @consumer received. */
static int one_by_one(struct connection *c, const char *topic, uint32_t level, struct thmq_consumer *consumer, const char *what,
		      const struct bench_opts *o, uint64_t seconds)
{
	const uint32_t most = o->count ? (uint32_t)o->count : SAMPLES_MAX;
	uint64_t *ns = malloc(most * sizeof(*ns)), until = end_of(o, seconds), begin;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t n = 0;
	int rc;

	if (!ns)
		return fail(-ENOMEM, "out of memory");
	rc = thmq_producer_open(c->session, topic, THMQ_PRODUCER_OPTS(.durability = level), &p);
	while (!rc && !interrupted && n < most && (begin = clock_ns()) < until) {
		int64_t seq = send_one(c, p, o);
		int got = 0;

		if (seq < 0)
			rc = (int)seq;
		while (!rc && !interrupted && (consumer ? !got : thmq_watermark(p) < seq)) {
			rc = go_on(c, SECOND);
			got = consumer ? thmq_fetch(consumer, &m, 1) : 0;
			if (got < 0)
				rc = got;
		}
		if (!rc && !interrupted)
			ns[n++] = clock_ns() - begin;
		if (got > 0)
			thmq_release(consumer, &m, 1);
	}
	if (rc == 0 && n)
		print_latency(what, ns, n, o);
	free(ns);
	return rc ? say(rc, what) : (thmq_producer_close(p, SECOND * 10), 0);
}

/* From one hand to the other: a message is on its way until its consumer has it. */
static int delivered(struct connection *c, const char *topic, const char *what, const struct bench_opts *o)
{
	struct thmq_consumer *consumer;
	int rc = thmq_consumer_open(c->session, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &consumer);

	if (rc)
		return say(rc, what);
	rc = one_by_one(c, topic, THMQ_DURABILITY_DURABLE, consumer, what, o, o->seconds);
	thmq_consumer_close(consumer, SECOND);
	return rc;
}

/* As many outstanding as the window takes. */
static int pipelined(struct connection *c, const char *topic, uint32_t level, const char *what, const struct bench_opts *o)
{
	uint64_t begin = clock_ns(), until = end_of(o, o->seconds), count = 0, most = o->count ? o->count : UINT64_MAX;
	struct thmq_producer *p;
	int64_t seq = 0;
	int rc = thmq_producer_open(c->session, topic, THMQ_PRODUCER_OPTS(.durability = level), &p);

	while (!rc && !interrupted && count < most && clock_ns() < until) {
		uint32_t i;

		for (i = 0; i < 256 && seq >= 0 && count < most; i++) {
			seq = thmq_send(p, o->data, (uint32_t)o->size, NULL);
			count += seq > 0;
		}
		if (seq == -EAGAIN)
			seq = 0;
		rc = seq < 0 ? (int)seq : go_on(c, 0);
	}
	if (rc == 0)
		rc = thmq_flush(p, 60 * SECOND);
	if (rc)
		return say(rc, what);
	print_rate(what, count, clock_ns() - begin, o);
	thmq_producer_close(p, 10 * SECOND);
	return 0;
}

/* Each is sent when it is due, whatever became of those before; its time counts from then, also where there was no room for it. */
static int at_rate(struct connection *c, const char *topic, uint32_t level, const char *what, const struct bench_opts *o)
{
	const uint64_t total = o->count ? o->count : o->rate * o->seconds;
	uint64_t *ns = malloc(total * sizeof(*ns)), begin, now, sent = 0, done = 0;
	struct thmq_producer *p;
	int64_t seq, settled;
	int rc;

	if (!ns)
		return fail(-ENOMEM, "out of memory");
	rc = thmq_producer_open(c->session, topic, THMQ_PRODUCER_OPTS(.durability = level), &p);
	begin = clock_ns();
#define DUE(i) (begin + (uint64_t)((double)(i) * 1e9 / (double)o->rate))
	while (!rc && done < total && !(interrupted && done == sent)) {
		now = clock_ns();
		for (seq = 0; !interrupted && sent < total && seq >= 0 && DUE(sent) <= now; sent += seq > 0)
			seq = thmq_send(p, o->data, (uint32_t)o->size, NULL);
		if (seq < 0 && seq != -EAGAIN)
			rc = (int)seq;
		if (!rc)
			rc = go_on(c, 0);
		settled = thmq_watermark(p);
		for (now = clock_ns(); !rc && (int64_t)done < settled; done++)
			ns[done] = now - DUE(done);
	}
#undef DUE
	if (!rc && done) {
		print_rate(what, done, clock_ns() - begin, o);
		print_latency(what, ns, (uint32_t)done, o);
	}
	free(ns);
	return rc ? say(rc, what) : (thmq_producer_close(p, 10 * SECOND), 0);
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

/* 0, or an exit code. */
static int figures(struct connection *c, const struct bench_opts *o)
{
	char what[64];
	int rc;

	if (o->rate) {
		snprintf(what, sizeof(what), "durable, %llu a second", (unsigned long long)o->rate);
		return at_rate(c, o->topics[0], THMQ_DURABILITY_DURABLE, what, o);
	}
	rc = one_by_one(c, o->topics[0], THMQ_DURABILITY_DURABLE, NULL, "durable, one at a time", o, o->seconds);
	if (!rc && !interrupted)
		rc = delivered(c, o->topics[0], "durable, received, one at a time", o);
	if (!rc && !interrupted)
		rc = pipelined(c, o->topics[0], THMQ_DURABILITY_DURABLE, "durable, many outstanding", o);
	if (!rc && !interrupted)
		rc = pipelined(c, o->topics[1], THMQ_DURABILITY_WRITTEN, "written, many outstanding", o);
	if (!rc && !interrupted)
		rc = one_by_one(c, o->topics[0], THMQ_DURABILITY_MEMORY, NULL, "memory, one at a time", o, 1);
	return rc;
}

static int measure(const char *dir, struct bench_opts *o)
{
	void *data = calloc(1, o->size + 1);
	struct connection c;
	int rc;

	if (!data)
		return fail(-ENOMEM, "out of memory");
	o->data = data;
	rc = o->url ? connect_remote(&c, o) : connect_bench(&c, dir, o);
	if (rc) {
		free(data);
		return rc;
	}
	rc = make_topics(&c, o);
	if (rc)
		rc = fail(rc, "%s", thmq_errmsg());
	else if (c.broker)
		print_ways(&c, o->json);
	if (!rc && !interrupted)
		rc = figures(&c, o);
	if (!rc && !interrupted)
		print_core(&c, o->json);
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
	const char *seconds_text = NULL, *size = NULL, *group_text = NULL, *flush_text = NULL, *polled_text = NULL, *count = NULL,
		   *rate = NULL;
	struct bench_opts o = {.seconds = 2, .size = 100};
	const struct option_spec specs[] = {{"--seconds", &seconds_text, NULL},
					    {"--count", &count, NULL},
					    {"--rate", &rate, NULL},
					    {"--size", &size, NULL},
					    {"--group-us", &group_text, NULL},
					    {"--flush", &flush_text, NULL},
					    {"--polled", &polled_text, NULL},
					    {"--plot", NULL, &o.plot},
					    {"--json", NULL, &o.json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc = 0;
	struct place place;

	if (words < 0)
		return EXIT_USAGE;
	if (seconds_text && (!parse_number(seconds_text, 3600, &o.seconds) || !o.seconds))
		return usage_error("--seconds is a number from 1 to 3600, not %s", seconds_text);
	if (count && (!parse_number(count, COUNT_MAX, &o.count) || !o.count))
		return usage_error("--count is a number from 1 to %u, not %s", COUNT_MAX, count);
	if (count && seconds_text)
		return usage_error("--count and --seconds: one of the two");
	if (rate && (!parse_number(rate, COUNT_MAX, &o.rate) || !o.rate))
		return usage_error("--rate is a number of messages a second from 1 to %u, not %s", COUNT_MAX, rate);
	if (rate && !count && o.rate * o.seconds > COUNT_MAX)
		return usage_error("--rate for so many --seconds is more than %u messages", COUNT_MAX);
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
