/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_serve.c - thmq serve: a broker for other processes, until it is interrupted; thmq top: the same, and what it does. */
#define _DEFAULT_SOURCE
#include <time.h>

#include "thmq.h"

#define LISTEN "tcp://127.0.0.1:7471"
#define URL_BYTES 128u
#define TITLE_BYTES 2048u

/* One line for each URL; what does not fit is left out. */
static void where(struct thmq_broker *broker, const char *dir, char *ret_text)
{
	char url[URL_BYTES];
	size_t at = 0;
	uint32_t i;

	ret_text[0] = 0;
	for (i = 0; thmq_broker_listen_url(broker, i, url, sizeof(url)) > 0 && at < TITLE_BYTES;
	     i++)
		at += (size_t)snprintf(ret_text + at, TITLE_BYTES - at, "%s at %s\n", dir, url);
}

static int serve(const char *title)
{
	struct timespec nap = {.tv_nsec = 100000000};

	fputs(title, stdout);
	fflush(stdout); /* whoever waits for it to be ready reads this */
	while (!interrupted)
		nanosleep(&nap, NULL);
	return EXIT_OK;
}

static int run(int argc, char **argv, bool tops)
{
	const char *listen = LISTEN, *cores_text = NULL, *policy_text = NULL, *cap_text = NULL;
	bool once = false, json = false;
	const struct option_spec specs[] = {
		{"--listen", &listen, NULL},
		{"--cores", &cores_text, NULL},
		{"--policy", &policy_text, NULL},
		{"--cpu-cap", &cap_text, NULL},
		{tops ? "--once" : NULL, NULL, &once}, /* serve's end here */
		{"--json", NULL, &json},
		{NULL, NULL, NULL}};
	struct connection c = {0};
	char title[TITLE_BYTES];
	uint64_t cores = 1, cap = 0;
	uint32_t policy = THMQ_POLICY_DEFAULT;
	int rc, words = parse_options(argc, argv, specs);

	if (words < 0)
		return EXIT_USAGE;
	if (cores_text && (!parse_number(cores_text, THMQ_CORE_COUNT_MAX, &cores) || !cores))
		return usage_error("--cores: a number from 1 to %u, not %s", THMQ_CORE_COUNT_MAX,
				   cores_text);
	if (cap_text && (!parse_number(cap_text, 100, &cap) || !cap))
		return usage_error("--cpu-cap is a number from 1 to 100, of percent, not %s",
				   cap_text);
	if (policy_text && parse_policy(policy_text, &policy) != EXIT_OK)
		return EXIT_USAGE;
	if (!count_words(argv, words, 1,
			 tops ? "top needs a directory" : "serve needs a directory"))
		return EXIT_USAGE;
	if (is_url(argv[0]))
		return usage_error(
			"%s needs a directory; a URL to listen at stands behind --listen",
			tops ? "top" : "serve");
	rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.core_count = (uint32_t)cores, .policy = policy,
						 .cpu_cap_percent = (uint32_t)cap));
	if (rc == 0)
		rc = thmq_broker_open(
			c.env, THMQ_BROKER_OPTS(.data_dir = argv[0], .listen = listen), &c.broker);
	if (rc) {
		rc = fail(rc, "%s", thmq_errmsg());
		thmq_env_close(c.env, 0);
		return rc;
	}
	where(c.broker, argv[0], title);
	return disconnect(&c, tops ? top(c.env, title, once, json) : serve(title));
}

int cmd_serve(int argc, char **argv)
{
	return run(argc, argv, false);
}

int cmd_top(int argc, char **argv)
{
	return run(argc, argv, true);
}
