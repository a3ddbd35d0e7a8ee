/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker.c - a broker's life: directory and lock, meta first, then the shards on their cores, then the door; and all
 * of it backwards. Runs on the opening thread and makes calls on the cores; nothing here is on a message's path.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "commitlog/close.h"
#include "commitlog/limit.h"
#include "disk/busy.h"
#include "meta/meta.h"
#include "copies/node.h"
#include "txn/txn.h"

/* What is to be done on a core, with the error's text carried back from that core's thread. */
struct core_job {
	struct thmq_broker *broker;
	struct shard *shard;
	int (*run)(struct core_job *job);
	uint64_t value;
	char text[512];
};

static int run_job(struct thmq_core *core, void *arg)
{
	struct core_job *job = arg;
	uint32_t texts = thmqi_fail_count();
	int rc = job->run(job);

	(void)core;
	if (rc < 0 && thmqi_fail_count() != texts)
		snprintf(job->text, sizeof(job->text), "%s", thmq_errmsg());
	return rc;
}

/* No time-out: what a core began must end before its argument goes. */
static int on_core(struct thmq_broker *b, struct shard *s, int (*run)(struct core_job *),
		   uint64_t *value)
{
	struct core_job job = {.broker = b, .shard = s, .run = run, .value = value ? *value : 0};
	int rc = thmqi_core_call(s->core, run_job, &job, UINT64_MAX);

	if (value)
		*value = job.value;
	if (rc == -EDEADLK)
		return thmqi_fail(rc,
				  "core %u has no thread that drives it: attach one, or let the "
				  "library drive it",
				  s->core->index);
	return rc < 0 && job.text[0] ? thmqi_fail(rc, "%s", job.text) : rc;
}

static int count_listener(struct core_job *job)
{
	job->broker->counted = job->broker->listener;
	return 0;
}

static int count_no_listener(struct core_job *job)
{
	job->broker->counted = NULL;
	return 0;
}

static void run_post(struct thmq_core *core, struct thmqi_task *task)
{
	struct thmqi_broker_post *post = thmqi_container(task, struct thmqi_broker_post, task);

	(void)core;
	post->run(post);
}

void thmqi_broker_post(struct thmqi_broker_post *post, struct shard *to, void (*run)(struct thmqi_broker_post *post))
{
	post->task.run = run_post;
	post->run = run;
	post->shard = to;
	thmqi_core_post(to->core, &post->task);
}

/* --------------------------------------------------------------- directory */

/* Open, and locked, until the broker and all of its logs have done with it: the device may still have writes of a log that
 * was not closed in time. */
struct dir_hold {
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	_Atomic uint32_t refs;
};

void *thmqi_broker_dir_keep(struct thmq_broker *b)
{
	if (b->dir_hold)
		atomic_fetch_add_explicit(&b->dir_hold->refs, 1, memory_order_relaxed);
	return b->dir_hold;
}

void thmqi_broker_dir_let_go(void *arg)
{
	struct dir_hold *h = arg;

	if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) > 1)
		return;
	h->disk->dir_close(h->dir);
	free(h);
}

static int dir_hold_make(struct thmq_broker *b)
{
	struct dir_hold *h = calloc(1, sizeof(*h));

	if (!h) {
		b->disk->dir_close(b->dir);
		b->dir = NULL;
		return -ENOMEM;
	}
	h->disk = b->disk;
	h->dir = b->dir;
	atomic_store(&h->refs, 1);
	b->dir_hold = h;
	return 0;
}

/* ------------------------------------------------------------------- waits */

static uint64_t now_of(struct thmq_broker *b)
{
	const struct thmqi_clock *clock = b->shards[0].core->clock;

	return clock->now_ns(clock->ctx);
}

static void rest(struct thmq_broker *b)
{
	struct thmq_core *mine = thmqi_core_mine(b->env);
	struct timespec pause = {.tv_nsec = 50000};

	if (mine)
		thmqi_core_poll(mine, 1000000);
	else
		nanosleep(&pause, NULL);
}

/* Repeats @run on the shard's core until it says 1 (done), an error, or the time has passed. */
static int wait_for(struct thmq_broker *b, struct shard *s, int (*run)(struct core_job *),
		    uint64_t deadline)
{
	int rc;

	while ((rc = on_core(b, s, run, NULL)) == 0) {
		if (now_of(b) >= deadline)
			return -ETIMEDOUT;
		rest(b);
	}
	return rc < 0 ? rc : 0;
}

