/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_topic_test.c - names, partitions, sizes and offsets that cannot be: refused with a text that says so,
 * and the session goes on.
 */
#include "bad_input.h"

static struct world w;

static void up(void)
{
	place_make(NULL);
	world_up(&w, in_place("data"));
}

/* After all that was refused the ordinary still works. */
static void down(void)
{
	put_numbers(w.session, 0, 10);
	CHECK(get_numbers(w.session) == 10);
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static const char *long_name(unsigned len)
{
	static char name[1024];

	memset(name, 'n', len);
	name[len] = 0;
	return name;
}

/* ------------------------------------------------------------------- names */

static void topic_names(void)
{
	static const char *const bad[] = {"",       ".",    "..",          "a b", "a/b", "/",
					  "a\tb",   "a\nb", "caf\xc3\xa9", "a:b", "a*",  "a?",
					  "%s%s%n", "\x01", "a\\b",        "\"",  "a;b"};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;
	size_t i;

	up();
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		SAYS(-EINVAL, NULL, thmq_topic_create(w.session, bad[i], NULL));
		CHECK(thmq_topic_delete(w.session, bad[i]) < 0 && thmq_errmsg()[0]);
		CHECK(thmq_topic_describe(w.session, bad[i], &info) < 0 && thmq_errmsg()[0]);
		CHECK(thmq_producer_open(w.session, bad[i], NULL, &p) < 0 && thmq_errmsg()[0]);
		CHECK(thmq_consumer_open(w.session, bad[i], NULL, NULL, &c) < 0 &&
		      thmq_errmsg()[0]);
		CHECK(!p && !c);
	}
	SAYS(-ENAMETOOLONG, "249",
	     thmq_topic_create(w.session, long_name(THMQ_TOPIC_NAME_MAX + 1), NULL));
	SAYS(-ENAMETOOLONG, "249", thmq_topic_create(w.session, long_name(1000), NULL));
	RETURNS(0, thmq_topic_create(w.session, long_name(THMQ_TOPIC_NAME_MAX), NULL));
	RETURNS(0, thmq_topic_describe(w.session, long_name(THMQ_TOPIC_NAME_MAX), &info));
	CHECK(strlen(info.name) == THMQ_TOPIC_NAME_MAX);
	RETURNS(0, thmq_topic_delete(w.session, long_name(THMQ_TOPIC_NAME_MAX)));
	RETURNS(0, thmq_topic_create(w.session, "A-z_0.9", NULL));
	RETURNS(0, thmq_topic_delete(w.session, "A-z_0.9"));
	RETURNS(0, thmq_topic_create(w.session, "...", NULL));
	RETURNS(0, thmq_topic_delete(w.session, "..."));
	RETURNS(0, thmq_topic_list(w.session, &info, 1));
	down();
}

static void group_names(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_consumer *c = NULL;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	SAYS(-EINVAL, NULL, thmq_consumer_open(w.session, "t", "", NULL, &c));
	SAYS(-EINVAL, NULL, thmq_consumer_open(w.session, "t", "a b", NULL, &c));
	SAYS(-ENAMETOOLONG, NULL,
	     thmq_consumer_open(w.session, "t", long_name(THMQ_GROUP_NAME_MAX + 1), NULL, &c));
	CHECK(!c);
	RETURNS(0, thmq_consumer_open(w.session, "t", long_name(THMQ_GROUP_NAME_MAX), NULL, &c));
	RETURNS(0, thmq_consumer_close(c, SECOND));
	/* a group that was never there is no error: it has no offset */
	RETURNS(0, thmq_partition_describe(w.session, "t", 0, "never", &info));
	CHECK(info.group_offset == UINT64_MAX);
	down();
}

