/* SPDX-License-Identifier: Apache-2.0 */
/* client_producer_test.c - claims, commits, the watermark and events, against a broker that the test plays. */
#include "client_rig.h"

static struct thmq_producer *producer;

static void open_with(const struct thmq_session_opts *session, struct thmq_producer_opts *opts)
{
	struct thmq_producer_opts none = {.size = sizeof(none)};

	rig_open();
	cr_assert_eq(rig_connect(session), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", opts ? opts : &none, &producer), 0, "%s",
		     thmq_errmsg());
	rig_forget();
}

static void open_default(void)
{
	open_with(NULL, NULL);
}

static struct thmq_message_opts *to(uint32_t partition, uint32_t durability)
{
	static struct thmq_message_opts o;

	o = (struct thmq_message_opts){.size = sizeof(o),
				       .flags = THMQ_MESSAGE_PARTITION,
				       .partition = partition,
				       .durability = durability};
	return &o;
}

static int64_t send_to(uint32_t partition, uint32_t durability)
{
	return thmqi_client_send(producer, "x", 1, to(partition, durability));
}

static void progress(uint32_t shard, uint32_t durability, uint64_t seq)
{
	PUSH(shard, .type = THMQI_FRAME_PROGRESS, .flags = (uint8_t)durability, .seq = seq);
}

static int64_t watermark(void)
{
	return thmqi_client_watermark(producer);
}

TestSuite(client_producer, .fini = rig_close);

/* -------------------------------------------------------------------- frames */

Test(client_producer, a_commit_is_a_frame_that_points_to_key_tag_and_payload, .init = open_default)
{
	struct thmq_message_opts o = {.size = sizeof(o),
				      .flags = THMQ_MESSAGE_PARTITION | THMQ_MESSAGE_TIME,
				      .partition = 2,
				      .key = "key",
				      .key_len = 3,
				      .tag = "green",
				      .time_ns = 123};
	struct thmq_claim claim;
	const struct thmqi_frame *f;

	cr_assert_eq(thmqi_client_claim(producer, &o, 7, &claim), 0);
	cr_assert_eq(claim.len, 7);
	cr_assert_eq(claim.partition, 2);
	cr_assert_eq((uintptr_t)claim.data % 8, 0);
	memcpy(claim.data, "payload", 7);
	cr_assert_eq(thmqi_client_commit(producer, &claim), 1);
	rig_drive();
	cr_assert_eq(rig_self->produced_count, 1);
	f = &rig_self->produced[0];
	cr_assert_eq(rig_self->produced_shard[0], rig_shard(2));
	cr_assert_eq(f->type, THMQI_FRAME_PRODUCE);
	cr_assert_eq(f->partition, RIG_FIRST + 2);
	cr_assert_eq(f->seq, 1);
	cr_assert_eq(f->len, 15);
	cr_assert_eq(f->key_len, 3);
	cr_assert_eq(THMQI_PRODUCE_TAG_LEN(f->extra), 5);
	cr_assert_eq(f->flags, THMQ_DURABILITY_DURABLE);
	cr_assert_eq(f->arg[0], 123);
	cr_assert_neq(f->tag_hash, 0);
	cr_assert_arr_eq((const void *)(uintptr_t)f->data, "keygreenpayload", 15);
}

Test(client_producer, frames_go_in_the_order_of_commits_not_of_claims, .init = open_default)
{
	struct thmq_claim a, b, c;

	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 1, &a), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 1, &b), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 1, &c), 0);
	*(char *)a.data = 'a';
	*(char *)b.data = 'b';
	*(char *)c.data = 'c';
	cr_assert_eq(thmqi_client_commit(producer, &c), 1);
	cr_assert_eq(thmqi_client_abort(producer, &a), 0, "an abort uses no sequence");
	cr_assert_eq(thmqi_client_commit(producer, &b), 2);
	rig_drive();
	cr_assert_eq(rig_self->produced_count, 2);
	cr_assert_eq(*(const char *)(uintptr_t)rig_self->produced[0].data, 'c');
	cr_assert_eq(*(const char *)(uintptr_t)rig_self->produced[1].data, 'b');
}

