/* SPDX-License-Identifier: Apache-2.0 */
/* thmq.c - the command-line program: which command, help, and what all of them need. */
#include <errno.h>
#include <time.h>

#include "thmq.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *synopsis;
	const char *help;
} commands[] = {
	{"pub", cmd_pub, "thmq pub DIR TOPIC [FILE...]",
	 "Publishes every line of the files (of standard input without any, or for -) as a message.\n"
	 "\n"
	 "  --create             make the directory and the topic if they are absent\n"
	 "  --partitions N       with --create: partitions of the topic (default 1)\n"
	 "  --key KEY            key of every message: the same key goes to the same partition\n"
	 "  --key-separator C    the key is what stands before the first C of a line, and is not part of the message\n"
	 "  --partition N        to this partition\n"
	 "  --tag TAG            tag of every message\n"
	 "  --durability LEVEL   memory, written or durable (default)\n"
	 "  --quiet              no progress, no summary\n"
	 "  --json               the summary as JSON\n"},
	{"sub", cmd_sub, "thmq sub DIR TOPIC",
	 "Prints the messages of a topic, one a line.\n"
	 "\n"
	 "  --group GROUP        as a member of this group: goes on where it stopped, and stores how far it came\n"
	 "  --from WHERE         begin, end, an offset (in every partition that holds it), or a time as\n"
	 "                       2026-01-31T12:00:00Z (default: the group's offset, else begin)\n"
	 "  --count N            at most N messages\n"
	 "  --follow             wait for more at the end, until interrupted\n"
	 "  --json               one JSON object a message: partition, offset, time, key, tag, data\n"},
	{"topic", cmd_topic, "thmq topic create|list|describe|delete DIR [TOPIC]",
	 "Manages topics.\n"
	 "\n"
	 "  --partitions N       create: partitions (default 1)\n"
	 "  --visible-at LEVEL   create: memory, written or durable (default): when consumers see a message\n"
	 "  --if-absent          create: succeed where it exists\n"
	 "  --group GROUP        describe: where this group stands\n"
	 "  --json               list, describe: as JSON\n"},
	{"verify", cmd_verify, "thmq verify DIR",
	 "Checks every stored byte of a closed directory and changes nothing. Exit status 4 if something is damaged.\n"
	 "\n"
	 "  --json               findings and summary as JSON\n"},
	{"dump", cmd_dump, "thmq dump DIR",
	 "Shows what is stored in a closed directory: one line a run.\n"
	 "\n"
	 "  --batches            batch headers too\n"
	 "  --json               one JSON object a line\n"},
	{"bench", cmd_bench, "thmq bench DIR",
	 "Measures durable and memory-acknowledged publishing in DIR (a topic of its own, deleted afterwards).\n"
	 "\n"
	 "  --seconds N          for each figure (default 2)\n"
	 "  --size N             bytes of a message (default 100)\n"
	 "  --json               as JSON\n"},
};

volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static void help(FILE *out, const char *name)
{
	const struct command *c = name ? find_command(name) : NULL;
	size_t i;

	if (c) {
		fprintf(out, "usage: %s\n\n%s", c->synopsis, c->help);
		return;
	}
	fprintf(out, "thmq - durable message queues in a directory\n\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %s\n", commands[i].synopsis);
	fprintf(out, "  thmq help COMMAND\n  thmq --version\n\n"
		     "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 damage, 5 in use by another process.\n");
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};
	const struct command *c;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
		printf("thmq %s\n", thmq_version());
		return 0;
	}
	if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		help(argc < 2 ? stderr : stdout, argc > 2 ? argv[2] : NULL);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	c = find_command(argv[1]);
	if (!c)
		return usage_error("there is no command '%s'; thmq help lists them", argv[1]);
	if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
		help(stdout, c->name);
		return 0;
	}
	return c->run(argc - 2, argv + 2);
}

/* ------------------------------------------------------------------ options */

