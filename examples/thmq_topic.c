/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_topic.c - thmq topic: create, list, describe, delete. */
#include <errno.h>

#include "thmq.h"

static const char *level_name(uint32_t level)
{
	static const char *const names[] = {"default", "memory", "written",
					    "durable", "quorum", "all"};

	return level < sizeof(names) / sizeof(names[0]) ? names[level] : "?";
}

/* ---------------------------------------------------------------- retention */

/* What may go, behind the rest of a line. */
static void print_retention(const struct thmq_topic_info *info)
{
	struct unit_text text;

	if (info->priorities)
		printf(", %u priorities", info->priorities);
	if (info->flags & THMQ_TOPIC_VOLATILE)
		fputs(", in memory only", stdout);
	if (info->retention_ns)
		printf(", kept for %s", duration_text(info->retention_ns, &text));
	if (info->ttl_ns)
		printf(", of use for %s", duration_text(info->ttl_ns, &text));
	if (info->retention_bytes)
		printf(", the newest %s of each partition",
		       size_text(info->retention_bytes, &text));
	if (info->flags & THMQ_TOPIC_RETAIN_CONSUMED)
		fputs(", until all groups have it", stdout);
	if (info->flags & THMQ_TOPIC_COMPACT)
		printf(", the newest of each key, deleted ones for %s", duration_text(info->tombstone_ns, &text));
	putchar('\n');
}

/* Fields of a JSON object, behind others. */
static void print_retention_json(const struct thmq_topic_info *info)
{
	printf(",\"priorities\":%u,\"compact\":%s,\"tombstone_ns\":%llu", info->priorities, info->flags & THMQ_TOPIC_COMPACT ? "true" : "false",
	       (unsigned long long)info->tombstone_ns);
	printf(",\"ttl_ns\":%llu,\"retention_ns\":%llu,\"retention_bytes\":%llu,\"retain_consumed\":%s,"
	       "\"volatile\":%s",
	       (unsigned long long)info->ttl_ns, (unsigned long long)info->retention_ns,
	       (unsigned long long)info->retention_bytes, info->flags & THMQ_TOPIC_RETAIN_CONSUMED ? "true" : "false",
	       info->flags & THMQ_TOPIC_VOLATILE ? "true" : "false");
}

static int compare_retention(const struct thmq_topic_info *info,
			     const struct thmq_topic_opts *wanted)
{
	struct unit_text is, wants;

	if (wanted->retention_ns && wanted->retention_ns != info->retention_ns)
		return fail(-EEXIST, "topic %s exists, kept for %s, not %s", info->name,
			    info->retention_ns ? duration_text(info->retention_ns, &is) : "ever",
			    duration_text(wanted->retention_ns, &wants));
	if (wanted->ttl_ns && wanted->ttl_ns != info->ttl_ns)
		return fail(-EEXIST, "topic %s exists, its messages of use for %s, not %s", info->name,
			    info->ttl_ns ? duration_text(info->ttl_ns, &is) : "ever",
			    duration_text(wanted->ttl_ns, &wants));
	if (wanted->retention_bytes && wanted->retention_bytes != info->retention_bytes)
		return fail(-EEXIST, "topic %s exists, with %s of each partition kept, not %s",
			    info->name,
			    info->retention_bytes ? size_text(info->retention_bytes, &is) : "all",
			    size_text(wanted->retention_bytes, &wants));
	if (wanted->flags & ~info->flags & THMQ_TOPIC_RETAIN_CONSUMED)
		return fail(-EEXIST, "topic %s exists, kept also when all groups have it",
			    info->name);
	if (wanted->flags & ~info->flags & THMQ_TOPIC_COMPACT)
		return fail(-EEXIST, "topic %s exists, and is not compacted", info->name);
	if (wanted->tombstone_ns && wanted->tombstone_ns != info->tombstone_ns)
		return fail(-EEXIST, "topic %s exists, deleted keys kept for %s, not %s", info->name,
			    duration_text(info->tombstone_ns, &is), duration_text(wanted->tombstone_ns, &wants));
	return EXIT_OK;
}

/* ------------------------------------------------------------------- create */

/* A topic that exists already is the wanted one only where it is as it was asked for. */
static int compare_topic(struct connection *c, const char *topic,
			 const struct thmq_topic_opts *wanted)
{
	uint32_t partition_count = wanted->partition_count, level = wanted->visible_at;

	struct thmq_topic_info info = {.size = sizeof(info)};
	int rc = thmq_topic_describe(c->session, topic, &info);

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	if (wanted->priorities && wanted->priorities != (info.priorities ? info.priorities : 1))
		return fail(-EEXIST, "topic %s exists with %u priorities, not %u", topic, info.priorities, wanted->priorities);
	if (info.priorities)
		partition_count *= info.priorities;
	if (partition_count && partition_count != info.partition_count)
		return fail(-EEXIST, "topic %s exists with %u partition%s, not %u", topic,
			    info.partition_count, plural(info.partition_count), partition_count);
	if (level && level != info.visible_at)
		return fail(-EEXIST, "topic %s exists, visible at %s, not %s", topic,
			    level_name(info.visible_at), level_name(level));
	return compare_retention(&info, wanted);
}

