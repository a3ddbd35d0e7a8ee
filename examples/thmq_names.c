/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_names.c - what the numbers in a directory's logs are called: topics, groups, states. Learnt from the runs of the log
 * meta; of a log on its own nothing is known, and numbers stay numbers.
 */
#include "thmq.h"

/* Kinds of the broker's states; from 16 on only in meta. */
enum { KIND_LOG = 0, KIND_OFFSET = 1, KIND_NEXT = 2, KIND_SHARDS = 16, KIND_TOPIC = 17, KIND_GROUP = 18, KIND_COUNTERS = 19 };

/* One more element of @size bytes at *@array, which has @count. NULL: out of memory. */
static void *grow(void **array, size_t size, uint32_t count)
{
	void *grown = *array;

	if ((count & (count - 1)) == 0) { /* full at every power of two */
		grown = realloc(*array, size * (count ? (size_t)count * 2 : 1));
		if (!grown)
			return NULL;
		*array = grown;
	}
	return (char *)grown + size * count;
}

static const struct thmq_data_name *find_topic(const struct names *n, uint32_t id)
{
	uint32_t i;

	for (i = 0; i < n->topic_count; i++)
		if (n->topics[i].id == id)
			return &n->topics[i];
	return NULL;
}

static const struct thmq_data_name *find_group(const struct names *n, uint32_t id)
{
	uint32_t i;

	for (i = 0; i < n->group_count; i++)
		if (n->groups[i].id == id)
			return &n->groups[i];
	return NULL;
}

/* Those that @t had from the begin. */
static uint32_t first_count(const struct thmq_data_name *t)
{
	return t->added_count ? t->added[0].begin : t->partition_count;
}

static const struct thmq_data_name *find_added(const struct names *n, uint32_t partition, uint32_t *ret_index)
{
	uint32_t i;

	for (i = 0; i < n->range_count; i++) {
		const struct name_range *r = &n->ranges[i];

		if (partition - r->first < r->count) {
			*ret_index = r->begin + (partition - r->first);
			return find_topic(n, r->topic_id);
		}
	}
	return NULL;
}

/* Topics are sorted by their first partition: the last one that begins at or before @partition. */
static const struct thmq_data_name *find_partition(const struct names *n, uint32_t partition, uint32_t *ret_index)
{
	uint32_t lo = 0, hi = n->topic_count, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (n->topics[mid].first_partition <= partition)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || partition - n->topics[lo - 1].first_partition >= first_count(&n->topics[lo - 1]))
		return find_added(n, partition, ret_index);
	*ret_index = partition - n->topics[lo - 1].first_partition;
	return &n->topics[lo - 1];
}

static void learn_ranges(struct names *n, const struct thmq_data_name *topic)
{
	struct name_range *r;
	uint32_t k, i, end;

	for (k = 0; k < topic->added_count; k++) {
		end = k + 1 < topic->added_count ? topic->added[k + 1].begin : topic->partition_count;
		for (i = 0; i < n->range_count && n->ranges[i].first != topic->added[k].first_partition; i++)
			;
		r = i < n->range_count ? &n->ranges[i] : grow((void **)&n->ranges, sizeof(*n->ranges), n->range_count);
		if (!r)
			return;
		n->range_count += i == n->range_count;
		*r = (struct name_range){.topic_id = topic->id,
					 .first = topic->added[k].first_partition,
					 .count = end > topic->added[k].begin ? end - topic->added[k].begin : 0,
					 .begin = topic->added[k].begin};
	}
}

static void learn_topic(struct names *n, const struct thmq_data_name *topic)
{
	uint32_t i;

	learn_ranges(n, topic);
	for (i = n->topic_count; i > 0; i--)
		if (n->topics[i - 1].id == topic->id) {
			n->topics[i - 1] = *topic;
			return;
		}
	if (!topic->name[0] || !grow((void **)&n->topics, sizeof(*n->topics), n->topic_count))
		return;
	for (i = n->topic_count++; i > 0 && n->topics[i - 1].first_partition > topic->first_partition; i--)
		n->topics[i] = n->topics[i - 1];
	n->topics[i] = *topic;
}

static void learn_group(struct names *n, const struct thmq_data_name *group)
{
	if (find_group(n, group->id) || !grow((void **)&n->groups, sizeof(*n->groups), n->group_count))
		return;
	n->groups[n->group_count++] = *group;
}

void names_learn(struct names *n, const struct thmq_log_run *run)
{
	struct thmq_data_name name = {.size = sizeof(name)};

	if (n->of_log || thmq_data_name(run, &name) != 1)
		return;
	if (name.kind == THMQ_DATA_TOPIC)
		learn_topic(n, &name);
	else
		learn_group(n, &name);
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	names_learn(ctx, run);
	return interrupted ? -1 : 0;
}

void names_read(struct names *n, const char *dir)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .run = on_run};
	char path[4400];

	if ((size_t)snprintf(path, sizeof(path), "%s/meta", dir) < sizeof(path))
		thmq_log_scan(path, &visitor, n); /* as far as it can be read */
}

void names_free(struct names *n)
{
	free(n->topics);
	free(n->groups);
	free(n->ranges);
}

/* -------------------------------------------------------------------- words */

