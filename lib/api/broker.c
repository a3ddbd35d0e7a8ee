/* SPDX-License-Identifier: Apache-2.0 */
/* broker.c - the public face of brokers: checks, then calls down. */
#include "api/api.h"
#include "broker/broker.h"
#include <thundermq/access.h>

#define FLAGS (THMQ_BROKER_NO_CREATE | THMQ_BROKER_NO_BACKGROUND_FLUSH | THMQ_BROKER_JOIN | THMQ_BROKER_NO_STATS)

void (thmq_broker_opts_init)(struct thmq_broker_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

static int check_name(const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (*p == '/' || *p == ',' || *p <= ' ' || *p > '~')
			return thmqi_fail(-EINVAL, "broker: a name has no slashes, commas and spaces");
	if (p == name || p - name > 255)
		return thmqi_fail(-EINVAL, "broker: a name has 1 to 255 characters");
	return 0;
}

static int check_peers(const struct thmq_broker_opts *o)
{
	if (o->peer_timeout_ns && o->peer_timeout_ns < 200000000u)
		return thmqi_fail(-EINVAL, "broker: peer_timeout_ns is at least 200 ms");
	if (o->connection_max > 65536)
		return thmqi_fail(-EINVAL, "broker: connection_max is at most 65536");
	return 0;
}

static int check_flush(const struct thmq_broker_opts *o)
{
	if (o->group_ns > 1000000000u)
		return thmqi_fail(-EINVAL, "broker: group_ns is at most a second");
	if (o->group_bytes > (o->batch_bytes ? o->batch_bytes : 1u << 20))
		return thmqi_fail(-EINVAL, "broker: group_bytes is at most batch_bytes");
	if (o->flush_interval_ns > 3600000000000ull)
		return thmqi_fail(-EINVAL, "broker: flush_interval_ns is at most an hour");
	if ((o->flags & THMQ_BROKER_NO_BACKGROUND_FLUSH) && (o->flush_interval_ns || o->flush_bytes))
		return thmqi_fail(-EINVAL, "broker: flush_interval_ns and flush_bytes are of the background flush, which is off");
	return 0;
}

static int check_cluster_tls(const struct thmq_broker_opts *o)
{
	struct thmq_tls_opts tls;
	int rc;

	if (!o->cluster_tls)
		return 0;
	if (o->cluster_key)
		return thmqi_fail(-EINVAL, "broker: cluster_key or cluster_tls: which of them proves who belongs to the cluster?");
	rc = thmqi_opts_copy(&tls, sizeof(tls), o->cluster_tls);
	if (rc)
		return thmqi_fail(rc, "broker: cluster_tls: %s", thmqi_opts_why(rc));
	if (tls.flags & THMQ_TLS_ANY_CLIENT)
		return thmqi_fail(-EINVAL, "broker: cluster_tls asks each broker who it is: no THMQ_TLS_ANY_CLIENT");
	if (!tls.psk_identity && !(tls.cert_file && tls.ca_file))
		return thmqi_fail(-EINVAL, "broker: cluster_tls is the certificate of this broker (cert_file) and who signs those of the others (ca_file)");
	return 0;
}

static int check_cluster(const struct thmq_broker_opts *o)
{
	if (!o->cluster)
		return o->node_id || o->cluster_name || (o->flags & THMQ_BROKER_JOIN) || o->heartbeat_ms || o->election_ms || o->all_timeout_ms || o->cluster_key ||
				       o->cluster_listen || o->cluster_tls
			       ? thmqi_fail(-EINVAL, "broker: node_id and what goes with it are of a cluster, which is not named")
			       : 0;
	if (!o->data_dir)
		return thmqi_fail(-EINVAL, "broker: one of several copies needs a data_dir");
	if (o->limit_bytes || o->full_policy)
		return thmqi_fail(-EOPNOTSUPP, "broker: copies have no limit_bytes yet");
	return check_cluster_tls(o);
}

/* @ret_limits: where they are copied to. */
static int check_client_limits(struct thmq_broker_opts *o, struct thmq_limits *ret_limits)
{
	const uint64_t most = 1000000000000ull;
	int rc;

	if (!o->client_limits)
		return 0;
	rc = thmqi_opts_copy(ret_limits, sizeof(*ret_limits), o->client_limits);
	if (rc)
		return thmqi_fail(rc, "broker: client_limits: %s", thmqi_opts_why(rc));
	o->client_limits = ret_limits;
	if (ret_limits->produce_bytes > most || ret_limits->produce_messages > most || ret_limits->consume_bytes > most ||
	    ret_limits->consume_messages > most)
		return thmqi_fail(-EINVAL, "broker: a limit is at most 10^12 a second");
	return 0;
}

static int check(const struct thmq_broker_opts *o)
{
	int rc;

	if (o->flags & ~FLAGS)
		return thmqi_fail(-EINVAL, "broker: unknown flags %#x", o->flags & ~FLAGS);
	if (o->data_dir && (!*o->data_dir || strlen(o->data_dir) > 3800))
		return thmqi_fail(*o->data_dir ? -ENAMETOOLONG : -EINVAL,
				  "broker: data_dir is %s", *o->data_dir ? "too long" : "empty");
	if (o->shard_count > THMQ_SHARD_COUNT_MAX)
		return thmqi_fail(-EINVAL, "broker: at most %u shards", THMQ_SHARD_COUNT_MAX);
	if (o->write_depth > 64)
		return thmqi_fail(-EINVAL, "broker: write_depth is at most 64");
	if (o->segment_bytes &&
	    (!thmqi_is_pow2(o->segment_bytes) || o->segment_bytes < 1u << 20 || o->segment_bytes > 1u << 30))
		return thmqi_fail(-EINVAL, "broker: segment_bytes is a power of two from 1 MiB to 1 GiB");
	if (o->batch_bytes % THMQI_BLOCK || o->batch_bytes > 4u << 20 ||
	    (o->batch_bytes && o->segment_bytes && o->batch_bytes > o->segment_bytes))
		return thmqi_fail(-EINVAL, "broker: batch_bytes is a multiple of 4096, at most 4 MiB and a segment");
	if (o->cache_bytes && o->cache_bytes < 1u << 20)
		return thmqi_fail(-EINVAL, "broker: cache_bytes is at least 1 MiB");
	if (o->full_policy > THMQ_FULL_DROP_OLDEST)
		return thmqi_fail(-EINVAL, "broker: unknown full_policy %u", o->full_policy);
	if (o->flush_method > THMQ_FLUSH_FDATASYNC)
		return thmqi_fail(-EINVAL, "broker: unknown flush_method %u", o->flush_method);
	if (o->polled_io > THMQ_POLLED_ON)
		return thmqi_fail(-EINVAL, "broker: unknown polled_io %u", o->polled_io);
	rc = check_flush(o);
	if (!rc)
		rc = check_cluster(o);
	if (!rc && o->stats_path && ((o->flags & THMQ_BROKER_NO_STATS) || !*o->stats_path || strlen(o->stats_path) > 3800))
		rc = thmqi_fail(-EINVAL, "broker: stats_path is empty, too long, or not wanted");
	if (!rc && o->audit && !o->access && !o->access_file && !o->client_limits)
		rc = thmqi_fail(-EINVAL, "broker: audit needs access, access_file or client_limits");
	if (!rc && o->name)
		rc = check_name(o->name);
	return rc ? rc : check_peers(o);
}

int thmq_broker_open(struct thmq_env *env, const struct thmq_broker_opts *opts, struct thmq_broker **ret_broker)
{
	return thmqi_api_broker_open(env, opts, NULL, ret_broker);
}

int thmqi_api_broker_open(struct thmq_env *env, const struct thmq_broker_opts *opts, const struct thmqi_carrier *carrier,
			  struct thmq_broker **ret_broker)
{
	struct thmq_limits limits;
	struct thmq_broker_opts o;
	struct thmq_core *mine;
	uint32_t texts = thmqi_fail_count();
	struct thmq_broker *broker;
	struct thmqi_api *api;
	int rc;

	if (!thmqi_api_is_env(env))
		return thmqi_api_not_open("environment");
	if (!ret_broker)
		return thmqi_fail(-EINVAL, "broker: no place for the handle");
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return thmqi_fail(-EDEADLK, "a broker cannot be opened from a core's callback");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "broker: options: %s", thmqi_opts_why(rc));
	rc = check(&o);
	if (!rc)
		rc = check_client_limits(&o, &limits);
	if (rc)
		return rc;
	api = thmqi_api_of(env);
	rc = thmqi_broker_open(env, api->transport, &o, carrier, &broker);
	if (rc && thmqi_fail_count() == texts)
		return thmqi_fail(rc, "open %s: %s", o.data_dir ? o.data_dir : "a broker", thmq_strerror(rc));
	if (rc)
		return rc;
	rc = thmqi_api_note(api, &api->brokers, broker);
	if (rc) {
		thmqi_broker_close(broker, 0, &api->graveyard);
		return thmqi_fail(rc, "no memory for a broker");
	}
	*ret_broker = broker;
	return 0;
}

