/* SPDX-License-Identifier: Apache-2.0 */
/*
 * why.c - what went wrong, as an error of ours and in words that say whose fault it is. After a failure only, never per message.
 */
#include <stdio.h>

#include <openssl/sslerr.h>

#include "openssl.h"

static int say(struct tls *t, int error, const char *words)
{
	if (!t->why[0])
		snprintf(t->why, sizeof(t->why), "%s", words);
	return error;
}

/* Which option has a say, or nothing. */
static const char *cure(long verdict)
{
	switch (verdict) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		return "; peer_name (--tls-name) says for whom it must be";
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
		return "; ca_file (--tls-ca) says who may have signed it";
	default:
		return "";
	}
}

/* The other's certificate does not do. */
static int bad_certificate(struct tls *t, long verdict)
{
	snprintf(t->why, sizeof(t->why), "the other side's certificate: %s%s",
		 t->config->o.X509_verify_cert_error_string(verdict), cure(verdict));
	switch (verdict) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return -EKEYEXPIRED;
	case X509_V_ERR_CERT_REVOKED:
		return -EKEYREVOKED;
	default:
		return -EKEYREJECTED;
	}
}

/* RFC 8446, 6. */
static const struct {
	uint8_t description;
	int error;
	const char *words;
} alerts[] = {
	{SSL3_AD_UNEXPECTED_MESSAGE, EPROTO, "the other side does not speak TLS here"},
	{SSL3_AD_BAD_RECORD_MAC, EBADMSG, "the other side got a record that is not ours"},
	{SSL3_AD_HANDSHAKE_FAILURE, EACCES,
	 "the other side finds no key that both have: a certificate is missing on one side, or a "
	 "pre-shared key is not known"},
	{SSL3_AD_BAD_CERTIFICATE, EACCES, "the other side refuses our certificate as wrong"},
	{SSL3_AD_UNSUPPORTED_CERTIFICATE, EACCES,
	 "the other side refuses our certificate: it is not for this purpose"},
	{SSL3_AD_CERTIFICATE_REVOKED, EACCES, "the other side says our certificate is revoked"},
	{SSL3_AD_CERTIFICATE_EXPIRED, EACCES, "the other side says our certificate has expired"},
	{SSL3_AD_CERTIFICATE_UNKNOWN, EACCES, "the other side refuses our certificate"},
	{TLS1_AD_UNKNOWN_CA, EACCES, "the other side does not know who has signed our certificate"},
	{TLS1_AD_ACCESS_DENIED, EACCES, "the other side does not let us in"},
	{TLS1_AD_DECRYPT_ERROR, EACCES, "the pre-shared key, or a signature, is wrong"},
	{TLS1_AD_PROTOCOL_VERSION, THMQ_EVERSION, "the other side speaks no TLS 1.3"},
	{TLS1_AD_UNKNOWN_PSK_IDENTITY, EACCES,
	 "the other side does not know the identity of our pre-shared key"},
	{TLS13_AD_CERTIFICATE_REQUIRED, ENOKEY, "the other side wants a certificate of ours"},
};

int thmqi_tls_alert(struct tls *t, uint32_t description)
{
	char words[64];
	size_t i;

	/* OpenSSL's word for a proof that does not fit; a client that has no key never gets it so */
	if (description == SSL3_AD_ILLEGAL_PARAMETER && t->config->psk_count)
		return say(t, -EACCES,
			   "the other side has another pre-shared key under our identity");
	for (i = 0; i < THMQI_ARRAY_COUNT(alerts); i++)
		if (alerts[i].description == description)
			return say(t, -alerts[i].error, alerts[i].words);
	snprintf(words, sizeof(words), "the other side ends it with alert %u", description);
	return say(t, -EPROTO, words);
}

static int by_reason(struct tls *t, unsigned long code)
{
	const char *text = t->config->o.ERR_reason_error_string(code);
	int reason = ERR_GET_REASON(code);

	switch (reason) {
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		return say(t, -ECONNRESET,
			   t->established ? "the connection was cut off"
					  : "the other side hung up amid the TLS handshake");
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return say(t, -ENOKEY, "the other side shows no certificate");
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_WRONG_SSL_VERSION:
	case SSL_R_BAD_PROTOCOL_VERSION_NUMBER:
		return say(t, -THMQ_EVERSION, "the other side speaks no TLS 1.3");
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
		return say(t, -EPROTO, "the other side does not speak TLS here");
	case SSL_R_BINDER_DOES_NOT_VERIFY:
		return say(t, -EACCES, "the pre-shared key of the other side is not ours");
	case SSL_R_NO_SHARED_CIPHER:
	case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
	case SSL_R_NO_CERTIFICATE_SET:
		return say(t, -EACCES, "the other side knows no key that is known here");
	case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
	case SSL_R_SSLV3_ALERT_BAD_RECORD_MAC:
		return say(t, t->established ? -EBADMSG : -EPROTO,
			   "a record that is not the other side's");
	default:
		return say(t, -EPROTO, text ? text : "TLS failed");
	}
}

int thmqi_tls_error(struct tls *t)
{
	const struct thmqi_openssl *o = &t->config->o;
	int what = o->SSL_get_error(t->ssl, 0);
	unsigned long code = o->ERR_peek_error();
	long verdict;

	if (t->error)
		return t->error;
	if (what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	if (what == SSL_ERROR_ZERO_RETURN) {
		t->closed = true;
		return t->established ? -EAGAIN
				      : say(t, -ECONNRESET,
					    "the other side hung up amid the TLS handshake");
	}
	if (!code)
		return say(t, -ECONNRESET, "the connection was cut off");
	if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
	    ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
		verdict = o->SSL_get_verify_result(t->ssl);
		return bad_certificate(t, verdict);
	}
	/* alerts of the other's are reasons from this number on */
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) > SSL_AD_REASON_OFFSET &&
	    ERR_GET_REASON(code) <= SSL_AD_REASON_OFFSET + 255)
		return thmqi_tls_alert(t, (uint32_t)(ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET));
	return by_reason(t, code);
}
