/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster.c - which brokers have copies of the same data, as the options say; what makes their logs one; and the way between those
 * that are in one environment: a message is copied into the mailbox of the shard that it is for. Knows nothing of who leads.
 */
#include <stdio.h>

#include "lead.h"
#include "node.h"

#define LETTERS_MAX 512u /* that wait for one shard */

/* ------------------------------------------------------------------ options */

static int bad(const char *what, const char *text)
{
	return thmqi_fail(-EINVAL,
			  "a cluster is written as \"1=inproc://a,2=inproc://b\": %s at \"%.40s\"",
			  what, text);
}

/* "<id>=<address>" up to the next comma. */
static int parse_one(const char *text, size_t len, struct thmqi_member *ret)
{
	char *at;
	size_t url;

	ret->role = THMQI_MEMBER_VOTER;
	if (*text < '1' || *text > '9')
		return bad("a number from 1 on is missing", text);
	ret->id = strtoull(text, &at, 10);
	if (*at != '=' || at + 1 >= text + len)
		return bad("an address is missing", text);
	url = len - (size_t)(at + 1 - text);
	if (url >= sizeof(ret->address))
		return bad("an address is too long", text);
	memcpy(ret->address, at + 1, url);
	ret->address[url] = 0;
	if (thmqi_afar_is(ret->address)) {
		char other[THMQI_ADDRESS_MAX];

		return thmqi_afar_url(ret->address, other, sizeof(other)) == 0
			       ? 0
			       : bad("a port up to 55535 is missing, or one for the others: "
				     "tcp://host:port+other",
				     text);
	}
	return strstr(ret->address, "://") ? 0 : bad("an address is a URL", text);
}

/* By their numbers: in whatever order they were written, the first batch of all logs is the same. */
static int by_id(const void *a, const void *b)
{
	uint64_t one = ((const struct thmqi_member *)a)->id, other = ((const struct thmqi_member *)b)->id;

	return one < other ? -1 : one > other;
}

int thmqi_cluster_parse(const char *text, struct thmqi_members *ret)
{
	const char *end;
	uint32_t i, k;
	int rc;

	memset(ret, 0, sizeof(*ret));
	for (;; text = end + 1) {
		end = strchrnul(text, ',');
		if (ret->count == THMQI_MEMBERS_MAX)
			return thmqi_fail(-EINVAL, "a cluster has at most %u brokers",
					  THMQI_MEMBERS_MAX);
		rc = parse_one(text, (size_t)(end - text), &ret->list[ret->count]);
		if (rc)
			return rc;
		ret->count++;
		if (!*end)
			break;
	}
	for (i = 0; i < ret->count; i++)
		for (k = 0; k < i; k++)
			if (ret->list[i].id == ret->list[k].id ||
			    strcmp(ret->list[i].address, ret->list[k].address) == 0)
				return bad("twice the same", ret->list[i].address);
	qsort(ret->list, ret->count, sizeof(ret->list[0]), by_id);
	return 0;
}

/* What all of them have, and nobody else: so that a log of another cluster is none of this one's. */
static void identify(struct thmq_broker *b)
{
	const struct thmq_broker_opts *o = &b->opts;
	const char *name = o->cluster_name ? o->cluster_name : o->cluster;
	uint64_t words[4] = {thmqi_hash64(name, strlen(name)), b->opts.shard_count, 1};
	uint64_t id[2];

	id[0] = thmqi_hash64(words, sizeof(words));
	words[2] = 2;
	id[1] = thmqi_hash64(words, sizeof(words));
	memcpy(b->cluster_id, id, sizeof(id));
	b->identity = id[0];
}

void thmqi_cluster_log_id(const struct thmq_broker *b, uint32_t shard, uint8_t ret_id[16])
{
	uint64_t id[2];

	memcpy(id, b->cluster_id, sizeof(id));
	id[1] ^= shard;
	id[1] |= 1ull << 63; /* never all zero */
	memcpy(ret_id, id, sizeof(id));
}

int thmqi_cluster_init(struct thmq_broker *b)
{
	const struct thmq_broker_opts *o = &b->opts;
	int rc;

	b->cluster = calloc(1, sizeof(*b->cluster));
	if (!b->cluster)
		return thmqi_fail(-ENOMEM, "no memory for a broker");
	rc = thmqi_cluster_parse(o->cluster, b->cluster);
	if (rc)
		return rc;
	if (!thmqi_members_find(b->cluster, o->node_id) && !(o->flags & THMQ_BROKER_JOIN))
		return thmqi_fail(-EINVAL, "node_id %llu is none of the cluster's",
				  (unsigned long long)o->node_id);
	if (!o->node_id || ((o->flags & THMQ_BROKER_JOIN) && !o->cluster_name))
		return thmqi_fail(-EINVAL,
				  "one that joins a cluster has a node_id, and its cluster_name");
	if (!b->opts.shard_count) /* machines differ, and this must not */
		b->opts.shard_count = 1;
	identify(b);
	rc = thmqi_roll_open(b);
	if (rc)
		return rc;
	if (!b->carrier.send)
		b->carrier = thmqi_carrier_inproc;
	return 0;
}

/* ------------------------------------------------------------- what comes in */

struct thmq_core *thmqi_broker_group_core(struct thmq_broker *b, uint64_t group)
{
	const struct shard *s = thmqi_lead_shard(b, group);

	return s ? s->core : NULL;
}

int thmqi_broker_receive(struct thmq_broker *b, const struct thmqi_message *message,
			 struct thmqi_buf *buf)
{
	const struct shard *s = thmqi_lead_shard(b, message->group);

	if (!s || !s->open || !s->lead || !s->lead->group)
		return -EINVAL;
	return thmqi_group_receive(s->lead->group, message, buf);
}

