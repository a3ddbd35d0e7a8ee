/* SPDX-License-Identifier: Apache-2.0 */
/*
 * auth.c - who the client is: SASL by PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512, with users from a file of lines "name:password".
 * Source: RFC 4616, RFC 5802, RFC 7677. A user may do everything.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

#ifdef HAVE_OPENSSL
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#endif

#define ITERATIONS 4096
#define SALT_BYTES 16
#define HASH_MAX 64

enum mechanism { PLAIN, SCRAM_256, SCRAM_512, MECHANISMS };
static const char *const mechanism_names[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"};
#ifdef HAVE_OPENSSL
#define MECHANISM_COUNT 3
#else
#define MECHANISM_COUNT 1 /* SCRAM's hashes are OpenSSL's */
#endif

/* What SCRAM needs to know of a user, for each of its hashes; from his password. */
struct scram {
	uint8_t salt[SALT_BYTES], stored[HASH_MAX], server[HASH_MAX];
};

struct user {
	struct user *next;
	char name[128], password[256];
	struct scram scram[2];
};

static const struct user *user_find(const struct server *s, struct text name)
{
	const struct user *u = s->users;

	while (u && !text_is(name, u->name))
		u = u->next;
	return u;
}

/* -------------------------------------------------------------------- SCRAM */

#ifdef HAVE_OPENSSL
static const EVP_MD *hash_of(int mechanism)
{
	return mechanism == SCRAM_256 ? EVP_sha256() : EVP_sha512();
}

static bool hmac(const EVP_MD *md, const uint8_t *key, const void *data, size_t len, uint8_t *ret)
{
	return HMAC(md, key, EVP_MD_get_size(md), data, len, ret, NULL) != NULL;
}

static bool scram_prepare(struct user *u, int mechanism)
{
	const EVP_MD *md = hash_of(mechanism);
	struct scram *x = &u->scram[mechanism - SCRAM_256];
	uint8_t salted[HASH_MAX], client[HASH_MAX];

	return RAND_bytes(x->salt, SALT_BYTES) == 1 &&
	       PKCS5_PBKDF2_HMAC(u->password, (int)strlen(u->password), x->salt, SALT_BYTES,
				 ITERATIONS, md, EVP_MD_get_size(md), salted) == 1 &&
	       hmac(md, salted, "Client Key", 10, client) &&
	       hmac(md, salted, "Server Key", 10, x->server) &&
	       EVP_Digest(client, (size_t)EVP_MD_get_size(md), x->stored, NULL, md, NULL) == 1;
}

/* The value of attribute @name in "a=1,b=2"; null if there is none. */
static struct text attribute(struct text message, char name)
{
	const char *at = message.data, *end = at + message.len, *comma;

	for (; at && at < end; at = comma + 1) {
		comma = memchr(at, ',', (size_t)(end - at));
		comma = comma ? comma : end;
		if (comma - at >= 2 && at[0] == name && at[1] == '=')
			return (struct text){at + 2, (uint32_t)(comma - at - 2)};
	}
	return (struct text){NULL, 0};
}

/* A name has =2C for a comma and =3D for an equals sign. */
static bool unescape(struct text name, char *ret, size_t size)
{
	size_t n = 0;
	uint32_t i;

	for (i = 0; i < name.len && n + 1 < size; i++) {
		char c = name.data[i];

		if (c == '=') {
			if (i + 2 >= name.len ||
			    (memcmp(name.data + i, "=2C", 3) && memcmp(name.data + i, "=3D", 3)))
				return false;
			c = name.data[i + 1] == '2' ? ',' : '=';
			i += 2;
		}
		ret[n++] = c;
	}
	ret[n] = '\0';
	return i == name.len && n > 0;
}

