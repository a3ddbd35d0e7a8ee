/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_serve.c - thmq serve: a broker for other processes, until it is interrupted; thmq top: the same, and what it does. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#include <pthread.h>
#include <thundermq/access.h>

#include "thmq.h"

#define LISTEN "tcp://127.0.0.1:7471"
#define URL_BYTES 640u
#define TITLE_BYTES 2048u

#define LOOK_SECONDS 5 /* at the files of TLS: has one changed? */

/* The newest change of any of them. */
static time_t changed(const struct thmq_tls_opts *tls)
{
	const char *files[] = {tls->ca_file, tls->cert_file, tls->key_file, tls->crl_file,
			       tls->psk_file};
	time_t newest = 0;
	struct stat st;
	size_t i;

	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (files[i] && stat(files[i], &st) == 0 && st.st_mtime > newest)
			newest = st.st_mtime;
	return newest;
}

/* A file that changed within the second of the last look is read once too often, never too seldom. */
static void renew(struct thmq_broker *broker, const struct thmq_tls_opts *tls, time_t *seen)
{
	time_t now = changed(tls), clock = time(NULL);

	if (now < *seen)
		return;
	*seen = clock;
	if (thmq_broker_tls_renew(broker, tls) != 0)
		fail(-EINVAL, "%s; what there was stays", thmq_errmsg());
}

/* -------------------------------------------------------------------- access */

#define DENIED_MAX 64u

/* What was denied since it was said last: the cores only write it down. */
static struct {
	pthread_mutex_t lock;
	char lines[DENIED_MAX][640];
	uint32_t count;
	uint64_t lost;
} denied = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_denied(void *ctx, const struct thmq_access *what)
{
	static const char *const operations[] = {"?", "connect", "create", "delete", "describe", "produce", "consume", "administrate", "alter"};
	const char *operation = what->operation <= THMQ_OPERATION_ALTER ? operations[what->operation] : "?";

	(void)ctx;
	pthread_mutex_lock(&denied.lock);
	if (denied.count < DENIED_MAX)
		snprintf(denied.lines[denied.count++], sizeof(denied.lines[0]), "%s: %s %s %s%s%s",
			 what->error == -EAGAIN ? "limited" : "denied", what->identity, what->error == -EAGAIN ? "has to wait to" : "may not", operation,
			 what->topic ? " " : "", what->topic ? what->topic : "");
	else
		denied.lost++;
	pthread_mutex_unlock(&denied.lock);
}

static void say_denied(void)
{
	uint32_t i;

	pthread_mutex_lock(&denied.lock);
	for (i = 0; i < denied.count; i++)
		fprintf(stderr, "thmq: %s\n", denied.lines[i]);
	if (denied.lost)
		fprintf(stderr, "thmq: denied: and %llu more\n", (unsigned long long)denied.lost);
	denied.count = 0;
	denied.lost = 0;
	pthread_mutex_unlock(&denied.lock);
}

static void renew_rules(struct thmq_broker *broker, const char *file, time_t *seen)
{
	time_t clock = time(NULL);
	struct stat st;

	if (stat(file, &st) != 0 || st.st_mtime < *seen)
		return;
	*seen = clock;
	if (thmq_broker_access_renew(broker) != 0)
		fail(-EINVAL, "%s; the rules that there were stay", thmq_errmsg());
}

/* One line for each URL; what does not fit is left out. */
static void where(struct thmq_broker *broker, const char *dir, char *ret_text)
{
	char url[URL_BYTES];
	size_t at = 0;
	uint32_t i;

	ret_text[0] = 0;
	for (i = 0; thmq_broker_listen_url(broker, i, url, sizeof(url)) > 0 && at < TITLE_BYTES;
	     i++)
		at += (size_t)snprintf(ret_text + at, TITLE_BYTES - at, "%s at %s\n", dir, url);
}

/* Of several brokers: who leads, when that has changed. */
static void say_leader(struct thmq_broker *broker, uint64_t own, uint64_t *last)
{
	uint64_t leader = 0;
	int rc = own ? thmq_broker_leader(broker, &leader) : -EINVAL;

	if (rc == -THMQ_EFENCED)
		leader = UINT64_MAX;
	else if (rc < 0)
		return;
	if (leader == *last)
		return;
	*last = leader;
	if (leader == UINT64_MAX)
		fprintf(stderr, "thmq: node %llu: it was removed from its cluster, and serves nothing any more: end it\n", (unsigned long long)own);
	else if (leader == own)
		fprintf(stderr, "thmq: node %llu: it leads\n", (unsigned long long)own);
	else if (leader)
		fprintf(stderr, "thmq: node %llu: node %llu leads\n", (unsigned long long)own, (unsigned long long)leader);
	else
		fprintf(stderr, "thmq: node %llu: nobody leads, as far as it knows\n", (unsigned long long)own);
}

