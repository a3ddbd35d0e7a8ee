/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compacted topic, whole: api, broker, log, on a simulated disk, by chance from a seed: values, deletions, messages in parts, compressed
 * ones, several sent together, restarts and power cuts, while the cleaner works. A model knows of each key which versions were sent and acknowledged: the last
 * one acknowledged is never lost, none comes back, and no reader sees an older one behind a newer one.
 *
 * usage: compaction_sim_test [first seed [seeds]]
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

#define SECOND 1000000000ull
#define KEYS 40u
#define LARGE_KEYS 3u /* of which messages are larger than a batch, now and then */
#define LARGE 300000u
#define TOMBSTONE (5 * SECOND)
#define SENT_MAX 65536u
#define PARTITIONS 2u
#define TOGETHER 6u /* messages of a batch, at most */

enum kind { VALUE = 1, DELETION = 2 };

struct sent {
	uint32_t version, count; /* its newest, and how many: several where they went together */
};

static struct {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producers[2]; /* one compresses */
	struct sent sent[2][SENT_MAX];      /* by sequence */
	uint64_t noted[2];                  /* watermarks that were taken in */
	struct thmq_consumer *follower;     /* of a group: its table is kept up by what it reads */
	struct thmq_consumer *worker;       /* of a shared one: it is done with all, whatever has gone */
	struct thmqi_prng prng;
	uint64_t seed;
	uint32_t version;
	uint8_t kind[SENT_MAX * 4]; /* by version */
	uint32_t key_of[SENT_MAX * 4];
	uint32_t acked[KEYS]; /* newest that is certainly stored */
	uint32_t table[KEYS]; /* the follower's: newest version, 0: none, or deleted */
	uint32_t seen[KEYS];  /* by who reads all */
	uint64_t seen_offset[KEYS];
	bool packs;
} w;
static uint8_t payload[LARGE];

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "seed %llu, %s:%d: %s (%s)\n", (unsigned long long)w.seed, \
				__func__, __LINE__, #x, thmq_errmsg());                            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint32_t below(uint32_t n)
{
	return (uint32_t)thmqi_prng_below(&w.prng, n);
}

/* ----------------------------------------------------------------- the world */

static void open_clients(void)
{
	uint32_t i;

	CHECK(thmq_connect(w.env, "inproc://", NULL, &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT | THMQ_TOPIC_IF_ABSENT,
						.partition_count = PARTITIONS,
						.tombstone_ns = TOMBSTONE)) == 0);
	CHECK(thmq_topic_create(
		      w.session, "noise",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .retention_ns = 1)) == 0);
	for (i = 0; i < 2; i++) {
		int rc = thmq_producer_open(
			w.session, "t",
			THMQ_PRODUCER_OPTS(.compression = i ? THMQ_COMPRESSION_ZSTD
							    : THMQ_COMPRESSION_NONE),
			&w.producers[i]);

		w.packs = rc == 0;
		if (rc == -EOPNOTSUPP)
			rc = thmq_producer_open(w.session, "t", NULL, &w.producers[i]);
		CHECK(rc == 0);
		w.noted[i] = 0;
	}
	CHECK(thmq_consumer_open(w.session, "t", "follower", NULL, &w.follower) == 0);
	CHECK(thmq_consumer_open(w.session, "t", "workers", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &w.worker) == 0);
}

static void start(void)
{
	CHECK(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 128u << 20),
				 thmqi_disk_sim_world(w.sim), &w.env) == 0);
	CHECK(thmq_broker_open(w.env,
			       THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1,
						.segment_bytes = 1u << 20,
						.batch_bytes = 128u << 10, .cache_bytes = 1u << 20),
			       &w.broker) == 0);
	open_clients();
}

static void rest(uint64_t ns)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + ns;

	while (thmqi_disk_sim_now(w.sim) < end)
		thmq_poll(w.env, SECOND / 100);
}

/* ----------------------------------------------------------------- publishing */

static void note_acked(uint32_t p)
{
	uint64_t mark = (uint64_t)thmq_watermark(w.producers[p]);

	for (; w.noted[p] < mark; w.noted[p]++) {
		const struct sent *s = &w.sent[p][(w.noted[p] + 1) % SENT_MAX];

		for (uint32_t v = s->version - s->count + 1; s->count && v <= s->version; v++)
			w.acked[w.key_of[v]] = THMQI_MAX(w.acked[w.key_of[v]], v);
	}
}