static bool scram_first(struct server *s, struct auth *a, struct text token, struct out *out)
{
	struct text bare, nonce;
	uint8_t random[18], salt64[2 * SALT_BYTES], random64[32];
	char name[128];
	const char *comma;
	int len;

	/* "n,," or "y,,": no channel binding; the client speaks for himself */
	if (token.len < 3 || (token.data[0] != 'n' && token.data[0] != 'y') || token.data[1] != ',')
		return false;
	comma = memchr(token.data + 2, ',', token.len - 2);
	if (!comma)
		return false;
	bare = (struct text){comma + 1, token.len - (uint32_t)(comma + 1 - token.data)};
	nonce = attribute(bare, 'r');
	if (!unescape(attribute(bare, 'n'), name, sizeof(name)) || !nonce.len || nonce.len > 256 ||
	    bare.len > 1024)
		return false;
	a->user = user_find(s, text_of(name));
	if (!a->user || RAND_bytes(random, sizeof(random)) != 1)
		return false;
	EVP_EncodeBlock(random64, random, sizeof(random));
	EVP_EncodeBlock(salt64, a->user->scram[a->mechanism - SCRAM_256].salt, SALT_BYTES);
	free(a->first_bare);
	free(a->server_first);
	a->server_first = NULL;
	a->first_bare = strndup(bare.data, bare.len);
	len = asprintf(&a->server_first, "r=%.*s%s,s=%s,i=%d", (int)nonce.len, nonce.data, random64,
		       salt64, ITERATIONS);
	if (len < 0 || !a->first_bare) {
		if (len < 0)
			a->server_first = NULL;
		return false;
	}
	out_copy(out, a->server_first, (size_t)len);
	a->state = AUTH_SCRAM_FIRST;
	return true;
}

static bool decode64(struct text t, uint8_t *ret, size_t len)
{
	uint8_t bytes[HASH_MAX + 8];
	int n;

	if (t.len != (len + 2) / 3 * 4)
		return false;
	n = EVP_DecodeBlock(bytes, (const unsigned char *)t.data, (int)t.len);
	if (n < (int)len)
		return false;
	memcpy(ret, bytes, len);
	return true;
}

/* It ends with ours, which is what Kafka asks for: librdkafka before 2.6.1 puts its own part before it once more. */
static bool nonce_is(struct text nonce, struct text ours)
{
	return ours.len && nonce.len >= ours.len &&
	       memcmp(nonce.data + nonce.len - ours.len, ours.data, ours.len) == 0;
}

static bool scram_last(struct auth *a, struct text token, struct out *out)
{
	const struct scram *x = &a->user->scram[a->mechanism - SCRAM_256];
	const EVP_MD *md = hash_of(a->mechanism);
	const size_t len = (size_t)EVP_MD_get_size(md);
	struct text binding = attribute(token, 'c'), nonce = attribute(token, 'r'),
		    proof64 = attribute(token, 'p'),
		    ours = attribute(text_of(a->server_first), 'r');
	uint8_t proof[HASH_MAX], signature[HASH_MAX], stored[HASH_MAX], signature64[2 * HASH_MAX];
	char *said = NULL;
	int said_len;
	bool ok;
	size_t i;

	if (!proof64.data || !nonce_is(nonce, ours) || !decode64(proof64, proof, len) ||
	    !(text_is(binding, "biws") || text_is(binding, "eSws")))
		return false;
	said_len = asprintf(&said, "%s,%s,%.*s", a->first_bare, a->server_first,
			    (int)(proof64.data - token.data) - 3, token.data);
	if (said_len < 0)
		return false;
	ok = hmac(md, x->stored, said, (size_t)said_len, signature);
	for (i = 0; i < len; i++)
		proof[i] ^= signature[i];
	ok = ok && EVP_Digest(proof, len, stored, NULL, md, NULL) == 1 &&
	     CRYPTO_memcmp(stored, x->stored, len) == 0 &&
	     hmac(md, x->server, said, (size_t)said_len, signature);
	free(said);
	if (!ok)
		return false;
	EVP_EncodeBlock(signature64, signature, (int)len);
	out_copy(out, "v=", 2);
	out_copy(out, signature64, strlen((char *)signature64));
	a->state = AUTH_DONE;
	return true;
}
#else
static bool scram_first(struct server *s, struct auth *a, struct text token, struct out *out)
{
	(void)s, (void)a, (void)token, (void)out;
	return false;
}

static bool scram_last(struct auth *a, struct text token, struct out *out)
{
	(void)a, (void)token, (void)out;
	return false;
}
#endif

/* -------------------------------------------------------------------- PLAIN */

/* The time it takes tells nothing of where they differ. */
static bool same_secret(struct text a, const char *b)
{
	size_t len = strlen(b), i;
	uint8_t differ = a.len != len;

	for (i = 0; i < a.len; i++)
		differ |= (uint8_t)((uint8_t)a.data[i] ^ (uint8_t)b[i < len ? i : len]);
	return !differ;
}

/* who he acts for, NUL, who he is, NUL, password */
static bool plain(struct server *s, struct auth *a, struct text token)
{
	const char *first = memchr(token.data, 0, token.len), *second,
		   *end = token.data + token.len;
	struct text name;

	second = first ? memchr(first + 1, 0, (size_t)(end - first - 1)) : NULL;
	if (!second)
		return false;
	name = (struct text){first + 1, (uint32_t)(second - first - 1)};
	if (first > token.data &&
	    !text_same(name, (struct text){token.data, (uint32_t)(first - token.data)}))
		return false;
	a->user = user_find(s, name);
	if (!a->user || !same_secret((struct text){second + 1, (uint32_t)(end - second - 1)},
				     a->user->password))
		return false;
	a->state = AUTH_DONE;
	return true;
}

