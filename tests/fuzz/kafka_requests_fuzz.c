/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole requests of Kafka's clients, as examples/kafka runs them against a broker with a few topics: each as far as it gets in a few
 * milliseconds, then its client is gone. The input: a length, two bytes, and as many of a frame; the next one's, and so on.
 */
#include <ftw.h>
#include <time.h>
#include <unistd.h>

#include "../../examples/kafka/transactions.h"
#include "fuzz.h"

#define ROUNDS 3u
#define REQUESTS_MAX 16u
#define FIRST_PRODUCER (1ll << 60) /* above what the clock would say: each input finds the same */

static struct server server;
static struct conn conn;
static char dir[] = "/tmp/thmq-fuzz-kafka-XXXXXX";

int64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* All that is under way comes to its end, and what is open is aborted: the next input finds none. */
static void forget_transactions(void)
{
	struct transaction *x;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		for (x = server.transactions[b]; x; x = x->next) {
			while (x->request) {
				store_pump(&server, MILLISECOND);
				request_look_all(&server, true);
			}
			if (x->phase == PHASE_OPEN)
				thmq_txn_abort(x->in.txn, SECOND);
		}
	transactions_unload(&server);
	server.last_producer_id = FIRST_PRODUCER;
}

static void end(void)
{
	group_close_all(&server);
	store_close(&server);
	offsets_unload(&server);
	transactions_unload(&server);
	thmq_env_close(server.env, 5 * SECOND);
	nftw(dir, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void begin(void)
{
	server.round_end_ns = INT64_MAX; /* whatever waits has its turn in each round */
	server.o = (struct options){.cluster_id = "fuzz", .node_id = 1, .default_partitions = 1, .connection_max = 10, .name_expires_s = 604800, .auto_create = true};
	FUZZ_CHECK(mkdtemp(dir));
	server.o.data_dir = dir;
	FUZZ_CHECK(thmq_env_open(&server.env, NULL) == 0, "%s", thmq_errmsg());
	FUZZ_CHECK(thmq_broker_open(server.env, THMQ_BROKER_OPTS(.data_dir = dir, .name = "kafka", .segment_bytes = 16u << 20), &server.broker) == 0,
		   "%s", thmq_errmsg());
	FUZZ_CHECK(store_open(&server) == 0 && offsets_load(&server) == 0);
	FUZZ_CHECK(thmq_topic_create(server.control, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	FUZZ_CHECK(thmq_topic_create(server.control, "c", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	server.last_producer_id = FIRST_PRODUCER;
	atexit(end);
}

/* It is done with, one way or another. */
static void leave(struct request *r)
{
	r->conn = NULL;
	if (r->done || !r->drop)
		request_free(r);
	else
		r->drop(r);
}

static void run(const uint8_t *data, size_t len)
{
	struct request *r = calloc(1, sizeof(*r));
	uint32_t i;

	conn = (struct conn){.server = &server, .fd = -1, .last = &conn.first, .auth.state = AUTH_DONE, .local_host = "127.0.0.1", .local_port = 9092};
	server.now_ns = clock_ns();
	r->server = &server;
	r->conn = &conn;
	r->frame = malloc(len ? len : 1); /* exactly as long: a sanitizer sees a byte too far */
	memcpy(r->frame, data, len);
	if (api_begin(r, len)) {
		api_run(r);
		for (i = 0; i < ROUNDS && !r->done; i++) {
			bool news = store_pump(&server, MILLISECOND);

			request_look_all(&server, news);
		}
		if (r->done && !r->silent && !r->out.failed)
			FUZZ_CHECK(r->out.len > ANSWER_HEAD);
		fuzz_touch(r->out.data, r->out.len);
	}
	server.dirty = NULL;
	leave(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t n, len;

	if (!server.env)
		begin();
	for (n = 0; n < REQUESTS_MAX && size >= 2; n++) {
		len = (uint32_t)data[0] | (uint32_t)data[1] << 8;
		data += 2;
		size -= 2;
		len = len < size ? len : (uint32_t)size;
		run(data, len);
		data += len;
		size -= len;
	}
	group_tick(&server);
	transactions_tick(&server);
	forget_transactions();
	return 0;
}