int parse_options(int argc, char **argv, const struct option_spec *specs)
{
	const struct option_spec *s;
	int words = 0, i;

	for (i = 0; i < argc; i++) {
		const char *equals = strchr(argv[i], '=');
		size_t len = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);

		if (strncmp(argv[i], "--", 2) != 0 || strcmp(argv[i], "--") == 0) {
			argv[words++] = argv[i];
			continue;
		}
		for (s = specs; s->name; s++)
			if (strlen(s->name) == len && strncmp(s->name, argv[i], len) == 0)
				break;
		if (!s->name)
			return usage_error("there is no option %s here", argv[i]), -1;
		if (s->flag) {
			*s->flag = true;
		} else if (equals) {
			*s->value = equals + 1;
		} else if (i + 1 < argc) {
			*s->value = argv[++i];
		} else {
			return usage_error("%s needs a value", argv[i]), -1;
		}
	}
	argv[words] = NULL;
	return words;
}

bool parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
	char *end;

	errno = 0;
	*ret_number = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *ret_number <= max;
}

static int exit_code(int rc)
{
	switch (rc) {
	case -ENOENT:
	case -THMQ_ENOTOPIC:
	case -THMQ_ENOPARTITION:
		return EXIT_NOT_FOUND;
	case -THMQ_ECORRUPT:
	case -THMQ_EVERSION:
		return EXIT_DAMAGE;
	case -EBUSY:
		return EXIT_BUSY;
	default:
		return EXIT_FAILED;
	}
}

int fail(int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("thmq: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return exit_code(rc);
}

int usage_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("thmq: ", stderr);
	vfprintf(stderr, format, args);
	fputs("\n", stderr);
	va_end(args);
	return EXIT_USAGE;
}

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* --------------------------------------------------------------------- JSON */

static bool is_utf8(const unsigned char *s, size_t len)
{
	size_t i = 0, more;

	while (i < len) {
		if (s[i] < 0x80)
			more = 0;
		else if (s[i] >= 0xc2 && s[i] <= 0xdf)
			more = 1;
		else if (s[i] >= 0xe0 && s[i] <= 0xef)
			more = 2;
		else if (s[i] >= 0xf0 && s[i] <= 0xf4)
			more = 3;
		else
			return false;
		for (i++; more; more--, i++)
			if (i >= len || (s[i] & 0xc0) != 0x80)
				return false;
	}
	return true;
}

static void print_base64(FILE *out, const unsigned char *s, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t i;

	for (i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)s[i] << 16 | (i + 1 < len ? (uint32_t)s[i + 1] << 8 : 0) |
			     (i + 2 < len ? s[i + 2] : 0);

		fputc(digits[v >> 18], out);
		fputc(digits[v >> 12 & 63], out);
		fputc(i + 1 < len ? digits[v >> 6 & 63] : '=', out);
		fputc(i + 2 < len ? digits[v & 63] : '=', out);
	}
}

void print_json_string(FILE *out, const void *data, size_t len)
{
	const unsigned char *s = data;
	size_t i;

	if (!is_utf8(s, len)) {
		fputs("{\"base64\":\"", out);
		print_base64(out, s, len);
		fputs("\"}", out);
		return;
	}
	fputc('"', out);
	for (i = 0; i < len; i++) {
		if (s[i] == '"' || s[i] == '\\')
			fprintf(out, "\\%c", s[i]);
		else if (s[i] < 0x20)
			fprintf(out, "\\u%04x", s[i]);
		else
			fputc(s[i], out);
	}
	fputc('"', out);
}

/* --------------------------------------------------------------- connection */

int connect_dir(struct connection *c, const char *dir, bool create, uint32_t policy)
{
	int rc;

	memset(c, 0, sizeof(*c));
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.policy = policy));
	if (rc == 0)
		rc = thmq_broker_open(c->env,
				      THMQ_BROKER_OPTS(.data_dir = dir, .flags = create ? 0 : THMQ_BROKER_NO_CREATE),
				      &c->broker);
	if (rc == 0)
		rc = thmq_connect(c->env, "inproc://", NULL, &c->session);
	if (rc == 0)
		return 0;
	rc = fail(rc, "%s%s", thmq_errmsg(),
		  rc == -ENOENT && !create ? "; thmq topic create, or thmq pub --create, makes it" : "");
	thmq_env_close(c->env, 0);
	return rc;
}

int disconnect(struct connection *c, int code)
{
	int rc = thmq_env_close(c->env, 30 * SECOND);

	if (rc && code == EXIT_OK)
		return fail(rc, "close: %s", thmq_strerror(rc));
	return code;
}
