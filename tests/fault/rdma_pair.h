/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_pair.h - for plain programs: two reliable queue pairs of one device, connected to one another without a connection
 * manager, and single requests on them. Each side has a protection domain of its own, as two processes would.
 */
#ifndef RDMA_PAIR_H
#define RDMA_PAIR_H

#include <infiniband/verbs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/calls.h"
#include "rdma/rdma.h"

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define SECOND 1000000000ull
#define PAIR_PATIENCE (30 * SECOND) /* an emulated machine is slow */

struct side {
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
};

struct pair {
	struct ibv_context *context;
	struct side a, b;
};

static inline void side_open(struct ibv_context *context, struct ibv_pd *pd, struct side *s)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
		.cap = {.max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1, .max_recv_sge = 1}};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
				   .port_num = 1,
				   .qp_access_flags =
					   IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE};

	s->pd = pd;
	s->cq = ibv_create_cq(context, 32, NULL, NULL, 0);
	CHECK(s->cq);
	init.send_cq = init.recv_cq = s->cq;
	s->qp = ibv_create_qp(pd, &init);
	CHECK(s->qp);
	CHECK(ibv_modify_qp(s->qp, &attr,
			    IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) ==
	      0);
}

/* The last of the addresses that the port has: on Ethernet the first is the link-local one, which may have no route. */
static inline int last_gid(struct ibv_context *context, union ibv_gid *ret_gid)
{
	static const union ibv_gid zero;
	union ibv_gid gid;
	int i, last = -1;

	for (i = 0; i < 8 && ibv_query_gid(context, 1, i, &gid) == 0; i++)
		if (memcmp(&gid, &zero, sizeof(gid))) {
			*ret_gid = gid;
			last = i;
		}
	return last;
}

static inline void side_connect(struct ibv_context *context, struct side *s, uint32_t peer_qp)
{
	struct ibv_port_attr port;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTR,
				   .dest_qp_num = peer_qp,
				   .max_dest_rd_atomic = 1,
				   .min_rnr_timer = 12, /* 0.64 ms */
				   .ah_attr = {.port_num = 1}};

	CHECK(ibv_query_port(context, 1, &port) == 0);
	attr.path_mtu = port.active_mtu;
	attr.ah_attr.dlid = port.lid;
	attr.ah_attr.is_global = port.link_layer == IBV_LINK_LAYER_ETHERNET;
	attr.ah_attr.grh.hop_limit = 4;
	attr.ah_attr.grh.sgid_index = (uint8_t)last_gid(context, &attr.ah_attr.grh.dgid);
	CHECK(ibv_modify_qp(s->qp, &attr,
			    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				    IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				    IBV_QP_MIN_RNR_TIMER) == 0);
	attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
				    .timeout = 14, /* 67 ms */
				    .retry_cnt = 7,
				    .rnr_retry = 6,
				    .max_rd_atomic = 1};
	CHECK(ibv_modify_qp(s->qp, &attr,
			    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				    IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) == 0);
}

static inline void pair_open(struct ibv_context *context, struct ibv_pd *a, struct ibv_pd *b,
			     struct pair *p)
{
	p->context = context;
	side_open(context, a, &p->a);
	side_open(context, b, &p->b);
	side_connect(context, &p->a, p->b.qp->qp_num);
	side_connect(context, &p->b, p->a.qp->qp_num);
}

static inline void pair_close(struct pair *p)
{
	CHECK(ibv_destroy_qp(p->a.qp) == 0 && ibv_destroy_qp(p->b.qp) == 0);
	CHECK(ibv_destroy_cq(p->a.cq) == 0 && ibv_destroy_cq(p->b.cq) == 0);
}

/* One request. @opcode: IBV_WR_SEND, _RDMA_WRITE, _RDMA_READ. @remote, @rkey: not for a send. */
static inline void side_post(struct side *s, enum ibv_wr_opcode opcode, void *local, uint32_t lkey,
			     uint32_t len, uint64_t remote, uint32_t rkey)
{
	struct ibv_sge sge = {.addr = (uintptr_t)local, .length = len, .lkey = lkey};
	struct ibv_send_wr *bad, wr = {.opcode = opcode,
				       .sg_list = &sge,
				       .num_sge = 1,
				       .wr = {.rdma = {.remote_addr = remote, .rkey = rkey}}};

	CHECK(ibv_post_send(s->qp, &wr, &bad) == 0);
}

static inline void side_receive(struct side *s, void *local, uint32_t lkey, uint32_t len)
{
	struct ibv_sge sge = {.addr = (uintptr_t)local, .length = len, .lkey = lkey};
	struct ibv_recv_wr *bad, wr = {.sg_list = &sge, .num_sge = 1};

	CHECK(ibv_post_recv(s->qp, &wr, &bad) == 0);
}

/* How the next request or receive of this side ended. */
static inline enum ibv_wc_status side_wait(struct side *s)
{
	uint64_t until = thmqi_clock_real.now_ns(NULL) + PAIR_PATIENCE;
	struct ibv_wc wc;
	int n;

	while ((n = ibv_poll_cq(s->cq, 1, &wc)) == 0) {
		CHECK(thmqi_clock_real.now_ns(NULL) < until);
		sched_yield(); /* Soft-RoCE does its work on these same processors */
	}
	CHECK(n == 1);
	return wc.status;
}

/* Does it get into the error state? Its peer's refusal is on its way perhaps. */
static inline bool side_fails(struct side *s)
{
	uint64_t until = thmqi_clock_real.now_ns(NULL) + PAIR_PATIENCE;
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	do
		CHECK(ibv_query_qp(s->qp, &attr, IBV_QP_STATE, &init) == 0);
	while (attr.qp_state != IBV_QPS_ERR && thmqi_clock_real.now_ns(NULL) < until);
	return attr.qp_state == IBV_QPS_ERR;
}

#endif
