/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.c - a connection's queue pair: made, told who the other is, its requests posted and counted, drained and destroyed.
 * Requests are counted by us alone, and one's place is free only once a completion behind it was seen: a device that gives
 * places back by itself may be less patient than the next one.
 */
#include "medium.h"

#define TIMEOUT 17u /* 4.096 us << this: 537 ms until a packet is sent again */
#define RETRIES 7u
#define RNR_RETRIES 6u    /* 7 would be for ever */
#define MIN_RNR_TIMER 12u /* 0.64 ms; the connection manager leaves 655 */

/* --------------------------------------------------------------- made, known */

/* Rights of the other side. A broker gives none. */
static int access_of(const struct rdma_conn *c)
{
	bool gives = !c->joint.of_broker && !thmqi_rdma_info(c->trust->hub->device)->is_iwarp;

	return gives ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0;
}

static uint32_t reads_of(const struct rdma_conn *c)
{
	return THMQI_MIN(thmqi_rdma_info(c->trust->hub->device)->reads_max, RDMA_READS);
}

static int modify(struct rdma_conn *c, enum ibv_qp_state state)
{
	const struct rdma_world *w = c->home->world;
	struct ibv_qp_attr attr = {.qp_state = state};
	int rc, mask = 0;

	if (w->cm.init_qp_attr(c->id, &attr, &mask) != 0)
		return errno ? -errno : -EIO;
	if (mask & IBV_QP_ACCESS_FLAGS)
		attr.qp_access_flags = (unsigned int)access_of(c);
	/* what follows is not asked for by iWARP, which has TCP below it */
	if (mask & IBV_QP_MIN_RNR_TIMER)
		attr.min_rnr_timer = MIN_RNR_TIMER;
	if (mask & IBV_QP_TIMEOUT)
		attr.timeout = TIMEOUT;
	if (mask & IBV_QP_RETRY_CNT)
		attr.retry_cnt = RETRIES;
	if (mask & IBV_QP_MAX_DEST_RD_ATOMIC)
		attr.max_dest_rd_atomic = (uint8_t)(c->joint.of_broker ? 1 : reads_of(c));
	if (mask & IBV_QP_MAX_QP_RD_ATOMIC)
		attr.max_rd_atomic = c->joint.of_broker ? c->reads_max : 1;
	if (mask & IBV_QP_RNR_RETRY)
		attr.rnr_retry = RNR_RETRIES;
	rc = w->verbs.modify_qp(c->qp, &attr, mask);
	return rc > 0 ? -rc : rc;
}

static int create(struct rdma_conn *c)
{
	static const uint32_t inline_bytes[] = {RDMA_INLINE_BYTES, 64, 0};
	const struct rdma_hub *hub = c->trust->hub;
	struct ibv_qp_init_attr init;
	uint32_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(inline_bytes) && !c->qp; i++) {
		init = (struct ibv_qp_init_attr){.qp_context = c,
						 .send_cq = hub->send_cq,
						 .recv_cq = hub->recv_cq,
						 .srq = c->trust->srq,
						 .cap = {.max_send_wr = RDMA_SQ,
							 .max_send_sge = 1,
							 .max_inline_data = inline_bytes[i]},
						 .qp_type = IBV_QPT_RC};
		errno = 0;
		c->qp = c->home->world->verbs.create_qp(thmqi_rdma_domain_pd(c->trust->domain),
							&init);
	}
	if (!c->qp)
		return errno ? -errno : -ENOMEM;
	c->inline_max = init.cap.max_inline_data;
	return thmqi_map_put((struct thmqi_map *)&hub->conns, c->qp->qp_num, c);
}