#define NODES_MAX 15u
#define AWAY_NS (2 * SECOND)  /* so long is nothing: others start and end */
#define AGAIN_NS (60 * SECOND) /* and no cause is told more often */

/* Of the others of several brokers: who is not reached by this one, and why; and who is again. */
struct others {
	uint64_t id[NODES_MAX], since_ns[NODES_MAX], told_ns[NODES_MAX];
	int told[NODES_MAX]; /* the error; 0: it is reached, as far as was said */
	uint32_t count;
	int own_told; /* of this one: what it suffers from */
	uint64_t own_told_ns;
};

static void say_other(uint64_t own, const struct thmq_node *n, struct others *o, uint32_t i)
{
	uint64_t now = clock_ns();

	if (n->connected) {
		if (o->told[i])
			fprintf(stderr, "thmq: node %llu: node %llu is reached\n", (unsigned long long)own, (unsigned long long)n->id);
		o->told[i] = 0;
		o->since_ns[i] = 0;
		return;
	}
	if (!o->since_ns[i])
		o->since_ns[i] = now;
	if (!n->error || n->error == o->told[i] || now - o->since_ns[i] < AWAY_NS || (o->told[i] && now - o->told_ns[i] < AGAIN_NS))
		return;
	o->told[i] = n->error;
	o->told_ns[i] = now;
	fprintf(stderr, "thmq: node %llu: node %llu at %s is not reached: %s\n", (unsigned long long)own, (unsigned long long)n->id, n->address,
		node_error(n->error));
}

/* Once; but room may come and go. */
static void say_own(const struct thmq_node *n, struct others *o)
{
	uint64_t now = clock_ns();

	if (n->error == o->own_told || (!n->failed[0] && o->own_told_ns && now - o->own_told_ns < AGAIN_NS))
		return;
	o->own_told = n->error;
	o->own_told_ns = now;
	if (n->failed[0])
		fprintf(stderr, "thmq: node %llu: %s has failed: %s; it takes part no more until it is started anew\n", (unsigned long long)n->id, n->failed,
			node_error(n->error));
	else if (n->error)
		fprintf(stderr, "thmq: node %llu: it has no room: %s\n", (unsigned long long)n->id, node_error(n->error));
	else
		fprintf(stderr, "thmq: node %llu: it has room again\n", (unsigned long long)n->id);
}

static void say_others(struct thmq_broker *broker, uint64_t own, struct others *o)
{
	struct thmq_node nodes[NODES_MAX] = {{.size = sizeof(nodes[0])}};
	int n = own ? thmq_broker_nodes(broker, nodes, NODES_MAX) : 0, i;
	uint32_t k;

	for (i = 0; i < n && i < (int)NODES_MAX; i++) {
		if (nodes[i].id == own) {
			say_own(&nodes[i], o);
			continue;
		}
		for (k = 0; k < o->count && o->id[k] != nodes[i].id; k++)
			;
		if (k == NODES_MAX) /* numbers that came and went: anew */
			k = o->count = 0;
		if (k == o->count) {
			o->id[k] = nodes[i].id;
			o->since_ns[k] = o->told_ns[k] = 0;
			o->told[k] = 0;
			o->count++;
		}
		say_other(own, &nodes[i], o, k);
	}
}

/* @node: which of several brokers; 0: the only one. */
static int serve(struct thmq_broker *broker, uint64_t node, const char *title, const struct thmq_tls_opts *tls, const char *rules)
{
	uint64_t leader = 0;
	struct timespec nap = {.tv_nsec = 100000000};
	time_t seen = time(NULL), looked = seen, rules_seen = seen;
	struct others others = {0};

	fputs(title, stdout);
	fflush(stdout); /* whoever waits for it to be ready reads this */
	while (!interrupted) {
		nanosleep(&nap, NULL);
		say_denied();
		say_leader(broker, node, &leader);
		say_others(broker, node, &others);
		if ((!tls && !rules) || time(NULL) - looked < LOOK_SECONDS)
			continue;
		looked = time(NULL);
		if (tls)
			renew(broker, tls, &seen);
		if (rules)
			renew_rules(broker, rules, &rules_seen);
	}
	return EXIT_OK;
}

