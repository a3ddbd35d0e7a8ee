/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client_group_test.c - a member of a group against a broker that says what the test wants: a JOIN given up, a membership
 * that ended, and what a flush tells of acks that were out when a partition was taken.
 */
#include "../../lib/client/internal.h"
#include "client_rig.h"

TestSuite(client_group, .init = rig_open, .fini = rig_close);

static void connect_for(uint64_t timeout_ns)
{
	const struct thmq_session_opts o = {.size = sizeof(o), .timeout_ns = timeout_ns};

	cr_assert_eq(rig_connect(&o), 0);
}

static int open_member(struct thmq_consumer **ret_consumer)
{
	const struct thmq_consumer_opts o = {.size = sizeof(o)};

	return thmqi_client_consumer_open(rig_self->session, "t", "g", &o, ret_consumer);
}

/* Frames that are there are taken in. */
static void take_in(void)
{
	struct thmq_event e[16];
	int i;

	for (i = 0; i < 4; i++) {
		rig_drive();
		while (thmqi_client_events(rig_self->session, e, 16) > 0)
			;
	}
	rig_drive();
}

static void assign(const struct thmq_consumer *c, uint32_t index, uint64_t epoch)
{
	PUSH(0, .type = THMQI_FRAME_ASSIGN, .stream = c->stream, .partition = RIG_FIRST + index,
	     .len = index, .seq = epoch, .arg = {rig_shard(index), RIG_GROUP});
	take_in();
	take_in();
	cr_assert_eq(c->readings[index].state, READING_ON);
}

/* As if the app had fetched @offset. */
static int ack(struct thmq_consumer *c, uint32_t index, uint64_t offset)
{
	struct thmq_message m = {.partition = index, .offset = offset};

	m.internal[1] = (uint64_t)(VIEW_MARK | c->stream) << 48;
	c->readings[index].handed =
		THMQI_MAX(c->readings[index].handed, offset + 1); /* as if it had been fetched */
	return thmqi_client_ack(c, &m);
}

static void acked(const struct thmq_consumer *c, uint32_t index, uint64_t next, int status)
{
	PUSH(rig_shard(index), .type = THMQI_FRAME_ACKED, .stream = c->stream,
	     .partition = RIG_FIRST + index, .seq = next, .status = status);
}

static void take_away(const struct thmq_consumer *c, uint32_t index, uint64_t epoch)
{
	PUSH(0, .type = THMQI_FRAME_REVOKE, .stream = c->stream, .partition = RIG_FIRST + index,
	     .seq = epoch, .status = -THMQ_EFENCED);
}

/* ------------------------------------------------------------------- joining */

Test(client_group, a_join_that_is_given_up_is_followed_by_a_leave_which_needs_no_answer)
{
	struct thmqi_frame f = {0};
	struct thmq_consumer *c;

	connect_for(SECOND / 20);
	rig_self->mute_op = THMQI_OP_JOIN;
	cr_assert_eq(open_member(&c), -ETIMEDOUT);
	take_in();
	cr_assert_eq(rig_control_of(THMQI_FRAME_LEAVE, &f), 1);
	cr_assert_eq(f.stream, 0);
	/* what is late for that stream is nobody else's */
	rig_self->mute_op = 0;
	PUSH(0, .type = THMQI_FRAME_REPLY, .seq = rig_self->unanswered);
	cr_assert_eq(open_member(&c), 0);
	cr_assert_eq(c->stream, 1);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
	cr_assert_eq(rig_control_of(THMQI_FRAME_LEAVE, NULL), 1,
		     "that one had an answer to its request");
}

Test(client_group, a_join_for_which_there_is_no_room_in_the_log_for_a_moment_is_asked_for_again)
{
	struct thmq_consumer *c;

	connect_for(10 * SECOND);
	rig_self->held_up = 2;
	cr_assert_eq(open_member(&c), 0);
	cr_assert_eq(rig_self->held_up, 0);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, and_as_long_as_its_time_allows)
{
	struct thmq_consumer *c;

	connect_for(SECOND / 10);
	rig_self->held_up = UINT32_MAX;
	cr_assert_eq(open_member(&c), -ETIMEDOUT);
}

Test(client_group, a_leave_that_finds_no_room_goes_when_there_is_some)
{
	struct thmq_consumer *c;
	struct thmqi_frame *f;

	connect_for(SECOND / 20);
	rig_self->mute_op = THMQI_OP_JOIN;
	rig_self->deaf_to_ctl = false;
	cr_assert_eq(open_member(&c), -ETIMEDOUT);
	take_in();
	rig_forget();
	rig_self->deaf_to_ctl = true;
	while ((f = thmqi_frame_claim(&rig_self->links[0]->ctl, 0))) {
		f->type = THMQI_FRAME_REVOKED;
		thmqi_frame_commit(&rig_self->links[0]->ctl);
	}
	thmqi_consumer_leave(rig_self->session, 0);
	take_in();
	rig_self->deaf_to_ctl = false;
	take_in();
	take_in();
	cr_assert_eq(rig_control_of(THMQI_FRAME_LEAVE, NULL), 1);
}

/* ------------------------------------------------------------------ expelled */

