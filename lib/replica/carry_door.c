/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry_door.c - several carriers of one node, on different cores, behind one listening socket: a connection that has said which lane it is for goes to the core
 * of that one's carrier. Knows not what comes over it.
 */
#include <unistd.h>

#include "carry.h"

int thmqi_carry_door_open(struct thmqi_courier *c, struct thmqi_courier *beside)
{
	struct carry_door *d = beside ? beside->door : calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return thmqi_fail(-ENOMEM, "no memory for a carrier");
	if (!beside)
		pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_lock(&d->lock);
	if (c->lane < CARRY_LANES && !d->lanes[c->lane])
		d->lanes[c->lane] = c;
	else
		rc = thmqi_fail(
			c->lane < CARRY_LANES ? -EEXIST : -EINVAL,
			"a carrier: its lane is below %u, and no other carrier's of this node",
			CARRY_LANES);
	d->refs += !rc;
	pthread_mutex_unlock(&d->lock);
	if (!rc)
		c->door = d;
	else if (!beside)
		free(d);
	return rc;
}

static void let_go(struct carry_door *d)
{
	bool last;

	pthread_mutex_lock(&d->lock);
	last = --d->refs == 0;
	pthread_mutex_unlock(&d->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void thmqi_carry_door_close(struct thmqi_courier *c)
{
	struct carry_door *d = c->door;

	if (!d)
		return;
	c->door = NULL;
	pthread_mutex_lock(&d->lock);
	d->lanes[c->lane] = NULL;
	pthread_mutex_unlock(&d->lock);
	let_go(d);
}

/* On the core that it was sent to, where that lane's carrier is opened and closed, too. */
static void arrive(struct thmq_core *core, struct thmqi_task *task)
{
	struct carry_conn *n = thmqi_container(task, struct carry_conn, task);
	struct carry_door *d = n->door;
	struct thmqi_courier *c;

	n->door = NULL;
	pthread_mutex_lock(&d->lock);
	c = d->lanes[n->hello.lane];
	pthread_mutex_unlock(&d->lock);
	let_go(d);
	if (!c || c->core != core) { /* it has closed */
		thmqi_carry_free(n);
		return;
	}
	n->carrier = c;
	thmqi_list_add_tail(&c->conns, &n->link);
	c->conn_count++;
	if (thmqi_carry_watch(n) != 0)
		thmqi_carry_end(n, -ENOMEM);
	else
		thmqi_carry_welcome(n);
}

bool thmqi_carry_hand_over(struct carry_conn *n, uint32_t lane)
{
	struct carry_door *d = n->carrier->door;
	struct thmq_core *core = NULL;

	if (lane >= CARRY_LANES)
		return false;
	pthread_mutex_lock(&d->lock);
	if (d->lanes[lane]) {
		core = d->lanes[lane]->core;
		d->refs++;
	}
	pthread_mutex_unlock(&d->lock);
	if (!core)
		return false;
	if (n->watch)
		thmqi_watch_close(n->watch);
	n->watch = NULL;
	thmqi_list_del(&n->link);
	n->carrier->conn_count--;
	n->carrier = NULL;
	n->door = d;
	n->writable = true; /* the watch there will tell if it is not */
	n->task.run = arrive;
	thmqi_core_post(core, &n->task);
	return true;
}