void thmqi_broker_writable(struct thmq_broker *b, uint64_t group, uint64_t peer)
{
	const struct shard *s = thmqi_lead_shard(b, group);

	if (s && s->lead && s->lead->group)
		thmqi_group_writable(s->lead->group, peer);
}

/* ---------------------------------------------------------- one environment */

/* A task of it that is posted may run when its shard is gone. */
struct mailbox {
	struct thmqi_task task;
	pthread_mutex_t lock; /* of all the rest */
	struct shard *shard;  /* NULL: gone */
	struct letter *first, **last;
	uint32_t count;
	bool posted;
};

struct letter {
	struct letter *next;
	struct thmqi_message message;
	uint8_t batch[];
};

/* 0; -EAGAIN again later; another error: it is of no use. */
static int give(struct shard *s, const struct letter *letter)
{
	uint32_t bytes = letter->message.batch_bytes;
	struct thmqi_buf *buf = NULL;
	int rc;

	if (bytes && thmqi_core_alloc(s->core, bytes, &buf) != 0)
		return -EAGAIN;
	if (buf)
		memcpy(buf->data, letter->batch, bytes);
	rc = thmqi_broker_receive(s->broker, &letter->message, buf);
	if (rc && buf)
		thmqi_buf_unref(buf);
	return rc;
}

void thmqi_letters_deliver(struct shard *s)
{
	struct lead *l = s->lead;
	struct letter *letter;
	uint32_t done = 0;

	while ((letter = l->taken)) {
		if (give(s, letter) == -EAGAIN)
			break;
		l->taken = letter->next;
		free(letter);
		done++;
	}
	if (!done)
		return;
	pthread_mutex_lock(&l->box->lock);
	l->box->count -= done;
	pthread_mutex_unlock(&l->box->lock);
}

static void box_free(struct mailbox *box)
{
	pthread_mutex_destroy(&box->lock);
	free(box);
}

static void on_mail(struct thmq_core *core, struct thmqi_task *task)
{
	struct mailbox *box = thmqi_container(task, struct mailbox, task);
	struct shard *s = box->shard; /* changed on this core only */
	struct letter **end;

	(void)core;
	if (!s) {
		box_free(box);
		return;
	}
	for (end = &s->lead->taken; *end; end = &(*end)->next)
		;
	pthread_mutex_lock(&box->lock);
	*end = box->first;
	box->first = NULL;
	box->last = &box->first;
	box->posted = false;
	pthread_mutex_unlock(&box->lock);
	thmqi_letters_deliver(s);
}

int thmqi_letters_init(struct shard *s)
{
	struct mailbox *box = calloc(1, sizeof(*box));

	if (!box)
		return -ENOMEM;
	pthread_mutex_init(&box->lock, NULL);
	box->task.run = on_mail;
	box->shard = s;
	box->last = &box->first;
	s->lead->box = box;
	return 0;
}

static void letters_free(struct letter *first)
{
	struct letter *next;

	for (; first; first = next) {
		next = first->next;
		free(first);
	}
}

/* Nobody else finds it any more. */
void thmqi_letters_fini(struct shard *s)
{
	struct mailbox *box = s->lead->box;

	letters_free(s->lead->taken);
	letters_free(box->first);
	box->first = NULL;
	box->shard = NULL;
	if (!box->posted)
		box_free(box);
}

struct sending {
	struct thmq_broker *from;
	const struct thmqi_message *message;
	const struct thmqi_buf *buf;
};

static struct letter *write_letter(const struct sending *s)
{
	uint32_t bytes = s->buf ? s->message->batch_bytes : 0;
	struct letter *letter = malloc(sizeof(*letter) + bytes);

	if (!letter)
		return NULL;
	letter->next = NULL;
	letter->message = *s->message;
	if (bytes)
		memcpy(letter->batch, s->buf->data, bytes);
	return letter;
}

/* While the other broker cannot go: what is posted to its core runs before it does. */
static int put(void *broker, void *arg)
{
	const struct sending *sending = arg;
	struct shard *s = thmqi_lead_shard(broker, sending->message->group);
	struct letter *letter;
	struct mailbox *box;
	int rc = 0;

	if (!s || !s->lead)
		return -ECONNREFUSED;
	/* each the other: what comes from one says that it knows whom it speaks to */
	rc = thmqi_node_meet(broker, sending->from->opts.node_id, thmqi_node_mark(sending->from), thmqi_node_list(sending->from));
	rc = rc ? rc : thmqi_node_meet(sending->from, s->broker->opts.node_id, thmqi_node_mark(broker), thmqi_node_list(broker));
	if (rc)
		return rc;
	thmqi_node_hear(broker, sending->from);
	box = s->lead->box;
	pthread_mutex_lock(&box->lock);
	if (box->count == LETTERS_MAX) {
		rc = -EAGAIN;
	} else if (!(letter = write_letter(sending))) {
		rc = -ENOMEM;
	} else {
		*box->last = letter;
		box->last = &letter->next;
		box->count++;
		if (!box->posted)
			thmqi_core_post(s->core, &box->task);
		box->posted = true;
	}
	pthread_mutex_unlock(&box->lock);
	return rc;
}

static int inproc_send(void *ctx, struct thmq_broker *from, const char *address,
		       const struct thmqi_message *message, struct thmqi_buf *buf)
{
	struct sending sending = {.from = from, .message = message, .buf = buf};

	(void)ctx;
	if (!address)
		return -EHOSTUNREACH;
	if (strncmp(address, "inproc://", 9) != 0)
		return -EPROTONOSUPPORT;
	return thmqi_transport_reach(from->transport, address + 9, put, &sending);
}

const struct thmqi_carrier thmqi_carrier_inproc = {.send = inproc_send};
