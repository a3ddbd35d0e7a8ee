/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.c - a closed data directory as a whole: which logs there are, what meta says of them, whether each is the one that
 * belongs in its place; each is then scanned by itself. Takes the lock that a broker holds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "data.h"
#include "disk/busy.h"

#define SHARD_PREFIX "shard-"

/* ----------------------------------------------------------------- visitors */

static int on_batch(void *ctx, const struct thmq_log_batch *batch)
{
	struct data *d = ctx;

	return d->stop = d->visitor->batch ? d->visitor->batch(d->ctx, batch) : 0;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct data *d = ctx;

	return d->stop = d->visitor->run ? d->visitor->run(d->ctx, run) : 0;
}

static int on_meta_run(void *ctx, const struct thmq_log_run *run)
{
	thmqi_data_learn(ctx, run);
	return on_run(ctx, run);
}

static int on_finding(void *ctx, const struct thmq_log_finding *finding)
{
	struct data *d = ctx;

	return d->stop = d->visitor->finding ? d->visitor->finding(d->ctx, finding) : 0;
}

static int on_step(void *ctx, const struct thmq_log_step *step)
{
	struct data *d = ctx;

	return d->stop = d->visitor->step ? d->visitor->step(d->ctx, step) : 0;
}

static int on_loss(void *ctx, const struct thmq_log_loss *loss)
{
	struct data *d = ctx;

	return d->stop = d->visitor->loss ? d->visitor->loss(d->ctx, loss) : 0;
}

int thmqi_data_log(struct data *d, const char *name)
{
	if (d->visitor->log && !d->stop)
		d->stop = d->visitor->log(d->ctx, name);
	return d->stop;
}

int thmqi_data_finding(struct data *d, uint32_t kind, const char *format, ...)
{
	char text[320];
	struct thmq_log_finding f = {.kind = kind, .text = text};
	va_list args;

	if (kind == THMQ_FINDING_MISSING || kind == THMQ_FINDING_IDENTITY) {
		f.error = -THMQ_ECORRUPT;
		thmqi_data_worse(d, f.error);
	}
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return d->stop ? d->stop : on_finding(d, &f);
}

/* Damage counts more than what is too new, and an error that hides what there is more than both. */
static int rank(int rc)
{
	return rc == 0 ? 0 : rc == -THMQ_EVERSION ? 1 : rc == -THMQ_ECORRUPT ? 2 : 3;
}

void thmqi_data_worse(struct data *d, int rc)
{
	if (rank(rc) > rank(d->worst))
		d->worst = rc;
}

/* ------------------------------------------------------------ what meta says */

static void learn_cluster(struct data *d, const struct thmq_log_run *run)
{
	const struct state_cluster *c = run->payload;
	uint32_t len = run->header->len;
	struct state_cluster *copy;

	if (len < sizeof(*c) || c->shard_count == 0 || c->shard_count > THMQ_SHARD_COUNT_MAX ||
	    len < sizeof(*c) + c->shard_count * 16u)
		return;
	copy = malloc(len);
	if (!copy) {
		d->out_of_memory = true;
		return;
	}
	memcpy(copy, c, len);
	free(d->cluster);
	d->cluster = copy;
}

static int topic_name(const struct thmq_log_run *run, struct thmq_data_name *name)
{
	struct state_topic state = {0};

	if (run->header->len <
	    offsetof(struct state_topic, first_shard)) /* more of it is not needed here */
		return 0;
	memcpy(&state, run->payload, THMQI_MIN(run->header->len, (uint32_t)sizeof(state)));
	name->kind = THMQ_DATA_TOPIC;
	name->id = name->topic_id = state.topic_id;
	name->first_partition = state.first_partition;
	name->partition_count = state.partition_count;
	name->deleted = !!(state.flags & TOPIC_DELETED);
	memcpy(name->name, state.name, sizeof(name->name) - 1);
	while (name->added_count < TOPIC_RANGES && state.added[name->added_count].begin) {
		const struct state_range *r = &state.added[name->added_count];

		name->added[name->added_count++] = (struct thmq_data_range){.begin = r->begin, .first_partition = r->first};
	}
	return 1;
}

static int group_name(const struct thmq_log_run *run, struct thmq_data_name *name)
{
	struct state_group state;

	if (run->header->len < STATE_GROUP_LEN_MIN)
		return 0;
	memcpy(&state, run->payload, STATE_GROUP_LEN_MIN); /* more of it is not needed here */
	name->kind = THMQ_DATA_GROUP;
	name->id = state.group_id;
	name->topic_id = state.topic_id;
	memcpy(name->name, state.name, sizeof(name->name) - 1);
	name->deleted = !name->name[0];
	return 1;
}

