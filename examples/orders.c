/* SPDX-License-Identifier: Apache-2.0 */
/*
 * orders.c - event sourcing: what has happened to an order is all that is stored of it. Two clerks take orders at the same time; each knows what it has read, decides on
 * that, and stores what it decided only if nothing has happened to the order since (THMQ_MESSAGE_EXPECT_KEY). Who decided too early reads on and decides again.
 * So the log never holds what should not have happened, though nothing is locked: who reads it from the begin finds that.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define ORDERS_MAX 10000u
#define TOPIC "orders"

enum state { NONE, PLACED, PAID, SHIPPED, CANCELLED };
enum happening { PLACE, PAY, SHIP, CANCEL };

static const char *const names[] = {"placed", "paid", "shipped", "cancelled"};

struct order {
	enum state state;
	uint64_t version; /* offset of the last that happened to it; UINT64_MAX: nothing has */
};

/* What one of them knows. */
struct clerk {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer; /* in no group: it reads all */
	struct order orders[ORDERS_MAX];
};

static struct thmq_env *env;

/* The rules. Return: what the order is then, or NONE: that may not happen to it. */
static enum state after(enum state now, enum happening what)
{
	switch (what) {
	case PLACE:
		return now == NONE ? PLACED : NONE;
	case PAY:
		return now == PLACED ? PAID : NONE;
	case SHIP:
		return now == PAID ? SHIPPED : NONE;
	default:
		return now == PLACED || now == PAID ? CANCELLED : NONE;
	}
}

/* The next event that there is. Return: 1; 0 there is none now; -EPROTO the log holds what should not have happened; or another error. */
static int take(struct clerk *c)
{
	struct thmq_message m;
	struct order *o;
	uint32_t what;
	char key[32];
	int n = thmq_fetch(c->consumer, &m, 1);

	if (n <= 0)
		return n;
	snprintf(key, sizeof(key), "%.*s", (int)m.key_len, (const char *)m.key);
	o = &c->orders[strtoul(key + strlen("order-"), NULL, 10) % ORDERS_MAX];
	for (what = PLACE; what < CANCEL && strncmp(names[what], m.data, m.len) != 0; what++)
		;
	o->state = after(o->state, (enum happening)what);
	o->version = m.offset;
	n = o->state == NONE ? -EPROTO : 1;
	thmq_release(c->consumer, &m, 1);
	return n;
}

/* Reads on until it knows all before @end; there is one partition, and each version is an offset in it. Return: 0, or an error. */
static int read_to(struct clerk *c, uint64_t end)
{
	uint64_t position = 0;
	int rc;

	while ((rc = take(c)) >= 0) {
		if (rc)
			continue;
		rc = thmq_consumer_position(c->consumer, 0, &position);
		if (rc || position >= end)
			return rc;
		thmq_poll(env, SECOND / 100);
	}
	return rc;
}

static int read_all(struct clerk *c)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	int rc = thmq_partition_describe(c->session, TOPIC, 0, NULL, &info);

	return rc ? rc : read_to(c, info.end_offset);
}

/* Stores that @what happened, if nothing has since @version. Return: 1; 0 something has, *@version says what to read to; or an error. */
static int append(struct clerk *c, uint32_t number, enum happening what, uint64_t *version)
{
	struct thmq_event e;
	char key[32];
	int64_t rc;

	snprintf(key, sizeof(key), "order-%u", number);
	rc = thmq_send(c->producer, names[what], (uint32_t)strlen(names[what]),
		       THMQ_MESSAGE_OPTS(.key = key, .key_len = (uint32_t)strlen(key), .flags = THMQ_MESSAGE_EXPECT_KEY, .expected = *version));
	if (rc < 0)
		return (int)rc;
	rc = thmq_flush(c->producer, 10 * SECOND);
	while (thmq_events(c->session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_FAILED || e.error != -THMQ_ECONFLICT)
			continue;
		*version = e.offset;
		return 0;
	}
	return rc ? (int)rc : 1;
}

/* Decides on what is known, as long as that is not all. Return: 1 it is done; 0 it may not be done any more; or an error. */
static int decide(struct clerk *c, uint32_t number, enum happening what, uint32_t *conflicts)
{
	struct order *o = &c->orders[number];
	int rc;

	while (after(o->state, what) != NONE) {
		uint64_t version = o->version;

		rc = append(c, number, what, &version);
		if (rc)
			return rc;
		++*conflicts;
		rc = read_to(c, version + 1);
		if (rc)
			return rc;
	}
	return 0;
}

static struct clerk *clerk_open(void)
{
	struct clerk *c = calloc(1, sizeof(*c));
	uint32_t i;

	if (!c)
		return NULL;
	for (i = 0; i < ORDERS_MAX; i++)
		c->orders[i].version = UINT64_MAX;
	if (thmq_connect(env, "inproc://", NULL, &c->session) == 0 &&
	    thmq_topic_create(c->session, TOPIC, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0 &&
	    thmq_producer_open(c->session, TOPIC, NULL, &c->producer) == 0 &&
	    thmq_consumer_open(c->session, TOPIC, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c->consumer) == 0 &&
	    read_all(c) == 0)
		return c;
	fprintf(stderr, "%s\n", thmq_errmsg());
	free(c);
	return NULL;
}

static int fail(const char *what, int rc)
{
	return fprintf(stderr, "%s: %s\n", what, thmq_strerror(rc)), 1;
}

int main(void)
{
	uint32_t first = 1, i, conflicts = 0, shipped = 0;
	struct clerk *anna, *ben, *later;
	struct thmq_broker *broker;
	int rc, other;

	if (thmq_env_open(&env, NULL) || thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "orders-data"), &broker))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	anna = clerk_open();
	ben = clerk_open();
	if (!anna || !ben)
		return 1;
	while (first < ORDERS_MAX && anna->orders[first].state != NONE) /* earlier runs' */
		first++;
	if (first + 20 > ORDERS_MAX)
		return fprintf(stderr, "orders-data is full\n"), 1;
	for (i = first; i < first + 20; i++) {
		if ((rc = decide(anna, i, PLACE, &conflicts)) != 1 || (rc = read_all(anna)) || (rc = decide(anna, i, PAY, &conflicts)) != 1)
			return fail("an order", rc);
		if ((rc = read_all(anna)) || (rc = read_all(ben)))
			return fail("reading", rc);
		/* both know that it is paid. One ships it, and the other, who does not know of that, cancels it; or the other way round */
		rc = decide(i % 2 ? anna : ben, i, SHIP, &conflicts);
		other = decide(i % 2 ? ben : anna, i, CANCEL, &conflicts);
		if (rc != 1 || other != 0)
			return fail("it was shipped, and cancelled", rc < 0 ? rc : other);
	}
	printf("20 orders, %u decisions that came too late\n", conflicts);
	later = clerk_open(); /* who has read all, and found nothing that should not have happened */
	if (!later)
		return 1;
	for (i = first; i < first + 20; i++)
		shipped += later->orders[i].state == SHIPPED;
	printf("%u are shipped\n", shipped);
	rc = thmq_env_close(env, 10 * SECOND);
	free(anna);
	free(ben);
	free(later);
	return rc || shipped != 20 || conflicts != 20;
}
