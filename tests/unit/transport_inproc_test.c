/* SPDX-License-Identifier: Apache-2.0 */
/* transport_inproc_test.c - who listens where, and the two ends of a link: made, refused, closed in either order. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>

#include "transport/transport.h"

#define SHARDS 2u

/* An acceptor that counts. */
struct host {
	struct thmq_env *env;
	struct thmqi_listener *listener;
	struct thmqi_link *links[16]; /* accepted and not gone */
	uint32_t accepted, closed;
	int refuse; /* error of the next accepts */
};

static struct thmq_core *core_of(void *ctx, uint32_t shard)
{
	struct host *h = ctx;

	return shard < SHARDS ? thmqi_env_core(h->env, 0) : NULL;
}

static int on_accept(void *ctx, struct thmqi_link *link)
{
	struct host *h = ctx;
	struct thmqi_frame *f;

	cr_assert(thmqi_env_core(h->env, 0)->in_poll, "accept is called on the core, from its loop");
	if (h->refuse)
		return h->refuse;
	link->broker = h;
	h->links[h->accepted++] = link;
	f = thmqi_frame_claim(&link->down, 0);
	f->type = THMQI_FRAME_WELCOME;
	f->len = THMQI_WIRE_VERSION;
	thmqi_frame_commit(&link->down);
	thmqi_link_kick_client(link);
	return 0;
}

static void on_closed(void *ctx, struct thmqi_link *link)
{
	struct host *h = ctx;
	uint32_t i;

	for (i = 0; i < h->accepted && h->links[i] != link; i++)
		;
	cr_assert_lt(i, h->accepted, "a link is closed once, after it was accepted");
	h->links[i] = NULL;
	h->closed++;
	thmqi_link_unref(link);
}

static struct thmq_env *env;
static struct thmqi_transport *transport;
static struct thmqi_waiter *waiter;

static void set_up(void)
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = 2), NULL, &env), 0);
	cr_assert_eq(thmqi_transport_open(env, &transport), 0);
	cr_assert_eq(thmqi_waiter_open(&waiter), 0);
}

static void tear_down(void)
{
	thmqi_waiter_unref(waiter);
	cr_assert_eq(thmqi_env_close(env), 0);
	thmqi_transport_close(transport);
}

static void drive(void)
{
	while (thmqi_core_poll(thmqi_env_core(env, 0), 0) > 0)
		;
}

static int listen_as(struct host *h, const char *name)
{
	struct thmqi_acceptor a = {.core_of = core_of, .accept = on_accept, .closed = on_closed, .ctx = h};

	h->env = env;
	return thmqi_transport_listen(transport, name, &a, &h->listener);
}

static int connect_to(const char *url, struct thmqi_link **ret_link)
{
	struct thmqi_link_opts o = {.area_bytes = 65536, .up_frames = 64, .down_frames = 64};

	return thmqi_transport_connect(transport, url, 0, &o, waiter, ret_link);
}

TestSuite(transport_inproc, .init = set_up, .fini = tear_down);

Test(transport_inproc, a_url_is_read_to_its_last_byte)
{
	static const struct {
		const char *url;
		int error;
	} cases[] = {{"", -EINVAL},
		     {"inproc", -EINVAL},
		     {"inproc:", -EINVAL},
		     {"inproc:/", -EINVAL},
		     {"://x", -EINVAL},
		     {"inproc://a/b", -EINVAL},
		     {"inproc://a b", -EINVAL},
		     {"inproc://a\n", -EINVAL},
		     {"inproc://\xc3\xa9", -EINVAL},
		     {"rdma://127.0.0.1:1", -EPROTONOSUPPORT},
		     {"inprocs://a", -EPROTONOSUPPORT},
		     {"in://a", -EPROTONOSUPPORT},
		     {"INPROC://a", -EPROTONOSUPPORT},
		     {"inproc://A", -ECONNREFUSED},
		     {"inproc://aa", -ECONNREFUSED},
		     {"inproc://a", 0}};
	struct host h = {0};
	struct thmqi_link *link = NULL;
	size_t i;

	cr_assert_eq(listen_as(&h, "a"), 0);
	for (i = 0; i < THMQI_ARRAY_COUNT(cases); i++) {
		int rc = connect_to(cases[i].url, &link);

		cr_expect_eq(rc, cases[i].error, "%s is %d", cases[i].url, rc);
		cr_expect(rc == 0 || thmq_errmsg()[0]);
	}
	thmqi_link_close(link);
	thmqi_transport_unlisten(h.listener);
	drive();
}

