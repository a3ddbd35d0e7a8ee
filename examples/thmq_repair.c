/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_repair.c - thmq repair and thmq copy: a closed directory made whole again, or written a second time. */
#include <errno.h>
#include <unistd.h>

#include "thmq.h"

/* Of the many slices of a state that may be lost one line is said. */
struct lost_state {
	uint64_t item, slices;
	uint32_t kind;
};

struct repairing {
	char name[64]; /* of the log; "": the directory */
	struct names names;
	struct lost_state *states; /* of this log, not said yet */
	size_t state_count, state_room;
	bool json, write;
	uint64_t findings, steps, lost_messages, lost_offsets, damaged_bytes;
};

static int by_item(const void *a, const void *b)
{
	const struct lost_state *x = a, *y = b;

	return x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind) : (x->item > y->item) - (x->item < y->item);
}

static void print_state(const struct repairing *r, const struct lost_state *s)
{
	struct state_words words;

	if (r->json) {
		printf("{\"log\":\"%s\",\"lost\":\"state\"", r->name);
		print_state_json(&r->names, s->kind, s->item);
		printf(",\"slices\":%llu}\n", (unsigned long long)s->slices);
	} else {
		printf("%s%slost: newest of %s\n", r->name, *r->name ? ": " : "",
		       state_text(&r->names, s->kind, s->item, &words));
	}
}

/* What was lost of this log's states, each once. */
static void print_states(struct repairing *r)
{
	size_t i;

	qsort(r->states, r->state_count, r->state_count ? sizeof(*r->states) : 1, by_item);
	for (i = 0; i < r->state_count; i++) {
		if (i + 1 < r->state_count && by_item(&r->states[i], &r->states[i + 1]) == 0)
			r->states[i + 1].slices += r->states[i].slices;
		else
			print_state(r, &r->states[i]);
	}
	r->state_count = 0;
}

static void lose_state(struct repairing *r, uint32_t kind, uint64_t item)
{
	const struct lost_state one = {.kind = kind, .item = item, .slices = 1};
	struct lost_state *grown;

	if (r->state_count == r->state_room) {
		grown = realloc(r->states, (r->state_room ? r->state_room * 2 : 64) * sizeof(*grown));
		if (!grown) { /* then some are said more than once */
			print_states(r);
			print_state(r, &one);
			return;
		}
		r->states = grown;
		r->state_room = r->state_room ? r->state_room * 2 : 64;
	}
	r->states[r->state_count++] = one;
}

static int on_log(void *ctx, const char *name)
{
	struct repairing *r = ctx;

	print_states(r);
	snprintf(r->name, sizeof(r->name), "%s", name);
	return 0;
}

/* What is written is not left half done because nobody reads of it. */
static int go_on(const struct repairing *r)
{
	return interrupted ? -EINTR : output_failed() && !r->write ? -EPIPE : 0;
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct repairing *r = ctx;

	print_states(r);
	r->findings++;
	print_finding(r->name, f, r->json);
	return go_on(r);
}

static const char *step_name(uint32_t kind)
{
	static const char *const names[] = {"?",          "index", "vote", "segment",
					    "quarantine", "cut",   "place"};

	return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?";
}

static int on_step(void *ctx, const struct thmq_log_step *s)
{
	struct repairing *r = ctx;

	print_states(r);
	r->steps++;
	if (r->json) {
		printf("{\"log\":\"%s\",\"step\":\"%s\",\"position\":%llu,\"end\":%llu,\"text\":",
		       r->name, step_name(s->kind), (unsigned long long)s->position,
		       (unsigned long long)s->end);
		print_json_string(stdout, s->text, strlen(s->text));
		printf("}\n");
	} else {
		printf("%s%s%s: %s\n", r->name, *r->name ? ": " : "",
		       r->write ? "repair" : "would repair", s->text);
	}
	return go_on(r);
}

static void print_loss(const struct repairing *r, const struct thmq_log_loss *l)
{
	char batches[64] = "";
	struct name_text name;

	if (l->first_index && l->last_index > l->first_index)
		snprintf(batches, sizeof(batches), ", batches %llu to %llu",
			 (unsigned long long)l->first_index, (unsigned long long)l->last_index);
	else if (l->first_index)
		snprintf(batches, sizeof(batches), ", batch %llu",
			 (unsigned long long)l->first_index);
	printf("%s%slost: ", r->name, *r->name ? ": " : "");
	if (l->kind == THMQ_LOSS_MESSAGES)
		printf("%s, offsets %llu to %llu; %llu message%s in %llu run%s %s whole\n",
		       partition_text(&r->names, l->partition, &name), (unsigned long long)l->begin_offset,
		       (unsigned long long)l->end_offset - 1, (unsigned long long)l->messages,
		       plural(l->messages), (unsigned long long)l->runs, plural(l->runs),
		       l->messages == 1 ? "is" : "are");
	else
		printf("bytes %llu to %llu%s%s\n", (unsigned long long)l->position, (unsigned long long)l->end - 1,
		       batches, l->kind == THMQ_LOSS_DAMAGED ? ": damaged" : ": whole, but behind damaged ones");
}

