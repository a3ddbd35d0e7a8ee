/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_opts_test.c - option structs: flag bits that are not known, sizes of another library version, values out
 * of bounds. The defaults (all zero) always work; what is refused changed nothing.
 */
#include "bad_input.h"

#include <thundermq/reactor.h>

static struct world w;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;

/* One options struct and the call that takes it. */
struct subject {
	const char *name;
	uint32_t size;
	uint32_t known; /* flag bits */
	int (*call)(const void *opts);
	bool data; /* data plane: sets no text */
};

static int call_env(const void *opts)
{
	struct thmq_env *env;
	int rc = thmq_env_open(&env, opts);

	if (rc == 0)
		rc = thmq_env_close(env, SECOND);
	return rc;
}

static int call_broker(const void *opts)
{
	static unsigned n;
	char name[32];
	struct thmq_broker *b;
	uint8_t copy[512];
	struct thmq_broker_opts *o = (void *)copy;
	uint32_t size = ((const struct thmq_broker_opts *)opts)->size;
	int rc;

	/* another name each time, so that no two stand in each other's way */
	memset(copy, 0, sizeof(copy));
	memcpy(copy, opts, size < sizeof(copy) ? size : sizeof(copy));
	memcpy(copy, opts, 8);
	snprintf(name, sizeof(name), "broker-%u", n++);
	if (size >= sizeof(*o))
		o->name = name;
	rc = thmq_broker_open(w.env, o, &b);
	if (rc == 0)
		rc = thmq_broker_close(b, SECOND);
	return rc;
}

static int call_session(const void *opts)
{
	struct thmq_session *s;
	int rc = thmq_connect(w.env, "inproc://main", opts, &s);

	if (rc == 0)
		rc = thmq_session_close(s, SECOND);
	return rc;
}

static int call_topic(const void *opts)
{
	int rc = thmq_topic_create(w.session, "made", opts);

	if (rc == 0)
		rc = thmq_topic_delete(w.session, "made");
	return rc;
}

static int call_producer(const void *opts)
{
	struct thmq_producer *p;
	int rc = thmq_producer_open(w.session, "numbers", opts, &p);

	if (rc == 0)
		rc = thmq_producer_close(p, SECOND);
	return rc;
}

static int call_message(const void *opts)
{
	struct thmq_claim claim;
	int rc = thmq_claim(producer, opts, 8, &claim);

	if (rc == 0)
		rc = thmq_abort(producer, &claim);
	return rc;
}

static int call_consumer(const void *opts)
{
	struct thmq_consumer *c;
	int rc = thmq_consumer_open(w.session, "numbers", NULL, opts, &c);

	if (rc == 0)
		rc = thmq_consumer_close(c, SECOND);
	return rc;
}

static const struct subject subjects[] = {
	{"env", sizeof(struct thmq_env_opts),
	 THMQ_ENV_FIRST_CPU | THMQ_ENV_NO_PIN | THMQ_ENV_ALLOW_THREADS | THMQ_ENV_NO_URING | THMQ_ENV_LOCK_MEMORY,
	 call_env, false},
	{"broker", sizeof(struct thmq_broker_opts), THMQ_BROKER_NO_CREATE | THMQ_BROKER_NO_BACKGROUND_FLUSH | THMQ_BROKER_NO_STATS, call_broker, false},
	{"session", sizeof(struct thmq_session_opts), 0, call_session, false},
	{"topic", sizeof(struct thmq_topic_opts),
	 THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT | THMQ_TOPIC_RETAIN_CONSUMED | THMQ_TOPIC_COMPACT | THMQ_TOPIC_TEMPORARY,
	 call_topic, false},
	{"producer", sizeof(struct thmq_producer_opts), THMQ_PRODUCER_REPORT, call_producer, false},
	{"message", sizeof(struct thmq_message_opts), THMQ_MESSAGE_PARTITION | THMQ_MESSAGE_TIME | THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY,
	 call_message, true},
	{"consumer", sizeof(struct thmq_consumer_opts), THMQ_CONSUMER_START_ALWAYS | THMQ_CONSUMER_SHARED | THMQ_CONSUMER_PARTITION | THMQ_CONSUMER_ENCODED |
	 THMQ_CONSUMER_READ_UNCOMMITTED, call_consumer,
	 false},
};

