/* SPDX-License-Identifier: Apache-2.0 */
/*
 * psk.c - pre-shared keys: one given by itself, or a file of lines "identity:key in hexadecimal digits" (the form that openssl
 * and mosquitto use), # begins a comment. Knows nothing of connections.
 */
#include <stdio.h>

#include "openssl.h"

#define LINE_BYTES 1024u
#define IDENTITY_MAX 127u /* OpenSSL's limit */
#define PSKS_MAX 65536u

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* 16 to 64 bytes. */
static int parse_key(const char *hex, struct thmqi_psk *ret)
{
	size_t len = strlen(hex), i;

	if (len % 2 || len < 32 || len > 2 * sizeof(ret->key))
		return -EINVAL;
	for (i = 0; i < len; i += 2) {
		int high = digit(hex[i]), low = digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		ret->key[i / 2] = (uint8_t)(high << 4 | low);
	}
	ret->key_bytes = (uint32_t)len / 2;
	return 0;
}

static int add(struct thmqi_tls_config *c, const char *identity, const char *hex, const char *where)
{
	struct thmqi_psk *more, psk = {0};

	if (!*identity || strlen(identity) > IDENTITY_MAX)
		return thmqi_fail(-EINVAL, "tls: %s: an identity has 1 to %u characters", where,
				  IDENTITY_MAX);
	if (parse_key(hex, &psk) != 0)
		return thmqi_fail(-EINVAL,
				  "tls: %s: the key of %.64s is not 32 to 128 hexadecimal digits",
				  where, identity);
	if (thmqi_psk_find(c, identity))
		return thmqi_fail(-EINVAL, "tls: %s: %.64s has two keys", where, identity);
	if (c->psk_count == PSKS_MAX)
		return thmqi_fail(-E2BIG, "tls: %s: more than %u keys", where, PSKS_MAX);
	psk.identity = strdup(identity);
	/* room for twice as many each time */
	more = thmqi_is_pow2(c->psk_count) || !c->psk_count
		       ? realloc(c->psks, sizeof(psk) * THMQI_MAX(2 * c->psk_count, 1u))
		       : c->psks;
	if (more)
		c->psks = more;
	if (!psk.identity || !more) {
		free(psk.identity);
		return thmqi_fail(-ENOMEM, "tls: no memory");
	}
	c->psks[c->psk_count++] = psk;
	explicit_bzero(&psk, sizeof(psk));
	return 0;
}

static int read_line(struct thmqi_tls_config *c, char *line, const char *path, uint32_t number)
{
	char where[96], *colon;
	size_t len = strcspn(line, "\r\n");

	if (len == LINE_BYTES - 1)
		return thmqi_fail(-EINVAL, "tls: %s, line %u is too long", path, number);
	line[len] = 0;
	line += strspn(line, " \t");
	if (!*line || *line == '#')
		return 0;
	snprintf(where, sizeof(where), "%.64s, line %u", path, number);
	/* an identity may have colons, a key has none */
	colon = strrchr(line, ':');
	if (!colon)
		return thmqi_fail(-EINVAL, "tls: %s: write identity:key", where);
	*colon = 0;
	return add(c, line, colon + 1, where);
}

static int read_file(struct thmqi_tls_config *c, const char *path)
{
	FILE *f = fopen(path, "re");
	char line[LINE_BYTES];
	uint32_t number = 0;
	int rc = 0;

	if (!f)
		return thmqi_fail(-errno, "tls: %s: %s", path, thmq_strerror(-errno));
	while (!rc && fgets(line, sizeof(line), f))
		rc = read_line(c, line, path, ++number);
	if (!rc && ferror(f))
		rc = thmqi_fail(-EIO, "tls: %s cannot be read", path);
	fclose(f);
	explicit_bzero(line, sizeof(line));
	if (!rc && !c->psk_count)
		rc = thmqi_fail(-EINVAL, "tls: %s has no keys", path);
	return rc;
}

int thmqi_psk_read(struct thmqi_tls_config *c, const struct thmq_tls_opts *o)
{
	int rc = 0;

	if (!o->psk_identity != !o->psk_key)
		return thmqi_fail(-EINVAL, "tls: psk_identity and psk_key belong together");
	if (o->psk_file && !c->of_broker)
		return thmqi_fail(-EINVAL,
				  "tls: psk_file is a broker's; a session has one psk_identity");
	if (o->psk_file)
		rc = read_file(c, o->psk_file);
	if (!rc && o->psk_identity)
		rc = add(c, o->psk_identity, o->psk_key, "psk_key");
	return rc;
}

void thmqi_psk_free(struct thmqi_tls_config *c)
{
	uint32_t i;

	for (i = 0; i < c->psk_count; i++) {
		explicit_bzero(c->psks[i].key, sizeof(c->psks[i].key));
		free(c->psks[i].identity);
	}
	free(c->psks);
}

const struct thmqi_psk *thmqi_psk_find(const struct thmqi_tls_config *c, const char *identity)
{
	uint32_t i;

	for (i = 0; i < c->psk_count; i++)
		if (strcmp(c->psks[i].identity, identity) == 0)
			return &c->psks[i];
	return NULL;
}
