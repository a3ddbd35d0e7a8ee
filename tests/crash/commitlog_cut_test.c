/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The power is cut at any write or flush of a log, thousands of times, on a simulated disk that loses, tears and reorders
 * what was not flushed; or its process is killed. After each reopening the log holds a prefix of what was appended, whole
 * and in order, that has everything that was said to be durable. Then the log goes on.
 *
 * The same run must fail with each planted defect, of the log and of the disk.
 *
 * usage: commitlog_cut_test [seed [disks]]: only these, in words. THMQ_TEST_FULL=1 runs fifty times as many.
 */
#include <malloc.h>

#include "../unit/commitlog_rig.h"

#define LIVES 25u /* of one disk */
#define PARTITIONS 3u
#define RUNS_MAX 8192u

struct run_note {
	uint32_t partition, size;
	uint64_t offset, index;
};

struct world {
	struct rig r;
	struct thmqi_prng p;
	uint64_t seed;
	uint32_t life;
	bool loud;
	/* the model: what is in the log, in order */
	struct run_note runs[RUNS_MAX];
	uint32_t count;
	uint64_t next[PARTITIONS];
	uint64_t durable; /* highest index that was said to be, in this life */
	/* replay */
	uint32_t seen;
	const char *wrong;
	/* totals */
	uint64_t cuts, kills, kept, lost, sealed;
};

static uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->p, n);
}

static bool failed(struct world *w, const char *what)
{
	if (w->loud)
		fprintf(stderr, "seed %llu life %u: %s (%s)\n", (unsigned long long)w->seed, w->life, what,
			thmq_errmsg());
	w->wrong = what;
	return false;
}

/* ------------------------------------------------------------------ reopen */

/* A partition's last run in a segment that was taken from its index: all up to its batch is in the log. */
static int on_sealed(struct world *w, const struct thmq_log_run *run)
{
	uint64_t last = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < w->count && w->runs[i].index <= run->index; i++)
		if (w->runs[i].partition == run->header->partition)
			last = w->runs[i].offset;
	if (last != run->header->base_offset) {
		w->wrong = "an index that speaks of another run than was appended";
		return -EPROTO;
	}
	w->seen = THMQI_MAX(w->seen, i);
	w->sealed++;
	return 0;
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	struct rig *r = ctx;
	struct world *w = thmqi_container(r, struct world, r);
	const struct run_note *n = &w->runs[w->seen];
	const uint8_t *bytes = run->payload;

	if (run->header->encoding == THMQ_RUN_STATE)
		return 0;
	if (!run->payload)
		return on_sealed(w, run);
	if (w->seen == w->count) {
		w->wrong = "a run that was never appended, or was cut before";
		return -EPROTO;
	}
	if (run->header->partition != n->partition || run->header->base_offset != n->offset ||
	    run->header->len != n->size || run->index != n->index) {
		w->wrong = "another run than was appended here";
		return -EPROTO;
	}
	/* the log has checked the whole; a stride of primes and the ends are enough to know whose bytes these are */
	for (uint32_t i = 0; i < n->size; i += i < 64 || i + 64 > n->size ? 1 : 61)
		if (bytes[i] != rig_byte(n->partition, n->offset, i)) {
			w->wrong = "other bytes than were appended";
			return -EPROTO;
		}
	w->seen++;
	return 0;
}

/* The log comes back with a prefix of the model that has all up to @durable. The model is that prefix then. */
static bool reopen(struct world *w, uint64_t durable)
{
	w->seen = 0;
	w->wrong = NULL;
	if (rig_open(&w->r) != 0)
		return failed(w, w->wrong ? w->wrong : "it does not open");
	if (w->seen < w->count && w->runs[w->seen].index <= durable)
		return failed(w, "a run that was durable is gone");
	w->kept += w->seen;
	w->lost += w->count - w->seen;
	w->count = w->seen;
	memset(w->next, 0, sizeof(w->next));
	for (uint32_t i = 0; i < w->count; i++)
		w->next[w->runs[i].partition] = w->runs[i].offset + 1;
	w->durable = w->count ? w->runs[w->count - 1].index : 0;
	return true;
}

static bool read_back(struct world *w)
{
	for (uint32_t p = 0; p < PARTITIONS; p++)
		if (rig_read_all(&w->r, p, 0, w->next[p]) != (int64_t)w->next[p])
			return failed(w, "its readers do not find everything");
	return true;
}