static int is_settled(struct core_job *job)
{
	struct shard *s = job->shard;

	if (s->failed)
		return s->failed;
	return s->pending_head == s->pending_tail;
}

static int has_no_changes(struct core_job *job)
{
	struct meta *m = job->broker->meta;
	const struct meta_change *c = m ? m->changes : NULL;

	while (c && job->shard->failed && !c->waiting) /* what a failed log has not stored stays where it is */
		c = c->next;
	return !c && !atomic_load(&job->broker->carrying) && !(m && thmqi_txns_wait(m));
}

/* Nothing is between meta and the other shards. */
static int has_no_posts(struct core_job *job)
{
	struct meta *m = job->broker->meta;
	const struct meta_change *c = m ? m->changes : NULL;

	while (c && !c->waiting)
		c = c->next;
	return !c && !atomic_load(&job->broker->carrying) && !(m && thmqi_txns_wait(m));
}

/* -------------------------------------------------------------------- open */

struct listing {
	bool meta, shards, foreign;
	char first[64];
};

static int look_at_entry(void *arg, const char *name)
{
	struct listing *l = arg;

	if (strcmp(name, "meta") == 0) {
		l->meta = true;
	} else if (strncmp(name, "shard-", 6) == 0 && name[6] >= '0' && name[6] <= '9') {
		l->shards = true;
	} else if (strcmp(name, "lock") != 0 && strcmp(name, "socket") != 0 && strcmp(name, "stats") != 0 && strncmp(name, "shard-", 6) != 0 && name[0] != '.' &&
		   strcmp(name, "lost+found") != 0 && strcmp(name, "node") != 0 && strcmp(name, "node.tmp") != 0) {
		l->foreign = true;
		snprintf(l->first, sizeof(l->first), "%.63s", name);
	}
	return 0;
}

/* It is stored before any shard is made. */
static int meta_missing(const struct thmq_broker *b)
{
	return thmqi_fail(-THMQ_ECORRUPT,
			  "open %s: there are shards, but meta, which tells their topics, is missing or empty; "
			  "put it back from a copy",
			  b->data_dir);
}

/* What its shards would refuse is refused before any of them is made. */
static int check_limit(const struct thmq_broker *b)
{
	return thmqi_log_limit_check(b->data_dir, b->opts.limit_bytes, b->opts.segment_bytes);
}

static int dir_find(struct thmq_broker *b, bool create)
{
	int rc = b->disk->dir_open(b->disk_ctx, b->data_dir, false, &b->dir);

	if (rc == -ENOENT && create) {
		rc = check_limit(b);
		if (rc)
			return rc;
		rc = b->disk->dir_open(b->disk_ctx, b->data_dir, true, &b->dir);
	}
	if (!rc)
		rc = dir_hold_make(b);
	if (rc == -ENOENT && !create)
		return thmqi_fail(rc, "open %s: it is not there, and THMQ_BROKER_NO_CREATE is set", b->data_dir);
	return rc ? thmqi_fail(rc, "open %s: %s", b->data_dir, thmq_strerror(rc)) : 0;
}

static int dir_open(struct thmq_broker *b)
{
	bool create = !(b->opts.flags & THMQ_BROKER_NO_CREATE);
	struct listing l = {0};
	uint64_t pid = 0;
	int rc = dir_find(b, create);

	if (rc)
		return rc;
	rc = b->disk->dir_list(b->dir, look_at_entry, &l);
	if (rc)
		return thmqi_fail(rc, "read %s: %s", b->data_dir, thmq_strerror(rc));
	b->has_shards = l.shards;
	b->has_meta = l.meta;
	if (!l.meta && l.shards && !b->cluster)
		return meta_missing(b);
	if (!l.meta && !create)
		return thmqi_fail(-ENOENT, "open %s: there is no data in it yet", b->data_dir);
	if (!l.meta && l.foreign)
		return thmqi_fail(-ENOTEMPTY,
				  "open %s: it holds other things (%s) and no data of ours; name "
				  "an empty directory",
				  b->data_dir, l.first);
	rc = l.shards ? 0 : check_limit(b);
	if (rc)
		return rc;
	rc = b->disk->dir_lock(b->dir, "lock", &pid);
	if (rc == -EBUSY)
		return thmqi_disk_busy(b->data_dir, pid);
	if (rc)
		return thmqi_fail(rc, "lock %s/lock: %s", b->data_dir, thmq_strerror(rc));
	return 0;
}