static void print_loss_json(const struct repairing *r, const struct thmq_log_loss *l)
{
	printf("{\"log\":\"%s\",\"lost\":\"%s\"", r->name,
	       l->kind == THMQ_LOSS_MESSAGES  ? "messages"
	       : l->kind == THMQ_LOSS_DAMAGED ? "damaged"
					      : "whole");
	if (l->kind == THMQ_LOSS_MESSAGES) {
		print_partition_json(&r->names, l->partition);
		printf(",\"offset\":%llu,\"end\":%llu,\"runs\":%llu,\"messages\":%llu}\n",
		       (unsigned long long)l->begin_offset, (unsigned long long)l->end_offset,
		       (unsigned long long)l->runs, (unsigned long long)l->messages);
		return;
	}
	printf(",\"position\":%llu,\"end\":%llu", (unsigned long long)l->position, (unsigned long long)l->end);
	if (l->first_index)
		printf(",\"first_batch\":%llu,\"last_batch\":%llu", (unsigned long long)l->first_index,
		       (unsigned long long)l->last_index);
	printf("}\n");
}

static int on_loss(void *ctx, const struct thmq_log_loss *l)
{
	struct repairing *r = ctx;

	if (l->kind == THMQ_LOSS_STATE) {
		lose_state(r, l->partition, l->begin_offset);
		return go_on(r);
	}
	if (l->kind == THMQ_LOSS_DAMAGED)
		r->damaged_bytes += l->end - l->position;
	if (l->kind == THMQ_LOSS_MESSAGES) {
		r->lost_messages += l->messages;
		r->lost_offsets += l->end_offset - l->begin_offset;
	}
	if (r->json)
		print_loss_json(r, l);
	else
		print_loss(r, l);
	return go_on(r);
}

static void print_summary(const struct repairing *r, int rc)
{
	if (r->json) {
		printf("{\"findings\":%llu,\"steps\":%llu,\"written\":%s,\"whole\":%s,\"damaged_"
		       "bytes\":%llu,"
		       "\"lost_offsets\":%llu,\"quarantined_messages\":%llu}\n",
		       (unsigned long long)r->findings, (unsigned long long)r->steps,
		       r->write ? "true" : "false",
		       rc == 0 || (rc > 0 && r->write) ? "true" : "false",
		       (unsigned long long)r->damaged_bytes, (unsigned long long)r->lost_offsets,
		       (unsigned long long)r->lost_messages);
		return;
	}
	if (rc == 0)
		printf("nothing is to be repaired\n");
	else if (rc > 0 && r->write)
		printf("repaired in %d step%s\n", rc, plural((uint64_t)rc));
	else if (rc > 0)
		printf("%d step%s to be done: thmq repair --write does %s. Nothing was changed\n",
		       rc, plural((uint64_t)rc), rc == 1 ? "it" : "them");
	if (r->lost_offsets || r->damaged_bytes)
		printf("lost: %llu offset%s; %llu message%s of them %s whole in the quarantine; "
		       "%llu bytes are damaged\n",
		       (unsigned long long)r->lost_offsets, plural(r->lost_offsets),
		       (unsigned long long)r->lost_messages, plural(r->lost_messages),
		       r->lost_messages == 1 ? "is" : "are", (unsigned long long)r->damaged_bytes);
}

static int repair_log(const char *dir, const struct thmq_log_repair_opts *opts,
		      const struct thmq_log_visitor *visitor, struct repairing *r, int *ret_rc)
{
	int fd = -1, code = r->write ? EXIT_OK : lock_log(dir, &fd); /* a repair that writes takes it itself */

	if (code)
		return code;
	r->names.of_log = true;
	if (!r->json)
		printf("%s: a log on its own, without topics\n", dir);
	*ret_rc = thmq_log_repair(dir, opts, visitor, r);
	unlock_log(fd);
	return EXIT_OK;
}

int cmd_repair(int argc, char **argv)
{
	static const struct thmq_log_visitor visitor = {.size = sizeof(visitor),
							.finding = on_finding,
							.log = on_log,
							.step = on_step,
							.loss = on_loss};
	struct thmq_log_repair_opts opts = {.size = sizeof(opts)};
	struct repairing r = {.name = ""};
	const struct option_spec specs[] = {{"--json", NULL, &r.json},
					    {"--write", NULL, &r.write},
					    {"--quarantine", &opts.quarantine_dir, NULL},
					    {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc = 0, code = EXIT_OK;

	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1, "repair needs a directory"))
		return EXIT_USAGE;
	if (opts.quarantine_dir && !r.write)
		return usage_error("--quarantine is for --write");
	opts.flags = r.write ? THMQ_REPAIR_WRITE : 0;
	if (is_log(argv[0])) {
		code = repair_log(argv[0], &opts, &visitor, &r, &rc);
	} else {
		names_read(&r.names, argv[0]);
		rc = thmq_data_repair(argv[0], &opts, &visitor, &r);
	}
	print_states(&r);
	free(r.states);
	names_free(&r.names);
	if (code)
		return code;
	if (rc >= 0 || rc == -THMQ_ECORRUPT)
		print_summary(&r, rc);
	if (rc == -EINTR && interrupted)
		return fail(rc, "interrupted; begin again");
	if (rc == -EPIPE && output_failed())
		return EXIT_OK;
	if (rc < 0)
		return fail(rc, "%s", thmq_errmsg());
	return rc && !r.write ? EXIT_DAMAGE : EXIT_OK;
}

/* The copy is one call: there is nothing to come back to. What it has written does not open. */
static void on_interrupt(int number)
{
	static const char text[] = "thmq: interrupted; what was copied is of no use and may be removed\n";

	ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)number, (void)n;
	_exit(EXIT_FAILED);
}

int cmd_copy(int argc, char **argv)
{
	const struct option_spec specs[] = {{NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 2, "copy needs a directory and a new one"))
		return EXIT_USAGE;
	signal(SIGINT, on_interrupt);
	signal(SIGTERM, on_interrupt);
	if (is_log(argv[0]))
		return copy_log(argv[0], argv[1]);
	rc = thmq_data_copy(argv[0], argv[1]);
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}
