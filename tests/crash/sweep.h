/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep.h - one run of the workload is cut at each of its operations: the disk is copied there as a power cut would leave it,
 * in many ways, and the copy is opened and held against the model. Then each operation is struck by each fault, with the
 * life it lies in run again from a copy of the disk at its begin, and cut at some places behind the fault.
 */
#ifndef CRASH_SWEEP_H
#define CRASH_SWEEP_H

#include <malloc.h>

#include "sweep_model.h"

#define LIVES 8u      /* of a seed, unless fewer are asked for */
#define OPS_MAX 1024u /* of a life that faults are tried on */
#define SEGMENT (1u << 20)
#define STALL_NS 5000000
#define FILES_MAX 64u

struct fault_kind {
	const char *name;
	uint8_t effect;
	int32_t error;
	bool lying;
	bool reads, writes, others; /* what it can strike */
};

static const struct fault_kind fault_kinds[] = {
	{"EIO", THMQI_DISK_SIM_ERROR, -EIO, false, true, true, true},
	{"ENOSPC", THMQI_DISK_SIM_ERROR, -ENOSPC, false, false, true, true},
	{"short", THMQI_DISK_SIM_SHORT, 0, false, true, true, false},
	{"lost", THMQI_DISK_SIM_LOST, 0, true, false, true, false},
	{"misdirected", THMQI_DISK_SIM_MISDIRECT, 0, true, true, true, false},
	{"corrupt", THMQI_DISK_SIM_CORRUPT, 0, true, true, true, false},
	{"stalled", THMQI_DISK_SIM_STALL, 0, false, false, true, true},
};

struct op_note {
	uint8_t opcode;
	bool aux; /* of a file that is an aid or not in use yet: no damage of it may be noticed */
	bool erase; /* of what is truncated: where the disk says so and does not, what was removed comes back */
};

struct sweep {
	uint64_t seed;
	uint32_t life, defects;
	bool loud, full;
	bool trace;                       /* of each operation, to stderr */
	uint64_t limit;                   /* of cuts; 0: none */
	uint32_t lives;                   /* 0: LIVES */
	uint32_t disk_flags;              /* of the simulated disk, besides its own */
	bool no_faults, no_rot;           /* left out */
	uint8_t only_effect;              /* of faults; 0: all */
	struct world *base, *run, *check; /* uncut run; with a fault; what a cut left */
	struct world *main;               /* base or run */
	struct thmqi_disk_sim *snap;      /* the disk at the life's begin */
	struct model *snap_model;
	uint64_t known; /* where the log may not end before, at the life's begin */
	uint8_t *piece; /* SEGMENT bytes */
	/* where it is */
	uint32_t op, changes; /* of the life, all; those behind the fault */
	uint32_t cut_of_life;
	const struct fault_kind *fault;
	uint32_t fault_op;
	struct op_note ops[OPS_MAX];
	/* what broke */
	bool failed;
	char text[400];
	/* totals */
	uint64_t cuts, rotten, faults, told, opened_lying, nested, resumed, sealed;
};

/* ------------------------------------------------------------- the disk's files */

struct files {
	uint32_t count;
	char names[FILES_MAX][40];
};

static inline int files_add(void *arg, const char *name)
{
	struct files *f = arg;

	if (f->count < FILES_MAX)
		snprintf(f->names[f->count++], sizeof(f->names[0]), "%s", name);
	return 0;
}

static inline bool has_suffix(const char *name, const char *suffix)
{
	size_t len = strlen(name);

	return len > strlen(suffix) && strcmp(name + len - strlen(suffix), suffix) == 0;
}

static inline void files_list(struct rig *r, struct files *f)
{
	struct thmqi_disk_dir *dir;

	f->count = 0;
	if (thmqi_disk_sim.dir_open(r->sim, RIG_DIR, false, &dir) != 0)
		return;
	thmqi_disk_sim.dir_list(dir, files_add, f);
	thmqi_disk_sim.dir_close(dir);
}

/* Return: bytes that are in s->piece; 0 the file is not there. */
static inline uint32_t file_load(struct sweep *s, struct rig *r, const char *name)
{
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;
	int64_t n = 0;

	if (thmqi_disk_sim.dir_open(r->sim, RIG_DIR, false, &dir) != 0)
		return 0;
	if (thmqi_disk_sim.file_open(dir, name, false, &file) == 0) {
		n = thmqi_disk_sim.file_read(file, s->piece, SEGMENT, 0);
		thmqi_disk_sim.file_close(file);
	}
	thmqi_disk_sim.dir_close(dir);
	return n > 0 ? (uint32_t)n : 0;
}