static void up(void)
{
	place_make(NULL);
	env_up(&w);
	/* it has a name, so that one without may come beside it */
	MUST(thmq_broker_open(w.env,
			      THMQ_BROKER_OPTS(.data_dir = in_place("data"), .name = "main",
					       .segment_bytes = 1 << 20, .cache_bytes = 4 << 20,
					       .batch_bytes = 64 << 10),
			      &w.broker));
	MUST(thmq_connect(w.env, "inproc://main", NULL, &w.session));
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &producer));
	MUST(thmq_consumer_open(w.session, "numbers", NULL, NULL, &consumer));
}

static void down(void)
{
	MUST(thmq_producer_close(producer, SECOND));
	MUST(thmq_consumer_close(consumer, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static void expect(const struct subject *s, const char *what, int want, const void *opts)
{
	int rc = s->call(opts);

	if (rc != want)
		FAIL("%s, %s: %s, not %s; said: \"%s\"", s->name, what, thmq_errname(rc),
		     thmq_errname(want), thmq_errmsg());
	if (want && !s->data && !thmq_errmsg()[0])
		FAIL("%s, %s: no text", s->name, what);
}

static void unknown_flags(void)
{
	uint32_t opts[256];
	const struct subject *s;
	unsigned bit;

	up();
	for (s = subjects; s < subjects + CASE_COUNT(subjects); s++) {
		memset(opts, 0, sizeof(opts));
		opts[0] = s->size;
		expect(s, "all defaults", 0, opts);
		for (bit = 0; bit < 32; bit++) {
			opts[1] = 1u << bit;
			if (!(s->known & opts[1]))
				expect(s, "an unknown flag", -EINVAL, opts);
		}
	}
	down();
}

static void sizes(void)
{
	uint32_t opts[256];
	const struct subject *s;
	uint32_t size;

	up();
	for (s = subjects; s < subjects + CASE_COUNT(subjects); s++) {
		memset(opts, 0, sizeof(opts));
		for (size = 0; size < 8; size++) {
			opts[0] = size;
			expect(s, "a size below 8", -EINVAL, opts);
			if (!s->data && !strstr(thmq_errmsg(), "set the size field"))
				FAIL("%s, a size below 8: no cure in \"%s\"", s->name, thmq_errmsg());
		}
		for (size = 8; size <= s->size + 64; size += 8) {
			opts[0] = size; /* shorter: of an older program; longer: of a newer one */
			expect(s, "another size, all zero", 0, opts);
		}
		opts[0] = s->size + 64;
		((uint8_t *)opts)[s->size] = 1;
		expect(s, "something behind what is known", -E2BIG, opts);
		if (!s->data && !strstr(thmq_errmsg(), "newer"))
			FAIL("%s, something behind what is known: no cause in \"%s\"", s->name, thmq_errmsg());
		((uint8_t *)opts)[s->size] = 0;
		((uint8_t *)opts)[s->size + 63] = 0x80;
		expect(s, "something at the very end", -E2BIG, opts);
		opts[0] = s->size;
		expect(s, "beyond its own size nobody looks", 0, opts);
	}
	down();
}

static void stats_sizes(void)
{
	struct {
		struct thmq_env_stats stats;
		uint8_t behind[64];
	} env;
	struct {
		struct thmq_broker_stats stats;
		uint8_t behind[64];
	} broker;
	size_t i;

	up();
	memset(&env, 0, sizeof(env));
	SAYS(-EINVAL, NULL, thmq_env_stats(w.env, &env.stats));
	env.stats.size = 12; /* an older program: no byte behind is touched */
	memset((uint8_t *)&env + 12, 0xee, sizeof(env) - 12);
	RETURNS(0, thmq_env_stats(w.env, &env.stats));
	CHECK(env.stats.core_count == 1);
	for (i = 12; i < sizeof(env); i++)
		CHECK(((uint8_t *)&env)[i] == 0xee);
	env.stats.size = sizeof(env);
	RETURNS(0, thmq_env_stats(w.env, &env.stats));
	CHECK(env.stats.pool_bytes > 0 && env.stats.pool_bytes < 1ull << 40);

	memset(&broker, 0, sizeof(broker));
	SAYS(-EINVAL, NULL, thmq_broker_stats(w.broker, &broker.stats));
	broker.stats.size = 8;
	memset((uint8_t *)&broker + 8, 0xee, sizeof(broker) - 8);
	RETURNS(0, thmq_broker_stats(w.broker, &broker.stats));
	CHECK(broker.stats.shard_count == 1);
	for (i = 8; i < sizeof(broker); i++)
		CHECK(((uint8_t *)&broker)[i] == 0xee);
	broker.stats.size = sizeof(broker);
	RETURNS(0, thmq_broker_stats(w.broker, &broker.stats));
	CHECK(broker.stats.messages_in == 10);
	/* and what a broker with one copy has not */
	SAYS(-ENOTSUP, "only copy", thmq_cluster_add(w.session, 2, "tcp://127.0.0.1:1", SECOND));
	SAYS(-ENOTSUP, "only copy", thmq_cluster_drain(w.session, 2, SECOND));
	down();
}

/* Of a log on its own: options, and the events in them, each with a size. */
static void log_sizes(void)
{
	struct thmq_core *core;
	struct thmq_log *log = NULL;
	struct thmq_log_events events = {.size = 0};
	struct thmq_log_opts opts = {.size = 0};
	struct thmq_log_stats st = {.size = 0};

	env_up(&w);
	core = thmq_env_core(w.env, 0);
	SAYS(-EINVAL, "log", thmq_log_open(core, &opts, &log));
	opts.size = sizeof(opts);
	opts.events = &events;
	SAYS(-EINVAL, "events", thmq_log_open(core, &opts, &log));
	events.size = UINT32_MAX;
	SAYS(-E2BIG, "events", thmq_log_open(core, &opts, &log));
	events.size = sizeof(events);
	opts.flags = 1u << 31;
	SAYS(-EINVAL, "flag", thmq_log_open(core, &opts, &log));
	opts.flags = 0;
	opts.full_policy = 99;
	SAYS(-EINVAL, "full_policy", thmq_log_open(core, &opts, &log));
	opts.full_policy = 0;
	opts.dir = "";
	SAYS(-EINVAL, "dir is empty", thmq_log_open(core, &opts, &log));
	opts.dir = NULL;
	SAYS(-EINVAL, "core", thmq_log_open(NULL, &opts, &log));
	SAYS(-EINVAL, "handle", thmq_log_open(core, &opts, NULL));
	CHECK(!log);
	MUST(thmq_log_open(core, &opts, &log)); /* in memory */
	SAYS(-EINVAL, "stats", thmq_log_stats(log, &st));
	RETURNS(0, thmq_log_close(log, 0));
	world_down(&w);
}

static void env_bounds(void)
{
	struct thmq_env *env = NULL;

	SAYS(-EINVAL, NULL,
	     thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = THMQ_CORE_COUNT_MAX + 1)));
	SAYS(-EINVAL, NULL,
	     thmq_env_open(&env, THMQ_ENV_OPTS(.caller_cores = THMQ_CORE_COUNT_MAX + 1)));
	SAYS(-EINVAL, NULL, thmq_env_open(&env, THMQ_ENV_OPTS(.policy = 99)));
	SAYS(-EINVAL, "first_cpu is 100000",
	     thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_FIRST_CPU, .first_cpu = 100000)));
	CHECK(!env);
}