const char *partition_text(const struct names *n, uint32_t partition, struct name_text *buffer)
{
	uint32_t index;
	const struct thmq_data_name *t = find_partition(n, partition, &index);

	if (t)
		snprintf(buffer->text, sizeof(buffer->text), "%s/%u%s", t->name, index, t->deleted ? " (deleted)" : "");
	else
		snprintf(buffer->text, sizeof(buffer->text), "partition %u", partition);
	return buffer->text;
}

static const char *topic_text(const struct names *n, uint32_t id, struct name_text *buffer)
{
	const struct thmq_data_name *t = find_topic(n, id);

	if (t)
		snprintf(buffer->text, sizeof(buffer->text), "topic %s%s", t->name, t->deleted ? " (deleted)" : "");
	else
		snprintf(buffer->text, sizeof(buffer->text), "topic number %u", id);
	return buffer->text;
}

static const char *group_text(const struct names *n, uint32_t id, struct name_text *buffer)
{
	const struct thmq_data_name *g = find_group(n, id);

	if (g)
		snprintf(buffer->text, sizeof(buffer->text), "group %s", g->name);
	else
		snprintf(buffer->text, sizeof(buffer->text), "group number %u", id);
	return buffer->text;
}

const char *state_text(const struct names *n, uint32_t kind, uint64_t item, struct state_words *buffer)
{
	const struct thmq_data_name *g = kind == KIND_GROUP ? find_group(n, (uint32_t)item) : NULL;
	struct name_text one, two;
	char *text = buffer->text;
	size_t size = sizeof(buffer->text);

	if (kind == KIND_LOG)
		snprintf(text, size, "the log's first entry");
	else if (n->of_log)
		snprintf(text, size, "state %u, item %llu", kind, (unsigned long long)item);
	else if (kind == KIND_OFFSET)
		snprintf(text, size, "offset of %s in %s", group_text(n, (uint32_t)item, &one),
			 partition_text(n, (uint32_t)(item >> 32), &two));
	else if (kind == KIND_NEXT)
		snprintf(text, size, "next offset of %s", partition_text(n, (uint32_t)item, &one));
	else if (kind == KIND_SHARDS)
		snprintf(text, size, "list of shards");
	else if (kind == KIND_TOPIC)
		snprintf(text, size, "%s", topic_text(n, (uint32_t)item, &one));
	else if (kind == KIND_GROUP && g)
		snprintf(text, size, "group %s of %s", g->name, topic_text(n, g->topic_id, &one));
	else if (kind == KIND_GROUP)
		snprintf(text, size, "%s", group_text(n, (uint32_t)item, &one));
	else if (kind == KIND_COUNTERS)
		snprintf(text, size, "which numbers are used");
	else
		snprintf(text, size, "state %u, item %llu", kind, (unsigned long long)item);
	return text;
}

/* --------------------------------------------------------------------- JSON */

static void print_named(const char *field, const char *name)
{
	printf(",\"%s\":", field);
	print_json_string(stdout, name, strlen(name));
}

void print_partition_json(const struct names *n, uint32_t partition)
{
	uint32_t index;
	const struct thmq_data_name *t = find_partition(n, partition, &index);

	if (t) {
		print_named("topic", t->name);
		printf(",\"partition\":%u", index);
		if (t->deleted)
			fputs(",\"deleted\":true", stdout);
	}
	printf(",\"partition_id\":%u", partition);
}

static void print_topic_json(const struct names *n, uint32_t id)
{
	const struct thmq_data_name *t = find_topic(n, id);

	if (t)
		print_named("topic", t->name);
	if (t && t->deleted)
		fputs(",\"deleted\":true", stdout);
	printf(",\"topic_id\":%u", id);
}

static void print_group_json(const struct names *n, uint32_t id)
{
	const struct thmq_data_name *g = find_group(n, id);

	if (g)
		print_named("group", g->name);
	printf(",\"group_id\":%u", id);
}

static const char *state_name(const struct names *n, uint32_t kind)
{
	switch (kind) {
	case KIND_LOG:
		return "log";
	case KIND_OFFSET:
		return n->of_log ? NULL : "group_offset";
	case KIND_NEXT:
		return n->of_log ? NULL : "next_offset";
	case KIND_SHARDS:
		return n->of_log ? NULL : "shards";
	case KIND_TOPIC:
		return n->of_log ? NULL : "topic";
	case KIND_GROUP:
		return n->of_log ? NULL : "group";
	case KIND_COUNTERS:
		return n->of_log ? NULL : "counters";
	default:
		return NULL;
	}
}

void print_state_json(const struct names *n, uint32_t kind, uint64_t item)
{
	const char *name = state_name(n, kind);
	const struct thmq_data_name *g;

	printf(",\"kind\":%u,\"item\":%llu", kind, (unsigned long long)item);
	if (!name)
		return;
	printf(",\"state\":\"%s\"", name);
	if (kind == KIND_OFFSET) {
		print_group_json(n, (uint32_t)item);
		print_partition_json(n, (uint32_t)(item >> 32));
	} else if (kind == KIND_NEXT) {
		print_partition_json(n, (uint32_t)item);
	} else if (kind == KIND_TOPIC) {
		print_topic_json(n, (uint32_t)item);
	} else if (kind == KIND_GROUP) {
		print_group_json(n, (uint32_t)item);
		g = find_group(n, (uint32_t)item);
		if (g)
			print_topic_json(n, g->topic_id);
	}
}