/* ---------------------------------------------- doc/format.md, read once more */

static inline uint64_t get64(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return v;
}

static inline uint32_t get32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, 4);
	return v;
}

#define MAGIC_BATCH 0x31424854u
#define MAGIC_VOTE 0x31564854u

static inline const uint8_t *newest_vote(const uint8_t *blocks)
{
	const uint8_t *best = NULL;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		const uint8_t *v = blocks + i * 4096;

		if (get32(v) == MAGIC_VOTE && get32(v + 124) == thmqi_crc32c(0, v, 124) &&
		    (!best || get64(v + 8) > get64(best + 8)))
			best = v;
	}
	return best;
}

/* Where a log may not end before: the chapter "Where a log ends", without the cases in which it may say less. */
static inline uint64_t known_durable(struct sweep *s, struct rig *r)
{
	uint8_t vote[128];
	const uint8_t *v, *h;
	struct files files;
	uint64_t known, position, at;
	uint32_t i, n;

	memset(s->piece, 0, 8192);
	file_load(s, r, "vote");
	v = newest_vote(s->piece);
	if (!v)
		return 0;
	memcpy(vote, v, sizeof(vote));
	known = get64(vote + 72);
	if (get32(vote + 108)) /* clean */
		return known;
	files_list(r, &files);
	for (i = 0; i < files.count; i++) {
		if (!has_suffix(files.names[i], ".log"))
			continue;
		position = strtoull(files.names[i], NULL, 10);
		if (position + SEGMENT <= known)
			continue;
		n = file_load(s, r, files.names[i]);
		for (at = 0; at + 4096 <= n; at += 4096) {
			h = s->piece + at;
			if (get32(h) == MAGIC_BATCH && get64(h + 16) == position + at &&
			    get32(h + 92) == thmqi_crc32c(0, h, 92) &&
			    memcmp(h + 40, vote + 16, 16) == 0 &&
			    get32(h + 124) == thmqi_crc32c(0, h + 96, 28) &&
			    get64(h + 96) >= get64(vote + 64))
				known = THMQI_MAX(known, get64(h + 104));
		}
	}
	return known;
}

/* A bit of something that means something is flipped at rest. Return: true if the log may have to say so. */
static inline bool rot(struct sweep *s, struct world *c)
{
	struct files files;
	const char *name;
	uint32_t n, tries, at;

	files_list(&c->r, &files);
	for (tries = 0; tries < 8 && files.count; tries++) {
		name = files.names[below(c, files.count)];
		n = file_load(s, &c->r, name);
		if (strcmp(name, "vote") == 0 && n == 8192 && below(c, 2) == 0)
			return thmqi_disk_sim_damage(c->r.sim, RIG_DIR, name, below(c, 2) * 4096,
						     128) == 0;
		if (has_suffix(name, ".idx") && n) {
			thmqi_disk_sim_damage(c->r.sim, RIG_DIR, name,
					      below(c, 2) ? 0 : n / 4096 / 2 * 4096,
					      below(c, 2) ? 300 : n - n / 4096 / 2 * 4096);
			return false;
		}
		if (!has_suffix(name, ".log") || !n)
			continue;
		for (at = (uint32_t)below(c, n / 4096) * 4096;
		     at && get32(s->piece + at) != MAGIC_BATCH; at -= 4096)
			;
		if (get32(s->piece + at) != MAGIC_BATCH)
			continue;
		if (below(c, 2))
			thmqi_disk_sim_damage(c->r.sim, RIG_DIR, name, at, 128);
		else
			thmqi_disk_sim_damage(c->r.sim, RIG_DIR, name, at + 128,
					      THMQI_MIN(get32(s->piece + at + 8), n - at) - 128);
		return true;
	}
	return false;
}

