/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_pub.c - thmq pub: lines become messages. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "thmq.h"

#define CHUNK 65536u /* bytes of one read */
#define HEADERS_MAX 64u
#define BATCH_BYTES 65536u /* of lines that go together, at most */
#define SEQUENCES 65536u   /* more than can be unsettled */
#define WAIT_MS 200  /* a signal that comes just before the sleep is noticed so late at most */

struct input {
	const char *name;
	int fd;
	bool eof;
	uint64_t line; /* number of the last one, from 1 */
};

union header_value {
	int64_t whole;
	double real;
	char truth;
};

struct pub {
	struct connection c;
	struct thmq_producer *producer;
	struct thmq_message_opts message;
	struct thmq_header headers[HEADERS_MAX];
	union header_value values[HEADERS_MAX]; /* of numbers and truths */
	int separator; /* -1: none */
	bool quiet, json, progress, shown;
	bool atomic;         /* all of it, or nothing */
	const char *prepare; /* likewise, and somebody else says which; NULL: not so */
	struct thmq_txn *txn;
	uint64_t count, bytes, begin_ns, shown_ns; /* what the library took */

	uint32_t batch_max; /* lines that go together; 0: each by itself */
	uint32_t batch_count;
	struct thmq_batch_message *batch; /* those that wait for more */
	char *batch_text;		  /* what they point to, of BATCH_BYTES */
	size_t batch_bytes;
	uint64_t batch_line;  /* of the first */
	bool scattered;	      /* its keys are of several partitions */
	uint16_t *counts;     /* messages of a sequence, by its number modulo SEQUENCES; NULL: 1 */
	uint64_t sequence;    /* the newest */

	struct input *inputs;
	int input_count;
	char *buffer; /* of line_max + CHUNK bytes: begin to end is read and not yet published */
	size_t line_max, begin, end, searched;

	uint64_t failed, unknown; /* of count: refused, and perhaps stored or not */
	uint64_t failed_sequence; /* the first of them, and why */
	int failed_error;
};

/* ----------------------------------------------------------------- progress */

static void show_progress(struct pub *p, bool last)
{
	uint64_t now = clock_ns();

	if (!p->progress || (!last && now - p->shown_ns < SECOND / 5))
		return;
	p->shown_ns = now;
	p->shown = !last;
	fprintf(stderr, "\r%llu messages, %.1f MB, %.0f messages/s ", (unsigned long long)p->count,
		(double)p->bytes / 1e6, (double)p->count * 1e9 / (double)(now - p->begin_ns + 1));
	if (last)
		fputc('\n', stderr);
}

/* A message of its own line, behind the progress. */
static void end_progress(struct pub *p)
{
	if (p->shown)
		fputc('\n', stderr);
	p->shown = false;
}

/* How many messages have this sequence. */
static uint32_t count_of(const struct pub *p, uint64_t sequence)
{
	return p->counts ? p->counts[sequence % SEQUENCES] : 1;
}

/* What became of messages that were taken. Return: whether all are well so far. */
static bool all_well(struct pub *p)
{
	struct thmq_event e;

	while (thmq_events(p->c.session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_FAILED)
			continue;
		if (!p->failed_error) {
			p->failed_sequence = e.sequence;
			p->failed_error = e.error;
		}
		if (e.error == -THMQ_EFAILED)
			p->unknown += count_of(p, e.sequence);
		else
			p->failed += count_of(p, e.sequence);
	}
	return !p->failed_error;
}

/* -------------------------------------------------------------------- input */

