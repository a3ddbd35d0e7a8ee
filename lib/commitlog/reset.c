/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reset.c - all that a copy has goes, and its log begins elsewhere: where another copy's does, which has dropped what this one lacks.
 * `vote` says first that this is under way, so that an open that finds it so goes on with it; term and vote stay.
 */
#include "internal.h"
#include "index/keys.h"
#include "survey.h"

/* ---------------------------------------------------------------- directory */

static int note_file(void *arg, const char *name)
{
	int rc = thmqi_listing_note(arg, name);

	return rc < 0 ? rc : 0;
}

/* Every segment with its index; `vote` stays. */
static int wipe(struct thmq_log *log)
{
	struct listing l = {0};
	char name[40];
	uint32_t i;
	int rc = log->disk->dir_list(log->dir, note_file, &l);

	for (i = 0; i < l.count && !rc; i++) {
		thmqi_seal_name(l.positions[i], name);
		rc = log->disk->unlink(log->dir, name);
		rc = rc == -ENOENT ? 0 : rc;
	}
	if (!rc) /* no index may outlive its segment */
		rc = log->disk->dir_sync(log->dir);
	for (i = 0; i < l.count && !rc; i++) {
		thmqi_segment_name(l.positions[i], name);
		rc = log->disk->unlink(log->dir, name);
	}
	free(l.positions);
	return rc ? rc : log->disk->dir_sync(log->dir);
}

/* log->begin is where it is to begin. */
static int begin_anew(struct thmq_log *log, struct segment **ret_segment)
{
	int rc = wipe(log);

	if (!rc)
		rc = thmqi_segment_create(log, log->begin.position, ret_segment);
	if (rc)
		return rc;
	log->copies.resetting = false;
	rc = thmqi_vote_write(log, log->begin.position, false);
	if (rc)
		thmqi_segment_free(log, *ret_segment);
	return rc;
}

int thmqi_log_reset_resume(struct thmq_log *log)
{
	struct segment *s;
	int rc = log->disk->file_open(log->dir, "vote", false, &log->vote_file);

	if (rc) {
		log->vote_file = NULL;
		return rc;
	}
	log->begin = (struct chain){.position = log->vote.begin_position,
				    .index = log->vote.begin_index,
				    .term = log->vote.begin_term,
				    .crc = log->vote.begin_crc};
	memcpy(log->begin.log_id, log->vote.log_id, sizeof(log->begin.log_id));
	log->term = log->vote.term;
	log->incarnation = log->vote.incarnation;
	log->copies.voted_for = log->vote.voted_for;
	log->copies.resetting = true;
	rc = begin_anew(log, &s);
	if (!rc)
		thmqi_segment_free(log, s);
	log->disk->file_close(log->vote_file);
	log->vote_file = NULL;
	return rc;
}

/* ------------------------------------------------------------------- memory */

static void forget_runs(struct thmq_log *log)
{
	struct run_index *x;
	uint32_t i = 0;

	while ((x = thmqi_map_next(&log->partitions, &i))) {
		thmqi_held_cut(x, 0);
		thmqi_moved_cut(x, 0);
		x->sealed_end = 0;
		x->held_bytes = 0;
		thmqi_index_cut(x, 0);
	}
	thmqi_states_fini(log);
	thmqi_readers_cut(log);
	log->tell_readers = true;
}

static void forget_segments(struct thmq_log *log)
{
	uint32_t i;

	if (log->drop.segment)
		thmqi_segment_free(log, log->drop.segment);
	memset(&log->drop, 0, sizeof(log->drop));
	if (log->spare.file)
		log->disk->file_close(log->spare.file);
	log->spare = (struct spare){0};
	if (log->next)
		thmqi_segment_free(log, log->next);
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
	for (i = 0; i < log->segment_count; i++)
		thmqi_segment_free(log, log->segments[i]);
	log->segment_base += log->segment_count;
	log->segment_count = 0;
	log->sealed_next = log->cold_next = log->segment_base;
	log->active = NULL;
}

static void take_begin(struct thmq_log *log)
{
	const struct chain *c = &log->begin;

	log->chain = *c;
	log->durable_index = log->written_index = c->index;
	log->durable_position = log->written_position = c->position;
	log->plain_index = log->flush_due = c->index;
	log->told_durable = log->told_written = c->index;
	thmqi_cache_drop_from(log, 0);
	log->cache_first = log->cache_end = c->index + 1;
	log->copies.term_count = 0;
}

int thmqi_log_reset(struct thmq_log *log, const struct thmqi_log_origin *origin)
{
	struct segment *s;
	int rc;

	if (log->failed)
		return -THMQ_EFAILED;
	if (!log->copies.on || log->copies.leads ||
	    !thmqi_segment_begins(&log->vote, origin->position) || !origin->index)
		return -THMQ_ECORRUPT;
	rc = thmqi_log_drain(log, UINT64_MAX);
	if (rc)
		return rc;
	thmqi_segment_prepare_stop(log);
	thmqi_seal_stop(log);
	thmqi_clean_stop(log);
	thmqi_snapshots_cut(log, 0);
	log->incarnation++;
	log->begin.position = origin->position;
	log->begin.index = origin->index;
	log->begin.term = origin->term;
	log->begin.crc = origin->crc;
	log->copies.resetting = true;
	rc = thmqi_vote_write(log, origin->position, false);
	if (!rc) {
		forget_runs(log);
		forget_segments(log);
		rc = begin_anew(log, &s);
	}
	if (!rc) {
		rc = thmqi_segment_add(log, s);
		if (rc)
			thmqi_segment_free(log, s);
	}
	if (rc) { /* the next open goes on with it */
		thmqi_log_fail(log, rc);
		return rc;
	}
	log->active = s;
	s->prev_crc = origin->crc;
	take_begin(log);
	log->carry_from = log->chain.index + 1;
	thmqi_seal_plan_part(log);
	thmqi_segment_prepare(log);
	log->file_bytes = thmqi_log_file_bytes(log);
	if (log->events.unappended)
		log->events.unappended(log->opts.ctx, 1);
	return 0;
}

/* -------------------------------------------------------------------- begin */

void thmqi_log_origin(const struct thmq_log *log, struct thmqi_log_origin *ret)
{
	*ret = (struct thmqi_log_origin){.position = log->begin.position,
					 .index = log->begin.index,
					 .term = log->begin.term,
					 .crc = log->begin.crc};
}

int thmqi_log_drop_before(struct thmq_log *log, uint64_t index)
{
	const struct segment *s = log->segment_count ? log->segments[0] : NULL;

	if (log->failed)
		return -THMQ_EFAILED;
	if (log->segment_count < 2 || log->drop.step || !s->batch_count ||
	    s->first_index + s->batch_count - 1 >= index)
		return log->drop.step ? -EAGAIN : -ENOENT;
	return thmqi_log_drop_oldest(log);
}
