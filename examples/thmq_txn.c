/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_txn.c - thmq txn: which transactions are not over, and the end of one that holds something up. */
#include <errno.h>
#include <time.h>

#include "thmq.h"

#define TIMEOUT_NS (10 * SECOND)

static const char *state_name(uint32_t state)
{
	static const char *const names[] = {"?", "open", "ending", "prepared", "in doubt"};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

static uint64_t since(uint64_t ns)
{
	struct timespec t;
	uint64_t now;

	timespec_get(&t, TIME_UTC);
	now = (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
	return now > ns ? now - ns : 0;
}

/* ----------------------------------------------------------------------- list */

static void print_json(const struct thmq_txn_info *t)
{
	printf("{\"id\":%llu,\"state\":\"%s\",\"name\":", (unsigned long long)t->id, state_name(t->state));
	print_json_string(stdout, t->name, strlen(t->name));
	fputs(",\"identity\":", stdout);
	print_json_string(stdout, t->identity, strlen(t->identity));
	printf(",\"since_ns\":%llu,\"left_ns\":%llu,\"checks\":%u,\"check_max\":%u}\n", (unsigned long long)t->since_ns,
	       (unsigned long long)t->left_ns, t->checks, t->check_max);
}

/* In whole seconds: what is shorter is not stuck. */
static const char *seconds(uint64_t ns, struct unit_text *text)
{
	if (ns < SECOND)
		return "less than 1s";
	return duration_text(ns / SECOND * SECOND, text);
}

static void print_text(const struct thmq_txn_info *t)
{
	struct unit_text text;

	printf("%llu", (unsigned long long)t->id);
	if (t->name[0])
		printf(" %s", t->name);
	printf(": %s for %s", state_name(t->state), seconds(since(t->since_ns), &text));
	if (t->state == THMQ_TXN_OPEN)
		printf(", aborted in %s", seconds(t->left_ns, &text));
	if (t->state == THMQ_TXN_PREPARED)
		printf(", asked about %u of %u times, again in %s", t->checks, t->check_max, seconds(t->left_ns, &text));
	if (t->identity[0])
		printf(", of %s", t->identity);
	putchar('\n');
}

static int list(struct connection *c, bool json)
{
	struct thmq_txn_info *infos = NULL, *more;
	int room = 0, n = thmq_txn_list(c->session, NULL, 0), i;

	while (n > room) { /* others are begun meanwhile */
		room = n + 16;
		more = realloc(infos, (size_t)room * sizeof(*infos));
		if (!more) {
			free(infos);
			return fail(-ENOMEM, "out of memory");
		}
		infos = more;
		infos[0].size = sizeof(infos[0]);
		n = thmq_txn_list(c->session, infos, (uint32_t)room);
	}
	for (i = 0; i < n && !output_failed(); i++) {
		if (json)
			print_json(&infos[i]);
		else
			print_text(&infos[i]);
	}
	free(infos);
	return n < 0 ? fail(n, "%s", thmq_errmsg()) : EXIT_OK;
}

/* -------------------------------------------------------------------- command */

enum verb { LIST = 1, ABORT, COMMIT };

static enum verb find_verb(const char *name)
{
	static const char *const names[] = {"list", "abort", "commit"};
	uint32_t i;

	for (i = 0; i < 3; i++)
		if (strcmp(name, names[i]) == 0)
			return (enum verb)(LIST + i);
	return 0;
}

int cmd_txn(int argc, char **argv)
{
	bool json = false;
	const struct option_spec specs[] = {{"--json", NULL, &json}, {NULL, NULL, NULL}};
	int words = parse_options(argc, argv, specs), rc;
	struct connection c;
	enum verb verb;
	uint64_t id = 0;

	if (words < 0)
		return EXIT_USAGE;
	verb = find_verb(words > 0 ? argv[0] : "");
	if (!verb)
		return usage_error("txn list, abort or commit%s%s; thmq help txn", words > 0 ? ", not " : "", words > 0 ? argv[0] : "");
	if (json && verb != LIST)
		return usage_error("--json is of use only with txn list");
	if (!count_words(argv, words, verb == LIST ? 2 : 3,
			 verb == LIST ? "txn list needs a directory" : "txn abort and txn commit need a directory and the number of a transaction"))
		return EXIT_USAGE;
	if (verb != LIST && (!parse_number(argv[2], UINT64_MAX, &id) || !id))
		return usage_error("%s is no number of a transaction, as txn list has them", argv[2]);
	rc = connect_dir(&c, argv[1], false, THMQ_POLICY_DEFAULT);
	if (rc)
		return rc;
	if (verb == LIST) {
		rc = list(&c, json);
	} else {
		rc = thmq_txn_force(c.session, id, verb == ABORT ? THMQ_TXN_ABORT : THMQ_TXN_COMMIT, TIMEOUT_NS);
		if (rc)
			rc = fail(rc, "%s", thmq_errmsg());
	}
	return disconnect(&c, rc);
}