Test(client_producer, a_spent_claim_is_no_claim, .init = open_default)
{
	struct thmq_claim claim, copy;

	cr_assert_eq(thmqi_client_claim(producer, NULL, 1, &claim), 0);
	copy = claim;
	cr_assert_eq(thmqi_client_commit(producer, &claim), 1);
	cr_assert_eq(thmqi_client_commit(producer, &claim), -EINVAL);
	cr_assert_eq(thmqi_client_commit(producer, &copy), -EINVAL);
	cr_assert_eq(thmqi_client_abort(producer, &claim), -EINVAL);
	cr_assert_eq(thmqi_client_abort(producer, &copy), -EINVAL);
}

/* ---------------------------------------------------------------- partitions */

Test(client_producer, a_key_always_meets_the_same_partition, .init = open_default)
{
	struct thmq_message_opts o = {.size = sizeof(o), .key_len = 4};
	uint32_t seen[RIG_PARTITIONS] = {0}, i;
	struct thmq_claim claim;

	for (i = 0; i < 400; i++) {
		uint32_t key = i % 100;

		o.key = &key;
		cr_assert_eq(thmqi_client_claim(producer, &o, 1, &claim), 0);
		cr_assert_eq(claim.partition, thmqi_hash64(&key, 4) % RIG_PARTITIONS);
		seen[claim.partition]++;
		thmqi_client_commit(producer, &claim);
	}
	for (i = 0; i < RIG_PARTITIONS; i++)
		cr_assert_gt(seen[i], 40, "partition %u has %u of 400", i, seen[i]);
}

Test(client_producer, without_a_key_it_stays_a_while_and_goes_round, .init = open_default)
{
	uint32_t seen[RIG_PARTITIONS] = {0}, changes = 0, last = UINT32_MAX, i;
	struct thmq_claim claim;

	for (i = 0; i < 64 * RIG_PARTITIONS; i++) {
		cr_assert_eq(thmqi_client_claim(producer, NULL, 1, &claim), 0);
		seen[claim.partition]++;
		changes += last != claim.partition;
		last = claim.partition;
		thmqi_client_commit(producer, &claim);
	}
	cr_assert_eq(changes, RIG_PARTITIONS);
	for (i = 0; i < RIG_PARTITIONS; i++)
		cr_assert_eq(seen[i], 64);
}

Test(client_producer, large_messages_change_the_partition_sooner, .init = open_default)
{
	uint32_t changes = 0, last = UINT32_MAX, i;
	struct thmq_claim claim;

	for (i = 0; i < 8; i++) {
		cr_assert_eq(thmqi_client_claim(producer, NULL, 40000, &claim), 0);
		changes += last != claim.partition;
		last = claim.partition;
		thmqi_client_commit(producer, &claim);
	}
	cr_assert_eq(changes, 8);
}

Test(client_producer, a_partition_that_is_not_there_is_told, .init = open_default)
{
	cr_assert_eq(send_to(RIG_PARTITIONS, 0), -THMQ_ENOPARTITION);
	cr_assert_eq(send_to(RIG_PARTITIONS - 1, 0), 1);
}

/* ----------------------------------------------------------------- watermark */

Test(client_producer, the_watermark_waits_for_the_level_that_was_asked_for, .init = open_default)
{
	cr_assert_eq(send_to(0, THMQ_DURABILITY_DURABLE), 1);
	cr_assert_eq(watermark(), 0);
	progress(1, THMQ_DURABILITY_WRITTEN, 1);
	cr_assert_eq(watermark(), 0);
	progress(1, THMQ_DURABILITY_DURABLE, 1);
	cr_assert_eq(watermark(), 1);
}

