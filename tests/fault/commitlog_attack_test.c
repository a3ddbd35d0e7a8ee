/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile or unlucky world does to a log's directory, on real files: a bit of any kind of block flips, files of another log or of an
 * older copy lie in it, many processes want to make it or open it at once, it is copied while its cleaner works. Never a crash,
 * never another message than was appended, and nothing is missing without a word of an open, a read or a scan.
 *
 * usage: commitlog_attack_test [case]. THMQ_TEST_FULL=1: a hundred times as many bits.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "base/base.h"
#include "commitlog/plant.h"

#define SECOND 1000000000ull
#define MIB (1u << 20)
#define PARTITIONS 4u
#define RUNS 700u
#define STATE_KIND 9u

static char base[] = "commitlog-attack-XXXXXX";

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* ------------------------------------------------------------------- a log */

struct life {
	struct thmq_env *env;
	struct thmq_log *log;
	uint64_t durable;
	uint64_t newest; /* the cleaner keeps offsets near it */
};

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_DURABLE)
		((struct life *)ctx)->durable = index;
}

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	const struct life *l = ctx;

	return e->end_offset + 200 > l->newest ? THMQ_LOG_LIVE : THMQ_LOG_DEAD;
}

static int life_open(struct life *l, const char *dir, bool cleans)
{
	const struct thmq_log_events events = {
		.size = sizeof(events), .settled = on_settled, .live = cleans ? on_live : NULL};
	int rc;

	*l = (struct life){0};
	CHECK(thmq_env_open(&l->env, THMQ_ENV_OPTS(.pool_bytes = 64u << 20)) == 0);
	rc = thmqi_log_open_planted(
		thmq_env_core(l->env, 0),
		THMQ_LOG_OPTS(.dir = dir, .segment_bytes_min = MIB, .segment_bytes_max = MIB,
			      .batch_bytes = 64u << 10, .cache_bytes = 64u << 10, .events = &events,
			      .ctx = l),
		THMQI_LOG_EARLY_PARTS, &l->log);
	if (rc)
		CHECK(thmq_env_close(l->env, SECOND) == 0);
	return rc;
}

static void life_close(struct life *l)
{
	CHECK(thmq_log_close(l->log, 10 * SECOND) == 0);
	CHECK(thmq_env_close(l->env, SECOND) == 0);
}

static uint32_t size_of(uint64_t seed, uint32_t partition, uint64_t offset)
{
	return (uint32_t)((offset * 2654435761u + partition * 97 + seed) %
			  (offset % 20 == 7 ? 40000 : 3000));
}

static uint8_t byte_of(uint64_t seed, uint32_t partition, uint64_t offset, uint32_t at)
{
	return (uint8_t)(seed * 17 + partition * 131 + offset * 7 + at);
}

/* One message, all of which follows from @seed, partition and offset. */
static void append(struct life *l, uint64_t seed, uint32_t partition, uint64_t offset,
		   uint32_t durability, uint64_t *ret_index)
{
	static uint8_t data[40000];
	char key[20];
	struct thmq_record_view v = {.offset = offset,
				     .time_ns = (int64_t)offset * 1000,
				     .key = key,
				     .tag = offset % 3 ? "t" : NULL,
				     .tag_len = offset % 3 ? 1 : 0,
				     .data = data,
				     .len = size_of(seed, partition, offset)};
	struct thmq_run_header *run;
	uint32_t len, i;
	int rc;

	v.key_len = (uint32_t)snprintf(key, sizeof(key), "key-%u", (unsigned)(offset % 10));
	for (i = 0; i < v.len; i++)
		data[i] = byte_of(seed, partition, offset, i);
	len = thmq_run_len(&v, 1);
	while ((rc = thmq_log_append(l->log, len, &run, ret_index)) == -EAGAIN)
		thmq_poll(l->env, SECOND / 100);
	CHECK(rc == 0 && thmq_run_encode(run, len, partition, &v, 1) == 0);
	CHECK(thmq_log_append_end(l->log, run, durability) == 0);
}