static void urls(void)
{
	static const struct {
		const char *url;
		int error;
	} bad[] = {
		{"", -EINVAL},
		{"inproc", -EINVAL},
		{"inproc:", -EINVAL},
		{"inproc:/", -EINVAL},
		{"://x", -EINVAL},
		{"inproc://nobody", -ECONNREFUSED},
		{"quic://127.0.0.1:1", -EPROTONOSUPPORT},
		{"pigeon://coop", -EPROTONOSUPPORT},
	};
	struct thmq_session *s = NULL;
	size_t i;

	up();
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		SAYS(bad[i].error, NULL, thmq_connect(w.env, bad[i].url, NULL, &s));
	SAYS(-ECONNREFUSED, "nobody", thmq_connect(w.env, "inproc://nobody", NULL, &s));
	SAYS(-EPROTONOSUPPORT, "pigeon", thmq_connect(w.env, "pigeon://coop", NULL, &s));
	SAYS(-EINVAL, NULL, thmq_connect(w.env, NULL, NULL, &s));
	CHECK(!s);
	down();
}

static void broker_names(void)
{
	struct thmq_broker *b = NULL;
	struct thmq_session *s = NULL;

	up();
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.name = "one"), &b));
	SAYS(-EEXIST, "one", thmq_broker_open(w.env, THMQ_BROKER_OPTS(.name = "one"), (void *)&s));
	CHECK(!s);
	/* two brokers: a bare inproc:// is the unnamed one's, or it must be said which */
	SAYS(-EPROTONOSUPPORT, "quic",
	     thmq_broker_open(w.env,
			      THMQ_BROKER_OPTS(.name = "two", .listen = "quic://127.0.0.1:7471"),
			      (void *)&s));
	CHECK(!s);
	MUST(thmq_connect(w.env, "inproc://one", NULL, &s));
	RETURNS(0, thmq_session_close(s, SECOND));
	RETURNS(0, thmq_broker_close(b, SECOND));
	down();
}

/* -------------------------------------------------------------- existence */

static void absent_topics(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;

	up();
	SAYS(-THMQ_ENOTOPIC, "absent", thmq_topic_delete(w.session, "absent"));
	SAYS(-THMQ_ENOTOPIC, "absent", thmq_topic_describe(w.session, "absent", &info));
	SAYS(-THMQ_ENOTOPIC, "absent",
	     thmq_partition_describe(w.session, "absent", 0, NULL, &part));
	SAYS(-THMQ_ENOTOPIC, "absent", thmq_producer_open(w.session, "absent", NULL, &p));
	SAYS(-THMQ_ENOTOPIC, "absent", thmq_consumer_open(w.session, "absent", NULL, NULL, &c));
	SAYS(-THMQ_ENOTOPIC, "absent", thmq_consumer_open(w.session, "absent", "g", NULL, &c));
	CHECK(!p && !c);
	MUST(thmq_topic_create(w.session, "there", NULL));
	SAYS(-EEXIST, "there", thmq_topic_create(w.session, "there", NULL));
	RETURNS(0, thmq_topic_create(w.session, "there",
				     THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
	down();
}

static void absent_partitions(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_claim claim;

	up();
	MUST(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 2)));
	SAYS(-THMQ_ENOPARTITION, "2", thmq_partition_describe(w.session, "t", 2, NULL, &part));
	SAYS(-THMQ_ENOPARTITION, NULL,
	     thmq_partition_describe(w.session, "t", UINT32_MAX, NULL, &part));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	RETURNS(-THMQ_ENOPARTITION,
		thmq_claim(p, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 2), 8,
			   &claim));
	RETURNS(-THMQ_ENOPARTITION, thmq_send(p, "x", 1,
					      THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
								.partition = UINT32_MAX)));
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	SAYS(-THMQ_ENOPARTITION, "2", thmq_seek(c, 2, THMQ_START_BEGIN, 0));
	MUST(thmq_consumer_close(c, SECOND));
	MUST(thmq_producer_close(p, SECOND));
	SAYS(-EINVAL, "partition",
	     thmq_topic_create(w.session, "many",
			       THMQ_TOPIC_OPTS(.partition_count = THMQ_PARTITION_COUNT_MAX + 1)));
	down();
}