Test(client_producer, the_watermark_is_exact_over_two_shards_and_two_levels, .init = open_default)
{
	/* 1 and 3 to shard 1, 2 and 4 to shard 2; 3 needs less */
	cr_assert_eq(send_to(0, THMQ_DURABILITY_DURABLE), 1);
	cr_assert_eq(send_to(1, THMQ_DURABILITY_DURABLE), 2);
	cr_assert_eq(send_to(0, THMQ_DURABILITY_MEMORY), 3);
	cr_assert_eq(send_to(1, THMQ_DURABILITY_DURABLE), 4);
	progress(1, THMQ_DURABILITY_MEMORY, 3);
	cr_assert_eq(watermark(), 0, "1 is not durable, though 3 is in memory");
	progress(2, THMQ_DURABILITY_DURABLE, 4);
	cr_assert_eq(watermark(), 0);
	progress(1, THMQ_DURABILITY_DURABLE, 1);
	cr_assert_eq(watermark(), 4);
	cr_assert_eq(send_to(0, THMQ_DURABILITY_DURABLE), 5);
	cr_assert_eq(watermark(), 4);
	progress(1, THMQ_DURABILITY_DURABLE, 5);
	cr_assert_eq(watermark(), 5);
}

/* Any order of news gives the watermark that a list of all messages gives. */
Test(client_producer, the_watermark_is_what_a_list_of_all_messages_says, .init = open_default)
{
	enum { COUNT = 3000 };
	static uint8_t shard[COUNT + 1], level[COUNT + 1], settled[COUNT + 1];
	uint64_t told[RIG_SHARDS][4] = {{0}}, next = 1, mark = 0, i;
	struct thmqi_prng prng;

	thmqi_prng_seed(&prng, 42);
	while (mark < COUNT) {
		uint32_t what = (uint32_t)thmqi_prng_below(&prng, 8);

		if (what < 4 && next <= COUNT) {
			/* long stretches of one way, and short ones */
			uint32_t n = thmqi_prng_below(&prng, 4) ? 1 : (uint32_t)thmqi_prng_below(&prng, 40);
			uint32_t partition = (uint32_t)thmqi_prng_below(&prng, 2);
			uint32_t l = 1 + (uint32_t)thmqi_prng_below(&prng, 3);

			for (; n && next <= COUNT; n--, next++) {
				shard[next] = (uint8_t)rig_shard(partition);
				level[next] = (uint8_t)l;
				cr_assert_eq(send_to(partition, l), (int64_t)next);
			}
		} else {
			/* one more message of a shard and level settles, or fails */
			uint32_t s = 1 + (uint32_t)thmqi_prng_below(&prng, 2);
			uint32_t l = 1 + (uint32_t)thmqi_prng_below(&prng, 3);

			for (i = told[s][l] + 1; i < next && (shard[i] != s || level[i] != l || settled[i]); i++)
				;
			if (i >= next)
				continue;
			settled[i] = 1;
			if (what == 7) {
				PUSH(s, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST + s - 1, .seq = i,
				     .status = -ENOSPC);
			} else {
				told[s][l] = i;
				progress(s, l, i);
			}
		}
		while (mark < COUNT && settled[mark + 1])
			mark++;
		cr_assert_eq(watermark(), (int64_t)mark);
		rig_drive();
		rig_forget();
		while (rig_event(THMQ_EVENT_FAILED, NULL))
			;
	}
}

Test(client_producer, a_refused_message_settles_as_an_event, .init = open_default)
{
	struct thmq_event e;

	cr_assert_eq(send_to(3, 0), 1);
	cr_assert_eq(send_to(3, 0), 2);
	PUSH(2, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST + 3, .seq = 1, .status = -ENOSPC);
	cr_assert_eq(watermark(), 1);
	cr_assert(rig_event(THMQ_EVENT_FAILED, &e));
	cr_assert_eq(e.sequence, 1);
	cr_assert_eq(e.error, -ENOSPC);
	cr_assert_eq(e.producer, producer);
	progress(2, THMQ_DURABILITY_DURABLE, 2);
	cr_assert_eq(thmqi_client_flush(producer, SECOND), -EIO);
	cr_assert_eq(thmqi_client_flush(producer, SECOND), 0, "it was told once");
}