static void append_state(struct life *l, uint64_t item)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(l->log, (uint32_t)sizeof(*run) + 100, &run, &index)) ==
	       -EAGAIN)
		thmq_poll(l->env, SECOND / 100);
	CHECK(rc == 0);
	thmq_run_init(run, THMQ_RUN_STATE, STATE_KIND, item, 0, 100);
	memset(run + 1, (int)item, 100);
	CHECK(thmq_log_append_end(l->log, run, THMQ_DURABILITY_MEMORY) == 0);
}

static void until_durable(struct life *l, uint64_t index)
{
	while (l->durable < index)
		thmq_poll(l->env, SECOND / 100);
}

/* Runs from @from on, in all partitions in turns, until each has @count. */
static void fill(struct life *l, uint64_t seed, uint64_t from, uint64_t count)
{
	uint64_t index = 0;

	for (uint64_t i = from; i < count; i++) {
		for (uint32_t p = 0; p < PARTITIONS; p++)
			append(l, seed, p, i,
			       p % 2 ? THMQ_DURABILITY_MEMORY : THMQ_DURABILITY_DURABLE, &index);
		if (i % 5 == 0)
			append_state(l, i % 7);
		if (i % 16 == 0)
			until_durable(l, index - 1);
	}
	append(l, seed, PARTITIONS, count, THMQ_DURABILITY_DURABLE, &index);
	until_durable(l, index);
}

/* -------------------------------------------------------------------- check */

static bool view_ok(const struct thmq_log_view *v, uint64_t seed, uint32_t partition,
		    uint64_t offset)
{
	struct thmq_record_cursor cursor = {{0}};
	struct thmq_record_view is;

	if (v->run.header->partition != partition || v->run.header->base_offset != offset ||
	    thmq_record_next(&v->run, &cursor, &is) != 1 ||
	    is.len != size_of(seed, partition, offset))
		return false;
	for (uint32_t i = 0; i < is.len; i++)
		if (((const uint8_t *)is.data)[i] != byte_of(seed, partition, offset, i))
			return false;
	return true;
}

/* A partition, as far as it can be read. Return: the offset behind the last; *@told: a read said that something is wrong. */
static uint64_t read_all(struct life *l, uint64_t seed, uint32_t partition, uint64_t from,
			 bool *told)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t at = from, begin, end;
	uint32_t idle = 0;
	int rc;

	if (thmq_log_bounds(l->log, partition, &begin, &end) != 0)
		return from;
	CHECK(thmq_log_reader_open(l->log, partition, NULL, NULL, &reader) == 0);
	thmq_log_reader_seek(reader, from);
	while (at < end && idle < 2000) {
		rc = thmq_log_read(reader, UINT64_MAX, &v);
		if (rc < 0) {
			if (getenv("THMQ_TEST_TRACE"))
				fprintf(stderr, "partition %u from %llu: %s\n", partition,
					(unsigned long long)at, thmq_strerror(rc));
			*told = true;
			break;
		}
		idle = rc ? 0 : idle + 1;
		if (!rc) {
			thmq_poll(l->env, SECOND / 1000);
			continue;
		}
		CHECK(view_ok(&v, seed, partition, at)); /* never another, and none left out */
		at = v.run.header->base_offset + v.run.header->span;
		thmq_log_view_release(l->log, &v);
	}
	CHECK(*told || at == end);
	thmq_log_reader_close(reader);
	return at;
}

/* -------------------------------------------------------------------- files */

struct file {
	char name[64];
	uint8_t *data;
	size_t size;
};

struct image {
	struct file files[32];
	uint32_t count;
};

