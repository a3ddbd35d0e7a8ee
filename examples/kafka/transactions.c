/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transactions.c - transactions of Kafka's clients, each of which is one of the library's: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn,
 * EndTxn. Who has a name ("transactional id") has one transaction at a time; who asks for it anew fences the one before by a higher epoch.
 *
 * A transaction that was open when the broker went is lost, which its client is told: what it does next fails until it aborts or begins anew.
 */
#include <errno.h>
#include <time.h>

#include "transactions.h"

#define NAME_MAX_BYTES 1024u
#define TIMEOUT_MS_MAX (15 * 60 * 1000)
#define LATE_NS (30 * SECOND)     /* the library's own time-out is so much later than ours */

/* ------------------------------------------------------------------ whose it is */

static int find(struct server *s, struct text name, int64_t producer_id, int16_t epoch, struct transaction **ret)
{
	struct transaction *x = name.data ? *transaction_place(s, name) : NULL;

	if (!cluster_serves(s))
		return K_NOT_COORDINATOR;
	if (!x || x->producer_id != producer_id)
		return K_INVALID_PRODUCER_ID_MAPPING;
	if (epoch != x->epoch)
		return K_INVALID_PRODUCER_EPOCH;
	if (x->request)
		return K_CONCURRENT_TRANSACTIONS;
	*ret = x;
	return 0;
}

/* Who asks, with which every request about a transaction begins. */
struct who {
	struct text name;
	int64_t producer_id;
	int16_t epoch;
};

static struct who who_read(struct in *in)
{
	struct who w = {.name = in_text(in)};

	w.producer_id = in_i64(in);
	w.epoch = in_i16(in);
	return w;
}

/* From its second version on a request knows this error, which tells who was fenced from who is too late. */
static int fenced(const struct request *r, int error)
{
	return error == K_INVALID_PRODUCER_EPOCH && r->version >= 2 ? K_PRODUCER_FENCED : error;
}

/* All of @r was read. False: it made no sense, and is done. *ret_error: of the protocol, or 0 and *ret. */
static bool whose(struct request *r, const struct who *w, struct transaction **ret, int *ret_error)
{
	*ret = NULL;
	if (r->in.bad) {
		request_fail(r);
		request_done(r);
		return false;
	}
	*ret_error = fenced(r, find(r->server, w->name, w->producer_id, w->epoch, ret));
	return true;
}

int transaction_open(struct server *s, struct text id, int64_t producer_id, int16_t epoch, struct transaction **ret)
{
	int error = find(s, id, producer_id, epoch, ret);

	if (error)
		return error;
	return (*ret)->phase == PHASE_OPEN ? 0 : (*ret)->phase == PHASE_LOST ? K_UNKNOWN_PRODUCER_ID : K_INVALID_TXN_STATE;
}

const struct store_txn *transaction_in(const struct transaction *x)
{
	return &x->in;
}

void transaction_break(struct transaction *x)
{
	x->broken = true;
}

/* -------------------------------------------------------------- begin and abort */

static void stay(struct request *r)
{
	(void)r; /* what it has begun goes on */
}

/* @r waits until @x has settled what is sent now. */
static void wait_for(struct transaction *x, struct request *r, void (*answer)(struct request *r, struct transaction *x, int error),
		     void (*settled)(struct settled_call *call, int error, int64_t base_offset))
{
	x->request = r;
	x->answer = answer;
	x->call.settled = settled;
	r->drop = stay;
}

static void answer(struct transaction *x, int error)
{
	struct request *r = x->request;

	x->request = NULL;
	x->answer(r, x, error);
}

static void over(struct transaction *x, enum phase phase)
{
	x->in.txn = NULL;
	x->broken = false;
	x->phase = phase;
	if (phase != PHASE_APPLYING)
		transaction_forget(x);
}

/* What the library does not hear of it aborts by itself. */
static void abort_now(struct transaction *x)
{
	if (x->phase == PHASE_OPEN && cluster_serves(x->server)) /* else a change of leader has aborted it */
		thmq_txn_abort(x->in.txn, SECOND);
	over(x, PHASE_ABORTED);
}

static void begun(struct settled_call *call, int error, int64_t base_offset)
{
	struct transaction *x = (struct transaction *)call;

	(void)base_offset;
	if (error)
		abort_now(x);
	answer(x, error ? K_COORDINATOR_NOT_AVAILABLE : 0);
}

