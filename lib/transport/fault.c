/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - an interceptor that makes faults by chance: resets, losses, turned bits, delays, stalls, pieces. For tests, the
 * library's and its users'. From a seed: the n-th connection has the same chances each time.
 */
#include "guard.h"
#include "internal.h"

struct thmq_fault {
	struct thmq_fault *next; /* of the environment */
	pthread_mutex_t lock;    /* of all below: this is no message path but that of a test */
	struct thmq_fault_opts opts;
	struct thmq_fault_stats stats;
};

struct victim {
	struct thmq_fault *fault;
	struct thmqi_prng prng;
	uint64_t left; /* bytes until it is reset */
	uint64_t stalled_until_ns;
	bool of_broker;
	bool losing; /* what is received now */
};

static bool chance(struct victim *v, uint32_t ppm)
{
	return ppm && thmqi_prng_below(&v->prng, 1000000) < ppm;
}

static int fault_open(void *ctx, const struct thmq_connection *connection, void **ret_state)
{
	struct thmq_fault *f = ctx;
	struct victim *v = calloc(1, sizeof(*v));
	uint64_t min, max;

	if (!v)
		return -ENOMEM;
	v->fault = f;
	v->of_broker = connection->of_broker;
	pthread_mutex_lock(&f->lock);
	f->stats.connections++;
	thmqi_prng_seed(&v->prng, f->opts.seed * 0x9e3779b97f4a7c15ull + connection->number);
	min = f->opts.reset_bytes_min;
	max = THMQI_MAX(f->opts.reset_bytes_max, min);
	v->left = max ? min + thmqi_prng_below(&v->prng, max - min + 1) : UINT64_MAX;
	pthread_mutex_unlock(&f->lock);
	*ret_state = v;
	return 0;
}

static void fault_close(void *state, int error)
{
	(void)error;
	free(state);
}

static bool is_meant(const struct victim *v)
{
	uint32_t sides = v->fault->opts.flags & (THMQ_FAULT_SESSION | THMQ_FAULT_BROKER);

	return !sides || (sides & (v->of_broker ? THMQ_FAULT_BROKER : THMQ_FAULT_SESSION));
}

/* Under the lock. */
static void disturb(struct victim *v, struct thmq_intercept *what)
{
	struct thmq_fault *f = v->fault;
	const struct thmq_fault_opts *o = &f->opts;

	if (v->stalled_until_ns > what->now_ns) {
		what->wait_ns = v->stalled_until_ns - what->now_ns;
		return;
	}
	if (!v->left && (o->reset_bytes_min || o->reset_bytes_max)) {
		f->stats.resets++;
		what->error = -ECONNRESET;
	} else if (o->stall_ns && chance(v, o->stall_ppm)) {
		f->stats.stalls++;
		v->stalled_until_ns = what->now_ns + o->stall_ns;
		what->wait_ns = o->stall_ns;
	} else if (o->delay_ns && chance(v, o->delay_ppm)) {
		f->stats.delays++;
		what->wait_ns = 1 + thmqi_prng_below(&v->prng, o->delay_ns);
	} else {
		if (v->left) /* to the very byte */
			what->bytes = THMQI_MIN(what->bytes, v->left);
		if (what->bytes > 1 && chance(v, o->short_ppm)) {
			f->stats.shortened++;
			what->bytes = 1 + thmqi_prng_below(&v->prng, what->bytes);
		}
		if (chance(v, o->lose_ppm)) {
			f->stats.losses++;
			what->flags |= THMQ_INTERCEPT_LOSE;
		}
	}
}

static void fault_before(void *state, struct thmq_intercept *what)
{
	struct victim *v = state;

	pthread_mutex_lock(&v->fault->lock);
	if (is_meant(v))
		disturb(v, what);
	pthread_mutex_unlock(&v->fault->lock);
}

static void count(struct victim *v, uint64_t bytes)
{
	v->fault->stats.bytes += bytes;
	if (v->left != UINT64_MAX)
		v->left -= THMQI_MIN(v->left, bytes);
}

static void fault_sent(void *state, const struct iovec *iov, uint32_t iov_count, uint64_t bytes)
{
	struct victim *v = state;

	(void)iov;
	(void)iov_count;
	pthread_mutex_lock(&v->fault->lock);
	count(v, bytes);
	pthread_mutex_unlock(&v->fault->lock);
}

static void turn_bit(struct victim *v, const struct iovec *iov, uint64_t bytes)
{
	uint64_t at = thmqi_prng_below(&v->prng, bytes);

	while (at >= iov->iov_len)
		at -= iov++->iov_len;
	((uint8_t *)iov->iov_base)[at] ^= (uint8_t)(1u << thmqi_prng_below(&v->prng, 8));
}

static void fault_received(void *state, const struct iovec *iov, uint32_t iov_count, uint64_t bytes)
{
	struct victim *v = state;

	(void)iov_count;
	pthread_mutex_lock(&v->fault->lock);
	count(v, bytes);
	if (bytes && is_meant(v) && chance(v, v->fault->opts.corrupt_ppm)) {
		v->fault->stats.corruptions++;
		turn_bit(v, iov, bytes);
	}
	pthread_mutex_unlock(&v->fault->lock);
}

int thmqi_fault_open(struct thmqi_transport *t, const struct thmq_fault_opts *opts,
		     struct thmq_fault **ret_fault)
{
	struct thmq_fault *f = calloc(1, sizeof(*f));
	const struct thmq_interceptor ops = {.size = sizeof(ops),
					     .ctx = f,
					     .open = fault_open,
					     .close = fault_close,
					     .before_send = fault_before,
					     .sent = fault_sent,
					     .before_receive = fault_before,
					     .received = fault_received};
	int rc;

	if (!f)
		return -ENOMEM;
	f->opts = *opts;
	f->stats.size = sizeof(f->stats);
	pthread_mutex_init(&f->lock, NULL);
	rc = thmqi_transport_intercept(t, &ops);
	if (rc) {
		pthread_mutex_destroy(&f->lock);
		free(f);
		return rc;
	}
	pthread_mutex_lock(&t->lock);
	f->next = t->faults;
	t->faults = f;
	pthread_mutex_unlock(&t->lock);
	*ret_fault = f;
	return 0;
}

void thmqi_fault_set(struct thmq_fault *f, const struct thmq_fault_opts *opts)
{
	pthread_mutex_lock(&f->lock);
	f->opts = *opts;
	pthread_mutex_unlock(&f->lock);
}

void thmqi_fault_stats(struct thmq_fault *f, struct thmq_fault_stats *ret)
{
	pthread_mutex_lock(&f->lock);
	*ret = f->stats;
	pthread_mutex_unlock(&f->lock);
}

void thmqi_fault_close_all(struct thmqi_transport *t)
{
	struct thmq_fault *f;

	while ((f = t->faults)) {
		t->faults = f->next;
		pthread_mutex_destroy(&f->lock);
		free(f);
	}
}