/* Up to the last batch that the index of a segment that was being filled has. 0: there is none, or it was hit. */
static inline uint64_t part_end(struct sweep *s, struct rig *r)
{
	uint32_t n = file_load(s, r, "open.idx"), count;
	const uint8_t *batches = s->piece + 96 + 5 * 32; /* that section, as the header has it */
	uint64_t position, at;

	if (n < 4096)
		return 0;
	position = get64(s->piece + 8);
	count = get32(batches + 4);
	at = get64(batches + 8);
	if (get32(s->piece + 4092) != thmqi_crc32c((uint32_t)(position / 4096), s->piece, 4092) || at > n ||
	    count > (n - at) / 4 || get32(batches + 24) != thmqi_crc32c(0, s->piece + at, count * 4ul))
		return 0;
	return position + (get32(s->piece + at + (count - 1) * 4) + 1) * 4096ull;
}

/* The end of each segment that has an index. */
static inline uint64_t indexed_end(struct sweep *s, struct rig *r)
{
	struct files files;
	uint64_t end = part_end(s, r);
	uint32_t i;

	files_list(r, &files);
	for (i = 0; i < files.count; i++)
		if (has_suffix(files.names[i], ".idx") && files.names[i][0] != 'o')
			end = THMQI_MAX(end, strtoull(files.names[i], NULL, 10) + SEGMENT);
	return end;
}

/* -------------------------------------------------------------------- a cut */

static const char *const opcode_names[] = {"read",   "write",  "flush",    "create", "allocate",
					   "rename", "unlink", "sync_dir", "close"};
static const char *const mode_names[] = {"seeded", "lose", "keep", "prefix", "any", "kill"};
static const char *const tear_names[] = {"", " head", " tail", " garble", " one"};

static inline void tell(struct sweep *s, const struct world *w,
			const struct thmqi_disk_sim_cut *cut, bool rotten)
{
	s->failed = true;
	snprintf(s->text, sizeof(s->text),
		 "seed %llu life %u op %u (%s)%s%s%s%u: cut %s%s%s%u%s after %llu cuts: %s (%s)",
		 (unsigned long long)s->seed, s->life, s->op,
		 s->op && s->op <= OPS_MAX ? opcode_names[s->ops[s->op - 1].opcode] : "",
		 s->fault ? ", " : "", s->fault ? s->fault->name : "", s->fault ? " at " : "",
		 s->fault_op, cut ? mode_names[cut->mode] : "none",
		 cut ? tear_names[cut->tear] : "", cut && cut->tear ? " " : " ",
		 cut ? cut->sector : 0, rotten ? ", a bit flipped" : "",
		 (unsigned long long)s->cuts, w->wrong, w->detail);
	if (s->loud)
		fprintf(stderr, "%s\n", s->text);
}

/* What was opened is left as if the machine went; its environment stays. */
static inline void check_crash(struct world *c, enum thmqi_disk_sim_crash_mode mode)
{
	thmqi_disk_sim_crash_as(c->r.sim, mode);
	thmq_log_close(c->r.log, 0);
	c->r.log = NULL;
	thmqi_disk_sim_restart(c->r.sim);
}

/* Cut again while it comes back. */
static inline bool check_nested(struct world *c)
{
	check_crash(c, THMQI_DISK_SIM_CRASH_LOSE);
	thmqi_disk_sim_cut_at(c->r.sim, 1 + below(c, 10), THMQI_DISK_SIM_CRASH_SEEDED);
	replay_begin(c);
	if (rig_open(&c->r) == 0)
		rig_poll(&c->r, 1 + (uint32_t)below(c, 10));
	check_crash(c, THMQI_DISK_SIM_CRASH_SEEDED);
	return reopen(c);
}

/* The log goes on, and what is appended now is not mixed with what was cut. */
static inline bool check_resumed(struct world *c)
{
	uint64_t index;
	uint32_t i;
	int rc;

	for (i = 0; i < 6; i++) {
		if (!append(c, below(c, 3) ? THMQ_DURABILITY_DURABLE : THMQ_DURABILITY_MEMORY))
			return false;
		rig_poll(&c->r, (uint32_t)below(c, 3));
	}
	rc = below(c, 2) ? thmq_log_flush(c->r.log, &index) : -1;
	/* what was durable at open is not told */
	rc = rc == 0 && rig_stats(&c->r).durable_index < index ? rig_await(&c->r, index) : 0;
	if (rc) {
		snprintf(c->detail, sizeof(c->detail), "%s: batch %llu is awaited, %llu is durable",
			 thmq_strerror(rc), (unsigned long long)index,
			 (unsigned long long)c->r.durable);
		return broke(c, "what was appended after a cut does not become durable");
	}
	note_durable(c);
	check_crash(c, THMQI_DISK_SIM_CRASH_SEEDED);
	return reopen(c) && read_all(c);
}

