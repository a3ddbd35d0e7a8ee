/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_pub.c - thmq pub: lines become messages. */
#include <errno.h>
#include <unistd.h>

#include "thmq.h"

struct pub {
	struct connection c;
	struct thmq_producer *producer;
	struct thmq_message_opts message;
	int separator; /* -1: none */
	bool progress;
	uint64_t count, bytes, begin_ns, shown_ns;
};

static void show_progress(struct pub *p, bool last)
{
	uint64_t now = clock_ns();

	if (!p->progress || (!last && now - p->shown_ns < SECOND / 5))
		return;
	p->shown_ns = now;
	fprintf(stderr, "\r%llu messages, %.1f MB, %.0f messages/s ", (unsigned long long)p->count,
		(double)p->bytes / 1e6, (double)p->count * 1e9 / (double)(now - p->begin_ns + 1));
	if (last)
		fputc('\n', stderr);
}

static int publish(struct pub *p, const char *line, size_t len)
{
	struct thmq_message_opts o = p->message;
	const char *at = p->separator >= 0 ? memchr(line, p->separator, len) : NULL;
	int64_t rc;

	if (at) {
		o.key = line;
		o.key_len = (uint32_t)(at - line);
		len -= (size_t)(at - line) + 1;
		line = at + 1;
	}
	if (len > UINT32_MAX)
		return fail(-EMSGSIZE, "line %llu is too long", (unsigned long long)p->count + 1);
	/* poll in between, so that what is taken becomes durable while the next lines are read */
	while ((rc = thmq_send(p->producer, line, (uint32_t)len, &o)) == -EAGAIN)
		thmq_poll(p->c.env, SECOND);
	if (rc < 0)
		return fail((int)rc, "line %llu: %s", (unsigned long long)p->count + 1, thmq_strerror((int)rc));
	p->bytes += len;
	if (++p->count % 64 == 0) {
		thmq_poll(p->c.env, 0);
		show_progress(p, false);
	}
	return 0;
}

static int publish_file(struct pub *p, const char *name)
{
	FILE *in = strcmp(name, "-") == 0 ? stdin : fopen(name, "r");
	char *line = NULL;
	size_t room = 0;
	ssize_t len;
	int rc = 0;

	if (!in)
		return fail(-errno, "%s: %s", name, strerror(errno));
	while (!rc && !interrupted && (len = getline(&line, &room, in)) >= 0) {
		if (len && line[len - 1] == '\n')
			len--;
		rc = publish(p, line, (size_t)len);
	}
	if (!rc && ferror(in))
		rc = fail(-EIO, "%s: %s", name, strerror(errno));
	free(line);
	if (in != stdin)
		fclose(in);
	return rc;
}

static bool parse_durability(const char *text, uint32_t *ret_level)
{
	static const char *const names[] = {"", "memory", "written", "durable"};
	uint32_t i;

	for (i = THMQ_DURABILITY_MEMORY; i <= THMQ_DURABILITY_DURABLE; i++)
		if (strcmp(text, names[i]) == 0) {
			*ret_level = i;
			return true;
		}
	return false;
}

static int finish(struct pub *p, bool quiet, bool json)
{
	int rc = thmq_flush(p->producer, 60 * SECOND);
	double seconds = (double)(clock_ns() - p->begin_ns) / 1e9;

	show_progress(p, true);
	if (rc) {
		struct thmq_event e;

		while (thmq_events(p->c.session, &e, 1) == 1)
			if (e.type == THMQ_EVENT_FAILED)
				return fail(e.error, "message %llu was not stored: %s",
					    (unsigned long long)e.sequence, thmq_strerror(e.error));
		return fail(rc, "flush: %s", thmq_strerror(rc));
	}
	if (json)
		printf("{\"messages\":%llu,\"bytes\":%llu,\"seconds\":%.6f}\n", (unsigned long long)p->count,
		       (unsigned long long)p->bytes, seconds);
	else if (!quiet && !p->progress)
		fprintf(stderr, "%llu messages in %.3f s\n", (unsigned long long)p->count, seconds);
	return 0;
}

int cmd_pub(int argc, char **argv)
{
	const char *key = NULL, *separator = NULL, *partition = NULL, *partitions = NULL, *tag = NULL, *level = NULL;
	bool create = false, quiet = false, json = false;
	const struct option_spec specs[] = {{"--create", NULL, &create},
					    {"--partitions", &partitions, NULL},
					    {"--key", &key, NULL},
					    {"--key-separator", &separator, NULL},
					    {"--partition", &partition, NULL},
					    {"--tag", &tag, NULL},
					    {"--durability", &level, NULL},
					    {"--quiet", NULL, &quiet},
					    {"--json", NULL, &json},
					    {NULL, NULL, NULL}};
	struct pub p = {.separator = -1};
	uint64_t number = 0, count = 1;
	uint32_t durability = 0;
	int words = parse_options(argc, argv, specs), rc, i;

	if (words < 0)
		return EXIT_USAGE;
	if (words < 2)
		return usage_error("pub needs a directory and a topic; thmq help pub");
	if (separator && strlen(separator) != 1)
		return usage_error("--key-separator is one character");
	if (partition && !parse_number(partition, UINT32_MAX, &number))
		return usage_error("--partition: %s is no partition", partition);
	if (partitions && !parse_number(partitions, THMQ_PARTITION_COUNT_MAX, &count))
		return usage_error("--partitions: %s is no number of partitions", partitions);
	if (level && !parse_durability(level, &durability))
		return usage_error("--durability is memory, written or durable, not %s", level);
	rc = connect_dir(&p.c, argv[0], create, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	thmq_message_opts_init(&p.message);
	p.message.key = key;
	p.message.key_len = key ? (uint32_t)strlen(key) : 0;
	p.message.tag = tag;
	p.message.partition = (uint32_t)number;
	p.message.flags = partition ? THMQ_MESSAGE_PARTITION : 0;
	p.separator = separator ? (unsigned char)separator[0] : -1;
	p.progress = !quiet && !json && isatty(STDERR_FILENO);
	p.begin_ns = clock_ns();
	rc = create ? thmq_topic_create(p.c.session, argv[1],
					THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
							.partition_count = (uint32_t)count)) :
		      0;
	if (rc == 0)
		rc = thmq_producer_open(p.c.session, argv[1], THMQ_PRODUCER_OPTS(.durability = durability),
					&p.producer);
	if (rc) {
		rc = fail(rc, "%s%s", thmq_errmsg(), rc == -THMQ_ENOTOPIC ? "; --create makes it" : "");
		return disconnect(&p.c, rc);
	}
	for (i = 2; i < words && !rc; i++)
		rc = publish_file(&p, argv[i]);
	if (words == 2)
		rc = publish_file(&p, "-");
	if (rc == 0)
		rc = finish(&p, quiet, json);
	return disconnect(&p.c, rc);
}
