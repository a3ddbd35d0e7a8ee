/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay_cancel.c - a message whose time has not come is not to come. Whose it is lies in the log, so that it is read first; then it is said that it is
 * over, and the answer waits until that is durable. One after the other: this is no message's path.
 */
#include "delay.h"

static void on_ready(void *ctx)
{
	(void)ctx;
}

static struct conn *conn_of(const struct thmqi_list *conns, uint64_t serial)
{
	struct thmqi_list *it;

	thmqi_list_each(it, conns)
		if (thmqi_container(it, struct conn, link)->serial == serial)
			return thmqi_container(it, struct conn, link);
	return NULL;
}

/* Who asked may have left. */
static void answer(struct delay *d, struct cancel *k, int status)
{
	struct conn *c = conn_of(&d->shard->conns, k->serial);

	if (!c)
		c = conn_of(&d->shard->resting, k->serial);
	if (c)
		thmqi_reply(c, k->request, status);
	thmqi_list_del(&k->link);
	free(k);
}

static void on_stored(struct thmqi_broker_post *post)
{
	struct cancel *k = post->arg;

	if (k->delay)
		answer(k->delay, k, post->status);
	else /* its broker was closed behind the post */
		free(k);
}

/* Return: 1 it is one of @k's partition, and waits; 0 later; -ENOENT; an error */
static int look(struct delay *d, struct cancel *k)
{
	const struct slot *slot = thmqi_delay_slot(d, k->offset);
	const struct delayed *is;
	struct thmq_log_view view;
	int rc;

	if (!thmqi_waiting_has(&d->waiting, k->offset) || (slot && slot->said))
		return -ENOENT;
	if (slot && slot->state == SLOT_READY)
		return slot->is->partition == k->partition ? 1 : -ENOENT;
	if (!d->looker) {
		rc = thmq_log_reader_open(d->shard->log, DELAY_PARTITION, on_ready, d, &d->looker);
		if (rc)
			return rc;
	}
	if (!k->sought)
		thmq_log_reader_seek(d->looker, k->offset);
	k->sought = true;
	rc = thmq_log_read(d->looker, k->offset + 1, &view);
	if (rc == 0)
		return thmqi_log_reader_waits(d->looker) ? 0 : -ENOENT;
	k->sought = false;
	if (rc != 1)
		return rc == -THMQ_EOFFSETRANGE ? -ENOENT : rc;
	is = thmqi_delay_is(&view.run, k->offset);
	rc = is && is->partition == k->partition ? 1 : -ENOENT;
	thmq_log_view_release(d->shard->log, &view);
	return rc;
}

/* Return: 0 said, and on its way to the medium; -EAGAIN later; an error */
static int cancel(struct delay *d, struct cancel *k)
{
	struct slot *slot = thmqi_delay_slot(d, k->offset);
	uint64_t said = k->offset | DELAY_CANCELLED, number;
	struct shard *s = d->shard;
	int rc;

	if (s->blocked || s->pending_tail - s->pending_head > PENDING_COUNT - 8)
		return -EAGAIN;
	rc = thmqi_delay_say(d, &said, 1, &number);
	if (rc)
		return rc == -ENOBUFS ? -EAGAIN : rc;
	thmqi_waiting_drop(&d->waiting, k->offset, !slot);
	thmqi_delay_count_one(d, k->partition, -1);
	if (slot)
		thmqi_delay_slot_free(d, slot);
	k->storing = true;
	k->post.arg = k;
	rc = thmqi_settle_post(s, &k->post, s, on_stored);
	thmqi_assert(rc == 0); /* there was room */
	return rc;
}

void thmqi_delay_cancel_step(struct delay *d)
{
	struct thmqi_list *it, *tmp;
	int rc;

	if (d->phase != DELAY_LIVE)
		return; /* it is not known yet what waits */
	thmqi_list_each_safe(it, tmp, &d->cancels)
	{
		struct cancel *k = thmqi_container(it, struct cancel, link);

		if (k->storing)
			continue;
		rc = look(d, k);
		if (rc == 1)
			rc = cancel(d, k);
		else if (rc == 0)
			rc = -EAGAIN;
		if (rc == -EAGAIN) {
			d->shard->stuck = true; /* looked at again soon, whoever is in the way */
			return;
		}
		if (rc)
			answer(d, k, rc);
	}
}

void thmqi_delay_cancel(struct conn *c, uint64_t id, const struct thmqi_request *r)
{
	struct partition *p = thmqi_shard_partition_asked(c->shard, r->partition);
	struct delay *d = c->shard->delay;
	int rc = !p ? -THMQ_ENOPARTITION : p->dead ? -THMQ_ENOTOPIC : p->is_volatile ? -ENOTSUP : 0;
	struct cancel *k;

	if (!rc && (!d || d->phase == DELAY_OFF))
		rc = -ENOENT;
	k = rc ? NULL : calloc(1, sizeof(*k));
	if (!k) {
		thmqi_reply(c, id, rc ? rc : -ENOMEM);
		return;
	}
	k->delay = d;
	k->serial = c->serial;
	k->request = id;
	k->offset = r->before_offset;
	k->partition = p->id;
	thmqi_list_add_tail(&d->cancels, &k->link);
	thmqi_delay_cancel_step(d);
}

/* Those that are on their way end with the log: on_stored() is called for each. */
void thmqi_delay_cancel_stop(struct delay *d, int error)
{
	struct thmqi_list *it, *tmp;

	thmq_log_reader_close(d->looker);
	d->looker = NULL;
	thmqi_list_each_safe(it, tmp, &d->cancels)
	{
		struct cancel *k = thmqi_container(it, struct cancel, link);

		k->sought = false;
		if (!k->storing)
			answer(d, k, error);
	}
}

void thmqi_delay_cancel_fini(struct delay *d)
{
	while (!thmqi_list_empty(&d->cancels)) {
		struct cancel *k = thmqi_list_first(&d->cancels, struct cancel, link);

		thmqi_list_del(&k->link);
		k->delay = NULL;
		if (!k->storing || thmqi_settle_has_post(d->shard, &k->post))
			free(k); /* else it is posted already, and this core comes to it */
	}
}
