/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls.h - the calls of libibverbs that are used here, as a table: found at run time, or another's in tests. What a
 * message needs (post, poll, arm) is not here: those go by the operations that each object carries.
 */
#ifndef THMQI_RDMA_CALLS_H
#define THMQI_RDMA_CALLS_H

#include <infiniband/verbs.h>

struct thmqi_verbs {
	struct ibv_device **(*get_device_list)(int *count);
	void (*free_device_list)(struct ibv_device **list);
	const char *(*get_device_name)(struct ibv_device *device);
	struct ibv_context *(*open_device)(struct ibv_device *device);
	int (*close_device)(struct ibv_context *context);
	int (*query_device)(struct ibv_context *context, struct ibv_device_attr *attr);
	int (*query_port)(struct ibv_context *context, uint8_t port,
			  struct _compat_ibv_port_attr *attr);
	int (*get_async_event)(struct ibv_context *context, struct ibv_async_event *event);
	void (*ack_async_event)(struct ibv_async_event *event);
	struct ibv_pd *(*alloc_pd)(struct ibv_context *context);
	int (*dealloc_pd)(struct ibv_pd *pd);
	struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *address, size_t bytes, int access);
	int (*dereg_mr)(struct ibv_mr *mr);
};

/* Find them. 0; -ENODEV libibverbs, or a call of it, is not here. */
int thmqi_verbs_load(struct thmqi_verbs *ret_verbs);

#endif