Test(client_producer, a_flush_returns_when_the_time_is_over, .init = open_default)
{
	cr_assert_eq(thmqi_client_flush(producer, 0), 0, "nothing is out");
	cr_assert_eq(send_to(0, 0), 1);
	cr_assert_eq(thmqi_client_flush(producer, 1000000), -ETIMEDOUT);
	progress(1, THMQ_DURABILITY_DURABLE, 1);
	cr_assert_eq(thmqi_client_flush(producer, 0), 0);
}

/* -------------------------------------------------------------- back-pressure */

static void open_small(void)
{
	open_with(&(struct thmq_session_opts){.size = sizeof(struct thmq_session_opts),
					      .window_bytes = 4096,
					      .window_count = 16,
					      .event_count = 8},
		  NULL);
}

Test(client_producer, a_full_data_area_says_so_and_comes_back_in_claim_order, .init = open_small)
{
	struct thmq_claim first, claim;

	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 2000, &first), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 2000, &claim), 0);
	cr_assert_eq(thmqi_client_commit(producer, &claim), 1);
	progress(1, THMQ_DURABILITY_DURABLE, 1);
	cr_assert_eq(watermark(), 1);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 2000, &claim), -EAGAIN, "the first one is still held");
	cr_assert_eq(thmqi_client_claim(producer, to(1, 0), 2000, &claim), 0, "another shard has room of its own");
	cr_assert_eq(thmqi_client_abort(producer, &claim), 0);
	cr_assert_eq(thmqi_client_abort(producer, &first), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 4088, &claim), 0, "now all of it is free");
}

Test(client_producer, claims_never_overlap_and_never_wrap, .init = open_small)
{
	uint32_t size = rig_self->links[1] ? rig_self->links[1]->area_bytes : 0, i, oldest = 0, next = 0;
	const uint8_t *area = rig_self->links[1]->area;
	struct {
		uint32_t at, len;
		uint64_t seq;
		uint8_t byte;
	} out[16];
	struct thmqi_prng prng;
	struct thmq_claim claim;
	uint64_t seq = 0;

	cr_assert_eq(size, 4096);
	thmqi_prng_seed(&prng, 1);
	for (i = 0; i < 20000; i++) {
		uint32_t len = (uint32_t)thmqi_prng_below(&prng, thmqi_prng_below(&prng, 10) ? 300 : 4000), k;
		int rc = thmqi_client_claim(producer, to(0, 0), len, &claim);

		if (rc == -EAGAIN) {
			cr_assert_lt(oldest, next, "with nothing out there is always room");
			/* the bytes are the library's until settled: nobody wrote over them */
			for (k = 0; k < out[oldest % 16].len; k++)
				cr_assert_eq(area[out[oldest % 16].at + k], out[oldest % 16].byte);
			progress(1, THMQ_DURABILITY_DURABLE, out[oldest++ % 16].seq);
			watermark();
			continue;
		}
		cr_assert_eq(rc, 0);
		cr_assert_lt(next - oldest, 16);
		out[next % 16].at = (uint32_t)((uint8_t *)claim.data - area);
		out[next % 16].len = len;
		out[next % 16].byte = (uint8_t)i;
		cr_assert_leq(out[next % 16].at + len, size);
		memset(claim.data, (uint8_t)i, len);
		out[next % 16].seq = ++seq;
		cr_assert_eq(thmqi_client_commit(producer, &claim), (int64_t)seq);
		next++;
		rig_drive();
		rig_forget();
	}
	cr_assert_gt(next, 1000);
}

Test(client_producer, a_full_window_of_messages_says_so, .init = open_small)
{
	uint32_t n = 0;
	int64_t rc;

	while ((rc = send_to(n % 2, 0)) > 0)
		n++;
	cr_assert_eq(rc, -EAGAIN);
	cr_assert_geq(n, 15);
	cr_assert_leq(n, 16);
	rig_drive();
	progress(1, THMQ_DURABILITY_DURABLE, n - 1);
	progress(2, THMQ_DURABILITY_DURABLE, n);
	cr_assert_eq(send_to(0, 0), n + 1);
}

