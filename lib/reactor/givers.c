/* SPDX-License-Identifier: Apache-2.0 */
/*
 * givers.c - a core's memory is one pool, and who holds most of it is not who needs it: one log's cache may have all, while another log on the same
 * core has nothing that it could give up. So those that can do without some are asked, one piece each in turn, until there is enough.
 */
#include "internal.h"

#define GIFTS_MAX 64u /* that one allocation may cost others */

static bool ask(struct thmq_core *core)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &core->givers)
	{
		struct thmqi_giver *giver = thmqi_container(it, struct thmqi_giver, link);

		if (!giver->give(giver))
			continue;
		thmqi_list_del(&giver->link); /* the others are asked before it, next time */
		thmqi_list_add_tail(&core->givers, &giver->link);
		return true;
	}
	return false;
}

int thmqi_core_alloc(struct thmq_core *core, uint32_t size, struct thmqi_buf **ret_buf)
{
	int rc = thmqi_buf_alloc(core->pool, size, ret_buf);
	uint32_t i;

	for (i = 0; thmqi_unlikely(rc == -ENOBUFS) && i < GIFTS_MAX && ask(core); i++)
		rc = thmqi_buf_alloc(core->pool, size, ret_buf);
	return rc;
}

void thmqi_core_spare(struct thmq_core *core)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &core->givers)
	{
		struct thmqi_giver *giver = thmqi_container(it, struct thmqi_giver, link);

		giver->spare(giver);
	}
}
