/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data_repair.c - a whole data directory repaired: meta first, since it tells which logs there must be; then shards that lie in
 * each other's place; then each shard by itself.
 */
#include <stdio.h>

#include "data.h"

#define MOVED ".moved" /* between two names */

struct data_repair {
	struct data d;
	const struct thmq_log_repair_opts *opts;
	bool write;
	int steps;
};

static int repair_log(struct data_repair *r, const char *name,
		      const struct thmqi_scan_opts *scan_opts)
{
	struct thmq_log_repair_opts o = *r->opts;
	char path[4400], aside[4400];
	int rc;

	thmqi_data_path(&r->d, name, path);
	if (o.quarantine_dir) {
		snprintf(aside, sizeof(aside), "%s/%s", o.quarantine_dir, name);
		o.quarantine_dir = aside;
	}
	rc = thmqi_log_repair(path, scan_opts, &o, &r->d.wrapped, &r->d);
	if (r->d.stop)
		return 0;
	if (rc > 0)
		r->steps += rc;
	if (rc < 0)
		thmqi_data_worse(&r->d, rc == -ENOENT ? -THMQ_ECORRUPT : rc);
	return THMQI_MIN(rc, 0);
}

static int on_meta_run(void *ctx, const struct thmq_log_run *run)
{
	thmqi_data_learn(ctx, run);
	return 0;
}

static void repair_meta(struct data_repair *r)
{
	const struct thmqi_scan_opts opts = {.keeps_begin = true, .segment_bytes_max = 16u << 20};
	const struct thmq_log_visitor learn = {.size = sizeof(learn), .run = on_meta_run};
	char path[4400];

	if (!r->d.has_meta || thmqi_data_log(&r->d, "meta"))
		return;
	repair_log(r, "meta", &opts);
	thmqi_data_path(&r->d, "meta", path);
	thmqi_log_scan(path, NULL, &learn, &r->d); /* what it says as far as it can be read */
}

/* ------------------------------------------------------------------- places */

static int place_step(struct data_repair *r, uint32_t from, uint32_t to)
{
	char text[96];
	const struct thmq_log_step st = {.kind = THMQ_STEP_PLACE, .text = text};

	snprintf(text, sizeof(text), "directory shard-%03u becomes shard-%03u, whose log is in it",
		 from, to);
	r->steps++;
	return r->d.visitor->step ? r->d.stop = r->d.visitor->step(r->d.ctx, &st) : 0;
}

static int rename_shards(struct data_repair *r, const uint32_t *place, uint32_t count)
{
	char from[24], to[24], between[40];
	uint32_t i;
	int rc = 0;

	for (i = 0; i < THMQ_SHARD_COUNT_MAX && !rc; i++) {
		if (place[i] == UINT32_MAX)
			continue;
		thmqi_data_shard_name(i, from);
		thmqi_data_shard_name(place[i], to);
		snprintf(between, sizeof(between), "%s" MOVED, to);
		rc = thmqi_disk_posix.rename(r->d.dir, from, between);
		r->d.shards[i] = 0;
	}
	for (i = 0; i < count && !rc; i++) {
		thmqi_data_shard_name(i, to);
		snprintf(between, sizeof(between), "%s" MOVED, to);
		rc = thmqi_disk_posix.rename(r->d.dir, between, to);
		if (rc == 0)
			r->d.shards[i] = 1;
		rc = rc == -ENOENT ? 0 : rc; /* that one was not moved */
	}
	return rc ? rc : thmqi_disk_posix.dir_sync(r->d.dir);
}

