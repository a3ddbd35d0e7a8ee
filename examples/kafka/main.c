/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - a broker for Kafka's clients, on the library: kcat, librdkafka and those in Python or Java speak to it as they would to
 * Kafka, and what they write is what thmq sub reads. doc/kafka.md tells what works.
 *
 *   kafka --data DIR [--listen HOST:PORT] ...
 *
 * One thread, no locks: an epoll loop of the program's own, in which the library's core has a place of one descriptor.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kafka.h"

#define EVENTS 256
#define TICK_NS SECOND
#define ROUND_NS (20 * MILLISECOND) /* of the loop, about: then what waits for answers that are large lets others have their turn */

static volatile sig_atomic_t stop;

int64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void on_signal(int signal)
{
	(void)signal;
	stop = 1;
}

static const char usage[] =
	"kafka --data DIR [options]: a broker for Kafka's clients\n"
	"  --listen HOST:PORT      where (127.0.0.1:9092; port 0: any)\n"
	"  --advertise HOST:PORT   what clients are told to connect to (where they have found it)\n"
	"  --listen-tls HOST:PORT  the same by TLS, with --cert FILE [--key FILE] [--client-ca "
	"FILE]\n"
	"  --users FILE            lines \"name:password\": clients prove who they are, by SASL\n"
	"  --thmq URL              where the library's own clients come, such as "
	"tcp://127.0.0.1:7471\n"
	"  --partitions N          of topics that are made without a number (1)\n"
	"  --no-auto-create        topics are not made by asking for them\n"
	"  --connections N         at most so many (1000)\n"
	"  --transactional-id-expiration SECONDS\n"
	"                          names of transactions that nobody used for so long are forgotten (604800)\n"
	"  --node-id N, --cluster-id TEXT, --verbose\n"
	"one of several that keep the same data (doc/copies.md), each with --node-id and --thmq:\n"
	"  --cluster 1=URL,2=URL,… [--cluster-name TEXT] [--cluster-key HEX]\n"
	"  --peers 1=HOST:PORT,…   where Kafka's clients find them\n";

static const char *wrong_with(const struct options *o)
{
	if (!o->data_dir)
		return "--data says where what is published is kept";
	if (o->default_partitions < 1 || !o->connection_max || o->node_id < 0)
		return "--partitions and --connections are numbers from 1, --node-id is one from 0";
	if (o->name_expires_s < 1)
		return "--transactional-id-expiration is a number of seconds, from 1";
	if (!strrchr(o->listen, ':') || (o->listen_tls && !strrchr(o->listen_tls, ':')) || (o->advertise && !strrchr(o->advertise, ':')))
		return "--listen, --listen-tls and --advertise are HOST:PORT";
	if (o->listen_tls && !o->cert_file)
		return "--listen-tls needs --cert, and --key where the key is not in the same file";
	if (!o->cluster != !o->peer_count)
		return "--cluster and --peers go together";
	if (o->cluster && !o->thmq_listen)
		return "--cluster needs --thmq, where this one is in it";
	return NULL;
}

static int options_read(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {{"data", 1, NULL, 'd'},
					      {"listen", 1, NULL, 'l'},
					      {"advertise", 1, NULL, 'a'},
					      {"listen-tls", 1, NULL, 't'},
					      {"cert", 1, NULL, 'c'},
					      {"key", 1, NULL, 'k'},
					      {"client-ca", 1, NULL, 'C'},
					      {"users", 1, NULL, 'u'},
					      {"thmq", 1, NULL, 'q'},
					      {"partitions", 1, NULL, 'p'},
					      {"no-auto-create", 0, NULL, 'A'},
					      {"connections", 1, NULL, 'm'},
					      {"transactional-id-expiration", 1, NULL, 'e'},
					      {"node-id", 1, NULL, 'n'},
					      {"cluster-id", 1, NULL, 'i'},
					      {"cluster", 1, NULL, 'x'},
					      {"cluster-name", 1, NULL, 'N'},
					      {"cluster-key", 1, NULL, 'K'},
					      {"peers", 1, NULL, 'P'},
					      {"verbose", 0, NULL, 'v'},
					      {"help", 0, NULL, 'h'},
					      {NULL, 0, NULL, 0}};
	const char *wrong;
	int c;

	*o = (struct options){.listen = "127.0.0.1:9092",
			      .cluster_id = "thundermq",
			      .node_id = 1,
			      .default_partitions = 1,
			      .connection_max = 1000,
			      .name_expires_s = 604800,
			      .auto_create = true};
	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'd':
			o->data_dir = optarg;
			break;
		case 'l':
			o->listen = optarg;
			break;
		case 'a':
			o->advertise = optarg;
			break;
		case 't':
			o->listen_tls = optarg;
			break;
		case 'c':
			o->cert_file = optarg;
			break;
		case 'k':
			o->key_file = optarg;
			break;
		case 'C':
			o->client_ca_file = optarg;
			break;
		case 'u':
			o->users_file = optarg;
			break;
		case 'q':
			o->thmq_listen = optarg;
			break;
		case 'p':
			o->default_partitions = atoi(optarg);
			break;
		case 'A':
			o->auto_create = false;
			break;
		case 'm':
			o->connection_max = (uint32_t)atoi(optarg);
			break;
		case 'e':
			o->name_expires_s = atoll(optarg);
			break;
		case 'n':
			o->node_id = atoi(optarg);
			break;
		case 'i':
			o->cluster_id = optarg;
			break;
		case 'x':
			o->cluster = optarg;
			break;
		case 'N':
			o->cluster_name = optarg;
			break;
		case 'K':
			o->cluster_key = optarg;
			break;
		case 'P':
			if (cluster_read(o, optarg))
				return -EINVAL;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			return -EINVAL;
		}
	}
	wrong = wrong_with(o);
	if (optind < argc)
		fprintf(stderr, "kafka: %s is no option\n", argv[optind]);
	else if (wrong)
		fprintf(stderr, "kafka: %s\n", wrong);
	return optind < argc || wrong ? -EINVAL : 0;
}

