/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_data_name(): what a closed data directory calls its topics and groups. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thundermq/log.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

static char base[] = "broker-data-XXXXXX";
static struct thmq_data_name names[64];
static uint32_t count;

static void down(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	cr_assert_eq(system(command), 0);
}

/* The last of each. */
static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct thmq_data_name name = {.size = sizeof(name)};
	uint32_t i;
	int rc = thmq_data_name(run, &name);

	(void)ctx;
	cr_assert(rc == 0 || rc == 1);
	for (i = 0; i < count && (names[i].kind != name.kind || names[i].id != name.id); i++)
		;
	if (rc == 1) {
		names[i] = name;
		count += i == count;
	} else {
		cr_assert_eq(name.kind, 0, "it is as it was");
	}
	return 0;
}

static const struct thmq_data_name *find(uint32_t kind, const char *name)
{
	for (uint32_t i = 0; i < count; i++)
		if (names[i].kind == kind && strcmp(names[i].name, name) == 0)
			return &names[i];
	return NULL;
}

static void make(void)
{
	struct thmq_session *session;
	struct thmq_consumer *consumer;
	struct thmq_broker *broker;
	struct thmq_env *env;

	cr_assert_not_null(mkdtemp(base));
	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = base, .shard_count = 1),
				      &broker),
		     0);
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	cr_assert_eq(thmq_topic_create(session, "orders", THMQ_TOPIC_OPTS(.partition_count = 3)),
		     0);
	cr_assert_eq(thmq_topic_create(session, "gone", THMQ_TOPIC_OPTS(.partition_count = 2)), 0);
	cr_assert_eq(thmq_topic_create(session, "late", NULL), 0);
	cr_assert_eq(thmq_consumer_open(session, "late", "billing", NULL, &consumer), 0);
	cr_assert_eq(thmq_consumer_close(consumer, SECOND), 0);
	cr_assert_eq(thmq_topic_delete(session, "gone"), 0);
	cr_assert_eq(thmq_env_close(env, 10 * SECOND), 0);
}

Test(broker_data, numbers_have_their_names, .fini = down)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .run = on_run};
	const struct thmq_data_name *orders, *gone, *late, *billing;
	char path[64];

	make();
	snprintf(path, sizeof(path), "%s/meta", base);
	cr_assert_eq(thmq_log_scan(path, &visitor, NULL), 0);
	orders = find(THMQ_DATA_TOPIC, "orders");
	gone = find(THMQ_DATA_TOPIC, "gone");
	late = find(THMQ_DATA_TOPIC, "late");
	billing = find(THMQ_DATA_GROUP, "billing");
	cr_assert(orders && gone && late && billing);
	cr_assert(orders->partition_count == 3 && !orders->deleted &&
		  orders->topic_id == orders->id);
	cr_assert(gone->deleted && !late->deleted);
	cr_assert_geq(late->first_partition, orders->first_partition + 5);
	cr_assert_eq(billing->topic_id, late->id);
}

Test(broker_data, what_is_no_name_is_none)
{
	struct thmq_run_header header = {.encoding = THMQ_RUN_STATE, .partition = 17, .len = 8};
	struct thmq_log_run run = {.header = &header, .payload = &header};
	struct thmq_data_name name = {.size = sizeof(name), .id = 7}, was = name;

	cr_assert_eq(thmq_data_name(&run, &name), 0, "it is too short");
	header.partition = 18;
	cr_assert_eq(thmq_data_name(&run, &name), 0);
	header.len = 4096;
	run.payload = NULL;
	cr_assert_eq(thmq_data_name(&run, &name), 0);
	run.payload = &header;
	header.encoding = THMQ_RUN_RECORDS;
	cr_assert_eq(thmq_data_name(&run, &name), 0);
	cr_assert_eq(memcmp(&name, &was, sizeof(name)), 0);
	cr_assert_eq(thmq_data_name(NULL, &name), -EINVAL);
	cr_assert_eq(thmq_data_name(&run, NULL), -EINVAL);
	name.size = 0;
	cr_assert_eq(thmq_data_name(&run, &name), -EINVAL);
}
