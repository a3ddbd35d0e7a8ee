/* SPDX-License-Identifier: Apache-2.0 */
/* base_error_test.c - numbers, names, texts and classes of errors, and the calling thread's error text. */
#include <criterion/criterion.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>

#include "base/base.h"

TestSuite(base_error, .timeout = 30);

static const struct {
	int error;
	const char *name;
	int class;
} own[] = {
	{THMQ_ECORRUPT, "THMQ_ECORRUPT", THMQ_CLASS_ENVIRONMENT},
	{THMQ_ENOTLEADER, "THMQ_ENOTLEADER", THMQ_CLASS_RETRY},
	{THMQ_EFENCED, "THMQ_EFENCED", THMQ_CLASS_HANDLE},
	{THMQ_EOFFSETRANGE, "THMQ_EOFFSETRANGE", THMQ_CLASS_CALLER},
	{THMQ_EVERSION, "THMQ_EVERSION", THMQ_CLASS_ENVIRONMENT},
	{THMQ_ENOTOPIC, "THMQ_ENOTOPIC", THMQ_CLASS_CALLER},
	{THMQ_ENOPARTITION, "THMQ_ENOPARTITION", THMQ_CLASS_CALLER},
	{THMQ_EFAILED, "THMQ_EFAILED", THMQ_CLASS_ENVIRONMENT},
	{THMQ_ECONFLICT, "THMQ_ECONFLICT", THMQ_CLASS_CALLER},
	{THMQ_ENOQUORUM, "THMQ_ENOQUORUM", THMQ_CLASS_RETRY},
};

Test(base_error, our_own_have_name_text_and_class)
{
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(own); i++) {
		cr_assert_str_eq(thmq_errname(own[i].error), own[i].name);
		cr_assert_str_eq(thmq_errname(-own[i].error), own[i].name);
		cr_assert_eq(thmq_errclass(own[i].error), own[i].class, "%s", own[i].name);
		cr_assert_eq(thmq_errclass(-own[i].error), own[i].class);
		cr_assert_str_eq(thmq_strerror(own[i].error), thmq_strerror(-own[i].error));
		cr_assert_str_neq(thmq_strerror(own[i].error), "unknown error");
		for (size_t j = 0; j < i; j++)
			cr_assert_str_neq(thmq_strerror(own[i].error), thmq_strerror(own[j].error));
	}
}

Test(base_error, our_own_numbers_never_change)
{
	cr_assert_eq(THMQ_ECORRUPT, 1024);
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(own); i++)
		cr_assert_eq(own[i].error, 1024 + (int)i);
	cr_assert_str_eq(thmq_errname(1024 + (int)THMQI_ARRAY_COUNT(own)), "EUNKNOWN",
			 "a new one: extend this test");
}

Test(base_error, every_number_of_the_system_has_a_name_and_a_text)
{
	for (int e = 1; e < 256; e++) {
		if (!strerrorname_np(e))
			continue;
		/* one number with two names on Linux: ours is the one of POSIX */
		cr_assert_str_eq(thmq_errname(-e), e == ENOTSUP ? "ENOTSUP" : strerrorname_np(e));
		cr_assert_gt(strlen(thmq_strerror(-e)), 0);
		cr_assert_geq(thmq_errclass(-e), THMQ_CLASS_RETRY);
		cr_assert_leq(thmq_errclass(-e), THMQ_CLASS_CALLER);
	}
}

Test(base_error, classes_say_what_a_caller_can_do)
{
	cr_assert_eq(thmq_errclass(0), THMQ_CLASS_OK);
	cr_assert_eq(thmq_errclass(-EAGAIN), THMQ_CLASS_BACKPRESSURE);
	cr_assert_eq(thmq_errclass(-ENOBUFS), THMQ_CLASS_BACKPRESSURE);
	cr_assert_eq(thmq_errclass(-ETIMEDOUT), THMQ_CLASS_RETRY);
	cr_assert_eq(thmq_errclass(-ESHUTDOWN), THMQ_CLASS_HANDLE);
	cr_assert_eq(thmq_errclass(-ENOSPC), THMQ_CLASS_ENVIRONMENT);
	cr_assert_eq(thmq_errclass(-EINVAL), THMQ_CLASS_CALLER);
	cr_assert_eq(thmq_errclass(-E2BIG), THMQ_CLASS_CALLER);
}

Test(base_error, numbers_that_nobody_knows_are_harmless)
{
	static const int unknown[] = {999,     -999,    1023,    1023 + 100,
				      -100000, INT_MAX, INT_MIN, INT_MIN + 1};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(unknown); i++) {
		cr_assert_str_eq(thmq_errname(unknown[i]), "EUNKNOWN", "%d", unknown[i]);
		cr_assert_str_eq(thmq_strerror(unknown[i]), "unknown error");
		cr_assert_eq(thmq_errclass(unknown[i]), THMQ_CLASS_ENVIRONMENT);
	}
	cr_assert_str_eq(thmq_strerror(0), "success");
}

Test(base_error, the_text_is_empty_until_something_failed)
{
	cr_assert_str_eq(thmq_errmsg(), "");
	cr_assert_eq(thmqi_fail(-ENOENT, "open %s: %d", "data", 7), -ENOENT);
	cr_assert_str_eq(thmq_errmsg(), "open data: 7");
}

Test(base_error, a_text_may_be_made_of_the_one_before)
{
	thmqi_fail(-EIO, "read segment 3");
	thmqi_fail(-EIO, "open data: %s", thmq_errmsg());
	cr_assert_str_eq(thmq_errmsg(), "open data: read segment 3");
}

Test(base_error, a_text_that_is_too_long_is_cut_and_ended)
{
	static char path[5000];

	memset(path, 'x', sizeof(path) - 1);
	thmqi_fail(-ENAMETOOLONG, "open %s", path);
	cr_assert_eq(strlen(thmq_errmsg()), 511);
	cr_assert_eq(strncmp(thmq_errmsg(), "open xxx", 8), 0);
}

static void *fail_elsewhere(void *arg)
{
	cr_assert_str_eq(thmq_errmsg(), "");
	thmqi_fail(-EIO, "of the other thread");
	*(uint64_t *)arg = thmqi_thread_self();
	return NULL;
}

Test(base_error, a_thread_has_its_own_text_and_number)
{
	uint64_t other = 0;
	pthread_t thread;

	thmqi_fail(-EIO, "of this thread");
	cr_assert_eq(pthread_create(&thread, NULL, fail_elsewhere, &other), 0);
	pthread_join(thread, NULL);
	cr_assert_str_eq(thmq_errmsg(), "of this thread");
	cr_assert_neq(other, 0);
	cr_assert_neq(other, thmqi_thread_self());
	cr_assert_eq(thmqi_thread_self(), thmqi_thread_self());
}

Test(base_error, version_text_and_number_agree_with_the_header)
{
	char text[32];

	snprintf(text, sizeof(text), "%u.%u.%u", THMQ_VERSION_MAJOR, THMQ_VERSION_MINOR,
		 THMQ_VERSION_PATCH);
	cr_assert_str_eq(thmq_version(), text);
	cr_assert_eq(thmq_version_number(),
		     THMQ_VERSION_MAJOR * 1000000 + THMQ_VERSION_MINOR * 1000 + THMQ_VERSION_PATCH);
}