/* One is open, and that is kept, when the answer is made. */
static void begin(struct transaction *x, struct request *r, void (*done)(struct request *r, struct transaction *x, int error))
{
	struct sending *g;
	int rc;

	if (x->phase == PHASE_OPEN) {
		done(r, x, 0);
		return;
	}
	if (x->phase == PHASE_LOST || x->phase == PHASE_APPLYING || x->phase == PHASE_DOUBT) {
		done(r, x, x->phase == PHASE_LOST ? K_UNKNOWN_PRODUCER_ID : x->phase == PHASE_DOUBT ? K_COORDINATOR_NOT_AVAILABLE : K_CONCURRENT_TRANSACTIONS);
		return;
	}
	rc = store_txn_begin(x->server, x->timeout_ms * MILLISECOND + LATE_NS, &x->in);
	if (rc) {
		done(r, x, rc == -ENOTSUP ? K_TRANSACTIONAL_ID_REFUSED : K_COORDINATOR_NOT_AVAILABLE);
		return;
	}
	x->number = thmq_txn_id(x->in.txn);
	x->phase = PHASE_OPEN;
	x->deadline_ns = clock_ns() + x->timeout_ms * MILLISECOND;
	if (transaction_log_begin(x, &g)) {
		abort_now(x);
		done(r, x, K_COORDINATOR_NOT_AVAILABLE);
		return;
	}
	transaction_log(x, g, (struct text){x->name, x->name_len}, text_of(""));
	sending_end(g, NULL);
	wait_for(x, r, done, begun);
	if (transaction_save(x, &x->call))
		begun(&x->call, -EIO, -1);
}

void transactions_tick(struct server *s)
{
	const int64_t now_ns = clock_ns(), wall_ns = transaction_now_ns();
	struct transaction **at, *x;
	uint32_t b;

	for (b = 0; b < BUCKETS; b++)
		for (at = &s->transactions[b]; (x = *at);) {
			if (x->phase == PHASE_OPEN && !x->request && now_ns >= x->deadline_ns) {
				abort_now(x);
				x->epoch += x->epoch < INT16_MAX; /* whoever was so slow is not to go on */
				transaction_save(x, NULL);
			}
			transaction_expire(at, wall_ns);
			if (*at == x)
				at = &x->next;
		}
}

/* --------------------------------------------------------------- InitProducerId */

/* Microseconds since 1970: no other life of this broker gave the same. */
static int64_t new_producer_id(struct server *s)
{
	struct timespec now;
	int64_t id;

	clock_gettime(CLOCK_REALTIME, &now);
	id = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
	s->last_producer_id = id > s->last_producer_id ? id : s->last_producer_id + 1;
	return s->last_producer_id;
}

static void init_answer(struct request *r, int error, int64_t id, int16_t epoch)
{
	out_i32(&r->out, 0);
	out_i16(&r->out, (int16_t)error);
	out_i64(&r->out, error ? -1 : id);
	out_i16(&r->out, error ? -1 : epoch);
	out_tags(&r->out);
	request_done(r);
}

static void init_done(struct request *r, struct transaction *x, int error)
{
	init_answer(r, error, x->producer_id, x->epoch);
}

static void init_settled(struct settled_call *call, int error, int64_t base_offset)
{
	(void)base_offset;
	answer((struct transaction *)call, error ? K_COORDINATOR_NOT_AVAILABLE : 0);
}

static void apply(struct transaction *x, struct request *r, void (*done)(struct request *r, struct transaction *x, int error));

static void applied_before(struct request *r, struct transaction *x, int error)
{
	(void)x;
	init_answer(r, error ? error : K_CONCURRENT_TRANSACTIONS, -1, -1); /* it is asked again at once */
}

/* May who says that he had this id and epoch have the next one? *ret_again: he has it, and lost the answer. */
static int may_init(const struct request *r, const struct transaction *x, int64_t id, int16_t epoch, bool *ret_again)
{
	*ret_again = id >= 0 && id == x->producer_id && epoch >= 0 && x->asked_epoch == epoch && x->epoch == epoch + 1;
	if (id < 0 || x->producer_id < 0 || *ret_again || (id == x->producer_id && epoch == x->epoch))
		return 0;
	return r->version >= 4 ? K_PRODUCER_FENCED : K_INVALID_PRODUCER_EPOCH;
}