Test(transport_inproc, a_scheme_that_is_missing_is_told_with_those_that_are_there)
{
	struct thmqi_link *link;

	cr_assert_eq(connect_to("rdma://host", &link), -EPROTONOSUPPORT);
	cr_assert(strstr(thmq_errmsg(), "inproc"));
	cr_assert(strstr(thmq_errmsg(), "rdma://host"));
}

Test(transport_inproc, a_name_of_255_bytes_is_the_longest)
{
	struct host h = {0};
	struct thmqi_link *link;
	char name[300], url[320];

	memset(name, 'n', sizeof(name));
	name[255] = 0;
	snprintf(url, sizeof(url), "inproc://%s", name);
	cr_assert_eq(listen_as(&h, name), 0);
	cr_assert_eq(connect_to(url, &link), 0);
	thmqi_link_close(link);
	name[255] = 'n';
	name[256] = 0;
	snprintf(url, sizeof(url), "inproc://%s", name);
	cr_assert_eq(connect_to(url, &link), -EINVAL);
	thmqi_transport_unlisten(h.listener);
	drive();
}

Test(transport_inproc, a_bare_url_is_the_only_broker)
{
	struct host one = {0}, two = {0};
	struct thmqi_link *link;

	cr_assert_eq(connect_to("inproc://", &link), -ECONNREFUSED);
	cr_assert_eq(listen_as(&one, "one"), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	cr_assert_eq(one.accepted, 1);
	thmqi_link_close(link);
	cr_assert_eq(listen_as(&two, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), -EINVAL);
	cr_assert(strstr(thmq_errmsg(), "several"));
	thmqi_transport_unlisten(one.listener);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	cr_assert_eq(two.accepted, 1);
	thmqi_link_close(link);
	drive();
	thmqi_transport_unlisten(two.listener);
}

Test(transport_inproc, a_name_is_taken_once)
{
	struct host one = {0}, two = {0};

	cr_assert_eq(listen_as(&one, "a"), 0);
	cr_assert_eq(listen_as(&two, "a"), -EEXIST);
	thmqi_transport_unlisten(one.listener);
	cr_assert_eq(listen_as(&two, "a"), 0);
	thmqi_transport_unlisten(two.listener);
}

Test(transport_inproc, frames_and_bytes_go_both_ways)
{
	struct host h = {0};
	struct thmqi_link *link;
	struct thmqi_frame *f;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	cr_assert_null(thmqi_frame_peek(&link->down, 0), "nothing is there before the core has run");
	drive();
	f = thmqi_frame_peek(&link->down, 0);
	cr_assert_not_null(f);
	cr_assert_eq(f->type, THMQI_FRAME_WELCOME);
	cr_assert_eq((uintptr_t)link->area % 64, 0);
	cr_assert_eq(link->area_bytes, 65536);
	f = thmqi_frame_claim(&link->up, 0);
	f->type = THMQI_FRAME_PRODUCE;
	f->data = (uint64_t)(uintptr_t)link->area;
	thmqi_frame_commit(&link->up);
	cr_assert_eq(thmqi_frame_peek(&h.links[0]->up, 0)->data, (uint64_t)(uintptr_t)link->area);
	thmqi_link_close(link);
	drive();
	cr_assert_eq(h.closed, 1);
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, a_shard_that_is_not_there_is_refused)
{
	struct thmqi_link_opts o = {.area_bytes = 4096, .up_frames = 8, .down_frames = 8};
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(thmqi_transport_connect(transport, "inproc://", SHARDS, &o, waiter, &link), -ECONNREFUSED);
	thmqi_transport_unlisten(h.listener);
}

static int connect_beside(const struct thmqi_link *beside, uint32_t shard, struct thmqi_link **ret_link)
{
	struct thmqi_link_opts o = {.area_bytes = 4096, .up_frames = 8, .down_frames = 8, .beside = beside};

	return thmqi_transport_connect(transport, "inproc://", shard, &o, waiter, ret_link);
}

Test(transport_inproc, a_link_beside_another_leads_to_the_same_broker_whoever_listens_now)
{
	struct host h = {0}, other = {0}, later = {0};
	struct thmqi_link *first, *second, *third;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_beside(NULL, 0, &first), 0);
	drive();
	cr_assert_eq(listen_as(&other, "other"), 0);
	cr_assert_eq(connect_beside(NULL, 1, &second), -EINVAL, "by the URL it is one of two");
	cr_assert_eq(connect_beside(first, 1, &second), 0);
	drive();
	cr_assert_eq(h.accepted, 2);
	cr_assert_eq(other.accepted, 0);
	cr_assert_eq(connect_beside(first, SHARDS, &third), -ECONNREFUSED, "it has no such shard");
	thmqi_transport_unlisten(h.listener);
	thmqi_transport_unlisten(other.listener);
	cr_assert_eq(listen_as(&later, NULL), 0);
	cr_assert_eq(connect_beside(first, 1, &third), -ESHUTDOWN, "one of the same name is not the same");
	thmqi_link_close(first);
	thmqi_link_close(second);
	drive();
	cr_assert_eq(h.closed, 2);
	cr_assert_eq(later.accepted, 0);
	thmqi_transport_unlisten(later.listener);
}