static int broker_with(const struct thmq_broker_opts *opts)
{
	struct thmq_broker *b;
	int rc = thmq_broker_open(w.env, opts, &b);

	if (rc == 0)
		thmq_broker_close(b, SECOND);
	return rc;
}

static void broker_bounds(void)
{
	const char *dir;

	up();
	dir = in_place("bounds");
#define BAD(...)                                                                                   \
	SAYS(-EINVAL, NULL,                                                                        \
	     broker_with(THMQ_BROKER_OPTS(.data_dir = dir, .name = "bounds", __VA_ARGS__)))
	BAD(.shard_count = THMQ_SHARD_COUNT_MAX + 1);
	BAD(.segment_bytes = 1);
	BAD(.segment_bytes = (1 << 20) + 4096);
	BAD(.segment_bytes = 512 << 10);
	BAD(.segment_bytes = 2ull << 30);
	BAD(.batch_bytes = 4095);
	BAD(.batch_bytes = 4097);
	BAD(.batch_bytes = 8 << 20);
	BAD(.group_ns = SECOND + 1);
	BAD(.group_bytes = (1 << 20) + 1);
	BAD(.batch_bytes = 64 << 10, .group_bytes = (64 << 10) + 1);
	BAD(.flush_interval_ns = 3600 * SECOND + 1);
	BAD(.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH, .flush_interval_ns = SECOND);
	BAD(.flags = THMQ_BROKER_NO_BACKGROUND_FLUSH, .flush_bytes = 1 << 20);
	BAD(.flush_method = THMQ_FLUSH_FDATASYNC + 1);
	BAD(.polled_io = THMQ_POLLED_ON + 1);
	CHECK(access(dir, F_OK) != 0); /* nothing was made */
	SAYS(-EINVAL, NULL, broker_with(THMQ_BROKER_OPTS(.name = "a/b")));
	SAYS(-EINVAL, NULL, broker_with(THMQ_BROKER_OPTS(.name = "")));
	down();
}