/* All of them before anything is published: a name that is wrong then leaves nothing half done. */
static int open_inputs(struct pub *p, int count, char **names)
{
	static char *standard[] = {"-"};
	struct rlimit files;
	struct stat st;
	int i;

	if (!count) {
		names = standard;
		count = 1;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	p->inputs = calloc((size_t)count, sizeof(*p->inputs));
	if (!p->inputs)
		return fail(-ENOMEM, "out of memory");
	for (i = 0; i < count; i++) {
		struct input *in = &p->inputs[i];
		bool is_standard = strcmp(names[i], "-") == 0;

		in->name = is_standard ? "standard input" : names[i];
		in->fd = is_standard ? STDIN_FILENO : open(names[i], O_RDONLY | O_CLOEXEC);
		if (in->fd < 0)
			return fail(-EIO, "%s: %s; nothing was published", in->name,
				    strerror(errno));
		p->input_count = i + 1;
		if (fstat(in->fd, &st) == 0 && S_ISDIR(st.st_mode))
			return fail(-EIO, "%s: %s; nothing was published", in->name,
				    strerror(EISDIR));
	}
	return 0;
}

static void close_inputs(struct pub *p)
{
	int i;

	for (i = 0; i < p->input_count; i++)
		if (p->inputs[i].fd != STDIN_FILENO)
			close(p->inputs[i].fd);
	free(p->inputs);
	free(p->buffer);
	free(p->batch);
	free(p->batch_text);
	free(p->counts);
}

static int send_batch(struct pub *p, const struct input *in);

/*
 * Until there is something to read. Meanwhile the broker goes on, so that what came is durable within moments, however
 * long the rest takes; where more input is there already this is one system call.
 */
static void await_input(struct pub *p, int fd)
{
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
				{.fd = p->c.broker ? thmq_env_fd(p->c.env) : -1, .events = POLLIN}};

	while (poll(fds, 1, p->c.broker ? 0 : WAIT_MS) == 0 && !interrupted) {
		if (thmq_poll(p->c.env, 0) > 0)
			continue;
		if (!all_well(p))
			return;
		show_progress(p, false);
		if (p->c.broker && thmq_env_arm(p->c.env) == 0)
			poll(fds, 2, WAIT_MS);
	}
}

/* More bytes into the buffer, or the end. 0, or an exit code. */
static int read_more(struct pub *p, struct input *in)
{
	struct pollfd fd = {.fd = in->fd, .events = POLLIN};
	ssize_t n;
	int rc;

	/* what came does not wait for what may be long in coming */
	if (p->batch_count && poll(&fd, 1, 0) == 0) {
		rc = send_batch(p, in);
		if (rc)
			return rc;
	}
	if (p->begin) {
		memmove(p->buffer, p->buffer + p->begin, p->end - p->begin);
		p->end -= p->begin;
		p->begin = 0;
	}
	p->searched = p->end;
	await_input(p, in->fd);
	if (interrupted || p->failed_error)
		return 0;
	n = read(in->fd, p->buffer + p->end, CHUNK);
	if (n < 0 && errno != EINTR && errno != EAGAIN) {
		n = -errno;
		end_progress(p);
		return fail(-EIO, "%s: %s", in->name, strerror((int)-n));
	}
	in->eof = n == 0;
	p->end += n > 0 ? (size_t)n : 0;
	return 0;
}

/* The next line of @in, valid until the next call; *@ret_line is NULL at the end. 0, or an exit code. */
static int next_line(struct pub *p, struct input *in, const char **ret_line, size_t *ret_len)
{
	const char *newline;
	int rc;

	*ret_line = NULL;
	for (;;) {
		newline = memchr(p->buffer + p->searched, '\n', p->end - p->searched);
		if (newline || (in->eof && p->end > p->begin))
			break;
		if (p->end - p->begin > p->line_max) {
			end_progress(p);
			return fail(-EMSGSIZE,
				    "%s, line %llu: too long for a message, which has at most %u "
				    "bytes, "
				    "key and tag included",
				    in->name, (unsigned long long)in->line + 1,
				    thmq_producer_len_max(p->producer));
		}
		if (in->eof)
			return 0;
		rc = read_more(p, in);
		if (rc || interrupted || p->failed_error)
			return rc; /* a line that is not whole is none */
	}
	*ret_line = p->buffer + p->begin;
	*ret_len = (newline ? (size_t)(newline - p->buffer) : p->end) - p->begin;
	p->begin += *ret_len + (newline ? 1 : 0);
	p->searched = p->begin;
	in->line++;
	return 0;
}

/* ------------------------------------------------------------------ publish */

