/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.c - consume, transform, produce, exactly once: each payment becomes two bookings, in two topics, and is done, all in one transaction.
 *
 *     cc transfer.c -lthundermq -o transfer && ./transfer
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

struct payment {
	char from[16], to[16];
	int amount;
};

static struct thmq_session *session;
static struct thmq_producer *debits, *credits;
static struct thmq_consumer *payments;

static void die(const char *what)
{
	fprintf(stderr, "transfer: %s: %s\n", what, thmq_errmsg());
	exit(1);
}

static int book(struct thmq_producer *to, struct thmq_txn *txn, const char *account, int amount)
{
	char line[64];
	int len = snprintf(line, sizeof(line), "%s %+d", account, amount);

	return thmq_send(to, line, (uint32_t)len, THMQ_MESSAGE_OPTS(.key = account, .key_len = (uint32_t)strlen(account), .txn = txn)) < 0;
}

/* One payment. Whatever happens here, or kills this process: it is booked once, on both sides. */
static void transfer(const struct thmq_message *message)
{
	const struct payment *p = message->data;
	struct thmq_txn *txn;

	if (thmq_txn_begin(session, NULL, &txn))
		die("begin");
	if (p->amount <= 0) { /* not to be booked, but done */
		if (thmq_txn_ack(txn, payments, message) || thmq_txn_commit(txn, 5 * SECOND))
			die("commit");
		return;
	}
	if (book(debits, txn, p->from, -p->amount) || book(credits, txn, p->to, p->amount) || thmq_txn_ack(txn, payments, message))
		die("book");
	if (thmq_txn_commit(txn, 5 * SECOND))
		die("commit");
}

static void send_payments(void)
{
	static const struct payment list[] = {{"ann", "bob", 10}, {"bob", "cyd", 7}, {"cyd", "ann", 0}, {"ann", "cyd", 3}};
	struct thmq_producer *producer;
	unsigned i;

	if (thmq_producer_open(session, "payments", NULL, &producer))
		die("open");
	for (i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (thmq_send(producer, &list[i], sizeof(list[i]), NULL) < 0)
			die("send");
	if (thmq_producer_close(producer, 5 * SECOND))
		die("close");
}

/* All that is booked: nothing of a transaction that was not committed. */
static void show(const char *topic, int lines)
{
	struct thmq_consumer *consumer;
	struct thmq_message message;
	int n;

	if (thmq_consumer_open(session, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer))
		die("open");
	while (lines) {
		n = thmq_fetch(consumer, &message, 1);
		if (n < 0)
			die("fetch");
		if (n == 0) {
			thmq_session_wait(session, SECOND);
			continue;
		}
		printf("%s: %.*s\n", topic, (int)message.len, (const char *)message.data);
		thmq_release(consumer, &message, 1);
		lines--;
	}
	thmq_consumer_close(consumer, SECOND);
}

int main(void)
{
	const struct thmq_topic_opts *once = THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT);
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_message message;
	int n, left = 4;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_PIN)) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "transfer-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) || thmq_topic_create(session, "payments", once) ||
	    thmq_topic_create(session, "debits", once) || thmq_topic_create(session, "credits", once) ||
	    thmq_producer_open(session, "debits", NULL, &debits) || thmq_producer_open(session, "credits", NULL, &credits) ||
	    thmq_consumer_open(session, "payments", "clerk", NULL, &payments))
		die("open");
	send_payments();
	while (left) {
		n = thmq_fetch(payments, &message, 1);
		if (n < 0)
			die("fetch");
		if (n == 0) {
			thmq_session_wait(session, SECOND);
			continue;
		}
		transfer(&message);
		thmq_release(payments, &message, 1);
		left--;
	}
	show("debits", 3);
	show("credits", 3);
	return thmq_env_close(env, 5 * SECOND) ? 1 : 0;
}