int thmqi_rdma_queue_open(struct rdma_conn *c)
{
	const struct tcp_address *where = c->joint.of_broker ? NULL : &c->addresses[c->address_next - 1];
	struct rdma_hub *hub;
	int rc;

	if (!c->id->verbs)
		return -ENODEV;
	rc = thmqi_rdma_hub(c->home, c->id->verbs, &hub);
	if (rc)
		return rc;
	if (hub->cq_room < RDMA_SQ)
		return -ENOBUFS;
	rc = thmqi_rdma_trust(hub, where, &c->trust);
	if (rc)
		return rc;
	hub->cq_room -= RDMA_SQ;
	c->reads_max = (uint8_t)THMQI_MIN((uint32_t)c->reads_max, reads_of(c));
	rc = thmqi_rdma_trust_room(c->trust);
	if (rc) {
		hub->cq_room += RDMA_SQ;
		thmqi_rdma_trust_unref(c->trust);
		c->trust = NULL;
		return rc;
	}
	rc = thmqi_rdma_memory_open(c->trust, THMQ_PURPOSE_SEND, &c->tx);
	if (!rc)
		rc = create(c);
	/* what fails from here on the end of the connection undoes */
	return rc ? rc : modify(c, IBV_QPS_INIT);
}

int thmqi_rdma_queue_ready(struct rdma_conn *c)
{
	/* once more: only now are the rights known */
	int rc = modify(c, IBV_QPS_INIT);

	if (!rc)
		rc = modify(c, IBV_QPS_RTR);
	return rc ? rc : modify(c, IBV_QPS_RTS);
}

/* @ask is what we say to the other. */
void thmqi_rdma_param(const struct rdma_conn *c, const struct rdma_ask *ask,
		      struct rdma_conn_param *ret)
{
	*ret = (struct rdma_conn_param){.private_data = ask,
					.private_data_len = sizeof(*ask),
					.responder_resources =
						c->joint.of_broker ? 1 : (uint8_t)reads_of(c),
					.initiator_depth = c->joint.of_broker ? c->reads_max : 1,
					.flow_control = 1,
					.retry_count = RETRIES,
					.rnr_retry_count = RNR_RETRIES,
					.srq = 1,
					.qp_num = c->qp->qp_num};
}

/* The link's data area, for reads: the client's that the broker asks, the broker's that take what was read. */
int thmqi_rdma_register_area(struct rdma_conn *c)
{
	struct thmqi_link *link = c->joint.link;

	if (thmqi_rdma_info(c->trust->hub->device)->is_iwarp)
		return -EOPNOTSUPP; /* there reads land only where peers may write */
	errno = 0;
	c->area = c->home->world->verbs.reg_mr(
		thmqi_rdma_domain_pd(c->trust->domain), link->area, link->area_bytes,
		c->joint.of_broker ? IBV_ACCESS_LOCAL_WRITE : IBV_ACCESS_REMOTE_READ);
	if (!c->area)
		return errno ? -errno : -ENOMEM;
	return 0;
}

/* ----------------------------------------------------------------- requests */

struct ibv_send_wr *thmqi_rdma_request(struct rdma_conn *c, uint32_t kind, uint32_t ref,
				       const struct ibv_sge *sge)
{
	struct ibv_send_wr *wr = &c->wr[c->wr_count];
	uint64_t number = c->sq_posted++;

	c->sq_kind[number % RDMA_SQ] = (uint8_t)kind;
	c->sq_ref[number % RDMA_SQ] = ref;
	*wr = (struct ibv_send_wr){.wr_id = number, .next = wr + 1};
	if (sge) {
		c->sge[c->wr_count] = *sge;
		wr->sg_list = &c->sge[c->wr_count];
		wr->num_sge = 1;
	}
	if (kind != RDMA_CHUNK || number - c->sq_signalled >= RDMA_SIGNAL_EVERY) {
		wr->send_flags = IBV_SEND_SIGNALED;
		c->sq_signalled = number;
	}
	c->wr_count++;
	return wr;
}

