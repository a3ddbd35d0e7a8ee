/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - a connection's life on its core: greeted, open, left, drained; what its timer does; and how the other's death is
 * noticed: a queue pair says nothing of a peer that has gone, and acknowledges for one that hangs. Knows not how frames are
 * read and written (in.c, out.c), nor who accepts (door.c) or connects (connect.c).
 */
#include "medium.h"

#define STALL_NS 1000000ull  /* until memory is asked for again */
#define LAST_ROUNDS 16u /* of sending, when the core closes */

/* ---------------------------------------------------------------- made, freed */

static void parted(struct thmqi_joint *j)
{
	thmqi_rdma_conn_free_if_done(thmqi_container(j, struct rdma_conn, joint));
}

struct rdma_conn *thmqi_rdma_conn_make(bool of_broker)
{
	struct rdma_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	thmqi_joint_init(&c->joint, of_broker);
	c->joint.parted = parted;
	c->deadline_ns = UINT64_MAX;
	c->queue_end = &c->queue;
	thmqi_list_init(&c->link);
	thmqi_stream_init(&c->in, of_broker);
	return c;
}

void thmqi_rdma_conn_free_if_done(struct rdma_conn *c)
{
	if (!c->joint.link_done || !c->queue_done)
		return;
	thmqi_joint_free_runs(&c->joint);
	if (c->mirror)
		thmqi_link_unref(c->mirror);
	if (c->trust)
		thmqi_rdma_trust_unref(c->trust);
	if (c->home)
		thmqi_rdma_home_unref(c->home);
	thmqi_guest_close(&c->guest);
	free(c);
}

/* -------------------------------------------------------------------- time */

void thmqi_rdma_tick_at(struct rdma_conn *c, uint64_t ns)
{
	if (!thmqi_timer_is_running(&c->timer) || c->timer.deadline_ns > ns)
		thmqi_timer_start(c->core, &c->timer, ns);
}

static void on_timer(struct thmqi_timer *t)
{
	struct rdma_conn *c = thmqi_container(t, struct rdma_conn, timer);

	c->ticked = true;
}

static uint64_t next_tick(const struct rdma_conn *c)
{
	uint64_t now = c->core->now_ns;

	return c->state == RDMA_OPEN ? now + c->joint.tick_ns : THMQI_MAX(c->deadline_ns, now + 1000000u);
}

/* Who did not say anything for so long is dead, and so is who takes nothing. Time in which this core did not run (it registered
 * memory, or was stopped) is not the other's. */
static void look_at_peer(struct rdma_conn *c)
{
	uint64_t now = c->core->now_ns, late = now - c->looked_ns;

	if (late > 2 * c->joint.tick_ns) {
		c->joint.heard_ns = THMQI_MIN(c->joint.heard_ns + late, now);
		c->joint.moved_ns = THMQI_MIN(c->joint.moved_ns + late, now);
	}
	c->looked_ns = now;
	if (!c->stalled && now - c->joint.heard_ns > c->joint.silence_ns)
		thmqi_rdma_end(c, -ETIMEDOUT);
	else if (!thmqi_rdma_out_blocked(c))
		c->joint.moved_ns = now;
	else if (now - c->joint.moved_ns > c->joint.silence_ns)
		thmqi_rdma_end(c, -ETIMEDOUT);
}

static void tick(struct rdma_conn *c)
{
	uint64_t now = c->core->now_ns;

	c->ticked = false;
	if (c->state == RDMA_CLOSED)
		return; /* the poller looks at its deadline */
	if (now >= c->deadline_ns)
		thmqi_rdma_end(c, -ETIMEDOUT);
	else if (c->state == RDMA_OPEN)
		look_at_peer(c);
	if (c->state == RDMA_OPEN)
		thmqi_joint_tick(&c->joint);
	if (c->state != RDMA_CLOSED)
		thmqi_rdma_tick_at(c, next_tick(c));
}

void thmqi_rdma_opened(struct rdma_conn *c)
{
	thmqi_lobby_leave(&c->guest);
	c->state = RDMA_OPEN;
	c->deadline_ns = UINT64_MAX;
	c->in.reaches = c->grants;
	thmqi_joint_opened(&c->joint, c->hello.silence_ms);
	c->looked_ns = c->core->now_ns;
	thmqi_timer_start(c->core, &c->timer, c->core->now_ns + c->joint.tick_ns);
}

