/* SPDX-License-Identifier: Apache-2.0 */
/* base_opts_test.c - option structs of other sizes than ours, and handles that are closed. */
#include <criterion/criterion.h>

#include "base/base.h"
#include "base/handle.h"

struct opts {
	uint32_t size, flags;
	uint64_t a, b;
};

struct newer_opts {
	uint32_t size, flags;
	uint64_t a, b, c;
};

TestSuite(base_opts, .timeout = 30);

Test(base_opts, of_our_size_are_copied)
{
	struct opts in = {sizeof(in), 1, 2, 3}, out;

	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), 0);
	cr_assert_arr_eq(&out, &in, sizeof(out));
}

Test(base_opts, none_are_all_zero_but_the_size)
{
	struct opts out, zero = {.size = sizeof(zero)};

	memset(&out, 0xaa, sizeof(out));
	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), NULL), 0);
	cr_assert_arr_eq(&out, &zero, sizeof(out));
}

Test(base_opts, of_an_older_caller_are_filled_up_with_zeros)
{
	struct opts in = {16, 1, 2, 3}, out;

	memset(&out, 0xaa, sizeof(out));
	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), 0);
	cr_assert_eq(out.size, sizeof(out));
	cr_assert_eq(out.flags, 1);
	cr_assert_eq(out.a, 2);
	cr_assert_eq(out.b, 0, "behind the caller's size");
}

Test(base_opts, of_a_newer_caller_are_taken_if_the_excess_is_zero)
{
	struct newer_opts in = {sizeof(in), 1, 2, 3, 0};
	struct opts out;

	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), 0);
	cr_assert_eq(out.size, sizeof(out));
	cr_assert_eq(out.b, 3);
}

Test(base_opts, of_a_newer_caller_that_uses_the_excess_are_refused_and_nothing_is_written)
{
	struct newer_opts in = {sizeof(in), 1, 2, 3, 1ull << 63}; /* the last byte of the excess */
	struct opts out, before;

	memset(&out, 0xaa, sizeof(out));
	before = out;
	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), -E2BIG);
	cr_assert_arr_eq(&out, &before, sizeof(out));
}

Test(base_opts, without_a_size_are_a_mistake)
{
	struct opts in = {0, 1, 2, 3}, out = {9, 9, 9, 9}, before = out;

	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), -EINVAL);
	in.size = 7;
	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), -EINVAL);
	cr_assert_arr_eq(&out, &before, sizeof(out));
	in.size = 8;
	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), 0);
	cr_assert_eq(out.flags, 1);
	cr_assert_eq(out.a, 0);
}

Test(base_opts, of_a_size_that_cannot_be_are_refused_unread)
{
	struct opts in = {UINT32_MAX, 0, 0, 0}, out;

	cr_assert_eq(thmqi_opts_copy(&out, sizeof(out), &in), -E2BIG);
}

/* ----------------------------------------------------------------- handles */

Test(base_opts, a_closed_handle_is_recognised_until_many_more_are_closed)
{
	struct thmqi_graveyard graveyard;
	struct thmqi_handle *first = calloc(1, sizeof(*first)), *h = NULL;

	thmqi_graveyard_init(&graveyard);
	first->kind = THMQI_HANDLE_SESSION;
	cr_assert(thmqi_handle_is(first, THMQI_HANDLE_SESSION));
	cr_assert_not(thmqi_handle_is(first, THMQI_HANDLE_BROKER));
	cr_assert_not(thmqi_handle_is(NULL, THMQI_HANDLE_SESSION));
	thmqi_handle_bury(&graveyard, first);
	cr_assert_not(thmqi_handle_is(first, THMQI_HANDLE_SESSION));
	for (uint32_t i = 1; i < THMQI_GRAVEYARD_MAX; i++) {
		h = calloc(1, sizeof(*h));
		thmqi_handle_bury(&graveyard, h);
	}
	cr_assert_not(thmqi_handle_is(first, THMQI_HANDLE_SESSION), "still readable");
	cr_assert_eq(graveyard.count, THMQI_GRAVEYARD_MAX);
	for (uint32_t i = 0; i < 10; i++)
		thmqi_handle_bury(&graveyard, calloc(1, sizeof(*h)));
	cr_assert_eq(graveyard.count, THMQI_GRAVEYARD_MAX, "bounded");
	cr_assert_eq(h->kind, THMQI_HANDLE_CLOSED);
	thmqi_graveyard_fini(&graveyard);
}