static int refuse(struct pub *p, const struct input *in, uint64_t line, int rc, const struct thmq_batch_message *m)
{
	end_progress(p);
	if (rc == -EMSGSIZE)
		return fail(
			rc,
			"%s, line %llu: too long for a message: %zu bytes with its key and tag, at "
			"most %u",
			in->name, (unsigned long long)line,
			(size_t)m->len + m->key_len + (m->tag ? strlen(m->tag) : 0),
			thmq_producer_len_max(p->producer));
	return fail(rc, "%s, line %llu: %s", in->name, (unsigned long long)line,
		    thmq_strerror(rc));
}

/* One call for @count of them. As thmq_send() */
static int64_t try_send(struct pub *p, const struct thmq_batch_message *m, uint32_t count)
{
	struct thmq_message_opts o = p->message;

	if (count == 1) {
		o.key = m->key;
		o.key_len = m->key_len;
		return thmq_send(p->producer, m->data, m->len, &o);
	}
	return thmq_send_batch(p->producer, m, count,
			       THMQ_MESSAGE_OPTS(.flags = o.flags, .partition = o.partition, .priority = o.priority, .txn = o.txn));
}

static void note_sent(struct pub *p, uint64_t sequence, const struct thmq_batch_message *m, uint32_t count)
{
	uint32_t i;

	p->sequence = sequence;
	if (p->counts)
		p->counts[sequence % SEQUENCES] = (uint16_t)count;
	for (i = 0; i < count; i++)
		p->bytes += m[i].len;
	p->count += count;
	if (count == 1 && p->count % 64)
		return;
	thmq_poll(p->c.env, 0);
	all_well(p);
	show_progress(p, false);
}

/* @count messages, of which the first is @line of @in. 0, also where it was interrupted; or an exit code. */
static int send_all(struct pub *p, const struct input *in, uint64_t line, const struct thmq_batch_message *m, uint32_t count)
{
	int64_t sequence;
	int rc;

	/* poll in between, so that what is taken becomes durable while the next lines are read */
	while ((sequence = try_send(p, m, count)) == -EAGAIN && !interrupted && all_well(p))
		wait_a_little(&p->c);
	if (sequence == -EAGAIN)
		return 0;
	if (sequence >= 0) {
		note_sent(p, (uint64_t)sequence, m, count);
		return 0;
	}
	/* too much for one batch of the broker's, or the topic has more partitions than when it began */
	if (count > 1 && (sequence == -EMSGSIZE || sequence == -EINVAL)) {
		rc = send_all(p, in, line, m, count / 2);
		if (rc || interrupted || p->failed_error)
			return rc;
		return send_all(p, in, line + count / 2, m + count / 2, count - count / 2);
	}
	return refuse(p, in, line, (int)sequence, m);
}

/* What was gathered, all of whose lines are of @in, one behind the other. 0, or an exit code. */
static int send_batch(struct pub *p, const struct input *in)
{
	const uint32_t count = p->batch_count;
	const uint64_t first = p->batch_line;

	p->batch_count = 0;
	p->batch_bytes = 0;
	return count ? send_all(p, in, first, p->batch, count) : 0;
}

static bool same_key(const struct thmq_batch_message *a, const struct thmq_batch_message *b)
{
	return a->key_len == b->key_len && (!a->key_len || memcmp(a->key, b->key, a->key_len) == 0);
}

/* @m, whose key and data lie in the @size bytes at @text: with those that are to go together, or by itself. */
static int gather(struct pub *p, const struct input *in, const char *text, size_t size, const struct thmq_batch_message *m)
{
	struct thmq_batch_message *at;
	int rc = 0;

	if (!p->batch_max)
		return send_all(p, in, in->line, m, 1);
	if (p->batch_count == p->batch_max || size > BATCH_BYTES - p->batch_bytes ||
	    (p->batch_count && p->scattered && !same_key(m, &p->batch[p->batch_count - 1])))
		rc = send_batch(p, in);
	if (rc || interrupted || p->failed_error)
		return rc;
	if (size > BATCH_BYTES)
		return send_all(p, in, in->line, m, 1);
	if (!p->batch_count)
		p->batch_line = in->line;
	at = &p->batch[p->batch_count++];
	*at = *m;
	memcpy(p->batch_text + p->batch_bytes, text, size);
	at->data = p->batch_text + p->batch_bytes + ((const char *)m->data - text);
	if (p->separator >= 0 && m->key && m->key == text)
		at->key = p->batch_text + p->batch_bytes;
	p->batch_bytes += size;
	return 0;
}