static void send(uint32_t p, uint32_t key, enum kind kind, uint32_t len,
		 const struct thmq_message_opts *more)
{
	uint64_t name = key;
	struct thmq_message_opts o = more ? *more : (struct thmq_message_opts){.size = sizeof(o)};
	uint32_t is[2] = {key, ++w.version};
	int64_t seq;

	CHECK(w.version < sizeof(w.kind));
	w.kind[w.version] = (uint8_t)kind;
	w.key_of[w.version] = key;
	memset(payload, 'a' + (int)(key % 20), len);
	memcpy(payload, is, kind == VALUE ? sizeof(is) : 0);
	o.key = &name;
	o.key_len = sizeof(name);
	o.size = sizeof(o);
	while ((seq = thmq_send(w.producers[p], payload, kind == VALUE ? len : 0, &o)) == -EAGAIN)
		thmq_poll(w.env, 1000000);
	CHECK(seq > 0);
	w.sent[p][seq % SENT_MAX] = (struct sent){w.version, 1};
	note_acked(p);
}

/* Several of one partition, deletions among them, that are stored together, their payloads in one block. Return: how many. */
static uint32_t send_together(uint32_t p, uint32_t most)
{
	static uint8_t bytes[TOGETHER][3008];
	struct thmq_batch_message m[TOGETHER] = {0};
	uint64_t names[TOGETHER], first = 0, name;
	uint32_t count = 0, want = 1 + below(THMQI_MIN(TOGETHER, most)), key;
	int64_t seq;

	while (count < want) {
		name = key = below(KEYS);
		if (count && thmqi_hash64(&name, sizeof(name)) % PARTITIONS != first)
			continue;
		first = thmqi_hash64(&name, sizeof(name)) % PARTITIONS;
		CHECK(++w.version < sizeof(w.kind));
		w.kind[w.version] = below(6) ? VALUE : DELETION;
		w.key_of[w.version] = key;
		names[count] = name;
		memset(bytes[count], 'a' + (int)(key % 20), sizeof(bytes[0]));
		memcpy(bytes[count], (uint32_t[]){key, w.version}, 8);
		m[count] = (struct thmq_batch_message){.data = bytes[count],
						       .len = w.kind[w.version] == VALUE ? 8 + below(3000) : 0,
						       .key = &names[count],
						       .key_len = sizeof(names[0])};
		count++;
	}
	while ((seq = thmq_send_batch(w.producers[p], m, count, NULL)) == -EAGAIN)
		thmq_poll(w.env, 1000000);
	CHECK(seq > 0);
	w.sent[p][seq % SENT_MAX] = (struct sent){w.version, count};
	note_acked(p);
	return count;
}

static void publish(uint32_t count)
{
	struct thmq_producer *noise;
	uint32_t key;

	CHECK(thmq_producer_open(w.session, "noise", NULL, &noise) == 0);
	while (count--) {
		key = below(4) ? below(KEYS) : below(6);
		if (key < LARGE_KEYS && !below(10))
			send(below(2), key, VALUE, 140000 + below(LARGE - 140000), NULL);
		else if (!below(5))
			count -= send_together(below(2), count + 1) - 1;
		else if (!below(6))
			send(below(2), key, DELETION, 0, NULL);
		else
			send(below(2), key, VALUE, 8 + below(3000), NULL);
		if (!below(24))
			thmq_send(noise, payload, 60000, NULL);
		if (!below(8))
			thmq_poll(w.env, below(2) * 1000000);
	}
	thmq_producer_close(noise, 60 * SECOND);
}

static void settle(void)
{
	uint32_t p;

	for (p = 0; p < 2; p++) {
		CHECK(thmq_flush(w.producers[p], 600 * SECOND) == 0);
		note_acked(p);
	}
}

/* --------------------------------------------------------------------- reading */