static inline bool check_further(struct sweep *s, struct world *c,
				 const struct thmqi_disk_sim_cut *cut)
{
	uint64_t what = below(c, 24);

	if (!s->fault && what < 2 && !read_all(c))
		return false;
	/* what was read may have been seen: it must not go with the next cut */
	if (cut->mode == THMQI_DISK_SIM_CRASH_KILL || what == 3 || what == 4) {
		check_crash(c, THMQI_DISK_SIM_CRASH_LOSE);
		if (!reopen(c))
			return false;
	}
	if (what == 5 || what == 6) {
		s->nested++;
		if (!check_nested(c))
			return false;
	}
	if (what == 7 && c->m.count < NOTES_MAX - 8) {
		s->resumed++;
		return check_resumed(c);
	}
	return true;
}

static inline bool check_image(struct sweep *s, struct world *c,
			       const struct thmqi_disk_sim_cut *cut)
{
	uint64_t known = c->lying ? known_durable(s, &c->r) : 0,
		 indexed = c->lying ? 0 : indexed_end(s, &c->r);
	int rc;

	replay_begin(c);
	rc = rig_open(&c->r);
	if (rc && c->lying && !c->wrong && (rc == -THMQ_ECORRUPT)) {
		s->told++;
		return true;
	}
	if (rc) {
		if (!c->wrong)
			snprintf(c->detail, sizeof(c->detail), "%s", thmq_errmsg());
		return broke(c, "it does not open");
	}
	s->sealed += c->partitions_sealed;
	if (!check_opened(c))
		return false;
	if (rig_stats(&c->r).end_position < known)
		return broke(c, "damage below what is known durable is cut silently");
	if (rig_stats(&c->r).end_position < indexed)
		return broke(c, "a segment has an index and is not whole");
	if (c->lying) {
		s->opened_lying++;
		return below(c, 2) ? true : read_all(c);
	}
	return check_further(s, c, cut);
}

static inline void check_cut(struct sweep *s, const struct thmqi_disk_sim_cut *cut, bool rotten)
{
	struct world *c = s->check;
	const struct world *w = s->main;
	uint64_t pattern = mixed(mixed(s->seed, s->life), mixed(s->op, s->cut_of_life++));
	uint64_t durable = w->m.cutting ? THMQI_MIN(w->r.durable, w->m.cutting - 1) : w->r.durable;

	if (s->failed || s->main->wrong)
		return;
	if (s->limit && s->cuts >= s->limit) {
		s->main->stop = true;
		return;
	}
	s->cuts++;
	s->rotten += rotten;
	thmqi_prng_seed(&c->p, pattern);
	c->wrong = NULL;
	c->detail[0] = 0;
	model_copy(&c->m, &w->m);
	c->m.durable = THMQI_MAX(c->m.durable, durable);
	c->lying = w->lying;
	if (thmqi_disk_sim_copy(c->r.sim, s->main->r.sim, pattern, cut) != 0)
		abort();
	if (rotten && rot(s, c))
		c->lying = true;
	if (!check_image(s, c, cut)) {
		tell(s, c, cut, rotten);
		s->main->stop = true;
	}
	if (c->r.log)
		check_crash(c, THMQI_DISK_SIM_CRASH_LOSE);
}

/* --------------------------------------------------------- at every operation */

/* The write in flight is torn at this sector, and at that. */
static inline void cut_torn(struct sweep *s)
{
	uint32_t sectors = thmqi_disk_sim_last_sectors(s->main->r.sim), i, k, count;
	struct thmqi_disk_sim_cut cut;

	if (!sectors)
		return;
	count = s->full ? THMQI_MIN(sectors, 40u) : 3;
	for (i = 0; i < count; i++) {
		struct thmqi_prng p;

		thmqi_prng_seed(&p, mixed(s->seed, s->op * 64ull + i) + s->life);
		k = s->full && i < 24
			    ? i
			    : (uint32_t)thmqi_prng_below(&p, thmqi_prng_below(&p, 2)
								     ? sectors
								     : THMQI_MIN(sectors, 9u));
		cut = (struct thmqi_disk_sim_cut){.mode = 1 + (uint32_t)thmqi_prng_below(&p, 4),
						  .tear = 1 + (uint32_t)thmqi_prng_below(&p, 4),
						  .sector = k};
		check_cut(s, &cut, false);
	}
}