static int publish(struct pub *p, const struct input *in, const char *line, size_t len)
{
	const struct thmq_message_opts *o = &p->message;
	struct thmq_batch_message m = {.data = line,
				       .len = (uint32_t)len,
				       .key = o->key,
				       .key_len = o->key_len,
				       .tag = o->tag,
				       .headers = o->headers,
				       .header_count = o->header_count,
				       .ttl_ns = o->ttl_ns};
	const char *at = p->separator >= 0 ? memchr(line, p->separator, len) : NULL;

	if (at) {
		size_t key_len = (size_t)(at - line);

		if (!key_len || key_len > THMQ_KEY_MAX) {
			end_progress(p);
			return fail(-EINVAL, "%s, line %llu: a key of %zu bytes; it has 1 to %u",
				    in->name, (unsigned long long)in->line, key_len, THMQ_KEY_MAX);
		}
		m.key = line;
		m.key_len = (uint32_t)key_len;
		m.len -= (uint32_t)key_len + 1;
		m.data = at + 1;
	}
	return gather(p, in, line, len, &m);
}

static int publish_input(struct pub *p, struct input *in)
{
	const char *line;
	size_t len;
	int rc = 0, last;

	p->begin = p->end = p->searched = 0;
	while (!rc && !interrupted && !p->failed_error) {
		rc = next_line(p, in, &line, &len);
		if (rc || !line)
			break;
		rc = publish(p, in, line, len);
	}
	/* what stands before a line that is wrong is published */
	last = interrupted || p->failed_error ? 0 : send_batch(p, in);
	return rc ? rc : last;
}

/* Of a transaction: what became of it, which is what became of all. @rc: so far; so it is aborted, unless that is 0. Return: an exit code. */
static int end_txn(struct pub *p, int rc, uint64_t *stored)
{
	p->failed = rc ? p->count : 0;
	p->unknown = 0;
	if (rc) {
		*stored = 0;
		thmq_txn_abort(p->txn, 10 * SECOND);
		return rc;
	}
	rc = p->prepare ? thmq_txn_prepare(p->txn, 60 * SECOND) : thmq_txn_commit(p->txn, 60 * SECOND);
	if (!rc)
		return 0;
	*stored = 0;
	if (thmq_txn_id(p->txn)) /* nobody knows */
		p->unknown = p->count;
	else
		p->failed = p->count;
	return fail(rc, "%s", thmq_errmsg());
}

/* Waits until what was taken is settled, and says what is stored, whatever happened before. @code: so far. */
static int finish(struct pub *p, int code)
{
	int rc = thmq_flush(p->producer, 60 * SECOND);
	double seconds = (double)(clock_ns() - p->begin_ns) / 1e9;
	uint64_t stored;
	bool sure;

	all_well(p);
	if (rc && rc != -EIO) { /* the rest may still come to be stored */
		int64_t settled = thmq_watermark(p->producer);
		uint64_t i;

		p->unknown = 0;
		for (i = settled > 0 ? (uint64_t)settled : 0; i < p->sequence; i++)
			p->unknown += count_of(p, i + 1);
	}
	stored = p->count > p->failed + p->unknown ? p->count - p->failed - p->unknown : 0;
	if (rc || code || interrupted)
		end_progress(p);
	else
		show_progress(p, true);
	if (p->failed_error)
		rc = fail(p->failed_error, "%s %llu was not stored: %s", p->batch_max ? "batch" : "message",
			  (unsigned long long)p->failed_sequence, thmq_strerror(p->failed_error));
	else if (rc)
		rc = fail(rc, "flush: %s", thmq_strerror(rc));
	else if (!code && interrupted)
		rc = fail(-EINTR, "interrupted");
	rc = code ? code : rc;
	if (p->txn)
		rc = end_txn(p, rc, &stored);
	sure = !p->unknown;
	if (p->json)
		printf("{\"messages\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"complete\":%s,\"not_"
		       "stored\":%llu,"
		       "\"unknown\":%llu,\"transaction\":%llu}\n",
		       (unsigned long long)stored, (unsigned long long)p->bytes, seconds,
		       rc ? "false" : "true", (unsigned long long)p->failed,
		       (unsigned long long)p->unknown, (unsigned long long)(p->prepare && !rc ? thmq_txn_id(p->txn) : 0));
	else if (p->prepare && !rc)
		printf("%llu\n", (unsigned long long)thmq_txn_id(p->txn));
	if (rc)
		fprintf(stderr, "thmq: %s%llu message%s %s stored\n", sure ? "" : "at least ",
			(unsigned long long)stored, plural(stored), stored == 1 ? "was" : "were");
	else if (!p->json && !p->quiet && !p->progress)
		fprintf(stderr, "%llu message%s in %.3f s\n", (unsigned long long)stored, plural(stored), seconds);
	return rc;
}

