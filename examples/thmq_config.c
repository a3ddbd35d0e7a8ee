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

static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = 0;
	return text + strspn(text, " \t");
}

/* One line as a word. NULL: it says nothing, or *ret_rc what is wrong. */
static char *word_of(char *line, const char *path, unsigned number, char **ret_dir, int *ret_rc)
{
	char *name = trim(line), *equals = strchr(name, '='), *value, *word;

	if (!*name || *name == '#')
		return NULL;
	if (!equals || equals == name) {
		*ret_rc = usage_error("%s, line %u: write name = value", path, number);
		return NULL;
	}
	*equals = 0;
	value = trim(equals + 1);
	name = trim(name);
	if (strcmp(name, "dir") == 0) {
		*ret_dir = strdup(value);
		return NULL;
	}
	if (strcmp(value, "no") == 0)
		return NULL;
	word = malloc(strlen(name) + strlen(value) + 4);
	if (word && strcmp(value, "yes") == 0)
		sprintf(word, "--%s", name);
	else if (word)
		sprintf(word, "--%s=%s", name, value);
	return word;
}

static int read_config(const char *path, char **words, int *count)
{
	FILE *f = fopen(path, "re");
	char line[LINE_MAX_BYTES], *word, *dir = NULL;
	unsigned number = 0;
	int rc = EXIT_OK;

	if (!f)
		return fail(-errno, "%s: %s", path, strerror(errno));
	while (rc == EXIT_OK && fgets(line, sizeof(line), f)) {
		number++;
		if (!strchr(line, '\n') && !feof(f)) {
			rc = usage_error("%s, line %u: a line has up to %d bytes", path, number,
					 LINE_MAX_BYTES - 2);
			break;
		}
		word = word_of(line, path, number, &dir, &rc);
		if (word && *count == WORDS_MAX)
			rc = usage_error("%s, line %u: there are more than %d options", path,
					 number, WORDS_MAX);
		else if (word)
			words[(*count)++] = word;
	}
	if (rc == EXIT_OK && ferror(f))
		rc = fail(-errno, "%s: %s", path, strerror(errno));
	fclose(f);
	if (rc == EXIT_OK && dir)
		words[(*count)++] = dir;
	return rc;
}

/* Its words live as long as the process. */
int config_words(int argc, char **argv, int *ret_argc, char ***ret_argv)
{
	char **words = calloc(WORDS_MAX + (size_t)argc + 2, sizeof(*words));
	int count = 0, rc = EXIT_OK, i;

	if (!words)
		return fail(-ENOMEM, "no memory");
	for (i = 0; i < argc && rc == EXIT_OK; i++) {
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			rc = read_config(argv[++i], words, &count);
		else if (strncmp(argv[i], "--config=", 9) == 0)
			rc = read_config(argv[i] + 9, words, &count);
		else
			continue;
	}
	for (i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			i++;
		else if (strncmp(argv[i], "--config=", 9) != 0)
			words[count++] = argv[i];
	}
	*ret_argc = count;
	*ret_argv = words;
	return rc;
}