static void shard_path(const struct thmq_broker *b, uint32_t id, char *path, size_t size)
{
	if (id == THMQI_SHARD_META)
		snprintf(path, size, "%s/meta", b->data_dir);
	else
		snprintf(path, size, "%s/shard-%03u", b->data_dir, id - 1);
}

static int open_meta(struct core_job *job)
{
	struct thmq_broker *b = job->broker;
	struct shard *s = job->shard;
	char path[4096];
	int rc;

	rc = thmqi_meta_open(b, &b->meta);
	if (rc)
		return rc;
	if (b->data_dir) {
		shard_path(b, THMQI_SHARD_META, path, sizeof(path));
		rc = thmqi_shard_log_open(s, path, NULL, !b->has_shards);
		if (rc)
			return rc == -ENOENT ? meta_missing(b) : rc;
	}
	b->incarnation = s->term;
	b->meta->next_epoch = s->term << 32;
	thmqi_shard_start(s);
	if (b->data_dir) {
		rc = thmqi_meta_cluster_ensure(b->meta);
		if (rc == 0) {
			job->value = thmqi_meta_cluster(b->meta)->shard_count;
			memcpy(&b->identity, thmqi_meta_cluster(b->meta) + 1, sizeof(b->identity));
		}
	} else {
		thmqi_random_bytes(&b->identity, sizeof(b->identity));
	}
	return rc;
}

/* Those that have acknowledged nothing yet are waited for too. */
static int add_group(void *ctx, uint32_t group_id)
{
	return thmqi_offsets_get(ctx, group_id, true) ? 0 : -ENOMEM;
}

static int add_partition(void *ctx, const struct state_topic *topic, uint32_t partition)
{
	struct shard *s = ctx;
	int rc = thmqi_shard_partition_add(s, partition, topic);

	if (!rc && (topic->flags & THMQ_TOPIC_RETAIN_CONSUMED))
		thmqi_meta_each_group(s->broker->meta, topic->topic_id, add_group, thmqi_shard_partition(s, partition), &rc);
	return rc;
}

static int add_fence(void *ctx, uint64_t producer, uint32_t epoch)
{
	return thmqi_writer_fence(ctx, producer, epoch);
}

/* Nobody changes meta before the door is open, so that it can be read from here. */
static int open_shard(struct core_job *job)
{
	struct thmq_broker *b = job->broker;
	struct shard *s = job->shard;
	const struct state_cluster *cluster;
	const uint8_t *ids;
	char path[4096];
	int rc = 0;

	thmqi_meta_each_partition(b->meta, s->id, add_partition, s, &rc);
	if (!rc)
		thmqi_meta_each_producer(b->meta, add_fence, s, &rc);
	if (rc)
		return rc;
	if (b->data_dir) {
		cluster = thmqi_meta_cluster(b->meta);
		ids = (const uint8_t *)(cluster + 1);
		shard_path(b, s->id, path, sizeof(path));
		rc = thmqi_shard_log_open(s, path, ids + (s->id - 1) * 16u, !cluster->ready);
		if (rc == -ENOENT)
			return thmqi_fail(-THMQ_ECORRUPT,
					  "open %s: this shard is missing; put it back from a copy", path);
		if (rc)
			return rc;
		thmqi_groups_purge(s);
	}
	thmqi_shard_start(s);
	return 0;
}

static int look_after(struct core_job *job)
{
	thmqi_meta_look_after(job->broker->meta);
	thmqi_txns_recover(job->broker->meta);
	return 0;
}

static int mark_ready(struct core_job *job)
{
	return thmqi_meta_cluster_ready(job->broker->meta);
}

static int open_shards(struct thmq_broker *b, uint32_t count)
{
	uint32_t cores = thmqi_env_core_count(b->env), i;
	int rc;

	for (i = 1; i <= count; i++) {
		rc = thmqi_shard_init(&b->shards[i], b, i, thmqi_env_core(b->env, (i - 1) % cores));
		if (rc)
			return rc;
		b->shard_count = i + 1;
	}
	for (i = 1; i <= count; i++) {
		rc = on_core(b, &b->shards[i], open_shard, NULL);
		if (rc)
			return rc;
	}
	return 0;
}