/* What one of several brokers is given. */
struct cluster {
	const char *node, *list, *name, *key_file, *listen;
	struct thmq_tls_opts tls; /* certificates in place of the key */
	bool join;
	uint64_t id;
	char key[160], url[URL_BYTES];
};

static int read_key(struct cluster *k)
{
	FILE *f = fopen(k->key_file, "re");

	if (!f)
		return fail(-errno, "%s: %s", k->key_file, strerror(errno));
	if (!fgets(k->key, sizeof(k->key), f))
		k->key[0] = 0;
	fclose(f);
	k->key[strcspn(k->key, "\r\n")] = 0;
	return EXIT_OK;
}

/* Where clients reach it: "7=tcp://host:port+other" among others. */
static void own_url(struct cluster *k, const char **listen)
{
	const char *at = k->list;

	while (at && strtoull(at, NULL, 10) != k->id) {
		at = strchr(at, ',');
		at += at != NULL;
	}
	at = at ? strchr(at, '=') : NULL;
	if (!at)
		return;
	snprintf(k->url, sizeof(k->url), "%.*s", (int)strcspn(at + 1, ",+"), at + 1);
	*listen = k->url;
}

static bool has_certificates(const struct cluster *k)
{
	return k->tls.ca_file || k->tls.cert_file || k->tls.key_file || k->tls.crl_file || k->tls.peer_name;
}

static int check_cluster(struct cluster *k, const char **listen)
{
	if (!k->list)
		return k->node || k->name || k->key_file || k->listen || k->join || has_certificates(k)
			       ? usage_error("--node and what goes with it need --cluster")
			       : EXIT_OK;
	if (!k->node || !parse_number(k->node, UINT64_MAX, &k->id) || !k->id)
		return usage_error("--node: which of the brokers of --cluster is this?");
	if (has_certificates(k) && (k->key_file || !k->tls.cert_file || !k->tls.ca_file))
		return usage_error("certificates between brokers are --cluster-tls-cert and --cluster-tls-ca, and no --cluster-key");
	if (!*listen)
		own_url(k, listen);
	return k->key_file ? read_key(k) : EXIT_OK;
}

/* Who may do what, and what others may see. */
struct watched {
	const char *access, *stats, *trace_text;
	bool no_stats;
	uint64_t trace;
};

/*
 * Beside what was asked for, at a socket in the directory, by which pub, sub and topic join this process when they are given the
 * directory. Where the file system has no sockets it goes without.
 */
static int open_broker(struct connection *c, const char *dir, const char *listen, const struct thmq_tls_opts *tls,
		       const struct cluster *k, const struct watched *w)
{
	char *own = socket_url(dir), *both = own ? malloc(strlen(listen) + strlen(own) + 2) : NULL;
	struct thmq_broker_opts opts = {.size = sizeof(opts),
					.flags = (k->join ? THMQ_BROKER_JOIN : 0) | (w->no_stats ? THMQ_BROKER_NO_STATS : 0),
					.access_file = w->access,
					.audit = w->access ? on_denied : NULL,
					.stats_path = w->stats,
					.trace_every = (uint32_t)w->trace,
					.data_dir = dir,
					.listen = both,
					.tls = tls,
					.cluster = k->list,
					.cluster_name = k->name,
					.cluster_key = k->key_file ? k->key : NULL,
					.cluster_listen = k->listen,
					.cluster_tls = k->tls.cert_file ? &k->tls : NULL,
					.node_id = k->id};
	int rc = both ? 0 : -ENOMEM;

	if (both) {
		sprintf(both, "%s,%s", listen, own);
		rc = thmq_broker_open(c->env, &opts, &c->broker);
		if (rc && strstr(thmq_errmsg(), own)) {
			fprintf(stderr, "thmq: %s: other commands cannot join by the directory\n", thmq_errmsg());
			opts.listen = listen;
			rc = thmq_broker_open(c->env, &opts, &c->broker);
		}
	}
	free(own);
	free(both);
	return rc;
}

