/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_url_test.c - rdma:// where no device is needed: URLs, what a connection request carries, and that a machine without
 * RDMA is told so. What needs a device is in tests/lab.
 */
#include <criterion/criterion.h>

#include "../../lib/transport/rdma/medium.h"

TestSuite(rdma_url, .timeout = 60);

static struct thmq_env *env;

static void open_env(void)
{
	cr_assert_eq(thmq_env_open(&env, NULL), 0);
}

static void close_env(void)
{
	thmq_env_close(env, 0);
}

Test(rdma_url, malformed_ones_are_refused_before_anything_is_opened, .init = open_env,
     .fini = close_env)
{
	static const char *const urls[] = {
		"rdma://",
		"rdma://host",
		"rdma://:1",
		"rdma://::1:7",
		"rdma://1.2.3.4:99999",
		"rdma://1.2.3.4:1?to=5.6.7.8",
		"rdma://1.2.3.4:1?from=",
		"rdma://1.2.3.4:1?",
		"rdma://1.2.3.4:1?from=a b",
	};
	struct thmq_broker *b;

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++)
		cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = urls[i]), &b),
			     -EINVAL, "%s", urls[i]);
}

Test(rdma_url, a_machine_without_a_device_says_so, .init = open_env, .fini = close_env)
{
	struct thmq_session *s;
	struct thmq_broker *b;
	int rc = thmq_connect(env, "rdma://127.0.0.1:1", NULL, &s);

	/* where there is one, nobody listens there, or the address is not its */
	cr_assert(rc == -ENODEV || rc == -ECONNREFUSED || rc == -ETIMEDOUT ||
		  rc == -EADDRNOTAVAIL || rc == -EHOSTUNREACH);
	if (rc != -ENODEV)
		return;
	cr_assert_not_null(strstr(thmq_errmsg(), "rdma"), "%s", thmq_errmsg());
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = "rdma://127.0.0.1:0"), &b),
		     -ENODEV);
	cr_assert_not_null(strstr(thmq_errmsg(), "rdma"), "%s", thmq_errmsg());
	/* and all else works as ever */
	cr_assert_eq(thmq_broker_open(env, NULL, &b), 0);
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &s), 0);
}

Test(rdma_url, the_port_of_ours_stands_behind_the_host)
{
	char place[128], from[128];

	cr_assert_eq(thmqi_rdma_parse("rdma://host:7471?from=10.0.0.2", place, from), 0);
	cr_assert_str_eq(place, "rdma://host:7471");
	cr_assert_str_eq(from, "rdma://10.0.0.2:0");
	cr_assert_eq(thmqi_rdma_parse("rdma://[fe80::1]:7471?from=fe80::2", place, from), 0);
	cr_assert_str_eq(place, "rdma://[fe80::1]:7471");
	cr_assert_str_eq(from, "rdma://[fe80::2]:0");
	cr_assert_eq(thmqi_rdma_parse("rdma://host:1", place, from), 0);
	cr_assert_str_eq(from, "");
}

static struct rdma_ask sealed(void)
{
	struct rdma_ask a = {.shard = 3, .instance = 7};

	thmqi_rdma_ask_seal(&a);
	return a;
}

Test(rdma_url, a_request_is_understood_with_what_is_behind_it)
{
	struct rdma_ask a = sealed(), b;
	uint8_t bytes[56] = {0};

	memcpy(bytes, &a, sizeof(a));
	cr_assert_eq(thmqi_rdma_ask_check(bytes, sizeof(bytes), &b), 0);
	cr_assert(b.shard == 3 && b.instance == 7 && b.credits == RDMA_CREDITS);
	cr_assert_eq(thmqi_rdma_ask_check(bytes, sizeof(a) - 1, &b), -EPROTO);
	cr_assert_eq(thmqi_rdma_ask_check(bytes, 0, &b), -EPROTO);
}

Test(rdma_url, no_bit_of_a_request_changes_unnoticed)
{
	struct rdma_ask a = sealed(), b;
	uint32_t bit;

	for (bit = 0; bit < sizeof(a) * 8; bit++) {
		((uint8_t *)&a)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_lt(thmqi_rdma_ask_check(&a, sizeof(a), &b), 0, "bit %u", bit);
		((uint8_t *)&a)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static int checked(struct rdma_ask a)
{
	struct rdma_ask b;

	a.crc = thmqi_crc32c(0, &a, offsetof(struct rdma_ask, crc));
	return thmqi_rdma_ask_check(&a, sizeof(a), &b);
}

Test(rdma_url, a_request_that_is_no_use_is_refused)
{
	struct rdma_ask a = sealed();

	a.version++;
	cr_assert_eq(checked(a), -THMQ_EVERSION);
	a = sealed();
	a.credits = 3;
	cr_assert_eq(checked(a), -EINVAL);
	a.credits = RDMA_CREDITS_MAX + 1;
	cr_assert_eq(checked(a), -EINVAL);
	a = sealed();
	a.slot_bytes = RDMA_SLOT_BYTES_MIN - 1;
	cr_assert_eq(checked(a), -EINVAL);
	a = sealed();
	a.status = 5;
	cr_assert_eq(checked(a), -EPROTO);
	a.status = -ECONNREFUSED; /* a refusal: the rest says nothing */
	a.credits = 0;
	cr_assert_eq(checked(a), 0);
}