static uint32_t version_of(const struct thmq_message *m, uint32_t *ret_key)
{
	uint64_t key;
	uint32_t is[2], i;

	CHECK(m->key_len == sizeof(key));
	memcpy(&key, m->key, sizeof(key));
	CHECK(key < KEYS);
	*ret_key = (uint32_t)key;
	if (!m->len)
		return 0;
	CHECK(m->len >= sizeof(is));
	memcpy(is, m->data, sizeof(is));
	CHECK(is[0] == key && is[1] && is[1] <= w.version && w.key_of[is[1]] == key &&
	      w.kind[is[1]] == VALUE);
	for (i = sizeof(is); i < m->len; i += 1 + m->len / 64)
		CHECK(((const uint8_t *)m->data)[i] == 'a' + key % 20);
	return is[1];
}

static bool at_end(const uint64_t next[PARTITIONS])
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(w.session, "t", i, NULL, &info) == 0);
		if (info.end_offset != info.begin_offset && next[i] < info.end_offset)
			return false;
	}
	return true;
}

/* All that there is, from the beginning: seen[] is the newest of each key, its version negated in sign by UINT32_MAX where it is a deletion. */
static void read_all(void)
{
	uint64_t next[PARTITIONS] = {0};
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t key, idle = 0, version;
	uint32_t rising[KEYS] = {0};

	memset(w.seen, 0, sizeof(w.seen));
	CHECK(thmq_consumer_open(w.session, "t", NULL,
				 THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	/* the last offsets may be holes: nothing comes for them */
	while (idle < 400) {
		int n = thmq_fetch(c, &m, 1);

		CHECK(n >= 0);
		if (!n) {
			if (at_end(next))
				break;
			idle++;
			thmq_poll(w.env, 1000000);
			continue;
		}
		idle = 0;
		CHECK(m.offset >= next[m.partition]);
		next[m.partition] = m.offset + m.span;
		version = version_of(&m, &key);
		CHECK(!version || version > rising[key]); /* an older one behind a newer one */
		rising[key] = version ? version : rising[key];
		w.seen[key] = version ? version : UINT32_MAX;
		w.seen_offset[key] = m.offset;
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
}

/* Is there a deletion of @key from version @from on? */
static bool deleted_since(uint32_t key, uint32_t from)
{
	for (; from <= w.version; from++)
		if (w.key_of[from] == key && w.kind[from] == DELETION)
			return true;
	return false;
}

static void check_newest(void)
{
	uint32_t k, seen, acked;

	read_all();
	for (k = 0; k < KEYS; k++) {
		seen = w.seen[k];
		acked = w.acked[k];
		if (!acked)
			continue;
		if (seen && seen != UINT32_MAX)
			CHECK(seen >=
			      acked); /* else the last one is lost, or an older one has come back */
		else
			CHECK(deleted_since(k, acked));
	}
}

static void check_keys(void)
{
	struct thmq_key_info info = {.size = sizeof(info)};
	uint64_t name;
	uint32_t k;
	int rc;

	for (k = 0; k < KEYS; k += 1 + below(4)) {
		name = k;
		rc = thmq_key_find(w.session, "t", UINT32_MAX, &name, sizeof(name), UINT64_MAX,
				   &info);
		if (w.seen[k] == UINT32_MAX) /* that it was deleted may be over by now */
			CHECK(rc == -ENOENT || (rc == 0 && info.offset == w.seen_offset[k]));
		else if (w.seen[k])
			CHECK(rc == 0 && info.offset == w.seen_offset[k]);
		else
			CHECK(rc == -ENOENT);
	}
	/* its version is its offset, whatever has become of the others */
	do
		k = below(KEYS);
	while (w.seen[k] == UINT32_MAX);
	send(0, k, VALUE, 100,
	     &(struct thmq_message_opts){.flags = THMQ_MESSAGE_EXPECT_KEY,
					 .expected = w.seen[k] ? w.seen_offset[k] : UINT64_MAX});
	settle();
}

/* The follower reads what is new: its table is the model's then. */
static void follow(bool certain)
{
	uint32_t key, version, k, idle = 0;
	struct thmq_message m;
	int n;

	while (idle < 200) {
		n = thmq_fetch(w.follower, &m, 1);
		CHECK(n >= 0);
		if (!n) {
			idle++;
			thmq_poll(w.env, 1000000);
			continue;
		}
		idle = 0;
		version = version_of(&m, &key);
		w.table[key] = version;
		CHECK(thmq_ack(w.follower, &m) == 0);
		CHECK(thmq_release(w.follower, &m, 1) == 0);
	}
	CHECK(thmq_consumer_flush(w.follower, 60 * SECOND) == 0);
	for (k = 0; k < KEYS && certain; k++)
		if (w.acked[k])
			CHECK(w.kind[w.acked[k]] == VALUE ? w.table[k] == w.acked[k] : !w.table[k]);
}

static uint64_t left_to_do(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t lag = 0;
	uint32_t i;

	CHECK(thmq_consumer_flush(w.worker, 60 * SECOND) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(w.session, "t", i, "workers", &info) == 0);
		lag += info.lag;
	}
	return lag;
}

/* Of a shared group nothing is left to do, though offsets are missing. */
static void work(void)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + 60 * SECOND; /* no time passes in a round in which there was something to do */
	struct thmq_message m;
	uint32_t idle = 0, key;
	int n;

	while (thmqi_disk_sim_now(w.sim) < end) {
		n = thmq_fetch(w.worker, &m, 1);
		CHECK(n >= 0);
		if (!n) {
			if (++idle % 200 == 0 && !left_to_do())
				break;
			thmq_poll(w.env, 1000000);
			continue;
		}
		version_of(&m, &key);
		CHECK(thmq_ack(w.worker, &m) == 0);
		CHECK(thmq_release(w.worker, &m, 1) == 0);
	}
	CHECK(left_to_do() == 0);
}

/* ------------------------------------------------------------------------ runs */

/* What a cut took back was not acknowledged: what is there now is what counts. */
static void adopt(void)
{
	uint32_t k;

	for (k = 0; k < KEYS; k++)
		if (w.seen[k] && w.seen[k] != UINT32_MAX && w.seen[k] > w.acked[k])
			w.acked[k] = w.seen[k];
		else if (w.seen[k] == UINT32_MAX)
			while (deleted_since(k, w.acked[k] + 1) &&
			       (!w.acked[k] || w.kind[w.acked[k]] == VALUE))
				while (w.kind[++w.acked[k]] != DELETION ||
				       w.key_of[w.acked[k]] != k)
					;
}

static void restart(bool cut)
{
	if (cut)
		thmqi_disk_sim_crash(w.sim);
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0 || cut);
	if (cut)
		thmqi_disk_sim_restart(w.sim);
	start();
}