static void init_transaction(struct request *r, struct text name, int32_t timeout_ms, int64_t id, int16_t epoch)
{
	struct server *s = r->server;
	struct transaction *x;
	bool again;
	int error = !cluster_serves(s)                               ? K_NOT_COORDINATOR
		    : timeout_ms <= 0 || timeout_ms > TIMEOUT_MS_MAX ? K_INVALID_TRANSACTION_TIMEOUT
		    : !name.len || name.len > NAME_MAX_BYTES         ? K_INVALID_REQUEST
								     : 0;

	if (error) {
		init_answer(r, error, -1, -1);
		return;
	}
	x = transaction_make(s, name);
	error = !x ? K_COORDINATOR_NOT_AVAILABLE : x->request ? K_CONCURRENT_TRANSACTIONS : may_init(r, x, id, epoch, &again);
	if (!error && x->phase == PHASE_DOUBT)
		error = K_COORDINATOR_NOT_AVAILABLE;
	if (error || again) {
		init_answer(r, error, x ? x->producer_id : -1, x ? x->epoch : -1);
		return;
	}
	if (x->phase == PHASE_APPLYING) {
		apply(x, r, applied_before);
		return;
	}
	abort_now(x);
	if (x->producer_id < 0 || x->epoch >= INT16_MAX - 1) {
		x->producer_id = new_producer_id(s);
		x->epoch = 0;
	} else {
		x->epoch++;
	}
	x->asked_epoch = id >= 0 ? epoch : -1;
	x->timeout_ms = timeout_ms;
	x->phase = PHASE_NONE;
	wait_for(x, r, init_done, init_settled);
	if (transaction_save(x, &x->call))
		init_settled(&x->call, -EIO, -1);
}

void init_producer_id_run(struct request *r)
{
	struct text name = in_text(&r->in);
	int32_t timeout_ms = in_i32(&r->in);
	int64_t id = -1;
	int16_t epoch = -1;

	if (r->version >= 3) {
		id = in_i64(&r->in);
		epoch = in_i16(&r->in);
	}
	in_tags(&r->in);
	if (r->in.bad) {
		request_fail(r);
		request_done(r);
	} else if (name.data) {
		init_transaction(r, name, timeout_ms, id, epoch);
	} else if (id >= 0 && epoch >= 0 && epoch < INT16_MAX) {
		init_answer(r, 0, id, (int16_t)(epoch + 1));
	} else {
		init_answer(r, 0, new_producer_id(r->server), 0);
	}
}

/* --------------------------------------------- AddPartitionsToTxn, AddOffsetsToTxn */

static int partition_check(struct server *s, struct text topic, int32_t index)
{
	struct partition *p;
	int error = text_is(topic, OFFSETS_TOPIC) || text_is(topic, TRANSACTIONS_TOPIC) ? K_INVALID_TOPIC : store_partition(s, topic, index, &p);

	return error ? error : p->topic->compacted || p->topic->in_memory ? K_UNSUPPORTED_FOR_MESSAGE_FORMAT : 0;
}

/* The partitions of a request, where r->in stands: *ret_failed: some cannot be. @write: the answer, @error or that of each. */
static void partitions_walk(struct request *r, bool write, int error, bool *ret_failed)
{
	struct in in = r->in;
	struct out *out = &r->out;
	int32_t topics = in_array(&in, 6), parts, i, k;

	if (write)
		out_array(out, topics > 0 ? topics : 0);
	for (i = 0; i < topics && !in.bad; i++) {
		struct text topic = in_text(&in);

		parts = in_array(&in, 4);
		if (write) {
			out_text(out, topic);
			out_array(out, parts > 0 ? parts : 0);
		}
		for (k = 0; k < parts && !in.bad; k++) {
			int32_t index = in_i32(&in);
			int own = error || !*ret_failed || !write ? 0 : partition_check(r->server, topic, index);

			if (!write) {
				*ret_failed |= partition_check(r->server, topic, index) != 0;
				continue;
			}
			out_i32(out, index);
			out_i16(out, (int16_t)(error ? error : own ? own : *ret_failed ? K_OPERATION_NOT_ATTEMPTED : 0));
			out_tags(out);
		}
		in_tags(&in);
		if (write)
			out_tags(out);
	}
	in_tags(&in);
	r->in.bad |= in.bad;
}

static void add_answer(struct request *r, struct transaction *x, int error)
{
	bool failed = false;

	(void)x;
	out_i32(&r->out, 0);
	partitions_walk(r, true, error, &failed);
	out_tags(&r->out);
	request_done(r);
}

void add_partitions_to_txn_run(struct request *r)
{
	const struct who w = who_read(&r->in);
	struct transaction *x;
	bool failed = false;
	int error;

	partitions_walk(r, false, 0, &failed);
	if (!whose(r, &w, &x, &error))
		return;
	if (error) {
		add_answer(r, x, error);
	} else if (failed) {
		out_i32(&r->out, 0);
		partitions_walk(r, true, 0, &failed);
		out_tags(&r->out);
		request_done(r);
	} else {
		begin(x, r, add_answer);
	}
}

/* Of AddOffsetsToTxn, and EndTxn. */
static void short_answer(struct request *r, struct transaction *x, int error)
{
	(void)x;
	out_i32(&r->out, 0);
	out_i16(&r->out, (int16_t)error);
	out_tags(&r->out);
	request_done(r);
}

