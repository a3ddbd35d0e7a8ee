/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a broker finds in its logs: slices of state and runs of records of any content, appended by the log itself, so that all checksums
 * are right. The broker opens or refuses; what opens can be listed, read to its end, and closed.
 *
 * The input: runs: kind, item, where, length, number of patches, patches of {offset, value}.
 */
#include "../../lib/broker/internal.h"
#include "broker.h"
#include "wire/run.h"

#define RUNS_MAX 64u
#define RUN_ROOM 2048u
#define FILL_BYTES (60u << 10)

static struct broker_rig r;

enum kind {
	KIND_TOPIC,
	KIND_GROUP,
	KIND_CLUSTER,
	KIND_OFFSET,
	KIND_PARTITION,
	KIND_RECORDS,
	KIND_ONE,
	KIND_FILL,
	KINDS
};

struct any_run {
	struct thmq_run_header header;
	union {
		struct state_topic topic;
		struct state_group group;
		struct state_cluster cluster;
		struct state_group_offset offset;
		struct state_partition partition;
		struct thmq_record records[4];
		uint8_t bytes[RUN_ROOM];
	};
};

/* One that a good broker could have written. */
static void good_run(struct any_run *run, uint32_t kind, uint32_t item)
{
	struct thmq_run_header *h = &run->header;

	memset(run, 0, sizeof(*run));
	h->encoding = THMQ_RUN_STATE;
	h->base_offset = item;
	switch (kind) {
	case KIND_TOPIC:
		h->partition = STATE_TOPIC;
		h->len = sizeof(run->topic);
		run->topic = (struct state_topic){.topic_id = item,
						  .partition_count = 2,
						  .first_partition = 10 + item * 2,
						  .first_shard = item,
						  .visible_at = THMQ_DURABILITY_DURABLE,
						  .name = "new"};
		run->topic.name[3] = (char)('a' + item % 26);
		break;
	case KIND_GROUP:
		h->partition = STATE_GROUP;
		h->len = sizeof(run->group);
		run->group = (struct state_group){.group_id = item, .topic_id = 1, .name = "h"};
		break;
	case KIND_CLUSTER:
		h->partition = STATE_CLUSTER;
		h->len = sizeof(run->cluster) + 32;
		run->cluster = (struct state_cluster){
			.shard_count = 2, .ready = 1, .segment_bytes = 1u << 20};
		break;
	case KIND_OFFSET:
		h->partition = STATE_GROUP_OFFSET;
		h->len = sizeof(run->offset);
		run->offset = (struct state_group_offset){
			.partition = BROKER_FIRST + item % 4, .group = 1, .offset = item};
		break;
	case KIND_PARTITION:
		h->partition = STATE_PARTITION;
		h->base_offset = BROKER_FIRST + item % 4;
		h->len = sizeof(run->partition);
		run->partition.next_offset = 20 + item;
		break;
	default: /* messages */
		h->encoding = kind == KIND_FILL ? THMQ_RUN_OPAQUE : THMQ_RUN_RECORDS;
		h->partition = BROKER_FIRST + item % 4;
		h->base_offset = 1000 + item * 4;
		h->count = h->span = kind == KIND_RECORDS ? 3 : 1;
		h->first_time_ns = h->last_time_ns = 1000;
		h->len = h->count * (uint32_t)(sizeof(struct thmq_record) + 8);
		for (uint32_t i = 0; i < h->count; i++)
			run->records[i] = (struct thmq_record){
				.size = 8, .key_len = 2, .tag_len = 1, .tag_hash = 5};
		break;
	}
}

struct target {
	struct thmq_log *log;
	const char *dir;
	uint32_t segment_min;
};

static struct target targets[] = {{NULL, BROKER_DIR "/meta", 1u << 20},
				  {NULL, BROKER_DIR "/shard-000", 1u << 20},
				  {NULL, BROKER_DIR "/shard-001", 1u << 20}};

static void append(struct target *t, const struct any_run *from, uint32_t len)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc = -EAGAIN;

	for (int i = 0; i < 1000 && rc == -EAGAIN; i++) {
		rc = thmq_log_append(t->log, (uint32_t)sizeof(*run) + len, &run, &index);
		if (rc == -EAGAIN)
			thmqi_core_poll(r.core, 1000000);
	}
	FUZZ_CHECK(rc == 0, "append: %d", rc);
	memset(run + 1, 'f', len);
	memcpy(run, from, sizeof(*run) + THMQI_MIN(len, RUN_ROOM));
	run->len = len; /* where a run ends is the log's business: log_fuzz.c */
	thmq_log_append_end(t->log, run, THMQ_DURABILITY_DURABLE);
	thmqi_core_poll(r.core, 1000000);
}

