/* SPDX-License-Identifier: Apache-2.0 */
/* policy.c - how long to look for work before sleeping: one small object a policy, chosen when the core is opened. */
#include "internal.h"

static uint64_t for_ever(const struct loop *l)
{
	(void)l;
	return UINT64_MAX;
}

static uint64_t not_at_all(const struct loop *l)
{
	(void)l;
	return 0;
}

static uint64_t for_a_while(const struct loop *l)
{
	return l->spin_ns;
}

static const struct policy policies[] = {
	{.id = THMQ_POLICY_POLL, .never_sleeps = true, .spin_budget_ns = for_ever},
	{.id = THMQ_POLICY_EVENT, .spin_budget_ns = not_at_all},
	{.id = THMQ_POLICY_FIXED, .spin_budget_ns = for_a_while},
};

const struct policy *thmqi_policy_find(uint32_t id)
{
	size_t i;

	if (id == THMQ_POLICY_DEFAULT)
		id = THMQ_POLICY_FIXED;
	for (i = 0; i < THMQI_ARRAY_COUNT(policies); i++)
		if (policies[i].id == id)
			return &policies[i];
	return NULL;
}