/* -------------------------------------------------------------------- live */

static bool append(struct world *w, uint32_t durability)
{
	struct run_note n = {.partition = (uint32_t)below(w, PARTITIONS), .size = rig_some_size(&w->p)};
	int rc;

	n.offset = w->next[n.partition];
	rc = rig_append_sized(&w->r, n.partition, n.offset, 1, n.size, durability, &n.index);
	if (rc == -EAGAIN || rc == -THMQ_EFAILED)
		return true;
	if (rc)
		return failed(w, "an append is refused");
	w->runs[w->count++] = n;
	w->next[n.partition]++;
	return true;
}

static bool truncate_some(struct world *w)
{
	uint64_t cut;

	if (!w->count)
		return true;
	cut = w->runs[w->count - 1 - below(w, THMQI_MIN(w->count, 5u))].index;
	if (thmq_log_truncate(w->r.log, cut) != 0) {
		/* it may have happened or not: what it would have removed is not certain any more */
		w->durable = THMQI_MIN(w->durable, cut - 1);
		w->r.durable = THMQI_MIN(w->r.durable, cut - 1);
		return true;
	}
	while (w->count && w->runs[w->count - 1].index >= cut)
		w->next[w->runs[--w->count].partition]--;
	w->durable = THMQI_MIN(w->durable, cut - 1);
	return true;
}

/* What a life does until its end, at the latest when the power has been cut. */
static bool live(struct world *w)
{
	uint32_t mood = (uint32_t)below(w, 4); /* 0: all durable … 3: hardly anything */
	uint32_t steps = 10 + (uint32_t)below(w, 90), level;

	while (steps-- && !thmqi_disk_sim_is_down(w->r.sim) && w->count < RUNS_MAX - 1) {
		level = below(w, 4) >= mood ? THMQ_DURABILITY_DURABLE :
					      (uint32_t)(THMQ_DURABILITY_MEMORY + below(w, 2));
		if (!append(w, level))
			return false;
		if (below(w, 3))
			thmqi_core_poll(w->r.core, below(w, 2) ? 0 : below(w, 200000));
		if (below(w, 60) == 0)
			for (uint32_t i = 0; i < 8; i++)
				thmqi_core_poll(w->r.core, 200000000); /* an idle second moves the mark */
		if (below(w, 60) == 0 && !truncate_some(w))
			return false;
		w->durable = THMQI_MAX(w->durable, w->r.durable);
	}
	w->durable = THMQI_MAX(w->durable, w->r.durable);
	if (w->r.unordered)
		return failed(w, "what settled went back");
	if (w->r.failed && !thmqi_disk_sim_is_down(w->r.sim))
		return failed(w, "it failed while the disk was well");
	return true;
}

/* The process dies and the machine does not: the disk's cache stays as it is, what was being done is done in part. */
static void kill_it(struct world *w)
{
	static const uint8_t opcodes[] = {THMQI_DISK_WRITE, THMQI_DISK_FLUSH, THMQI_DISK_RENAME, THMQI_DISK_ALLOCATE,
					  THMQI_DISK_CREATE, THMQI_DISK_SYNC_DIR};

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(opcodes); i++) {
		struct thmqi_disk_sim_fault f = {.opcode = opcodes[i],
						 .effect = THMQI_DISK_SIM_ERROR,
						 .nth = 1,
						 .repeat = UINT64_MAX};

		thmqi_disk_sim_fault_add(w->r.sim, &f);
	}
	rig_close(&w->r);
	thmqi_disk_sim_faults_clear(w->r.sim);
	w->kills++;
}