/* A shard's log in another's place goes home, if that is free, or becomes so. */
static int put_in_place(struct data_repair *r)
{
	struct data *d = &r->d;
	uint32_t *place = malloc(THMQ_SHARD_COUNT_MAX * sizeof(*place)), i, is;
	bool any = false, known, again = true;
	int rc = 0;

	if (!place)
		return -ENOMEM;
	for (i = 0; i < THMQ_SHARD_COUNT_MAX; i++) {
		place[i] = UINT32_MAX;
		is = d->shards[i] && d->cluster ? thmqi_data_shard_in(d, i, &known) : UINT32_MAX;
		if (is != UINT32_MAX && is != i)
			place[i] = is;
	}
	while (again) /* who would go where somebody stays cannot */
		for (i = 0, again = false; i < THMQ_SHARD_COUNT_MAX; i++)
			if (place[i] != UINT32_MAX && d->shards[place[i]] &&
			    place[place[i]] == UINT32_MAX) {
				place[i] = UINT32_MAX;
				again = true;
			}
	for (i = 0; i < THMQ_SHARD_COUNT_MAX && !d->stop; i++)
		if (place[i] != UINT32_MAX) {
			any = true;
			place_step(r, i, place[i]);
		}
	if (any && r->write && !d->stop)
		rc = rename_shards(r, place, thmqi_data_shard_count(d));
	free(place);
	return rc;
}

/* ------------------------------------------------------------------- shards */

static void repair_shard(struct data_repair *r, uint32_t shard)
{
	struct data *d = &r->d;
	const struct thmqi_scan_opts opts = {.is_live = d->cluster ? thmqi_data_is_live : NULL,
					     .ctx = d,
					     .segment_bytes_max =
						     d->cluster ? d->cluster->segment_bytes : 0};
	char name[24];
	bool known;

	thmqi_data_shard_name(shard, name);
	if (thmqi_data_log(d, name))
		return;
	if (!d->shards[shard]) {
		if (d->cluster && d->cluster->ready)
			thmqi_data_finding(d, THMQ_FINDING_MISSING,
					   "this shard is not there; put it back from a copy");
		return;
	}
	if (d->cluster && thmqi_data_shard_in(d, shard, &known) != shard && known && r->write)
		thmqi_data_finding(
			d, THMQ_FINDING_IDENTITY,
			"this is not the log that belongs here; put that back from a copy");
	if (!d->stop)
		repair_log(r, name, &opts);
}

static int repair_all(struct data_repair *r)
{
	struct data *d = &r->d;
	uint32_t i, count;
	int rc = thmqi_data_list(d);

	if (rc || d->stop)
		return rc;
	repair_meta(r);
	if (d->out_of_memory)
		return thmqi_fail(-ENOMEM, "repair %s: out of memory", d->path);
	if (!d->stop)
		rc = put_in_place(r);
	if (rc)
		return thmqi_fail(rc, "repair %s: %s", d->path, thmq_strerror(rc));
	count = thmqi_data_shard_count(d);
	for (i = 0; i < THMQ_SHARD_COUNT_MAX && !d->stop; i++)
		if (i < count || d->shards[i])
			repair_shard(r, i);
	return d->worst == -THMQ_ECORRUPT
		       ? thmqi_fail(d->worst,
				    "repair %s: something is left that only a copy can bring back",
				    d->path)
		       : d->worst;
}

int thmq_data_repair(const char *dir, const struct thmq_log_repair_opts *opts,
		     const struct thmq_log_visitor *visitor, void *ctx)
{
	struct thmq_log_repair_opts o = {0};
	struct thmq_log_visitor v = {0};
	struct data_repair r = {.opts = &o};
	int rc = opts ? thmqi_opts_copy(&o, sizeof(o), opts) : 0;

	rc = rc ? rc : visitor ? thmqi_opts_copy(&v, sizeof(v), visitor) : 0;
	if (!dir || !*dir || rc || (o.flags & ~(uint32_t)THMQ_REPAIR_WRITE) ||
	    (o.quarantine_dir && (!*o.quarantine_dir || strlen(o.quarantine_dir) > 3800)))
		return thmqi_fail(rc ? rc : -EINVAL,
				  "repair: name a directory, and options that this library knows");
	r.write = o.flags & THMQ_REPAIR_WRITE;
	rc = thmqi_data_begin(&r.d, dir, r.write, &v, ctx);
	rc = rc ? rc : repair_all(&r);
	rc = r.d.stop ? r.d.stop : rc ? rc : r.steps;
	thmqi_data_end(&r.d);
	return rc;
}
