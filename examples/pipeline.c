/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipeline.c - the cores and the pool together: core 0 receives packets into memory of its own and sends them by a mailbox to core 1, which
 * inspects them and lets go of them there. The blocks come home; no byte is copied, nothing is locked, and a full pool or mailbox holds
 * up the receiver and loses nothing. The network is made up.
 *
 * Two things take care that nobody sleeps through anything: core 1 kicks core 0 once for all that it let go of in an iteration, and
 * core 0 takes in what came home before it sleeps (arm) as well as in each iteration (poll).
 */
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/pool.h>
#include <thundermq/reactor.h>

#define PACKETS 200000u
#define HEADER 14u
#define SECOND 1000000000ull

/* On core 1. */
struct inspector {
	struct thmq_core *core, *receiver;
	struct thmq_poller *poller;
	uint64_t packets, bytes, wrong;
	bool has_let_go; /* of something in this iteration */
};

/* On core 0. */
struct receiver {
	struct thmq_slabs *slabs;
	struct thmq_pool *pool;
	struct thmq_mailbox *to_inspector;
	struct thmq_poller *poller;
	struct inspector *inspector;
	struct thmq_slice held; /* received, and the mailbox was full; buf NULL: none */
	bool waits_for_memory, waits_for_room, told;
	uint32_t received, sent, out_of_memory, out_of_room;
	uint64_t bytes;
	sem_t over;
};

/* ------------------------------------------------------------------ inspector */

static void on_packet(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct inspector *in = mail->object;
	const uint8_t *data = (const uint8_t *)(uintptr_t)mail->word[1];
	uint32_t len = (uint32_t)mail->word[2];

	(void)core;
	in->wrong += data[0] != (uint8_t)len || data[len - 1] != (uint8_t)len;
	in->bytes += len;
	in->packets++;
	thmq_buf_unref_remote((struct thmq_buf *)(uintptr_t)mail->word[0]); /* it goes home */
	in->has_let_go = true;
}

static int nothing_to_poll(void *ctx, uint32_t budget)
{
	(void)ctx;
	(void)budget;
	return 0;
}

static void tell_receiver(void *ctx)
{
	struct inspector *in = ctx;

	if (in->has_let_go)
		thmq_core_kick(in->receiver);
	in->has_let_go = false;
}

static int open_inspector(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops),
						   .poll = nothing_to_poll,
						   .finish = tell_receiver,
						   .name = "inspector"};
	struct inspector *in = arg;

	return thmq_poller_open(core, &ops, in, &in->poller);
}

/* ------------------------------------------------------------------- receiver */

static void on_memory(void *ctx)
{
	((struct receiver *)ctx)->waits_for_memory = false;
}

static void on_room(void *ctx)
{
	((struct receiver *)ctx)->waits_for_room = false;
}

/* A packet arrives; what is handed on is its payload, which keeps the block. */
static bool receive(struct receiver *rx)
{
	uint32_t len = 1 + rx->received * 37 % 1480;
	struct thmq_buf *packet;

	if (thmq_buf_alloc(rx->pool, HEADER + len, THMQ_PURPOSE_RECEIVE, &packet) != 0) {
		rx->waits_for_memory = true; /* until on_memory() */
		rx->out_of_memory++;
		return false;
	}
	memset(packet->data, (uint8_t)len, HEADER + len);
	thmq_slice_open(packet, HEADER, len, &rx->held);
	thmq_buf_unref(packet);
	rx->received++;
	rx->bytes += len;
	return true;
}

/* With its reference: the slice is the inspector's from here on. */
static bool send_held(struct receiver *rx)
{
	const struct thmq_mail mail = {
		.run = on_packet,
		.object = rx->inspector,
		.word = {(uintptr_t)rx->held.buf, (uintptr_t)rx->held.data, rx->held.len}};

	if (thmq_mailbox_send(rx->to_inspector, &mail) != 0) {
		rx->waits_for_room = true; /* until on_room() */
		rx->out_of_room++;
		return false;
	}
	rx->held = (struct thmq_slice){.buf = NULL};
	rx->sent++;
	return true;
}

static int receive_some(void *ctx, uint32_t budget)
{
	struct receiver *rx = ctx;
	uint32_t done = thmq_pool_drain(rx->pool), i;
	struct thmq_pool_stats st = {.size = sizeof(st)};

	for (i = 0; i < budget && !rx->waits_for_memory && !rx->waits_for_room; i++) {
		if (!rx->held.buf && (rx->received == PACKETS || !receive(rx)))
			break;
		if (!send_held(rx))
			break;
		done++;
	}
	if (rx->sent == PACKETS && !rx->told && thmq_pool_stats(rx->pool, &st) == 0 &&
	    !st.in_use_bytes) {
		rx->told = true;
		sem_post(&rx->over); /* the last one is home */
	}
	return (int)done;
}

static int look_again(void *ctx)
{
	struct receiver *rx = ctx;

	return thmq_pool_drain(rx->pool) > 0;
}

static int open_receiver(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {
		.size = sizeof(ops), .poll = receive_some, .arm = look_again, .name = "receiver"};
	struct receiver *rx = arg;
	int rc;

	/* opened here, so that the pool is this core's, and its memory near */
	rc = thmq_pool_open(rx->slabs,
			    THMQ_POOL_OPTS(.limit_bytes = THMQ_SLAB_BYTES,
					   .receive_bytes = 8u << 20, .send_bytes = 24u << 20,
					   .room = on_memory, .ctx = rx),
			    &rx->pool);
	if (!rc)
		rc = thmq_mailbox_open(core, rx->inspector->core,
				       THMQ_MAILBOX_OPTS(.depth = 8192, .room = on_room, .ctx = rx),
				       &rx->to_inspector);
	if (!rc)
		rc = thmq_poller_open(core, &ops, rx, &rx->poller);
	return rc;
}

/* Before the pool goes all of its blocks are home: the inspector has none. */
static int close_receiver(struct thmq_core *core, void *arg)
{
	struct receiver *rx = arg;

	(void)core;
	thmq_poller_close(rx->poller);
	thmq_mailbox_close(rx->to_inspector);
	return (int)thmq_pool_close(rx->pool);
}

int main(void)
{
	struct inspector in = {.core = NULL};
	struct receiver rx = {.inspector = &in};
	struct thmq_env *env;
	int lost;

	sem_init(&rx.over, 0, 0);
	if (thmq_slabs_open(NULL, &rx.slabs) || thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2)))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	in.receiver = thmq_env_core(env, 0);
	in.core = thmq_env_core(env, 1);
	if (thmq_core_call(in.core, open_inspector, &in, SECOND) ||
	    thmq_core_call(in.receiver, open_receiver, &rx, SECOND))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	sem_wait(&rx.over);
	lost = thmq_core_call(in.receiver, close_receiver, &rx, SECOND);
	printf("%llu packets, %llu bytes; %u times out of memory, %u times out of room; %d lost\n",
	       (unsigned long long)in.packets, (unsigned long long)in.bytes, rx.out_of_memory,
	       rx.out_of_room, lost);
	return thmq_env_close(env, SECOND) || thmq_slabs_close(rx.slabs) || lost || in.wrong ||
	       in.packets != PACKETS || in.bytes != rx.bytes;
}
