/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_contract_test.c - what a session promises, over any medium: topics, producers, consumers, groups, seeks, acks, events,
 * big messages, back-pressure, close. The medium may change how long things take, and nothing else.
 *
 * usage: transport_contract_test MEDIUM [case …]; MEDIUM: inproc, own (as tcp, by a transport that this program registers, and that delays and
 * cuts into pieces), tcp (another environment, threads), tcp-host (another one,
 * driven by its caller), tcp-same (the broker's own, driven by its caller), tcp-plain (as tcp, without io_uring), tcp-refused (as tcp, where a seccomp filter refuses io_uring), tcp-zerocopy (as tcp, large bodies sent from where they lie), tcp6; tls (as
 * tcp, certificates on both sides), tls-kernel (where it must; 77 if it cannot), tls-psk (as tcp-same, with a
 * pre-shared key); tls-refused and tls-psk-refused, as those where a filter refuses io_uring; shm, shm-host, shm-same and shm-plain likewise, shm-two: the broker is in another process; rdma, rdma-host, rdma-same,
 * rdma-plain: likewise, where there are the ports 10.0.0.1 and 10.0.0.2 (tests/lab), or the ports that THMQ_TEST_RDMA and
 * THMQ_TEST_RDMA_FROM (if not set: the same) name by their addresses.
 */
#include "contract.h"

/* --------------------------------------------------------------------- cases */

