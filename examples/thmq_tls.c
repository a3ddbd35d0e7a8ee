/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_tls.c - the options by which pub, sub, topic and serve speak TLS: certificates or a file of pre-shared keys. */
#define _DEFAULT_SOURCE
#include <errno.h>

#include "thmq.h"

static struct thmq_tls_opts opts;
static const char *psk_file;
static bool any_client, any_name;

static const struct option_spec specs[] = {{"--tls-ca", &opts.ca_file, NULL},
					   {"--tls-cert", &opts.cert_file, NULL},
					   {"--tls-key", &opts.key_file, NULL},
					   {"--tls-crl", &opts.crl_file, NULL},
					   {"--tls-name", &opts.peer_name, NULL},
					   {"--tls-psk", &psk_file, NULL},
					   {"--tls-any-name", NULL, &any_name},
					   {"--tls-any-client", NULL, &any_client},
					   {NULL, NULL, NULL}};

const struct option_spec *tls_specs(void)
{
	return specs;
}

/* A session has one key: the first of the file. It is not taken from the command line, which everybody can see. */
static int read_psk(void)
{
	static char line[1024];
	FILE *f = fopen(psk_file, "re");
	char *colon = NULL;

	if (!f)
		return fail(-errno, "%s: %s", psk_file, strerror(errno));
	while (!colon && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\r\n")] = 0;
		colon = *line == '#' ? NULL : strrchr(line, ':');
	}
	fclose(f);
	if (!colon)
		return fail(-EINVAL, "%s: there is no line identity:key", psk_file);
	*colon = 0;
	opts.psk_identity = line;
	opts.psk_key = colon + 1;
	return EXIT_OK;
}

int tls_given(bool of_broker, const struct thmq_tls_opts **ret_opts)
{
	bool given = any_client || any_name || psk_file || opts.ca_file || opts.cert_file ||
		     opts.key_file || opts.crl_file || opts.peer_name;

	*ret_opts = NULL;
	if (!given)
		return EXIT_OK;
	opts.size = sizeof(opts);
	opts.flags = (any_client ? THMQ_TLS_ANY_CLIENT : 0) | (any_name ? THMQ_TLS_ANY_NAME : 0);
	opts.key_password = getenv("THMQ_TLS_KEY_PASSWORD");
	*ret_opts = &opts;
	if (of_broker)
		opts.psk_file = psk_file;
	return psk_file && !of_broker ? read_psk() : EXIT_OK;
}