/* Which the sending itself would only call wrong. */
static int check_priority(const struct pub *p, const char *topic)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	int rc = p->message.priority ? thmq_topic_describe(p->c.session, topic, &info) : 0;

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	if (p->message.priority && p->message.priority >= info.priorities)
		return info.priorities ? fail(-EINVAL, "topic %s has priorities from 0 to %u", topic, info.priorities - 1)
				       : fail(-EINVAL, "topic %s has no priorities", topic);
	return 0;
}

/* What --batch needs. 0, or an exit code. */
static int prepare_batch(struct pub *p, const char *topic)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	int rc = thmq_topic_describe(p->c.session, topic, &info);

	if (rc)
		return fail(rc, "%s", thmq_errmsg());
	p->scattered = p->separator >= 0 && !(p->message.flags & THMQ_MESSAGE_PARTITION) &&
		       info.partition_count > (info.priorities ? info.priorities : 1);
	p->batch = calloc(p->batch_max, sizeof(*p->batch));
	p->batch_text = malloc(BATCH_BYTES);
	p->counts = calloc(SEQUENCES, sizeof(*p->counts));
	return p->batch && p->batch_text && p->counts ? 0 : fail(-ENOMEM, "out of memory");
}

/* With the connection made: the topic, a producer, and every line. */
static int publish_all(struct pub *p, const char *topic, bool create, uint32_t partition_count,
		       uint32_t durability, uint32_t compression)
{
	int rc = 0, i;

	if (create)
		rc = make_topic(&p->c, topic, THMQ_TOPIC_OPTS(.partition_count = partition_count), true);
	if (rc)
		return rc;
	rc = thmq_producer_open(p->c.session, topic,
				THMQ_PRODUCER_OPTS(.durability = durability, .compression = compression), &p->producer);
	if (rc)
		return fail(rc, "%s%s", thmq_errmsg(),
			    rc == -THMQ_ENOTOPIC ? "; --create makes it" : "");
	rc = check_priority(p, topic);
	if (!rc && p->batch_max)
		rc = prepare_batch(p, topic);
	if (rc)
		return rc;
	if (p->atomic || p->prepare) {
		rc = thmq_txn_begin(p->c.session, THMQ_TXN_OPTS(.name = p->prepare, .timeout_ns = 3600 * SECOND), &p->txn);
		if (rc)
			return fail(rc, "%s", thmq_errmsg());
		p->message.txn = p->txn;
	}
	p->line_max = (size_t)thmq_producer_len_max(p->producer) + THMQ_KEY_MAX + 2;
	p->buffer = malloc(p->line_max + CHUNK);
	if (!p->buffer)
		return fail(-ENOMEM, "out of memory");
	p->begin_ns = clock_ns();
	for (i = 0; i < p->input_count && !rc; i++)
		rc = publish_input(p, &p->inputs[i]);
	return finish(p, rc);
}

/* ------------------------------------------------------------------ headers */

