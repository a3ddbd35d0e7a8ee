/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transactions_kept.c - what is kept of transactions of Kafka's clients, and found again when the broker begins.
 *
 * Of a name it is a message of OFFSETS_TOPIC: its producer's id and epoch, the number that the library gave to its newest transaction,
 * and what became of that. Whether it was committed when the broker died is told by messages that are part of it, in TRANSACTIONS_TOPIC: they are
 * there, or they are not. One of them is written when it begins, and one for each offset of a group, which gets into OFFSETS_TOPIC behind
 * the commit, or at the next start:
 *
 *   OFFSETS_TOPIC        key: name and "/"    payload: "transaction", producer's id, epoch, time-out in ms, number, phase
 *   TRANSACTIONS_TOPIC   tag: number          key and payload: those of the offset; of the first one: name and "/", nothing
 *
 * One that was open, and is not there, is lost: PHASE_LOST. Of a name that nobody has used for long the payload is empty: it is forgotten.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "transactions.h"

#define OFFSETS_MAX 65536u        /* of a transaction */
#define LOG_BYTES (64u << 20)

/* -------------------------------------------------------------------- names */

struct transaction **transaction_place(struct server *s, struct text name)
{
	struct transaction **at = &s->transactions[hash_bytes(name.data, name.len) % BUCKETS];

	while (*at && !text_same(name, (struct text){(*at)->name, (*at)->name_len - 1}))
		at = &(*at)->next;
	return at;
}

int64_t transaction_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

struct transaction *transaction_make(struct server *s, struct text name)
{
	struct transaction **at = transaction_place(s, name), *x = *at;

	if (x)
		return x;
	x = calloc(1, sizeof(*x) + name.len + 1);
	if (!x)
		return NULL;
	x->server = s;
	x->producer_id = -1;
	x->asked_epoch = -1;
	x->phase = PHASE_NONE;
	x->used_ns = transaction_now_ns();
	x->last = &x->offsets;
	x->name_len = name.len + 1;
	memcpy(x->name, name.data, name.len);
	x->name[name.len] = '/';
	*at = x;
	return x;
}

void transaction_forget(struct transaction *x)
{
	struct pending *o;

	if (x->offsets)
		x->server->transactions_pending--;
	while ((o = x->offsets)) {
		x->offsets = o->next;
		free(o);
	}
	x->last = &x->offsets;
	x->offset_count = 0;
}

static int keep_offset(struct transaction *x, struct text key, struct text value)
{
	struct pending *o = x->offset_count < OFFSETS_MAX ? malloc(sizeof(*o) + key.len + value.len) : NULL;
	char *at;

	if (!o)
		return K_INVALID_REQUEST;
	at = (char *)(o + 1);
	o->next = NULL;
	o->key = (struct text){at, key.len};
	o->value = (struct text){at + key.len, value.len};
	memcpy(at, key.data, key.len);
	memcpy(at + key.len, value.data, value.len);
	x->server->transactions_pending += !x->offsets;
	x->offset_count++;
	*x->last = o;
	x->last = &o->next;
	return 0;
}

void transactions_unload(struct server *s)
{
	struct transaction *x;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		while ((x = s->transactions[b])) {
			s->transactions[b] = x->next;
			if (x->request && !x->request->conn) /* a commit that nobody waits for any more */
				request_free(x->request);
			transaction_forget(x);
			free(x);
		}
}

bool transactions_pend(const struct server *s, struct text key)
{
	const struct transaction *x;
	const struct pending *o;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		for (x = s->transactions[b]; x; x = x->next)
			for (o = x->offsets; o; o = o->next)
				if (text_same(o->key, key))
					return true;
	return false;
}

/* -------------------------------------------------------------- what is kept */

static int save(const struct transaction *x, struct sending *g)
{
	char value[128];
	int len = snprintf(value, sizeof(value), "transaction %" PRId64 " %d %" PRId32 " %" PRIu64 " %c", x->producer_id, x->epoch, x->timeout_ms,
			   x->number, x->phase == PHASE_APPLYING ? PHASE_COMMITTED : x->phase);

	return offsets_send(g, (struct text){x->name, x->name_len}, (struct text){value, (uint32_t)len}, NULL);
}

/* @call: NULL: nobody waits for it. Return: an error of the library */
int transaction_save(struct transaction *x, struct settled_call *call)
{
	struct partition *p;
	struct sending *g;
	int rc = offsets_partition(x->server, &p) ? -EIO : sending_begin(p, NULL, &g);

	if (rc)
		return rc;
	x->used_ns = transaction_now_ns();
	save(x, g);
	sending_end(g, call);
	return 0;
}

static void drop(struct transaction **at)
{
	struct transaction *x = *at;

	*at = x->next;
	transaction_forget(x);
	free(x);
}

static bool is_idle(const struct transaction *x)
{
	return !x->request && (x->phase == PHASE_NONE || x->phase == PHASE_COMMITTED || x->phase == PHASE_ABORTED || x->phase == PHASE_LOST);
}

void transaction_expire(struct transaction **at, int64_t now_ns)
{
	struct server *s = (*at)->server;
	struct partition *p;
	struct sending *g;

	if (!is_idle(*at) || (now_ns - (*at)->used_ns) / SECOND < s->o.name_expires_s)
		return;
	if (offsets_partition(s, &p) || sending_begin(p, NULL, &g))
		return; /* another time */
	offsets_send(g, (struct text){(*at)->name, (*at)->name_len}, text_of(""), NULL);
	sending_end(g, NULL);
	drop(at);
}

