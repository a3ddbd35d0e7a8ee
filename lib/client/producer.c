/* SPDX-License-Identifier: Apache-2.0 */
/*
 * producer.c - opens and closes producers. Their messages go by send.c and row.c; what has become of them is in settle.c.
 */
#include <stdio.h>

#include "client/pack.h"
#include "internal.h"

#define PACK_MIN 512u /* shorter ones are not worth it, where the application does not say */

static int free_stream(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++)
		if (!s->producers[i] && !(s->unsafe[i] & 1))
			return (int)i;
	return thmqi_fail(-EMFILE, "a session has at most %u producers at a time", THMQI_STREAMS);
}

static void forget_progress(struct thmq_session *s, uint32_t stream)
{
	uint32_t i;

	for (i = 0; i < s->shard_count; i++)
		if (s->links[i])
			memset(s->links[i]->progress[stream], 0,
			       sizeof(s->links[i]->progress[stream]));
}

static void producer_free(struct thmq_producer *p)
{
	thmqi_pack_close(p->pack);
	p->pack = NULL;
	free(p->partitions);
	free(p->sent);
	p->partitions = NULL;
	p->sent = NULL;
	thmqi_handle_bury(p->session->graveyard, &p->handle);
}

/* Its identity at the broker: what it sends again is stored once. With a name it takes over from others of that name. */
static int get_id(struct thmq_producer *p, const char *topic, const char *name)
{
	struct thmqi_request r = {.op = THMQI_OP_PRODUCER_OPEN};
	const struct thmqi_reply *reply;
	struct thmq_session *s = p->session;
	int rc;

	if (!name && !s->opts.reconnect_ns)
		return 0;
	snprintf(r.name, sizeof(r.name), "%s", topic);
	snprintf(r.group, sizeof(r.group), "%s", name ? name : "");
	rc = thmqi_session_meta(s, &r, &reply);
	if (rc)
		return rc;
	if (!reply->value[0] || reply->value[1] > UINT32_MAX || reply->value[2] > INT64_MAX)
		return -THMQ_EVERSION;
	p->id = reply->value[0];
	p->epoch = (uint32_t)reply->value[1];
	p->last_seq = p->watermark = reply->value[2];
	p->uniform_from = p->last_seq + 1;
	s->has_ids = s->untended = true;
	return 0;
}

static int open_pack(struct thmq_producer *p, const struct thmq_producer_opts *opts)
{
	int rc;

	if (!opts->compression)
		return 0;
	p->compression = opts->compression;
	p->pack_min = opts->compress_min ? opts->compress_min : PACK_MIN;
	rc = thmqi_pack_open(opts->compression, true, opts->compress_level, &p->pack);
	return rc == -EOPNOTSUPP ? thmqi_fail(rc, "a producer: this library or machine has no %s: install lib%s%s, or build with it",
					      thmqi_pack_name(opts->compression), thmqi_pack_name(opts->compression),
					      opts->compression == THMQ_COMPRESSION_LZ4 ? "-1" : "1")
				 : rc;
}

int thmqi_client_producer_open(struct thmq_session *s, const char *topic,
			       const struct thmq_producer_opts *opts,
			       struct thmq_producer **ret_producer)
{
	struct thmqi_topic_entry entry;
	struct thmq_producer *p;
	struct client_link *l;
	int rc, stream = free_stream(s);
	const uint32_t growths = s->growths;
	uint32_t i;