/* "NAME=VALUE", or "NAME:int=VALUE" and the like; @text is cut into pieces. 0, or an exit code. */
static int parse_header(char *text, struct thmq_header *ret, union header_value *value)
{
	char *equals = strchr(text, '='), *colon, *end = NULL;

	if (!equals || equals == text)
		return usage_error("--header is NAME=VALUE or NAME:TYPE=VALUE, not %s", text);
	*equals = 0;
	colon = strrchr(text, ':');
	*ret = (struct thmq_header){.name = text, .value = equals + 1, .value_len = (uint32_t)strlen(equals + 1), .type = THMQ_HEADER_TEXT};
	if (!colon || strcmp(colon, ":text") == 0) {
		/* as it is */
	} else if (strcmp(colon, ":int") == 0) {
		errno = 0;
		value->whole = strtoll(equals + 1, &end, 10);
		*ret = (struct thmq_header){.name = text, .value = value, .value_len = 8, .type = THMQ_HEADER_INT};
	} else if (strcmp(colon, ":real") == 0) {
		errno = 0;
		value->real = strtod(equals + 1, &end);
		*ret = (struct thmq_header){.name = text, .value = value, .value_len = 8, .type = THMQ_HEADER_REAL};
	} else if (strcmp(colon, ":bool") == 0 && (strcmp(equals + 1, "true") == 0 || strcmp(equals + 1, "false") == 0)) {
		value->truth = equals[1] == 't';
		*ret = (struct thmq_header){.name = text, .value = value, .value_len = 1, .type = THMQ_HEADER_BOOL};
	} else {
		return usage_error("--header %s: the type is text, int, real or bool (true or false)", text);
	}
	if (end && (end == equals + 1 || *end || errno))
		return usage_error("--header %s: %s is no such number", text, equals + 1);
	if (colon)
		*colon = 0;
	if (!*text || strlen(text) > THMQ_HEADER_NAME_MAX)
		return usage_error("--header: a name has 1 to %u bytes", THMQ_HEADER_NAME_MAX);
	return 0;
}

/* Takes --header out of argv: it may be there several times. 0, or an exit code. */
static int take_headers(struct pub *p, int *argc, char **argv)
{
	int i, kept = 0, rc = 0;
	char *text;

	for (i = 0; i < *argc && strcmp(argv[i], "--") != 0 && !rc; i++) {
		if (strncmp(argv[i], "--header=", 9) == 0)
			text = argv[i] + 9;
		else if (strcmp(argv[i], "--header") == 0 && i + 1 < *argc)
			text = argv[++i];
		else {
			argv[kept++] = argv[i];
			continue;
		}
		if (p->message.header_count == HEADERS_MAX)
			return usage_error("--header: at most %u of them", HEADERS_MAX);
		rc = parse_header(text, &p->headers[p->message.header_count], &p->values[p->message.header_count]);
		p->message.header_count++;
	}
	while (i < *argc)
		argv[kept++] = argv[i++];
	*argc = kept;
	p->message.headers = p->headers;
	return rc;
}

/* ------------------------------------------------------------------ command */

static bool parse_durability(const char *text, uint32_t *ret_level)
{
	static const char *const names[] = {"", "memory", "written", "durable", "quorum", "all"};
	uint32_t i;

	for (i = THMQ_DURABILITY_MEMORY; i <= THMQ_DURABILITY_ALL; i++)
		if (strcmp(text, names[i]) == 0) {
			*ret_level = i;
			return true;
		}
	return false;
}

static bool parse_compression(const char *text, uint32_t *ret_codec)
{
	static const char *const names[] = {"none", "lz4", "zstd"};
	uint32_t i;

	for (i = THMQ_COMPRESSION_NONE; i <= THMQ_COMPRESSION_ZSTD; i++)
		if (strcmp(text, names[i]) == 0) {
			*ret_codec = i;
			return true;
		}
	return false;
}