/* How the device is used can be said, is so, and is told. */
static void broker_ways(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};
	struct thmq_broker *b;
	uint32_t method;
	int rc;

	up();
	for (method = THMQ_FLUSH_DSYNC; method <= THMQ_FLUSH_FDATASYNC; method++) {
		MUST(thmq_broker_open(w.env,
				      THMQ_BROKER_OPTS(.data_dir = in_place("ways"), .name = "ways", .segment_bytes = 1 << 20,
						       .flush_method = method, .polled_io = THMQ_POLLED_OFF),
				      &b));
		RETURNS(0, thmq_broker_stats(b, &st));
		CHECK(st.flush_method == method && st.polled_io == THMQ_POLLED_OFF);
		RETURNS(0, thmq_broker_close(b, SECOND));
	}
	/* few devices can be polled: where this one cannot, it is said, and the directory is as good as before */
	rc = thmq_broker_open(w.env,
			      THMQ_BROKER_OPTS(.data_dir = in_place("ways"), .name = "ways", .polled_io = THMQ_POLLED_ON), &b);
	if (rc == 0) {
		RETURNS(0, thmq_broker_stats(b, &st));
		CHECK(st.polled_io == THMQ_POLLED_ON);
	} else {
		RETURNS(-EOPNOTSUPP, rc);
		check_text(__FILE__, __LINE__, "polled_io", "polled queues");
		MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = in_place("ways"), .name = "ways"), &b));
		RETURNS(0, thmq_broker_stats(b, &st));
		CHECK(st.flush_method == THMQ_FLUSH_DSYNC || st.flush_method == THMQ_FLUSH_FDATASYNC);
	}
	RETURNS(0, thmq_broker_close(b, SECOND));
	/* without a directory there is no device */
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.name = "ways", .flush_method = THMQ_FLUSH_DSYNC), &b));
	RETURNS(0, thmq_broker_stats(b, &st));
	CHECK(st.flush_method == 0 && st.polled_io == 0);
	RETURNS(0, thmq_broker_close(b, SECOND));
	down();
}

static void other_bounds(void)
{
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;

	up();
	SAYS(-EINVAL, NULL, thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.visible_at = 99)));
	SAYS(-EINVAL, NULL,
	     thmq_producer_open(w.session, "numbers", THMQ_PRODUCER_OPTS(.durability = 99), &p));
	SAYS(-EINVAL, NULL,
	     thmq_consumer_open(w.session, "numbers", NULL, THMQ_CONSUMER_OPTS(.start = 99), &c));
	SAYS(-EINVAL, NULL,
	     thmq_consumer_open(w.session, "numbers", NULL,
				THMQ_CONSUMER_OPTS(.start = THMQ_START_OFFSET), &c));
