/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_topic.c - thmq topic: create, list, describe, delete. */
#include <errno.h>

#include "thmq.h"

static const char *level_name(uint32_t level)
{
	static const char *const names[] = {"default", "memory", "written", "durable", "quorum", "all"};

	return level < sizeof(names) / sizeof(names[0]) ? names[level] : "?";
}

static int list(struct connection *c, bool json)
{
	int count = thmq_topic_list(c->session, NULL, 0), n, i;
	struct thmq_topic_info *infos;

	if (count < 0)
		return fail(count, "%s", thmq_errmsg());
	infos = calloc((size_t)count + 1, sizeof(*infos));
	if (!infos)
		return fail(-ENOMEM, "out of memory");
	infos[0].size = sizeof(infos[0]);
	n = count ? thmq_topic_list(c->session, infos, (uint32_t)count) : 0;
	if (n < 0) {
		free(infos);
		return fail(n, "%s", thmq_errmsg());
	}
	for (i = 0; i < n && i < count; i++) {
		if (json)
			printf("{\"name\":\"%s\",\"partitions\":%u,\"groups\":%u,\"visible_at\":\"%s\"}\n",
			       infos[i].name, infos[i].partition_count, infos[i].group_count,
			       level_name(infos[i].visible_at));
		else
			printf("%-40s %u partitions, %u groups\n", infos[i].name, infos[i].partition_count,
			       infos[i].group_count);
	}
	free(infos);
	return EXIT_OK;
}

static int describe(struct connection *c, const char *topic, const char *group, bool json)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	int rc = thmq_topic_describe(c->session, topic, &info);
	uint32_t i;

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	if (!json)
		printf("%s: %u partitions, visible at %s, %u groups\n", info.name, info.partition_count,
		       level_name(info.visible_at), info.group_count);
	for (i = 0; i < info.partition_count; i++) {
		struct thmq_partition_info p = {.size = sizeof(p)};

		rc = thmq_partition_describe(c->session, topic, i, group, &p);
		if (rc)
			return fail(rc, "%s", thmq_errmsg());
		if (json)
			printf("{\"partition\":%u,\"shard\":%u,\"begin\":%llu,\"end\":%llu", i, p.shard,
			       (unsigned long long)p.begin_offset, (unsigned long long)p.end_offset);
		else
			printf("  partition %u in shard %u: offsets %llu to %llu", i, p.shard,
			       (unsigned long long)p.begin_offset, (unsigned long long)p.end_offset);
		if (group && p.group_offset == UINT64_MAX)
			printf(json ? ",\"group_offset\":null}" : ", %s has not begun", group);
		else if (group)
			printf(json ? ",\"group_offset\":%llu,\"lag\":%llu}" : ", group at %llu, %llu behind",
			       (unsigned long long)p.group_offset, (unsigned long long)p.lag);
		else if (json)
			putchar('}');
		putchar('\n');
	}
	return EXIT_OK;
}

int cmd_topic(int argc, char **argv)
{
	const char *partitions = NULL, *group = NULL, *visible = NULL;
	bool if_absent = false, json = false;
	const struct option_spec specs[] = {{"--partitions", &partitions, NULL},
					    {"--group", &group, NULL},
					    {"--visible-at", &visible, NULL},
					    {"--if-absent", NULL, &if_absent},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	const char *verb, *topic;
	struct connection c;
	uint64_t count = 1;
	uint32_t level = 0, i;
	bool create;

	if (words < 0)
		return EXIT_USAGE;
	verb = words > 0 ? argv[0] : "";
	topic = words > 2 ? argv[2] : NULL;
	create = strcmp(verb, "create") == 0;
	if (!create && strcmp(verb, "list") != 0 && strcmp(verb, "describe") != 0 && strcmp(verb, "delete") != 0)
		return usage_error("topic create, list, describe or delete; thmq help topic");
	if (words != (strcmp(verb, "list") == 0 ? 2 : 3))
		return usage_error("topic %s needs a directory%s", verb,
				   strcmp(verb, "list") == 0 ? "" : " and a topic");
	if (partitions && (!parse_number(partitions, THMQ_PARTITION_COUNT_MAX, &count) || !count))
		return usage_error("--partitions: a number from 1 to %u", THMQ_PARTITION_COUNT_MAX);
	for (i = 1; visible && i <= 3; i++)
		if (strcmp(visible, level_name(i)) == 0)
			level = i;
	if (visible && !level)
		return usage_error("--visible-at is memory, written or durable, not %s", visible);
	rc = connect_dir(&c, argv[1], create, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	if (strcmp(verb, "list") == 0) {
		rc = list(&c, json);
	} else if (strcmp(verb, "describe") == 0) {
		rc = describe(&c, topic, group, json);
	} else {
		rc = create ? thmq_topic_create(c.session, topic,
						THMQ_TOPIC_OPTS(.partition_count = (uint32_t)count, .visible_at = level,
								.flags = if_absent ? THMQ_TOPIC_IF_ABSENT : 0)) :
			      thmq_topic_delete(c.session, topic);
		if (rc)
			rc = fail(rc, "%s", thmq_errmsg());
	}
	return disconnect(&c, rc);
}