Test(client_producer, a_commit_that_finds_the_queue_full_keeps_the_claim, .init = open_small)
{
	struct thmq_claim claim;
	uint32_t i;

	rig_self->deaf = true;
	/* all frames of the ring are settled but not taken: the window is free, the ring is full */
	for (i = 1; i <= 16; i++) {
		cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 8, &claim), 0);
		if (thmqi_client_commit(producer, &claim) == -EAGAIN)
			break;
		progress(1, THMQ_DURABILITY_DURABLE, i);
		watermark();
	}
	if (i > 16) {
		cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 8, &claim), 0);
		cr_assert_eq(thmqi_client_commit(producer, &claim), -EAGAIN);
	}
	memcpy(claim.data, "survives", 8);
	cr_assert_eq(thmqi_client_send(producer, "y", 1, to(0, 0)), -EAGAIN);
	rig_self->deaf = false;
	rig_drive();
	cr_assert_eq(thmqi_client_commit(producer, &claim), i, "the same claim, and no sequence was lost");
	rig_drive();
	cr_assert_arr_eq((const void *)(uintptr_t)rig_self->produced[rig_self->produced_count - 1].data, "survives", 8);
}

Test(client_producer, sizes_end_where_len_max_says, .init = open_small)
{
	uint32_t max = thmqi_client_producer_len_max(producer);
	struct thmq_message_opts o = {.size = sizeof(o), .key = "k", .key_len = 1};
	struct thmq_claim claim;

	cr_assert_eq(max, 4088);
	cr_assert_eq(thmqi_client_claim(producer, NULL, max, &claim), 0);
	cr_assert_eq(thmqi_client_abort(producer, &claim), 0);
	cr_assert_eq(thmqi_client_claim(producer, NULL, max + 1 + 8, &claim), -EMSGSIZE);
	cr_assert_eq(thmqi_client_claim(producer, NULL, UINT32_MAX, &claim), -EMSGSIZE);
	cr_assert_eq(thmqi_client_claim(producer, &o, max, &claim), 0, "a short key has room beside it");
	cr_assert_eq(thmqi_client_abort(producer, &claim), 0);
	o.key_len = 9;
	o.key = "123456789";
	cr_assert_eq(thmqi_client_claim(producer, &o, max, &claim), -EMSGSIZE);
	cr_assert_eq(thmqi_client_claim(producer, NULL, 0, &claim), 0);
	cr_assert_eq(thmqi_client_commit(producer, &claim), 1);
}

Test(client_producer, what_the_broker_takes_at_most_is_kept_to, .init = open_default)
{
	struct thmq_claim claim;

	cr_assert_eq(thmqi_client_producer_len_max(producer), 1u << 20);
	cr_assert_eq(thmqi_client_claim(producer, NULL, 1u << 20, &claim), 0);
	cr_assert_eq(thmqi_client_claim(producer, NULL, (1u << 20) + 1, &claim), -EMSGSIZE);
}

/* ------------------------------------------------------------------- reports */

static void open_report(void)
{
	open_with(&(struct thmq_session_opts){.size = sizeof(struct thmq_session_opts), .event_count = 16},
		  &(struct thmq_producer_opts){.size = sizeof(struct thmq_producer_opts),
					       .flags = THMQ_PRODUCER_REPORT,
					       .cookie = &producer});
}