static void topic_deleted_while_open(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	unsigned i;
	int64_t rc = 0;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	MUST(thmq_send(p, "x", 1, NULL));
	MUST(thmq_flush(p, SECOND));
	MUST(thmq_topic_delete(w.session, "t"));
	for (i = 0; i < 100 && rc != -THMQ_ENOTOPIC; i++) {
		rc = thmq_send(p, "y", 1, NULL);
		wait_messages(w.session, SECOND / 100); /* takes the news in */
	}
	RETURNS(-THMQ_ENOTOPIC, rc);
	for (i = 0; i < 100; i++) {
		rc = thmq_fetch(c, &m, 1);
		if (rc == -THMQ_ENOTOPIC)
			break;
		if (rc > 0) /* fetched before the news came */
			thmq_release(c, &m, 1);
		thmq_poll(w.env, SECOND / 1000);
	}
	RETURNS(-THMQ_ENOTOPIC, rc);
	thmq_producer_close(p, SECOND);
	thmq_consumer_close(c, SECOND);
	/* the name is free; the new topic has nothing of the old one */
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_consumer_open(w.session, "t", "g", NULL, &c));
	wait_messages(w.session, SECOND / 10);
	RETURNS(0, thmq_fetch(c, &m, 1));
	MUST(thmq_consumer_close(c, SECOND));
	down();
}

/* ------------------------------------------------------------------- sizes */

static int fetch_one(struct thmq_consumer *c, struct thmq_message *m)
{
	int rc, tries;

	for (tries = 0; tries < 50; tries++) {
		rc = thmq_fetch(c, m, 1);
		if (rc)
			return rc;
		wait_messages(w.session, SECOND / 10);
	}
	return 0;
}

static void message_sizes(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_claim claim;
	uint32_t max;
	uint8_t *big;
	size_t i;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	max = thmq_producer_len_max(p);
	CHECK(max >= 1024);
	RETURNS(-EMSGSIZE, thmq_claim(p, NULL, max + 9, &claim));
	RETURNS(-EMSGSIZE, thmq_claim(p, NULL, UINT32_MAX, &claim));
	big = malloc((size_t)max + 1);
	memset(big, 0xab, (size_t)max + 1);
	RETURNS(-EMSGSIZE, thmq_send(p, big, max + 9, NULL));

	MUST(thmq_send(p, NULL, 0, NULL)); /* nothing is a message too */
	MUST(thmq_flush(p, 5 * SECOND));
	MUST(thmq_send(p, big, max, NULL));
	MUST(thmq_flush(p, 5 * SECOND));
	MUST(thmq_claim(p, NULL, 0, &claim));
	MUST(thmq_commit(p, &claim));
	MUST(thmq_flush(p, 5 * SECOND));
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.len == 0 && m.key_len == 0);
	MUST(thmq_release(c, &m, 1));
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.len == max);
	for (i = 0; i < max && ((const uint8_t *)m.data)[i] == 0xab; i++)
		;
	CHECK(i == max);
	MUST(thmq_release(c, &m, 1));
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.len == 0);
	MUST(thmq_release(c, &m, 1));
	MUST(thmq_consumer_close(c, SECOND));
	MUST(thmq_producer_close(p, SECOND));
	free(big);
	down();
}

static void keys_and_tags(void)
{
	char key[THMQ_KEY_MAX + 1], tag[THMQ_TAG_MAX + 2];
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;

	up();
	memset(key, 'k', sizeof(key));
	memset(tag, 't', sizeof(tag));
	tag[sizeof(tag) - 1] = 0;
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	RETURNS(-EINVAL,
		thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.key = key, .key_len = THMQ_KEY_MAX + 1)));
	RETURNS(-EINVAL, thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.tag = tag)));
	RETURNS(-EINVAL, thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.key_len = 5))); /* of no key */
	RETURNS(-EINVAL, thmq_send(p, NULL, 5, NULL));
	RETURNS(-EINVAL, thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.durability = 99)));
	tag[THMQ_TAG_MAX] = 0;
	MUST(thmq_send(p, "x", 1,
		       THMQ_MESSAGE_OPTS(.key = key, .key_len = THMQ_KEY_MAX, .tag = tag)));
	MUST(thmq_flush(p, 5 * SECOND));
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.len == 1 && m.key_len == THMQ_KEY_MAX && m.tag_len == THMQ_TAG_MAX);
	CHECK(memcmp(m.key, key, THMQ_KEY_MAX) == 0 && memcmp(m.tag, tag, THMQ_TAG_MAX) == 0);
	MUST(thmq_release(c, &m, 1));
	MUST(thmq_consumer_close(c, SECOND));
	MUST(thmq_producer_close(p, SECOND));
	down();
}

