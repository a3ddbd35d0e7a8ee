/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - a data directory copied, open or closed. Where each log is taken: first all shards, then meta. A topic or group is
 * durable in meta before a shard hears of it, so that whatever a shard's copy speaks of, meta's copy knows; the other way
 * round a message could be of a topic that is not known. Written in this order, too: without `vote` a log does not open, and
 * without meta a directory does not, so that a copy that was cut short is never taken for one.
 */
#include <stdio.h>

#include "data.h"

static void path_in(const char *dir, uint32_t shard, char path[4400])
{
	if (shard == THMQI_SHARD_META)
		snprintf(path, 4400, "%s/meta", dir);
	else
		snprintf(path, 4400, "%s/shard-%03u", dir, shard - 1);
}

/* One for each log, and a place for each: an open log may keep its own. */
static struct thmqi_log_snapshot **snaps_new(uint32_t count)
{
	struct thmqi_log_snapshot **snaps = calloc(count, sizeof(*snaps));
	uint32_t i;

	for (i = 0; snaps && i < count; i++) {
		snaps[i] = calloc(1, sizeof(**snaps));
		if (snaps[i])
			continue;
		while (i--)
			free(snaps[i]);
		free(snaps);
		return NULL;
	}
	return snaps;
}

static void snaps_free(struct thmqi_log_snapshot **snaps, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++)
		free(snaps[i]);
	free(snaps);
}

/* From data to votes, meta last each time. */
static int copy_logs(struct thmqi_log_snapshot *const *snaps, uint32_t count, const char *dest)
{
	char path[4400];
	uint32_t i;
	int rc = 0;

	for (i = 1; i <= count && !rc; i++) {
		path_in(dest, i % count, path);
		rc = thmqi_log_copy_data(snaps[i % count], path);
	}
	return rc;
}

static int copy_votes(struct thmqi_log_snapshot *const *snaps, uint32_t count, const char *dest)
{
	char path[4400];
	uint32_t i;
	int rc = 0;

	for (i = 1; i <= count && !rc; i++) {
		path_in(dest, i % count, path);
		rc = thmqi_log_copy_vote(snaps[i % count], path);
	}
	return rc;
}

/* -------------------------------------------------------------- an open one */

struct copying {
	struct thmq_broker *broker;
	struct thmqi_log_snapshot **snaps; /* [0] is meta's */
	uint32_t taken;                   /* shards in the order 1 … 0 */
	uint64_t deadline;
	char text[512]; /* of an error on a core */
};

struct copy_call {
	struct shard *shard;
	struct thmqi_log_snapshot *snap;
	bool ran;
};

static int on_take(struct thmq_core *core, void *arg)
{
	struct copy_call *call = arg;

	(void)core;
	return call->shard->log ? thmqi_log_snapshot_take(call->shard->log, call->snap)
				: -ESHUTDOWN;
}

static int on_let_go(struct thmq_core *core, void *arg)
{
	struct copy_call *call = arg;

	(void)core;
	call->ran = true;
	return call->shard->log ? thmqi_log_snapshot_let_go(call->shard->log, call->snap)
				: -ESHUTDOWN;
}

/* Between pieces. A thread that drives a core goes on doing so: its broker serves meanwhile. */
static int on_pause(void *ctx)
{
	const struct copying *c = ctx;
	struct thmq_core *mine = thmqi_core_mine(c->broker->env), *any = c->broker->shards[0].core;

	if (atomic_load_explicit(&c->broker->closing, memory_order_relaxed))
		return -ESHUTDOWN;
	if (mine)
		thmqi_core_poll(mine, 0);
	return any->clock->now_ns(any->clock->ctx) >= c->deadline ? -ETIMEDOUT : 0;
}

static int take_all(struct copying *c)
{
	uint32_t count = c->broker->shard_count, at;
	int rc = 0;

	for (; c->taken < count; c->taken++) {
		at = (c->taken + 1) % count;
		struct copy_call call = {.shard = &c->broker->shards[at], .snap = c->snaps[at]};

		rc = thmqi_core_call(call.shard->core, on_take, &call, UINT64_MAX);
		if (rc)
			return thmqi_fail(rc, "copy %s: %s", c->broker->data_dir,
					  thmq_strerror(rc));
		c->snaps[at]->pause = on_pause;
		c->snaps[at]->ctx = c;
	}
	return 0;
}