/* ----------------------------------------------------------------- requests */

static bool take_token(struct server *s, struct auth *a, struct text token, struct out *out)
{
	bool ok = false;

	if (!token.data)
		return false;
	if (a->state == AUTH_HANDSHAKE)
		ok = a->mechanism == PLAIN ? plain(s, a, token) : scram_first(s, a, token, out);
	else if (a->state == AUTH_SCRAM_FIRST)
		ok = scram_last(a, token, out);
	if (!ok)
		a->state = AUTH_NONE;
	return ok;
}

bool auth_raw(struct conn *c, struct text token, struct out *out)
{
	return take_token(c->server, &c->auth, token, out);
}

bool auth_allows(const struct conn *c, int16_t api)
{
	return c->auth.state == AUTH_DONE || api == API_SASL_HANDSHAKE || api == API_VERSIONS ||
	       api == API_SASL_AUTHENTICATE;
}

void auth_handshake(struct request *r)
{
	struct auth *a = &r->conn->auth;
	struct text name = in_text(&r->in);
	int i;

	for (i = 0; i < MECHANISM_COUNT && !text_is(name, mechanism_names[i]);)
		i++;
	if (r->in.bad)
		request_fail(r);
	out_i16(&r->out, !r->server->users || a->state == AUTH_DONE ? K_ILLEGAL_SASL_STATE
			 : i == MECHANISM_COUNT                     ? K_UNSUPPORTED_SASL_MECHANISM
								    : K_NONE);
	if (a->state != AUTH_DONE && i < MECHANISM_COUNT) {
		a->state = AUTH_HANDSHAKE;
		a->mechanism = i;
		a->raw = r->version == 0;
	}
	out_array(&r->out, MECHANISM_COUNT);
	for (i = 0; i < MECHANISM_COUNT; i++)
		out_string(&r->out, mechanism_names[i]);
	request_done(r);
}

void auth_authenticate(struct request *r)
{
	struct auth *a = &r->conn->auth;
	struct text token = in_bytes(&r->in);
	struct out answer = {.data = NULL};
	bool state_ok = a->state == AUTH_HANDSHAKE || a->state == AUTH_SCRAM_FIRST, ok;

	in_tags(&r->in);
	if (r->in.bad)
		request_fail(r);
	ok = state_ok && !r->in.bad && take_token(r->server, a, token, &answer);
	out_i16(&r->out, !state_ok ? K_ILLEGAL_SASL_STATE : ok ? K_NONE : K_SASL_FAILED);
	out_string(&r->out, ok ? NULL : "authentication failed");
	out_bytes(&r->out, ok && answer.len
				   ? (struct text){(const char *)answer.data, (uint32_t)answer.len}
				   : text_of(""));
	if (r->version >= 1)
		out_i64(&r->out, 0);
	out_tags(&r->out);
	out_free(&answer);
	request_done(r);
}

/* -------------------------------------------------------------------- users */

void auth_end(struct auth *a)
{
	free(a->first_bare);
	free(a->server_first);
}

int auth_load(struct server *s, const char *file)
{
	FILE *f = fopen(file, "r");
	char line[512];
	int rc = 0;

	if (!f)
		return -errno;
	while (!rc && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');
		struct user *u;

		line[strcspn(line, "\r\n")] = '\0';
		if (!*line || *line == '#')
			continue;
		u = calloc(1, sizeof(*u));
		if (!u || !colon || colon - line >= (long)sizeof(u->name) ||
		    strlen(colon + 1) >= sizeof(u->password)) {
			rc = u ? -EINVAL : -ENOMEM;
			free(u);
			break;
		}
		memcpy(u->name, line, (size_t)(colon - line));
		snprintf(u->password, sizeof(u->password), "%s", colon + 1);
#ifdef HAVE_OPENSSL
		if (!scram_prepare(u, SCRAM_256) || !scram_prepare(u, SCRAM_512))
			rc = -EIO;
#endif
		u->next = s->users;
		s->users = u;
	}
	fclose(f);
	return rc ? rc : s->users ? 0 : -EINVAL;
}

void auth_unload(struct server *s)
{
	struct user *u, *next;

	for (u = s->users; u; u = next) {
		next = u->next;
		free(u);
	}
	s->users = NULL;
}