static void image_load(struct image *im, const char *dir)
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	char path[300];
	struct stat st;

	CHECK(d);
	im->count = 0;
	while ((e = readdir(d))) {
		struct file *f = &im->files[im->count];
		FILE *in;

		if (e->d_name[0] == '.' || strcmp(e->d_name, "lock") == 0)
			continue;
		CHECK(im->count < 32);
		snprintf(f->name, sizeof(f->name), "%.60s", e->d_name);
		snprintf(path, sizeof(path), "%s/%s", dir, f->name);
		in = fopen(path, "r");
		CHECK(in && fstat(fileno(in), &st) == 0);
		f->size = (size_t)st.st_size;
		f->data = malloc(f->size + 1);
		CHECK(f->data && fread(f->data, 1, f->size, in) == f->size);
		fclose(in);
		im->count++;
	}
	closedir(d);
}

static void image_free(struct image *im)
{
	while (im->count)
		free(im->files[--im->count].data);
}

static struct file *image_file(struct image *im, const char *name)
{
	for (uint32_t i = 0; i < im->count; i++)
		if (strcmp(im->files[i].name, name) == 0)
			return &im->files[i];
	return NULL;
}

static void file_store(const char *dir, const struct file *f)
{
	char path[300];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s", dir, f->name);
	out = fopen(path, "w");
	CHECK(out && fwrite(f->data, 1, f->size, out) == f->size && fclose(out) == 0);
}

/* The directory is these files, and nothing else. */
static void image_store(const struct image *im, const char *dir)
{
	char command[300];

	snprintf(command, sizeof(command), "rm -rf '%s' && mkdir '%s'", dir, dir);
	CHECK(system(command) == 0);
	for (uint32_t i = 0; i < im->count; i++)
		file_store(dir, &im->files[i]);
}

static const char *in_base(const char *name)
{
	static char paths[4][200];
	static uint32_t next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", base, name);
	return path;
}

/* ----------------------------------------------------------------- what it is worth */

static int on_step(void *ctx, const struct thmq_log_step *s)
{
	*(bool *)ctx |= s->kind == THMQ_STEP_CUT;
	return 0;
}

/*
 * Scanned, opened and read; then as it was before, repaired, opened and read.
 * Return: did anybody say that something is wrong?
 */
static bool judge(const struct image *im, const char *dir, uint64_t seed, const char *what)
{
	static const struct thmq_log_repair_opts write = {.size = sizeof(write),
							  .flags = THMQ_REPAIR_WRITE};
	static const struct thmq_log_visitor steps = {.size = sizeof(steps), .step = on_step};
	bool told = false, cut = false;
	uint64_t ends[PARTITIONS];
	struct life l;
	int scanned, opened, repaired;

	scanned = thmq_log_scan(dir, NULL, NULL);
	opened = life_open(&l, dir, false);
	for (uint32_t p = 0; p < PARTITIONS && !opened; p++)
		ends[p] = read_all(&l, seed, p, 0, &told);
	if (!opened)
		life_close(&l);
	for (uint32_t p = 0; p < PARTITIONS && !opened && !told; p++)
		if (ends[p] != RUNS) {
			fprintf(stderr,
				"%s: partition %u has %llu of %u, and nobody said so (scan %d)\n",
				what, p, (unsigned long long)ends[p], RUNS, scanned);
			exit(1);
		}
	if (scanned == 0 && (opened || told)) {
		fprintf(stderr, "%s: a scan finds nothing; open %s, reads %s\n", what,
			thmq_strerror(opened), told ? "fail" : "are good");
		exit(1);
	}
	image_store(im, dir);
	repaired = thmq_log_repair(dir, &write, &steps, &cut);
	if (repaired < 0)
		return true; /* nothing of it can be kept */
	CHECK(thmq_log_scan(dir, NULL, NULL) == 0);
	CHECK(life_open(&l, dir, false) == 0);
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		uint64_t begin = 0, end;
		bool worse = false;

		if (cut) /* its first segments may be what is gone */
			thmq_log_bounds(l.log, p, &begin, &end);
		ends[p] = read_all(&l, seed, p, begin, &worse);
		if (worse || (!cut && ends[p] != RUNS)) {
			fprintf(stderr,
				"%s: repaired, and of partition %u %llu are read, then %s\n", what,
				p, (unsigned long long)ends[p],
				worse ? "an error comes" : "no more");
			exit(1);
		}
	}
	life_close(&l);
	return scanned || opened || told;
}