int thmqi_rdma_hello_send(struct rdma_conn *c, struct thmqi_hello *hello, uint32_t kind)
{
	hello->silence_ms = (uint32_t)THMQI_MIN(c->joint.silence_ns / 1000000u, (uint64_t)UINT32_MAX);
	thmqi_hello_seal(hello, kind);
	thmqi_rdma_put_bytes(c, hello, sizeof(*hello));
	return c->state == RDMA_CLOSED ? c->error : 0;
}

/* --------------------------------------------------------------------- end */

/* Memory that the other may reach, or that requests of ours do, is let go only when the queue pair is drained. */
void thmqi_rdma_end(struct rdma_conn *c, int error)
{
	if (c->state == RDMA_CLOSED)
		return;
	thmqi_lobby_leave(&c->guest);
	c->state = RDMA_CLOSED;
	c->error = error;
	thmqi_rdma_queue_fail(c);
	if (c->connected) /* it hears of it now; whether it answers is not waited for */
		c->home->world->cm.disconnect(c->id);
	thmqi_rdma_offers_end(c);
	thmqi_joint_end(&c->joint, error);
	c->deadline_ns = c->core->now_ns + RDMA_DRAIN_NS;
	if (c->on_core)
		thmqi_timer_start(c->core, &c->timer, c->deadline_ns);
}

void thmqi_rdma_conn_off_core(struct rdma_conn *c)
{
	if (!c->on_core)
		return;
	c->on_core = false;
	thmqi_timer_stop(c->core, &c->timer);
	thmqi_list_del(&c->link);
}

static void finish_end(struct rdma_conn *c)
{
	thmqi_rdma_drop_queue(c);
	thmqi_rdma_queue_close(c);
	thmqi_rdma_conn_off_core(c);
	c->queue_done = true;
	thmqi_rdma_conn_free_if_done(c);
}

/* ------------------------------------------------------------------- poller */

int thmqi_rdma_conn_poll(struct rdma_conn *c)
{
	int done = 0;

	if (thmqi_unlikely(c->ticked)) {
		tick(c);
		done++;
	}
	if (thmqi_likely(c->state == RDMA_OPEN)) {
		if (thmqi_unlikely(c->queue != NULL || c->stalled))
			done += thmqi_rdma_in(c);
		if (c->state == RDMA_OPEN)
			return done + thmqi_rdma_out_wanted(c);
	}
	if (c->state == RDMA_CLOSED &&
	    (thmqi_rdma_queue_drained(c) || c->core->now_ns >= c->deadline_ns)) {
		finish_end(c);
		done++;
	}
	return done;
}

void thmqi_rdma_conn_finish(struct rdma_conn *c)
{
	if (c->state == RDMA_OPEN && thmqi_rdma_out_wanted(c))
		thmqi_rdma_out(c);
}

bool thmqi_rdma_conn_arm(struct rdma_conn *c)
{
	if (c->state == RDMA_CLOSED)
		return thmqi_rdma_queue_drained(c);
	if (c->state != RDMA_OPEN)
		return false;
	if (c->stalled)
		thmqi_rdma_tick_at(c, c->core->now_ns + STALL_NS);
	if (thmqi_rdma_out_wanted(c))
		return true;
	if (thmqi_joint_may_be_untold(&c->joint))
		thmqi_rdma_tick_at(c, c->core->now_ns + JOINT_UNTOLD_NS);
	return false;
}

/* The core closes: what can be sent at once is, and that is all. */
void thmqi_rdma_conn_close(struct rdma_conn *c)
{
	uint32_t i;

	for (i = 0; i < LAST_ROUNDS && c->state == RDMA_OPEN && thmqi_rdma_out_wanted(c); i++)
		thmqi_rdma_out(c);
	thmqi_rdma_end(c, -ESHUTDOWN);
	finish_end(c);
}

void thmqi_rdma_conn_start(struct rdma_conn *c, struct rdma_home *h)
{
	c->home = h;
	h->refs++;
	c->core = c->joint.core = h->core;
	c->timer = (struct thmqi_timer){.fire = on_timer};
	thmqi_list_add_tail(&h->conns, &c->link);
	c->on_core = true;
	thmqi_rdma_tick_at(c, next_tick(c));
}
