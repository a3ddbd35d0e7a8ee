/* SPDX-License-Identifier: Apache-2.0 */
/* certs.c - see certs.h. P-256, which is quick. Ends the test where OpenSSL refuses. */
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs.h"

#define DAY (24L * 3600)

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "certs: %s failed\n", what);
	exit(1);
}

const char *certs_path(const char *dir, const char *name)
{
	static _Thread_local char paths[256][160];
	static _Thread_local unsigned next;
	char *path = paths[next++ % 256];

	must(snprintf(path, sizeof(paths[0]), "%s/%s", dir, name) < (int)sizeof(paths[0]), name);
	return path;
}

struct holder {
	X509 *cert;
	EVP_PKEY *key;
};

struct wish {
	const char *name;
	const char *alt;             /* subjectAltName */
	const char *purpose;         /* extendedKeyUsage; NULL: it signs others */
	const struct holder *signer; /* NULL: itself */
	long from, to;               /* seconds from now */
};

static void extend(X509 *cert, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	must(e && X509_add_ext(cert, e, -1), value);
	X509_EXTENSION_free(e);
}

static void save(const char *dir, const char *name, const struct holder *h)
{
	char file[128];
	FILE *f;

	snprintf(file, sizeof(file), "%s.pem", name);
	f = fopen(certs_path(dir, file), "we");
	must(f && PEM_write_X509(f, h->cert), file);
	fclose(f);
	snprintf(file, sizeof(file), "%s.key", name);
	f = fopen(certs_path(dir, file), "we");
	must(f && PEM_write_PrivateKey(f, h->key, NULL, NULL, 0, NULL, NULL), file);
	fclose(f);
}

static struct holder make(const char *dir, struct wish w)
{
	static long serial = 1000;
	struct holder h = {X509_new(), EVP_EC_gen("P-256")};
	const struct holder *signer = w.signer ? w.signer : &h;
	X509_NAME *name;

	must(h.cert && h.key, "a key");
	X509_set_version(h.cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(h.cert), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(h.cert), w.from);
	X509_gmtime_adj(X509_getm_notAfter(h.cert), w.to);
	X509_set_pubkey(h.cert, h.key);
	name = X509_get_subject_name(h.cert);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)w.name, -1, -1,
				   0);
	X509_set_issuer_name(h.cert, X509_get_subject_name(signer->cert));
	if (w.purpose) {
		extend(h.cert, NID_ext_key_usage, w.purpose);
		extend(h.cert, NID_subject_alt_name, w.alt);
	} else {
		extend(h.cert, NID_basic_constraints, "critical,CA:TRUE");
		extend(h.cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	}
	must(X509_sign(h.cert, signer->key, EVP_sha256()) > 0, "sign");
	save(dir, w.name, &h);
	return h;
}

static void drop(struct holder h)
{
	X509_free(h.cert);
	EVP_PKEY_free(h.key);
}

static void revoke(const char *dir, const struct holder *ca, const struct holder *who)
{
	X509_CRL *crl = X509_CRL_new();
	X509_REVOKED *r = X509_REVOKED_new();
	ASN1_TIME *t = ASN1_TIME_new();
	FILE *f;

	X509_gmtime_adj(t, -DAY);
	X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(who->cert));
	X509_REVOKED_set_revocationDate(r, t);
	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->cert));
	X509_CRL_set1_lastUpdate(crl, t);
	X509_gmtime_adj(t, 30 * DAY);
	X509_CRL_set1_nextUpdate(crl, t);
	must(X509_CRL_add0_revoked(crl, r) && X509_CRL_sign(crl, ca->key, EVP_sha256()) > 0, "crl");
	f = fopen(certs_path(dir, "crl.pem"), "we");
	must(f && PEM_write_X509_CRL(f, crl), "crl.pem");
	fclose(f);
	ASN1_TIME_free(t);
	X509_CRL_free(crl);
}

void certs_make(const char *dir)
{
	const char *here = "DNS:localhost,IP:127.0.0.1,IP:::1", *client = "DNS:client";
	struct holder ca = make(dir, (struct wish){"ca", NULL, NULL, NULL, -DAY, 30 * DAY});
	struct holder other =
		make(dir, (struct wish){"other-ca", NULL, NULL, NULL, -DAY, 30 * DAY});
	struct holder revoked;
	const struct wish wishes[] = {
		{"server", here, "serverAuth", &ca, -DAY, 30 * DAY},
		{"server-elsewhere", "DNS:elsewhere.example", "serverAuth", &ca, -DAY, 30 * DAY},
		{"server-stranger", here, "serverAuth", &other, -DAY, 30 * DAY},
		{"server-expired", here, "serverAuth", &ca, -3 * DAY, -DAY},
		{"server-early", here, "serverAuth", &ca, DAY, 30 * DAY},
		{"client", client, "clientAuth", &ca, -DAY, 30 * DAY},
		{"client-stranger", client, "clientAuth", &other, -DAY, 30 * DAY},
		{"client-expired", client, "clientAuth", &ca, -3 * DAY, -DAY},
		{"client-early", client, "clientAuth", &ca, DAY, 30 * DAY},
		{"client-wrong-purpose", client, "serverAuth", &ca, -DAY, 30 * DAY},
		{"node", here, "serverAuth,clientAuth", &ca, -DAY, 30 * DAY},
		{"node-stranger", here, "serverAuth,clientAuth", &other, -DAY, 30 * DAY},
	};
	size_t i;
	FILE *f;

	for (i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++)
		drop(make(dir, wishes[i]));
	revoked = make(dir,
		       (struct wish){"client-revoked", client, "clientAuth", &ca, -DAY, 30 * DAY});
	revoke(dir, &ca, &revoked);
	drop(revoked);
	drop(ca);
	drop(other);
	f = fopen(certs_path(dir, "keys.psk"), "we");
	must(f && fputs("# who may connect\nclient:" CERTS_PSK "\nother:" CERTS_PSK "\n", f) >= 0,
	     "keys.psk");
	fclose(f);
}