int thmq_data_name(const struct thmq_log_run *run, struct thmq_data_name *ret_name)
{
	struct thmq_data_name name = {0};
	int rc = 0;

	if (!run || !run->header || !ret_name || thmqi_size_is_wrong(ret_name->size))
		return thmqi_fail(-EINVAL, "a name: no run, or set the size field first");
	if (run->header->encoding != THMQ_RUN_STATE || !run->payload)
		return 0;
	if (run->header->partition == STATE_TOPIC)
		rc = topic_name(run, &name);
	else if (run->header->partition == STATE_GROUP)
		rc = group_name(run, &name);
	if (!rc)
		return 0;
	name.size = ret_name->size;
	memset(ret_name, 0, name.size);
	memcpy(ret_name, &name, THMQI_MIN(name.size, (uint32_t)sizeof(name)));
	return 1;
}

/* In rising order. */
static void add_range(struct data *d, uint32_t topic, uint32_t first, uint32_t count)
{
	struct data_topic *t, *grown;
	uint32_t i;

	if (d->topic_count == d->topic_room) {
		grown = realloc(d->topics,
				(d->topic_room ? d->topic_room * 2 : 64) * sizeof(*grown));
		if (!grown) {
			d->out_of_memory = true;
			return;
		}
		d->topic_room = d->topic_room ? d->topic_room * 2 : 64;
		d->topics = grown;
	}
	for (i = d->topic_count++; i > 0 && d->topics[i - 1].first_partition > first; i--)
		d->topics[i] = d->topics[i - 1];
	t = &d->topics[i];
	t->topic_id = topic;
	t->first_partition = first;
	t->partition_count = count;
}

static void learn_range(struct data *d, uint32_t topic, uint32_t first, uint32_t count)
{
	uint32_t i;

	for (i = d->topic_count; i > 0; i--)
		if (d->topics[i - 1].topic_id == topic && d->topics[i - 1].first_partition == first) {
			d->topics[i - 1].partition_count = count;
			return;
		}
	add_range(d, topic, first, count);
}

/* One that is deleted keeps its places, without partitions. */
static void learn_topic(struct data *d, const struct thmq_log_run *run)
{
	struct thmq_data_name topic = {.size = sizeof(topic)};
	uint32_t i, begin = 0, end, first;

	if (thmq_data_name(run, &topic) != 1)
		return;
	for (i = 0; topic.deleted && i < d->topic_count; i++)
		if (d->topics[i].topic_id == topic.id)
			d->topics[i].partition_count = 0;
	first = topic.first_partition;
	for (i = 0; !topic.deleted && i <= topic.added_count; i++) {
		end = i < topic.added_count ? THMQI_MIN(topic.added[i].begin, topic.partition_count) : topic.partition_count;
		learn_range(d, topic.id, first, end > begin ? end - begin : 0);
		begin = i < topic.added_count ? topic.added[i].begin : end;
		first = i < topic.added_count ? topic.added[i].first_partition : first;
	}
}

void thmqi_data_learn(struct data *d, const struct thmq_log_run *run)
{
	if (run->header->encoding != THMQ_RUN_STATE)
		return;
	if (run->header->partition == STATE_CLUSTER)
		learn_cluster(d, run);
	else if (run->header->partition == STATE_TOPIC)
		learn_topic(d, run);
}

bool thmqi_data_is_live(void *ctx, uint32_t partition)
{
	const struct data *d = ctx;
	uint32_t lo = 0, hi = d->topic_count, mid;

	if (thmqi_is_own_partition(partition))
		return true;
	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (d->topics[mid].first_partition <= partition)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo &&
	       partition - d->topics[lo - 1].first_partition < d->topics[lo - 1].partition_count;
}

const uint8_t *thmqi_data_log_id(const struct data *d, uint32_t shard)
{
	if (!d->cluster || shard >= d->cluster->shard_count)
		return NULL;
	return (const uint8_t *)(d->cluster + 1) + shard * 16u;
}

uint32_t thmqi_data_shard_count(const struct data *d)
{
	uint32_t i, count = 0;

	if (d->cluster)
		return d->cluster->shard_count;
	for (i = 0; i < THMQ_SHARD_COUNT_MAX; i++)
		if (d->shards[i])
			count = i + 1;
	return count;
}

void thmqi_data_shard_name(uint32_t shard, char name[24])
{
	snprintf(name, 24, SHARD_PREFIX "%03u", shard);
}

void thmqi_data_path(const struct data *d, const char *name, char path[4400])
{
	snprintf(path, 4400, "%s/%s", d->path, name);
}

