/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_serve.c - thmq serve: a broker for other processes, until it is interrupted; thmq top: the same, and what it does. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

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

static int serve(struct thmq_broker *broker, const char *title, const struct thmq_tls_opts *tls)
{
	struct timespec nap = {.tv_nsec = 100000000};
	time_t seen = time(NULL), looked = seen;

	fputs(title, stdout);
	fflush(stdout); /* whoever waits for it to be ready reads this */
	while (!interrupted) {
		nanosleep(&nap, NULL);
		if (!tls || time(NULL) - looked < LOOK_SECONDS)
			continue;
		looked = time(NULL);
		renew(broker, tls, &seen);
	}
	return EXIT_OK;
}

/* What one of several brokers is given. */
struct cluster {
	const char *node, *list, *name, *key_file, *listen;
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

static int check_cluster(struct cluster *k, const char **listen)
{
	if (!k->list)
		return k->node || k->name || k->key_file || k->listen || k->join
			       ? usage_error("--node and what goes with it need --cluster")
			       : EXIT_OK;
	if (!k->node || !parse_number(k->node, UINT64_MAX, &k->id) || !k->id)
		return usage_error("--node: which of the brokers of --cluster is this?");
	if (!*listen)
		own_url(k, listen);
	return k->key_file ? read_key(k) : EXIT_OK;
}

/*
 * Beside what was asked for, at a socket in the directory, by which pub, sub and topic join this process when they are given the
 * directory. Where the file system has no sockets it goes without.
 */
static int open_broker(struct connection *c, const char *dir, const char *listen, const struct thmq_tls_opts *tls,
		       const struct cluster *k)
{
	char *own = socket_url(dir), *both = own ? malloc(strlen(listen) + strlen(own) + 2) : NULL;
	struct thmq_broker_opts opts = {.size = sizeof(opts),
					.flags = k->join ? THMQ_BROKER_JOIN : 0,
					.data_dir = dir,
					.listen = both,
					.tls = tls,
					.cluster = k->list,
					.cluster_name = k->name,
					.cluster_key = k->key_file ? k->key : NULL,
					.cluster_listen = k->listen,
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

static int run(int argc, char **argv, bool tops)
{
	const char *listen = NULL, *cores_text = NULL, *policy_text = NULL, *cap_text = NULL;
	bool once = false, json = false;
	struct cluster k = {0};
	const struct option_spec specs[] = {
		{"--listen", &listen, NULL},
		{"--cores", &cores_text, NULL},
		{"--policy", &policy_text, NULL},
		{"--cpu-cap", &cap_text, NULL},
		{"--node", &k.node, NULL},
		{"--cluster", &k.list, NULL},
		{"--cluster-name", &k.name, NULL},
		{"--cluster-key", &k.key_file, NULL},
		{"--cluster-listen", &k.listen, NULL},
		{"--join", NULL, &k.join},
		{tops ? "--once" : NULL, NULL, &once}, /* serve's end here */
		{"--json", NULL, &json},
		{NULL, NULL, NULL}};
	struct connection c = {0};
	char title[TITLE_BYTES];
	const struct thmq_tls_opts *tls;
	uint64_t cores = 1, cap = 0;
	uint32_t policy = THMQ_POLICY_DEFAULT;
	int rc = config_words(argc, argv, &argc, &argv), words;

	if (rc)
		return rc;
	words = parse_options(argc, argv, specs);
	if (words < 0)
		return EXIT_USAGE;
	rc = check_cluster(&k, &listen);
	if (rc)
		return rc;
	if (cores_text && (!parse_number(cores_text, THMQ_CORE_COUNT_MAX, &cores) || !cores))
		return usage_error("--cores: a number from 1 to %u, not %s", THMQ_CORE_COUNT_MAX,
				   cores_text);
	if (cap_text && (!parse_number(cap_text, 100, &cap) || !cap))
		return usage_error("--cpu-cap is a number from 1 to 100, of percent, not %s",
				   cap_text);
	if (policy_text && parse_policy(policy_text, &policy) != EXIT_OK)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1,
			 tops ? "top needs a directory" : "serve needs a directory"))
		return EXIT_USAGE;
	if (is_url(argv[0]))
		return usage_error(
			"%s needs a directory; a URL to listen at stands behind --listen",
			tops ? "top" : "serve");
	rc = tls_given(true, &tls);
	if (rc)
		return rc;
	rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.core_count = (uint32_t)cores, .policy = policy,
						 .cpu_cap_percent = (uint32_t)cap));
	if (rc == 0)
		rc = open_broker(&c, argv[0], listen ? listen : LISTEN, tls, &k);
	if (rc) {
		rc = fail(rc, "%s", thmq_errmsg());
		thmq_env_close(c.env, 0);
		return rc;
	}
	where(c.broker, argv[0], title);
	return disconnect(&c, tops ? top(c.env, title, once, json) : serve(c.broker, title, tls));
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