void transactions_loaded(struct server *s, const struct thmq_message *m)
{
	struct transaction *x;
	int64_t producer_id;
	uint64_t number;
	int32_t timeout_ms;
	char text[128], phase;
	int epoch;

	if (!m->len) {
		struct transaction **at = transaction_place(s, (struct text){m->key, m->key_len - 1});

		if (*at)
			drop(at);
	}
	if (!m->len || m->len >= sizeof(text))
		return;
	memcpy(text, m->data, m->len);
	text[m->len] = '\0';
	if (sscanf(text, "transaction %" SCNd64 " %d %" SCNd32 " %" SCNu64 " %c", &producer_id, &epoch, &timeout_ms, &number, &phase) != 5)
		return;
	x = transaction_make(s, (struct text){m->key, m->key_len - 1});
	if (!x)
		return;
	x->producer_id = producer_id;
	x->epoch = (int16_t)epoch;
	x->timeout_ms = timeout_ms;
	x->number = number;
	x->used_ns = m->time_ns;
	x->phase = phase == PHASE_OPEN || phase == PHASE_COMMITTED || phase == PHASE_ABORTED ? (enum phase)phase : PHASE_NONE;
	if (producer_id > s->last_producer_id)
		s->last_producer_id = producer_id;
}

static int log_partition(struct server *s, struct partition **ret)
{
	int error = store_partition(s, text_of(TRANSACTIONS_TOPIC), 0, ret);

	if (error == K_UNKNOWN_TOPIC_OR_PARTITION &&
	    !thmq_topic_create(s->control, TRANSACTIONS_TOPIC, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .retention_bytes = LOG_BYTES)))
		error = store_partition(s, text_of(TRANSACTIONS_TOPIC), 0, ret);
	return error;
}

struct load {
	struct transaction **open; /* by their numbers */
	uint32_t count;
};

static int by_number(const void *a, const void *b)
{
	const struct transaction *const *x = a, *const *y = b;

	return (*x)->number < (*y)->number ? -1 : (*x)->number > (*y)->number;
}

static void load_one(void *ctx, const struct thmq_message *m)
{
	const struct load *l = ctx;
	uint32_t lo = 0, hi = l->count, at;
	char tag[24];
	uint64_t number;

	if (!m->tag_len || m->tag_len >= sizeof(tag) || !m->key_len)
		return;
	memcpy(tag, m->tag, m->tag_len);
	tag[m->tag_len] = '\0';
	number = strtoull(tag, NULL, 10);
	while (lo < hi) {
		at = (lo + hi) / 2;
		if (l->open[at]->number < number)
			lo = at + 1;
		else
			hi = at;
	}
	if (lo == l->count || l->open[lo]->number != number)
		return;
	l->open[lo]->redo = true;
	if (((const char *)m->key)[m->key_len - 1] != '/')
		keep_offset(l->open[lo], (struct text){m->key, m->key_len}, (struct text){m->data, m->len});
}

int transaction_apply(struct transaction *x, struct sending **ret)
{
	struct partition *p;
	struct pending *o;
	int rc = offsets_partition(x->server, &p) ? -EIO : sending_begin(p, NULL, ret);

	if (rc)
		return rc;
	for (o = x->offsets; o; o = o->next)
		offsets_send(*ret, o->key, o->value, NULL);
	save(x, *ret); /* behind them: it says that they are there */
	return 0;
}

void transaction_applied(struct transaction *x)
{
	struct pending *o;

	for (o = x->offsets; o; o = o->next)
		offsets_set(x->server, o->key, o->value);
	transaction_forget(x);
	x->phase = PHASE_COMMITTED;
}

static int redo(struct transaction *x)
{
	struct sending *g;
	int rc;

	x->phase = PHASE_APPLYING;
	rc = transaction_apply(x, &g);
	rc = rc ? rc : load_settle(g);
	if (!rc)
		transaction_applied(x);
	return rc;
}

/* Those that were open when the broker went were committed, or are lost. */
int transactions_load(struct server *s)
{
	struct load l = {.count = 0};
	struct transaction *x;
	struct partition *p;
	uint32_t b, i;
	int rc = 0;

	for (b = 0; b < BUCKETS; b++)
		for (x = s->transactions[b]; x; x = x->next)
			l.count += x->phase == PHASE_OPEN;
	if (!l.count)
		return 0;
	l.open = malloc(l.count * sizeof(struct transaction *));
	if (!l.open || log_partition(s, &p)) {
		free(l.open);
		return -EIO;
	}
	for (b = 0, i = 0; b < BUCKETS; b++)
		for (x = s->transactions[b]; x; x = x->next)
			if (x->phase == PHASE_OPEN)
				l.open[i++] = x;
	qsort(l.open, l.count, sizeof(l.open[0]), by_number);
	rc = load_all(p, load_one, &l);
	for (i = 0; i < l.count && !rc; i++) {
		l.open[i]->phase = PHASE_LOST;
		if (l.open[i]->redo)
			rc = redo(l.open[i]);
	}
	free(l.open);
	return rc;
}

/* ------------------------------------------------------------- while it is open */

int transaction_log_begin(struct transaction *x, struct sending **ret)
{
	struct partition *p;
	int error = log_partition(x->server, &p);

	return error ? error : store_error(sending_begin(p, &x->in, ret));
}

int transaction_log(struct transaction *x, struct sending *g, struct text key, struct text value)
{
	char tag[24];
	int rc;

	snprintf(tag, sizeof(tag), "%" PRIu64, x->number);
	rc = offsets_send(g, key, value, tag);
	if (rc)
		x->broken = true;
	return rc;
}

int transaction_offset(struct transaction *x, struct sending *g, struct text key, struct text value)
{
	int error = keep_offset(x, key, value);

	return error ? error : store_error(transaction_log(x, g, key, value));
}