/* ----------------------------------------------------------------- offsets */

static void offsets(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_consumer *c;
	struct thmq_message m;

	up();
	put_numbers(w.session, 0, 10);
	MUST(thmq_partition_describe(w.session, "numbers", 0, NULL, &part));
	CHECK(part.begin_offset == 0 && part.end_offset == 10);
	MUST(thmq_consumer_open(w.session, "numbers", NULL, NULL, &c));
	SAYS(-THMQ_EOFFSETRANGE, "0 to 9", thmq_seek(c, 0, THMQ_START_OFFSET, 11));
	SAYS(-THMQ_EOFFSETRANGE, "0 to 9", thmq_seek(c, 0, THMQ_START_OFFSET, UINT64_MAX));
	SAYS(-EINVAL, NULL, thmq_seek(c, 0, 99, 0));
	SAYS(-EINVAL, NULL, thmq_seek(c, 0, THMQ_START_DEFAULT, 0));
	/* a refused seek changed nothing */
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.offset == 0);
	MUST(thmq_release(c, &m, 1));
	/* the end is no error, there is just nothing yet */
	MUST(thmq_seek(c, 0, THMQ_START_OFFSET, 10));
	RETURNS(0, thmq_session_wait(w.session, SECOND / 20) < 0);
	RETURNS(0, thmq_fetch(c, &m, 1));
	put_numbers(w.session, 10, 1);
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.offset == 10);
	MUST(thmq_release(c, &m, 1));
	/* a time in the future is the end, a time long ago the beginning */
	MUST(thmq_seek(c, 0, THMQ_START_TIME, INT64_MAX));
	RETURNS(0, thmq_fetch(c, &m, 1));
	MUST(thmq_seek(c, UINT32_MAX, THMQ_START_TIME, 1));
	RETURNS(1, fetch_one(c, &m));
	CHECK(m.offset == 0);
	MUST(thmq_release(c, &m, 1));
	RETURNS(0, thmq_fetch(c, &m, 0)); /* room for none */
	MUST(thmq_consumer_close(c, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 11);
}