static void make(const char *dir, uint64_t seed, uint64_t count)
{
	struct life l;

	CHECK(life_open(&l, dir, false) == 0);
	fill(&l, seed, 0, count);
	for (uint32_t i = 0; i < 50; i++)
		thmq_poll(l.env, SECOND / 1000);
	life_close(&l);
}

static void bits_flipped(void)
{
	uint32_t trials = getenv("THMQ_TEST_FULL")    ? 4000
			  : getenv("THMQ_TEST_SMALL") ? 6
						      : 16,
		 told = 0;
	const char *dir = in_base("bits");
	struct thmqi_prng p;
	struct image im;
	char what[200];

	make(dir, 1, RUNS);
	image_load(&im, dir);
	CHECK(image_file(&im, "open.idx") && image_file(&im, "00000000000000000000.idx"));
	thmqi_prng_seed(&p, 77);
	for (uint32_t i = 0; i < trials; i++) {
		struct file *f = &im.files[thmqi_prng_below(&p, im.count)];
		bool vote = strcmp(f->name, "vote") == 0;
		size_t at = vote ? thmqi_prng_below(&p, 2) * 4096 + thmqi_prng_below(&p, 128)
				 : thmqi_prng_below(&p, f->size);
		uint8_t bit = (uint8_t)(1u << thmqi_prng_below(&p, 8));

		switch (thmqi_prng_below(&p,
					 4)) { /* the begin of a block has a batch's header often */
		case 0:
			at = vote ? at : at / 4096 * 4096 + thmqi_prng_below(&p, 128);
			break;
		case 1: /* and behind that a run's, and its records' */
			at = vote ? at : at / 4096 * 4096 + 128 + thmqi_prng_below(&p, 130);
			break;
		}
		at = THMQI_MIN(at, f->size - 1);
		snprintf(what, sizeof(what), "%s, byte %zu, bit %#x", f->name, at, bit);
		f->data[at] ^= bit;
		image_store(&im, dir);
		told += judge(&im, dir, 1, what);
		f->data[at] ^= bit;
	}
	printf("%u bits flipped: told of %u\n", trials, told);
	image_free(&im);
}

/* Each file once that of another log, and once an older one of its own. */
static void files_mixed(void)
{
	const char *dir = in_base("mixed"), *other = in_base("other");
	struct image mine, others, older;
	struct life l;
	char what[200];

	make(dir, 1, RUNS / 2);
	image_load(&older, dir);
	CHECK(life_open(&l, dir, false) == 0);
	fill(&l, 1, RUNS / 2, RUNS);
	life_close(&l);
	image_load(&mine, dir);
	make(other, 2, RUNS);
	image_load(&others, other);
	for (uint32_t i = 0; i < mine.count; i++) {
		struct file was = mine.files[i];
		struct file *const from[] = {image_file(&others, was.name),
					     image_file(&older, was.name)};

		for (uint32_t k = 0; k < 2; k++) {
			if (!from[k])
				continue;
			mine.files[i] = *from[k];
			image_store(&mine, dir);
			snprintf(what, sizeof(what), "%s of %s", was.name,
				 k ? "an older copy" : "another log");
			judge(&mine, dir, 1, what);
			mine.files[i] = was;
		}
	}
	image_free(&mine);
	image_free(&others);
	image_free(&older);
}

/* ---------------------------------------------------------------------- races */

#define RACERS 4u

struct race {
	_Atomic uint32_t ready;
};