void add_offsets_to_txn_run(struct request *r)
{
	const struct who w = who_read(&r->in);
	struct transaction *x;
	int error;

	in_text(&r->in); /* the group: it is told again with its offsets */
	in_tags(&r->in);
	if (!whose(r, &w, &x, &error))
		return;
	if (error)
		short_answer(r, x, error);
	else
		begin(x, r, short_answer);
}

/* ----------------------------------------------------------------------- EndTxn */

static void applied(struct settled_call *call, int error, int64_t base_offset)
{
	struct transaction *x = (struct transaction *)call;

	(void)base_offset;
	if (!error)
		transaction_applied(x);
	answer(x, error ? K_COORDINATOR_NOT_AVAILABLE : 0); /* it is committed: who asks again will hear so */
}

/* What groups have committed in it becomes so. */
static void apply(struct transaction *x, struct request *r, void (*done)(struct request *r, struct transaction *x, int error))
{
	struct sending *g;

	wait_for(x, r, done, applied);
	if (transaction_apply(x, &g))
		applied(&x->call, -EIO, -1);
	else
		sending_end(g, &x->call);
}

static void committed(struct transaction *x, struct request *r)
{
	over(x, PHASE_APPLYING);
	if (x->offsets) {
		apply(x, r, short_answer);
		return;
	}
	x->phase = PHASE_COMMITTED;
	transaction_save(x, NULL); /* else the next start finds out */
	x->request = NULL;
	short_answer(r, x, 0);
}

/* Who does not lead any more closes his connections soon: the client asks who does, and that one knows. */
static bool is_elsewhere(int rc)
{
	return rc == -THMQ_ENOTLEADER || rc == -THMQ_ENOQUORUM || rc == -ESHUTDOWN;
}

/* A look at a commit that is under way. */
static bool commit_look(struct request *r)
{
	struct transaction *x = r->state;
	int rc;

	if (x->phase != PHASE_OPEN) /* its offsets are on their way */
		return false;
	rc = thmq_txn_commit(x->in.txn, 0); /* begins it, or asks how it is: others are served meanwhile, and share its writes */
	if (rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -EAGAIN || (x->server->o.cluster && is_elsewhere(rc))) {
		r->deadline_ns = clock_ns() + MILLISECOND;
		return false;
	}
	r->deadline_ns = INT64_MAX;
	if (!rc) {
		committed(x, r);
		return true;
	}
	x->request = NULL;
	if (rc == -THMQ_EFAILED || rc == -ESHUTDOWN) {
		over(x, PHASE_DOUBT);
		short_answer(r, x, K_COORDINATOR_NOT_AVAILABLE);
		return true;
	}
	over(x, PHASE_ABORTED);
	transaction_save(x, NULL);
	short_answer(r, x, K_UNKNOWN_PRODUCER_ID); /* clients abort then, and go on */
	return true;
}

static void end_open(struct request *r, struct transaction *x, bool commit)
{
	const bool refused = commit && x->broken;

	if (!commit || refused) {
		abort_now(x);
		transaction_save(x, NULL);
		short_answer(r, x, refused ? K_UNKNOWN_PRODUCER_ID : 0);
		return;
	}
	x->request = r;
	r->state = x;
	r->drop = stay;
	request_wait(r, commit_look, 0);
}

static void end(struct request *r, struct transaction *x, bool commit)
{
	switch (x->phase) {
	case PHASE_OPEN:
		end_open(r, x, commit);
		break;
	case PHASE_APPLYING:
		if (commit)
			apply(x, r, short_answer);
		else
			short_answer(r, x, K_INVALID_TXN_STATE);
		break;
	case PHASE_DOUBT:
		short_answer(r, x, K_COORDINATOR_NOT_AVAILABLE);
		break;
	case PHASE_LOST:
		if (!commit) {
			x->phase = PHASE_ABORTED;
			transaction_save(x, NULL);
		}
		short_answer(r, x, commit ? K_UNKNOWN_PRODUCER_ID : 0);
		break;
	case PHASE_COMMITTED:
		short_answer(r, x, commit ? 0 : K_INVALID_TXN_STATE);
		break;
	default:
		short_answer(r, x, commit ? K_INVALID_TXN_STATE : 0);
		break;
	}
}

void end_txn_run(struct request *r)
{
	const struct who w = who_read(&r->in);
	bool commit = in_bool(&r->in);
	struct transaction *x;
	int error;

	in_tags(&r->in);
	if (!whose(r, &w, &x, &error))
		return;
	if (error)
		short_answer(r, x, error);
	else
		end(r, x, commit);
}