int cmd_pub(int argc, char **argv)
{
	const char *key = NULL, *separator = NULL, *partition = NULL, *partitions = NULL,
		   *tag = NULL, *level = NULL, *ttl = NULL, *delay = NULL, *when = NULL, *compress = NULL, *priority = NULL, *batch = NULL;
	struct pub p = {.separator = -1};
	bool create = false;
	const struct option_spec specs[] = {{"--create", NULL, &create},
					    {"--partitions", &partitions, NULL},
					    {"--key", &key, NULL},
					    {"--key-separator", &separator, NULL},
					    {"--partition", &partition, NULL},
					    {"--priority", &priority, NULL},
					    {"--tag", &tag, NULL},
					    {"--ttl", &ttl, NULL},
					    {"--delay", &delay, NULL},
					    {"--at", &when, NULL},
					    {"--compress", &compress, NULL},
					    {"--batch", &batch, NULL},
					    {"--durability", &level, NULL},
					    {"--atomic", NULL, &p.atomic},
					    {"--prepare", &p.prepare, NULL},
					    {"--quiet", NULL, &p.quiet},
					    {"--json", NULL, &p.json},
					    {NULL, NULL, NULL}};
	uint64_t number = 0, count = 0, at_ns = 0, rank = 0, together = 0;
	uint32_t durability = 0, compression = THMQ_COMPRESSION_NONE;
	int words, rc;

	thmq_message_opts_init(&p.message);
	rc = take_headers(&p, &argc, argv);
	words = rc ? -1 : parse_options(argc, argv, specs);
	if (words < 0)
		return rc ? rc : EXIT_USAGE;
	rc = ttl ? parse_duration("--ttl", ttl, &p.message.ttl_ns) : 0;
	if (!rc && delay)
		rc = parse_duration("--delay", delay, &p.message.delay_ns);
	if (rc)
		return rc;
	if (when && (!parse_time(when, &at_ns) || !at_ns || at_ns > INT64_MAX))
		return usage_error("--at is a date as 2026-01-31 or a time as 2026-01-31T12:00:00Z, not \"%s\"", when);
	p.message.deliver_at_ns = (int64_t)at_ns;
	if (delay && when)
		return usage_error("--delay or --at, not both");
	if (separator && strlen(separator) != 1)
		return usage_error("--key-separator is one character of one byte, not \"%s\"", separator);
	if (key && (!*key || strlen(key) > THMQ_KEY_MAX))
		return usage_error("--key has 1 to %u bytes, not %zu", THMQ_KEY_MAX, strlen(key));
	if (tag && strlen(tag) > THMQ_TAG_MAX)
		return usage_error("--tag has at most %u bytes, not %zu", THMQ_TAG_MAX,
				   strlen(tag));
	if (partition && !parse_number(partition, UINT32_MAX, &number))
		return usage_error("--partition: %s is no partition", partition);
	if (priority && !parse_number(priority, THMQ_PRIORITIES_MAX - 1, &rank))
		return usage_error("--priority: a number from 0 to %u, not %s", THMQ_PRIORITIES_MAX - 1, priority);
	if (partitions && (!parse_number(partitions, THMQ_PARTITION_COUNT_MAX, &count) || !count))
		return usage_error("--partitions: a number from 1 to %u, not %s", THMQ_PARTITION_COUNT_MAX, partitions);
	if (partitions && !create)
		return usage_error("--partitions is of use only with --create");
	if (level && !parse_durability(level, &durability))
		return usage_error("--durability is memory, written, durable, quorum or all, not %s", level);
	if (compress && !parse_compression(compress, &compression))
		return usage_error("--compress is none, lz4 or zstd, not %s", compress);
	if (batch && (!parse_number(batch, THMQ_BATCH_MAX, &together) || !together))
		return usage_error("--batch: a number from 1 to %u, not %s", THMQ_BATCH_MAX, batch);
	if (batch && (delay || when))
		return usage_error("--delay and --at are of no use with --batch");
	if ((p.atomic || p.prepare) && (delay || when))
		return usage_error("--delay and --at are of no use with --atomic and --prepare");
	if (words < 2)
		return usage_error("pub needs a directory and a topic; thmq help pub");
	rc = open_inputs(&p, words - 2, argv + 2);
	if (!rc)
		rc = connect_dir(&p.c, argv[0], create, THMQ_POLICY_DEFAULT);
	if (!rc) {
		p.message.key = key;
		p.message.key_len = key ? (uint32_t)strlen(key) : 0;
		p.message.tag = tag;
		p.message.partition = (uint32_t)number;
		p.message.priority = (uint32_t)rank;
		p.message.flags = partition ? THMQ_MESSAGE_PARTITION : 0;
		p.batch_max = (uint32_t)together;
		p.separator = separator ? (unsigned char)separator[0] : -1;
		p.progress = !p.quiet && !p.json && isatty(STDERR_FILENO);
		rc = disconnect(&p.c,
				publish_all(&p, argv[1], create, (uint32_t)count, durability, compression));
	}
	close_inputs(&p);
	return rc;
}