Test(client_producer, a_report_tells_every_message_with_its_offset, .init = open_report)
{
	struct thmq_event e[8];
	uint32_t i;

	/* 1, 3 to shard 1 and 2 to shard 2: the run of shard 1 has the sequences 1 and 3 */
	cr_assert_eq(send_to(0, 0), 1);
	cr_assert_eq(send_to(1, 0), 2);
	cr_assert_eq(send_to(0, 0), 3);
	rig_drive();
	for (i = 0; i < 3; i++)
		cr_assert(rig_self->produced[i].extra & THMQI_PRODUCE_REPORT);
	PUSH(1, .type = THMQI_FRAME_REPORT, .partition = RIG_FIRST, .flags = THMQ_DURABILITY_DURABLE, .seq = 1, .len = 2,
	     .arg = {500});
	cr_assert_eq(thmqi_client_events(rig_self->session, e, 8), 2);
	cr_assert_eq(e[0].type, THMQ_EVENT_SETTLED);
	cr_assert_eq(e[0].sequence, 1);
	cr_assert_eq(e[0].offset, 500);
	cr_assert_eq(e[0].cookie, &producer);
	cr_assert_eq(e[0].durability, THMQ_DURABILITY_DURABLE);
	cr_assert_eq(e[1].sequence, 3);
	cr_assert_eq(e[1].offset, 501);
	PUSH(2, .type = THMQI_FRAME_REPORT, .partition = RIG_FIRST + 1, .seq = 2, .len = 1, .arg = {7});
	cr_assert_eq(thmqi_client_events(rig_self->session, e, 8), 1);
	cr_assert_eq(e[0].sequence, 2);
	cr_assert_eq(e[0].partition, 1);
	cr_assert_eq(e[0].offset, 7);
}

Test(client_producer, no_report_is_ever_dropped, .init = open_report)
{
	struct thmq_event e;
	uint64_t sent = 0, told = 0, i;
	int64_t rc;

	for (i = 0; i < 10; i++) {
		/* nobody takes events: claims end */
		while ((rc = send_to(0, 0)) > 0)
			sent++;
		cr_assert_eq(rc, -EAGAIN);
		rig_drive();
		PUSH(1, .type = THMQI_FRAME_REPORT, .partition = RIG_FIRST, .seq = told + 1, .len = (uint32_t)(sent - told));
		progress(1, THMQ_DURABILITY_DURABLE, sent);
		cr_assert_eq(watermark(), (int64_t)sent);
		cr_assert_eq(send_to(0, 0), -EAGAIN, "settled, but its event waits");
		while (thmqi_client_events(rig_self->session, &e, 1) == 1) {
			cr_assert_eq(e.type, THMQ_EVENT_SETTLED);
			cr_assert_eq(e.sequence, ++told);
		}
		cr_assert_eq(told, sent);
	}
	cr_assert_eq(sent, 160);
}

Test(client_producer, claims_of_two_producers_share_the_room_for_events, .init = open_report)
{
	struct thmq_producer_opts o = {.size = sizeof(o), .flags = THMQ_PRODUCER_REPORT};
	struct thmq_claim mine[16], other;
	struct thmq_producer *second;
	uint32_t i;

	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &second), 0);
	for (i = 0; i < 16; i++)
		cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 1, &mine[i]), 0);
	cr_assert_eq(thmqi_client_claim(second, to(0, 0), 1, &other), -EAGAIN);
	cr_assert_eq(thmqi_client_abort(producer, &mine[3]), 0);
	cr_assert_eq(thmqi_client_claim(second, to(0, 0), 1, &other), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 1, &mine[3]), -EAGAIN);
	/* the room of a closed producer's claims is free again */
	cr_assert_eq(thmqi_client_producer_close(producer, 0), 0);
	for (i = 0; i < 15; i++)
		cr_assert_eq(thmqi_client_claim(second, to(0, 0), 1, &mine[i]), 0);
	cr_assert_eq(thmqi_client_claim(second, to(0, 0), 1, &mine[15]), -EAGAIN);
}

Test(client_producer, a_refused_message_gives_up_its_report, .init = open_report)
{
	struct thmq_event e;
	uint32_t i;

	for (i = 1; i <= 100; i++) {
		cr_assert_eq(send_to(0, 0), i);
		PUSH(1, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST, .seq = i, .status = -ENOSPC);
		cr_assert_eq(thmqi_client_events(rig_self->session, &e, 1), 1);
		cr_assert_eq(e.type, THMQ_EVENT_FAILED);
		rig_drive();
	}
}

