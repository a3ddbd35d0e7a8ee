/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_repair.c - thmq repair and thmq copy: a closed directory made whole again, or written a second time. */
#include <errno.h>
#include <unistd.h>

#include "thmq.h"

struct repairing {
	char name[64]; /* of the log; "": the directory */
	bool json, write;
	uint64_t findings, steps, lost_messages, lost_offsets, damaged_bytes;
};

static int on_log(void *ctx, const char *name)
{
	snprintf(((struct repairing *)ctx)->name, sizeof(((struct repairing *)ctx)->name), "%s",
		 name);
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

	if (l->first_index && l->last_index > l->first_index)
		snprintf(batches, sizeof(batches), ", batches %llu to %llu",
			 (unsigned long long)l->first_index, (unsigned long long)l->last_index);
	else if (l->first_index)
		snprintf(batches, sizeof(batches), ", batch %llu",
			 (unsigned long long)l->first_index);
	switch (l->kind) {
	case THMQ_LOSS_DAMAGED:
	case THMQ_LOSS_WHOLE:
		printf("%s: lost: bytes %llu to %llu%s%s\n", r->name,
		       (unsigned long long)l->position, (unsigned long long)l->end, batches,
		       l->kind == THMQ_LOSS_DAMAGED ? ": damaged"
						    : ": whole, but behind damaged ones");
		break;
	case THMQ_LOSS_MESSAGES:
		printf("%s: lost: partition %u, offsets %llu to %llu; %llu messages in %llu runs "
		       "are whole\n",
		       r->name, l->partition, (unsigned long long)l->begin_offset,
		       (unsigned long long)l->end_offset - 1, (unsigned long long)l->messages,
		       (unsigned long long)l->runs);
		break;
	default:
		printf("%s: lost: state kind %u item %llu%s\n", r->name, l->partition,
		       (unsigned long long)l->begin_offset, batches);
	}
}

static int on_loss(void *ctx, const struct thmq_log_loss *l)
{
	static const char *const kinds[] = {"?", "damaged", "whole", "messages", "state"};
	struct repairing *r = ctx;

	if (l->kind == THMQ_LOSS_DAMAGED)
		r->damaged_bytes += l->end - l->position;
	if (l->kind == THMQ_LOSS_MESSAGES) {
		r->lost_messages += l->messages;
		r->lost_offsets += l->end_offset - l->begin_offset;
	}
	if (r->json)
		printf("{\"log\":\"%s\",\"lost\":\"%s\",\"partition\":%u,\"position\":%llu,\"end\":"
		       "%llu,\"first_batch\":%llu,"
		       "\"last_batch\":%llu,\"begin_offset\":%llu,\"end_offset\":%llu,\"runs\":%"
		       "llu,\"messages\":%llu}\n",
		       r->name, kinds[l->kind < 5 ? l->kind : 0], l->partition,
		       (unsigned long long)l->position, (unsigned long long)l->end,
		       (unsigned long long)l->first_index, (unsigned long long)l->last_index,
		       (unsigned long long)l->begin_offset, (unsigned long long)l->end_offset,
		       (unsigned long long)l->runs, (unsigned long long)l->messages);
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
		printf("repaired in %d steps\n", rc);
	else if (rc > 0)
		printf("%d steps to be done: thmq repair --write does them. Nothing was changed\n",
		       rc);
	if (r->lost_offsets || r->damaged_bytes)
		printf("lost: %llu offsets; %llu messages of them are whole in the quarantine; "
		       "%llu bytes are damaged\n",
		       (unsigned long long)r->lost_offsets, (unsigned long long)r->lost_messages,
		       (unsigned long long)r->damaged_bytes);
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
	int words = parse_options(argc, argv, specs), rc;

	if (words < 0)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1, "repair needs a directory"))
		return EXIT_USAGE;
	if (opts.quarantine_dir && !r.write)
		return usage_error("--quarantine is for --write");
	opts.flags = r.write ? THMQ_REPAIR_WRITE : 0;
	rc = thmq_data_repair(argv[0], &opts, &visitor, &r);
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
	rc = thmq_data_copy(argv[0], argv[1]);
	return rc ? fail(rc, "%s", thmq_errmsg()) : EXIT_OK;
}
