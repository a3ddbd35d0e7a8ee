/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - a connection's life on its core: greeted, open, closed; what its poller and its timer do; and how the other process's
 * death is noticed: its socket hangs up, or its pidfd says so where a child of its still holds the socket. One that only does
 * not call in is dead if it is stopped; one that runs may have better things to do. Knows not how frames are taken
 * and given (in.c, out.c), nor who comes in (door.c).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shm.h"

#define TICK_MAX_NS 1000000000ull
#define TICK_MIN_NS 25000000ull
#define RETRY_NS 500000ull   /* until a ring is looked at again whose reader does not tell */
#define REST_ROUNDS 256u     /* polls without a look at the clock */
#define DOZE_ROUNDS 16u
#define LONE_BEFORE 8u       /* messages one by one, until the next is believed to be another */
#define REST_NS 20000000ull  /* without work, until a connection is not looked at any more: waking it costs some microseconds */
#define LAST_ROUNDS 16u      /* of sending, when the core closes */
#define PACKETS 16u          /* that are thrown away in one go */

/* ---------------------------------------------------------------- made, freed */

struct shm_conn *thmqi_shm_make(void)
{
	struct shm_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->fd = c->pid_fd = c->memory_fd = -1;
	c->deadline_ns = UINT64_MAX;
	return c;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void thmqi_shm_free(struct shm_conn *c)
{
	close_fd(&c->fd);
	close_fd(&c->pid_fd);
	close_fd(&c->memory_fd);
	thmqi_shm_arena_drop(&c->arena);
	thmqi_shm_room_fini(&c->room);
	thmqi_shm_books_close(c->streams, THMQI_STREAMS * sizeof(*c->streams));
	thmqi_guest_close(&c->guest);
	free(c);
}

/* ------------------------------------------------------------------- socket */

static void on_ready(void *ctx, uint32_t events)
{
	struct shm_conn *c = ctx;

	thmqi_core_rouse_poller(c->core, &c->poller);
	c->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->hung_up = true;
}

static void on_exit_of_peer(void *ctx, uint32_t events)
{
	struct shm_conn *c = ctx;

	(void)events;
	thmqi_core_rouse_poller(c->core, &c->poller);
	c->hung_up = true;
}

/* What it sends only wakes us. Descriptors that it sends along never come in: nobody takes them. */
static void throw_away(struct shm_conn *c)
{
	char byte[8];
	uint32_t i;
	ssize_t n;

	for (i = 0; i < PACKETS; i++) {
		n = recv(c->fd, byte, sizeof(byte), MSG_DONTWAIT);
		if (n > 0 || (n < 0 && errno == EINTR))
			continue;
		if (n == 0 || errno != EAGAIN)
			c->hung_up = true;
		c->readable = false;
		return;
	}
}

/* -------------------------------------------------------------------- time */

void thmqi_shm_tick_at(struct shm_conn *c, uint64_t ns)
{
	if (!thmqi_timer_is_running(&c->timer) || c->timer.deadline_ns > ns)
		thmqi_timer_start(c->core, &c->timer, ns);
}

static void tick(struct shm_conn *c);

/* Who rests need not be roused for it. */
static void on_timer(struct thmqi_timer *t)
{
	struct shm_conn *c = thmqi_container(t, struct shm_conn, timer);

	c->ticked = true;
	if (c->poller.rests)
		tick(c);
}

/* As in /proc: R, S, T …; 0: it is not known. */
static char state_of(int32_t pid)
{
	char path[32], text[512], *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	at = strrchr(text, ')'); /* its name may have any character */
	return at && at[1] == ' ' ? at[2] : 0;
}

bool thmqi_shm_is_running(int32_t pid)
{
	char state = pid > 0 ? state_of(pid) : 0;

	return state && !strchr("TtZXx", state);
}

bool thmqi_shm_is_dead(int32_t pid)
{
	char state;

	if (pid <= 0)
		return false;
	if (kill(pid, 0) != 0 && errno == ESRCH)
		return true;
	state = state_of(pid);
	return state && strchr("ZXx", state); /* nobody has asked for its end yet */
}

static void look_at_peer(struct shm_conn *c)
{
	uint32_t beat = atomic_load_explicit(&c->arena.head->client_beat, memory_order_relaxed);
	uint64_t now = c->core->now_ns;

	atomic_store_explicit(&c->link->beat, beat, memory_order_relaxed);
	if (beat != c->beat_seen)
		c->heard_ns = now;
	c->beat_seen = beat;
	if (now - c->heard_ns <= c->silence_ns)
		return;
	if (thmqi_shm_is_running(c->pid))
		c->heard_ns = now; /* asked again after as long */
	else
		thmqi_shm_end(c, -ETIMEDOUT);
}

static void beat(struct shm_conn *c)
{
	_Atomic uint32_t *word = &c->arena.head->broker_beat;
	uint32_t next = atomic_load_explicit(word, memory_order_relaxed) + 1;

	/* 0 means that the link is not accepted yet */
	atomic_store_explicit(word, next ? next : 1, memory_order_release);
}

static void tick(struct shm_conn *c)
{
	uint64_t now = c->core->now_ns;

	c->ticked = false;
	if (c->state == SHM_CLOSED || c->state == SHM_MOVING)
		return; /* the poller ends that */
	if (now >= c->deadline_ns)
		thmqi_shm_end(c, c->state == SHM_OPEN ? -ECONNRESET : -ETIMEDOUT);
	if (c->state == SHM_OPEN) {
		beat(c);
		look_at_peer(c);
	}
	thmqi_shm_tick_at(c, c->state == SHM_GREETING ? c->deadline_ns : now + c->tick_ns);
}

void thmqi_shm_opened(struct shm_conn *c)
{
	uint64_t peer = THMQI_MAX(c->hello.hello.silence_ms * 1000000ull, JOINT_SILENCE_MIN_NS);
	struct shm_head *head = c->arena.head;
	uint32_t may_sleep = atomic_load_explicit(&c->core->may_sleep, memory_order_relaxed);

	c->state = SHM_OPEN;
	c->deadline_ns = UINT64_MAX;
	c->heard_ns = c->core->now_ns;
	c->tick_ns = THMQI_MIN(THMQI_MIN(peer, c->silence_ns) / 4, TICK_MAX_NS);
	if (c->link->shard == THMQI_SHARD_META)
		c->tick_ns = THMQI_MIN(c->tick_ns, JOINT_BEAT_NS);
	c->tick_ns = THMQI_MAX(c->tick_ns, TICK_MIN_NS);
	atomic_store(&head->bell.may_sleep, may_sleep);
	atomic_store(&head->instance, c->guest.listener->instance);
	atomic_store(&head->takes, SHM_TAKES_SERIES | SHM_TAKES_RELEASES);
	beat(c);
	thmqi_timer_start(c->core, &c->timer, c->core->now_ns + c->tick_ns);
}

/* --------------------------------------------------------------------- end */

static void tell_why(struct shm_conn *c, int error)
{
	struct shm_head *head = c->arena.head;
	int32_t open = 0;

	if (!c->arena.map)
		return;
	atomic_compare_exchange_strong(&head->broker_closed, &open, error);
	thmqi_shm_wake(c->fd);
}

void thmqi_shm_end(struct shm_conn *c, int error)
{
	struct thmqi_link *link = c->link;

	if (c->state == SHM_CLOSED)
		return;
	thmqi_lobby_leave(&c->guest);
	c->state = SHM_CLOSED;
	c->link = NULL;
	tell_why(c, error);
	if (link)
		thmqi_link_close_here(link);
	/* the other hears of it now, though all is given back a little later */
	shutdown(c->fd, SHUT_RDWR);
	if (c->on_core) {
		thmqi_core_rouse_poller(c->core, &c->poller);
		thmqi_shm_tick_at(c, c->core->now_ns + TICK_MIN_NS);
	}
}

static void unwatch(struct thmq_watch **watch)
{
	if (*watch)
		thmqi_watch_close(*watch);
	*watch = NULL;
}

void thmqi_shm_off_core(struct shm_conn *c)
{
	if (!c->on_core)
		return;
	c->on_core = false;
	unwatch(&c->watch);
	unwatch(&c->pid_watch);
	thmqi_timer_stop(c->core, &c->timer);
	thmqi_core_remove_poller(c->core, &c->poller);
}

static void gone(struct shm_conn *c)
{
	thmqi_shm_off_core(c);
	thmqi_shm_free(c);
}

/* It is dead, or has left: what it committed is still taken, if that does not take long. */
static void leave(struct shm_conn *c)
{
	if (c->deadline_ns == UINT64_MAX) {
		c->deadline_ns = c->core->now_ns + SHM_LEAVE_NS;
		thmqi_shm_tick_at(c, c->deadline_ns);
	}
	if (!thmqi_frame_peek(&c->ctl, 0) && !thmqi_shm_up_waits(c) &&
	    !thmqi_frame_peek(&c->link->ctl, 0))
		thmqi_shm_end(c, -ECONNRESET);
}

/* ------------------------------------------------------------------- poller */

static void conn_disarm(struct thmqi_poller *p)
{
	struct shm_conn *c = thmqi_container(p, struct shm_conn, poller);

	if (c->state == SHM_OPEN)
		atomic_store_explicit(&c->arena.head->bell.sleeping, 0, memory_order_relaxed);
}

static int poll_open(struct shm_conn *c)
{
	int done = 0;

	if (thmqi_unlikely(c->readable))
		throw_away(c);
	if (thmqi_shm_in_wanted(c))
		done = thmqi_shm_in(c);
	if (c->state == SHM_OPEN && thmqi_unlikely(c->hung_up))
		leave(c);
	return done;
}

static bool conn_arm(struct thmqi_poller *p);

/*
 * The client wakes us from now on. It does not look whether it has to where a core never sleeps: there what comes in is looked for
 * now and then.
 */
static void rest(struct shm_conn *c)
{
	c->idle_rounds = 0;
	if (c->core->now_ns - c->busy_ns < REST_NS || thmqi_frame_peek(&c->link->down, 0) || c->hung_up)
		return;
	c->dozes = !atomic_load_explicit(&c->core->may_sleep, memory_order_relaxed);
	if (c->dozes)
		return;
	if (conn_arm(&c->poller) || !thmqi_link_rest(c->link)) {
		conn_disarm(&c->poller);
		return;
	}
	c->rested = true;
	thmqi_core_rest_poller(c->core, &c->poller);
}

static void rest_if_idle(struct shm_conn *c, int done)
{
	if (done) {
		c->busy_ns = c->core->now_ns;
		c->dozes = false;
	}
	if (thmqi_unlikely(++c->idle_rounds >= REST_ROUNDS))
		rest(c);
}

static void rise(struct shm_conn *c)
{
	c->rested = false;
	conn_disarm(&c->poller);
	if (c->link)
		thmqi_link_rouse(c->link);
}

/* What most polls find of an open one: nothing but frames, if any. */
static inline bool is_quiet(const struct shm_conn *c)
{
	return !(c->rested | c->dozes | c->readable | c->hung_up | c->ticked);
}

/*
 * A message by itself and nothing behind it, as were those before it: its sender may wait for what comes of it. Who has more to say gains by
 * being heard in one go.
 */
static inline bool one_came(struct shm_conn *c)
{
	const struct thmqi_frame_ring *up = &c->link->up;

	if (up->head == up->next)
		return false;
	if (up->head - up->next > 1 || c->series_taken || thmqi_frame_peek(&c->up, 0))
		c->lone = 0;
	else if (c->lone < LONE_BEFORE)
		c->lone++;
	else
		return true;
	return false;
}

static int conn_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct shm_conn *c = thmqi_container(p, struct shm_conn, poller);
	int done = 0;