static int fail(const char *what, int rc)
{
	fprintf(stderr, "kafka: %s: %s\n", what,
		*thmq_errmsg() ? thmq_errmsg() : thmq_strerror(rc));
	return rc;
}

static int server_open(struct server *s)
{
	const struct options *o = &s->o;
	int rc;

	if (o->users_file && (rc = auth_load(s, o->users_file)))
		return fail(o->users_file, rc);
	if (o->listen_tls && (rc = tls_context_open(o, &s->tls)))
		return fail("TLS", rc);
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	rc = s->epoll < 0 ? -errno : thmq_env_open(&s->env, NULL);
	if (!rc)
		rc = thmq_broker_open(s->env,
				      THMQ_BROKER_OPTS(.data_dir = o->data_dir, .name = "kafka",
						       .listen = o->thmq_listen, .cluster = o->cluster,
						       .node_id = o->cluster ? (uint64_t)o->node_id : 0,
						       .cluster_name = o->cluster_name, .cluster_key = o->cluster_key),
				      &s->broker);
	if (!rc && !o->cluster) /* else once it is known who leads */
		rc = store_open(s);
	if (rc)
		return fail(o->data_dir, rc);
	rc = o->cluster ? 0 : offsets_load(s);
	if (rc)
		return fail(OFFSETS_TOPIC, rc);
	rc = conn_listen(s, o->listen, false, &s->listen_fd, &s->port);
	if (rc)
		return fail(o->listen, rc);
	if (o->listen_tls &&
	    (rc = conn_listen(s, o->listen_tls, true, &s->listen_tls_fd, &s->port_tls)))
		return fail(o->listen_tls, rc);
	return 0;
}

static void server_close(struct server *s)
{
	while (s->conns)
		conn_close(s->conns);
	group_close_all(s);
	if (s->env)
		store_close(s);
	offsets_unload(s);
	transactions_unload(s);
	auth_unload(s);
	tls_context_close(s->tls);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->listen_tls_fd >= 0)
		close(s->listen_tls_fd);
	if (s->epoll >= 0)
		close(s->epoll);
}

/* For how long the loop may sleep, in milliseconds. */
static int rest(struct server *s, int64_t tick_ns)
{
	int64_t next = group_next_ns(s), now = clock_ns();
	struct request *r;

	next = tick_ns < next ? tick_ns : next;
	if (s->o.cluster && next > now + 100 * MILLISECOND)
		next = now + 100 * MILLISECOND; /* who leads is asked, not told */
	for (r = s->waiting; r; r = r->next_waiting)
		if (r->deadline_ns < next)
			next = r->deadline_ns;
	return next <= now ? 0 : (int)((next - now + MILLISECOND - 1) / MILLISECOND);
}

static void look_at(struct server *s, const struct epoll_event *e, int n)
{
	int i;

	for (i = 0; i < n; i++) {
		if (e[i].data.ptr == &s->listen_fd)
			conn_accept(s, s->listen_fd, false);
		else if (e[i].data.ptr == &s->listen_tls_fd)
			conn_accept(s, s->listen_tls_fd, true);
		else if (e[i].data.ptr != s) /* s: the library's */
			conn_event(e[i].data.ptr, e[i].events);
	}
}

/* A descriptor for each connection, if that may be. */
static void allow_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void serve(struct server *s)
{
	struct epoll_event e[EVENTS], library = {.events = EPOLLIN, .data.ptr = s};
	int64_t tick_ns = clock_ns() + TICK_NS;
	int n;

	epoll_ctl(s->epoll, EPOLL_CTL_ADD, thmq_env_fd(s->env), &library);
	while (!stop && !s->stopping) {
		bool news = store_pump(s, 0);

		s->now_ns = clock_ns();
		s->round_end_ns = s->now_ns + ROUND_NS;
		cluster_tick(s);
		request_look_all(s, news);
		conn_run_dirty(s);
		group_tick(s);
		if (s->now_ns >= tick_ns) {
			conn_tick(s);
			store_tick(s);
			transactions_tick(s);
			tick_ns = s->now_ns + TICK_NS;
		}
		n = 0;
		if (!news && !s->dirty && !request_looks_on(s) && thmq_env_arm(s->env) == 0)
			n = rest(s, tick_ns);
		n = epoll_wait(s->epoll, e, EVENTS, n);
		look_at(s, e, n);
	}
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct server s = {.epoll = -1, .listen_fd = -1, .listen_tls_fd = -1};
	int rc = options_read(argc, argv, &s.o);

	if (rc) {
		fputs(usage, stderr);
		return 2;
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	signal(SIGPIPE, SIG_IGN);
	mallopt(M_MMAP_THRESHOLD, 256 << 10); /* large answers go back to the system when they are taken, and not only what lies at the end */
	allow_files();
	s.now_ns = clock_ns();
	rc = server_open(&s);
	if (!rc) {
		printf("kafka: serving %s on %s, port %u", s.o.data_dir, s.o.listen, s.port);
		if (s.o.listen_tls)
			printf(", with TLS on port %u", s.port_tls);
		printf("\n");
		fflush(stdout);
		serve(&s);
	}
	server_close(&s);
	if (s.env && thmq_env_close(s.env, 30 * SECOND))
		rc = fail("close", -ETIMEDOUT);
	return rc ? 1 : 0;
}
