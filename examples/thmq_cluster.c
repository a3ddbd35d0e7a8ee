/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_cluster.c - thmq cluster: makes what the brokers of a cluster need, says how they are, adds and removes them, has another one lead, and some of them not; and tries one out on this
 * machine.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
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
#define PORT_MAX 55533u /* of three; the other brokers' are 10000 higher */
#define UNDER_WAY 64u   /* batches, to a broker that keeps up */
#define STATUS_NS (5 * SECOND) /* of whoever only wants to know how they are */

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

/* What the config files of a cluster have in common. */
struct plan {
	const char *dir;            /* where they are */
	const char *data;           /* the brokers' directory, each on its own machine; NULL: one for each in dir */
	char cluster[PATH_BYTES], name[PATH_BYTES], key[PATH_BYTES];
};

/* With whole paths, so that it does not matter where serve is started. */
static int write_config(const struct plan *p, const char *id, bool joins)
{
	char path[PATH_BYTES], *dir = realpath(p->dir, NULL), *place = p->data ? realpath(p->data, NULL) : NULL;
	FILE *f;
	int rc;

	snprintf(path, sizeof(path), "%s/node-%s.conf", p->dir, id);
	f = dir ? fopen(path, "wxe") : NULL;
	if (!f) {
		rc = fail(-errno, "%s: %s", path, strerror(errno));
		free(dir);
		free(place);
		return rc;
	}
	fprintf(f, "# one broker of the cluster %s: thmq serve --config %s/node-%s.conf\n", p->name, dir, id);
	if (p->data) /* it need not be there on this machine */
		fprintf(f, "dir = %s\n", place ? place : p->data);
	else
		fprintf(f, "dir = %s/node-%s\n", dir, id);
	fprintf(f,
		"node = %s\n"
		"cluster-name = %s\n"
		"# all brokers: clients come by the port, brokers by the one that is 10000 higher\n"
		"cluster = %s\n"
		"# the same file on all nodes: who has not got it is not let in\n"
		"cluster-key = %s%s\n",
		id, p->name, p->cluster, *p->key ? "" : dir, *p->key ? p->key : "/cluster.key");
	if (joins)
		fprintf(f, "# its directory is empty, and it waits for thmq cluster add; once it was added this does nothing\n"
			   "join = yes\n");
	free(dir);
	free(place);
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

static void number_of(const char *member, char *ret_id, size_t size)
{
	snprintf(ret_id, size, "%.*s", (int)strcspn(member, "="), member);
}

static void add_member(struct plan *p, const char *member)
{
	size_t at = strlen(p->cluster);

	snprintf(p->cluster + at, sizeof(p->cluster) - at, "%s%s", at ? "," : "", member);
}

static int create(const char *dir, const char *data, char **words, int word_count, const char *name, bool quiet)
{
	struct plan p = {.dir = dir, .data = data};
	char key[PATH_BYTES], id[32], *members[NODES_MAX];
	int i, rc, count = split_members(words, word_count, members);

	if (count < 0)
		return EXIT_USAGE;
	if (!count)
		return usage_error("a cluster has 1 to %d brokers, best 3 or 5: 1=tcp://host:port 2=...", NODES_MAX);
	snprintf(p.name, sizeof(p.name), "%s", name);
	for (i = 0; i < count; i++)
		add_member(&p, members[i]);
	if (mkdir(dir, 0777) != 0 && errno != EEXIST)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	snprintf(key, sizeof(key), "%s/cluster.key", dir);
	rc = write_key(key);
	for (i = 0; i < count && rc == EXIT_OK; i++) {
		number_of(members[i], id, sizeof(id));
		rc = write_config(&p, id, false);
		if (rc == EXIT_OK && !quiet)
			printf("thmq serve --config %s/node-%s.conf\n", dir, id);
	}
	return rc;
}

/* --------------------------------------------------------------------- join */

/* "name = value" of a config file, as create wrote it. */
static void take_line(char *line, const char *name, char *ret_value, size_t size)
{
	size_t len = strlen(name);

	line[strcspn(line, "\r\n")] = 0;
	if (strncmp(line, name, len) == 0 && line[len += strspn(line + len, " ")] == '=')
		snprintf(ret_value, size, "%s", line + len + 1 + strspn(line + len + 1, " "));
}

/* What the first config file in the directory that can be read says. */
static int read_plan(struct plan *p)
{
	char path[PATH_BYTES], line[PATH_BYTES];
	FILE *f = NULL;
	struct dirent *e;
	DIR *dir = opendir(p->dir);

	if (!dir)
		return fail(-errno, "%s: %s", p->dir, strerror(errno));
	while (!f && (e = readdir(dir))) {
		size_t len = strlen(e->d_name);

		if (strncmp(e->d_name, "node-", 5) != 0 || len < 6 || strcmp(e->d_name + len - 5, ".conf") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", p->dir, e->d_name);
		f = fopen(path, "re");
	}
	closedir(dir);
	if (!f)
		return fail(-ENOENT, "%s has no node-N.conf: name the directory that thmq cluster create made", p->dir);
	while (fgets(line, sizeof(line), f)) {
		take_line(line, "cluster", p->cluster, sizeof(p->cluster));
		take_line(line, "cluster-name", p->name, sizeof(p->name));
		take_line(line, "cluster-key", p->key, sizeof(p->key));
	}
	fclose(f);
	return *p->cluster && *p->name && *p->key ? EXIT_OK : fail(-EINVAL, "%s does not say cluster, cluster-name and cluster-key", path);
}

/* The config file of one that is to be added. */
static int join(const char *dir, const char *data, char **words)
{
	struct plan p = {.dir = dir, .data = data};
	char id[32], *members[NODES_MAX], *others[NODES_MAX], list[PATH_BYTES], *at = list;
	int rc, i, count = split_members(words, 1, members);

	if (count < 0)
		return EXIT_USAGE;
	if (count != 1)
		return usage_error("cluster join is for one broker: 4=tcp://host:port");
	rc = read_plan(&p);
	if (rc)
		return rc;
	snprintf(list, sizeof(list), "%s", p.cluster);
	count = split_members(&at, 1, others);
	if (count < 0)
		return EXIT_USAGE;
	number_of(members[0], id, sizeof(id));
	for (i = 0; i < count; i++)
		if (strncmp(others[i], members[0], strlen(id) + 1) == 0)
			return usage_error("%s: number %s is that of another one, and no number is used twice", members[0], id);
	add_member(&p, members[0]);
	rc = write_config(&p, id, true);
	if (rc == EXIT_OK)
		printf("thmq serve --config %s/node-%s.conf\nthmq cluster add URL %s %s\n", dir, id, id, members[0] + strlen(id) + 1);
	return rc;
}

/* ------------------------------------------------------------------- others */

static const char *role_name(uint32_t role)
{
	return role == THMQ_NODE_VOTER ? "voter" : role == THMQ_NODE_STANDBY ? "standby" : "spare";
}

/* What is mostly the cause, in the words of who has made the config files. */
const char *node_error(int error)
{
	switch (error) {
	case -EACCES:
		return "permission denied: it has another cluster key, or none of a certificate and a key that this one has";
	case -EKEYREJECTED:
		return "a certificate is not accepted: it has another signer, or is for another name";
	case -EKEYEXPIRED:
		return "the time of a certificate is over, or has not come";
	case -EKEYREVOKED:
		return "a certificate was revoked";
	case -EPROTO:
		return "it does not speak as it should: has one a cluster key or a certificate, and the other none? Or another program listens there";
	default:
		return thmq_strerror(error);
	}
}

static void print_json(const struct thmq_node *node)
{
	printf("{\"id\": %llu, \"address\": ", (unsigned long long)node->id);
	print_json_string(stdout, node->address, strlen(node->address));
	printf(", \"role\": \"%s\", \"leads\": %s, \"connected\": %s, \"drained\": %s, \"term\": %llu, \"behind\": ", role_name(node->role),
	       node->leads ? "true" : "false", node->connected ? "true" : "false", node->drained ? "true" : "false", (unsigned long long)node->term);
	if (node->behind == UINT64_MAX)
		printf("null");
	else
		printf("%llu", (unsigned long long)node->behind);
	printf(", \"error\": ");
	if (node->error)
		print_json_string(stdout, node_error(node->error), strlen(node_error(node->error)));
	else
		printf("null");
	printf("}\n");
}

static bool is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT;
}

/* One that suffers from something stores nothing. */
static bool is_there(const struct thmq_node *node)
{
	return (node->connected || node->leads) && !node->error;
}

static void print_node(const struct thmq_node *node)
{
	bool away = !node->connected, full = is_full(node->error);

	printf("%-4llu %-32s %-8s %s%s%s", (unsigned long long)node->id, node->address, role_name(node->role),
	       node->leads ? "leads" : away ? "is not reached" : node->error && !full ? "has failed" : "follows",
	       node->drained ? ", drained" : "", !away && full ? ", has no room" : node->error && node->leads ? ", has failed" : "");
	if (node->behind && node->behind != UINT64_MAX && !node->leads)
		printf(", %llu batches behind", (unsigned long long)node->behind);
	printf("%s%s\n", node->error ? ": " : "", node->error ? node_error(node->error) : "");
}

/* How many more may be lost, or how many are missing. */
static void print_sum(const struct thmq_node *nodes, int count)
{
	uint64_t leader = 0;
	int votes = 0, reached = 0, needed, i;

	for (i = 0; i < count; i++) {
		votes += nodes[i].role == THMQ_NODE_VOTER;
		reached += nodes[i].role == THMQ_NODE_VOTER && is_there(&nodes[i]);
		leader = nodes[i].leads ? nodes[i].id : leader;
	}
	needed = votes / 2 + 1;
	if (leader)
		printf("in term %llu node %llu leads; %d of %d votes are there: ", (unsigned long long)nodes[0].term, (unsigned long long)leader, reached, votes);
	else
		printf("nobody leads; %d of %d votes are there: ", reached, votes);
	if (reached > needed)
		printf("%d more may be lost\n", reached - needed);
	else if (reached == needed)
		printf("no more may be lost\n");
	else
		printf("%d are needed, and until then what is committed can be read, and nothing stored\n", needed);
}

/* One is restarted only while all others have nearly all: what is under way to one that keeps up is no more. */
static bool is_well(const struct thmq_node *nodes, int count)
{
	bool led = false;
	int i;

	for (i = 0; i < count; i++) {
		led |= nodes[i].leads != 0;
		if (nodes[i].role == THMQ_NODE_VOTER && (!is_there(&nodes[i]) || (!nodes[i].leads && nodes[i].behind > UNDER_WAY)))
			return false;
	}
	return led;
}

static int by_id(const void *one, const void *other)
{
	const struct thmq_node *a = one, *b = other;

	return (a->id > b->id) - (a->id < b->id);
}

static int status(struct connection *c, bool json, bool wait, uint64_t timeout_ns)
{
	const struct timespec nap = {.tv_nsec = 50000000};
	struct thmq_node nodes[NODES_MAX] = {{.size = sizeof(nodes[0])}};
	uint64_t end = clock_ns() + timeout_ns;
	bool well;
	int n, i;

	for (;;) {
		n = thmq_cluster_nodes(c->session, nodes, NODES_MAX);
		well = n > 0 && is_well(nodes, n < NODES_MAX ? n : NODES_MAX);
		if (!wait || well || interrupted || clock_ns() >= end || (n < 0 && thmq_errclass(n) != THMQ_CLASS_RETRY))
			break;
		nodes[0].size = sizeof(nodes[0]);
		nanosleep(&nap, NULL);
	}
	if (n < 0)
		return fail(n, "%s", thmq_errmsg());
	n = n < NODES_MAX ? n : NODES_MAX;
	qsort(nodes, (size_t)n, sizeof(nodes[0]), by_id); /* the library's order is that in which they came to their places */
	for (i = 0; i < n; i++)
		json ? print_json(&nodes[i]) : print_node(&nodes[i]);
	if (!json)
		print_sum(nodes, n);
	if (wait && !well)
		return fail(-ETIMEDOUT, "not all that vote are there, and have what is stored");
	return EXIT_OK;
}

static int done(int rc, const char *what, uint64_t id)
{
	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	printf("node %llu %s\n", (unsigned long long)id, what);
	return EXIT_OK;
}

/* What has become of one that was to be added. */
static int added(struct connection *c, int rc, uint64_t id)
{
	struct thmq_node nodes[NODES_MAX] = {{.size = sizeof(nodes[0])}};
	char why[1024];
	int n, i;

	if (rc != -ETIMEDOUT)
		return done(rc, "has all, and a vote", id);
	snprintf(why, sizeof(why), "%s", thmq_errmsg());
	n = thmq_cluster_nodes(c->session, nodes, NODES_MAX);
	for (i = 0; i < n && i < NODES_MAX && nodes[i].id != id; i++)
		;
	if (n <= 0 || i >= n || i == NODES_MAX)
		return fail(rc, "%s", why);
	if (!nodes[i].connected)
		return fail(rc, "%s: it is a %s by now, and is not reached: %s. Is it started, with --join? Then the same again, or cluster remove", why,
			    role_name(nodes[i].role), nodes[i].error ? node_error(nodes[i].error) : "it has not answered yet");
	return fail(rc, "%s: it is a %s by now, and goes on getting what there is; the same again waits for it", why, role_name(nodes[i].role));
}

static int act(struct connection *c, const char *verb, char **words, uint64_t id,
	       uint64_t timeout_ns, bool json, bool wait)
{
	if (strcmp(verb, "status") == 0)
		return status(c, json, wait, timeout_ns);
	if (strcmp(verb, "add") == 0)
		return added(c, thmq_cluster_add(c->session, id, words[3], timeout_ns), id);
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

/* Where they are, as the files say: those of an earlier try may be elsewhere. */
static int print_tried(const char *dir, const pid_t pids[3])
{
	struct plan p = {.dir = dir};
	char *members[NODES_MAX], *words[] = {p.cluster};
	int i, count, rc = read_plan(&p);

	if (rc)
		return rc;
	count = split_members(words, 1, members);
	if (count < 0)
		return EXIT_USAGE;
	printf("three brokers on this machine: thmq cluster status ");
	for (i = 0; i < count && i < 3; i++)
		printf("%s%s", i ? "," : "", strchr(members[i], '=') + 1);
	printf("\nbroker 1 is process %d, 2 is %d, 3 is %d: kill -9 one of them, and see who leads\n", (int)pids[0], (int)pids[1], (int)pids[2]);
	return EXIT_OK;
}

/* Three brokers, each a process; until it is interrupted. */
static int try_out(const char *dir, uint32_t port)
{
	char one[64], two[64], three[64], path[PATH_BYTES], *members[] = {one, two, three};
	pid_t pids[3] = {0};
	int i, rc = EXIT_OK, state;

	snprintf(path, sizeof(path), "%s/node-1.conf", dir);
	if (access(path, F_OK) != 0) {
		for (i = 0; i < 3; i++)
			snprintf(members[i], sizeof(one), "%d=tcp://127.0.0.1:%d", i + 1, (int)port + i);
		rc = create(dir, NULL, members, 3, "try", true);
	}
	for (i = 0; i < 3 && rc == EXIT_OK; i++)
		pids[i] = serve_one(dir, i + 1);
	if (rc == EXIT_OK)
		rc = print_tried(dir, pids);
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
	const char *name = "thmq", *timeout_text = NULL, *data = NULL, *port_text = NULL;
	bool json = false, wait = false;
	const struct option_spec specs[] = {{"--name", &name, NULL},
					    {"--data", &data, NULL},
					    {"--port", &port_text, NULL},
					    {"--timeout", &timeout_text, NULL},
					    {"--json", NULL, &json},
					    {"--wait", NULL, &wait},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	uint64_t id = 0, timeout_ns = 60 * SECOND, port = TRY_PORT;
	struct connection c;
	size_t i;

	if (words < 0)
		return EXIT_USAGE;
	if (!words)
		return usage_error("cluster create, join, status, add, remove, transfer, drain, undrain or try?");
	if (timeout_text &&
	    (rc = parse_duration("--timeout", timeout_text, &timeout_ns)) != EXIT_OK)
		return rc;
	if (strcmp(argv[0], "create") == 0)
		return words < 3 ? usage_error("cluster create needs a directory and its brokers: "
					       "1=tcp://host:port 2=...")
				 : create(argv[1], data, argv + 2, words - 2, name, false);
	if (strcmp(argv[0], "join") == 0)
		return count_words(argv, words, 3, "cluster join needs the directory that cluster create made, and a broker: 4=tcp://host:port")
			       ? join(argv[1], data, argv + 2)
			       : EXIT_USAGE;
	if (port_text && (!parse_number(port_text, PORT_MAX, &port) || !port))
		return usage_error("--port is a number from 1 to %u, not %s: the others are above it", PORT_MAX, port_text);
	if (strcmp(argv[0], "try") == 0)
		return count_words(argv, words, 2, "cluster try needs a directory")
			       ? try_out(argv[1], (uint32_t)port)
			       : EXIT_USAGE;
	for (i = 0; i < sizeof(needs) / sizeof(needs[0]) && strcmp(argv[0], needs[i][0]) != 0; i++)
		;
	if (i == sizeof(needs) / sizeof(needs[0]))
		return usage_error("there is no cluster %s", argv[0]);
	if (!count_words(argv, words, i == 0 ? 2 : strcmp(argv[0], "add") == 0 ? 4 : 3, needs[i][1]))
		return EXIT_USAGE;
	if (i && (!parse_number(argv[2], UINT64_MAX, &id) || !id))
		return usage_error("%s is no number of a node", argv[2]);
	if (!i && !wait && is_url(argv[1])) /* of several one that says nothing is left for the next */
		rc = connect_within(&c, argv[1], timeout_text ? timeout_ns : STATUS_NS);
	else
		rc = connect_dir(&c, argv[1], false, THMQ_POLICY_DEFAULT);
	return rc ? rc : disconnect(&c, act(&c, argv[0], argv, id, timeout_ns, json, wait));
}