	(void)budget;
	if (thmqi_likely(c->state == SHM_OPEN) && is_quiet(c)) {
		if (thmqi_shm_in_wanted(c)) {
			done = thmqi_shm_in(c);
			if (thmqi_unlikely(c->state != SHM_OPEN)) /* the next look ends it */
				return done;
			if (one_came(c)) {
				thmqi_link_came(c->link);
				if (thmqi_unlikely(c->state != SHM_OPEN))
					return done;
			}
		}
		done += thmqi_shm_out_wanted(c);
		rest_if_idle(c, done);
		return done;
	}
	if (thmqi_unlikely(c->rested))
		rise(c);
	if (c->dozes && ++c->idle_rounds % DOZE_ROUNDS && !c->readable && !c->ticked && !c->hung_up)
		return 0; /* what goes down is seen by finish */
	if (thmqi_likely(c->state == SHM_OPEN))
		done = poll_open(c);
	else if (c->state == SHM_GREETING)
		done = thmqi_shm_greet(c);
	if (thmqi_unlikely(c->ticked))
		tick(c);
	if (thmqi_likely(c->state == SHM_OPEN)) {
		done += thmqi_shm_out_wanted(c);
		rest_if_idle(c, done);
		return done;
	}
	if (c->state == SHM_MOVING) {
		thmqi_shm_move(c);
		done++;
	} else if (c->state == SHM_CLOSED) {
		gone(c);
		done++;
	}
	return done;
}