static int let_go_all(struct copying *c)
{
	uint32_t count = c->broker->shard_count, i, at;
	int rc = 0, one;

	for (i = 0; i < c->taken; i++) {
		at = (i + 1) % count;
		struct copy_call call = {.shard = &c->broker->shards[at], .snap = c->snaps[at]};

		one = thmqi_core_call(call.shard->core, on_let_go, &call, UINT64_MAX);
		if (!call.ran) { /* nobody drives its core */
			thmqi_log_snapshot_abandon(c->snaps[at]);
			c->snaps[at] = NULL;
		}
		rc = rc ? rc : one;
	}
	return rc ? thmqi_fail(rc, "copy %s: %s", c->broker->data_dir, thmq_strerror(rc)) : 0;
}

int thmqi_broker_copy(struct thmq_broker *b, const char *dest, uint64_t timeout_ns)
{
	const struct thmqi_clock *clock = b->shards[0].core->clock;
	uint64_t now = clock->now_ns(clock->ctx);
	struct copying c = {.broker = b,
			    .deadline =
				    timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns};
	int rc, end;

	if (!b->data_dir)
		return thmqi_fail(-EOPNOTSUPP, "copy: this broker has no directory");
	rc = thmqi_copy_dest(b->disk_ctx ? b->disk : &thmqi_disk_posix, b->disk_ctx, b->data_dir, dest);
	if (rc)
		return rc;
	c.snaps = snaps_new(b->shard_count);
	if (!c.snaps)
		return thmqi_fail(-ENOMEM, "copy %s: out of memory", b->data_dir);
	rc = take_all(&c);
	rc = rc ? rc : copy_logs(c.snaps, b->shard_count, dest);
	end = rc ? 0 : let_go_all(&c);
	if (rc) { /* the first text is the one that counts */
		snprintf(c.text, sizeof(c.text), "%s", thmq_errmsg());
		if (let_go_all(&c) == -ECANCELED)
			rc = -ECANCELED; /* which is why */
		else
			thmqi_fail(rc, "%s", c.text);
	}
	rc = rc ? rc : end;
	rc = rc ? rc : copy_votes(c.snaps, b->shard_count, dest);
	snaps_free(c.snaps, b->shard_count);
	return rc;
}

/* ------------------------------------------------------------- a closed one */

static int on_meta_run(void *ctx, const struct thmq_log_run *run)
{
	thmqi_data_learn(ctx, run);
	return 0;
}

static int learn(struct data *d)
{
	const struct thmq_log_visitor v = {.size = sizeof(v), .run = on_meta_run};
	char path[4400];
	int rc = thmqi_data_list(d);

	if (rc)
		return rc;
	thmqi_data_path(d, "meta", path);
	rc = d->has_meta ? thmqi_log_scan(path, NULL, &v, d) : -THMQ_ECORRUPT;
	if (!rc && !d->cluster)
		rc = -THMQ_ECORRUPT;
	if (d->out_of_memory)
		rc = -ENOMEM;
	return rc ? thmqi_fail(rc, "copy %s: meta: %s", d->path,
			       rc == -THMQ_ECORRUPT ? "it is damaged or missing; see verify"
						    : thmq_strerror(rc))
		  : 0;
}

static int snapshot(struct data *d, uint32_t shard, struct thmqi_log_snapshot *ret)
{
	const struct thmqi_scan_opts opts = {.log_id = shard ? thmqi_data_log_id(d, shard - 1)
							     : NULL};
	char path[4400];

	path_in(d->path, shard, path);
	return thmqi_log_snapshot_closed(path, &opts, ret);
}

static int copy_closed(struct data *d, const char *dest)
{
	struct thmqi_log_snapshot **snaps;
	uint32_t i, count;
	int rc = learn(d);

	if (rc)
		return rc;
	count = d->cluster->shard_count + 1;
	snaps = snaps_new(count);
	if (!snaps)
		return thmqi_fail(-ENOMEM, "copy %s: out of memory", d->path);
	for (i = 0; i < count && !rc; i++)
		rc = snapshot(d, i, snaps[i]);
	rc = rc ? rc : thmqi_copy_dest(&thmqi_disk_posix, NULL, d->path, dest);
	rc = rc ? rc : copy_logs(snaps, count, dest);
	rc = rc ? rc : copy_votes(snaps, count, dest);
	snaps_free(snaps, count);
	return rc;
}

int thmq_data_copy(const char *dir, const char *dest)
{
	const struct thmq_log_visitor none = {.size = sizeof(none)};
	struct data d;
	int rc;

	if (!dir || !*dir || !dest || !*dest)
		return thmqi_fail(-EINVAL, "copy: name a directory, and one for the copy");
	rc = thmqi_data_begin(&d, dir, false, &none, NULL);
	rc = rc ? rc : copy_closed(&d, dest);
	thmqi_data_end(&d);
	return rc;
}