static void foreign_messages(void)
{
	struct thmq_consumer *c, *d;
	struct thmq_message m, copy, none = {.data = NULL};

	up();
	put_numbers(w.session, 0, 10);
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	MUST(thmq_consumer_open(w.session, "numbers", NULL, NULL, &d));
	RETURNS(1, fetch_one(c, &m));
	copy = m;
	RETURNS(-EINVAL, thmq_release(d, &m, 1)); /* of another consumer */
	RETURNS(-EINVAL, thmq_ack(d, &m));        /* which has no group */
	RETURNS(-EINVAL, thmq_ack(c, &none));
	RETURNS(-EINVAL, thmq_release(c, &none, 1));
	RETURNS(0, thmq_ack(c, &m));
	RETURNS(0, thmq_release(c, &m, 1));
	RETURNS(-EINVAL, thmq_release(c, &copy, 1)); /* twice */
	RETURNS(0, thmq_ack(c, &copy));              /* need not be held any more */
	RETURNS(0, thmq_consumer_flush(c, 5 * SECOND));
	MUST(thmq_consumer_close(c, SECOND));
	MUST(thmq_consumer_close(d, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static void claims(void)
{
	struct thmq_producer *p, *q;
	struct thmq_claim claim, copy, none;

	up();
	memset(&none, 0, sizeof(none));
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	MUST(thmq_producer_open(w.session, "t", NULL, &q));
	MUST(thmq_claim(p, NULL, 8, &claim));
	memset(claim.data, 0, 8);
	copy = claim;
	RETURNS(-EINVAL, thmq_commit(q, &claim)); /* of another producer */
	RETURNS(-EINVAL, thmq_abort(q, &claim));
	RETURNS(-EINVAL, thmq_commit(p, &none));
	RETURNS(-EINVAL, thmq_abort(p, &none));
	RETURNS(1, thmq_commit(p, &claim));
	RETURNS(-EINVAL, thmq_commit(p, &claim)); /* twice */
	RETURNS(-EINVAL, thmq_commit(p, &copy));
	RETURNS(-EINVAL, thmq_abort(p, &copy));
	MUST(thmq_claim(p, NULL, 8, &claim));
	copy = claim;
	RETURNS(0, thmq_abort(p, &claim));
	RETURNS(-EINVAL, thmq_abort(p, &copy));
	RETURNS(-EINVAL, thmq_commit(p, &copy));
	RETURNS(0, thmq_flush(p, 5 * SECOND));
	RETURNS(1, thmq_watermark(p));
	MUST(thmq_producer_close(p, SECOND));
	MUST(thmq_producer_close(q, SECOND));
	down();
}

/* A volatile topic at a broker with a directory, and a logged one at a broker without. */
static void without_a_directory(void)
{
	struct thmq_producer *p;
	struct world v;

	env_up(&v);
	MUST(thmq_broker_open(v.env, NULL, &v.broker));
	MUST(thmq_connect(v.env, "inproc://", NULL, &v.session));
	SAYS(-ENOTSUP, "logged", thmq_topic_create(v.session, "logged", NULL));
	MUST(thmq_topic_create(v.session, "ring", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)));
	/* what it cannot prove it does not promise */
	RETURNS(-ENOTSUP,
		thmq_producer_open(v.session, "ring",
				   THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_DURABLE), &p));
	MUST(thmq_producer_open(v.session, "ring", NULL, &p));
	MUST(thmq_send(p, "x", 1, NULL));
	MUST(thmq_flush(p, SECOND));
	MUST(thmq_producer_close(p, SECOND));
	world_down(&v);
}

/* Whatever times an app gives, others' keep theirs. */
static void extreme_times(void)
{
	static const int64_t times[] = {INT64_MIN, 0, 7, INT64_MAX, -1};
	struct thmq_message m[16];
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct timespec now;
	int n = 0, got;
	size_t i;

	place_make(NULL);
	world_up(&w, in_place("data"));
	clock_gettime(CLOCK_REALTIME, &now);
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	for (i = 0; i < CASE_COUNT(times); i++) { /* each with one of the broker's time beside it, in one go */
		MUST(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_TIME, .time_ns = times[i])));
		MUST(thmq_send(p, "y", 1, NULL));
	}
	MUST(thmq_flush(p, 5 * SECOND));
	MUST(thmq_consumer_open(w.session, "t", NULL, NULL, &c));
	while (n < 10 && wait_messages(w.session, 5 * SECOND) == 1) {
		got = thmq_fetch(c, m, 16);
		MUST(got);
		for (int k = 0; k < got; k++, n++) {
			int64_t age = m[k].time_ns - (int64_t)now.tv_sec * (int64_t)SECOND;

			if (n % 2)
				CHECK(age >= 0 && age < 60 * (int64_t)SECOND);
			else /* kept in microseconds */
				CHECK((uint64_t)times[n / 2] - (uint64_t)m[k].time_ns < 1000);
		}
		MUST(thmq_release(c, m, (uint32_t)got));
	}
	CHECK(n == 10);
	world_down(&w);
}

static const struct bad_case cases[] = {
	{"topic_names", topic_names},
	{"group_names", group_names},
	{"urls", urls},
	{"broker_names", broker_names},
	{"absent_topics", absent_topics},
	{"absent_partitions", absent_partitions},
	{"topic_deleted_while_open", topic_deleted_while_open},
	{"message_sizes", message_sizes},
	{"keys_and_tags", keys_and_tags},
	{"offsets", offsets},
	{"foreign_messages", foreign_messages},
	{"claims", claims},
	{"without_a_directory", without_a_directory},
	{"extreme_times", extreme_times},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