static int bad_broker(const struct thmq_broker *broker)
{
	if (thmqi_handle_is(broker, THMQI_HANDLE_CLOSING))
		return thmqi_fail(-EINVAL, "another thread is closing this broker");
	return thmqi_api_not_open("broker");
}

/* Under the lock that others use the broker's insides under: it is ours alone to close from then on. */
static bool begin_close(struct thmqi_api *api, struct thmq_broker *broker)
{
	bool ours;

	pthread_mutex_lock(&api->lock);
	ours = thmqi_handle_turn(broker, THMQI_HANDLE_BROKER, THMQI_HANDLE_CLOSING);
	pthread_mutex_unlock(&api->lock);
	return ours;
}

int thmq_broker_close(struct thmq_broker *broker, uint64_t timeout_ns)
{
	struct thmqi_api *api;
	struct thmq_core *mine;
	struct thmq_env *env;
	int rc;

	if (!thmqi_api_is_broker(broker))
		return bad_broker(broker);
	env = thmqi_broker_env(broker);
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return thmqi_fail(-EDEADLK, "a broker cannot be closed from a core's callback");
	api = thmqi_api_of(env);
	if (!begin_close(api, broker))
		return bad_broker(broker);
	rc = thmqi_broker_close(broker, timeout_ns, &api->graveyard);
	if (rc == -EDEADLK && thmqi_handle_turn(broker, THMQI_HANDLE_CLOSING, THMQI_HANDLE_BROKER))
		return rc; /* nothing was done */
	thmqi_api_forget(api, &api->brokers, broker);
	return rc ? thmqi_fail(rc, "close a broker: %s", thmq_strerror(rc)) : 0;
}