Test(client_group, a_member_taken_for_dead_hears_so_from_fetch)
{
	struct thmq_consumer *c;
	struct thmq_message m;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	cr_assert_eq(thmqi_client_fetch(c, &m, 1), 0);
	PUSH(0, .type = THMQI_FRAME_EXPELLED, .stream = c->stream, .status = -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_session_wait(rig_self->session, SECOND), 1);
	cr_assert_eq(thmqi_client_fetch(c, &m, 1), -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_fetch(c, &m, 1), -THMQ_EFENCED, "for ever");
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

/* ----------------------------------------------------------------------- acks */

/* It has partition 0, and its ack of @offset is on its way. */
static struct thmq_consumer *member_that_acked(uint64_t offset)
{
	struct thmq_consumer *c;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	cr_assert_eq(ack(c, 0, offset), 0);
	rig_drive();
	return c;
}

Test(client_group, an_ack_of_what_the_broker_has_not_got_is_asked_for_once_more_and_told_once)
{
	struct thmq_consumer *c = member_that_acked(9);

	acked(c, 0, 10, -EINVAL);
	take_in();
	rig_self->refuse_acks = -EINVAL;
	rig_forget();
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), -THMQ_EOFFSETRANGE, "it is not stored");
	cr_assert_eq(rig_control_of(THMQI_FRAME_ACK, NULL), 1, "it could have been by now");
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(ack(c, 0, 10), 0);
	rig_drive();
	acked(c, 0, 11, -EINVAL);
	take_in();
	rig_self->refuse_acks = 0;
	rig_self->take_acks = true;
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0, "this time it had it by then");
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, an_ack_that_was_stored_before_the_partition_was_taken_was_not_refused)
{
	struct thmq_consumer *c = member_that_acked(9);

	/* both are there when the client looks, which it does at the meta link first */
	acked(c, 0, 10, 0);
	take_away(c, 0, 77);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(ack(c, 0, 10), -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, an_ack_that_was_taken_and_not_answered_yet_was_not_refused)
{
	struct thmq_consumer *c;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	cr_assert_eq(ack(c, 0, 9), 0);
	take_away(c, 0, 77);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0,
		     "the shard's answer to DETACH is all that comes");
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

/* It is asked back while an ack is on its way. */
static struct thmq_consumer *asked_back(void)
{
	const struct thmq_session_opts o = {.size = sizeof(o), .timeout_ns = 10 * SECOND, .reconnect_ns = 60 * SECOND};
	struct thmq_consumer *c;

	cr_assert_eq(rig_connect(&o), 0);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	rig_self->no_detached = true;
	cr_assert_eq(ack(c, 0, 9), 0);
	PUSH(0, .type = THMQI_FRAME_REVOKE, .stream = c->stream, .partition = RIG_FIRST, .seq = 77);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_DRAINING);
	return c;
}

Test(client_group, a_partition_is_let_go_once_its_acks_are_stored)
{
	struct thmq_consumer *c = asked_back();

	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND / 100), -ETIMEDOUT);
	acked(c, 0, 10, 0);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_DETACHING);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	PUSH(rig_shard(0), .type = THMQI_FRAME_DETACHED, .stream = c->stream, .partition = RIG_FIRST, .seq = 77);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_NONE);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, a_partition_whose_acks_cannot_be_stored_is_let_go_and_that_is_told)
{
	struct thmq_consumer *c = asked_back();

	acked(c, 0, 10, -ENOSPC);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_DETACHING);
	rig_shut(-ECONNRESET);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_NONE);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), -THMQ_EFENCED, "nobody knows whether it will be stored");
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, acks_that_were_on_their_way_when_the_connection_of_a_partition_that_is_asked_back_broke_go_again)
{
	struct thmq_consumer *c = asked_back();

	rig_shut(-ECONNRESET);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_DRAINING, "it is attached again");
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND / 100), -ETIMEDOUT);
	acked(c, 0, 10, 0);
	take_in();
	cr_assert_eq(c->readings[0].state, READING_DETACHING);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
}

Test(client_group, what_was_never_fetched_is_not_acknowledged)
{
	struct thmq_message m = {.offset = 10};
	struct thmq_consumer *c;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	cr_assert_eq(ack(c, 0, 9), 0);
	m.internal[1] = (uint64_t)(VIEW_MARK | c->stream) << 48;
	cr_assert_eq(thmqi_client_ack(c, &m), -EINVAL);
	m.offset = UINT64_MAX; /* no offset is behind it */
	cr_assert_eq(thmqi_client_ack(c, &m), -EINVAL);
	m.offset = 9;
	m.span = UINT32_MAX;
	cr_assert_eq(thmqi_client_ack(c, &m), -EINVAL);
	m.span = 0;
	cr_assert_eq(thmqi_client_ack(c, &m), 0);
	acked(c, 0, 10, 0);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, an_ack_that_the_shard_refused_is_told_once)
{
	struct thmq_consumer *c;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	rig_self->no_detached = true;
	cr_assert_eq(ack(c, 0, 9), 0);
	take_away(c, 0, 77);
	take_in();
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND / 100), -ETIMEDOUT,
		     "it is not known yet");
	acked(c, 0, 10, -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}

Test(client_group, a_newer_owner_at_the_shard_is_asked_what_became_of_the_acks)
{
	struct thmq_consumer *c;

	connect_for(SECOND);
	cr_assert_eq(open_member(&c), 0);
	assign(c, 0, 77);
	cr_assert_eq(ack(c, 0, 9), 0);
	PUSH(1, .type = THMQI_FRAME_DETACHED, .stream = c->stream, .partition = RIG_FIRST,
	     .seq = 77, .status = -THMQ_EFENCED);
	cr_assert_eq(thmqi_client_consumer_flush(c, SECOND), 0);
	cr_assert_eq(rig_control_of(THMQI_FRAME_DETACH, NULL), 1);
	cr_assert_eq(thmqi_client_consumer_close(c, SECOND), 0);
}