void thmqi_rdma_post(struct rdma_conn *c)
{
	struct thmqi_rdma_counters *counters = &c->home->counters;
	struct ibv_send_wr *bad = NULL;
	uint32_t i;
	int rc;

	if (!c->wr_count)
		return;
	c->wr[c->wr_count - 1].next = NULL;
	for (i = c->wr_count; i-- > 0;)
		if (c->wr[i].opcode == IBV_WR_SEND) {
			c->wr[i].send_flags |= IBV_SEND_SOLICITED;
			break;
		}
	counters->requests += c->wr_count;
	counters->doorbells++;
	rc = ibv_post_send(c->qp, c->wr, &bad);
	if (thmqi_unlikely(rc)) {
		/* those from bad on were not taken */
		c->sq_posted -= bad ? c->wr_count - (uint64_t)(bad - c->wr) : c->wr_count;
		c->wr_count = 0;
		thmqi_rdma_end(c, rc > 0 ? -rc : -EIO);
		return;
	}
	c->wr_count = 0;
	c->joint.said_ns = c->joint.moved_ns = c->core->now_ns;
}

static int error_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return -ETIMEDOUT;
	case IBV_WC_REM_ACCESS_ERR:
		return -EACCES;
	case IBV_WC_WR_FLUSH_ERR:
	case IBV_WC_REM_OP_ERR:
		return -ECONNRESET;
	default:
		return -EIO;
	}
}

/* One request has completed, and those before it with it. */
static int completed(struct rdma_conn *c, uint64_t number)
{
	uint32_t ref = c->sq_ref[number % RDMA_SQ];

	switch (c->sq_kind[number % RDMA_SQ]) {
	case RDMA_CHUNK:
		c->tx_done++;
		return 0;
	case RDMA_READ:
		return thmqi_rdma_pulled(c, ref);
	case RDMA_WRITE:
		thmqi_rdma_wrote(c, ref);
		return 0;
	default:
		return 0;
	}
}

void thmqi_rdma_sent(struct rdma_conn *c, const struct ibv_wc *wc)
{
	uint64_t number = wc->wr_id;
	int rc = 0;

	if (number - c->sq_done >= c->sq_posted - c->sq_done)
		return;
	if (wc->status != IBV_WC_SUCCESS || c->state == RDMA_CLOSED) {
		c->sq_done = number + 1;
		thmqi_rdma_end(c, error_of(wc->status));
		return;
	}
	while (c->sq_done <= number && !rc)
		rc = completed(c, c->sq_done++);
	if (rc)
		thmqi_rdma_end(c, rc);
}

/* ---------------------------------------------------------------------- end */

void thmqi_rdma_queue_fail(struct rdma_conn *c)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	struct ibv_send_wr *bad, *wr;

	c->sq_posted -= c->wr_count; /* of what was made and not posted nobody hears */
	c->wr_count = 0;
	if (!c->qp || c->draining)
		return;
	c->home->world->verbs.modify_qp(c->qp, &attr, IBV_QP_STATE);
	/* a last one, behind all others: it comes back with an error, and then none is left */
	wr = thmqi_rdma_request(c, RDMA_LAST, 0, NULL);
	wr->opcode = IBV_WR_SEND;
	wr->next = NULL;
	c->wr_count = 0;
	c->draining = true;
	ibv_post_send(c->qp, wr, &bad); /* if it is refused, time ends the wait */
}

bool thmqi_rdma_queue_drained(const struct rdma_conn *c)
{
	return !c->qp || (c->sq_done == c->sq_posted && c->last_seen);
}

void thmqi_rdma_queue_close(struct rdma_conn *c)
{
	const struct rdma_world *w = c->home->world;

	if (c->qp) {
		thmqi_map_remove(&c->trust->hub->conns, c->qp->qp_num);
		w->verbs.destroy_qp(c->qp);
		c->qp = NULL;
	}
	if (c->area)
		w->verbs.dereg_mr(c->area);
	c->area = NULL;
	if (c->trust)
		thmqi_rdma_memory_close(c->trust, &c->tx);
	if (c->id)
		w->cm.destroy_id(c->id);
	c->id = NULL;
	if (c->trust) {
		c->trust->blocks_wanted--;
		c->trust->hub->cq_room += RDMA_SQ;
	}
}
