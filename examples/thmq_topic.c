/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_topic.c - thmq topic: create, alter, list, describe, delete. */
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

/* ------------------------------------------------------------------- limits */

static const char *const limit_names[] = {"produce-bytes", "produce-messages", "consume-bytes", "consume-messages"};

static uint64_t *limit_of(struct thmq_limits *l, uint32_t i)
{
	uint64_t *const at[] = {&l->produce_bytes, &l->produce_messages, &l->consume_bytes, &l->consume_messages};

	return at[i];
}

static bool parse_rate(const char *text, uint64_t *ret)
{
	static const char units[] = "KMG";
	char digits[24];
	size_t len = strspn(text, "0123456789"), i;
	uint64_t factor = 1;

	if (!len || len >= sizeof(digits) || strlen(text) > len + 1)
		return false;
	if (text[len]) {
		for (i = 0, factor = 1000; units[i] && units[i] != text[len]; i++)
			factor *= 1000;
		if (!units[i])
			return false;
	}
	memcpy(digits, text, len);
	digits[len] = 0;
	if (!parse_number(digits, UINT64_MAX / factor, ret) || !*ret)
		return false;
	*ret *= factor;
	return true;
}

/* "produce-bytes=10M,consume-messages=5K", as in a file of rules; "none". */
static int parse_limits(const char *text, struct thmq_limits *l)
{
	char word[64], *equals;
	uint32_t i;
	size_t len;

	*l = (struct thmq_limits){.size = sizeof(*l)};
	if (strcmp(text, "none") == 0)
		return EXIT_OK;
	for (; *text; text += len + (text[len] == ',')) {
		len = strcspn(text, ",");
		snprintf(word, sizeof(word), "%.*s", (int)(len < sizeof(word) ? len : sizeof(word) - 1), text);
		equals = strchr(word, '=');
		if (equals)
			*equals = 0;
		for (i = 0; i < 4 && strcmp(word, limit_names[i]) != 0; i++)
			;
		if (i == 4)
			return usage_error("--limits: produce-bytes, produce-messages, consume-bytes, consume-messages, or none, not %s", word);
		if (!equals || !parse_rate(equals + 1, limit_of(l, i)))
			return usage_error("--limits: %s is so many a second, as 500, 10K, 10M or 1G", word);
	}
	return EXIT_OK;
}

static struct thmq_limits limits_of(const struct thmq_topic_info *info)
{
	return (struct thmq_limits){.size = sizeof(struct thmq_limits),
				    .produce_bytes = info->produce_bytes,
				    .produce_messages = info->produce_messages,
				    .consume_bytes = info->consume_bytes,
				    .consume_messages = info->consume_messages};
}

static void print_limits(const struct thmq_topic_info *info)
{
	struct thmq_limits l = limits_of(info);
	uint32_t i;

	for (i = 0; i < 4; i++)
		if (*limit_of(&l, i))
			printf(", %s at most %llu a second", limit_names[i], (unsigned long long)*limit_of(&l, i));
}

static void print_limits_json(const struct thmq_topic_info *info)
{
	static const char *const names[] = {"produce_bytes", "produce_messages", "consume_bytes", "consume_messages"};
	struct thmq_limits l = limits_of(info);
	uint32_t i;

	for (i = 0; i < 4; i++)
		printf("%s\"%s\":%llu", i ? "," : ",\"limits\":{", names[i], (unsigned long long)*limit_of(&l, i));
	putchar('}');
}

static int compare_limits(const struct thmq_topic_info *info, const struct thmq_topic_opts *wanted)
{
	struct thmq_limits is = limits_of(info);

	if (wanted->limits && memcmp(&is, wanted->limits, sizeof(is)) != 0)
		return fail(-EEXIST, "topic %s exists, with other limits: thmq topic alter sets them", info->name);
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
	rc = compare_retention(&info, wanted);
	return rc ? rc : compare_limits(&info, wanted);
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
	print_limits_json(info);
	print_retention_json(info);
	fputs("}\n", stdout);
}

static void list_text(const struct thmq_topic_info *info)
{
	printf("%-40s %u partition%s, %u group%s", info->name, info->partition_count,
	       plural(info->partition_count), info->group_count, plural(info->group_count));
	print_retention(info);
	print_limits(info);
	putchar('\n');
}