static inline void cut_everyhow(struct sweep *s)
{
	static const uint32_t modes[] = {
		THMQI_DISK_SIM_CRASH_LOSE, THMQI_DISK_SIM_CRASH_KEEP,   THMQI_DISK_SIM_CRASH_ANY,
		THMQI_DISK_SIM_CRASH_KILL, THMQI_DISK_SIM_CRASH_PREFIX, THMQI_DISK_SIM_CRASH_ANY,
		THMQI_DISK_SIM_CRASH_ANY,  THMQI_DISK_SIM_CRASH_PREFIX, THMQI_DISK_SIM_CRASH_KILL};
	uint32_t i, count = s->full ? THMQI_ARRAY_COUNT(modes) : 4;
	struct thmqi_disk_sim_cut cut = {0};

	for (i = 0; i < count; i++) {
		cut.mode = modes[i];
		check_cut(s, &cut, false);
	}
	for (i = 0; i < (s->full ? 2u : 1u) && !s->no_rot; i++) {
		cut.mode = THMQI_DISK_SIM_CRASH_SEEDED;
		check_cut(s, &cut, true);
	}
	cut_torn(s);
}

static inline void on_step(void *ctx)
{
	struct sweep *s = ctx;
	const struct thmqi_disk_sim_cut cut = {.mode = THMQI_DISK_SIM_CRASH_SEEDED};

	if (!s->fault) {
		cut_everyhow(s);
		return;
	}
	if (s->op < s->fault_op)
		return;
	/* with it in flight, and once, three, seven … changes later */
	if ((s->changes & (s->changes + 1)) == 0)
		check_cut(s, &cut, false);
	if (s->changes++ == (s->full ? 31 : 7))
		s->main->stop = true;
}

/* An index, or a segment before its first batch: a file goes by the name that it was opened by. */
static inline bool is_aux(const char *name, const struct thmqi_disk_op *op)
{
	if (strcmp(name, "index.tmp") == 0 || has_suffix(name, ".idx"))
		return true;
	return strcmp(name, "next.tmp") == 0 && op->opcode == THMQI_DISK_WRITE &&
	       get32(op->data) == 0 && !(op->flags & THMQI_DISK_DSYNC);
}

static inline bool is_erase(const char *name, const struct thmqi_disk_op *op)
{
	return op->opcode == THMQI_DISK_WRITE && !is_aux(name, op) && get32(op->data) == 0;
}

/* What was done, for a person who looks for the reason. */
static inline void trace(const struct sweep *s, const char *name, const struct thmqi_disk_op *op)
{
	const uint8_t *data = op->data;
	bool batch = op->opcode == THMQI_DISK_WRITE && get32(data) == MAGIC_BATCH;
	bool vote = op->opcode == THMQI_DISK_WRITE && get32(data) == MAGIC_VOTE;

	fprintf(stderr, "%u.%u %s %s at %llu len %u%s", s->life, s->op + 1,
		opcode_names[op->opcode], name, (unsigned long long)op->offset, op->len,
		op->flags & THMQI_DISK_DSYNC ? " dsync" : "");
	if (batch)
		fprintf(stderr, ", batch %llu at %llu incarnation %llu durable %llu",
			(unsigned long long)get64(data + 24), (unsigned long long)get64(data + 16),
			(unsigned long long)get64(data + 96),
			(unsigned long long)get64(data + 104));
	if (vote)
		fprintf(stderr, ", vote %llu incarnation %llu mark %llu clean %u",
			(unsigned long long)get64(data + 8), (unsigned long long)get64(data + 64),
			(unsigned long long)get64(data + 72), get32(data + 108));
	fprintf(stderr, "; told %llu\n", (unsigned long long)s->main->r.durable);
}

static inline void on_op(void *ctx, const char *name, const struct thmqi_disk_op *op)
{
	struct sweep *s = ctx;

	if (op->opcode == THMQI_DISK_CLOSE)
		return;
	if (s->trace)
		trace(s, name, op);
	if (!s->fault && s->op < OPS_MAX)
		s->ops[s->op] = (struct op_note){
			.opcode = op->opcode, .aux = is_aux(name, op), .erase = is_erase(name, op)};
	s->op++;
}

/* -------------------------------------------------------------------- lives */