static struct thmq_core *core_of(void *ctx, uint32_t shard)
{
	struct thmq_broker *b = ctx;

	return shard < b->shard_count ? b->shards[shard].core : NULL;
}

/* ------------------------------------------------------------------- copies */

/* One that was lost, or made just now beside others that were not, may have voted. */
static int copy_missing(const char *path)
{
	return thmqi_fail(-THMQ_ECORRUPT,
			  "open %s: this copy is missing, so that this broker may no longer vote: remove it from its cluster, and let it "
			  "join anew with an empty directory and another node_id",
			  path);
}

/* Meta is made last: where it is, all are. */
static int open_copy(struct core_job *job)
{
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct thmq_broker *b = job->broker;
	struct shard *s = job->shard;
	char path[4096];
	int rc;

	shard_path(b, s->id, path, sizeof(path));
	rc = s->id == THMQI_SHARD_META ? thmqi_meta_open(b, &b->meta) : 0;
	if (!rc)
		rc = thmqi_shard_log_open(s, path, NULL, s->id == THMQI_SHARD_META || !b->has_meta);
	if (rc)
		return rc == -ENOENT ? copy_missing(path) : rc;
	if (!b->has_meta && b->cluster->count > 1 && thmq_log_stats(s->log, &stats) == 0 &&
	    stats.last_index > 1)
		return copy_missing(path);
	thmqi_shard_start(s);
	return 0;
}

static int open_copies(struct thmq_broker *b)
{
	uint32_t cores = thmqi_env_core_count(b->env), count = b->opts.shard_count, i;
	int rc = thmqi_node_open(b);

	for (i = 0; i <= count && !rc; i++) {
		rc = thmqi_shard_init(&b->shards[i], b, i, thmqi_env_core(b->env, i ? (i - 1) % cores : 0));
		if (!rc)
			b->shard_count = i + 1;
	}
	for (i = 1; i <= count && !rc; i++)
		rc = on_core(b, &b->shards[i], open_copy, NULL);
	if (!rc)
		rc = on_core(b, &b->shards[THMQI_SHARD_META], open_copy, NULL);
	rc = rc ? rc : b->disk->dir_sync(b->dir);
	return rc ? rc : thmqi_node_made(b);
}

static int open_logs(struct thmq_broker *b);

static int begin_to_publish(struct core_job *job)
{
	return thmqi_publish_begin(job->shard);
}

/* A broker that cannot works without. */
static void publish(struct thmq_broker *b)
{
	uint32_t i;

	thmqi_publish_open(b);
	for (i = 0; b->publication && i < b->shard_count; i++)
		on_core(b, &b->shards[i], begin_to_publish, NULL);
}

static int open_all(struct thmq_broker *b)
{
	struct thmqi_acceptor acceptor = {.core_of = core_of,
					  .accept = thmqi_shard_accept,
					  .closed = thmqi_shard_closed,
					  .rest = thmqi_shard_rest,
					  .rouse = thmqi_shard_rouse,
					  .came = thmqi_shard_came,
					  .ctx = b,
					  .end_bytes = sizeof(struct conn)};
	int rc = b->cluster ? open_copies(b) : open_logs(b);

	if (!rc && !b->cluster)
		rc = on_core(b, &b->shards[THMQI_SHARD_META], look_after, NULL);
	if (rc)
		return rc;
	publish(b);
	rc = thmqi_transport_listen(b->transport, b->name, &acceptor, &b->listener);
	if (rc == -EEXIST)
		return thmqi_fail(rc,
				  "inproc://%s is the name of another broker of this environment",
				  b->name ? b->name : "");
	if (rc == 0 && b->opts.listen)
		rc = thmqi_transport_listen_at(b->listener, b->opts.listen,
					       &(struct thmqi_listen_opts){.silence_ns = b->opts.peer_timeout_ns,
									   .connections_max = b->opts.connection_max,
									   .tls = b->opts.tls});
	b->opts.tls = NULL; /* the caller's, during the open only */
	b->opts.cluster_key = b->opts.cluster_listen = NULL;
	b->opts.cluster_tls = NULL;
	if (rc == 0 && b->cluster && b->name)
		rc = thmqi_transport_reach_add(b->transport, b->name, b, &b->reach);
	return rc ? rc : on_core(b, &b->shards[THMQI_SHARD_META], count_listener, NULL);
}