static void count_let_go(void *left)
{
	++*(uint32_t *)left;
}

Test(transport_inproc, what_the_broker_leaves_behind_is_let_go_once_the_client_has_closed)
{
	struct host h = {0};
	struct thmqi_link *link;
	uint32_t let_go = 0;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	thmqi_link_shut(h.links[0], -ESHUTDOWN);
	thmqi_link_leave(h.links[0], count_let_go, &let_go);
	drive();
	cr_assert_eq(let_go, 0);
	cr_assert_eq(atomic_load(&link->broker_closed), -ESHUTDOWN);
	thmqi_link_close(link);
	cr_assert_eq(let_go, 0, "on the core, not in the client's call");
	drive();
	cr_assert_eq(let_go, 1);
	cr_assert_eq(h.closed, 0);
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, the_error_of_accept_reaches_the_client)
{
	struct host h = {.refuse = -ENOMEM};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	cr_assert_eq(atomic_load(&link->broker_closed), 0);
	drive();
	cr_assert_eq(atomic_load(&link->broker_closed), -ENOMEM);
	thmqi_link_close(link);
	drive();
	cr_assert_eq(h.closed, 0, "what was refused is not closed");
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, a_core_without_a_thread_is_told)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(thmqi_core_detach(env), 0);
	cr_assert_eq(connect_to("inproc://", &link), -EDEADLK);
	cr_assert_eq(thmqi_core_attach(env, 0), 0);
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, the_client_may_go_before_it_was_accepted)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	thmqi_link_close(link);
	drive();
	cr_assert_eq(h.accepted, 1);
	cr_assert_eq(h.closed, 1, "first accepted, then closed");
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, the_broker_may_go_first)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	thmqi_link_shut(h.links[0], -ESHUTDOWN);
	thmqi_link_unref(h.links[0]);
	thmqi_transport_unlisten(h.listener);
	cr_assert_eq(atomic_load(&link->broker_closed), -ESHUTDOWN, "the memory is the client's still");
	thmqi_link_close(link);
	drive();
	cr_assert_eq(h.closed, 0, "a link that was shut is heard of no more");
}

Test(transport_inproc, both_may_go_in_the_same_round)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	thmqi_link_close(link); /* posted, not yet run */
	thmqi_link_shut(h.links[0], -ESHUTDOWN);
	thmqi_link_unref(h.links[0]);
	drive();
	cr_assert_eq(h.closed, 0);
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, a_link_that_is_asked_for_while_its_broker_goes_is_refused)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	thmqi_transport_unlisten(h.listener);
	memset(&h, 0xff, sizeof(h)); /* nobody may look at it from now on */
	drive();
	cr_assert_eq(atomic_load(&link->broker_closed), -ECONNREFUSED);
	thmqi_link_close(link);
	drive();
}

Test(transport_inproc, the_waiter_outlives_the_session_that_slept_on_it)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	drive();
	thmqi_link_close(link);
	thmqi_waiter_unref(waiter); /* the session is gone; the core has not heard of it */
	thmqi_link_kick_client(h.links[0]);
	drive();
	cr_assert_eq(thmqi_waiter_open(&waiter), 0);
	thmqi_transport_unlisten(h.listener);
}

Test(transport_inproc, a_sleeping_client_is_woken_by_accept_and_by_the_end)
{
	struct host h = {0};
	struct thmqi_link *link;

	cr_assert_eq(listen_as(&h, NULL), 0);
	cr_assert_eq(connect_to("inproc://", &link), 0);
	thmqi_waiter_arm(waiter);
	drive();
	cr_assert_eq(thmqi_waiter_sleep(waiter, 0), 1);
	thmqi_waiter_disarm(waiter);
	cr_assert_eq(thmqi_waiter_sleep(waiter, 0), 0);
	thmqi_waiter_arm(waiter);
	thmqi_link_shut(h.links[0], -ESHUTDOWN);
	cr_assert_eq(thmqi_waiter_sleep(waiter, 0), 1);
	thmqi_waiter_disarm(waiter);
	thmqi_link_unref(h.links[0]);
	thmqi_link_close(link);
	drive();
	thmqi_transport_unlisten(h.listener);
}