uint32_t thmqi_data_shard_in(const struct data *d, uint32_t shard, bool *ret_known)
{
	char name[24], path[4400];
	uint8_t id[16];
	uint32_t i;

	thmqi_data_shard_name(shard, name);
	thmqi_data_path(d, name, path);
	*ret_known = d->cluster && thmqi_log_identity(path, id) == 0;
	for (i = 0; *ret_known && i < d->cluster->shard_count; i++)
		if (memcmp(thmqi_data_log_id(d, i), id, 16) == 0)
			return i;
	return UINT32_MAX;
}

/* --------------------------------------------------------------- directory */

/* "shard-<number>" as it is written here. Return: whether. */
static bool shard_of(const char *name, uint32_t *ret_shard)
{
	char canonical[24];

	if (sscanf(name, SHARD_PREFIX "%4u", ret_shard) != 1 || *ret_shard >= THMQ_SHARD_COUNT_MAX)
		return false;
	thmqi_data_shard_name(*ret_shard, canonical);
	return strcmp(name, canonical) == 0;
}

static int note_entry(void *arg, const char *name)
{
	struct data *d = arg;
	uint32_t shard;

	if (strcmp(name, "meta") == 0)
		d->has_meta = d->has_data = true;
	else if (shard_of(name, &shard))
		d->shards[shard] = d->has_data = true;
	return 0;
}

static int note_foreign(void *arg, const char *name)
{
	uint32_t shard;

	if (strcmp(name, "meta") == 0 || shard_of(name, &shard) || strcmp(name, "lock") == 0 ||
	    strcmp(name, "socket") == 0 || strcmp(name, "stats") == 0 || strcmp(name, ".stats.new") == 0 || strcmp(name, "lost+found") == 0 || strcmp(name, "node") == 0 ||
	    strcmp(name, "node.tmp") == 0)
		return 0;
	return thmqi_data_finding(arg, THMQ_FINDING_FOREIGN, "%s", name);
}

int thmqi_data_list(struct data *d)
{
	struct thmqi_disk_dir *dir;
	int rc = thmqi_data_log(d, "");

	if (rc)
		return 0;
	rc = thmqi_disk_posix.dir_open(NULL, d->path, false, &dir);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", d->path, thmq_strerror(rc));
	rc = thmqi_disk_posix.dir_list(dir, note_entry, d);
	if (!rc && d->has_data) /* what lies in some other directory is none of ours */
		rc = thmqi_disk_posix.dir_list(dir, note_foreign, d);
	thmqi_disk_posix.dir_close(dir);
	if (d->stop)
		return 0;
	if (rc)
		return thmqi_fail(rc, "read %s: %s", d->path, thmq_strerror(rc));
	if (!d->has_data)
		return thmqi_fail(-ENOENT, "%s is no data directory: there is no data in it", d->path);
	if (!d->has_meta && !thmqi_data_log(d, "meta"))
		thmqi_data_finding(d, THMQ_FINDING_MISSING,
				   "the log that tells topics and shards is not there");
	return 0;
}

