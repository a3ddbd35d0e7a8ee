/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_cores.c - thmq cores: the machine as the library sees it, and where its pinned cores would go. */
#include <errno.h>

#include "thmq.h"

static const char *number_text(int32_t number, struct unit_text *buffer)
{
	if (number < 0)
		return "-";
	snprintf(buffer->text, sizeof(buffer->text), "%d", number);
	return buffer->text;
}

static void print_near(const char *what, const char *device, int32_t node)
{
	if (node >= 0)
		printf("%s: %s, on node %d\n", what, device, node);
	else
		printf("%s: %s, which has no place that the system tells\n", what,
		       *device ? device : "no device");
}

static void print_machine(const struct thmq_machine *m, const char *path, const char *nic)
{
	printf("%u processor%s for this process, %u physical core%s, %u NUMA node%s, %u socket%s\n",
	       m->cpu_count, plural(m->cpu_count), m->physical_count, plural(m->physical_count),
	       m->node_count, plural(m->node_count), m->package_count, plural(m->package_count));
	if (m->quota_percent)
		printf("quota: %u.%02u processors: more cores than that do not spin unless they "
		       "are told to\n",
		       m->quota_percent / 100, m->quota_percent % 100);
	if (path)
		print_near("path", m->path_device, m->path_node);
	if (nic)
		print_near("card", nic, m->nic_node);
}

static void print_place(uint32_t core, const struct thmq_place *p)
{
	static const struct {
		uint32_t flag;
		const char *words;
	} notes[] = {{THMQ_PLACE_NEAR_PATH, "near the path"},
		     {THMQ_PLACE_NEAR_NIC, "near the card"},
		     {THMQ_PLACE_EFFICIENCY, "slow processor"},
		     {THMQ_PLACE_SHARED, "shared processor"},
		     {THMQ_PLACE_SIBLING, "sibling"}};
	struct unit_text cpu, node, memory, socket, physical;
	const char *between = "  ";
	size_t i;

	printf("%4u %9s %4s %6s %6s %8s", core, number_text(p->cpu, &cpu),
	       number_text(p->node, &node), number_text(p->memory_node, &memory),
	       number_text(p->package, &socket), number_text(p->physical_core, &physical));
	for (i = 0; i < sizeof(notes) / sizeof(notes[0]); i++) {
		if (!(p->flags & notes[i].flag) ||
		    (notes[i].flag == THMQ_PLACE_SIBLING && (p->flags & THMQ_PLACE_SHARED)))
			continue;
		printf("%s%s", between, notes[i].words);
		between = ", ";
	}
	putchar('\n');
}

static const char *truth(uint32_t flags, uint32_t flag)
{
	return flags & flag ? "true" : "false";
}

static void print_json(const struct thmq_machine *m, const struct thmq_place *places,
		       uint32_t count)
{
	uint32_t i;

	printf("{\"processors\":%u,\"physical_cores\":%u,\"nodes\":%u,\"sockets\":%u,\"quota_"
	       "percent\":%u,\"path_device\":",
	       m->cpu_count, m->physical_count, m->node_count, m->package_count, m->quota_percent);
	print_json_string(stdout, m->path_device, strlen(m->path_device));
	printf(",\"path_node\":%d,\"card_node\":%d,\"cores\":[", m->path_node, m->nic_node);
	for (i = 0; i < count && !output_failed(); i++) {
		const struct thmq_place *p = &places[i];

		printf("%s{\"processor\":%d,\"node\":%d,\"memory_node\":%d,\"socket\":%d,"
		       "\"physical_core\":%d,"
		       "\"near_path\":%s,\"near_card\":%s,\"slow\":%s,\"shared\":%s,\"sibling\":%"
		       "s}",
		       i ? "," : "", p->cpu, p->node, p->memory_node, p->package, p->physical_core,
		       truth(p->flags, THMQ_PLACE_NEAR_PATH), truth(p->flags, THMQ_PLACE_NEAR_NIC),
		       truth(p->flags, THMQ_PLACE_EFFICIENCY), truth(p->flags, THMQ_PLACE_SHARED),
		       truth(p->flags, THMQ_PLACE_SIBLING));
	}
	fputs("]}\n", stdout);
}

static int print_plan(const struct thmq_env_opts *opts, uint64_t count, bool json)
{
	struct thmq_machine machine = {.size = sizeof(machine)};
	struct thmq_place *places;
	uint32_t i;
	int rc = thmq_env_plan(opts, NULL, 0, &machine);

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	count = count ? count : machine.cpu_count;
	places = calloc(count + 1, sizeof(*places));
	if (!places)
		return fail(-ENOMEM, "out of memory");
	places[0].size = sizeof(places[0]);
	rc = thmq_env_plan(opts, places, (uint32_t)count, &machine);
	if (rc) {
		free(places);
		return fail(rc, "%s", thmq_errmsg());
	}
	if (json) {
		print_json(&machine, places, (uint32_t)count);
	} else {
		print_machine(&machine, opts->near_path, opts->near_nic);
		if (count)
			puts("core processor node memory socket physical");
		for (i = 0; i < count && !output_failed(); i++)
			print_place(i, &places[i]);
	}
	free(places);
	return EXIT_OK;
}

int cmd_cores(int argc, char **argv)
{
	const char *count_text = NULL;
	struct thmq_env_opts opts;
	bool json = false;
	uint64_t count = 0;
	int words;

	thmq_env_opts_init(&opts);
	words = parse_options(argc, argv,
			      (struct option_spec[]){{"--count", &count_text, NULL},
						     {"--cpus", &opts.cpus, NULL},
						     {"--near", &opts.near_path, NULL},
						     {"--card", &opts.near_nic, NULL},
						     {"--json", NULL, &json},
						     {NULL, NULL, NULL}});
	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 0, "cores takes options only"))
		return EXIT_USAGE;
	if (count_text && (!parse_number(count_text, THMQ_CORE_COUNT_MAX, &count) || !count))
		return usage_error("--count is a number from 1 to %u", THMQ_CORE_COUNT_MAX);
	return print_plan(&opts, count, json);
}
