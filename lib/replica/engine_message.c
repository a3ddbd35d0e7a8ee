/* SPDX-License-Identifier: Apache-2.0 */
/* engine_message.c - messages, memberships and errors as raft has them, and as all others do. */
#include "engine_raft.h"

const uint64_t thmqi_engine_token = 0;

int thmqi_engine_error(int rv)
{
	switch (rv) {
	case 0:
		return 0;
	case RAFT_NOMEM:
		return -ENOMEM;
	case RAFT_NOTLEADER:
	case RAFT_LEADERSHIPLOST:
		return -THMQ_ENOTLEADER;
	case RAFT_CANTCHANGE:
	case RAFT_NOSPACE:
	case RAFT_BUSY:
		return -EAGAIN;
	case RAFT_BADID:
	case RAFT_BADROLE:
	case RAFT_DUPLICATEID:
	case RAFT_NOTFOUND:
	case RAFT_INVALID:
		return -EINVAL;
	default: /* RAFT_SHUTDOWN: committed entries contradict each other */
		return -THMQ_ECORRUPT;
	}
}

static int role_of(uint32_t role)
{
	return role == THMQI_MEMBER_VOTER     ? RAFT_VOTER
	       : role == THMQI_MEMBER_STANDBY ? RAFT_STANDBY
					      : RAFT_SPARE;
}

int thmqi_engine_configuration(const struct thmqi_members *m, struct raft_configuration *ret)
{
	uint32_t i;
	int rv = 0;

	raft_configuration_init(ret);
	for (i = 0; i < m->count && !rv; i++)
		rv = raft_configuration_add(ret, m->list[i].id, m->list[i].address,
					    role_of(m->list[i].role));
	if (rv)
		raft_configuration_close(ret);
	return thmqi_engine_error(rv);
}

int thmqi_engine_encode(const struct thmqi_members *m, struct raft_buffer *ret)
{
	struct raft_configuration c;
	int rc = thmqi_engine_configuration(m, &c);

	if (rc)
		return rc;
	rc = thmqi_engine_error(raft_configuration_encode(&c, ret));
	raft_configuration_close(&c);
	return rc;
}

void thmqi_engine_send(struct thmqi_engine *e, const struct raft_message *m)
{
	struct thmqi_message out = {.magic = THMQI_MESSAGE_MAGIC,
				    .version = THMQI_MESSAGE_VERSION,
				    .type = (uint8_t)m->type,
				    .group = e->opts.group,
				    .from = e->opts.id,
				    .to = m->server_id};
	uint32_t batches = 0;

	if (m->server_id == e->nobody && e->nobody)
		return;
	switch (m->type) {
	case RAFT_APPEND_ENTRIES:
		out.term = m->append_entries.term;
		out.index = m->append_entries.prev_log_index;
		out.index_term = m->append_entries.prev_log_term;
		out.commit = m->append_entries.leader_commit;
		batches = m->append_entries.n_entries;
		break;
	case RAFT_APPEND_ENTRIES_RESULT:
		out.term = m->append_entries_result.term;
		out.index = e->outdated ? 0 : m->append_entries_result.last_log_index;
		out.index_term = m->append_entries_result.rejected;
		if (out.index_term && out.index && e->asked_term) { /* B16 */
			out.index = thmqi_engine_back(e, out.index, e->asked_term);
			out.commit = thmqi_engine_term_of(e, out.index);
		}
		out.features = m->append_entries_result.features;
		out.capacity = m->append_entries_result.capacity;
		break;
	case RAFT_REQUEST_VOTE:
		out.term = m->request_vote.term;
		out.index = m->request_vote.last_log_index;
		out.index_term = m->request_vote.last_log_term;
		out.flags = (uint8_t)((m->request_vote.disrupt_leader ? THMQI_MESSAGE_DISRUPT : 0) |
				      (m->request_vote.pre_vote ? THMQI_MESSAGE_PRE_VOTE : 0));
		break;
	case RAFT_REQUEST_VOTE_RESULT:
		out.term = m->request_vote_result.term;
		if (m->request_vote_result.pre_vote && !breaks(e, THMQI_GROUP_NO_B15)) /* B15 */
			out.term = THMQI_MAX(out.term, (uint64_t)e->raft.current_term);
		out.features = m->request_vote_result.features;
		out.capacity = m->request_vote_result.capacity;
		out.flags =
			(uint8_t)((m->request_vote_result.vote_granted ? THMQI_MESSAGE_GRANTED
								       : 0) |
				  (m->request_vote_result.pre_vote ? THMQI_MESSAGE_PRE_VOTE : 0));
		break;
	case RAFT_INSTALL_SNAPSHOT:
		out.term = m->install_snapshot.term;
		out.index = m->install_snapshot.last_index;
		out.index_term = m->install_snapshot.last_term;
		out.commit = m->install_snapshot.conf_index;
		break;
	case RAFT_TIMEOUT_NOW:
		out.term = m->timeout_now.term;
		out.index = m->timeout_now.last_log_index;
		out.index_term = m->timeout_now.last_log_term;
		break;
	default:
		return;
	}
	e->opts.send(e->opts.ctx, &out, batches);
}