static void topics(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info *infos = calloc(80, sizeof(*infos)), one = {.size = sizeof(one)};
	struct thmq_partition_info part = {.size = sizeof(part)};
	char name[32];
	int i;

	for (i = 0; i < 70; i++) { /* more than one page of them */
		snprintf(name, sizeof(name), "topic-%02d", i);
		CHECK(thmq_topic_create(s, name,
					THMQ_TOPIC_OPTS(.partition_count = (uint32_t)i % 5 + 1)) ==
		      0);
	}
	CHECK(thmq_topic_create(s, "topic-00", NULL) == -EEXIST);
	infos[0].size = sizeof(infos[0]);
	CHECK(thmq_topic_list(s, infos, 80) == 70);
	for (i = 0; i < 70; i++) {
		snprintf(name, sizeof(name), "topic-%02d", i);
		CHECK(strcmp(infos[i].name, name) == 0 &&
		      infos[i].partition_count == (uint32_t)i % 5 + 1);
	}
	CHECK(thmq_topic_describe(s, "topic-07", &one) == 0 && one.partition_count == 3);
	CHECK(thmq_topic_describe(s, "no-topic", &one) == -THMQ_ENOTOPIC);
	CHECK(thmq_partition_describe(s, "topic-07", 2, NULL, &part) == 0 && part.end_offset == 0);
	CHECK(thmq_partition_describe(s, "topic-07", 3, NULL, &part) == -THMQ_ENOPARTITION);
	CHECK(thmq_topic_create(s, "many", THMQ_TOPIC_OPTS(.partition_count = 3000)) == 0);
	CHECK(thmq_partition_describe(s, "many", 2999, NULL, &part) == 0);
	for (i = 0; i < 70; i++)
		CHECK(thmq_topic_delete(s, infos[i].name) == 0);
	CHECK(thmq_topic_delete(s, "many") == 0);
	CHECK(thmq_topic_list(s, infos, 80) == 0);
	free(infos);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void messages_as_they_were(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[32];
	uint64_t offset[4] = {0};
	uint8_t data[3000];
	char key[16], tag[16];
	uint32_t i, got = 0;
	int n, k;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 1000; i++) {
		struct thmq_message_opts o = {.size = sizeof(o),
					      .flags = THMQ_MESSAGE_PARTITION | THMQ_MESSAGE_TIME,
					      .partition = i % 4,
					      .time_ns = 1000000 * (int64_t)(i + 1),
					      .durability = i % 3 + 1};

		snprintf(key, sizeof(key), "key%u", i);
		snprintf(tag, sizeof(tag), "t%u", i % 7);
		if (i % 2) {
			o.key = key;
			o.key_len = (uint32_t)strlen(key);
		}
		if (i % 5 == 0)
			o.tag = tag;
		fill(data, i * 3, i);
		CHECK(thmq_send(p, data, i * 3, &o) == i + 1);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_watermark(p) == 1000);
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	while (got < 1000) {
		n = fetch(s, c, m, 32, 10 * SECOND);
		CHECK(n > 0);
		for (k = 0; k < n; k++) {
			i = (uint32_t)(m[k].offset * 4 + m[k].partition);
			CHECK(m[k].offset == offset[m[k].partition]++);
			CHECK(m[k].len == i * 3 && filled(m[k].data, m[k].len, i));
			CHECK(m[k].time_ns / 1000 == 1000 * (int64_t)(i + 1));
			snprintf(key, sizeof(key), "key%u", i);
			snprintf(tag, sizeof(tag), "t%u", i % 7);
			CHECK(m[k].key_len == (i % 2 ? strlen(key) : 0));
			CHECK(i % 2 == 0 || memcmp(m[k].key, key, m[k].key_len) == 0);
			CHECK(m[k].tag_len == (i % 5 ? 0 : strlen(tag)));
			CHECK(i % 5 || memcmp(m[k].tag, tag, m[k].tag_len) == 0);
		}
		got += (uint32_t)n;
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void claims_and_reports(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_claim a, b, c;
	struct thmq_event e;
	uint64_t i;

	CHECK(thmq_topic_create(s, "r", NULL) == 0);
	CHECK(thmq_producer_open(s, "r",
				 THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT, .cookie = &e),
				 &p) == 0);
	CHECK(thmq_claim(p, NULL, 10, &a) == 0);
	CHECK(thmq_claim(p, NULL, 20, &b) == 0);
	CHECK(thmq_claim(p, NULL, 0, &c) == 0);
	memset(a.data, 1, 10);
	memset(b.data, 2, 20);
	CHECK(thmq_commit(p, &c) == 1);
	CHECK(thmq_abort(p, &a) == 0);
	CHECK(thmq_commit(p, &b) == 2);
	CHECK(thmq_commit(p, &b) == -EINVAL);
	CHECK(thmq_claim(p, NULL, thmq_producer_len_max(p) + 9, &a) == -EMSGSIZE);
	for (i = 0; i < 2; i++) {
		CHECK(next_event(s, THMQ_EVENT_SETTLED, &e, 5 * SECOND));
		CHECK(e.sequence == i + 1 && e.offset == i && e.error == 0 && e.cookie == &e);
		CHECK(e.durability == THMQ_DURABILITY_DURABLE);
	}
	CHECK(thmq_producer_close(p, SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void big_messages(void)
{
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 8 << 20));
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[4];
	struct thmq_claim claim;
	uint32_t len, i, got = 0;
	int n, rc;

	CHECK(thmq_topic_create(s, "big", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "big", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "big", NULL, NULL, &c) == 0);
	CHECK(thmq_producer_len_max(p) == (8 << 20) - 8);
	len = 1040000; /* a whole batch; larger ones are of messaging_contract_test.c */
	for (i = 0; i < 24; i++) {
		struct thmq_message_opts o = {
			.size = sizeof(o), .flags = THMQ_MESSAGE_PARTITION, .partition = i % 2};

		while ((rc = thmq_claim(p, &o, len - i * 1000, &claim)) == -EAGAIN)
			drive(MS);
		CHECK(rc == 0);
		fill(claim.data, len - i * 1000, i);
		CHECK(thmq_commit(p, &claim) == i + 1);
	}
	while (got < 24) {
		n = fetch(s, c, m, 4, 10 * SECOND);
		CHECK(n > 0);
		while (n--) {
			i = (uint32_t)m[n].offset * 2 + m[n].partition;
			CHECK(m[n].len == len - i * 1000 && filled(m[n].data, m[n].len, i));
			CHECK(thmq_release(c, &m[n], 1) == 0);
			got++;
		}
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void back_pressure(void)
{
	struct thmq_session *s =
		session_of(THMQ_SESSION_OPTS(.window_count = 64, .window_bytes = 16384));
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[16], held[4];
	uint64_t sent = 0, again = 0, got = 0, number;
	int64_t rc;
	int n, i;

	CHECK(thmq_topic_create(s, "b", NULL) == 0);
	CHECK(thmq_producer_open(s, "b", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "b", NULL,
				 THMQ_CONSUMER_OPTS(.prefetch_count = 8, .prefetch_bytes = 4096),
				 &c) == 0);
	while (sent < 3000) {
		rc = thmq_send(p, &sent, sizeof(sent), NULL);
		CHECK(rc == -EAGAIN || rc == (int64_t)sent + 1);
		if (rc > 0) {
			sent++;
			continue;
		}
		again++;
		drive(MS / 10);
	}
	CHECK(again > 0);
	/* who holds all that he may have gets no more, and goes on where he releases */
	for (n = 0; n < 4;)
		n += fetch(s, c, held + n, 1, 5 * SECOND);
	for (n = 0; n >= 0;) {
		n = fetch(s, c, m, 1, SECOND);
		if (n == 1)
			CHECK(memcmp(m[0].data, &(uint64_t){4 + got++}, 8) == 0);
	}
	CHECK(n == -ENOBUFS);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	CHECK(thmq_consumer_open(s, "b", NULL,
				 THMQ_CONSUMER_OPTS(.prefetch_count = 8, .prefetch_bytes = 4096),
				 &c) == 0);
	for (got = 0; got < 3000; got += (uint64_t)n) {
		n = fetch(s, c, m, 16, 5 * SECOND);
		CHECK(n > 0);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, 8);
			CHECK(number == got + (uint64_t)i);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static uint32_t take_all(struct thmq_session *s, struct thmq_consumer *c, uint32_t *seen,
			 uint64_t ns)
{
	struct thmq_message m[64];
	uint64_t number;
	uint32_t got = 0;
	int n, i;

	while ((n = fetch(s, c, m, 64, ns)) > 0) {
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, 8);
			seen[number]++;
			CHECK(thmq_ack(c, &m[i]) == 0);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		got += (uint32_t)n;
	}
	CHECK(n == 0);
	return got;
}

static void send_numbers(struct thmq_producer *p, uint64_t from, uint64_t to)
{
	for (; from < to; from++)
		while (thmq_send(p, &from, sizeof(from),
				 THMQ_MESSAGE_OPTS(.key = &from, .key_len = 8)) == -EAGAIN)
			drive(MS);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
}

static void groups(void)
{
	struct thmq_session *s1 = session_of(NULL), *s2 = session_of(NULL);
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_consumer *c1, *c2;
	struct thmq_producer *p;
	struct thmq_event e;
	uint32_t *seen = calloc(3000, sizeof(*seen)), got1 = 0, got2 = 0, i;
	uint64_t lag = 0;

	CHECK(thmq_topic_create(s1, "g", THMQ_TOPIC_OPTS(.partition_count = 8)) == 0);
	CHECK(thmq_producer_open(s1, "g", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s1, "g", "grp", NULL, &c1) == 0);
	for (i = 0; i < 8; i++)
		CHECK(next_event(s1, THMQ_EVENT_ASSIGNED, &e, 5 * SECOND));
	CHECK(thmq_consumer_open(s2, "g", "grp", NULL, &c2) == 0);
	for (i = 0; i < 4; i++) { /* the first is asked for half of them while it calls in */
		CHECK(next_event(s1, THMQ_EVENT_REVOKED, &e, 5 * SECOND) && e.error == 0);
	}
	for (i = 0; i < 4; i++)
		CHECK(next_event(s2, THMQ_EVENT_ASSIGNED, &e, 5 * SECOND));
	send_numbers(p, 0, 1000);
	while (got1 + got2 < 1000) {
		got1 += take_all(s1, c1, seen, 20 * MS);
		got2 += take_all(s2, c2, seen, 20 * MS);
	}
	CHECK(got1 > 100 && got2 > 100);
	CHECK(thmq_consumer_flush(c2, 30 * SECOND) == 0);
	CHECK(thmq_consumer_flush(c1, 30 * SECOND) == 0);
	/* one goes: the other gets what it had, from where it was */
	CHECK(thmq_session_close(s2, SECOND) == 0);
	for (i = 0; i < 4; i++)
		CHECK(next_event(s1, THMQ_EVENT_ASSIGNED, &e, 5 * SECOND));
	send_numbers(p, 1000, 2000);
	for (got1 = 0; got1 < 1000;)
		got1 += take_all(s1, c1, seen, 20 * MS);
	CHECK(thmq_consumer_close(c1, 30 * SECOND) == 0);
	send_numbers(p, 2000, 3000);
	for (i = 0; i < 8; i++) {
		CHECK(thmq_partition_describe(s1, "g", i, "grp", &part) == 0);
		lag += part.lag;
	}
	CHECK(lag == 1000);
	CHECK(thmq_consumer_open(s1, "g", "grp", NULL, &c1) == 0);
	for (got1 = 0; got1 < 1000;)
		got1 += take_all(s1, c1, seen, 20 * MS);
	for (i = 0; i < 3000; i++)
		CHECK(seen[i] == 1);
	free(seen);
	CHECK(thmq_session_close(s1, SECOND) == 0);
}

/* Messages of a partition that several share: one by one, back after a delay, back when a member goes. */
static void shared_groups(void)
{
	struct thmq_session *s1 = session_of(NULL), *s2 = session_of(NULL);
	const struct thmq_consumer_opts o = {.size = sizeof(o), .flags = THMQ_CONSUMER_SHARED, .prefetch_count = 32};
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_consumer *c1, *c2;
	struct thmq_producer *p;
	struct thmq_message m[32];
	uint32_t *seen = calloc(2000, sizeof(*seen)), got1 = 0, got2 = 0, i;
	uint64_t number;
	int n;

	CHECK(thmq_topic_create(s1, "sg", NULL) == 0);
	CHECK(thmq_producer_open(s1, "sg", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s1, "sg", "grp", &o, &c1) == 0);
	CHECK(thmq_consumer_open(s2, "sg", "grp", &o, &c2) == 0);
	send_numbers(p, 0, 2000);
	while (got1 + got2 < 1500) {
		n = fetch(s1, c1, m, 8, 20 * MS);
		for (i = 0; i < (uint32_t)(n < 0 ? 0 : n); i++) {
			memcpy(&number, m[i].data, 8);
			CHECK(seen[number]++ == 0 && thmq_message_deliveries(c1, &m[i]) == 1 && thmq_ack(c1, &m[i]) == 0);
		}
		CHECK(n >= 0 && thmq_release(c1, m, (uint32_t)n) == 0);
		got1 += (uint32_t)n;
		n = fetch(s2, c2, m, 8, 20 * MS);
		for (i = 0; i < (uint32_t)(n < 0 ? 0 : n); i++) {
			memcpy(&number, m[i].data, 8);
			CHECK(seen[number]++ == 0 && thmq_ack(c2, &m[i]) == 0);
		}
		CHECK(n >= 0 && thmq_release(c2, m, (uint32_t)n) == 0);
		got2 += (uint32_t)n;
	}
	CHECK(got1 > 100 && got2 > 100);
	CHECK(thmq_consumer_flush(c2, 30 * SECOND) == 0);
	/* one is given back, and comes again; others are taken along by a session that goes, and come too */
	n = fetch(s1, c1, m, 1, 5 * SECOND);
	CHECK(n == 1 && thmq_nack(c1, &m[0], 10 * MS) == 0 && thmq_extend(c1, &m[0], SECOND) == 0);
	n = fetch(s2, c2, m, 4, 5 * SECOND);
	CHECK(n >= 1);
	CHECK(thmq_session_close(s2, SECOND) == 0);
	for (got1 += got2; got1 < 2000;)
		got1 += take_all(s1, c1, seen, 20 * MS);
	CHECK(got1 == 2000);
	for (i = 0; i < 2000; i++)
		CHECK(seen[i] == 1);
	CHECK(thmq_consumer_flush(c1, 30 * SECOND) == 0);
	CHECK(thmq_partition_describe(s1, "sg", 0, "grp", &part) == 0);
	CHECK(part.lag == 0);
	free(seen);
	CHECK(thmq_session_close(s1, SECOND) == 0);
}

static void seeks(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t number;

	CHECK(thmq_topic_create(s, "s", NULL) == 0);
	CHECK(thmq_producer_open(s, "s", NULL, &p) == 0);
	send_numbers(p, 0, 2000);
	CHECK(thmq_consumer_open(s, "s", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &c) ==
	      0);
	CHECK(fetch(s, c, &m, 1, 50 * MS) == 0);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 1234) == 0);
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && m.offset == 1234);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 99999) == -THMQ_EOFFSETRANGE);
	CHECK(strstr(thmq_errmsg(), "1999") != NULL);
	CHECK(thmq_seek(c, UINT32_MAX, THMQ_START_BEGIN, 0) == 0);
	memcpy(&number, m.data, 8); /* what is held stays as it was */
	CHECK(number == 1234 && thmq_release(c, &m, 1) == 0);
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && m.offset == 0);
	CHECK(thmq_seek(c, 0, THMQ_START_TIME, (uint64_t)m.time_ns) == 0);
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && m.offset == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void volatile_topics(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	uint8_t data[1000];
	struct thmq_message m[64];
	uint32_t sent = 0, got = 0, again = 0;
	int n, i;

	CHECK(thmq_topic_create(s, "v",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE,
						.volatile_bytes = 1 << 20)) == 0);
	CHECK(thmq_producer_open(s, "v", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "v", NULL, NULL, &c) == 0);
	/* a reader that does not read holds its producers up, and nothing is lost */
	while (got < 20000) {
		for (i = 0; i < 500 && sent < 20000; i++) {
			fill(data, sizeof(data), sent);
			if (thmq_send(p, data, sizeof(data), NULL) < 0) {
				again++;
				break;
			}
			sent++;
		}
		n = fetch(s, c, m, 64, sent == 20000 ? 5 * SECOND : MS);
		CHECK(n >= 0);
		for (i = 0; i < n; i++) {
			if (m[i].offset != got + (uint32_t)i)
				fprintf(stderr, "offset %llu for message %u of %u\n",
					(unsigned long long)m[i].offset, got + (uint32_t)i, sent);
			CHECK(m[i].len == sizeof(data) &&
			      filled(m[i].data, m[i].len, got + (uint32_t)i));
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		got += (uint32_t)n;
	}
	CHECK(again > 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static const uint32_t one_lens[] = {64, 0, 1, 7, 8, 63, 65, 100, 127, 128, 129, 192, 1000, 4096, 4097};
#define ONE_LENS (sizeof(one_lens) / sizeof(one_lens[0]))

/* The next @count messages, each by itself, in order and whole. */
static uint32_t take_ones(struct thmq_session *s, struct thmq_consumer *c, uint32_t from, uint32_t count)
{
	struct thmq_message m;
	uint32_t i;

	for (i = from; i < from + count; i++) {
		CHECK(fetch(s, c, &m, 1, 30 * SECOND) == 1);
		CHECK(m.offset == i && m.len == one_lens[i % ONE_LENS] && !m.key_len && !m.tag && filled(m.data, m.len, i));
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	return i;
}

/* What comes alone goes to who waits for it by a shorter way than to who is behind: all get all of it, and so does who comes later. */
static void volatile_one_by_one(void)
{
	struct thmq_session *s = session_of(NULL), *s2 = session_of(NULL);
	struct thmq_consumer *swift, *slow, *late;
	uint32_t i, behind = 0, count = 600;
	struct thmq_producer *p;
	uint8_t data[4097];

	CHECK(thmq_topic_create(s, "one", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 8 << 20)) == 0);
	CHECK(thmq_producer_open(s, "one", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "one", NULL, NULL, &swift) == 0);
	CHECK(thmq_consumer_open(s2, "one", NULL, THMQ_CONSUMER_OPTS(.prefetch_count = 2), &slow) == 0);
	for (i = 0; i < count; i++) {
		uint32_t len = one_lens[i % ONE_LENS];

		fill(data, len, i);
		CHECK(thmq_send(p, data, len, NULL) >= 0);
		take_ones(s, swift, i, 1);
		if (i % 100 == 50) /* it catches up, and waits too for some */
			behind = take_ones(s2, slow, behind, i + 1 - behind);
		else if (i % 100 > 50 && i % 100 < 70)
			behind = take_ones(s2, slow, behind, 1);
	}
	take_ones(s2, slow, behind, count - behind);
	CHECK(thmq_consumer_open(s, "one", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &late) == 0);
	take_ones(s, late, 0, count);
	CHECK(thmq_session_close(s2, SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* Its signs of life get through; and that it is silent is noticed. */
static void alive_and_silent(void)
{
	struct thmq_session *s1 = session_of(NULL), *s2 = session_of(NULL);
	struct thmq_consumer *c1, *c2;
	struct thmq_message m;
	struct thmq_event e;
	uint64_t end;
	int rc = 0;

	CHECK(thmq_topic_create(s1, "a", NULL) == 0);
	CHECK(thmq_consumer_open(s1, "a", "grp", THMQ_CONSUMER_OPTS(.session_timeout_ns = 600 * MS),
				 &c1) == 0);
	CHECK(next_event(s1, THMQ_EVENT_ASSIGNED, &e, 5 * SECOND));
	for (end = now() + 1500 * MS; now() < end; drive(10 * MS))
		CHECK(thmq_fetch(c1, &m, 1) == 0); /* it calls in and says nothing else */
	CHECK(thmq_consumer_open(s2, "a", "grp", NULL, &c2) == 0);
	CHECK(next_event(s2, THMQ_EVENT_ASSIGNED, &e,
			 10 * SECOND)); /* from the one that is silent now */
	for (end = now() + 1500 * MS; now() < end; drive(10 * MS))
		thmq_fetch(c2, &m, 1);
	for (end = now() + 5 * SECOND; rc != -THMQ_EFENCED && now() < end; drive(MS))
		rc = thmq_fetch(c1, &m, 1);
	CHECK(rc == -THMQ_EFENCED);
	CHECK(thmq_session_close(s1, SECOND) == 0);
	CHECK(thmq_session_close(s2, SECOND) == 0);
}

static void deleted_topic(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t number = 0;

	CHECK(thmq_topic_create(s, "d", NULL) == 0);
	CHECK(thmq_producer_open(s, "d", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "d", NULL, NULL, &c) == 0);
	CHECK(thmq_send(p, &number, 8, NULL) == 1 && thmq_flush(p, SECOND) == 0);
	CHECK(thmq_topic_delete(other, "d") == 0);
	while (fetch(s, c, &m, 1, SECOND) == 1)
		;
	CHECK(thmq_fetch(c, &m, 1) == -THMQ_ENOTOPIC);
	CHECK(thmq_session_close(s, SECOND) == 0);
	CHECK(thmq_session_close(other, SECOND) == 0);
}

static void sleeping_on_the_descriptor(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct pollfd p[2] = {{.fd = thmq_session_fd(s), .events = POLLIN},
			      {.fd = -1, .events = POLLIN}};
	struct thmq_producer *producer;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t number;
	int rounds, n;

	p[1].fd = thmq_env_fd(away);
	CHECK(thmq_topic_create(s, "f", NULL) == 0);
	CHECK(thmq_consumer_open(s, "f", NULL, NULL, &c) == 0);
	CHECK(thmq_producer_open(other, "f", NULL, &producer) == 0);
	for (number = 0; number < 50; number++) {
		CHECK(thmq_send(producer, &number, 8, NULL) > 0);
		for (rounds = 0; (n = thmq_fetch(c, &m, 1)) == 0; rounds++) {
			CHECK(rounds < 10000);
			if (p[1].fd >= 0) { /* the thread's own core sleeps with it */
				thmq_poll(away, 0);
				if (thmq_env_arm(away) != 0)
					continue;
			}
			if (thmq_session_arm(s) == 0)
				CHECK(poll(p, 2, 5000) > 0);
		}
		CHECK(n == 1 && memcmp(m.data, &number, 8) == 0 && thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_session_close(s, SECOND) == 0);
	CHECK(thmq_session_close(other, SECOND) == 0);
}

#define WORKERS 4
#define WORK 20000u

static void *work(void *arg)
{
	struct thmq_session *s = session_of(NULL);
	uint32_t number = (uint32_t)(uintptr_t)arg, got = 0, i = 0;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[64];
	uint32_t what[2];
	char name[16];
	int n;

	snprintf(name, sizeof(name), "w%u", number);
	CHECK(thmq_topic_create(s, name, THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, name, THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY),
				 &p) == 0);
	CHECK(thmq_consumer_open(s, name, NULL, NULL, &c) == 0);
	while (got < WORK) {
		for (n = 0; n < 100 && i < WORK; n++) {
			what[0] = number;
			what[1] = i;
			if (thmq_send(p, what, sizeof(what),
				      THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
							.partition = i % 2)) < 0)
				break;
			i++;
		}
		n = fetch(s, c, m, 64, i == WORK ? 10 * SECOND : 0);
		CHECK(n >= 0);
		for (int k = 0; k < n; k++) {
			memcpy(what, m[k].data, 8);
			CHECK(what[0] == number && what[1] == m[k].offset * 2 + m[k].partition);
		}
		thmq_release(c, m, (uint32_t)n);
		got += (uint32_t)n;
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	return NULL;
}

static void many_threads(void)
{
	pthread_t t[WORKERS];
	uintptr_t i;

	if (is_alone() || is_of("-host")) { /* its one core has one thread */
		work(NULL);
		return;
	}
	for (i = 0; i < WORKERS; i++)
		CHECK(pthread_create(&t[i], NULL, work, (void *)i) == 0);
	for (i = 0; i < WORKERS; i++)
		pthread_join(t[i], NULL);
}

static void closing_in_any_state(void)
{
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[8];
	uint8_t data[5000] = {0};
	int i, k;

	for (i = 0; i < 20; i++) {
		s = session_of(NULL);
		CHECK(thmq_topic_create(s, "c", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ==
		      0);
		CHECK(thmq_producer_open(s, "c", NULL, &p) == 0);
		CHECK(thmq_consumer_open(s, "c", i % 2 ? "grp" : NULL, NULL, &c) == 0);
		for (k = 0; k < 200; k++)
			thmq_send(p, data, sizeof(data), NULL);
		if (i % 3)
			fetch(s, c, m, 8, 20 * MS);
		/* messages held, others on their way, acks or none; with or without time */
		k = thmq_session_close(s, i % 4 ? 5 * SECOND : 0);
		CHECK(k == 0 || (k == -ETIMEDOUT && i % 4 == 0));
	}
}

/* Last: the broker goes. */
static void broker_goes(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	uint8_t data[100];

	CHECK(thmq_topic_create(s, "z", NULL) == 0);
	CHECK(thmq_producer_open(s, "z", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "z", NULL, NULL, &c) == 0);
	fill(data, sizeof(data), 5);
	CHECK(thmq_send(p, data, sizeof(data), NULL) == 1);
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1);
	CHECK(close_broker() == 0);
	broker = NULL;
	CHECK(next_event(s, THMQ_EVENT_CLOSED, &e, 5 * SECOND));
	CHECK(e.error == -ESHUTDOWN);
	CHECK(filled(m.data, sizeof(data), 5));
	CHECK(thmq_send(p, data, sizeof(data), NULL) == -ESHUTDOWN);
	CHECK(thmq_watermark(p) == 1); /* it was told before the end */
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* ------------------------------------------------------------------------ rows */

/* Of the @i-th message that is sent. */
static uint8_t row_byte(uint64_t i, uint32_t at)
{
	return (uint8_t)(i * 31 + at * 7 + 1);
}

static void row_fill(void *to, uint64_t i, uint32_t len)
{
	uint32_t k;

	for (k = 0; k < len; k++)
		((uint8_t *)to)[k] = row_byte(i, k);
}

struct row_told {
	uint32_t len[6000];
	uint64_t sent, got;
};

static void rows_take(struct thmq_session *s, struct thmq_consumer *c, struct row_told *t, uint64_t until)
{
	static struct thmq_message m[1500];
	uint64_t end = now() + 20 * SECOND;
	uint32_t k;
	int n, i;

	while (t->got < until) {
		CHECK(now() < end);
		n = fetch(s, c, m, t->got % 2 ? 1500 : 7, SECOND);
		for (i = 0; i < n; i++, t->got++) {
			CHECK(t->got < until && m[i].len == t->len[t->got] && m[i].offset == t->got && !m[i].key && !m[i].tag && m[i].span == 1);
			for (k = 0; k < m[i].len; k++)
				CHECK(((const uint8_t *)m[i].data)[k] == row_byte(t->got, k));
		}
		if (n > 2) { /* in any order, and none twice */
			struct thmq_message twice = m[1];

			CHECK(thmq_release(c, m + 1, 1) == 0);
			CHECK(thmq_release(c, &twice, 1) == -EINVAL);
			CHECK(thmq_release(c, m + 2, (uint32_t)n - 2) == 0);
			CHECK(thmq_release(c, m, 1) == 0);
		} else if (n > 0) {
			CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		}
	}
}

static void row_claim(struct thmq_session *s, struct thmq_producer *p, uint32_t len, uint32_t count, struct thmq_row *row)
{
	uint64_t end = now() + 20 * SECOND;
	int rc;

	while ((rc = thmq_claim_row(p, NULL, len, count, row)) == -EAGAIN) {
		CHECK(now() < end);
		thmq_session_wait(s, 10 * MS);
	}
	CHECK(rc == 0 && row->len == len && row->count == count && row->step >= len && row->step % 8 == 0 && (uintptr_t)row->data % 8 == 0);
}

/* The first @count of @row, all of which were filled. */
static void row_commit(struct thmq_session *s, struct thmq_producer *p, struct row_told *t, struct thmq_row *row, uint32_t count)
{
	uint64_t end = now() + 20 * SECOND;
	int64_t rc;
	uint32_t i;

	for (i = 0; i < row->count; i++)
		row_fill((uint8_t *)row->data + (size_t)i * row->step, t->sent + i, row->len);
	while ((rc = thmq_commit_row(p, row, count)) == -EAGAIN) {
		CHECK(now() < end);
		thmq_session_wait(s, 10 * MS);
	}
	for (i = 0; i < count; i++)
		t->len[t->sent++] = row->len;
	CHECK(rc == (int64_t)t->sent);
	CHECK(thmq_commit_row(p, row, count) == -EINVAL && thmq_abort_row(p, row) == -EINVAL);
}

static void row_one(struct thmq_session *s, struct thmq_producer *p, struct row_told *t, uint32_t len)
{
	uint8_t bytes[1024];
	int64_t rc;

	row_fill(bytes, t->sent, len);
	while ((rc = thmq_send(p, bytes, len, NULL)) == -EAGAIN)
		thmq_session_wait(s, 10 * MS);
	t->len[t->sent++] = len;
	CHECK(rc == (int64_t)t->sent);
}

static void rows_refused(struct thmq_session *s, struct thmq_producer *p)
{
	struct thmq_row row, other;

	CHECK(thmq_claim_row(p, NULL, 8, 0, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, NULL, 8, THMQ_ROW_MAX + 1, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, NULL, 8, 1, NULL) == -EINVAL && thmq_claim_row(NULL, NULL, 8, 1, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, NULL, 1u << 30, 1, &row) == -EMSGSIZE);
	CHECK(thmq_claim_row(p, NULL, 60000, THMQ_ROW_MAX, &row) == -EMSGSIZE);
	CHECK(thmq_claim_row(p, THMQ_MESSAGE_OPTS(.tag = "x"), 8, 4, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, THMQ_MESSAGE_OPTS(.key = "x", .key_len = 1), 8, 4, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, THMQ_MESSAGE_OPTS(.ttl_ns = 5), 8, 4, &row) == -EINVAL);
	CHECK(thmq_claim_row(p, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 7), 8, 4, &row) == -THMQ_ENOPARTITION);
	row_claim(s, p, 8, 4, &row);
	CHECK(thmq_commit_row(p, &row, 5) == -EINVAL && thmq_commit_row(p, &row, 0) == -EINVAL);
	CHECK(thmq_commit_row(NULL, &row, 1) == -EINVAL && thmq_commit_row(p, NULL, 1) == -EINVAL && thmq_abort_row(p, NULL) == -EINVAL);
	other = row;
	CHECK(thmq_abort_row(p, &row) == 0 && thmq_abort_row(p, &row) == -EINVAL && thmq_commit_row(p, &other, 1) == -EINVAL);
}

/* Rows of all kinds among messages that were sent one by one, in the order of their commits. */
static void rows_of(uint32_t topic_flags, uint32_t producer_flags, uint64_t reconnect_ns)
{
	static const uint32_t lens[] = {100, 0, 1, 7, 8, 513, 64}, counts[] = {1, 2, 63, 64, 65, 300};
	struct thmq_session *s = session_of(THMQ_SESSION_OPTS(.window_bytes = 1u << 20, .window_count = 2048, .event_count = 16384,
							      .reconnect_ns = reconnect_ns));
	static struct row_told t;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_event events[64];
	struct thmq_row row, first, second;
	uint64_t settled = 0, end;
	uint32_t i, k;
	int n, j;

	memset(&t, 0, sizeof(t));
	CHECK(thmq_topic_create(s, "rows", THMQ_TOPIC_OPTS(.flags = topic_flags)) == 0);
	CHECK(thmq_producer_open(s, "rows", THMQ_PRODUCER_OPTS(.flags = producer_flags), &p) == 0);
	CHECK(thmq_consumer_open(s, "rows", NULL, NULL, &c) == 0);
	rows_refused(s, p);
	for (k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
		for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
			row_claim(s, p, lens[i], counts[k], &row);
			row_commit(s, p, &t, &row, counts[k]);
			if (i % 3 == 0)
				row_one(s, p, &t, lens[i]);
			if (i % 2) { /* the same again, right behind it */
				row_claim(s, p, lens[i], 3, &row);
				row_commit(s, p, &t, &row, 2);
			}
			rows_take(s, c, &t, i % 2 ? t.sent : t.got);
		}
	}
	/* claimed one behind the other, committed the other way round; one is not */
	row_claim(s, p, 40, 10, &first);
	row_claim(s, p, 40, 20, &row);
	row_claim(s, p, 40, 30, &second);
	row_commit(s, p, &t, &second, 30);
	CHECK(thmq_abort_row(p, &row) == 0);
	row_commit(s, p, &t, &first, 9);
	/* as many as there may be, over and over */
	for (i = 0; i < 2; i++) {
		row_claim(s, p, 12, THMQ_ROW_MAX, &row);
		row_commit(s, p, &t, &row, i ? THMQ_ROW_MAX : 1000);
		rows_take(s, c, &t, t.sent);
	}
	CHECK(thmq_flush(p, 20 * SECOND) == 0 && thmq_watermark(p) == (int64_t)t.sent);
	for (end = now() + 20 * SECOND; producer_flags && settled < t.sent && now() < end;) {
		n = thmq_events(s, events, 64);
		for (j = 0; j < n; j++) {
			if (events[j].type != THMQ_EVENT_SETTLED)
				continue;
			CHECK(events[j].sequence == settled + 1 && events[j].offset == settled);
			settled++;
		}
		if (!n)
			thmq_session_wait(s, 10 * MS);
	}
	CHECK(settled == (producer_flags ? t.sent : 0));
	row_claim(s, p, 8, 2, &row); /* who closes has one still */
	CHECK(thmq_producer_close(p, 10 * SECOND) == 0);
	CHECK(thmq_commit_row(p, &row, 2) == -EINVAL);
	CHECK(thmq_topic_delete(s, "rows") == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void rows(void)
{
	rows_of(THMQ_TOPIC_VOLATILE, 0, 0);
	rows_of(0, 0, 0);
	rows_of(0, 0, 10 * SECOND);
	rows_of(THMQ_TOPIC_VOLATILE, THMQ_PRODUCER_REPORT, 0);
}

static const struct test_case cases[] = {
	{"rows", rows},
	{"topics", topics},
	{"messages_as_they_were", messages_as_they_were},
	{"claims_and_reports", claims_and_reports},
	{"big_messages", big_messages},
	{"back_pressure", back_pressure},
	{"groups", groups},
	{"shared_groups", shared_groups},
	{"seeks", seeks},
	{"volatile_topics", volatile_topics},
	{"volatile_one_by_one", volatile_one_by_one},
	{"alive_and_silent", alive_and_silent},
	{"deleted_topic", deleted_topic},
	{"sleeping_on_the_descriptor", sleeping_on_the_descriptor},
	{"many_threads", many_threads},
	{"closing_in_any_state", closing_in_any_state},
	{"broker_goes", broker_goes},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