int make_topic(struct connection *c, const char *topic, const struct thmq_topic_opts *wanted,
	       bool if_absent)
{
	int rc = thmq_topic_create(c->session, topic, wanted);

	if (rc == -EEXIST && if_absent)
		return compare_topic(c, topic, wanted);
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

/* --------------------------------------------------------------------- list */

static void list_json(const struct thmq_topic_info *info)
{
	printf("{\"name\":\"%s\",\"partitions\":%u,\"groups\":%u,\"visible_at\":\"%s\"", info->name,
	       info->partition_count, info->group_count, level_name(info->visible_at));
	print_retention_json(info);
	fputs("}\n", stdout);
}

static void list_text(const struct thmq_topic_info *info)
{
	printf("%-40s %u partition%s, %u group%s", info->name, info->partition_count,
	       plural(info->partition_count), info->group_count, plural(info->group_count));
	print_retention(info);
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
	for (i = 0; i < n && i < count && !output_failed(); i++) {
		if (json)
			list_json(&infos[i]);
		else
			list_text(&infos[i]);
	}
	free(infos);
	return EXIT_OK;
}

/* ----------------------------------------------------------------- describe */

static void describe_json(const struct thmq_topic_info *info, const struct thmq_partition_info *p,
			  uint32_t partition, const char *group)
{
	printf("{\"topic\":\"%s\",\"partition\":%u,\"partitions\":%u,\"visible_at\":\"%s\","
	       "\"groups\":%u",
	       info->name, partition, info->partition_count, level_name(info->visible_at),
	       info->group_count);
	print_retention_json(info);
	printf(",\"shard\":%u,\"priority\":%u,\"delayed\":%llu,\"begin\":%llu,\"end\":%llu", p->shard, p->priority, (unsigned long long)p->delayed,
	       (unsigned long long)p->begin_offset, (unsigned long long)p->end_offset);
	if (group) {
		bool begun = p->group_offset != UINT64_MAX;

		fputs(",\"group\":", stdout);
		print_json_string(stdout, group, strlen(group));
		printf(",\"begun\":%s,\"group_offset\":", begun ? "true" : "false");
		if (begun)
			printf("%llu", (unsigned long long)p->group_offset);
		else
			fputs("null", stdout);
		printf(",\"lag\":%llu", (unsigned long long)p->lag);
	}
	fputs("}\n", stdout);
}

/*
 * Offsets as everywhere in text: the first and the last one that there is. The next one is not known for certain: after a
 * crash or a repair a partition goes on further ahead.
 */
static void describe_text(const struct thmq_partition_info *p, uint32_t partition,
			  const char *group)
{
	printf("  partition %u in shard %u", partition, p->shard);
	if (p->priority)
		printf(", priority %u", p->priority);
	if (p->begin_offset == p->end_offset)
		printf(": empty, next offset %llu or more", (unsigned long long)p->end_offset);
	else
		printf(": offsets %llu to %llu", (unsigned long long)p->begin_offset, (unsigned long long)p->end_offset - 1);
	if (group && p->group_offset == UINT64_MAX)
		printf(", %s has not begun, %llu behind", group, (unsigned long long)p->lag);
	else if (group)
		printf(", group at %llu, %llu behind", (unsigned long long)p->group_offset,
		       (unsigned long long)p->lag);
	if (p->delayed)
		printf(", %llu delayed", (unsigned long long)p->delayed);
	putchar('\n');
}

static int describe(struct connection *c, const char *topic, const char *group, bool json)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	int rc = thmq_topic_describe(c->session, topic, &info);
	uint32_t i;

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	if (!json) {
		printf("%s: %u partition%s, visible at %s, %u group%s", info.name,
		       info.partition_count, plural(info.partition_count),
		       level_name(info.visible_at), info.group_count, plural(info.group_count));
		print_retention(&info);
	}
	for (i = 0; i < info.partition_count && !output_failed(); i++) {
		struct thmq_partition_info p = {.size = sizeof(p)};

		rc = thmq_partition_describe(c->session, topic, i, group, &p);
		if (rc)
			return fail(rc, "%s", thmq_errmsg());
		if (json)
			describe_json(&info, &p, i, group);
		else
			describe_text(&p, i, group);
	}
	return EXIT_OK;
}

/* ------------------------------------------------------------------ command */

static int parse_compaction(bool compact, const char *tombstones, struct thmq_topic_opts *opts)
{
	if (tombstones && !compact)
		return usage_error("--tombstones is of use only with --compact");
	opts->flags |= compact ? THMQ_TOPIC_COMPACT : 0;
	return tombstones ? parse_duration("--tombstones", tombstones, &opts->tombstone_ns) : EXIT_OK;
}

