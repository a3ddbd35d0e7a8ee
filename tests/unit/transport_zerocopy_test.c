/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_zerocopy_test.c - bodies that the kernel sends from where they lie: what it has not done with is not given back, and of a connection that
 * ends nothing is sent that was written there later. The other side takes nothing meanwhile, so that much of it waits in the socket.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include "../../lib/transport/tcp/tcp.h"

#define BODY (256u << 10)
#define BODIES 24u

static struct tcp_conn *c;
static uint8_t *bodies;
static int peer;

static void setup(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), small = 65536;
	socklen_t len = sizeof(at);

	cr_assert_eq(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&at, &len), 0);
	c = thmqi_tcp_make(true);
	cr_assert_eq(thmqi_tcp_buffers(c), 0);
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert_eq(connect(c->fd, (struct sockaddr *)&at, sizeof(at)), 0);
	peer = accept(listener, NULL, NULL);
	cr_assert_geq(peer, 0);
	close(listener);
	bodies = aligned_alloc(4096, BODY * BODIES);
	memset(bodies, 'a', BODY * BODIES);
	c->zerocopy = TCP_ZEROCOPY_ALWAYS;
	thmqi_tcp_zerocopy_begin(c);
	cr_assert_eq(c->zerocopy, TCP_ZEROCOPY_ALWAYS);
}

static void teardown(void)
{
	close(c->fd);
	close(peer);
	free(bodies);
	free(c->rx);
	free(c->tx);
	free(c);
}

TestSuite(transport_zerocopy, .init = setup, .fini = teardown);

/* Runs 0, 1, 2 …, each its own call, until the socket takes no more. Return: how many it took something of */
static uint32_t fill(void)
{
	uint32_t i, part;
	int64_t n = 1;

	for (i = 0; i < BODIES && n > 0; i++) {
		c->iov[0] = (struct iovec){.iov_base = bodies + (size_t)i * BODY, .iov_len = BODY};
		c->iov_at = 0;
		c->iov_count = c->ref_count = 1;
		c->refs[0].iov = 0;
		c->refs[0].stream = 5;
		c->refs[0].token = i;
		part = thmqi_tcp_zerocopy_part(c);
		cr_assert_eq(part, 1);
		cr_assert_eq(c->send_flags, MSG_ZEROCOPY);
		n = thmqi_tcp_send(c, c->iov, part);
		cr_assert_geq(n, 0);
		cr_assert(!n || c->send_flags == MSG_ZEROCOPY, "so much may be locked here");
		if (n > 0)
			thmqi_tcp_zerocopy_sent(c);
		i -= n <= 0;
	}
	cr_assert_geq(i, 2);
	return i;
}

/* Takes what comes. Return: bytes that are not @as */
static uint64_t read_all(char as, uint64_t *ret_bytes)
{
	static char got[65536];
	uint64_t others = 0;
	ssize_t n, i;

	while (poll(&(struct pollfd){.fd = peer, .events = POLLIN}, 1, 1000) == 1 && (n = recv(peer, got, sizeof(got), MSG_DONTWAIT)) > 0) {
		*ret_bytes += (uint64_t)n;
		for (i = 0; i < n; i++)
			others += got[i] != as;
	}
	return others;
}

Test(transport_zerocopy, what_the_kernel_still_reads_is_not_given_back)
{
	struct thmqi_frame f = {.stream = 5};
	uint32_t n = fill(), i;
	uint64_t bytes = 0;

	f.arg[0] = n - 1;
	cr_assert(thmqi_tcp_zerocopy_has(c, &f), "the other side has taken nothing");
	f.stream = 6;
	cr_assert(!thmqi_tcp_zerocopy_has(c, &f), "a run of another stream");
	f.stream = 5;
	cr_assert_eq(read_all('a', &bytes), 0);
	for (i = 0; i < n; i++) {
		f.arg[0] = i;
		cr_assert(!thmqi_tcp_zerocopy_has(c, &f));
	}
	cr_assert_eq(c->zc_count, 0);
	cr_assert(thmqi_tcp_zerocopy_is_all(c), "nothing is wrong with it");
}

Test(transport_zerocopy, nothing_that_is_written_there_later_is_sent)
{
	uint64_t bytes = 0;

	fill();
	thmqi_tcp_zerocopy_take(c);
	cr_assert_neq(c->zc_count, 0);
	thmqi_tcp_zerocopy_cut(c);
	memset(bodies, 'b', BODY * BODIES); /* another client's now */
	cr_assert_eq(read_all('a', &bytes), 0);
}

Test(transport_zerocopy, where_the_kernel_copies_all_the_same_it_is_not_asked_again)
{
	uint64_t bytes = 0;

	c->zerocopy = TCP_ZEROCOPY_WHERE_IT_HELPS;
	fill();
	read_all('a', &bytes);
	thmqi_tcp_zerocopy_take(c);
	cr_assert_eq(c->zc_count, 0);
	cr_assert_eq(c->zerocopy, c->zc_copied >= 8 ? TCP_COPIES : TCP_ZEROCOPY_WHERE_IT_HELPS);
	cr_assert_gt(c->zc_copied, 0, "as over loopback");
}

Test(transport_zerocopy, what_was_gathered_goes_before_and_is_copied)
{
	c->iov[0] = (struct iovec){.iov_base = c->tx, .iov_len = 100000};
	c->iov[1] = (struct iovec){.iov_base = bodies, .iov_len = 20000};
	c->iov[2] = (struct iovec){.iov_base = bodies, .iov_len = BODY};
	c->iov[3] = (struct iovec){.iov_base = c->tx + 100000, .iov_len = 64};
	c->iov_count = 4;
	cr_assert_eq(thmqi_tcp_zerocopy_part(c), 2);
	cr_assert_eq(c->send_flags, MSG_MORE);
	c->iov_at = 2;
	cr_assert_eq(thmqi_tcp_zerocopy_part(c), 1);
	cr_assert_eq(c->send_flags, MSG_ZEROCOPY);
	c->iov_at = 3;
	cr_assert_eq(thmqi_tcp_zerocopy_part(c), 1);
	cr_assert_eq(c->send_flags, 0);
	c->iov_at = 2;
	c->zc_count = TCP_ZC_MAX; /* no place for its number */
	cr_assert_eq(thmqi_tcp_zerocopy_part(c), 2);
	cr_assert_eq(c->send_flags, 0);
	c->zc_count = 0;
}