#define BAD_CONSUMER(said, ...) SAYS(-EINVAL, said, thmq_consumer_open(w.session, "numbers", "g", THMQ_CONSUMER_OPTS(__VA_ARGS__), &c))
	BAD_CONSUMER("session_timeout_ns is 100 ms", .session_timeout_ns = 1);
	BAD_CONSUMER("session_timeout_ns is 100 ms", .session_timeout_ns = SECOND / 10 - 1);
	BAD_CONSUMER("session_timeout_ns is 100 ms", .session_timeout_ns = UINT64_MAX);
	BAD_CONSUMER("invisible_ns is 1 ms", .flags = THMQ_CONSUMER_SHARED, .invisible_ns = 1);
	BAD_CONSUMER("invisible_ns is 1 ms", .flags = THMQ_CONSUMER_SHARED, .invisible_ns = UINT64_MAX);
	BAD_CONSUMER("assignor 99", .assignor = 99);
	BAD_CONSUMER("backoff_ns has 1 to", .flags = THMQ_CONSUMER_SHARED, .backoff_count = 1);
	BAD_CONSUMER("need THMQ_CONSUMER_SHARED", .deliver_max = 1);
#undef BAD
	CHECK(!p && !c);
	/* the least of all, and the most */
	MUST(thmq_consumer_open(w.session, "numbers", "least",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 10, .prefetch_count = 1, .prefetch_bytes = 1), &c));
	MUST(thmq_consumer_close(c, SECOND));
	MUST(thmq_consumer_open(w.session, "numbers", "most",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = 365 * 86400 * SECOND, .prefetch_count = UINT32_MAX, .prefetch_bytes = UINT64_MAX,
						   .start = THMQ_START_TIME, .start_time_ns = UINT64_MAX),
				&c));
	MUST(thmq_consumer_close(c, SECOND));
	c = NULL;
	/* rungs that need copies mean `durable` where there is one */
	MUST(thmq_producer_open(w.session, "numbers",
				THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_ALL), &p));
	MUST(thmq_producer_close(p, SECOND));
	down();
}

/* The _init calls give what the macros give. */
static void init_calls(void)
{
	uint32_t opts[128];
	unsigned i;

#define INIT(call, type)                                                                           \
	do {                                                                                       \
		memset(opts, 0xee, sizeof(opts));                                                  \
		call((void *)opts);                                                                \
		RETURNS(sizeof(type), opts[0]);                                                    \
		for (i = 1; i < sizeof(type) / 4; i++)                                             \
			RETURNS(0, opts[i]);                                                       \
		RETURNS(0xeeeeeeeeu, opts[sizeof(type) / 4]);                                      \
		call(NULL);                                                                        \
	} while (0)
	INIT(thmq_env_opts_init, struct thmq_env_opts);
	INIT(thmq_broker_opts_init, struct thmq_broker_opts);
	INIT(thmq_session_opts_init, struct thmq_session_opts);
	INIT(thmq_topic_opts_init, struct thmq_topic_opts);
	INIT(thmq_producer_opts_init, struct thmq_producer_opts);
	INIT(thmq_message_opts_init, struct thmq_message_opts);
	INIT(thmq_consumer_opts_init, struct thmq_consumer_opts);
}

/* A program that was compiled with other headers than the library's: its struct is shorter, or longer, and just that is written. */
static void init_sizes(void)
{
	static const uint32_t sizes[] = {8, 16, sizeof(struct thmq_env_opts), sizeof(struct thmq_env_opts) + 24};
	struct thmq_env *env = NULL;
	uint32_t opts[64];
	unsigned i, k;

	for (i = 0; i < 4; i++) {
		memset(opts, 0xee, sizeof(opts));
		(thmq_env_opts_init)((void *)opts, sizes[i]);
		RETURNS(sizes[i], opts[0]);
		for (k = 1; k < sizes[i] / 4; k++)
			RETURNS(0, opts[k]);
		for (; k < 64; k++)
			RETURNS(0xeeeeeeeeu, opts[k]);
		MUST(thmq_env_open(&env, (void *)opts));
		MUST(thmq_env_close(env, SECOND));
	}
	memset(opts, 0xee, sizeof(opts));
	(thmq_env_opts_init)((void *)opts, 7);
	(thmq_env_opts_init)((void *)opts, 65537);
	for (k = 0; k < 64; k++)
		RETURNS(0xeeeeeeeeu, opts[k]);
}

static const struct bad_case cases[] = {
	{"unknown_flags", unknown_flags}, {"sizes", sizes},
	{"stats_sizes", stats_sizes},     {"log_sizes", log_sizes},
	{"env_bounds", env_bounds},
	{"broker_bounds", broker_bounds}, {"broker_ways", broker_ways},
	{"other_bounds", other_bounds},
	{"init_calls", init_calls},
	{"init_sizes", init_sizes},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
