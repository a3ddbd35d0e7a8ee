/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_group.c - thmq group: list, describe, reset, delete. */
#include <errno.h>

#include "thmq.h"

static const char *assignor_name(uint32_t assignor)
{
	static const char *const names[] = {"range", "range", "round-robin", "sticky", "near"};

	return assignor < sizeof(names) / sizeof(names[0]) ? names[assignor] : "?";
}

/* Who shares is not known one by one, but who reads at the moment is: a broker of an earlier version tells no more. */
static bool is_shared(const struct thmq_group_info *info)
{
	return info->flags & THMQ_GROUP_IS_SHARED || (!info->member_count && info->reader_count);
}

static void print_who(const struct thmq_group_info *info)
{
	if (is_shared(info))
		printf("shared by %u reader%s of %u partition%s", info->reader_count, plural(info->reader_count), info->partition_count,
		       plural(info->partition_count));
	else if (info->member_count)
		printf("%u member%s, %s", info->member_count, plural(info->member_count), assignor_name(info->assignor));
	else
		fputs("0 members", stdout);
}

static void print_name(const char *before, const char *name)
{
	fputs(before, stdout);
	print_json_string(stdout, name, strlen(name));
}

/* --------------------------------------------------------------------- list */

static int list(struct connection *c, const char *topic, bool json)
{
	int count = thmq_group_list(c->session, topic, NULL, 0), n, i;
	struct thmq_group_info *infos;

	if (count < 0)
		return fail(count, "%s", thmq_errmsg());
	infos = calloc((size_t)count + 1, sizeof(*infos));
	if (!infos)
		return fail(-ENOMEM, "out of memory");
	infos[0].size = sizeof(infos[0]);
	n = count ? thmq_group_list(c->session, topic, infos, (uint32_t)count) : 0;
	for (i = 0; i < n && i < count && !output_failed(); i++) {
		if (json) {
			print_name("{\"group\":", infos[i].name);
			printf(",\"members\":%u}\n", infos[i].member_count);
			continue;
		}
		infos[i].size = sizeof(infos[i]);
		if (!infos[i].member_count) /* is it shared? One that is just being deleted is not there any more */
			thmq_group_describe(c->session, topic, infos[i].name, &infos[i]);
		printf("%-40s ", infos[i].name);
		print_who(&infos[i]);
		putchar('\n');
	}
	free(infos);
	return n < 0 ? fail(n, "%s", thmq_errmsg()) : EXIT_OK;
}

/* ----------------------------------------------------------------- describe */

struct about {
	struct thmq_group_info info;
	struct thmq_group_member *members;
	uint32_t *owners;
	int member_count, partition_count;
};

static void print_members(const struct about *a, bool json)
{
	struct unit_text text;
	int i;

	for (i = 0; i < a->member_count; i++) {
		const struct thmq_group_member *m = &a->members[i];

		if (json) {
			print_name(i ? ",{\"instance\":" : "{\"instance\":", m->instance);
			printf(",\"partitions\":%u,\"silent_ns\":%llu,\"away\":%s}", m->partition_count, (unsigned long long)m->silent_ns,
			       m->away ? "true" : "false");
			continue;
		}
		printf("  member %d%s%s: %u partition%s", i, m->instance[0] ? " " : "", m->instance, m->partition_count,
		       plural(m->partition_count));
		if (m->away)
			printf(", away for %s", m->silent_ns < SECOND ? "less than 1s" : duration_text(m->silent_ns / SECOND * SECOND, &text));
		putchar('\n');
	}
}

static int print_partition(struct connection *c, const struct about *a, const char *topic, uint32_t i, bool json)
{
	struct thmq_partition_info p = {.size = sizeof(p)};
	int rc = thmq_partition_describe(c->session, topic, i, a->info.name, &p);
	bool begun = p.group_offset != UINT64_MAX, owned = (int)i < a->partition_count && a->owners[i] < (uint32_t)a->member_count;

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	if (json) {
		printf("%s{\"partition\":%u,\"priority\":%u,\"begun\":%s,\"group_offset\":", i ? "," : "", i, p.priority, begun ? "true" : "false");
		printf(begun ? "%llu" : "null", (unsigned long long)p.group_offset);
		printf(",\"end\":%llu,\"lag\":%llu,\"member\":", (unsigned long long)p.end_offset, (unsigned long long)p.lag);
		printf(owned ? "%u}" : "null}", owned ? a->owners[i] : 0);
		return EXIT_OK;
	}
	printf("  partition %u", i);
	if (p.priority)
		printf(", priority %u", p.priority);
	fputs(": ", stdout);
	if (begun)
		printf("at %llu of %llu, ", (unsigned long long)p.group_offset, (unsigned long long)p.end_offset);
	else
		fputs("not begun, ", stdout);
	printf("%llu behind", (unsigned long long)p.lag);
	if (owned)
		printf(", read by member %u", a->owners[i]);
	putchar('\n');
	return EXIT_OK;
}