static void conn_finish(struct thmqi_poller *p)
{
	struct shm_conn *c = thmqi_container(p, struct shm_conn, poller);

	if (c->state == SHM_OPEN && thmqi_shm_out_wanted(c))
		thmqi_shm_out(c);
}

static bool conn_arm(struct thmqi_poller *p)
{
	struct shm_conn *c = thmqi_container(p, struct shm_conn, poller);
	struct shm_head *head = c->arena.head;

	if (c->state != SHM_OPEN)
		return c->state != SHM_GREETING || c->readable || c->hung_up;
	/* flag before the look: pairs with the fence in the client's kick */
	atomic_store_explicit(&head->bell.sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (c->readable || thmqi_shm_in_wanted(c) || thmqi_shm_out_wanted(c))
		return true;
	/* who reads the ring does not tell, nor does the shard, which still has frames of one who left */
	if ((!c->stalled && thmqi_frame_peek(&c->link->down, 0)) || c->hung_up)
		thmqi_shm_tick_at(c, c->core->now_ns + RETRY_NS);
	return false;
}

/* The core closes: what there is room for is still told, and that is all. */
static void conn_end(struct thmqi_poller *p)
{
	struct shm_conn *c = thmqi_container(p, struct shm_conn, poller);
	uint32_t i;

	for (i = 0; i < LAST_ROUNDS && c->state == SHM_OPEN && thmqi_shm_out_wanted(c); i++)
		thmqi_shm_out(c);
	thmqi_shm_end(c, -ESHUTDOWN);
	gone(c);
}

int thmqi_shm_start(struct shm_conn *c, struct thmq_core *core)
{
	int rc;

	c->core = core;
	rc = thmqi_watch_open(core, c->fd, EPOLLIN | EPOLLRDHUP, on_ready, c, &c->watch);
	if (rc)
		return rc;
	/* without it only the socket tells of the process's end */
	if (c->pid_fd >= 0 &&
	    thmqi_watch_open(core, c->pid_fd, EPOLLIN, on_exit_of_peer, c, &c->pid_watch) != 0)
		c->pid_watch = NULL;
	c->timer = (struct thmqi_timer){.fire = on_timer};
	c->poller = (struct thmqi_poller){.poll = conn_poll,
					  .arm = conn_arm,
					  .disarm = conn_disarm,
					  .finish = conn_finish,
					  .end = conn_end};
	/* the shard sees in the same iteration what came in */
	thmqi_core_add_poller_first(core, &c->poller);
	c->on_core = true;
	thmqi_shm_tick_at(c, c->deadline_ns);
	return 0;
}