/* By the names of our options what the library says by those of its own. */
static int say_why(int rc, const struct thmq_tls_opts *tls)
{
	const char *why = thmq_errmsg();

	if (rc == -EINVAL && strstr(why, "cert_file") && !(tls && (tls->cert_file || tls->psk_file)))
		why = "TLS needs --tls-cert FILE, or --tls-psk FILE; thmq help serve";
	else if (rc == -EINVAL && strstr(why, "who may connect?"))
		why = "who may connect? --tls-ca FILE names who signs clients' certificates; --tls-any-client lets everybody in";
	return fail(rc, "%s", why);
}

static int run(int argc, char **argv, bool tops)
{
	const char *listen = NULL, *cores_text = NULL, *policy_text = NULL, *cap_text = NULL;
	bool once = false, json = false;
	struct cluster k = {.tls = {.size = sizeof(k.tls), .key_password = getenv("THMQ_CLUSTER_TLS_KEY_PASSWORD")}};
	struct watched w = {0};
	const struct option_spec specs[] = {
		{"--access", &w.access, NULL},
		{"--stats", &w.stats, NULL},
		{"--no-stats", NULL, &w.no_stats},
		{"--trace", &w.trace_text, NULL},
		{"--listen", &listen, NULL},
		{"--cores", &cores_text, NULL},
		{"--policy", &policy_text, NULL},
		{"--cpu-cap", &cap_text, NULL},
		{"--node", &k.node, NULL},
		{"--cluster", &k.list, NULL},
		{"--cluster-name", &k.name, NULL},
		{"--cluster-key", &k.key_file, NULL},
		{"--cluster-listen", &k.listen, NULL},
		{"--cluster-tls-ca", &k.tls.ca_file, NULL},
		{"--cluster-tls-cert", &k.tls.cert_file, NULL},
		{"--cluster-tls-key", &k.tls.key_file, NULL},
		{"--cluster-tls-crl", &k.tls.crl_file, NULL},
		{"--cluster-tls-name", &k.tls.peer_name, NULL},
		{"--join", NULL, &k.join},
		{tops ? "--once" : NULL, NULL, &once}, /* serve's end here */
		{"--json", NULL, &json},
		{NULL, NULL, NULL}};
	struct connection c = {0};
	char title[TITLE_BYTES];
	const struct thmq_tls_opts *tls;
	uint64_t cores = 1, cap = 0;
	uint32_t policy = THMQ_POLICY_DEFAULT;
	char *dir;
	int rc = config_words(argc, argv, specs, &argc, &argv, &dir), words;

	if (rc)
		return rc;
	words = parse_options(argc, argv, specs);
	if (words < 0)
		return EXIT_USAGE;
	if (words == 0 && dir)
		argv[words++] = dir;
	rc = check_cluster(&k, &listen);
	if (rc)
		return rc;
	if (cores_text && (!parse_number(cores_text, THMQ_CORE_COUNT_MAX, &cores) || !cores))
		return usage_error("--cores: a number from 1 to %u, not %s", THMQ_CORE_COUNT_MAX,
				   cores_text);
	if (cap_text && (!parse_number(cap_text, 100, &cap) || !cap))
		return usage_error("--cpu-cap is a number from 1 to 100, of percent, not %s",
				   cap_text);
	if (w.trace_text && (!parse_number(w.trace_text, UINT32_MAX, &w.trace) || !w.trace))
		return usage_error("--trace is a number: each N-th group commit is looked at");
	if (policy_text && parse_policy(policy_text, &policy) != EXIT_OK)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1,
			 tops ? "top needs a directory" : "serve needs a directory"))
		return EXIT_USAGE;
	if (is_url(argv[0]))
		return usage_error(
			"%s needs a directory; a URL to listen at stands behind --listen",
			tops ? "top" : "serve");
	if (tops && (rc = top_of_other(argv[0], once, json)) >= 0)
		return rc;
	rc = tls_given(true, &tls);
	if (rc)
		return rc;
	rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.core_count = (uint32_t)cores, .policy = policy,
						 .cpu_cap_percent = (uint32_t)cap));
	if (rc == 0)
		rc = open_broker(&c, argv[0], listen ? listen : LISTEN, tls, &k, &w);
	if (rc) {
		rc = say_why(rc, tls);
		thmq_env_close(c.env, 0);
		return rc;
	}
	where(c.broker, argv[0], title);
	return disconnect(&c, tops ? top(c.env, title, once, json) : serve(c.broker, k.id, title, tls, w.access));
}

int cmd_serve(int argc, char **argv)
{
	return run(argc, argv, false);
}

int serve_as_child(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	return run(argc, argv, false);
}

int cmd_top(int argc, char **argv)
{
	return run(argc, argv, true);
}