static int racer(struct race *race, const char *dir, uint32_t round)
{
	uint64_t begin, end, index;
	struct life l;
	int rc;

	atomic_fetch_add(&race->ready, 1);
	while (atomic_load(&race->ready) < (round + 1) * RACERS)
		sched_yield();
	for (uint32_t tries = 0; tries < 20000; tries++) {
		rc = life_open(&l, dir, false);
		if (rc == 0)
			break;
		if (rc != -EBUSY)
			fprintf(stderr, "race_to_open: %s\n", thmq_errmsg());
		if (rc != -EBUSY)
			return 1;
		usleep(500);
	}
	if (rc)
		return 2;
	rc = thmq_log_bounds(l.log, 1, &begin, &end);
	append(&l, 3, 1, rc ? 0 : end, THMQ_DURABILITY_DURABLE, &index);
	until_durable(&l, index);
	life_close(&l);
	return 0;
}

/* Of processes that make and open a log at once each gets it in its turn, and the log has what each appended. */
static void race_to_open(void)
{
	struct race *race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint32_t rounds = getenv("THMQ_TEST_FULL") ? 100 : 3, i, k;
	const char *dir = in_base("race");
	bool told = false;
	struct life l;
	int status;

	CHECK(race != MAP_FAILED);
	for (i = 0; i < rounds; i++) {
		for (k = 0; k < RACERS; k++)
			if (fork() == 0)
				_exit(racer(race, dir, i));
		while (wait(&status) > 0)
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	CHECK(life_open(&l, dir, false) == 0);
	CHECK(read_all(&l, 3, 1, 0, &told) == (uint64_t)rounds * RACERS && !told);
	life_close(&l);
	munmap(race, sizeof(*race));
}

#define COPIES 4u

struct copier {
	struct thmq_log *log;
	_Atomic uint32_t done;
};

static void *copy_on(void *arg)
{
	struct copier *c = arg;
	char name[20];

	for (uint32_t i = 0; i < COPIES; i++) {
		snprintf(name, sizeof(name), "copy-%u", i);
		CHECK(thmq_log_copy(c->log, in_base(name)) == 0);
		atomic_store(&c->done, i + 1);
		usleep(20000);
	}
	return NULL;
}

/* Segments are filled, dropped and used again all the while. */
static void copied_beside_its_cleaner(void)
{
	struct copier c = {0};
	uint64_t index, i = 0, begin, end;
	struct life l;
	pthread_t thread;
	char name[20];

	CHECK(life_open(&l, in_base("cleaned"), true) == 0);
	c.log = l.log;
	CHECK(pthread_create(&thread, NULL, copy_on, &c) == 0);
	while (atomic_load(&c.done) < COPIES) {
		for (uint32_t k = 0; k < 20; k++, i++)
			append(&l, 4, 1, l.newest = i,
			       k % 4 ? THMQ_DURABILITY_MEMORY : THMQ_DURABILITY_DURABLE, &index);
		thmq_poll(l.env, SECOND / 1000);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	life_close(&l);
	for (uint32_t k = 0; k < COPIES; k++) {
		bool told = false;

		snprintf(name, sizeof(name), "copy-%u", k);
		CHECK(thmq_log_scan(in_base(name), NULL, NULL) == 0);
		CHECK(life_open(&l, in_base(name), false) == 0);
		if (thmq_log_bounds(l.log, 1, &begin, &end) == 0)
			CHECK(read_all(&l, 4, 1, begin, &told) == end && !told);
		life_close(&l);
	}
	printf("copied %u times while %llu messages came\n", COPIES, (unsigned long long)i);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"bits_flipped", bits_flipped},
	{"files_mixed", files_mixed},
	{"race_to_open", race_to_open},
	{"copied_beside_its_cleaner", copied_beside_its_cleaner},
};

int main(int argc, char **argv)
{
	char command[100];
	int status, bad = 0;

	CHECK(mkdtemp(base));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (argc > 1 && strcmp(argv[1], cases[i].name) != 0)
			continue;
		fflush(stdout);
		if (fork() == 0) {
			cases[i].run();
			exit(0);
		}
		CHECK(wait(&status) > 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			printf("%s: failed (status %#x)\n", cases[i].name, status);
			bad++;
		}
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	return system(command) != 0 || bad ? 1 : 0;
}
