/* SPDX-License-Identifier: Apache-2.0 */
/*
 * later.c - messages that come later: reminders, one of which is called off.
 *
 *     cc later.c -lthundermq -o later && ./later
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define MS 1000000ull
#define SECOND 1000000000ull

static void die(const char *what)
{
	fprintf(stderr, "later: %s: %s\n", what, thmq_errmsg());
	exit(1);
}

/* So long from now on. Return: the number by which it can be called off. */
static uint64_t remind(struct thmq_session *session, struct thmq_producer *producer, const char *text, uint64_t delay_ns)
{
	struct thmq_event event;

	if (thmq_send(producer, text, (uint32_t)strlen(text), THMQ_MESSAGE_OPTS(.delay_ns = delay_ns)) < 0)
		die("send");
	do {
		if (thmq_session_wait(session, SECOND) < 0)
			die("wait");
	} while (thmq_events(session, &event, 1) != 1 || event.type != THMQ_EVENT_SETTLED);
	return event.offset; /* it is stored: it comes, even if this process dies now */
}

int main(void)
{
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message message;
	uint64_t number;
	int n, left = 2;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_PIN)) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "later-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "reminders", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ||
	    thmq_producer_open(session, "reminders", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &producer) ||
	    thmq_consumer_open(session, "reminders", "me", NULL, &consumer))
		die("open");

	remind(session, producer, "tea is ready", 200 * MS);
	number = remind(session, producer, "call the dentist", 150 * MS);
	remind(session, producer, "put water on", 100 * MS);
	if (thmq_delayed_cancel(session, "reminders", 0, number))
		die("cancel");

	while (left) {
		n = thmq_fetch(consumer, &message, 1);
		if (n < 0)
			die("fetch");
		if (n == 0) {
			thmq_session_wait(session, SECOND);
			continue;
		}
		printf("%.*s\n", (int)message.len, (const char *)message.data);
		thmq_ack(consumer, &message);
		thmq_release(consumer, &message, 1);
		left--;
	}
	return thmq_env_close(env, 5 * SECOND) ? 1 : 0;
}
