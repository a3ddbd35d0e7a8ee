/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.c - a table as a topic: the newest message with a key is its value, one without a payload deletes it, and older ones go by
 * themselves. Who reads the topic from its beginning has the table, and with what comes then every change to it.
 */
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define NAMES 4u

static const char *const names[NAMES] = {"color", "language", "size", "theme"};
static struct thmq_session *session;
static struct thmq_producer *producer;
static char table[NAMES][64];

/* NULL: it has no value any more. */
static int set(const char *name, const char *value)
{
	int64_t rc = thmq_send(producer, value, value ? (uint32_t)strlen(value) : 0,
			       THMQ_MESSAGE_OPTS(.key = name, .key_len = (uint32_t)strlen(name)));

	return rc < 0 ? (int)rc : thmq_flush(producer, SECOND);
}

static void take(const struct thmq_message *m)
{
	uint32_t i;

	for (i = 0; i < NAMES; i++)
		if (m->key_len == strlen(names[i]) && memcmp(m->key, names[i], m->key_len) == 0)
			snprintf(table[i], sizeof(table[i]), "%.*s", (int)m->len,
				 (const char *)m->data);
}

/* All up to the end, as it is now. */
static int read_table(struct thmq_consumer *reader)
{
	struct thmq_message m;
	int n;

	while ((n = thmq_fetch(reader, &m, 1)) == 1 ||
	       (n == 0 && thmq_session_wait(session, SECOND / 5) == 1)) {
		if (n == 0)
			continue;
		take(&m);
		thmq_release(reader, &m, 1);
	}
	return n;
}

int main(void)
{
	struct thmq_consumer *reader;
	struct thmq_broker *broker;
	struct thmq_env *env;
	uint32_t i;

	if (thmq_env_open(&env, NULL) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "settings-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(
		    session, "settings",
		    THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT | THMQ_TOPIC_IF_ABSENT)) ||
	    thmq_producer_open(session, "settings", NULL, &producer) ||
	    thmq_consumer_open(session, "settings", NULL, NULL, &reader))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	if (set("color", "blue") || set("size", "large") || set("color", "green") ||
	    set("theme", "dark") || set("theme", NULL) || read_table(reader))
		return fprintf(stderr, "something failed\n"), 1;
	for (i = 0; i < NAMES; i++)
		printf("%s = %s\n", names[i], *table[i] ? table[i] : "(not set)");
	if (strcmp(table[0], "green") || *table[1] || strcmp(table[2], "large") || *table[3])
		return 1;
	return thmq_env_close(env, SECOND) != 0;
}