static void one_run(struct fuzz_input *in)
{
	uint32_t kind = (uint32_t)fuzz_take(in, 1), item = (uint32_t)fuzz_take(in, 1),
		 where = (uint32_t)fuzz_take(in, 1);
	uint32_t len = (uint32_t)fuzz_take(in, 1), patches = (uint32_t)fuzz_take(in, 1) % 16, at, i;
	struct any_run run;
	uint64_t value;

	kind %= KINDS;
	good_run(&run, kind, item);
	len = len < 128   ? run.header.len
	      : len < 192 ? (len - 128) * 8u
			  : THMQI_MIN(run.header.len, len - 192);
	if (kind == KIND_FILL) /* so that segments become full, and are taken from their indexes */
		len = FILL_BYTES;
	for (i = 0; i < patches && in->left; i++) {
		at = (uint32_t)fuzz_take(in, 2);
		value = fuzz_take(in, 8);
		memcpy((uint8_t *)&run + (at & 0x3fff) % (sizeof(run.header) + 400), &value,
		       at >> 14 == 0   ? 8
		       : at >> 14 == 1 ? 4
				       : at >> 14);
	}
	append(&targets[where % 3], &run, len);
	for (i = 0; kind == KIND_FILL && i < item % 20u; i++)
		append(&targets[where % 3], &run, len);
}

static void write_logs(struct fuzz_input *in)
{
	uint32_t i, n;

	for (i = 0; i < THMQI_ARRAY_COUNT(targets); i++)
		FUZZ_CHECK(
			thmq_log_open(r.core,
				      THMQ_LOG_OPTS(.dir = targets[i].dir, .batch_bytes = 64u << 10,
						    .cache_bytes = 1u << 20),
				      &targets[i].log) == 0,
			"%s", thmq_errmsg());
	for (n = 0; in->left && n < RUNS_MAX; n++)
		one_run(in);
	for (i = 0; i < THMQI_ARRAY_COUNT(targets); i++)
		FUZZ_CHECK(thmq_log_close(targets[i].log, BROKER_SECOND) == 0);
}

/* ----------------------------------------------------------------------- use */

static void read_all(struct thmq_session *session, const char *topic, const char *group)
{
	struct thmq_consumer *consumer;
	struct thmq_message m[16];
	uint32_t i, k, count = 0;
	int n, idle = 0;

	if (thmq_consumer_open(session, topic, group, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN),
			       &consumer) != 0)
		return;
	for (i = 0; i < 500 && idle < 10; i++) {
		n = thmq_fetch(consumer, m, 16);
		if (n < 0)
			break;
		idle = n ? 0 : idle + 1;
		count += (uint32_t)n;
		for (k = 0; k < (uint32_t)n; k++) {
			fuzz_touch(m[k].data, m[k].len);
			fuzz_touch(m[k].key, m[k].key_len);
			fuzz_touch(m[k].tag, m[k].tag_len);
		}
		if (n && group)
			thmq_ack(consumer, &m[n - 1]);
		if (n)
			FUZZ_CHECK(thmq_release(consumer, m, (uint32_t)n) == 0);
		thmq_poll(r.env, 1000000);
	}
	if (getenv("FUZZ_VERBOSE"))
		fprintf(stderr, "%s: %u messages, %d\n", topic, count, n);
	FUZZ_CHECK(thmq_consumer_close(consumer, BROKER_SECOND) == 0);
}

static void use_broker(void)
{
	struct thmq_topic_info infos[16];
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_session *session;
	int n, i;

	memset(infos, 0, sizeof(infos));
	for (i = 0; i < 16; i++)
		infos[i].size = sizeof(infos[i]);
	FUZZ_CHECK(thmq_connect(r.env, "inproc://", NULL, &session) == 0);
	n = thmq_topic_list(session, infos, 16);
	FUZZ_CHECK(n >= 0);
	for (i = 0; i < n && i < 4; i++) {
		thmq_partition_describe(session, infos[i].name, 0, "g", &part);
		read_all(session, infos[i].name, i % 2 ? "g" : NULL);
	}
	thmq_topic_create(session, "made", THMQ_TOPIC_OPTS(.partition_count = 2));
	thmq_topic_delete(session, "t");
	FUZZ_CHECK(thmq_session_close(session, BROKER_SECOND) == 0);
}

static bool is_documented(int rc)
{
	return rc == 0 || rc == -THMQ_ECORRUPT || rc == -THMQ_EVERSION || rc == -EINVAL ||
	       rc == -ENOMEM;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};

	uint64_t before;
	int rc;

	broker_begin(&r);
	before = broker_pool_used(&r);
	write_logs(&in);

	rc = broker_open(&r);
	FUZZ_CHECK(is_documented(rc), "%d %s", rc, thmq_errmsg());
	if (getenv("FUZZ_VERBOSE"))
		fprintf(stderr, "open: %d %s\n", rc, rc ? thmq_errmsg() : "");
	if (rc == 0) {
		use_broker();
		FUZZ_CHECK(broker_close(&r) == 0, "%s", thmq_errmsg());
		rc = broker_open(&r);
		FUZZ_CHECK(rc == 0, "what was closed well does not open: %d %s", rc, thmq_errmsg());
		FUZZ_CHECK(broker_close(&r) == 0);
	}
	FUZZ_CHECK(broker_pool_used(&r) == before, "the pool has %llu bytes less",
		   (unsigned long long)(broker_pool_used(&r) - before));
	return 0;
}