/* None, or none that the broker's rules let this client know of: those are not told from none, but for what is asked by name. */
static void say_if_hidden(struct connection *c)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	if (thmq_topic_describe(c->session, "any", &info) == -EACCES)
		fputs("thmq: there is no topic that the broker's rules let this client know of: 'allow WHO describe TOPIC' lets it\n", stderr);
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
	if (!n)
		say_if_hidden(c);
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
	print_limits_json(info);
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
		print_limits(&info);
		putchar('\n');
	}
	for (i = 0; i < info.partition_count && !output_failed(); i++) {
		struct thmq_partition_info p = {.size = sizeof(p)};

		rc = partition_when_due(c, topic, i, group, 0, &p);
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

/* What may be said of a topic; each is NULL, or false, where it was not said. */
struct wishes {
	const char *partitions, *priorities, *visible, *time, *bytes, *ttl, *tombstones, *limits;
	bool if_absent, consumed, compact;
};

/* "none" takes a limit away. @bit: of THMQ_ALTER_*. */
static int set(const char *option, const char *text, int (*parse)(const char *option, const char *text, uint64_t *ret), uint64_t *ret,
	       uint32_t bit, uint32_t *what)
{
	if (!text)
		return EXIT_OK;
	*what |= bit;
	return strcmp(text, "none") == 0 ? EXIT_OK : parse(option, text, ret);
}

/* What topic create and topic alter have in common. */
static int parse_common(const struct wishes *w, struct thmq_topic_opts *o, struct thmq_limits *limits, uint32_t *what)
{
	uint64_t count = 0;
	int rc;

	if (w->partitions && (!parse_number(w->partitions, THMQ_PARTITION_COUNT_MAX, &count) || !count))
		return usage_error("--partitions: a number from 1 to %u, not %s", THMQ_PARTITION_COUNT_MAX, w->partitions);
	o->partition_count = (uint32_t)count;
	*what |= count ? THMQ_ALTER_PARTITIONS : 0;
	rc = set("--retention-time", w->time, parse_duration, &o->retention_ns, THMQ_ALTER_RETENTION_TIME, what);

	rc = rc ? rc : set("--retention-bytes", w->bytes, parse_size, &o->retention_bytes, THMQ_ALTER_RETENTION_BYTES, what);
	rc = rc ? rc : set("--ttl", w->ttl, parse_duration, &o->ttl_ns, THMQ_ALTER_TTL, what);
	rc = rc ? rc : set("--tombstones", w->tombstones, parse_duration, &o->tombstone_ns, THMQ_ALTER_TOMBSTONE, what);
	if (rc || !w->limits)
		return rc;
	*what |= THMQ_ALTER_LIMITS;
	o->limits = limits;
	return parse_limits(w->limits, limits);
}

static int parse_create(const struct wishes *w, struct thmq_topic_opts *o)
{
	uint64_t priorities = 0;
	uint32_t i;

	if (w->tombstones && !w->compact)
		return usage_error("--tombstones is of use only with --compact");
	if (w->priorities && (!parse_number(w->priorities, THMQ_PRIORITIES_MAX, &priorities) || !priorities))
		return usage_error("--priorities: a number from 1 to %u, not %s", THMQ_PRIORITIES_MAX, w->priorities);
	for (i = 1; w->visible && i <= 3; i++)
		if (strcmp(w->visible, level_name(i)) == 0)
			o->visible_at = i;
	if (w->visible && !o->visible_at)
		return usage_error("--visible-at is memory, written or durable, not %s", w->visible);
	o->priorities = (uint32_t)priorities;
	o->flags = (w->consumed ? THMQ_TOPIC_RETAIN_CONSUMED : 0) | (w->compact ? THMQ_TOPIC_COMPACT : 0);
	return EXIT_OK;
}

enum verb { CREATE = 1, LIST = 2, DESCRIBE = 4, DELETE = 8, ALTER = 16 };

static uint32_t find_verb(const char *name)
{
	static const char *const names[] = {"create", "list", "describe", "delete", "alter"};
	uint32_t i;

	for (i = 0; i < 5; i++)
		if (strcmp(name, names[i]) == 0)
			return 1u << i;
	return 0;
}

/* An option that @verb does not take; NULL: none. */
static const char *is_amiss(const struct wishes *w, uint32_t verb)
{
	const struct {
		const char *name;
		bool given;
		uint32_t verbs;
	} all[] = {
		{"--partitions", w->partitions != NULL, CREATE | ALTER},
		{"--priorities", w->priorities != NULL, CREATE},
		{"--visible-at", w->visible != NULL, CREATE},
		{"--retain-consumed", w->consumed, CREATE},
		{"--compact", w->compact, CREATE},
		{"--if-absent", w->if_absent, CREATE},
		{"--retention-time", w->time != NULL, CREATE | ALTER},
		{"--retention-bytes", w->bytes != NULL, CREATE | ALTER},
		{"--ttl", w->ttl != NULL, CREATE | ALTER},
		{"--tombstones", w->tombstones != NULL, CREATE | ALTER},
		{"--limits", w->limits != NULL, CREATE | ALTER},
	};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i].given && !(all[i].verbs & verb)) {
			usage_error("%s is of use only with topic create%s", all[i].name, all[i].verbs & ALTER ? " and topic alter" : "");
			return all[i].name;
		}
	return NULL;
}