static int open_logs(struct thmq_broker *b)
{
	uint64_t shards = b->opts.shard_count ? b->opts.shard_count : thmqi_env_core_count(b->env);
	int rc;

	rc = thmqi_shard_init(&b->shards[0], b, THMQI_SHARD_META, thmqi_env_core(b->env, 0));
	if (rc)
		return rc;
	b->shard_count = 1;
	rc = on_core(b, &b->shards[0], open_meta, &shards);
	if (rc)
		return rc;
	if (b->data_dir) {
		rc = wait_for(b, &b->shards[0], is_settled, UINT64_MAX);
		if (rc)
			return thmqi_fail(rc, "write %s/meta: %s", b->data_dir, thmq_strerror(rc));
	}
	rc = open_shards(b, (uint32_t)shards);
	if (rc)
		return rc;
	if (b->data_dir) {
		rc = b->disk->dir_sync(b->dir);
		if (rc == 0)
			rc = on_core(b, &b->shards[0], mark_ready, NULL);
		if (rc == 0)
			rc = wait_for(b, &b->shards[0], is_settled, UINT64_MAX);
		if (rc)
			return thmqi_fail(rc, "write %s/meta: %s", b->data_dir, thmq_strerror(rc));
	}
	return rc;
}

int thmqi_broker_open(struct thmq_env *env, struct thmqi_transport *transport,
		      const struct thmq_broker_opts *opts, const struct thmqi_carrier *carrier,
		      struct thmq_broker **ret_broker)
{
	struct thmq_broker *b = calloc(1, sizeof(*b));
	int rc = -ENOMEM;

	if (!b)
		return thmqi_fail(-ENOMEM, "no memory for a broker");
	b->handle.kind = THMQI_HANDLE_BROKER;
	pthread_mutex_init(&b->guard.lock, NULL);
	thmqi_list_init(&b->guard.clients);
	thmqi_list_init(&b->guard.rates);
	thmqi_list_init(&b->guard.retired);
	b->env = env;
	b->transport = transport;
	b->opts = *opts;
	b->disk = thmqi_disk_of(thmqi_env_core(env, 0), &b->disk_ctx);
	/* most of it is never touched */
	b->shards = calloc(THMQ_SHARD_COUNT_MAX + 1, sizeof(*b->shards));
	b->data_dir = opts->data_dir ? strdup(opts->data_dir) : NULL;
	b->name = opts->name ? strdup(opts->name) : NULL;
	b->stats_path = opts->stats_path ? strdup(opts->stats_path) : NULL;
	if (!b->shards || (opts->stats_path && !b->stats_path) || (opts->data_dir && !b->data_dir) || (opts->name && !b->name)) {
		thmqi_fail(rc, "no memory for a broker");
		goto fail;
	}
	b->opts.data_dir = b->data_dir;
	b->opts.name = b->name;
	if (carrier)
		b->carrier = *carrier;
	b->opts.stats_path = NULL;
	rc = thmqi_guard_open(b);
	if (rc)
		goto fail;
	rc = opts->cluster ? thmqi_cluster_init(b) : 0;
	b->opts.cluster = b->opts.cluster_name = NULL;
	if (rc)
		goto fail;
	if (opts->listen) {
		rc = thmqi_transport_check_urls(transport, opts->listen);
		if (rc)
			goto fail;
	}
	rc = b->data_dir ? dir_open(b) : 0;
	if (rc == 0)
		rc = open_all(b);
	if (rc)
		goto fail;
	*ret_broker = b;
	return 0;
fail:
	thmqi_broker_close(b, 0, NULL);
	return rc;
}

/* ------------------------------------------------------------------- close */

static int shut_shard(struct core_job *job)
{
	thmqi_shard_shut(job->shard);
	return 0;
}

static int close_shard(struct core_job *job)
{
	struct shard *s = job->shard;
	int rc = 0;

	thmqi_publish_end(s); /* its log's numbers go with the log */
	if (s->log) {
		void *hold = thmqi_broker_dir_keep(job->broker);

		rc = s->lead ? thmqi_lead_close(s, job->value, thmqi_broker_dir_let_go, hold)
			     : thmqi_log_close_notify(s->log, job->value, thmqi_broker_dir_let_go, hold);
		s->log = NULL;
	}
	if (s->id == THMQI_SHARD_META && job->broker->meta) {
		thmqi_meta_close(job->broker->meta);
		job->broker->meta = NULL;
	}
	thmqi_shard_fini(s);
	return rc;
}

