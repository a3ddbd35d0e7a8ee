/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls.c - a session's requests and their answers, one at a time on a link; and what becomes of one whose connection was lost before its answer came: nobody knows
 * whether it was done. It is said again wherever that does no harm: where it changes nothing, where twice is as good as once, or where it carries something by which
 * the broker, or the answer, tells that it was done before. Blocking; not on any message's path.
 */
#include "internal.h"

#define AGAIN_NS 20000000u

static bool is_replied(void *arg)
{
	struct client_link *l = arg;

	return l->replied || l->dead;
}

static int request_once(struct thmq_session *s, struct client_link *l, const struct thmqi_request *request,
			uint64_t deadline, const struct thmqi_reply **ret_reply)
{
	struct thmqi_frame *f;
	int rc;

	/* before anything is sent: what is refused has not happened, and no quick answer makes it happen */
	if (thmqi_session_stuck(s))
		return -EDEADLK;
	do {
		rc = thmqi_session_wait_up(s, l, deadline);
		/* the page is the broker's until it has answered the request before, whoever gave up waiting for that */
		if (!rc && !l->replied)
			rc = thmqi_session_block(s, is_replied, l, deadline);
		if (!rc)
			rc = thmqi_session_ctl_claim(s, l, deadline, &f);
	} while (!rc && !(l->up && l->replied)); /* something came in between */
	if (rc)
		return rc;
	*l->wire->request = *request;
	l->request_id = ++s->next_request;
	l->replied = false;
	f->type = THMQI_FRAME_REQUEST;
	f->seq = l->request_id;
	thmqi_frame_commit(&l->wire->ctl);
	thmqi_link_kick_broker(l->wire);
	rc = thmqi_session_block(s, is_replied, l, deadline);
	if (rc)
		return rc;
	if (!l->replied)
		return l->dead;
	if (ret_reply)
		*ret_reply = l->wire->reply;
	return l->reply_status;
}

/* May it be said twice? */
static bool may_repeat(const struct thmqi_request *r)
{
	switch (r->op) {
	case THMQI_OP_TOPIC_DELETE: /* by its number it does not meet another topic of that name */
		return r->topic_id != 0;
	case THMQI_OP_GROUP_DELETE:
		return r->group_id != 0;
	case THMQI_OP_TXN_BEGIN:
	case THMQI_OP_TXN_OFFSET:
		return false;
	case THMQI_OP_LEAD: /* another one may lead already */
		return r->volatile_bytes != 0;
	case THMQI_OP_TOPIC_CREATE: /* it is known by a number of its own */
		return r->member || (r->topic_flags & THMQ_TOPIC_IF_ABSENT);
	case THMQI_OP_JOIN:
		return r->member != 0 || (r->topic_flags & THMQI_JOIN_SHARED); /* that makes no member */
	default:
		return true;
	}
}

/* What an answer means, where it was said before and may have been done. */
static int meant(const struct thmqi_request *r, int status)
{
	if (status == -THMQ_ENOQUORUM) /* that nothing was done is known of the last time only */
		return -ETIMEDOUT;
	switch (r->op) {
	case THMQI_OP_TOPIC_DELETE:
		return status == -THMQ_ENOTOPIC ? 0 : status;
	case THMQI_OP_GROUP_DELETE:
		return status == -ENOENT || status == -THMQ_ENOTOPIC ? 0 : status;
	case THMQI_OP_TXN_END: /* forced: it was, and is not remembered */
		return status == -ENOENT && r->index == THMQI_TXN_ABORT ? 0 : status;
	case THMQI_OP_DELAYED_CANCEL: /* this cancelled it, or it came: nobody knows */
		return status == -ENOENT ? -ECONNRESET : status;
	default:
		return status;
	}
}

/*
 * It is being done still, as it was said @before; of a topic, as this one or another one said, perhaps the very same by a program that began at the same time. Of
 * others -EBUSY says something else.
 */
static bool is_under_way(const struct thmqi_request *r, int status, bool before)
{
	if (status == -EALREADY)
		return r->op == THMQI_OP_GROUP_DELETE; /* as this one or another one said */
	if (r->op == THMQI_OP_TOPIC_CREATE || r->op == THMQI_OP_TOPIC_DELETE || r->op == THMQI_OP_TOPIC_ALTER)
		return status == -EBUSY;
	return before && status == -EBUSY && (r->op == THMQI_OP_PRODUCER_OPEN || (r->op == THMQI_OP_GROUP_DELETE && (r->topic_flags & THMQI_GROUP_FORCE)));
}

/* Nothing was done, since meta's log takes nothing for a moment: its next segment is being made. Of others -EAGAIN says something else. */
static bool is_held_up(const struct thmqi_request *r, int status)
{
	switch (r->op) {
	case THMQI_OP_TOPIC_CREATE:
	case THMQI_OP_TOPIC_DELETE:
	case THMQI_OP_TOPIC_ALTER:
	case THMQI_OP_JOIN:
	case THMQI_OP_PRODUCER_OPEN:
	case THMQI_OP_GROUP_DELETE:
		return status == -EAGAIN;
	default:
		return false;
	}
}

static bool can_store(void *arg)
{
	return !((const struct thmq_session *)arg)->reads_only;
}

/* Where nothing can be stored it waits for that. */
int thmqi_session_request(struct thmq_session *s, struct client_link *l, const struct thmqi_request *request,
			  uint64_t deadline, const struct thmqi_reply **ret_reply)
{
	bool again, before = false;
	int rc, waited;

	do {
		rc = request_once(s, l, request, deadline, ret_reply);
		again = (rc == -ECONNRESET || rc == -THMQ_ENOTLEADER) && !s->dead && may_repeat(request);
		before |= again;
		if (rc == -THMQ_ENOQUORUM) {
			waited = thmqi_session_block(s, can_store, s, deadline);
			again = !waited;
			rc = waited && waited != -ETIMEDOUT ? waited : rc;
		} else if (is_held_up(request, rc) || is_under_way(request, rc, before)) {
			waited = thmqi_session_rest(s, AGAIN_NS, deadline);
			again = !waited;
			rc = waited ? waited : rc;
		}
	} while (again);
	return before ? meant(request, rc) : rc;
}

int thmqi_session_meta(struct thmq_session *s, const struct thmqi_request *request,
		       const struct thmqi_reply **ret_reply)
{
	return thmqi_session_request(s, s->links[0], request, thmqi_session_deadline(s, s->opts.timeout_ns),
				     ret_reply);
}