Test(client_producer, other_events_beyond_the_ring_are_counted, .init = open_small)
{
	struct thmq_event e[16];
	uint32_t i;
	int n;

	for (i = 1; i <= 12; i++) {
		cr_assert_eq(send_to(0, 0), i);
		PUSH(1, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST, .seq = i, .status = -ENOSPC);
	}
	cr_assert_eq(watermark(), 12);
	n = thmqi_client_events(rig_self->session, e, 16);
	cr_assert_eq(n, 9);
	for (i = 0; i < 8; i++)
		cr_assert_eq(e[i].sequence, i + 1);
	cr_assert_eq(e[8].type, THMQ_EVENT_DROPPED);
	cr_assert_eq(e[8].count, 4);
	cr_assert_eq(thmqi_client_events(rig_self->session, e, 16), 0, "told once");
}

/* ---------------------------------------------------------------- end of life */

Test(client_producer, a_failed_shard_fails_what_is_out_to_it, .init = open_default)
{
	struct thmq_event e;

	cr_assert_eq(send_to(0, 0), 1);
	cr_assert_eq(send_to(1, 0), 2);
	cr_assert_eq(send_to(0, 0), 3);
	PUSH(1, .type = THMQI_FRAME_TROUBLE, .partition = RIG_FIRST, .status = -THMQ_EFAILED, .seq = 3);
	cr_assert_eq(watermark(), 0, "that was a consumer's");
	PUSH(1, .type = THMQI_FRAME_TROUBLE, .extra = THMQI_OF_PRODUCER, .partition = RIG_FIRST,
	     .status = -THMQ_EFAILED, .seq = 3);
	cr_assert_eq(watermark(), 1, "2 is another shard's");
	cr_assert(rig_event(THMQ_EVENT_FAILED, &e));
	cr_assert_eq(e.sequence, 1);
	cr_assert(rig_event(THMQ_EVENT_FAILED, &e));
	cr_assert_eq(e.sequence, 3);
	/* a frame that was still in the ring is refused afterwards: it has failed once already */
	PUSH(1, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST, .seq = 3, .status = -THMQ_EFAILED);
	watermark();
	cr_assert_not(rig_event(THMQ_EVENT_FAILED, &e));
	cr_assert_eq(send_to(0, 0), -THMQ_EFAILED);
	progress(2, THMQ_DURABILITY_DURABLE, 2);
	cr_assert_eq(watermark(), 3);
	cr_assert_eq(thmqi_client_flush(producer, 0), -EIO);
}

Test(client_producer, a_deleted_topic_ends_the_producer, .init = open_default)
{
	cr_assert_eq(send_to(0, 0), 1);
	PUSH(1, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST, .seq = 1, .status = -THMQ_ENOTOPIC);
	cr_assert_eq(watermark(), 1);
	cr_assert_eq(send_to(0, 0), -THMQ_ENOTOPIC);
}

Test(client_producer, news_that_came_before_the_end_count, .init = open_default)
{
	struct thmq_event e;
	uint32_t i;

	for (i = 1; i <= 1000; i++)
		cr_assert_eq(send_to(0, 0), i);
	rig_drive();
	/* more frames than are taken in one go, the last one settles all; then the end */
	for (i = 1; i <= 1000; i++)
		progress(1, THMQ_DURABILITY_DURABLE, i);
	rig_shut(-ESHUTDOWN);
	cr_assert_eq(thmqi_client_flush(producer, SECOND), 0);
	cr_assert_eq(watermark(), 1000);
	cr_assert(rig_event(THMQ_EVENT_CLOSED, &e));
	cr_assert_eq(e.error, -ESHUTDOWN);
	cr_assert_not(rig_event(THMQ_EVENT_CLOSED, &e), "told once");
	cr_assert_eq(send_to(0, 0), -ESHUTDOWN);
}