/* A shard that was opened and whose core has no thread: it cannot be closed. */
static struct shard *orphan(struct thmq_broker *b)
{
	uint32_t i;

	for (i = 0; i < b->shard_count; i++)
		if (b->shards[i].open && !thmqi_core_is_driven(b->shards[i].core))
			return &b->shards[i];
	return NULL;
}

int thmqi_broker_can_close(struct thmq_broker *b)
{
	const struct shard *s = orphan(b);

	return s ? thmqi_fail(-EDEADLK, "close a broker: core %u has no thread that drives it; attach one", s->core->index) : 0;
}

static int hand_over(struct core_job *job)
{
	return job->shard->lead ? thmqi_lead_hand_over(job->shard) : 1;
}

#define CLOSE_GRACE_NS 1000000000u /* what a close may take longer than its time-out */

/* What is stored from now on, of its own or of others, is the next open's to carry: its shards are about to go. */
static int carry_no_more(struct core_job *job)
{
	struct meta *m = job->broker->meta;
	struct meta_change *c;

	if (!m)
		return 0;
	m->follows_no_more = true;
	for (c = m->changes; c; c = c->next)
		c->orphan = true;
	return 0;
}

/* Nobody is to wait until it is missed. What it has not settled yet it needs the others for. */
static void leave_cluster(struct thmq_broker *b, uint64_t timeout_ns, uint64_t deadline)
{
	uint64_t most;
	uint32_t i;

	for (i = b->shard_count; i-- > 0 && timeout_ns;) {
		if (!b->shards[i].open)
			continue;
		wait_for(b, &b->shards[i], is_settled, deadline);
		most = now_of(b) + 1000000ull * (b->opts.election_ms ? b->opts.election_ms : 300);
		wait_for(b, &b->shards[i], hand_over, THMQI_MIN(most, deadline));
	}
	if (b->reach)
		thmqi_transport_reach_remove(b->transport, b->reach);
	b->reach = NULL;
}

/* The answers of shards come home before what they refer to goes. */
static void end_changes(struct thmq_broker *b, uint64_t deadline)
{
	if (!b->shards[THMQI_SHARD_META].open)
		return;
	on_core(b, &b->shards[THMQI_SHARD_META], carry_no_more, NULL);
	wait_for(b, &b->shards[THMQI_SHARD_META], has_no_posts, THMQI_MAX(deadline, now_of(b) + CLOSE_GRACE_NS));
}

/* A core may have a thread that has stopped to drive it, or waits for the one that closes: nothing is begun then. */
static int are_driven(struct thmq_broker *b, uint64_t timeout_ns)
{
	uint64_t most = timeout_ns > UINT64_MAX - CLOSE_GRACE_NS ? UINT64_MAX : timeout_ns + CLOSE_GRACE_NS;
	const struct thmq_core *last = NULL;
	uint32_t i;
	int rc;

	for (i = 0; i < b->shard_count; i++) {
		struct thmq_core *core = b->shards[i].core;

		if (!b->shards[i].open || core == last)
			continue;
		last = core;
		rc = thmqi_core_barrier(core, most);
		if (rc)
			return thmqi_fail(rc == -ETIMEDOUT ? -EDEADLK : rc,
					  "close a broker: core %u is not driven; its thread has to call thmq_poll() meanwhile", core->index);
	}
	return 0;
}

static int close_one(struct thmq_broker *b, struct shard *s, uint64_t deadline)
{
	uint64_t now, left;
	int rc = 0, closed;

	/* a failed open never came to it: there is nothing of it on its core, which perhaps nobody drives */
	if (!s->open && !s->log && s->id != THMQI_SHARD_META && s->partitions.count == 0) {
		thmqi_shard_fini(s);
		return 0;
	}

	if (s->open)
		rc = wait_for(b, s, is_settled, deadline);
	now = now_of(b);
	left = deadline > now ? deadline - now : 0;
	closed = on_core(b, s, close_shard, &left);
	return rc ? rc : closed;
}

int thmqi_broker_close(struct thmq_broker *b, uint64_t timeout_ns,
		       struct thmqi_graveyard *graveyard)
{
	uint64_t now, deadline;
	uint32_t i;
	int rc = graveyard ? thmqi_broker_can_close(b) : 0, one;