void thmqi_engine_message(const struct thmqi_message *m, struct raft_message *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->type = m->type;
	ret->server_id = m->from;
	ret->server_address = "-"; /* it is answered by its number */
}

static int receive_snapshot(const struct thmqi_message *message,
			    const struct thmqi_members *members, struct raft_message *m)
{
	struct raft_install_snapshot *i = &m->install_snapshot;

	i->term = message->term;
	i->last_index = message->index;
	i->last_term = message->index_term;
	i->conf_index = message->commit;
	if (!members || !message->term || !message->index || !message->index_term)
		return -EINVAL;
	i->data.len = sizeof(thmqi_engine_token);
	i->data.base = raft_malloc(i->data.len);
	return i->data.base ? thmqi_engine_configuration(members, &i->conf) : -ENOMEM;
}

/* B8; one of a newer term is none: it says that another one is to lead */
static bool is_late_refusal(const struct thmqi_engine *e, const struct thmqi_message *message)
{
	raft_index match = 0;

	if (!message->index_term || message->term > e->raft.current_term || breaks(e, THMQI_GROUP_NO_B8) ||
	    raft_match_index(&e->raft, message->from, &match) != 0)
		return false;
	return message->index_term <= match;
}

/* Return: 1 it is to be passed on; 0 it is dropped; or an error. */
int thmqi_engine_convert(struct thmqi_engine *e, const struct thmqi_message *message,
			 const struct thmqi_members *members, struct raft_message *m)
{
	bool granted = message->flags & THMQI_MESSAGE_GRANTED,
	     pre_vote = message->flags & THMQI_MESSAGE_PRE_VOTE;

	thmqi_engine_message(message, m);
	switch (message->type) {
	case THMQI_MESSAGE_APPENDED:
		if (is_late_refusal(e, message))
			return 0;
		m->append_entries_result =
			(struct raft_append_entries_result){.version = 1,
							    .term = message->term,
							    .rejected = message->index_term,
							    .last_log_index = message->index,
							    .features = message->features,
							    .capacity = message->capacity};
		if (message->index_term && message->commit && !breaks(e, THMQI_GROUP_NO_B16)) /* B16 */
			m->append_entries_result.last_log_index = thmqi_engine_back(e, message->index, message->commit);
		return 1;
	case THMQI_MESSAGE_VOTE:
		m->request_vote = (struct raft_request_vote){
			.version = 2,
			.term = message->term,
			.candidate_id = message->from,
			.last_log_index = message->index,
			.last_log_term = message->index_term,
			.disrupt_leader = message->flags & THMQI_MESSAGE_DISRUPT,
			.pre_vote = pre_vote};
		return 1;
	case THMQI_MESSAGE_VOTED:
		if (e->raft.state != RAFT_CANDIDATE) /* B3; B7 where that is left out */
			return breaks(e, THMQI_GROUP_NO_B3) ? -THMQ_ECORRUPT : 0;
		m->request_vote_result =
			(struct raft_request_vote_result){.version = 2,
							  .term = message->term,
							  .vote_granted = granted,
							  .pre_vote = pre_vote,
							  .features = message->features,
							  .capacity = message->capacity};
		return 1;
	case THMQI_MESSAGE_SNAPSHOT: {
		if (e->raft.state == RAFT_LEADER && message->term == e->raft.current_term) /* B7 */
			return 0;
		int rc = receive_snapshot(message, members, m);

		return rc ? rc : 1;
	}
	case THMQI_MESSAGE_TIMEOUT_NOW:
		m->timeout_now = (struct raft_timeout_now){.version = 1,
							   .term = message->term,
							   .last_log_index = message->index,
							   .last_log_term = message->index_term};
		return 1;
	default:
		return 0;
	}
}

int thmqi_engine_members(const struct raft_configuration *c, struct thmqi_members *ret)
{
	unsigned i;

	memset(ret, 0, sizeof(*ret));
	if (c->n > THMQI_MEMBERS_MAX)
		return -THMQ_ECORRUPT;
	for (i = 0; i < c->n; i++) {
		struct thmqi_member *m = &ret->list[i];

		m->id = c->servers[i].id;
		m->role = c->servers[i].role == RAFT_VOTER     ? THMQI_MEMBER_VOTER
			  : c->servers[i].role == RAFT_STANDBY ? THMQI_MEMBER_STANDBY
							       : THMQI_MEMBER_SPARE;
		strncpy(m->address, c->servers[i].address, sizeof(m->address) - 1);
	}
	ret->count = c->n;
	return 0;
}