static int learn(struct connection *c, const char *topic, const char *group, struct about *a)
{
	int rc;

	a->info.size = sizeof(a->info);
	rc = thmq_group_describe(c->session, topic, group, &a->info);
	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	a->members = calloc((size_t)a->info.member_count + 1, sizeof(*a->members));
	a->owners = calloc(a->info.partition_count, sizeof(*a->owners));
	if (!a->members || !a->owners)
		return fail(-ENOMEM, "out of memory");
	a->members[0].size = sizeof(a->members[0]);
	rc = thmq_group_members(c->session, topic, group, a->members, a->info.member_count + 1);
	a->member_count = rc < (int)a->info.member_count + 1 ? rc : (int)a->info.member_count + 1;
	if (rc >= 0)
		rc = a->partition_count = thmq_group_owners(c->session, topic, group, a->owners, a->info.partition_count);
	return rc < 0 ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}

static int describe(struct connection *c, const char *topic, const char *group, bool json)
{
	struct about a = {0};
	int rc = learn(c, topic, group, &a);
	uint32_t i;

	if (!rc && json) {
		print_name("{\"group\":", group);
		if (a.info.member_count)
			printf(",\"assignor\":\"%s\"", assignor_name(a.info.assignor));
		else
			fputs(",\"assignor\":null", stdout);
		printf(",\"shared\":%s,\"readers\":%u,\"lag\":%llu,\"members\":[", is_shared(&a.info) ? "true" : "false", a.info.reader_count,
		       (unsigned long long)a.info.lag);
		print_members(&a, true);
		fputs("],\"partitions\":[", stdout);
	} else if (!rc) {
		printf("%s: ", group);
		print_who(&a.info);
		printf(", %llu behind\n", (unsigned long long)a.info.lag);
		print_members(&a, false);
	}
	for (i = 0; i < a.info.partition_count && !rc && !output_failed(); i++)
		rc = print_partition(c, &a, topic, i, json);
	if (!rc && json)
		fputs("]}\n", stdout);
	free(a.members);
	free(a.owners);
	return rc;
}

/* ------------------------------------------------------------------ command */

enum verb { LIST = 1, DESCRIBE, RESET, DELETE };

static enum verb find_verb(const char *name)
{
	static const char *const names[] = {"list", "describe", "reset", "delete"};
	uint32_t i;

	for (i = 0; i < 4; i++)
		if (strcmp(name, names[i]) == 0)
			return (enum verb)(LIST + i);
	return 0;
}

int cmd_group(int argc, char **argv)
{
	const char *to = NULL, *partition_text = NULL;
	bool force = false, json = false;
	const struct option_spec specs[] = {{"--to", &to, NULL},
					    {"--partition", &partition_text, NULL},
					    {"--force", NULL, &force},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	uint64_t partition = UINT32_MAX, value = 0;
	uint32_t start = 0, flags;
	struct connection c;
	enum verb verb;
	char needs[64];

	if (words < 0)
		return EXIT_USAGE;
	verb = find_verb(words > 0 ? argv[0] : "");
	if (!verb)
		return usage_error("group list, describe, reset or delete%s%s; thmq help group", words > 0 ? ", not " : "",
				   words > 0 ? argv[0] : "");
	if ((to || partition_text) && verb != RESET)
		return usage_error("%s is of use only with group reset", to ? "--to" : "--partition");
	if (force && verb != RESET && verb != DELETE)
		return usage_error("--force is of use only with group reset and group delete");
	if (json && verb != LIST && verb != DESCRIBE)
		return usage_error("--json is of use only with group list and group describe");
	if (verb == RESET && (!to || !parse_from(to, &start, &value)))
		return usage_error("group reset needs --to begin, end, an offset, a date as 2026-01-31 or a time as 2026-01-31T12:00:00Z");
	if (partition_text && !parse_number(partition_text, THMQ_PARTITION_COUNT_MAX, &partition))
		return usage_error("--partition needs a number, not %s", partition_text);
	snprintf(needs, sizeof(needs), "group %s needs a directory%s", argv[0], verb == LIST ? " and a topic" : ", a topic and a group");
	if (!count_words(argv, words, verb == LIST ? 3 : 4, needs))
		return EXIT_USAGE;
	rc = connect_dir(&c, argv[1], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	flags = force ? THMQ_GROUP_FORCE : 0;
	if (verb == LIST) {
		rc = list(&c, argv[2], json);
	} else if (verb == DESCRIBE) {
		rc = describe(&c, argv[2], argv[3], json);
	} else {
		rc = verb == DELETE ? thmq_group_delete(c.session, argv[2], argv[3], flags)
				    : thmq_group_reset(c.session, argv[2], argv[3], (uint32_t)partition, start, value, flags);
		if (rc == -EBUSY) { /* not of the directory, as exit status 5 would say */
			fail(rc, "%s group %s of %s: it has members; close them, or put them out by --force", argv[0], argv[3], argv[2]);
			rc = EXIT_FAILED;
		} else if (rc) {
			rc = fail(rc, "%s", thmq_errmsg());
		}
	}
	return disconnect(&c, rc);
}