	if (graveyard && !rc)
		rc = are_driven(b, timeout_ns);
	if (rc)
		return rc;
	atomic_store(&b->closing, true);
	while (atomic_load(&b->copies))
		rest(b);
	if (b->shard_count && b->shards[THMQI_SHARD_META].open)
		on_core(b, &b->shards[THMQI_SHARD_META], count_no_listener, NULL);
	if (b->listener)
		thmqi_transport_unlisten(b->listener);
	if (b->shard_count) {
		now = now_of(b);
		deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
		for (i = b->shard_count; i-- > 0;)
			if (b->shards[i].open)
				on_core(b, &b->shards[i], shut_shard, NULL);
		/* the answers of other shards come home before what they refer to goes */
		if (b->shards[0].open)
			wait_for(b, &b->shards[0], has_no_changes,
				 THMQI_MAX(deadline, now + CLOSE_GRACE_NS));
		if (b->cluster)
			leave_cluster(b, timeout_ns, deadline);
		end_changes(b, deadline);
		for (i = b->shard_count; i-- > 0;) {
			one = close_one(b, &b->shards[i], deadline);
			rc = rc ? rc : one;
		}
	}
	thmqi_publish_close(b);
	thmqi_guard_close(b);
	thmqi_node_close(b);
	thmqi_broker_dir_let_go(b->dir_hold);
	free(b->shards);
	thmqi_roll_close(b);
	free(b->cluster);
	free(b->data_dir);
	free(b->name);
	free(b->stats_path);
	b->shards = NULL;
	b->data_dir = b->name = NULL;
	if (graveyard)
		thmqi_handle_bury(graveyard, &b->handle);
	else
		free(b);
	return rc;
}

void thmqi_broker_copy_hold(struct thmq_broker *b)
{
	atomic_fetch_add(&b->copies, 1);
}

void thmqi_broker_copy_let_go(struct thmq_broker *b)
{
	atomic_fetch_sub(&b->copies, 1);
}

/* ------------------------------------------------------------------- stats */

struct thmq_env *thmqi_broker_env(const struct thmq_broker *broker)
{
	return broker->env;
}

int thmqi_broker_leader(struct thmq_broker *b, uint64_t *ret_id)
{
	if (ret_id)
		*ret_id = b->cluster ? atomic_load(&b->leader) : 0;
	if (b->cluster && atomic_load(&b->removed))
		return -THMQ_EFENCED;
	return !b->cluster || atomic_load(&b->leads);
}

int thmqi_broker_listen_url(struct thmq_broker *b, uint32_t index, char *ret_url, uint32_t size)
{
	return thmqi_listener_url(b->listener, index, ret_url, size);
}

#define read_counter(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

int thmqi_broker_access_renew(struct thmq_broker *b)
{
	return thmqi_guard_renew(b);
}

int thmqi_broker_tls_renew(struct thmq_broker *b, const struct thmq_tls_opts *opts)
{
	return thmqi_listener_renew(b->listener, opts);
}

void thmqi_broker_stats(struct thmq_broker *b, struct thmq_broker_stats *ret)
{
	uint32_t i;

	ret->shard_count = b->shard_count - 1;
	ret->topic_count = read_counter(b->meta->topic_count);
	ret->session_count = read_counter(b->shards[0].conn_count);
	if (b->listener)
		thmqi_listener_stats(b->listener, ret);
	for (i = 0; i < b->shard_count; i++) {
		const struct shard *s = &b->shards[i];
		struct thmq_log_stats log = {.size = sizeof(log)};

		ret->messages_in += read_counter(s->messages_in);
		ret->bytes_in += read_counter(s->bytes_in);
		ret->messages_out += read_counter(s->messages_out);
		ret->bytes_out += read_counter(s->bytes_out);
		ret->recovered_messages += s->recovered_messages;
		if (!s->log || thmq_log_stats(s->log, &log) != 0)
			continue;
		ret->batches += log.batches;
		ret->stored_bytes += log.stored_bytes;
		ret->recovery_ns += log.recovery_ns;
		ret->torn_bytes += log.torn_bytes;
		ret->disk_engine = log.disk_engine;
		ret->direct_io = log.direct_io;
		ret->flush_method = log.flush_method;
		ret->polled_io = log.polled_io;
	}
}
