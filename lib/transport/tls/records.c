/* SPDX-License-Identifier: Apache-2.0 */
/*
 * records.c - bytes to records and back by OpenSSL, where the kernel does not do it. What goes is encrypted into one buffer, and
 * that is sent; what comes is decrypted and copied to its place. A call does so much and no more, so that nobody keeps a core
 * for himself, whatever he sends.
 */
#include "openssl.h"
#include "records.h"

/* One record at most, for which there is room: OpenSSL never has to wait. */
static int64_t write_one(struct tls *t, const void *from, size_t len)
{
	size_t n = 0;
	int rc;

	/* what one key may encrypt has a limit (RFC 8446, 5.5): the next record goes behind a word of that */
	if (thmqi_unlikely(t->pub.key_records && t->records++ >= t->pub.key_records)) {
		t->records = 0;
		t->config->o.SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
	}
	len = THMQI_MIN(len, (size_t)TLS_RECORD_BYTES);
	if (t->config->o.SSL_write_ex(t->ssl, from, len, &n) == 1)
		return (int64_t)n;
	rc = thmqi_tls_error(t);
	if (rc == -EAGAIN) /* it cannot be, with room for a record */
		rc = -EPROTO;
	t->error = rc;
	return rc;
}

/* Room for a record, if need be by sending. */
static int64_t make_room(struct tls *t)
{
	if (TLS_OUT_BYTES - t->out_end >= TLS_RECORD_ROOM)
		return 1;
	if (t->out_at) { /* the socket took some */
		memmove(t->out, t->out + t->out_at, t->out_end - t->out_at);
		t->out_end -= t->out_at;
		t->out_at = 0;
	}
	if (TLS_OUT_BYTES - t->out_end >= TLS_RECORD_ROOM)
		return 1;
	if (t->pub.blocked)
		return 0;
	return thmqi_tls_flush(&t->pub);
}

int64_t thmqi_tls_send(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count)
{
	struct tls *t = tls_of(tls);
	int64_t rc = t->error, total = 0;
	size_t at = 0;

	if (rc < 0)
		return rc;
	if (tls->kernel)
		return thmqi_tls_kernel_send(t, iov, count);
	thmqi_tls_enter(t);
	while (count && total < TLS_CALL_BYTES) {
		if (at == iov->iov_len) {
			iov++;
			count--;
			at = 0;
			continue;
		}
		rc = make_room(t);
		if (rc > 0 && TLS_OUT_BYTES - t->out_end < TLS_RECORD_ROOM)
			continue; /* something went, not enough */
		if (rc <= 0)
			break;
		rc = write_one(t, (const uint8_t *)iov->iov_base + at, iov->iov_len - at);
		if (rc < 0)
			break;
		at += (size_t)rc;
		total += rc;
	}
	if (rc >= 0 && !tls->blocked)
		rc = thmqi_tls_flush(tls);
	if (total)
		return total; /* an error comes back with the next call */
	return rc < 0 ? rc : -EAGAIN;
}

/* Into one place, until it is full or there is no more. 1: it is full. */
static int read_into(struct tls *t, const struct iovec *to, int64_t *total)
{
	size_t at = 0, n;

	while (at < to->iov_len) {
		if (t->config->o.SSL_read_ex(t->ssl, (uint8_t *)to->iov_base + at, to->iov_len - at,
					     &n) != 1)
			return thmqi_tls_error(t);
		at += n;
		*total += (int64_t)n;
	}
	return 1;
}

int64_t thmqi_tls_recv(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count)
{
	struct tls *t = tls_of(tls);
	int64_t total = 0;
	int rc = 1;

	if (tls->kernel)
		return thmqi_tls_kernel_recv(t, iov, count);
	if (t->error)
		return t->error;
	thmqi_tls_enter(t);
	tls->drained = t->closed;
	t->budget = TLS_CALL_BYTES;
	for (; rc == 1 && count && !t->closed; iov++, count--)
		rc = read_into(t, iov, &total);
	/* records that say something to OpenSSL may have made it answer */
	if (tls->unsent && !tls->blocked)
		thmqi_tls_flush(tls);
	if (rc < 0 && rc != -EAGAIN)
		t->error = rc;
	/* what is left in the buffer, or an error, comes with the next call */
	if (rc == 1 || t->error || t->closed)
		tls->drained = false;
	if (total)
		return total;
	return t->closed ? 0 : rc == 1 ? -EAGAIN : rc;
}