static int run(struct connection *c, uint32_t verb, const char *topic, const struct thmq_topic_opts *opts, uint32_t what, const char *group,
	       bool if_absent, bool json)
{
	int rc;

	switch (verb) {
	case LIST:
		return list(c, json);
	case DESCRIBE:
		return describe(c, topic, group, json);
	case CREATE:
		return make_topic(c, topic, opts, if_absent);
	case ALTER:
		rc = thmq_topic_alter(c->session, topic, opts, what);
		break;
	default:
		rc = thmq_topic_delete(c->session, topic);
	}
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

int cmd_topic(int argc, char **argv)
{
	struct wishes w = {0};
	const char *group = NULL;
	bool json = false;
	const struct option_spec specs[] = {{"--partitions", &w.partitions, NULL},
					    {"--priorities", &w.priorities, NULL},
					    {"--group", &group, NULL},
					    {"--visible-at", &w.visible, NULL},
					    {"--retention-time", &w.time, NULL},
					    {"--retention-bytes", &w.bytes, NULL},
					    {"--retain-consumed", NULL, &w.consumed},
					    {"--ttl", &w.ttl, NULL},
					    {"--limits", &w.limits, NULL},
					    {"--compact", NULL, &w.compact},
					    {"--tombstones", &w.tombstones, NULL},
					    {"--if-absent", NULL, &w.if_absent},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	uint32_t verb, what = 0;
	struct thmq_topic_opts opts;
	struct thmq_limits limits;
	struct connection c;
	char needs[64];

	if (words < 0)
		return EXIT_USAGE;
	verb = find_verb(words > 0 ? argv[0] : "");
	if (!verb)
		return usage_error("topic create, alter, list, describe or delete%s%s; thmq help topic",
				   words > 0 ? ", not " : "", words > 0 ? argv[0] : "");
	if (is_amiss(&w, verb))
		return EXIT_USAGE;
	if (group && verb != DESCRIBE)
		return usage_error("--group is of use only with topic describe");
	if (json && !(verb & (LIST | DESCRIBE)))
		return usage_error("--json is of use only with topic list and topic describe");
	thmq_topic_opts_init(&opts);
	rc = parse_common(&w, &opts, &limits, &what);
	if (!rc && verb == CREATE)
		rc = parse_create(&w, &opts);
	if (!rc && verb == ALTER && !what)
		rc = usage_error("topic alter: say what: --partitions, --retention-time, --retention-bytes, --ttl, --tombstones or --limits");
	if (rc)
		return rc;
	snprintf(needs, sizeof(needs), "topic %s needs a directory%s", argv[0],
		 verb == LIST ? "" : " and a topic");
	if (!count_words(argv, words, verb == LIST ? 2 : 3, needs))
		return EXIT_USAGE;
	rc = connect_dir(&c, argv[1], verb == CREATE, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	return disconnect(&c, run(&c, verb, argv[2], &opts, what, group, w.if_absent, json));
}