static int parse_retention(const char *time, const char *bytes, bool consumed, const char *ttl,
			   struct thmq_topic_opts *opts)
{
	int rc = time ? parse_duration("--retention-time", time, &opts->retention_ns) : EXIT_OK;

	if (!rc && ttl)
		rc = parse_duration("--ttl", ttl, &opts->ttl_ns);
	if (!rc && bytes)
		rc = parse_size("--retention-bytes", bytes, &opts->retention_bytes);
	opts->flags = consumed ? THMQ_TOPIC_RETAIN_CONSUMED : 0;
	return rc;
}

enum verb { CREATE = 1, LIST = 2, DESCRIBE = 4, DELETE = 8 };

static uint32_t find_verb(const char *name)
{
	static const char *const names[] = {"create", "list", "describe", "delete"};
	uint32_t i;

	for (i = 0; i < 4; i++)
		if (strcmp(name, names[i]) == 0)
			return 1u << i;
	return 0;
}

int cmd_topic(int argc, char **argv)
{
	const char *partitions = NULL, *priorities = NULL, *group = NULL, *visible = NULL, *time = NULL, *bytes = NULL,
		   *ttl = NULL, *tombstones = NULL;
	bool if_absent = false, json = false, consumed = false, compact = false;
	const struct option_spec specs[] = {{"--partitions", &partitions, NULL},
					    {"--priorities", &priorities, NULL},
					    {"--group", &group, NULL},
					    {"--visible-at", &visible, NULL},
					    {"--retention-time", &time, NULL},
					    {"--retention-bytes", &bytes, NULL},
					    {"--retain-consumed", NULL, &consumed},
					    {"--ttl", &ttl, NULL},
					    {"--compact", NULL, &compact},
					    {"--tombstones", &tombstones, NULL},
					    {"--if-absent", NULL, &if_absent},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct thmq_topic_opts opts;
	char needs[64];
	uint64_t count = 0, priority_count = 0;
	uint32_t level = 0, verb, i;
	struct connection c;

	if (words < 0)
		return EXIT_USAGE;
	verb = find_verb(words > 0 ? argv[0] : "");
	if (!verb)
		return usage_error("topic create, list, describe or delete%s%s; thmq help topic",
				   words > 0 ? ", not " : "", words > 0 ? argv[0] : "");
	if ((partitions || priorities || visible || if_absent || time || bytes || consumed || ttl || compact || tombstones) && verb != CREATE)
		return usage_error("%s is of use only with topic create",
				   partitions  ? "--partitions"
				   : priorities ? "--priorities"
				   : visible   ? "--visible-at"
				   : time      ? "--retention-time"
				   : bytes     ? "--retention-bytes"
				   : if_absent ? "--if-absent"
				   : ttl       ? "--ttl"
				   : compact   ? "--compact"
				   : tombstones ? "--tombstones"
					       : "--retain-consumed");
	if (group && verb != DESCRIBE)
		return usage_error("--group is of use only with topic describe");
	if (json && !(verb & (LIST | DESCRIBE)))
		return usage_error("--json is of use only with topic list and topic describe");
	if (partitions && (!parse_number(partitions, THMQ_PARTITION_COUNT_MAX, &count) || !count))
		return usage_error("--partitions: a number from 1 to %u, not %s",
				   THMQ_PARTITION_COUNT_MAX, partitions);
	if (priorities && (!parse_number(priorities, THMQ_PRIORITIES_MAX, &priority_count) || !priority_count))
		return usage_error("--priorities: a number from 1 to %u, not %s", THMQ_PRIORITIES_MAX, priorities);
	for (i = 1; visible && i <= 3; i++)
		if (strcmp(visible, level_name(i)) == 0)
			level = i;
	if (visible && !level)
		return usage_error("--visible-at is memory, written or durable, not %s", visible);
	thmq_topic_opts_init(&opts);
	rc = parse_retention(time, bytes, consumed, ttl, &opts);
	rc = rc ? rc : parse_compaction(compact, tombstones, &opts);
	if (rc)
		return rc;
	opts.partition_count = (uint32_t)count;
	opts.priorities = (uint32_t)priority_count;
	opts.visible_at = level;
	snprintf(needs, sizeof(needs), "topic %s needs a directory%s", argv[0],
		 verb == LIST ? "" : " and a topic");
	if (!count_words(argv, words, verb == LIST ? 2 : 3, needs))
		return EXIT_USAGE;
	rc = connect_dir(&c, argv[1], verb == CREATE, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	if (verb == LIST) {
		rc = list(&c, json);
	} else if (verb == DESCRIBE) {
		rc = describe(&c, argv[2], group, json);
	} else if (verb == CREATE) {
		rc = make_topic(&c, argv[2], &opts, if_absent);
	} else {
		rc = thmq_topic_delete(c.session, argv[2]);
		if (rc)
			rc = fail(rc, "%s", thmq_errmsg());
	}
	return disconnect(&c, rc);
}