/* Shared, since nothing is written: a read-only file system will do, and one that knows no locks, and others may look too. */
static int lock_shared(struct data *d)
{
	char path[4400], pid[32] = {0};
	int rc = 0;

	thmqi_data_path(d, "lock", path);
	d->lock_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for a writer */
	if (d->lock_fd < 0) /* a directory without one has nobody who opened it */
		return errno == ENOENT    ? 0
		       : errno == ENOTDIR ? thmqi_fail(-ENOTDIR, "%s is no directory", d->path)
					  : thmqi_fail(-errno, "%s: %s", path, strerror(errno));
	if (flock(d->lock_fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
		if (pread(d->lock_fd, pid, sizeof(pid) - 1, 0) < 0)
			pid[0] = 0;
		rc = thmqi_disk_busy(d->path, strtoull(pid, NULL, 10));
	}
	return rc;
}

static int lock_all(struct data *d)
{
	uint64_t pid = 0;
	int rc = thmqi_disk_posix.dir_open(NULL, d->path, false, &d->dir);

	if (rc) {
		d->dir = NULL;
		return thmqi_fail(rc, "open %s: %s", d->path, thmq_strerror(rc));
	}
	rc = thmqi_disk_posix.dir_lock(d->dir, "lock", &pid);
	if (rc == -EBUSY)
		return thmqi_disk_busy(d->path, pid);
	return rc ? thmqi_fail(rc, "lock %s/lock: %s", d->path, thmq_strerror(rc)) : 0;
}

int thmqi_data_begin(struct data *d, const char *path, bool write,
		     const struct thmq_log_visitor *visitor, void *ctx)
{
	memset(d, 0, sizeof(*d));
	d->path = path;
	d->visitor = visitor;
	d->ctx = ctx;
	d->wrapped = (struct thmq_log_visitor){.size = sizeof(d->wrapped),
					       .batch = visitor->batch ? on_batch : NULL,
					       .run = visitor->run ? on_run : NULL,
					       .finding = on_finding,
					       .step = on_step,
					       .loss = on_loss};
	d->lock_fd = -1;
	if (strlen(path) > 3800)
		return thmqi_fail(-ENAMETOOLONG, "the name of the data directory is too long");
	d->shards = calloc(THMQ_SHARD_COUNT_MAX, 1);
	if (!d->shards)
		return thmqi_fail(-ENOMEM, "%s: out of memory", path);
	return write ? lock_all(d) : lock_shared(d);
}

void thmqi_data_end(struct data *d)
{
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	if (d->dir)
		thmqi_disk_posix.dir_close(d->dir);
	free(d->cluster);
	free(d->topics);
	free(d->shards);
}

/* -------------------------------------------------------------------- scan */

static bool has_shards(const struct data *d)
{
	uint32_t i;

	for (i = 0; i < THMQ_SHARD_COUNT_MAX; i++)
		if (d->shards[i])
			return true;
	return false;
}

static int scan_meta(struct data *d)
{
	struct thmq_log_visitor v = d->wrapped;
	char path[4400];
	int rc;

	v.run = on_meta_run;
	if (!d->has_meta || thmqi_data_log(d, "meta"))
		return 0;
	thmqi_data_path(d, "meta", path);
	rc = thmqi_log_scan(path, NULL, &v, d);
	if (rc == -ENOENT && !d->stop && !has_shards(d)) { /* it is the first to be made */
		rc = 0;
	} else if (rc == -ENOENT && !d->stop) {
		thmqi_data_finding(d, THMQ_FINDING_MISSING, "there is no log in it");
		rc = -THMQ_ECORRUPT;
	}
	if (!d->cluster && !rc && !d->stop)
		thmqi_data_finding(d, THMQ_FINDING_LEFTOVER,
				   "it names no shards: the making of the directory was cut short, "
				   "the next open goes on with it");
	return d->stop ? 0 : rc;
}

static int scan_shard(struct data *d, uint32_t shard)
{
	const struct thmqi_scan_opts opts = {.is_live = d->cluster ? thmqi_data_is_live : NULL,
					     .ctx = d};
	char name[24], path[4400];
	bool known;
	uint32_t is;
	int rc;

	thmqi_data_shard_name(shard, name);
	if (thmqi_data_log(d, name))
		return 0;
	if (!d->shards[shard]) {
		if (d->cluster && d->cluster->ready)
			thmqi_data_finding(d, THMQ_FINDING_MISSING, "this shard is not there");
		return 0;
	}
	if (d->cluster && shard >= d->cluster->shard_count)
		thmqi_data_finding(d, THMQ_FINDING_FOREIGN, "%s: meta knows no such shard", name);
	is = thmqi_data_shard_in(d, shard, &known);
	if (known && is == UINT32_MAX)
		thmqi_data_finding(d, THMQ_FINDING_IDENTITY, "this is no log of this directory");
	else if (known && is != shard)
		thmqi_data_finding(d, THMQ_FINDING_IDENTITY, "this is the log of shard-%03u", is);
	if (d->stop)
		return 0;
	thmqi_data_path(d, name, path);
	rc = thmqi_log_scan(path, &opts, &d->wrapped, d);
	if (rc == -ENOENT && !d->stop && d->cluster && d->cluster->ready)
		thmqi_data_finding(d, THMQ_FINDING_MISSING, "there is no log in it");
	return d->stop || rc == -ENOENT ? 0 : rc;
}

static int scan_all(struct data *d)
{
	uint32_t i, count;
	int rc = thmqi_data_list(d);

	if (rc || d->stop)
		return rc;
	thmqi_data_worse(d, scan_meta(d));
	count = thmqi_data_shard_count(d);
	for (i = 0; i < THMQ_SHARD_COUNT_MAX && !d->stop; i++)
		if (i < count || d->shards[i])
			thmqi_data_worse(d, scan_shard(d, i));
	return d->worst;
}

int thmq_data_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx)
{
	struct thmq_log_visitor v = {0};
	struct data d;
	int rc = visitor ? thmqi_opts_copy(&v, sizeof(v), visitor) : 0;

	if (!dir || !*dir || rc)
		return thmqi_fail(rc ? rc : -EINVAL, "scan: %s",
				  rc ? "a visitor of a wrong size" : "no directory was named");
	rc = thmqi_data_begin(&d, dir, false, &v, ctx);
	rc = rc ? rc : scan_all(&d);
	rc = d.stop ? d.stop : rc;
	if (!d.stop && rc == -THMQ_ECORRUPT)
		thmqi_fail(rc, "scan %s: there is damage", dir);
	thmqi_data_end(&d);
	return rc;
}