/* The log comes back in the life that is watched; a fault may have struck in it. Return: false it did not, or is wrong. */
static inline bool life_open(struct sweep *s, struct world *w)
{
	bool reads = w->lying && s->fault && s->ops[s->fault_op - 1].opcode == THMQI_DISK_READ;
	int rc;

	replay_begin(w);
	s->op = 0;
	thmqi_disk_sim_observe(w->r.sim, on_op, s);
	thmqi_disk_sim_watch(w->r.sim, on_step, s);
	rc = rig_open(&w->r);
	if (rc && s->fault && !w->wrong) {
		/* it says so, and has changed nothing that matters */
		if (reads)
			w->lying = false;
		return false;
	}
	if (rc) {
		snprintf(w->detail, sizeof(w->detail), "%s", thmq_errmsg());
		return broke(w, "it does not open");
	}
	if (!check_opened(w))
		return false;
	if (reads && rig_stats(&w->r).end_position < s->known)
		return broke(w, "damage below what is known durable is cut silently");
	if (!reads)
		return true;
	/* what was read wrong is the log now, if nobody could know; and what was cut for that may come back */
	if (w->seen == s->snap_model->count)
		w->lying = false;
	else
		model_copy(&w->m, s->snap_model);
	return !w->lying;
}

static inline void one_life(struct sweep *s, struct world *w, enum life_end end)
{
	const struct thmqi_disk_sim_cut now = {.mode = THMQI_DISK_SIM_CRASH_SEEDED},
					kill = {.mode = THMQI_DISK_SIM_CRASH_KILL};
	bool good;

	s->main = w;
	s->cut_of_life = 0;
	w->stop = false;
	w->wrong = NULL;
	w->detail[0] = 0;
	thmqi_prng_seed(&w->p, mixed(s->seed, s->life));
	good = life_open(s, w) && live(w);
	if (s->fault && !w->wrong) {
		thmqi_disk_sim_watch(w->r.sim, NULL, NULL);
		check_cut(s, &now, false);
		check_cut(s, &kill, false);
	}
	if (good && !s->fault && !s->failed)
		end_life(w, end);
	thmqi_disk_sim_watch(w->r.sim, NULL, NULL);
	thmqi_disk_sim_observe(w->r.sim, NULL, NULL);
	if (!s->fault && good && end == END_CLEAN && !w->wrong)
		check_cut(s, &now, false);
	if (w->r.env) /* else it was ended */
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_LOSE);
	if (w->wrong && !s->failed)
		tell(s, w, NULL, false);
}

static inline bool strikes(const struct fault_kind *k, uint8_t opcode)
{
	return opcode == THMQI_DISK_READ    ? k->reads
	       : opcode == THMQI_DISK_WRITE ? k->writes
					    : k->others;
}

/* The life again, with a fault at @op, from the same disk. */
static inline void faulty_life(struct sweep *s, uint32_t op, const struct fault_kind *k)
{
	struct world *w = s->run;
	const struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_SIM_ANY_OP,
					       .effect = k->effect,
					       .error = k->error,
					       .nth = op,
					       .arg = k->effect == THMQI_DISK_SIM_STALL ? STALL_NS
											: 0};

	s->fault = k;
	s->fault_op = op;
	s->changes = 0;
	s->faults++;
	model_copy(&w->m, s->snap_model);
	w->r.durable = 0;
	w->lying = k->lying && !s->ops[op - 1].aux;
	if (thmqi_disk_sim_copy(w->r.sim, s->snap, mixed(s->seed, s->life), NULL) != 0)
		abort();
	thmqi_disk_sim_fault_add(w->r.sim, &f);
	one_life(s, w, END_CUT);
	s->fault = NULL;
	s->fault_op = 0;
}

static inline void faulty_lives(struct sweep *s, uint32_t ops)
{
	uint32_t op, k;

	for (op = 1;
	     op <= THMQI_MIN(ops, OPS_MAX) && !s->failed && !(s->limit && s->cuts >= s->limit);
	     op++)
		for (k = 0; k < THMQI_ARRAY_COUNT(fault_kinds) && !s->failed; k++)
			if ((!s->only_effect || fault_kinds[k].effect == s->only_effect) &&
			    strikes(&fault_kinds[k], s->ops[op - 1].opcode) &&
			    !(fault_kinds[k].lying && s->ops[op - 1].erase))
				faulty_life(s, op, &fault_kinds[k]);
}

