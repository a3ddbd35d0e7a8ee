/* SPDX-License-Identifier: Apache-2.0 */
/*
 * packet_pool.c - the memory pool on its own: one thread receives packets into its pool and sends answers out of it, another
 * one inspects the packets and lets go of them there. No malloc, no lock, and neither direction can take the other's memory.
 *
 * The network is made up: packets of 64 to 9000 bytes with a header of 14.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/pool.h>

#define PACKETS 200000u
#define RING 4096u /* more than the pool has room for: then the line waits */
#define HEADER 14u
#define OWNER_PACKET 1u
#define OWNER_ANSWER 2u

/* From the receiver to the inspector: one writes, one reads. */
struct ring {
	struct thmq_slice packet[RING];
	_Atomic uint32_t head, tail;
	atomic_bool end;
	uint64_t bytes, wrong; /* the inspector's */
};

struct receiver {
	struct thmq_pool *pool;
	struct ring *ring;
	uint32_t received, answered, held_up;
	bool waits;
	uint64_t bytes;
};

static void *inspect(void *arg)
{
	struct ring *r = arg;
	uint32_t tail = 0, i;

	for (;;) {
		if (tail == atomic_load(&r->head)) {
			if (atomic_load(&r->end) && tail == atomic_load(&r->head))
				return NULL;
			sched_yield();
			continue;
		}
		struct thmq_slice payload = r->packet[tail % RING];

		atomic_store(&r->tail, ++tail);
		for (i = 0; i < payload.len; i += 64)
			r->wrong += payload.data[i] != (uint8_t)payload.len;
		r->bytes += payload.len;
		thmq_buf_unref_remote(payload.buf); /* it goes home to the receiver's pool */
	}
}

/* A packet arrives: its payload is handed on as a slice, the header is looked at and dropped. -ENOBUFS: the line waits. */
static int receive(struct receiver *rx, uint32_t len)
{
	uint32_t head = atomic_load(&rx->ring->head);
	struct thmq_slice payload;
	struct thmq_buf *packet;
	int rc;

	if (head - atomic_load(&rx->ring->tail) == RING)
		return 1; /* the inspector is behind */
	rc = thmq_buf_alloc(rx->pool, len, THMQ_PURPOSE_RECEIVE, &packet);
	if (rc)
		return rc;
	packet->owner = OWNER_PACKET; /* whose it is, should it ever be missed */
	memset(packet->data, (uint8_t)(len - HEADER), len);
	thmq_slice_open(packet, HEADER, len - HEADER, &payload);
	thmq_buf_unref(packet); /* the slice keeps it */
	rx->ring->packet[head % RING] = payload;
	atomic_store(&rx->ring->head, head + 1);
	rx->bytes += len - HEADER;
	rx->received++;
	return 0;
}

/* Every tenth packet has an answer. There is room for it however many packets are waiting. */
static int answer(struct receiver *rx)
{
	struct thmq_buf *b;
	int rc = thmq_buf_alloc(rx->pool, 64, THMQ_PURPOSE_SEND, &b);

	if (rc)
		return rc;
	b->owner = OWNER_ANSWER;
	memset(b->data, 0, 64);
	rx->answered++;
	return thmq_buf_unref(b); /* sent */
}

static void on_room(void *ctx)
{
	((struct receiver *)ctx)->waits = false;
}

static int run(struct receiver *rx)
{
	uint32_t len = 64;
	int rc;

	while (rx->received < PACKETS) {
		thmq_pool_drain(rx->pool);
		if (rx->waits) {
			sched_yield();
			continue;
		}
		rc = receive(rx, len);
		if (rc < 0) { /* the pool is full: on_room() tells when it is worth another try */
			rx->waits = true;
			rx->held_up++;
		} else if (rc > 0) {
			sched_yield();
		} else {
			len = 64 + (len * 7 + 13) % 8937;
			if (rx->received % 10 == 0 && answer(rx))
				return 1;
		}
	}
	return 0;
}

int main(void)
{
	static struct ring ring;
	struct receiver rx = {.ring = &ring};
	struct thmq_pool_stats st = {.size = sizeof(st)};
	struct thmq_pool_leak leak;
	struct thmq_slabs *slabs;
	pthread_t inspector;
	int64_t lost;

	if (thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = 64u << 20), &slabs) ||
	    thmq_pool_open(slabs,
			   THMQ_POOL_OPTS(.limit_bytes = THMQ_SLAB_BYTES, .receive_bytes = 8u << 20,
					  .send_bytes = 16u << 20, .room = on_room, .ctx = &rx),
			   &rx.pool))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	if (pthread_create(&inspector, NULL, inspect, &ring))
		return fprintf(stderr, "no thread\n"), 1;
	if (run(&rx))
		return fprintf(stderr, "an answer found no memory\n"), 1;
	atomic_store(&ring.end, true);
	pthread_join(inspector, NULL);
	if (thmq_pool_leaks(rx.pool, &leak, 1) > 0)
		fprintf(stderr, "owner %u has %u blocks\n", leak.owner, leak.blocks);
	thmq_pool_stats(rx.pool, &st);
	lost = thmq_pool_close(rx.pool);
	printf("%u packets, %llu bytes; %u answers; held up %u times; at most %llu bytes in use; "
	       "%lld lost\n",
	       rx.received, (unsigned long long)ring.bytes, rx.answered, rx.held_up,
	       (unsigned long long)st.in_use_bytes_max, (long long)lost);
	return thmq_slabs_close(slabs) || lost || ring.wrong || ring.bytes != rx.bytes ||
	       rx.answered != PACKETS / 10;
}
