/* SPDX-License-Identifier: Apache-2.0 */
/* transport_tls_test.c - TLS over a socket that does not wait: both ends in one thread, on sockets of any size, in pieces of any size. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tls/tls.h"

TestSuite(transport_tls, .timeout = 60);

#define KEY "000102030405060708090a0b0c0d0e0f"

struct ends {
	struct thmqi_tls_config *config[2]; /* the broker's, the client's */
	struct thmqi_tls *tls[2];
	int fd[2];
};

static void open_ends(struct ends *e, const char *client_key, int bytes)
{
	struct thmq_tls_opts o = {.size = sizeof(o), .psk_identity = "x", .psk_key = KEY};

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, e->fd), 0);
	for (int i = 0; i < 2; i++) {
		if (bytes)
			setsockopt(e->fd[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		o.psk_key = i ? client_key : KEY;
		cr_assert_eq(thmqi_tls_config_open(&o, i ? "host" : NULL, &e->config[i]), 0);
		cr_assert_eq(thmqi_tls_open(e->config[i], e->fd[i], &e->tls[i]), 0);
		thmqi_tls_config_unref(e->config[i]); /* the stream has its own */
	}
}

static void close_ends(struct ends *e)
{
	for (int i = 0; i < 2; i++) {
		thmqi_tls_close(e->tls[i]);
		close(e->fd[i]);
	}
}

/* As far as both get. */
static void shake(struct ends *e, int ret[2])
{
	ret[0] = ret[1] = 0;
	for (int round = 0; round < 1000 && (ret[0] == 0 || ret[1] == 0); round++)
		for (int i = 0; i < 2; i++)
			if (ret[i] == 0)
				ret[i] = thmqi_tls_handshake(e->tls[i]);
}

static void shaken(struct ends *e, int bytes)
{
	int rc[2];

	open_ends(e, KEY, bytes);
	shake(e, rc);
	cr_assert(rc[0] == 1 && rc[1] == 1, "%d %d", rc[0], rc[1]);
}

static uint8_t byte_at(uint64_t at, int way)
{
	return (uint8_t)(at * 31 + (at >> 11) + (uint64_t)way * 7);
}

/* @total bytes each way at once, in pieces by chance. */
static void talk(struct ends *e, uint64_t total, uint32_t piece_max)
{
	static uint8_t out[2][300000], in[300000];
	uint64_t sent[2] = {0}, got[2] = {0}, rounds = 0;
	struct thmqi_prng prng;

	thmqi_prng_seed(&prng, 7);
	while (got[0] < total || got[1] < total) {
		cr_assert_lt(rounds++, 10000000);
		for (int i = 0; i < 2; i++) {
			uint64_t piece = 1 + thmqi_prng_below(&prng, piece_max);
			uint64_t n = THMQI_MIN(piece, total - sent[i]);
			struct iovec iov[2] = {{out[i], n / 3}, {out[i] + n / 3, n - n / 3}};
			int64_t rc;

			for (uint64_t k = 0; k < n; k++)
				out[i][k] = byte_at(sent[i] + k, i);
			if (e->tls[i]->unsent)
				cr_assert_geq(thmqi_tls_flush(e->tls[i]), 0);
			rc = n ? thmqi_tls_send(e->tls[i], iov, 2) : -EAGAIN;
			cr_assert(rc == -EAGAIN || (rc > 0 && (uint64_t)rc <= n), "%d", (int)rc);
			sent[i] += rc > 0 ? (uint64_t)rc : 0;
			n = 1 + thmqi_prng_below(&prng, piece_max);
			iov[0] = (struct iovec){in, n / 2};
			iov[1] = (struct iovec){in + n / 2, n - n / 2};
			rc = thmqi_tls_recv(e->tls[i], iov, 2);
			cr_assert(rc == -EAGAIN || (rc > 0 && (uint64_t)rc <= n), "%d", (int)rc);
			/* less than there was room for: all was taken, or it says that there is more */
			cr_assert(rc == (int64_t)n || e->tls[i]->drained || rc > 0);
			for (int64_t k = 0; k < rc; k++)
				cr_assert_eq(in[k], byte_at(got[i] + (uint64_t)k, !i));
			got[i] += rc > 0 ? (uint64_t)rc : 0;
		}
	}
	cr_assert(got[0] == total && got[1] == total);
}

Test(transport_tls, bytes_come_as_they_went_in_pieces_of_any_size)
{
	static const uint32_t pieces[] = {1, 100, 5000, 16384, 20000, 300000};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(pieces); i++) {
		struct ends e;

		shaken(&e, 0);
		talk(&e, pieces[i] == 1 ? 3000 : 2000000, pieces[i]);
		close_ends(&e);
	}
}