static void run(uint64_t seed)
{
	struct thmqi_disk_sim_stats stats;
	uint32_t round, k;
	bool cut;

	memset(&w, 0, sizeof(w));
	w.seed = seed;
	thmqi_prng_seed(&w.prng, seed);
	CHECK(thmqi_disk_sim_open(seed, NULL, &w.sim) == 0);
	start();
	for (round = 0; round < 6; round++) {
		publish(300 + below(500));
		if (below(2))
			rest(below(3) * SECOND / 2); /* in the middle of it */
		cut = below(3) == 0;
		if (!cut)
			settle();
		if (cut || below(2))
			restart(cut);
		check_newest();
		if (cut)
			adopt();
		follow(!cut);
		check_keys();
		rest(below(2) ? SECOND : 2 * TOMBSTONE);
		check_newest();
		check_keys();
		follow(false);
		if (round % 2)
			work();
	}
	/* all is deleted, and nothing is left of it but what lies in the last segments */
	for (k = 0; k < KEYS; k++)
		send(0, k, DELETION, 0, NULL);
	settle();
	follow(true);
	rest(2 * TOMBSTONE);
	for (round = 0; round < 4; round++) {
		publish(250);
		settle();
		rest(3 * SECOND);
	}
	check_newest();
	thmqi_disk_sim_stats(w.sim, &stats);
	CHECK(stats.bytes < 24u << 20);
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0);
	thmqi_disk_sim_close(w.sim);
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	uint64_t count = argc > 2                   ? strtoull(argv[2], NULL, 10)
			 : getenv("THMQ_TEST_FULL") ? 200
						    : 3;
	uint64_t seed;

	for (seed = first; seed < first + count; seed++)
		run(seed);
	return 0;
}
