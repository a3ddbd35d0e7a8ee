/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_cluster.c - thmq cluster: makes what the brokers of a cluster need, says how they are, adds and removes them, has another one lead, and some of them not; and tries one out on this
 * machine.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "thmq.h"

#define NODES_MAX 15
#define KEY_BYTES 32
#define PATH_BYTES 4096
#define TRY_PORT 7471

/* ------------------------------------------------------------------- create */

static int write_key(const char *path)
{
	unsigned char key[KEY_BYTES];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int i, rc = EXIT_OK;

	if (fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
		rc = fail(-EIO, "no random bytes for a key");
	for (i = 0; i < KEY_BYTES && rc == EXIT_OK; i++)
		if (dprintf(fd, "%02x%s", key[i], i == KEY_BYTES - 1 ? "\n" : "") < 0)
			rc = fail(-errno, "%s: %s", path, strerror(errno));
	if (close(fd) != 0 && rc == EXIT_OK)
		rc = fail(-errno, "%s: %s", path, strerror(errno));
	return rc;
}

static int write_config(const char *dir, const char *id, const char *cluster, const char *name)
{
	char path[PATH_BYTES];
	FILE *f;

	snprintf(path, sizeof(path), "%s/node-%s.conf", dir, id);
	f = fopen(path, "wxe");
	if (!f)
		return fail(-errno, "%s: %s", path, strerror(errno));
	fprintf(f,
		"# one broker of the cluster %s: thmq serve --config %s\n"
		"dir = %s/node-%s\n"
		"node = %s\n"
		"cluster-name = %s\n"
		"# all brokers: clients come by the port, brokers by the one that is 10000 higher\n"
		"cluster = %s\n"
		"# the same file on all nodes: who has not got it is not let in\n"
		"cluster-key = %s/cluster.key\n",
		name, path, dir, id, id, name, cluster, dir);
	return fclose(f) == 0 ? EXIT_OK : fail(-errno, "%s: %s", path, strerror(errno));
}

/* Brokers as words, or in one word with commas between, as --cluster has them. Return: how many, -1 after saying what is wrong. */
static int split_members(char **words, int word_count, char **ret_members)
{
	uint64_t ids[NODES_MAX];
	char *member, *rest;
	int count = 0, i, k;

	for (i = 0; i < word_count; i++) {
		for (member = strtok_r(words[i], ",", &rest); member; member = strtok_r(NULL, ",", &rest)) {
			char *equals = strchr(member, '=');

			if (count == NODES_MAX)
				return usage_error("a cluster has 1 to %d brokers, best 3 or 5: 1=tcp://host:port 2=...", NODES_MAX), -1;
			if (equals)
				*equals = 0;
			if (!equals || !parse_number(member, UINT64_MAX, &ids[count]) || !ids[count] || !strstr(equals + 1, "://"))
				return usage_error("%s%s%s: write 1=tcp://host:port", member, equals ? "=" : "", equals ? equals + 1 : ""), -1;
			*equals = '=';
			for (k = 0; k < count; k++)
				if (ids[k] == ids[count])
					return usage_error("%s: number %llu is that of another one", member, (unsigned long long)ids[k]), -1;
			ret_members[count++] = member;
		}
	}
	return count;
}

static int create(const char *dir, char **words, int word_count, const char *name)
{
	char cluster[PATH_BYTES] = "", key[PATH_BYTES], id[32], *members[NODES_MAX];
	int i, rc, count = split_members(words, word_count, members);

	if (count < 0)
		return EXIT_USAGE;
	if (!count)
		return usage_error("a cluster has 1 to %d brokers, best 3 or 5: 1=tcp://host:port 2=...", NODES_MAX);
	for (i = 0; i < count; i++) {
		size_t at = strlen(cluster);

		snprintf(cluster + at, sizeof(cluster) - at, "%s%s", i ? "," : "", members[i]);
	}
	if (mkdir(dir, 0777) != 0 && errno != EEXIST)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	snprintf(key, sizeof(key), "%s/cluster.key", dir);
	rc = write_key(key);
	for (i = 0; i < count && rc == EXIT_OK; i++) {
		snprintf(id, sizeof(id), "%.*s", (int)strcspn(members[i], "="), members[i]);
		rc = write_config(dir, id, cluster, name);
		if (rc == EXIT_OK)
			printf("thmq serve --config %s/node-%s.conf\n", dir, id);
	}
	return rc;
}

/* ------------------------------------------------------------------- others */

static const char *role_name(uint32_t role)
{
	return role == THMQ_NODE_VOTER ? "voter" : role == THMQ_NODE_STANDBY ? "standby" : "spare";
}

static int status(struct connection *c, bool json)
{
	struct thmq_node nodes[NODES_MAX] = {{.size = sizeof(nodes[0])}};
	int n = thmq_cluster_nodes(c->session, nodes, NODES_MAX), i;

	if (n < 0)
		return fail(n, "%s", thmq_errmsg());
	for (i = 0; i < n && i < NODES_MAX; i++) {
		const struct thmq_node *node = &nodes[i];

		if (json) {
			printf("{\"id\": %llu, \"address\": ", (unsigned long long)node->id);
			print_json_string(stdout, node->address, strlen(node->address));
			printf(", \"role\": \"%s\", \"leads\": %s, \"connected\": %s, \"drained\": %s}\n",
			       role_name(node->role), node->leads ? "true" : "false",
			       node->connected ? "true" : "false", node->drained ? "true" : "false");
			continue;
		}
		printf("%-4llu %-32s %-8s %s%s%s%s\n", (unsigned long long)node->id, node->address,
		       role_name(node->role),
		       node->leads       ? "leads"
		       : node->connected ? "follows"
					 : "is not reached",
		       node->drained ? ", drained" : "", !node->connected && node->error ? ": " : "",
		       !node->connected && node->error ? thmq_strerror(node->error) : "");
	}
	return EXIT_OK;
}

static int done(int rc, const char *what, uint64_t id)
{
	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	printf("node %llu %s\n", (unsigned long long)id, what);
	return EXIT_OK;
}

static int act(struct connection *c, const char *verb, char **words, uint64_t id,
	       uint64_t timeout_ns, bool json)
{
	if (strcmp(verb, "status") == 0)
		return status(c, json);
	if (strcmp(verb, "add") == 0)
		return done(thmq_cluster_add(c->session, id, words[3], timeout_ns),
			    "has all, and a vote", id);
	if (strcmp(verb, "remove") == 0)
		return done(thmq_cluster_remove(c->session, id, timeout_ns),
			    "is none of them any more", id);
	if (strcmp(verb, "transfer") == 0)
		return done(thmq_cluster_lead(c->session, id, timeout_ns), "leads", id);
	if (strcmp(verb, "undrain") == 0)
		return done(thmq_cluster_undrain(c->session, id, timeout_ns), "may lead again", id);
	return done(thmq_cluster_drain(c->session, id, timeout_ns), "leads nothing until it is undrained, and can be stopped", id);
}

/* ---------------------------------------------------------------------- try */

static pid_t serve_one(const char *dir, int id)
{
	char config[PATH_BYTES], option[] = "--config";
	char *words[] = {option, config, NULL};
	pid_t pid;

	snprintf(config, sizeof(config), "%s/node-%d.conf", dir, id);
	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	_exit(serve_as_child(2, words));
}

/* Three brokers, each a process; until it is interrupted. */
static int try_out(const char *dir)
{
	char one[64], two[64], three[64], path[PATH_BYTES], *members[] = {one, two, three};
	pid_t pids[3] = {0};
	int i, rc = EXIT_OK, state;

	snprintf(path, sizeof(path), "%s/node-1.conf", dir);
	if (access(path, F_OK) != 0) {
		for (i = 0; i < 3; i++)
			snprintf(members[i], sizeof(one), "%d=tcp://127.0.0.1:%d", i + 1,
				 TRY_PORT + i);
		rc = create(dir, members, 3, "try");
	}
	for (i = 0; i < 3 && rc == EXIT_OK; i++)
		pids[i] = serve_one(dir, i + 1);
	if (rc == EXIT_OK)
		printf("three brokers on this machine: thmq cluster status "
		       "tcp://127.0.0.1:%d,tcp://127.0.0.1:%d,tcp://127.0.0.1:%d\n"
		       "kill -9 %d or any other of them, and see who leads\n",
		       TRY_PORT, TRY_PORT + 1, TRY_PORT + 2, (int)pids[0]);
	fflush(stdout);
	while (rc == EXIT_OK && !interrupted) {
		pid_t gone = waitpid(-1, &state, 0);

		for (i = 0; i < 3 && gone > 0; i++)
			if (pids[i] == gone) {
				printf("broker %d has ended: thmq serve --config %s/node-%d.conf\n",
				       i + 1, dir, i + 1);
				fflush(stdout);
				pids[i] = 0;
			}
		if (gone < 0 && errno != EINTR)
			break;
	}
	for (i = 0; i < 3; i++)
		if (pids[i] > 0)
			kill(pids[i], SIGTERM);
	for (i = 0; i < 3; i++)
		if (pids[i] > 0)
			waitpid(pids[i], &state, 0);
	return rc;
}

/* ------------------------------------------------------------------ command */

int cmd_cluster(int argc, char **argv)
{
	static const char *const needs[][2] = {
		{"status", "cluster status needs the URL of one or more of its brokers"},
		{"remove", "cluster remove needs a URL and a number"},
		{"transfer", "cluster transfer needs a URL and a number"},
		{"drain", "cluster drain needs a URL and a number"},
		{"undrain", "cluster undrain needs a URL and a number"},
		{"add", "cluster add needs a URL, a number and an address"}};
	const char *name = "thmq", *timeout_text = NULL;
	bool json = false;
	const struct option_spec specs[] = {{"--name", &name, NULL},
					    {"--timeout", &timeout_text, NULL},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	uint64_t id = 0, timeout_ns = 60 * SECOND;
	struct connection c;
	size_t i;

	if (words < 0)
		return EXIT_USAGE;
	if (!words)
		return usage_error("cluster create, status, add, remove, transfer, drain, undrain or try?");
	if (timeout_text &&
	    (rc = parse_duration("--timeout", timeout_text, &timeout_ns)) != EXIT_OK)
		return rc;
	if (strcmp(argv[0], "create") == 0)
		return words < 3 ? usage_error("cluster create needs a directory and its brokers: "
					       "1=tcp://host:port 2=...")
				 : create(argv[1], argv + 2, words - 2, name);
	if (strcmp(argv[0], "try") == 0)
		return count_words(argv, words, 2, "cluster try needs a directory")
			       ? try_out(argv[1])
			       : EXIT_USAGE;
	for (i = 0; i < sizeof(needs) / sizeof(needs[0]) && strcmp(argv[0], needs[i][0]) != 0; i++)
		;
	if (i == sizeof(needs) / sizeof(needs[0]))
		return usage_error("there is no cluster %s", argv[0]);
	if (!count_words(argv, words, i == 0 ? 2 : strcmp(argv[0], "add") == 0 ? 4 : 3, needs[i][1]))
		return EXIT_USAGE;
	if (i && (!parse_number(argv[2], UINT64_MAX, &id) || !id))
		return usage_error("%s is no number of a node", argv[2]);
	rc = connect_dir(&c, argv[1], false, THMQ_POLICY_DEFAULT);
	return rc ? rc : disconnect(&c, act(&c, argv[0], argv, id, timeout_ns, json));
}