static bool one_life(struct world *w)
{
	uint64_t durable;

	thmqi_disk_sim_cut_at(w->r.sim, 1 + below(w, 100), THMQI_DISK_SIM_CRASH_SEEDED);
	if (!live(w))
		return false;
	durable = w->durable;
	if (!thmqi_disk_sim_is_down(w->r.sim) && below(w, 3) == 0) {
		thmqi_disk_sim_cut_at(w->r.sim, 0, THMQI_DISK_SIM_CRASH_SEEDED);
		kill_it(w);
	} else {
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
		w->cuts++;
	}
	if (!reopen(w, durable))
		return false;
	/* what was read at open may have been seen: it must not go with the next cut */
	if (below(w, 4) == 0) {
		durable = w->durable;
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
		w->cuts++;
		if (!reopen(w, durable))
			return false;
	}
	/* cut while it comes back */
	if (below(w, 4) == 0) {
		durable = w->durable;
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
		thmqi_disk_sim_cut_at(w->r.sim, 1 + below(w, 12), THMQI_DISK_SIM_CRASH_SEEDED);
		if (rig_open(&w->r) == 0)
			thmqi_core_poll(w->r.core, 1000);
		w->seen = 0;
		rig_crash(&w->r, THMQI_DISK_SIM_CRASH_SEEDED);
		w->cuts += 2;
		if (!reopen(w, durable))
			return false;
	}
	return below(w, 5) ? true : read_back(w);
}

static bool one_disk(uint64_t seed, uint32_t defects, uint32_t disk_flags, bool loud, struct world *total)
{
	struct world *w = calloc(1, sizeof(*w));
	bool good = true;

	if (!w)
		exit(1);
	w->seed = seed;
	w->loud = loud;
	thmqi_prng_seed(&w->p, seed);
	rig_init(&w->r, seed, &(struct thmqi_disk_sim_opts){.flags = disk_flags});
	w->r.opts.segment_bytes_max = 2u << 20;
	w->r.opts.cache_bytes = 1u << (16 + below(w, 8));
	w->r.opts.write_depth = (uint32_t)(1 + below(w, 12));
	w->r.events.replay = on_replay;
	w->r.pool_bytes = 32u << 20;
	w->r.defects = defects | (seed % 2 ? THMQI_LOG_EARLY_PARTS : 0);
	good = reopen(w, 0);
	for (w->life = 1; good && w->life <= LIVES && w->count < RUNS_MAX - 200; w->life++)
		good = one_life(w);
	total->cuts += w->cuts;
	total->kills += w->kills;
	total->kept += w->kept;
	total->lost += w->lost;
	total->sealed += w->sealed;
	rig_fini(&w->r);
	free(w);
	return good;
}

/* ------------------------------------------------------------ planted defects */

static const struct {
	const char *name;
	uint32_t defects, disk_flags;
} planted[] = {
	{"settles out of order", THMQI_LOG_SETTLE_UNORDERED, 0},
	{"trusts DSYNC over plain writes", THMQI_LOG_TRUST_DSYNC, 0},
	{"never flushes", THMQI_LOG_NO_FLUSH, 0},
	{"believes batches that do not chain", THMQI_LOG_NO_CHAIN, 0},
	{"does not flush what it keeps", THMQI_LOG_NO_OPEN_FLUSH, 0},
	{"believes torn runs", THMQI_LOG_TRUST_PAYLOAD, 0},
	{"the disk lies about flushes", 0, THMQI_DISK_SIM_LYING},
};

static int find_planted(uint64_t disks)
{
	static struct world total;
	int missed = 0;

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(planted); i++) {
		uint64_t seed = 1;

		while (seed <= disks && one_disk(seed, planted[i].defects, planted[i].disk_flags, false, &total))
			seed++;
		if (seed <= disks) {
			printf("planted: %s: found with disk %llu\n", planted[i].name, (unsigned long long)seed);
		} else {
			printf("planted: %s: NOT FOUND\n", planted[i].name);
			missed++;
		}
	}
	return missed;
}

int main(int argc, char **argv)
{
	static struct world total;
	uint64_t disks = getenv("THMQ_TEST_FULL") ? 3000 : 60, first = 1, seed;
	int bad = 0;

	/* megabytes come and go with every life: the heap keeps them */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	mallopt(M_TOP_PAD, 64 << 20);
	if (argc > 1) {
		first = strtoull(argv[1], NULL, 0);
		disks = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	}
	for (seed = first; seed < first + disks; seed++)
		bad += !one_disk(seed, 0, 0, true, &total);
	printf("%llu disks: %llu power cuts, %llu kills; runs kept %llu, lost %llu; partitions taken from indexes %llu; %d disks failed\n",
	       (unsigned long long)disks, (unsigned long long)total.cuts, (unsigned long long)total.kills,
	       (unsigned long long)total.kept, (unsigned long long)total.lost, (unsigned long long)total.sealed, bad);
	if (argc == 1)
		bad += find_planted(200);
	return bad ? 1 : 0;
}