/* The broker is open, and no other thread closes it before the unlock; NULL: it is not, and nothing is locked. */
static struct thmqi_api *lock(struct thmq_broker *broker)
{
	struct thmqi_api *api;

	if (!thmqi_api_is_broker(broker))
		return NULL;
	api = thmqi_api_of(thmqi_broker_env(broker));
	pthread_mutex_lock(&api->lock);
	if (thmqi_handle_is(broker, THMQI_HANDLE_BROKER))
		return api;
	pthread_mutex_unlock(&api->lock);
	return NULL;
}

int thmq_broker_stats(struct thmq_broker *broker, struct thmq_broker_stats *ret_stats)
{
	struct thmq_broker_stats stats = {0};
	struct thmqi_api *api;

	if (!thmqi_api_is_broker(broker))
		return bad_broker(broker);
	if (!ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return thmqi_fail(-EINVAL, "stats: set the size field first");
	api = lock(broker);
	if (!api)
		return bad_broker(broker);
	thmqi_broker_stats(broker, &stats);
	pthread_mutex_unlock(&api->lock);
	stats.size = ret_stats->size;
	memset((char *)ret_stats, 0, stats.size);
	memcpy(ret_stats, &stats, THMQI_MIN(stats.size, (uint32_t)sizeof(stats)));
	return 0;
}

int thmq_broker_leader(struct thmq_broker *broker, uint64_t *ret_id)
{
	struct thmqi_api *api = lock(broker);
	int rc;

	if (!api)
		return bad_broker(broker);
	rc = thmqi_broker_leader(broker, ret_id);
	pthread_mutex_unlock(&api->lock);
	return rc;
}

int thmq_broker_nodes(struct thmq_broker *broker, struct thmq_node *ret_nodes, uint32_t max)
{
	struct thmqi_api *api;
	int rc;

	if (!thmqi_api_is_broker(broker))
		return bad_broker(broker);
	if (max && (!ret_nodes || thmqi_size_is_wrong(ret_nodes[0].size)))
		return thmqi_fail(-EINVAL, "list nodes: set the size field of the first one");
	api = lock(broker);
	if (!api)
		return bad_broker(broker);
	rc = thmqi_broker_nodes(broker, ret_nodes, max);
	pthread_mutex_unlock(&api->lock);
	return rc;
}

int thmq_broker_tls_renew(struct thmq_broker *broker, const struct thmq_tls_opts *opts)
{
	struct thmqi_api *api = lock(broker);
	int rc;

	if (!api)
		return bad_broker(broker);
	rc = thmqi_broker_tls_renew(broker, opts);
	pthread_mutex_unlock(&api->lock);
	return rc;
}

int thmq_broker_access_renew(struct thmq_broker *broker)
{
	struct thmqi_api *api = lock(broker);
	int rc;

	if (!api)
		return bad_broker(broker);
	rc = thmqi_broker_access_renew(broker);
	pthread_mutex_unlock(&api->lock);
	return rc;
}

int thmq_broker_listen_url(struct thmq_broker *broker, uint32_t index, char *ret_url, uint32_t size)
{
	struct thmqi_api *api;
	int rc;

	if (!thmqi_api_is_broker(broker))
		return bad_broker(broker);
	if (!ret_url || !size)
		return thmqi_fail(-EINVAL, "where a broker listens: no place for the URL");
	api = lock(broker);
	if (!api)
		return bad_broker(broker);
	rc = thmqi_broker_listen_url(broker, index, ret_url, size);
	pthread_mutex_unlock(&api->lock);
	if (rc == -ENOENT)
		return thmqi_fail(rc, "where a broker listens: there is no URL %u", index);
	return rc < 0 ? thmqi_fail(rc, "where a broker listens: the URL is longer than %u bytes", size - 1) : rc;
}
