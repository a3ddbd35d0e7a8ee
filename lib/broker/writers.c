/* SPDX-License-Identifier: Apache-2.0 */
/*
 * writers.c - how far each producer with an id has come in each partition of a shard: so that what it sends again, since it does
 * not know whether that is stored, is stored once. Comes back with the log: from the headers of its runs, which the log keeps as a
 * state. Of those without a name it forgets who was not heard of for long. Knows nothing of how runs are made and settled.
 */
#include "internal.h"
#include "wire/run.h"

/* Much longer than a session tries to reach its broker again: nobody who is forgotten comes back. */
#define FORGET_NS (2 * RECONNECT_MAX_NS)
#define FORGET_BUDGET 16u

static bool has_name(uint64_t producer)
{
	return producer & NAMED_PRODUCER;
}

struct writer *thmqi_writer_find(const struct shard *s, uint64_t producer, uint32_t partition)
{
	struct writer *w = thmqi_map_get(&s->writers, thmqi_producer_item(producer, partition));

	return w && w->producer == producer && w->partition == partition ? w : NULL;
}

static void used(struct shard *s, struct writer *w)
{
	w->used_ns = s->core->now_ns;
	thmqi_list_del(&w->link);
	thmqi_list_add_tail(&s->writers_by_use, &w->link);
}

static void forget(struct shard *s, struct writer *w)
{
	thmqi_map_remove(&s->writers, thmqi_producer_item(w->producer, w->partition));
	thmqi_list_del(&w->link);
	free(w);
}

/* Those that were not used for the longest time. One with a name stays, behind the others. */
static void forget_some(struct shard *s)
{
	uint32_t i;

	for (i = 0; i < FORGET_BUDGET && !thmqi_list_empty(&s->writers_by_use); i++) {
		struct writer *w = thmqi_list_first(&s->writers_by_use, struct writer, link);

		if (s->core->now_ns - w->used_ns < FORGET_NS)
			return;
		if (has_name(w->producer))
			used(s, w);
		else
			forget(s, w);
	}
}

static struct writer *make(struct shard *s, uint64_t producer, uint32_t partition)
{
	struct writer *w = calloc(1, sizeof(*w)), *other;
	uint64_t item = thmqi_producer_item(producer, partition);

	if (!w)
		return NULL;
	other = thmqi_map_get(&s->writers, item);
	if (other) /* 64 bits of two of them are equal: the one that was there is as one that was never there */
		forget(s, other);
	if (thmqi_map_put(&s->writers, item, w) != 0) {
		free(w);
		return NULL;
	}
	w->producer = producer;
	w->partition = partition;
	thmqi_list_init(&w->link);
	used(s, w);
	return w;
}

static uint32_t lowest_epoch(const struct shard *s, uint64_t producer)
{
	return (uint32_t)(uintptr_t)thmqi_map_get(&s->fences, producer);
}

int thmqi_writer_admit(struct conn *c, const struct thmqi_frame *f, uint32_t partition, struct writer **ret_writer)
{
	struct shard *s = c->shard;
	struct writer *w = thmqi_writer_find(s, f->arg[1], partition);

	if (thmqi_unlikely(f->arg[1] == DELAY_PRODUCER)) /* that one is the shard itself */
		return -EINVAL;
	if (has_name(f->arg[1]) && f->generation < lowest_epoch(s, f->arg[1]))
		return -THMQ_EFENCED;
	if (!w) {
		forget_some(s);
		w = make(s, f->arg[1], partition);
	}
	if (!w)
		return -ENOMEM;
	if (f->generation < w->epoch)
		return -THMQ_EFENCED;
	if (f->generation > w->epoch) {
		w->epoch = f->generation;
		w->serial = 0;
	}
	/* its session has another connection by now, on which it says all of this again */
	if (c->serial < w->serial)
		return WRITER_LEFT;
	w->serial = c->serial;
	used(s, w);
	*ret_writer = w;
	return f->seq <= w->last_seq ? WRITER_AGAIN : WRITER_NEW;
}

void thmqi_writer_replay(struct shard *s, const struct thmq_log_producer *state)
{
	struct writer *w;

	if (state->producer_id == DELAY_PRODUCER) {
		s->delay_mark = THMQI_MAX(s->delay_mark, state->last_sequence);
		return;
	}
	w = thmqi_writer_find(s, state->producer_id, state->partition);
	if (!thmqi_shard_partition(s, state->partition))
		return; /* its topic is gone */
	if (!w)
		w = make(s, state->producer_id, state->partition);
	if (!w) {
		s->writers_missing = true;
		return;
	}
	w->epoch = THMQI_MAX(w->epoch, state->producer_epoch);
	w->last_seq = THMQI_MAX(w->last_seq, state->last_sequence);
}

/* Nothing where it has no meaning any more. */
int thmqi_writer_renew(struct shard *s, uint64_t item)
{
	const struct writer *w = thmqi_map_get(&s->writers, item);
	struct thmq_log_producer state;
	struct pending *e;

	if (!w || !w->last_seq)
		return 0;
	state = (struct thmq_log_producer){.producer_id = w->producer,
					   .last_sequence = w->last_seq,
					   .producer_epoch = w->epoch,
					   .partition = w->partition};
	return thmqi_shard_append_state(s, THMQ_LOG_PRODUCER, item, &state, sizeof(state), &e);
}

int thmqi_writer_fence(struct shard *s, uint64_t producer, uint32_t epoch)
{
	return thmqi_map_put(&s->fences, producer, (void *)(uintptr_t)epoch);
}

uint64_t thmqi_writer_highest(const struct shard *s, uint64_t producer)
{
	const struct writer *w;
	uint64_t highest = 0;
	uint32_t i = 0;

	while ((w = thmqi_map_next(&s->writers, &i)))
		if (w->producer == producer)
			highest = THMQI_MAX(highest, w->last_seq);
	return highest;
}

void thmqi_writers_drop(struct shard *s, uint32_t partition)
{
	struct thmqi_list *it, *tmp;

	thmqi_list_each_safe(it, tmp, &s->writers_by_use)
	{
		struct writer *w = thmqi_container(it, struct writer, link);

		if (w->partition == partition)
			forget(s, w);
	}
}

void thmqi_writers_clear(struct shard *s)
{
	while (!thmqi_list_empty(&s->writers_by_use))
		forget(s, thmqi_list_first(&s->writers_by_use, struct writer, link));
}

void thmqi_writers_init(struct shard *s)
{
	thmqi_map_init(&s->writers);
	thmqi_map_init(&s->fences);
	thmqi_list_init(&s->writers_by_use);
}

void thmqi_writers_fini(struct shard *s)
{
	thmqi_writers_clear(s);
	thmqi_map_fini(&s->writers);
	thmqi_map_fini(&s->fences);
}
