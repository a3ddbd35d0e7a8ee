/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_serve.c - thmq serve: a broker for other processes, until it is interrupted. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <sys/stat.h>
#include <time.h>

#include "thmq.h"

#define LISTEN "tcp://127.0.0.1:7471"
#define URL_BYTES 128u

#define LOOK_SECONDS 5 /* at the files of TLS: has one changed? */

/* The newest change of any of them. */
static time_t changed(const struct thmq_tls_opts *tls)
{
	const char *files[] = {tls->ca_file, tls->cert_file, tls->key_file, tls->crl_file,
			       tls->psk_file};
	time_t newest = 0;
	struct stat st;
	size_t i;

	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (files[i] && stat(files[i], &st) == 0 && st.st_mtime > newest)
			newest = st.st_mtime;
	return newest;
}

/* A file that changed within the second of the last look is read once too often, never too seldom. */
static void renew(struct thmq_broker *broker, const struct thmq_tls_opts *tls, time_t *seen)
{
	time_t now = changed(tls), clock = time(NULL);

	if (now < *seen)
		return;
	*seen = clock;
	if (thmq_broker_tls_renew(broker, tls) != 0)
		fail(-EINVAL, "%s; what there was stays", thmq_errmsg());
}

static int serve(struct thmq_broker *broker, const char *dir, const struct thmq_tls_opts *tls)
{
	struct timespec nap = {.tv_nsec = 100000000};
	time_t seen = time(NULL), looked = seen;
	char url[URL_BYTES];
	uint32_t i;

	for (i = 0; thmq_broker_listen_url(broker, i, url, sizeof(url)) > 0; i++)
		printf("%s at %s\n", dir, url);
	fflush(stdout); /* whoever waits for it to be ready reads this */
	while (!interrupted) {
		nanosleep(&nap, NULL);
		if (!tls || time(NULL) - looked < LOOK_SECONDS)
			continue;
		looked = time(NULL);
		renew(broker, tls, &seen);
	}
	return EXIT_OK;
}

int cmd_serve(int argc, char **argv)
{
	const char *listen = LISTEN, *cores_text = NULL;
	struct option_spec specs[] = {
		{"--listen", &listen, NULL}, {"--cores", &cores_text, NULL}, {NULL, NULL, NULL}};
	struct connection c = {0};
	const struct thmq_tls_opts *tls;
	uint64_t cores = 1;
	int rc, words = parse_options(argc, argv, specs);

	if (words < 0)
		return EXIT_USAGE;
	if (cores_text && (!parse_number(cores_text, THMQ_CORE_COUNT_MAX, &cores) || !cores))
		return usage_error("--cores: a number from 1 to %u, not %s", THMQ_CORE_COUNT_MAX,
				   cores_text);
	if (!count_words(argv, words, 1, "serve needs a directory"))
		return EXIT_USAGE;
	if (is_url(argv[0]))
		return usage_error(
			"serve needs a directory; a URL to listen at stands behind --listen");
	rc = tls_given(true, &tls);
	if (rc)
		return rc;
	rc = thmq_env_open(&c.env, THMQ_ENV_OPTS(.core_count = (uint32_t)cores));
	if (rc == 0)
		rc = thmq_broker_open(
			c.env, THMQ_BROKER_OPTS(.data_dir = argv[0], .listen = listen, .tls = tls),
			&c.broker);
	if (rc) {
		rc = fail(rc, "%s", thmq_errmsg());
		thmq_env_close(c.env, 0);
		return rc;
	}
	return disconnect(&c, serve(c.broker, argv[0], tls));
}