Test(client_producer, the_end_is_told_though_the_ring_of_events_is_full, .init = open_small)
{
	struct thmq_event e[16];
	uint32_t i;
	int n;

	for (i = 1; i <= 10; i++) {
		cr_assert_eq(send_to(0, 0), i);
		PUSH(1, .type = THMQI_FRAME_REJECT, .partition = RIG_FIRST, .seq = i, .status = -ENOSPC);
	}
	rig_shut(-ESHUTDOWN);
	watermark();
	n = thmqi_client_events(rig_self->session, e, 16);
	cr_assert_eq(n, 10);
	cr_assert_eq(e[8].type, THMQ_EVENT_DROPPED);
	cr_assert_eq(e[9].type, THMQ_EVENT_CLOSED);
}

Test(client_producer, what_was_unsettled_when_the_broker_went_is_reported_by_flush, .init = open_default)
{
	struct thmq_claim claim;

	cr_assert_eq(send_to(0, 0), 1);
	cr_assert_eq(thmqi_client_claim(producer, NULL, 1, &claim), 0);
	rig_shut(-ESHUTDOWN);
	cr_assert_eq(thmqi_client_flush(producer, SECOND), -ESHUTDOWN);
	cr_assert_eq(thmqi_client_commit(producer, &claim), -ESHUTDOWN);
	cr_assert_eq(thmqi_client_commit(producer, &claim), -EINVAL, "it is spent");
}

Test(client_producer, a_stream_is_used_again_when_all_of_it_is_settled, .init = open_default)
{
	struct thmq_producer_opts o = {.size = sizeof(o)};
	struct thmq_producer *before = producer;

	cr_assert_eq(send_to(0, 0), 1);
	progress(1, THMQ_DURABILITY_DURABLE, 1);
	cr_assert_eq(thmqi_client_producer_close(producer, SECOND), 0);
	cr_assert(!thmqi_handle_is(before, THMQI_HANDLE_PRODUCER));
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &producer), 0);
	cr_assert_eq(send_to(0, 0), 1, "a producer counts from 1");
	cr_assert_eq(watermark(), 0, "old progress is not its");
	rig_drive();
	cr_assert_eq(rig_self->produced[1].stream, rig_self->produced[0].stream);
}

Test(client_producer, a_stream_with_something_still_out_is_left_alone, .init = open_default)
{
	struct thmq_producer_opts o = {.size = sizeof(o)};

	cr_assert_eq(send_to(0, 0), 1);
	cr_assert_eq(thmqi_client_producer_close(producer, 0), -ETIMEDOUT);
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &producer), 0);
	cr_assert_eq(send_to(0, 0), 1);
	rig_drive();
	progress(1, THMQ_DURABILITY_DURABLE, 1); /* stream 0: the old producer's, late */
	cr_assert_eq(watermark(), 0);
	PUSH(1, .type = THMQI_FRAME_PROGRESS, .flags = THMQ_DURABILITY_DURABLE, .stream = rig_self->produced[1].stream,
	     .seq = 1);
	cr_assert_eq(watermark(), 1);
}

Test(client_producer, closing_gives_open_claims_back, .init = open_small)
{
	struct thmq_producer_opts o = {.size = sizeof(o)};
	struct thmq_claim claim;

	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 4000, &claim), 0);
	cr_assert_eq(thmqi_client_producer_close(producer, 0), 0);
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &producer), 0);
	cr_assert_eq(thmqi_client_claim(producer, to(0, 0), 4000, &claim), 0);
}

Test(client_producer, streams_end_at_their_number, .init = open_default)
{
	struct thmq_producer_opts o = {.size = sizeof(o)};
	struct thmq_producer *p;
	uint32_t i;

	for (i = 1; i < THMQI_STREAMS; i++)
		cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &p), 0);
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &p), -EMFILE);
	cr_assert_eq(thmqi_client_producer_close(producer, 0), 0);
	cr_assert_eq(thmqi_client_producer_open(rig_self->session, "t", &o, &p), 0);
}