/*
 * The file that was prepared for the segment to come holds what a segment that was dropped has left: whole batches of
 * other positions, with the right checksums.
 */
static inline void recycle(struct sweep *s, struct world *w)
{
	struct files files;
	uint32_t i, n;
	int last = -1, first = -1;

	files_list(&w->r, &files);
	for (i = 0; i < files.count; i++) {
		if (!has_suffix(files.names[i], ".log"))
			continue;
		if (last < 0 || strcmp(files.names[i], files.names[last]) > 0)
			last = (int)i;
		if (first < 0 || strcmp(files.names[i], files.names[first]) < 0)
			first = (int)i;
	}
	if (first == last)
		return;
	n = file_load(s, &w->r, files.names[last]);
	for (i = 0; i < n; i += 4096)
		if (get32(s->piece + i) == MAGIC_BATCH &&
		    get64(s->piece + i + 16) >= strtoull(files.names[last], NULL, 10))
			return; /* it is in use */
	if (file_load(s, &w->r, files.names[first]) == SEGMENT)
		rig_put(&w->r, files.names[last], 0, s->piece, SEGMENT);
}

static inline void sweep_worlds(struct sweep *s, bool open)
{
	struct world **worlds[] = {&s->base, &s->run, &s->check};
	struct world *w;
	uint32_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(worlds); i++) {
		if (!open) {
			if (rig_close(&(*worlds[i])->r) < -900 && !s->failed) {
				broke(*worlds[i], "memory was not given back");
				tell(s, *worlds[i], NULL, false);
			}
			rig_fini(&(*worlds[i])->r);
			free(*worlds[i]);
			continue;
		}
		*worlds[i] = w = calloc(1, sizeof(*w));
		if (!w)
			abort();
		rig_init(&w->r, s->seed,
			 &(struct thmqi_disk_sim_opts){.flags = THMQI_DISK_SIM_GARBLING |
								s->disk_flags});
		w->r.opts.segment_bytes_max = SEGMENT;
		w->r.opts.cache_bytes = 1u << (14 + s->seed % 8);
		w->r.opts.write_depth = (uint32_t)(1 + mixed(s->seed, 7) % 12);
		memset(w->r.opts.log_id, 7, sizeof(w->r.opts.log_id));
		w->r.pool_bytes = 32u << 20;
		w->r.defects = s->defects | (s->seed % 3 == 1 ? THMQI_LOG_EARLY_PARTS : 0);
		w->drops = s->seed % 2 == 0;
		if (w == s->check && rig_env(&w->r) != 0)
			abort();
	}
}

/* Everything of one seed. Return: false something broke: s->text. */
static inline bool sweep_seed(struct sweep *s)
{
	enum life_end end;
	uint32_t ops;

	s->failed = false;
	sweep_worlds(s, true);
	s->snap_model = calloc(1, sizeof(*s->snap_model));
	s->piece = aligned_alloc(4096, SEGMENT);
	if (!s->snap_model || !s->piece || thmqi_disk_sim_open(1, NULL, &s->snap) != 0)
		abort();
	for (s->life = 0; s->life < (s->lives ? s->lives : LIVES) && !s->failed &&
			  !(s->limit && s->cuts >= s->limit);
	     s->life++) {
		struct world *w = s->base;

		if (mixed(s->seed, s->life + 100) / 2 % 2)
			recycle(s, w);
		end = (enum life_end)(mixed(s->seed, s->life + 200) / 2 % 3);
		s->known = known_durable(s, &w->r);
		model_copy(s->snap_model, &w->m);
		if (thmqi_disk_sim_copy(s->snap, w->r.sim, 1, NULL) != 0 ||
		    thmqi_disk_sim_copy(w->r.sim, s->snap, mixed(s->seed, s->life), NULL) != 0)
			abort();
		w->r.durable = 0;
		one_life(s, w, end);
		ops = s->op;
		if (!s->no_faults)
			faulty_lives(s, ops);
	}
	sweep_worlds(s, false);
	thmqi_disk_sim_close(s->snap);
	free(s->snap_model);
	free(s->piece);
	return !s->failed;
}

/* Megabytes come and go with every cut: the heap keeps them. */
static inline void sweep_init(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	mallopt(M_TOP_PAD, 64 << 20);
}

#endif
