/* SPDX-License-Identifier: Apache-2.0 */
/* own_transport.c - a transport of one's own: sockets that never leave the process, behind pair://. A queue hands them over. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thundermq/transport.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define WAITING_MAX 16

struct pairs {
	pthread_mutex_t lock;
	int ready; /* an eventfd that counts the waiting; -1: nobody listens */
	int waiting[WAITING_MAX], count;
};

/* One end for the session; the other one waits to be accepted. */
static int pair_connect(void *ctx, const char *url, int *ret_fd)
{
	struct pairs *p = ctx;
	const uint64_t one = 1;
	int fds[2], rc = -ECONNREFUSED;

	(void)url;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
		return -errno;
	pthread_mutex_lock(&p->lock);
	if (p->ready >= 0 && p->count < WAITING_MAX &&
	    write(p->ready, &one, sizeof(one)) == sizeof(one)) {
		p->waiting[p->count++] = fds[1];
		rc = 0;
	}
	pthread_mutex_unlock(&p->lock);
	if (rc) {
		close(fds[0]);
		close(fds[1]);
		return rc;
	}
	*ret_fd = fds[0];
	return 0;
}

static int pair_listen(void *ctx, const char *url, int *ret_fd, char *ret_url, uint32_t url_size)
{
	struct pairs *p = ctx;

	(void)url, (void)ret_url, (void)url_size;
	*ret_fd = p->ready = eventfd(0, EFD_SEMAPHORE);
	return p->ready < 0 ? -errno : 0;
}

static int pair_accept(void *ctx, int listen_fd, int *ret_fd)
{
	struct pairs *p = ctx;
	uint64_t one;

	if (read(listen_fd, &one, sizeof(one)) != sizeof(one))
		return -errno; /* EAGAIN: nobody is there */
	pthread_mutex_lock(&p->lock);
	*ret_fd = p->waiting[--p->count];
	pthread_mutex_unlock(&p->lock);
	return 0;
}

int main(void)
{
	static struct pairs pairs = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready = -1};
	const struct thmq_transport transport = {.size = sizeof(transport),
						 .scheme = "pair",
						 .ctx = &pairs,
						 .connect = pair_connect,
						 .listen = pair_listen,
						 .accept = pair_accept};
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message m;
	int rc;

	if (thmq_env_open(&env, NULL) || thmq_transport_register(env, &transport) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = "pair://"), &broker) ||
	    thmq_connect(env, "pair://", NULL, &session) ||
	    thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) ||
	    thmq_producer_open(session, "t", NULL, &producer) ||
	    thmq_consumer_open(session, "t", NULL, NULL, &consumer))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	if (thmq_send(producer, "through a pair", 14, NULL) < 0 ||
	    thmq_flush(producer, SECOND) != 0)
		return fprintf(stderr, "publish\n"), 1;
	while ((rc = thmq_fetch(consumer, &m, 1)) == 0)
		thmq_session_wait(session, SECOND);
	if (rc < 0)
		return fprintf(stderr, "fetch: %s\n", thmq_strerror(rc)), 1;
	printf("%.*s\n", (int)m.len, (const char *)m.data);
	thmq_release(consumer, &m, 1);
	return thmq_env_close(env, SECOND) != 0;
}
