/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules.c - a file of rules: who may do what with which topics, and how much of it. Lines, the first that fits decides; doc/access.md
 * has the form. Constant once it was read. Knows no connection.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guard.h"

#define LINE_BYTES 2048u
#define WORDS_MAX 16u
#define RULES_MAX 65536u

enum rule_kind { RULE_DENY, RULE_ALLOW, RULE_LIMIT };

struct rule {
	enum rule_kind kind;
	uint32_t operations; /* bits of enum thmq_operation */
	char *who, *topics;  /* patterns; of a limit no topics */
	struct thmq_limits limits;
};

struct rules {
	struct thmqi_list link;
	struct rule *list;
	uint32_t count;
};

struct thmqi_list *thmqi_rules_link(struct rules *r)
{
	return &r->link;
}

struct rules *thmqi_rules_of(struct thmqi_list *link)
{
	return thmqi_container(link, struct rules, link);
}

void thmqi_rules_free(struct rules *r)
{
	uint32_t i;

	for (i = 0; r && i < r->count; i++) {
		free(r->list[i].who);
		free(r->list[i].topics);
	}
	if (r)
		free(r->list);
	free(r);
}

/* ------------------------------------------------------------------ patterns */

/* * is any number of characters, ? is one. Goes back to the last * only, so that it takes no more than the product of both lengths. */
static bool fits(const char *pattern, const char *text)
{
	const char *star = NULL, *from = text;

	while (*text) {
		if (*pattern == '*') {
			star = ++pattern;
			from = text;
		} else if (*pattern == '?' || *pattern == *text) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star;
			text = ++from;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

bool thmqi_rules_allow(const struct rules *r, const char *identity, uint32_t operation, const char *topic)
{
	const struct rule *k;
	uint32_t i;

	/* whom no rule lets do anything may come and hear so */
	if (operation == THMQ_OPERATION_CONNECT)
		return true;
	for (i = 0; i < r->count; i++) {
		k = &r->list[i];
		if (k->kind != RULE_LIMIT && (k->operations & 1u << operation) && fits(k->who, identity) &&
		    fits(k->topics, topic ? topic : "")) /* what is about none takes a rule that is about all */
			return k->kind == RULE_ALLOW;
	}
	return false;
}

void thmqi_rules_limits(const struct rules *r, const char *identity, struct thmq_limits *ret)
{
	uint32_t i;

	for (i = 0; i < r->count; i++)
		if (r->list[i].kind == RULE_LIMIT && fits(r->list[i].who, identity)) {
			*ret = r->list[i].limits;
			return;
		}
}

/* --------------------------------------------------------------------- lines */

struct line {
	const char *path;
	uint32_t number;
	char *words[WORDS_MAX];
	uint32_t count;
};

static int wrong(const struct line *l, const char *what, const char *word)
{
	return thmqi_fail(-EINVAL, "%s, line %u: %s%s%.64s", l->path, l->number, what, word ? ": " : "", word ? word : "");
}

/* Words, of which one in quotation marks may have blanks. # ends the line where a word would begin. */
static int cut(struct line *l, char *text)
{
	char end;

	l->count = 0;
	for (;;) {
		text += strspn(text, " \t\r\n");
		if (!*text || *text == '#')
			return 0;
		if (l->count == WORDS_MAX)
			return wrong(l, "too many words", NULL);
		end = *text == '"' ? '"' : ' ';
		text += end == '"';
		l->words[l->count++] = text;
		text += end == '"' ? strcspn(text, "\"") : strcspn(text, " \t\r\n");
		if (end == '"' && !*text)
			return wrong(l, "a quotation mark is missing", NULL);
		if (*text)
			*text++ = 0;
	}
}

static int operations_of(const struct line *l, char *word, uint32_t *ret)
{
	static const char *const names[] = {"create", "delete", "describe", "produce", "consume", "admin", "alter"};
	char *save = NULL, *one;
	uint32_t i;

	*ret = 0;
	for (one = strtok_r(word, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < THMQI_ARRAY_COUNT(names) && strcmp(one, names[i]) != 0; i++)
			;
		if (strcmp(one, "all") == 0)
			*ret |= UINT32_MAX;
		else if (i < THMQI_ARRAY_COUNT(names))
			*ret |= 1u << (THMQ_OPERATION_CREATE + i);
		else
			return wrong(l, "an operation is create, alter, delete, describe, produce, consume, admin or all, not", one);
	}
	return *ret ? 0 : wrong(l, "no operation", NULL);
}

/* "10M": K, M, G are powers of 1000. */
static bool number_of(const char *text, uint64_t *ret)
{
	uint64_t n = 0, unit = 1;
	const char *p;

	for (p = text; *p >= '0' && *p <= '9'; p++) {
		if (n > 1000000000000ull)
			return false;
		n = n * 10 + (uint64_t)(*p - '0');
	}
	if (*p && strchr("KMG", *p)) {
		unit = *p == 'K' ? 1000u : *p == 'M' ? 1000000u : 1000000000u;
		p++;
	}
	*ret = n * unit;
	return p > text && !*p && n && n <= 1000000000000ull / unit;
}

static int limit_of(const struct line *l, char *word, struct thmq_limits *limits)
{
	char *equals = strchr(word, '=');
	uint64_t n;

	if (!equals)
		return wrong(l, "a limit is written name=number, not", word);
	*equals = 0;
	if (!number_of(equals + 1, &n))
		return wrong(l, "not a number from 1 to 1000G", equals + 1);
	if (strcmp(word, "produce-bytes") == 0)
		limits->produce_bytes = n;
	else if (strcmp(word, "produce-messages") == 0)
		limits->produce_messages = n;
	else if (strcmp(word, "consume-bytes") == 0)
		limits->consume_bytes = n;
	else if (strcmp(word, "consume-messages") == 0)
		limits->consume_messages = n;
	else if (strcmp(word, "outstanding") == 0 && n <= UINT32_MAX)
		limits->outstanding = (uint32_t)n;
	else
		return wrong(l, "no limit is called", word);
	return 0;
}

static int limit_rule(const struct line *l, struct rule *rule)
{
	uint32_t i;
	int rc = l->count < 3 ? wrong(l, "write limit WHO NAME=NUMBER …", NULL) : 0;

	rule->kind = RULE_LIMIT;
	rule->limits.size = sizeof(rule->limits);
	for (i = 2; i < l->count && !rc; i++)
		rc = limit_of(l, l->words[i], &rule->limits);
	return rc;
}

static int rule_of(const struct line *l, struct rule *rule)
{
	bool allow = strcmp(l->words[0], "allow") == 0;
	int rc;

	memset(rule, 0, sizeof(*rule));
	if (strcmp(l->words[0], "limit") == 0) {
		rc = limit_rule(l, rule);
	} else if (allow || strcmp(l->words[0], "deny") == 0) {
		rule->kind = allow ? RULE_ALLOW : RULE_DENY;
		rc = l->count != 4 ? wrong(l, "write allow or deny, WHO, OPERATIONS, TOPICS", NULL)
				   : operations_of(l, l->words[2], &rule->operations);
	} else {
		rc = wrong(l, "a line begins with allow, deny or limit, not", l->words[0]);
	}
	if (rc)
		return rc;
	rule->who = strdup(l->words[1]);
	rule->topics = strdup(rule->kind == RULE_LIMIT ? "" : l->words[3]);
	if (rule->who && rule->topics)
		return 0;
	free(rule->who);
	free(rule->topics);
	return thmqi_fail(-ENOMEM, "%s: no memory", l->path);
}

static int add_line(struct rules *r, struct line *l, char *text)
{
	struct rule rule, *grown;
	int rc;

	rc = cut(l, text);
	if (rc || !l->count)
		return rc;
	if (r->count == RULES_MAX)
		return wrong(l, "too many rules", NULL);
	rc = rule_of(l, &rule);
	if (rc)
		return rc;
	grown = thmqi_is_pow2(r->count) || !r->count ? realloc(r->list, THMQI_MAX(2ull * r->count, 1ull) * sizeof(rule))
						     : r->list;
	if (!grown) {
		free(rule.who);
		free(rule.topics);
		return thmqi_fail(-ENOMEM, "%s: no memory", l->path);
	}
	r->list = grown;
	r->list[r->count++] = rule;
	return 0;
}

/* 1; 0 the end. What is no text, such as what a crash left, is refused: read up to its first zero it would say something else. */
static int next_line(FILE *f, struct line *l, char text[LINE_BYTES])
{
	uint32_t n = 0;
	int c = getc(f);

	l->number++;
	for (; c != EOF && c != '\n'; c = getc(f)) {
		if (!c)
			return wrong(l, "there is a zero in it: this is no text", NULL);
		if (n == LINE_BYTES - 1)
			return wrong(l, "the line is too long", NULL);
		text[n++] = (char)c;
	}
	text[n] = 0;
	return n || c != EOF;
}

/* No pipe, that would wait for a writer. */
static FILE *open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	FILE *f = NULL;
	int error;

	if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
		errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	else if (fd >= 0)
		f = fdopen(fd, "r");
	if (!f && fd >= 0) {
		error = errno;
		close(fd);
		errno = error;
	}
	return f;
}

int thmqi_rules_read(const char *path, struct rules **ret_rules)
{
	FILE *f = open_file(path);
	struct rules *r;
	struct line l = {.path = path};
	char text[LINE_BYTES];
	int rc = 0;

	if (!f)
		return thmqi_fail(-errno, "rules %s: %s", path, thmq_strerror(-errno));
	r = calloc(1, sizeof(*r));
	if (!r)
		rc = thmqi_fail(-ENOMEM, "%s: no memory", path);
	while (!rc && (rc = next_line(f, &l, text)) == 1)
		rc = add_line(r, &l, text);
	if (!rc && ferror(f))
		rc = thmqi_fail(-EIO, "rules %s cannot be read", path);
	fclose(f);
	if (rc) {
		thmqi_rules_free(r);
		return rc;
	}
	*ret_rules = r;
	return 0;
}
