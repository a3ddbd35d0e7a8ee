/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thmq_config.c - thmq serve --config FILE: lines "name = value", each an option of serve without its dashes, "dir" being the directory; a flag is "name = yes". # begins
 * a comment line. They become words of the command line, in front of those that were written there, which count.
 */
#define _DEFAULT_SOURCE
#include <ctype.h>
#include <errno.h>

#include "thmq.h"

#define WORDS_MAX 128
#define LINE_MAX_BYTES 4096

/* Where each option that counts was written, for what is found wrong with its value later. */
static struct place {
	const char *name; /* with its dashes; NULL: the command line says otherwise */
	const char *path;
	unsigned number;
} places[WORDS_MAX];
static int place_count;

static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = 0;
	return text + strspn(text, " \t");
}

/* Where we are in a file, and which names it has had: a second one would take the first one's place without a word. */
struct config {
	const char *path;
	const struct option_spec *specs;
	unsigned number; /* of the line */
	char *dir;
	const char *seen[WORDS_MAX];
	int seen_count;
};

static int wrong(const struct config *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int wrong(const struct config *c, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return usage_error("%s, line %u: %s", c->path, c->number, text);
}

/* What other kinds of files allow, and would be part of the value here: a directory of that name, for one. */
static int check_value(const struct config *c, const char *name, const char *value)
{
	size_t len = strlen(value);

	if (!len)
		return wrong(c, "%.64s has no value", name);
	if (len > 1 && (*value == '"' || *value == '\'') && value[len - 1] == *value)
		return wrong(c, "%.64s: a value stands without quotes", name);
	if (strstr(value, " #") || strstr(value, "\t#"))
		return wrong(c, "%.64s: a comment has a line of its own", name);
	return EXIT_OK;
}

static int check_once(struct config *c, const char *name)
{
	int i;

	for (i = 0; i < c->seen_count; i++)
		if (strcmp(c->seen[i], name) == 0)
			return wrong(c, "%s stands there twice", name);
	if (c->seen_count == WORDS_MAX)
		return wrong(c, "there are more than %d options", WORDS_MAX);
	c->seen[c->seen_count++] = name;
	return EXIT_OK;
}

/* "--name=value", or "--name" of a flag that is set. */
static int option_word(struct config *c, const char *name, const char *value, char **ret_word)
{
	const char *like;
	const struct option_spec *s = option_named(c->specs, name, &like);
	int rc;

	if (!s && like)
		return wrong(c, "there is no option %.64s; is it %s?", name, like);
	if (!s)
		return wrong(c, "there is no option %.64s; thmq help serve lists them", name);
	if (s->flag && strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return wrong(c, "%s is yes or no, not %.64s", name, value);
	rc = check_once(c, s->name + 2);
	if (rc || (s->flag && *value == 'n'))
		return rc;
	if (place_count < WORDS_MAX)
		places[place_count++] = (struct place){s->name, c->path, c->number};
	*ret_word = malloc(strlen(s->name) + strlen(value) + 2);
	if (!*ret_word)
		return fail(-ENOMEM, "no memory");
	if (s->flag)
		strcpy(*ret_word, s->name);
	else
		sprintf(*ret_word, "%s=%s", s->name, value);
	return EXIT_OK;
}

/* One line as a word, or NULL, where it says nothing more. */
static int take_line(struct config *c, char *line, char **ret_word)
{
	char *name = trim(line), *equals = strchr(name, '='), *value;
	int rc;

	*ret_word = NULL;
	if (!*name || *name == '#')
		return EXIT_OK;
	if (!equals || equals == name)
		return wrong(c, "write name = value");
	*equals = 0;
	value = trim(equals + 1);
	name = trim(name);
	rc = check_value(c, name, value);
	if (rc)
		return rc;
	if (strcmp(name, "dir") != 0)
		return option_word(c, name, value, ret_word);
	rc = check_once(c, "dir");
	if (rc)
		return rc;
	c->dir = strdup(value);
	return c->dir ? EXIT_OK : fail(-ENOMEM, "no memory");
}

static int read_config(const char *path, const struct option_spec *specs, char **words, int *count, char **ret_dir)
{
	struct config c = {.path = path, .specs = specs};
	char line[LINE_MAX_BYTES], *word;
	FILE *f = fopen(path, "re");
	int rc = EXIT_OK;

	if (!f)
		return fail(-errno, "%s: %s", path, strerror(errno));
	while (rc == EXIT_OK && fgets(line, sizeof(line), f)) {
		c.number++;
		if (!strchr(line, '\n') && !feof(f)) {
			rc = wrong(&c, "a line has up to %d bytes", LINE_MAX_BYTES - 2);
			break;
		}
		rc = take_line(&c, line, &word);
		if (word && *count == WORDS_MAX)
			rc = wrong(&c, "there are more than %d options", WORDS_MAX);
		else if (word)
			words[(*count)++] = word;
	}
	if (rc == EXIT_OK && ferror(f))
		rc = fail(-errno, "%s: %s", path, strerror(errno));
	fclose(f);
	if (rc == EXIT_OK && c.dir)
		*ret_dir = c.dir;
	return rc;
}

/* "--NAME" or "--NAME=VALUE" of the command line comes later, and counts. */
static void overrides(const char *word)
{
	int i;

	for (i = 0; i < place_count; i++)
		if (places[i].name && strncmp(word, places[i].name, strlen(places[i].name)) == 0 && strchr("=", word[strlen(places[i].name)]))
			places[i].name = NULL;
}

/* For a text that begins with an option. */
void print_config_place(FILE *to, const char *text)
{
	size_t len = strcspn(text, ":= ");
	int i;

	for (i = place_count; i-- > 0;)
		if (places[i].name && strlen(places[i].name) == len && strncmp(text, places[i].name, len) == 0) {
			fprintf(to, "%s, line %u: ", places[i].path, places[i].number);
			return;
		}
}

/* Its words live as long as the process. */
int config_words(int argc, char **argv, const struct option_spec *specs, int *ret_argc, char ***ret_argv, char **ret_dir)
{
	char **words = calloc(WORDS_MAX + (size_t)argc + 2, sizeof(*words));
	int count = 0, rc = EXIT_OK, i;

	*ret_dir = NULL;
	if (!words)
		return fail(-ENOMEM, "no memory");
	for (i = 0; i < argc && rc == EXIT_OK; i++) {
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			rc = read_config(argv[++i], specs, words, &count, ret_dir);
		else if (strncmp(argv[i], "--config=", 9) == 0)
			rc = read_config(argv[i] + 9, specs, words, &count, ret_dir);
		else if (strcmp(argv[i], "--config") == 0)
			rc = usage_error("--config needs a value: a file");
		else
			continue;
	}
	for (i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			i++;
		else if (strncmp(argv[i], "--config=", 9) != 0) {
			overrides(argv[i]);
			words[count++] = argv[i];
		}
	}
	*ret_argc = count;
	*ret_argv = words;
	return rc;
}
