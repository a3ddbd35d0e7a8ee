/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_creation_test.c - a data directory whose making is cut short, or fails, at every single operation: the next
 * open completes it, and what was acknowledged before the cut is there. On the simulated disk.
 */
#include "api/api.h"
#include "bad_input.h"
#include "disk/sim.h"

#define STEPS_MAX 4000u

/* How far a life came: what it was told is durable. */
struct progress {
	int error; /* of the step that failed; 0: none did */
	bool opened, topic, message;
};

/* Open, create a topic, publish one message of @number; whatever fails, close all. */
static void live(struct thmqi_disk_sim *sim, uint64_t number, struct progress *ret)
{
	struct thmq_producer *p = NULL;
	struct thmq_session *s = NULL;
	struct thmq_broker *b = NULL;
	struct thmq_env *env = NULL;
	int64_t rc;

	memset(ret, 0, sizeof(*ret));
	MUST(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 64 << 20), thmqi_disk_sim_world(sim),
				&env));
	rc = broker_on(env, "data", 0, &b);
	if (rc == 0) {
		ret->opened = true;
		rc = thmq_connect(env, "inproc://", THMQ_SESSION_OPTS(.timeout_ns = SECOND), &s);
	} else {
		CHECK(thmq_errmsg()[0]);
	}
	if (rc == 0)
		rc = thmq_topic_create(s, "numbers",
				       THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT));
	if (rc == 0) {
		ret->topic = true;
		rc = thmq_producer_open(s, "numbers", NULL, &p);
	}
	if (rc == 0)
		rc = thmq_send(p, &number, sizeof(number), NULL);
	if (rc > 0)
		rc = thmq_flush(p, SECOND);
	ret->message = rc == 0 && p;
	ret->error = (int)rc;
	thmq_env_close(env, SECOND);
}

/* The directory opens, has what @was says, and is of use. */
static bool expect(struct thmqi_disk_sim *sim, const struct progress *was, unsigned step)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_env *env = NULL;
	struct thmq_broker *b = NULL;
	struct thmq_session *s = NULL;
	struct progress next;
	int before = failures;
	uint64_t n = 0;
	int rc;

	MUST(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 64 << 20), thmqi_disk_sim_world(sim),
				&env));
	RETURNS(0, rc = broker_on(env, "data", 0, &b));
	if (rc == 0) {
		MUST(thmq_connect(env, "inproc://", NULL, &s));
		rc = thmq_topic_describe(s, "numbers", &info);
		CHECK(rc == 0 || (rc == -THMQ_ENOTOPIC && !was->topic));
		if (rc == 0)
			n = get_numbers(s);
		CHECK(n == 1 || (n == 0 && !was->message));
	}
	RETURNS(0, thmq_env_close(env, SECOND));
	if (rc == 0 || rc == -THMQ_ENOTOPIC) {
		live(sim, n, &next);
		CHECK(next.message);
	}
	if (failures != before)
		fprintf(stderr, "… at operation %u\n", step);
	return failures == before;
}

static void cut_as(enum thmqi_disk_sim_crash_mode mode)
{
	struct thmqi_disk_sim *sim;
	struct progress was;
	unsigned step;
	bool down;

	for (step = 1; step < STEPS_MAX; step++) {
		MUST(thmqi_disk_sim_open(step, NULL, &sim));
		thmqi_disk_sim_cut_at(sim, step, mode);
		live(sim, 0, &was);
		down = thmqi_disk_sim_is_down(sim);
		thmqi_disk_sim_cut_at(sim, 0, mode);
		thmqi_disk_sim_restart(sim);
		if (!expect(sim, &was, step) && failures > 20)
			break;
		thmqi_disk_sim_close(sim);
		if (!down) /* all of it came before the cut */
			break;
	}
	CHECK(step > 20 && step < STEPS_MAX);
	printf("%u cuts\n", step - 1);
}

static void cut_and_all_is_lost(void)
{
	cut_as(THMQI_DISK_SIM_CRASH_LOSE);
}

static void cut_and_all_is_kept(void)
{
	cut_as(THMQI_DISK_SIM_CRASH_KEEP);
}

static void cut_and_the_last_is_torn(void)
{
	cut_as(THMQI_DISK_SIM_CRASH_PREFIX);
}

static void cut_and_any_is_lost(void)
{
	cut_as(THMQI_DISK_SIM_CRASH_ANY);
}

/* The nth operation of a kind fails once: told by an error, and the next try succeeds. */
static void fail_each(uint8_t opcode, int error)
{
	struct thmqi_disk_sim_fault fault = {
		.opcode = opcode, .effect = THMQI_DISK_SIM_ERROR, .error = error};
	struct thmqi_disk_sim_stats st;
	struct thmqi_disk_sim *sim;
	struct progress was;
	unsigned step, told = 0;

	for (step = 1; step < STEPS_MAX; step++) {
		MUST(thmqi_disk_sim_open(step, NULL, &sim));
		fault.nth = step;
		MUST(thmqi_disk_sim_fault_add(sim, &fault));
		live(sim, 0, &was);
		thmqi_disk_sim_faults_clear(sim);
		thmqi_disk_sim_stats(sim, &st);
		if (was.error) {
			told++;
			if (!was.opened)
				CHECK(was.error == error);
		}
		if (!expect(sim, &was, step) && failures > 20)
			break;
		thmqi_disk_sim_close(sim);
		if (!st.faults)
			break;
	}
	CHECK(told > 0 && step > 1 && step < STEPS_MAX);
	printf("%u failures, %u of them told\n", step - 1, told);
}

static void a_write_fails(void)
{
	fail_each(THMQI_DISK_WRITE, -EIO);
}

static void a_write_finds_no_space(void)
{
	fail_each(THMQI_DISK_WRITE, -ENOSPC);
}

static void a_flush_fails(void)
{
	fail_each(THMQI_DISK_FLUSH, -EIO);
}

static void an_allocation_fails(void)
{
	fail_each(THMQI_DISK_ALLOCATE, -ENOSPC);
}

static void a_creation_fails(void)
{
	fail_each(THMQI_DISK_CREATE, -EMFILE);
}

static void a_rename_fails(void)
{
	fail_each(THMQI_DISK_RENAME, -EIO);
}

static void a_directory_flush_fails(void)
{
	fail_each(THMQI_DISK_SYNC_DIR, -EIO);
}

static const struct bad_case cases[] = {
	{"cut_and_all_is_lost", cut_and_all_is_lost},
	{"cut_and_all_is_kept", cut_and_all_is_kept},
	{"cut_and_the_last_is_torn", cut_and_the_last_is_torn},
	{"cut_and_any_is_lost", cut_and_any_is_lost},
	{"a_write_fails", a_write_fails},
	{"a_write_finds_no_space", a_write_finds_no_space},
	{"a_flush_fails", a_flush_fails},
	{"an_allocation_fails", an_allocation_fails},
	{"a_creation_fails", a_creation_fails},
	{"a_rename_fails", a_rename_fails},
	{"a_directory_flush_fails", a_directory_flush_fails},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
