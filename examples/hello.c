/* SPDX-License-Identifier: Apache-2.0 */
/* hello.c - publish one message durably, read it back. */
#include <stdio.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

int main(void)
{
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message m;
	int rc;

	if (thmq_env_open(&env, NULL) || thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "hello-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "greetings", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ||
	    thmq_producer_open(session, "greetings", NULL, &producer) ||
	    thmq_consumer_open(session, "greetings", "readers", NULL, &consumer))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	if ((rc = (int)thmq_send(producer, "hello", 5, NULL)) < 0 || (rc = thmq_flush(producer, SECOND)) < 0)
		return fprintf(stderr, "publish: %s\n", thmq_strerror(rc)), 1; /* after the flush it is on the medium */
	while ((rc = thmq_fetch(consumer, &m, 1)) == 0)
		thmq_session_wait(session, SECOND);
	if (rc < 0)
		return fprintf(stderr, "fetch: %s\n", thmq_strerror(rc)), 1;
	printf("%.*s at offset %llu\n", (int)m.len, (const char *)m.data, (unsigned long long)m.offset);
	thmq_ack(consumer, &m); /* the group goes on behind it next time */
	thmq_release(consumer, &m, 1);
	return thmq_env_close(env, SECOND) != 0;
}