Test(transport_tls, a_socket_that_takes_little_holds_up_and_loses_nothing)
{
	struct ends e;

	shaken(&e, 4096);
	talk(&e, 3000000, 200000);
	close_ends(&e);
}

Test(transport_tls, keys_are_changed_and_nothing_is_lost)
{
	struct ends e;

	shaken(&e, 4096);
	e.tls[0]->key_records = 1;
	e.tls[1]->key_records = 3;
	talk(&e, 1000000, 50000);
	close_ends(&e);
}

Test(transport_tls, what_was_sent_before_a_farewell_is_read_and_then_the_end)
{
	struct ends e;
	char text[16] = "last words";
	struct iovec iov = {text, sizeof(text)};

	shaken(&e, 0);
	cr_assert_eq(thmqi_tls_send(e.tls[0], &iov, 1), sizeof(text));
	thmqi_tls_bye(e.tls[0]);
	shutdown(e.fd[0], SHUT_WR);
	memset(text, 0, sizeof(text));
	cr_assert_eq(thmqi_tls_recv(e.tls[1], &iov, 1), sizeof(text));
	cr_assert_str_eq(text, "last words");
	cr_assert_eq(thmqi_tls_recv(e.tls[1], &iov, 1), 0);
	cr_assert_eq(thmqi_tls_recv(e.tls[1], &iov, 1), 0);
	close_ends(&e);
}

Test(transport_tls, an_end_without_a_farewell_is_an_error)
{
	struct ends e;
	char text[16] = "last words";
	struct iovec iov = {text, sizeof(text)};

	shaken(&e, 0);
	cr_assert_eq(thmqi_tls_send(e.tls[0], &iov, 1), sizeof(text));
	shutdown(e.fd[0], SHUT_WR);
	cr_assert_eq(thmqi_tls_recv(e.tls[1], &iov, 1), sizeof(text));
	cr_assert_eq(thmqi_tls_recv(e.tls[1], &iov, 1), -ECONNRESET);
	cr_assert_str_eq(thmqi_tls_why(e.tls[1]), "the connection was cut off");
	cr_assert_eq(thmqi_tls_send(e.tls[1], &iov, 1), -ECONNRESET, "it stays so");
	close_ends(&e);
}

Test(transport_tls, a_wrong_key_is_refused_and_both_know)
{
	struct ends e;
	int rc[2];

	open_ends(&e, "ff" KEY, 0);
	shake(&e, rc);
	cr_assert(rc[0] == -EACCES && rc[1] == -EACCES, "%d %d", rc[0], rc[1]);
	cr_assert(thmqi_tls_why(e.tls[0])[0] && thmqi_tls_why(e.tls[1])[0]);
	cr_assert_eq(thmqi_tls_handshake(e.tls[0]), -EACCES, "it stays so");
	close_ends(&e);
}

Test(transport_tls, a_side_that_goes_amid_the_handshake_is_noticed)
{
	struct ends e;

	open_ends(&e, KEY, 0);
	cr_assert_eq(thmqi_tls_handshake(e.tls[1]), 0);
	cr_assert_eq(thmqi_tls_handshake(e.tls[0]), 0);
	shutdown(e.fd[1], SHUT_RDWR);
	cr_assert_eq(thmqi_tls_handshake(e.tls[0]), -ECONNRESET);
	close_ends(&e);
}

/* It would be a whole core's work for one connection: a call takes so much and says that there is more. */
Test(transport_tls, one_call_does_so_much_and_no_more)
{
	static uint8_t data[4 << 20];
	struct iovec iov = {data, sizeof(data)};
	struct ends e;
	int64_t n;

	shaken(&e, 8 << 20);
	n = thmqi_tls_send(e.tls[0], &iov, 1);
	cr_assert(n > 0 && n < 1 << 20, "%d", (int)n);
	close_ends(&e);
}