	if (stream < 0)
		return stream;
	rc = thmqi_session_topic(s, topic, THMQI_TO_PRODUCE, &entry);
	if (rc)
		return thmqi_fail(rc, "open a producer for %s: %s", topic, thmqi_session_why(rc));
	if ((entry.topic_flags & THMQ_TOPIC_VOLATILE) && opts->durability > THMQ_DURABILITY_MEMORY)
		return thmqi_fail(-ENOTSUP, "%s is volatile: it has durability memory only", topic);
	p = calloc(1, sizeof(*p));
	if (!p)
		return thmqi_fail(-ENOMEM, "no memory for a producer");
	p->handle.kind = THMQI_HANDLE_PRODUCER;
	p->session = s;
	p->stream = (uint32_t)stream;
	p->is_volatile = entry.topic_flags & THMQ_TOPIC_VOLATILE;
	p->level = opts->durability ? opts->durability
		   : p->is_volatile ? THMQ_DURABILITY_MEMORY
				    : s->level;
	p->report = opts->flags & THMQ_PRODUCER_REPORT;
	p->cookie = opts->cookie;
	p->topic_id = entry.topic_id;
	p->partition_count = entry.partition_count;
	p->priorities = THMQI_MAX(entry.priorities, 1u);
	p->lanes = p->partition_count / p->priorities;
	p->sent_mask = s->opts.window_count - 1;
	p->uniform_from = 1;
	p->epoch = ++s->lives;
	p->sent = calloc(s->opts.window_count, sizeof(*p->sent));
	rc = open_pack(p, opts);
	if (rc) {
		producer_free(p);
		return rc == -EOPNOTSUPP ? rc : thmqi_fail(rc, "open a producer for %s: %s", topic, thmq_strerror(rc));
	}
	rc = p->sent ? thmqi_session_partitions(s, entry.topic_id, 0, entry.partition_count,
						&p->partitions)
		     : -ENOMEM;
	if (!rc)
		rc = get_id(p, topic, opts->name);
	if (!rc)
		p->usual = (struct sent){
			.shard = (uint16_t)p->partitions[0].shard,
			.level = (uint8_t)THMQI_MIN(p->level, (uint32_t)THMQ_DURABILITY_DURABLE)};
	if (rc) {
		producer_free(p);
		return thmqi_fail(rc, "open a producer for %s: %s", topic, thmq_strerror(rc));
	}
	forget_progress(s, p->stream);
	s->producers[stream] = p;
	/* connect now, so that the first claims find their links up */
	for (i = 0; i < p->partition_count && i < s->shard_count && !rc; i++)
		rc = thmqi_session_link_wait(s, p->partitions[i].shard,
					     thmqi_session_deadline(s, s->opts.timeout_ns), &l);
	for (i = 0; i < p->partition_count && i < s->shard_count && !rc; i++)
		rc = thmqi_session_wait_up(s, s->links[p->partitions[i].shard],
					   thmqi_session_deadline(s, s->opts.timeout_ns));
	if (rc) {
		s->producers[stream] = NULL;
		producer_free(p);
		return thmqi_fail(rc, "open a producer for %s: %s", topic, thmq_strerror(rc));
	}
	if (s->growths != growths)
		thmqi_growth_look(s);
	*ret_producer = p;
	return 0;
}

int thmqi_client_producer_close(struct thmq_producer *p, uint64_t timeout_ns)
{
	struct thmq_session *s = p->session;
	uint32_t i, k;
	int rc;

	rc = thmqi_client_flush(p, timeout_ns);
	if (rc == -EDEADLK && !s->dead)
		return rc;
	for (i = 0; i < s->shard_count; i++) {
		struct client_link *l = s->links[i];

		if (!l)
			continue;
		for (k = l->slot_tail; k != l->slot_head; k++) {
			struct slot *slot = &l->slots[k & l->slot_mask];

			/* the stream's next user counts its sequences from 1 again */
			if (slot->stream == p->stream &&
			    (slot->state == SLOT_CLAIMED || thmqi_slot_is_settled(l, slot))) {
				if (slot->state == SLOT_CLAIMED && slot->life != l->life)
					thmqi_resume_claim_end(l, slot->life);
				slot->state = SLOT_FREE;
			}
		}
	}
	s->reports_due -= p->reports_due; /* what is still to come will find no producer */
	if (rc)
		s->unsafe[p->stream] |= rc == -EIO ? 0 : 1;
	s->producers[p->stream] = NULL;
	producer_free(p);
	return rc;
}

uint32_t thmqi_client_producer_len_max(const struct thmq_producer *p)
{
	const struct thmq_session *s = p->session;
	const struct client_link *l = s->links ? s->links[p->partitions[0].shard] : NULL;

	if (!l)
		return 0;
	if (p->is_volatile)
		return THMQI_MIN(l->len_max_volatile, l->wire->area_bytes - 8);
	return THMQI_MIN(THMQI_MIN(l->len_max, THMQ_MESSAGE_MAX), l->wire->area_bytes - 8);
}
